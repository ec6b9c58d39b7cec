//! Registering an adopted source, and building and installing it as after an update; and the way back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::adopt::Prepared;
use super::engine::{LeftAlone, Order};
use super::progress::ProgressMode;
use super::sequence::{self, Done};
use super::{removal, restoring};
use crate::adopt::owner::owner;
use crate::context::Context;
use crate::dkms::register::{self, source_directory};
use crate::dkms::tree::SOURCES;
use crate::dkms::{ModuleName, Tree, compare_versions};
use crate::report::add::{AddStep, StepResult, Steps};
use crate::report::remedies::of_hook;
use crate::report::remedy::CommandTarget;
use crate::state::added::{AddedManifest, AddedSource, ManifestError, tree_fingerprint};
use crate::state::change::{ChangeKind, ModuleChange, ReplacedModule};
use crate::sys::{FileError, FileKind, Presence, Root, Shortage};

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
    /// The filesystem of the sources is full.
    #[error("{error}: {}", remedy_of(.place, *.lack))]
    Full { error: FileError, place: PathBuf, lack: Shortage },
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
    pub kernels: BTreeSet<String>,
}

impl Before {
    /// The failure, if a kernel should not have been left alone. A kernel that has what is to be replaced
    /// needs the module, even if its `dkms.conf` excludes that kernel.
    pub fn failure(&self, left: &LeftAlone) -> Option<String> {
        let text = format!("{}: {}", left.release, left.why);
        match (left.state.is_fine(), self.kernels.contains(&left.release)) {
            (false, _) => Some(text),
            (true, true) => Some(format!("{text}, and what it is to replace is installed there")),
            (true, false) => None,
        }
    }

    /// The same source stays registered.
    pub fn is_kept(&self) -> bool {
        self.is_registered && !self.replaces_source
    }

    /// The step of the registration, with that result if there is something to do.
    pub fn step(&self, context: &Context, module: &ModuleName, result: StepResult) -> AddStep {
        let directory = context.root.shown_path(source_directory(module)).display().to_string();
        let (result, text) = match self.replaces_source {
            _ if self.is_kept() => (StepResult::Skipped, format!("{module} is registered already")),
            true => (result, format!("{directory}, in place of another source")),
            false => (result, directory),
        };
        AddStep { step: "register", result, text, ..AddStep::default() }
    }

    /// What is to be there again if the module cannot be installed.
    fn replaced(&self) -> Option<ReplacedModule> {
        let replaces = self.replaces_source || !self.others.is_empty();
        replaces.then(|| ReplacedModule {
            others: self.others.clone(),
            kernels: self.kernels.clone(),
            recorded: self.recorded.clone(),
        })
    }
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
    if before.is_kept() {
        return Ok(());
    }
    let (keeps_source, replaced) = (before.has_source, before.replaced());
    let kind = if before.replaces_source { ChangeKind::Replace } else { ChangeKind::Add };
    let change = ModuleChange { keeps_source, replaced, ..ModuleChange::new(module, kind) };
    change.write(root)?;
    let placed = if before.has_source { Ok(()) } else { place(context, prepared, change) };
    let done = placed.and_then(|()| Ok(register::add(root, module)?));
    let Err(error) = done else { return Ok(()) };
    // While it is full.
    let error = explained(root, error);
    for error in take_back(context, prepared, before) {
        tracing::error!("{error}");
    }
    Err(error)
}

/// Adds what a full filesystem has no more of.
fn explained(root: &Root, error: RegisterError) -> RegisterError {
    match error {
        RegisterError::File(error) if error.is_full() => match root.shortage(SOURCES, u64::MAX) {
            Ok(lack) => {
                let (place, lack) = (root.shown_path(SOURCES), lack.unwrap_or(Shortage::Space));
                RegisterError::Full { error, place, lack }
            }
            // That cannot be asked.
            Err(_) => RegisterError::File(error),
        },
        error => error,
    }
}

fn remedy_of(place: &Path, lack: Shortage) -> String {
    let place = place.display();
    match lack {
        Shortage::Space => format!("make room on the filesystem of {place}"),
        Shortage::Inodes => {
            format!("the filesystem of {place} has no free inode: delete files that are not needed there")
        }
    }
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
                // The scratch directory was read before: what fails is the writing.
                std::io::copy(&mut old, &mut new).map_err(|e| root.write_failed(&to, e))?;
            }
            FileKind::Other => {}
        }
    }
    Ok(())
}

/// Takes back what was registered and cannot be installed, unless the same source was registered before.
pub fn undo(context: &Context, prepared: &Prepared, before: &Before, steps: &mut Steps) {
    if before.is_kept() {
        return;
    }
    match take_back(context, prepared, before).as_slice() {
        [] => steps.add("undo", StepResult::Done, "nothing of it is left"),
        errors => errors.iter().for_each(|e| steps.add("undo", StepResult::Failed, e)),
    }
}

/// Takes back what [`register`] did, and what was installed since. The errors are returned as text.
fn take_back(context: &Context, prepared: &Prepared, before: &Before) -> Vec<String> {
    let module = &prepared.module;
    if before.replaces_source {
        return restoring::undo_replacement(context, module);
    }
    let replaced = before.replaced();
    match before.is_registered {
        true => restoring::restore(
            context,
            ModuleChange { replaced, ..ModuleChange::new(module, ChangeKind::Restore) },
        ),
        false => removal::take_back_added(context, module, before.has_source, replaced),
    }
}

/// Builds and installs the module as after an update, and brings the boot files up to date.
///
/// # Errors
/// When what was found cannot be written.
pub fn install(context: &Context, prepared: &Prepared, before: &Before, show: ProgressMode) -> Result<Done> {
    sequence::work(context, Vec::new(), &order(context, prepared, before), show)
}

/// What is to be built and installed.
pub(super) fn order(context: &Context, prepared: &Prepared, before: &Before) -> Order {
    let kernels = restoring::kernels_to_have_it(context, &before.kernels);
    let modules = vec![prepared.module.to_string()];
    let force = before.replaces_source;
    Order { modules, kernels, force, by_hand: true, is_part: true, ..Order::default() }
}

/// A step for each kernel that has the module although a hook script was not run, or has failed.
pub fn failed_hooks(context: &Context, module: &ModuleName, done: &Done) -> Vec<AddStep> {
    let target = CommandTarget::of_root(&context.root);
    let attempts = done.attempts.iter().filter(|attempt| attempt.module == *module);
    let steps = attempts.filter(|attempt| attempt.failure.is_none()).filter_map(|attempt| {
        let why = attempt.hook_error.as_ref()?;
        let text = format!("{}: {why}", attempt.release);
        let next_step = Some(of_hook(module, &attempt.release).text(&target));
        Some(AddStep { step: "install", result: StepResult::Warning, text, next_step, ..AddStep::default() })
    });
    steps.collect()
}

/// Keeps the module, once it is proven, and removes the other versions, whose side files pass to it. The
/// errors are returned as text.
pub fn keep(context: &Context, prepared: &Prepared, before: &Before) -> Vec<String> {
    let replaced = before.replaced();
    removal::keep(
        context,
        &ModuleChange { replaced, ..ModuleChange::new(&prepared.module, ChangeKind::Keep) },
    )
}
