//! The enforcement verdict as `status` and the message of the day tell it: in a word, now and at the next boot.

use serde::Serialize;

use crate::cmdline::Switch;
use crate::dkms::{ModuleName, Pair, Proof};
use crate::enforcement::{Kind, Outcome, Tri, Verdict, now};
use crate::facts::{Facts, Line};
use crate::kernel::Running;

/// What kernels do with modules without a trusted signature: `loads`, `taints`, `refused`, `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// The running kernel, now; none in an image.
    pub now: Option<&'static str>,
    /// The kernel of the next boot, with its boot entry or, where that cannot be seen, the configured command line; none
    /// when there is no such kernel.
    pub next_boot: Option<&'static str>,
}

impl Outlook {
    /// The sentence for the message of the day: only where such modules really load, or will.
    pub fn sentence(&self) -> Option<&'static str> {
        let loads = |word: Option<&str>| matches!(word, Some("loads" | "taints"));
        match (loads(self.now), loads(self.next_boot)) {
            (true, true) => Some("signature enforcement is disabled"),
            (false, true) => Some("signature enforcement will be disabled at the next boot"),
            // What the next boot does is not known, or is the contrary.
            (true, false) if self.next_boot == Some("refused") => {
                Some("signature enforcement is disabled until the next boot")
            }
            (true, false) => Some("signature enforcement is disabled now"),
            (false, false) => None,
        }
    }
}

/// Makes it.
pub fn outlook(facts: &Facts) -> Outlook {
    let next = next_boot(facts).map(|(_, verdict)| verdict.of(Kind::Unsigned).word());
    let now = facts.machine.runtime.as_ref().zip(facts.running.as_ref()).map(|(runtime, kernel)| {
        let line = facts.machine.line.as_deref().unwrap_or_default();
        now(&kernel.boot(line, &facts.machine), runtime).of(Kind::Unsigned).word()
    });
    Outlook { now, next_boot: next }
}

/// The kernel of the next boot, and what it will do.
fn next_boot(facts: &Facts) -> Option<(&Line, Verdict)> {
    let release = facts.boots_next()?.name.release();
    let line = facts.lines.iter().find(|l| l.release == release)?;
    Some((line, coming(facts, line)))
}

/// What a kernel does at its next boot: with its boot entry or, where that cannot be seen, as configured.
fn coming(facts: &Facts, line: &Line) -> Verdict {
    let entry = facts.boot.of(&line.id);
    let words = entry.map_or(line.effective.as_slice(), |e| e.options.as_slice());
    line.verdict_with(words, &facts.machine)
}

/// What a kernel does with the proven files of a module at its next boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It takes them.
    Taken,
    /// It cannot be told.
    Unknown,
    /// It refuses one of them; a sentence.
    Refused(String),
}

/// Tells it.
pub fn fate(facts: &Facts, pair: &Pair, proofs: &[Proof]) -> Fate {
    match facts.lines.iter().find(|l| l.release == pair.release) {
        Some(line) => fate_with(facts, line, &pair.module, proofs, &coming(facts, line)),
        None => Fate::Unknown,
    }
}

/// Whether a kernel would take them with its configured command line, which clr-boot-manager puts into its entry.
pub fn would_be_taken(facts: &Facts, release: &str, module: &ModuleName, proofs: &[Proof]) -> bool {
    facts.lines.iter().find(|l| l.release == release).is_some_and(|line| {
        let verdict = line.verdict_with(&line.effective, &facts.machine);
        !matches!(fate_with(facts, line, module, proofs, &verdict), Fate::Refused(_))
    })
}

/// Whether the running kernel refuses them now: then nothing that works today is lost with them.
pub fn refused_now(facts: &Facts, module: &ModuleName, proofs: &[Proof]) -> bool {
    let (Some(runtime), Some(kernel)) = (&facts.machine.runtime, &facts.running) else { return false };
    let Running::Known { release } = &facts.inventory.running else { return false };
    let Some(line) = facts.lines.iter().find(|l| l.release == *release) else { return false };
    let words = facts.machine.line.as_deref().unwrap_or_default();
    let verdict = now(&kernel.boot(words, &facts.machine), runtime);
    matches!(fate_with(facts, line, module, proofs, &verdict), Fate::Refused(_))
}

fn fate_with(facts: &Facts, line: &Line, module: &ModuleName, proofs: &[Proof], verdict: &Verdict) -> Fate {
    let outcome = |proof: &Proof| {
        proof.signature.as_ref().map_or(Outcome::Unknown, |known| line.outcome(known, None, verdict))
    };
    let outcomes: Vec<Outcome> = proofs.iter().map(outcome).collect();
    let refused = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Refused(error) => Some(error.map(|e| format!(" ({})", e.name())).unwrap_or_default()),
        _ => None,
    });
    let which =
        if facts.boots_next().is_some_and(|k| k.name.release() == line.release) { "the" } else { "its" };
    match refused {
        Some(error) => Fate::Refused(format!(
            "kernel {} will refuse {} at {which} next boot{error}",
            line.release, module
        )),
        None if outcomes.contains(&Outcome::Unknown) => Fate::Unknown,
        None => Fate::Taken,
    }
}

/// Whether the parameter would help a kernel that refuses modules, and is not configured: that is told by itself.
pub fn parameter_would_help(facts: &Facts, release: &str) -> bool {
    let line = facts.lines.iter().find(|l| l.release == release);
    line.is_some_and(|line| {
        line.switch != Switch::On
            && coming(facts, line).disabled != Tri::Yes
            && line.takes_the_parameter(&facts.machine)
    })
}
