//! Running a program that sees other files than everybody else: in a mount namespace of its own, which ends
//! with it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use super::mounts::failed;
use super::namespaces::map_identity;

/// What a mount point must keep when a user namespace changes its flags.
const KEPT: [(StatVfsMountFlags, MsFlags); 6] = [
    (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
    (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
    (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
    (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
    (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
    (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
];

/// What a directory of a view shows under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// The file at this path of the host.
    File(PathBuf),
    /// A symlink with this text.
    Symlink(String),
}

/// A directory that shows nothing but what is listed. It can be written to, and what is written is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownDirectory {
    /// Its path on the host, free of symlinks.
    pub path: PathBuf,
    /// What is in it, by name.
    pub entries: Vec<(String, Shown)>,
}

/// What is different for the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxView {
    /// Directories with other contents.
    pub directories: Vec<ShownDirectory>,
    /// Directories of the host, free of symlinks, that cannot be written to. Those that are not there are
    /// left out.
    pub read_only: Vec<PathBuf>,
}

/// Makes the view for this process.
pub(super) fn make(view: &SandboxView) -> io::Result<()> {
    enter_namespace(CloneFlags::CLONE_NEWNS).map_err(|e| failed("no mount namespace can be had", e))?;
    const NONE: Option<&Path> = None;
    // Not private: an automount would never become visible then.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
        .map_err(|e| failed("mounts cannot be kept apart", e))?;
    // Opened before anything is covered: what a directory shows may come from that very directory.
    let mut opened = Vec::new();
    for directory in &view.directories {
        for (name, shown) in &directory.entries {
            if name.contains('/') || ["", ".", ".."].contains(&name.as_str()) {
                return Err(io::Error::other(format!("{name:?} is not a file name")));
            }
            let fd = match shown {
                Shown::File(path) => Some(look(path)?),
                Shown::Symlink(_) => None,
            };
            opened.push((directory.path.join(name), shown, fd));
        }
    }
    for path in view.read_only.iter().filter(|path| look(path).is_ok()) {
        close(path).map_err(|e| failed(&format!("{} cannot be made read-only", path.display()), e))?;
    }
    for directory in &view.directories {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &directory.path, Some("tmpfs"), flags, Some("mode=0755,size=1m"))
            .map_err(|e| failed(&format!("{} cannot be covered", directory.path.display()), e))?;
    }
    for (path, shown, fd) in opened {
        show(&path, shown, fd.as_ref())
            .map_err(|e| failed(&format!("{} cannot be shown", path.display()), e))?;
    }
    Ok(())
}

fn look(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| failed(&format!("{} cannot be opened", path.display()), e))
}

fn show(path: &Path, shown: &Shown, fd: Option<&OwnedFd>) -> io::Result<()> {
    const NONE: Option<&Path> = None;
    match (shown, fd) {
        (Shown::Symlink(text), _) => rustix::fs::symlinkat(text.as_str(), CWD, path)?,
        (Shown::File(_), Some(fd)) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
            let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
            mount(Some(source.as_str()), path, NONE, MsFlags::MS_BIND, NONE)?;
        }
        (Shown::File(_), None) => {}
    }
    Ok(())
}

/// Makes a directory read-only for this namespace.
fn close(path: &Path) -> io::Result<()> {
    const NONE: Option<&Path> = None;
    mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    remount_read_only(path)
}

fn remount_read_only(path: &Path) -> io::Result<()> {
    const NONE: Option<&Path> = None;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let kept = KEPT.iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| *flag);
    let flags =
        kept.fold(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, |all, flag| all | flag);
    Ok(mount(NONE, path, NONE, flags, NONE)?)
}

/// Without root, a user namespace gives the right to mount: enough for the copy of a system in a directory of
/// one's own.
fn enter_namespace(kinds: CloneFlags) -> io::Result<()> {
    let (user, group) = (geteuid(), getegid());
    match unshare(kinds) {
        Err(Errno::EPERM) if !user.is_root() => {}
        other => return Ok(other?),
    }
    unshare(CloneFlags::CLONE_NEWUSER | kinds)?;
    map_identity(Uid::from_raw(0), user, Gid::from_raw(0), group)
}
