//! The boot default at boot and at shutdown, and whether a kernel may be marked as booted. Systemd units call
//! these functions.

use std::time::Duration;

use super::engine::{INDEX_DEADLINE, Order};
use super::publish::{self, both};
use super::{boot_files, engine, trial};
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::mark_booted::lost_on_running;
use crate::decide::trial::{has_failed, trial_stage};
use crate::dkms::{Cache, ModuleOnKernel, PlanStep, Tree, depmod};
use crate::exit;
use crate::message;
use crate::report::observation::observe_with;
use crate::requirement::Importance;
use crate::state::trial::Trial;
use crate::state::{self, LOCK, RECORD, RunRecord, is_ours};
use crate::sys::{Lock, watchdog};
use crate::system::System;
use crate::usage::Usage;

/// Requests a run of the worker: a path unit starts it when this file appears.
pub(super) const REQUEST: &str = "/run/clr-dkms/requested";
/// The longest wait, at boot or at shutdown, for a run that holds the lock.
const SHORT: Duration = Duration::from_secs(15);
/// An observation of the machine, and what follows from it for the boot default.
pub struct Observed {
    /// The machine.
    pub system: System,
    /// The record of the last run.
    pub record: Option<RunRecord>,
    /// What this machine needs, and the decision which kernel boots.
    pub assessment: BootAssessment,
}

impl Observed {
    /// Observes it.
    pub fn new(context: &Context, cache: &mut Cache) -> Observed {
        let record = state::load::<RunRecord>(&context.root, RECORD).good();
        let system = System::observe(context, cache);
        let assessment = assess(&system, &context.settings, record.as_ref());
        Observed { system, record, assessment }
    }
}

/// Like [`assert_again`], but takes the lock first, and ends after the time `within`.
///
/// # Errors
/// If the lock cannot be taken.
pub fn assert_within(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    if let Some(limit) = within {
        watchdog::end_after(limit, exit::ATTENTION, "the boot default may not be as it should be");
    }
    let _lock = Lock::take(&context.root, LOCK, SHORT.min(context.settings.lock_wait), is_ours)?;
    Ok(assert_again(context, cache))
}

/// Restores the boot default after another program has run clr-boot-manager. Returns the exit code; the
/// reason for any code except 0 is logged.
pub fn assert_again(context: &Context, cache: &mut Cache) -> u8 {
    let seen = Observed::new(context, cache);
    assert_as_seen(context, cache, seen)
}

/// The same, with a trial in place of the recorded one, which could not be written.
pub(super) fn assert_with_trial(context: &Context, cache: &mut Cache, trial: &Trial) -> u8 {
    let Observed { mut system, record, .. } = Observed::new(context, cache);
    system.trial.recorded = Some(trial.clone());
    let assessment = assess(&system, &context.settings, record.as_ref());
    assert_as_seen(context, cache, Observed { system, record, assessment })
}

fn assert_as_seen(context: &Context, cache: &mut Cache, seen: Observed) -> u8 {
    if let Some(unknown) = boot_files::undetermined(context, &seen.system, &seen.assessment) {
        tracing::error!("which kernel should boot next is unknown, and the boot default stays: {unknown}");
        return exit::UNKNOWN;
    }
    match point(context, cache, seen) {
        Ok(()) => exit::OK,
        Err(e) => {
            tracing::error!("the boot default: {e:#}");
            exit::ATTENTION
        }
    }
}

/// Makes the right kernel boot next. A trial is prepared for the first time only by the worker, which knows
/// whether the boot files are complete.
fn point(context: &Context, cache: &mut Cache, mut seen: Observed) -> anyhow::Result<()> {
    // A record that cannot be written must not keep the boot default from being corrected.
    let withdrawn = trial::withdraw(context, &seen.system, &seen.assessment);
    // An error is returned below.
    if let Ok(true) = withdrawn {
        seen = Observed::new(context, cache);
    }
    boot_files::assert_default(context, &seen.system, &seen.assessment)?;
    withdrawn?;
    if seen.system.trial.recorded.is_some() {
        trial::prepare(context, &seen.system, &seen.assessment)?;
    }
    Ok(())
}

/// The first step after a boot; it builds nothing. Cheap and important work comes first, and a failed step
/// does not prevent the following ones.
///
/// # Errors
/// If the lock cannot be taken, or a file cannot be written.
pub fn at_boot(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    let mut done = Ok(());
    let tree = Tree::observe(&context.root);
    // This does not wait for the lock: a run may hold it for an hour, and swupd may run before it ends.
    boot_files::defer_by_record(context, &tree);
    // The worker resumes what a power cut interrupted. It ends at once if there is nothing to do.
    let request = || context.root.write(REQUEST, b"", 0o644).map(drop).map_err(anyhow::Error::from);
    if !tree.modules.is_empty() || tree.unreadable.is_some() {
        done = both(done, request());
    }
    if let Some(limit) = within {
        let code = if done.is_ok() { exit::OK } else { exit::ATTENTION };
        watchdog::end_after(limit, code, "clr-dkms.service was requested and does the rest");
    }
    let lock = Lock::take(&context.root, LOCK, SHORT.min(context.settings.lock_wait), is_ours);
    if lock.is_ok() {
        // After a power cut the files of two versions may be installed, and services are about to load them.
        // Without a journal this costs nothing.
        engine::recover(context);
    }
    let mut seen = Observed::new(context, cache);
    boot_files::correct_deferral(context, &seen.system, &seen.assessment);
    match lock {
        Ok(_lock) => repair_indexes(context, cache, &mut seen),
        // The run that holds the lock repairs them too.
        Err(e) => done = both(done, Err(e.into())),
    }
    let document = observe_with(context, cache);
    let known = seen.record.as_ref().and_then(|record| record.verdict.as_ref());
    // Programs in notify.d need the network, so the worker runs them. The worker is also needed if a required
    // module is missing in the DKMS tree.
    let is_news = known.is_some_and(|verdict| *verdict != document.verdict.to_string());
    let requires = seen.assessment.needs.iter().any(|need| need.class > Importance::Optional);
    if tree.modules.is_empty() && (is_news || requires) {
        done = both(done, request());
    }
    match seen.system.modules_on_kernels.iter().any(ModuleOnKernel::is_conf_unread) {
        true => {
            tracing::info!("a dkms.conf must be evaluated first: clr-dkms.service writes the report")
        }
        false => done = both(done, publish::write(context, &document).map_err(anyhow::Error::from)),
    }
    if let Err(e) = cache.save(&context.root) {
        tracing::debug!("{e}; the worker repeats these checks");
    }
    done.map(|()| exit::OK)
}

/// Rebuilds `modules.dep` where it does not list what is installed.
fn repair_indexes(context: &Context, cache: &mut Cache, seen: &mut Observed) {
    // swupd may have restored its own modules.dep. Services that load modules start only after this.
    let due = engine::plan(&seen.system, &Order::default());
    let due = due.into_iter().chain(engine::index_plans(&seen.system));
    let mut kernels: Vec<String> = due.filter(|p| p.steps == [PlanStep::Index]).map(|p| p.release).collect();
    kernels.dedup();
    for release in &kernels {
        tracing::warn!(
            message_id = message::INDEX_HEALED,
            dkms_kernel = release.as_str(),
            "modules.dep of {release} does not list all installed modules: rebuilding it"
        );
        if let Err(e) = depmod::run(&context.root, &context.tools, release, &[], INDEX_DEADLINE) {
            tracing::error!("{e:#}");
        }
    }
    if !kernels.is_empty() {
        *seen = Observed::new(context, cache);
    }
}

/// The exit code for a unit that asks whether the running kernel may be marked as booted: 0, unless a
/// critical module is known to be lost.
pub fn may_mark_booted(context: &Context, cache: &mut Cache) -> u8 {
    let seen = Observed::new(context, cache);
    if let Some(kernel) = seen.system.inventory.running_kernel().map(|kernel| kernel.name.release()) {
        let is_on_trial = trial_stage(&seen.system).is_some_and(|(trial, _)| trial.kernel == kernel);
        if is_on_trial || has_failed(&seen.system, &kernel) {
            tracing::info!("{kernel} is not marked as booted: it is on trial");
            return exit::ATTENTION;
        }
    }
    // The running kernel may be the one on trial. The next run of the worker sets the record aside.
    if let Some(fault) = &seen.system.trial.fault {
        tracing::warn!("the running kernel is not marked as booted: {fault}");
        return exit::ATTENTION;
    }
    let can_tell = Usage::can_tell(&context.root);
    let lost = lost_on_running(&seen.system, seen.record.as_ref(), &seen.assessment, can_tell);
    let Some((running, lost)) = lost else { return exit::OK };
    tracing::warn!(
        message_id = message::NOT_MARKED,
        dkms_kernel = running.as_str(),
        "{running} is not marked as booted: {} is critical ({}), worked before, and is not loaded now",
        lost.module,
        lost.reason
    );
    exit::ATTENTION
}
