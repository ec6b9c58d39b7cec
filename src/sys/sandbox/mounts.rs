//! Mounts in a private namespace: for a sandbox, and for this process in a plain `chroot`.
#![allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is; and in our memory

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{FileStat, Mode, SFlag, makedev, mknod, stat};
use nix::unistd::{chdir, chroot, fchdir};

use crate::sys::mount::unescaped;

const NONE: Option<&Path> = None;
/// The files of a minimal `/dev`, with the minor numbers of the memory devices.
pub(in crate::sys) const DEVICES: [(&str, u64); 5] =
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];
/// The options in mountinfo(5) that must be kept when a mount becomes read-only: a user namespace must not
/// remove them.
const KEPT: [(&[u8], MsFlags); 6] = [
    (b"nosuid", MsFlags::MS_NOSUID),
    (b"nodev", MsFlags::MS_NODEV),
    (b"noexec", MsFlags::MS_NOEXEC),
    (b"noatime", MsFlags::MS_NOATIME),
    (b"nodiratime", MsFlags::MS_NODIRATIME),
    (b"relatime", MsFlags::MS_RELATIME),
];

/// An error, with the failed operation.
pub(super) fn failed(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn about(what: &str, path: &Path) -> impl FnOnce(Errno) -> io::Error {
    move |e| failed(&format!("{what} {}", path.display()), e)
}

/// Shows `source`, with everything that is mounted below it, at `target` too.
pub(in crate::sys) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .map_err(about("cannot show", source))
}

/// An empty directory in memory at `target`.
pub(super) fn tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options)).map_err(about("cannot cover", target))
}

/// The processes of the current PID namespace.
pub(super) fn proc(target: &Path) -> io::Result<()> {
    filesystem("proc", target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)
}

/// A virtual filesystem of the kernel.
pub(in crate::sys) fn filesystem(kind: &str, target: &Path, flags: MsFlags) -> io::Result<()> {
    mount(Some(kind), target, Some(kind), flags, NONE)
        .map_err(|e| failed(&format!("cannot mount {kind} at {}", target.display()), e))
}

/// A minimal `/dev` at `target` with the devices that every program uses, taken from the root `machine` if it
/// has them.
pub(in crate::sys) fn minimal_devices(machine: &Path, target: &Path) -> io::Result<()> {
    make_directory(target)?;
    // Device files are allowed, because they are created here if the machine has none, as in a chroot.
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some("mode=0755,size=1m"))
        .map_err(about("cannot cover", target))?;
    for (name, minor) in DEVICES {
        let (source, device) = (machine.join("dev").join(name), target.join(name));
        // What cannot be looked at is not offered; the program in the sandbox reports it.
        if source.symlink_metadata().is_ok_and(|found| found.file_type().is_char_device()) {
            File::create(&device)?;
            bind(&source, &device)?;
        } else {
            mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor))
                .map_err(about("cannot make", &device))?;
            // The umask was applied to the mode at creation.
            fs::set_permissions(&device, Permissions::from_mode(0o666))?;
        }
    }
    for (name, text) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(Path::new("/proc/self").join(text), target.join(name))?;
    }
    Ok(())
}

/// Creates a directory, unless something exists there.
pub(in crate::sys) fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

pub(in crate::sys) fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Makes every mount at or below `top` read-only, except those in `writable`. `mounts` is mountinfo(5) of
/// this process.
pub(super) fn make_read_only(mounts: &[u8], top: &Path, writable: &[PathBuf]) -> io::Result<()> {
    for (point, kept) in mount_points(mounts) {
        if !point.starts_with(top) || writable.contains(&point) {
            continue;
        }
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | kept;
        match mount(NONE, &point, NONE, flags, NONE) {
            // Another mount covers it, so it is not reachable.
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::ENOTDIR) => {}
            Err(e) => return Err(about("cannot make read-only", &point)(e)),
        }
    }
    Ok(())
}

/// The mount points in mountinfo(5), each with the options that must be kept.
fn mount_points(mounts: &[u8]) -> impl Iterator<Item = (PathBuf, MsFlags)> {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    mounts.split(|b| *b == b'\n').filter_map(|line| {
        // Number, number of the parent, device, root of the mount in the filesystem, mount point, options.
        let mut fields = line.split(|b| *b == b' ').skip(4);
        let (point, options) = (fields.next()?, fields.next()?);
        let has = |name: &[u8]| options.split(|b| *b == b',').any(|option| option == name);
        let kept = KEPT.iter().filter(|(name, _)| has(name)).map(|(_, flag)| *flag).collect();
        Some((PathBuf::from(OsString::from_vec(unescaped(point))), kept))
    })
}

/// Makes the mounts of this process invisible to other namespaces from now on. Returns whether `/` is the
/// root of a chroot.
///
/// The propagation is a property of the mount that contains the image, whose root is outside of the chroot,
/// so this process changes there for a moment: `..` leads out of a root directory that is below the working
/// directory.
pub(in crate::sys) fn keep_mounts_private() -> io::Result<bool> {
    chdir("/")?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let here = open("/", flags, Mode::empty())?;
    let inside = stat(".")?;
    chroot("usr")?;
    let changed = (|| -> nix::Result<bool> {
        let mut at = inside;
        loop {
            chdir("..")?;
            let above = stat(".")?;
            if is_same(&above, &at) {
                break;
            }
            at = above;
        }
        mount(NONE, ".", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)?;
        Ok(!is_same(&at, &inside))
    })();
    if let Err(e) = fchdir(here.as_fd()).and_then(|()| chroot(".")) {
        // With another root directory nothing may be done at all.
        tracing::error!("cannot return to the image: {e}");
        std::process::exit(70);
    }
    Ok(changed?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_keep_what_restricts_them() {
        let text = b"22 1 8:1 / /usr rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            23 22 0:5 / /usr/a\\040b rw,nosuid,nodev,noexec - tmpfs tmpfs rw\n";
        let points: Vec<_> = mount_points(text).collect();
        assert_eq!(
            points,
            [
                (PathBuf::from("/usr"), MsFlags::MS_RELATIME),
                (PathBuf::from("/usr/a b"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC),
            ]
        );
    }
}
