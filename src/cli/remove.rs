//! `clr-dkms remove`: takes a module back.

use clap::Args;

use super::hold::chosen;
use super::{Common, answer, need_root};
use crate::context::Context;
use crate::decide::assess;
use crate::dkms::Cache;
use crate::dkms::register::source_directory;
use crate::dkms::unbuild::WithoutDkms;
use crate::exit;
use crate::report::add::StepResult;
use crate::report::remove::RemoveDocument;
use crate::report::render::add::steps;
use crate::report::render::json;
use crate::report::render::style::ScreenStyle;
use crate::state::added::{AddedManifest, AddedState};
use crate::state::{self, LOCK, RECORD, RunRecord, is_ours};
use crate::sys::{Lock, interrupt};
use crate::system::System;
use crate::update::engine::Order;
use crate::update::progress::ProgressMode;
use crate::update::removal::{self, ChoiceError, Recovered, Removal, RemovalOutcome};
use crate::update::sequence::{self, wait_for_swupd};

/// The arguments of `remove`.
#[derive(Debug, Args)]
pub struct RemoveArguments {
    /// A module that is registered with DKMS; with several versions, NAME/VERSION
    #[arg(value_name = "MODULE[/VERSION]")]
    module: String,
    /// Also remove a module that the machine depends on, or that is in use: it stays loaded until the next
    /// boot
    #[arg(long, short)]
    force: bool,
    /// Print what would be removed; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// The whole document, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `remove`.
///
/// # Errors
/// If the lock cannot be taken, or stdout cannot be written.
pub fn run(context: &Context, arguments: &RemoveArguments, common: &Common) -> anyhow::Result<u8> {
    let (mut lock, mut recovered) = (None, Recovered::Nothing);
    if !arguments.dry_run {
        need_root(context, "clr-dkms remove")?;
        interrupt::watch()?;
        wait_for_swupd(context);
        lock = Some(Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?);
        recovered = match removal::recover(context) {
            Ok(recovered) => recovered,
            Err(why) => {
                tracing::error!("{why}");
                return Ok(exit::UNKNOWN);
            }
        };
    }
    let mut document = RemoveDocument { schema: 1, dry_run: arguments.dry_run, ..RemoveDocument::default() };
    let mut planned_removal = planned(context, &arguments.module);
    if let Err(ChoiceError::Several(name, versions)) = &planned_removal {
        let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
        if let Some(at) = chosen(&format!("Which version of {name}?"), &versions)? {
            planned_removal = planned(context, &versions[at]);
        }
    }
    let code = match planned_removal {
        Ok(removal) => {
            describe(&mut document, &removal);
            carry_out(context, arguments, &removal, &mut document)?
        }
        Err(ChoiceError::NotThere { .. }) if is_meant(&recovered, arguments) => {
            document.name.clone_from(&arguments.module);
            document.steps.add("remove", StepResult::Done, "the interrupted removal is completed");
            document.removed = true;
            work(context)?
        }
        Err(e) => {
            tracing::error!("{e}");
            return Ok(match e {
                ChoiceError::Several(..) => exit::ATTENTION,
                ChoiceError::NotThere { .. } | ChoiceError::Unknown(_) => exit::UNKNOWN,
            });
        }
    };
    drop(lock);
    let style = ScreenStyle::here(true, context.clock.now());
    let text = if arguments.json { json(&document)? } else { steps(&document.steps, &style) };
    answer(&text, common.color)?;
    Ok(code)
}

/// Whether that module was removed just now.
fn is_meant(recovered: &Recovered, arguments: &RemoveArguments) -> bool {
    let Recovered::Removed(module) = recovered else { return false };
    arguments.module == module.name || arguments.module == module.to_string()
}

fn planned(context: &Context, asked: &str) -> Result<Removal, ChoiceError> {
    let unknown = |e: &dyn std::fmt::Display| ChoiceError::Unknown(e.to_string());
    let manifest = AddedManifest::load(&context.root).map_err(|e| unknown(&e))?;
    let mut cache = Cache::load(&context.root);
    let system = System::observe(context, &mut cache);
    let module = removal::choose(&system.tree, &manifest, asked)?;
    let record = state::load::<RunRecord>(&context.root, RECORD);
    let assessment = assess(&system, &context.settings, record.as_good());
    removal::look(context, &system, (&assessment, &manifest), &module).map_err(|e| unknown(&e))
}

fn describe(document: &mut RemoveDocument, removal: &Removal) {
    document.name.clone_from(&removal.module.name);
    document.version.clone_from(&removal.module.version);
    document.kernels.clone_from(&removal.kernels);
    document.loaded = removal.loaded.iter().map(|loaded| loaded.name.clone()).collect();
    document.critical.clone_from(&removal.critical);
}

fn carry_out(
    context: &Context,
    arguments: &RemoveArguments,
    removal: &Removal,
    document: &mut RemoveDocument,
) -> anyhow::Result<u8> {
    let module = &removal.module;
    let in_use = removal.in_use();
    let severity = if arguments.force { StepResult::Warning } else { StepResult::Failed };
    let all_the_same = if arguments.force { "" } else { "; --force removes it all the same" };
    if let Some(why) = &removal.critical {
        document.steps.add("check", severity, format!("{module} is critical: {why}{all_the_same}"));
    }
    if let Some(why) = &in_use {
        let until = "; it stays loaded until the next boot";
        let more = if arguments.force { until } else { all_the_same };
        document.steps.add("unload", severity, format!("{why}{more}"));
    }
    if document.steps.has_failed() {
        return Ok(exit::ATTENTION);
    }
    if arguments.dry_run {
        plan(context, removal, in_use.is_none(), document);
        return Ok(exit::OK);
    }
    if in_use.is_none() {
        match removal::unload(context, removal) {
            Ok(gone) if gone.is_empty() => {
                document.steps.add("unload", StepResult::Skipped, "it is not loaded")
            }
            Ok(gone) => document.steps.add("unload", StepResult::Done, gone.join(", ")),
            Err(why) => {
                document.steps.add("unload", StepResult::Failed, format!("{why}; nothing was removed"));
                return Ok(exit::ATTENTION);
            }
        }
    }
    let done = removal::take_back(context, module, false);
    report(context, removal, &done, document);
    if document.steps.has_failed() {
        return Ok(exit::ATTENTION);
    }
    document.removed = true;
    work(context)
}

/// Brings the boot files and the record up to date, as after an update.
fn work(context: &Context) -> anyhow::Result<u8> {
    let done = sequence::work(context, Vec::new(), &Order::default(), ProgressMode::Nothing)?;
    // Other problems of this system are for `status` to report.
    Ok(if done.code == exit::UNSAFE { exit::UNSAFE } else { exit::OK })
}

fn plan(context: &Context, removal: &Removal, unloads: bool, document: &mut RemoveDocument) {
    let shown = |path: &str| context.root.shown_path(path).display().to_string();
    if unloads && !document.loaded.is_empty() {
        let names = document.loaded.join(", ");
        document.steps.add("unload", StepResult::Planned, names);
    }
    for (file, state) in &removal.files {
        match state {
            AddedState::Unedited => {
                document.steps.add("files", StepResult::Planned, remove(&shown(&file.path)))
            }
            AddedState::Edited => {
                document.steps.add("files", StepResult::Skipped, edited(&shown(&file.path)))
            }
            AddedState::Absent => {}
        }
    }
    for release in &removal.kernels {
        document.steps.add("uninstall", StepResult::Planned, format!("from {release}"));
    }
    if removal.is_registered {
        document.steps.add(
            "register",
            StepResult::Planned,
            format!("{} is not registered any more", removal.module),
        );
    }
    let directory = shown(&source_directory(&removal.module));
    source(removal.source, &directory, StepResult::Planned, document);
}

fn report(context: &Context, removal: &Removal, done: &RemovalOutcome, document: &mut RemoveDocument) {
    let shown = |path: &str| context.root.shown_path(path).display().to_string();
    for path in &done.removed {
        document.steps.add("files", StepResult::Done, format!("{} is removed", shown(path)));
    }
    for path in &done.edited {
        document.steps.add("files", StepResult::Warning, edited(&shown(path)));
    }
    if !done.errors.is_empty() {
        done.errors.iter().for_each(|error| document.steps.add("remove", StepResult::Failed, error));
        let rest = "the next run of clr-dkms completes the removal";
        document.steps.add("remove", StepResult::Warning, rest);
        return;
    }
    for release in &done.kernels {
        match done.without_dkms.iter().find(|without| without.release == *release) {
            None => document.steps.add("uninstall", StepResult::Done, format!("from {release}")),
            Some(without) => without_dkms(without, &shown, document),
        }
    }
    if removal.is_registered {
        document.steps.add(
            "register",
            StepResult::Done,
            format!("{} is not registered any more", removal.module),
        );
    }
    let directory = shown(&source_directory(&removal.module));
    source(done.source, &directory, StepResult::Done, document);
}

fn without_dkms(without: &WithoutDkms, shown: &dyn Fn(&str) -> String, document: &mut RemoveDocument) {
    let WithoutDkms { release, why, files } = without;
    let files: Vec<String> = files.iter().map(|file| shown(file)).collect();
    let files = match files.as_slice() {
        [] => "which files it had installed is unknown".to_owned(),
        files => format!("removed without dkms: {}", files.join(", ")),
    };
    let text = format!("from {release}: {why}; {files}; a POST_REMOVE script was not run");
    document.steps.add("uninstall", StepResult::Warning, text);
}

fn remove(path: &str) -> String {
    format!("remove {path}")
}

fn edited(path: &str) -> String {
    format!("{path} stays: it was edited after clr-dkms wrote it")
}

fn source(state: Option<AddedState>, directory: &str, result: StepResult, document: &mut RemoveDocument) {
    match state {
        Some(AddedState::Unedited) if result == StepResult::Done => {
            document.steps.add("source", result, format!("{directory} is removed"));
        }
        Some(AddedState::Unedited) => document.steps.add("source", result, remove(directory)),
        Some(AddedState::Edited) => document.steps.add("source", StepResult::Warning, edited(directory)),
        Some(AddedState::Absent) => document.steps.add("source", StepResult::Skipped, "it is gone already"),
        None => {
            let why = format!("{directory} stays: clr-dkms add did not write it");
            document.steps.add("source", StepResult::Skipped, why);
        }
    }
}
