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
use super::sequence::SWUPD_LOCK;
use crate::boot::{BootFiles, default, one_shot};
use crate::config::ReturnPolicy;
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::mark_booted::is_there;
use crate::decide::trial::{TrialPlan, TrialStage, built, expected, failed_before, trial_stage};
use crate::decide::unread::first_that_decides;
use crate::dkms::Cache;
use crate::exit;
use crate::kernel::{Installed, Inventory};
use crate::message;
use crate::requirement::{Importance, Requirement, Use};
use crate::state::trial::{FailedModule, TRIAL, Trial, TrialFailure};
use crate::state::{self, LOCK, Stored, is_ours};
use crate::sys::{FileError, Lock, Root, RootKind, Stopwatch, Written, lock, systemd};
use crate::system::{System, expected_entries};
use crate::usage::{self, Presence, Usage};

/// How long the critical modules have to work without a break: a fault may show only when services use them.
const STEADY: Duration = Duration::from_secs(15);
/// The longest wait for a run, or for swupd, before the boot default is corrected or the machine rebooted.
const PATIENCE: Duration = Duration::from_secs(2 * 60);
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
    // The EFI variables that an image sees are those of the host.
    let is_image = context.root.kind() == RootKind::Image;
    if is_image || assessment.unknown.is_some() || !is_guarded(context) && !system.trial.is_armed() {
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
    forget_trial(&context.root, recorded, &recorded.kernel)
}

/// Removes the trial of one kernel from the record. The failed trials of other kernels stay.
fn forget_trial(root: &Root, recorded: &Trial, kernel: &str) -> anyhow::Result<bool> {
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
    if system.boot_blocker.is_some() || !assessment.entry_lacks.is_empty() || !has_good_entry(system, kernel)
    {
        return Ok(false);
    }
    let now = system.in_use.boot.id.clone();
    if !plan.once {
        record(context, system, assessment, plan, None, now)?;
        return Ok(false);
    }
    prepare_once(context, system, assessment, plan, (kernel, fallback)).or_else(|e| {
        // Otherwise a later boot of another kernel would look like one in which the trial has failed.
        record(context, system, assessment, plan, recorded_entry(system), None)?;
        Err(e.context(format!("kernel {} cannot be booted on trial", plan.kernel)))
    })
}

fn recorded_entry(system: &System) -> Option<String> {
    system.trial.recorded.as_ref().and_then(|trial| trial.entry.clone())
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
        return match &system.trial.recorded {
            Some(recorded) => forget_trial(root, recorded, &plan.kernel),
            None => Ok(false),
        };
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
    record(context, system, assessment, plan, Some(entry.file.clone()), system.in_use.boot.id.clone())?;
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
    boot: Option<String>,
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
        boot,
        built: built(system, &plan.kernel, &expects),
        expects,
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

/// Checks the running kernel if it is on trial: it waits at most the time `within` for its critical modules
/// and for what depends on them. Returns the exit code of the unit that calls it.
///
/// No lock is taken for that, because a run may hold it for an hour. Each file is written at once, and a run
/// does not change the record of a kernel that runs on trial.
///
/// # Errors
/// If a file cannot be read or written.
pub fn check(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    let mut trial = match state::load::<Trial>(&context.root, TRIAL) {
        Stored::Good(trial) => trial,
        Stored::Absent => return Ok(exit::OK),
        Stored::Bad(why) | Stored::Unreadable(why) => bail!("the trial of a kernel: {why}"),
    };
    let inventory = Inventory::observe(&context.root);
    if !inventory.runs(&trial.kernel) {
        return Ok(exit::OK);
    }
    // An admin may have given a module up since the trial was prepared.
    let wishes = state::wishes(&context.root);
    trial.expects.retain(|need| !wishes.allows(&trial.kernel, &need.module));
    wait_until_it_works(context, &trial, within.unwrap_or_default());
    match failed_modules(context, cache, &trial) {
        Ok(failed) if failed.is_empty() => passed(context, &trial),
        Ok(failed) => fail(context, cache, trial, failed),
        Err(why) => {
            let Trial { kernel, fallback, .. } = &trial;
            tracing::error!(
                "whether kernel {kernel} works cannot be determined: {why}; it stays on trial, and {fallback} stays \
                 the boot default"
            );
            Ok(exit::UNKNOWN)
        }
    }
}

/// Waits until the critical modules have worked for a while, or until the time is over.
fn wait_until_it_works(context: &Context, trial: &Trial, within: Duration) {
    let steady = STEADY.min(within / 4);
    let watch = Stopwatch::start();
    let mut since = None;
    loop {
        let now = watch.elapsed();
        match works_at_a_glance(context, trial) {
            true if now.saturating_sub(*since.get_or_insert(now)) >= steady => return,
            true => {}
            false if now >= within => return,
            false => since = None,
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn critical(trial: &Trial) -> impl Iterator<Item = &Requirement> {
    trial.expects.iter().filter(|need| need.class == Importance::Critical)
}

/// Whether a module of each critical requirement is loaded, and what depends on it is there. False if a read
/// has failed that a decision depends on.
fn works_at_a_glance(context: &Context, trial: &Trial) -> bool {
    let Ok(loaded) = usage::loaded(&context.root) else { return false };
    let presence = Presence::observe(&context.root);
    let is_loaded = |need: &Requirement| {
        let files = need.modules();
        loaded.iter().any(|line| line.is_live && files.contains(&line.name))
    };
    critical(trial).all(|need| is_loaded(need) && presence.missing(need).is_none())
        && first_that_decides(&context.root.unread()).is_none()
}

/// The critical modules that do not work. A complete look at the machine is needed only if not all of them
/// are seen to work.
///
/// # Errors
/// Why it is unknown. Nothing is known to work, or not to work, by a read that failed.
fn failed_modules(context: &Context, cache: &mut Cache, trial: &Trial) -> Result<Vec<FailedModule>, String> {
    if works_at_a_glance(context, trial) {
        return Ok(Vec::new());
    }
    // The observation that follows collects its failed reads too.
    let presence = Presence::observe(&context.root);
    let seen = Observed::new(context, cache);
    if let Some(unknown) = seen.assessment.unknown {
        return Err(unknown);
    }
    if !Usage::can_tell(&context.root) {
        return Err("the loaded modules cannot be read".to_owned());
    }
    let mut failed = Vec::new();
    for need in critical(trial) {
        let lost = match is_there(&seen.system, need, &trial.kernel)? {
            true => presence.missing(need).map(absence),
            false => Some("it is not loaded".to_owned()),
        };
        failed.extend(lost.map(|why| FailedModule { module: need.module.clone(), why }));
    }
    Ok(failed)
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

/// After a kexec the boot loader has not deleted the variable.
fn clear_choice(root: &Root, trial: &Trial) -> Result<(), FileError> {
    let Some(entry) = &trial.entry else { return Ok(()) };
    match one_shot::chosen(root)?.is_some_and(|chosen| one_shot::is_same(&chosen, entry)) {
        true => one_shot::clear(root),
        false => Ok(()),
    }
}

fn passed(context: &Context, trial: &Trial) -> anyhow::Result<u8> {
    clear_choice(&context.root, trial)?;
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
            "kernel {kernel} does not work: {module} is critical, and {why}"
        );
    }
    trial.failed = Some(TrialFailure { at: context.clock.now(), modules });
    context.root.write_json(TRIAL, &trial)?;
    if let Err(e) = clear_choice(&context.root, &trial) {
        tracing::error!("kernel {} boots once more: {e}", trial.kernel);
    }
    let code = match Lock::take(&context.root, LOCK, PATIENCE.min(context.settings.lock_wait), is_ours) {
        Ok(_lock) => assert_again(context, cache),
        Err(e) => {
            tracing::warn!("the boot default is corrected by the run that holds the lock: {e}");
            exit::ATTENTION
        }
    };
    // The worker writes the record and the message of the day.
    context.root.write(REQUEST, b"", 0o644)?;
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
    for path in [SWUPD_LOCK, LOCK] {
        lock::wait_while_held(&context.root, path, PATIENCE);
        if lock::is_held(&context.root, path)? {
            return Ok(Some(format!("another process holds {path}")));
        }
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
