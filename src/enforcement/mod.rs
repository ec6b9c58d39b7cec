//! Whether a kernel loads a module without a trusted signature: as configured, at the next boot, and now.
//!
//! [`verdict`] has the rules, as pure functions of facts. They agree with every row of
//! `tests/data/enforcement-vectors.jsonl`, which was measured on booted kernels. [`observe`] reads the facts
//! of a root, [`config`] and [`patch`] those of one kernel. The reports are in [`crate::report`].

pub mod config;
pub mod observe;
pub mod patch;
pub mod running;
pub mod verdict;

use crate::cmdline::Switch;
use serde::{Deserialize, Serialize};

pub use config::KernelConfig;
pub use observe::{KernelFacts, Machine};
pub use patch::Patch;
pub use running::{Runtime, now};
pub use verdict::{Boot, EnforcementVerdict, at_boot};

/// The value of a fact that may be unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tri {
    Yes,
    No,
    /// It cannot be determined.
    Unknown,
}

impl Tri {
    /// From a fact that may be unknown.
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

/// Off if the firmware does not support it, unknown for an image and if the variables cannot be read.
pub type SecureBoot = Switch;

/// The kind of signature that a module has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ModuleKind {
    /// A signature by a key that the kernel trusts.
    Trusted,
    /// No signature that the kernel recognizes.
    Unsigned,
    /// A signature by an unknown key, or of an unsupported kind.
    UnknownKey,
    /// A signature by a trusted key, on a file that was changed later.
    Damaged,
    /// A signature that cannot be parsed.
    Unparsable,
}

/// The error with which the kernel refuses a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::IntoStaticStr)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE")]
pub enum LoadRefusal {
    /// A trusted signature is required and missing, or the module is damaged.
    EKeyRejected,
    /// Lockdown, or loading of modules is disabled.
    EPerm,
    /// IMA requires its own signature.
    EAcces,
    /// The signature cannot be parsed.
    EBadMsg,
}

impl LoadRefusal {
    /// The name of the error, as in errno(3).
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// What happens to a module. A worse outcome is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumDiscriminants)]
#[strum_discriminants(name(LoadWord), doc = "The outcome without the error of a refusal.")]
#[strum_discriminants(derive(PartialOrd, Ord, Serialize, strum::Display))]
#[strum_discriminants(serde(rename_all = "lowercase"), strum(serialize_all = "lowercase"))]
pub enum LoadOutcome {
    /// It loads.
    Loads,
    /// It loads and taints the kernel with `E`, unsigned module.
    Taints,
    /// It depends on an unknown fact.
    Unknown,
    /// It is refused. The error is None if it depends on an unknown fact.
    Refused(Option<LoadRefusal>),
}

impl LoadWord {
    /// Whether the module loads.
    pub fn is_loaded(self) -> bool {
        matches!(self, LoadWord::Loads | LoadWord::Taints)
    }
}

impl LoadOutcome {
    /// The error of a refusal, if it is known.
    pub fn error(self) -> Option<LoadRefusal> {
        if let LoadOutcome::Refused(error) = self { error } else { None }
    }

    /// The outcome without the error of a refusal.
    pub fn word(self) -> LoadWord {
        self.into()
    }

    /// Whether the module loads.
    pub fn is_loaded(self) -> bool {
        self.word().is_loaded()
    }
}
