//! Adds `module.sig_unenforce` to the fragments if the modules of this machine need it.

use crate::cmdline::writer::{self, Ours, Wish};
use crate::cmdline::{CmdlineSources, PARAMETER};
use crate::context::Context;
use crate::decide::assessment::assess;
use crate::decide::next_boot::coming_lines;
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::state::RunRecord;
use crate::sys::FileError;
use crate::system::System;

/// How the fragments change so that the parameter is set; no change if it is not needed.
///
/// # Errors
/// If the files that clr-dkms has written before cannot be read.
pub fn cmdline_plan(
    context: &Context,
    system: &System,
    record: Option<&RunRecord>,
) -> Result<(Ours, writer::WriterPlan), FileError> {
    let needs = assess(system, &context.settings, record).needs;
    if !sig_unenforce_wanted(&context.settings, system, &needs) {
        return Ok((Ours::default(), writer::WriterPlan::default()));
    }
    let ours = Ours::load(&context.root)?;
    let sources: Vec<CmdlineSources> = coming_lines(system).map(|l| l.sources.copy()).collect();
    let plan = writer::plan(Wish::Ensure, &sources, &ours);
    Ok((ours, plan))
}

/// Sets the parameter if it is needed. Returns what prevents it, and whether a file was changed.
pub(super) fn ensure(context: &Context, system: &System, record: Option<&RunRecord>) -> (Vec<String>, bool) {
    let mut changed = false;
    let done = cmdline_plan(context, system, record).and_then(|(ours, plan)| {
        for step in &plan.steps {
            tracing::info!("command line: {step}");
            changed = true;
        }
        writer::apply(&context.root, &plan, &ours).map(|()| plan.blockers)
    });
    let blockers = match done {
        Ok(blockers) => blockers.iter().map(|o| o.message(&context.root)).collect(),
        Err(e) => vec![e.to_string()],
    };
    (blockers, changed)
}

/// Reports what prevents the parameter from being set.
pub(super) fn report_blocker(blocker: &str) {
    tracing::error!("{PARAMETER} is needed, but {blocker}");
}
