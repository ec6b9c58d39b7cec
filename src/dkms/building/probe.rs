//! Asks make what it would do (`make -n`), to see for which kernel a Makefile builds before anything is
//! compiled.
//!
//! `make -n` also prints the lines that a silent Makefile hides. It runs what calls `$(MAKE)`, so `MAKE` is a
//! script here that names the headers in place of entering them: all rules of the kernel would take longer
//! than the build of a small module.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dkms::Source;
use crate::dkms::build::{Job, scratch};
use crate::dkms::call::{GivenRoot, sight_of_build};
use crate::dkms::staging::Temporary;
use crate::dkms::tree::TREE;
use crate::kernel::inventory::module_directory;
use crate::sys::{Ended, Output, Sandbox};

/// The time limit.
const DEADLINE: Duration = Duration::from_secs(30);
/// How much of the output is kept.
const OUTPUT: u64 = 1 << 20;

/// What `make -n` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// It enters the headers of the kernel.
    pub enters_target: bool,
    /// The headers of other kernels that it enters.
    pub others: Vec<String>,
    /// The end of the output.
    pub last_lines: Vec<String>,
}

impl Probe {
    /// It builds for the kernel that it is meant for, and for no other.
    pub fn is_good(&self) -> bool {
        self.enters_target && self.others.is_empty()
    }

    /// Reads the directories that make enters. `own` are the scratch directory and the headers of the kernel.
    pub fn read(output: &str, own: &[PathBuf; 2], release: &str) -> Probe {
        let [scratch, headers] = own;
        let mut entered: BTreeSet<&str> = BTreeSet::new();
        for line in output.lines() {
            let Some((_, rest)) = line.split_once(": Entering directory ") else { continue };
            entered.insert(rest.trim_matches(['\'', '`', '"']));
        }
        // What make would enter: `make -C DIRECTORY`, where the Makefile does not use $(MAKE).
        for line in output.lines() {
            let mut words = line.split_ascii_whitespace().skip_while(|word| *word != "-C").skip(1);
            let next = words.next().filter(|word| word.starts_with('/'));
            entered.extend(next.map(|word| word.trim_end_matches('/')));
        }
        // "make: *** DIRECTORY: REASON": it cannot enter it, because it is not there.
        for line in output.lines() {
            let Some((_, rest)) = line.split_once(": *** ") else { continue };
            let path = rest.split_once(": ").map_or("", |(path, _)| path);
            if path.starts_with("/lib/modules/") {
                entered.insert(path);
            }
        }
        let is_of_kernel = |path: &str| {
            let path = Path::new(path);
            let name =
                path.components().nth_back(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
            path.starts_with(headers)
                || (path.ends_with("build") && name.as_deref() == Some(release))
                || path.file_name().is_some_and(|n| n.to_string_lossy() == format!("linux-headers-{release}"))
        };
        let is_headers = |path: &str| path.starts_with("/lib/modules/") || path.starts_with("/usr/");
        // Debian's headers of a kernel go on in the common ones.
        let is_common = |path: &str| path.trim_end_matches('/').ends_with("-common");
        let others = entered.iter().filter(|path| {
            !is_of_kernel(path)
                && !Path::new(path).starts_with(scratch)
                && is_headers(path)
                && !is_common(path)
        });
        let lines: Vec<&str> = output.lines().collect();
        Probe {
            enters_target: entered.iter().any(|path| is_of_kernel(path)),
            others: others.map(|path| (*path).to_owned()).collect(),
            last_lines: lines[lines.len().saturating_sub(5)..]
                .iter()
                .map(|line| (*line).to_owned())
                .collect(),
        }
    }

    /// The release of another kernel, if it builds for that one and not for the one that it is meant for.
    fn other_release(&self) -> Option<String> {
        let other = self.others.iter().find_map(|path| {
            let mut parts = path.split('/').skip_while(|part| *part != "modules").skip(1);
            let release = parts.next().map(str::to_owned);
            let of_directory = || path.rsplit('/').next()?.strip_prefix("linux-headers-").map(str::to_owned);
            release.or_else(of_directory)
        });
        other.filter(|_| !self.enters_target)
    }
}

/// `MAKE` of the probe. What is not the directory of a kernel's headers belongs to the module.
const RECORDER: &str = r#"#!/bin/sh
# Made by clr-dkms for one look at a Makefile, and removed after it.
directory= next=
for word; do
    case $next$word in
    -C | --directory) next=. ;;
    .*) directory=$word next= ;;
    -C*) directory=${word#-C} ;;
    --directory=*) directory=${word#*=} ;;
    esac
done
is_headers() {
    case $directory in
    /lib/modules/* | /usr/lib/modules/*) return 0 ;;
    /*) [ -e "$directory/scripts/Makefile.build" ] || [ -e "$directory/include/config/auto.conf" ] ;;
    *) return 1 ;;
    esac
}
if is_headers; then
    echo "make: Entering directory '$directory'"
    exit 0
fi
exec 'PROGRAM' "$@"
"#;

/// The recorder in its own directory, and the build directory of dkms as a symlink to the source: a Makefile
/// may name it.
fn lay_out<'a>(job: &Job<'a>, make: &Path, source: &Path) -> anyhow::Result<[Temporary<'a>; 2]> {
    let Job { root, module, release, .. } = *job;
    anyhow::ensure!(!make.to_string_lossy().contains('\''), "{} cannot be quoted", make.display());
    let recorder = Temporary::new(root, module, release, "-probe");
    let build = Temporary { root, path: scratch(module) };
    let text = RECORDER.replace("PROGRAM", &make.display().to_string());
    root.write(format!("{}/make", recorder.path), text.as_bytes(), 0o755)?;
    root.remove_tree(&build.path)?;
    root.link(&build.path, source)?;
    Ok([recorder, build])
}

/// The release of the kernel that the Makefile of a module builds for, if that is known to be another one.
///
/// # Errors
///
/// If make was not asked.
pub(in crate::dkms) fn other_kernel(job: &Job<'_>) -> anyhow::Result<Option<String>> {
    let Job { root, tools, release, conf, .. } = *job;
    let Source::Directory { path, .. } = job.source else { return Ok(None) };
    // The reason makes no difference: make is asked then.
    let is_running = nix::sys::utsname::uname().is_ok_and(|name| name.release() == release);
    if is_running || !is_worth_asking(&conf.make, release) {
        return Ok(None);
    }
    let given = GivenRoot::for_build(root);
    let plain = |path: &Path| -> anyhow::Result<PathBuf> { Ok(given.plain_path(root.real_path(path)?)) };
    let [recorder, _build] = lay_out(job, &tools.find("make")?, &plain(path)?)?;
    let directory = recorder.real_path()?;
    let make = given.plain_path(directory.clone()).join("make");
    // The symlink itself: in an image it leads elsewhere than for a program of this machine.
    let build = plain(Path::new(&format!("{TREE}/{}", job.module)))?.join("build");
    let headers = given.plain_path(root.host_path(format!("{}/build", module_directory(release)))?);
    let mut sight = sight_of_build(job)?;
    sight.shown.push(directory.into_os_string());
    let child = tools
        .child("bash", DEADLINE)?
        .args(["--noprofile", "--norc", "-c", "cd \"$1\" && eval \"$2\"", "probe"])
        .args([build.as_os_str(), conf.make.as_ref()])
        .env("kernelver", release)
        .env("MAKEFLAGS", format!("nw -- MAKE={} KERNELRELEASE={release}", make.display()))
        .output(Output::Keep(OUTPUT));
    // As a build is confined, and never without it: the answer is not worth that.
    let done = child.env("HOME", "/tmp").confined(Sandbox::build(sight)).run()?;
    if matches!(done.ended, Ended::TimedOut | Ended::Interrupted) {
        return Ok(None);
    }
    let probe = Probe::read(&String::from_utf8_lossy(&done.output), &[build, headers], release);
    Ok(probe.other_release())
}

/// Whether a MAKE command only calls make, and does not name the headers of the kernel itself.
fn is_worth_asking(make: &str, release: &str) -> bool {
    let commands = make.split(['&', ';', '|', '\n']).map(str::trim).filter(|command| !command.is_empty());
    let first = |command: &str| {
        let word = command.split_ascii_whitespace().next().unwrap_or_default();
        word.trim_matches(['\'', '"']).to_owned()
    };
    let words: Vec<String> = commands.map(first).collect();
    let is_make = |word: &String| matches!(word.as_str(), "make" | "gmake");
    let own = format!("/{release}/build");
    let after_option = || make.split_ascii_whitespace().skip_while(|word| *word != "-C").nth(1);
    words.iter().any(is_make)
        && words.iter().all(|word| is_make(word) || word == "cd")
        && !after_option().is_some_and(|directory| directory.trim_matches(['\'', '"']).ends_with(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_make_enters() {
        let own = [PathBuf::from("/var/tmp/s"), PathBuf::from("/usr/lib/modules/6.1-1.native/build")];
        let probe = |text: &str| Probe::read(text, &own, "6.1-1.native");
        let good = probe(
            "make: Entering directory '/var/tmp/s/tree/a/1/build'\nmake -C x\n\
             make[1]: Entering directory '/usr/lib/modules/6.1-1.native/build'\n",
        );
        assert!(good.is_good());
        let running = probe("make[1]: Entering directory '/usr/lib/modules/6.9-1.native/build'\n");
        assert!(!running.enters_target);
        assert_eq!(running.others, ["/usr/lib/modules/6.9-1.native/build"]);
        assert_eq!(running.other_release().as_deref(), Some("6.9-1.native"));
        let printed = probe("make EXTRA=\"\" -C /lib/modules/6.1-1.native/build M=/var/tmp/s modules\n");
        assert!(printed.is_good());
        assert!(!probe("make -C /lib/modules/6.9/build/ M=/x modules\n").is_good());
        let absent = probe("make[1]: *** /lib/modules/6.9/build: No such file or directory.  Stop.\n");
        assert_eq!(absent.others, ["/lib/modules/6.9/build"]);
        let nothing = probe("make: Nothing to be done for 'all'.\n");
        assert!(!nothing.is_good() && nothing.other_release().is_none());
        // Both are entered: nothing is known.
        let both = "make -C /lib/modules/6.1-1.native/build x\nmake -C /lib/modules/6.9/build x\n";
        assert_eq!(probe(both).other_release(), None);
    }

    #[test]
    fn commands_that_are_worth_a_question() {
        for (make, is_worth) in [
            ("make all", true),
            ("'make' -j4 KVER=6.1-1.native modules", true),
            ("cd src && make", true),
            ("make -C src && make install", true),
            ("", false),
            ("./build.sh 6.1-1.native", false),
            ("make all; ./finish", false),
            ("cd src", false),
            ("make -C /lib/modules/6.1-1.native/build M=/var/lib/dkms/a/1/build", false),
        ] {
            assert_eq!(is_worth_asking(make, "6.1-1.native"), is_worth, "{make}");
        }
    }
}
