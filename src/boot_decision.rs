//! The decision about the boot default, as it is recorded and reported, and what an admin has asked for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::requirement::MissingModule;

/// What an admin has said. It lasts until the admin says otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminOverrides {
    /// The kernel release that is to be booted, whatever else there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// Kernel releases that may be booted in spite of what they lack.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub released: BTreeSet<String>,
    /// Why what was said cannot be read; the hold is then the one that the last run knew of.
    #[serde(skip)]
    pub fault: Option<String>,
}

/// How the kernel that boots next is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextBootSource {
    /// The boot files were read: it is the default entry.
    Entry,
    /// An EFI variable chooses it, before the boot files.
    EfiVariable,
    /// It is unknown now; the last run saw it.
    Remembered,
    /// An image without boot files: clr-boot-manager will make it the default.
    Expected,
}

/// What the decision says of the boot files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// The target may become the default.
    Allow,
    /// It may not: another kernel stays the default.
    Defer,
}

/// Why the default is what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// All that is needed is proven for the target.
    Proven,
    /// An admin has released the target in spite of what it lacks.
    Released,
    /// An admin holds a kernel.
    Held,
    /// The target lacks something that the default has.
    Lacking,
    /// No kernel has all that is needed; this one is the best there is.
    Best,
    /// There is no other kernel to fall back to.
    Only,
    /// The running kernel is not installed any more, and clr-boot-manager makes no other one the default:
    /// this one is the best of those that are installed.
    Removed,
    /// A fact that the decision needs could not be read: the default stays as it is.
    Unknown,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDecision {
    /// Whether the boot files may be made for the target.
    pub ruling: Ruling,
    /// The kernel release that should be the default; none where there is no kernel to choose.
    pub default: Option<String>,
    /// The kernel release that clr-boot-manager would make the default.
    pub target: Option<String>,
    /// Why.
    pub because: Reason,
    /// The default lacks a critical module, or no kernel has what is needed: what boots next is not safe.
    pub is_unsafe: bool,
    /// What the target lacks of what is needed.
    pub lacking: Vec<MissingModule>,
    /// What the default lacks of what is critical.
    pub default_lacks: Vec<MissingModule>,
}

impl BootDecision {
    /// The target is kept from becoming the default. While a fact is unknown it is only left as it is.
    pub fn holds_back(&self) -> bool {
        self.ruling == Ruling::Defer && self.because != Reason::Unknown
    }

    /// The kernel release that the default is to be pointed to, where clr-boot-manager would not have it so
    /// by itself. `entry_lacks` is what it lacks of what is critical when it is booted by its present entry:
    /// a kernel that has more only by the configured command line is not made the default before its entry
    /// has that. `is_removed`: the kernel that boots next is not installed any more, so that any other one is
    /// better. `is_left`: no update makes a kernel the default.
    pub fn asserted_default(
        &self,
        entry_lacks: &[MissingModule],
        is_removed: bool,
        is_left: bool,
    ) -> Option<&str> {
        let is_vital = is_removed || self.because == Reason::Held;
        let is_by_itself =
            self.ruling == Ruling::Allow && !is_vital && !is_left && self.because != Reason::Removed;
        let is_worse = entry_lacks.len() > self.default_lacks.len() && !is_vital;
        let is_unknown = self.because == Reason::Unknown;
        self.default.as_deref().filter(|_| !is_by_itself && !is_worse && !is_unknown)
    }
}
