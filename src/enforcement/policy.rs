//! Whether `module.sig_unenforce` is wanted, and what is wrong where it is not as wanted.

use crate::cmdline::writer::Wish;
use crate::cmdline::{PARAMETER, Switch};
use crate::config::{Settings, SigUnenforce};
use crate::dkms::Pair;
use crate::dkms::plan::{Decision, State, decide};
use crate::facts::{Facts, Line};

/// How `module.sig_unenforce` is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// On the line of every kernel.
    On,
    /// On the line of no kernel.
    Off,
    /// No module needs it, and nobody forbids it.
    Either,
}

impl Wanted {
    /// What is wrong with the configured lines of the tips, and the wish that would mend it.
    pub fn against(self, facts: &Facts) -> (Vec<String>, Option<Wish>) {
        let (right, wish, what) = match self {
            Wanted::Either => return (Vec::new(), None),
            Wanted::On => (Switch::On, Wish::Ensure, "is not configured"),
            Wanted::Off => (Switch::Off, Wish::Disable, "is configured, and not wanted,"),
        };
        let tips = facts.inventory.tips();
        let is_tip = |line: &Line| tips.iter().any(|k| k.name.release() == line.release);
        let wrong = facts.lines.iter().filter(|l| is_tip(l) && l.switch != right).map(|l| l.release.as_str());
        let wrong: Vec<&str> = wrong.collect();
        let said = (!wrong.is_empty()).then(|| format!("{PARAMETER} {what} for kernel {}", wrong.join(", ")));
        (said.into_iter().collect(), Some(wish))
    }
}

/// How `module.sig_unenforce` is wanted: `auto` means on while a kernel that demands signatures, and knows the parameter,
/// has a module to load.
pub fn parameter_wanted(settings: &Settings, facts: &Facts) -> Wanted {
    let needs = |pair: &Pair| {
        let line = facts.lines.iter().find(|l| l.release == pair.release);
        line.is_none_or(|line| line.takes_the_parameter(&facts.machine)) && is_needed(pair)
    };
    match settings.sig_unenforce {
        SigUnenforce::On => Wanted::On,
        SigUnenforce::Off => Wanted::Off,
        SigUnenforce::Auto if facts.pairs.iter().any(needs) => Wanted::On,
        SigUnenforce::Auto => Wanted::Either,
    }
}

/// Whether `module.sig_unenforce` is wanted.
pub fn sig_unenforce_wanted(settings: &Settings, facts: &Facts) -> bool {
    parameter_wanted(settings, facts) == Wanted::On
}

/// The module should be there on this kernel.
fn is_needed(pair: &Pair) -> bool {
    pair.proof.is_ok()
        || !matches!(
            decide(pair),
            Decision::Leave { state: State::SkippedExclusive | State::NotAutoinstall, .. }
        )
}
