//! The trial of a new kernel: prepares its boot, checks it in that boot, and returns from it.
//!
//! While a kernel is on trial, the kernel that works stays the boot default, and the boot loader starts the
//! new one once. A machine that hangs or crashes then boots the older kernel without any program of ours.
//! Where the boot loader cannot do that, the new kernel is the boot default, and the check can only correct
//! the default afterwards.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::boot_default::{Observed, REQUEST, assert_again};
use super::boot_files::is_guarded;
use crate::boot::{BootFiles, default, one_shot};
use crate::config::ReturnPolicy;
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::mark_booted::is_there;
use crate::decide::trial::{TrialPlan, TrialStage, built, expected, trial_stage};
use crate::dkms::Cache;
use crate::exit;
use crate::kernel::{Installed, Inventory};
use crate::message;
use crate::requirement::{Importance, Requirement, Use};
use crate::state::trial::{FailedModule, TRIAL, Trial, TrialFailure};
use crate::state::{self, Stored};
use crate::sys::{FileError, Stopwatch, Written, systemd};
use crate::system::{System, expected_entries};
use crate::usage::{self, Presence, Usage};

/// The interval between two looks at the modules of a kernel on trial.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The unit that marks the running kernel as good.
const BOOTED: &str = "clr-boot-manager-booted.service";
/// The classes of logind's sessions behind which nobody works.
const NOBODY: [&str; 6] =
    ["greeter", "manager", "manager-early", "background", "background-light", "lock-screen"];

/// Takes a trial back that the decision does not ask for any more. Returns whether anything has changed.
///
/// # Errors
/// If the variable or the record cannot be removed.
pub fn withdraw(context: &Context, system: &System, assessment: &BootAssessment) -> anyhow::Result<bool> {
    let Some(recorded) = &system.trial.recorded else { return Ok(false) };
    if assessment.unknown.is_some() || !is_guarded(context) && !system.trial.is_armed() {
        return Ok(false);
    }
    let plan = assessment.trial.as_ref().filter(|plan| plan.kernel == recorded.kernel);
    let is_kept = match trial_stage(system) {
        Some((_, TrialStage::Running | TrialStage::Failed(_) | TrialStage::Unfinished)) => true,
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
    Ok(context.root.remove(TRIAL)?)
}

/// Prepares the trial that the decision asks for. Returns whether the next boot has changed.
///
/// # Errors
/// If the boot default, the record or the variable cannot be written. The message includes the next step.
pub fn prepare(context: &Context, system: &System, assessment: &BootAssessment) -> anyhow::Result<bool> {
    let Some(plan) = &assessment.trial else { return Ok(false) };
    let of = |release: &str| system.inventory.of_release(release);
    let (Some(kernel), Some(fallback)) = (of(&plan.kernel), of(&plan.fallback)) else { return Ok(false) };
    if system.boot_blocker.is_some() || !assessment.entry_lacks.is_empty() || !has_good_entry(system, kernel)
    {
        return Ok(false);
    }
    match plan.once {
        true => prepare_once(context, system, assessment, plan, (kernel, fallback))
            .context(format!("kernel {} cannot be booted on trial", plan.kernel)),
        false => {
            record(context, system, assessment, plan, None)?;
            Ok(false)
        }
    }
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
    if let Some(other) = chosen.as_deref().filter(|chosen| !is_ours(chosen)) {
        tracing::info!("an admin has chosen {other} for the next boot: kernel {} waits", plan.kernel);
        return Ok(root.remove(TRIAL)?);
    }
    let mut is_armed = chosen.as_deref().is_some_and(|chosen| one_shot::is_same(chosen, &entry.file));
    let mut changed = false;
    let configured = system.boot.configured.as_ref().and_then(|default| default.id.as_ref());
    if configured != Some(&fallback.id) {
        // The boot default can be read back only while no variable overrides it.
        one_shot::clear(root)?;
        is_armed = false;
        let files = BootFiles::observe(root, &system.inventory);
        let deadline = context.settings.boot_timeout;
        changed = default::set(root, &context.tools, deadline, &files, &system.inventory, &fallback.id)?;
    }
    // The record comes first: without it, a boot that failed would look like an admin's choice.
    record(context, system, assessment, plan, Some(entry.file.clone()))?;
    if !is_armed {
        one_shot::choose(root, &entry.file).with_context(|| {
            "the EFI variable cannot be written; with `trial = no` in section [boot] of \
             /etc/clr-dkms/clr-dkms.conf new kernels are booted without a trial"
        })?;
        changed = true;
        let (new, old) = (&plan.kernel, &plan.fallback);
        tracing::info!("kernel {new} boots next, on trial: {old} stays the boot default until it works");
    }
    Ok(changed)
}

/// Records what has to work.
fn record(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    plan: &TrialPlan,
    entry: Option<String>,
) -> Result<Written, FileError> {
    let known = system.trial.recorded.as_ref().filter(|known| known.kernel == plan.kernel);
    let since = known.map_or(context.clock.now(), |known| known.since);
    let mut expects = expected(system, &assessment.needs);
    expects.retain(|need| !system.wishes.allows(&plan.kernel, &need.module));
    if let Some(why) = &system.trial.fault {
        tracing::warn!("{why}; it is written again");
    }
    let trial = Trial {
        entry,
        boot: system.in_use.boot.id.clone(),
        built: built(system, &plan.kernel, &expects),
        expects,
        returned: known.and_then(|known| known.returned),
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
    // A damaged record does not name an entry.
    let trial = state::load::<Trial>(root, TRIAL).good();
    if let Some(entry) = trial.and_then(|trial| trial.entry)
        && one_shot::chosen(root)?.is_some_and(|chosen| one_shot::is_same(&chosen, &entry))
    {
        one_shot::clear(root)?;
    }
    root.remove(TRIAL).map(drop)
}

/// Whether the trial of a kernel has failed.
pub fn has_failed(system: &System, release: &str) -> bool {
    let stage = trial_stage(system).filter(|(trial, _)| trial.kernel == release).map(|(_, stage)| stage);
    matches!(stage, Some(TrialStage::Failed(_) | TrialStage::Unfinished))
}

/// Checks the running kernel if it is on trial: it waits at most the time `within` for its critical modules
/// and for what depends on them. Returns the exit code of the unit that calls it.
///
/// No lock is taken, because a run may hold it for an hour. Each file is written at once, and a run does not
/// change the record of a kernel that runs on trial.
///
/// # Errors
/// If a file cannot be read or written.
pub fn check(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    let trial = match state::load::<Trial>(&context.root, TRIAL) {
        Stored::Good(trial) => trial,
        Stored::Absent => return Ok(exit::OK),
        Stored::Bad(why) | Stored::Unreadable(why) => bail!("the trial of a kernel: {why}"),
    };
    let inventory = Inventory::observe(&context.root);
    if !inventory.runs(&trial.kernel) {
        return Ok(exit::OK);
    }
    let watch = Stopwatch::start();
    while !works_at_a_glance(context, &trial) && watch.elapsed() < within.unwrap_or_default() {
        std::thread::sleep(LOOK_AGAIN);
    }
    let failed = match works_at_a_glance(context, &trial) {
        true => Vec::new(),
        false => failed_modules(context, cache, &trial),
    };
    match failed.is_empty() {
        true => passed(context, &trial),
        false => fail(context, cache, trial, failed),
    }
}

fn critical(trial: &Trial) -> impl Iterator<Item = &Requirement> {
    trial.expects.iter().filter(|need| need.class == Importance::Critical)
}

/// Whether a module of each critical requirement is loaded, and what depends on it is there.
fn works_at_a_glance(context: &Context, trial: &Trial) -> bool {
    let Ok(loaded) = usage::loaded(&context.root) else { return false };
    let presence = Presence::observe(&context.root);
    let is_loaded = |need: &Requirement| {
        let files = need.modules();
        loaded.iter().any(|line| files.contains(&line.name))
    };
    critical(trial).all(|need| is_loaded(need) && presence.missing(need).is_none())
}

/// The critical modules that do not work, with a complete look at the machine.
fn failed_modules(context: &Context, cache: &mut Cache, trial: &Trial) -> Vec<FailedModule> {
    let seen = Observed::new(context, cache);
    let presence = Presence::observe(&context.root);
    // Nothing is known to be lost by a read that failed.
    let can_tell = Usage::can_tell(&context.root) && seen.assessment.unknown.is_none();
    let failed = critical(trial).filter_map(|need| {
        let why = match presence.missing(need) {
            _ if !can_tell => None,
            _ if !is_there(&seen.system, need, &trial.kernel) => Some("it is not loaded".to_owned()),
            Some(what) => Some(absence(what)),
            None => None,
        };
        Some(FailedModule { module: need.module.clone(), why: why? })
    });
    failed.collect()
}

/// What is missing although the module is loaded, as a clause.
fn absence(what: &Use) -> String {
    match what {
        Use::Mount { point, .. } => format!("{point} is not mounted"),
        Use::Pool { pool } => format!("the pool {pool} is not imported"),
        Use::DefaultRoute { interface } => format!("there is no network interface {interface}"),
        Use::Swap { .. }
        | Use::Display
        | Use::Loaded
        | Use::Installed
        | Use::ModulesLoad { .. }
        | Use::Listed
        | Use::Replaces { .. }
        | Use::Remembered => format!("what it is needed for is missing: {what}"),
    }
}

fn passed(context: &Context, trial: &Trial) -> anyhow::Result<u8> {
    context.root.remove(TRIAL)?;
    tracing::info!("kernel {} works: its trial is over, and it becomes the boot default", trial.kernel);
    // The worker updates the boot files.
    context.root.write(REQUEST, b"", 0o644)?;
    if context.root.is_live() {
        // It was skipped as long as the trial was not over.
        let words = ["start", "--no-block", BOOTED];
        if let Err(e) = systemd::ask(&context.tools, "systemctl", &words) {
            tracing::warn!("kernel {} is not marked as booted: {e:#}", trial.kernel);
        }
    }
    Ok(exit::OK)
}

fn fail(
    context: &Context,
    cache: &mut Cache,
    mut trial: Trial,
    modules: Vec<FailedModule>,
) -> anyhow::Result<u8> {
    for FailedModule { module, why } in &modules {
        let kernel = trial.kernel.as_str();
        tracing::error!(
            message_id = message::TRIAL_FAILED,
            dkms_kernel = kernel,
            dkms_module = module.as_str(),
            "kernel {kernel} does not work: {module} is critical, and {why}; {} boots next",
            trial.fallback
        );
    }
    trial.failed = Some(TrialFailure { at: context.clock.now(), modules });
    context.root.write_json(TRIAL, &trial)?;
    // The worker writes the record and the message of the day.
    context.root.write(REQUEST, b"", 0o644)?;
    let code = assert_again(context, cache);
    if context.settings.boot_return == ReturnPolicy::Reboot && is_guarded(context) {
        match why_not_return(context, cache, &trial) {
            Ok(None) => go_back(context, trial)?,
            Ok(Some(why)) => tracing::warn!("the machine is not rebooted: {why}"),
            Err(e) => tracing::warn!("the machine is not rebooted: {e:#}"),
        }
    }
    Ok(code.max(exit::ATTENTION))
}

/// Why the machine must not be rebooted by itself. None if it may be.
fn why_not_return(context: &Context, cache: &mut Cache, trial: &Trial) -> anyhow::Result<Option<String>> {
    if trial.returned.is_some() {
        return Ok(Some(format!("it was rebooted before because of kernel {}", trial.kernel)));
    }
    let seen = Observed::new(context, cache);
    let BootAssessment { next, next_lacks, unknown, .. } = &seen.assessment;
    if !next.is(&trial.fallback) || !next_lacks.is_empty() || unknown.is_some() {
        return Ok(Some(format!("it is not certain that kernel {} boots next and works", trial.fallback)));
    }
    if !context.root.is_live() {
        return Ok(Some("this is a copy of a system".to_owned()));
    }
    let sessions = systemd::ask(&context.tools, "loginctl", &["list-sessions", "--no-legend"])?;
    let sessions: Vec<&str> = sessions.lines().filter_map(|l| l.split_ascii_whitespace().next()).collect();
    if sessions.is_empty() {
        return Ok(None);
    }
    let words: Vec<&str> = ["show-session", "--property=Class"].into_iter().chain(sessions).collect();
    let said = systemd::ask(&context.tools, "loginctl", &words)?;
    let is_user = systemd::values(&said, "Class").iter().any(|class| !NOBODY.contains(class));
    Ok(is_user.then(|| "a user is logged in".to_owned()))
}

fn go_back(context: &Context, mut trial: Trial) -> anyhow::Result<()> {
    // It is on disk before the reboot, so that a machine is rebooted once only.
    trial.returned = Some(context.clock.now());
    context.root.write_json(TRIAL, &trial)?;
    tracing::warn!(
        message_id = message::RETURNED,
        dkms_kernel = trial.fallback.as_str(),
        "rebooting into kernel {}, because kernel {} does not work",
        trial.fallback,
        trial.kernel
    );
    systemd::ask(&context.tools, "systemctl", &["reboot"]).map(drop)
}
