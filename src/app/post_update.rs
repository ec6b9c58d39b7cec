//! `clr-dkms-post-update`, the main job: after an update, build what is missing, prove it, put the command line and
//! the boot entries right, and leave a record.

use clap::Parser;
use serde::Serialize;

use super::rebuild::{self, Attempt};
use super::{Common, LOCK, answer, exit, is_ours, json, need_root};
use crate::boot::{self, ReadBack};
use crate::cmdline::writer::{self, Ours, Wish};
use crate::cmdline::{PARAMETER, Sources, Switch};
use crate::dkms::plan::State;
use crate::dkms::{Cache, Decision, Step, plan};
use crate::facts::Facts;
use crate::kernel::Running;
use crate::state::{
    self, BootRecord, CmdlineRecord, IN_PROGRESS, InProgress, RECORD, Record, SCHEMA, SNAPSHOT, Snapshot,
    Stored,
};
use crate::status::{Progress, document, module_status, sig_unenforce_wanted};
use crate::sys::{Lock, interrupt};
use crate::world::World;

/// Rebuild the DKMS modules for the kernels that an update brought, and make the next boot ready.
///
/// For each kernel that is the tip of its variant, every DKMS module that asks for it is built and installed unless it
/// is proven to be there already. Then module.sig_unenforce is made sure of, the boot entries are refreshed when
/// kernels or fragments have changed, and the record and the message of the day are written. With nothing to do,
/// nothing is changed.
///
/// Exit code 0: done, or nothing to do; 1: not all done; 3: it cannot be told what is to be done; 75: another run is at
/// work; 77: no permission; 78: the configuration has a fault (all the rest is done).
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
    #[command(flatten)]
    common: Common,
}

/// Runs it.
///
/// # Errors
/// When it cannot begin, or cannot write what it found. Failures of single modules are no errors here: they are in
/// the record and in the exit code.
pub fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let (world, config_errors) = arguments.common.world("clr-dkms-post-update")?;
    // A typo must not keep modules from being built: what is right in the configuration counts.
    let faults: Vec<String> = config_errors.iter().map(ToString::to_string).collect();
    for fault in &faults {
        tracing::error!("{fault}");
    }
    let code = if arguments.dry_run {
        let plan = dry_run(&world);
        let text = if arguments.json { json(&plan)? } else { plan.text() };
        answer(&text, arguments.common.color)?;
        plan.code()
    } else {
        need_root(&world, "clr-dkms-post-update")?;
        interrupt::watch()?;
        let _lock = Lock::take(&world.root, LOCK, world.settings.lock_wait, is_ours)?;
        work(&world, faults.clone())?
    };
    Ok(if code == exit::OK && !faults.is_empty() { exit::CONFIG } else { code })
}

/// What a run would do.
#[derive(Debug, Serialize)]
struct Plan {
    schema: u32,
    unreadable: Vec<String>,
    modules: Vec<PlannedModule>,
    cmdline: Vec<String>,
    cmdline_obstacles: Vec<String>,
    boot_update: Option<String>,
}

#[derive(Debug, Serialize)]
struct PlannedModule {
    module: String,
    kernel: String,
    steps: Vec<Step>,
    state: State,
    why: String,
}

impl Plan {
    fn text(&self) -> String {
        let mut lines: Vec<String> = self.unreadable.clone();
        for m in &self.modules {
            let steps: Vec<String> = m.steps.iter().map(Step::to_string).collect();
            lines.push(match (m.steps.is_empty(), m.state) {
                (true, State::Ok) => format!("{} on {}: proven, nothing to do", m.module, m.kernel),
                (true, state) => format!("{} on {}: left alone ({state}): {}", m.module, m.kernel, m.why),
                (false, _) => {
                    format!("{} on {}: {}, because {}", m.module, m.kernel, steps.join(", "), m.why)
                }
            });
        }
        lines.extend(self.cmdline.iter().map(|step| format!("command line: {step}")));
        lines.extend(self.cmdline_obstacles.iter().map(|o| format!("command line: {o}")));
        lines.extend(self.boot_update.iter().map(|why| format!("clr-boot-manager update, because {why}")));
        if lines.is_empty() {
            lines.push("nothing to do".to_owned());
        }
        lines.iter().map(|line| crate::render::shown(line) + "\n").collect()
    }

    fn code(&self) -> u8 {
        if self.unreadable.is_empty() { exit::OK } else { exit::UNKNOWN }
    }
}

fn dry_run(world: &World) -> Plan {
    let mut cache = Cache::load(&world.root);
    let facts = Facts::observe(world, &mut cache);
    let record = state::load::<Record>(&world.root, RECORD).good();
    let modules = tip_pairs(&facts)
        .map(|pair| {
            let (steps, state, why) = match plan::decide(pair) {
                Decision::Proven => (Vec::new(), State::Ok, String::new()),
                Decision::Work { steps, why } => (steps, State::NotBuilt, why),
                Decision::Leave { state, why } => (Vec::new(), state, why),
            };
            PlannedModule { module: pair.module.to_string(), kernel: pair.release.clone(), steps, state, why }
        })
        .collect();
    let (cmdline, obstacles) = match Ours::load(&world.root) {
        Ok(ours) if sig_unenforce_wanted(&world.settings, &facts) => {
            let plan = writer::plan(Wish::Enable, &tip_sources(&facts), &ours);
            (
                plan.steps.iter().map(ToString::to_string).collect(),
                plan.obstacles.iter().map(ToString::to_string).collect(),
            )
        }
        Ok(_) => (Vec::new(), Vec::new()),
        Err(e) => (Vec::new(), vec![e.to_string()]),
    };
    let mut boot_update = boot_update_reason(world, record.as_ref().map(|r| &r.boot), &facts.boot_inputs);
    if boot_update.is_none() && !Vec::is_empty(&cmdline) {
        boot_update = Some("the fragments change".to_owned());
    }
    let unreadable = facts.inventory.unreadable.iter().chain(&facts.tree.unreadable).cloned().collect();
    Plan { schema: 1, unreadable, modules, cmdline, cmdline_obstacles: obstacles, boot_update }
}

fn tip_pairs(facts: &Facts) -> impl Iterator<Item = &crate::dkms::Pair> {
    let is_tip = |release: &str| facts.inventory.kernels.iter().any(|k| k.tip && k.name.release() == release);
    facts.pairs.iter().filter(move |p| is_tip(&p.release))
}

fn tip_sources(facts: &Facts) -> Vec<Sources> {
    let tips: Vec<String> = facts.inventory.tips().iter().map(|k| k.name.release()).collect();
    facts.lines.iter().filter(|l| tips.contains(&l.release)).map(|l| l.sources.copy()).collect()
}

/// Why the boot manager is to be run, if it is.
fn boot_update_reason(world: &World, last: Option<&BootRecord>, inputs: &str) -> Option<String> {
    if !world.settings.boot_update {
        return None;
    }
    match last {
        None => Some("we have not run it on this system yet".to_owned()),
        Some(boot) if boot.error.is_some() => Some("it failed the last time".to_owned()),
        Some(boot) if boot.inputs.as_deref() != Some(inputs) => {
            Some("kernels or fragments have changed since it last ran".to_owned())
        }
        Some(_) => None,
    }
}

fn work(world: &World, mut problems: Vec<String>) -> anyhow::Result<u8> {
    let root = &world.root;
    let started = world.clock.now();
    let before = state::load::<Record>(root, RECORD);
    let broken_off = state::load::<InProgress>(root, IN_PROGRESS);
    if let Stored::Bad(reason) = &before {
        let aside = state::set_aside(root, RECORD)?;
        tracing::warn!("{reason}; it is kept as {}", root.spell(aside).display());
    }
    if !matches!(broken_off, Stored::Absent) {
        tracing::warn!("the last run was broken off before its end: going on from what is on disk");
    }
    let mut cache = Cache::load(root);
    let facts = Facts::observe(world, &mut cache);
    if let Some(reason) = facts.inventory.unreadable.as_ref().or(facts.tree.unreadable.as_ref()) {
        tracing::error!(
            "{reason}; nothing has been changed. Is {} the root of a system?",
            root.path().display()
        );
        return Ok(exit::UNKNOWN);
    }
    for oddity in facts.inventory.oddities.iter().chain(&facts.tree.oddities) {
        tracing::info!("{} {}", oddity.path, crate::render::shown(&oddity.what));
    }

    let plans = rebuild::plan(&facts);
    if !plans.is_empty() {
        let builds = plans.iter().map(|p| format!("{} on {}", p.module, p.release)).collect();
        let intent = InProgress { schema: SCHEMA, started, pid: std::process::id(), builds };
        state::save(root, IN_PROGRESS, &intent)?;
    }
    let attempts = rebuild::run(world, &mut cache, &facts, plans);
    let interrupted = interrupt::asked();

    // What is true now is read from disk again, not concluded from what was done.
    let facts = Facts::observe(world, &mut cache);
    let cmdline = if interrupted { None } else { Some(put_cmdline_right(world, &facts)) };
    let facts = Facts::observe(world, &mut cache);
    let last_boot = before.as_good().map(|r| r.boot.clone());
    let boot = if interrupted { last_boot } else { put_boot_right(world, &facts, last_boot) };

    let record = {
        let previous = before.as_good();
        problems.extend(attempts.iter().filter_map(|a| a.index_error.clone()));
        let modules = tip_pairs(&facts).map(|pair| module_record(pair, &attempts, previous)).collect();
        let wanted = sig_unenforce_wanted(&world.settings, &facts);
        Record {
            schema: SCHEMA,
            started,
            finished: world.clock.now(),
            running: match &facts.inventory.running {
                Running::Known { release } => Some(release.clone()),
                _ => None,
            },
            next_boot: facts.inventory.boot_default().map(|k| k.name.release()),
            new_kernels: new_kernels(world, &facts),
            modules,
            cmdline: CmdlineRecord {
                wanted,
                in_force: facts.lines.iter().all(|l| l.switch == Switch::On),
                obstacles: cmdline.into_iter().flatten().collect(),
            },
            boot: boot.unwrap_or(BootRecord { inputs: None, updated: None, entries: None, error: None }),
            problems,
        }
    };
    if interrupted {
        // The mark of the run stays: the next one, and every report, knows that this one did not end.
        tracing::error!("asked to stop; the next run goes on from here");
        return Ok(exit::ATTENTION);
    }
    cache.save(root)?;
    if !before.as_good().is_some_and(|old| old.tells_the_same_as(&record)) {
        state::save(root, RECORD, &record)?;
    }
    root.remove(IN_PROGRESS)?;
    let document = document(&facts, &Stored::Good(record.clone()), Progress::None, &world.settings);
    super::motd::write(world, &document)?;
    let failed = tip_failures(&record, &document);
    if failed {
        tracing::error!("{}", document.summary);
    } else if !attempts.is_empty() {
        tracing::info!("{}", document.summary);
    }
    Ok(if failed { exit::ATTENTION } else { exit::OK })
}

fn tip_failures(record: &Record, document: &crate::status::Document) -> bool {
    use crate::status::Verdict;
    matches!(document.verdict, Verdict::Degraded | Verdict::Unknown)
        || record.boot.error.is_some()
        || (record.cmdline.wanted && !record.cmdline.in_force)
}

/// Kernels that the snapshot before the update did not know.
fn new_kernels(world: &World, facts: &Facts) -> Vec<String> {
    let Some(snapshot) = state::load::<Snapshot>(&world.root, SNAPSHOT).good() else {
        return Vec::new();
    };
    let releases = facts.inventory.kernels.iter().map(|k| k.name.release());
    releases.filter(|r| !snapshot.kernels.contains_key(r)).collect()
}

fn module_record(
    pair: &crate::dkms::Pair,
    attempts: &[Attempt],
    previous: Option<&Record>,
) -> state::ModuleRecord {
    let attempt = attempts.iter().find(|a| a.module == pair.module && a.release == pair.release);
    let known = previous.and_then(|r| r.module(&pair.module, &pair.release));
    let mut status = module_status(pair, if attempt.is_some() { None } else { previous });
    let mut log = known.and_then(|k| k.log.clone());
    if let Some(attempt) = attempt {
        log = attempt.log.clone().or(log);
        if status.state != State::Ok
            && let Some((state, reason)) = &attempt.failure
        {
            status.state = *state;
            status.reason = Some(reason.clone());
            status.error.clone_from(&attempt.error);
        }
    }
    state::ModuleRecord {
        module: pair.module.clone(),
        kernel: pair.release.clone(),
        state: status.state,
        reason: status.reason,
        error: status.error,
        log,
        files: pair.proof.clone().unwrap_or_default(),
    }
}

/// Makes sure of the parameter; gives what stands in the way.
fn put_cmdline_right(world: &World, facts: &Facts) -> Vec<String> {
    if !sig_unenforce_wanted(&world.settings, facts) {
        return Vec::new();
    }
    let done = Ours::load(&world.root).and_then(|ours| {
        let plan = writer::plan(Wish::Enable, &tip_sources(facts), &ours);
        for step in &plan.steps {
            tracing::info!("command line: {step}");
        }
        writer::apply(&world.root, &plan, &ours).map(|()| plan.obstacles)
    });
    let obstacles: Vec<String> = match done {
        Ok(obstacles) => obstacles.iter().map(ToString::to_string).collect(),
        Err(e) => vec![e.to_string()],
    };
    for obstacle in &obstacles {
        tracing::error!("{PARAMETER} is needed, but {obstacle}");
    }
    obstacles
}

/// Refreshes the boot entries when there is a reason to, and reads them back.
fn put_boot_right(world: &World, facts: &Facts, last: Option<BootRecord>) -> Option<BootRecord> {
    let Some(why) = boot_update_reason(world, last.as_ref(), &facts.boot_inputs) else {
        return last;
    };
    let previous = last.unwrap_or(BootRecord { inputs: None, updated: None, entries: None, error: None });
    let failed = |error: String| {
        tracing::error!("boot entries: {error}");
        Some(BootRecord { error: Some(error), ..previous.clone() })
    };
    if let Some(obstacle) = boot::obstacle(&world.root) {
        return failed(format!("clr-boot-manager was not run: {obstacle}"));
    }
    tracing::info!("running clr-boot-manager update, because {why}");
    let update = boot::update(&world.root, &world.tools, world.settings.boot_timeout);
    let expected: Vec<(String, Vec<u8>)> =
        facts.lines.iter().map(|l| (l.id.clone(), l.effective.clone())).collect();
    let seen = boot::read_back(&world.root, &expected);
    let error = match (&seen, update.error) {
        (ReadBack::Differs(wrong), said) => {
            Some(wrong.iter().cloned().chain(said).collect::<Vec<_>>().join("; "))
        }
        (ReadBack::Verified | ReadBack::NotVisible, said) => said,
    };
    if let Some(error) = error {
        return failed(error);
    }
    Some(BootRecord {
        // Read again: clr-boot-manager deletes old kernels, and that is no change to react to.
        inputs: Some(boot::inputs(&world.root)),
        updated: Some(world.clock.now()),
        entries: Some(seen.word().to_owned()),
        error: None,
    })
}
