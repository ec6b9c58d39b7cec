//! One planned module: its steps, its state on disk afterwards, and its report.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;

use super::{Event, Observer, Planned, STOPPED};
use crate::context::Context;
use crate::dkms::build::{self, BuildRefusal, Failure, Job, StepFailure, StepsDone};
use crate::dkms::cause::lack_of;
use crate::dkms::first_error::FirstError;
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::plan::State;
use crate::dkms::proof::{InstalledSet, ProofStanding, in_words, prove_built, prove_installed};
use crate::dkms::replace::Replacement;
use crate::dkms::source_change::{SourceFiles, sums_of_build};
use crate::dkms::tree::TREE;
use crate::dkms::{Cache, Decision, Flaw, ModuleName, ModuleOnKernel, PlanStep, Signature, Tree, log, plan};
use crate::enforcement::LoadOutcome;
use crate::kernel::inventory::MODULES;
use crate::message;
use crate::sys::Shortage;
use crate::system::{System, pairs_of};
use crate::update::run_mark::RunMark;

/// A filesystem with less free space than this, in bytes, counts as full.
const ROOM: u64 = 256 << 10;

/// The result of one planned module.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub module: ModuleName,
    pub release: String,
    /// How it failed: the state and the reason.
    pub failure: Option<(State, String)>,
    /// The first error in its log.
    pub error: Option<FirstError>,
    /// The path of its log inside the root, if dkms was run.
    pub log: Option<String>,
    /// The fingerprint of the inputs, if the failure follows from them.
    pub inputs: Option<String>,
    /// The fingerprint of the source that it was built from.
    pub source: Option<String>,
    /// The unexpected state before the attempt that had to be repaired, as a phrase.
    pub drift: Option<String>,
    /// Whether the module directory of the kernel may have changed.
    pub(super) touched: bool,
    /// The error of the kernel's `depmod`.
    pub index_error: Option<String>,
    /// A hook script of dkms.conf is not an executable file, could not be run, or failed.
    pub hook_error: Option<String>,
    /// The kind of work.
    pub did: Did,
    /// The duration.
    pub took: Duration,
    /// Its files, if they are in place but neither the index nor dkms lists them yet.
    pub(super) replaced: Option<Replaced>,
}

/// What is needed to complete the replacement of a module's files, or to roll it back.
#[derive(Debug, Clone)]
pub(super) struct Replaced {
    pub(super) replacement: Replacement,
    pub(super) planned: Planned,
    pub(super) inputs: Option<String>,
    pub(super) log: Arc<File>,
    /// It is complete, and can still be rolled back.
    pub(super) settled: bool,
}

/// The kind of work, as reports name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Did {
    /// Built and installed.
    #[strum(serialize = "build")]
    Built,
    /// Installed from a previous build.
    #[strum(serialize = "install")]
    Installed,
    /// `modules.dep` was rebuilt for it.
    #[strum(serialize = "depmod")]
    Indexed,
}

impl Did {
    /// The word in reports.
    pub fn word(self) -> &'static str {
        self.into()
    }
}

impl Attempt {
    /// An attempt before its first step.
    fn new(p: &Planned) -> Attempt {
        Attempt {
            module: p.module.clone(),
            release: p.release.clone(),
            failure: None,
            error: None,
            log: None,
            inputs: None,
            source: None,
            drift: p.drift.clone(),
            touched: false,
            index_error: None,
            hook_error: None,
            did: match p.steps.as_slice() {
                [PlanStep::Index] => Did::Indexed,
                steps if steps.contains(&PlanStep::Build) => Did::Built,
                _ => Did::Installed,
            },
            took: Duration::ZERO,
            replaced: None,
        }
    }

    /// An attempt that was not made because of a request to stop.
    pub(super) fn stopped(p: &Planned) -> Attempt {
        Attempt { failure: Some((State::NotBuilt, STOPPED.to_owned())), ..Attempt::new(p) }
    }

    /// Whether it was not completed because of a request to stop.
    pub fn is_stopped(&self) -> bool {
        matches!(&self.failure, Some((State::NotBuilt, _)))
    }
}

/// Carries out one planned module.
pub(super) fn one(
    context: &Context,
    cache: &Mutex<&mut Cache>,
    system: &System,
    p: &Planned,
    missing: &BTreeSet<String>,
    make_jobs: Option<usize>,
    (observer, mark): (&Observer<'_>, &RunMark<'_>),
) -> Attempt {
    let mut attempt = Attempt::new(p);
    if p.steps == [PlanStep::Index] {
        attempt.touched = true;
        return attempt;
    }
    attempt.failure = refusal(context, p, missing);
    if attempt.failure.is_some() {
        return attempt;
    }
    tracing::info!("{p}");
    attempt.log = Some(log::path(&p.module, &p.release));
    // Determined before the build, so that a change during the build leads to another build.
    let inputs = p.inputs(context);
    if attempt.did == Did::Built {
        attempt.source = SourceFiles::observe(&context.root, &p.source).map(|files| files.fingerprint());
    }
    // A build that replaces another one does not stay if the run is killed before its installation.
    let forced = p.steps.iter().any(|step| matches!(step, PlanStep::SetAside(_)));
    if let (Some(source), false) = (&attempt.source, forced) {
        mark.building(&p.module, &p.release, source);
    }
    let installed = installed(context, system, p);
    let log = build::new_log(&context.root, &p.module, &p.release);
    let judge = || {
        if let Some(source) = &attempt.source {
            mark.built(sums_of_build(&context.root, &p.module, &p.release, &p.conf), source);
        }
        judge(context, cache, system, p, installed.as_ref())
    };
    let begun = |step: &PlanStep| observer(Event::Step(p, step));
    let job = job(context, p, make_jobs, &begun, &judge);
    let mut done = log.as_ref().map_err(Clone::clone).and_then(|log| build::run(&job, &p.steps, log));
    // Another dkms process may have done it meanwhile. If the module was built before as well, its presence
    // after a failed build proves nothing.
    if let Err(Failure::Step(StepFailure { what, .. })) = &done
        && !forced
        && still_to_do(context, cache, system, p).is_some_and(|left| left.is_done())
    {
        tracing::info!("{} on {}: {what}, but the module is installed", p.module, p.release);
        done = Ok(StepsDone::default());
    }
    match done {
        Ok(StepsDone { replacement, hook_error }) => {
            attempt.touched = true;
            attempt.hook_error = hook_error;
            // Without a log nothing was run, and nothing replaced.
            attempt.replaced = replacement.zip(log.ok()).map(|(replacement, log)| Replaced {
                replacement,
                planned: p.clone(),
                inputs,
                log: Arc::new(log),
                settled: false,
            });
        }
        Err(Failure::Excluded) => {
            attempt.failure = Some((
                State::SkippedExclusive,
                "dkms says that its dkms.conf excludes this kernel".to_owned(),
            ));
        }
        Err(Failure::Interrupted) => {
            attempt.failure = Some((State::NotBuilt, STOPPED.to_owned()));
        }
        Err(Failure::Step(failure)) => take_failure(context, &mut attempt, inputs, failure),
    }
    attempt
}

/// Takes over the failure of a step. `inputs` is the fingerprint of the build.
fn take_failure(context: &Context, attempt: &mut Attempt, inputs: Option<String>, failure: StepFailure) {
    let StepFailure { what, error, last_lines, lasting } = failure;
    tell_log(context, attempt, error.as_deref(), &last_lines);
    let full = full_filesystem(context);
    let remark =
        full.as_ref().map(|(place, lack)| format!("; {place} {}", lack_of(*lack))).unwrap_or_default();
    attempt.inputs = inputs.filter(|_| lasting && full.is_none());
    if error.as_ref().is_some_and(|error| error.is_for_other_kernel()) {
        // The build may target the running kernel by mistake, and succeed after a reboot.
        attempt.inputs = attempt.inputs.take().map(|inputs| super::on_running(context, &inputs));
    }
    attempt.failure = Some((State::BuildFailed, what + &remark));
    attempt.error = error.map(|error| *error);
    if let Some((place, lack)) = full {
        attempt.error = Some(FirstError::of_full(attempt.error.take(), place, lack));
    }
}

/// Why a planned module fails without a build.
fn refusal(context: &Context, p: &Planned, missing: &BTreeSet<String>) -> Option<(State, String)> {
    if p.hopeless.is_some() {
        return p.hopeless.clone();
    }
    if let Some(first) = p.conf.depends.iter().find(|name| missing.contains(*name)) {
        return Some((State::DependencyFailed, format!("it depends on {first}, which is not there")));
    }
    let tools = (&context.root, &context.tools);
    if let Some(reason) = build::way_out_of_root(tools, &p.module, &p.release, &p.conf) {
        return Some((State::BuildFailed, reason));
    }
    let missing = context.tools.find("dkms").err()?;
    Some((State::DependencyFailed, missing.to_string()))
}

/// The arguments of dkms for a planned module.
pub(super) fn job<'a>(
    context: &'a Context,
    p: &'a Planned,
    make_jobs: Option<usize>,
    begun: &'a dyn Fn(&PlanStep),
    judge: &'a dyn Fn() -> Result<bool, BuildRefusal>,
) -> Job<'a> {
    Job {
        root: &context.root,
        tools: &context.tools,
        module: &p.module,
        source: &p.source,
        conf: &p.conf,
        release: &p.release,
        deadline: context.settings.build_timeout,
        make_jobs,
        begun,
        judge,
    }
}

/// Calls a function with the symbols of the kernel for a planned module.
fn with_symbols<T>(
    context: &Context,
    system: &System,
    release: &str,
    ask: impl FnOnce(&KernelSymbols<'_>) -> T,
) -> anyhow::Result<T> {
    let kernel = system.inventory.of_release(release);
    let kernel = kernel.with_context(|| format!("kernel {release} is not installed"))?;
    let scope = KernelSymbols::load(&context.root, release, &kernel.headers, context.clock.now())?;
    Ok(ask(&scope))
}

/// The installed and proven state of a module, in any version.
fn installed(context: &Context, system: &System, p: &Planned) -> Option<InstalledSet> {
    let tree = Tree::observe(&context.root);
    let version = tree.installed_version(&p.module.name, &p.release)?.to_owned();
    let module = ModuleName { name: p.module.name.clone(), version };
    // The next run does not need the facts about this version, so they are not cached.
    let mut cache = Cache::default();
    // If the kernel cannot be read, `judge` refuses the build for that reason.
    with_symbols(context, system, &p.release, |scope| prove_installed(scope, &mut cache, &module, &p.conf))
        .ok()
        .flatten()
}

/// Decides whether a build may replace what is installed. Returns whether a later step may restore the
/// previous files.
fn judge(
    context: &Context,
    cache: &Mutex<&mut Cache>,
    system: &System,
    p: &Planned,
    installed: Option<&InstalledSet>,
) -> Result<bool, BuildRefusal> {
    let refuse = |why, lasting| BuildRefusal { why, lasting };
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    let known =
        with_symbols(context, system, &p.release, |scope| prove_built(scope, &mut cache, &p.module, &p.conf));
    let (standing, signatures) = known.map_err(|error| refuse(error.to_string(), false))?;
    match (standing, installed) {
        (ProofStanding::Flawed(flaws), _) => {
            let why = in_words(&flaws);
            return Err(refuse(why, flaws.iter().any(|f| matches!(f, Flaw::Symbols { .. }))));
        }
        (ProofStanding::Unchecked(reason), Some(InstalledSet { checked: true, .. })) => {
            return Err(refuse(format!("{reason}, and the installed file works"), false));
        }
        (ProofStanding::Unchecked(_) | ProofStanding::Proven, _) => {}
    }
    // A file that the kernel refuses must not replace one that it accepts.
    let line = system.lines.iter().find(|line| line.release == p.release);
    let line = line.zip(system.verdict_of_entry(&p.release));
    let refused = |signature: &Signature| {
        line.is_some_and(|(line, verdict)| {
            matches!(line.outcome(signature, None, verdict), LoadOutcome::Refused(_))
        })
    };
    if installed.is_some_and(|set| !set.signatures.iter().any(refused)) && signatures.iter().any(refused) {
        let why = "the kernel will refuse its signature, and accepts the installed file";
        return Err(refuse(why.to_owned(), false));
    }
    Ok(installed.is_some())
}

/// Logs the reason of a failure: the first error with the lines around it, or the end of the build log.
fn tell_log(context: &Context, attempt: &Attempt, error: Option<&FirstError>, last_lines: &[String]) {
    let Attempt { module, release, log, .. } = attempt;
    let log = log.as_ref().map(|log| context.root.shown_path(log).display().to_string()).unwrap_or_default();
    match error.filter(|error| !error.context.is_empty()) {
        Some(error) => tracing::info!(
            "around the first error of {module} on {release} ({log}):\n    {}",
            error.context.join("\n    ")
        ),
        None if error.is_none() && !last_lines.is_empty() => tracing::info!(
            "the end of the log of {module} on {release} ({log}):\n  {}",
            last_lines.join("\n  ")
        ),
        None => {}
    }
}

/// The state of a module after an attempt.
pub(super) struct AttemptResult {
    steps: Vec<PlanStep>,
    /// The reason, as a phrase.
    pub(super) why: String,
    /// Another build with the same inputs would not help.
    pub(super) lasting: bool,
}

impl AttemptResult {
    /// Whether nothing is left to do, except for the index.
    pub(super) fn is_done(&self) -> bool {
        self.steps.is_empty() || self.steps == [PlanStep::Index]
    }

    /// None if the module would be left alone.
    pub(super) fn of(pair: &ModuleOnKernel) -> Option<AttemptResult> {
        let is_symbols = |flaws: &Vec<Flaw>| flaws.iter().any(|f| matches!(f, Flaw::Symbols { .. }));
        // A module that was requested by name is built even if its AUTOINSTALL does not request it.
        match plan::decide(&plan::asked_for(pair)) {
            Decision::Work { steps, why } => {
                Some(AttemptResult { steps, why, lasting: pair.proof.as_ref().is_err_and(is_symbols) })
            }
            Decision::Proven => Some(AttemptResult { steps: Vec::new(), why: String::new(), lasting: false }),
            Decision::Leave { .. } => None,
        }
    }
}

fn still_to_do(
    context: &Context,
    cache: &Mutex<&mut Cache>,
    system: &System,
    planned: &Planned,
) -> Option<AttemptResult> {
    pairs_now(context, cache, system, &planned.release)
        .iter()
        .find(|p| p.module == planned.module)
        .and_then(AttemptResult::of)
}

/// The newest version of every module on a kernel, in its present state on disk.
pub(super) fn pairs_now(
    context: &Context,
    cache: &Mutex<&mut Cache>,
    system: &System,
    release: &str,
) -> Vec<ModuleOnKernel> {
    let Some(kernel) = system.inventory.of_release(release) else {
        return Vec::new();
    };
    let tree = Tree::observe(&context.root);
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    pairs_of(context, &mut cache, &tree, kernel)
}

/// A directory that builds write to on a full filesystem. The error messages of a build on a full filesystem
/// are often lost.
fn full_filesystem(context: &Context) -> Option<(String, Shortage)> {
    [TREE, MODULES, "/tmp"].into_iter().find_map(|place| {
        // One that cannot be asked is not known to be full.
        let lack = context.root.shortage(place, ROOM).ok()??;
        Some((context.root.shown_path(place).display().to_string(), lack))
    })
}

/// A repaired module is not a failure of the update, but an unexpected change is worth a log entry.
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

/// Logs one line for each module: at a low level on success, as an error on failure.
pub(super) fn tell(context: &Context, attempt: &Attempt) {
    let (module, release) = (&attempt.module, &attempt.release);
    match (&attempt.failure, &attempt.error) {
        (None, _) => tracing::debug!("{module} on {release}: done"),
        (Some((State::SkippedExclusive, reason)), _) => tracing::info!("{module} on {release}: {reason}"),
        (Some((state, reason)), error) => {
            let error = error.as_ref().map(|e| format!("; {e}")).unwrap_or_default();
            let log =
                attempt.log.as_ref().map(|l| format!("; log: {}", context.root.shown_path(l).display()));
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
