//! Everything that is wrong, in sentences.

use super::{ModuleStatus, Progress, guard, is_missed, is_told_below, waiting};
use crate::boot::{Obstacle, ReadBack};
use crate::cmdline::{PARAMETER, Switch};
use crate::config::Settings;
use crate::decide::assessment::BootAssessment;
use crate::decide::entry_loss::entry_losses;
use crate::decide::initrds;
use crate::decide::module_state::status_in_force;
use crate::decide::next_boot::coming_lines;
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::dkms::plan::State;
use crate::state::{ModuleRecord, Record, Stored};
use crate::system::{System, expected_entries};

/// The sentence on a module; none where nothing is wrong with it, or another sentence tells it.
pub(super) fn of_module(m: &ModuleRecord, facts: &System, judgement: &BootAssessment) -> Option<String> {
    let decision = &judgement.decision;
    // Why a kernel is held back is told in one sentence.
    let is_told = judgement.held_back.is_some()
        && decision.target.as_ref() == Some(&m.kernel)
        && decision.lacking.iter().any(|l| l.module == m.module.to_string());
    if !is_missed(m, facts, judgement) || is_told {
        return None;
    }
    Some(match (m.state, m.state.is_fine()) {
        // That is what its admin wants.
        (State::Blocked, _) if judgement.is_listed_as_optional(&m.module.name) => return None,
        (State::Blocked, _) => {
            let why = m.reason.as_deref().unwrap_or("something keeps it from being loaded");
            format!("{} will not be loaded on kernel {}: {why}", m.module, m.kernel)
        }
        (State::InitrdStale, _) => {
            let why = m.reason.as_deref().unwrap_or("its initrd is another one");
            format!("{} is not ready for kernel {}: {why}", m.module, m.kernel)
        }
        (State::SignatureRefused, _) => return m.reason.clone().filter(|_| !is_told_below(m, facts)),
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
            let older = facts.files.in_force(&m.module.name, &m.kernel);
            let older =
                older.filter(|older| status_in_force(facts, older).is_some_and(|s| s.state == State::Ok));
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
    facts: &System,
    record: &Stored<Record>,
    progress: &Progress,
    settings: &Settings,
    modules: &[ModuleStatus],
    judgement: &BootAssessment,
) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    problems.extend(facts.inventory.unreadable().map(str::to_owned));
    problems.extend(facts.tree.unreadable.clone());
    for what in judgement.unknown.iter().chain(&judgement.unknown_target) {
        if !problems.contains(what) {
            problems.push(what.clone());
        }
    }
    let (refused, lacking): (Vec<&ModuleStatus>, Vec<_>) =
        modules.iter().partition(|m| m.record.state == State::SignatureRefused);
    problems.extend(lacking.into_iter().chain(refused).filter_map(|m| m.problem.clone()));
    if let ReadBack::Differs(wrong) = entries(facts, judgement) {
        problems.extend(wrong);
    }
    problems.extend(initrds::without_successor(facts).into_iter().map(|(release, path)| {
        format!(
            "kernel {release} has no successor of the running kernel's own initrd: there is no {}",
            facts.spell(&path)
        )
    }));
    let losses = |release| entry_losses(facts, settings, &judgement.needs, release, None);
    let losses = judgement.decision.default.as_deref().map(losses).unwrap_or_default();
    problems.extend(losses.iter().find(|loss| loss.is_blocked()).map(ToString::to_string));
    problems.extend(guard::lost_wish(facts, judgement));
    if judgement.acts {
        problems.extend(guard::not_deferred(facts, settings, judgement));
    }
    if *progress == Progress::BrokenOff {
        problems.push("the last run was broken off before its end".to_owned());
    }
    if sig_unenforce_wanted(settings, facts, &judgement.needs) {
        let lines = coming_lines(facts).filter(|l| l.switch != Switch::On);
        let without: Vec<&str> = lines.map(|l| l.release.as_str()).collect();
        match without.as_slice() {
            [] => {}
            [one, other, third, more @ ..] if !more.is_empty() => problems.push(format!(
                "{PARAMETER} is not configured for {} of {} kernels: {one}, {other}, {third} …",
                without.len(),
                coming_lines(facts).count()
            )),
            few => problems.push(format!("{PARAMETER} is not configured for kernel {}", few.join(", "))),
        }
    }
    match record {
        Stored::Good(record) => {
            let pending = settings.boot_update
                && judgement.held_back.is_none()
                && record.boot.error.is_none()
                && record.boot.inputs.as_ref() != Some(&facts.boot_inputs)
                && facts.boot_entries != ReadBack::Verified
                && facts.boot_obstacle != Some(Obstacle::Chroot);
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
                && !facts.tree.modules.is_empty()
                && !facts.inventory.kernels.is_empty() =>
        {
            problems.push("clr-dkms-post-update has not run on this system yet".to_owned());
        }
        Stored::Absent => {}
    }
    problems
}

/// What the boot entries say, but for that of the kernel that is held back: it is not made yet, on purpose.
pub(super) fn entries(facts: &System, judgement: &BootAssessment) -> ReadBack {
    let line = judgement.held_back.as_ref().and_then(|release| facts.line_of(release));
    let Some(line) = line else { return facts.boot_entries.clone() };
    let mut expected = expected_entries(&facts.lines);
    expected.retain(|(of, _)| *of != line.id);
    facts.boot.read_back(&expected)
}
