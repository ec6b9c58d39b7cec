//! What a machine requires of its kernels: shared by the settings, the records, the decisions and the reports.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a module is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Importance {
    /// Nothing is held back for it.
    Optional,
    /// It is installed for, or loaded in, the running kernel.
    Wanted,
    /// Without it there is no root, no disk, no network or no picture.
    Critical,
}

impl fmt::Display for Importance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Importance::Optional => "optional",
            Importance::Wanted => "wanted",
            Importance::Critical => "critical",
        })
    }
}

/// What a module is to this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The name of the DKMS module, without a version: it stays the same over updates and variants.
    pub module: String,
    /// How much it is needed.
    pub class: Importance,
    /// Why: `backs /home (zfs)`, `drives the default route (r8125)`, `listed in clr-dkms.conf`.
    pub reason: String,
    /// The running kernel has it: loaded, or proven on disk.
    pub works: bool,
    /// The kernel release on which it was seen to work last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked_on: Option<String>,
}

/// A module that is needed and not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingModule {
    /// `name/version`, or the name where no version is registered.
    pub module: String,
    /// How much it is needed.
    pub class: Importance,
    /// What it is needed for.
    pub needed: String,
    /// Its state, in a word.
    pub state: String,
    /// Why it is not there, in a sentence.
    pub reason: String,
}

impl fmt::Display for MissingModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            // What it is needed for is what an admin has to know then.
            Importance::Critical => write!(f, "{} (critical: {}; {})", self.module, self.needed, self.state),
            class => write!(f, "{} ({class}; {})", self.module, self.state),
        }
    }
}

/// The reason of a need that is configured.
pub const LISTED: &str = "listed in clr-dkms.conf";

/// What the configuration lists, by names of DKMS modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedModules {
    /// `[modules] critical`.
    pub critical: BTreeSet<String>,
    /// `[modules] wanted`.
    pub wanted: BTreeSet<String>,
    /// `[modules] optional`.
    pub optional: BTreeSet<String>,
}
