//! Reads that failed. What is not there is a fact; what could not be read is not, and nothing may be concluded from it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::io::Errno;

use super::root::{FileError, Root};

/// A read that failed although something may be there.
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

impl Root {
    /// An error of a read. It is kept for [`Root::unread`] unless it says what is there: nothing, or no regular file.
    pub(super) fn fail_read(
        &self,
        action: &'static str,
        path: &Path,
        cause: impl Into<io::Error>,
    ) -> FileError {
        let error = self.fail(action, path, cause);
        // A user who is not root is refused much that decides nothing; what does is in `Root::denied`.
        let is_expected = error.is_denied() && !rustix::process::geteuid().is_root();
        if error.leaves_open() && !is_expected {
            let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
            unread.insert(Unread {
                path: path.to_owned(),
                what: error.to_string(),
                is_loop: error.is_errno(Errno::LOOP),
                is_denied: error.is_denied(),
            });
        }
        error
    }

    /// An error that came up while a file was read that is open.
    pub fn read_failed(&self, path: impl AsRef<Path>, cause: io::Error) -> FileError {
        self.fail_read("read", path.as_ref(), cause)
    }

    /// Every read that has failed so far, sorted by path.
    pub fn unread(&self) -> Vec<Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Takes over what failed in another root, whose top is `top` here.
    pub fn adopt_unread(&self, other: &Root, top: &str) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.extend(other.unread().into_iter().map(|failed| Unread {
            path: Path::new(top).join(failed.path.strip_prefix("/").unwrap_or(&failed.path)),
            ..failed
        }));
    }
}
