//! Namespaces of our own: made directly by root, and through a user namespace by everybody else.

use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::restrict;

/// What the first process inside needs until everything is in its place.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT);

/// Puts this process into new namespaces of these kinds, and the processes that it starts into a new PID
/// namespace.
///
/// A process that may not make them gets the right to do so in a user namespace. The user is the same inside:
/// a uid 0 that stands for a user would make programs believe that they may do anything. Root that lacks the
/// right becomes another user first, as a uid 0 that stands for itself can still read all files of root.
/// `as_root` is for programs that refuse to work as another user: it stands for the caller all the same.
pub(super) fn enter(kinds: CloneFlags, as_root: bool) -> io::Result<()> {
    match unshare(kinds) {
        Err(Errno::EPERM) => {}
        other => return Ok(other?),
    }
    if geteuid().is_root() && !as_root {
        restrict::become_unprivileged(std::process::id())?;
        // Else the files by which the namespace is set up belong to root.
        nix::sys::prctl::set_dumpable(true)?;
    }
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | kinds)?;
    match as_root {
        true => map_identity(Uid::from_raw(0), user, Gid::from_raw(0), group)?,
        false => map_identity(user, user, group, group)?,
    }
    let all = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(None, CapabilitySets { inheritable: all.permitted, ..all })?;
    for capability in NEEDED.iter() {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Gives the user and group outside of a user namespace a number inside.
fn map_identity(inside: Uid, user: Uid, inside_group: Gid, group: Gid) -> io::Result<()> {
    let map = |path: &str, text: &str| -> io::Result<()> {
        let fd = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, text.as_bytes())?;
        Ok(())
    };
    map("/proc/self/setgroups", "deny")?;
    map("/proc/self/uid_map", &format!("{inside} {user} 1\n"))?;
    map("/proc/self/gid_map", &format!("{inside_group} {group} 1\n"))
}
