//! The drivers of the kernel that `clr-dkms add` keeps from being loaded, in favour of modules that replace
//! them.

use std::collections::{BTreeMap, BTreeSet};

use crate::modprobe::config::Directive;
use crate::modprobe::{ModprobeConfig, pattern};
use crate::state::added::{AddedFile, AddedManifest};
use crate::sys::Root;

/// The blacklisted drivers by the name of the module that replaces them.
pub type ReplacedDrivers = BTreeMap<String, BTreeSet<String>>;

/// Reads the manifest, and which of its blacklists are in force.
///
/// # Errors
///
/// Why this is unknown, as a sentence.
pub(super) fn observe(root: &Root, config: &ModprobeConfig) -> Result<ReplacedDrivers, String> {
    let manifest = AddedManifest::load(root).map_err(|e| e.to_string())?;
    let mut found = ReplacedDrivers::new();
    for added in &manifest.modules {
        for file in &added.files {
            let mut drivers = in_force(config, file).cloned().peekable();
            if drivers.peek().is_some() {
                found.entry(added.module.name.clone()).or_default().extend(drivers);
            }
        }
    }
    Ok(found)
}

/// The drivers of a recorded file that the file still names. An admin may have edited it.
fn in_force<'f>(config: &'f ModprobeConfig, file: &'f AddedFile) -> impl Iterator<Item = &'f String> {
    let is_named = |driver: &&String| {
        config.directives.iter().filter(|(at, _)| at.path == file.path).any(
            |(_, directive)| match directive {
                Directive::Blacklist { module } => module == *driver,
                Directive::Install { pattern, .. } => pattern::matches(pattern, driver),
                _ => false,
            },
        )
    };
    file.drivers.iter().filter(is_named)
}
