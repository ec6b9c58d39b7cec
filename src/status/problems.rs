//! Everything that is wrong, in sentences.

use super::{ModuleStatus, Progress, guard, is_missed, is_reported_below, waiting};
use crate::boot::{BootBlocker, ReadBack};
use crate::cmdline::{PARAMETER, Switch};
use crate::config::Settings;
use crate::decide::assessment::BootAssessment;
use crate::decide::entry_loss::entry_losses;
use crate::decide::initrds;
use crate::decide::module_state::status_in_force;
use crate::decide::next_boot::coming_lines;
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::dkms::plan::State;
use crate::state::{ModuleRecord, RunRecord, Stored};
use crate::system::{System, expected_entries};

/// The sentence on a module; none where nothing is wrong with it, or another sentence tells it.
pub(super) fn of_module(m: &ModuleRecord, system: &System, assessment: &BootAssessment) -> Option<String> {
    let decision = &assessment.decision;
    // Why a kernel is held back is told in one sentence.
    let is_reported = assessment.held_back.is_some()
        && decision.target.as_ref() == Some(&m.kernel)
        && decision.lacking.iter().any(|l| l.module == m.module.to_string());
    if !is_missed(m, system, assessment) || is_reported {
        return None;
    }
    Some(match (m.state, m.state.is_fine()) {
        // That is what its admin wants.
        (State::Blocked, _) if assessment.is_listed_as_optional(&m.module.name) => return None,
        (State::Blocked, _) => {
            let why = m.reason.as_deref().unwrap_or("something keeps it from being loaded");
            format!("{} will not be loaded on kernel {}: {why}", m.module, m.kernel)
        }
        (State::InitrdStale, _) => {
            let why = m.reason.as_deref().unwrap_or("its initrd is another one");
            format!("{} is not ready for kernel {}: {why}", m.module, m.kernel)
        }
        (State::HookFailed, _) => return m.reason.clone(),
        (State::SignatureRefused, _) => return m.reason.clone().filter(|_| !is_reported_below(m, system)),
        // Two modules are in it: the other one's name is half of the news.
        (State::Conflict, _) => {
            let why = m.reason.as_deref().unwrap_or("another module has its file");
            format!("{} is not ready for kernel {} (conflict): {why}", m.module, m.kernel)
        }
        (State::NotManaged, _) => {
            format!(
                "a reboot loses {}: DKMS does not manage it, and kernel {} does not have it",
                m.module, m.kernel
            )
        }
        (_, false) => {
            let older = system.files.in_force(&m.module.name, &m.kernel);
            let older =
                older.filter(|older| status_in_force(system, older).is_some_and(|s| s.state == State::Ok));
            let rest = older.map(|older| format!("; {} is in force there", older.module)).unwrap_or_default();
            format!("{} is not ready for kernel {} ({}){rest}", m.module, m.kernel, m.state)
        }
        (_, true) => {
            format!("{} is in use and will not be there on kernel {} ({})", m.module, m.kernel, m.state)
        }
    })
}

/// All of them, the most important first.
pub(super) fn problems(
    system: &System,
    record: &Stored<RunRecord>,
    progress: &Progress,
    settings: &Settings,
    modules: &[ModuleStatus],
    assessment: &BootAssessment,
) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    problems.extend(system.inventory.unreadable().map(str::to_owned));
    problems.extend(system.tree.unreadable.clone());
    for what in assessment.unknown.iter().chain(&assessment.unknown_target) {
        if !problems.contains(what) {
            problems.push(what.clone());
        }
    }
    let (refused, lacking): (Vec<&ModuleStatus>, Vec<_>) =
        modules.iter().partition(|m| m.record.state == State::SignatureRefused);
    problems.extend(lacking.into_iter().chain(refused).filter_map(|m| m.problem.clone()));
    if let ReadBack::Differs(wrong) = entries(system, assessment) {
        problems.extend(wrong);
    }
    problems.extend(initrds::without_successor(system).into_iter().map(|(release, path)| {
        format!(
            "kernel {release} has no successor of the running kernel's own initrd: there is no {}",
            system.shown_path(&path)
        )
    }));
    let losses = |release| entry_losses(system, settings, &assessment.needs, release, None);
    let losses = assessment.decision.default.as_deref().map(losses).unwrap_or_default();
    problems.extend(losses.iter().find(|loss| loss.is_blocked()).map(ToString::to_string));
    problems.extend(guard::lost_wish(system, assessment));
    if assessment.acts {
        problems.extend(guard::not_deferred(system, settings, assessment));
    }
    if *progress == Progress::BrokenOff {
        problems.push("the last run was broken off before its end".to_owned());
    }
    if sig_unenforce_wanted(settings, system, &assessment.needs) {
        let lines = coming_lines(system).filter(|l| l.switch != Switch::On);
        let without: Vec<&str> = lines.map(|l| l.release.as_str()).collect();
        match without.as_slice() {
            [] => {}
            [one, other, third, more @ ..] if !more.is_empty() => problems.push(format!(
                "{PARAMETER} is not configured for {} of {} kernels: {one}, {other}, {third} …",
                without.len(),
                coming_lines(system).count()
            )),
            few => problems.push(format!("{PARAMETER} is not configured for kernel {}", few.join(", "))),
        }
    }
    match record {
        Stored::Good(record) => {
            let pending = settings.boot_update
                && assessment.held_back.is_none()
                && record.boot.error.is_none()
                && record.boot.inputs.as_ref() != Some(&system.boot_inputs)
                && system.boot_entries != ReadBack::Verified
                && system.boot_blocker != Some(BootBlocker::Chroot);
            if pending {
                problems
                    .push("kernels or fragments have changed since the boot entries were made".to_owned());
            }
            let told = |error: &&String| !problems.iter().any(|p| error.contains(p.as_str()));
            let error: Vec<String> = record.boot.error.iter().filter(told).cloned().collect();
            problems.extend(error);
            problems.extend(record.problems.iter().cloned());
            problems.extend(record.boot.waiting.iter().map(waiting::sentence));
        }
        Stored::Bad(reason) | Stored::Unreadable(reason) => problems.push(reason.clone()),
        Stored::Absent
            if !matches!(progress, Progress::Working(_))
                && !system.tree.modules.is_empty()
                && !system.inventory.kernels.is_empty() =>
        {
            problems.push("clr-dkms-post-update has not run on this system yet".to_owned());
        }
        Stored::Absent => {}
    }
    problems
}

/// What the boot entries say, but for that of the kernel that is held back: it is not made yet, on purpose.
pub(super) fn entries(system: &System, assessment: &BootAssessment) -> ReadBack {
    let line = assessment.held_back.as_ref().and_then(|release| system.cmdline_of(release));
    let Some(line) = line else { return system.boot_entries.clone() };
    let mut expected = expected_entries(&system.lines);
    expected.retain(|(of, _)| *of != line.id);
    system.boot.read_back(&expected)
}
