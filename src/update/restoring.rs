//! The way back of a module that was to replace another version or another source, and could not be
//! installed. The change is recorded before, so that the next run completes it.

use std::collections::BTreeSet;

use anyhow::bail;

use super::engine::Order;
use super::progress::ProgressMode;
use super::removal;
use super::sequence::{self, Done};
use crate::context::Context;
use crate::dkms::plan::State;
use crate::dkms::tree::SOURCES;
use crate::dkms::{Cache, ModuleName};
use crate::kernel::Inventory;
use crate::state::Stored;
use crate::state::added::AddedManifest;
use crate::state::change::{ChangeKind, ModuleChange, ReplacedModule};
use crate::sys::interrupt;
use crate::system::System;

/// What a source replaced gets its name back, and is built and installed again. The errors are returned as
/// text.
pub fn undo_replacement(context: &Context, module: &ModuleName) -> Vec<String> {
    let root = &context.root;
    let change = match ModuleChange::left(root) {
        Stored::Good(change) if change.module == *module => change,
        // Then nothing was replaced.
        Stored::Good(_) | Stored::Absent => return Vec::new(),
        Stored::Bad(why) | Stored::Unreadable(why) => return vec![why],
    };
    let is_exchanged = match removal::is_exchanged(root, module) {
        Ok(is_exchanged) => is_exchanged,
        Err(e) => return vec![e.to_string()],
    };
    if is_exchanged {
        return restore(context, ModuleChange { change: ChangeKind::Restore, ..change });
    }
    let ended = root.remove_tree(removal::unfinished(module)).map(drop);
    let ended = ended.and_then(|()| ModuleChange::end(root));
    ended.err().into_iter().map(|e| e.to_string()).collect()
}

/// Installs again what was replaced. The errors are returned as text.
pub fn restore(context: &Context, change: ModuleChange) -> Vec<String> {
    let root = &context.root;
    let written = change.write(root).map_err(anyhow::Error::from);
    let done = written.and_then(|()| restored(context, &change));
    match done.and_then(|errors| Ok(ModuleChange::end(root).map(|()| errors)?)) {
        Ok(errors) => errors,
        Err(e) => vec![format!("{e:#}; the next run of clr-dkms completes it")],
    }
}

fn restored(context: &Context, change: &ModuleChange) -> anyhow::Result<Vec<String>> {
    let Some(replaced) = &change.replaced else { return Ok(Vec::new()) };
    let own = change.fingerprint.is_some();
    if own {
        exchange_back(context, &change.module, replaced)?;
    }
    // Of several versions a run installs the newest one.
    let system = System::observe(context, &mut Cache::load(&context.root));
    let is_newest = |module: &&ModuleName| system.modules_on_kernels.iter().any(|p| p.module == **module);
    let modules = replaced.others.iter().chain(own.then_some(&change.module));
    let (modules, older): (Vec<&ModuleName>, Vec<&ModuleName>) = modules.partition(is_newest);
    let kernels: Vec<String> = installed(context, &replaced.kernels).into_iter().collect();
    if kernels.is_empty() || (modules.is_empty() && older.is_empty()) {
        return Ok(Vec::new());
    }
    if modules.is_empty() {
        bail!("nothing is known of the modules that were installed");
    }
    let modules = modules.into_iter().map(ToString::to_string).collect();
    // A file that was built from the other source has the same name and version.
    let order = Order { modules, kernels, force: own, by_hand: true, is_part: true, ..Order::default() };
    let done = sequence::work(context, Vec::new(), &order, ProgressMode::Nothing)?;
    if done.is_undetermined() {
        bail!("it cannot be determined what is to be installed");
    }
    not_installed(&done, &BTreeSet::new())
}

/// What a run was to install and has not installed, as text. A module whose proof is incomplete is installed.
/// These kernels need it, even if its `dkms.conf` excludes them.
///
/// # Errors
/// If it was stopped: another run is needed.
fn not_installed(done: &Done, kernels: &BTreeSet<String>) -> anyhow::Result<Vec<String>> {
    if interrupt::asked() {
        bail!("the run was asked to stop");
    }
    let mut errors: Vec<String> = Vec::new();
    if done.is_undetermined() {
        errors.push("it cannot be determined what is to be installed".to_owned());
    }
    errors.extend(done.attempts.iter().filter_map(|attempt| {
        let (_, why) = attempt.failure.as_ref()?;
        Some(format!("{} is not installed on {}: {why}", attempt.module, attempt.release))
    }));
    let left = done.left_alone.iter().filter(|left| !left.state.is_fine() || kernels.contains(&left.release));
    let left = left.chain(done.unproven.iter().filter(|left| left.state != State::Unknown));
    errors.extend(
        left.map(|left| format!("{} is not installed on {}: {}", left.module, left.release, left.why)),
    );
    Ok(errors)
}

/// Gives the source that was replaced its name back.
fn exchange_back(context: &Context, module: &ModuleName, replaced: &ReplacedModule) -> anyhow::Result<()> {
    let root = &context.root;
    if removal::is_exchanged(root, module)? {
        root.exchange(removal::unfinished(module), &format!("{}-{}", module.name, module.version))?;
        root.sync_directory(SOURCES)?;
    }
    let mut manifest = AddedManifest::load(root)?;
    match &replaced.recorded {
        Some(source) => manifest.record_source(root, module, source.clone())?,
        None => manifest.forget_source(root, module)?,
    }
    root.remove_tree(removal::unfinished(module))?;
    Ok(())
}

/// Builds and installs a module with its new source, whose installation was interrupted. If that fails, the
/// old source comes back. The errors are returned as text.
pub(super) fn complete_replacement(context: &Context, change: &ModuleChange) -> anyhow::Result<Vec<String>> {
    let root = &context.root;
    let of_record = BTreeSet::new();
    let kernels = change.replaced.as_ref().map_or(&of_record, |replaced| &replaced.kernels);
    let order = Order {
        modules: vec![change.module.to_string()],
        kernels: kernels_to_have_it(context, kernels),
        // A file that was built from the old source has the same name and version.
        force: true,
        by_hand: true,
        is_part: true,
        ..Order::default()
    };
    let done = sequence::work(context, Vec::new(), &order, ProgressMode::Nothing)?;
    let failed = not_installed(&done, kernels)?;
    if failed.is_empty() {
        root.remove_tree(removal::unfinished(&change.module))?;
        ModuleChange::end(root)?;
        return Ok(Vec::new());
    }
    let change = ModuleChange { change: ChangeKind::Restore, ..change.clone() };
    Ok(failed.into_iter().chain(restore(context, change)).collect())
}

/// The kernels that a module is installed on in place of something: those that have that, so that it can be
/// removed, and those that boot by default of their variant. None means only the latter.
pub(super) fn kernels_to_have_it(context: &Context, had: &BTreeSet<String>) -> Vec<String> {
    let mut kernels = installed(context, had);
    if !kernels.is_empty() {
        let inventory = Inventory::observe(&context.root);
        kernels.extend(inventory.tips().into_iter().map(|kernel| kernel.name.release()));
    }
    kernels.into_iter().collect()
}

/// The kernels of these that are still installed.
fn installed(context: &Context, kernels: &BTreeSet<String>) -> BTreeSet<String> {
    let inventory = Inventory::observe(&context.root);
    kernels.iter().filter(|release| inventory.of_release(release).is_some()).cloned().collect()
}
