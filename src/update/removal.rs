//! Taking a module back: from the running kernel, from every installed kernel, from the DKMS tree, with its
//! side files, and with its source if `clr-dkms add` put it there.

mod recover;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::engine::INDEX_DEADLINE;
use super::restoring;
use crate::context::Context;
use crate::decide::BootAssessment;
use crate::dkms::plan::built_directory;
use crate::dkms::register::{self, source_directory};
use crate::dkms::tree::SOURCES;
use crate::dkms::unbuild::WithoutDkms;
use crate::dkms::{ModuleName, Tree, depmod};
use crate::kernel::Running;
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::{kernel_name, stem};
use crate::requirement::{Importance, Requirement, Use};
use crate::state::added::{AddedFile, AddedManifest, AddedState, ManifestError, tree_fingerprint};
use crate::state::change::{ChangeKind, ModuleChange, ReplacedModule};
use crate::state::{RECORD, RunRecord, Stored, load};
use crate::sys::{Ended, FileKind, Presence, Root};
use crate::system::System;
use crate::usage;

pub use recover::{Recovered, recover, recover_first};

/// The end of the name of a directory in `/usr/src` that is not complete yet, or not any more.
const UNFINISHED: &str = ".clr-dkms-add";
/// The time limit of `rmmod`.
const UNLOAD: Duration = Duration::from_secs(30);

/// Why a module cannot be chosen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChoiceError {
    /// There is no such module.
    #[error("{asked} is not registered with DKMS; registered: {known}")]
    NotThere { asked: String, known: String },
    /// It has several versions.
    #[error("{0} has several versions, choose one: {list}", list = listed(.1))]
    Several(String, Vec<ModuleName>),
    /// It cannot be determined.
    #[error("{0}")]
    Unknown(String),
}

fn listed(modules: &[ModuleName]) -> String {
    modules.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A module of the running kernel that is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedFile {
    /// The kernel's name of it.
    pub name: String,
    /// The loaded modules that use it.
    pub holders: BTreeSet<String>,
    /// How often it is used, by these modules, programs and mounts. None if that is unknown.
    pub references: Option<usize>,
}

/// What a removal would take back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The module.
    pub module: ModuleName,
    /// It is registered with DKMS.
    pub is_registered: bool,
    /// The kernels that have it.
    pub kernels: Vec<String>,
    /// What of it is loaded.
    pub loaded: Vec<LoadedFile>,
    /// Why it is required, if something in use depends on it.
    pub critical: Option<String>,
    /// The side files, and what is at their paths now.
    pub files: Vec<(AddedFile, AddedState)>,
    /// What is at the place of the source that `clr-dkms add` put there.
    pub source: Option<AddedState>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovalOutcome {
    /// The side files that were removed.
    pub removed: Vec<String>,
    /// The side files that were edited, and stay.
    pub edited: Vec<String>,
    /// The kernels that had it.
    pub kernels: Vec<String>,
    /// The kernels of which dkms could not remove it.
    pub without_dkms: Vec<WithoutDkms>,
    /// What was at the place of the source that `clr-dkms add` put there.
    pub source: Option<AddedState>,
    /// What could not be done.
    pub errors: Vec<String>,
}

/// The directory of a source until it is complete, and of one that is replaced or removed.
pub fn unfinished(module: &ModuleName) -> String {
    format!("{SOURCES}/{}", unfinished_name(module))
}

fn unfinished_name(module: &ModuleName) -> String {
    format!(".{}-{}{UNFINISHED}", module.name, module.version)
}

/// Whether the source of a replacement that is in progress has its final name.
///
/// # Errors
/// When the sources cannot be read.
pub fn is_exchanged(root: &Root, module: &ModuleName) -> Result<bool, ManifestError> {
    let change = match ModuleChange::left(root) {
        Stored::Good(change) => change,
        // A damaged one is reported and deleted by `recover`.
        Stored::Absent | Stored::Bad(_) => return Ok(false),
        Stored::Unreadable(why) => return Err(ManifestError::Unknown(why)),
    };
    let directory = source_directory(module);
    let is_there = root.lookup_link(&directory).known()?.is_some();
    match change.fingerprint.filter(|_| change.module == *module && is_there) {
        Some(new) => Ok(tree_fingerprint(root, &directory)? == new),
        None => Ok(false),
    }
}

/// The module that is meant by `NAME` or `NAME/VERSION`.
///
/// # Errors
/// When there is none, or more than one.
pub fn choose(tree: &Tree, manifest: &AddedManifest, asked: &str) -> Result<ModuleName, ChoiceError> {
    if let Some(reason) = &tree.unreadable {
        return Err(ChoiceError::Unknown(reason.clone()));
    }
    // A run that was killed may have removed the registration only.
    let registered = tree.modules.iter().map(|known| &known.module);
    let all: BTreeSet<&ModuleName> =
        registered.chain(manifest.modules.iter().map(|added| &added.module)).collect();
    let is_meant = |module: &&&ModuleName| match asked.split_once('/') {
        Some((name, version)) => module.name == name && module.version == version,
        None => module.name == asked,
    };
    let mut found = all.iter().filter(is_meant).map(|module| (*module).clone());
    match (found.next(), found.next()) {
        (Some(only), None) => Ok(only),
        (Some(first), Some(second)) => {
            Err(ChoiceError::Several(asked.to_owned(), [first, second].into_iter().chain(found).collect()))
        }
        (None, _) => {
            let known: Vec<String> = all.iter().map(ToString::to_string).collect();
            let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
            Err(ChoiceError::NotThere { asked: asked.to_owned(), known })
        }
    }
}

/// Looks at what the removal of a module would take back.
///
/// # Errors
/// When something cannot be read, or the running kernel is unknown.
pub fn look(
    context: &Context,
    system: &System,
    (assessment, manifest): (&BootAssessment, &AddedManifest),
    module: &ModuleName,
) -> Result<Removal> {
    let (root, tree) = (&context.root, &system.tree);
    let kernels = register::kernels_of(tree, module);
    let added = manifest.of(module);
    let files = added.map(|added| added.files.as_slice()).unwrap_or_default();
    let files = files.iter().map(|file| Ok((file.clone(), file.state(root)?)));
    let files = files.collect::<Result<Vec<_>>>()?;
    Ok(Removal {
        module: module.clone(),
        is_registered: tree.modules.iter().any(|known| known.module == *module),
        loaded: loaded(root, system, module, &kernels)?,
        critical: critical(assessment, module, &kernels, &files),
        files,
        source: match added.and_then(|added| added.source.as_ref()) {
            Some(source) => Some(source.state(root)?),
            None => None,
        },
        kernels,
    })
}

/// Why the machine depends on the module. A version that no kernel has is not depended on. A blacklist in its
/// favour does not count if it is removed with the module.
fn critical(
    assessment: &BootAssessment,
    module: &ModuleName,
    kernels: &[String],
    files: &[(AddedFile, AddedState)],
) -> Option<String> {
    if kernels.is_empty() {
        return None;
    }
    if let Some(unknown) = &assessment.unknown {
        return Some(format!("what depends on it is unknown: {unknown}"));
    }
    let is_it = |need: &&Requirement| need.module == module.name && need.class == Importance::Critical;
    let stays = files.iter().any(|(file, state)| *state == AddedState::Edited && !file.drivers.is_empty());
    let counts = |why: &&Use| stays || !matches!(why, Use::Replaces { .. });
    let is_needed = |need: &&Requirement| {
        need.is_listed() || need.why.iter().filter(counts).any(Use::is_critical) || need.why.is_empty()
    };
    assessment.needs.iter().filter(is_it).find(is_needed).map(|need| need.reason.clone())
}

/// What of it is loaded: the modules that DKMS installed for the running kernel.
fn loaded(root: &Root, system: &System, module: &ModuleName, kernels: &[String]) -> Result<Vec<LoadedFile>> {
    let release = match &system.inventory.running {
        Running::Known { release } if kernels.contains(release) => release,
        Running::Unknown { reason } if !kernels.is_empty() => {
            bail!("whether {module} is loaded is unknown, as is the running kernel: {reason}")
        }
        Running::Known { .. } | Running::Unknown { .. } | Running::None => return Ok(Vec::new()),
    };
    match usage::loaded(root) {
        // A kernel without CONFIG_MODULES has no list.
        Err(e) if !e.is_absent() => return Err(e.into()),
        // As above.
        Ok(_) | Err(_) => {}
    }
    let mut found = Vec::new();
    for entry in root.list_optional(built_directory(module, release))? {
        let Some(name) = entry.text().and_then(stem).map(kernel_name) else { continue };
        // One that came with the kernel has the same name, and is not ours.
        if !system.in_use.loaded.contains(&name) || system.in_use.own.contains(&name) {
            continue;
        }
        let holders = root.list_optional(format!("/sys/module/{name}/holders"))?;
        let holders = holders.iter().filter_map(|entry| entry.text()).map(str::to_owned).collect();
        // Kernels without CONFIG_MODULE_UNLOAD have no such file.
        let count = root.read_optional(format!("/sys/module/{name}/refcnt"))?;
        // A text that is not a number leaves it unknown.
        let references = count.and_then(|text| String::from_utf8_lossy(&text).trim().parse().ok());
        found.push(LoadedFile { name, holders, references });
    }
    Ok(found)
}

impl Removal {
    /// What prevents that the module is unloaded, as a phrase.
    pub fn in_use(&self) -> Option<String> {
        let own: BTreeSet<&String> = self.loaded.iter().map(|loaded| &loaded.name).collect();
        self.loaded.iter().find_map(|loaded| {
            let name = &loaded.name;
            let others: Vec<&str> =
                loaded.holders.iter().filter(|holder| !own.contains(holder)).map(String::as_str).collect();
            if !others.is_empty() {
                return Some(format!("{name} is in use by {}", others.join(", ")));
            }
            let Some(references) = loaded.references else {
                return Some(format!("the kernel does not report whether {name} is in use"));
            };
            match references.saturating_sub(loaded.holders.len()) {
                0 => None,
                1 => Some(format!("{name} is in use by a program, a mount or a device")),
                count => Some(format!("{name} is in use by {count} programs, mounts or devices")),
            }
        })
    }

    /// The names of the loaded modules, each before those that it uses.
    fn unload_order(&self) -> Vec<&str> {
        let mut left: Vec<&LoadedFile> = self.loaded.iter().collect();
        let mut order = Vec::new();
        while !left.is_empty() {
            let is_held = |one: &LoadedFile| left.iter().any(|other| one.holders.contains(&other.name));
            // Modules that hold each other cannot be unloaded; rmmod says so.
            let at = left.iter().position(|one| !is_held(one)).unwrap_or(0);
            order.push(left.remove(at).name.as_str());
        }
        order
    }
}

/// Unloads what is loaded.
///
/// # Errors
/// What is still loaded, and why.
pub fn unload(context: &Context, removal: &Removal) -> Result<Vec<String>, String> {
    let mut gone = Vec::new();
    for name in removal.unload_order() {
        let child = context.tools.child("rmmod", UNLOAD).map_err(|e| e.to_string())?;
        let done = child.args(["--", name]).run().map_err(|e| e.to_string())?;
        let loaded = usage::loaded(&context.root).map_err(|e| e.to_string())?;
        if loaded.iter().any(|line| line.name == *name) {
            let said = String::from_utf8_lossy(&done.output).into_owned();
            let said = said.lines().rev().find(|line| !line.trim().is_empty());
            let ended = match (done.ended, said) {
                (Ended::Exit(0), _) => "rmmod reported success".to_owned(),
                (ended, None) => ended.to_string(),
                (_, Some(said)) => said.trim().to_owned(),
            };
            return Err(format!("{name} is still loaded: {ended}"));
        }
        gone.push(name.to_owned());
    }
    Ok(gone)
}

/// Takes a module back. A run that is killed leaves the change behind, which the next run completes.
pub fn take_back(context: &Context, module: &ModuleName, keeps_source: bool) -> RemovalOutcome {
    complete(context, ModuleChange { keeps_source, ..ModuleChange::new(module, ChangeKind::Remove) })
}

/// Takes a module back that could not be installed, and installs again what it has replaced. The errors are
/// returned as text.
pub(super) fn take_back_added(
    context: &Context,
    module: &ModuleName,
    keeps_source: bool,
    replaced: Option<ReplacedModule>,
) -> Vec<String> {
    let change = ModuleChange { keeps_source, replaced, ..ModuleChange::new(module, ChangeKind::Remove) };
    complete(context, change).errors
}

/// Removes everything of a module but what is loaded. It may have been removed in part.
fn complete(context: &Context, mut change: ModuleChange) -> RemovalOutcome {
    let root = &context.root;
    let mut done = RemovalOutcome::default();
    change.change = ChangeKind::Remove;
    let tree = Tree::observe(root);
    if let Some(why) = register::kernels_unknown(root, &tree, &change.module) {
        done.errors.push(why);
        return done;
    }
    change.kernels.extend(register::kernels_of(&tree, &change.module));
    let written = change.write(root).map_err(anyhow::Error::from);
    let result =
        written.and_then(|()| take_out(context, &change, &mut done)).and_then(|()| match change.replaced {
            Some(_) => {
                let change = ModuleChange { change: ChangeKind::Restore, ..change.clone() };
                done.errors.extend(restoring::restore(context, change));
                Ok(())
            }
            None => Ok(ModuleChange::end(root)?),
        });
    done.kernels = change.kernels.into_iter().collect();
    done.errors.extend(result.err().map(|e| format!("{e:#}")));
    done
}

/// Removes what a module has replaced, after the module is proven. The errors are returned as text.
pub(super) fn keep(context: &Context, change: &ModuleChange) -> Vec<String> {
    let root = &context.root;
    let (mut done, tree) = (RemovalOutcome::default(), Tree::observe(root));
    let mut remove = || -> Result<()> {
        change.write(root)?;
        root.remove_tree(unfinished(&change.module))?;
        let Some(replaced) = &change.replaced else { return Ok(ModuleChange::end(root)?) };
        for other in &replaced.others {
            if let Some(why) = register::kernels_unknown(root, &tree, other) {
                bail!(why);
            }
            AddedManifest::load(root)?.pass_on(root, other, &change.module)?;
            let mut of_other = ModuleChange::new(other, ChangeKind::Remove);
            of_other.kernels.clone_from(&replaced.kernels);
            of_other.kernels.extend(register::kernels_of(&tree, other));
            take_out(context, &of_other, &mut done)?;
        }
        Ok(ModuleChange::end(root)?)
    };
    remove().err().into_iter().map(|e| format!("{e:#}")).collect()
}

/// Takes a module from the kernels and from the DKMS tree, with its side files and its source.
fn take_out(context: &Context, change: &ModuleChange, done: &mut RemovalOutcome) -> Result<()> {
    let (root, module) = (&context.root, &change.module);
    side_files(root, module, done)?;
    unregister(context, module, &change.kernels, done)?;
    if !change.keeps_source {
        done.source = source(root, module)?;
    }
    forget(root, module)
}

/// First, so that no driver of the kernel stays blacklisted without its replacement.
fn side_files(root: &Root, module: &ModuleName, done: &mut RemovalOutcome) -> Result<()> {
    let taken = AddedManifest::load(root)?.take_back(root, module)?;
    done.removed = taken.removed;
    done.edited = taken.edited;
    Ok(())
}

/// Takes a module from every kernel and from the DKMS tree.
fn unregister(
    context: &Context,
    module: &ModuleName,
    kernels: &BTreeSet<String>,
    done: &mut RemovalOutcome,
) -> Result<()> {
    let Context { root, tools, .. } = context;
    done.without_dkms = register::uninstall(root, tools, module)?;
    for release in kernels {
        match root.lookup(module_directory(release)) {
            Presence::There(stat) if stat.kind == FileKind::Directory => {
                depmod::run(root, tools, release, &[], INDEX_DEADLINE)?;
            }
            // Those of kernels that are not installed any more are gone.
            Presence::There(_) | Presence::Absent => {}
            Presence::Unreadable(e) => return Err(e.into()),
        }
    }
    Ok(register::forget(root, module)?)
}

/// Removes the source that `clr-dkms add` put there, if it was not edited. It disappears at once.
fn source(root: &Root, module: &ModuleName) -> Result<Option<AddedState>, ManifestError> {
    root.remove_tree(unfinished(module))?;
    let mut manifest = AddedManifest::load(root)?;
    let Some(source) = manifest.of(module).and_then(|added| added.source.clone()) else { return Ok(None) };
    let state = source.state(root)?;
    if state == AddedState::Unedited {
        root.rename(source_directory(module), &unfinished_name(module))?;
        root.sync_directory(SOURCES)?;
        root.remove_tree(unfinished(module))?;
    }
    manifest.forget_source(root, module)?;
    Ok(Some(state))
}

/// Forgets that the module was required, when no version of it is left.
fn forget(root: &Root, module: &ModuleName) -> Result<()> {
    let tree = Tree::observe(root);
    let is_left = tree.modules.iter().any(|known| known.module.name == module.name);
    let mut record = match load::<RunRecord>(root, RECORD) {
        Stored::Good(record) => record,
        // Without a record nothing is remembered. The next run sets a damaged one aside.
        Stored::Absent | Stored::Bad(_) => return Ok(()),
        Stored::Unreadable(why) => bail!(why),
    };
    let before = record.needs.len();
    record.needs.retain(|need| need.module != module.name);
    match is_left || tree.unreadable.is_some() || record.needs.len() == before {
        true => Ok(()),
        false => Ok(root.write_json(RECORD, &record).map(drop)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn removal(loaded: &[(&str, &[&str], usize)]) -> Removal {
        let loaded = loaded.iter().map(|(name, holders, references)| LoadedFile {
            name: (*name).to_owned(),
            holders: holders.iter().map(|holder| (*holder).to_owned()).collect(),
            references: Some(*references),
        });
        Removal {
            module: ModuleName { name: "a".to_owned(), version: "1".to_owned() },
            is_registered: true,
            kernels: Vec::new(),
            loaded: loaded.collect(),
            critical: None,
            files: Vec::new(),
            source: None,
        }
    }

    #[test]
    fn modules_are_unloaded_before_those_that_they_use() {
        let removal = removal(&[("core", &["net", "usb"], 2), ("usb", &[], 0), ("net", &["usb"], 1)]);
        assert_eq!(removal.in_use(), None);
        assert_eq!(removal.unload_order(), ["usb", "net", "core"]);
    }

    #[test]
    fn what_uses_a_module_is_named() {
        let used = |loaded| removal(loaded).in_use();
        assert_eq!(used(&[("a", &[], 0)]), None);
        assert_eq!(used(&[("a", &["b"], 1)]).as_deref(), Some("a is in use by b"));
        assert_eq!(used(&[("a", &[], 2)]).as_deref(), Some("a is in use by 2 programs, mounts or devices"));
        let count = "a is in use by a program, a mount or a device";
        assert_eq!(used(&[("a", &["b"], 2), ("b", &[], 0)]).as_deref(), Some(count));
        let mut unknown = removal(&[("a", &[], 0)]);
        unknown.loaded[0].references = None;
        assert!(unknown.in_use().is_some());
    }
}
