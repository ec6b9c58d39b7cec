//! What the processes of a sandbox are asked for, and what they report.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SandboxView;

/// What a confined program is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Strength {
    /// Read and compute.
    Evaluate,
    /// Compile what nobody vouches for.
    ScratchBuild,
    /// Build a registered module.
    Build,
}

impl Strength {
    /// It runs as a user that owns nothing, where we are root.
    pub(super) fn is_unprivileged(self) -> bool {
        self != Strength::Build
    }
}

/// What a confined program sees of the machine beside its programs, libraries and `/etc`. Paths are absolute
/// and free of symlinks; what does not exist is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// Roots of installed systems beside `/`.
    pub roots: Vec<OsString>,
    /// What is visible at its own path.
    pub shown: Vec<OsString>,
    /// Directories that are visible, and whose files can be read, whatever their modes are.
    pub readable: Vec<OsString>,
    /// Directories that are visible and can be written to.
    pub writable: Vec<OsString>,
    /// What takes the place of directories of the machine, for another root than `/`; in namespaces only.
    pub trees: Vec<ShownTree>,
}

/// A directory that is found at another path too, in the place of what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownTree {
    /// Its path on the host, free of symlinks.
    pub source: PathBuf,
    /// Where it is shown. A symlink, or what is not there, is left as it is.
    pub target: PathBuf,
    /// It can be written to there.
    pub is_writable: bool,
}

/// The identity of a confined program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// A user that owns nothing, without groups and capabilities.
    Unprivileged,
    /// The user that runs us, without capabilities.
    Caller,
    /// Root without capabilities: what belongs to root can be read, but nothing else is open to it.
    Root,
    /// Root, with the capabilities that concern the owners and modes of files alone.
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
    /// As whom it ran.
    pub identity: Identity,
}

impl Layers {
    /// Neither writing to files of others nor signalling their processes was possible.
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
    View(SandboxView),
    Rights(Strength, Sight),
    /// The root of an installed system is `/`; it begins in that directory of it.
    Image {
        root: OsString,
        directory: OsString,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) confinement: Confinement,
    pub(super) program: OsString,
    pub(super) arguments: Vec<OsString>,
    /// The process that asks; without it nobody wants the result.
    pub(super) parent: u32,
    /// Namespaces are tried.
    pub(super) namespaces: bool,
    /// It is run without a layer too.
    pub(super) is_trusted: bool,
    /// The limit of processor time for each process, in seconds.
    pub(super) seconds: u64,
}

/// How far it came.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum SandboxOutcome {
    /// The process becomes the program now: it ends as the program ends.
    Became,
    /// The program runs.
    Started,
    /// It left with this code.
    Exit(i32),
    /// A signal killed it.
    Signal(i32),
    /// No namespaces can be made or furnished here.
    NoNamespaces(String),
    /// The program was not started.
    NotStarted(String),
    /// No layer can be had, and it is not trusted.
    Refused,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SandboxReport {
    pub(super) layers: Option<Layers>,
    pub(super) outcome: SandboxOutcome,
}

/// The file that holds a request, and the report behind it.
#[derive(Debug)]
pub(super) struct Exchange {
    file: File,
    request_size: u64,
}

impl Exchange {
    /// A file with that request.
    pub(super) fn new(file: File, request: &Request) -> io::Result<Exchange> {
        let text = serde_json::to_vec(request)?;
        file.write_all_at(&text, 0)?;
        Ok(Exchange { file, request_size: text.len() as u64 })
    }

    /// The request on standard input, where no report is behind it yet.
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

    /// The last report; none when there was none.
    pub(super) fn last_report(&self) -> io::Result<Option<SandboxReport>> {
        let text = read_from(&self.file, self.request_size)?;
        Ok(if text.is_empty() { None } else { serde_json::from_slice(&text).ok() })
    }
}

fn read_from(file: &File, start: u64) -> io::Result<Vec<u8>> {
    let size = file.metadata()?.len().saturating_sub(start);
    let mut text = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut text, start)?;
    Ok(text)
}
