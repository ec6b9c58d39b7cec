//! From facts to the decision: what each kernel has of what this machine needs.

use super::boot_choice::{choose_default, keep_default};
use super::candidates::{candidate, initrd_requirement};
use super::module_state::{module_status, refused_now};
use super::next_boot::{NextBoot, booted_from_installed, next_boot};
use super::readiness::{Candidate, Ready, lacks};
use super::requirements::{keep_remembered, requirements};
use super::unread::gaps;
use crate::boot_decision::BootDecision;
use crate::config::Settings;
use crate::dkms::plan::State;
use crate::kernel::{KernelName, Running};
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::{ModuleRecord, RunRecord};
use crate::system::System;

/// What this machine needs, and what follows for the boot default.
#[derive(Debug, Clone)]
pub struct BootAssessment {
    /// One for each module.
    pub needs: Vec<Requirement>,
    /// The decision.
    pub decision: BootDecision,
    /// What boots next as things are.
    pub next: NextBoot,
    /// What that lacks of what is critical; nothing where it is unknown.
    pub next_lacks: Vec<MissingModule>,
    /// What the default of the decision lacks of what is critical, with its boot entry as it is.
    pub entry_lacks: Vec<MissingModule>,
    /// It is unknown which kernel boots next, and the kernels differ in what this machine needs.
    pub is_open: bool,
    /// Whether the guard acts on this system.
    pub acts: bool,
    /// The release of the kernel that is kept from becoming the boot default.
    pub held_back: Option<String>,
    /// The modules that the running kernel lacks, and that the kernel that boots next has.
    pub comes_back: Vec<String>,
    /// The modules, `name/version`, that are proven for the running kernel, which boots next, and that it
    /// refuses until then.
    pub refused_until_reboot: Vec<String>,
    /// The fact that could not be read, for want of which nothing is decided; none where the decision stands.
    pub unknown: Option<String>,
    /// No `default-TYPE` names the target: clr-boot-manager leaves the boot default as it is.
    pub leaves_default: bool,
    /// A fact about the target that could not be read: it counts as lacking what is needed.
    pub unknown_target: Option<String>,
    /// All installed kernels, in ascending order, as clr-boot-manager would boot them.
    candidates: Vec<Candidate>,
}

impl BootAssessment {
    /// What boots next, or would by the decision, is without something critical, or without all of its
    /// modules.
    pub fn is_unsafe(&self) -> bool {
        self.decision.is_unsafe || !self.next_lacks.is_empty() || self.next.is_removed()
    }

    /// `[modules] optional` lists it.
    pub fn is_listed_as_optional(&self, module: &str) -> bool {
        let mut needs = self.needs.iter().filter(|need| need.module == module);
        needs.any(|need| need.class == Importance::Optional && need.is_listed())
    }

    /// How much a module, by its name, is needed.
    pub fn class_of(&self, module: &str) -> Importance {
        self.needs.iter().find(|need| need.module == module).map_or(Importance::Optional, |need| need.class)
    }

    /// The boot default is the one that it should be.
    pub fn is_carried_out(&self) -> bool {
        self.decision.default.as_deref() == self.next.release()
    }

    /// The kernel release that the default is to be pointed to, where `entry_lacks` is what it lacks of what is critical
    /// when it is booted by its present entry.
    pub fn asserted_default(&self, entry_lacks: &[MissingModule]) -> Option<&str> {
        self.decision.asserted_default(entry_lacks, self.next.is_removed(), self.leaves_default)
    }

    /// What a kernel lacks of those needs: whatever is not proven for it.
    pub fn lacks_on(&self, release: &str, needs: impl Fn(&Requirement) -> bool) -> Vec<MissingModule> {
        let needs = self.needs.iter().filter(|need| needs(need));
        match self.candidates.iter().find(|k| k.release == release) {
            Some(kernel) => lacks(kernel, needs),
            None => needs.map(missing_with_kernel).collect(),
        }
    }
}

/// Whether the guard acts on this system: not on an image, whose boot files nothing boots from while it is
/// one, nor where it was asked to report only.
pub fn guard_acts(is_image: bool, settings: &Settings) -> bool {
    !is_image && settings.guards()
}

/// What a machine is without once it has booted a kernel that is not installed any more.
fn missing_with_kernel(need: &Requirement) -> MissingModule {
    MissingModule {
        module: need.module.clone(),
        class: need.class,
        needed: need.reason.clone(),
        state: State::NotBuilt.to_string(),
        reason: "the kernel is not installed any more".to_owned(),
    }
}

/// Judges. `record` is that of the last run.
pub fn assess(system: &System, settings: &Settings, record: Option<&RunRecord>) -> BootAssessment {
    let modules_on_kernels = system.modules_on_kernels.iter().chain(&system.fallbacks);
    let states: Vec<ModuleRecord> = modules_on_kernels.map(|p| module_status(system, p, record)).collect();
    let gaps = gaps(system);
    let mut needs = requirements(system, settings, record, &states);
    if gaps.everything.is_some() {
        keep_remembered(&mut needs, record);
    }
    // It is found again each time, and not remembered.
    let all: Vec<Requirement> = needs.iter().cloned().chain(initrd_requirement(system)).collect();
    let next = next_boot(system);
    let as_seen = |as_configured: bool| -> Vec<Candidate> {
        let candidate = |kernel| candidate(system, kernel, &states, &all, &gaps, next.shown(), as_configured);
        // Ascending: the inventory begins with the newest.
        system.inventory.kernels.iter().rev().map(candidate).collect()
    };
    let candidates = as_seen(true);
    // As the boot entries are now, and not as clr-boot-manager would make them.
    let as_booted = as_seen(false);
    let target = system.inventory.boot_default().map(|k| k.name.release());
    let mut decision =
        choose_default(&candidates, target.as_deref(), is_orphaned(system), &all, &system.wishes);
    if gaps.everything.is_some() {
        decision = keep_default(decision, next.release().map(str::to_owned));
    }
    let critical = || all.iter().filter(|n| n.class == Importance::Critical);
    let booted_next = as_booted.iter().find(|k| next.is(&k.release));
    let next_lacks = match (&next, booted_next) {
        (NextBoot::Removed { .. }, _) => critical().map(missing_with_kernel).collect(),
        (_, Some(kernel)) => lacks(kernel, critical()),
        (_, None) => Vec::new(),
    };
    let acts = guard_acts(system.inventory.running == Running::None, settings);
    let default = as_booted.iter().find(|k| Some(&k.release) == decision.default.as_ref());
    BootAssessment {
        entry_lacks: default.map(|k| lacks(k, critical())).unwrap_or_default(),
        is_open: next.unknown().is_some() && makes_a_difference(system, record, &as_booted, &needs),
        held_back: decision.target.clone().filter(|_| acts && decision.holds_back()),
        comes_back: match booted_next {
            Some(kernel) if !kernel.running && next_lacks.is_empty() => comes_back(kernel, &needs),
            _ => Vec::new(),
        },
        refused_until_reboot: match booted_next {
            Some(kernel) if kernel.running => refused_until_reboot(system, &states),
            _ => Vec::new(),
        },
        leaves_default: system.inventory.running != Running::None
            && system.inventory.boot_default().is_some_and(|kernel| !kernel.is_named),
        unknown_target: target.and_then(|release| gaps.kernels.get(&release).cloned()),
        unknown: gaps.everything,
        candidates,
        acts,
        decision,
        next_lacks,
        next,
        needs,
    }
}

/// A kernel of this system runs, and neither it nor another one of its variant is installed any more:
/// clr-boot-manager then leaves the boot default as it is, and an entry of a kernel without modules may be
/// it.
fn is_orphaned(system: &System) -> bool {
    let Running::Known { release } = &system.inventory.running else { return false };
    system.inventory.boot_default().is_none()
        && KernelName::from_release(release, &system.inventory.namespace).is_some()
}

/// Whether it matters which kernel boots next, where that is unknown. It does not where nothing is needed,
/// nor where every kernel that can be meant has all that is needed. These are the kernels of the entries,
/// where they are visible; else all that are installed, if the last run saw one of them as the default and
/// nothing that decides it has changed since.
fn makes_a_difference(
    system: &System,
    record: Option<&RunRecord>,
    kernels: &[Candidate],
    needs: &[Requirement],
) -> bool {
    let needed = || needs.iter().filter(|n| n.class > Importance::Optional);
    let is_whole = |k: &Candidate| lacks(k, needed()).is_empty();
    if needed().next().is_none() {
        return false;
    }
    let entries = &system.boot.entries;
    if system.boot.loader.is_some() {
        let of_whole_kernel = |id: &String| {
            let kernel = system.inventory.kernels.iter().find(|k| k.id == *id);
            kernel.is_some_and(|k| kernels.iter().any(|c| c.release == k.name.release() && is_whole(c)))
        };
        return entries.is_empty() || !entries.iter().all(|e| e.id.as_ref().is_some_and(of_whole_kernel));
    }
    let is_as_before = || {
        record.is_some_and(|r| r.boot.inputs.as_ref() == Some(&system.boot_inputs))
            && kernels.iter().any(|k| k.default)
            && booted_from_installed(system)
    };
    !(is_as_before() && kernels.iter().all(is_whole))
}

/// The modules that do not work now and are on that kernel.
fn comes_back(kernel: &Candidate, needs: &[Requirement]) -> Vec<String> {
    let is_back = |need: &&Requirement| {
        need.class > Importance::Optional
            && !need.works
            && kernel.modules.get(&need.module) == Some(&Ready::Yes)
    };
    needs.iter().filter(is_back).map(|need| need.module.clone()).collect()
}

/// The modules that are there for the running kernel, which takes them when it is booted again, and refuses
/// them now.
fn refused_until_reboot(system: &System, states: &[ModuleRecord]) -> Vec<String> {
    let is_refused = |s: &&ModuleRecord| {
        s.state == State::Ok && system.inventory.runs(&s.kernel) && refused_now(system, &s.module, &s.files)
    };
    states.iter().filter(is_refused).map(|s| s.module.to_string()).collect()
}
