//! The boot files. If the guard allows it, clr-boot-manager writes them. Otherwise they are kept, or the boot
//! default is set to the kernel that should boot.

use anyhow::Result;

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
use crate::kernel::{Images, KernelName};
use crate::message;
use crate::requirement::Importance;
use crate::state::{self, BootRecord, HeldBack, RECORD, RunRecord, Stored};
use crate::sys::RootKind;
use crate::system::{System, expected_entries};

/// Whether the guard acts on the system below the root.
pub fn is_guarded(context: &Context) -> bool {
    guard_acts(context.root.kind() == RootKind::Image, &context.settings)
}

/// Whether swupd should leave the boot files to clr-dkms on this system.
pub fn defers(context: &Context) -> bool {
    is_guarded(context) && context.settings.boot_policy == BootPolicy::Defer
}

/// The release of the running kernel if it is not named as clr-boot-manager names kernels. clr-boot-manager
/// then cannot decide correctly which kernels to keep, and is not run. A running kernel of clr-boot-manager
/// that is not installed any more prevents only deletions, which is foreseen.
pub fn running_is_foreign(system: &System) -> Option<String> {
    let release = system.inventory.running.release()?;
    KernelName::from_release(release, &system.inventory.namespace).is_none().then(|| release.to_owned())
}

/// A reason to run clr-boot-manager.
const FAILED_LAST_TIME: &str = "it failed the last time";

/// Why clr-boot-manager should be run; none if it should not. `last` is the result of its last run.
pub fn update_reason(
    context: &Context,
    last: Option<&BootRecord>,
    system: &System,
    assessment: &BootAssessment,
) -> Option<String> {
    // With incomplete knowledge clr-boot-manager might write or delete the wrong files.
    if !context.settings.boot_update || assessment.unknown.is_some() {
        return None;
    }
    let decision = &assessment.decision;
    if blocked_by_refresh(context, system, assessment).is_some() {
        return None;
    }
    // Before a trial only the entry of the new kernel is written, and nothing is deleted.
    if is_guarded(context) && (decision.ruling == Ruling::Defer || assessment.is_tried_once()) {
        let last = last.cloned().unwrap_or_default();
        let has_failed = decision.ruling == Ruling::Allow && last.error.is_some();
        return outdated_reason(context, system, assessment, &last)
            .or_else(|| has_failed.then(|| FAILED_LAST_TIME.to_owned()));
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
        None => Some("clr-dkms has not run it on this system yet".to_owned()),
        Some(boot) if boot.error.is_some() => Some(FAILED_LAST_TIME.to_owned()),
        Some(boot) if boot.inputs.as_deref() != Some(&system.boot_inputs) => {
            Some("kernels or fragments have changed since it last ran".to_owned())
        }
        Some(boot) if boot.held_back.is_some() && decision.ruling == Ruling::Allow => {
            Some(format!("{} is not held back any more", decision.target.as_deref().unwrap_or("no kernel")))
        }
        Some(_) => None,
    }
}

/// What a new boot entry of the next kernel would prevent from being loaded.
fn blocked_by_refresh(context: &Context, system: &System, assessment: &BootAssessment) -> Option<EntryLoss> {
    let release = assessment.decision.default.as_deref()?;
    let losses = entry_losses(system, &context.settings, &assessment.needs, release, None);
    losses.into_iter().find(EntryLoss::is_blocked)
}

/// Why the boot files must be updated although a kernel is held back: the kernel that boots must boot as
/// configured, and the parts that all kernels load must not become outdated. The new kernel itself waits for
/// its proof.
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
    // There is no record of the parts as long as swupd itself ran clr-boot-manager.
    if last.parts.is_empty() {
        return None;
    }
    let outdated = boot_update::outdated(system, assessment, last, &inputs::parts(&context.root));
    let parts: Vec<String> = outdated.iter().map(BootPart::to_string).collect();
    (!parts.is_empty()).then(|| format!("out of date: {}", parts.join(", ")))
}

/// Compares the boot entries of one kernel with what they should be.
fn entries_of(system: &System, release: Option<&str>) -> ReadBack {
    let mut expected = expected_entries(&system.lines);
    let id = system.lines.iter().find(|l| Some(l.release.as_str()) == release).map(|l| &l.id);
    expected.retain(|of| Some(&of.id) == id);
    system.boot.read_back(&expected)
}

/// The steps that update the boot files. [`take_steps`] orders them, for the worker and for the model that
/// tests check.
pub trait BootFileSteps {
    /// Why a step was interrupted, so that the following steps are not taken.
    type Stop;

    /// Lets clr-boot-manager write the files, as far as the guard allows it. If an unrestricted update fails,
    /// a kernel that has a boot entry stays the default.
    ///
    /// # Errors
    /// If it was interrupted.
    fn refresh(&mut self) -> Result<(), Self::Stop>;

    /// Sets the boot default to the kernel that should boot, if clr-boot-manager would choose another one.
    ///
    /// # Errors
    /// If it was interrupted.
    fn point_default(&mut self) -> Result<(), Self::Stop>;
}

/// Takes the steps. A kernel becomes the default only after its boot files were written.
///
/// # Errors
/// If a step was interrupted.
pub fn take_steps<S: BootFileSteps>(steps: &mut S) -> Result<(), S::Stop> {
    steps.refresh()?;
    steps.point_default()
}

/// Updates the boot files, as far as the guard allows it.
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
    let (mut boot, touched) = match reason {
        Some(why) => {
            let done = bring_up_to_date(context, system, assessment, last, &why, false);
            (done.record, done.touched)
        }
        // A disabled update is not tried again, so its last error is dropped.
        None => {
            let error = last.error.filter(|_| context.settings.boot_update);
            // Without knowledge of what is outdated, the list of waiting parts is kept.
            let waiting = if assessment.unknown.is_some() { last.waiting } else { Vec::new() };
            (BootRecord { error, waiting, ..last }, false)
        }
    };
    if assessment.is_tried_once() {
        // When the trial is over, clr-boot-manager has to run without restrictions, even if nothing else
        // changes.
        boot.inputs = None;
    }
    let is_known = assessment.unknown.is_none() && boot.error.is_none();
    if is_known && boot.parts.is_empty() && boot.waiting.is_empty() {
        boot.parts = inputs::parts(&context.root);
    }
    boot.held_back = assessment.held_back.clone().map(|kernel| HeldBack {
        kernel,
        // If the clock was wrong once, a time in the future must not hide how long it has been held.
        since: was_held.as_ref().map_or(context.clock.now(), |held| held.since.min(context.clock.now())),
        deferred: !touched && was_held.is_none_or(|held| held.deferred),
    });
    if let Some(unknown) = &assessment.unknown {
        tracing::error!("the boot files are left as they are: {unknown}");
        boot.held_back = known_held;
    } else if !ran && boot.held_back.is_some() {
        // No update is due for a kernel that is held back. An older failure is reported again when one is
        // due.
        boot.error = None;
    }
    if touched
        && boot.error.is_some()
        && let Err(e) = fall_back(context, system, assessment)
    {
        tracing::error!("the boot default: {e:#}");
    }
    boot
}

/// If clr-boot-manager failed half-way, the default may be a kernel without an entry or without its files,
/// and the choice of the boot loader is unknown. The running kernel is known to boot.
fn fall_back(context: &Context, system: &System, assessment: &BootAssessment) -> Result<()> {
    let kernels = &system.inventory.kernels;
    let chosen = kernels.iter().find(|k| Some(k.name.release()) == assessment.decision.default);
    let (Some(chosen), Some(running)) = (chosen, system.inventory.running_kernel()) else { return Ok(()) };
    if !assessment.acts || system.boot_blocker.is_some() {
        return Ok(());
    }
    let seen = BootFiles::observe(&context.root, &system.inventory);
    let default = seen.default.as_ref().and_then(|d| d.id.as_ref());
    let is_running = default == Some(&running.id);
    if seen.has_whole_entry(&chosen.id) || !seen.has_whole_entry(&running.id) || is_running {
        return Ok(());
    }
    let deadline = context.settings.boot_timeout;
    default::set(&context.root, &context.tools, deadline, &seen, &system.inventory, &running.id)?;
    let (now, later) = (running.name.release(), chosen.name.release());
    tracing::warn!("{now} is the boot default for now: {later} has no complete boot entry");
    Ok(())
}

/// Whether the decision requires another default than clr-boot-manager would choose.
pub fn points_default(assessment: &BootAssessment) -> bool {
    assessment.acts && assessment.asserted_default(&[]).is_some()
}

/// Why it is unknown whether the boot default is the right one. None if it is known, or if it does not
/// matter.
pub fn undetermined(context: &Context, system: &System, assessment: &BootAssessment) -> Option<String> {
    let is_asked = assessment.acts && !matches!(system.inventory.images, Images::Absent);
    if !is_asked {
        return None;
    }
    let unreadable = assessment.unknown.clone().or_else(|| super::sequence::unreadable(context, system));
    // If a kernel other than clr-boot-manager's choice should boot, the default must be readable.
    let points = points_default(assessment);
    let next = &assessment.next;
    let is_right = assessment.decision.default.as_deref().is_some_and(|release| next.is(release));
    let hidden = || next.unknown().map(str::to_owned).filter(|_| points);
    let blocker = || system.boot_blocker.as_ref().map(ToString::to_string).filter(|_| points && !is_right);
    unreadable.or_else(hidden).or_else(blocker)
}

/// Sets the boot default to the kernel of the decision, if clr-boot-manager would choose another one. Returns
/// whether anything was changed.
///
/// # Errors
/// If it cannot be set. The message includes the next step.
pub fn assert_default(context: &Context, system: &System, assessment: &BootAssessment) -> Result<bool> {
    let decision = &assessment.decision;
    let asserted = assessment.asserted_default(&assessment.entry_lacks);
    let Some(release) = asserted.filter(|_| assessment.acts) else {
        return Ok(false);
    };
    let Some(kernel) = system.inventory.of_release(release) else {
        return Ok(false);
    };
    // Without access to the boot files, nothing can be checked or changed.
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
    if changed && is_makeshift(assessment) {
        // The next run lets clr-boot-manager choose again, when the kernel of its choice boots safely.
        let record = state::load::<RunRecord>(&context.root, RECORD).good();
        if let Some(mut record) = record.filter(|record| record.boot.inputs.is_some()) {
            record.boot.inputs = None;
            context.root.write_json(RECORD, &record)?;
        }
    }
    if changed {
        let message = match &assessment.next {
            NextBoot::Removed { release: gone, .. } => {
                format!("{release} is the boot default: it was {gone}, which is not installed any more")
            }
            next => match (&assessment.rescue, next.release(), assessment.next_lacks.first()) {
                (Some(_), Some(next), Some(lack)) => {
                    format!("{release} is the boot default again, because {next} lacks {lack}")
                }
                _ => format!("{release} is the boot default again, because {}", why(decision)),
            },
        };
        match decision.because {
            // The admin asked for it, so it is not a warning.
            Reason::Held => tracing::info!("{message}"),
            _ => {
                tracing::warn!(message_id = message::DEFAULT_PUT_BACK, dkms_kernel = release, "{message}");
            }
        }
    }
    Ok(changed)
}

/// Whether another kernel than the chosen one is the boot default until that one boots safely.
pub fn is_makeshift(assessment: &BootAssessment) -> bool {
    assessment.rescue.is_some() && assessment.rescue != assessment.decision.default
}

/// The boot record after the default was set to another kernel, which may have been the only fault of the
/// boot files.
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

/// Why this kernel is the default, as a phrase.
pub fn why(decision: &BootDecision) -> String {
    match (decision.because, decision.lacking.first()) {
        (Reason::Held, _) => "an admin holds it".to_owned(),
        (Reason::Unknown, _) => "a fact that the decision depends on could not be read".to_owned(),
        (_, Some(lack)) => {
            let target = decision.target.as_deref().unwrap_or("the new kernel");
            format!("{target} lacks {lack}")
        }
        _ => "it has what is needed".to_owned(),
    }
}

/// Configures swupd to leave the boot files to clr-dkms if the last run recorded a required module, or if
/// there is no record and any module is registered. It is cheap, and can be wrong; [`correct_deferral`]
/// decides with complete information.
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
        // `correct_deferral` tries it again, with a warning.
        Err(e) => tracing::debug!("{e:#}"),
    }
}

/// Configures whether swupd leaves the boot files to clr-dkms.
pub fn correct_deferral(context: &Context, system: &System, assessment: &BootAssessment) {
    if !context.root.is_slash() && context.root.kind() == RootKind::Image {
        return;
    }
    if system.tree.unreadable.is_some() || assessment.unknown.is_some() {
        // It is unknown what is needed, so the configuration of swupd stays.
        return;
    }
    let wanted = defers(context) && assessment.needs.iter().any(|n| n.class > Importance::Optional);
    let done = match wanted {
        true => removal::defer(&context.root, &context.tools),
        false => removal::stop_deferring(&context.root, &context.tools),
    };
    match done {
        Ok(true) if wanted => tracing::info!("swupd leaves the boot files to clr-dkms from now on"),
        Ok(true) => tracing::info!("swupd writes the boot files itself again: no DKMS module is needed"),
        Ok(false) => {}
        Err(e) => tracing::warn!("{e:#}"),
    }
    if let (true, Deferral::Off { overridden_by: Some(by), .. }) = (wanted, deferral::observe(&context.root))
    {
        tracing::warn!(
            message_id = message::SWUPD_OVERRIDES,
            "{by} makes swupd run clr-boot-manager before the modules are proven"
        );
    }
}
