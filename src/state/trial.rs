//! The first boot of a new kernel, in `trial.json`: what must work in it, and what became of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::SCHEMA;
pub use crate::boot::one_shot::TRIAL;
use crate::requirement::Requirement;

/// A new kernel that has to show in its first boot that it works. The file is removed when it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub schema: u32,
    /// The kernel release.
    pub kernel: String,
    /// The release of the kernel to return to.
    pub fallback: String,
    /// The boot entry that is booted once, while the fallback stays the boot default. None if the kernel is
    /// the boot default itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    pub since: Timestamp,
    /// The id of the boot in which the next boot was prepared. None if it has to be prepared again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The modules that work on the fallback and are required.
    pub expects: Vec<Requirement>,
    /// The SHA-256 of the files of these modules on the new kernel, by module.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub built: BTreeMap<String, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<TrialFailure>,
    /// The number of its boots that ended in an orderly reboot before the check had ended.
    #[serde(default)]
    pub unchecked: u32,
    /// When the machine was rebooted because of the failure. It is rebooted once for each kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<Timestamp>,
    /// The trials of other kernels, which failed before this one was prepared. They have none of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Trial>,
}

/// What did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialFailure {
    pub at: Timestamp,
    pub modules: Vec<FailedModule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedModule {
    /// The name, as in the requirements.
    pub module: String,
    /// As a clause: `it was not loaded`.
    pub why: String,
}

impl Trial {
    /// A trial that has to be prepared.
    pub fn new(kernel: &str, fallback: &str, since: Timestamp) -> Trial {
        Trial {
            schema: SCHEMA,
            kernel: kernel.to_owned(),
            fallback: fallback.to_owned(),
            since,
            ..Trial::default()
        }
    }

    /// What is left of the record without the trial of one kernel.
    pub fn without(mut self, kernel: &str) -> Option<Trial> {
        self.earlier.retain(|trial| trial.kernel != kernel);
        if self.kernel != kernel {
            return Some(self);
        }
        let last = self.earlier.pop()?;
        Some(Trial { earlier: self.earlier, ..last })
    }
}
