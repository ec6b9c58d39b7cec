//! What the boot guard has decided, as a document.

use jiff::Timestamp;
use serde::Serialize;

use super::steps::listed;
use crate::boot::deferral::Deferral;
use crate::boot::menu::SetBy;
use crate::config::{Policy, Settings};
use crate::dkms::plan::State;
use crate::facts::Facts;
use crate::guard::{Because, Class, Judgement, Lack, Need, Ruling, Wishes};
use crate::state::HeldBack;

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
    pub because: Because,
    /// What boots next is, or would be, without something critical.
    #[serde(rename = "unsafe")]
    pub is_unsafe: bool,
    /// `defer`, `hold` or `report`.
    pub policy: &'static str,
    /// The kernel release that clr-boot-manager makes the default.
    pub target: Option<String>,
    /// The kernel release that should be the default.
    pub default: Option<String>,
    /// The kernel release that boots next as things are.
    pub boots_next: Option<String>,
    /// Since when a kernel is held back.
    pub held_since: Option<Timestamp>,
    /// Days since then, whole ones.
    pub held_days: Option<i64>,
    /// The boot files have not been touched since: microcode and boot loader wait too.
    pub deferred: bool,
    /// What swupd does.
    pub swupd: Swupd,
    /// What an admin has said.
    pub wishes: Wishes,
    /// What is wrong with that.
    pub lost_wish: Option<String>,
    /// What the target lacks of what is needed.
    pub lacking: Vec<Lack>,
    /// What the kernel that boots next lacks of what is critical.
    pub next_lacks: Vec<Lack>,
    /// How much each module is needed.
    pub needs: Vec<Need>,
}

impl GuardReport {
    /// Makes it.
    pub fn new(
        facts: &Facts,
        settings: &Settings,
        judgement: &Judgement,
        held_back: Option<&HeldBack>,
        now: Timestamp,
    ) -> GuardReport {
        let decision = &judgement.decision;
        let held = held_back.filter(|_| decision.ruling == Ruling::Defer);
        let (overridden_by, refused) = match &facts.deferral {
            Deferral::Armed => (None, None),
            Deferral::Off { overridden_by, refused } => (overridden_by.clone(), refused.clone()),
        };
        GuardReport {
            schema: 1,
            summary: summary(judgement),
            next_step: next_step(facts, settings, judgement),
            ruling: decision.ruling,
            because: decision.because,
            is_unsafe: judgement.is_unsafe(),
            policy: match settings.boot_policy {
                Policy::Defer => "defer",
                Policy::Hold => "hold",
                Policy::Report => "report",
            },
            target: decision.target.clone(),
            default: decision.default.clone(),
            boots_next: judgement.next.clone(),
            held_since: held.map(|h| h.since),
            held_days: held.map(|h| (now.duration_since(h.since).as_hours() / 24).max(0)),
            deferred: held.is_some_and(|h| h.deferred),
            swupd: Swupd { defers: facts.deferral == Deferral::Armed, overridden_by, refused },
            wishes: facts.wishes.clone(),
            lost_wish: lost_wish(facts, judgement),
            lacking: decision.lacking.clone(),
            next_lacks: judgement.next_lacks.clone(),
            needs: judgement.needs.clone(),
        }
    }

    /// 0: the newest kernel may boot; 1: another one is kept, safely; 2: what boots next is not safe.
    pub fn exit_code(&self) -> u8 {
        match (self.is_unsafe, self.ruling) {
            (true, _) => 2,
            (false, Ruling::Defer) => 1,
            (false, Ruling::Allow) => 0,
        }
    }
}

/// Them in a sentence: of one why it is needed and how it is, of several their names, and what hangs on the first; none
/// when there is none.
fn lacks(lacking: &[Lack]) -> Option<String> {
    let named = |lack: &Lack| match lack.class {
        Class::Critical => format!("{} ({})", lack.module, lack.needed),
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

/// The sentence on what is not safe; none when it is.
pub fn danger(judgement: &Judgement) -> Option<String> {
    let decision = &judgement.decision;
    if let (Some(lack), Some(next)) = (lacks(&judgement.next_lacks), &judgement.next) {
        return Some(format!("kernel {next} boots next, without {lack}"));
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

/// Whether the danger rests on nothing but what cannot be told.
pub fn is_unseen(judgement: &Judgement) -> bool {
    let decision = &judgement.decision;
    let lacks = [&judgement.next_lacks, &decision.default_lacks, &decision.lacking];
    let unknown = State::Unknown.to_string();
    lacks.iter().find(|l| !l.is_empty()).is_some_and(|l| l.iter().all(|lack| lack.state == unknown))
}

/// The sentence on a kernel that is held back; none when none is.
pub fn held(judgement: &Judgement) -> Option<String> {
    let decision = &judgement.decision;
    if decision.ruling == Ruling::Allow {
        return None;
    }
    let target = decision.target.as_deref().unwrap_or("the new one");
    let default = decision.default.as_deref().unwrap_or("another one");
    let next = judgement.next.as_deref().filter(|next| Some(*next) != decision.default.as_deref());
    Some(match (next, lacks(&decision.lacking)) {
        (Some(next), Some(lack)) if decision.because != Because::Held && next == target => {
            format!("kernel {next} boots next, and lacks {lack}")
        }
        (Some(next), _) => format!("kernel {next} boots next, and should not: {default} should"),
        (None, _) if decision.because == Because::Held => format!("an admin holds kernel {default}"),
        (None, Some(lack)) => format!("kernel {target} is held back: it lacks {lack}"),
        (None, None) => format!("kernel {target} is held back: it cannot be booted"),
    })
}

/// What is wrong with an admin's word: it cannot be read, or the kernel that it holds cannot be booted.
pub fn lost_wish(facts: &Facts, judgement: &Judgement) -> Option<String> {
    let wishes = &facts.wishes;
    match (&wishes.fault, &wishes.hold) {
        (Some(fault), _) => Some(format!("what an admin said of the boot default is lost: {fault}")),
        (None, Some(hold)) if judgement.decision.because != Because::Held => {
            Some(format!("an admin holds kernel {hold}, which cannot be booted"))
        }
        _ => None,
    }
}

/// What keeps swupd from leaving the boot files to us, where it should.
pub fn not_deferred(facts: &Facts, settings: &Settings, judgement: &Judgement) -> Option<String> {
    let wanted = settings.boot_update
        && settings.boot_policy == Policy::Defer
        && judgement.needs.iter().any(|n| n.class > Class::Optional);
    match &facts.deferral {
        Deferral::Off { overridden_by: Some(by), .. } if wanted => {
            Some(format!("{by} has swupd run clr-boot-manager before the modules are proven"))
        }
        Deferral::Off { refused: Some(why), .. } if wanted => Some(why.clone()),
        _ => None,
    }
}

fn summary(judgement: &Judgement) -> String {
    if let Some(text) = danger(judgement).or_else(|| held(judgement)) {
        return text;
    }
    match &judgement.decision.target {
        Some(target) => format!("kernel {target} may be booted: it has what this machine needs"),
        None => "the running kernel is none of clr-boot-manager's, which leaves the boot default as it is"
            .to_owned(),
    }
}

/// The step that an admin can take; none when there is nothing to do.
pub fn next_step(facts: &Facts, settings: &Settings, judgement: &Judgement) -> Option<String> {
    let decision = &judgement.decision;
    let should = decision.default.as_ref();
    let acts = settings.boot_update && settings.boot_policy != Policy::Report;
    if let Some(by) = facts.boot.default.as_ref().filter(|d| d.set_by.overrides())
        && judgement.next.as_ref() != should
        && should.is_some()
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
    if judgement.next.is_some() && should.is_some() && judgement.next.as_ref() != should {
        return Some(match (acts, decision.ruling) {
            (true, _) => "run `clr-dkms-post-update` as root: it makes the boot default right".to_owned(),
            (false, Ruling::Defer) => format!(
                "`clr-boot-manager set-kernel` makes {} the boot default",
                should.map_or("another kernel", String::as_str)
            ),
            (false, Ruling::Allow) => "run `clr-boot-manager update` as root".to_owned(),
        });
    }
    match (decision.because, decision.lacking.first()) {
        (Because::Held, _) => Some("`clr-dkms release` lets go of it".to_owned()),
        (Because::Lacking | Because::Best, Some(lack)) => Some(format!(
            "bring {} to kernel {}, or `clr-dkms release` goes ahead without it",
            lack.module,
            decision.target.as_deref().unwrap_or("?")
        )),
        _ => None,
    }
}
