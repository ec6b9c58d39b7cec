//! The boot manager: what it reads, running it, and reading back what it wrote.

pub mod default;
pub mod deferral;
pub mod entries;
pub mod files;
pub mod grub;
pub mod loader_interface;
pub mod menu;
pub mod partition;
pub mod ready;
pub mod removal;
pub mod syslinux;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cmdline::sources::{ADMIN, LOCAL, REMOVALS, VENDOR};
use crate::kernel::Inventory;
use crate::kernel::inventory::IMAGES;
use crate::sys::{Ended, Fingerprint, Kind, Output, Root, RootKind, Tools};

pub use files::{BootFiles, ReadBack};
pub use menu::{DefaultEntry, Entry, Loader, Problem, SetBy};

/// The number of the device `/dev/null`: major 1, minor 3.
const DEV_NULL: u64 = 1 << 8 | 3;

/// How one run of the boot manager ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What went wrong, in words and with the next step; none after exit code 0.
    pub error: Option<String>,
}

/// The fingerprint of everything that `clr-boot-manager update` makes boot entries of: kernels, their companions and
/// links, and the fragments. Two equal ones mean that a run would change nothing. A file that cannot be read counts as an
/// empty one: root, who runs this for real, can read them all.
pub fn inputs(root: &Root) -> String {
    let mut fingerprint = Fingerprint::default();
    let mut add = |text: &[u8]| fingerprint.add(text);
    for folder in [IMAGES, VENDOR, LOCAL, REMOVALS, "/etc/kernel"] {
        // What cannot be listed has no part in the fingerprint, as it has none in the entries.
        for entry in root.list_optional(folder).unwrap_or_default() {
            let path = format!("{folder}/{}", entry.name.to_string_lossy());
            add(path.as_bytes());
            let small = folder != IMAGES || path.starts_with(&format!("{IMAGES}/cmdline-"));
            match (entry.kind, root.lookup(&path).stat()) {
                (Kind::Link, _) => {
                    add(root.read_link(&path).unwrap_or_default().as_os_str().as_encoded_bytes());
                    // A fragment counts with what the link leads to.
                    if small {
                        add(&root.read(&path).unwrap_or_default());
                    }
                }
                (Kind::File, _) if small => add(&root.read(&path).unwrap_or_default()),
                // An image of 15 MB is not read to find out that nothing has changed.
                (Kind::File, Some(stat)) => add(format!("{} {}", stat.size, stat.mtime_ns).as_bytes()),
                _ => {}
            }
        }
    }
    add(&root.read(ADMIN).unwrap_or_default());
    fingerprint.finish()
}

/// Why the boot manager must not be run for a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// We are in a chroot: natively it would look for the boot partition of the machine around us.
    Chroot,
    /// A path with a character of glob(7): it would write entries without any fragment.
    Path(PathBuf),
    /// A FIFO, socket or device where it reads a fragment: it would wait for ever.
    Endless(PathBuf),
}

impl std::fmt::Display for Obstacle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Obstacle::Chroot => f.write_str(
                "the boot entries are left to the system around this one: there, run \
                 `clr-boot-manager update --path=DIR`",
            ),
            Obstacle::Path(path) => write!(
                f,
                "below a path with [ * ? or \\ clr-boot-manager finds no command line fragment: give {} another name",
                path.display()
            ),
            Obstacle::Endless(path) => {
                let path = path.display();
                write!(f, "{path} is no file, and would keep clr-boot-manager waiting for ever: rm {path}")
            }
        }
    }
}

/// What is in the way of running the boot manager for this root, if anything.
pub fn obstacle(root: &Root) -> Option<Obstacle> {
    if root.image_path().is_none() && root.kind() == RootKind::Image {
        return Some(Obstacle::Chroot);
    }
    let path = root.path();
    if path.to_string_lossy().contains(['[', '*', '?', '\\']) {
        return Some(Obstacle::Path(path.to_owned()));
    }
    endless(root).map(|path| Obstacle::Endless(root.spell(path)))
}

/// What is no file where clr-boot-manager reads one.
fn endless(root: &Root) -> Option<PathBuf> {
    let in_folders = [VENDOR, LOCAL, REMOVALS].into_iter().flat_map(|folder| {
        // What cannot be listed is told where the line is made of it.
        let entries = root.list_optional(folder).unwrap_or_default().into_iter();
        let names = entries.map(|e| e.name).filter(|n| n.as_encoded_bytes().ends_with(b".conf"));
        names.map(move |name| Path::new(folder).join(name))
    });
    let mut paths = in_folders.chain([PathBuf::from(ADMIN)]);
    // A link to /dev/null is a mask, or an empty file.
    let waits = |path: &PathBuf| {
        root.lookup(path).stat().is_some_and(|s| s.kind == Kind::Other && s.stands_for != DEV_NULL)
    };
    paths.find(waits)
}

/// The command that makes the boot entries anew, for a person.
pub fn update_command(root: &Root) -> String {
    match root.is_slash() {
        true => "clr-boot-manager update".to_owned(),
        false => format!("clr-boot-manager update --path={}", root.path().display()),
    }
}

/// Runs `clr-boot-manager update`. Its exit code proves nothing; [`BootFiles::read_back`] does. After a crash or exit code
/// 1 the reason may be mended ([`ready::prepare`]) or have passed: then it is run once more.
pub fn update(root: &Root, tools: &Tools, deadline: Duration) -> Update {
    let run = || run(root, tools, deadline, &["update"]);
    let error = match run() {
        Err(first) if first.may_pass() => match ready::prepare(root, &Inventory::observe(root)) {
            Ok(mended) => {
                for what in &mended {
                    tracing::warn!("{what}");
                }
                tracing::warn!("{}; running it again", first.what);
                run().err().map(|last| last.what)
            }
            Err(why) => Some(format!("{}; it was not run again: {why}", first.what)),
        },
        done => done.err().map(|failed| failed.what),
    };
    Update { error }
}

/// A run that went wrong.
struct Failed {
    /// None when it was not started.
    ended: Option<Ended>,
    /// What went wrong, in words.
    what: String,
}

impl Failed {
    /// Another run may do better.
    fn may_pass(&self) -> bool {
        matches!(self.ended, Some(Ended::Signal(11) | Ended::Exit(1 | 139)))
    }
}

/// Runs one of its commands.
fn run(root: &Root, tools: &Tools, deadline: Duration, words: &[&str]) -> Result<(), Failed> {
    let failed = |ended: Option<Ended>, what: String| Failed { ended, what };
    let mut child = tools.child("clr-boot-manager", deadline).map_err(|e| failed(None, e.to_string()))?;
    child = child.args(words).output(Output::Keep(16 << 10));
    if let Some(image) = root.image_path() {
        let mut path = std::ffi::OsString::from("--path=");
        path.push(image);
        child = child.arg(path);
    }
    let command = child.spelt();
    // It replaces files by unlink and create: stopped half-way it leaves an entry that does not boot.
    let done = child
        .uninterruptible()
        .run()
        .map_err(|e| failed(None, format!("{command} cannot be started: {e}")))?;
    let said = String::from_utf8_lossy(&done.output).into_owned();
    for line in said.lines() {
        tracing::debug!("clr-boot-manager: {line}");
    }
    let hint = match done.ended {
        Ended::Exit(0) => return Ok(()),
        Ended::Signal(11) | Ended::Exit(139) => {
            "; an empty file in loader/entries, or an empty loader.conf, crashes it: delete that file and run it again"
        }
        _ => "",
    };
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
    Err(failed(Some(done.ended), format!("{command}: {}: {}{hint}", done.ended, last.trim())))
}

/// Why it must not be run by this process, if so: without root it says so and exits with 0.
fn unprivileged(root: &Root) -> Option<String> {
    let refused = root.is_live() && !rustix::process::geteuid().is_root();
    refused.then(|| "clr-boot-manager does nothing without root: run this as root".to_owned())
}
