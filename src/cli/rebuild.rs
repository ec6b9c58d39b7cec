//! `clr-dkms rebuild`: builds chosen modules for chosen kernels by hand, like after an update.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap::Args;

use super::{Common, answer, begin};
use crate::context::Context;
use crate::decide::module_state::status_of;
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::exit::{self, ExitReason};
use crate::kernel::Inventory;
use crate::report::remedies::of_module_on_kernel;
use crate::report::remedy::{AdminCommand, CommandTarget, Remedy};
use crate::report::render::rebuild::{BuildOutcome, RebuildReport, outcome, screen, seconds};
use crate::report::render::style::ScreenStyle;
use crate::report::render::{broken, shown};
use crate::state::{self, ModuleRecord, RECORD, RunRecord};
use crate::sys::interrupt;
use crate::system::System;
use crate::update::engine::{self, Attempt, Did, LeftAlone, Order};
use crate::update::parameter;
use crate::update::progress::ProgressMode;
use crate::update::sequence::{self, Done};

/// The arguments of `rebuild`.
#[derive(Debug, Args)]
pub struct RebuildArguments {
    /// Modules, as NAME or NAME/VERSION; the default is all with AUTOINSTALL
    #[arg(value_name = "MODULE")]
    modules: Vec<String>,
    /// A kernel release, a kernel id, a variant or `running`; the default is the default kernel of each
    /// variant
    #[arg(long, short, value_name = "KERNEL", conflicts_with = "all_kernels")]
    kernel: Vec<String>,
    /// Build for every installed kernel
    #[arg(long)]
    all_kernels: bool,
    /// Also rebuild modules that are proven
    #[arg(long, short)]
    force: bool,
    /// Print what would be done, and why; change nothing
    #[arg(long, short = 'n', conflicts_with = "json")]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `rebuild`.
///
/// # Errors
/// If it cannot start, or cannot write its results.
pub fn run(context: &Context, arguments: RebuildArguments, common: &Common) -> anyhow::Result<u8> {
    let order = order(context, &arguments).map_err(ExitReason::unknown)?;
    if arguments.dry_run {
        let mut cache = Cache::load(&context.root);
        let mut system = System::observe_also(context, &mut cache, &order.kernels);
        system.look_at_sources(&context.root, state::load(&context.root, RECORD).as_good());
        if let Some(why) = sequence::unreadable(context, &system).or(engine::unknown_module(&system, &order))
        {
            return Err(ExitReason::unknown(why).into());
        }
        let (text, code) = planned(context, &system, &order);
        answer(&text, common.color)?;
        return Ok(code);
    }
    let _lock = begin(context, "clr-dkms rebuild")?;
    let watch = context.clock.stopwatch();
    let show = ProgressMode::live_or(ProgressMode::Log, common.quiet);
    let done = sequence::work(context, Vec::new(), &order, show)?;
    let Done { code, attempts, left_alone, refused, .. } = &done;
    if !done.is_undetermined() {
        let system = System::observe_also(context, &mut Cache::load(&context.root), &order.kernels);
        let report = report(context, &system, &done, watch.elapsed(), &again(context, &arguments));
        super::show(context, &report, arguments.json, common, screen)?;
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

fn order(context: &Context, arguments: &RebuildArguments) -> anyhow::Result<Order> {
    // The name of a module begins with neither.
    if let Some(path) = arguments.modules.iter().find(|asked| asked.starts_with(['.', '/'])) {
        let build = AdminCommand::change("clr-dkms", &["rebuild", "NAME"]);
        let add = Remedy::from(AdminCommand::change("dkms", &["add", path]).to("register it")).then(build);
        bail!(
            "{} is a path, and rebuild takes names of modules that are registered with dkms; {}",
            shown(path),
            add.text(&CommandTarget::of_root(&context.root))
        );
    }
    let inventory = Inventory::observe(&context.root);
    if let Some(why) = super::cmdline::no_kernels(&context.root, &inventory) {
        bail!(why);
    }
    let release = |asked: &String| inventory.require(asked).map(|kernel| kernel.name.release());
    let mut kernels = arguments.kernel.iter().map(release).collect::<Result<Vec<_>, _>>()?;
    if arguments.all_kernels {
        kernels = inventory.kernels.iter().map(|k| k.name.release()).collect();
    }
    let mut once = BTreeSet::new();
    kernels.retain(|release| once.insert(release.clone()));
    let (modules, force) = (arguments.modules.clone(), arguments.force);
    Ok(Order { modules, kernels, force, by_hand: true, ..Order::default() })
}

/// The text of the plan, and the exit code.
fn planned(context: &Context, system: &System, order: &Order) -> (String, u8) {
    let planned = engine::plan(system, order);
    let mut left = engine::left_alone(system, order);
    // Modules that wait for another module may become ready when that one is built.
    left.retain(|l| l.state != State::DependencyFailed || !planned.iter().any(|p| p.release == l.release));
    let record = state::load::<RunRecord>(&context.root, RECORD).good();
    // A run would set the parameter first. If something is unreadable, it changes nothing.
    let is_set = parameter::cmdline_plan(context, system, record.as_ref())
        .is_ok_and(|(_, plan)| !plan.steps.is_empty());
    if !is_set {
        left.extend(engine::refused(system, order));
    }
    let missing = left.iter().filter(|l| !l.state.is_fine()).count();
    let mut lines: Vec<String> = planned.iter().flat_map(|p| broken(&p.to_string(), "", "    ")).collect();
    let style = ScreenStyle::here(true, context.clock.now());
    lines.extend(left.into_iter().flat_map(|l| outcome(&kept(system, l), &style)));
    match (lines.is_empty(), missing) {
        (true, _) => lines.push("nothing to do".to_owned()),
        (false, 0) => {}
        (false, _) => lines.push(format!("{} to do, {missing} cannot be done", planned.len())),
    }
    let text = lines.iter().map(|line| shown(line) + "\n").collect();
    (text, if missing > 0 { exit::ATTENTION } else { exit::OK })
}

/// The result of each module, and the summary.
fn report(context: &Context, system: &System, done: &Done, took: Duration, again: &str) -> RebuildReport {
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
        let record = ModuleRecord { error: a.error.clone(), ..status_of(&a.module, &a.release) };
        let next = next_step(system, record, state);
        BuildOutcome {
            // Interrupted modules share one next step, which is in the summary.
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
    modules.extend(done.left_alone.iter().chain(refused).map(|l| kept(system, l.clone())));
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

/// The result for a module that was left alone.
fn kept(system: &System, left: LeftAlone) -> BuildOutcome {
    BuildOutcome {
        next: next_step(system, status_of(&left.module, &left.release), left.state),
        module: left.module.to_string(),
        kernel: left.release,
        state: left.state,
        action: None,
        reason: Some(left.why),
        error: None,
        log: None,
        seconds: 0.0,
    }
}

/// The next step for a module that is not ready; none if nothing is wrong. `before` is its earlier record.
fn next_step(system: &System, before: ModuleRecord, state: State) -> Option<String> {
    let remedy = of_module_on_kernel(&ModuleRecord { state, ..before }, false, system)?;
    Some(remedy.text(&CommandTarget::of(system)))
}

/// The command that repeats the request.
fn again(context: &Context, arguments: &RebuildArguments) -> String {
    let kernels = arguments.kernel.iter().flat_map(|kernel| ["-k", kernel]);
    let flags = [(arguments.all_kernels, "--all-kernels"), (arguments.force, "--force")];
    let flags = flags.into_iter().filter_map(|(given, flag)| given.then_some(flag));
    let words = arguments.modules.iter().map(String::as_str).chain(kernels).chain(flags);
    let words: Vec<&str> = std::iter::once("rebuild").chain(words).collect();
    // With --force, completed modules would be built again.
    let purpose = if arguments.force { "begin again" } else { "continue" };
    AdminCommand::change("clr-dkms", &words).to(purpose).text(&CommandTarget::of_root(&context.root))
}
