//! The document about the decision of the boot guard.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::boot_remedies::{admin_override, boot_update_error, of_boot_default};
use super::problem::{Problem, are_unknown, lacks};
use super::remedies::{Situation, remedy};
use super::remedy::CommandTarget;
use crate::boot::deferral::Deferral;
use crate::boot_decision::{AdminOverrides, NextBootSource, OverrideNote, Reason, Ruling};
use crate::config::{BootPolicy, Settings};
use crate::decide::assessment::BootAssessment;
use crate::decide::next_boot::{NextBoot, follows_trial};
use crate::decide::trial::{FAILED_ON_TRIAL, TrialNow, TrialStage, TrialWord};
use crate::decide::unread::blocked;
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::{BootRecord, RunRecord, WISHES, WaitingPart};
use crate::system::System;

/// How swupd treats the boot files.
#[derive(Debug, Clone, Serialize)]
pub struct Swupd {
    /// Whether it leaves them to clr-dkms.
    pub defers: bool,
    /// The file and line that overrides this.
    pub overridden_by: Option<String>,
    /// Why it could not be configured.
    pub refused: Option<String>,
}

impl Swupd {
    fn of(deferral: &Deferral) -> Swupd {
        let (overridden_by, refused) = match deferral {
            Deferral::Armed => (None, None),
            Deferral::Off { overridden_by, refused } => {
                (overridden_by.as_ref().map(ToString::to_string), refused.clone())
            }
        };
        Swupd { defers: *deferral == Deferral::Armed, overridden_by, refused }
    }
}

/// What an admin has requested.
#[derive(Debug, Clone, Serialize)]
pub struct AdminWishes {
    #[serde(flatten)]
    pub wishes: AdminOverrides,
    /// The kernel releases that may boot without a module. Older versions reported only these.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub released: BTreeSet<String>,
}

/// The answer as a word; the screen and the exit code depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub enum GuardWord {
    /// The newest kernel may boot.
    Allowed,
    /// It boots without something that is wanted, as an admin has allowed.
    #[strum(to_string = "accepted")]
    Released,
    /// Another kernel stays the default.
    Held,
    /// The kernel that boots next lacks a critical module.
    Unsafe,
    /// It cannot be determined.
    Unknown,
    /// No kernel of this system is installed.
    NotApplicable,
}

/// The first boot of a new kernel.
#[derive(Debug, Clone, Serialize)]
pub struct TrialReport {
    /// The kernel release.
    pub kernel: String,
    /// The release of the kernel to return to.
    pub fallback: String,
    pub stage: TrialWord,
    /// Whether it is booted once, while the other kernel stays the boot default.
    pub once: bool,
    pub since: Timestamp,
    /// The modules that did not work, by their names.
    pub failed: Vec<String>,
}

impl TrialReport {
    fn of(trial: &TrialNow) -> TrialReport {
        let failed = match &trial.stage {
            TrialStage::Failed(modules) => modules.iter().map(|failed| failed.module.clone()).collect(),
            TrialStage::Armed | TrialStage::Running | TrialStage::Unfinished | TrialStage::Unchecked => {
                Vec::new()
            }
        };
        TrialReport {
            kernel: trial.kernel.clone(),
            fallback: trial.fallback.clone(),
            stage: (&trial.stage).into(),
            once: trial.once,
            since: trial.since,
            failed,
        }
    }
}

/// The document.
#[derive(Debug, Clone, Serialize)]
pub struct GuardReport {
    /// Increased only if the meaning of a field changes.
    pub schema: u32,
    /// The answer in one sentence.
    pub summary: String,
    /// The next step; none if there is nothing to do.
    pub next_step: Option<String>,
    /// `allow` or `defer`.
    pub ruling: Ruling,
    pub because: Reason,
    /// Whether the kernel that boots next lacks a critical module, or would.
    #[serde(rename = "unsafe")]
    pub is_unsafe: bool,
    /// `defer`, `hold` or `report`.
    pub policy: &'static str,
    /// The kernel release that clr-boot-manager makes the default.
    pub target: Option<String>,
    /// The kernel release that should be the default.
    pub default: Option<String>,
    /// The release of the kernel that boots next, or that did when it was last known.
    pub boots_next: Option<String>,
    /// How it is known; none if it is unknown.
    pub boots_next_source: Option<NextBootSource>,
    /// Why it is unknown now, as a sentence; none if it is known.
    pub boots_next_unknown: Option<String>,
    /// Whether it is not installed any more, so that its modules are not on the disk.
    pub boots_removed: bool,
    /// The entry of another system, if that boots next.
    #[serde(skip)]
    pub other_system: Option<String>,
    /// Since when a kernel is held back.
    pub held_since: Option<Timestamp>,
    /// The number of whole days since then.
    pub held_days: Option<i64>,
    /// Whether the boot files have not been changed since.
    pub deferred: bool,
    /// Parts of the boot files that are outdated, because they could not be updated without changing the boot
    /// default.
    pub waiting: Vec<WaitingPart>,
    /// The first boot of a new kernel; none without a new kernel.
    pub trial: Option<TrialReport>,
    /// The setting of swupd.
    pub swupd: Swupd,
    /// The requests of an admin.
    pub wishes: AdminWishes,
    /// What is wrong with these requests.
    pub lost_wish: Option<String>,
    /// The required modules that the target lacks.
    pub lacking: Vec<MissingModule>,
    /// The critical modules that the kernel that boots next lacks.
    pub next_lacks: Vec<MissingModule>,
    /// The importance of each module.
    pub needs: Vec<Requirement>,
    /// The answer as a word.
    #[serde(skip)]
    pub word: GuardWord,
    /// What the summary is about; none where nothing is wrong.
    #[serde(skip)]
    pub problem: Option<Problem>,
    /// `name/version` by name, for modules with one version.
    #[serde(skip)]
    pub versions: BTreeMap<String, String>,
    /// The first compiler error, by the name of the module that the target lacks.
    #[serde(skip)]
    pub errors: BTreeMap<String, String>,
}

impl GuardReport {
    pub(super) fn new(at: Situation<'_>, now: Timestamp) -> GuardReport {
        let Situation { system, settings, assessment, record, .. } = at;
        let decision = &assessment.decision;
        let boot: Option<&BootRecord> = record.map(|record| &record.boot);
        let held = boot.and_then(|boot| boot.held_back.as_ref());
        let held = held.filter(|_| decision.ruling == Ruling::Defer);
        let word = word(system, assessment);
        let problem = match word {
            GuardWord::NotApplicable => None,
            _ => unreadable(system)
                .map(|what| Problem::Unreadable { what })
                .or_else(|| problem(assessment, &system.wishes.held))
                .or_else(|| trial_overridden(system, assessment))
                .or_else(|| not_updated(at)),
        };
        let step = match (&problem, word) {
            (_, GuardWord::NotApplicable) => None,
            (Some(problem), _) => remedy(problem, at),
            (None, _) => of_boot_default(at),
        };
        GuardReport {
            schema: 1,
            summary: problem.as_ref().map_or_else(|| in_order(word, system, assessment), ToString::to_string),
            next_step: step.map(|step| step.text(&CommandTarget::of(system))),
            ruling: decision.ruling,
            because: decision.because,
            is_unsafe: assessment.is_unsafe(),
            policy: settings.boot_policy.into(),
            target: decision.target.clone(),
            default: decision.default.clone(),
            boots_next: assessment.next.shown().map(str::to_owned),
            boots_next_source: assessment.next.source(),
            boots_next_unknown: assessment.next.unknown().map(str::to_owned),
            boots_removed: assessment.next.is_removed(),
            other_system: match &assessment.next {
                NextBoot::OtherSystem { choice } => Some(choice.entry.clone()),
                _ => None,
            },
            held_since: held.map(|h| h.since),
            held_days: held.map(|h| (now.duration_since(h.since).as_hours() / 24).max(0)),
            deferred: held.is_some_and(|h| h.deferred),
            waiting: boot.map(|boot| boot.waiting.clone()).unwrap_or_default(),
            trial: assessment.trial_now.as_ref().map(TrialReport::of),
            swupd: Swupd::of(&system.deferral),
            wishes: AdminWishes { released: system.wishes.allowed_kernels(), wishes: system.wishes.clone() },
            lost_wish: lost_wish(system, assessment).map(|problem| problem.to_string()),
            lacking: decision.lacking.clone(),
            next_lacks: assessment.next_lacks.clone(),
            needs: assessment.needs.clone(),
            word,
            problem,
            versions: versions(system),
            errors: record.map(|record| errors(record, assessment)).unwrap_or_default(),
        }
    }

    /// 0: the newest kernel may boot, or there is no kernel; 1: another one stays the default, safely, or it
    /// boots without something that is wanted; 2: the next boot is unsafe; 3: it cannot be determined.
    pub fn exit_code(&self) -> u8 {
        match self.word {
            GuardWord::Allowed | GuardWord::NotApplicable => 0,
            GuardWord::Released | GuardWord::Held => 1,
            GuardWord::Unsafe => 2,
            GuardWord::Unknown => 3,
        }
    }
}

fn word(system: &System, assessment: &BootAssessment) -> GuardWord {
    let decision = &assessment.decision;
    if unreadable(system).is_some() {
        GuardWord::Unknown
    } else if system.inventory.kernels.is_empty() {
        GuardWord::NotApplicable
    } else if assessment.is_unsafe() {
        // `status` does not call it unsafe either where that rests on nothing but what cannot be determined.
        if is_unseen(assessment) { GuardWord::Unknown } else { GuardWord::Unsafe }
    } else if assessment.is_open {
        GuardWord::Unknown
    } else if decision.ruling == Ruling::Defer {
        GuardWord::Held
    } else if admin_override(assessment).is_some() {
        GuardWord::Released
    } else {
        GuardWord::Allowed
    }
}

pub(super) fn unreadable(system: &System) -> Option<String> {
    let wishes = || system.wishes.fault.as_deref().filter(|_| !may_read_wishes(system));
    let known = system.inventory.unreadable().or(system.tree.unreadable.as_deref()).or_else(wishes);
    known.map(str::to_owned).or_else(|| blocked(system))
}

/// Whether this user may read the requests. Otherwise they must not be reported as lost.
fn may_read_wishes(system: &System) -> bool {
    !system.denied.iter().any(|path| path.display().to_string() == system.shown_path(WISHES))
}

/// `name/version` by name, for modules that are registered in one version.
fn versions(system: &System) -> BTreeMap<String, String> {
    let mut versions: BTreeMap<String, Option<String>> = BTreeMap::new();
    for pair in system.modules_on_kernels.iter().chain(&system.fallbacks) {
        let display = pair.module.to_string();
        let known = versions.entry(pair.module.name.clone()).or_insert_with(|| Some(display.clone()));
        *known = known.take().filter(|known| *known == display);
    }
    versions.into_iter().filter_map(|(name, display)| Some((name, display?))).collect()
}

/// The first error of the last build of each module that the target lacks.
fn errors(record: &RunRecord, assessment: &BootAssessment) -> BTreeMap<String, String> {
    let decision = &assessment.decision;
    let known = record.modules.iter().filter(|m| decision.target.as_ref() == Some(&m.kernel));
    let error = known.filter_map(|m| Some((m.module.to_string(), m.state.to_string(), m.error.as_ref()?)));
    let is_lacking = |(module, state, _): &(String, String, _)| {
        decision.lacking.iter().any(|l| l.module == *module && l.state == *state)
    };
    error.filter(is_lacking).map(|(module, _, error)| (module, error.to_string())).collect()
}

/// The problems of the kernel that boots next, or should, as far as the guard acts on it.
pub(super) fn problems(assessment: &BootAssessment, note: &OverrideNote) -> Vec<Problem> {
    let danger = danger(assessment);
    // What the next kernel lacks is reported only once.
    let target = assessment.decision.target.as_deref();
    let is_reported = danger.is_some() && target.is_some_and(|target| assessment.next.is(target));
    let held = held(assessment, note).filter(|_| assessment.acts && !is_reported);
    [danger, open(assessment), held].into_iter().flatten().collect()
}

/// The most important problem. A kernel that would only be held back if the guard acted counts too.
fn problem(assessment: &BootAssessment, note: &OverrideNote) -> Option<Problem> {
    danger(assessment).or_else(|| open(assessment)).or_else(|| held(assessment, note))
}

/// The boot files could not be updated, so the kernel that may boot does not boot yet.
fn not_updated(at: Situation<'_>) -> Option<Problem> {
    let why = boot_update_error(at)?.to_owned();
    Some(Problem::BootUpdateFailed { why })
}

/// The next boot is unknown, and the kernels differ in what is required.
fn open(assessment: &BootAssessment) -> Option<Problem> {
    let why = assessment.next.unknown().filter(|_| assessment.is_open)?.to_owned();
    Some(Problem::NextBootUnknown { why, remembered: assessment.next.shown().map(str::to_owned) })
}

/// What is unsafe about the next boot.
pub(super) fn danger(assessment: &BootAssessment) -> Option<Problem> {
    let decision = &assessment.decision;
    let lacks = assessment.next_lacks.clone();
    if let NextBoot::Removed { release, .. } = &assessment.next {
        return Some(Problem::BootsRemoved { kernel: release.clone(), lacks });
    }
    if let (false, Some(next)) = (lacks.is_empty(), assessment.next.release()) {
        let by = admin_override(assessment).filter(|_| decision.target.as_deref() == Some(next));
        let lacks = match (by, decision.lacking.is_empty()) {
            (Some(_), false) => decision.lacking.clone(),
            _ => lacks,
        };
        return Some(Problem::BootsWithout { kernel: next.to_owned(), lacks, by });
    }
    let lacks = [&decision.default_lacks, &decision.lacking].into_iter().find(|lacks| !lacks.is_empty());
    let best = lacks.cloned().and_then(|lacks| Some((decision.default.clone()?, lacks)));
    decision.is_unsafe.then_some(Problem::NoGoodKernel { best })
}

/// Whether the danger follows only from what cannot be determined.
pub(super) fn is_unseen(assessment: &BootAssessment) -> bool {
    let decision = &assessment.decision;
    let lacks = [&assessment.next_lacks, &decision.default_lacks, &decision.lacking];
    lacks.iter().find(|l| !l.is_empty()).is_some_and(|l| are_unknown(l))
}

/// A kernel is held back, or should be.
pub(super) fn held(assessment: &BootAssessment, note: &OverrideNote) -> Option<Problem> {
    let decision = &assessment.decision;
    if decision.ruling == Ruling::Allow || decision.because == Reason::Unknown {
        return None;
    }
    if let Some(trial) = &assessment.trial_now
        && let Some(problem) = of_trial(assessment, trial)
    {
        return Some(problem);
    }
    let is_held = decision.because == Reason::Held;
    let target = decision.target.clone().unwrap_or_else(|| "the new one".to_owned());
    let should = decision.default.clone();
    let next = assessment.next.release().filter(|next| Some(*next) != should.as_deref());
    Some(match next {
        Some(next) => {
            let lacks = if !is_held && next == target { decision.lacking.clone() } else { Vec::new() };
            Problem::WrongDefault { kernel: next.to_owned(), should, lacks }
        }
        None if is_held => {
            let kernel = should.unwrap_or_else(|| "another one".to_owned());
            Problem::HeldByAdmin { kernel, note: note.clone() }
        }
        None => Problem::HeldBack { kernel: target, lacks: decision.lacking.clone() },
    })
}

/// A kernel that runs on trial, or whose trial has failed, if that is why it is not the default.
fn of_trial(assessment: &BootAssessment, trial: &TrialNow) -> Option<Problem> {
    let (decision, kernel) = (&assessment.decision, trial.kernel.clone());
    let is_carried_out = assessment.next.release().is_none() || assessment.is_carried_out();
    if is_carried_out && decision.because == Reason::Trial {
        return Some(Problem::OnTrial { kernel, fallback: trial.fallback.clone() });
    }
    if !is_carried_out || decision.target.as_ref() != Some(&kernel) || decision.because == Reason::Held {
        return None;
    }
    let lack = decision.lacking.first().filter(|lack| lack.state == FAILED_ON_TRIAL)?;
    let lack = match trial.stage {
        TrialStage::Unchecked => return Some(Problem::TrialUnchecked { kernel }),
        TrialStage::Unfinished => None,
        TrialStage::Armed | TrialStage::Running | TrialStage::Failed(_) => Some(lack.clone()),
    };
    Some(Problem::TrialFailed {
        kernel,
        lack,
        back_to: decision.default.clone().filter(|_| trial.asks_to_return),
    })
}

/// What is wrong with the requests of an admin: they cannot be read, or the held kernel cannot be booted.
pub(super) fn lost_wish(system: &System, assessment: &BootAssessment) -> Option<Problem> {
    let wishes = &system.wishes;
    match (&wishes.fault, &wishes.hold) {
        (Some(_), _) if !may_read_wishes(system) => None,
        (Some(why), _) => Some(Problem::OverridesLost { why: why.clone() }),
        (None, Some(hold)) if assessment.decision.because != Reason::Held => {
            Some(Problem::HeldUnbootable { kernel: hold.clone() })
        }
        _ => None,
    }
}

/// What prevents swupd from leaving the boot files to clr-dkms.
pub(super) fn not_deferred(
    system: &System,
    settings: &Settings,
    assessment: &BootAssessment,
) -> Option<Problem> {
    let wanted = settings.boot_update
        && settings.boot_policy == BootPolicy::Defer
        && assessment.needs.iter().any(|n| n.class > Importance::Optional);
    match &system.deferral {
        Deferral::Off { overridden_by: Some(by), .. } if wanted => Some(Problem::SwupdOverrides(by.clone())),
        Deferral::Off { refused: Some(why), .. } if wanted => {
            Some(Problem::SwupdNotAsked { why: why.clone() })
        }
        _ => None,
    }
}

/// A kernel is to be booted on trial, and another one than the kernel to return to would boot after it: an
/// admin has chosen it for every boot, or clr-boot-manager was run since the trial was prepared.
pub(super) fn trial_overridden(system: &System, assessment: &BootAssessment) -> Option<Problem> {
    let trial = assessment.trial_now.as_ref().filter(|trial| is_armed(trial, assessment))?;
    let (default, set_by) = follows_trial(system, &trial.fallback)?;
    let (kernel, fallback) = (trial.kernel.clone(), trial.fallback.clone());
    Some(Problem::TrialOverridden { kernel, fallback, default, set_by })
}

/// Whether that kernel boots next on trial.
fn is_armed(trial: &TrialNow, assessment: &BootAssessment) -> bool {
    trial.once && trial.stage == TrialStage::Armed && assessment.next.is(&trial.kernel)
}

/// The answer if there is no problem.
fn in_order(word: GuardWord, system: &System, assessment: &BootAssessment) -> String {
    let decision = &assessment.decision;
    if word == GuardWord::NotApplicable {
        return "no kernel of clr-boot-manager is installed here".to_owned();
    }
    if let (Reason::Removed, Some(default)) = (decision.because, &decision.default) {
        let why = match system.inventory.running_kernel() {
            Some(running) => format!("no kernel is the default of the type {}", running.name.variant),
            None => "the running kernel is not installed any more".to_owned(),
        };
        return format!("kernel {default} may be booted; {why}");
    }
    let Some(target) = &decision.target else {
        return "the running kernel is none of clr-boot-manager's, which leaves the boot default as it is"
            .to_owned();
    };
    let boots = if assessment.next.is(target) { "boots next" } else { "may be booted" };
    if let Some(trial) = assessment.trial_now.as_ref().filter(|trial| is_armed(trial, assessment)) {
        return format!(
            "kernel {target} boots next, on trial: {} stays the boot default until everything critical works",
            trial.fallback
        );
    }
    match (lacks(&decision.lacking), admin_override(assessment)) {
        (Some(lack), Some(by)) => format!("kernel {target} {boots} although it lacks {lack}: {by}"),
        (Some(lack), None) => format!(
            "kernel {target} may be booted: no other one is better, but it is not proven to have {lack}"
        ),
        (None, _) => format!("kernel {target} may be booted: it has what this machine needs"),
    }
}
