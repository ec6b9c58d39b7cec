//! Freeing the space of the middle of a file while another process writes to it.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};
use nix::sys::stat::fstat;

use super::root::{FileError, FileKind, Root, Stat};

/// Frees all but the first `head` and the last `tail` bytes of a file that is larger than `limit`. The freed
/// part reads as zeros; the size and the position of the writer stay the same. A smaller file stays as it is.
///
/// # Errors
/// When the filesystem does not support it, or the file cannot be written.
pub fn punch_hole(file: &File, head: u64, tail: u64, limit: u64) -> io::Result<()> {
    let stat = Stat::from(fstat(file)?);
    if stat.kind != FileKind::File || stat.size <= limit {
        return Ok(());
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let offset = |bytes: u64| i64::try_from(bytes).map_err(|_| Errno::EFBIG);
    Ok(fallocate(file, flags, offset(head)?, offset(stat.size.saturating_sub(head + tail))?)?)
}

impl Root {
    /// The same for the file at `path`, if it exists; a symlink is left alone.
    ///
    /// # Errors
    /// As [`punch_hole`].
    pub fn punch_hole(&self, path: &str, head: u64, tail: u64, limit: u64) -> Result<(), FileError> {
        let stat = self.lookup_link(path).stat();
        if stat.is_none_or(|stat| stat.kind != FileKind::File || stat.size <= limit) {
            return Ok(());
        }
        let path = Path::new(path);
        match self.open_at(path, OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK) {
            Ok(fd) => punch_hole(&File::from(fd), head, tail, limit)
                .map_err(|e| self.fail("free the space of", path, e)),
            Err(Errno::ENOENT) => Ok(()),
            Err(e) => Err(self.fail("free the space of", path, e)),
        }
    }
}
