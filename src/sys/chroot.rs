//! A plain `chroot` into an image, as update-trigger.sh makes one: without `/proc` and `/sys`, and with an
//! empty `/dev`.
//!
//! dkms, make and bash need `/proc` (behind `/dev/fd`) and `/dev/null`; we need them ourselves. They are
//! mounted in a mount namespace of this process: nobody else sees them, nothing is written to the image but
//! empty directories, and they end with the process, whatever ends it.

use std::fs::Permissions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{FileStat, Mode, SFlag, makedev, mknod, stat};
use nix::unistd::{chdir, chroot, fchdir};

/// Where the root of the image is found a second time: a program that is given this path works on an image,
/// and not on the machine around it.
const SECOND: &str = "/run/clr-dkms/root";
/// Where the path of the image is kept once it can be used.
static IMAGE_PATH: OnceLock<&Path> = OnceLock::new();
/// What a minimal `/dev` holds, by minor number of the memory devices.
pub(super) const DEVICES: [(&str, u64); 5] =
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];

/// A path other than `/` for the root that this process sees as `/`, where [`furnish`] has made one.
pub(super) fn image_path() -> Option<&'static Path> {
    IMAGE_PATH.get().copied()
}

/// Whether programs find here what they expect everywhere.
pub fn is_furnished() -> bool {
    Path::new("/proc/self/fd").is_dir() && is_null_device()
}

fn is_null_device() -> bool {
    stat("/dev/null").is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode).contains(SFlag::S_IFCHR))
}

/// Mounts what is missing, when `/` is the root of a chroot. To be called before there is a second thread,
/// and before a directory is held open. Elsewhere nothing is done. `second` makes the image reachable by
/// another path too, for which a directory is made in it.
///
/// # Errors
/// When the kernel refuses it, as in a container without the privilege: it is as bare then as it was.
pub fn furnish(second: bool) -> io::Result<()> {
    // The root of the first process can be seen where there is a /proc, by root.
    let of_init = stat("/proc/1/root/.");
    if is_furnished() && of_init.is_ok_and(|init| stat("/").is_ok_and(|own| is_same(&own, &init))) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    if !keep_mounts_private()? {
        return Ok(());
    }
    put(Path::new("/proc/self"), "proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)?;
    // What only clr-boot-manager asks, of the disk that the image is on; without it that fails, and says so.
    put(Path::new("/sys/dev"), "sysfs", MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV).ok();
    if !is_null_device() {
        // The one of the machine, with its disks; where that is not to be had, the few that every program
        // uses.
        let whole = put(Path::new("/dev/null"), "devtmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
        whole.or_else(|_| minimal_devices())?;
    }
    if !second {
        return Ok(());
    }
    make_directory("/run/clr-dkms")?;
    make_directory(SECOND)?;
    mount(Some("/"), SECOND, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    // A second call would have mounted it a second time, at the same place.
    IMAGE_PATH.set(Path::new(SECOND)).ok();
    Ok(())
}

fn is_same(one: &FileStat, other: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Mounts a filesystem at the directory above `probe`, unless that is there already.
fn put(probe: &Path, kind: &str, flags: MsFlags) -> io::Result<()> {
    let Some(directory) = probe.parent().filter(|_| !probe.exists()) else { return Ok(()) };
    make_directory(directory)?;
    Ok(mount(Some(kind), directory, Some(kind), flags, None::<&str>)?)
}

fn minimal_devices() -> io::Result<()> {
    make_directory("/dev")?;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some("mode=755"))?;
    for (name, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        mknod(&path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, minor))?;
        // The umask had its say before.
        std::fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    let links = [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")];
    for (name, target) in links {
        #[allow(clippy::disallowed_methods)] // in a filesystem of this process alone
        symlink(Path::new("/proc/self").join(target), Path::new("/dev").join(name))?;
    }
    Ok(())
}

fn make_directory(path: impl AsRef<Path>) -> io::Result<()> {
    #[allow(clippy::disallowed_methods)] // a mount point, in the root that this process itself has
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// From now on no mount of this process is seen by another namespace. Gives whether `/` is the root of a
/// chroot.
///
/// That is a property of the mount that the image lies in, whose root is outside of the chroot; so this goes
/// there for a moment. A root directory that is below the working directory stops no `..`.
pub(super) fn keep_mounts_private() -> io::Result<bool> {
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
        mount(None::<&str>, ".", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
        Ok(!is_same(&at, &inside))
    })();
    if let Err(e) = fchdir(here.as_fd()).and_then(|()| chroot(".")) {
        // With another root than the image's nothing may be done at all.
        tracing::error!("cannot go back into the image: {e}");
        std::process::exit(70);
    }
    Ok(changed?)
}
