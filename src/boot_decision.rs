//! The decision about the boot default, and the requests of an admin, as they are recorded and reported.
//!
//! The serialized forms are part of the record and of the JSON reports: keys and words are only added.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::requirement::MissingModule;
use crate::sys::TimeStyle;

/// What an admin has requested. A request stays in effect until the admin changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminOverrides {
    /// The kernel release that must be the boot default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
    /// The user, the time and the reason of that request. Empty in files of version 0.1.
    #[serde(default, skip_serializing_if = "OverrideNote::is_empty")]
    pub held: OverrideNote,
    /// Modules that a kernel may lack and still become the default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<Allowance>,
    /// The file of version 0.1 has a `released` key, which became `allowed`: it is to be written again.
    #[serde(skip)]
    pub is_converted: bool,
    /// Why the requests cannot be read. `hold` is then the one that the last run recorded.
    #[serde(skip)]
    pub fault: Option<String>,
}

impl AdminOverrides {
    /// Whether a kernel may boot without a module.
    pub fn allows(&self, kernel: &str, module: &str) -> bool {
        self.allowed.iter().any(|allowance| allowance.kernel == kernel && allowance.without == module)
    }

    /// Nothing is requested.
    pub fn is_empty(&self) -> bool {
        self.hold.is_none() && self.allowed.is_empty()
    }

    /// The kernel releases that may boot without a module.
    pub fn allowed_kernels(&self) -> BTreeSet<String> {
        self.allowed.iter().map(|allowance| allowance.kernel.clone()).collect()
    }
}

/// The user, the time and the reason of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverrideNote {
    /// The name of a user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl OverrideNote {
    pub fn is_empty(&self) -> bool {
        *self == OverrideNote::default()
    }

    /// In parentheses after a space, or nothing.
    pub fn text(&self, times: &TimeStyle) -> String {
        let by = self.by.as_ref().map(|by| format!("by {by}"));
        let since = self.since.map(|since| format!("since {}", times.day(since)));
        let who: Vec<String> = by.into_iter().chain(since).collect();
        let whole: Vec<String> =
            [who.join(" ")].into_iter().chain(self.reason.clone()).filter(|part| !part.is_empty()).collect();
        if whole.is_empty() { String::new() } else { format!(" ({})", whole.join(": ")) }
    }
}

impl fmt::Display for OverrideNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&TimeStyle::Utc))
    }
}

/// An admin accepts that one kernel lacks one module. It ends with that kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    /// The kernel release.
    pub kernel: String,
    /// The name of the module, without a version.
    pub without: String,
    #[serde(flatten)]
    pub note: OverrideNote,
}

impl Allowance {
    /// What is accepted, and the note.
    pub fn text(&self, times: &TimeStyle) -> String {
        format!("kernel {} without {}{}", self.kernel, self.without, self.note.text(times))
    }
}

impl fmt::Display for Allowance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(&TimeStyle::Utc))
    }
}

/// How the kernel that boots next is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NextBootSource {
    /// From the boot files: it is the default entry.
    Entry,
    /// From an EFI variable, which overrides the boot files.
    EfiVariable,
    /// From the last run; it is unknown now.
    Remembered,
    /// An image without boot files: clr-boot-manager will make it the default.
    Expected,
}

/// Whether the target may become the boot default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// It may become the default.
    Allow,
    /// It may not. Another kernel stays the default.
    Defer,
}

/// Why a kernel should be the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// All required modules are proven for the target.
    Proven,
    /// An admin has allowed the target to boot without the modules that it lacks.
    Released,
    /// An admin holds a kernel.
    Held,
    /// The target lacks a module that the default has.
    Lacking,
    /// No kernel has all required modules; this kernel is the best.
    Best,
    /// No other kernel is available to fall back to.
    Only,
    /// The running kernel is no longer installed, and clr-boot-manager does not change the default. This
    /// kernel is the best of the installed ones.
    Removed,
    /// A fact that the decision needs could not be read. The default does not change.
    Unknown,
    /// The target runs on trial. The kernel that is known to work stays the default until the trial is over.
    Trial,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootDecision {
    pub ruling: Ruling,
    /// The kernel release that should be the default. None if there is no kernel to choose.
    pub default: Option<String>,
    /// The kernel release that clr-boot-manager would make the default.
    pub target: Option<String>,
    pub because: Reason,
    /// The next boot is not safe: the default lacks a critical module, or no kernel has all required modules.
    pub is_unsafe: bool,
    /// Required modules that the target lacks.
    pub lacking: Vec<MissingModule>,
    /// Critical modules that the default lacks.
    pub default_lacks: Vec<MissingModule>,
}

impl BootDecision {
    /// The target is kept from becoming the default. While a fact is unknown, or a trial has not ended, the
    /// default is only left unchanged.
    pub fn holds_back(&self) -> bool {
        self.ruling == Ruling::Defer && !matches!(self.because, Reason::Unknown | Reason::Trial)
    }

    /// The kernel release that must be made the default because clr-boot-manager would not choose it.
    ///
    /// `entry_lacks` are the critical modules that the kernel lacks when it is booted with its present entry.
    /// If a kernel has more modules only with the configured command line, it becomes the default only after
    /// its entry is updated. `is_removed` means that the kernel that boots next is no longer installed, so
    /// any other kernel is better. `is_left` means that an update does not change the default.
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
