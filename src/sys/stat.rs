//! What is known about a file without reading it.

use std::ffi::OsString;

use nix::sys::stat::{FileStat, SFlag};
use rustix::fs::FileType;

use super::error::FileError;

/// The kind of a directory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A FIFO, socket or device.
    Other,
}

impl FileKind {
    /// From the mode of stat(2).
    pub(super) fn of_mode(mode: u32) -> FileKind {
        match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => FileKind::File,
            SFlag::S_IFDIR => FileKind::Directory,
            SFlag::S_IFLNK => FileKind::Link,
            _ => FileKind::Other,
        }
    }

    /// From the type in a directory entry.
    pub(super) fn of_type(of: FileType) -> FileKind {
        match of {
            FileType::RegularFile => FileKind::File,
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Link,
            _ => FileKind::Other,
        }
    }
}

/// The identity of a file: equal values mean an unchanged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Time of the last change of contents, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Time of the last change of the inode, nanoseconds since the epoch.
    pub ctime_ns: i128,
    /// Inode number.
    pub inode: u64,
    /// The device that the filesystem is on.
    pub on: u64,
    /// The device that a device file stands for.
    pub stands_for: u64,
    /// Its permission bits, with set-user-id, set-group-id and sticky.
    pub mode: u32,
    /// Its owner.
    pub owner: u32,
    /// Its group.
    pub group: u32,
}

impl From<FileStat> for Stat {
    fn from(s: FileStat) -> Stat {
        // The field types differ between architectures; all of them fit.
        Stat {
            kind: FileKind::of_mode(s.st_mode),
            // A size is never negative.
            size: u64::try_from(s.st_size).unwrap_or(0),
            mtime_ns: i128::from(s.st_mtime) * 1_000_000_000 + i128::from(s.st_mtime_nsec),
            ctime_ns: i128::from(s.st_ctime) * 1_000_000_000 + i128::from(s.st_ctime_nsec),
            inode: s.st_ino,
            on: s.st_dev,
            stands_for: s.st_rdev,
            mode: s.st_mode & 0o7777,
            owner: s.st_uid,
            group: s.st_gid,
        }
    }
}

/// Whether a file exists. An unreadable file is neither present nor absent.
#[derive(Debug)]
pub enum Presence {
    /// It is there.
    There(Stat),
    /// It is not there.
    Absent,
    /// It cannot be determined, with the reason.
    Unreadable(FileError),
}

impl Presence {
    /// It is there.
    pub fn is_there(&self) -> bool {
        matches!(self, Presence::There(_))
    }

    /// It is there and of that kind.
    pub fn is(&self, kind: FileKind) -> bool {
        matches!(self, Presence::There(s) if s.kind == kind)
    }

    /// The facts, when it is there.
    ///
    /// # Errors
    /// When it cannot be determined whether it is there.
    pub fn known(self) -> Result<Option<Stat>, FileError> {
        match self {
            Presence::There(s) => Ok(Some(s)),
            Presence::Absent => Ok(None),
            Presence::Unreadable(e) => Err(e),
        }
    }

    /// It is certainly not there.
    pub fn is_absent(&self) -> bool {
        matches!(self, Presence::Absent)
    }

    /// The facts, when it is there. For callers to which an unreadable file is as good as none.
    pub fn stat(&self) -> Option<Stat> {
        if let Presence::There(s) = self { Some(*s) } else { None }
    }
}

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, as bytes.
    pub name: OsString,
    /// Its kind; symlinks are not followed.
    pub kind: FileKind,
}

impl Listed {
    /// The name, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        self.name.to_str()
    }
}

/// Whether a write changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The file was made or replaced.
    Changed,
    /// The same bytes and mode were there already.
    Same,
}
