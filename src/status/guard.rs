//! What the boot guard has decided, as a document.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::steps::{self, listed};
use crate::boot::deferral::Deferral;
use crate::boot::menu::SetBy;
use crate::boot_decision::{AdminOverrides, BootDecision, NextBootSource, Reason, Ruling};
use crate::config::{BootPolicy, Settings};
use crate::decide::assessment::BootAssessment;
use crate::decide::candidates::is_bootable;
use crate::decide::next_boot::NextBoot;
use crate::decide::satisfaction::NOT_REGISTERED;
use crate::decide::unread::blocked;
use crate::dkms::plan::State;
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::{BootRecord, RunRecord, WISHES, WaitingPart};
use crate::system::System;

/// What swupd does about the boot files.
#[derive(Debug, Clone, Serialize)]
pub struct Swupd {
    /// It leaves them to us.
    pub defers: bool,
    /// The file and line that says otherwise.
    pub overridden_by: Option<String>,
    /// Why it could not be told.
    pub refused: Option<String>,
}

/// The answer in one word; the screen and the exit code are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuardWord {
    /// The newest kernel may be booted.
    Allowed,
    /// It boots without something that is wanted, by an admin's word.
    Released,
    /// Another kernel is kept.
    Held,
    /// What boots next is without something critical.
    Unsafe,
    /// It cannot be determined.
    Unknown,
    /// No kernel of this system is installed.
    NotApplicable,
}

impl std::fmt::Display for GuardWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            GuardWord::Allowed => "allowed",
            GuardWord::Released => "released",
            GuardWord::Held => "held",
            GuardWord::Unsafe => "unsafe",
            GuardWord::Unknown => "unknown",
            GuardWord::NotApplicable => "not-applicable",
        })
    }
}

/// The document.
#[derive(Debug, Clone, Serialize)]
pub struct GuardReport {
    /// Grows only when a field changes its meaning.
    pub schema: u32,
    /// The answer in one sentence.
    pub summary: String,
    /// What to do next; none when there is nothing to do.
    pub next_step: Option<String>,
    /// `allow` or `defer`.
    pub ruling: Ruling,
    /// Why.
    pub because: Reason,
    /// What boots next is, or would be, without something critical.
    #[serde(rename = "unsafe")]
    pub is_unsafe: bool,
    /// `defer`, `hold` or `report`.
    pub policy: &'static str,
    /// The kernel release that clr-boot-manager makes the default.
    pub target: Option<String>,
    /// The kernel release that should be the default.
    pub default: Option<String>,
    /// The release of the kernel that boots next as things are, or that did when it was last seen.
    pub boots_next: Option<String>,
    /// How it is known; none where it is not.
    pub boots_next_source: Option<NextBootSource>,
    /// Why it is not known now, in a sentence; none where it is.
    pub boots_next_unknown: Option<String>,
    /// It is not installed any more: its modules are not on the disk.
    pub boots_removed: bool,
    /// The modules that the running kernel lacks and a reboot brings back.
    #[serde(skip)]
    pub comes_back: Vec<String>,
    /// The entry of another system, which boots next.
    #[serde(skip)]
    pub other_system: Option<String>,
    /// Since when a kernel is held back.
    pub held_since: Option<Timestamp>,
    /// Days since then, whole ones.
    pub held_days: Option<i64>,
    /// The boot files have not been touched since.
    pub deferred: bool,
    /// Parts of the boot files that are out of date, because nothing could be run that does not touch the boot default.
    pub waiting: Vec<WaitingPart>,
    /// What swupd does.
    pub swupd: Swupd,
    /// What an admin has said.
    pub wishes: AdminOverrides,
    /// What is wrong with that.
    pub lost_wish: Option<String>,
    /// What the target lacks of what is needed.
    pub lacking: Vec<MissingModule>,
    /// What the kernel that boots next lacks of what is critical.
    pub next_lacks: Vec<MissingModule>,
    /// How much each module is needed.
    pub needs: Vec<Requirement>,
    /// The answer in one word.
    #[serde(skip)]
    pub word: GuardWord,
    /// `name/version` by name, where there is one version.
    #[serde(skip)]
    pub versions: BTreeMap<String, String>,
    /// The first error of the compiler, by what the target lacks.
    #[serde(skip)]
    pub errors: BTreeMap<String, String>,
}

impl GuardReport {
    /// Makes it.
    pub fn new(
        system: &System,
        settings: &Settings,
        assessment: &BootAssessment,
        boot: Option<&BootRecord>,
        now: Timestamp,
    ) -> GuardReport {
        let decision = &assessment.decision;
        let held = boot.and_then(|boot| boot.held_back.as_ref());
        let held = held.filter(|_| decision.ruling == Ruling::Defer);
        let (overridden_by, refused) = match &system.deferral {
            Deferral::Armed => (None, None),
            Deferral::Off { overridden_by, refused } => (overridden_by.clone(), refused.clone()),
        };
        GuardReport {
            schema: 1,
            summary: summary(system, assessment),
            next_step: match word(system, assessment) {
                GuardWord::Unknown if assessment.unknown.is_some() => Some(steps::of_unknown(system)),
                GuardWord::Unknown if unreadable(system).is_none() => Some(steps::of_open(system)),
                GuardWord::Unknown => Some("ask again as root".to_owned()),
                GuardWord::NotApplicable => None,
                _ => next_step(system, settings, assessment),
            },
            ruling: decision.ruling,
            because: decision.because,
            is_unsafe: assessment.is_unsafe(),
            policy: match settings.boot_policy {
                BootPolicy::Defer => "defer",
                BootPolicy::Hold => "hold",
                BootPolicy::Report => "report",
            },
            target: decision.target.clone(),
            default: decision.default.clone(),
            boots_next: assessment.next.shown().map(str::to_owned),
            boots_next_source: assessment.next.source(),
            boots_next_unknown: assessment.next.unknown().map(str::to_owned),
            boots_removed: assessment.next.is_removed(),
            comes_back: assessment.comes_back.clone(),
            other_system: match &assessment.next {
                NextBoot::OtherSystem { choice } => Some(choice.entry.clone()),
                _ => None,
            },
            held_since: held.map(|h| h.since),
            held_days: held.map(|h| (now.duration_since(h.since).as_hours() / 24).max(0)),
            deferred: held.is_some_and(|h| h.deferred),
            waiting: boot.map(|boot| boot.waiting.clone()).unwrap_or_default(),
            swupd: Swupd { defers: system.deferral == Deferral::Armed, overridden_by, refused },
            wishes: system.wishes.clone(),
            lost_wish: lost_wish(system, assessment),
            lacking: decision.lacking.clone(),
            next_lacks: assessment.next_lacks.clone(),
            needs: assessment.needs.clone(),
            word: word(system, assessment),
            versions: versions(system),
            errors: BTreeMap::new(),
        }
    }

    /// While a run is at work nothing else is to be done.
    #[must_use]
    pub fn while_building(mut self) -> GuardReport {
        self.next_step = Some("wait for the run to end, and do not reboot until then".to_owned());
        self
    }

    /// With what the compiler said when the last run failed to build what the target lacks.
    #[must_use]
    pub fn with_errors(mut self, record: Option<&RunRecord>) -> GuardReport {
        let known =
            record.iter().flat_map(|r| &r.modules).filter(|m| self.target.as_ref() == Some(&m.kernel));
        for module in known {
            let is_it = |l: &&MissingModule| {
                l.module == module.module.to_string() && l.state == module.state.to_string()
            };
            if let (Some(lack), Some(error)) = (self.lacking.iter().find(is_it), &module.error) {
                self.errors.insert(lack.module.clone(), error.to_string());
            }
        }
        self
    }

    /// 0: the newest kernel may boot; 1: another one is kept, safely, or it boots without something that is wanted; 2: what
    /// boots next is not safe; 3: it cannot be determined, or there is no kernel.
    pub fn exit_code(&self) -> u8 {
        match self.word {
            GuardWord::Allowed => 0,
            GuardWord::Released | GuardWord::Held => 1,
            GuardWord::Unsafe => 2,
            GuardWord::Unknown | GuardWord::NotApplicable => 3,
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
        GuardWord::Unsafe
    } else if assessment.is_open {
        GuardWord::Unknown
    } else if decision.ruling == Ruling::Defer {
        GuardWord::Held
    } else if said(decision).is_some() {
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

/// This user may; who may not cannot say that they are lost.
fn may_read_wishes(system: &System) -> bool {
    !system.denied.iter().any(|path| path.display().to_string() == system.shown_path(WISHES))
}

/// Who lets the target boot in spite of what it lacks; none where it lacks nothing, or nobody has said so.
fn said(decision: &BootDecision) -> Option<&'static str> {
    let lacks = !decision.lacking.is_empty() || !decision.default_lacks.is_empty();
    match decision.because {
        Reason::Released if lacks => Some("released by an admin"),
        Reason::Held if lacks && decision.ruling == Ruling::Allow => Some("held by an admin"),
        _ => None,
    }
}

/// `name/version` by name, where no two versions are registered.
fn versions(system: &System) -> BTreeMap<String, String> {
    let mut versions: BTreeMap<String, Option<String>> = BTreeMap::new();
    for pair in system.modules_on_kernels.iter().chain(&system.fallbacks) {
        let display = pair.module.to_string();
        let known = versions.entry(pair.module.name.clone()).or_insert_with(|| Some(display.clone()));
        *known = known.take().filter(|known| *known == display);
    }
    versions.into_iter().filter_map(|(name, display)| Some((name, display?))).collect()
}

/// A kernel that has all that works and is needed, other than the target: the running one, else the newest.
fn full(system: &System, assessment: &BootAssessment) -> Option<String> {
    let needed = |n: &Requirement| match n.class {
        Importance::Critical => true,
        class => class == Importance::Wanted && n.works,
    };
    let kernels = &system.inventory.kernels;
    let mut others = kernels.iter().filter(|k| k.running).chain(kernels.iter().filter(|k| !k.running));
    let found = others.find(|k| {
        let release = k.name.release();
        assessment.decision.target.as_ref() != Some(&release)
            && is_bootable(system, k)
            && assessment.lacks_on(&release, needed).is_empty()
    });
    found.map(|k| k.name.release())
}

/// Them in a sentence: of one why it is needed and how it is, of several their names, and what hangs on the first; none
/// when there is none.
pub fn lacks(lacking: &[MissingModule]) -> Option<String> {
    let named = |lack: &MissingModule| match lack.class {
        Importance::Critical => format!("{} ({})", lack.module, lack.needed),
        _ => lack.module.clone(),
    };
    match lacking {
        [] => None,
        [one] => Some(one.to_string()),
        [first, others @ ..] => {
            let first = named(first);
            let names = std::iter::once(first.as_str()).chain(others.iter().map(|lack| lack.module.as_str()));
            Some(listed(&names.collect::<Vec<_>>()))
        }
    }
}

/// The sentence on a next boot that is unknown, where that makes a difference.
pub fn open(assessment: &BootAssessment) -> Option<String> {
    let reason = assessment.next.unknown().filter(|_| assessment.is_open)?;
    let remembered = assessment.next.shown().map(|release| format!(" (the last run saw {release})"));
    Some(format!("it is unknown which kernel boots next{}: {reason}", remembered.unwrap_or_default()))
}

/// The sentence on what is not safe; none when it is.
pub fn danger(assessment: &BootAssessment) -> Option<String> {
    let decision = &assessment.decision;
    if let NextBoot::Removed { release, .. } = &assessment.next {
        let without = match lacks(&assessment.next_lacks) {
            Some(lack) => format!("without {lack}"),
            None => "without its modules".to_owned(),
        };
        return Some(format!("kernel {release} boots next, which is not installed any more: {without}"));
    }
    if let (Some(lack), Some(next)) = (lacks(&assessment.next_lacks), assessment.next.release()) {
        let who = said(decision).filter(|_| decision.target.as_deref() == Some(next));
        return Some(match who {
            Some(who) => {
                let lack = lacks(&decision.lacking).unwrap_or(lack);
                format!("kernel {next} boots next although it lacks {lack}: {who}")
            }
            None => format!("kernel {next} boots next, without {lack}"),
        });
    }
    let lack = lacks(&decision.default_lacks).or_else(|| lacks(&decision.lacking));
    match (lack, &decision.default) {
        (Some(lack), Some(default)) if decision.is_unsafe => {
            Some(format!("no kernel has all that is needed; the best is {default}, without {lack}"))
        }
        _ if decision.is_unsafe => Some("there is no kernel with what is needed".to_owned()),
        _ => None,
    }
}

/// Whether the danger rests on nothing but what cannot be determined.
pub fn is_unseen(assessment: &BootAssessment) -> bool {
    let decision = &assessment.decision;
    let lacks = [&assessment.next_lacks, &decision.default_lacks, &decision.lacking];
    let unknown = State::Unknown.to_string();
    lacks.iter().find(|l| !l.is_empty()).is_some_and(|l| l.iter().all(|lack| lack.state == unknown))
}

/// The sentence on a kernel that is held back; none when none is.
pub fn held(assessment: &BootAssessment) -> Option<String> {
    let decision = &assessment.decision;
    if decision.ruling == Ruling::Allow || decision.because == Reason::Unknown {
        return None;
    }
    let target = decision.target.as_deref().unwrap_or("the new one");
    let default = decision.default.as_deref().unwrap_or("another one");
    let next = assessment.next.release().filter(|next| Some(*next) != decision.default.as_deref());
    Some(match (next, lacks(&decision.lacking)) {
        (Some(next), Some(lack)) if decision.because != Reason::Held && next == target => {
            format!("kernel {next} boots next, and lacks {lack}")
        }
        (Some(next), _) => format!("kernel {next} boots next, and should not: {default} should"),
        (None, _) if decision.because == Reason::Held => format!("an admin holds kernel {default}"),
        (None, Some(lack)) => format!("kernel {target} is held back: it lacks {lack}"),
        (None, None) => format!("kernel {target} is held back: it cannot be booted"),
    })
}

/// What is wrong with an admin's word: it cannot be read, or the kernel that it holds cannot be booted.
pub fn lost_wish(system: &System, assessment: &BootAssessment) -> Option<String> {
    let wishes = &system.wishes;
    match (&wishes.fault, &wishes.hold) {
        (Some(_), _) if !may_read_wishes(system) => None,
        (Some(fault), _) => Some(format!("what an admin said of the boot default is lost: {fault}")),
        (None, Some(hold)) if assessment.decision.because != Reason::Held => {
            Some(format!("an admin holds kernel {hold}, which cannot be booted"))
        }
        _ => None,
    }
}

/// What keeps swupd from leaving the boot files to us, where it should.
pub fn not_deferred(system: &System, settings: &Settings, assessment: &BootAssessment) -> Option<String> {
    let wanted = settings.boot_update
        && settings.boot_policy == BootPolicy::Defer
        && assessment.needs.iter().any(|n| n.class > Importance::Optional);
    match &system.deferral {
        Deferral::Off { overridden_by: Some(by), .. } if wanted => {
            Some(format!("{by} has swupd run clr-boot-manager before the modules are proven"))
        }
        Deferral::Off { refused: Some(why), .. } if wanted => Some(why.clone()),
        _ => None,
    }
}

fn summary(system: &System, assessment: &BootAssessment) -> String {
    match word(system, assessment) {
        GuardWord::Unknown => {
            let unread = unreadable(system).or_else(|| open(assessment));
            return unread.unwrap_or_else(|| "it is unknown".to_owned());
        }
        GuardWord::NotApplicable => return "no kernel of clr-boot-manager is installed here".to_owned(),
        _ => {}
    }
    if let Some(text) = danger(assessment).or_else(|| held(assessment)) {
        return text;
    }
    let decision = &assessment.decision;
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
    match (lacks(&decision.lacking), said(decision)) {
        (Some(lack), Some(who)) => format!("kernel {target} {boots} although it lacks {lack}: {who}"),
        (Some(lack), None) => {
            format!(
                "kernel {target} may be booted: no other one is better, but it is not proven to have {lack}"
            )
        }
        (None, _) => format!("kernel {target} may be booted: it has what this machine needs"),
    }
}

/// The step that an admin can take; none when there is nothing to do.
pub fn next_step(system: &System, settings: &Settings, assessment: &BootAssessment) -> Option<String> {
    let decision = &assessment.decision;
    let should = decision.default.as_ref();
    let acts = settings.guards();
    let is_wrong = should.is_some() && assessment.next.release().is_some() && !assessment.is_carried_out();
    if let Some(by) = assessment.next.choice().filter(|choice| choice.set_by.overrides())
        && (is_wrong || should.is_some() && assessment.next.release().is_none())
    {
        let what = match by.set_by {
            SetBy::LoaderEntryOneShot | SetBy::GrubNextEntry => "for the next boot only",
            _ => "for every boot",
        };
        return Some(format!(
            "{} was chosen by an admin {what}: take that back, or boot it by choice",
            by.entry
        ));
    }
    if is_wrong {
        return Some(match (acts, decision.ruling, decision.because) {
            (true, ..) => "run `clr-dkms-post-update` as root: it makes the boot default right".to_owned(),
            (false, Ruling::Defer, _) | (false, _, Reason::Removed) => format!(
                "`clr-boot-manager set-kernel` makes {} the boot default",
                should.map_or("another kernel", String::as_str)
            ),
            (false, Ruling::Allow, _) => "run `clr-boot-manager update` as root".to_owned(),
        });
    }
    if let Some(step) = steps::brings_back(&assessment.comes_back) {
        return Some(step);
    }
    if said(decision).is_some()
        && let Some(kernel) = full(system, assessment)
    {
        return Some(format!("`clr-dkms hold {kernel}` keeps the kernel that has it"));
    }
    let mut missing = assessment.next_lacks.iter().chain(&decision.default_lacks).chain(&decision.lacking);
    let is_listed = |module: &str| assessment.needs.iter().any(|n| n.module == module && n.is_listed());
    if missing.any(|l| l.state == NOT_REGISTERED && is_listed(&l.module)) {
        return Some("correct the name in clr-dkms.conf, or register it with `dkms add`".to_owned());
    }
    match (decision.because, decision.lacking.first()) {
        (Reason::Held, _) => Some("`clr-dkms release` lets go of it".to_owned()),
        (Reason::Lacking | Reason::Best, Some(lack)) => Some(format!(
            "bring {} to kernel {}, or `clr-dkms release{}` goes ahead without it",
            lack.module,
            decision.target.as_deref().unwrap_or("?"),
            if decision.lacking.iter().any(|l| l.class == Importance::Critical) { " --force" } else { "" }
        )),
        _ => None,
    }
}
