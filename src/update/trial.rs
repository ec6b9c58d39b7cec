//! The trial of a new kernel: prepares its boot, and takes it back. [`super::trial_check`] checks the kernel.
//!
//! While a kernel is on trial, the kernel that works stays the boot default, and the boot loader starts the
//! new one once. A machine that hangs or crashes then boots the older kernel without any program of ours.
//! Where the boot loader cannot do that, the new kernel is the boot default, and the check can only correct
//! the default afterwards.

use anyhow::{Context as _, anyhow};

use super::boot_files::is_guarded;
use crate::boot::{BootFiles, default, one_shot};
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::trial::{TrialPlan, TrialStage, built, expected, failed_before, trial_stage};
use crate::decide::unread::first_that_decides;
use crate::kernel::Installed;
use crate::kernel::inventory::There;
use crate::requirement::{Importance, Requirement};
use crate::state::trial::{TRIAL, Trial};
use crate::state::{self, Stored};
use crate::sys::{FileError, Root, RootKind, Written};
use crate::system::{System, expected_entries};
use crate::usage::{self, Presence};

/// Takes a trial back that the decision does not ask for any more. Returns whether anything has changed.
///
/// # Errors
/// If the variable or the record cannot be removed.
pub fn withdraw(context: &Context, system: &System, assessment: &BootAssessment) -> anyhow::Result<bool> {
    // The EFI variables that an image sees are those of the host.
    let is_image = context.root.kind() == RootKind::Image;
    if is_image || assessment.unknown.is_some() || !is_guarded(context) && !system.trial.is_armed() {
        return Ok(false);
    }
    let Some(recorded) = &system.trial.recorded else {
        if let Some(fault) = system.trial.fault.as_ref().filter(|_| assessment.trial.is_none()) {
            let aside = state::set_aside(&context.root, TRIAL)?;
            tracing::warn!("{fault}; it is kept as {}", context.root.shown_path(&aside).display());
            let Some(trial) = lost_trial(context, system, assessment) else {
                context.root.remove(TRIAL)?;
                return Ok(false);
            };
            tracing::warn!("kernel {} has not shown yet that it works: it is tried again", trial.kernel);
            return Ok(context.root.write_json(TRIAL, &trial)? == Written::Changed);
        }
        return Ok(false);
    };
    let plan = assessment.trial.as_ref().filter(|plan| plan.kernel == recorded.kernel);
    let is_kept = match trial_stage(system) {
        Some((_, TrialStage::Running | TrialStage::Failed(_))) => true,
        Some((_, TrialStage::Unfinished | TrialStage::Unchecked)) => true,
        Some((_, TrialStage::Armed)) => plan.is_some_and(|plan| plan.once == recorded.entry.is_some()),
        // It is prepared again.
        None => plan.is_some(),
    };
    if is_kept {
        return Ok(false);
    }
    if system.trial.is_armed() {
        one_shot::clear(&context.root)?;
    }
    tracing::debug!("the trial of kernel {} is taken back", recorded.kernel);
    forget_trial(&context.root, recorded, &recorded.kernel)
}

/// The trial in place of a damaged record: that of the running kernel, if it may be on trial and does not
/// work. None if another kernel is not better.
fn lost_trial(context: &Context, system: &System, assessment: &BootAssessment) -> Option<Trial> {
    let running = system.inventory.running_kernel().filter(|kernel| kernel.booted != There::Yes)?;
    let release = running.name.release();
    let fallback = assessment.fallback_of(system, &release)?;
    let is_required = |need: &&Requirement| {
        need.class > Importance::Optional && !system.wishes.allows(&release, &need.module)
    };
    let entry = system.boot.of(&running.id).filter(|_| system.trial.can_boot_once);
    let trial = Trial {
        entry: entry.map(|entry| entry.file.clone()),
        expects: assessment.needs.iter().filter(is_required).cloned().collect(),
        ..Trial::new(&release, &fallback, context.clock.now())
    };
    (!works_at_a_glance(context, &trial)).then_some(trial)
}

/// Removes the trial of one kernel from the record. The failed trials of other kernels stay.
pub(super) fn forget_trial(root: &Root, recorded: &Trial, kernel: &str) -> anyhow::Result<bool> {
    Ok(match recorded.clone().without(kernel) {
        Some(left) => root.write_json(TRIAL, &left)? == Written::Changed,
        None => root.remove(TRIAL)?,
    })
}

/// Forgets that the trial of a kernel has failed, so that it is tried again.
///
/// # Errors
/// If the record cannot be written.
pub(super) fn try_again(root: &Root, system: &System, kernel: &str) -> anyhow::Result<()> {
    match &system.trial.recorded {
        Some(recorded) => forget_trial(root, recorded, kernel).map(drop),
        None => Ok(()),
    }
}

/// Prepares the trial that the decision asks for. Returns whether the next boot has changed.
///
/// # Errors
/// If the boot default, the record or the variable cannot be written. The message includes the next step.
pub fn prepare(context: &Context, system: &System, assessment: &BootAssessment) -> anyhow::Result<bool> {
    let Some(plan) = &assessment.trial else { return Ok(false) };
    let of = |release: &str| system.inventory.of_release(release);
    let (Some(kernel), Some(fallback)) = (of(&plan.kernel), of(&plan.fallback)) else { return Ok(false) };
    let has_entries = system.boot.has_whole_entry(&fallback.id) && has_good_entry(system, kernel);
    if system.boot_blocker.is_some() || !assessment.entry_lacks.is_empty() || !has_entries {
        return Ok(false);
    }
    let now = system.in_use.boot.id.clone();
    if !plan.once {
        record(context, system, assessment, plan, None, now)?;
        return Ok(false);
    }
    prepare_once(context, system, assessment, plan, (kernel, fallback)).map_err(|e| {
        // Otherwise a later boot of another kernel would look like one in which the trial has failed.
        let entry = system.boot.of(&kernel.id).map(|entry| entry.file.clone());
        if let Err(e) = record(context, system, assessment, plan, entry, None) {
            tracing::error!("{e}");
        }
        e.context(format!("kernel {} cannot be booted on trial", plan.kernel))
    })
}

/// Whether a kernel has the boot entry that it should have.
fn has_good_entry(system: &System, kernel: &Installed) -> bool {
    let expected = expected_entries(&system.lines);
    let mut expected = expected.iter().filter(|of| of.id == kernel.id);
    system.boot.of(&kernel.id).is_some() && expected.all(|of| system.boot.differs(of).is_none())
}

fn prepare_once(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    plan: &TrialPlan,
    (kernel, fallback): (&Installed, &Installed),
) -> anyhow::Result<bool> {
    let root = &context.root;
    let Some(entry) = system.boot.of(&kernel.id) else { return Ok(false) };
    let chosen = system.trial.one_shot.as_ref().map_err(|why| anyhow!("{why}"))?;
    let is_ours = |chosen: &str| system.trial.is_armed() || one_shot::is_same(chosen, &entry.file);
    let other = chosen.as_deref().filter(|chosen| !is_ours(chosen));
    let mut is_armed = chosen.as_deref().is_some_and(|chosen| one_shot::is_same(chosen, &entry.file));
    let mut changed = false;
    let configured = system.boot.configured.as_ref().and_then(|default| default.id.as_ref());
    if configured != Some(&fallback.id) {
        // The boot default can be read back only while no variable overrides it.
        one_shot::clear(root)?;
        is_armed = false;
        let files = BootFiles::observe(root, &system.inventory);
        let deadline = context.settings.boot_timeout;
        let set = default::set(root, &context.tools, deadline, &files, &system.inventory, &fallback.id);
        if let Some(other) = other {
            one_shot::choose(root, other)?;
        }
        changed = set?;
    }
    if let Some(other) = other {
        tracing::info!("an admin has chosen {other} for the next boot: kernel {} waits", plan.kernel);
        let is_forgotten = match &system.trial.recorded {
            Some(recorded) => forget_trial(root, recorded, &plan.kernel)?,
            None => false,
        };
        return Ok(changed || is_forgotten);
    }
    let file = Some(entry.file.clone());
    if !is_armed {
        // The record comes first: without it, a boot that failed would look like an admin's choice. Without
        // the id of a boot it is not taken for one whose kernel has been booted.
        record(context, system, assessment, plan, file.clone(), None)?;
        one_shot::choose(root, &entry.file).with_context(|| {
            "the EFI variable cannot be written; with `trial = no` in section [boot] of \
             /etc/clr-dkms/clr-dkms.conf new kernels are booted without a trial"
        })?;
        changed = true;
        let (new, old) = (&plan.kernel, &plan.fallback);
        tracing::info!("kernel {new} boots next, on trial: {old} stays the boot default until it works");
    }
    record(context, system, assessment, plan, file, system.in_use.boot.id.clone())?;
    Ok(changed)
}

/// Records what has to work.
fn record(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    plan: &TrialPlan,
    entry: Option<String>,
    boot: Option<String>,
) -> Result<Written, FileError> {
    let known = system.trial.recorded.as_ref().filter(|known| known.kernel == plan.kernel);
    let since = known.map_or(context.clock.now(), |known| known.since);
    let expects = expected(system, &assessment.needs, &plan.kernel);
    // Not as it was observed: to prepare one boot it is written twice.
    if let Stored::Bad(why) | Stored::Unreadable(why) = state::load::<Trial>(&context.root, TRIAL) {
        tracing::warn!("{why}; it is written again");
    }
    let trial = Trial {
        entry,
        boot,
        built: built(system, &plan.kernel, &expects),
        expects,
        unchecked: known.map_or(0, |known| known.unchecked),
        returned: known.and_then(|known| known.returned),
        earlier: failed_before(system, &plan.kernel),
        ..Trial::new(&plan.kernel, &plan.fallback, since)
    };
    context.root.write_json(TRIAL, &trial)
}

/// Ends a trial that is prepared, before clr-dkms is removed: nothing would check the kernel.
///
/// # Errors
/// If the variable or the record cannot be removed.
pub fn forget(context: &Context) -> Result<(), FileError> {
    let root = &context.root;
    let trial = match state::load::<Trial>(root, TRIAL) {
        Stored::Good(trial) => Some(trial),
        // A damaged record does not name an entry.
        Stored::Absent | Stored::Bad(_) => None,
        Stored::Unreadable(_) => return root.remove(TRIAL).map(drop),
    };
    if let Some(trial) = trial {
        clear_choice(root, &trial)?;
    }
    root.remove(TRIAL).map(drop)
}

/// After a kexec the boot loader has not deleted the variable.
pub(super) fn clear_choice(root: &Root, trial: &Trial) -> Result<(), FileError> {
    let Some(entry) = &trial.entry else { return Ok(()) };
    match one_shot::chosen(root)?.is_some_and(|chosen| one_shot::is_same(&chosen, entry)) {
        true => one_shot::clear(root),
        false => Ok(()),
    }
}

pub(super) fn critical(trial: &Trial) -> impl Iterator<Item = &Requirement> {
    trial.expects.iter().filter(|need| need.class == Importance::Critical)
}

/// Whether a module of each critical requirement is loaded, and what depends on it is there. False if a read
/// has failed that a decision depends on.
pub(super) fn works_at_a_glance(context: &Context, trial: &Trial) -> bool {
    let Ok(loaded) = usage::loaded(&context.root) else { return false };
    let presence = Presence::observe(&context.root);
    let is_loaded = |need: &Requirement| {
        let files = need.modules();
        loaded.iter().any(|line| line.is_live && files.contains(&line.name))
    };
    critical(trial).all(|need| is_loaded(need) && presence.missing(need).is_none())
        && first_that_decides(&context.root.unread()).is_none()
}
