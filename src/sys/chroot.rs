//! A plain `chroot` into an image, as update-trigger.sh makes one: without `/proc` and `/sys`, and with an
//! empty `/dev`.
//!
//! dkms, make and bash need `/proc` (behind `/dev/fd`) and `/dev/null`, and so does clr-dkms. They are
//! mounted in a private mount namespace of this process. Other processes do not see them, only empty
//! directories are written to the image, and the mounts end with the process.

use std::io;
use std::path::Path;
use std::sync::OnceLock;

use nix::mount::MsFlags;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{SFlag, stat};

use super::sandbox::mounts::{
    bind, filesystem, is_same, keep_mounts_private, make_directory, minimal_devices,
};

/// A second path of the image's root. A program that is given this path works on an image, and not on the
/// surrounding machine.
const SECOND: &str = "/run/clr-dkms/root";
/// The path of the image, once it is usable.
static IMAGE_PATH: OnceLock<&Path> = OnceLock::new();

/// A path other than `/` for the root that this process sees as `/`, if [`furnish`] has created one.
pub(super) fn image_path() -> Option<&'static Path> {
    IMAGE_PATH.get().copied()
}

/// Whether the files exist that programs expect on every system.
pub fn is_furnished() -> bool {
    Path::new("/proc/self/fd").is_dir() && is_null_device()
}

fn is_null_device() -> bool {
    // The reason makes no difference: there is no usable device.
    stat("/dev/null").is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode).contains(SFlag::S_IFCHR))
}

/// Mounts what is missing, if `/` is the root of a chroot; otherwise does nothing. It must be called before a
/// second thread exists, and before a directory is held open. With `second` the image also gets another path,
/// for which a directory is created in it.
///
/// # Errors
/// If the kernel refuses it, as in a container without the privilege. Nothing is mounted then.
pub fn furnish(second: bool) -> io::Result<()> {
    // Root can see the root of the first process if /proc is mounted.
    let of_init = stat("/proc/1/root/.");
    // Without both, the own root may be another one.
    if is_furnished() && of_init.is_ok_and(|init| stat("/").is_ok_and(|own| is_same(&own, &init))) {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    if !keep_mounts_private()? {
        return Ok(());
    }
    put(Path::new("/proc/self"), "proc", MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC)?;
    // Only clr-boot-manager needs it, to query the disk of the image. Without it clr-boot-manager fails with
    // a message.
    put(Path::new("/sys/dev"), "sysfs", MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV).ok();
    if !is_null_device() {
        // The /dev of the machine, with its disks. If it cannot be mounted, the few devices that every
        // program uses.
        let whole = put(Path::new("/dev/null"), "devtmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC);
        // The reason makes no difference: see above.
        whole.or_else(|_| minimal_devices(Path::new("/"), Path::new("/dev")))?;
    }
    if !second {
        return Ok(());
    }
    let second = Path::new(SECOND);
    make_directory(Path::new("/run/clr-dkms"))?;
    make_directory(second)?;
    bind(Path::new("/"), second)?;
    // A second call would have mounted the same path again.
    IMAGE_PATH.set(second).ok();
    Ok(())
}

/// Mounts a filesystem at the directory above `probe`, unless that is there already.
fn put(probe: &Path, kind: &str, flags: MsFlags) -> io::Result<()> {
    let Some(directory) = probe.parent().filter(|_| !probe.exists()) else { return Ok(()) };
    make_directory(directory)?;
    filesystem(kind, directory, flags)
}
