//! Building what the plan says, several modules at a time, and one `depmod` for each kernel that changed.
//!
//! The kernel of the next boot comes first. Two kernels of one module are never built at once: dkms has one
//! build directory for all of them, and without a lock puts files of one kernel into the other (measured).

mod attempt;
mod queue;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::context::Context;
use crate::decide::module_state::module_status;
use crate::decide::next_boot::presumed;
use crate::dkms::conflict::{self, Rival};
use crate::dkms::order as dkms_order;
use crate::dkms::plan::State;
use crate::dkms::{
    Cache, Decision, DkmsConf, ModuleName, ModuleOnKernel, PlanStep, Source, Stage, Tree, depmod, inputs,
    plan, replace,
};
use crate::report::render::shown;
use crate::state::RunRecord;
use crate::sys::{child::ChildGuard, interrupt, work_politely};
use crate::system::System;
pub use attempt::{Attempt, Did};
use attempt::{one, tell, tell_drift};
use queue::{Queue, held, next};
use settle::Settling;

/// Why something was not done.
const STOPPED: &str = "the run was asked to stop";

/// How long one `depmod` may take; it takes about a second for 4,000 modules.
pub const INDEX_DEADLINE: Duration = Duration::from_secs(300);

/// What happens during the work.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// A module has its turn.
    Begun(&'a Planned),
    /// A step of it is begun.
    Step(&'a Planned, &'a PlanStep),
    /// It has come to an end, good or bad.
    Done(&'a Attempt),
    /// `depmod` is begun for a kernel.
    Index(&'a str),
    /// It has ended.
    Indexed(&'a str),
}

/// Called for each event when it happens, from several threads.
pub type Observer<'a> = dyn Fn(Event<'_>) + Sync + 'a;

/// One module on one kernel that something is to be done about.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// What is to be done.
    pub steps: Vec<PlanStep>,
    /// Why.
    pub why: String,
    source: Source,
    conf: DkmsConf,
    /// Why it fails without being tried.
    hopeless: Option<(State, String)>,
    drift: Option<String>,
}

impl std::fmt::Display for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}: {}, because {}", self.module, self.release, display(&self.steps), self.why)
    }
}

impl Planned {
    /// The fingerprint of its inputs; none where it would not tell everything.
    fn inputs(&self, context: &Context) -> Option<String> {
        // What it is built upon may be built again in the same run.
        let alone = self.conf.depends.is_empty();
        let look =
            || inputs::fingerprint(&context.root, &context.tools, &self.module, &self.source, &self.release);
        alone.then(look).flatten()
    }

    /// The names of the modules that it is built upon.
    pub(super) fn built_upon(&self) -> &[String] {
        &self.conf.depends
    }

    /// The last attempt failed with the very same inputs, as the record says.
    pub fn would_fail_again(&self, context: &Context, record: Option<&RunRecord>) -> bool {
        let known = record.and_then(|r| r.module(&self.module, &self.release));
        let before = known.and_then(|m| m.inputs.as_ref());
        // Only a build is spared; files that are good want to be installed all the same.
        let is_same = |inputs: String| {
            before.is_some_and(|before| *before == inputs || *before == on_running(context, &inputs))
        };
        self.steps.contains(&PlanStep::Build) && before.is_some() && self.inputs(context).is_some_and(is_same)
    }
}

/// The fingerprint of a build whose outcome may depend on the running kernel.
fn on_running(context: &Context, inputs: &str) -> String {
    let running = context.root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{inputs} on {}", String::from_utf8_lossy(&running).trim())
}

fn display(steps: &[PlanStep]) -> String {
    steps.iter().map(PlanStep::to_string).collect::<Vec<_>>().join(", ")
}

/// Kernels other than the tips that matter, if only their `modules.dep` has to be made again.
pub fn index_plans(system: &System) -> Vec<Planned> {
    let releases = system.lines.iter().map(|line| line.release.clone());
    let kernels: Vec<String> = releases.filter(|release| !system.inventory.is_tip(release)).collect();
    if kernels.is_empty() {
        return Vec::new();
    }
    let mut planned = plan(system, &Order { kernels, ..Order::default() });
    planned.retain(|p| p.steps == [PlanStep::Index]);
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
    /// A user asked for it: modules that failed before are tried again.
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
    fn decide(&self, pair: &ModuleOnKernel) -> Decision {
        match plan::decide(pair) {
            Decision::Proven if self.force => plan::forced(pair, "it was asked for"),
            Decision::Proven if self.by_hand && pair.source_changed => {
                plan::forced(pair, "its source has changed since it was built")
            }
            Decision::Work { steps, why } if self.force && !steps.contains(&PlanStep::Build) => {
                plan::forced(pair, &why)
            }
            // A module that is named is wanted, whatever its AUTOINSTALL says.
            Decision::Leave { state: State::NotAutoinstall, .. } if !self.modules.is_empty() => {
                plan::decide(&plan::asked_for(pair))
            }
            decision => decision,
        }
    }
}

/// A module that was asked for and is not there, in a sentence.
pub fn unknown_module(system: &System, order: &Order) -> Option<String> {
    let is_there =
        |asked: &&String| system.modules_on_kernels.iter().any(|pair| order.names(asked, &pair.module));
    let missing = order.modules.iter().find(|asked| !is_there(asked))?;
    let names: Vec<String> = system.tree.modules.iter().map(|m| m.module.to_string()).collect();
    let known = if names.is_empty() { "no module is registered".to_owned() } else { names.join(", ") };
    Some(format!(
        "{} is not a module of the DKMS tree, or not its newest version; there are: {known}",
        shown(missing)
    ))
}

/// The kernels of an order.
fn kernels(system: &System, order: &Order) -> Vec<String> {
    let tips = system.inventory.tips().into_iter().map(|k| k.name.release());
    if order.kernels.is_empty() { tips.collect() } else { order.kernels.clone() }
}

/// A module that nothing can be done about on a kernel, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// What is true of it.
    pub state: State,
    /// Why.
    pub why: String,
}

impl LeftAlone {
    /// Whether it is that module on that kernel.
    pub fn is(&self, module: &ModuleName, release: &str) -> bool {
        self.module == *module && self.release == release
    }
}

fn asked<'a>(system: &'a System, order: &'a Order) -> impl Iterator<Item = &'a ModuleOnKernel> {
    let kernels = kernels(system, order);
    system.modules_on_kernels.iter().filter(move |p| kernels.contains(&p.release) && order.wants(&p.module))
}

/// What an order leaves alone: all that should be there and cannot be built, and what was named in any case.
pub fn left_alone(system: &System, order: &Order) -> Vec<LeftAlone> {
    let left = |pair: &ModuleOnKernel| match order.decide(pair) {
        Decision::Leave { state, why } if !order.modules.is_empty() || !state.is_fine() => {
            Some(LeftAlone { module: pair.module.clone(), release: pair.release.clone(), state, why })
        }
        _ => None,
    };
    asked(system, order).filter_map(left).collect()
}

/// What an order asks for, is proven, and will be refused for its signature.
pub fn refused(system: &System, order: &Order) -> Vec<LeftAlone> {
    let proven = asked(system, order).filter(|pair| pair.proof.is_ok());
    let known = proven.map(|pair| module_status(system, pair, None));
    known
        .filter(|m| m.state == State::SignatureRefused)
        .map(|m| LeftAlone {
            module: m.module,
            release: m.kernel,
            state: m.state,
            why: m.reason.unwrap_or_default(),
        })
        .collect()
}

/// The work, in order: the next boot's kernel first, then the running one; what others are built upon before
/// them.
pub fn plan(system: &System, order: &Order) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut kernels = kernels(system, order);
    let next = presumed(system).map(|k| k.name.release());
    // Stable: else as they were named, or by their numbers.
    kernels.sort_by_key(|release| (next.as_ref() != Some(release), !system.inventory.runs(release)));
    for release in kernels {
        let modules_on_kernels: Vec<&ModuleOnKernel> = system.of_kernel(&release).collect();
        // A module without a usable dkms.conf is left alone, whatever it depends on.
        let conf = |p: &ModuleOnKernel| p.conf.clone().unwrap_or_default();
        let named: Vec<_> =
            modules_on_kernels.iter().map(|p| (p.module.name.clone(), conf(p).depends)).collect();
        let (in_order, circle) = dkms_order::order(&named);
        for at in in_order {
            let pair = modules_on_kernels[at];
            if let (true, Decision::Work { steps, why }) = (order.wants(&pair.module), order.decide(pair)) {
                let conf = conf(pair);
                // Two modules that install the same file: only one of them can have it.
                let taken = planned.iter().filter(|p: &&Planned| p.release == release).find_map(|p| {
                    let file = conflict::shared(&p.conf.built, &conf.built)?;
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

/// Makes whole what an interrupted run has left of replacing modules, before anything is observed; true when
/// there was something.
pub fn recover(context: &Context) -> bool {
    let Context { root, tools, .. } = context;
    let recovered = replace::recover(root, &Tree::observe(root).modules);
    for release in recovered.iter().flatten() {
        if let Err(e) = depmod::run(root, tools, release, &[], INDEX_DEADLINE) {
            tracing::error!("{e:#}");
        }
    }
    recovered.is_some()
}

/// Does the work, several modules at a time. A failed module does not stop the others. After a request to
/// stop, the modules that were not begun are returned as stopped.
pub fn run(
    context: &Context,
    cache: &mut Cache,
    system: &System,
    planned: &[Planned],
    observer: &Observer<'_>,
) -> Vec<Attempt> {
    if planned.is_empty() {
        return Vec::new();
    }
    let _awake = hold_off_shutdown(context, planned);
    let modules: BTreeSet<&str> = planned.iter().map(|p| p.module.name.as_str()).collect();
    let share = context.settings.build_jobs.share(modules.len());
    tracing::debug!("at most {} modules at a time", share.jobs);
    let missing = |release: &str| not_ready(system, release);
    let releases: BTreeSet<&str> = planned.iter().map(|p| p.release.as_str()).collect();
    let queue = Mutex::new(Queue {
        waiting: planned.iter().collect(),
        busy: Vec::new(),
        missing: releases.iter().map(|r| ((*r).to_owned(), missing(r))).collect(),
        attempts: Vec::new(),
        alone: context.root.lookup(SIGNING_KEY).is_absent(),
    });
    let (ready, cache, turn) = (Condvar::new(), Mutex::new(cache), Mutex::new(()));
    let settling = |release: &str| Settling {
        context,
        cache: &cache,
        system,
        release: release.to_owned(),
        turn: &turn,
        observer,
    };
    let work = || {
        while let Some(p) = next(&queue, &ready) {
            let missing = held(&queue).missing.get(&p.release).cloned().unwrap_or_default();
            let watch = context.clock.stopwatch();
            observer(Event::Begun(p));
            let mut attempt = one(context, &cache, system, p, &missing, share.make_jobs, observer);
            // What waits for it is built upon what dkms knows and modprobe finds.
            if attempt.replaced.is_some() && held(&queue).is_awaited(p) {
                settling(&p.release).settle(std::slice::from_mut(&mut attempt), false);
            }
            attempt.took = watch.elapsed();
            tell(context, &attempt);
            observer(Event::Done(&attempt));
            // Not in the condition below: the lock would be held for its whole body.
            let finished = held(&queue).done(p, attempt);
            if let Some(mut attempts) = finished {
                // The others build on; what they add to is not of this kernel.
                settling(&p.release).settle(&mut attempts, true);
                held(&queue).attempts.extend(attempts);
            }
            ready.notify_all();
        }
    };
    in_threads(share.jobs, &work);
    // A worker that has panicked leaves its module undone; the other attempts are still reported.
    let Queue { mut attempts, waiting, .. } = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    if interrupt::asked() {
        // What is in its place is completed: it takes a second.
        let begun: BTreeSet<String> =
            attempts.iter().filter(|a| a.replaced.is_some()).map(|a| a.release.clone()).collect();
        begun.iter().for_each(|release| settling(release).settle(&mut attempts, true));
        attempts.extend(waiting.into_iter().map(Attempt::stopped));
    }
    tell_drift(&attempts);
    attempts
}

/// Does the work in so many threads, at a low priority.
fn in_threads(jobs: usize, work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        let polite = || {
            work_politely();
            work();
        };
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, polite).map(drop);
        let started: Vec<_> = (0..jobs).map(start).collect();
        // Where no thread can be started (RLIMIT_NPROC), the work is done in this one.
        if let Some(Err(e)) = started.iter().find(|started| started.is_err()) {
            tracing::debug!("not all threads for building could be started: {e}");
        }
        if !started.iter().any(Result::is_ok) {
            work();
        }
    });
}

/// Has logind refuse a shutdown while modules are built; a user can override that. It ends when the value is
/// dropped.
fn hold_off_shutdown(context: &Context, planned: &[Planned]) -> Option<ChildGuard> {
    if !context.root.is_live() || !planned.iter().any(|p| p.steps.contains(&PlanStep::Build)) {
        return None;
    }
    let child = context.tools.child("systemd-inhibit", INDEX_DEADLINE).ok()?.args([
        "--what=shutdown",
        "--mode=block",
        "--who=clr-dkms",
        "--why=DKMS modules are being built",
        "cat",
    ]);
    // Without logind there is nothing to ask; an interrupted build is resumed after the boot.
    child.beside().map_err(|e| tracing::debug!("a shutdown is not held off: {e}")).ok()
}

/// dkms makes this key when it first signs a module, without a lock: two at once would each sign with one of
/// their own.
const SIGNING_KEY: &str = "/var/lib/dkms/mok.key";

/// Leaves word that a kernel has no new index.
fn unindexed(attempts: &mut [Attempt], release: &str, why: String) {
    if let Some(attempt) = attempts.iter_mut().find(|a| a.release == release) {
        attempt.index_error = Some(why);
    }
}

/// The names of the modules of a kernel that are not there: nothing can be built upon them. What only
/// `modules.dep` does not list is there.
fn not_ready(system: &System, release: &str) -> BTreeSet<String> {
    let is_there = |p: &ModuleOnKernel| match &p.proof {
        Ok(_) => true,
        Err(flaws) => p.stage == Stage::Installed && plan::is_unlisted_only(flaws),
    };
    let states: BTreeMap<&str, bool> =
        system.of_kernel(release).map(|p| (p.module.name.as_str(), is_there(p))).collect();
    let named = system.of_kernel(release).filter_map(|p| p.conf.as_ref().ok()).flat_map(|c| c.depends.iter());
    named.filter(|name| states.get(name.as_str()) != Some(&true)).cloned().collect()
}
