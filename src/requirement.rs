//! What a machine requires of its kernels: shared by the settings, the records, the decisions and the reports.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::kernel::module_file::kernel_name;

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

/// Who a module file is from: another origin may mean another driver of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModuleOrigin {
    /// dkms installed it.
    Dkms,
    /// It is not part of the kernel, and dkms did not install it.
    Unmanaged,
    /// The kernel brought it, or has it built in.
    Kernel,
}

/// What a module is used for, or why it is required otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "use")]
pub enum Use {
    /// A mounted filesystem: its type, or a device below it.
    Mount {
        /// The mount point.
        point: String,
        /// The type of the filesystem.
        fs: String,
    },
    /// An active swap device.
    Swap {
        /// The device.
        device: String,
    },
    /// An imported pool of OpenZFS.
    Pool {
        /// Its name.
        pool: String,
    },
    /// The default route.
    DefaultRoute {
        /// The interface that it leaves by.
        interface: String,
    },
    /// A connected display, or the graphics card that the firmware used.
    Display,
    /// It is loaded in the running kernel.
    Loaded,
    /// It is installed for the running kernel, in some version.
    Installed,
    /// A file of modules-load.d lists it.
    ModulesLoad {
        /// The file.
        file: String,
    },
    /// `[modules]` in clr-dkms.conf lists it.
    Listed,
    /// It was required before, and nothing shows that it is not required any more.
    Remembered,
}

impl Use {
    /// The machine depends on it: what does not load takes a filesystem, a network or a display with it.
    pub fn is_critical(&self) -> bool {
        use Use::{DefaultRoute, Display, Mount, Pool, Swap};
        matches!(self, Mount { .. } | Swap { .. } | Pool { .. } | DefaultRoute { .. } | Display)
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
            Use::Remembered => f.write_str("in use before, and not given up since"),
        }
    }
}

/// A boot in which a module that is remembered could load, and nothing used it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleBoot {
    /// `/proc/sys/kernel/random/boot_id` of that boot.
    pub boot: String,
    /// The kernel release that ran.
    pub kernel: String,
}

/// What a module is to this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requirement {
    /// The name of the DKMS module, without a version: it stays the same over updates and variants. Of a module that DKMS
    /// does not know, the kernel's name of it.
    pub module: String,
    /// How much it is needed.
    pub class: Importance,
    /// Why, in words: `backs /home (zfs)`, `drives the default route (r8125)`, `listed in clr-dkms.conf`.
    pub reason: String,
    /// The same as values; empty in records of version 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<Use>,
    /// The kernel modules that make it up, as the kernel names them; empty in records of version 0.1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// What it is found by for what it is used for: the modalias of a device, `fs-TYPE`, `rtnl-link-KIND`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Where the file in use comes from; none in records of version 0.1, and where no file is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<ModuleOrigin>,
    /// The running kernel has it: loaded, or proven on disk.
    pub works: bool,
    /// The kernel release on which it was seen to work last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worked_on: Option<String>,
    /// The first boot, of those since it was used, in which it could load and was not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleBoot>,
}

impl Requirement {
    /// The configuration lists it.
    pub fn is_listed(&self) -> bool {
        // Version 0.1 recorded the reason as a sentence alone.
        self.why.contains(&Use::Listed) || (self.why.is_empty() && self.reason == LISTED)
    }

    /// The kernel modules that make it up.
    pub fn modules(&self) -> Vec<String> {
        match self.files.is_empty() {
            true => vec![kernel_name(&self.module)],
            false => self.files.clone(),
        }
    }
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
