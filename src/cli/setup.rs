//! `clr-dkms setup`: makes a system ready for modules.

use clap::Args;

use super::hold::{NO_TERMINAL, unconfirmed};
use super::{Common, answer, need_root};
use crate::context::Context;
use crate::exit::{self, ExitReason};
use crate::report::add::StepResult;
use crate::report::render::json;
use crate::report::render::setup::{found, rest};
use crate::report::render::style::ScreenStyle;
use crate::report::setup::SetupDocument;
use crate::sys::interrupt;
use crate::update::progress::ProgressMode;
use crate::update::sequence::{lock, wait_for_swupd};
use crate::update::setup::{self, SetupPlan};

/// The arguments of `setup`.
#[derive(Debug, Args)]
pub struct SetupArguments {
    /// Print what is missing and what would be done; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Print the whole document as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `setup`.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn run(context: &Context, arguments: &SetupArguments, common: &Common) -> anyhow::Result<u8> {
    if !arguments.dry_run {
        need_root(context, "clr-dkms setup")?;
    }
    interrupt::watch()?;
    let plan = SetupPlan::observe(context).map_err(ExitReason::unknown)?;
    let mut document = SetupDocument::default();
    plan.describe(context, &mut document);
    if arguments.dry_run {
        setup::foresee(context, &mut document);
    }
    let shown = document.steps.len();
    let style = ScreenStyle::here(true, context.clock.now());
    if !arguments.json {
        answer(&found(&document, &style), common.color)?;
    }
    if !arguments.dry_run && get_bundles(context, arguments, &plan, &mut document)? {
        let _lock = lock(context)?;
        let show = ProgressMode::live_or(ProgressMode::Log, common.quiet);
        setup::complete(context, show, &mut document)?;
        document.ready = !document.steps.has_failed();
    }
    let text = if arguments.json { json(&document)? } else { rest(&document, shown, &style) };
    answer(&text, common.color)?;
    Ok(if document.steps.has_failed() { exit::ATTENTION } else { exit::OK })
}

/// Installs the bundles that are missing, and looks whether that helped. False when nothing else is to be
/// done.
fn get_bundles(
    context: &Context,
    arguments: &SetupArguments,
    plan: &SetupPlan,
    document: &mut SetupDocument,
) -> anyhow::Result<bool> {
    if plan.bundles().is_empty() {
        return Ok(true);
    }
    if !arguments.yes {
        let question = format!("Install {} with swupd?", plan.bundles().join(", "));
        if let Some(why) = unconfirmed(&question, NO_TERMINAL)? {
            document.steps.add("bundle", StepResult::Failed, why);
            return Ok(false);
        }
    }
    wait_for_swupd(context);
    if !plan.install(context, document) {
        return Ok(false);
    }
    match SetupPlan::observe(context) {
        Ok(after) if !after.bundles().is_empty() || (after.is_unfilled() && !plan.is_unfilled()) => {
            let missing = after.missing().join("; ");
            document.steps.add("bundle", StepResult::Failed, format!("still missing: {missing}"));
        }
        Ok(_) => {}
        Err(why) => document.steps.add("bundle", StepResult::Failed, why),
    }
    Ok(true)
}
