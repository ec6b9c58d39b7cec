//! The change of a module that is in progress: written before anything is changed, and deleted at the end. A
//! later run finds it when the run that wrote it was killed, and takes the module back completely.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

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
    /// The module is removed.
    Remove,
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
    /// The fingerprint of the new source of a replacement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// The source was there before, and stays.
    #[serde(default)]
    pub keeps_source: bool,
    /// The kernels whose `modules.dep` is to be made again.
    #[serde(default)]
    pub kernels: BTreeSet<String>,
}

impl ModuleChange {
    /// The change of a module that no kernel has yet.
    pub fn new(module: &ModuleName, change: ChangeKind) -> ModuleChange {
        let (module, kernels) = (module.clone(), BTreeSet::new());
        ModuleChange { schema: SCHEMA, module, change, fingerprint: None, keeps_source: false, kernels }
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
