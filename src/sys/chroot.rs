//! A plain `chroot` into an image, as update-trigger.sh makes one: without `/proc` and `/sys`, and with an
//! empty `/dev`.
//!
//! dkms, make and bash need `/proc` (behind `/dev/fd`) and `/dev/null`; we need them ourselves. They are
//! mounted in a mount namespace of this process: nobody else sees them, nothing is written to the image but
//! empty directories, and they end with the process, whatever ends it.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, stat};

use super::sandbox::mounts::{
    bind, filesystem, is_same, keep_mounts_private, make_directory, minimal_devices,
};

/// Where the root of the image is found a second time: a program that is given this path works on an image,
/// and not on the machine around it.
const SECOND: &str = "/run/clr-dkms/root";
/// Where the path of the image is kept once it can be used.
static IMAGE_PATH: OnceLock<&Path> = OnceLock::new();

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
        whole.or_else(|_| minimal_devices(Path::new("/"), Path::new("/dev")))?;
    }
    if !second {
        return Ok(());
    }
    let second = Path::new(SECOND);
    make_directory(Path::new("/run/clr-dkms"))?;
    make_directory(second)?;
    bind(Path::new("/"), second)?;
    // A second call would have mounted it a second time, at the same place.
    IMAGE_PATH.set(second).ok();
    Ok(())
}

/// Mounts a filesystem at the directory above `probe`, unless that is there already.
fn put(probe: &Path, kind: &str, flags: MsFlags) -> io::Result<()> {
    let Some(directory) = probe.parent().filter(|_| !probe.exists()) else { return Ok(()) };
    make_directory(directory)?;
    filesystem(kind, directory, flags)
}
