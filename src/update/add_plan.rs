//! What a run will do with a source once it is registered, on each kernel.

use std::collections::BTreeMap;

use super::adopt::Prepared;
use super::engine::LeftAlone;
use super::registration::{Before, order};
use crate::context::Context;
use crate::dkms::conf::{self, DkmsRules};
use crate::dkms::plan::State;
use crate::dkms::{Cache, Decision, Flaw, ModuleOnKernel, Source, Stage, Tree, conflict, toolchain};
use crate::exit;
use crate::kernel::{Installed, Inventory};
use crate::report::add::{AddDocument, StepResult};
use crate::sys::FileError;
use crate::system::pairs_of;

/// Adds what a run would do: the registration, and the installation on each kernel. Returns the exit code.
pub fn plan(context: &Context, prepared: &Prepared, before: &Before, document: &mut AddDocument) -> u8 {
    let (module, steps) = (&prepared.module, &mut document.steps);
    steps.push(before.step(context, module, StepResult::Planned));
    let decisions = match foresee(context, prepared, before) {
        Ok(decisions) => decisions,
        Err(e) => {
            steps.add("install", StepResult::Failed, e.to_string());
            return exit::UNKNOWN;
        }
    };
    let is_left = |(_, decision): &(String, Decision)| matches!(decision, Decision::Leave { .. });
    let is_nowhere = !decisions.is_empty() && decisions.iter().all(is_left);
    for (release, decision) in decisions {
        let (result, text) = match decision {
            Decision::Work { .. } => (StepResult::Planned, format!("on {release}")),
            Decision::Proven => (StepResult::Skipped, format!("{release}: it is installed already")),
            Decision::Leave { state, why } => {
                let left = LeftAlone { module: module.clone(), release, state, why };
                match before.failure(&left) {
                    Some(why) => (StepResult::Failed, why),
                    None => (StepResult::Skipped, format!("{}: {}", left.release, left.why)),
                }
            }
        };
        steps.add("install", result, text);
    }
    if is_nowhere && !steps.has_failed() {
        let text = format!("{module} would be registered, and installed on none of these kernels");
        steps.add("install", StepResult::Warning, text);
    }
    if is_nowhere || steps.has_failed() { exit::ATTENTION } else { exit::OK }
}

/// Why another module keeps this one from a kernel: the registration would be taken back.
///
/// # Errors
/// When the source cannot be found again.
pub fn conflicts(context: &Context, prepared: &Prepared, before: &Before) -> Result<Vec<String>, FileError> {
    let conflicts =
        foresee(context, prepared, before)?.into_iter().filter_map(|(release, decision)| match decision {
            Decision::Leave { state: State::Conflict, why } => Some(format!("{release}: {why}")),
            _ => None,
        });
    Ok(conflicts.collect())
}

/// The decision about the module on each kernel that is to have it.
///
/// # Errors
/// When the source cannot be found again.
fn foresee(
    context: &Context,
    prepared: &Prepared,
    before: &Before,
) -> Result<Vec<(String, Decision)>, FileError> {
    let (root, module) = (&context.root, &prepared.module);
    let (tree, inventory, mut cache) = (Tree::observe(root), Inventory::observe(root), Cache::load(root));
    let order = order(context, prepared, before);
    let kernels = if order.kernels.is_empty() { &prepared.releases } else { &order.kernels };
    let rules = conf::version::rules(&context.tools, &mut cache);
    let mut decisions = Vec::new();
    for kernel in kernels.iter().filter_map(|release| inventory.of_release(release)) {
        let mut pairs = pairs_of(context, &mut cache, &tree, kernel);
        if !before.is_kept() {
            pairs.retain(|pair| pair.module.name != module.name);
            pairs.push(registered(context, prepared, kernel, rules)?);
            pairs.sort_by(|one, other| one.module.name.cmp(&other.module.name));
            // What it replaces is in the way of no module.
            let is_replaced = |pair: &&mut ModuleOnKernel| {
                pair.conflict.as_ref().is_some_and(|rival| rival.module.name == module.name)
            };
            pairs.iter_mut().filter(is_replaced).for_each(|pair| pair.conflict = None);
            conflict::find(&mut pairs);
        }
        let pair = pairs.iter().find(|pair| pair.module == *module);
        decisions.extend(pair.map(|pair| (kernel.name.release(), order.decide(pair))));
    }
    Ok(decisions)
}

/// The module on a kernel as if it were registered, and nothing of it built.
fn registered(
    context: &Context,
    prepared: &Prepared,
    kernel: &Installed,
    rules: DkmsRules,
) -> Result<ModuleOnKernel, FileError> {
    let Context { root, tools, .. } = context;
    let (module, release) = (&prepared.module, kernel.name.release());
    let real = prepared.scratch.root().real_path(&prepared.source)?;
    // The scratch directory is below the root.
    let path = root.inside(&real).unwrap_or(real);
    let conf = conf::files(root, &path, Some(module), &release)
        .and_then(|files| conf::traced(root, tools, &files, Some(module), &release))
        .map(|(conf, _)| conf.under(rules));
    let has = |name: &str| tools.find(name).is_ok();
    Ok(ModuleOnKernel {
        module: module.clone(),
        source: Source::Directory { path, portable: true },
        stage: Stage::Added,
        conf,
        proof: Err(vec![Flaw::NotInstalled]),
        built_files_good: false,
        in_the_way: Vec::new(),
        headers: kernel.headers.clone(),
        conflict: None,
        programs_missing: toolchain::missing(&toolchain::config(root, &release), has),
        beneath: BTreeMap::new(),
        source_changed: false,
        release,
    })
}
