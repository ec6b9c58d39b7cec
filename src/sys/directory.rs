//! A directory that is held open, so that its entries are looked up without resolving its path each time.

use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::fstatat;
use rustix::fs::{FileType, RawDir};

use super::root::{FileError, FileKind, Listed, Presence, Root};

/// The directory.
#[derive(Debug)]
pub struct Directory<'r> {
    root: &'r Root,
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens a directory to look at what is in it.
    ///
    /// # Errors
    /// When it is not a directory, or cannot be opened.
    pub fn open_directory(&self, path: impl AsRef<Path>) -> Result<Directory<'_>, FileError> {
        let path = path.as_ref().to_owned();
        let fd = self.open_at(&path, OFlag::O_PATH | OFlag::O_DIRECTORY);
        Ok(Directory { root: self, fd: fd.map_err(|e| self.fail_read("look at", &path, e))?, path })
    }
}

impl Directory<'_> {
    /// What `name` in it leads to; none when there is no entry of that name, not even a symlink.
    pub fn lookup(&self, name: &str) -> Option<Presence> {
        let path = self.path.join(name);
        // A name with more than one component is resolved inside the root.
        if name.contains('/') || name == ".." {
            let presence = self.root.lookup(&path);
            return (!presence.is_absent() || self.root.lookup_link(&path).is_there()).then_some(presence);
        }
        match fstatat(&self.fd, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) if FileKind::of_mode(stat.st_mode) == FileKind::Link => Some(self.root.lookup(path)),
            Ok(stat) => Some(Presence::There(stat.into())),
            Err(Errno::ENOENT) => None,
            Err(e) => Some(Presence::Unreadable(self.root.fail_read("look at", &path, e))),
        }
    }

    /// The text of a link in it.
    ///
    /// # Errors
    /// When it is not a symlink, or cannot be read.
    pub fn read_link(&self, name: &str) -> Result<PathBuf, FileError> {
        let text = readlinkat(&self.fd, name);
        let text = text.map_err(|e| self.root.fail_read("read the symlink", &self.path.join(name), e))?;
        Ok(PathBuf::from(text))
    }
}

/// At most `limit` entries of an open directory, in the order of the filesystem, without `.` and `..`.
///
/// # Errors
/// When it cannot be listed, or an entry cannot be looked at.
pub(super) fn entries(fd: impl AsFd, limit: usize) -> nix::Result<Vec<Listed>> {
    // Larger than any name of a file, so that each call returns at least one entry.
    let mut buffer = [MaybeUninit::uninit(); 8 << 10];
    // In place of nix's `Dir`, which costs a copy of the descriptor, five more system calls and 32 KiB: every
    // run lists hundreds of directories.
    let mut directory = RawDir::new(fd.as_fd(), &mut buffer);
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(entry) = directory.next()
    {
        let entry = entry.map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let name = entry.file_name();
        if [&b"."[..], b".."].contains(&name.to_bytes()) {
            continue;
        }
        let kind = match entry.file_type() {
            // Some filesystems do not give the type while listing.
            FileType::Unknown => FileKind::of_mode(fstatat(&fd, name, AtFlags::AT_SYMLINK_NOFOLLOW)?.st_mode),
            of => FileKind::of_type(of),
        };
        found.push(Listed { name: OsStr::from_bytes(name.to_bytes()).to_owned(), kind });
    }
    Ok(found)
}
