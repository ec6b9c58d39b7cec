//! The trial of a new kernel: prepares its boot, checks it in that boot, and returns from it.
//!
//! While a kernel is on trial, the kernel that works stays the boot default, and the boot loader starts the
//! new one once. A machine that hangs or crashes then boots the older kernel without any program of ours.
//! Where the boot loader cannot do that, the new kernel is the boot default, and the check can only correct
//! the default afterwards.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};

use super::boot_default::{Observed, REQUEST, assert_with_trial};
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
use crate::kernel::inventory::There;
use crate::kernel::{Installed, Inventory};
use crate::message;
use crate::requirement::{Importance, Requirement, Use};
use crate::state::trial::{FailedModule, TRIAL, Trial, TrialFailure};
use crate::state::{self, LOCK, Stored, is_ours};
use crate::sys::{FileError, Lock, Root, RootKind, Stopwatch, Written, interrupt, lock, systemd};
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
    let can_return = system.boot.of(&fallback.id).is_some_and(|entry| entry.lost.is_none());
    let has_entries = can_return && has_good_entry(system, kernel);
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
    let recorded = match state::load::<Trial>(&context.root, TRIAL) {
        Stored::Good(trial) => trial,
        Stored::Absent => return Ok(exit::OK),
        Stored::Bad(why) | Stored::Unreadable(why) => bail!("the trial of a kernel: {why}"),
    };
    let inventory = Inventory::observe(&context.root);
    let mut all = recorded.earlier.iter().chain([&recorded]);
    let Some(mut trial) = all.find(|trial| inventory.runs(&trial.kernel)).cloned() else {
        return Ok(exit::OK);
    };
    interrupt::watch()?;
    // An admin may have given a module up since the trial was prepared.
    let wishes = state::wishes(&context.root);
    trial.expects.retain(|need| !wishes.allows(&trial.kernel, &need.module));
    wait_until_it_works(context, &trial, within.unwrap_or_default());
    match failed_modules(context, cache, &trial) {
        _ if interrupt::asked() => {
            try_later(&context.root, &trial.kernel)?;
            Ok(exit::ATTENTION)
        }
        Ok(failed) if failed.is_empty() => passed(context, &trial),
        Ok(failed) => fail(context, cache, trial, failed),
        Err(why) => {
            let Trial { kernel, fallback, .. } = &trial;
            tracing::error!(
                "whether kernel {kernel} works cannot be determined: {why}; {fallback} stays the boot default, and \
                 {kernel} is tried again after its next boot"
            );
            try_later(&context.root, kernel)?;
            Ok(exit::UNKNOWN)
        }
    }
}

/// The record, if it is that of this kernel. It may have been changed since it was read.
fn record_of(root: &Root, kernel: &str) -> Option<Trial> {
    state::load::<Trial>(root, TRIAL).good().filter(|trial| trial.kernel == kernel)
}

/// Records that the check of a kernel was not completed in this boot although nothing has failed: the kernel
/// is booted on trial once more.
fn try_later(root: &Root, kernel: &str) -> Result<(), FileError> {
    match record_of(root, kernel) {
        Some(trial) => root.write_json(TRIAL, &Trial { boot: None, ..trial }).map(drop),
        None => Ok(()),
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
            _ if interrupt::asked() => return,
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
    let (mut failed, mut unknown) = (Vec::new(), None);
    for need in critical(trial) {
        let lost = match is_there(&seen.system, need, &trial.kernel) {
            Ok(true) => presence.missing(need).map(absence),
            Ok(false) => Some("it is not loaded".to_owned()),
            Err(why) => {
                unknown = Some(why);
                None
            }
        };
        failed.extend(lost.map(|why| FailedModule { module: need.module.clone(), why }));
    }
    match unknown {
        Some(why) if failed.is_empty() => Err(why),
        _ => Ok(failed),
    }
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
    if let Err(e) = clear_choice(&context.root, trial) {
        tracing::warn!("{e}");
    }
    // What is known of other kernels stays.
    if let Stored::Good(recorded) = state::load::<Trial>(&context.root, TRIAL) {
        forget_trial(&context.root, &recorded, &trial.kernel)?;
    }
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
    trial: Trial,
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
    let returns = context.settings.boot_return == ReturnPolicy::Reboot && is_guarded(context);
    if returns {
        lock::wait_while_held(&context.root, SWUPD_LOCK, PATIENCE);
    }
    let lock = Lock::take(&context.root, LOCK, PATIENCE.min(context.settings.lock_wait), is_ours);
    // Another kernel may be on trial by now, or an admin has ended the trial.
    let Some(recorded) = record_of(&context.root, &trial.kernel) else { return Ok(exit::ATTENTION) };
    let failed = Some(TrialFailure { at: context.clock.now(), modules });
    let trial = Trial { failed, expects: trial.expects, ..recorded };
    let written = context.root.write_json(TRIAL, &trial);
    if let Err(e) = clear_choice(&context.root, &trial) {
        tracing::error!("kernel {} boots once more: {e}", trial.kernel);
    }
    let code = match &lock {
        // On a full disk the boot default is corrected nevertheless.
        Ok(_) => assert_with_trial(context, cache, &trial),
        Err(e) => {
            tracing::warn!("the boot default is corrected by the run that holds the lock: {e}");
            exit::ATTENTION
        }
    };
    written?;
    if returns {
        let why_not = match lock.is_ok() {
            true => why_not_return(context, cache, &trial),
            false => Ok(Some("a run of clr-dkms is at work".to_owned())),
        };
        let done = match why_not {
            Ok(Some(why)) => Err(anyhow!(why)),
            Ok(None) => go_back(context, trial),
            Err(e) => Err(e),
        };
        if let Err(e) = done {
            tracing::warn!("the machine is not rebooted: {e:#}");
        }
    }
    drop(lock);
    // The worker writes the record and the message of the day.
    context.root.write(REQUEST, b"", 0o644)?;
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
    if lock::is_held(&context.root, SWUPD_LOCK)? {
        return Ok(Some("swupd is at work".to_owned()));
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

fn go_back(context: &Context, trial: Trial) -> anyhow::Result<()> {
    // It is on disk before the reboot, so that a machine is rebooted once only.
    let returned = Some(context.clock.now());
    context.root.write_json(TRIAL, &Trial { returned, ..trial.clone() })?;
    tracing::warn!(
        message_id = message::RETURNED,
        dkms_kernel = trial.fallback.as_str(),
        "rebooting into kernel {}, because kernel {} does not work",
        trial.fallback,
        trial.kernel
    );
    let done = systemd::ask(&context.tools, "systemctl", &["reboot"]);
    if done.is_err() {
        context.root.write_json(TRIAL, &trial)?;
    }
    done.map(drop)
}
