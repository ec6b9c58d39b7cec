//! Failed reads. Absence is a fact; a file that could not be read is not, and nothing may be concluded from
//! it.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use nix::errno::Errno;

use super::root::{FileError, Root};

/// A failed read of a file that may exist.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unread {
    /// The path inside the root.
    pub path: PathBuf,
    /// What failed, as a sentence.
    pub what: String,
    /// It is a loop of symlinks: no program can read it.
    pub is_loop: bool,
    /// The caller may not read it.
    pub is_denied: bool,
}

/// A file that is read piece by piece. A failed read is recorded for [`Root::unread`] whatever happens to the
/// error on its way: a decoder may report it as corrupt data.
#[derive(Debug)]
pub struct WatchedFile<'r> {
    root: &'r Root,
    path: PathBuf,
    file: File,
}

impl Read for WatchedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer).inspect_err(|e| {
            if let Some(number) = e.raw_os_error().filter(|_| e.kind() != io::ErrorKind::Interrupted) {
                self.root.read_failed(&self.path, io::Error::from_raw_os_error(number));
            }
        })
    }
}

impl Root {
    /// A regular file of at most `limit` bytes, to be read piece by piece.
    ///
    /// # Errors
    /// As [`Root::open_within`].
    pub fn open_watched(&self, path: impl AsRef<Path>, limit: u64) -> Result<WatchedFile<'_>, FileError> {
        let path = path.as_ref();
        let (file, _) = self.open_within(path, limit)?;
        Ok(WatchedFile { root: self, path: path.to_owned(), file })
    }

    /// An error of a read. It is recorded for [`Root::unread`] unless it is a fact: absent, or not a regular
    /// file.
    pub fn fail_read(&self, action: &'static str, path: &Path, cause: impl Into<io::Error>) -> FileError {
        let error = self.fail(action, path, cause);
        // A normal user is refused many files that decide nothing; those that matter are in `Root::denied`.
        let is_expected = error.is_denied() && !nix::unistd::geteuid().is_root();
        if error.leaves_open() && !is_expected {
            let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
            unread.insert(Unread {
                path: path.to_owned(),
                what: error.to_string(),
                is_loop: error.is_errno(Errno::ELOOP),
                is_denied: error.is_denied(),
            });
        }
        error
    }

    /// An error while an open file was read.
    pub fn read_failed(&self, path: impl AsRef<Path>, cause: io::Error) -> FileError {
        self.fail_read("read", path.as_ref(), cause)
    }

    /// Whether a read of that file has failed.
    pub fn has_unread(&self, path: impl AsRef<Path>) -> bool {
        let unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.iter().any(|failed| failed.path == path.as_ref())
    }

    /// Every read that has failed so far, sorted by path.
    pub fn unread(&self) -> Vec<Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes over the failed reads of another root, whose top is `top` here.
    pub fn adopt_unread(&self, other: &Root, top: &str) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.extend(other.unread().into_iter().map(|failed| Unread {
            path: Path::new(top).join(failed.path.strip_prefix("/").unwrap_or(&failed.path)),
            ..failed
        }));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::root::RootKind;
    use super::*;

    #[test]
    fn what_root_is_refused_is_not_a_matter_of_rights() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        let path = Path::new("/sys/kernel/security/ima/policy");
        assert!(root.fail_read("read", path, Errno::EACCES).is_denied());
        let is_root = nix::unistd::geteuid().is_root();
        assert_eq!((root.denied().is_empty(), root.unread().is_empty()), (is_root, !is_root));
    }
}
