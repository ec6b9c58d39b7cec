//! A directory that is held open: what is in it is looked at without going the way to it each time.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::Errno;

use super::root::{FileError, Presence, Root};

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
    /// When it is no directory, or cannot be opened.
    pub fn open_directory(&self, path: impl AsRef<Path>) -> Result<Directory<'_>, FileError> {
        let path = path.as_ref().to_owned();
        let fd = self.open_at(&path, OFlags::PATH | OFlags::DIRECTORY);
        Ok(Directory { root: self, fd: fd.map_err(|e| self.fail_read("look at", &path, e))?, path })
    }
}

impl Directory<'_> {
    /// What `name` in it leads to; none when nothing of that name is there, not even a link.
    pub fn lookup(&self, name: &str) -> Option<Presence> {
        let path = self.path.join(name);
        // A name that leads on is left to those who keep it inside the root.
        if name.contains('/') || name == ".." {
            let presence = self.root.lookup(&path);
            return (!presence.is_absent() || self.root.lookup_link(&path).is_there()).then_some(presence);
        }
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
                Some(self.root.lookup(path))
            }
            Ok(stat) => Some(Presence::There(stat.into())),
            Err(Errno::NOENT) => None,
            Err(e) => Some(Presence::Unreadable(self.root.fail_read("look at", &path, e))),
        }
    }

    /// The text of a link in it.
    ///
    /// # Errors
    /// When it is no link, or cannot be read.
    pub fn read_link(&self, name: &str) -> Result<PathBuf, FileError> {
        let text = rustix::fs::readlinkat(&self.fd, name, Vec::new());
        let text = text.map_err(|e| self.root.fail_read("read the link", &self.path.join(name), e))?;
        Ok(PathBuf::from(OsString::from_vec(text.into_bytes())))
    }
}
