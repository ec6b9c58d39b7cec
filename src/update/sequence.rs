//! The steps of one run, in their order.

use std::time::Duration;

use super::boot_files;
use super::engine::{self, Attempt, LeftAlone, Order};
use super::progress::{Display, ProgressMode};
use crate::boot::deferral;
use crate::boot_decision::Reason;
use crate::cmdline::writer::{self, Ours, Wish};
use crate::cmdline::{CmdlineSources, PARAMETER, Switch};
use crate::context::Context;
use crate::decide::assessment::assess;
use crate::decide::module_state::{checked_files, module_status};
use crate::decide::next_boot::{coming_lines, next_boot};
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::decide::unread::blocked;
use crate::dkms::plan::State;
use crate::dkms::{Cache, ModuleOnKernel};
use crate::exit;
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Images, Running};
use crate::message;
use crate::state::{
    self, CmdlineRecord, IN_PROGRESS, InProgress, RECORD, RunRecord, SCHEMA, SNAPSHOT, Snapshot, Stored,
};
use crate::status::{Progress, Verdict, document};
use crate::sys::{FileError, interrupt, lock, sandbox};
use crate::system::System;

/// What swupd locks while it works, with fcntl(2) (its 7.0.0; `state_dir` can be changed at its build only).
const SWUPD_LOCK: &str = "/var/lib/swupd/swupd_lock";
/// The longest that swupd is waited for: one that hangs must not keep modules from being built.
const SWUPD_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Waits for a swupd that is at work on this root.
pub fn wait_for_swupd(context: &Context) {
    lock::wait_while_held(&context.root, SWUPD_LOCK, SWUPD_PATIENCE);
}

/// Why nothing is done where there is no kernel.
pub(super) const NO_KERNEL: &str = "no kernel of clr-boot-manager is installed: nothing to do";
/// Why a module that failed is left alone.
pub(super) const FAILED_BEFORE: &str = "left alone: it failed before with the same source, headers and compiler; `clr-dkms rebuild` tries it again";

/// Why it cannot be determined what is to be done.
pub fn unreadable(context: &Context, system: &System) -> Option<String> {
    let directory = context.root.shown_path(IMAGES);
    match &system.inventory.images {
        Images::Absent => Some(format!(
            "there is no {}: {} is no system with kernels of clr-boot-manager",
            directory.display(),
            context.root.path().display()
        )),
        Images::Unreadable { reason } => Some(reason.clone()),
        Images::Listed => system.tree.unreadable.clone(),
    }
}

pub(super) fn tip_pairs(system: &System) -> impl Iterator<Item = &ModuleOnKernel> {
    system.modules_on_kernels.iter().filter(|pair| is_of_tip(system, pair))
}

fn is_of_tip(system: &System, pair: &ModuleOnKernel) -> bool {
    system.inventory.kernels.iter().any(|k| k.tip && k.name.release() == pair.release)
}

/// What was built by hand for another kernel is remembered too: that it failed is no longer "nothing has been tried yet".
fn is_recorded(
    system: &System,
    pair: &ModuleOnKernel,
    attempts: &[Attempt],
    previous: Option<&RunRecord>,
) -> bool {
    let known = previous.and_then(|r| r.module(&pair.module, &pair.release));
    is_of_tip(system, pair)
        || attempts.iter().any(|a| a.module == pair.module && a.release == pair.release)
        || known.is_some_and(|m| m.state == State::BuildFailed)
}

/// What is to be done about the parameter; nothing where it is not wanted.
pub fn cmdline_plan(
    context: &Context,
    system: &System,
    record: Option<&RunRecord>,
) -> Result<(Ours, writer::WriterPlan), FileError> {
    let needs = assess(system, &context.settings, record).needs;
    if !sig_unenforce_wanted(&context.settings, system, &needs) {
        return Ok((Ours::default(), writer::WriterPlan::default()));
    }
    let ours = Ours::load(&context.root)?;
    let sources: Vec<CmdlineSources> = coming_lines(system).map(|l| l.sources.copy()).collect();
    let plan = writer::plan(Wish::Ensure, &sources, &ours);
    Ok((ours, plan))
}

/// What a run came to.
#[derive(Debug)]
pub struct Done {
    /// The exit code.
    pub code: u8,
    /// What was tried.
    pub attempts: Vec<Attempt>,
    /// What was asked for and left alone.
    pub left_alone: Vec<LeftAlone>,
    /// What is there, and will be refused for its signature.
    pub refused: Vec<LeftAlone>,
}

impl From<u8> for Done {
    fn from(code: u8) -> Done {
        Done { code, attempts: Vec::new(), left_alone: Vec::new(), refused: Vec::new() }
    }
}

/// Does all the work of a run.
///
/// # Errors
/// When it cannot write what it found.
pub fn work(
    context: &Context,
    faults: Vec<String>,
    order: &Order,
    show: ProgressMode,
) -> anyhow::Result<Done> {
    let root = &context.root;
    let started = context.clock.now();
    let before = state::load::<RunRecord>(root, RECORD);
    if let Stored::Bad(reason) = &before {
        match state::set_aside(root, RECORD) {
            Ok(aside) => tracing::warn!("{reason}; it is kept as {}", root.shown_path(aside).display()),
            Err(e) => tracing::warn!("{reason}, and cannot be kept: {e}"),
        }
    }
    if !matches!(state::load::<InProgress>(root, IN_PROGRESS), Stored::Absent) {
        tracing::warn!("the last run was broken off before its end: going on from what is on disk");
    }
    let mut cache = Cache::load(root);
    // What bash did not answer the last time, it may answer now; reports do not wait for it again.
    cache.forget_failures();
    engine::recover(context);
    let observe = |cache: &mut Cache| System::observe_also(context, cache, &order.kernels);
    let system = observe(&mut cache);
    let unknown = engine::unknown_module(&system, order);
    if let Some(reason) = unreadable(context, &system).or(unknown) {
        tracing::error!("{reason}; nothing has been changed");
        super::publish::record_unknown(context, &system, &before, started, &reason);
        super::publish::write_metrics(context, &crate::status::observation::observe(context));
        return Ok(exit::UNKNOWN.into());
    }
    if system.inventory.kernels.is_empty() {
        tracing::info!("{NO_KERNEL}");
        super::publish::write_metrics(context, &crate::status::observation::observe(context));
        return Ok(exit::OK.into());
    }
    for oddity in system.inventory.oddities.iter().chain(&system.tree.oddities) {
        tracing::info!("{} {}", oddity.path, oddity.what);
    }

    let mut plans = engine::plan(&system, order);
    // A kernel that still runs while the tip is held back boots next: nothing is built for it, but it finds what it has.
    if order.kernels.is_empty() {
        plans.extend(engine::index_plans(&system).into_iter().filter(|p| system.inventory.runs(&p.release)));
    }
    plans.retain(|p| {
        let again = !order.by_hand && p.would_fail_again(context, before.as_good());
        if again {
            tracing::info!("{} on {}: {FAILED_BEFORE}", p.module, p.release);
        }
        !again
    });
    if !plans.is_empty() {
        let builds = plans.iter().map(|p| format!("{} on {}", p.module, p.release)).collect();
        let intent = InProgress { schema: SCHEMA, started, pid: std::process::id(), builds };
        if let Err(e) = root.write_json(IN_PROGRESS, &intent) {
            tracing::warn!("{e}; should this run be broken off, nobody will be told");
        }
    }
    let display = Display::of(plans.len(), show, context.clock);
    let attempts = engine::run(context, &mut cache, &system, &plans, &|event| display.note(event));
    drop(display);
    // What is true now is read from disk again, not concluded from what was done.
    let system = if attempts.is_empty() {
        system
    } else {
        cache.start_over();
        observe(&mut cache)
    };
    let mut left_alone = engine::left_alone(&system, order);
    left_alone.retain(|left| !attempts.iter().any(|a| left.is(&a.module, &a.release)));
    if interrupt::asked() {
        return Ok(Done { code: stopped(), attempts, left_alone, refused: Vec::new() });
    }
    let (blockers, changed) = match blocked(&system) {
        // A fragment that was not read may have the parameter, and a module that was not seen may need it.
        Some(unknown) => (vec![unknown], false),
        None => put_cmdline_right(context, &system, before.as_good()),
    };
    let system = if changed { system.observe_again(context, &mut cache, &order.kernels) } else { system };
    if interrupt::asked() {
        return Ok(Done { code: stopped(), attempts, left_alone, refused: Vec::new() });
    }
    let made = super::initrd::make(context, &mut cache, &system, before.as_good(), order.by_hand);
    let system = if made { system.observe_again(context, &mut cache, &order.kernels) } else { system };
    if interrupt::asked() {
        return Ok(Done { code: stopped(), attempts, left_alone, refused: Vec::new() });
    }
    let last = before.as_good().map(|r| r.boot.clone());
    let assessment = assess(&system, &context.settings, before.as_good());
    let mut boot = boot_files::put_right(context, &system, &assessment, last);
    let mut system = system.observe_again(context, &mut cache, &order.kernels);
    // With its boot entry a kernel may take what it would have refused before, and clr-boot-manager deletes kernels.
    let assessment = assess(&system, &context.settings, before.as_good());
    match boot_files::assert_default(context, &system, &assessment) {
        Ok(true) => {
            system = system.observe_again(context, &mut cache, &order.kernels);
            boot = boot_files::after_new_default(context, &system, boot);
        }
        Ok(false) => {}
        Err(e) => {
            tracing::error!("the boot default: {e}");
            boot.error = Some(boot.error.map_or_else(|| e.clone(), |known| format!("{known}; {e}")));
        }
    }
    boot_files::put_deferral_right(context, &system, &assessment);
    system.deferral = deferral::observe(root);

    let mut problems = faults.clone();
    problems.extend(attempts.iter().flat_map(|a| a.index_error.iter().chain(&a.hook_error)).cloned());
    let next = next_boot(&system);
    let record = RunRecord {
        schema: SCHEMA,
        started,
        finished: context.clock.now(),
        running: match &system.inventory.running {
            Running::Known { release } => Some(release.clone()),
            _ => None,
        },
        next_boot: next.shown().map(str::to_owned),
        next_boot_source: next.source(),
        new_kernels: new_kernels(context, &system),
        modules: system
            .modules_on_kernels
            .iter()
            .filter(|pair| is_recorded(&system, pair, &attempts, before.as_good()))
            .map(|pair| module_record(&system, pair, &attempts, before.as_good()))
            .collect(),
        cmdline: CmdlineRecord {
            wanted: sig_unenforce_wanted(&context.settings, &system, &assessment.needs),
            in_force: coming_lines(&system).all(|l| l.switch == Switch::On),
            blockers,
        },
        boot,
        problems,
        needs: assessment.needs,
        checked: checked_files(&system),
        verdict: None,
        guard: None,
        // What was in the cache was evaluated by a run before.
        sandbox: sandbox::in_force().or(before.as_good().and_then(|record| record.sandbox)),
    };
    let refused = engine::refused(&system, order);
    for m in record.modules.iter().filter(|m| !m.state.is_fine()) {
        // Who asked by hand is told at the end.
        let told =
            order.by_hand && left_alone.iter().chain(&refused).any(|left| left.is(&m.module, &m.kernel));
        if !told && !attempts.iter().any(|a| a.module == m.module && a.release == m.kernel) {
            tracing::error!(
                "{} on {}: {}: {}",
                m.module,
                m.kernel,
                m.state,
                m.reason.as_deref().unwrap_or("?")
            );
        }
    }
    let code = finish(context, &mut cache, &system, before, record, &faults, attempts.is_empty())?;
    Ok(Done { code, attempts, left_alone, refused })
}

/// The mark of the run stays: the next one, and every report, knows that this one did not end.
fn stopped() -> u8 {
    tracing::error!("asked to stop; the next run goes on from here");
    exit::ATTENTION
}

/// Leaves the record and the message of the day, and tells the result.
fn finish(
    context: &Context,
    cache: &mut Cache,
    system: &System,
    before: Stored<RunRecord>,
    record: RunRecord,
    faults: &[String],
    was_idle: bool,
) -> anyhow::Result<u8> {
    let root = &context.root;
    if let Err(e) = cache.save(root) {
        tracing::warn!("{e}; the next run takes longer, and nothing else is lost");
    }
    let verdict = before.as_good().and_then(|old| old.verdict.clone());
    // With what became of this run's builds, as every report after it says.
    let decision = assess(system, &context.settings, Some(&record)).decision;
    let record = RunRecord { guard: Some(decision), ..record };
    let now = context.clock.now();
    let stored = Stored::Good(record);
    let document = document(system, &stored, &Progress::None, &context.settings, now);
    let record =
        stored.good().map(|record| RunRecord { verdict: Some(document.verdict.to_string()), ..record });
    let saved = match &record {
        // What it remembers is not lost to a read that failed.
        _ if matches!(before, Stored::Unreadable(_)) => Ok(()),
        Some(record) if !before.as_good().is_some_and(|old| old.tells_the_same_as(record)) => {
            root.write_json(RECORD, record).map(|_| ())
        }
        _ => Ok(()),
    };
    let ended = root.remove(IN_PROGRESS);
    // One that cannot be written must not keep the others from telling.
    super::publish::write_all(context, &document, verdict.as_deref()).and(saved).and(ended.map(|_| ()))?;
    // A fault of the configuration has an exit code of its own.
    let failed = match document.verdict {
        Verdict::Unknown | Verdict::Held | Verdict::Unsafe => true,
        Verdict::Degraded => document.problems.iter().any(|p| !faults.contains(p)),
        _ => false,
    };
    // What an admin has said is no error; whatever else is wrong is one.
    let by_admin = document.verdict == Verdict::Held && document.guard.because == Reason::Held;
    let unreported = document.problems.iter().find(|p| **p != document.summary && !faults.contains(p));
    let failed = failed && !(by_admin && unreported.is_none() && document.guard.lacking.is_empty());
    if by_admin {
        tracing::info!("{}", document.summary);
        unreported.inspect(|problem| tracing::error!("{problem}"));
    } else if failed {
        let step = document.next_step.as_deref().unwrap_or("see `clr-dkms status`");
        let kernel = document.guard.target.as_deref().unwrap_or_default();
        let told = format!("{}; next step: {step}", document.summary);
        match document.verdict {
            Verdict::Unsafe => tracing::error!(message_id = message::UNSAFE, dkms_kernel = kernel, "{told}"),
            Verdict::Held => tracing::error!(message_id = message::HELD_BACK, dkms_kernel = kernel, "{told}"),
            _ => tracing::error!("{told}"),
        }
    } else if !was_idle {
        tracing::info!("{}", document.summary);
    }
    Ok(match (document.verdict, failed) {
        (Verdict::Unsafe, _) => exit::UNSAFE,
        (Verdict::Unknown, _) => exit::UNKNOWN,
        (_, true) => exit::ATTENTION,
        (_, false) => exit::OK,
    })
}

/// Kernels that the snapshot before the update did not know.
fn new_kernels(context: &Context, system: &System) -> Vec<String> {
    let Some(snapshot) = state::load::<Snapshot>(&context.root, SNAPSHOT).good() else {
        return Vec::new();
    };
    let releases = system.inventory.kernels.iter().map(|k| k.name.release());
    releases.filter(|r| !snapshot.kernels.contains_key(r)).collect()
}

fn module_record(
    system: &System,
    pair: &ModuleOnKernel,
    attempts: &[Attempt],
    previous: Option<&RunRecord>,
) -> state::ModuleRecord {
    let attempt = attempts.iter().find(|a| a.module == pair.module && a.release == pair.release);
    let known = previous.and_then(|r| r.module(&pair.module, &pair.release));
    let mut record = module_status(system, pair, if attempt.is_some() { None } else { previous });
    record.log = known.and_then(|k| k.log.clone());
    if let Some(attempt) = attempt {
        record.log = attempt.log.clone().or(record.log);
        if !record.state.is_proven()
            && let Some((state, reason)) = &attempt.failure
        {
            record.state = *state;
            record.reason = Some(reason.clone());
            record.error.clone_from(&attempt.error);
            record.inputs.clone_from(&attempt.inputs);
        }
    }
    record
}

/// Makes sure of the parameter; gives what stands in the way, and whether anything was changed.
fn put_cmdline_right(context: &Context, system: &System, record: Option<&RunRecord>) -> (Vec<String>, bool) {
    let mut changed = false;
    let done = cmdline_plan(context, system, record).and_then(|(ours, plan)| {
        for step in &plan.steps {
            tracing::info!("command line: {step}");
            changed = true;
        }
        writer::apply(&context.root, &plan, &ours).map(|()| plan.blockers)
    });
    let blockers: Vec<String> = match done {
        Ok(blockers) => blockers.iter().map(|o| o.told(&context.root)).collect(),
        Err(e) => vec![e.to_string()],
    };
    for blocker in &blockers {
        tracing::error!("{PARAMETER} is needed, but {blocker}");
    }
    (blockers, changed)
}
