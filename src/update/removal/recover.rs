//! Completing the change of a module that a killed run has begun.

use super::{complete, is_exchanged, unfinished};
use crate::context::Context;
use crate::dkms::register::{self, source_directory};
use crate::dkms::{Cache, ModuleName, Stage, Tree};
use crate::kernel::{Headers, Inventory};
use crate::state::added::{AddedManifest, AddedSource, tree_fingerprint};
use crate::state::change::{CHANGE, ChangeKind, ModuleChange};
use crate::state::{self, LOCK, Stored, is_ours};
use crate::sys::Lock;
use crate::sys::lock::LockError;
use crate::system::System;
use crate::update::{engine, restoring};

/// Completes what a killed run has begun, if there is anything. The inner error is that of [`recover`].
///
/// # Errors
/// When the lock cannot be taken.
pub fn recover_first(context: &Context) -> Result<Result<(), String>, LockError> {
    if context.root.lookup_link(CHANGE).is_absent() {
        return Ok(Ok(()));
    }
    // Without the lock it may be the change of a run that is active.
    let _lock = Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?;
    Ok(recover(context).map(drop))
}

/// What [`recover`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// There was nothing to do, or it could not be done.
    Nothing,
    /// The module was taken back.
    Removed(ModuleName),
}

/// Completes what a killed run has begun. Only for the holder of the lock.
///
/// # Errors
/// Why it is unknown what is to be completed. No other module may be changed then: its change would be
/// recorded in place of this one.
pub fn recover(context: &Context) -> Result<Recovered, String> {
    let root = &context.root;
    let unknown =
        |why: String| format!("{why}; the change of a module that was interrupted is not completed");
    let change = match ModuleChange::left(root) {
        Stored::Absent => return Ok(Recovered::Nothing),
        Stored::Good(change) => change,
        Stored::Unreadable(why) => return Err(unknown(why)),
        Stored::Bad(why) => {
            tracing::error!("{}", unknown(why));
            match state::set_aside(root, CHANGE) {
                Ok(aside) => tracing::error!("it is kept as {}", root.shown_path(&aside).display()),
                Err(e) => return Err(unknown(e.to_string())),
            }
            if let Err(e) = ModuleChange::end(root) {
                tracing::error!("{e}");
            }
            return Ok(Recovered::Nothing);
        }
    };
    // A module that is being installed is to be there, or not, before it is decided about.
    engine::recover(context);
    let module = change.module.clone();
    match change.change {
        ChangeKind::Replace => {
            let errors = replaced(context, &change).map_err(|e| unknown(format!("{e:#}")))?;
            report(&errors);
            return Ok(Recovered::Nothing);
        }
        ChangeKind::Restore => {
            tracing::warn!("{module} was to be replaced, which failed: restoring what was there before");
            report(&restoring::restore(context, change));
            return Ok(Recovered::Nothing);
        }
        ChangeKind::Keep => {
            report(&super::keep(context, &change));
            return Ok(Recovered::Nothing);
        }
        ChangeKind::Remove => tracing::warn!("the removal of {module} was interrupted: completing it"),
        ChangeKind::Add if is_everywhere(context, &change).map_err(unknown)? => {
            report(&super::keep(context, &ModuleChange { change: ChangeKind::Keep, ..change }));
            return Ok(Recovered::Nothing);
        }
        ChangeKind::Add => {
            tracing::warn!("clr-dkms add was interrupted before {module} was installed: taking it back");
        }
    }
    let errors = complete(context, change).errors;
    report(&errors);
    Ok(if errors.is_empty() { Recovered::Removed(module) } else { Recovered::Nothing })
}

fn report(errors: &[String]) {
    errors.iter().for_each(|error| tracing::error!("{error}"));
}

/// Completes a replacement whose new source has its final name, and forgets one that has not come so far.
fn replaced(context: &Context, change: &ModuleChange) -> anyhow::Result<Vec<String>> {
    let (root, module) = (&context.root, &change.module);
    if !is_exchanged(root, module)? {
        root.remove_tree(unfinished(module))?;
        ModuleChange::end(root)?;
        return Ok(Vec::new());
    }
    tracing::warn!("the replacement of {module} was interrupted: completing it");
    let path = source_directory(module);
    let fingerprint = tree_fingerprint(root, &path)?;
    AddedManifest::load(root)?.record_source(root, module, AddedSource { path, fingerprint })?;
    register::add(root, module)?;
    restoring::complete_replacement(context, change)
}

/// Whether each kernel that boots by default of its variant, and for which modules can be built, has it. In
/// place of another version it has to be proven there, and on the kernels that had that. The error is why
/// that is unknown.
fn is_everywhere(context: &Context, change: &ModuleChange) -> Result<bool, String> {
    let (root, module) = (&context.root, &change.module);
    let tree = Tree::observe(root);
    let inventory = Inventory::observe(root);
    let unknown = register::kernels_unknown(root, &tree, module);
    if let Some(why) = unknown.or_else(|| inventory.unreadable().map(str::to_owned)) {
        return Err(why);
    }
    let have = register::kernels_of(&tree, module);
    let mut is_some = false;
    for kernel in inventory.tips() {
        match &kernel.headers {
            Headers::Present if !have.contains(&kernel.name.release()) => return Ok(false),
            Headers::Present => is_some = true,
            Headers::Unreadable { reason } => return Err(reason.clone()),
            Headers::Absent | Headers::OtherRelease { .. } | Headers::Incomplete => {}
        }
    }
    let Some(replaced) = &change.replaced else { return Ok(is_some) };
    let kernels: Vec<String> =
        replaced.kernels.iter().filter(|release| inventory.of_release(release).is_some()).cloned().collect();
    let system = System::observe_also(context, &mut Cache::load(root), &kernels);
    let is_proven = |release: &String| {
        let pair = system.module_on_kernel(module, release);
        pair.is_some_and(|pair| pair.stage == Stage::Installed && pair.proof.is_ok())
    };
    let tips = inventory.tips().into_iter().filter(|kernel| kernel.headers == Headers::Present);
    let mut tips = tips.map(|kernel| kernel.name.release());
    Ok(is_some && kernels.iter().all(is_proven) && tips.all(|release| is_proven(&release)))
}
