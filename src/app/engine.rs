//! Building what the plan says, several modules at a time, and one `depmod` for each kernel that changed.
//!
//! The kernel of the next boot comes first. Two kernels of one module are never built at once: dkms has one build folder
//! for all of them, and without a lock puts files of one kernel into the other (measured).

mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::dkms::build::{self, Failure};
use crate::dkms::first_error::FirstError;
use crate::dkms::log;
use crate::dkms::order as dkms_order;
use crate::dkms::plan::State;
use crate::dkms::rival::{self, Rival};
use crate::dkms::tree::TREE;
use crate::dkms::{Cache, Conf, Decision, Flaw, ModuleName, Pair, Source, Stage, Step, Tree, inputs, plan};
use crate::facts::{Facts, pairs_of};
use crate::kernel::inventory::MODULES;
use crate::message;
use crate::state::Record;
use crate::sys::{child::Companion, interrupt, work_politely};
use crate::world::World;
use queue::{Queue, held, next};

/// How long one `depmod` may take; it takes about a second for 4,000 modules.
pub const INDEX_DEADLINE: Duration = Duration::from_secs(300);

/// Less free space than this is none, in bytes.
const ROOM: u64 = 256 << 10;

/// One module on one kernel that something is to be done about.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// What is to be done.
    pub steps: Vec<Step>,
    /// Why.
    pub why: String,
    source: Source,
    conf: Conf,
    /// Why it fails without being tried.
    hopeless: Option<(State, String)>,
    drift: Option<String>,
}

impl std::fmt::Display for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}: {}, because {}", self.module, self.release, spelt(&self.steps), self.why)
    }
}

impl Planned {
    /// The fingerprint of its inputs; none where it would not tell everything.
    fn inputs(&self, world: &World) -> Option<String> {
        // What it is built upon may be built anew in the same run.
        let alone = self.conf.depends.is_empty();
        let look =
            || inputs::fingerprint(&world.root, &world.tools, &self.module, &self.source, &self.release);
        alone.then(look).flatten()
    }

    /// The last attempt failed with the very same inputs, as the record says.
    pub fn would_fail_again(&self, world: &World, record: Option<&Record>) -> bool {
        let known = record.and_then(|r| r.module(&self.module, &self.release));
        let before = known.and_then(|m| m.inputs.as_ref());
        // Only a build is spared; files that are good want to be installed all the same.
        self.steps.contains(&Step::Build) && before.is_some() && before == self.inputs(world).as_ref()
    }
}

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
    touched: bool,
    /// The kernel's `depmod` failed.
    pub index_error: Option<String>,
}

/// The kernels that are no tips and run, where `modules.dep` alone is not as it should be.
pub fn index_plans(facts: &Facts) -> Vec<Planned> {
    let is_tip = |release: &str| facts.inventory.kernels.iter().any(|k| k.tip && k.name.release() == release);
    let kernels: Vec<String> =
        facts.lines.iter().map(|l| l.release.clone()).filter(|release| !is_tip(release)).collect();
    if kernels.is_empty() {
        return Vec::new();
    }
    let mut planned = plan(facts, &Order { kernels, ..Order::default() });
    planned.retain(|p| p.steps == [Step::Index]);
    planned
}

/// What is to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Modules, as NAME or NAME/VERSION; none means all.
    pub modules: Vec<String>,
    /// Kernel releases; none means the tips.
    pub kernels: Vec<String>,
    /// Also what is proven.
    pub force: bool,
    /// A person wants it: what failed before is tried again.
    pub by_hand: bool,
}

impl Order {
    /// Whether a module is meant by a word.
    pub fn names(&self, asked: &str, module: &ModuleName) -> bool {
        asked == module.name || asked == module.to_string()
    }

    fn wants(&self, module: &ModuleName) -> bool {
        self.modules.is_empty() || self.modules.iter().any(|asked| self.names(asked, module))
    }

    /// What is to be done about a pair, for this order.
    fn decide(&self, pair: &Pair) -> Decision {
        match plan::decide(pair) {
            Decision::Proven if self.force => plan::forced(pair, "it was asked for"),
            Decision::Work { steps, why } if self.force && !steps.contains(&Step::Build) => {
                plan::forced(pair, &why)
            }
            // Who names it asks for it.
            Decision::Leave { state: State::NotAutoinstall, .. } if !self.modules.is_empty() => {
                plan::decide(&plan::asked_for(pair))
            }
            decision => decision,
        }
    }
}

/// The kernels of an order.
fn kernels(facts: &Facts, order: &Order) -> Vec<String> {
    let tips = facts.inventory.tips().into_iter().map(|k| k.name.release());
    if order.kernels.is_empty() { tips.collect() } else { order.kernels.clone() }
}

/// The named modules that are left alone on a kernel, with state and reason.
pub fn left_alone(facts: &Facts, order: &Order) -> Vec<(ModuleName, String, State, String)> {
    let kernels = kernels(facts, order);
    let named = |pair: &&Pair| !order.modules.is_empty() && order.wants(&pair.module);
    let on = facts.pairs.iter().filter(|pair| kernels.contains(&pair.release)).filter(named);
    on.filter_map(|pair| match order.decide(pair) {
        Decision::Leave { state, why } => Some((pair.module.clone(), pair.release.clone(), state, why)),
        _ => None,
    })
    .collect()
}

/// The work, in order: the next boot's kernel first, then the running one; what others are built upon before them.
pub fn plan(facts: &Facts, order: &Order) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut kernels = kernels(facts, order);
    let next = facts.next_kernel().map(|k| k.name.release());
    // Stable: else as they were named, or by their numbers.
    kernels.sort_by_key(|release| (next.as_ref() != Some(release), !facts.inventory.runs(release)));
    for release in kernels {
        let pairs: Vec<&Pair> = facts.of_kernel(&release).collect();
        // A module without a usable dkms.conf is left alone, whatever it depends on.
        let conf = |p: &Pair| p.conf.clone().unwrap_or_default();
        let named: Vec<_> = pairs.iter().map(|p| (p.module.name.clone(), conf(p).depends)).collect();
        let (in_order, circle) = dkms_order::order(&named);
        for at in in_order {
            let pair = pairs[at];
            if let (true, Decision::Work { steps, why }) = (order.wants(&pair.module), order.decide(pair)) {
                let conf = conf(pair);
                // Two that nobody asked for but a person, now: the file goes to one of them.
                let taken = planned.iter().filter(|p: &&Planned| p.release == release).find_map(|p| {
                    let file = rival::shared(&p.conf.built, &conf.built)?;
                    Some((State::Conflict, Rival { module: p.module.clone(), file }.to_string()))
                });
                let in_circle = || "BUILD_DEPENDS leads back to the module itself".to_owned();
                let in_circle = circle.contains(&at).then(|| (State::DependencyFailed, in_circle()));
                let hopeless = in_circle.or(taken);
                planned.push(Planned {
                    module: pair.module.clone(),
                    release: release.clone(),
                    why,
                    source: pair.source.clone(),
                    conf,
                    hopeless,
                    drift: plan::drift(pair, &steps),
                    steps,
                });
            }
        }
    }
    planned
}

/// Does the work, several modules at a time. A failed module does not stop the others.
pub fn run(world: &World, cache: &mut Cache, facts: &Facts, planned: &[Planned]) -> Vec<Attempt> {
    if planned.is_empty() {
        return Vec::new();
    }
    let _awake = hold_off_shutdown(world, planned);
    let modules: BTreeSet<&str> = planned.iter().map(|p| p.module.name.as_str()).collect();
    let share = world.settings.build_jobs.share(modules.len());
    tracing::debug!("at most {} modules at a time", share.jobs);
    let missing = |release: &str| not_ready(facts, release);
    let releases: BTreeSet<&str> = planned.iter().map(|p| p.release.as_str()).collect();
    let queue = Mutex::new(Queue {
        waiting: planned.iter().collect(),
        busy: Vec::new(),
        missing: releases.iter().map(|r| ((*r).to_owned(), missing(r))).collect(),
        changed: BTreeSet::new(),
        attempts: Vec::new(),
        alone: world.root.lookup(SIGNING_KEY).is_absent(),
    });
    let (ready, cache) = (Condvar::new(), Mutex::new(cache));
    std::thread::scope(|scope| {
        for _ in 0..share.jobs {
            scope.spawn(|| {
                work_politely();
                while let Some(p) = next(&queue, &ready) {
                    let missing = held(&queue).missing.get(&p.release).cloned().unwrap_or_default();
                    let attempt = one(world, &cache, facts, p, &missing, share.make_jobs);
                    tell(world, &attempt);
                    // Not in the condition below: the lock would be held for its whole body.
                    let finished = held(&queue).done(p, attempt);
                    if let Some(release) = finished {
                        index(world, &queue, &release);
                    }
                    ready.notify_all();
                }
            });
        }
    });
    // A worker that has panicked has left its module undone; the others are told all the same.
    let attempts = queue.into_inner().unwrap_or_else(PoisonError::into_inner).attempts;
    tell_drift(&attempts);
    attempts
}

/// What was healed is no failure of the update, and yet somebody may wonder who has altered it.
fn tell_drift(attempts: &[Attempt]) {
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

/// Has logind refuse a shutdown while modules are built; a person can insist. It ends with the value, and with us.
fn hold_off_shutdown(world: &World, planned: &[Planned]) -> Option<Companion> {
    if !world.root.is_live() || !planned.iter().any(|p| p.steps.contains(&Step::Build)) {
        return None;
    }
    let child = world.tools.child("systemd-inhibit", INDEX_DEADLINE).ok()?.args([
        "--what=shutdown",
        "--mode=block",
        "--who=clr-dkms",
        "--why=DKMS modules are being built",
        "cat",
    ]);
    // Without logind nobody asks it; a build that is cut short is gone on with after the boot.
    child.beside().map_err(|e| tracing::debug!("a shutdown is not held off: {e}")).ok()
}

/// dkms makes this key when it first signs a module, without a lock: two at once would each sign with one of their own.
const SIGNING_KEY: &str = "/var/lib/dkms/mok.key";

fn index(world: &World, queue: &Mutex<Queue<'_>>, release: &str) {
    if interrupt::asked() {
        return;
    }
    if let Err(e) = build::index(&world.root, &world.tools, release, INDEX_DEADLINE) {
        tracing::error!("{e}");
        let mut queue = held(queue);
        let of_kernel = queue.attempts.iter_mut().filter(|a| a.release == release);
        of_kernel.take(1).for_each(|a| a.index_error = Some(e.clone()));
    }
}

/// The names of the modules of a kernel that are not there: nothing can be built upon them. What only `modules.dep` does
/// not list is there.
fn not_ready(facts: &Facts, release: &str) -> BTreeSet<String> {
    let is_there = |p: &Pair| match &p.proof {
        Ok(_) => true,
        Err(flaws) => p.stage == Stage::Installed && plan::is_unlisted_only(flaws),
    };
    let states: BTreeMap<&str, bool> =
        facts.of_kernel(release).map(|p| (p.module.name.as_str(), is_there(p))).collect();
    let named = facts.of_kernel(release).filter_map(|p| p.conf.as_ref().ok()).flat_map(|c| c.depends.iter());
    named.filter(|name| states.get(name.as_str()) != Some(&true)).cloned().collect()
}

fn one(
    world: &World,
    cache: &Mutex<&mut Cache>,
    facts: &Facts,
    p: &Planned,
    missing: &BTreeSet<String>,
    make_jobs: Option<usize>,
) -> Attempt {
    let mut attempt = Attempt {
        module: p.module.clone(),
        release: p.release.clone(),
        failure: None,
        error: None,
        log: None,
        inputs: None,
        drift: p.drift.clone(),
        touched: false,
        index_error: None,
    };
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
    let timeout = world.settings.build_timeout;
    let log = build::new_log(&world.root, &p.module, &p.release);
    let run = |steps: &[Step]| {
        let log = log.as_ref().map_err(Clone::clone)?;
        build::run(
            &world.root,
            &world.tools,
            &p.module,
            &p.source,
            &p.release,
            steps,
            build::Limits { deadline: timeout, make_jobs },
            log,
        )
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
            attempt.failure = Some((State::NotBuilt, "the run was asked to stop".to_owned()));
        }
        Err(Failure::Step { what, error, last_lines, touched, lasting, .. }) => {
            attempt.touched = touched;
            if !last_lines.is_empty() {
                tracing::error!(
                    "the end of the log of {} on {}:\n  {}",
                    p.module,
                    p.release,
                    last_lines.join("\n  ")
                );
            }
            let full = full_filesystem(world).map(|place| format!("; {place} is full")).unwrap_or_default();
            attempt.inputs = inputs.filter(|_| lasting && full.is_empty());
            attempt.failure = Some((State::BuildFailed, what + &full));
            attempt.error = error.map(|error| *error);
        }
    }
    attempt
}

/// What would have to be done for a module now, and why, and whether another build of the same would not help; none when
/// it would be left alone.
fn still_to_do(
    world: &World,
    cache: &Mutex<&mut Cache>,
    facts: &Facts,
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

fn spelt(steps: &[Step]) -> String {
    steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", ")
}

/// One line a module: quiet on success, loud on failure.
fn tell(world: &World, attempt: &Attempt) {
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
