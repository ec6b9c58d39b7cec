//! `clr-dkms rebuild`: the same work as after an update, by hand, for chosen modules and kernels.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;

use super::engine::{self, Attempt, Did, Order};
use super::post_update::{self, Done};
use super::progress::Show;
use super::{Common, LOCK, answer, exit, is_ours, json, need_root};
use crate::dkms::Cache;
use crate::dkms::plan::State;
use crate::facts::Facts;
use crate::kernel::Inventory;
use crate::render::rebuild::{Outcome, Report, screen, seconds};
use crate::render::shown;
use crate::status::states::state as explained;
use crate::sys::{Lock, interrupt};
use crate::world::World;

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
pub fn run(world: &World, arguments: RebuildArguments, common: &Common) -> anyhow::Result<u8> {
    let order = match order(world, &arguments) {
        Ok(order) => order,
        Err(what) => {
            tracing::error!("{what}");
            return Ok(exit::UNKNOWN);
        }
    };
    if arguments.dry_run {
        let mut cache = Cache::load(&world.root);
        let facts = Facts::observe_also(world, &mut cache, &order.kernels);
        if let Some(unknown) = unknown_module(&facts, &order) {
            tracing::error!("{unknown}");
            return Ok(exit::UNKNOWN);
        }
        let planned = engine::plan(&facts, &order);
        let lines: String = planned.iter().map(|p| shown(&p.to_string()) + "\n").collect();
        let left_alone = engine::left_alone(&facts, &order);
        let kept = left_alone.iter().map(|(module, release, state, why)| {
            shown(&format!("{module} on {release}: left alone ({state}): {why}")) + "\n"
        });
        let lines: String = std::iter::once(lines).chain(kept).collect();
        let lines = if lines.is_empty() { "nothing to do\n".to_owned() } else { lines };
        answer(&lines, common.color)?;
        return Ok(exit::OK);
    }
    need_root(world, "clr-dkms rebuild")?;
    interrupt::watch()?;
    let _lock = Lock::take(&world.root, LOCK, world.settings.lock_wait, is_ours)?;
    let watch = world.clock.stopwatch();
    let show = Show::live_or(Show::Log, common.quiet);
    let done = post_update::work(world, Vec::new(), &order, show)?;
    let Done { code, attempts, left_alone } = &done;
    if *code != exit::UNKNOWN || !attempts.is_empty() {
        let report = report(world, &done, watch.elapsed(), &again(&arguments));
        let text = if arguments.json { json(&report)? } else { screen(&report) };
        answer(&text, common.color)?;
    }
    let failed = attempts.iter().any(|a| a.failure.is_some() || a.index_error.is_some())
        || left_alone.iter().any(|(.., state, _)| !state.is_fine());
    // What else is wrong with this system is told by `status`, and is no failure of what was asked for here.
    Ok(match (failed, *code) {
        (true, _) => exit::ATTENTION,
        (false, exit::UNKNOWN) => exit::UNKNOWN,
        (false, _) if interrupt::asked() => exit::ATTENTION,
        (false, _) => exit::OK,
    })
}

fn order(world: &World, arguments: &RebuildArguments) -> Result<Order, String> {
    let inventory = Inventory::observe(&world.root);
    if let Some(why) = super::cmdline::no_kernels(&world.root, &inventory) {
        return Err(why);
    }
    let release = |asked: &String| match inventory.find(asked) {
        Some(kernel) => Ok(kernel.name.release()),
        None => Err(format!("{} is no installed kernel; `clr-dkms status` lists them", shown(asked))),
    };
    let mut kernels = arguments.kernel.iter().map(release).collect::<Result<Vec<_>, _>>()?;
    if arguments.all_kernels {
        kernels = inventory.kernels.iter().map(|k| k.name.release()).collect();
    }
    let mut once = BTreeSet::new();
    kernels.retain(|release| once.insert(release.clone()));
    Ok(Order { modules: arguments.modules.clone(), kernels, force: arguments.force, by_hand: true })
}

/// A module that was asked for and is not there, in a sentence.
pub fn unknown_module(facts: &Facts, order: &Order) -> Option<String> {
    let is_there = |asked: &&String| facts.pairs.iter().any(|pair| order.names(asked, &pair.module));
    let missing = order.modules.iter().find(|asked| !is_there(asked))?;
    let names: Vec<String> = facts.tree.modules.iter().map(|m| m.module.to_string()).collect();
    let known = if names.is_empty() { "no module is registered".to_owned() } else { names.join(", ") };
    Some(format!(
        "{} is no module of the DKMS tree, or not its newest version; there are: {known}",
        shown(missing)
    ))
}

/// What became of each module, and the sum.
fn report(world: &World, done: &Done, took: Duration, again: &str) -> Report {
    let unindexed = |a: &Attempt| {
        let errors = done.attempts.iter().filter(|other| other.release == a.release);
        errors.filter_map(|other| other.index_error.clone()).next()
    };
    let tried = done.attempts.iter().map(|a| {
        let unindexed = unindexed(a).filter(|_| a.failure.is_none());
        let cut_short = a.is_stopped() || (interrupt::asked() && unindexed.is_some());
        let failure = a.failure.clone().or_else(|| Some((State::NotInModulesDep, unindexed?)));
        let (state, reason) = failure.map_or((State::Ok, None), |(state, reason)| (state, Some(reason)));
        let (module, kernel) = (a.module.to_string(), a.release.clone());
        let next = next_step(&module, &kernel, state, a.log.is_some());
        Outcome {
            // What was cut short has one next step, in the sum.
            next: next.filter(|_| !cut_short),
            state,
            reason,
            action: (!cut_short).then(|| a.did.word()),
            error: a.error.clone(),
            log: a.log.as_ref().map(|log| world.root.spell(log).display().to_string()),
            seconds: seconds(a.took),
            module,
            kernel,
        }
    });
    let kept = done.left_alone.iter().map(|(module, release, state, why)| Outcome {
        module: module.to_string(),
        kernel: release.clone(),
        state: *state,
        action: None,
        reason: Some(why.clone()),
        error: None,
        log: None,
        seconds: 0.0,
        next: next_step(&module.to_string(), release, *state, false),
    });
    let mut modules: Vec<Outcome> = tried.collect();
    let undone = modules.iter().filter(|m| m.action.is_none()).count();
    modules.extend(kept);
    let count = |which: &dyn Fn(&Outcome) -> bool| modules.iter().filter(|m| which(m)).count();
    Report {
        schema: 1,
        built: count(&|m| m.state == State::Ok && m.action == Some(Did::Built.word())),
        put_right: count(&|m| m.state == State::Ok && m.action != Some(Did::Built.word())),
        failed: count(&|m| m.action.is_some() && m.state != State::Ok),
        left_alone: done.left_alone.len(),
        stopped: interrupt::asked().then_some(undone),
        seconds: seconds(took),
        next: interrupt::asked().then(|| again.to_owned()),
        modules,
    }
}

/// What to do about a module that is not there; nothing about one that is as it should be.
fn next_step(module: &str, kernel: &str, state: State, has_log: bool) -> Option<String> {
    match state {
        State::BuildFailed if has_log => Some(format!(
            "`clr-dkms logs {module} -k {kernel}`; then mend it, and `clr-dkms rebuild {module} -k {kernel}`"
        )),
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
