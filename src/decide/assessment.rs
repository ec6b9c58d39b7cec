//! The assessment of the whole machine: what it requires, what each kernel has of that, and which kernel
//! should boot.

use super::boot_choice::{choose_default, keep_default};
use super::candidates::{candidate, initrd_requirement};
use super::module_state::{RefusalNow, module_status, refusal_now};
use super::next_boot::{NextBoot, booted_from_installed, next_boot};
use super::readiness::{Candidate, Ready, lacks};
use super::requirements::{keep_remembered, requirements};
use super::trial::{self, TrialNow, TrialPlan};
use super::unread::{gaps, runs_foreign_kernel};
use crate::boot_decision::{BootDecision, NextBootSource, Reason};
use crate::config::Settings;
use crate::dkms::plan::State;
use crate::kernel::{KernelName, Running};
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::{ModuleRecord, RunRecord};
use crate::system::System;

#[derive(Debug, Clone)]
pub struct BootAssessment {
    /// What the machine requires: one requirement for each module.
    pub needs: Vec<Requirement>,
    /// Which kernel should be the boot default.
    pub decision: BootDecision,
    /// What boots next if nothing is changed.
    pub next: NextBoot,
    /// The critical modules that the next boot lacks. Empty if the next boot is unknown.
    pub next_lacks: Vec<MissingModule>,
    /// The critical modules that the chosen default lacks when it is booted with its present boot entry.
    pub entry_lacks: Vec<MissingModule>,
    /// It is unknown which kernel boots next, and the kernels differ in what the machine requires.
    pub is_open: bool,
    /// The guard changes the boot files of this system.
    pub acts: bool,
    /// The release of the kernel that is kept from becoming the boot default.
    pub held_back: Option<String>,
    /// Required modules that the running kernel lacks and the next boot has.
    pub comes_back: Vec<String>,
    /// Modules (`name/version`) that are proven for the running kernel, which also boots next, but that it
    /// refuses until then.
    pub refused_until_reboot: Vec<String>,
    /// Modules that the running kernel, which boots next, may refuse now, because their signature may not be
    /// trusted, and accepts after it is booted again.
    pub may_be_refused_until_reboot: Vec<String>,
    /// The fact that could not be read, if nothing can be decided without it.
    pub unknown: Option<String>,
    /// The kernel release to make the boot default because the next boot is not safe, and no update of the
    /// boot files has changed that: with its present boot entry it has everything critical.
    pub rescue: Option<String>,
    /// The chosen kernel is to be booted on trial.
    pub trial: Option<TrialPlan>,
    /// The trial that is prepared, under way, or failed.
    pub trial_now: Option<TrialNow>,
    /// No `default-TYPE` symlink names the target, so clr-boot-manager leaves the boot default as it is.
    pub leaves_default: bool,
    /// A fact about the target that could not be read. The target then counts as lacking the required
    /// modules.
    pub unknown_target: Option<String>,
    /// All installed kernels in ascending order, with the command lines that clr-boot-manager would write.
    candidates: Vec<Candidate>,
}

impl BootAssessment {
    /// The next boot, now or after the decision is carried out, lacks something critical or all of its
    /// modules.
    pub fn is_unsafe(&self) -> bool {
        self.decision.is_unsafe || !self.next_lacks.is_empty() || self.next.is_removed()
    }

    /// `[modules] optional` lists the module.
    pub fn is_listed_as_optional(&self, module: &str) -> bool {
        let mut needs = self.needs.iter().filter(|need| need.module == module);
        needs.any(|need| need.class == Importance::Optional && need.is_listed())
    }

    /// The importance of a module, by its name.
    pub fn class_of(&self, module: &str) -> Importance {
        self.needs.iter().find(|need| need.module == module).map_or(Importance::Optional, |need| need.class)
    }

    /// The boot default is the one that was decided on.
    pub fn is_carried_out(&self) -> bool {
        self.decision.default.as_deref() == self.next.release()
    }

    /// The chosen kernel is to be booted once, while another one stays the boot default.
    pub fn is_tried_once(&self) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.once)
    }

    /// The kernel release that must be made the boot default; see [`BootDecision::asserted_default`].
    pub fn asserted_default(&self, entry_lacks: &[MissingModule]) -> Option<&str> {
        if self.rescue.is_some() || self.is_tried_once() {
            return self.rescue.as_deref();
        }
        self.decision.asserted_default(entry_lacks, self.next.is_removed(), self.leaves_default)
    }

    /// The kernel to return to from a kernel that does not work.
    pub fn fallback_of(&self, system: &System, release: &str) -> Option<String> {
        trial::fallback_of(system, &self.candidates, &self.needs, release)
    }

    /// The modules that a kernel lacks of some requirements. Everything that is not proven counts as lacking.
    pub fn lacks_on(&self, release: &str, needs: impl Fn(&Requirement) -> bool) -> Vec<MissingModule> {
        let needs = self.needs.iter().filter(|need| needs(need));
        match self.candidates.iter().find(|k| k.release == release) {
            Some(kernel) => lacks(kernel, needs),
            None => needs.map(missing_with_kernel).collect(),
        }
    }
}

/// Whether the guard changes the boot files of this system. It does not for an image, because nothing boots
/// from it, nor if the settings ask for reports only.
pub fn guard_acts(is_image: bool, settings: &Settings) -> bool {
    !is_image && settings.guards()
}

/// What a boot of a kernel that is no longer installed lacks: every module.
fn missing_with_kernel(need: &Requirement) -> MissingModule {
    MissingModule {
        module: need.module.clone(),
        class: need.class,
        needed: need.reason.clone(),
        state: State::NotBuilt.to_string(),
        reason: "the kernel is not installed any more".to_owned(),
    }
}

/// Assesses a machine. `record` is the record of the last run.
pub fn assess(system: &System, settings: &Settings, record: Option<&RunRecord>) -> BootAssessment {
    let modules_on_kernels = system.modules_on_kernels.iter().chain(&system.fallbacks);
    let states: Vec<ModuleRecord> = modules_on_kernels.map(|p| module_status(system, p, record)).collect();
    let gaps = gaps(system);
    let mut needs = requirements(system, settings, record, &states);
    if gaps.everything.is_some() {
        keep_remembered(&mut needs, record);
    }
    trial::apply_to_needs(system, &mut needs);
    // This requirement is derived from the initrds at each run, and is not recorded.
    let all: Vec<Requirement> = needs.iter().cloned().chain(initrd_requirement(system)).collect();
    let next = next_boot(system);
    let as_seen = |as_configured: bool| -> Vec<Candidate> {
        let candidate = |kernel| candidate(system, kernel, &states, &all, &gaps, next.shown(), as_configured);
        // The inventory begins with the newest kernel; candidates are in ascending order.
        let mut kernels: Vec<Candidate> = system.inventory.kernels.iter().rev().map(candidate).collect();
        trial::apply_failure(system, &states, &mut kernels);
        kernels
    };
    let candidates = as_seen(true);
    // With the present boot entries, not as clr-boot-manager would write them.
    let as_booted = as_seen(false);
    let target = system.inventory.boot_default().map(|k| k.name.release());
    let mut decision =
        choose_default(&candidates, target.as_deref(), is_orphaned(system), &all, &system.wishes);
    decision = trial::while_running(system, decision, &candidates, &all);
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
    let trial = trial::plan(system, settings, &decision, &candidates, &all).filter(|_| acts);
    let default = as_booted.iter().find(|k| Some(&k.release) == decision.default.as_ref());
    let by_entry = booted_next.filter(|_| next.source() == Some(NextBootSource::Entry));
    let may_rescue = acts && gaps.everything.is_none() && !runs_foreign_kernel(system);
    let rescue = match by_entry.filter(|_| may_rescue) {
        Some(next) => rescue(system, (next, &as_booted), &all, &decision, trial.is_some()),
        None => None,
    };
    let until_reboot = match booted_next {
        Some(kernel) if kernel.running => until_reboot(system, &states),
        _ => Vec::new(),
    };
    let waiting = |how: RefusalNow| -> Vec<String> {
        until_reboot.iter().filter(|(_, refusal)| *refusal == how).map(|(name, _)| name.clone()).collect()
    };
    BootAssessment {
        entry_lacks: default.map(|k| lacks(k, critical())).unwrap_or_default(),
        rescue,
        is_open: next.unknown().is_some() && makes_a_difference(system, record, &as_booted, &needs),
        held_back: decision.target.clone().filter(|_| acts && decision.holds_back()),
        comes_back: match booted_next {
            Some(kernel) if !kernel.running && next_lacks.is_empty() => comes_back(kernel, &needs),
            _ => Vec::new(),
        },
        refused_until_reboot: waiting(RefusalNow::Certain),
        may_be_refused_until_reboot: waiting(RefusalNow::Possible),
        leaves_default: system.inventory.running != Running::None
            && system.inventory.boot_default().is_some_and(|kernel| !kernel.is_named),
        unknown_target: target.and_then(|release| gaps.kernels.get(&release).cloned()),
        trial_now: trial::trial_now(system, settings),
        trial: trial.filter(|_| gaps.everything.is_none()),
        unknown: gaps.everything,
        candidates,
        acts,
        decision,
        next_lacks,
        next,
        needs,
    }
}

/// If the next kernel is known to lack something critical, the kernel that boots safely with its present
/// entry: the chosen one unless it is still to be tried, or else one that was booted before.
fn rescue(
    system: &System,
    (next, as_booted): (&Candidate, &[Candidate]),
    needs: &[Requirement],
    decision: &BootDecision,
    is_to_be_tried: bool,
) -> Option<String> {
    // What is unknown does not justify leaving a kernel.
    let is_lacking =
        |need: &Requirement| !matches!(next.modules.get(&need.module), Some(Ready::Yes | Ready::Unknown(_)));
    let mut critical = needs.iter().filter(|need| need.class == Importance::Critical);
    if !critical.any(is_lacking) || matches!(decision.because, Reason::Held | Reason::Released) {
        return None;
    }
    let chosen = decision.default.as_deref().filter(|_| !is_to_be_tried);
    let has_entry = |release: &str| {
        system.inventory.of_release(release).is_some_and(|k| system.boot.has_whole_entry(&k.id))
    };
    let is_chosen = |k: &Candidate| chosen == Some(k.release.as_str());
    let safe = as_booted.iter().filter(|k| is_chosen(k) || k.is_tried());
    let safe = safe.filter(|k| trial::can_fall_back(as_booted, &k.release, needs) && has_entry(&k.release));
    safe.max_by_key(|k| (is_chosen(k), k.running)).map(|k| k.release.clone())
}

/// A kernel of this system runs, but no kernel of its variant is installed any more. clr-boot-manager then
/// leaves the boot default as it is, which may be an entry of a kernel without modules.
fn is_orphaned(system: &System) -> bool {
    let Running::Known { release } = &system.inventory.running else { return false };
    system.inventory.boot_default().is_none()
        && KernelName::from_release(release, &system.inventory.namespace).is_some()
}

/// Whether the unknown next boot matters. It does not if nothing is needed, or if every kernel that may boot
/// has everything that is needed. The kernels that may boot are those of the visible entries. If no entry is
/// visible they are all installed kernels, provided that the last run saw one of them as the default and that
/// the inputs of the boot files have not changed since.
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

/// Required modules that do not work now and are ready on that kernel.
fn comes_back(kernel: &Candidate, needs: &[Requirement]) -> Vec<String> {
    let is_back = |need: &&Requirement| {
        need.class > Importance::Optional
            && !need.works
            && kernel.modules.get(&need.module) == Some(&Ready::Yes)
    };
    needs.iter().filter(is_back).map(|need| need.module.clone()).collect()
}

/// Modules that the running kernel refuses now, or may refuse, and accepts after it is booted again.
fn until_reboot(system: &System, states: &[ModuleRecord]) -> Vec<(String, RefusalNow)> {
    let accepted = states.iter().filter(|s| s.state == State::Ok && system.inventory.runs(&s.kernel));
    let refused = accepted.filter_map(|s| Some((s, refusal_now(system, &s.module, &s.files)?)));
    refused.map(|(s, refusal)| (s.module.to_string(), refusal)).collect()
}
