//! The remedies for the kernel that boots next.

use super::Progress;
use super::problem::{AdminOverride, listed};
use super::remedies::{Situation, as_root, continue_run, of_module, of_unknown, post_update, run};
use super::remedy::{AdminCommand, Remedy};
use crate::boot_decision::{AdminOverrides, Reason, Ruling};
use crate::decide::assessment::BootAssessment;
use crate::decide::candidates::is_bootable;
use crate::decide::satisfaction::NOT_REGISTERED;
use crate::decide::trial::FAILED_ON_TRIAL;
use crate::dkms::plan::State;
use crate::requirement::{Importance, MissingModule, Requirement};
use crate::state::ModuleRecord;
use crate::system::System;

/// How to determine which kernel boots next.
pub(super) fn find_out_next_boot(system: &System) -> Remedy {
    if !system.denied.is_empty() {
        as_root()
    } else if system.boot.loader.is_none() {
        Remedy::by_hand("mount the boot partition, then ask again")
    } else if system.boot.entries.is_empty() {
        run()
    } else {
        set_kernel(None).into()
    }
}

/// Makes a kernel the boot default. `id` is the kernel id, if it is known.
fn set_kernel(id: Option<&str>) -> AdminCommand {
    let set = AdminCommand::change("clr-boot-manager", &["set-kernel", id.unwrap_or("KERNEL_ID")]);
    set.to("choose the boot default")
}

/// The remedy for the boot default: it corrects the default, or adds what the right kernel lacks. None if
/// nothing has to be done.
pub fn of_boot_default(at: Situation<'_>) -> Option<Remedy> {
    let Situation { system, assessment, .. } = at;
    let decision = &assessment.decision;
    if matches!(at.progress, Progress::Working(_)) {
        return Some(Remedy::Wait);
    }
    if let Some(remedy) = of_wrong_default(at) {
        return Some(remedy);
    }
    // A repair of that kernel is a separate matter; a working machine comes first.
    let is_advised = failed_on_trial(assessment).is_none()
        || assessment.trial_now.as_ref().is_some_and(|trial| trial.asks_to_return);
    if is_advised && !assessment.comes_back.is_empty() {
        return Some(Remedy::Reboot(assessment.comes_back.clone()));
    }
    if admin_override(assessment).is_some()
        && let Some(kernel) = complete_kernel(system, assessment)
    {
        let hold = AdminCommand::change("clr-dkms", &["hold", &kernel]);
        return Some(hold.to("keep the kernel that has it").into());
    }
    if decision.because == Reason::Held {
        return Some(AdminCommand::change("clr-dkms", &["unhold"]).to("end the hold").into());
    }
    if decision.because == Reason::Trial {
        let look = AdminCommand::look("systemctl", &["status", "clr-dkms-trial.service"]);
        return Some(look.to("see the check of the new kernel").into());
    }
    if let Some(kernel) = failed_on_trial(assessment) {
        return Some(AdminCommand::change("clr-dkms", &["allow", kernel]).to("try it again").into());
    }
    // An admin has accepted what it lacks.
    if decision.because == Reason::Released && !assessment.is_unsafe() {
        return None;
    }
    let mut missing = assessment.next_lacks.iter().chain(&decision.default_lacks).chain(&decision.lacking);
    let is_listed = |module: &str| assessment.needs.iter().any(|n| n.module == module && n.is_listed());
    if missing.any(|l| l.state == NOT_REGISTERED && is_listed(&l.module)) {
        let add = AdminCommand::change("dkms", &["add", "DIRECTORY"]).to("register it");
        return Some(Remedy::by_hand("correct the name in clr-dkms.conf").or(add));
    }
    of_lacking(at)
}

/// The release of the kernel that is held back only because its trial has failed.
fn failed_on_trial(assessment: &BootAssessment) -> Option<&str> {
    let decision = &assessment.decision;
    let has_failed = !decision.lacking.is_empty()
        && decision.lacking.iter().all(|lack| lack.state == FAILED_ON_TRIAL)
        && assessment.next_lacks.is_empty()
        && decision.ruling == Ruling::Defer;
    decision.target.as_deref().filter(|_| has_failed)
}

/// The remedy for what a kernel lacks.
fn of_lacking(at: Situation<'_>) -> Option<Remedy> {
    let Situation { system, assessment, .. } = at;
    let decision = &assessment.decision;
    let (lacks, kernel) = match assessment.next_lacks.as_slice() {
        [] if !decision.lacking.is_empty() => (&decision.lacking, decision.target.as_deref()),
        [] => (&decision.default_lacks, decision.default.as_deref()),
        _ => (&assessment.next_lacks, assessment.next.shown()),
    };
    let first = lacks.first()?;
    let is_it = |m: &&ModuleRecord| Some(m.kernel.as_str()) == kernel && m.module.to_string() == first.module;
    let bring = match at.modules.iter().find(is_it) {
        Some(record) => {
            // Modules with the same remedy are named together.
            let is_alike = |l: &&MissingModule| l.state == record.state.to_string();
            let names = listed(lacks.iter().filter(is_alike).map(|l| &l.module));
            of_module(record, Some(&names), system)
        }
        None if first.state == State::Unknown.to_string() => of_unknown(run()),
        None => {
            let kernel = kernel.unwrap_or("that boots next");
            Remedy::by_hand(format!("install {} for kernel {kernel}", first.module))
        }
    };
    let may_go_ahead = assessment.acts
        && !assessment.is_unsafe()
        && decision.ruling == Ruling::Defer
        && lacks.iter().all(|lack| lack.class < Importance::Critical);
    if !may_go_ahead {
        return Some(bring);
    }
    match kernel.and_then(|kernel| allow(&system.wishes, kernel, lacks)) {
        Some(allow) => Some(bring.or(allow)),
        None => Some(bring),
    }
}

/// The command that lets a kernel boot without the modules that it lacks; none if an admin has already
/// allowed that.
pub fn allow(known: &AdminOverrides, kernel: &str, lacks: &[MissingModule]) -> Option<AdminCommand> {
    let new: Vec<&str> = lacks.iter().map(MissingModule::name).filter(|m| !known.allows(kernel, m)).collect();
    let without = new.iter().flat_map(|module| ["--without", *module]);
    let words: Vec<&str> = ["allow", kernel].into_iter().chain(without).collect();
    let them = if new.len() == 1 { "it" } else { "them" };
    (!new.is_empty()).then(|| AdminCommand::change("clr-dkms", &words).to(format!("go ahead without {them}")))
}

/// The remedy for a wrong boot default.
fn of_wrong_default(at: Situation<'_>) -> Option<Remedy> {
    let (assessment, decision) = (at.assessment, &at.assessment.decision);
    let should = decision.default.as_deref()?;
    let is_wrong = assessment.next.release().is_some() && !assessment.is_carried_out();
    let choice = assessment.next.choice().filter(|choice| choice.set_by.overrides());
    if let Some(by) = choice.filter(|_| is_wrong || assessment.next.release().is_none()) {
        let what = if by.set_by.is_for_one_boot() { "for the next boot only" } else { "for every boot" };
        let command = by.set_by.taken_back_by().map(|command| format!(" with `sudo {command}`"));
        return Some(Remedy::by_hand(format!(
            "{} was chosen by an admin {what}: take that back{}, or boot it by choice",
            by.entry,
            command.unwrap_or_default()
        )));
    }
    // Another run would fail for the same reason.
    if boot_update_error(at).is_some() {
        return Some(of_failed_boot_update());
    }
    is_wrong.then(|| match (at.settings.guards(), decision.ruling, decision.because) {
        (true, ..) if *at.progress == Progress::BrokenOff => continue_run(),
        (true, ..) => post_update().to("correct the boot default").into(),
        (false, Ruling::Defer, _) | (false, _, Reason::Removed) => {
            let kernel = at.system.inventory.of_release(should);
            set_kernel(kernel.map(|k| k.id.as_str())).into()
        }
        (false, Ruling::Allow, _) => AdminCommand::change("clr-boot-manager", &["update"]).into(),
    })
}

/// Why the last run could not update the boot files, if that prevents the right kernel from being the
/// default.
pub(super) fn boot_update_error(at: Situation<'_>) -> Option<&str> {
    let assessment = at.assessment;
    let waits_for_it = at.settings.boot_update
        && assessment.decision.ruling == Ruling::Allow
        && assessment.next.release().is_some()
        && !assessment.is_carried_out();
    at.record.filter(|_| waits_for_it)?.boot.error.as_deref()
}

pub(super) fn of_failed_boot_update() -> Remedy {
    Remedy::by_hand("correct that").then(run())
}

/// How an admin has let the target boot in spite of what it lacks; none if it lacks nothing, or nobody has
/// requested that.
pub fn admin_override(assessment: &BootAssessment) -> Option<AdminOverride> {
    let decision = &assessment.decision;
    let lacks = !decision.lacking.is_empty() || !decision.default_lacks.is_empty();
    match decision.because {
        Reason::Released if lacks => Some(AdminOverride::Released),
        Reason::Held if lacks && decision.ruling == Ruling::Allow => Some(AdminOverride::Held),
        _ => None,
    }
}

/// A kernel other than the target that has every required module: the running one, otherwise the newest.
fn complete_kernel(system: &System, assessment: &BootAssessment) -> Option<String> {
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
