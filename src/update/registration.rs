//! Registering an adopted source, and building and installing it as after an update; and the way back.

use std::path::Path;

use super::adopt::Prepared;
use super::engine::Order;
use super::progress::ProgressMode;
use super::removal::{self, UNFINISHED};
use super::sequence::{self, Done};
use crate::context::Context;
use crate::dkms::register::{self, source_directory};
use crate::dkms::tree::SOURCES;
use crate::dkms::{ModuleName, Tree, compare_versions};
use crate::kernel::Inventory;
use crate::state::added::{AddedManifest, AddedSource, ManifestError, tree_fingerprint};
use crate::state::change::{ChangeKind, ModuleChange};
use crate::sys::{FileError, FileKind, Presence, Root};

/// Why a source cannot be registered beside what is there.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// Another source has its name and version.
    #[error(
        "{0} is there already, with other contents: give this one another version (--version), or remove the \
         other one first"
    )]
    Taken(String),
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
    let has_source = match root.lookup_link(&directory) {
        Presence::Absent => false,
        Presence::Unreadable(e) => return Err(e.into()),
        Presence::There(stat) if stat.kind == FileKind::Directory => {
            let ours = prepared.source.display().to_string();
            if !register::is_same_source((root, &directory), (prepared.scratch.root(), &ours))? {
                return Err(RegisterError::Taken(shown()));
            }
            true
        }
        Presence::There(_) => return Err(RegisterError::Taken(shown())),
    };
    let is_registered = tree.modules.iter().any(|known| known.module == *module);
    if is_registered && !has_source {
        return Err(RegisterError::Taken(format!("{module} in the DKMS tree")));
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
    let installed = tree.installed.iter().filter(|((name, _), version)| {
        *name == module.name && others.iter().any(|other| other.version == **version)
    });
    let kernels = installed.map(|((_, release), _)| release.clone()).collect();
    Ok(Before { is_registered, has_source, others, kernels })
}

/// Copies the source to `/usr/src` and registers it. Both appear at once, complete and on disk.
///
/// # Errors
/// When something cannot be written; nothing is left then.
pub fn register(context: &Context, prepared: &Prepared, before: &Before) -> Result<(), RegisterError> {
    let (root, module) = (&context.root, &prepared.module);
    if before.is_registered {
        return Ok(());
    }
    let keeps_source = before.has_source;
    ModuleChange { keeps_source, ..ModuleChange::new(module, ChangeKind::Add) }.write(root)?;
    let placed = if before.has_source { Ok(()) } else { place(context, prepared) };
    let done = placed.and_then(|()| Ok(register::add(root, module)?));
    if done.is_err() {
        for error in take_back(context, prepared, before) {
            tracing::error!("{error}");
        }
    }
    done
}

/// Copies the source to its place.
fn place(context: &Context, prepared: &Prepared) -> Result<(), RegisterError> {
    let (root, module) = (&context.root, &prepared.module);
    let name = format!("{}-{}", module.name, module.version);
    let unfinished = format!("{SOURCES}/.{name}{UNFINISHED}");
    // Of a run that was killed.
    root.remove_tree(&unfinished)?;
    copy(context, prepared, &prepared.source, Path::new(&unfinished))?;
    root.sync(&unfinished)?;
    record_source(root, module, &unfinished)?;
    root.rename(&unfinished, &name)?;
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
                let executable = scratch.lookup_link(&from).stat().is_some_and(|stat| stat.mode & 0o100 != 0);
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
    match before.is_registered {
        true => Vec::new(),
        false => removal::take_back(context, &prepared.module, before.has_source).errors,
    }
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
    let mut kernels = before.kernels.clone();
    if !kernels.is_empty() {
        let inventory = Inventory::observe(&context.root);
        kernels.retain(|release| inventory.of_release(release).is_some());
        kernels.extend(inventory.tips().into_iter().map(|kernel| kernel.name.release()));
        kernels.sort();
        kernels.dedup();
    }
    let modules = vec![prepared.module.to_string()];
    let order = Order { modules, kernels, by_hand: true, is_part: true, ..Order::default() };
    sequence::work(context, Vec::new(), &order, show)
}

/// Keeps the module, once it is proven, and removes the other versions. Their side files pass to it. The errors are
/// returned as text.
pub fn keep(context: &Context, prepared: &Prepared, before: &Before) -> Vec<String> {
    let ended = ModuleChange::end(&context.root);
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
