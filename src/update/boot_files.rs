//! The boot files: clr-boot-manager makes them if the guard allows it; otherwise they are kept, or the
//! default is pointed to the kernel that should boot.

use super::boot_update::{self, bring_up_to_date};
use crate::boot::deferral::{self, Deferral};
use crate::boot::inputs::{self, BootPart};
use crate::boot::{BootFiles, ReadBack, default, removal};
use crate::boot_decision::{BootDecision, Reason, Ruling};
use crate::config::BootPolicy;
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, guard_acts};
use crate::decide::entry_loss::{EntryLoss, entry_losses};
use crate::decide::next_boot::NextBoot;
use crate::dkms::Tree;
use crate::kernel::{Images, KernelName, Running};
use crate::message;
use crate::requirement::Importance;
use crate::state::{self, BootRecord, HeldBack, RECORD, RunRecord, Stored};
use crate::sys::RootKind;
use crate::system::{System, expected_entries};

/// Whether the guard acts on the system that is worked on.
pub fn is_guarded(context: &Context) -> bool {
    guard_acts(context.root.kind() == RootKind::Image, &context.settings)
}

/// Whether swupd is to leave the boot files to us here.
pub fn defers(context: &Context) -> bool {
    is_guarded(context) && context.settings.boot_policy == BootPolicy::Defer
}

/// The release of the kernel that runs, where it is not named as clr-boot-manager names kernels: then it is
/// not asked to decide anything. One of its own that is not installed any more keeps it from deleting, which
/// is foreseen.
pub fn running_is_foreign(system: &System) -> Option<String> {
    let Running::Known { release } = &system.inventory.running else { return None };
    KernelName::from_release(release, &system.inventory.namespace).is_none().then(|| release.clone())
}

/// Why the boot manager is to be run, if it is. `last` is what became of it the last time.
pub fn update_reason(
    context: &Context,
    last: Option<&BootRecord>,
    system: &System,
    assessment: &BootAssessment,
) -> Option<String> {
    // Of what is unknown clr-boot-manager might make, or delete, the wrong thing.
    if !context.settings.boot_update || assessment.unknown.is_some() {
        return None;
    }
    let decision = &assessment.decision;
    if blocked_by_refresh(context, system, assessment).is_some() {
        return None;
    }
    if is_guarded(context) && decision.ruling == Ruling::Defer {
        let last = last.cloned().unwrap_or_default();
        return outdated_reason(context, system, assessment, &last);
    }
    let target = system.lines.iter().find(|l| Some(&l.release) == decision.target.as_ref());
    match (last, target) {
        (_, Some(line)) if system.boot.loader.is_some() && system.boot.of(&line.id).is_none() => {
            let how = match decision.because {
                Reason::Released => " (allowed by an admin)",
                Reason::Held if decision.ruling == Ruling::Allow => " (held by an admin)",
                Reason::Proven if decision.default_lacks.is_empty() => {
                    " (all that this machine needs is proven)"
                }
                _ => "",
            };
            return Some(format!("kernel {} has no boot entry yet{how}", line.release));
        }
        _ => {}
    }
    match last {
        _ if matches!(system.boot_entries, ReadBack::Differs(_)) => {
            Some("the boot entries are not as configured".to_owned())
        }
        None => Some("we have not run it on this system yet".to_owned()),
        Some(boot) if boot.error.is_some() => Some("it failed the last time".to_owned()),
        Some(boot) if boot.inputs.as_deref() != Some(&system.boot_inputs) => {
            Some("kernels or fragments have changed since it last ran".to_owned())
        }
        Some(boot) if boot.held_back.is_some() && decision.ruling == Ruling::Allow => {
            Some(format!("{} is held back no more", decision.target.as_deref().unwrap_or("no kernel")))
        }
        Some(_) => None,
    }
}

/// What a new boot entry of the kernel that is to boot would keep from being loaded.
fn blocked_by_refresh(context: &Context, system: &System, assessment: &BootAssessment) -> Option<EntryLoss> {
    let release = assessment.decision.default.as_deref()?;
    let losses = entry_losses(system, &context.settings, &assessment.needs, release, None);
    losses.into_iter().find(EntryLoss::is_blocked)
}

/// Why the boot files are to be brought up to date while a kernel is held back: what is to boot must boot as
/// configured, and what every kernel loads must not stay old. The new kernel itself waits for its proof.
fn outdated_reason(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    last: &BootRecord,
) -> Option<String> {
    let default = assessment.decision.default.as_deref();
    if let ReadBack::Differs(_) = entries_of(system, default) {
        return Some(format!("the boot entry of {} is not as configured", default.unwrap_or("the default")));
    }
    // Until we took over, swupd had clr-boot-manager run itself.
    if last.parts.is_empty() {
        return None;
    }
    let outdated = boot_update::outdated(system, assessment, last, &inputs::parts(&context.root));
    let parts: Vec<String> = outdated.iter().map(BootPart::to_string).collect();
    (!parts.is_empty()).then(|| format!("out of date: {}", parts.join(", ")))
}

/// The entries of one kernel, beside what they should be.
fn entries_of(system: &System, release: Option<&str>) -> ReadBack {
    let mut expected = expected_entries(&system.lines);
    let id = system.lines.iter().find(|l| Some(l.release.as_str()) == release).map(|l| &l.id);
    expected.retain(|(of, _)| Some(of) == id);
    system.boot.read_back(&expected)
}

/// The steps that bring the boot files up to date. [`take_steps`] orders them, for the worker as for the
/// model of it that tests check.
pub trait BootFileSteps {
    /// Why a step did not come to its end, so that those after it are not taken.
    type Stop;

    /// Has clr-boot-manager make the files, as far as the guard allows it; where a whole update fails, a
    /// kernel that has a boot entry stays the default.
    ///
    /// # Errors
    /// When it did not come to its end.
    fn refresh(&mut self) -> Result<(), Self::Stop>;

    /// Points the boot default to the kernel that should boot, where clr-boot-manager would choose another
    /// one.
    ///
    /// # Errors
    /// When it did not come to its end.
    fn point_default(&mut self) -> Result<(), Self::Stop>;
}

/// Takes the steps: a kernel becomes the default only after its boot files were made.
///
/// # Errors
/// Those of the step that did not come to its end.
pub fn take_steps<S: BootFileSteps>(steps: &mut S) -> Result<(), S::Stop> {
    steps.refresh()?;
    steps.point_default()
}

/// Brings the boot files up to date, as far as the guard allows it.
pub fn refresh(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    last: Option<BootRecord>,
) -> BootRecord {
    let reason = update_reason(context, last.as_ref(), system, assessment);
    if let Some(loss) = blocked_by_refresh(context, system, assessment) {
        tracing::warn!("the boot entries stay as they are: {loss}");
    }
    let was_held = last.as_ref().and_then(|l| l.held_back.clone());
    let known_held = was_held.clone();
    let last = last.unwrap_or_default();
    let ran = reason.is_some();
    let (mut boot, whole, touched) = match reason {
        Some(why) => {
            let done = bring_up_to_date(context, system, assessment, last, &why, false);
            (done.record, done.whole, done.touched)
        }
        // An update that is switched off is not tried again: its last error is dropped.
        None => {
            let error = last.error.filter(|_| context.settings.boot_update);
            // While it is unknown what is out of date, the list of waiting parts is kept.
            let waiting = if assessment.unknown.is_some() { last.waiting } else { Vec::new() };
            (BootRecord { error, waiting, ..last }, false, false)
        }
    };
    let is_known = assessment.unknown.is_none() && boot.error.is_none();
    if is_known && boot.parts.is_empty() && boot.waiting.is_empty() {
        boot.parts = inputs::parts(&context.root);
    }
    boot.held_back = assessment.held_back.clone().map(|kernel| HeldBack {
        kernel,
        // A clock that was wrong once must not hide how long it has been held.
        since: was_held.as_ref().map_or(context.clock.now(), |held| held.since.min(context.clock.now())),
        deferred: !touched && was_held.is_none_or(|held| held.deferred),
    });
    if let Some(unknown) = &assessment.unknown {
        tracing::error!("the boot files are left as they are: {unknown}");
        boot.held_back = known_held;
    } else if !ran && boot.held_back.is_some() {
        // No update is due for a kernel that is held back; an older failure is reported again when one is.
        boot.error = None;
    }
    if whole
        && boot.error.is_some()
        && let Err(e) = fall_back(context, system, assessment)
    {
        tracing::error!("the boot default: {e:#}");
    }
    boot
}

/// Where clr-boot-manager has failed half-way, the default may be a kernel that has no entry, and what boots
/// then only the boot loader knows. The running kernel has shown that it boots.
fn fall_back(context: &Context, system: &System, assessment: &BootAssessment) -> anyhow::Result<()> {
    let kernels = &system.inventory.kernels;
    let chosen = kernels.iter().find(|k| Some(k.name.release()) == assessment.decision.default);
    let (Some(chosen), Some(running)) = (chosen, system.inventory.running_kernel()) else { return Ok(()) };
    if !assessment.acts || system.boot_blocker.is_some() {
        return Ok(());
    }
    let seen = BootFiles::observe(&context.root, &system.inventory);
    let default = seen.default.as_ref().and_then(|d| d.id.as_ref());
    if seen.of(&chosen.id).is_some() || seen.of(&running.id).is_none() || default == Some(&running.id) {
        return Ok(());
    }
    let deadline = context.settings.boot_timeout;
    default::set(&context.root, &context.tools, deadline, &seen, &system.inventory, &running.id)?;
    let (now, later) = (running.name.release(), chosen.name.release());
    tracing::warn!("{now} is the boot default for now: {later} has no boot entry that is whole");
    Ok(())
}

/// The decision wants another default than clr-boot-manager would choose by itself.
pub fn points_default(assessment: &BootAssessment) -> bool {
    assessment.acts && assessment.asserted_default(&[]).is_some()
}

/// Why it is unknown whether the boot default is the right one; none where it is known, or nobody asks for
/// it.
pub fn undetermined(context: &Context, system: &System, assessment: &BootAssessment) -> Option<String> {
    let is_asked = assessment.acts && !matches!(system.inventory.images, Images::Absent);
    if !is_asked {
        return None;
    }
    let unreadable = assessment.unknown.clone().or_else(|| super::sequence::unreadable(context, system));
    // Where another kernel than clr-boot-manager's choice is to boot, the default must be seen.
    let points = points_default(assessment);
    let next = &assessment.next;
    let is_right = assessment.decision.default.as_deref().is_some_and(|release| next.is(release));
    let hidden = || next.unknown().map(str::to_owned).filter(|_| points);
    let blocker = || system.boot_blocker.as_ref().map(ToString::to_string).filter(|_| points && !is_right);
    unreadable.or_else(hidden).or_else(blocker)
}

/// Points the boot default to the kernel of the decision, where clr-boot-manager would not have it so by
/// itself. Gives whether anything was changed.
///
/// # Errors
/// In words, with the next step.
pub fn assert_default(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
) -> anyhow::Result<bool> {
    let decision = &assessment.decision;
    let asserted = assessment.asserted_default(&assessment.entry_lacks);
    let Some(release) = asserted.filter(|_| assessment.acts) else {
        return Ok(false);
    };
    let Some(kernel) = system.inventory.of_release(release) else {
        return Ok(false);
    };
    // Where nothing of it can be seen, nothing can be said of it, nor changed.
    if system.boot_blocker.is_some() {
        return Ok(false);
    }
    let changed = default::set(
        &context.root,
        &context.tools,
        context.settings.boot_timeout,
        &system.boot,
        &system.inventory,
        &kernel.id,
    )?;
    if changed {
        let message = match &assessment.next {
            NextBoot::Removed { release: gone, .. } => {
                format!("{release} is the boot default: it was {gone}, which is not installed any more")
            }
            _ => format!("{release} is the boot default again, because {}", why(decision)),
        };
        match decision.because {
            // As asked for, and not for what the catalogue says of the others.
            Reason::Held => tracing::info!("{message}"),
            _ => {
                tracing::warn!(message_id = message::DEFAULT_PUT_BACK, dkms_kernel = release, "{message}");
            }
        }
    }
    Ok(changed)
}

/// The record once the default was pointed to another kernel: what was wrong with the boot files may have
/// been that alone.
pub fn after_new_default(context: &Context, system: &System, boot: BootRecord) -> BootRecord {
    if boot.error.is_none() || system.boot_entries != ReadBack::Verified {
        return boot;
    }
    BootRecord {
        inputs: Some(system.boot_inputs.clone()),
        updated: Some(context.clock.now()),
        entries: Some(ReadBack::Verified.word().to_owned()),
        error: None,
        parts: inputs::parts(&context.root),
        waiting: Vec::new(),
        ..boot
    }
}

/// Why the default is what it is, in words.
pub fn why(decision: &BootDecision) -> String {
    match (decision.because, decision.lacking.first()) {
        (Reason::Held, _) => "an admin holds it".to_owned(),
        (Reason::Unknown, _) => "a fact that decides could not be read".to_owned(),
        (_, Some(lack)) => {
            let target = decision.target.as_deref().unwrap_or("the new kernel");
            format!("{target} lacks {lack}")
        }
        _ => "it has what is needed".to_owned(),
    }
}

/// Has swupd leave the boot files to us where the last run knew of a module that is needed, or where no run
/// has left a record and there is any module. It costs next to nothing; [`put_deferral_right`] has the last
/// word.
pub fn defer_by_record(context: &Context, tree: &Tree) {
    let needed = match state::load::<RunRecord>(&context.root, RECORD) {
        Stored::Good(record) => record.needs.iter().any(|need| need.class > Importance::Optional),
        _ => !tree.modules.is_empty() || tree.unreadable.is_some(),
    };
    if !needed || !defers(context) {
        return;
    }
    match removal::defer(&context.root, &context.tools) {
        Ok(true) => tracing::info!("swupd leaves the boot files to clr-dkms from now on"),
        Ok(false) => {}
        // It is tried again, with a warning, once everything is known.
        Err(e) => tracing::debug!("{e:#}"),
    }
}

/// Configures whether swupd leaves the boot files to clr-dkms.
pub fn put_deferral_right(context: &Context, system: &System, assessment: &BootAssessment) {
    if !context.root.is_slash() && context.root.kind() == RootKind::Image {
        return;
    }
    if system.tree.unreadable.is_some() || assessment.unknown.is_some() {
        // What is needed is unknown: what swupd was configured to do before stays.
        return;
    }
    let wanted = defers(context) && assessment.needs.iter().any(|n| n.class > Importance::Optional);
    let done = match wanted {
        true => removal::defer(&context.root, &context.tools),
        false => removal::stop_deferring(&context.root, &context.tools),
    };
    match done {
        Ok(true) if wanted => tracing::info!("swupd leaves the boot files to clr-dkms from now on"),
        Ok(true) => tracing::info!("swupd makes the boot files itself again: no DKMS module is needed"),
        Ok(false) => {}
        Err(e) => tracing::warn!("{e:#}"),
    }
    if let (true, Deferral::Off { overridden_by: Some(by), .. }) = (wanted, deferral::observe(&context.root))
    {
        tracing::warn!(
            message_id = message::SWUPD_OVERRIDES,
            "{by} has swupd run clr-boot-manager before the modules are proven"
        );
    }
}
