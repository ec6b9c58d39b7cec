//! From facts to the decision: what each kernel has of what this machine needs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Candidate, Decision, Need, Ready, decide};
use crate::config::Settings;
use crate::dkms::plan::State;
use crate::facts::Facts;
use crate::kernel::Installed;
use crate::kernel::inventory::There;
use crate::needs::{Known, classify};
use crate::state::{ModuleRecord, Record};
use crate::status::module_status;

/// What this machine needs, and what follows for the boot default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// One for each module.
    pub needs: Vec<Need>,
    /// The decision.
    pub decision: Decision,
}

impl Judgement {
    /// The need of a module, by its name.
    pub fn need(&self, module: &str) -> Option<&Need> {
        self.needs.iter().find(|need| need.module == module)
    }
}

/// Judges. `record` is that of the last run.
pub fn judge(facts: &Facts, settings: &Settings, record: Option<&Record>) -> Judgement {
    let states: Vec<ModuleRecord> = facts.pairs.iter().map(|p| module_status(facts, p, record)).collect();
    let needs = needs(facts, settings, record, &states);
    // Ascending: the inventory begins with the newest.
    let kernels: Vec<Candidate> =
        facts.inventory.kernels.iter().rev().map(|kernel| candidate(facts, kernel, &states)).collect();
    let target = facts.inventory.boot_default().map(|k| k.name.release());
    Judgement { decision: decide(&kernels, target.as_deref(), &needs, &facts.wishes), needs }
}

fn needs(
    facts: &Facts,
    settings: &Settings,
    record: Option<&Record>,
    states: &[ModuleRecord],
) -> Vec<Need> {
    let names: BTreeSet<&str> = facts.pairs.iter().map(|p| p.module.name.as_str()).collect();
    let proven = |name: &str| {
        let on_running = |s: &&ModuleRecord| s.module.name == name && facts.inventory.runs(&s.kernel);
        states.iter().filter(on_running).any(|s| s.state == State::Ok)
    };
    let known = |name: &str| {
        // Another version, or the same one on another kernel, may have other files: all of them are this module.
        let confs = facts.pairs.iter().filter(|p| p.module.name == name).filter_map(|p| p.conf.as_ref().ok());
        let built: BTreeSet<String> = confs.flat_map(|c| c.built.iter().map(|b| b.name.clone())).collect();
        Known { name: name.to_owned(), built: built.into_iter().collect(), proven: proven(name) }
    };
    let mut modules: Vec<Known> = names.iter().map(|name| known(name)).collect();
    // What an admin has listed is needed, whether or not dkms knows of it.
    for name in settings.modules.critical.iter().chain(&settings.modules.wanted) {
        if !names.contains(name.as_str()) && !modules.iter().any(|m| m.name == *name) {
            modules.push(Known { name: name.clone(), built: vec![name.clone()], proven: false });
        }
    }
    let before = record.map(|r| r.needs.as_slice()).unwrap_or_default();
    classify(&modules, &settings.modules, &facts.in_use, before)
}

fn candidate(facts: &Facts, kernel: &Installed, states: &[ModuleRecord]) -> Candidate {
    let release = kernel.name.release();
    let mine = states.iter().filter(|s| s.kernel == release);
    let modules: BTreeMap<String, Ready> = mine.map(|s| (s.module.name.clone(), ready(s))).collect();
    // An entry that is not there is made by clr-boot-manager for the tips and the running kernel, and for no other.
    let entry = facts.boot.loader.is_none() || facts.boot.of(&kernel.id).is_some();
    Candidate {
        bootable: kernel.modules != There::No && (entry || kernel.tip || kernel.running),
        running: kernel.running,
        // A mark that cannot be read is no reason to doubt a kernel.
        booted: kernel.booted != There::No,
        release,
        modules,
    }
}

fn ready(status: &ModuleRecord) -> Ready {
    let why = || status.reason.clone().unwrap_or_else(|| status.state.to_string());
    match status.state {
        State::Ok => Ready::Yes,
        State::Unknown => Ready::Unknown(why()),
        _ => Ready::No(why()),
    }
}
