//! One run at a time: a lock on a file that is never renamed or removed.
//!
//! The lock is a flock(2), and children inherit the descriptor. So the lock outlives a run that was killed
//! while its children still build: the next run finds those orphans (they hold the lock, and have the mark in
//! their environment), ends them, and continues with a tree that nobody writes to. A run that ends by itself
//! unlocks the file, which also releases it from a daemon that a build left running.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, Flock, FlockArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use rustix::fs::{AtFlags, StatxFlags, statx};

use super::child::MARK;
use super::clock::Stopwatch;
use super::lines::each_line;
use super::{FileError, Root, interrupt};

/// How often a waiting run tries again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The longest line of `/proc/locks` that is read.
const LONGEST_LINE: usize = 256;
/// How long killed orphans may take to disappear, even with less patience.
const ORPHANS_LEAVE: Duration = Duration::from_secs(2);

/// Why the lock could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it. `holder`: its name and process id.
    #[error("another run is active: {holder} holds {path}", path = path.display())]
    Busy { holder: String, path: PathBuf },
    /// The file cannot be made or locked.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The lock, held until this value goes. Dropping it unlocks the file; to close the descriptor would not be
/// enough where a child still has it.
#[derive(Debug)]
pub struct Lock {
    // Held for its `Drop`.
    _file: Flock<File>,
}

/// A process that holds the lock.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    name: String,
    /// Whether it is a child of a run of clr-dkms, and not a run itself.
    is_child: bool,
}

impl Lock {
    /// Takes the lock at `path` of `root`, waiting for at most `patience`. `is_run` says whether a program of
    /// that name is a run of clr-dkms (to be waited for); its children without it were left behind by a
    /// killed run, and are ended.
    ///
    /// # Errors
    /// [`LockError::Busy`] when the patience is over or a stop is requested.
    pub fn take(
        root: &Root,
        path: &str,
        patience: Duration,
        is_run: fn(&str) -> bool,
    ) -> Result<Lock, LockError> {
        let mut file = root.open_lock_file(path)?;
        // Without /proc the path cannot be resolved, and no holder can be found either.
        let real = root.resolved_or_joined(path);
        let fail = |e: Errno| FileError { action: "lock", path: real.clone(), cause: e.into() };
        let watch = Stopwatch::start();
        let (mut reported, mut patience) = (false, patience);
        let file = loop {
            file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => break locked,
                Err((file, Errno::EWOULDBLOCK | Errno::EINTR)) => file,
                Err((_, e)) => return Err(fail(e).into()),
            };
            let holders = holders(&real, is_run);
            if !holders.is_empty() && holders.iter().all(|h| h.is_child) {
                end_orphans(&holders);
                patience = patience.max(ORPHANS_LEAVE);
            } else if !reported {
                tracing::info!("waiting for {}, which holds {}", describe(&holders), real.display());
                reported = true;
            }
            if watch.elapsed() >= patience || interrupt::asked() {
                return Err(LockError::Busy { holder: describe(&holders), path: real });
            }
            std::thread::sleep(LOOK_AGAIN);
        };
        fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).map_err(fail)?;
        Ok(Lock { _file: file })
    }
}

/// Waits until nobody holds the lock at `path`, for at most `patience`, or until a stop is requested.
pub fn wait_while_held(root: &Root, path: &str, patience: Duration) {
    let watch = Stopwatch::start();
    let mut reported = false;
    while watch.elapsed() < patience && !interrupt::asked() {
        match is_held(root, path) {
            Ok(true) => {}
            Ok(false) => return,
            // A bare chroot has no /proc, and no swupd.
            Err(e) => {
                tracing::debug!("whether {} is locked is unknown: {e}", root.shown_path(path).display());
                return;
            }
        }
        if !reported {
            tracing::info!("waiting for the process that holds {}", root.shown_path(path).display());
            reported = true;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Whether a process holds the lock at `path` now. Needs no permission for the file, and changes nothing.
///
/// # Errors
///
/// If that is unknown.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
pub fn is_held(root: &Root, path: &str) -> io::Result<bool> {
    let file = match root.open_at(Path::new(path), OFlag::O_PATH) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
        file => file?,
    };
    let inode = fstat(&file)?.st_ino;
    let locks = File::open("/proc/locks")?;
    let (mut filesystem_of, mut is_held) = (None, false);
    // Any user can have a million locks.
    each_line(BufReader::new(locks), LONGEST_LINE, |line| {
        let line = String::from_utf8_lossy(line);
        let Some(device) = locked_on(&line, inode) else { return };
        let known = filesystem_of.get_or_insert_with(|| filesystem(&file));
        // An unknown filesystem counts as the same: a needless wait is better than to work beside a process
        // that writes.
        is_held |= known.is_none_or(|known| device == known);
    })?;
    Ok(is_held)
}

/// The device (major and minor number) of a lock on a file with that inode number. A line is "1: FLOCK
/// ADVISORY  WRITE 1234 fe:00:5678 0 EOF". swupd locks with fcntl(2), which is shown as POSIX.
fn locked_on(line: &str, inode: u64) -> Option<(u32, u32)> {
    let mut words = line.split_ascii_whitespace();
    words.find(|word| ["FLOCK", "POSIX", "OFDLCK"].contains(word))?;
    let mut place = words.find(|word| word.matches(':').count() == 2)?.split(':');
    // The kernel writes numbers; another line is not one of a lock.
    let mut number = || u32::from_str_radix(place.next()?, 16).ok();
    let device = (number()?, number()?);
    (place.next()?.parse() == Ok(inode)).then_some(device)
}

/// The device of the filesystem that a file is on, as the kernel names it in `/proc/locks` and in
/// `mountinfo`. stat(2) returns another one on btrfs, which has one for each subvolume, and on overlayfs.
#[allow(clippy::disallowed_methods)] // of the mount that the descriptor is on, whatever the root is
fn filesystem(file: &OwnedFd) -> Option<(u32, u32)> {
    // Kernels before 5.8 do not report the mount.
    let stat = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
    if stat.stx_mask & StatxFlags::MNT_ID.bits() == 0 {
        return None;
    }
    // Without /proc the holder stays unknown.
    device_of_mount(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, stat.stx_mnt_id)
}

fn device_of_mount(mounts: &str, id: u64) -> Option<(u32, u32)> {
    mounts.lines().find_map(|line| {
        // Number, number of the parent, device.
        let mut fields = line.split(' ');
        let is_it = fields.next()?.parse() == Ok(id);
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        // As above.
        is_it.then_some((major.parse().ok()?, minor.parse().ok()?))
    })
}

fn describe(holders: &[Holder]) -> String {
    match holders {
        [] => "a process that is not visible here".to_owned(),
        [first, ..] => format!("{} (pid {})", first.name, first.pid),
    }
}

/// The processes, other than this one, that hold a lock on `path`. An open file alone is not a lock.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
fn holders(path: &Path, is_run: fn(&str) -> bool) -> Vec<Holder> {
    let mut found = Vec::new();
    // Without /proc the lock is waited for all the same; only its holder cannot be named.
    let Ok(processes) = std::fs::read_dir("/proc") else { return found };
    for process in processes.flatten() {
        let name = process.file_name();
        // Names in /proc that are not numbers are not processes.
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        if u32::try_from(pid) == Ok(std::process::id()) {
            continue;
        }
        let directory = process.path();
        // A process may end meanwhile, or belong to another user: then it cannot be named.
        let Ok(descriptors) = std::fs::read_dir(directory.join("fd")) else { continue };
        let holds = descriptors.flatten().any(|fd| {
            let info = || std::fs::read_to_string(directory.join("fdinfo").join(fd.file_name()));
            // A process that ends meanwhile holds nothing.
            std::fs::read_link(fd.path()).is_ok_and(|t| t == path)
                && info().is_ok_and(|i| i.lines().any(|l| l.starts_with("lock:")))
        });
        if holds {
            // A process that has just ended has nothing to read, and need not be ended.
            let program = std::fs::read_link(directory.join("exe")).unwrap_or_default();
            let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            // The environment of another user is closed: there is no mark to see.
            let marked = std::fs::read(directory.join("environ")).unwrap_or_default();
            let mark = format!("{MARK}=");
            let marked = marked.split(|b| *b == 0).any(|variable| variable.starts_with(mark.as_bytes()));
            found.push(Holder { pid, is_child: marked && !is_run(&name), name });
        }
    }
    // The run first, then its children, which can have lower numbers after the process ids have wrapped
    // around.
    found.sort_by_key(|h| (h.is_child, h.pid));
    found
}

fn end_orphans(orphans: &[Holder]) {
    for orphan in orphans {
        tracing::warn!("ending {} (pid {}), left behind by a run that was killed", orphan.name, orphan.pid);
        match kill(Pid::from_raw(orphan.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(e) => tracing::warn!("cannot end pid {}: {e}", orphan.pid),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::sys::RootKind;

    fn scratch() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        (directory, root)
    }

    #[test]
    fn a_second_run_reports_the_holder_of_the_lock() {
        let (_directory, root) = scratch();
        let held = Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap();
        let error = Lock::take(&root, "/run/x.lock", Duration::from_millis(120), |_| true).unwrap_err();
        assert!(matches!(error, LockError::Busy { .. }), "{error}");
        drop(held);
        // Children of tests beside this one may have inherited the descriptor for a moment: hence the
        // patience.
        Lock::take(&root, "/run/x.lock", Duration::from_secs(20), |_| true).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_behind_is_ended() {
        let (_directory, root) = scratch();
        let held = Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap();
        let mut sleep = std::process::Command::new("/bin/sleep");
        let mut orphan = sleep.arg("60").env(MARK, "1").spawn().unwrap();
        // As after SIGKILL: closed, and not unlocked.
        fcntl(held._file.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        let copy = held._file.try_clone().unwrap();
        std::mem::forget(held);
        drop(copy);
        assert!(is_held(&root, "/run/x.lock").unwrap());
        let holders = holders(&root.real_path("/run/x.lock").unwrap(), |name| name == "clr-dkms");
        assert!(holders.iter().any(|h| h.pid == orphan.id().cast_signed() && h.is_child), "{holders:?}");
        end_orphans(&holders);
        assert!(!orphan.wait().unwrap().success());
    }

    #[test]
    fn a_lock_is_one_of_a_file_on_its_own_filesystem() {
        let locks = "1: POSIX  ADVISORY  WRITE 21934 00:28:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 9 fe:0a:77 0 EOF\n\
                     3: OFDLCK ADVISORY  WRITE -1 103:05:77 0 EOF\n\
                     4: LEASE  ACTIVE    READ 9 fe:01:77 0 EOF\n\
                     5: POSIX  ADVISORY  WRITE 9 fe:01:78 0 EOF\n1: -> POSIX ADVISORY WRITE 9 00:2a:77 0 EOF\n";
        let of = |inode| -> Vec<_> { locks.lines().filter_map(|line| locked_on(line, inode)).collect() };
        assert_eq!(of(77), [(0, 0x28), (0xfe, 10), (0x103, 5), (0, 0x2a)]);
        assert!(of(7).is_empty());
        let mounts = "27 1 254:0 / / rw - ext4 /dev/root rw\n66 63 0:40 / /m rw - overlay o rw\n";
        assert_eq!(device_of_mount(mounts, 66), Some((0, 40)));
        assert_eq!(device_of_mount(mounts, 6), None);
    }

    /// Two filesystems of one kind give out the same inode numbers.
    #[test]
    fn a_file_of_the_same_inode_elsewhere_is_not_locked() {
        let (_directory, root) = scratch();
        let held = Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap();
        assert!(is_held(&root, "/run/x.lock").unwrap());
        let inode = root.lookup("/run/x.lock").stat().unwrap().inode;
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let file = root.open_at(Path::new("/run/x.lock"), OFlag::O_PATH).unwrap();
        let device = filesystem(&file).unwrap();
        let mut devices = locks.lines().filter_map(|line| locked_on(line, inode));
        assert!(devices.any(|of| of == device), "{device:?} in {locks}");
        drop(held);
    }

    #[test]
    fn the_lock_file_is_never_changed() {
        let (directory, root) = scratch();
        drop(Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap());
        let before = std::fs::metadata(directory.path().join("run/x.lock")).unwrap().modified().unwrap();
        drop(Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap());
        let after = std::fs::metadata(directory.path().join("run/x.lock")).unwrap().modified().unwrap();
        assert_eq!(before, after);
    }
}
