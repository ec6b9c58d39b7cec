//! What goes wrong with files.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// What went wrong with a file, and with which one.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {cause}", path = path.display())]
pub struct FileError {
    /// The verb: "read", "write", "list" …
    pub action: &'static str,
    /// The path as the host sees it.
    pub path: PathBuf,
    /// The reason. It is part of the text, so it is not a source that is printed again.
    pub cause: io::Error,
}

impl FileError {
    /// Nothing of that name is there.
    pub fn is_absent(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }

    /// What is there is not a regular file: a directory, a FIFO, a device, a loop of links.
    pub fn is_no_file(&self) -> bool {
        self.cause.kind() == io::ErrorKind::Other
            || [Errno::EISDIR, Errno::ELOOP].into_iter().any(|errno| self.is_errno(errno))
    }

    /// It leaves open what is there: nothing may be concluded from it.
    pub fn leaves_open(&self) -> bool {
        // Not a symlink; and a name that no file can have.
        let is_fact = [Errno::EINVAL, Errno::ENAMETOOLONG].into_iter().any(|errno| self.is_errno(errno))
            || (self.is_no_file() && !self.is_errno(Errno::ELOOP));
        !self.is_absent() && !is_fact
    }

    pub(super) fn is_errno(&self, errno: Errno) -> bool {
        self.cause.raw_os_error() == Some(errno as i32)
    }

    /// The caller may not do this: a matter of privilege, not of the state of the file.
    pub fn is_denied(&self) -> bool {
        self.cause.kind() == io::ErrorKind::PermissionDenied
    }
}
