//! The boot default at boot and at shutdown, and whether a kernel may be marked as booted: what units ask of
//! the guard.

use std::time::Duration;

use super::engine::{INDEX_DEADLINE, Order};
use super::{boot_files, engine, publish};
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::mark_booted::lost_on_running;
use crate::dkms::{Cache, ModuleOnKernel, PlanStep, Tree, depmod};
use crate::exit;
use crate::message;
use crate::report::observation::observe_with;
use crate::requirement::Importance;
use crate::state::{self, LOCK, RECORD, RunRecord, is_ours};
use crate::sys::{Lock, watchdog};
use crate::system::System;
use crate::usage::Usage;

/// A request to the worker: its path unit waits for it.
pub(super) const REQUEST: &str = "/run/clr-dkms/requested";
/// How long a boot or a shutdown waits for a run that is at work.
const SHORT: Duration = Duration::from_secs(15);
/// The machine, and what follows for its boot default.
pub struct Observed {
    /// The machine.
    pub system: System,
    /// The record of the last run.
    pub record: Option<RunRecord>,
    /// What this machine needs, and the decision.
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

/// As [`assert_again`], with the lock, and at most for that long.
///
/// # Errors
/// When the lock cannot be taken.
pub fn assert_within(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    if let Some(limit) = within {
        watchdog::end_after(limit, exit::ATTENTION, "the boot default may not be as it should be");
    }
    let _lock = Lock::take(&context.root, LOCK, SHORT.min(context.settings.lock_wait), is_ours)?;
    Ok(assert_again(context, cache))
}

/// Points the default back, after something had clr-boot-manager run. Gives the exit code; what is not 0 is
/// explained.
pub fn assert_again(context: &Context, cache: &mut Cache) -> u8 {
    let seen = Observed::new(context, cache);
    if let Some(unknown) = boot_files::undetermined(context, &seen.system, &seen.assessment) {
        tracing::error!("which kernel should boot next is unknown, and the boot default stays: {unknown}");
        return exit::UNKNOWN;
    }
    match boot_files::assert_default(context, &seen.system, &seen.assessment) {
        Ok(_) => exit::OK,
        Err(e) => {
            tracing::error!("the boot default: {e:#}");
            exit::ATTENTION
        }
    }
}

/// The first thing after a boot, without a build. What is cheap and vital comes first. What fails keeps
/// nothing else from being done.
///
/// # Errors
/// When the lock cannot be taken, or something cannot be written.
pub fn at_boot(context: &Context, cache: &mut Cache, within: Option<Duration>) -> anyhow::Result<u8> {
    let mut done = Ok(());
    let tree = Tree::observe(&context.root);
    // Without the lock: a run that is at work may take an hour, and swupd may come before its end.
    boot_files::defer_by_record(context, &tree);
    // Whatever was broken off by a power cut goes on; with nothing to do the worker ends at once.
    let request = || context.root.write(REQUEST, b"", 0o644).map(drop).map_err(anyhow::Error::from);
    if !tree.modules.is_empty() || tree.unreadable.is_some() {
        done = done.and(request());
    }
    if let Some(limit) = within {
        let code = if done.is_ok() { exit::OK } else { exit::ATTENTION };
        watchdog::end_after(limit, code, "the rest is left to clr-dkms.service, which is asked for");
    }
    let lock = Lock::take(&context.root, LOCK, SHORT.min(context.settings.lock_wait), is_ours);
    if lock.is_ok() {
        // A power cut may have left the files of two versions, and services will ask for them. Without a
        // journal this costs nothing.
        engine::recover(context);
    }
    let mut seen = Observed::new(context, cache);
    boot_files::put_deferral_right(context, &seen.system, &seen.assessment);
    match lock {
        Ok(_lock) => repair_indexes(context, cache, &mut seen),
        // The run that holds it repairs them too.
        Err(e) => done = Err(e.into()),
    }
    let document = observe_with(context, cache);
    let known = seen.record.as_ref().and_then(|record| record.verdict.as_ref());
    // A program that wants to know of a new verdict is run when there is a network, and a machine may require
    // what the tree does not know.
    let is_news = known.is_some_and(|verdict| *verdict != document.verdict.to_string());
    let requires = seen.assessment.needs.iter().any(|need| need.class > Importance::Optional);
    if tree.modules.is_empty() && (is_news || requires) {
        done = done.and(request());
    }
    match seen.system.modules_on_kernels.iter().any(ModuleOnKernel::is_conf_unread) {
        true => {
            tracing::info!("a dkms.conf is to be evaluated first: the report is left to clr-dkms.service")
        }
        false => done = done.and(publish::write(context, &document).map_err(anyhow::Error::from)),
    }
    if let Err(e) = cache.save(&context.root) {
        tracing::debug!("{e}; the worker finds out again what was found out now");
    }
    done.map(|()| exit::OK)
}

/// Makes `modules.dep` again where it does not list what is installed.
fn repair_indexes(context: &Context, cache: &mut Cache, seen: &mut Observed) {
    // swupd may have put its own modules.dep back: what is installed is found again before anybody looks for
    // it.
    let due = engine::plan(&seen.system, &Order::default());
    let due = due.into_iter().chain(engine::index_plans(&seen.system));
    let mut kernels: Vec<String> = due.filter(|p| p.steps == [PlanStep::Index]).map(|p| p.release).collect();
    kernels.dedup();
    for release in &kernels {
        tracing::warn!(
            message_id = message::INDEX_HEALED,
            dkms_kernel = release.as_str(),
            "modules.dep of {release} does not list all that is installed: making it again"
        );
        if let Err(e) = depmod::run(&context.root, &context.tools, release, &[], INDEX_DEADLINE) {
            tracing::error!("{e:#}");
        }
    }
    if !kernels.is_empty() {
        *seen = Observed::new(context, cache);
    }
}

/// The exit code for a unit that asks whether the running kernel may be marked as booted: 0 unless something
/// critical is known to be lost.
pub fn may_mark_booted(context: &Context, cache: &mut Cache) -> u8 {
    let seen = Observed::new(context, cache);
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
