//! Errors of file operations.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// A failed file operation.
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

/// What a full filesystem has no more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Room for data.
    Space,
    /// Inodes: no further file can be created, whatever the free space is.
    Inodes,
}

impl FileError {
    /// A filesystem is full, or a quota is used up.
    pub fn is_full(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// There is no file of that name.
    pub fn is_absent(&self) -> bool {
        matches!(self.cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }

    /// It is not a regular file: a directory, a FIFO, a device, a loop of symlinks.
    pub fn is_no_file(&self) -> bool {
        self.cause.kind() == io::ErrorKind::Other
            || [Errno::EISDIR, Errno::ELOOP].into_iter().any(|errno| self.is_errno(errno))
    }

    /// It does not say whether a file is there, so that nothing may be concluded from it.
    pub fn leaves_open(&self) -> bool {
        // EINVAL: not a symlink. ENAMETOOLONG: no file can have that name.
        let is_fact = [Errno::EINVAL, Errno::ENAMETOOLONG].into_iter().any(|errno| self.is_errno(errno))
            || (self.is_no_file() && !self.is_errno(Errno::ELOOP));
        !self.is_absent() && !is_fact
    }

    pub(super) fn is_errno(&self, errno: Errno) -> bool {
        self.cause.raw_os_error() == Some(errno as i32)
    }

    /// The caller lacks the permission; this says nothing about the file.
    pub fn is_denied(&self) -> bool {
        self.cause.kind() == io::ErrorKind::PermissionDenied
    }
}
