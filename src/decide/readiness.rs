//! Whether the modules that the machine requires are ready on a kernel.

use std::collections::BTreeMap;

use super::satisfaction::NOT_REGISTERED;
use crate::dkms::ModuleName;
use crate::requirement::{MissingModule, Requirement};

/// Whether a module will be there on a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// Proven, and the kernel will load it.
    Yes,
    /// It will not, and why.
    No(Missing),
    /// It cannot be determined, and why.
    Unknown(Missing),
}

/// A module that is not ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// The version that should be there.
    pub version: String,
    /// Its state, in a word.
    pub state: String,
    /// Why, in a sentence.
    pub reason: String,
}

/// A kernel that could be the boot default.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The kernel release.
    pub release: String,
    /// The variant of which it is a version.
    pub variant: String,
    /// It can be booted: its image, its modules, and an entry that is there or would be made.
    pub bootable: bool,
    /// It runs.
    pub running: bool,
    /// It has reached multi-user.target once.
    pub booted: bool,
    /// It is the boot default now.
    pub default: bool,
    /// By module name; what is not in here counts as absent.
    pub modules: BTreeMap<String, Ready>,
}

impl Candidate {
    /// It can be booted, and has shown it.
    pub(super) fn is_tried(&self) -> bool {
        self.bootable && (self.running || self.booted)
    }
}

/// What a kernel lacks among some needs.
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
        None => Some(lack(need, need.module.clone(), NOT_REGISTERED, "dkms does not know of it")),
    };
    let mut lacking: Vec<MissingModule> = needs.filter_map(check).collect();
    // The first one is what a sentence names.
    lacking.sort_by_key(|lack| std::cmp::Reverse(lack.class));
    lacking
}
