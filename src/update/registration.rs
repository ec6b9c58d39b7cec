//! Registering an adopted source, and building and installing it as after an update; and the way back.

use std::path::Path;

use super::adopt::Prepared;
use super::engine::{LeftAlone, Order};
use super::progress::ProgressMode;
use super::removal;
use super::sequence::{self, Done};
use crate::adopt::owner::owner;
use crate::context::Context;
use crate::decide::module_state::module_status;
use crate::dkms::plan::State;
use crate::dkms::register::{self, source_directory};
use crate::dkms::tree::SOURCES;
use crate::dkms::{Cache, ModuleName, Tree, compare_versions};
use crate::kernel::Inventory;
use crate::state::added::{AddedManifest, AddedSource, ManifestError, tree_fingerprint};
use crate::state::change::{ChangeKind, ModuleChange};
use crate::sys::{FileError, FileKind, Presence, Root};
use crate::system::System;

/// Why a source cannot be registered beside what is there.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Another source has its name and version.
    #[error(
        "{0} is there already, with other contents: --replace puts this one in its place, once it is proven"
    )]
    Taken(String),
    /// A package installed the directory.
    #[error(
        "{0} belongs to the package {1}, which would overwrite it: give this one another version (--version)"
    )]
    Owned(String, String),
    /// The registration has no source that could be compared.
    #[error("{0} is registered, and its source is not in /usr/src: remove it first (clr-dkms remove)")]
    NoSource(ModuleName),
    /// Other versions are registered.
    #[error("{0} is registered; --replace puts this one in its place")]
    OtherVersion(ModuleName),
    /// A newer version is registered, which dkms would go on building.
    #[error("{0} is registered, which is newer: remove it first")]
    Newer(ModuleName),
    /// Something cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
    /// The manifest cannot be used or written.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// Something cannot be determined.
    #[error("{0}")]
    Unknown(String),
}

/// What was there before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Before {
    /// The same source, registered under the same name and version.
    pub is_registered: bool,
    /// The same source, in its directory.
    pub has_source: bool,
    /// Another source, which this one is to replace, is in its directory.
    pub replaces_source: bool,
    /// What `clr-dkms add` recorded of it.
    pub recorded: Option<AddedSource>,
    /// Other versions.
    pub others: Vec<ModuleName>,
    /// The kernels that have one of them.
    pub kernels: Vec<String>,
}

/// Compares a source with what is there.
///
/// # Errors
/// When it cannot be registered.
pub fn compare(context: &Context, prepared: &Prepared, replace: bool) -> Result<Before, RegisterError> {
    let (root, module) = (&context.root, &prepared.module);
    let tree = Tree::observe(root);
    if let Some(reason) = &tree.unreadable {
        return Err(RegisterError::Unknown(reason.clone()));
    }
    let directory = source_directory(module);
    let shown = || root.shown_path(&directory).display().to_string();
    let mut replaces_source = false;
    let has_source = match root.lookup_link(&directory) {
        Presence::Absent => false,
        Presence::Unreadable(e) => return Err(e.into()),
        Presence::There(stat) if stat.kind == FileKind::Directory => {
            let ours = prepared.source.display().to_string();
            if !register::is_same_source((root, &directory), (prepared.scratch.root(), &ours))? {
                if !replace {
                    return Err(RegisterError::Taken(shown()));
                }
                if let Some(package) = owner(root, &context.tools, &directory)? {
                    return Err(RegisterError::Owned(shown(), package));
                }
                replaces_source = true;
            }
            !replaces_source
        }
        Presence::There(_) => return Err(RegisterError::Taken(shown())),
    };
    let is_registered = tree.modules.iter().any(|known| known.module == *module);
    if is_registered && !has_source && !replaces_source {
        return Err(RegisterError::NoSource(module.clone()));
    }
    let others = tree.modules.iter().map(|known| &known.module);
    let others: Vec<ModuleName> =
        others.filter(|other| other.name == module.name && *other != module).cloned().collect();
    if let Some(other) = others.first().filter(|_| !replace) {
        return Err(RegisterError::OtherVersion(other.clone()));
    }
    let is_newer = |other: &&ModuleName| compare_versions(&other.version, &module.version).is_gt();
    if let Some(newer) = others.iter().find(is_newer) {
        return Err(RegisterError::Newer(newer.clone()));
    }
    let replaced = others.iter().chain(replaces_source.then_some(module));
    let kernels = replaced.flat_map(|other| register::kernels_of(&tree, other)).collect();
    let recorded = AddedManifest::load(root)?.of(module).and_then(|added| added.source.clone());
    Ok(Before { is_registered, has_source, replaces_source, recorded, others, kernels })
}

/// Copies the source to `/usr/src` and registers it. Both appear at once, complete and on disk.
///
/// # Errors
/// When something cannot be written; nothing is left then.
pub fn register(context: &Context, prepared: &Prepared, before: &Before) -> Result<(), RegisterError> {
    let (root, module) = (&context.root, &prepared.module);
    if before.is_registered && !before.replaces_source {
        return Ok(());
    }
    let keeps_source = before.has_source;
    let kind = if before.replaces_source { ChangeKind::Replace } else { ChangeKind::Add };
    let change = ModuleChange { keeps_source, ..ModuleChange::new(module, kind) };
    change.write(root)?;
    let placed = if before.has_source { Ok(()) } else { place(context, prepared, change) };
    let done = placed.and_then(|()| Ok(register::add(root, module)?));
    if done.is_err() {
        for error in take_back(context, prepared, before) {
            tracing::error!("{error}");
        }
    }
    done
}

/// Copies the source to its place. A source that it replaces gets its temporary name.
fn place(context: &Context, prepared: &Prepared, change: ModuleChange) -> Result<(), RegisterError> {
    let (root, module) = (&context.root, &prepared.module);
    let name = format!("{}-{}", module.name, module.version);
    let unfinished = removal::unfinished(module);
    // Of a run that was killed.
    root.remove_tree(&unfinished)?;
    copy(context, prepared, &prepared.source, Path::new(&unfinished))?;
    root.sync(&unfinished)?;
    if change.change == ChangeKind::Replace {
        let fingerprint = Some(tree_fingerprint(root, &unfinished)?);
        ModuleChange { fingerprint, ..change }.write(root)?;
        root.exchange(&unfinished, &name)?;
        record_source(root, module, &source_directory(module))?;
    } else {
        record_source(root, module, &unfinished)?;
        root.rename(&unfinished, &name)?;
    }
    Ok(root.sync_directory(SOURCES)?)
}

/// Records the copy of a source before it gets its name.
fn record_source(root: &Root, module: &ModuleName, unfinished: &str) -> Result<(), RegisterError> {
    let fingerprint = tree_fingerprint(root, unfinished)?;
    let source = AddedSource { path: source_directory(module), fingerprint };
    Ok(AddedManifest::load(root)?.record_source(root, module, source)?)
}

fn copy(context: &Context, prepared: &Prepared, from: &Path, to: &Path) -> Result<(), RegisterError> {
    let (root, scratch) = (&context.root, prepared.scratch.root());
    root.make_directories(to)?;
    for entry in scratch.list(from)? {
        let (from, to) = (from.join(&entry.name), to.join(&entry.name));
        match entry.kind {
            FileKind::Directory => copy(context, prepared, &from, &to)?,
            FileKind::Link => {
                root.link(&to, &scratch.read_link(&from)?)?;
            }
            FileKind::File => {
                let stat = scratch.lookup_link(&from).known()?;
                let executable = stat.is_some_and(|stat| stat.mode & 0o100 != 0);
                let mut new = root.create_new(&to, if executable { 0o755 } else { 0o644 })?;
                let mut old = scratch.open_file(&from)?;
                std::io::copy(&mut old, &mut new).map_err(|e| root.read_failed(&to, e))?;
            }
            FileKind::Other => {}
        }
    }
    Ok(())
}

/// Takes back what [`register`] did, and what was installed since. The errors are returned as text.
pub fn take_back(context: &Context, prepared: &Prepared, before: &Before) -> Vec<String> {
    let module = &prepared.module;
    if before.replaces_source
        && let Err(e) = exchange_back(context, module, before)
    {
        return vec![e.to_string()];
    }
    let mut errors = match before.is_registered {
        true => Vec::new(),
        false => removal::take_back(context, module, before.has_source || before.replaces_source).errors,
    };
    if !before.kernels.is_empty() {
        errors.extend(restore(context, module, before).err().map(|e| format!("{e:#}")));
    }
    errors.extend(ModuleChange::end(&context.root).err().map(|e| e.to_string()));
    errors
}

/// Gives the source that was replaced its name back.
fn exchange_back(context: &Context, module: &ModuleName, before: &Before) -> Result<(), RegisterError> {
    let root = &context.root;
    if removal::is_exchanged(root, module)? {
        root.exchange(removal::unfinished(module), &format!("{}-{}", module.name, module.version))?;
        root.sync_directory(SOURCES)?;
    }
    let mut manifest = AddedManifest::load(root)?;
    match &before.recorded {
        Some(source) => manifest.record_source(root, module, source.clone())?,
        None => manifest.forget_source(root, module)?,
    }
    root.remove_tree(removal::unfinished(module))?;
    Ok(())
}

/// Installs what a kernel had before. It is still built, or built again from its source.
fn restore(context: &Context, module: &ModuleName, before: &Before) -> anyhow::Result<Done> {
    let own = before.is_registered.then_some(module);
    let modules = before.others.iter().chain(own).map(ToString::to_string).collect();
    let order = Order {
        modules,
        kernels: existing(context, before),
        force: before.replaces_source,
        by_hand: true,
        is_part: true,
        ..Order::default()
    };
    sequence::work(context, Vec::new(), &order, ProgressMode::Nothing)
}

/// The kernels of these that are still installed.
fn existing(context: &Context, before: &Before) -> Vec<String> {
    let inventory = Inventory::observe(&context.root);
    let kernels = before.kernels.iter().filter(|release| inventory.of_release(release).is_some());
    kernels.cloned().collect()
}

/// Builds and installs the module as after an update, and brings the boot files up to date.
///
/// # Errors
/// When what was found cannot be written.
pub fn install(
    context: &Context,
    prepared: &Prepared,
    before: &Before,
    show: ProgressMode,
) -> anyhow::Result<Done> {
    // A kernel that has another version is to have this one before that is removed.
    let mut kernels = existing(context, before);
    if !kernels.is_empty() {
        let inventory = Inventory::observe(&context.root);
        kernels.extend(inventory.tips().into_iter().map(|kernel| kernel.name.release()));
        kernels.sort();
        kernels.dedup();
    }
    let modules = vec![prepared.module.to_string()];
    let force = before.replaces_source;
    let order = Order { modules, kernels, force, by_hand: true, is_part: true, ..Order::default() };
    sequence::work(context, Vec::new(), &order, show)
}

/// The kernels that boot by default of their variant and on which the module is not proven, with the reason. A
/// build can succeed although a module that it needs is not there.
pub fn not_proven(context: &Context, module: &ModuleName) -> Vec<LeftAlone> {
    let system = System::observe(context, &mut Cache::load(&context.root));
    let of_tips = system.modules_on_kernels.iter().filter(|pair| system.inventory.is_tip(&pair.release));
    let states = of_tips.filter(|pair| pair.module == *module).map(|pair| {
        let status = module_status(&system, pair, None);
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

/// Keeps the module, once it is proven, and removes the other versions, whose side files pass to it. The
/// errors are returned as text.
pub fn keep(context: &Context, prepared: &Prepared, before: &Before) -> Vec<String> {
    let root = &context.root;
    // What was replaced.
    let old = root.remove_tree(removal::unfinished(&prepared.module)).map(drop);
    let ended = old.and_then(|()| ModuleChange::end(root));
    let mut errors: Vec<String> = ended.err().into_iter().map(|e| e.to_string()).collect();
    for other in &before.others {
        let passed = AddedManifest::load(&context.root)
            .and_then(|mut manifest| manifest.pass_on(&context.root, other, &prepared.module));
        match passed {
            Ok(()) => errors.extend(removal::take_back(context, other, false).errors),
            Err(e) => errors.push(e.to_string()),
        }
    }
    errors
}
