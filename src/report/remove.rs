//! The document of `clr-dkms remove`.

use serde::Serialize;

use super::add::Steps;

/// What became of the removal of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct RemoveDocument {
    /// Grows when a field changes its meaning.
    pub schema: u32,
    /// Nothing was changed on purpose.
    pub dry_run: bool,
    /// The name of the module.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The kernels that had it.
    pub kernels: Vec<String>,
    /// What of it was loaded, as the kernel names it.
    pub loaded: Vec<String>,
    /// Why the machine depends on it.
    pub critical: Option<String>,
    pub steps: Steps,
    /// It is removed. What is loaded may stay so until the next boot.
    pub removed: bool,
}
