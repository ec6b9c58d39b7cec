//! Runs a program in a mount namespace of its own, in which it sees other files than the rest of the system.
//! The namespace ends with the program.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::mounts::{bind, failed, keep_mounts_private, make_read_only, tmpfs};
use super::namespaces;

/// An entry of a directory of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// The file with this path on the host.
    File(PathBuf),
    /// A symlink with this text.
    Symlink(String),
}

/// A directory that contains only the listed entries. It is writable, and what is written is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownDirectory {
    /// Its path on the host, free of symlinks.
    pub path: PathBuf,
    /// Its entries, by name.
    pub entries: Vec<(String, Shown)>,
}

/// The differences to the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxView {
    /// Directories with other contents.
    pub directories: Vec<ShownDirectory>,
    /// Directories of the host, without symlinks in their paths, that become read-only. Those that do not
    /// exist are skipped.
    pub read_only: Vec<PathBuf>,
}

/// Creates the view for this process.
pub(super) fn make(view: &SandboxView) -> io::Result<()> {
    // A user namespace allows mounting without root, which is enough for the copy of a system in a directory
    // of the caller.
    namespaces::enter(CloneFlags::CLONE_NEWNS, true)
        .map_err(|e| failed("a mount namespace cannot be created", e))?;
    keep_mounts_private().map_err(|e| failed("mounts cannot be made private", e))?;
    // Opened before anything is covered, because an entry may come from the covered directory.
    let mut opened = Vec::new();
    for directory in &view.directories {
        for (name, shown) in &directory.entries {
            if name.contains('/') || ["", ".", ".."].contains(&name.as_str()) {
                return Err(io::Error::other(format!("{name:?} is not a file name")));
            }
            let fd = match shown {
                Shown::File(path) => Some(look(path)?),
                Shown::Symlink(_) => None,
            };
            opened.push((directory.path.join(name), shown, fd));
        }
    }
    let mut read_only: Vec<&PathBuf> = Vec::new();
    for path in &view.read_only {
        match path.symlink_metadata() {
            Ok(_) => read_only.push(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&format!("{} cannot be protected", path.display()), e)),
        }
    }
    read_only.iter().try_for_each(|path| bind(path, path))?;
    if !read_only.is_empty() {
        #[allow(clippy::disallowed_methods)] // of this process, whatever the root is
        let mounts = std::fs::read("/proc/self/mountinfo").map_err(|e| failed("mountinfo", e))?;
        read_only.iter().try_for_each(|path| make_read_only(&mounts, path, &[]))?;
    }
    view.directories.iter().try_for_each(|directory| tmpfs(&directory.path, "mode=0755,size=1m"))?;
    for (path, shown, fd) in opened {
        show(&path, shown, fd.as_ref())
            .map_err(|e| failed(&format!("{} cannot be shown", path.display()), e))?;
    }
    Ok(())
}

fn look(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| failed(&format!("{} cannot be opened", path.display()), e))
}

fn show(path: &Path, shown: &Shown, fd: Option<&OwnedFd>) -> io::Result<()> {
    match (shown, fd) {
        (Shown::Symlink(text), _) => rustix::fs::symlinkat(text.as_str(), CWD, path)?,
        (Shown::File(_), Some(fd)) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
            bind(Path::new(&format!("/proc/self/fd/{}", fd.as_raw_fd())), path)?;
        }
        (Shown::File(_), None) => {}
    }
    Ok(())
}
