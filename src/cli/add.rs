//! `clr-dkms add`: from the source of a module to a module that survives updates.

use std::path::PathBuf;

use clap::Args;

use super::add_side_files::SideFileArguments;
use super::hold::{chosen, confirmed};
use super::{Common, answer, need_root};
use crate::context::Context;
use crate::dkms::ModuleName;
use crate::dkms::plan::State;
use crate::exit;
use crate::kernel::module_file::stem;
use crate::report::add::{AddDocument, StepResult};
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::render::add::{found, rest};
use crate::report::render::json;
use crate::report::render::style::ScreenStyle;
use crate::report::side_files::SideFileResult;
use crate::state::{LOCK, is_ours};
use crate::sys::{Lock, RootKind, interrupt};
use crate::update::add_plan;
use crate::update::adopt::{self, AddOrder, Prepared};
use crate::update::loading::{self, LoadOutcome};
use crate::update::progress::ProgressMode;
use crate::update::registration::{self, Before};
use crate::update::removal;
use crate::update::sequence::{Done, wait_for_swupd};
use crate::update::side_files::{SideConsent, write_side_files};

/// The arguments of the verb.
#[derive(Debug, Args)]
pub struct AddArguments {
    /// A directory, a git checkout, an archive or a package
    #[arg(value_name = "SOURCE")]
    source: PathBuf,
    /// The name of the module, in place of the one in the source
    #[arg(long)]
    name: Option<String>,
    /// Its version, in place of the one in the source
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// The dkms.conf to use, where the source has several: a path in the source
    #[arg(long, value_name = "PATH")]
    conf: Option<PathBuf>,
    /// Say what would be done, and why; build and change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Do not build it in scratch before it is registered
    #[arg(long)]
    no_build: bool,
    /// Put it in the place of an older version, or of another source of the same version, which stays until
    /// this one is proven, or of a module of the kernel
    #[arg(long)]
    replace: bool,
    /// Load it into the running kernel, once it is installed
    #[arg(long)]
    load: bool,
    #[command(flatten)]
    side: SideFileArguments,
    /// The whole document, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn run(context: &Context, arguments: AddArguments, common: &Common) -> anyhow::Result<u8> {
    if arguments.load && context.root.kind() == RootKind::Image {
        tracing::error!("--load loads into the running kernel, and no kernel runs in an image");
        return Ok(exit::USAGE);
    }
    if !arguments.dry_run {
        need_root(context, "clr-dkms add")?;
    }
    interrupt::watch()?;
    if !arguments.dry_run
        && let Err(why) = removal::recover_first(context)?
    {
        tracing::error!("{why}");
        return Ok(exit::UNKNOWN);
    }
    let mut order = AddOrder {
        source: arguments.source.clone(),
        name: arguments.name.clone(),
        version: arguments.version.clone(),
        conf: arguments.conf.clone(),
        no_build: arguments.no_build,
        look_only: arguments.dry_run,
    };
    let mut document = AddDocument::default();
    let mut prepared = adopt::prepare(context, &order, &mut document);
    if !document.choices.is_empty()
        && let Some(at) = chosen("Which dkms.conf?", &document.choices)?
    {
        order.conf = Some(PathBuf::from(&document.choices[at]));
        document = AddDocument::default();
        prepared = adopt::prepare(context, &order, &mut document);
    }
    if interrupt::asked() {
        // What was found may be incomplete.
        document.steps.add("stop", StepResult::Failed, "the run was asked to stop: nothing has been changed");
        prepared = None;
    }
    let before = prepared.as_ref().and_then(|source| compared(context, source, &arguments, &mut document));
    let shown = document.steps.len();
    let style = ScreenStyle::here(true, context.clock.now());
    if !arguments.json {
        answer(&found(&document, &style), common.color)?;
    }
    let code = match (prepared, before) {
        (Some(prepared), Some(before)) if arguments.dry_run => {
            add_plan::plan(context, &prepared, &before, &mut document)
        }
        (Some(prepared), Some(before)) => {
            confirm_and_install(context, &arguments, common, (&prepared, &before), &mut document)?
        }
        _ => exit::ATTENTION,
    };
    let text = if arguments.json { json(&document)? } else { rest(&document, shown, &style) };
    answer(&text, common.color)?;
    Ok(code)
}

/// What the source is to be registered beside; none if it cannot be.
fn compared(
    context: &Context,
    prepared: &Prepared,
    arguments: &AddArguments,
    document: &mut AddDocument,
) -> Option<Before> {
    let before = match registration::compare(context, prepared, arguments.replace) {
        Ok(before) => before,
        Err(e) => {
            document.steps.add("register", StepResult::Failed, e.to_string());
            return None;
        }
    };
    if arguments.dry_run {
        return Some(before);
    }
    match add_plan::conflicts(context, prepared, &before) {
        Ok(conflicts) if conflicts.is_empty() => Some(before),
        Ok(conflicts) => {
            conflicts.into_iter().for_each(|why| document.steps.add("install", StepResult::Failed, why));
            None
        }
        Err(e) => {
            document.steps.add("register", StepResult::Failed, e.to_string());
            None
        }
    }
}

fn confirm_and_install(
    context: &Context,
    arguments: &AddArguments,
    common: &Common,
    (prepared, before): (&Prepared, &Before),
    document: &mut AddDocument,
) -> anyhow::Result<u8> {
    let module = &prepared.module;
    if let Some(why) = unconfirmed(arguments, module, document)? {
        document.steps.add("register", StepResult::Failed, why);
        return Ok(exit::ATTENTION);
    }
    let is_asked = !arguments.yes && !arguments.json;
    let consent = arguments.side.consent(&document.side, is_asked)?;
    wait_for_swupd(context);
    let _lock = Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?;
    // Another run may have changed something meanwhile.
    let before = match registration::compare(context, prepared, arguments.replace) {
        Ok(now) if now == *before => now,
        Ok(_) => {
            document.steps.add("register", StepResult::Failed, "something has changed meanwhile: try again");
            return Ok(exit::ATTENTION);
        }
        Err(e) => {
            document.steps.add("register", StepResult::Failed, e.to_string());
            return Ok(exit::ATTENTION);
        }
    };
    if let Err(e) = registration::register(context, prepared, &before) {
        document.steps.add("register", StepResult::Failed, e.to_string());
        return Ok(exit::ATTENTION);
    }
    document.steps.push(before.step(context, module, StepResult::Done));
    let show = ProgressMode::live_or(ProgressMode::Log, common.quiet);
    let done = registration::install(context, prepared, &before, show)?;
    let code = finish(context, (prepared, &before), &done, consent, document);
    match (document.installed, arguments.load) {
        (true, true) => Ok(code.max(load_all(context, module, document))),
        (true, false) if context.root.kind() != RootKind::Image => {
            let text = when_loaded(context, module, document);
            document.steps.add("load", StepResult::Skipped, text);
            Ok(code)
        }
        _ => Ok(code),
    }
}

/// When a module is loaded that was not to be loaded now.
fn when_loaded(context: &Context, module: &ModuleName, document: &AddDocument) -> String {
    let at_boot = match &document.side.autoload {
        None => "whether a device loads it at boot is unknown",
        Some(need) if !need.needed => "its device loads it at boot",
        Some(need) if matches!(need.result, SideFileResult::Written | SideFileResult::Present) => {
            "it is loaded at each boot"
        }
        Some(_) => "no device loads it at boot: --autoload does",
    };
    let now = match loading::files(context, module) {
        Ok(Ok(_)) => "--load or modprobe loads it now".to_owned(),
        Ok(Err(why)) => why,
        Err(e) => e.to_string(),
    };
    format!("{at_boot}; {now}")
}

/// Why the module is not to be registered.
fn unconfirmed(
    arguments: &AddArguments,
    module: &ModuleName,
    document: &AddDocument,
) -> std::io::Result<Option<&'static str>> {
    let nothing = "not confirmed: nothing has been changed";
    if !document.in_kernel.is_empty() && !arguments.replace {
        let names = document.in_kernel.join(", ");
        match confirmed(&format!("Install this {names} in place of what the kernel has?"))? {
            Some(true) => {}
            Some(false) => return Ok(Some(nothing)),
            None => {
                return Ok(Some(
                    "the kernel has the module already: --replace installs this one in its place",
                ));
            }
        }
    }
    if arguments.yes {
        return Ok(None);
    }
    Ok(match confirmed(&format!("Register {module}, and build and install it as root?"))? {
        Some(true) => None,
        Some(false) => Some(nothing),
        None => Some("without a terminal to ask on, --yes confirms; nothing has been changed"),
    })
}

/// Loads it, and says what became of it.
fn load_all(context: &Context, module: &ModuleName, document: &mut AddDocument) -> u8 {
    let files = match loading::files(context, module) {
        Ok(Ok(files)) => files,
        Ok(Err(why)) => {
            document.steps.add("load", StepResult::Skipped, why);
            return exit::ATTENTION;
        }
        Err(e) => {
            document.steps.add("load", StepResult::Failed, e.to_string());
            return exit::UNKNOWN;
        }
    };
    let mut code = exit::OK;
    for file in files {
        let name = stem(&file).unwrap_or(&file).to_owned();
        let (result, text) = match loading::load(context, &file) {
            Ok(LoadOutcome::Loaded { taints, devices }) => {
                (StepResult::Done, loaded(&name, &taints, &devices))
            }
            Ok(LoadOutcome::Before) => {
                let until = "what is loaded stays until it is unloaded or the next boot";
                (StepResult::Warning, format!("{name} was loaded before: {until}"))
            }
            Ok(LoadOutcome::Refused { why, log }) => {
                let log: String = log.iter().map(|line| format!("; kernel: {line}")).collect();
                (StepResult::Failed, format!("{name} is not loaded: {why}{log}"))
            }
            Err(why) => (StepResult::Failed, format!("{name}: {why}")),
        };
        if result == StepResult::Failed {
            code = exit::ATTENTION;
        }
        document.steps.add("load", result, text);
    }
    code
}

fn loaded(name: &str, taints: &str, devices: &[String]) -> String {
    let taints = match taints {
        "" => String::new(),
        letters => format!(", marked {letters} by the kernel"),
    };
    match devices {
        [] => format!("{name} is loaded{taints}; it drives no device"),
        devices => format!("{name} is loaded{taints}; it drives {}", devices.join(", ")),
    }
}

/// Keeps what works, and takes back what does not.
fn finish(
    context: &Context,
    (prepared, before): (&Prepared, &Before),
    done: &Done,
    consent: SideConsent,
    document: &mut AddDocument,
) -> u8 {
    let module = &prepared.module;
    let failed = done.attempts.iter().filter_map(|attempt| {
        let (_, why) = attempt.failure.as_ref()?;
        Some(format!("{}: {why}", attempt.release))
    });
    let left = done.left_alone.iter().filter_map(|left| before.failure(left));
    let mut problems: Vec<String> = failed.chain(left).collect();
    let unproven = if problems.is_empty() { done.unproven.as_slice() } else { &[] };
    let (open, flawed): (Vec<_>, Vec<_>) = unproven.iter().partition(|left| left.state == State::Unknown);
    problems.extend(flawed.iter().map(ToString::to_string));
    if interrupt::asked() {
        problems.push("the run was asked to stop".to_owned());
    }
    if done.is_undetermined() {
        problems.push("it cannot be determined what is to be done".to_owned());
    }
    if !problems.is_empty() {
        problems.iter().for_each(|why| document.steps.add("install", StepResult::Failed, why));
        registration::undo(context, prepared, before, &mut document.steps);
        return exit::ATTENTION;
    }
    for attempt in done.attempts.iter().filter(|a| !open.iter().any(|left| left.is(&a.module, &a.release))) {
        document.steps.add("install", StepResult::Done, format!("{}: installed and proven", attempt.release));
    }
    for left in &open {
        document.steps.add("install", StepResult::Warning, left.to_string());
    }
    let hooks = registration::failed_hooks(context, module, done);
    let is_complete = hooks.is_empty() && done.refused.is_empty();
    hooks.into_iter().for_each(|step| document.steps.push(step));
    // None of what is left alone is a failure here: its dkms.conf excludes these kernels.
    let is_excluded = |release: &String| done.left_alone.iter().any(|left| left.release == *release);
    let is_nowhere =
        done.attempts.is_empty() && !done.left_alone.is_empty() && prepared.releases.iter().all(is_excluded);
    for left in &done.left_alone {
        let result = if is_nowhere { StepResult::Warning } else { StepResult::Skipped };
        document.steps.add("install", result, format!("{}: {}", left.release, left.why));
    }
    if is_nowhere {
        let text = format!("{module} is registered, and is installed on none of these kernels");
        document.steps.add("install", StepResult::Warning, text);
    } else if done.attempts.is_empty() && done.left_alone.is_empty() {
        document.steps.add("install", StepResult::Skipped, "nothing to do");
    }
    for refused in &done.refused {
        document.steps.add("load", StepResult::Warning, format!("{}: {}", refused.release, refused.why));
    }
    for error in registration::keep(context, prepared, before) {
        document.steps.add("replace", StepResult::Failed, error);
    }
    document.installed = !document.steps.has_failed() && !is_nowhere;
    if document.installed {
        write_side_files(context, module, consent, document);
    }
    let remove = AdminCommand::change("clr-dkms", &["remove", &module.to_string()]);
    document.undo = Some(remove.text(&CommandTarget::of_root(&context.root)));
    match !document.steps.has_failed() && !is_nowhere && is_complete {
        true if open.is_empty() => exit::OK,
        true => exit::UNKNOWN,
        false => exit::ATTENTION,
    }
}
