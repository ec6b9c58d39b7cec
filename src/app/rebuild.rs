//! `clr-dkms rebuild`: the same work as after an update, by hand, for chosen modules and kernels.

use std::collections::BTreeSet;

use clap::Args;

use super::engine::{self, Attempt, Order};
use super::post_update::{self, Done};
use super::{Common, LOCK, answer, exit, is_ours, need_root};
use crate::dkms::plan::State;
use crate::dkms::{Cache, ModuleName};
use crate::facts::Facts;
use crate::kernel::Inventory;
use crate::render::shown;
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
    #[arg(long, short = 'n')]
    dry_run: bool,
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
        let lines =
            if lines.is_empty() || !left_alone.is_empty() { lines + &told(&[], &left_alone) } else { lines };
        answer(&lines, common.color)?;
        return Ok(exit::OK);
    }
    need_root(world, "clr-dkms rebuild")?;
    interrupt::watch()?;
    let _lock = Lock::take(&world.root, LOCK, world.settings.lock_wait, is_ours)?;
    let Done { code, attempts, left_alone } = post_update::work(world, Vec::new(), &order)?;
    if code != exit::UNKNOWN || !attempts.is_empty() {
        answer(&told(&attempts, &left_alone), common.color)?;
    }
    let failed = attempts.iter().any(|a| a.failure.is_some() || a.index_error.is_some())
        || left_alone.iter().any(|(.., state, _)| !state.is_fine());
    // What else is wrong with this system is told by `status`, and is no failure of what was asked for here.
    Ok(match (failed, code) {
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

fn told(attempts: &[Attempt], left_alone: &[(ModuleName, String, State, String)]) -> String {
    if attempts.is_empty() && left_alone.is_empty() {
        return "nothing to do\n".to_owned();
    }
    let line = |attempt: &Attempt| {
        let (module, release) = (&attempt.module, &attempt.release);
        let outcome = match &attempt.failure {
            None => {
                match attempts.iter().filter(|a| a.release == *release).find_map(|a| a.index_error.as_ref()) {
                    None => "ok".to_owned(),
                    Some(error) => format!("{}: {error}", State::NotInModulesDep),
                }
            }
            Some((state, reason)) => format!("{state}: {reason}"),
        };
        shown(&format!("{module} on {release}: {outcome}")) + "\n"
    };
    let kept = left_alone.iter().map(|(module, release, state, why)| {
        shown(&format!("{module} on {release}: left alone ({state}): {why}")) + "\n"
    });
    attempts.iter().map(line).chain(kept).collect()
}
