//! Collects all problems of a system.

use std::path::Path;

use super::kernels::{is_missed, is_reported_below};
use super::problem::{Problem, listed};
use super::{DocumentSources, ModuleStatus, Progress, guard};
use crate::boot::inputs::{self, BootPart};
use crate::boot::{BootBlocker, ReadBack};
use crate::cmdline::Switch;
use crate::decide::assessment::BootAssessment;
use crate::decide::entry_loss::entry_losses;
use crate::decide::initrds;
use crate::decide::next_boot::coming_lines;
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::dkms::plan::State;
use crate::state::{ModuleRecord, RunRecord, Stored};
use crate::sys::TimeStyle;
use crate::system::{System, expected_entries};

/// The problem of a module; none if nothing is wrong, or another problem covers it.
pub(super) fn of_module(
    record: &ModuleRecord,
    system: &System,
    assessment: &BootAssessment,
) -> Option<Problem> {
    let decision = &assessment.decision;
    // The reason why a kernel is held back is a problem of its own.
    let is_reported = assessment.held_back.is_some()
        && decision.target.as_ref() == Some(&record.kernel)
        && decision.lacking.iter().any(|l| l.module == record.module.to_string());
    // An admin may block a module on purpose.
    let is_wanted = record.state == State::Blocked && assessment.is_listed_as_optional(&record.module.name);
    if !is_missed(record, system, assessment) || is_reported || is_wanted {
        return None;
    }
    match record.state {
        State::SignatureRefused if is_reported_below(record, system) || record.reason.is_none() => None,
        State::HookFailed if record.reason.is_none() => None,
        State::SignatureRefused => Some(Problem::ModuleRefused(Box::new(record.clone()))),
        _ => Some(Problem::ModuleNotReady(Box::new(record.clone()))),
    }
}

/// All problems, the most important first.
pub(super) fn problems(
    of: DocumentSources<'_>,
    modules: &[ModuleStatus],
    assessment: &BootAssessment,
) -> Vec<Problem> {
    let DocumentSources { system, settings, .. } = of;
    let mut problems: Vec<Problem> = guard::problems(assessment, &system.wishes.held);
    problems.extend(guard::trial_overridden(system, assessment).filter(|_| assessment.acts));
    let unreadable = system.inventory.unreadable().into_iter().chain(system.tree.unreadable.as_deref());
    let unknown = assessment.unknown.iter().chain(&assessment.unknown_target);
    for what in unreadable.chain(unknown.map(String::as_str)) {
        let problem = Problem::Unreadable { what: what.to_owned() };
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    problems.extend(modules.iter().filter_map(|m| m.problem.clone()));
    if let ReadBack::Differs(faults) = entries(system, assessment, of.record.as_good()) {
        problems.extend(faults.into_iter().map(Problem::BootEntry));
    }
    problems.extend(initrds::without_successor(system).into_iter().map(|(kernel, path)| Problem::NoInitrd {
        shown: system.shown_path(&path),
        kernel,
        path,
    }));
    let losses = |release| entry_losses(system, settings, &assessment.needs, release, None);
    let losses = assessment.decision.default.as_deref().map(losses).unwrap_or_default();
    problems.extend(losses.into_iter().find(|loss| loss.is_blocked()).map(Problem::EntryLoss));
    problems.extend(guard::lost_wish(system, assessment));
    if assessment.acts {
        problems.extend(guard::not_deferred(system, settings, assessment));
    }
    if *of.progress == Progress::BrokenOff {
        problems.push(Problem::RunBrokenOff);
    }
    if sig_unenforce_wanted(settings, system, &assessment.needs) {
        // A file that cannot be read is a problem of its own.
        let lines = coming_lines(system).filter(|l| l.switch != Switch::On && l.unread().is_none());
        let kernels: Vec<String> = lines.map(|l| l.release.clone()).collect();
        if !kernels.is_empty() {
            problems.push(Problem::ParameterMissing { kernels, of: coming_lines(system).count() });
        }
    }
    problems.extend(system.automation.iter().flatten().cloned().map(Problem::Automation));
    problems.extend(settings.faults.iter().map(|what| Problem::SetupFault { what: what.clone() }));
    match of.record {
        Stored::Good(record) => problems.extend(recorded(of, record, assessment, &problems)),
        Stored::Bad(why) => problems.push(Problem::RecordDamaged { why: why.clone() }),
        Stored::Unreadable(what) => problems.push(Problem::Unreadable { what: what.clone() }),
        Stored::Absent
            if !matches!(of.progress, Progress::Working(_))
                && !system.tree.modules.is_empty()
                && !system.inventory.kernels.is_empty() =>
        {
            problems.push(Problem::NeverRun);
        }
        Stored::Absent => {}
    }
    problems.sort_by_key(Problem::kind);
    problems
}

/// Problems that the last run recorded. `known` are the problems that are observed now.
fn recorded(
    of: DocumentSources<'_>,
    record: &RunRecord,
    assessment: &BootAssessment,
    known: &[Problem],
) -> Vec<Problem> {
    let (system, boot) = (of.system, &record.boot);
    let mut problems = Vec::new();
    let is_written = match &boot.inputs {
        Some(inputs) => *inputs == system.boot_inputs,
        // Before a trial the update was restricted. It writes all parts but the choice of the tips.
        None => {
            let changed = inputs::changed(&boot.parts, &system.boot_parts);
            changed.iter().all(|part| *part == BootPart::Tips)
        }
    };
    let is_outdated = of.settings.boot_update
        && assessment.held_back.is_none()
        && boot.error.is_none()
        && !is_written
        && system.boot_entries != ReadBack::Verified
        && system.boot_blocker != Some(BootBlocker::Chroot)
        && !are_inputs_unread(system);
    if is_outdated {
        problems.push(Problem::BootFilesOutdated);
    }
    let is_seen = boot.differs && known.iter().any(|problem| matches!(problem, Problem::BootEntry(_)));
    problems.extend(
        boot.error.iter().filter(|_| !is_seen).map(|why| Problem::BootUpdateFailed { why: why.clone() }),
    );
    let faults = record.faults.iter().filter(|what| !of.settings.faults.contains(what));
    problems.extend(faults.map(|what| Problem::SetupFault { what: what.clone() }));
    problems.extend(record.problems.iter().map(|what| Problem::Recorded { what: what.clone() }));
    problems.extend(boot.waiting.iter().cloned().map(Problem::Waiting));
    problems
}

/// Whether an input of clr-boot-manager could not be read, so that it is not known whether they have changed.
fn are_inputs_unread(system: &System) -> bool {
    let denied = system.denied.iter().map(|path| match path.strip_prefix(&system.root) {
        Ok(inside) => Path::new("/").join(inside),
        // A path outside of the root is named as it is.
        Err(_) => path.clone(),
    });
    let failed = system.unread.iter().map(|unread| unread.path.clone());
    denied.chain(failed).any(|path| inputs::are_read_from(&path))
}

/// Problems of the boot entries. Entries that are missing on purpose are not included: that of a kernel that
/// is held back, and those of all new kernels if the unrestricted update waits for it.
pub(super) fn entries(system: &System, assessment: &BootAssessment, record: Option<&RunRecord>) -> ReadBack {
    let line = assessment.held_back.as_ref().and_then(|release| system.cmdline_of(release));
    let Some(line) = line else { return system.boot_entries.clone() };
    let mut expected = expected_entries(&system.lines);
    let waits = record.and_then(|r| r.boot.held_back.as_ref()).is_some_and(|held| held.deferred);
    let has_entry = |id: &String| system.boot.entries.iter().any(|entry| entry.id.as_ref() == Some(id));
    let should_boot = |id: &String| {
        let default = assessment.decision.default.as_deref();
        default.and_then(|release| system.cmdline_of(release)).is_some_and(|line| line.id == *id)
    };
    expected.retain(|of| of.id != line.id && (!waits || has_entry(&of.id) || should_boot(&of.id)));
    system.boot.read_back(&expected)
}

/// The first problem. If it concerns one of several modules that are not ready, their number comes first.
pub(super) fn in_all(first: &Problem, problems: &[Problem], times: &TimeStyle) -> String {
    let mut modules: Vec<String> = Vec::new();
    for module in problems.iter().filter(|p| p.is_of_module()).filter_map(Problem::module) {
        if !modules.contains(&module) {
            modules.push(module);
        }
    }
    if !first.is_of_module() || modules.len() < 2 {
        return first.sentence(times);
    }
    format!("{} modules are not ready: {}; {}", modules.len(), listed(&modules), first.sentence(times))
}
