//! Writing below a root: atomic, skipped when nothing changes, and never through a symlink that leads out of
//! it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::signal::kill;
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, fsync, getpid, linkat, symlinkat, syncfs, unlinkat};
use rustix::fs::RenameFlags;
use serde::Serialize;

use super::compare::have_same_contents;
use super::directory::entries;
use super::root::{FileError, FileKind, LIST_LIMIT, Listed, Root, Stat, Written};

impl Root {
    /// Makes a directory and its parents, mode 0755.
    ///
    /// # Errors
    /// When one of them cannot be made, or exists and is not a directory.
    pub fn make_directories(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        let mut done = PathBuf::from("/");
        for name in path.components().filter(|c| matches!(c, std::path::Component::Normal(_))) {
            let parent = done.clone();
            done.push(name);
            match self.open_at(&done, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Ok(_) => continue,
                Err(Errno::ENOENT) => {}
                Err(e) => return Err(self.fail("create the directory", &done, e)),
            }
            let parent_fd = self.directory(&parent)?;
            match mkdirat(&parent_fd, name.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(e) => return Err(self.fail("create the directory", &done, e)),
            }
            // A dangling symlink may be in the way: it is reported here rather than at the write.
            self.open_at(&done, OFlag::O_PATH | OFlag::O_DIRECTORY)
                .map_err(|e| self.fail("create the directory", &done, e))?;
        }
        Ok(())
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, FileError> {
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            .map_err(|e| self.fail("open the directory", path, e))
    }

    fn parent_and_name<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), FileError> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok((self.directory(parent)?, name)),
            _ => Err(self.fail("write", path, Errno::EINVAL)),
        }
    }

    /// Writes `bytes` to `path` atomically: a reader sees the old file or the new one, also after a power
    /// cut. A symlink at `path` is replaced, not followed. Missing parents are made. Nothing is written when
    /// the same regular file is there already.
    ///
    /// # Errors
    /// When it cannot be written; the old file is still there then.
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<Written, FileError> {
        let path = path.as_ref();
        if self.is_written(path, bytes, mode) {
            return Ok(Written::Same);
        }
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        self.in_place_of(path, |directory, temporary| {
            let mut file = new_file(directory, temporary, 0o600)?;
            file.write_all(bytes)?;
            finished(file, mode)
        })?;
        Ok(Written::Changed)
    }

    /// Copies a regular file of at most `limit` bytes, as [`Root::write`] writes one, without holding it in
    /// memory.
    ///
    /// # Errors
    /// When one of them cannot be read or written, or the file is larger.
    pub fn copy(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        mode: u32,
        limit: u64,
    ) -> Result<Written, FileError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (source, size) = self.open_within(from, limit)?;
        let there = self.lookup_link(to).stat();
        if there.is_some_and(|s| s.kind == FileKind::File && s.size == size && s.mode == mode)
            // An unreadable old file is replaced.
            && self.open_file(to).is_ok_and(|old| {
                self.open_file(from).is_ok_and(|new| have_same_contents(new, old).unwrap_or(false))
            })
        {
            return Ok(Written::Same);
        }
        if let Some(parent) = to.parent() {
            self.make_directories(parent)?;
        }
        self.in_place_of(to, |directory, temporary| {
            let mut file = new_file(directory, temporary, 0o600)?;
            if io::copy(&mut source.take(limit + 1), &mut *file)? > limit {
                return Err(self.too_large(from, limit).cause);
            }
            finished(file, mode)
        })?;
        Ok(Written::Changed)
    }

    /// Writes everything from `from` to `path` as [`Root::write`] does, in an existing directory. The mode is
    /// what the filesystem makes of 0644: FAT does not allow a mode to be set.
    ///
    /// # Errors
    /// When it cannot be read or written; the old file is still there then.
    pub fn replace_contents(&self, path: impl AsRef<Path>, from: &mut dyn Read) -> Result<(), FileError> {
        let path = path.as_ref();
        self.in_place_of(path, |directory, temporary| {
            let mut file = new_file(directory, temporary, 0o644)?;
            io::copy(from, &mut *file)?;
            file.sync_all()?;
            Ok(Some(file))
        })
    }

    /// Writes a value to `path` as JSON, readable for all: no record holds a secret.
    ///
    /// # Errors
    /// As [`Root::write`]; also for a value that cannot be written as JSON.
    pub fn write_json<T: Serialize>(&self, path: impl AsRef<Path>, value: &T) -> Result<Written, FileError> {
        let path = path.as_ref();
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| self.fail("write", path, e))?;
        text.push(b'\n');
        self.write(path, &text, 0o644)
    }

    fn is_written(&self, path: &Path, bytes: &[u8], mode: u32) -> bool {
        let same = |fd: OwnedFd| -> io::Result<bool> {
            let stat = Stat::from(fstat(&fd)?);
            if (stat.kind, stat.mode, stat.size) != (FileKind::File, mode, bytes.len() as u64) {
                return Ok(false);
            }
            let mut there = Vec::with_capacity(bytes.len());
            File::from(fd).take(bytes.len() as u64 + 1).read_to_end(&mut there)?;
            Ok(there == bytes)
        };
        // An unreadable old file is replaced.
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK)
            .is_ok_and(|fd| same(fd).unwrap_or(false))
    }

    /// Makes `path` a symlink with that target, atomically; nothing is written when it is one already.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn link(&self, path: impl AsRef<Path>, text: &Path) -> Result<Written, FileError> {
        let path = path.as_ref();
        // What is there and cannot be read as a symlink is replaced.
        if self.read_link(path).is_ok_and(|there| there == text) {
            return Ok(Written::Same);
        }
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        self.in_place_of(path, |directory, temporary| {
            symlinkat(text, directory, temporary)?;
            Ok(None)
        })?;
        Ok(Written::Changed)
    }

    fn in_place_of(
        &self,
        path: &Path,
        make: impl FnOnce(&OwnedFd, &OsStr) -> io::Result<Option<Flock<File>>>,
    ) -> Result<(), FileError> {
        let (directory, name) = self.parent_and_name(path)?;
        let directory = &directory;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        let result = sweep(directory, name)
            .and_then(|()| make(directory, &temporary))
            // The temporary file stays locked until it has its final name.
            .and_then(|_locked| Ok(renameat(directory, temporary.as_os_str(), directory, name)?))
            .and_then(|()| Ok(fsync(directory)?));
        if let Err(e) = result {
            // The first error is reported; a temporary file that stays is removed by the next write.
            remove_if_there(directory, &temporary).ok();
            return Err(self.fail("write", path, e));
        }
        Ok(())
    }

    /// Removes the temporary files that killed writers of a file left, where that file is not written again.
    ///
    /// # Errors
    /// When its directory cannot be read, or one of them cannot be removed.
    pub fn remove_leftovers(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        let (directory, name) = self.parent_and_name(path)?;
        sweep(&directory, name).map_err(|e| self.fail("write", path, e))
    }

    /// Removes a file or symlink; true when it existed.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        let path = path.as_ref();
        let (directory, name) = match self.parent_and_name(path) {
            Err(e) if e.is_absent() => return Ok(false),
            other => other?,
        };
        match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => fsync(&directory).map(|()| true).map_err(|e| self.fail("remove", path, e)),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(self.fail("remove", path, e)),
        }
    }

    /// Renames a file or directory within its directory, replacing a file of the new name; true when it
    /// existed.
    ///
    /// # Errors
    /// When it is there and cannot be renamed.
    pub fn rename(&self, path: impl AsRef<Path>, name: &str) -> Result<bool, FileError> {
        let path = path.as_ref();
        let (directory, old) = match self.parent_and_name(path) {
            Err(e) if e.is_absent() => return Ok(false),
            other => other?,
        };
        match renameat(&directory, old, &directory, name) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(e) => Err(self.fail("rename", path, e)),
        }
    }

    /// Exchanges two entries of one directory at once.
    ///
    /// # Errors
    /// When one of them is not there, or the filesystem cannot do it.
    pub fn exchange(&self, path: impl AsRef<Path>, name: &str) -> Result<(), FileError> {
        let path = path.as_ref();
        let (directory, old) = self.parent_and_name(path)?;
        rustix::fs::renameat_with(&directory, old, &directory, name, RenameFlags::EXCHANGE)
            .map_err(|e| self.fail("exchange", path, e))
    }

    /// Gives a file or symlink a second name in its own directory; its contents stay as long as either
    /// name.
    ///
    /// # Errors
    /// When the name is taken, or the filesystem has no hard links.
    pub fn hard_link(&self, path: impl AsRef<Path>, name: &str) -> Result<(), FileError> {
        let path = path.as_ref();
        let (directory, old) = self.parent_and_name(path)?;
        linkat(&directory, old, &directory, name, AtFlags::empty()).map_err(|e| self.fail("link", path, e))
    }

    /// Waits until the entries of a directory are on the device.
    ///
    /// # Errors
    /// When they cannot be, or it is not there.
    pub fn sync_directory(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        fsync(self.directory(path)?).map_err(|e| self.fail("sync", path, e))
    }

    /// Waits until everything written to the filesystem of `path` is on the device.
    ///
    /// # Errors
    /// When that fails, or `path` is not a directory.
    pub fn sync(&self, path: impl AsRef<Path>) -> Result<(), FileError> {
        let path = path.as_ref();
        syncfs(self.directory(path)?).map_err(|e| self.fail("sync", path, e))
    }

    /// Removes a directory, when it is empty; true when it was.
    ///
    /// # Errors
    /// When it cannot be removed for another reason.
    pub fn remove_empty_directory(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        let path = path.as_ref();
        let (directory, name) = match self.parent_and_name(path) {
            Err(e) if e.is_absent() => return Ok(false),
            other => other?,
        };
        match unlinkat(&directory, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => Ok(true),
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT) => Ok(false),
            Err(e) => Err(self.fail("remove the directory", path, e)),
        }
    }

    /// Removes a directory with its contents, without following symlinks; true when it existed.
    ///
    /// # Errors
    /// When a part of it cannot be removed.
    pub fn remove_tree(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        let path = path.as_ref();
        let fail = |e: Errno| self.fail("remove", path, e);
        match self.lookup_link(path).known()? {
            None => return Ok(false),
            Some(stat) if stat.kind != FileKind::Directory => return self.remove(path),
            Some(_) => {}
        }
        // Only some names at a time: a directory may have more entries than a list may hold.
        loop {
            let names = self.some_names(path)?;
            if names.is_empty() {
                break;
            }
            for name in names {
                self.remove_tree(path.join(name))?;
            }
        }
        let (directory, name) = self.parent_and_name(path)?;
        unlinkat(&directory, name, UnlinkatFlags::RemoveDir).map_err(fail)?;
        Ok(true)
    }

    fn some_names(&self, path: &Path) -> Result<Vec<OsString>, FileError> {
        let fail = |e: Errno| self.fail("list", path, e);
        let found = entries(self.directory(path)?, 1024).map_err(fail)?;
        let mut names: Vec<OsString> = found.into_iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A file opened for a child to write into: truncated, mode 0644, never through a link.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<File, FileError> {
        self.open_written(path.as_ref(), OFlag::O_TRUNC, 0o644)
    }

    /// A new file in a new tree, with that mode and not yet on disk; parents are made. Nothing may exist
    /// there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create_new(&self, path: impl AsRef<Path>, mode: u32) -> Result<File, FileError> {
        let file = self.open_written(path.as_ref(), OFlag::O_EXCL, 0o600)?;
        fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|e| self.fail("write", path.as_ref(), e))?;
        Ok(file)
    }

    /// A lock file: made when absent, never truncated or removed, and not accessible to others, which could
    /// block a run with a lock of their own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open_lock_file(&self, path: impl AsRef<Path>) -> Result<File, FileError> {
        self.open_written(path.as_ref(), OFlag::empty(), 0o600)
    }

    fn open_written(&self, path: &Path, flags: OFlag, mode: u32) -> Result<File, FileError> {
        if let Some(parent) = path.parent() {
            self.make_directories(parent)?;
        }
        let (directory, name) = self.parent_and_name(path)?;
        let flags = flags
            | OFlag::O_RDWR
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        openat(&directory, name, flags, Mode::from_bits_truncate(mode))
            .map(File::from)
            .map_err(|e| self.fail("write", path, e))
    }
}

fn new_file(directory: &OwnedFd, name: &OsStr, mode: u32) -> io::Result<Flock<File>> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::from_bits_truncate(mode))?);
    // The lock ends with this process, however it ends: see `sweep`.
    Flock::lock(file, FlockArg::LockShared).map_err(|(_, e)| e.into())
}

fn finished(file: Flock<File>, mode: u32) -> io::Result<Option<Flock<File>>> {
    fchmod(&*file, Mode::from_bits_truncate(mode))?;
    file.sync_all()?;
    Ok(Some(file))
}

/// Removes the temporary files that killed writers of `name` left: their process is gone, and nobody has the
/// file locked, as a writer in another container that shares the directory would.
fn sweep(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    // A descriptor of its own: one that is shared would share its position in the directory.
    let listing =
        openat(directory, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    for Listed { name: file, .. } in entries(listing, LIST_LIMIT)? {
        let of = file.as_bytes().strip_prefix(b".").and_then(|rest| rest.strip_prefix(name.as_bytes()));
        // A name without a process id is not of a temporary file of ours.
        let writer = of.and_then(|rest| std::str::from_utf8(rest.strip_prefix(b".")?).ok()?.parse().ok());
        let Some(writer) = writer.filter(|pid| *pid > 0).map(Pid::from_raw) else { continue };
        if writer != getpid() && kill(writer, None) != Err(Errno::ESRCH) {
            continue;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let is_free = match openat(directory, file.as_os_str(), flags, Mode::empty()) {
            // An error means that its writer is still at work, or that nothing is known: it stays.
            Ok(fd) => Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock).is_ok(),
            // A symlink cannot be opened with these flags, nor locked.
            Err(Errno::ELOOP) => true,
            // It may be locked. A later write removes it.
            Err(_) => false,
        };
        if is_free {
            remove_if_there(directory, &file)?;
        }
    }
    Ok(())
}

fn remove_if_there(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
