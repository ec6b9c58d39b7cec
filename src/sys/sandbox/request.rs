//! The requests to the processes of a sandbox, and their reports.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SandboxView;
use crate::sys::{Ended, Root};

/// The kind of a confined program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Strength {
    /// It reads and computes.
    Evaluate,
    /// It compiles untrusted source.
    ScratchBuild,
    /// It builds a registered module.
    Build,
}

impl Strength {
    /// It runs as a user that owns nothing, if the caller is root.
    pub(super) fn is_unprivileged(self) -> bool {
        self != Strength::Build
    }
}

/// What a confined program sees of the machine in addition to programs, libraries and `/etc`. Paths are
/// absolute and without symlinks. Those that do not exist are skipped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Roots of installed systems other than `/`.
    pub roots: Vec<OsString>,
    /// Paths that are visible in place.
    pub shown: Vec<OsString>,
    /// Directories that are visible, and whose files are readable whatever their modes are.
    pub readable: Vec<OsString>,
    /// Directories that are visible and writable.
    pub writable: Vec<OsString>,
    /// Replacements for directories of the machine, for a root other than `/`; only with namespaces.
    pub trees: Vec<ShownTree>,
}

/// A directory that is also shown at another path, where it hides what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownTree {
    /// Its path on the host, without symlinks.
    pub source: PathBuf,
    /// The path where it is shown. A symlink or a missing path is skipped.
    pub target: PathBuf,
    /// It is writable there.
    pub is_writable: bool,
}

impl ShownTree {
    /// A directory of a root, to be read. None for a path that does not exist or cannot be read: the confined
    /// program then reports that.
    pub fn of(root: &Root, path: &str, target: &str) -> Option<ShownTree> {
        // The reason makes no difference; see above.
        let source = root.real_path(path).ok()?;
        Some(ShownTree { source, target: PathBuf::from(target), is_writable: false })
    }
}

/// The identity of a confined program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// A user that owns nothing, without groups and capabilities.
    Unprivileged,
    /// The user that runs clr-dkms, without capabilities.
    Caller,
    /// Root without capabilities, which can read the files of root only.
    Root,
    /// Root with only the capabilities that concern the owners and modes of files.
    FileOwner,
}

/// What confined a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// Mount, PID, network and IPC namespaces.
    pub namespaces: bool,
    /// Landlock.
    pub landlock: bool,
    /// A filter of system calls.
    pub seccomp: bool,
    /// The identity that it ran with.
    pub identity: Identity,
}

impl Layers {
    /// It could neither write to files of others nor signal their processes.
    pub fn are_enough(self) -> bool {
        self.namespaces || (self.landlock && self.seccomp)
    }
}

impl std::fmt::Display for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.namespaces, "namespaces"), (self.landlock, "Landlock"), (self.seccomp, "seccomp")];
        for (_, name) in parts.iter().filter(|(in_force, _)| *in_force) {
            write!(f, "{name}, ")?;
        }
        f.write_str(match self.identity {
            Identity::Unprivileged => "an unprivileged user",
            Identity::Caller => "the calling user",
            Identity::Root => "root without capabilities",
            Identity::FileOwner => "root with capabilities for files only",
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Confinement {
    /// With a view of its own.
    View(SandboxView),
    /// With the files of this system, as far as Landlock allows.
    Rights(Strength, Sight),
    /// Run with the root of an installed system as `/`, starting in that directory.
    Image { root: OsString, directory: OsString },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) confinement: Confinement,
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    /// The requesting process. Without it the result is not needed.
    pub(super) parent: u32,
    /// Try namespaces.
    pub(super) namespaces: bool,
    /// Run it even without a layer.
    pub(super) is_trusted: bool,
    /// The limit of processor time per process, in seconds.
    pub(super) seconds: u64,
}

/// How far the process has come.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SandboxOutcome {
    /// The process becomes the program, and ends as the program ends.
    Became,
    /// The program runs.
    Started,
    /// It has ended.
    Ended(Ended),
    /// Namespaces cannot be created or set up here.
    NoNamespaces(String),
    /// The program was not started.
    NotStarted(String),
    /// No layer is available, and the program is not trusted.
    Refused,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxReport {
    pub(super) layers: Option<Layers>,
    pub(super) outcome: SandboxOutcome,
}

/// The file with the request, followed by the report.
#[derive(Debug)]
pub(super) struct Exchange {
    file: File,
    request_size: u64,
}

impl Exchange {
    /// A file with this request.
    pub(super) fn new(file: File, request: &Request) -> io::Result<Exchange> {
        let text = serde_json::to_vec(request)?;
        file.write_all_at(&text, 0)?;
        Ok(Exchange { file, request_size: text.len() as u64 })
    }

    /// The request on standard input. It must not have a report yet.
    pub(super) fn from_stdin() -> io::Result<(Request, Exchange)> {
        let file = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let text = read_from(&file, 0)?;
        let request = serde_json::from_slice(&text)?;
        Ok((request, Exchange { file, request_size: text.len() as u64 }))
    }

    pub(super) fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// The number of its descriptor.
    pub(super) fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    pub(super) fn report(&self, report: &SandboxReport) -> io::Result<()> {
        self.file.set_len(self.request_size)?;
        self.file.write_all_at(&serde_json::to_vec(report)?, self.request_size)
    }

    /// The last report, if there is one.
    pub(super) fn last_report(&self) -> io::Result<Option<SandboxReport>> {
        let text = read_from(&self.file, self.request_size)?;
        // A report that was cut is none: the inner process was killed.
        Ok(if text.is_empty() { None } else { serde_json::from_slice(&text).ok() })
    }
}

fn read_from(file: &File, start: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len().saturating_sub(start);
    // The file is in memory, so its size fits.
    let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut text, start)?;
    Ok(text)
}
