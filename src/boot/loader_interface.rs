//! The Boot Loader Interface: what EFI variables of systemd-boot and the firmware show about the entries.
//! Every user can read these variables, even if only root can read the boot partition.

use super::counters::{is_named, stem_and_ending, without_counters};
use super::entries::Variables;
use crate::sys::{FileError, Root, efi};

/// The variables that concern the choice of an entry.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct LoaderInterface {
    /// The variables that override the configured default.
    pub overrides: Variables,
    /// `LoaderEntrySelected`: the entry of the current boot.
    pub selected: Option<String>,
    /// `LoaderEntries`: the entries that the boot loader saw at the current boot.
    pub entries: Option<Vec<String>>,
}

impl LoaderInterface {
    /// Reads the variables. With another boot loader none of them exists.
    ///
    /// # Errors
    ///
    /// If a variable exists and cannot be read.
    pub fn read(root: &Root) -> Result<LoaderInterface, FileError> {
        Ok(LoaderInterface {
            overrides: Variables::read(root)?,
            selected: efi::text(root, "LoaderEntrySelected", efi::LOADER)?,
            entries: efi::texts(root, "LoaderEntries", efi::LOADER)?,
        })
    }

    /// Whether the boot loader saw an entry of that name at the current boot, with or without counters. None
    /// if unknown.
    pub fn lists(&self, name: &str) -> Option<bool> {
        let entries = self.entries.as_ref()?;
        Some(entries.iter().any(|entry| is_named(entry, name)))
    }
}

/// Whether only the boot loader knows which entry a name stands for: a pattern, or a word such as `@saved`.
pub fn is_open(name: &str) -> bool {
    name.contains(['*', '?', '[']) || name.starts_with('@')
}

/// The kernel release of an entry of clr-boot-manager, from its name `VENDOR-VARIANT-VERSION-NUMBER.conf`,
/// which may have counters.
pub fn release_of_entry(name: &str) -> Option<String> {
    let name = without_counters(name);
    let (stem, _) = stem_and_ending(&name);
    let mut parts = stem.rsplitn(4, '-');
    let (number, version, variant) = (parts.next()?, parts.next()?, parts.next()?);
    let is_number = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let fits = is_number && version.starts_with(|c: char| c.is_ascii_digit()) && !variant.is_empty();
    (fits && parts.next().is_some()).then(|| format!("{version}-{number}.{variant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_an_entry() {
        let release = |name: &str| release_of_entry(name);
        assert_eq!(
            release("Clear-linux-native-6.15.7-1591.conf").as_deref(),
            Some("6.15.7-1591.native"),
            "the name that clr-boot-manager writes"
        );
        assert_eq!(release("Solus-lts-6.12.1-7").as_deref(), Some("6.12.1-7.lts"));
        for counted in ["Solus-lts-6.12.1-7+3", "solus-LTS-6.12.1-7+0-3.conf"] {
            assert_eq!(release(counted).map(|r| r.to_ascii_lowercase()).as_deref(), Some("6.12.1-7.lts"));
        }
        for other in ["windows.conf", "native-6.1-2.conf", "a-b-c-d.conf", "x-y-6.1-z.conf", ".conf", "", "ü"]
        {
            assert_eq!(release(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_loader_saw() {
        let mut seen = LoaderInterface::default();
        assert_eq!(seen.lists("a.conf"), None);
        seen.entries = Some(vec!["A.conf".to_owned()]);
        assert_eq!(
            (seen.lists("a"), seen.lists("a.CONF"), seen.lists("b")),
            (Some(true), Some(true), Some(false))
        );
        assert_eq!((seen.lists("a+3-1.conf"), seen.lists("b+3.conf")), (Some(true), Some(false)));
        seen.entries = Some(vec!["a+2-1.conf".to_owned()]);
        assert_eq!((seen.lists("a"), seen.lists("a+3.conf")), (Some(true), Some(true)));
    }
}
