//! The part of the document of `clr-dkms add` that is about side files: what the source has for `modprobe.d`,
//! udev and `modules-load.d`, the drivers of the kernel that claim the same devices, and missing firmware.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::adopt::SideFile;
use crate::requirement::Use;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SideFileResult {
    /// It is not written yet, or was not wanted.
    Offered,
    /// It was written.
    Written,
    /// It was there with the same contents.
    Present,
    /// It could not be, or may not be written.
    Refused,
}

/// A side file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfferedFile {
    /// The path that it is written to.
    pub path: String,
    /// The file of the source.
    #[serde(flatten)]
    pub file: SideFile,
    /// The modules that it keeps from being loaded.
    pub blacklists: BTreeSet<String>,
    pub result: SideFileResult,
}

/// Two aliases that match one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AliasPair {
    /// The alias of the module.
    pub module: String,
    /// The alias of the driver.
    pub driver: String,
}

/// A driver that came with the kernel and claims the same devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CompetingDriver {
    pub driver: String,
    /// The kernel releases that have it.
    pub kernels: Vec<String>,
    /// Those in which it is built in, so that a blacklist has no effect.
    pub built_in: Vec<String>,
    /// At most three of them.
    pub aliases: Vec<AliasPair>,
    /// The devices of this machine that both serve, as paths below `/sys`.
    pub devices: Vec<String>,
    /// What the machine uses it for now.
    pub used_for: Vec<Use>,
    /// The file in `modprobe.d` that keeps it from being loaded already.
    pub blacklisted_by: Option<String>,
}

/// Whether a module must be listed in `modules-load.d`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AutoloadNeed {
    /// No alias of a device loads it.
    pub needed: bool,
    /// The alias that loads it.
    pub alias: Option<String>,
    /// The modules to be listed.
    pub modules: Vec<String>,
    /// The file that lists them.
    pub path: String,
    pub result: SideFileResult,
}

/// The part of the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct SideDocument {
    /// The side files of the source.
    pub side_files: Vec<OfferedFile>,
    /// The drivers to be blacklisted. None if they are unknown, because the module was not built yet.
    pub blacklist: Option<Vec<CompetingDriver>>,
    /// The firmware files that the module may ask for and that do not exist. None if they are unknown.
    pub firmware_missing: Option<Vec<String>>,
    /// None if it is unknown.
    pub autoload: Option<AutoloadNeed>,
}

impl SideDocument {
    /// The drivers that a blacklist would keep from being loaded, and that are not blacklisted already, by a
    /// file of the source or by one in `modprobe.d`.
    pub fn to_blacklist(&self) -> Vec<&CompetingDriver> {
        let drivers = self.blacklist.iter().flatten();
        let is_open = |driver: &&CompetingDriver| {
            driver.blacklisted_by.is_none()
                && driver.built_in.len() < driver.kernels.len()
                && !self.side_files.iter().any(|file| file.blacklists.contains(&driver.driver))
        };
        drivers.filter(is_open).collect()
    }

    /// The module has to be listed in `modules-load.d` to be loaded.
    pub fn needs_autoload(&self) -> bool {
        self.autoload.as_ref().is_some_and(|need| need.needed)
    }
}
