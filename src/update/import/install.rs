//! Registering imported modules, putting their binaries into the DKMS tree, and installing them as after an
//! update.

use std::collections::{BTreeMap, BTreeSet};

use super::ReadyImport;
use crate::context::Context;
use crate::dkms::plan::{State, build_directory};
use crate::dkms::source_change::SourceFiles;
use crate::dkms::{ModuleName, Tree, architecture, modfile};
use crate::kernel::Inventory;
use crate::limits::MODULE;
use crate::report::add::StepResult;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::transfer::{ImportOrigin, ImportedArchive};
use crate::state::change::ModuleChange;
use crate::sys::{FileError, interrupt};
use crate::transfer::{BINARIES, ExportedBuild};
use crate::update::engine::Order;
use crate::update::progress::ProgressMode;
use crate::update::registration;
use crate::update::sequence::{self, Done};

/// Registers a module and puts its binaries into the DKMS tree, as dkms would have left them after a build.
/// False when that failed; nothing of it is left then.
pub fn register(context: &Context, ready: &ReadyImport, found: &mut ImportedArchive) -> bool {
    let (prepared, before) = (&ready.prepared, &ready.before);
    if let Err(e) = registration::register(context, prepared, before) {
        found.steps.add("register", StepResult::Failed, e.to_string());
        return false;
    }
    let module = &prepared.module;
    found.steps.push(before.step(context, module, StepResult::Done));
    let placed = builds(ready).try_for_each(|build| place(context, ready, build));
    // From here on the next run completes what a killed one leaves: it installs or builds the module. Whether
    // another source has been replaced is found by the record of the change.
    let placed = placed.and_then(|()| match before.replaces_source {
        true => Ok(()),
        false => ModuleChange::end(&context.root),
    });
    if let Err(e) = placed {
        found.steps.add("install", StepResult::Failed, e.to_string());
        registration::undo(context, prepared, before, &mut found.steps);
        return false;
    }
    true
}

/// The builds of the archive that are used.
fn builds(ready: &ReadyImport) -> impl Iterator<Item = &ExportedBuild> {
    let all = ready.manifest.iter().flat_map(|manifest| &manifest.builds);
    all.filter(|build| ready.of(ImportOrigin::Archive).any(|release| release == build.kernel))
}

/// Puts a build into the DKMS tree. It appears there complete.
fn place(context: &Context, ready: &ReadyImport, build: &ExportedBuild) -> Result<(), FileError> {
    let root = &context.root;
    let directory = build_directory(&ready.prepared.module, &build.kernel);
    let kernel = directory.rsplit_once('/').map_or("", |(kernel, _)| kernel).to_owned();
    // As dkms names its own, so that what a killed run left is found.
    let unfinished = format!("{kernel}/.tmp_{}_import", architecture());
    root.remove_tree(&unfinished)?;
    let scratch = ready.prepared.scratch.root();
    for sum in &build.files {
        let top = ready.prepared.source.parent().unwrap_or(&ready.prepared.source);
        let from = top.join(BINARIES).join(build.directory()).join(&sum.path);
        let from = scratch.real_path(&from)?;
        // The scratch directory is below the root.
        let from = root.inside(&from).unwrap_or(from);
        root.copy(from, format!("{unfinished}/{}", sum.path), 0o644, MODULE)?;
    }
    // Directories with other files are from a build that does not work.
    root.remove_tree(&directory)?;
    root.rename(&unfinished, &architecture())?;
    root.sync_directory(&kernel)
}

/// Installs the registered modules, builds what the archives have no binaries for, and brings the boot files
/// up to date.
///
/// # Errors
/// When what was found cannot be written.
pub fn install(context: &Context, ready: &[&ReadyImport], show: ProgressMode) -> anyhow::Result<Done> {
    let inventory = Inventory::observe(&context.root);
    let mut kernels: BTreeSet<String> =
        inventory.tips().into_iter().map(|kernel| kernel.name.release()).collect();
    for ready in ready {
        kernels.extend(ready.of(ImportOrigin::Archive).map(str::to_owned));
        // A kernel that has another version is to have this one before that is removed.
        let others = ready.before.kernels.iter().filter(|release| inventory.of_release(release).is_some());
        kernels.extend(others.cloned());
    }
    let order = Order {
        modules: ready.iter().map(|ready| ready.prepared.module.to_string()).collect(),
        kernels: kernels.into_iter().collect(),
        by_hand: true,
        is_part: true,
        is_import: true,
        built_from: built_from(context, ready),
        ..Order::default()
    };
    sequence::work(context, Vec::new(), &order, show)
}

/// The fingerprints of the sources that the binaries were built from, by the SHA-256 of the file: the record
/// may have those of a source that was replaced.
fn built_from(context: &Context, ready: &[&ReadyImport]) -> BTreeMap<String, String> {
    let root = &context.root;
    let (mut found, tree) = (BTreeMap::new(), Tree::observe(root));
    for ready in ready.iter().filter(|ready| builds(ready).next().is_some()) {
        let registered = tree.modules.iter().find(|known| known.module == ready.prepared.module);
        let files = registered.and_then(|known| SourceFiles::observe(root, &known.source));
        // Without its source, whether that has changed is judged by its times.
        let Some(files) = files else { continue };
        let of_modules = |path: &str| modfile::ENDINGS.iter().any(|ending| path.ends_with(ending));
        let sums = builds(ready).flat_map(|build| &build.files).filter(|sum| of_modules(&sum.path));
        found.extend(sums.map(|sum| (sum.sha256.clone(), files.fingerprint())));
    }
    found
}

/// Reports what became of a module. A module that works on a kernel stays; one that works on none is taken
/// back. True when it is installed on all of them, and complete.
pub fn finish(context: &Context, ready: &ReadyImport, done: &Done, found: &mut ImportedArchive) -> bool {
    let module = &ready.prepared.module;
    let is_ours = |of: &ModuleName| of == module;
    let attempts: Vec<_> = done.attempts.iter().filter(|attempt| is_ours(&attempt.module)).collect();
    let mut done_on = Vec::new();
    for attempt in &attempts {
        match &attempt.failure {
            Some((_, why)) => {
                found.steps.add("install", StepResult::Failed, format!("{}: {why}", attempt.release));
            }
            None => done_on.push(attempt.release.as_str()),
        }
    }
    let left_alone = done.left_alone.iter().filter(|left| is_ours(&left.module));
    for why in left_alone.filter_map(|left| ready.before.failure(left)) {
        found.steps.add("install", StepResult::Failed, why);
    }
    let flawed: Vec<_> = match found.steps.has_failed() {
        true => Vec::new(),
        false => done.unproven.iter().filter(|left| is_ours(&left.module)).collect(),
    };
    let is_flawed = |release: &str| flawed.iter().any(|left| left.release == release);
    for release in done_on.into_iter().filter(|release| !is_flawed(release)) {
        found.steps.add("install", StepResult::Done, format!("{release}: installed and proven"));
    }
    for left in &flawed {
        // Without headers not everything can be checked. What the archive says was compared before.
        let is_open = left.state == State::Unknown;
        let result = if is_open { StepResult::Warning } else { StepResult::Failed };
        found.steps.add("install", result, left.to_string());
    }
    if interrupt::asked() {
        found.steps.add("install", StepResult::Failed, "the run was asked to stop");
    } else if done.is_undetermined() {
        found.steps.add("install", StepResult::Failed, "it cannot be determined what is to be done");
    }
    let works = attempts.iter().any(|attempt| attempt.failure.is_none() && !is_flawed(&attempt.release))
        || ready.of(ImportOrigin::Present).next().is_some();
    // A source that was replaced worked before.
    if found.steps.has_failed() && (!works || ready.before.replaces_source) {
        registration::undo(context, &ready.prepared, &ready.before, &mut found.steps);
        return false;
    }
    if attempts.is_empty() && !found.steps.has_failed() {
        found.steps.add("install", StepResult::Skipped, "nothing to do");
    }
    let hooks = registration::failed_hooks(context, module, done);
    let mut is_complete = hooks.is_empty();
    hooks.into_iter().for_each(|step| found.steps.push(step));
    for refused in done.refused.iter().filter(|refused| is_ours(&refused.module)) {
        found.steps.add("load", StepResult::Warning, format!("{}: {}", refused.release, refused.why));
        is_complete = false;
    }
    if !found.steps.has_failed() {
        for error in registration::keep(context, &ready.prepared, &ready.before) {
            found.steps.add("replace", StepResult::Failed, error);
        }
    }
    found.installed = !found.steps.has_failed();
    let remove = AdminCommand::change("clr-dkms", &["remove", &module.to_string()]);
    found.undo = Some(remove.text(&CommandTarget::of_root(&context.root)));
    found.installed && is_complete
}
