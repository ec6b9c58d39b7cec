//! What a machine requires of its kernels. The settings, the records, the decisions and the reports share
//! these types.
//!
//! The serialized forms are part of the record and of the JSON reports: keys are only added, and records of
//! version 0.1 remain readable.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::kernel::module_file::kernel_name;

#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    strum::Display,
    strum::VariantArray,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Importance {
    /// It never holds a kernel back.
    Optional,
    /// It is loaded in the running kernel, or installed for it.
    Wanted,
    /// The root filesystem, a disk, the network or the display depends on it.
    Critical,
}

/// Where a module file comes from. A file from another origin may be another driver of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleOrigin {
    /// DKMS installed it.
    Dkms,
    /// It did not come with the kernel, and DKMS did not install it.
    Unmanaged,
    /// It came with the kernel, or is built in.
    Kernel,
}

/// What a module is used for, or another reason why it is required.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "use")]
pub enum Use {
    /// A mounted filesystem: the module provides its type, or drives a device below it.
    Mount { point: String, fs: String },
    /// A swap device in use.
    Swap { device: String },
    /// An imported OpenZFS pool.
    Pool { pool: String },
    /// The outgoing interface of the default route.
    DefaultRoute { interface: String },
    /// A connected display, or the graphics card that the firmware used.
    Display,
    /// It is loaded in the running kernel.
    Loaded,
    /// Some version is installed for the running kernel.
    Installed,
    /// A file in modules-load.d lists it.
    ModulesLoad { file: String },
    /// `[modules]` in clr-dkms.conf lists it.
    Listed,
    /// `clr-dkms add` keeps these drivers of the kernel from being loaded in its favour.
    Replaces { drivers: Vec<String> },
    /// It was required before, and nothing shows that this has ended.
    Remembered,
}

impl Use {
    /// Whether the machine depends on it: without the module a filesystem, a network or a display is lost.
    pub fn is_critical(&self) -> bool {
        use Use::{DefaultRoute, Display, Mount, Pool, Replaces, Swap};
        matches!(
            self,
            Mount { .. } | Swap { .. } | Pool { .. } | DefaultRoute { .. } | Display | Replaces { .. }
        )
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::Mount { point, .. } => write!(f, "backs {point}"),
            Use::Swap { device } => write!(f, "backs the swap on {device}"),
            Use::Pool { pool } => write!(f, "holds the pool {pool}"),
            Use::DefaultRoute { .. } => f.write_str("drives the default route"),
            Use::Display => f.write_str("drives the display"),
            Use::Loaded => f.write_str("loaded in the running kernel"),
            Use::Installed => f.write_str("installed for the running kernel"),
            Use::ModulesLoad { file } => write!(f, "listed in {file}"),
            Use::Listed => f.write_str(LISTED),
            Use::Replaces { drivers } => {
                write!(f, "drives the devices of {}, which is blacklisted", drivers.join(", "))
            }
            Use::Remembered => f.write_str("in use before, and not given up since"),
        }
    }
}

/// A boot in which a remembered module could load and was not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleBoot {
    /// The contents of `/proc/sys/kernel/random/boot_id` in that boot.
    pub boot: String,
    /// The running kernel's release in that boot.
    pub kernel: String,
}

/// A module that the machine requires, or knows to be optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The name of the DKMS module without its version, which is the same for all updates and variants. For a
    /// module that DKMS does not manage, the kernel's name.
    pub module: String,
    pub class: Importance,
    /// The reason as a phrase: `backs /home (zfs)`, `drives the default route (r8125)`, `listed in
    /// clr-dkms.conf`.
    pub reason: String,
    /// The reasons as values. Empty in records of version 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<Use>,
    /// Its kernel modules, by the kernel's names. Empty in records of version 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// The aliases that it serves for its uses: the modalias of a device, `fs-TYPE` or `rtnl-link-KIND`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Where the file in use comes from. None in records of version 0.1, and if no file is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ModuleOrigin>,
    /// The running kernel has it: loaded, or proven on disk.
    pub works: bool,
    /// The release of the kernel on which it last worked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked_on: Option<String>,
    /// The first boot since its last use in which it could load and was not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleBoot>,
}

impl Requirement {
    pub fn is_listed(&self) -> bool {
        // Version 0.1 recorded only the phrase.
        self.why.contains(&Use::Listed) || (self.why.is_empty() && self.reason == LISTED)
    }

    /// Its kernel modules. Without a recorded list, the module of the same name.
    pub fn modules(&self) -> Vec<String> {
        match self.files.is_empty() {
            true => vec![kernel_name(&self.module)],
            false => self.files.clone(),
        }
    }
}

/// A required module that a kernel lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingModule {
    /// `name/version`, or the name alone if no version is registered.
    pub module: String,
    pub class: Importance,
    /// What it is needed for, as a phrase.
    pub needed: String,
    /// The word of its state.
    pub state: String,
    /// Why it is missing, as a sentence.
    pub reason: String,
}

impl MissingModule {
    /// The name of the module, without a version.
    pub fn name(&self) -> &str {
        self.module.split_once('/').map_or(self.module.as_str(), |(name, _)| name)
    }
}

impl fmt::Display for MissingModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.class {
            // For a critical module an admin needs to know what depends on it.
            Importance::Critical => write!(f, "{} (critical: {}; {})", self.module, self.needed, self.state),
            class => write!(f, "{} ({class}; {})", self.module, self.state),
        }
    }
}

/// The reason of a requirement that comes from the configuration.
pub const LISTED: &str = "listed in clr-dkms.conf";

/// The modules that the configuration lists, by names of DKMS modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListedModules {
    pub critical: BTreeSet<String>,
    pub wanted: BTreeSet<String>,
    pub optional: BTreeSet<String>,
}
