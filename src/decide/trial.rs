//! The trial of a new kernel: it is booted once, and becomes the boot default only if it works. Pure.
//!
//! All modules that the machine requires are proven on disk before a trial. A trial shows what no proof can:
//! that the kernel boots, and that the modules do their work on its devices.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use strum::EnumDiscriminants;

use super::readiness::{Candidate, Missing, Ready, lacks};
use crate::boot::one_shot;
use crate::boot_decision::{BootDecision, Reason, Ruling};
use crate::config::{ReturnPolicy, Settings};
use crate::requirement::{Importance, Requirement};
use crate::state::ModuleRecord;
use crate::state::trial::{FailedModule, Trial, TrialFailure};
use crate::system::System;

/// The state of a module, as a word, on a kernel on which it is proven but did not work.
pub const FAILED_ON_TRIAL: &str = "failed-on-trial";
/// How many boots of a kernel may end in an orderly reboot before its check has ended. That is not a failure,
/// but a kernel that is never checked must not be booted for ever.
pub const UNCHECKED_BOOTS: u32 = 3;

/// How far the recorded trial has got.
#[derive(Debug, Clone, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(TrialWord), derive(Serialize), serde(rename_all = "kebab-case"))]
#[strum_discriminants(doc = "How far a trial has got, as a word.")]
pub enum TrialStage {
    /// The kernel boots next, once.
    Armed,
    /// It runs, and has not shown yet that it works.
    Running,
    /// A critical module did not work.
    Failed(Vec<FailedModule>),
    /// It was booted, and its check did not come to an end: it hung, crashed, or lost its power. Or another
    /// entry was chosen in the boot menu.
    Unfinished,
    /// The machine was rebooted in an orderly way before the check had ended, [`UNCHECKED_BOOTS`] times.
    Unchecked,
}

/// A trial, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialNow {
    /// The release of the kernel.
    pub kernel: String,
    /// The release of the kernel to return to.
    pub fallback: String,
    /// It is booted once, while the fallback stays the boot default. Otherwise it is the boot default.
    pub once: bool,
    pub since: Timestamp,
    pub stage: TrialStage,
    /// The kernel runs, and an admin wants to return from a kernel that does not work.
    pub asks_to_return: bool,
}

/// The trial that is prepared, under way, or failed.
pub(super) fn trial_now(system: &System, settings: &Settings) -> Option<TrialNow> {
    let (trial, stage) = trial_stage(system)?;
    Some(TrialNow {
        kernel: trial.kernel.clone(),
        fallback: trial.fallback.clone(),
        once: trial.entry.is_some(),
        since: trial.since,
        stage,
        asks_to_return: system.inventory.runs(&trial.kernel) && settings.boot_return != ReturnPolicy::No,
    })
}

/// A new kernel is to be booted on trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialPlan {
    /// The release of the kernel.
    pub kernel: String,
    /// The release of the kernel to return to.
    pub fallback: String,
    /// It is booted once, while the fallback stays the boot default. Otherwise it is the boot default.
    pub once: bool,
}

/// The recorded trial and its stage. None without a trial, and if the trial is void: its kernel is not
/// installed any more, or its modules have been built again since they failed.
pub fn trial_stage(system: &System) -> Option<(&Trial, TrialStage)> {
    let trial = system.trial.recorded.as_ref()?;
    Some((trial, stage_of(system, trial)?))
}

fn stage_of(system: &System, trial: &Trial) -> Option<TrialStage> {
    system.inventory.of_release(&trial.kernel)?;
    let runs = system.inventory.runs(&trial.kernel);
    let current = system.in_use.boot.id.as_ref();
    let is_later = trial.boot.as_ref().zip(current).is_some_and(|(prepared, current)| prepared != current);
    let is_consumed = trial.entry.is_some() && is_later && system.trial.one_shot.is_ok();
    let stage = match &trial.failed {
        Some(failure) => TrialStage::Failed(failure.modules.clone()),
        None if runs => TrialStage::Running,
        None if is_consumed && !system.trial.is_armed() => match trial.unchecked {
            0..UNCHECKED_BOOTS => TrialStage::Unfinished,
            UNCHECKED_BOOTS.. => TrialStage::Unchecked,
        },
        None => TrialStage::Armed,
    };
    let is_failure = matches!(stage, TrialStage::Failed(_) | TrialStage::Unfinished | TrialStage::Unchecked);
    // Files that cannot be proven now may still be the same.
    let is_other = |(module, sums): (&String, &Vec<String>)| trial.built.get(module) != Some(sums);
    let is_void = is_failure && !runs && built(system, &trial.kernel, &trial.expects).iter().any(is_other);
    (!is_void).then_some(stage)
}

/// The trials that have failed, with the modules that did not work: the recorded trial, and those before it.
fn failures(system: &System) -> Vec<(&Trial, Vec<FailedModule>)> {
    let all = system.trial.recorded.iter().flat_map(|trial| trial.earlier.iter().chain([trial]));
    let failed = all.filter_map(|trial| Some((trial, failed_modules(trial, stage_of(system, trial)?))));
    failed.filter(|(_, modules)| !modules.is_empty()).collect()
}

/// Whether the trial of a kernel has failed.
pub fn has_failed(system: &System, release: &str) -> bool {
    failures(system).iter().any(|(trial, _)| trial.kernel == release)
}

/// The failed trials of other kernels, for the record of the trial of this kernel.
pub fn failed_before(system: &System, release: &str) -> Vec<Trial> {
    let others = failures(system).into_iter().filter(|(trial, _)| trial.kernel != release);
    let alone = |(trial, modules): (&Trial, Vec<FailedModule>)| {
        // Of a boot that did not end, only the beginning of the trial is known.
        let failed = trial.failed.clone().unwrap_or(TrialFailure { at: trial.since, modules });
        Trial { failed: Some(failed), earlier: Vec::new(), ..trial.clone() }
    };
    others.map(alone).collect()
}

/// The SHA-256 of the files of required modules on a kernel, by module; only of modules that are proven.
pub fn built(system: &System, release: &str, needs: &[Requirement]) -> BTreeMap<String, Vec<String>> {
    let pairs = system.modules_on_kernels.iter().chain(&system.fallbacks);
    let pairs = pairs.filter(|p| p.release == release && needs.iter().any(|n| n.module == p.module.name));
    let built = pairs.filter_map(|pair| {
        // What is not proven has no files.
        let proofs = pair.proof.as_ref().ok()?.iter().filter_map(|proof| proof.sha256.clone());
        Some((pair.module.name.clone(), proofs.collect()))
    });
    built.collect()
}

/// The requirements that a new kernel has to fulfil on trial: what works now. A critical module must be
/// loaded now: the device of another one may be unplugged. What does not work now because the running kernel
/// has failed its trial must work on the next one.
pub fn expected(system: &System, needs: &[Requirement], release: &str) -> Vec<Requirement> {
    let is_loaded = |need: &Requirement| need.modules().iter().any(|m| system.in_use.loaded.contains(m));
    let counts = |need: &&Requirement| match need.class {
        Importance::Optional => false,
        Importance::Wanted => need.works,
        Importance::Critical => need.works && is_loaded(need),
    };
    let mut expected: Vec<Requirement> = needs.iter().filter(counts).cloned().collect();
    let is_needed = |lost: &&Requirement| {
        let mut same = needs.iter().filter(|need| need.module == lost.module);
        same.any(|need| need.class > Importance::Optional)
    };
    let failures = failures(system).into_iter().filter(|(trial, _)| system.inventory.runs(&trial.kernel));
    for lost in failures.flat_map(|(trial, _)| &trial.expects).filter(is_needed) {
        if !expected.iter().any(|need| need.module == lost.module) {
            expected.push(lost.clone());
        }
    }
    expected.retain(|need| !system.wishes.allows(release, &need.module));
    expected
}

/// The modules that are known not to work on the kernel of a trial.
fn failed_modules(trial: &Trial, stage: TrialStage) -> Vec<FailedModule> {
    let why = match stage {
        TrialStage::Armed | TrialStage::Running => return Vec::new(),
        TrialStage::Failed(modules) => return modules,
        TrialStage::Unfinished => "its boot on trial ended before it had shown that it works",
        TrialStage::Unchecked => "the machine was rebooted before it could be checked",
    };
    let failed = |need: &Requirement| FailedModule { module: need.module.clone(), why: why.to_owned() };
    trial.expects.iter().map(failed).collect()
}

/// Modules that did not work on trial are missing on that kernel, even if they are proven.
pub(super) fn apply_failure(system: &System, states: &[ModuleRecord], candidates: &mut [Candidate]) {
    for (trial, modules) in failures(system) {
        let of_trial = candidates.iter_mut().find(|kernel| kernel.release == trial.kernel);
        let Some(kernel) = of_trial else { continue };
        for FailedModule { module, why } in modules {
            let state = states.iter().find(|s| s.kernel == trial.kernel && s.module.name == module);
            let version = state.map(|state| state.module.version.clone()).unwrap_or_default();
            let missing = Missing { version, state: FAILED_ON_TRIAL.to_owned(), reason: why };
            kernel.modules.insert(module, Ready::No(missing));
        }
    }
}

/// While a kernel on trial runs, its proven modules that do not work do not count as working.
pub(super) fn apply_to_needs(system: &System, needs: &mut [Requirement]) {
    for (trial, modules) in failures(system) {
        if !system.inventory.runs(&trial.kernel) {
            continue;
        }
        for need in needs.iter_mut().filter(|need| modules.iter().any(|m| m.module == need.module)) {
            need.works = false;
            need.worked_on = Some(trial.fallback.clone());
        }
    }
}

/// While a kernel runs on trial, the kernel to return to stays the boot default, if it has what is critical.
/// An update may have brought another kernel meanwhile: it waits until the trial is over.
pub(super) fn while_running(
    system: &System,
    decision: BootDecision,
    candidates: &[Candidate],
    needs: &[Requirement],
) -> BootDecision {
    let Some((trial, TrialStage::Running)) = trial_stage(system) else { return decision };
    let is_asked = trial.entry.is_some()
        && !matches!(decision.because, Reason::Held | Reason::Unknown)
        && decision.default.as_ref() != Some(&trial.fallback)
        && can_fall_back(candidates, &trial.fallback, needs);
    match is_asked {
        true => BootDecision {
            ruling: Ruling::Defer,
            because: Reason::Trial,
            default: Some(trial.fallback.clone()),
            is_unsafe: false,
            default_lacks: Vec::new(),
            ..decision
        },
        false => decision,
    }
}

/// Whether a decision is one after which the new kernel is booted on trial. A kernel that an admin holds, or
/// one without an alternative, is not.
fn is_tried_first(decision: &BootDecision) -> bool {
    decision.ruling == Ruling::Allow
        && matches!(decision.because, Reason::Proven | Reason::Released)
        && !decision.is_unsafe
}

/// Whether a kernel has everything critical.
pub(super) fn can_fall_back(candidates: &[Candidate], release: &str, needs: &[Requirement]) -> bool {
    let critical = || needs.iter().filter(|need| need.class == Importance::Critical);
    let kernel = candidates.iter().find(|kernel| kernel.release == release);
    kernel.is_some_and(|kernel| kernel.bootable && lacks(kernel, critical()).is_empty())
}

/// The kernel to return to: the newer one of the boot default and the running kernel, or the newest one that
/// was good before.
pub(super) fn fallback_of(
    system: &System,
    candidates: &[Candidate],
    needs: &[Requirement],
    release: &str,
) -> Option<String> {
    let configured = system.boot.configured.as_ref().and_then(|default| default.id.as_ref());
    let is_configured = |k: &Candidate| system.inventory.of_release(&k.release).map(|k| &k.id) == configured;
    let known = candidates.iter().filter(|k| k.release != release && k.is_tried());
    let known =
        known.filter(|k| can_fall_back(candidates, &k.release, needs) && !has_failed(system, &k.release));
    known.max_by_key(|k| is_configured(k) || k.running).map(|k| k.release.clone())
}

/// Decides whether the kernel of a decision is to be booted on trial. None if nothing is required, if the
/// kernel runs or was booted before, if nothing checks it, or if there is no kernel to return to.
pub(super) fn plan(
    system: &System,
    settings: &Settings,
    decision: &BootDecision,
    candidates: &[Candidate],
    needs: &[Requirement],
) -> Option<TrialPlan> {
    let release = decision.default.as_deref().filter(|_| is_tried_first(decision))?;
    let kernel = candidates.iter().find(|kernel| kernel.release == release)?;
    // Its record would replace that of the kernel that runs on trial.
    if matches!(trial_stage(system), Some((_, TrialStage::Running))) {
        return None;
    }
    // Without a check a trial would never end.
    if !system.trial.is_checked
        || kernel.running
        || kernel.booted
        || expected(system, needs, release).is_empty()
    {
        return None;
    }
    let fallback = fallback_of(system, candidates, needs, release)?;
    // An EFI variable of an admin overrides the boot default, and with it the kernel to return to. While a
    // trial is prepared, the variable for one boot hides it.
    let is_overridden = system.boot.persistent.is_some();
    let has_usual_entry = system.boot.of(&system.inventory.of_release(release)?.id);
    let once = settings.boot_trial
        && system.trial.can_boot_once
        && !is_overridden
        && has_usual_entry.is_none_or(one_shot::can_choose);
    Some(TrialPlan { kernel: release.to_owned(), fallback, once })
}
