//! The verdict about a system.

use serde::Serialize;

use super::kernels::counts;
use super::problem::Problem;
use super::{DocumentSources, Progress, guard};
use crate::decide::assessment::BootAssessment;
use crate::dkms::plan::State;
use crate::exit;
use crate::state::{ModuleRecord, Stored};

/// The answer as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display, strum::VariantArray)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Verdict {
    /// Everything is in place.
    Healthy,
    /// Everything is in place for the next boot, which starts another kernel, or makes the running one accept
    /// its modules.
    RebootPending,
    /// A run is active.
    Building,
    /// Something is missing or failed.
    Degraded,
    /// The newest kernel is kept from becoming the boot default; the kernel that boots next has what is
    /// needed.
    Held,
    /// The kernel that boots next lacks a critical module.
    Unsafe,
    /// It cannot be determined.
    Unknown,
    /// No kernel of this system is installed.
    NotApplicable,
}

impl Verdict {
    /// The exit code of a report with this verdict.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Healthy | Verdict::RebootPending | Verdict::NotApplicable => exit::OK,
            Verdict::Building | Verdict::Degraded | Verdict::Held => exit::ATTENTION,
            Verdict::Unsafe => exit::UNSAFE,
            Verdict::Unknown => exit::UNKNOWN,
        }
    }
}

/// Determines it.
pub(super) fn verdict(
    of: DocumentSources<'_>,
    modules: &[ModuleRecord],
    assessment: &BootAssessment,
    problems: &[Problem],
) -> Verdict {
    let DocumentSources { system, record, progress, .. } = of;
    let is_held = guard::held(assessment, &system.wishes.held).is_some()
        && assessment.acts
        && assessment.is_carried_out();
    let unreadable = guard::unreadable(system).is_some() || matches!(record, Stored::Unreadable(_));
    let unknown = assessment.unknown_target.is_some()
        || modules.iter().any(|m| m.state == State::Unknown && counts(m, system));
    // A module that is known to be missing counts, even if other facts are unreadable.
    let is_unsafe = guard::danger(assessment).is_some() && !(unknown && guard::is_unseen(assessment));
    let running = system.inventory.running.release();
    let next = assessment.next.shown();
    let is_pending = (running.is_some() && next.is_some() && running != next)
        || !assessment.refused_until_reboot.is_empty()
        || !assessment.may_be_refused_until_reboot.is_empty();
    if unreadable {
        Verdict::Unknown
    } else if system.inventory.kernels.is_empty() {
        Verdict::NotApplicable
    } else if is_unsafe {
        // Also while a run is active, because a reboot would find this state until the run ends.
        Verdict::Unsafe
    } else if unknown || assessment.is_open {
        Verdict::Unknown
    } else if matches!(progress, Progress::Working(_)) {
        Verdict::Building
    } else if is_held {
        Verdict::Held
    } else if !problems.is_empty() {
        Verdict::Degraded
    } else if is_pending {
        Verdict::RebootPending
    } else {
        Verdict::Healthy
    }
}
