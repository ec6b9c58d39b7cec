//! Builds what the plan lists, several modules at a time, and runs one `depmod` for each changed kernel.
//!
//! The kernel of the next boot comes first. A module is never built for two kernels at once: dkms has one
//! build directory for all of them, no lock, and then mixes the files of both kernels (measured).

mod attempt;
mod queue;
mod settle;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::run_mark::RunMark;
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

/// The message for what was not done.
const STOPPED: &str = "the run was asked to stop";

/// The time limit of one `depmod`, which takes about a second for 4,000 modules.
pub const INDEX_DEADLINE: Duration = Duration::from_secs(300);

/// An event of the build phase, for the progress display.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// The work on a module begins.
    Begun(&'a Planned),
    /// A step of it begins.
    Step(&'a Planned, &'a PlanStep),
    /// The work on a module ended, successfully or not.
    Done(&'a Attempt),
    /// `depmod` begins for a kernel.
    Index(&'a str),
    /// `depmod` ended for a kernel.
    Indexed(&'a str),
}

/// Called for each event at the time when it happens, from several threads.
pub type Observer<'a> = dyn Fn(Event<'_>) + Sync + 'a;

/// The steps that are planned for one module on one kernel.
#[derive(Debug, Clone)]
pub struct Planned {
    pub module: ModuleName,
    pub release: String,
    pub steps: Vec<PlanStep>,
    pub why: String,
    source: Source,
    pub(super) conf: DkmsConf,
    /// Why it fails without an attempt.
    hopeless: Option<(State, String)>,
    drift: Option<String>,
}

impl std::fmt::Display for Planned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}: {}, because {}", self.module, self.release, display(&self.steps), self.why)
    }
}

impl Planned {
    /// The fingerprint of its inputs; none if it cannot cover all of them.
    fn inputs(&self, context: &Context) -> Option<String> {
        // A module that it depends on may be rebuilt in the same run.
        let alone = self.conf.depends.is_empty();
        let look =
            || inputs::fingerprint(&context.root, &context.tools, &self.module, &self.source, &self.release);
        alone.then(look).flatten()
    }

    /// Whether the record says that the last attempt failed with the same inputs.
    pub fn would_fail_again(&self, context: &Context, record: Option<&RunRecord>) -> bool {
        let known = record.and_then(|r| r.module(&self.module, &self.release));
        let before = known.and_then(|m| m.inputs.as_ref());
        // Only a repeated build is avoided. Good files are installed nevertheless.
        let is_same = |inputs: String| {
            before.is_some_and(|before| *before == inputs || *before == on_running(context, &inputs))
        };
        self.steps.contains(&PlanStep::Build) && before.is_some() && self.inputs(context).is_some_and(is_same)
    }
}

/// The fingerprint of a build with a result that may depend on the running kernel.
fn on_running(context: &Context, inputs: &str) -> String {
    // A failed read is in `Root::unread`, and blocks every decision.
    let running = context.root.read("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{inputs} on {}", String::from_utf8_lossy(&running).trim())
}

fn display(steps: &[PlanStep]) -> String {
    steps.iter().map(PlanStep::to_string).collect::<Vec<_>>().join(", ")
}

/// Kernels in use other than the tips that need a new `modules.dep`, and nothing else.
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

/// The selection of what to build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// Modules, as NAME or NAME/VERSION. An empty list selects all modules.
    pub modules: Vec<String>,
    /// Kernel releases. An empty list selects the tips.
    pub kernels: Vec<String>,
    /// Rebuild modules that are proven, too.
    pub force: bool,
    /// A user requested it: modules that failed before are tried again.
    pub by_hand: bool,
    /// The run is a part of the change of a module: it is not to be taken for one that a killed run left.
    pub is_part: bool,
    /// What is built and not installed was put into the DKMS tree by this run: to install it is not a repair.
    pub is_import: bool,
    /// The fingerprints of the sources that such files were built from, by the SHA-256 of the file.
    pub built_from: BTreeMap<String, String>,
}

impl Order {
    /// Whether the argument `asked` names this module.
    pub fn names(&self, asked: &str, module: &ModuleName) -> bool {
        asked == module.name || asked == module.to_string()
    }

    fn wants(&self, module: &ModuleName) -> bool {
        self.modules.is_empty() || self.modules.iter().any(|asked| self.names(asked, module))
    }

    /// The decision about a module on a kernel, for this order.
    pub(super) fn decide(&self, pair: &ModuleOnKernel) -> Decision {
        match plan::decide(pair) {
            Decision::Proven if self.force => plan::forced(pair, "it was asked for"),
            Decision::Proven if self.by_hand && pair.source_changed => {
                plan::forced(pair, "its source has changed since it was built")
            }
            Decision::Work { steps, why } if self.force && !steps.contains(&PlanStep::Build) => {
                plan::forced(pair, &why)
            }
            // A module that is named explicitly is wanted even if its AUTOINSTALL does not request it.
            Decision::Leave { state: State::NotAutoinstall, .. } if !self.modules.is_empty() => {
                plan::decide(&plan::asked_for(pair))
            }
            decision => decision,
        }
    }
}

/// An error message if a requested module does not exist.
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

/// The kernels that an order selects.
fn kernels(system: &System, order: &Order) -> Vec<String> {
    let tips = system.inventory.tips().into_iter().map(|k| k.name.release());
    if order.kernels.is_empty() { tips.collect() } else { order.kernels.clone() }
}

/// A module on a kernel that nothing can be done about, with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    pub module: ModuleName,
    pub release: String,
    /// The state of the module.
    pub state: State,
    pub why: String,
}

impl std::fmt::Display for LeftAlone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}: {}", self.release, self.state, self.why)
    }
}

impl LeftAlone {
    /// Whether this is about `module` on `release`.
    pub fn is(&self, module: &ModuleName, release: &str) -> bool {
        self.module == *module && self.release == release
    }
}

fn asked<'a>(system: &'a System, order: &'a Order) -> impl Iterator<Item = &'a ModuleOnKernel> {
    let kernels = kernels(system, order);
    system.modules_on_kernels.iter().filter(move |p| kernels.contains(&p.release) && order.wants(&p.module))
}

/// The modules of an order that are left alone: those that should be installed but cannot be built, and those
/// that were named.
pub fn left_alone(system: &System, order: &Order) -> Vec<LeftAlone> {
    let left = |pair: &ModuleOnKernel| match order.decide(pair) {
        Decision::Leave { state, why } if !order.modules.is_empty() || !state.is_fine() => {
            Some(LeftAlone { module: pair.module.clone(), release: pair.release.clone(), state, why })
        }
        _ => None,
    };
    asked(system, order).filter_map(left).collect()
}

/// The modules of an order that are proven, but have a signature that the kernel will refuse.
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

/// The modules of an order that are not proven on a kernel that boots by default of its variant. A build can
/// succeed although a module that it needs is not there.
pub fn unproven(system: &System, order: &Order) -> Vec<LeftAlone> {
    let of_tips = system.modules_on_kernels.iter().filter(|pair| system.inventory.is_tip(&pair.release));
    let states = of_tips.filter(|pair| order.wants(&pair.module)).map(|pair| {
        let status = module_status(system, pair, None);
        (pair.proof.is_err() || status.state == State::Unknown, status)
    });
    let left = states.filter(|(is_flawed, m)| *is_flawed && !m.state.is_fine()).map(|(_, m)| LeftAlone {
        module: m.module,
        release: m.kernel,
        state: m.state,
        why: m.reason.unwrap_or_default(),
    });
    left.collect()
}

/// The work in its order: first the kernel of the next boot, then the running one; dependencies before the
/// modules that need them.
pub fn plan(system: &System, order: &Order) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut kernels = kernels(system, order);
    let next = presumed(system).map(|k| k.name.release());
    // A stable sort: otherwise in the order of the command line or of the versions.
    kernels.sort_by_key(|release| (next.as_ref() != Some(release), !system.inventory.runs(release)));
    for release in kernels {
        let modules_on_kernels: Vec<&ModuleOnKernel> = system.of_kernel(&release).collect();
        // A module without a usable dkms.conf is left alone, so its dependencies do not matter.
        let conf = |p: &ModuleOnKernel| p.conf.clone().unwrap_or_default();
        let named: Vec<_> =
            modules_on_kernels.iter().map(|p| (p.module.name.clone(), conf(p).depends)).collect();
        let (in_order, circle) = dkms_order::order(&named);
        for at in in_order {
            let pair = modules_on_kernels[at];
            if let (true, Decision::Work { steps, why }) = (order.wants(&pair.module), order.decide(pair)) {
                let conf = conf(pair);
                // If two modules install the same file, only one of them is built.
                let taken = planned.iter().filter(|p: &&Planned| p.release == release).find_map(|p| {
                    let file = conflict::shared(&p.conf.built, &conf.built)?;
                    Some((State::Conflict, Rival { module: p.module.clone(), file }.to_string()))
                });
                let in_circle =
                    || "BUILD_DEPENDS leads back to the module itself (a dependency cycle)".to_owned();
                let in_circle = circle.contains(&at).then(|| (State::DependencyFailed, in_circle()));
                let hopeless = in_circle.or(taken);
                planned.push(Planned {
                    module: pair.module.clone(),
                    release: release.clone(),
                    why,
                    source: pair.source.clone(),
                    conf,
                    hopeless,
                    drift: plan::drift(pair, &steps).filter(|_| !order.is_import),
                    steps,
                });
            }
        }
    }
    planned
}

/// Completes or reverts a replacement of modules that was interrupted. Called before anything is observed.
/// Returns whether there was one.
pub fn recover(context: &Context) -> bool {
    let Context { root, tools, .. } = context;
    super::adopt::remove_abandoned(context);
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
    (observer, mark): (&Observer<'_>, &RunMark<'_>),
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
            let mut attempt = one(context, &cache, system, p, &missing, share.make_jobs, (observer, mark));
            // Modules that depend on this one build against what dkms has registered and modprobe finds.
            if attempt.replaced.is_some() && held(&queue).is_awaited(p) {
                settling(&p.release).settle(std::slice::from_mut(&mut attempt), false);
            }
            attempt.took = watch.elapsed();
            tell(context, &attempt);
            observer(Event::Done(&attempt));
            // Not in the condition below: the lock would be held for its whole body.
            let finished = held(&queue).done(p, attempt);
            if let Some(mut attempts) = finished {
                // The other threads continue to build; for this kernel no work is left.
                settling(&p.release).settle(&mut attempts, true);
                held(&queue).attempts.extend(attempts);
            }
            ready.notify_all();
        }
    };
    in_threads(share.jobs, &work);
    // A worker thread that has panicked leaves its module undone; the other attempts are still reported.
    let Queue { mut attempts, waiting, .. } = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    if interrupt::asked() {
        // Files that are already in place are completed: it takes a second.
        let begun: BTreeSet<String> =
            attempts.iter().filter(|a| a.replaced.is_some()).map(|a| a.release.clone()).collect();
        begun.iter().for_each(|release| settling(release).settle(&mut attempts, true));
        attempts.extend(waiting.into_iter().map(Attempt::stopped));
    }
    // In the order of the plan, and not in that of their ends.
    let place = |a: &Attempt| planned.iter().position(|p| p.module == a.module && p.release == a.release);
    attempts.sort_by_cached_key(place);
    tell_drift(&attempts);
    attempts
}

/// Does the work in `jobs` threads, at a low priority.
fn in_threads(jobs: usize, work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        let polite = || {
            work_politely();
            work();
        };
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, polite).map(drop);
        let started: Vec<_> = (0..jobs).map(start).collect();
        // If no thread can be started (RLIMIT_NPROC), this thread does the work.
        if let Some(Err(e)) = started.iter().find(|started| started.is_err()) {
            tracing::debug!("not all threads for building could be started: {e}");
        }
        if !started.iter().any(Result::is_ok) {
            work();
        }
    });
}

/// Makes logind delay a shutdown while modules are built; a user can override that. It ends when the value is
/// dropped.
fn hold_off_shutdown(context: &Context, planned: &[Planned]) -> Option<ChildGuard> {
    if !context.root.is_live() || !planned.iter().any(|p| p.steps.contains(&PlanStep::Build)) {
        return None;
    }
    // Without the program a shutdown cannot be delayed; the next boot resumes an interrupted build.
    let child = context.tools.child("systemd-inhibit", INDEX_DEADLINE).ok()?.args([
        "--what=shutdown",
        "--mode=block",
        "--who=clr-dkms",
        "--why=DKMS modules are being built",
        "cat",
    ]);
    // Without logind a shutdown cannot be delayed; the next boot resumes an interrupted build.
    child.beside().map_err(|e| tracing::debug!("the shutdown cannot be delayed: {e}")).ok()
}

/// dkms creates this key when it first signs a module. It uses no lock: two first builds at the same time
/// would sign with different keys.
const SIGNING_KEY: &str = "/var/lib/dkms/mok.key";

/// Records in the attempts that a kernel has no new index.
fn unindexed(attempts: &mut [Attempt], release: &str, why: String) {
    if let Some(attempt) = attempts.iter_mut().find(|a| a.release == release) {
        attempt.index_error = Some(why);
    }
}

/// The names of the modules that are missing on a kernel, so that nothing can be built on top of them. A
/// module that only `modules.dep` does not list is not missing.
fn not_ready(system: &System, release: &str) -> BTreeSet<String> {
    let is_there = |p: &ModuleOnKernel| match &p.proof {
        Ok(_) => true,
        Err(flaws) => p.stage == Stage::Installed && plan::is_unlisted_only(flaws),
    };
    let states: BTreeMap<&str, bool> =
        system.of_kernel(release).map(|p| (p.module.name.as_str(), is_there(p))).collect();
    // A module without an evaluated dkms.conf is not built, and depends on nothing.
    let named = system.of_kernel(release).filter_map(|p| p.conf.as_ref().ok()).flat_map(|c| c.depends.iter());
    named.filter(|name| states.get(name.as_str()) != Some(&true)).cloned().collect()
}
