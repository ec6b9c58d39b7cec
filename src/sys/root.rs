//! Files under a root that no symlink can leave.
//!
//! Paths are absolute inside the root: `/usr/lib/kernel` of an image at `/mnt/x` is `/mnt/x/usr/lib/kernel`.
//! Every lookup in a root other than `/` goes through `openat2(2)` with `RESOLVE_IN_ROOT`, so that `..` and
//! symlinks, absolute or relative, mean what they mean after a `chroot` into it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::sys::statvfs::{Statvfs, fstatvfs};

use super::directory::entries;
use super::unread::Unread;
use super::walk::{without_openat2, without_proc};

pub use super::error::{FileError, Shortage};
pub use super::stat::{FileKind, Listed, Presence, Stat, Written};

/// The largest file that is read into memory where the reader names no other limit: a configuration file, a
/// value of the kernel, a record of something. `crate::limits` has the others.
pub const READ_LIMIT: u64 = 256 << 10;
/// The most entries of a directory.
pub(super) const LIST_LIMIT: usize = 1 << 16;

/// What a root is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootKind {
    /// `/` of the running system.
    Live,
    /// An installed system that is not running: no running kernel, no systemd, no mounting, no loading of
    /// modules.
    Image,
    /// A copy of a live system, for tests: its `proc`, `sys` and `run` are those of the machine, but systemd
    /// is never called.
    LiveCopy,
}

/// A size limit as text.
fn size_text(bytes: u64) -> String {
    match bytes {
        mebibytes if mebibytes >= 1 << 20 => format!("{} MiB", mebibytes >> 20),
        bytes => format!("{} KiB", bytes >> 10),
    }
}

/// The host path of a path inside the root at `root`. Symlinks are not resolved.
pub fn below(root: &Path, inside: &Path) -> PathBuf {
    root.join(inside.strip_prefix("/").unwrap_or(inside))
}

/// A directory that is the `/` of a system.
#[derive(Debug)]
pub struct Root {
    pub(super) fd: OwnedFd,
    path: PathBuf,
    kind: RootKind,
    denied: Mutex<BTreeSet<PathBuf>>,
    pub(super) unread: Mutex<BTreeSet<Unread>>,
}

impl Root {
    /// Opens the directory `path` as a root.
    ///
    /// # Errors
    /// When it is not a directory that can be opened.
    pub fn open(kind: RootKind, path: &Path) -> Result<Root, FileError> {
        let fail = |cause: io::Error| FileError { action: "open the root", path: path.to_owned(), cause };
        #[allow(clippy::disallowed_methods)] // where the root lies is a matter of the host
        let path = path.canonicalize().map_err(fail)?;
        let fd =
            nix::fcntl::open(&path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
                .map_err(|e| fail(e.into()))?;
        Ok(Root { fd, path, kind, denied: Mutex::default(), unread: Mutex::default() })
    }

    /// A root from an open directory, which need not be mounted anywhere; `path` is its name in messages.
    pub(super) fn of_descriptor(fd: OwnedFd, path: &Path) -> Root {
        // No system runs there.
        Root {
            fd,
            path: path.to_owned(),
            kind: RootKind::Image,
            denied: Mutex::default(),
            unread: Mutex::default(),
        }
    }

    /// What this root is.
    pub fn kind(&self) -> RootKind {
        self.kind
    }

    /// The running system itself: the only root for which systemd is called.
    pub fn is_live(&self) -> bool {
        self.kind == RootKind::Live
    }

    /// The host path of the root, without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The root is `/`, live or seen from inside a chroot.
    pub fn is_slash(&self) -> bool {
        self.path == Path::new("/")
    }

    /// The path under which other programs take this root for an image; none for a `/` that has no other
    /// path.
    pub fn image_path(&self) -> Option<&Path> {
        if !self.is_slash() {
            return Some(&self.path);
        }
        super::chroot::image_path().filter(|_| self.kind == RootKind::Image)
    }

    /// The host path of a path inside the root, for messages. Symlinks are not resolved.
    pub fn shown_path(&self, path: impl AsRef<Path>) -> PathBuf {
        below(&self.path, path.as_ref())
    }

    pub(super) fn fail(&self, action: &'static str, path: &Path, cause: impl Into<io::Error>) -> FileError {
        let error = FileError { action, path: self.shown_path(path), cause: cause.into() };
        // What the kernel refuses to root, no user may read.
        if error.is_denied() && !nix::unistd::geteuid().is_root() {
            let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
            denied.insert(error.path.clone());
        }
        error
    }

    /// An error of a file that was opened by this root and is being written.
    pub fn write_failed(&self, path: impl AsRef<Path>, cause: io::Error) -> FileError {
        self.fail("write", path.as_ref(), cause)
    }

    /// The host paths of everything that could not be read so far and that root can read, sorted.
    pub fn denied(&self) -> Vec<PathBuf> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(super) fn open_at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        // openat2 refuses O_PATH together with flags that have no effect on it.
        let opens = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NOCTTY };
        let flags = flags | OFlag::O_CLOEXEC | opens;
        if self.is_slash() {
            return openat(&self.fd, path, flags, Mode::empty());
        }
        loop {
            let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
            match openat2(&self.fd, path, OpenHow::new().flags(flags).resolve(resolve)) {
                // A rename elsewhere raced with the lookup of a `..`: the kernel asks for another try.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // An old kernel, or a seccomp filter such as that of RestrictSUIDSGID= in systemd's units.
                Err(Errno::ENOSYS) => return without_openat2(&self.fd, path, flags),
                other => return other,
            }
        }
    }

    /// A regular file, opened for reading. Never waits on a FIFO and never touches a device.
    ///
    /// # Errors
    /// When it is absent, unreadable or not a regular file.
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File, FileError> {
        self.open_sized(path.as_ref()).map(|(file, _)| file)
    }

    /// The file, and its size at the time of opening.
    fn open_sized(&self, path: &Path) -> Result<(File, u64), FileError> {
        let fail = |e: Errno| self.fail_read("read", path, e);
        // O_PATH does not open the file itself, so that a device or FIFO is recognised before it is touched.
        let looked = self.open_at(path, OFlag::O_PATH).map_err(fail)?;
        let stat = Stat::from(fstat(&looked).map_err(fail)?);
        match stat.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(fail(Errno::EISDIR)),
            _ => return Err(self.fail_read("read", path, io::Error::other("it is not a regular file"))),
        }
        let fd = self.open_at(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK).map_err(fail)?;
        Ok((File::from(fd), stat.size))
    }

    /// A regular file of at most `limit` bytes, opened for reading, and its size. The caller limits what it
    /// reads too, because the file may grow.
    ///
    /// # Errors
    /// As [`Root::open_file`]; also for a larger one.
    pub fn open_within(&self, path: impl AsRef<Path>, limit: u64) -> Result<(File, u64), FileError> {
        let path = path.as_ref();
        let (file, size) = self.open_sized(path)?;
        if size > limit { Err(self.too_large(path, limit)) } else { Ok((file, size)) }
    }

    /// The error for a file beyond a limit: its contents are unknown.
    pub fn too_large(&self, path: impl AsRef<Path>, limit: u64) -> FileError {
        let what = format!("it is larger than {}", size_text(limit));
        self.fail_read("read", path.as_ref(), io::Error::new(io::ErrorKind::FileTooLarge, what))
    }

    /// The error for a file that is too large together with the others of its kind.
    pub fn too_large_with_others(&self, path: impl AsRef<Path>, limit: u64) -> FileError {
        let what =
            format!("together with the other files of its kind it is larger than {}", size_text(limit));
        self.fail_read("read", path.as_ref(), io::Error::new(io::ErrorKind::FileTooLarge, what))
    }

    /// The bytes of a regular file of at most [`READ_LIMIT`] bytes.
    ///
    /// # Errors
    /// As [`Root::open_file`]; also for a larger file.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, FileError> {
        self.read_within(path, READ_LIMIT)
    }

    /// The bytes of a regular file of at most `limit` bytes.
    ///
    /// # Errors
    /// As [`Root::open_file`]; also for a larger file.
    pub fn read_within(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, FileError> {
        let path = path.as_ref();
        let (file, size) = self.open_within(path, limit)?;
        // One more than the size, so that the end is seen without growing the buffer.
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| self.fail_read("read", path, e))?;
        if bytes.len() as u64 > limit { Err(self.too_large(path, limit)) } else { Ok(bytes) }
    }

    /// At most `limit` bytes from the beginning of a regular file.
    ///
    /// # Errors
    /// As [`Root::open_file`].
    pub fn read_start(&self, path: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, FileError> {
        let path = path.as_ref();
        let file = self.open_file(path)?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|e| self.fail_read("read", path, e))?;
        Ok(bytes)
    }

    /// As [`Root::read`], with `None` for an absent file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_optional(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, FileError> {
        self.read_optional_within(path, READ_LIMIT)
    }

    /// As [`Root::read_within`], with `None` for an absent file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_optional_within(
        &self,
        path: impl AsRef<Path>,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, FileError> {
        match self.read_within(path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_absent() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the path of the root has a character that is special in glob(7): a program that puts the path
    /// into a pattern does not find the files below it.
    pub fn is_pattern(&self) -> bool {
        self.path().to_string_lossy().contains(['[', '*', '?', '\\'])
    }

    /// Whether `path` exists; symlinks are followed.
    pub fn lookup(&self, path: impl AsRef<Path>) -> Presence {
        self.look(path.as_ref(), OFlag::O_PATH)
    }

    /// Whether `path` exists; a symlink at the end is not followed.
    pub fn lookup_link(&self, path: impl AsRef<Path>) -> Presence {
        self.look(path.as_ref(), OFlag::O_PATH | OFlag::O_NOFOLLOW)
    }

    /// What a program of the host finds at a path of this root: it follows absolute symlinks out of the root.
    /// Only the type is read. None if there is nothing, or if it cannot be determined.
    pub fn stat_from_host(&self, path: impl AsRef<Path>) -> Option<Stat> {
        let below = path.as_ref().strip_prefix("/").unwrap_or(path.as_ref());
        // An error has no consequence here: the program that opens the file reports it.
        nix::sys::stat::stat(&self.path.join(below)).ok().map(Stat::from)
    }

    /// Whether something is at a path, after following symlinks.
    ///
    /// # Errors
    ///
    /// If that is unknown.
    pub fn has(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        Ok(self.lookup(path).known()?.is_some())
    }

    fn look(&self, path: &Path, flags: OFlag) -> Presence {
        let looked = if self.is_slash() {
            let links = flags.contains(OFlag::O_NOFOLLOW);
            let links = if links { AtFlags::AT_SYMLINK_NOFOLLOW } else { AtFlags::empty() };
            fstatat(&self.fd, path, links)
        } else {
            self.open_at(path, flags).and_then(|fd| fstat(&fd))
        };
        match looked {
            Ok(stat) => Presence::There(stat.into()),
            Err(e) => {
                let error = self.fail_read("look at", path, e);
                if error.is_absent() { Presence::Absent } else { Presence::Unreadable(error) }
            }
        }
    }

    /// The target of a symlink, as it is written.
    ///
    /// # Errors
    /// When it is not a symlink, or cannot be read.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, FileError> {
        let path = path.as_ref();
        let text = self
            .open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)
            // With an empty path readlinkat reads the symlink that the descriptor refers to.
            .and_then(|fd| readlinkat(&fd, ""))
            .map_err(|e| self.fail_read("read the symlink", path, e))?;
        Ok(PathBuf::from(text))
    }

    /// The entries of a directory, sorted by bytes.
    ///
    /// # Errors
    /// When it is not a directory, or cannot be read to its end.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<Listed>, FileError> {
        let path = path.as_ref();
        let fail = |e: Errno| self.fail_read("list", path, e);
        let fd = self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(fail)?;
        let mut found = entries(fd, LIST_LIMIT + 1).map_err(fail)?;
        if found.len() > LIST_LIMIT {
            let what = format!("it has more than {LIST_LIMIT} entries");
            return Err(self.fail_read("list", path, io::Error::new(io::ErrorKind::FileTooLarge, what)));
        }
        found.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Ok(found)
    }

    /// As [`Root::list`], with no entries for an absent directory.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn list_optional(&self, path: impl AsRef<Path>) -> Result<Vec<Listed>, FileError> {
        let path = path.as_ref();
        match self.list(path) {
            // Something other than a directory is there, which is not the same as absent.
            Err(e) if e.is_absent() && !self.lookup_link(path).is_there() => Ok(Vec::new()),
            other => other,
        }
    }

    /// Whether another filesystem, or another part of this one, is mounted at `path` itself. A symlink does
    /// not count.
    ///
    /// # Errors
    /// When it is not there, or cannot be determined.
    pub fn is_mounted_on(&self, path: impl AsRef<Path>) -> Result<bool, FileError> {
        let path = path.as_ref();
        let fail = |e: Errno| self.fail_read("look at", path, e);
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(true) };
        let parent = self.open_at(parent, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(fail)?;
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        // The device number does not reveal a bind mount.
        match openat2(&parent, name, OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV)) {
            Ok(_) => Ok(false),
            Err(Errno::EXDEV) => Ok(true),
            Err(e) => Err(fail(e)),
        }
    }

    /// The host path of what `path` leads to, without symlinks and inside the root, to be passed to a program
    /// that does not know about roots.
    ///
    /// # Errors
    /// When it is not there.
    pub fn real_path(&self, path: impl AsRef<Path>) -> Result<PathBuf, FileError> {
        let path = path.as_ref();
        let fd = self.open_at(path, OFlag::O_PATH).map_err(|e| self.fail_read("resolve", path, e))?;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        // Without /proc the root needs none of it.
        let link = if self.is_slash() { link.or_else(|_| without_proc(path)) } else { link };
        link.map_err(|e| self.fail_read("resolve (is /proc mounted?)", path, e))
    }

    /// The same, so that a root does not lead to files of the host. A path that cannot be resolved, such as
    /// one that does not exist yet, is only joined.
    pub fn resolved_or_joined(&self, path: impl AsRef<Path>) -> PathBuf {
        // The reason makes no difference: what gets the path reports what is wrong with it.
        self.real_path(path.as_ref()).unwrap_or_else(|_| self.shown_path(path))
    }

    /// As [`Root::real_path`], but for `/` without a need for `/proc`: its paths are host paths.
    ///
    /// # Errors
    /// As [`Root::real_path`].
    pub fn host_path(&self, path: impl AsRef<Path>) -> Result<PathBuf, FileError> {
        if self.is_slash() { Ok(path.as_ref().to_owned()) } else { self.real_path(path) }
    }

    /// Whether a program on the host that is given `path` reaches the same file as `meant` inside this root.
    pub fn host_finds(&self, path: impl AsRef<Path>, meant: impl AsRef<Path>) -> bool {
        #[allow(clippy::disallowed_methods)] // the host's view is wanted
        let seen = self.shown_path(path).canonicalize();
        self.is_slash() || matches!((seen, self.real_path(meant)), (Ok(seen), Ok(meant)) if seen == meant)
    }

    /// The path inside the root that a host path stands for, when it is inside.
    pub fn inside(&self, host: &Path) -> Option<PathBuf> {
        // The only error is that it is outside.
        host.strip_prefix(&self.path).ok().map(|rest| Path::new("/").join(rest))
    }

    /// Free bytes for an unprivileged writer on the filesystem that holds `path`.
    ///
    /// # Errors
    /// When `path` is not there.
    pub fn free_space(&self, path: impl AsRef<Path>) -> Result<u64, FileError> {
        let fs = self.filesystem_of(path.as_ref())?;
        Ok(fs.blocks_available().saturating_mul(fs.fragment_size()))
    }

    /// What the filesystem that holds `path` has no more of, if anything; it should have room for that many
    /// bytes.
    ///
    /// # Errors
    /// As [`Root::free_space`].
    pub fn shortage(&self, path: impl AsRef<Path>, room: u64) -> Result<Option<Shortage>, FileError> {
        let fs = self.filesystem_of(path.as_ref())?;
        let free = fs.blocks_available().saturating_mul(fs.fragment_size());
        // A filesystem without a fixed number of inodes reports that it has none.
        Ok(if fs.files() > 0 && fs.files_available() == 0 {
            Some(Shortage::Inodes)
        } else {
            (free < room).then_some(Shortage::Space)
        })
    }

    /// Free bytes for root, which may also use the reserve of a filesystem.
    ///
    /// # Errors
    /// As [`Root::free_space`].
    pub fn free_space_for_root(&self, path: impl AsRef<Path>) -> Result<u64, FileError> {
        let fs = self.filesystem_of(path.as_ref())?;
        Ok(fs.blocks_free().saturating_mul(fs.fragment_size()))
    }

    fn filesystem_of(&self, path: &Path) -> Result<Statvfs, FileError> {
        let fail = |e: Errno| self.fail_read("query the filesystem of", path, e);
        let fd = self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(fail)?;
        fstatvfs(fd.as_fd()).map_err(fail)
    }
}
