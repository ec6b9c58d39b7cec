//! Booting an entry once, with the EFI variable `LoaderEntryOneShot` of the Boot Loader Interface. The boot
//! loader deletes the variable before it starts the entry, so the boot after that starts the default again.
//!
//! clr-boot-manager neither reads nor writes the variable (observed with 3.3.1).

use std::path::PathBuf;

use super::counters::{has_counters, without_counters};
use super::{BootEntry, BootFiles, Loader};
use crate::sys::{FileError, Root, efi};

/// The file that records which entry is booted once, and why.
pub const TRIAL: &str = "/var/lib/clr-dkms/trial.json";
const NAME: &str = "LoaderEntryOneShot";
/// The variable in which the boot loader says what it can do: a bit mask, 64 bits, little-endian.
const FEATURES: &str = "LoaderFeatures";
/// `EFI_LOADER_FEATURE_ENTRY_ONESHOT`.
const BOOTS_ONCE: u64 = 1 << 2;

/// Whether the boot loader of the current boot can boot an entry once.
///
/// # Errors
///
/// If the variable exists and cannot be read.
pub fn is_supported(root: &Root, files: &BootFiles) -> Result<bool, FileError> {
    match files.loader {
        Some(Loader::SystemdBoot) => {}
        Some(Loader::Syslinux | Loader::Grub) | None => return Ok(false),
    }
    let features = efi::variable(root, FEATURES, efi::LOADER)?;
    // A value of another size is not from systemd-boot.
    let features = features.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
    Ok(features & BOOTS_ONCE != 0)
}

/// Whether an entry can be chosen for one boot. The boot loader renames an entry with boot counters, and
/// which name it then expects depends on its version.
pub fn can_choose(entry: &BootEntry) -> bool {
    !has_counters(&entry.file)
}

/// The name of the entry that boots next, once.
///
/// # Errors
///
/// If the variable exists and cannot be read.
pub fn chosen(root: &Root) -> Result<Option<String>, FileError> {
    efi::text(root, NAME, efi::LOADER)
}

/// The path of the variable.
pub fn path() -> PathBuf {
    efi::path_of(NAME, efi::LOADER)
}

/// Makes an entry boot next, once.
///
/// # Errors
///
/// If the variable cannot be written.
pub fn choose(root: &Root, entry: &str) -> Result<(), FileError> {
    efi::set_text(root, NAME, efi::LOADER, entry)
}

/// Takes the choice back.
///
/// # Errors
///
/// If the variable cannot be removed.
pub fn clear(root: &Root) -> Result<(), FileError> {
    efi::unset(root, NAME, efi::LOADER).map(drop)
}

/// Whether two names stand for the same entry.
pub fn is_same(one: &str, other: &str) -> bool {
    without_counters(one).eq_ignore_ascii_case(&without_counters(other))
}
