//! A directory for the duration of a run, for files that come from others.
//!
//! The directory has a lock file, which the run holds locked, and beside it the directory for the files. A
//! killed run leaves all of it, without the lock: that is how a later run recognises what it may remove.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

use super::{FileError, FileKind, Root, RootKind};

/// The beginning of the name of a directory.
const PREFIX: &str = "clr-dkms-add-";
/// The lock file in it. It also marks the directory as one of clr-dkms.
const MARK: &str = ".clr-dkms-scratch";
/// The directory for the files.
const FILES: &str = "files";
/// How often a run makes a directory again that another run took for an abandoned one.
const ATTEMPTS: usize = 8;

/// A new directory that only this user can enter. It is removed when the value is dropped.
#[derive(Debug)]
pub struct Scratch {
    root: Root,
    whole: Root,
    // Unlocked before the directory is removed: a run that comes in between does the same.
    _lock: Flock<File>,
    _directory: TempDir,
}

impl Scratch {
    /// Makes one in a directory of this machine.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: &Path) -> io::Result<Scratch> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for _ in 0..ATTEMPTS {
            let owner_only = Permissions::from_mode(0o700);
            let directory =
                tempfile::Builder::new().prefix(PREFIX).permissions(owner_only).tempdir_in(parent)?;
            match Scratch::begin(directory) {
                // Another run removed it before it was locked.
                Err(e) if e.kind() == io::ErrorKind::NotFound => last = e,
                other => return other,
            }
        }
        Err(last)
    }

    fn begin(directory: TempDir) -> io::Result<Scratch> {
        let whole = Root::open(RootKind::Image, directory.path()).map_err(|e| e.cause)?;
        let file = whole.open_lock_file(at(MARK)).map_err(|e| e.cause)?;
        let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            // Held by a run that is about to remove the directory.
            Err((_, Errno::EWOULDBLOCK)) => return Err(io::ErrorKind::NotFound.into()),
            Err((_, e)) => return Err(e.into()),
        };
        if !whole.lookup_link(at(MARK)).is(FileKind::File) {
            return Err(io::ErrorKind::NotFound.into());
        }
        whole.make_directories(at(FILES)).map_err(|e| e.cause)?;
        let root = Root::open(RootKind::Image, &directory.path().join(FILES)).map_err(|e| e.cause)?;
        Ok(Scratch { root, whole, _lock: lock, _directory: directory })
    }

    /// The directory, as a root that no symlink leads out of.
    pub fn root(&self) -> &Root {
        &self.root
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The mark goes last, so that a later run continues if this one is killed here.
        if let Err(e) = self.whole.remove_tree(at(FILES)) {
            tracing::warn!("{e}");
        }
    }
}

fn at(name: &str) -> String {
    format!("/{name}")
}

/// Removes the directories that killed runs of this user left in a directory of this machine. What cannot be
/// examined stays.
pub fn remove_abandoned(parent: &Path) {
    // A root of its own: what cannot be read there says nothing about the system.
    let found = Root::open(RootKind::Image, parent).and_then(|root| {
        let entries = root.list("/")?;
        Ok((root, entries))
    });
    let (root, entries) = match found {
        Ok(found) => found,
        Err(e) => {
            tracing::debug!("{e}");
            return;
        }
    };
    for entry in entries {
        let path = Path::new("/").join(&entry.name);
        let is_named = entry.name.to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_named && is_private(&root, &path) {
            match remove_if_abandoned(&root, &path) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("removed {}, which a killed run left", root.shown_path(&path).display());
                }
                Err(e) => tracing::warn!("{e}"),
            }
        }
    }
}

/// Whether a directory belongs to this user, and no other user can write to it.
fn is_private(root: &Root, path: &Path) -> bool {
    root.lookup_link(path).stat().is_some_and(|stat| {
        stat.kind == FileKind::Directory
            && stat.mode & 0o077 == 0
            && stat.owner == nix::unistd::geteuid().as_raw()
    })
}

fn remove_if_abandoned(root: &Root, path: &Path) -> Result<bool, FileError> {
    // Killed before the lock file was there.
    if root.remove_empty_directory(path)? {
        return Ok(true);
    }
    let mark = path.join(MARK);
    if !root.lookup_link(&mark).is(FileKind::File) {
        return Ok(false);
    }
    match Flock::lock(root.open_lock_file(&mark)?, FlockArg::LockExclusiveNonblock) {
        Ok(_lock) => {
            root.remove_tree(path.join(FILES))?;
            root.remove_tree(path)
        }
        Err((_, Errno::EWOULDBLOCK)) => Ok(false),
        Err((_, e)) => Err(FileError { action: "lock", path: root.shown_path(&mark), cause: e.into() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn names(parent: &Path) -> Vec<String> {
        let root = Root::open(RootKind::Image, parent).unwrap();
        let mut names: Vec<String> = root
            .list("/")
            .unwrap()
            .into_iter()
            .map(|entry| entry.name.to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_a_killed_run_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let alive = Scratch::new(parent.path()).unwrap();
        alive.root().write("/source/a", b"a", 0o644).unwrap();
        let root = Root::open(RootKind::Image, parent.path()).unwrap();
        let make = |name: &str, mode: u32| {
            root.make_directories(format!("/{name}/files/source")).unwrap();
            std::fs::set_permissions(parent.path().join(name), Permissions::from_mode(mode)).unwrap();
        };
        for (name, mode, has_mark) in [
            ("clr-dkms-add-killed", 0o700, true),
            ("clr-dkms-add-others", 0o755, true),
            ("clr-dkms-add-unmarked", 0o700, false),
            ("something-else", 0o700, true),
        ] {
            make(name, mode);
            if has_mark {
                root.write(format!("/{name}/{MARK}"), b"", 0o600).unwrap();
            }
        }
        root.make_directories("/clr-dkms-add-begun").unwrap();
        std::fs::set_permissions(parent.path().join("clr-dkms-add-begun"), Permissions::from_mode(0o700))
            .unwrap();
        root.link("/clr-dkms-add-link", Path::new("something-else")).unwrap();
        remove_abandoned(parent.path());
        let mut left = names(parent.path());
        left.retain(|name| !parent.path().join(name).join("files/source/a").exists());
        assert_eq!(
            left,
            ["clr-dkms-add-link", "clr-dkms-add-others", "clr-dkms-add-unmarked", "something-else"]
        );
        assert!(alive.root().lookup("/source/a").is(FileKind::File));
        drop(alive);
        assert_eq!(names(parent.path()), left);
    }
}
