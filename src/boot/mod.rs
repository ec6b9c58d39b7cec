//! The boot manager: what it reads, running it, and reading back what it wrote.

mod blocking_files;
pub mod default;
pub mod deferral;
pub mod entries;
pub mod files;
pub mod foresee;
pub mod grub;
pub mod initrds;
pub mod inputs;
pub mod loader_interface;
pub mod menu;
pub mod partition;
pub mod preflight;
pub mod removal;
pub mod restricted;
pub mod syslinux;
pub mod write_ahead;

use std::path::PathBuf;
use std::time::Duration;

use crate::kernel::Inventory;
use crate::sys::{Ended, Output, Root, RootKind, Tools};

pub use files::{BootFiles, ReadBack};
pub use inputs::inputs;
pub use menu::{BootEntry, DefaultEntry, Loader, Problem, SetBy};

/// How one run of the boot manager ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What went wrong, in words and with the next step; none after exit code 0.
    pub error: Option<String>,
}

/// Why the boot manager must not be run for a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootBlocker {
    /// We are in a chroot: natively it would look for the boot partition of the machine around us.
    Chroot,
    /// A path with a character of glob(7): it would write entries without any fragment.
    Path(PathBuf),
    /// A FIFO, socket or device where it opens a regular file: it would block.
    NotRegular(PathBuf),
}

impl std::fmt::Display for BootBlocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BootBlocker::Chroot => f.write_str(
                "the boot entries are left to the system around this one: there, run \
                 `clr-boot-manager update --path=DIR`",
            ),
            BootBlocker::Path(path) => write!(
                f,
                "below a path with [ * ? or \\ clr-boot-manager finds no command line fragment: give {} another name",
                path.display()
            ),
            BootBlocker::NotRegular(path) => f.write_str(&not_regular(&path.display().to_string())),
        }
    }
}

/// Why clr-boot-manager must not be run while `path` exists, and the next step.
fn not_regular(path: &str) -> String {
    format!("{path} is not a regular file, and clr-boot-manager would block on it: remove {path}")
}

/// What is in the way of running the boot manager for this root, if anything.
pub fn blocker(root: &Root) -> Option<BootBlocker> {
    if root.image_path().is_none() && root.kind() == RootKind::Image {
        return Some(BootBlocker::Chroot);
    }
    if root.is_pattern() {
        return Some(BootBlocker::Path(root.path().to_owned()));
    }
    blocking_files::in_root(root).map(|path| BootBlocker::NotRegular(root.shown_path(path)))
}

/// The command that makes the boot entries again, for a person.
pub fn update_command(root: &Root) -> String {
    match root.is_slash() {
        true => "clr-boot-manager update".to_owned(),
        false => format!("clr-boot-manager update --path={}", root.path().display()),
    }
}

/// Runs `clr-boot-manager update`. Its exit code proves nothing; [`BootFiles::read_back`] does. After a crash or exit code
/// 1 the reason may be repaired ([`preflight::prepare`]) or have passed: then it is run once more.
pub fn update(root: &Root, tools: &Tools, deadline: Duration) -> Update {
    let run = || run(root, tools, deadline, &["update"]);
    let error = match run() {
        Err(first) if first.may_pass() => match preflight::prepare(root, &Inventory::observe(root)) {
            Ok(repaired) => {
                for what in &repaired {
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
    let command = child.display();
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
    let cause = cause(&said).unwrap_or("it said nothing");
    Err(failed(Some(done.ended), format!("{command}: {}: {cause}{hint}", done.ended)))
}

/// What it reports as an error although it goes on as it should.
const HARMLESS: [&str; 2] =
    ["Could not find default kernel for type", "Cannot determine the currently running kernel"];

/// The line of its output that gives the cause of a failure. What follows from the first error is reported after it; the
/// last line says only what could not be done.
fn cause(said: &str) -> Option<&str> {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| {
        let is_bad = line.starts_with("[FATAL]") || line.starts_with("[ERROR]");
        is_bad && !HARMLESS.iter().any(|harmless| line.contains(harmless))
    };
    lines.clone().find(is_error).or_else(|| lines.next_back())
}

/// Why it must not be run by this process, if so: without root it says so and exits with 0.
fn unprivileged(root: &Root) -> Option<String> {
    let refused = root.is_live() && !nix::unistd::geteuid().is_root();
    refused.then(|| "clr-boot-manager does nothing without root: run this as root".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_error_is_the_cause() {
        let said = "[INFO] cbm (a.c:L1): x\n[ERROR] cbm (update.c:L177): Cannot determine the currently running kernel\n\
                    [FATAL] cbm (files.c:L9): Failed to copy: No space left on device\n\
                    [FATAL] cbm (update.c:L120): Cannot install kernel /usr/lib/kernel/x\n";
        assert_eq!(cause(said), Some("[FATAL] cbm (files.c:L9): Failed to copy: No space left on device"));
        assert_eq!(cause("one\n\n two \n"), Some("two"));
        let harmless =
            "[ERROR] cbm (update.c:L1): Could not find default kernel for type lts, using highest relno\n";
        assert_eq!(cause(harmless), Some(harmless.trim()));
        assert_eq!(cause(" \n"), None);
    }
}
