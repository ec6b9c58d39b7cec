//! The boot partition, determined by the rules of clr-boot-manager.
//!
//! With UEFI firmware it is the partition that systemd-boot was started from, otherwise the one with the
//! label `ESP`. With a BIOS it is the partition with the GPT attribute "legacy BIOS bootable". The attribute
//! is read from the database of udev, which parses the partition tables.

use std::path::{Path, PathBuf};

use super::menu::EntryPlace;
use crate::sys::{FileError, Root, efi, mount};

/// The symlinks of udev to partitions.
const NAMES: &str = "/dev/disk";
/// The database of udev.
const DATABASE: &str = "/run/udev/data";
/// Bit 2 of the attributes of a GPT partition.
const LEGACY_BOOTABLE: u64 = 1 << 2;

/// Why the partition cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Something could not be read.
    #[error(transparent)]
    Unreadable(#[from] FileError),
    /// No partition has the expected name or attribute.
    #[error("{0}; mount the boot partition at /boot and ask again")]
    Unnamed(String),
    /// It is not mounted, and only root can read it nevertheless.
    #[error("the boot partition {path} is not mounted, and only root can read it", path = .0.display())]
    Closed(PathBuf),
}

/// A boot partition that can be read.
pub(super) struct Opened {
    pub(super) root: Root,
    /// The device file, if it is not mounted. Then it cannot be written to through this root.
    pub(super) device: Option<PathBuf>,
}

impl Opened {
    pub(super) fn place(&self) -> EntryPlace<'_> {
        EntryPlace { root: &self.root, top: "", device: self.device.as_deref() }
    }
}

/// Opens a partition where it is mounted, or privately.
///
/// # Errors
///
/// If it cannot be read, with the next step.
pub(super) fn open(live: &Root, device: PathBuf) -> Result<Opened, Lost> {
    match mount::mounted(live, &device)? {
        Some(root) => Ok(Opened { root, device: None }),
        None if !nix::unistd::geteuid().is_root() => Err(Lost::Closed(device)),
        None => Ok(Opened { root: mount::peek(live, &device)?, device: Some(device) }),
    }
}

/// The device file of the boot partition, with symlinks resolved.
///
/// # Errors
///
/// If it cannot be determined, with the next step.
pub fn find(live: &Root, firmware: bool) -> Result<PathBuf, Lost> {
    if !live.lookup(NAMES).is_there() {
        return Err(Lost::Unnamed(format!("there is no {NAMES} here (is this a container?)")));
    }
    if !firmware {
        return legacy(live);
    }
    let started_from = efi::text(live, "LoaderDevicePartUUID", efi::LOADER)?.map(|text| by_uuid(&text));
    let labelled = PathBuf::from(format!("{NAMES}/by-partlabel/ESP"));
    for path in started_from.iter().chain([&labelled]) {
        // A name that cannot be looked at is in `Root::unread`.
        if live.lookup(path).is_there() {
            return Ok(live.real_path(path)?);
        }
    }
    let tried = started_from.iter().chain([&labelled]).map(|p| p.display().to_string());
    Err(Lost::Unnamed(format!("there is no {}", tried.collect::<Vec<_>>().join(" and no "))))
}

/// The symlink of a partition. The boot loader writes its UUID in upper case, udev in lower case.
fn by_uuid(text: &str) -> PathBuf {
    let plain = text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-');
    Path::new(NAMES).join("by-partuuid").join(plain.collect::<String>().to_ascii_lowercase())
}

fn legacy(live: &Root) -> Result<PathBuf, Lost> {
    let mut found = Vec::new();
    for entry in live.list_optional(DATABASE)? {
        // The name is `b` and the numbers of a block device.
        let Some(numbers) = entry.text().and_then(|name| name.strip_prefix('b')) else { continue };
        // A device may disappear in the meantime.
        let text = live.read_optional(format!("{DATABASE}/b{numbers}"))?;
        if text.is_some_and(|text| is_legacy_bootable(&text)) {
            found.push(format!("/dev/block/{numbers}"));
        }
    }
    match found.as_slice() {
        [one] => Ok(live.real_path(one)?),
        [] => Err(Lost::Unnamed("no partition has the GPT attribute \"legacy BIOS bootable\"".to_owned())),
        many => Err(Lost::Unnamed(format!(
            "{} partitions have the GPT attribute \"legacy BIOS bootable\"",
            many.len()
        ))),
    }
}

fn is_legacy_bootable(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    let value =
        |name: &str| text.lines().find_map(|l| l.strip_prefix("E:")?.strip_prefix(name)?.strip_prefix('='));
    // What is not a number is not an attribute.
    let flags =
        value("ID_PART_ENTRY_FLAGS").and_then(|f| u64::from_str_radix(f.trim_start_matches("0x"), 16).ok());
    value("ID_PART_ENTRY_SCHEME") == Some("gpt") && flags.is_some_and(|f| f & LEGACY_BOOTABLE != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_udev() {
        let path = by_uuid("2F9E9D1B-0A4C-41CF-B6C7-440B29BB8C4F/../x\n");
        assert_eq!(path, Path::new("/dev/disk/by-partuuid/2f9e9d1b-0a4c-41cf-b6c7-440b29bb8c4fx"));
    }

    #[test]
    fn the_attribute_of_a_legacy_boot_partition() {
        let text = |scheme: &str, flags: &str| {
            format!("S:disk/by-partuuid/1\nE:ID_PART_ENTRY_SCHEME={scheme}\nE:ID_PART_ENTRY_FLAGS={flags}\n")
        };
        for (scheme, flags, yes) in [
            ("gpt", "0x4", true),
            ("gpt", "0x8000000000000005", true),
            ("gpt", "0x1", false),
            ("dos", "0x80", false),
        ] {
            assert_eq!(is_legacy_bootable(text(scheme, flags).as_bytes()), yes, "{scheme} {flags}");
        }
        assert!(!is_legacy_bootable(b"E:ID_PART_ENTRY_SCHEME=gpt\n") && !is_legacy_bootable(b"\xff\0"));
    }
}
