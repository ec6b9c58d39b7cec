//! The change of a module that is in progress: written before anything is changed, and deleted at the end. A
//! later run finds it when the run that wrote it was killed, and completes it or takes the module back.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::added::AddedSource;
use super::{SCHEMA, Stored, load};
use crate::dkms::ModuleName;
use crate::sys::{FileError, Root};

/// The path of the file.
pub const CHANGE: &str = "/var/lib/clr-dkms/change.json";

/// What is being changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// The module is registered and installed. Until that is proven, it is taken back.
    Add,
    /// The source of the module is replaced by another one of the same version.
    Replace,
    /// What the module has replaced is installed again.
    Restore,
    /// The module is proven, and what it has replaced is removed.
    Keep,
    /// The module is removed.
    Remove,
}

/// What a module replaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedModule {
    /// Its other versions.
    pub others: Vec<ModuleName>,
    /// The kernels that had one of them, or the module from another source.
    pub kernels: BTreeSet<String>,
    /// What `clr-dkms add` recorded of the source of the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<AddedSource>,
}

/// The change of one module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleChange {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// The module.
    #[serde(flatten)]
    pub module: ModuleName,
    /// What is being changed.
    pub change: ChangeKind,
    /// The fingerprint of the new source, if it replaces one of the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The source was there before, and stays.
    #[serde(default)]
    pub keeps_source: bool,
    /// The kernels whose `modules.dep` is to be made again.
    #[serde(default)]
    pub kernels: BTreeSet<String>,
    /// What is to be there again if the change fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<ReplacedModule>,
}

impl ModuleChange {
    /// The change of a module that no kernel has yet.
    pub fn new(module: &ModuleName, change: ChangeKind) -> ModuleChange {
        let (module, kernels) = (module.clone(), BTreeSet::new());
        let (fingerprint, replaced) = (None, None);
        ModuleChange { schema: SCHEMA, module, change, fingerprint, keeps_source: false, kernels, replaced }
    }

    /// Writes it.
    ///
    /// # Errors
    ///
    /// If it cannot be written; then nothing may be changed.
    pub fn write(&self, root: &Root) -> Result<(), FileError> {
        root.write_json(CHANGE, self).map(drop)
    }

    /// Deletes it.
    ///
    /// # Errors
    ///
    /// If it cannot be deleted.
    pub fn end(root: &Root) -> Result<(), FileError> {
        root.remove(CHANGE).map(drop)
    }

    /// The change of a run that was killed.
    pub fn left(root: &Root) -> Stored<ModuleChange> {
        load(root, CHANGE)
    }
}
