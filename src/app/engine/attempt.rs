//! One planned module: its steps, what the disk says afterwards, and what is told of it.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{Event, Observer, Planned, STOPPED};
use crate::dkms::build::{self, Failure, Job};
use crate::dkms::first_error::FirstError;
use crate::dkms::log;
use crate::dkms::plan::State;
use crate::dkms::tree::TREE;
use crate::dkms::{Cache, Decision, Flaw, ModuleName, Step, Tree, plan};
use crate::kernel::inventory::MODULES;
use crate::message;
use crate::system::{System, pairs_of};
use crate::world::World;

/// Less free space than this is none, in bytes.
const ROOM: u64 = 256 << 10;

/// What became of one planned module.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// How it failed, in a state and in words.
    pub failure: Option<(State, String)>,
    /// The first error of its log.
    pub error: Option<FirstError>,
    /// Its log inside the root, when dkms was run.
    pub log: Option<String>,
    /// The fingerprint of the inputs that it failed with, where it follows from them.
    pub inputs: Option<String>,
    /// What was there before and had to be healed, in words.
    pub drift: Option<String>,
    /// The kernel's folder may have been changed.
    pub(super) touched: bool,
    /// The kernel's `depmod` failed.
    pub index_error: Option<String>,
    /// What was to be done.
    pub did: Did,
    /// How long it took.
    pub took: Duration,
}

/// What a plan comes to, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Did {
    /// It was built, and installed.
    Built,
    /// What was built before was installed.
    Installed,
    /// `modules.dep` was made anew for it.
    Indexed,
}

impl Did {
    /// The word of reports.
    pub fn word(self) -> &'static str {
        match self {
            Did::Built => "build",
            Did::Installed => "install",
            Did::Indexed => "depmod",
        }
    }
}

impl Attempt {
    /// Nothing has been done yet.
    fn new(p: &Planned) -> Attempt {
        Attempt {
            module: p.module.clone(),
            release: p.release.clone(),
            failure: None,
            error: None,
            log: None,
            inputs: None,
            drift: p.drift.clone(),
            touched: false,
            index_error: None,
            did: match p.steps.as_slice() {
                [Step::Index] => Did::Indexed,
                steps if steps.contains(&Step::Build) => Did::Built,
                _ => Did::Installed,
            },
            took: Duration::ZERO,
        }
    }

    /// We were asked to stop before it was done.
    pub(super) fn stopped(p: &Planned) -> Attempt {
        Attempt { failure: Some((State::NotBuilt, STOPPED.to_owned())), ..Attempt::new(p) }
    }

    /// Its end was not waited for.
    pub fn is_stopped(&self) -> bool {
        matches!(&self.failure, Some((State::NotBuilt, _)))
    }
}

/// Works on one.
pub(super) fn one(
    world: &World,
    cache: &Mutex<&mut Cache>,
    facts: &System,
    p: &Planned,
    missing: &BTreeSet<String>,
    make_jobs: Option<usize>,
    observer: &Observer<'_>,
) -> Attempt {
    let mut attempt = Attempt::new(p);
    if p.steps == [Step::Index] {
        return attempt;
    }
    let needs: Vec<&String> = p.conf.depends.iter().filter(|name| missing.contains(*name)).collect();
    if p.hopeless.is_some() {
        attempt.failure.clone_from(&p.hopeless);
        return attempt;
    }
    if let Some(first) = needs.first() {
        attempt.failure =
            Some((State::DependencyFailed, format!("it is built upon {first}, which is not there")));
        return attempt;
    }
    if let Some(reason) = build::way_out_of_root(&world.root, &p.module, &p.release, &p.conf) {
        attempt.failure = Some((State::BuildFailed, reason));
        return attempt;
    }
    if let Err(missing) = world.tools.find("dkms") {
        attempt.failure = Some((State::DependencyFailed, missing.to_string()));
        return attempt;
    }
    tracing::info!("{p}");
    attempt.log = Some(log::path(&p.module, &p.release));
    // Before the build: what somebody changes meanwhile is a reason to build again.
    let inputs = p.inputs(world);
    let log = build::new_log(&world.root, &p.module, &p.release);
    let job = Job {
        root: &world.root,
        tools: &world.tools,
        module: &p.module,
        source: &p.source,
        release: &p.release,
        deadline: world.settings.build_timeout,
        make_jobs,
        begun: &|step| observer(Event::Step(p, step)),
    };
    let run = |steps: &[Step]| {
        let log = log.as_ref().map_err(Clone::clone)?;
        build::run(&job, steps, log)
    };
    // What is there after a failed build is then the build from before.
    let build = plan::build_folder(&p.module, &p.release);
    let anew = p.steps.iter().any(|step| matches!(step, Step::SetAside(path) if *path == build));
    let mut done = run(&p.steps);
    let mut left = still_to_do(world, cache, facts, p);
    // dkms may say "installed" and leave another version's file in place: then, and only then, force it.
    if done.is_ok()
        && let Some((steps, ..)) =
            left.as_ref().filter(|(steps, _, anew)| !anew && steps.contains(&Step::Reinstall))
    {
        done = run(steps);
        left = still_to_do(world, cache, facts, p);
    }
    done = match (done, left) {
        // dkms gives 4 and 8 for another module's file after it has installed this one: the disk decides.
        (Err(Failure::Step { what, touched, .. }), Some((steps, ..)))
            if is_built(&steps) && (touched || !anew) =>
        {
            tracing::info!("{} on {}: {what}, and the module is there all the same", p.module, p.release);
            Ok(())
        }
        (Ok(()), Some((steps, why, lasting))) if !is_built(&steps) => {
            let what = format!("dkms says that it is done, and it is not: {why}");
            let error = log::first_error(&world.root, &p.module, &p.release).map(Box::new);
            Err(Failure::Step {
                what,
                error,
                last_lines: Vec::new(),
                touched: true,
                lasting,
                installing: false,
            })
        }
        (done, _) => done,
    };
    match done {
        Ok(()) => attempt.touched = true,
        Err(Failure::Excluded) => {
            attempt.failure = Some((
                State::SkippedExclusive,
                "dkms says that its dkms.conf excludes this kernel".to_owned(),
            ));
        }
        Err(Failure::Interrupted) => {
            attempt.failure = Some((State::NotBuilt, STOPPED.to_owned()));
        }
        Err(Failure::Step { what, error, last_lines, touched, lasting, .. }) => {
            attempt.touched = touched;
            tell_log(world, &attempt, error.as_deref(), &last_lines);
            let full = full_filesystem(world).map(|place| format!("; {place} is full")).unwrap_or_default();
            attempt.inputs = inputs.filter(|_| lasting && full.is_empty());
            attempt.failure = Some((State::BuildFailed, what + &full));
            attempt.error = error.map(|error| *error);
        }
    }
    attempt
}

/// What its log says of a failure: the first error with the lines around it, else the end.
fn tell_log(world: &World, attempt: &Attempt, error: Option<&FirstError>, last_lines: &[String]) {
    let Attempt { module, release, log, .. } = attempt;
    let log = log.as_ref().map(|log| world.root.spell(log).display().to_string()).unwrap_or_default();
    match error.filter(|error| !error.context.is_empty()) {
        Some(error) => tracing::error!(
            "the first error of {module} on {release} ({log}):\n  {error}\n    {}",
            error.context.join("\n    ")
        ),
        None if error.is_none() && !last_lines.is_empty() => tracing::error!(
            "the end of the log of {module} on {release} ({log}):\n  {}",
            last_lines.join("\n  ")
        ),
        None => {}
    }
}

/// What would have to be done for a module now, and why, and whether another build of the same would not help; none when
/// it would be left alone.
fn still_to_do(
    world: &World,
    cache: &Mutex<&mut Cache>,
    facts: &System,
    planned: &Planned,
) -> Option<(Vec<Step>, String, bool)> {
    let kernel = facts.inventory.kernels.iter().find(|k| k.name.release() == planned.release)?;
    let tree = Tree::observe(&world.root);
    let pairs = {
        let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
        pairs_of(world, &mut cache, &tree, kernel)
    };
    let pair = pairs.iter().find(|p| p.module == planned.module)?;
    let is_symbols = |flaws: &Vec<Flaw>| flaws.iter().any(|f| matches!(f, Flaw::Symbols { .. }));
    // Who is built by name need not ask for it.
    match plan::decide(&plan::asked_for(pair)) {
        Decision::Work { steps, why } => Some((steps, why, pair.proof.as_ref().is_err_and(is_symbols))),
        Decision::Proven => Some((Vec::new(), String::new(), false)),
        Decision::Leave { .. } => None,
    }
}

/// At most the index is left to be made.
fn is_built(steps: &[Step]) -> bool {
    steps.is_empty() || steps == [Step::Index]
}

/// A place that builds write to and that has no room left: what its victims say of it is often lost with the room.
fn full_filesystem(world: &World) -> Option<String> {
    [TREE, MODULES, "/tmp"]
        .into_iter()
        .find(|place| world.root.free_space(place).is_ok_and(|free| free < ROOM))
        .map(|place| world.root.spell(place).display().to_string())
}

/// What was healed is no failure of the update, and yet somebody may wonder who has altered it.
pub(super) fn tell_drift(attempts: &[Attempt]) {
    for a in attempts.iter().filter(|a| a.failure.is_none()) {
        let unindexed =
            attempts.iter().any(|other| other.release == a.release && other.index_error.is_some());
        if let (Some(drift), false) = (&a.drift, unindexed) {
            tracing::info!(
                message_id = message::DRIFT,
                dkms_module = %a.module,
                dkms_kernel = a.release.as_str(),
                "drift: {} on {}: {drift}",
                a.module,
                a.release
            );
        }
    }
}

/// One line a module: quiet on success, loud on failure.
pub(super) fn tell(world: &World, attempt: &Attempt) {
    let (module, release) = (&attempt.module, &attempt.release);
    match (&attempt.failure, &attempt.error) {
        (None, _) => tracing::debug!("{module} on {release}: done"),
        (Some((State::SkippedExclusive, reason)), _) => tracing::info!("{module} on {release}: {reason}"),
        (Some((state, reason)), error) => {
            let error = error.as_ref().map(|e| format!("; {e}")).unwrap_or_default();
            let log = attempt.log.as_ref().map(|l| format!("; log: {}", world.root.spell(l).display()));
            let log = log.unwrap_or_default();
            tracing::error!(
                message_id = message::BUILD_FAILED,
                dkms_module = %module,
                dkms_kernel = release.as_str(),
                "{module} on {release}: {state}: {reason}{error}{log}"
            );
        }
    }
}
