//! Namespaces: created directly by root, and through a user namespace by other users.

use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::restrict;

/// The capabilities that the first process needs until everything is set up.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::SYS_CHROOT);

/// Moves this process to new namespaces of these kinds, and its future children to a new PID namespace.
///
/// Without the required right, the process gets it in a user namespace. The user has the same number inside:
/// with uid 0 programs would assume rights that they do not have. Root without the right becomes another user
/// first, because uid 0 mapped to itself can still read all files of root. `as_root` is for programs that
/// refuse to run as another user: uid 0 is then mapped to the caller.
pub(super) fn enter(kinds: CloneFlags, as_root: bool) -> io::Result<()> {
    match unshare(kinds) {
        Err(Errno::EPERM) => {}
        other => return Ok(other?),
    }
    if geteuid().is_root() && !as_root {
        restrict::become_unprivileged(std::process::id())?;
        // Otherwise the files in /proc that set up the namespace belong to root.
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

/// Maps the user and group outside of a user namespace to numbers inside.
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
