//! The MESSAGE_ID of journal messages. `journalctl MESSAGE_ID=…` finds them, and `journalctl -x` explains
//! them with the catalog in `systemd/usr/lib/systemd/catalog/`.

/// A DKMS module could not be built or installed for a kernel.
pub const BUILD_FAILED: &str = "7d2c4a0f0b9a4c6c8f0e5f1c2b7a9d31";
/// A new kernel is kept from becoming the boot default.
pub const HELD_BACK: &str = "1f6e8a53c2d94b7e9a05d3e47c18b264";
/// Another kernel was made the boot default.
pub const DEFAULT_PUT_BACK: &str = "93b0e7d1485c4f2f8f6a2c5d0e9b7714";
/// The next boot lacks a required module.
pub const UNSAFE: &str = "c58a1d7e3f264d0b9c7e40b2a6f1935d";
/// A kernel is not marked as booted.
pub const NOT_MARKED: &str = "4be2f09c75d1437aa3c86e1f5b0d2976";
/// An installed module had changed, and was repaired.
pub const DRIFT: &str = "e0a7c3b15d8f4926b41d7f9e06c2a853";
/// swupd is configured to run clr-boot-manager itself.
pub const SWUPD_OVERRIDES: &str = "28d5f6b0a9e34c71bd0f83c6e27a1594";
/// `modules.dep` did not list an installed module, and was rebuilt.
pub const INDEX_HEALED: &str = "b6c19e04f7d2485e8a3b5d0c71f6e298";
/// A new kernel does not work.
pub const TRIAL_FAILED: &str = "5a9d2e7c40b14f86b3e1c8d07f24a619";
/// The machine is rebooted into the older kernel, because the new one does not work.
pub const RETURNED: &str = "c07f3b915e6d4a28927ad4e1b85c30f6";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalog_explains_each_of_them() {
        let catalog = include_str!("../systemd/usr/lib/systemd/catalog/clr-dkms.catalog");
        let ids = [
            BUILD_FAILED,
            HELD_BACK,
            DEFAULT_PUT_BACK,
            UNSAFE,
            NOT_MARKED,
            DRIFT,
            SWUPD_OVERRIDES,
            INDEX_HEALED,
            TRIAL_FAILED,
            RETURNED,
        ];
        for id in ids {
            assert_eq!(id.len(), 32);
            assert!(catalog.contains(&format!("\n-- {id}\nSubject: ")), "{id}");
        }
        assert_eq!(catalog.matches("\n-- ").count(), ids.len());
    }
}
