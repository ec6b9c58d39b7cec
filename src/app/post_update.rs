//! `clr-dkms-post-update`, the main job: after an update, build what is missing, prove it, put the command line and
//! the boot entries right, and leave a record.

mod dry_run;

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use super::engine::{self, Attempt, LeftAlone, Order};
use super::progress::{Display, Show};
use super::{Common, LOCK, answer, boot, exit, is_ours, json, need_root};
use crate::boot::deferral;
use crate::boot_decision::Reason;
use crate::cmdline::writer::{self, Ours, Wish};
use crate::cmdline::{PARAMETER, Sources, Switch};
use crate::decide::assessment::assess;
use crate::decide::module_state::{checked_files, module_status};
use crate::decide::next_boot::{coming_lines, next_boot};
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::decide::unread::blocked;
use crate::dkms::plan::State;
use crate::dkms::{Cache, Pair};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Images, Running};
use crate::message;
use crate::state::{
    self, CmdlineRecord, IN_PROGRESS, InProgress, RECORD, Record, SCHEMA, SNAPSHOT, Snapshot, Stored,
};
use crate::status::{Progress, Verdict, document};
use crate::sys::{FileError, Lock, chroot, interrupt, lock, sandbox};
use crate::system::System;
use crate::world::World;

/// Rebuild the DKMS modules for the kernels that an update brought, and make the next boot ready.
///
/// systemd runs it after an update; by hand it does no harm. For the kernel of each variant that boots by default, every
/// DKMS module that asks for it is built and installed unless it is proven to be there already. Then
/// module.sig_unenforce is made sure of; the boot entries are refreshed when kernels or fragments have changed and
/// the new kernel has what this machine needs; the record and the message of the day are written. With nothing to do,
/// nothing is changed.
///
/// Exit code 0: done, or nothing to do; 1: not all done; 2: what boots next is without something that is needed; 3: it
/// cannot be told what is to be done; 75: another run is at work; 77: no permission; 78: the configuration has a fault
/// (all the rest is done).
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-post-update",
    version,
    after_help = "Examples:\n  clr-dkms-post-update\n  \
    clr-dkms-post-update --dry-run\n  clr-dkms-post-update --root /mnt"
)]
pub struct Arguments {
    /// Say what would be done, and why; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// With --dry-run: the plan as JSON
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Wait for a swupd that is at work: half of its files are no kernel (clr-dkms.service)
    #[arg(long, help_heading = "For units", conflicts_with = "dry_run")]
    after_swupd: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
///
/// # Errors
/// When it cannot begin, or cannot write what it found. Failures of single modules are no errors here: they are in
/// the record and in the exit code.
pub fn run(arguments: Arguments) -> anyhow::Result<u8> {
    // Before anything is opened, and without a log yet: what it says comes below.
    let bare = bare_chroot(&arguments.common, arguments.dry_run);
    let (world, config_errors) = arguments.common.world("clr-dkms-post-update")?;
    // A typo must not keep modules from being built: what is right in the configuration counts.
    let faults: Vec<String> = config_errors.iter().map(ToString::to_string).collect();
    let known: Vec<String> = faults.iter().cloned().chain(bare).collect();
    for fault in &known {
        tracing::error!("{fault}");
    }
    let code = if arguments.dry_run {
        let plan = dry_run::plan(&world);
        let text = if arguments.json { json(&plan)? } else { plan.text() };
        answer(&text, arguments.common.color)?;
        plan.code()
    } else {
        need_root(&world, "clr-dkms-post-update")?;
        interrupt::watch()?;
        if arguments.after_swupd {
            lock::wait_while_held(&world.root, SWUPD_LOCK, SWUPD_PATIENCE);
        }
        let _lock = Lock::take(&world.root, LOCK, world.settings.lock_wait, is_ours)?;
        // swupd's hooks and systemd give it no input: there nobody watches, and what it says is kept.
        let watched = std::io::stdin().is_terminal();
        let show = if watched { Show::live_or(Show::Nothing, arguments.common.quiet) } else { Show::Nothing };
        work(&world, known, &Order::default(), show)?.code
    };
    Ok(if code == exit::OK && !faults.is_empty() { exit::CONFIG } else { code })
}

/// Where update-trigger.sh runs us in a plain chroot, what dkms needs is mounted for us alone. Gives why it could not be: the
/// next report shows it.
fn bare_chroot(common: &Common, dry_run: bool) -> Option<String> {
    let is_slash = common.root.as_deref() == Some(Path::new("/"));
    if !is_slash || !rustix::process::geteuid().is_root() {
        return None;
    }
    let refused = chroot::furnish(!dry_run).err();
    (!chroot::is_furnished()).then(|| {
        format!(
            "no module could be looked at or built: this chroot has no /proc or no /dev/null, and they cannot be \
             mounted ({}); run `clr-dkms-post-update --root DIR` on the system around it",
            refused.map_or_else(|| "nothing was tried".to_owned(), |e| e.to_string())
        )
    })
}

/// What swupd locks while it works, with fcntl(2) (its 7.0.0; `state_dir` can be changed at its build only).
const SWUPD_LOCK: &str = "/var/lib/swupd/swupd_lock";
/// The longest that swupd is waited for: one that hangs must not keep modules from being built.
const SWUPD_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Why nothing is done where there is no kernel.
const NO_KERNEL: &str = "no kernel of clr-boot-manager is installed: nothing to do";
/// Why a module that failed is left alone.
const FAILED_BEFORE: &str = "left alone: it failed before with the same source, headers and compiler; `clr-dkms rebuild` tries it again";

/// Why it cannot be told what is to be done.
pub(super) fn unreadable(world: &World, facts: &System) -> Option<String> {
    let folder = world.root.spell(IMAGES);
    match &facts.inventory.images {
        Images::Absent => Some(format!(
            "there is no {}: {} is no system with kernels of clr-boot-manager",
            folder.display(),
            world.root.path().display()
        )),
        Images::Unreadable { reason } => Some(reason.clone()),
        Images::Listed => facts.tree.unreadable.clone(),
    }
}

fn tip_pairs(facts: &System) -> impl Iterator<Item = &Pair> {
    facts.pairs.iter().filter(|pair| is_of_tip(facts, pair))
}

fn is_of_tip(facts: &System, pair: &Pair) -> bool {
    facts.inventory.kernels.iter().any(|k| k.tip && k.name.release() == pair.release)
}

/// What was built by hand for another kernel is remembered too: that it failed is no longer "nothing has been tried yet".
fn is_recorded(facts: &System, pair: &Pair, attempts: &[Attempt], previous: Option<&Record>) -> bool {
    let known = previous.and_then(|r| r.module(&pair.module, &pair.release));
    is_of_tip(facts, pair)
        || attempts.iter().any(|a| a.module == pair.module && a.release == pair.release)
        || known.is_some_and(|m| m.state == State::BuildFailed)
}

/// What is to be done about the parameter; nothing where it is not wanted.
pub(super) fn cmdline_plan(
    world: &World,
    facts: &System,
    record: Option<&Record>,
) -> Result<(Ours, writer::Plan), FileError> {
    let needs = assess(facts, &world.settings, record).needs;
    if !sig_unenforce_wanted(&world.settings, facts, &needs) {
        return Ok((Ours::default(), writer::Plan::default()));
    }
    let ours = Ours::load(&world.root)?;
    let sources: Vec<Sources> = coming_lines(facts).map(|l| l.sources.copy()).collect();
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
pub fn work(world: &World, faults: Vec<String>, order: &Order, show: Show) -> anyhow::Result<Done> {
    let root = &world.root;
    let started = world.clock.now();
    let before = state::load::<Record>(root, RECORD);
    if let Stored::Bad(reason) = &before {
        match state::set_aside(root, RECORD) {
            Ok(aside) => tracing::warn!("{reason}; it is kept as {}", root.spell(aside).display()),
            Err(e) => tracing::warn!("{reason}, and cannot be kept: {e}"),
        }
    }
    if !matches!(state::load::<InProgress>(root, IN_PROGRESS), Stored::Absent) {
        tracing::warn!("the last run was broken off before its end: going on from what is on disk");
    }
    let mut cache = Cache::load(root);
    // What bash did not answer the last time, it may answer now; reports do not wait for it again.
    cache.forget_failures();
    engine::recover(world);
    let observe = |cache: &mut Cache| System::observe_also(world, cache, &order.kernels);
    let facts = observe(&mut cache);
    let unknown = super::rebuild::unknown_module(&facts, order);
    if let Some(reason) = unreadable(world, &facts).or(unknown) {
        tracing::error!("{reason}; nothing has been changed");
        super::surfaces::record_unknown(world, &facts, &before, started, &reason);
        super::surfaces::write_metrics(world, &super::status::look(world));
        return Ok(exit::UNKNOWN.into());
    }
    if facts.inventory.kernels.is_empty() {
        tracing::info!("{NO_KERNEL}");
        super::surfaces::write_metrics(world, &super::status::look(world));
        return Ok(exit::OK.into());
    }
    for oddity in facts.inventory.oddities.iter().chain(&facts.tree.oddities) {
        tracing::info!("{} {}", oddity.path, oddity.what);
    }

    let mut plans = engine::plan(&facts, order);
    // A kernel that still runs while the tip is held back boots next: nothing is built for it, but it finds what it has.
    if order.kernels.is_empty() {
        plans.extend(engine::index_plans(&facts).into_iter().filter(|p| facts.inventory.runs(&p.release)));
    }
    plans.retain(|p| {
        let again = !order.by_hand && p.would_fail_again(world, before.as_good());
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
    let display = Display::of(plans.len(), show, world.clock);
    let attempts = engine::run(world, &mut cache, &facts, &plans, &|event| display.note(event));
    drop(display);
    // What is true now is read from disk again, not concluded from what was done.
    let facts = if attempts.is_empty() {
        facts
    } else {
        cache.start_over();
        observe(&mut cache)
    };
    let mut left_alone = engine::left_alone(&facts, order);
    left_alone.retain(|left| !attempts.iter().any(|a| left.is(&a.module, &a.release)));
    if interrupt::asked() {
        return Ok(Done { code: stopped(), attempts, left_alone, refused: Vec::new() });
    }
    let (obstacles, changed) = match blocked(&facts) {
        // A fragment that was not read may have the parameter, and a module that was not seen may need it.
        Some(unknown) => (vec![unknown], false),
        None => put_cmdline_right(world, &facts, before.as_good()),
    };
    let facts = if changed { facts.observe_again(world, &mut cache, &order.kernels) } else { facts };
    if interrupt::asked() {
        return Ok(Done { code: stopped(), attempts, left_alone, refused: Vec::new() });
    }
    let made = super::initrd::make(world, &mut cache, &facts, before.as_good(), order.by_hand);
    let facts = if made { facts.observe_again(world, &mut cache, &order.kernels) } else { facts };
    if interrupt::asked() {
        return Ok(Done { code: stopped(), attempts, left_alone, refused: Vec::new() });
    }
    let last = before.as_good().map(|r| r.boot.clone());
    let judgement = assess(&facts, &world.settings, before.as_good());
    let mut boot = boot::put_right(world, &facts, &judgement, last);
    let mut facts = facts.observe_again(world, &mut cache, &order.kernels);
    // With its boot entry a kernel may take what it would have refused before, and clr-boot-manager deletes kernels.
    let judgement = assess(&facts, &world.settings, before.as_good());
    match boot::assert_default(world, &facts, &judgement) {
        Ok(true) => {
            facts = facts.observe_again(world, &mut cache, &order.kernels);
            boot = boot::after_new_default(world, &facts, boot);
        }
        Ok(false) => {}
        Err(e) => {
            tracing::error!("the boot default: {e}");
            boot.error = Some(boot.error.map_or_else(|| e.clone(), |known| format!("{known}; {e}")));
        }
    }
    boot::put_deferral_right(world, &facts, &judgement);
    facts.deferral = deferral::observe(root);

    let mut problems = faults.clone();
    problems.extend(attempts.iter().flat_map(|a| a.index_error.iter().chain(&a.hook_error)).cloned());
    let next = next_boot(&facts);
    let record = Record {
        schema: SCHEMA,
        started,
        finished: world.clock.now(),
        running: match &facts.inventory.running {
            Running::Known { release } => Some(release.clone()),
            _ => None,
        },
        next_boot: next.shown().map(str::to_owned),
        next_boot_source: next.source(),
        new_kernels: new_kernels(world, &facts),
        modules: facts
            .pairs
            .iter()
            .filter(|pair| is_recorded(&facts, pair, &attempts, before.as_good()))
            .map(|pair| module_record(&facts, pair, &attempts, before.as_good()))
            .collect(),
        cmdline: CmdlineRecord {
            wanted: sig_unenforce_wanted(&world.settings, &facts, &judgement.needs),
            in_force: coming_lines(&facts).all(|l| l.switch == Switch::On),
            obstacles,
        },
        boot,
        problems,
        needs: judgement.needs,
        checked: checked_files(&facts),
        verdict: None,
        guard: None,
        // What was in the cache was evaluated by a run before.
        sandbox: sandbox::in_force().or(before.as_good().and_then(|record| record.sandbox)),
    };
    let refused = engine::refused(&facts, order);
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
    let code = finish(world, &mut cache, &facts, before, record, &faults, attempts.is_empty())?;
    Ok(Done { code, attempts, left_alone, refused })
}

/// The mark of the run stays: the next one, and every report, knows that this one did not end.
fn stopped() -> u8 {
    tracing::error!("asked to stop; the next run goes on from here");
    exit::ATTENTION
}

/// Leaves the record and the message of the day, and tells the result.
fn finish(
    world: &World,
    cache: &mut Cache,
    facts: &System,
    before: Stored<Record>,
    record: Record,
    faults: &[String],
    was_idle: bool,
) -> anyhow::Result<u8> {
    let root = &world.root;
    if let Err(e) = cache.save(root) {
        tracing::warn!("{e}; the next run takes longer, and nothing else is lost");
    }
    let verdict = before.as_good().and_then(|old| old.verdict.clone());
    // With what became of this run's builds, as every report after it says.
    let decision = assess(facts, &world.settings, Some(&record)).decision;
    let record = Record { guard: Some(decision), ..record };
    let now = world.clock.now();
    let stored = Stored::Good(record);
    let document = document(facts, &stored, &Progress::None, &world.settings, now);
    let record = stored.good().map(|record| Record { verdict: Some(document.verdict.to_string()), ..record });
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
    super::surfaces::write_all(world, &document, verdict.as_deref()).and(saved).and(ended.map(|_| ()))?;
    // A fault of the configuration has an exit code of its own.
    let failed = match document.verdict {
        Verdict::Unknown | Verdict::Held | Verdict::Unsafe => true,
        Verdict::Degraded => document.problems.iter().any(|p| !faults.contains(p)),
        _ => false,
    };
    // What an admin has said is no error; whatever else is wrong is one.
    let by_admin = document.verdict == Verdict::Held && document.guard.because == Reason::Held;
    let untold = document.problems.iter().find(|p| **p != document.summary && !faults.contains(p));
    let failed = failed && !(by_admin && untold.is_none() && document.guard.lacking.is_empty());
    if by_admin {
        tracing::info!("{}", document.summary);
        untold.inspect(|problem| tracing::error!("{problem}"));
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
fn new_kernels(world: &World, facts: &System) -> Vec<String> {
    let Some(snapshot) = state::load::<Snapshot>(&world.root, SNAPSHOT).good() else {
        return Vec::new();
    };
    let releases = facts.inventory.kernels.iter().map(|k| k.name.release());
    releases.filter(|r| !snapshot.kernels.contains_key(r)).collect()
}

fn module_record(
    facts: &System,
    pair: &Pair,
    attempts: &[Attempt],
    previous: Option<&Record>,
) -> state::ModuleRecord {
    let attempt = attempts.iter().find(|a| a.module == pair.module && a.release == pair.release);
    let known = previous.and_then(|r| r.module(&pair.module, &pair.release));
    let mut record = module_status(facts, pair, if attempt.is_some() { None } else { previous });
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
fn put_cmdline_right(world: &World, facts: &System, record: Option<&Record>) -> (Vec<String>, bool) {
    let mut changed = false;
    let done = cmdline_plan(world, facts, record).and_then(|(ours, plan)| {
        for step in &plan.steps {
            tracing::info!("command line: {step}");
            changed = true;
        }
        writer::apply(&world.root, &plan, &ours).map(|()| plan.obstacles)
    });
    let obstacles: Vec<String> = match done {
        Ok(obstacles) => obstacles.iter().map(|o| o.told(&world.root)).collect(),
        Err(e) => vec![e.to_string()],
    };
    for obstacle in &obstacles {
        tracing::error!("{PARAMETER} is needed, but {obstacle}");
    }
    (obstacles, changed)
}
