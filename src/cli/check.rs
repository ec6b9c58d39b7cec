//! `clr-dkms check`: the verdict as an exit code, for monitors and scripts.

use clap::Args;
use serde::Serialize;

use super::{Common, answer};
use crate::context::Context;
use crate::exit;
use crate::report::Verdict;
use crate::report::observation::observe_whole;
use crate::report::render::{json, nagios};

/// The arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Exit 0 if a reboot is pending and safe, 1 if none is pending or it is not safe
    #[arg(long)]
    reboot_pending: bool,
    /// Print one line with performance data, for Nagios and Icinga; exit with 0, 1, 2 or 3 also after an
    /// error
    #[arg(long, conflicts_with_all = ["json", "reboot_pending"])]
    pub(super) nagios: bool,
    /// The verdict, the exit code and the next step, as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct CheckReport<'a> {
    schema: u32,
    verdict: Verdict,
    id: &'static str,
    exit_code: u8,
    may_reboot: Option<bool>,
    reboot_pending: bool,
    summary: &'a str,
    next_step: Option<&'a str>,
}

/// Runs `check`.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(context: &Context, asked: &CheckArguments, common: &Common) -> anyhow::Result<u8> {
    let document = observe_whole(context);
    let verdict = document.verdict;
    let is_pending = verdict == Verdict::RebootPending;
    let code = match (asked.reboot_pending, is_pending) {
        (true, true) => exit::OK,
        (true, false) => exit::ATTENTION,
        (false, _) => verdict.exit_code(),
    };
    if asked.nagios {
        answer(&nagios::of_status(&document), common.color)?;
    }
    if asked.json {
        let report = CheckReport {
            schema: 1,
            verdict,
            id: document.id,
            exit_code: code,
            may_reboot: document.may_reboot,
            reboot_pending: is_pending,
            summary: &document.summary,
            next_step: document.next_step.as_deref(),
        };
        answer(&json(&report)?, common.color)?;
    }
    Ok(code)
}
