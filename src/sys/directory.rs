//! A directory that is held open, so that its entries are looked up without resolving its path each time.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::fstatat;

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
        let text = text.map_err(|e| self.root.fail_read("read the link", &self.path.join(name), e))?;
        Ok(PathBuf::from(text))
    }
}

/// The entries of an open directory, in the order of the filesystem, without `.` and `..`.
///
/// # Errors
/// When it cannot be listed; each entry can also fail.
pub(super) fn entries(fd: OwnedFd) -> nix::Result<impl Iterator<Item = nix::Result<Listed>>> {
    let directory =
        fd.try_clone().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EMFILE)))?;
    let listed = move |entry: nix::dir::Entry| {
        let kind = match entry.file_type() {
            Some(of) => FileKind::of_type(of),
            // Some filesystems do not give the type while listing.
            None => {
                let stat = fstatat(&directory, entry.file_name(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                FileKind::of_mode(stat.st_mode)
            }
        };
        Ok(Listed { name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(), kind })
    };
    let all = Dir::from_fd(fd)?.into_iter();
    let is_own = |entry: &nix::dir::Entry| [&b"."[..], b".."].contains(&entry.file_name().to_bytes());
    Ok(all.filter(move |entry| !entry.as_ref().is_ok_and(is_own)).map(move |entry| entry.and_then(&listed)))
}
