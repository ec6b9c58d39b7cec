//! `clr-dkms import`: modules that another machine has exported.

use std::path::PathBuf;

use clap::Args;

use super::hold::confirmed;
use super::{Common, answer, need_root};
use crate::context::Context;
use crate::exit;
use crate::report::add::StepResult;
use crate::report::render::json;
use crate::report::render::style::ScreenStyle;
use crate::report::render::transfer::{checked, imported};
use crate::report::transfer::{ImportDocument, ImportOrigin, ImportedArchive};
use crate::state::{LOCK, is_ours};
use crate::sys::{Lock, interrupt};
use crate::update::import::{self, ImportCheck, ImportOrder, ReadyImport};
use crate::update::progress::ProgressMode;
use crate::update::registration;
use crate::update::removal::recover_first;
use crate::update::sequence::wait_for_swupd;

/// The arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// Archives of `clr-dkms export` or `dkms mktarball`
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Check the archives, and say what would be done; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Use binaries that have no valid signature: the maker of the archive decides what runs in the kernel
    #[arg(long)]
    trust_binaries: bool,
    /// Put the modules in the place of older versions, which stay until these are proven
    #[arg(long)]
    replace: bool,
    /// Print the whole document as JSON
    #[arg(long)]
    json: bool,
}

/// An archive, and what it contains if it was not refused.
type Candidate = (ImportedArchive, Option<ReadyImport>);

/// Runs `import`.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn run(context: &Context, arguments: &ImportArguments, common: &Common) -> anyhow::Result<u8> {
    if !arguments.dry_run {
        need_root(context, "clr-dkms import")?;
    }
    interrupt::watch()?;
    if !arguments.dry_run
        && let Err(why) = recover_first(context)?
    {
        tracing::error!("{why}");
        return Ok(exit::UNKNOWN);
    }
    let order = ImportOrder {
        trust_binaries: arguments.trust_binaries,
        replace: arguments.replace,
        look_only: arguments.dry_run,
    };
    let check = match ImportCheck::new(context, &order) {
        Ok(check) => check,
        Err(why) => {
            tracing::error!("{why}");
            return Ok(exit::UNKNOWN);
        }
    };
    check.faults().iter().for_each(|fault| tracing::warn!("{fault}"));
    let style = ScreenStyle::here(true, context.clock.now());
    let mut candidates: Vec<Candidate> = Vec::new();
    for file in &arguments.files {
        let mut archive = ImportedArchive::default();
        let mut ready = check.archive(file, &mut archive);
        let is_twice = |ready: &ReadyImport| {
            let others = candidates.iter().filter_map(|(_, other)| other.as_ref());
            others.into_iter().any(|other| other.prepared.module.name == ready.prepared.module.name)
        };
        if ready.as_ref().is_some_and(is_twice) {
            archive.steps.add(
                "check",
                StepResult::Failed,
                "another archive of this call has the same module",
            );
            ready = None;
        }
        if interrupt::asked() {
            // What was found may be incomplete.
            let why = "the run was asked to stop: nothing has been changed";
            archive.steps.add("check", StepResult::Failed, why);
            ready = None;
        }
        if !arguments.json {
            answer(&checked(&archive, &style), common.color)?;
        }
        candidates.push((archive, ready));
    }
    let shown: Vec<usize> = candidates.iter().map(|(archive, _)| archive.steps.len()).collect();
    let is_refused = candidates.iter().any(|(_, ready)| ready.is_none());
    let code = match arguments.dry_run || candidates.iter().all(|(_, ready)| ready.is_none()) {
        true => exit::OK,
        false => confirm_and_install(context, arguments, common, &mut candidates)?,
    };
    let document =
        ImportDocument { schema: 1, archives: candidates.into_iter().map(|(archive, _)| archive).collect() };
    let text = match arguments.json {
        true => json(&document)?,
        false => {
            let archives = document.archives.iter().zip(shown);
            archives.map(|(archive, from)| imported(archive, from, &style)).collect()
        }
    };
    answer(&text, common.color)?;
    Ok(if is_refused { exit::ATTENTION } else { code })
}

fn confirm_and_install(
    context: &Context,
    arguments: &ImportArguments,
    common: &Common,
    candidates: &mut [Candidate],
) -> anyhow::Result<u8> {
    if !arguments.yes {
        let why = match confirmed(&question(candidates))? {
            Some(true) => None,
            Some(false) => Some("not confirmed: nothing has been changed"),
            None => Some("without a terminal to ask on, --yes confirms; nothing has been changed"),
        };
        if let Some(why) = why {
            let archives = candidates.iter_mut().filter(|(_, ready)| ready.is_some());
            archives.for_each(|(archive, _)| archive.steps.add("register", StepResult::Failed, why));
            return Ok(exit::ATTENTION);
        }
    }
    wait_for_swupd(context);
    let _lock = Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?;
    let mut is_complete = true;
    // The record of a change has one module, and a source that is replaced stays in it until the new one is
    // proven: it comes last, and is finished first.
    let mut turns: Vec<usize> = (0..candidates.len()).collect();
    turns.sort_by_key(|at| replaces_source(candidates[*at].1.as_ref()));
    let replacing = candidates.iter().filter(|(_, ready)| replaces_source(ready.as_ref())).count();
    for at in &turns {
        let (archive, candidate) = &mut candidates[*at];
        let Some(ready) = candidate else { continue };
        if replacing > 1 && replaces_source(Some(ready)) {
            let why = "other archives of this call replace a source too: import each in a call of its own";
            archive.steps.add("register", StepResult::Failed, why);
            (is_complete, *candidate) = (false, None);
            continue;
        }
        // Another run may have changed something meanwhile.
        let now = registration::compare(context, &ready.prepared, arguments.replace);
        let registered = match now {
            Ok(now) if now == ready.before => import::register(context, ready, archive),
            Ok(_) => {
                archive.steps.add(
                    "register",
                    StepResult::Failed,
                    "something has changed meanwhile: try again",
                );
                false
            }
            Err(e) => {
                archive.steps.add("register", StepResult::Failed, e.to_string());
                false
            }
        };
        if !registered {
            is_complete = false;
            *candidate = None;
        }
    }
    let ready: Vec<&ReadyImport> = candidates.iter().filter_map(|(_, ready)| ready.as_ref()).collect();
    if ready.is_empty() {
        return Ok(exit::ATTENTION);
    }
    let show = ProgressMode::live_or(ProgressMode::Log, common.quiet);
    let done = import::install(context, &ready, show)?;
    for at in turns.into_iter().rev() {
        let (archive, ready) = &mut candidates[at];
        if let Some(ready) = ready {
            is_complete &= import::finish(context, ready, &done, archive);
        }
    }
    Ok(if is_complete { exit::OK } else { exit::ATTENTION })
}

/// Another source of the same version is there.
fn replaces_source(ready: Option<&ReadyImport>) -> bool {
    ready.is_some_and(|ready| ready.before.replaces_source)
}

fn question(candidates: &[Candidate]) -> String {
    let ready: Vec<&ReadyImport> = candidates.iter().filter_map(|(_, ready)| ready.as_ref()).collect();
    let names: Vec<String> = ready.iter().map(|ready| ready.prepared.module.to_string()).collect();
    let step = |origin, verb: &str, one: &str, many: &str| match ready
        .iter()
        .map(|ready| ready.of(origin).count())
        .sum()
    {
        0 => None,
        1 => Some(format!("{verb} 1 {one}")),
        n => Some(format!("{verb} {n} {many}")),
    };
    let steps = [
        Some(format!("Register {}", names.join(", "))),
        step(ImportOrigin::Archive, "install", "binary", "binaries"),
        step(ImportOrigin::Build, "build", "module", "modules"),
    ];
    let steps: Vec<String> = steps.into_iter().flatten().collect();
    format!("{} as root?", steps.join(", and "))
}
