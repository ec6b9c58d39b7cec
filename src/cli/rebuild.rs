//! `clr-dkms rebuild`: the same work as after an update, by hand, for chosen modules and kernels.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::{Common, answer, need_root};
use crate::context::Context;
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::exit;
use crate::kernel::{Inventory, Variant};
use crate::render::json;
use crate::render::rebuild::{BuildOutcome, RebuildReport, outcome, screen, seconds};
use crate::render::{broken, shown};
use crate::state::LOCK;
use crate::state::is_ours;
use crate::state::{self, RECORD, RunRecord};
use crate::status::catalog::state as explained;
use crate::sys::{Lock, interrupt};
use crate::system::System;
use crate::update::engine::{self, Attempt, Did, LeftAlone, Order};
use crate::update::parameter;
use crate::update::progress::ProgressMode;
use crate::update::sequence::{self, Done};

/// The arguments of the verb.
#[derive(Debug, Args)]
pub struct RebuildArguments {
    /// Modules, as NAME or NAME/VERSION; without one all that ask for it
    #[arg(value_name = "MODULE")]
    modules: Vec<String>,
    /// A kernel release, a kernel id or a variant; without one the default kernel of each variant
    #[arg(long, short, value_name = "KERNEL", conflicts_with = "all_kernels")]
    kernel: Vec<String>,
    /// Every installed kernel
    #[arg(long)]
    all_kernels: bool,
    /// Also what is proven to be there
    #[arg(long, short)]
    force: bool,
    /// Say what would be done, and why; change nothing
    #[arg(long, short = 'n', conflicts_with = "json")]
    dry_run: bool,
    /// What became of it as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// When it cannot begin, or cannot write what it found.
pub fn run(context: &Context, arguments: RebuildArguments, common: &Common) -> anyhow::Result<u8> {
    let order = match order(context, &arguments) {
        Ok(order) => order,
        Err(what) => {
            tracing::error!("{what}");
            return Ok(exit::UNKNOWN);
        }
    };
    if arguments.dry_run {
        let mut cache = Cache::load(&context.root);
        let system = System::observe_also(context, &mut cache, &order.kernels);
        if let Some(why) = sequence::unreadable(context, &system).or(engine::unknown_module(&system, &order))
        {
            tracing::error!("{why}");
            return Ok(exit::UNKNOWN);
        }
        let (text, code) = planned(context, &system, &order);
        answer(&text, common.color)?;
        return Ok(code);
    }
    need_root(context, "clr-dkms rebuild")?;
    interrupt::watch()?;
    let _lock = Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?;
    let watch = context.clock.stopwatch();
    let show = ProgressMode::live_or(ProgressMode::Log, common.quiet);
    let done = sequence::work(context, Vec::new(), &order, show)?;
    let Done { code, attempts, left_alone, refused } = &done;
    if *code != exit::UNKNOWN || !attempts.is_empty() {
        let report = report(context, &done, watch.elapsed(), &again(&arguments));
        let text = if arguments.json { json(&report)? } else { screen(&report) };
        answer(&text, common.color)?;
    }
    let failed =
        attempts.iter().any(|a| a.failure.is_some() || a.index_error.is_some() || a.hook_error.is_some())
            || !refused.is_empty()
            || left_alone.iter().any(|left| !left.state.is_fine());
    // Other problems of this system are for `status` to report; they are not failures of this rebuild.
    Ok(match (failed, *code) {
        (true, _) => exit::ATTENTION,
        (false, exit::UNKNOWN) => exit::UNKNOWN,
        (false, _) if interrupt::asked() => exit::ATTENTION,
        (false, _) => exit::OK,
    })
}

fn order(context: &Context, arguments: &RebuildArguments) -> Result<Order, String> {
    let inventory = Inventory::observe(&context.root);
    if let Some(why) = super::cmdline::no_kernels(&context.root, &inventory) {
        return Err(why);
    }
    let release = |asked: &String| match inventory.require(asked) {
        Ok(kernel) => Ok(kernel.name.release()),
        Err(e) => Err(e.to_string()),
    };
    let mut kernels = arguments.kernel.iter().map(release).collect::<Result<Vec<_>, _>>()?;
    if arguments.all_kernels {
        kernels = inventory.kernels.iter().map(|k| k.name.release()).collect();
    }
    let mut once = BTreeSet::new();
    kernels.retain(|release| once.insert(release.clone()));
    Ok(Order { modules: arguments.modules.clone(), kernels, force: arguments.force, by_hand: true })
}

/// What would be done, and the exit code of it.
fn planned(context: &Context, system: &System, order: &Order) -> (String, u8) {
    let planned = engine::plan(system, order);
    let mut left = engine::left_alone(system, order);
    // What waits for another module may be there with that one.
    left.retain(|l| l.state != State::DependencyFailed || !planned.iter().any(|p| p.release == l.release));
    // A run would write the parameter first.
    let record = state::load::<RunRecord>(&context.root, RECORD).good();
    if parameter::cmdline_plan(context, system, record.as_ref()).is_ok_and(|(_, plan)| plan.steps.is_empty())
    {
        left.extend(engine::refused(system, order));
    }
    let missing = left.iter().filter(|l| !l.state.is_fine()).count();
    let mut lines: Vec<String> = planned.iter().flat_map(|p| broken(&p.to_string(), "", "    ")).collect();
    let inventory = &system.inventory;
    lines.extend(left.into_iter().flat_map(|l| outcome(&kept(inventory, l))));
    match (lines.is_empty(), missing) {
        (true, _) => lines.push("nothing to do".to_owned()),
        (false, 0) => {}
        (false, _) => lines.push(format!("{} to do, {missing} cannot be done", planned.len())),
    }
    let text = lines.iter().map(|line| shown(line) + "\n").collect();
    (text, if missing > 0 { exit::ATTENTION } else { exit::OK })
}

/// What became of each module, and the sum.
fn report(context: &Context, done: &Done, took: Duration, again: &str) -> RebuildReport {
    let inventory = Inventory::observe(&context.root);
    let unindexed = |a: &Attempt| {
        let errors = done.attempts.iter().filter(|other| other.release == a.release);
        errors.filter_map(|other| other.index_error.clone()).next()
    };
    let tried = done.attempts.iter().map(|a| {
        let unindexed = unindexed(a).filter(|_| a.failure.is_none());
        let cut_short = a.is_stopped() || (interrupt::asked() && unindexed.is_some());
        let refused = || {
            let refused = done.refused.iter().find(|r| r.is(&a.module, &a.release))?;
            Some((refused.state, refused.why.clone()))
        };
        let failure =
            a.failure.clone().or_else(|| Some((State::NotInModulesDep, unindexed?))).or_else(refused);
        let failure = failure.or_else(|| Some((State::HookFailed, a.hook_error.clone()?)));
        let (state, reason) = failure.map_or((State::Ok, None), |(state, reason)| (state, Some(reason)));
        let (module, kernel) = (a.module.to_string(), a.release.clone());
        let next = next_step(&inventory, &module, &kernel, state, a.log.is_some());
        BuildOutcome {
            // What was cut short has one next step, in the sum.
            next: next.filter(|_| !cut_short),
            state,
            reason,
            action: (!cut_short).then(|| a.did.word()),
            error: a.error.clone(),
            log: a.log.as_ref().map(|log| context.root.shown_path(log).display().to_string()),
            seconds: seconds(a.took),
            module,
            kernel,
        }
    });
    let is_tried = |r: &&LeftAlone| done.attempts.iter().any(|a| r.is(&a.module, &a.release));
    let refused = done.refused.iter().filter(|r| !is_tried(r));
    let mut modules: Vec<BuildOutcome> = tried.collect();
    let undone = modules.iter().filter(|m| m.action.is_none()).count();
    modules.extend(done.left_alone.iter().chain(refused).map(|l| kept(&inventory, l.clone())));
    let count = |which: &dyn Fn(&BuildOutcome) -> bool| modules.iter().filter(|m| which(m)).count();
    let is_left = |state: &dyn Fn(State) -> bool| done.left_alone.iter().filter(|l| state(l.state)).count();
    RebuildReport {
        schema: 1,
        built: count(&|m| m.state.is_proven() && m.action == Some(Did::Built.word())),
        put_right: count(&|m| {
            m.state.is_proven() && m.action.is_some_and(|action| action != Did::Built.word())
        }),
        failed: count(&|m| m.action.is_some() && !m.state.is_proven()),
        left_alone: done.left_alone.len(),
        cannot: is_left(&|state| !state.is_fine()),
        refused: count(&|m| m.state == State::SignatureRefused),
        stopped: interrupt::asked().then_some(undone),
        seconds: seconds(took),
        next: interrupt::asked().then(|| again.to_owned()),
        modules,
    }
}

/// What nothing was done about.
fn kept(inventory: &Inventory, left: LeftAlone) -> BuildOutcome {
    let module = left.module.to_string();
    BuildOutcome {
        next: next_step(inventory, &module, &left.release, left.state, false),
        module,
        kernel: left.release,
        state: left.state,
        action: None,
        reason: Some(left.why),
        error: None,
        log: None,
        seconds: 0.0,
    }
}

/// What to do about a module that is not there; nothing about one that is as it should be.
fn next_step(
    inventory: &Inventory,
    module: &str,
    kernel: &str,
    state: State,
    has_log: bool,
) -> Option<String> {
    let again = format!("`clr-dkms rebuild {module} -k {kernel}`");
    let variant = || inventory.find(kernel).map(|k| Variant::of(&k.name.variant));
    match state {
        State::BuildFailed if has_log => {
            Some(format!("`clr-dkms logs {module} -k {kernel}`; then fix it, and {again}"))
        }
        State::BuildFailed => Some(format!("fix it, then {again}")),
        State::DependencyFailed => Some(format!("bring what it needs, then {again}")),
        State::HeadersMissing => Some(match variant().and_then(|v| v.dkms_bundle()) {
            Some(bundle) => format!("`sudo swupd bundle-add {bundle}` brings them"),
            None => format!("install the headers of kernel {kernel}"),
        }),
        state if state.is_fine() => None,
        // Which of the two is not wanted is not known here.
        State::Conflict => explained(state).next.map(str::to_owned),
        state => explained(state).next.map(|next| next.replace("MODULE", module)),
    }
}

/// How the same is asked for again.
fn again(arguments: &RebuildArguments) -> String {
    let kernels = arguments.kernel.iter().flat_map(|kernel| ["-k", kernel]);
    let flags = [(arguments.all_kernels, "--all-kernels"), (arguments.force, "--force")];
    let flags = flags.into_iter().filter_map(|(given, flag)| given.then_some(flag));
    let words = arguments.modules.iter().map(String::as_str).chain(kernels).chain(flags);
    let command = ["clr-dkms", "rebuild"].into_iter().chain(words).collect::<Vec<_>>().join(" ");
    // By force, what was done is done again.
    let how = if arguments.force { "begins again" } else { "goes on where it was" };
    format!("`{command}` {how}")
}
