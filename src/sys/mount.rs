//! A partition that is not mounted, read and repaired through a detached mount that no other process sees.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat, major, minor};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use super::root::{FileError, Root, RootKind};

/// The largest list of mounts: a host of containers has some thousands, each of some hundred bytes.
const MOUNTS: u64 = 4 << 20;
/// How many bytes identify a filesystem: the first sector of FAT, the first superblock of ext2 to ext4.
const HEAD: u64 = 2048;

/// Where the device file's partition can be reached on the live system: the root of a mount of it, if there
/// is one.
///
/// # Errors
/// When the mounts cannot be read.
pub fn mounted(live: &Root, device: &Path) -> Result<Option<Root>, FileError> {
    // Opening the device reports why it cannot be looked at.
    let Some(stat) = live.lookup(device).stat() else { return Ok(None) };
    let (major, minor) = (major(stat.stands_for), minor(stat.stands_for));
    let mounts = live.read_within("/proc/self/mountinfo", MOUNTS)?;
    let points = mount_points(&mounts, &format!("{major}:{minor}"));
    // Another mount may cover the mount point.
    let of_device = |root: &Root| root.lookup("/").stat().is_some_and(|s| s.on == stat.stands_for);
    // A mount point that cannot be opened is left out: the partition can still be opened by itself.
    let opened = points.iter().filter_map(|point| Root::open(RootKind::Image, point).ok());
    Ok(opened.filter(|root| !root.is_slash()).find(of_device))
}

/// The points where the whole filesystem of a device is mounted, by mountinfo(5).
fn mount_points(mounts: &[u8], device: &str) -> Vec<PathBuf> {
    let lines = mounts.split(|b| *b == b'\n');
    lines
        .filter_map(|line| {
            // Number, number of the parent, device, root of the mount in the filesystem, mount point.
            let mut fields = line.split(|b| *b == b' ').skip(2);
            let (on, root, point) = (fields.next()?, fields.next()?, fields.next()?);
            (on == device.as_bytes() && root == b"/")
                .then(|| PathBuf::from(OsString::from_vec(unescaped(point))))
        })
        .collect()
}

/// Decodes a field of mountinfo, `/proc/mounts`, `/proc/swaps` or fstab. Blanks and backslashes are written
/// as `\` and three octal digits there.
pub fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits =
            after.get(..3).filter(|d| *first == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                let value = d.iter().fold(0u32, |sum, b| sum * 8 + u32::from(b - b'0'));
                // Three octal digits can exceed a byte; the kernel never writes such a value.
                bytes.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Opens the filesystem on a device file for reading. It is mounted nowhere: no process sees it, and it is
/// gone when the root is dropped. Nothing is written to the device, not even what a journal still holds.
///
/// Until then no other process can mount the device for writing (EBUSY), so the root is to be dropped soon.
///
/// # Errors
/// When it has no filesystem of a boot partition (FAT, ext2 to ext4), when this process may not mount (it
/// takes root), or when the kernel cannot.
pub fn peek(live: &Root, device: &Path) -> Result<Root, FileError> {
    attach(live, device, Access::Read)
}

/// As [`peek`], to be written to, journal and all. Another root of the same device must have been dropped
/// before. [`Root::sync`] reports whether all data has reached the device; dropping the root cannot.
///
/// # Errors
/// As [`peek`]; also for a device that cannot be written to.
pub fn open_for_writing(live: &Root, device: &Path) -> Result<Root, FileError> {
    attach(live, device, Access::Write)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

fn attach(live: &Root, device: &Path, access: Access) -> Result<Root, FileError> {
    let action = if access == Access::Read { "look into" } else { "write to" };
    let fail = |e: io::Error| live.fail(action, device, e);
    let head = head_of(live, device).map_err(|e| fail(e.into()))?;
    let Some(filesystem) = filesystem(&head) else {
        return Err(fail(io::Error::other("it has neither a FAT nor an ext filesystem")));
    };
    let attached = || -> rustix::io::Result<_> {
        let context = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "source", device)?;
        let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        if access == Access::Read {
            // Without it the kernel would replay the journal on the device.
            fsconfig_set_flag(&context, "ro")?;
            if filesystem == "ext4" {
                fsconfig_set_flag(&context, "noload")?;
            }
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    };
    match attached() {
        Ok(fd) => Ok(Root::of_descriptor(fd, device)),
        // A shared writable mount would stay writable here after the other one has ended.
        Err(rustix::io::Errno::BUSY) => {
            Err(fail(io::Error::other("it is mounted where this process cannot see it")))
        }
        Err(e) => Err(fail(e.into())),
    }
}

fn head_of(live: &Root, device: &Path) -> nix::Result<Vec<u8>> {
    // It is inspected before it is opened: opening can have effects on devices of other kinds.
    let looked = fstat(live.open_at(device, OFlag::O_PATH)?)?;
    if SFlag::from_bits_truncate(looked.st_mode) & SFlag::S_IFMT != SFlag::S_IFBLK {
        return Err(Errno::ENOTBLK);
    }
    let file = File::from(live.open_at(device, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?);
    let mut head = Vec::new();
    file.take(HEAD)
        .read_to_end(&mut head)
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))?;
    Ok(head)
}

/// The driver for a filesystem, by its magic numbers. Trying one driver after the other would fill the
/// kernel's log.
fn filesystem(head: &[u8]) -> Option<&'static str> {
    let at = |start: usize, bytes: &[u8]| head.get(start..start + bytes.len()) == Some(bytes);
    if at(1080, b"\x53\xef") {
        // The ext4 driver also reads ext2 and ext3.
        return Some("ext4");
    }
    // FAT12 and FAT16 have their name elsewhere than FAT32.
    (at(510, b"\x55\xaa") && (at(82, b"FAT32") || at(54, b"FAT"))).then_some("vfat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_of_a_device() {
        let mounts = b"22 1 259:2 / / rw shared:1 - ext4 /dev/root rw\n\
                       30 22 259:1 / /mnt/the\\040boot rw - vfat /dev/nvme0n1p1 rw\n\
                       31 22 259:1 /sub /srv rw - vfat /dev/nvme0n1p1 rw\n\
                       garbage\n\n32 22 259:1 / /efi rw - vfat x rw\n";
        assert_eq!(mount_points(mounts, "259:1"), [PathBuf::from("/mnt/the boot"), PathBuf::from("/efi")]);
        assert!(mount_points(mounts, "259:9").is_empty());
        assert_eq!(unescaped(b"a\\134\\04\\999\\777"), b"a\\\\04\\999?");
    }

    #[test]
    fn filesystems_by_their_magic_numbers() {
        let mut ext = vec![0; 2048];
        ext[1080..1082].copy_from_slice(b"\x53\xef");
        assert_eq!(filesystem(&ext), Some("ext4"));
        let mut fat = vec![0; 2048];
        fat[510..512].copy_from_slice(b"\x55\xaa");
        assert_eq!(filesystem(&fat), None, "a partition table has the same end");
        fat[82..90].copy_from_slice(b"FAT32   ");
        assert_eq!(filesystem(&fat), Some("vfat"));
        assert_eq!(filesystem(&fat[..400]), None);
    }
}
