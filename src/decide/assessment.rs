//! From facts to the decision: what each kernel has of what this machine needs.

use std::collections::{BTreeMap, BTreeSet};

use super::boot_choice::{Candidate, Missing, Ready, choose_default, lacks};
use super::importance::{KnownModule, classify};
use super::module_state::{module_status, refused_now, would_be_taken};
use crate::boot_decision::BootDecision;
use crate::config::{Settings, SigUnenforce};
use crate::dkms::plan::State;
use crate::kernel::inventory::There;
use crate::kernel::{Installed, Running};
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::{ModuleRecord, Record};
use crate::system::System;

/// What this machine needs, and what follows for the boot default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootAssessment {
    /// One for each module.
    pub needs: Vec<Requirement>,
    /// The decision.
    pub decision: BootDecision,
    /// The kernel release that boots next as things are; none when it cannot be told, or when it is another system's.
    pub next: Option<String>,
    /// What that one lacks of what is critical.
    pub next_lacks: Vec<MissingModule>,
}

impl BootAssessment {
    /// What boots next, or would by the decision, is without something critical.
    pub fn is_unsafe(&self) -> bool {
        self.decision.is_unsafe || !self.next_lacks.is_empty()
    }

    /// How much a module, by its name, is needed.
    pub fn class_of(&self, module: &str) -> Importance {
        self.needs.iter().find(|need| need.module == module).map_or(Importance::Optional, |need| need.class)
    }
}

/// Judges. `record` is that of the last run.
pub fn assess(facts: &System, settings: &Settings, record: Option<&Record>) -> BootAssessment {
    let pairs = facts.pairs.iter().chain(&facts.fallbacks);
    let states: Vec<ModuleRecord> = pairs.map(|p| module_status(facts, p, record)).collect();
    let needs = needs(facts, settings, record, &states);
    // Ascending: the inventory begins with the newest.
    let kernels: Vec<Candidate> =
        facts.inventory.kernels.iter().rev().map(|kernel| candidate(facts, kernel, &states, true)).collect();
    let target = facts.inventory.boot_default().map(|k| k.name.release());
    let unseen = unseen_default(facts, record, target.as_deref());
    let next_kernel = match &unseen {
        Some(release) => facts.inventory.kernels.iter().find(|k| k.name.release() == *release),
        None => facts.boots_next(),
    };
    let next = next_kernel.map(|k| k.name.release());
    let critical = || needs.iter().filter(|n| n.class == Importance::Critical);
    // As the boot entries are now, and not as clr-boot-manager would make them.
    let booted_next = next_kernel.map(|kernel| candidate(facts, kernel, &states, false));
    BootAssessment {
        decision: choose_default(&kernels, target.as_deref(), &needs, &facts.wishes),
        next_lacks: booted_next.map(|k| lacks(&k, critical())).unwrap_or_default(),
        next,
        needs,
    }
}

/// The boot default where the boot files cannot be seen (an unmounted partition, a user who is not root), and the last run,
/// which could see them, has kept another kernel than the target there.
fn unseen_default(facts: &System, record: Option<&Record>, target: Option<&str>) -> Option<String> {
    let record = record.filter(|r| facts.boot.default.is_none() && r.boot.error.is_none())?;
    let kept = record.boot.held_back.as_ref().filter(|held| Some(held.kernel.as_str()) == target);
    kept.and(record.guard.as_ref()).and_then(|decision| decision.default.clone())
}

fn needs(
    facts: &System,
    settings: &Settings,
    record: Option<&Record>,
    states: &[ModuleRecord],
) -> Vec<Requirement> {
    let names: BTreeSet<&str> = facts.pairs.iter().map(|p| p.module.name.as_str()).collect();
    let proven = |name: &str| {
        let on_running = |s: &&ModuleRecord| s.module.name == name && facts.inventory.runs(&s.kernel);
        states
            .iter()
            .filter(on_running)
            .any(|s| s.state == State::Ok || works_until_reboot(facts, settings, s))
    };
    let known = |name: &str| {
        // Another version, or the same one on another kernel, may have other files: all of them are this module.
        let confs = facts.pairs.iter().filter(|p| p.module.name == name).filter_map(|p| p.conf.as_ref().ok());
        let mut built: BTreeSet<String> =
            confs.flat_map(|c| c.built.iter().map(|b| b.name.clone())).collect();
        let unclear = built.is_empty();
        if unclear {
            // Most have one file of their own name.
            built.insert(name.to_owned());
        }
        KnownModule {
            name: name.to_owned(),
            built: built.into_iter().collect(),
            proven: proven(name),
            unclear,
        }
    };
    let mut modules: Vec<KnownModule> = names.iter().map(|name| known(name)).collect();
    // What an admin has listed is needed, whether or not dkms knows of it.
    for name in settings.modules.critical.iter().chain(&settings.modules.wanted) {
        if !names.contains(name.as_str()) && !modules.iter().any(|m| m.name == *name) {
            modules.push(KnownModule {
                name: name.clone(),
                built: vec![name.clone()],
                proven: false,
                unclear: false,
            });
        }
    }
    let before = record.map(|r| r.needs.as_slice()).unwrap_or_default();
    let running = match &facts.inventory.running {
        Running::Known { release } => Some(release.as_str()),
        _ => None,
    };
    classify(&modules, &settings.modules, &facts.in_use, before, running)
}

/// `as_configured`: with the command line that clr-boot-manager would write, where its entry has another one.
fn candidate(facts: &System, kernel: &Installed, states: &[ModuleRecord], as_configured: bool) -> Candidate {
    let release = kernel.name.release();
    let taken = |s: &ModuleRecord| as_configured && refused_by_entry_only(facts, s);
    let mine = states.iter().filter(|s| s.kernel == release);
    let modules: BTreeMap<String, Ready> =
        mine.map(|s| (s.module.name.clone(), if taken(s) { Ready::Yes } else { ready(s) })).collect();
    Candidate {
        bootable: is_bootable(facts, kernel),
        running: kernel.running,
        // A mark that cannot be read is no reason to doubt a kernel.
        booted: kernel.booted != There::No,
        default: facts.boot.default.as_ref().is_some_and(|d| d.id.as_ref() == Some(&kernel.id)),
        release,
        modules,
    }
}

/// Whether the boot default can be pointed to it.
pub fn is_bootable(facts: &System, kernel: &Installed) -> bool {
    // An entry that is not there is made by clr-boot-manager for the tips and the running kernel, and for no other.
    let entry = facts.boot.loader.is_none() || facts.boot.of(&kernel.id).is_some();
    kernel.modules != There::No && (entry || kernel.tip || kernel.running)
}

/// It is there, and the running kernel takes it; that the next boot of it will not is no reason to say that nobody needs
/// it. Who has switched the parameter off for good does not.
fn works_until_reboot(facts: &System, settings: &Settings, status: &ModuleRecord) -> bool {
    status.state == State::SignatureRefused
        && (refused_by_entry_only(facts, status)
            || (settings.sig_unenforce != SigUnenforce::Off
                && !refused_now(facts, &status.module, &status.files)))
}

/// Only the command line of the boot entry has the kernel refuse it, which clr-boot-manager would write anew.
fn refused_by_entry_only(facts: &System, status: &ModuleRecord) -> bool {
    status.state == State::SignatureRefused
        && would_be_taken(facts, &status.kernel, &status.module, &status.files)
}

fn ready(status: &ModuleRecord) -> Ready {
    let missing = || Missing {
        version: status.module.version.clone(),
        state: status.state.to_string(),
        reason: status.reason.clone().unwrap_or_default(),
    };
    match status.state {
        State::Ok => Ready::Yes,
        // Without its dkms.conf nobody knows the names of its files: they may be there.
        State::Unknown | State::BrokenSource => Ready::Unknown(missing()),
        _ => Ready::No(missing()),
    }
}
