//! Will this kernel take a module without a trusted signature: as configured, at the next boot, and now?
//!
//! [`verdict`] holds the rules, as pure functions on facts; they agree with every row of
//! `tests/data/enforcement-vectors.jsonl`, which was measured on booted kernels. [`observe`] reads the facts of a root,
//! [`config`] and [`patch`] those of one kernel. What is told of them is in [`crate::status`].

pub mod config;
pub mod observe;
pub mod patch;
pub mod running;
pub mod verdict;

use serde::{Deserialize, Serialize};

pub use config::KernelConfig;
pub use observe::{KernelFacts, Machine};
pub use patch::Patch;
pub use running::{Runtime, now};
pub use verdict::{Boot, EnforcementVerdict, at_boot};

/// What a fact says, when it may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tri {
    /// Yes.
    Yes,
    /// No.
    No,
    /// It cannot be determined.
    Unknown,
}

impl Tri {
    /// From a fact that may be missing.
    pub fn of(fact: Option<bool>) -> Tri {
        match fact {
            Some(true) => Tri::Yes,
            Some(false) => Tri::No,
            None => Tri::Unknown,
        }
    }

    fn and(self, other: Tri) -> Tri {
        match (self, other) {
            (Tri::No, _) | (_, Tri::No) => Tri::No,
            (Tri::Yes, Tri::Yes) => Tri::Yes,
            _ => Tri::Unknown,
        }
    }

    fn or(self, other: Tri) -> Tri {
        self.not().and(other.not()).not()
    }

    fn not(self) -> Tri {
        match self {
            Tri::Yes => Tri::No,
            Tri::No => Tri::Yes,
            Tri::Unknown => Tri::Unknown,
        }
    }
}

/// UEFI Secure Boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureBoot {
    /// It is on.
    On,
    /// It is off, or the firmware has none.
    Off,
    /// It cannot be determined: an image, or variables that cannot be read.
    Unknown,
}

/// What the signature of a module is worth to a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleKind {
    /// Signed by a key that the kernel trusts.
    Trusted,
    /// Without a signature that the kernel looks at.
    Unsigned,
    /// Signed by a key that the kernel does not know, or in a way that it does not support.
    UnknownKey,
    /// Signed by a trusted key, and changed since.
    Damaged,
    /// With a signature that cannot be parsed.
    Unparsable,
}

/// Why a module is refused, as the system call says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LoadRefusal {
    /// No trusted signature, and one is demanded; or a damaged module.
    EKeyRejected,
    /// Lockdown, or no module is loaded at all any more.
    EPerm,
    /// IMA demands a signature of its own.
    EAcces,
    /// The signature cannot be parsed.
    EBadMsg,
}

impl LoadRefusal {
    /// Its name, as errno(3) has it.
    pub fn name(self) -> &'static str {
        match self {
            LoadRefusal::EKeyRejected => "EKEYREJECTED",
            LoadRefusal::EPerm => "EPERM",
            LoadRefusal::EAcces => "EACCES",
            LoadRefusal::EBadMsg => "EBADMSG",
        }
    }
}

/// What happens to a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadOutcome {
    /// It loads.
    Loads,
    /// It loads, and taints the kernel: `E`, unsigned module.
    Taints,
    /// It is refused; none when it depends on a missing fact how.
    Refused(Option<LoadRefusal>),
    /// It depends on a missing fact.
    Unknown,
}

impl LoadOutcome {
    /// One word for reports.
    pub fn word(self) -> &'static str {
        match self {
            LoadOutcome::Loads => "loads",
            LoadOutcome::Taints => "taints",
            LoadOutcome::Refused(_) => "refused",
            LoadOutcome::Unknown => "unknown",
        }
    }

    /// The error, when it is refused and that is known.
    pub fn error(self) -> Option<LoadRefusal> {
        match self {
            LoadOutcome::Refused(error) => error,
            _ => None,
        }
    }

    /// The module will be there.
    pub fn is_loaded(self) -> bool {
        matches!(self, LoadOutcome::Loads | LoadOutcome::Taints)
    }
}
