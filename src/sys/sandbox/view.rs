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

use super::mounts::{bind, failed, make_read_only};
use super::namespaces::map_identity;
use super::{restrict, seccomp};

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

/// A directory that is found at another path too, in the place of what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownTree {
    /// Its path on the host, free of symlinks.
    pub source: PathBuf,
    /// Where it is shown. A symlink, or what is not there, is left as it is.
    pub target: PathBuf,
    /// It can be written to there.
    pub is_writable: bool,
}

/// The machine is read-only but for `/dev`, `/tmp` and what is given here; there is no network, and root has
/// the capabilities for files alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// Directories of the host, free of symlinks, that can be written to.
    pub writable: Vec<PathBuf>,
    /// What is shown at other paths.
    pub trees: Vec<ShownTree>,
}

/// What is different for the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// All the rest is closed.
    pub closed: Option<Closed>,
    /// Directories with other contents.
    pub directories: Vec<ShownDirectory>,
    /// Directories of the host, free of symlinks, that cannot be written to. Those that are not there are
    /// left out.
    pub read_only: Vec<PathBuf>,
}

/// Makes the view for this process.
pub(super) fn make(view: &View) -> io::Result<()> {
    let more = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWIPC;
    let kinds = if view.closed.is_some() { CloneFlags::CLONE_NEWNS | more } else { CloneFlags::CLONE_NEWNS };
    enter_namespace(kinds).map_err(|e| failed("no mount namespace can be had", e))?;
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
    if let Some(closed) = &view.closed {
        close_machine(closed)?;
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
    if view.closed.is_some() {
        restrict::keep_capabilities(restrict::FILES).map_err(|e| failed("capabilities", e))?;
        if let Err(e) = seccomp::filter(true) {
            tracing::debug!("{e}; the rest holds all the same");
        }
    }
    Ok(())
}

/// What of the machine stays as it is: the processes, the devices, and where everybody may write.
const OPEN: [&str; 3] = ["dev", "proc", "tmp"];

fn close_machine(closed: &Closed) -> io::Result<()> {
    // Opened before anything is closed: the mount that is shown then is the one that can be written to.
    let open = |path: &PathBuf| Ok((path.clone(), look(path)?));
    let writable = closed.writable.iter().map(open).collect::<io::Result<Vec<_>>>()?;
    let trees =
        closed.trees.iter().map(|tree| Ok((tree, look(&tree.source)?))).collect::<io::Result<Vec<_>>>()?;
    #[allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is
    let top = std::fs::read_dir("/")?;
    for entry in top {
        let entry = entry?;
        let is_open = OPEN.iter().any(|name| entry.file_name() == *name);
        if entry.file_type()?.is_dir() {
            // What stays open too: it may be a part of the filesystem of `/`.
            bind(&entry.path(), &entry.path())?;
            if !is_open {
                close_below(&entry.path())?;
            }
        }
    }
    for (path, fd) in &writable {
        bind(&by_number(fd), path)?;
    }
    for (tree, fd) in trees.iter().filter(|(tree, _)| is_directory(&tree.target)) {
        bind(&by_number(fd), &tree.target)?;
        if !tree.is_writable {
            close_below(&tree.target)?;
        }
    }
    // At last: what was opened is on this very mount, and is shown as that is.
    match remount_read_only(Path::new("/")) {
        // The root of a chroot is not a mount of its own: files can be added there, and nowhere else.
        Err(e) if e.raw_os_error() == Some(Errno::EINVAL as i32) => {}
        other => other.map_err(|e| failed("/ cannot be made read-only", e))?,
    }
    Ok(())
}

fn close_below(top: &Path) -> io::Result<()> {
    #[allow(clippy::disallowed_methods)] // of this process, whatever the root is
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    make_read_only(&mounts, top, &[])
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn by_number(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
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
