//! clr-boot-manager and the boot files: what it reads, running it, and reading back what it wrote.
//!
//! The exit code of clr-boot-manager proves nothing. Success is determined by reading the boot files. Nothing
//! here decides which kernel should boot; see [`crate::decide`].

mod blocking_files;
pub mod counters;
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
pub mod one_shot;
pub mod partition;
pub mod preflight;
pub mod removal;
pub mod restricted;
pub mod syslinux;
pub mod write_ahead;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::kernel::Inventory;
use crate::sys::shell::quoted;
use crate::sys::{Child, Ended, Output, Root, RootKind, Tools};

pub use files::{BootFiles, ReadBack};
pub use inputs::inputs;
pub use menu::{BootEntry, DefaultEntry, Loader, MenuFault, SetBy};

/// Why clr-boot-manager must not be run for a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootBlocker {
    /// The root is a chroot: in native mode clr-boot-manager would look for the boot partition of the
    /// surrounding machine.
    Chroot,
    /// The path has a character of glob(7): the entries would be written without any fragment.
    Path(PathBuf),
    /// A FIFO, socket or device in place of a file that it reads: it would block.
    NotRegular(PathBuf),
}

impl std::fmt::Display for BootBlocker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            BootBlocker::Chroot => f.write_str(
                "in a chroot the boot entries are not written: run `sudo clr-boot-manager update --path=DIR` outside of it",
            ),
            BootBlocker::Path(path) => write!(
                f,
                "clr-boot-manager finds no command line fragments below a path with [ * ? or \\: rename {}",
                path.display()
            ),
            BootBlocker::NotRegular(path) => f.write_str(&not_regular(&path.display().to_string())),
        }
    }
}

/// The message about a file that would block clr-boot-manager, with the next step.
fn not_regular(path: &str) -> String {
    format!("{path} is not a regular file, and clr-boot-manager would block on it: remove {path}")
}

/// Why clr-boot-manager must not be run for this root. None if it may be run.
pub fn blocker(root: &Root) -> Option<BootBlocker> {
    if root.image_path().is_none() && root.kind() == RootKind::Image {
        return Some(BootBlocker::Chroot);
    }
    if root.is_pattern() {
        return Some(BootBlocker::Path(root.path().to_owned()));
    }
    blocking_files::in_root(root).map(|path| BootBlocker::NotRegular(root.shown_path(path)))
}

/// A command of clr-boot-manager, as it is typed into a shell; for an image with its path.
fn typed(verb: &str, image: Option<&Path>) -> String {
    let path = image.map(|path| format!(" --path={}", quoted(&path.to_string_lossy())));
    format!("clr-boot-manager {verb}{}", path.unwrap_or_default())
}

/// A command of clr-boot-manager for the system of that root, as an admin runs it.
fn manager_command(root: &Root, verb: &str) -> String {
    let is_image = root.kind() == RootKind::Image && !root.is_slash();
    format!("sudo {}", typed(verb, is_image.then(|| root.path())))
}

/// The command that rewrites the boot entries, for messages.
pub fn update_command(root: &Root) -> String {
    typed("update", (!root.is_slash()).then(|| root.path()))
}

/// Runs `clr-boot-manager update`. Its exit code proves nothing, so use [`BootFiles::read_back`]. After a
/// crash or exit code 1 the cause may be temporary, or one that [`preflight::prepare`] repairs; then it is
/// run a second time. Returns what failed, with the next step; none after exit code 0.
pub fn update(root: &Root, tools: &Tools, deadline: Duration) -> Option<String> {
    let run = || run(root, tools, deadline, &["update"]);
    match run() {
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
    }
}

/// A failed run.
struct Failed {
    /// How it ended. None if it was not started.
    ended: Option<Ended>,
    what: String,
}

impl Failed {
    /// Whether a second run may succeed.
    fn may_pass(&self) -> bool {
        matches!(self.ended, Some(Ended::Signal(11) | Ended::Exit(1 | 139)))
    }
}

/// Runs one of its commands.
fn run(root: &Root, tools: &Tools, deadline: Duration, words: &[&str]) -> Result<(), Failed> {
    let failed = |ended: Option<Ended>, what: String| Failed { ended, what };
    let mut child = tools.child("clr-boot-manager", deadline).map_err(|e| failed(None, e.to_string()))?;
    child = child.args(words);
    if let Some(image) = root.image_path() {
        let mut path = std::ffi::OsString::from("--path=");
        path.push(image);
        child = child.arg(path);
    }
    let command = child.display();
    let done = ran(child).map_err(|e| failed(None, format!("{command} cannot be started: {e}")));
    let (ended, cause) = done?;
    let hint = match ended {
        Ended::Exit(0) => return Ok(()),
        Ended::Signal(11) | Ended::Exit(139) => {
            "; an empty loader.conf or an empty file in loader/entries crashes it: delete that file and run it again"
        }
        _ => "",
    };
    Err(failed(Some(ended), format!("{command}: {ended}: {cause}{hint}")))
}

/// Runs it. Returns how it ended, and the cause that it printed.
fn ran(child: Child) -> std::io::Result<(Ended, String)> {
    // It replaces files by unlink and create. If it is stopped in between, an entry does not boot.
    let done = child.output(Output::Keep(16 << 10)).uninterruptible().run()?;
    let said = String::from_utf8_lossy(&done.output);
    said.lines().for_each(|line| tracing::debug!("clr-boot-manager: {line}"));
    Ok((done.ended, cause(&said).unwrap_or("it printed nothing").to_owned()))
}

/// Errors that it reports although it succeeds.
const HARMLESS: [&str; 2] =
    ["Could not find default kernel for type", "Cannot determine the currently running kernel"];

/// The line of its output with the cause of a failure. Consequences of the first error are reported after it,
/// and the last line only names what could not be done.
fn cause(said: &str) -> Option<&str> {
    let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let is_error = |line: &&str| {
        let is_bad = line.starts_with("[FATAL]") || line.starts_with("[ERROR]");
        is_bad && !HARMLESS.iter().any(|harmless| line.contains(harmless))
    };
    lines.clone().find(is_error).or_else(|| lines.next_back())
}

/// Why this process must not run it. Without root it only prints a message and exits with 0.
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
