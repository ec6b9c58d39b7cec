//! One run at a time: a lock on a file that is never renamed or removed.
//!
//! The lock is `flock(2)`'s, and the descriptor is handed on to our children. So the lock outlives a run that was
//! killed while its children still build: the next run finds those orphans by their open descriptor, which nobody
//! else can have, ends them, and goes on with a tree that nobody writes to.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::{Errno, FdFlags};
use rustix::process::{Pid, Signal};

use super::clock::Stopwatch;
use super::{FileError, Root, interrupt};

/// How often a waiting run looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long killed orphans may take to disappear, however short the patience.
const ORPHANS_LEAVE: Duration = Duration::from_secs(2);

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody else has it.
    #[error("another run is at work: {holder} holds {path}", path = path.display())]
    Busy {
        /// Who.
        holder: String,
        /// The lock file.
        path: PathBuf,
    },
    /// The file cannot be made or locked.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The lock, held until this value goes.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// A process that has the lock file open.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    name: String,
}

impl Lock {
    /// Takes the lock at `path` of `root`, waiting for at most `patience`. `is_owner` says whether a program of that
    /// name is a run (to be waited for); any other holder is what a killed run left behind, and is ended.
    ///
    /// # Errors
    /// [`LockError::Busy`] when the patience is over or we are asked to stop.
    pub fn take(
        root: &Root,
        path: &str,
        patience: Duration,
        is_owner: fn(&str) -> bool,
    ) -> Result<Lock, LockError> {
        let file = root.open_lock_file(path)?;
        let real = root.real_path(path)?;
        let fail = |e: Errno| FileError { action: "lock", path: real.clone(), source: e.into() };
        let watch = Stopwatch::start();
        let (mut told, mut patience) = (false, patience);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(e) => return Err(fail(e).into()),
            }
            let holders = holders(&real);
            if !holders.is_empty() && !holders.iter().any(|h| is_owner(&h.name)) {
                end_orphans(&holders);
                patience = patience.max(ORPHANS_LEAVE);
            } else if !told {
                tracing::info!("waiting for {}, which holds {}", describe(&holders), real.display());
                told = true;
            }
            if watch.elapsed() >= patience || interrupt::asked() {
                return Err(LockError::Busy { holder: describe(&holders), path: real });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        rustix::io::fcntl_setfd(file.as_fd(), FdFlags::empty()).map_err(fail)?;
        Ok(Lock { _file: file })
    }
}

/// Whether somebody holds the lock at `path` now. Changes nothing; what cannot be opened counts as not held.
pub fn is_held(root: &Root, path: &str) -> bool {
    root.open_file(path).is_ok_and(|file| {
        // The shared lock is gone again with the descriptor.
        matches!(rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK))
    })
}

fn describe(holders: &[Holder]) -> String {
    match holders {
        [] => "a process that cannot be seen from here".to_owned(),
        [first, ..] => format!("{} (pid {})", first.name, first.pid),
    }
}

/// The processes, other than this one, that have `path` open.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
fn holders(path: &Path) -> Vec<Holder> {
    let mut found = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return found;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if u32::try_from(pid) == Ok(std::process::id()) {
            continue;
        }
        // A process may end, or belong to somebody else, while we look: then it is not the one we can name.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let open = descriptors.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|t| t == path));
        if open {
            let program = std::fs::read_link(process.path().join("exe")).unwrap_or_default();
            let name = program.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            found.push(Holder { pid, name });
        }
    }
    found.sort_by_key(|h| h.pid);
    found
}

fn end_orphans(orphans: &[Holder]) {
    for orphan in orphans {
        tracing::warn!("ending {} (pid {}), left behind by a run that was killed", orphan.name, orphan.pid);
        if let Some(pid) = Pid::from_raw(orphan.pid)
            && let Err(e) = rustix::process::kill_process(pid, Signal::KILL)
            && e != Errno::SRCH
        {
            tracing::warn!("cannot end pid {}: {e}", orphan.pid);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use crate::sys::RootKind;

    fn scratch() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, folder.path()).unwrap();
        (folder, root)
    }

    #[test]
    fn a_second_run_is_told_who_holds_the_lock() {
        let (_folder, root) = scratch();
        let held = Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap();
        let error = Lock::take(&root, "/run/x.lock", Duration::from_millis(120), |_| true).unwrap_err();
        assert!(matches!(error, LockError::Busy { .. }), "{error}");
        drop(held);
        // Children of tests beside this one may have inherited the descriptor for a moment: hence the patience.
        Lock::take(&root, "/run/x.lock", Duration::from_secs(20), |_| true).unwrap();
    }

    #[test]
    fn what_a_killed_run_left_behind_is_ended() {
        let (_folder, root) = scratch();
        let held = Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap();
        let mut orphan = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        drop(held);
        Lock::take(&root, "/run/x.lock", Duration::from_secs(5), |name| name == "clr-dkms").unwrap();
        assert!(!orphan.wait().unwrap().success());
    }

    #[test]
    fn the_lock_file_is_never_changed() {
        let (folder, root) = scratch();
        drop(Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap());
        let before = std::fs::metadata(folder.path().join("run/x.lock")).unwrap().modified().unwrap();
        drop(Lock::take(&root, "/run/x.lock", Duration::ZERO, |_| true).unwrap());
        let after = std::fs::metadata(folder.path().join("run/x.lock")).unwrap().modified().unwrap();
        assert_eq!(before, after);
    }
}
