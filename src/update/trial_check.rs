//! The trial of a new kernel: checks it in its first boot, and returns from it.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::boot_default::{Observed, REQUEST, assert_with_trial};
use super::boot_files::is_guarded;
use super::trial::{clear_choice, critical, forget_trial, works_at_a_glance};
use crate::boot::restricted::SWUPD_LOCK;
use crate::config::ReturnPolicy;
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::mark_booted::is_there;
use crate::decide::trial::UNCHECKED_BOOTS;
use crate::dkms::Cache;
use crate::exit;
use crate::kernel::Inventory;
use crate::message;
use crate::requirement::Use;
use crate::state::trial::{FailedModule, TRIAL, Trial, TrialFailure};
use crate::state::{self, LOCK, Stored, is_ours};
use crate::sys::{FileError, Lock, Root, Stopwatch, interrupt, lock, systemd};
use crate::usage::{Presence, Usage};

/// How long the critical modules have to work without a break: a fault may show only when services use them.
const STEADY: Duration = Duration::from_secs(15);
/// The longest wait for a run, or for swupd, before the boot default is corrected or the machine rebooted.
const PATIENCE: Duration = Duration::from_secs(2 * 60);
/// The interval between two looks at the modules of a kernel on trial.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The unit that marks the running kernel as good.
const BOOTED: &str = "clr-boot-manager-booted.service";
/// The targets that systemd reaches in place of the default one, if a boot fails.
const SHELLS: [&str; 2] = ["emergency.target", "rescue.target"];
/// The classes of logind's sessions behind which nobody works.
const NOBODY: [&str; 6] =
    ["greeter", "manager", "manager-early", "background", "background-light", "lock-screen"];

/// Checks the running kernel if it is on trial: it waits at most the time `within` for its critical modules
/// and for what depends on them. Returns the exit code of the unit that calls it.
///
/// No lock is taken for that, because a run may hold it for an hour. Each file is written at once, and a run
/// does not change the record of a kernel that runs on trial.
///
/// # Errors
/// If a file cannot be read or written.
pub fn check(context: &Context, cache: &mut Cache, within: Option<Duration>) -> Result<u8> {
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
            if let Some(recorded) = record_of(&context.root, &trial.kernel) {
                record_unchecked(&context.root, recorded)?;
            }
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

/// Records an orderly shutdown before the check of the running kernel has started, which shows nothing about
/// the kernel. Without the record the boot would look like one that has crashed.
///
/// # Errors
/// If the record cannot be written, or if it is unknown whether the boot has failed.
pub fn end_of_boot(context: &Context) -> anyhow::Result<()> {
    let recorded = state::load::<Trial>(&context.root, TRIAL).good();
    let inventory = Inventory::observe(&context.root);
    // A check that was stopped has recorded that, and the kernel is to be prepared again.
    let is_open = |trial: &Trial| {
        inventory.runs(&trial.kernel)
            && trial.failed.is_none()
            && trial.entry.is_some()
            && trial.boot.is_some()
    };
    match recorded.filter(is_open) {
        Some(trial) if !has_boot_failed(context)? => Ok(record_unchecked(&context.root, trial)?),
        Some(_) | None => Ok(()),
    }
}

/// Whether systemd shows that the boot has failed: it has started a shell for repairs, or a unit has failed
/// without which boot-complete.target, and then the check, does not start.
fn has_boot_failed(context: &Context) -> anyhow::Result<bool> {
    if !context.root.is_live() {
        return Ok(false);
    }
    let ask = |words: &[&str]| systemd::ask(&context.tools, "systemctl", words);
    let required = ask(&["show", "--property=Requires", "boot-complete.target"])?;
    let required = systemd::values(&required, "Requires").join(" ");
    let units = SHELLS.into_iter().chain(required.split_ascii_whitespace());
    let show = ["show", "--property=ActiveState", "--property=ActiveEnterTimestampMonotonic"];
    Ok(shows_failure(&ask(&show.into_iter().chain(units).collect::<Vec<_>>())?))
}

/// Whether [`SHELLS`] were active, or another unit has failed. The properties are those of the shells first.
fn shows_failure(said: &str) -> bool {
    let entered = systemd::values(said, "ActiveEnterTimestampMonotonic");
    entered.iter().take(SHELLS.len()).any(|at| *at != "0")
        || systemd::values(said, "ActiveState").contains(&"failed")
}

/// Records a boot that has ended before the check had. The kernel is booted on trial once more, a few times.
fn record_unchecked(root: &Root, trial: Trial) -> Result<(), FileError> {
    let unchecked = trial.unchecked.saturating_add(1);
    let (kernel, is_last) = (&trial.kernel, unchecked >= UNCHECKED_BOOTS);
    match is_last {
        true => tracing::warn!("kernel {kernel} was not checked in {unchecked} boots: it is held back"),
        false => tracing::info!("kernel {kernel} was not checked in this boot: it is booted on trial again"),
    }
    let boot = trial.boot.clone().filter(|_| is_last);
    root.write_json(TRIAL, &Trial { boot, unchecked, ..trial }).map(drop)
}

/// Records that the check of a kernel could not be completed in this boot although nothing has failed: the
/// kernel is booted on trial once more.
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

fn passed(context: &Context, trial: &Trial) -> Result<u8> {
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

fn fail(context: &Context, cache: &mut Cache, trial: Trial, modules: Vec<FailedModule>) -> Result<u8> {
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
fn why_not_return(context: &Context, cache: &mut Cache, trial: &Trial) -> Result<Option<String>> {
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

fn go_back(context: &Context, trial: Trial) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_that_has_failed() {
        let units = |shell: &str, state: &str| {
            format!(
                "ActiveState=inactive\nActiveEnterTimestampMonotonic={shell}\n\nActiveState=inactive\n\
                 ActiveEnterTimestampMonotonic=0\n\nActiveState={state}\nActiveEnterTimestampMonotonic=9\n"
            )
        };
        assert!(!shows_failure(&units("0", "active")) && !shows_failure(&units("0", "inactive")));
        assert!(shows_failure(&units("7", "active")) && shows_failure(&units("0", "failed")));
        assert!(!shows_failure(""));
    }
}
