//! Whether the modules that the machine requires are ready on a kernel.
//!
//! A module is ready if its file is proven and the kernel loads it. "Unknown" is a third answer: it satisfies
//! no requirement, but does not by itself justify leaving a kernel either.

use std::collections::BTreeMap;

use super::satisfaction::NOT_REGISTERED;
use crate::dkms::ModuleName;
use crate::requirement::{MissingModule, Requirement};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// Proven, and the kernel loads it.
    Yes,
    /// It is not ready.
    No(Missing),
    /// It cannot be determined.
    Unknown(Missing),
}

/// A module that is not ready, or whose readiness is unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// The version that should be installed.
    pub version: String,
    /// The word of its state, such as `not-built`.
    pub state: String,
    /// The cause, as a sentence for people.
    pub reason: String,
}

/// An installed kernel as a candidate for the boot default.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub release: String,
    pub variant: String,
    /// Its image and its modules are installed, and it has a boot entry or would get one.
    pub bootable: bool,
    /// It is the running kernel.
    pub running: bool,
    /// It has reached multi-user.target at least once.
    pub booted: bool,
    /// It is the current boot default.
    pub default: bool,
    /// By module name. A module that is not in the map counts as absent.
    pub modules: BTreeMap<String, Ready>,
}

impl Candidate {
    /// It is bootable, and it has booted before.
    pub(super) fn is_tried(&self) -> bool {
        self.bootable && (self.running || self.booted)
    }
}

/// The modules that a kernel lacks of some requirements, the most important first.
pub fn lacks<'n>(kernel: &Candidate, needs: impl Iterator<Item = &'n Requirement>) -> Vec<MissingModule> {
    let lack = |need: &Requirement, module: String, state: &str, reason: &str| MissingModule {
        module,
        class: need.class,
        needed: need.reason.clone(),
        state: state.to_owned(),
        reason: reason.to_owned(),
    };
    let check = |need: &Requirement| match kernel.modules.get(&need.module) {
        Some(Ready::Yes) => None,
        Some(Ready::No(m) | Ready::Unknown(m)) => {
            let module = ModuleName { name: need.module.clone(), version: m.version.clone() };
            Some(lack(need, module.to_string(), &m.state, &m.reason))
        }
        None => Some(lack(need, need.module.clone(), NOT_REGISTERED, "dkms does not know it")),
    };
    let mut lacking: Vec<MissingModule> = needs.filter_map(check).collect();
    // Sentences name only the first one.
    lacking.sort_by_key(|lack| std::cmp::Reverse(lack.class));
    lacking
}
