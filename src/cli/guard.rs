//! `clr-dkms guard`: which kernel boots next, and why.

use std::time::Duration;

use clap::Args;

use super::{Common, need_root, show};
use crate::boot::removal;
use crate::config::duration;
use crate::context::Context;
use crate::dkms::Cache;
use crate::exit;
use crate::report::render;
use crate::update::{boot_default, trial, trial_check};

/// The arguments of `guard`.
#[derive(Debug, Args)]
pub struct GuardArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Set the boot default to the kernel that should boot (clr-dkms-hold.service, at boot and shutdown)
    #[arg(long, hide = true, conflicts_with = "json")]
    pub(super) assert: bool,
    /// Configure swupd, repair modules.dep, restore the message of the day, request a run
    /// (clr-dkms-boot.service)
    #[arg(long, hide = true, conflicts_with_all = ["json", "assert"])]
    pub(super) at_boot: bool,
    /// With --assert: the machine is shut down (clr-dkms-hold.service)
    #[arg(long, hide = true, requires = "assert")]
    at_shutdown: bool,
    /// With --at-boot or --assert: end after TIME, and leave the rest to the next run. With --check-boot:
    /// wait at most TIME for the modules
    #[arg(long, hide = true, value_name = "TIME", value_parser = duration,
        conflicts_with_all = ["json", "may_mark_booted", "disarm"])]
    within: Option<Duration>,
    /// Exit 1 if the running kernel lacks a critical module that the last good one had, otherwise 0
    #[arg(long, hide = true, conflicts_with_all = ["json", "assert", "at_boot"])]
    may_mark_booted: bool,
    /// If the running kernel is on trial: wait for its critical modules, and end the trial
    /// (clr-dkms-trial.service)
    #[arg(long, hide = true, conflicts_with_all = ["json", "assert", "at_boot", "may_mark_booted"])]
    check_boot: bool,
    /// Undo the swupd setting of --at-boot (before clr-dkms is removed)
    #[arg(long, hide = true, conflicts_with_all = ["json", "assert", "at_boot", "may_mark_booted", "check_boot"])]
    disarm: bool,
}

/// Runs `guard`.
///
/// # Errors
/// If the lock cannot be taken, or a file cannot be written.
pub fn run(context: &Context, arguments: GuardArguments, common: &Common) -> anyhow::Result<u8> {
    let mut cache = Cache::load(&context.root);
    if arguments.may_mark_booted {
        return Ok(boot_default::may_mark_booted(context, &mut cache));
    }
    if arguments.check_boot {
        need_root(context, "clr-dkms guard --check-boot")?;
        return trial_check::check(context, &mut cache, arguments.within);
    }
    if arguments.disarm {
        need_root(context, "clr-dkms guard --disarm")?;
        removal::stop_deferring(&context.root, &context.tools)?;
        trial::forget(context)?;
        return Ok(exit::OK);
    }
    if arguments.at_boot {
        need_root(context, "clr-dkms guard --at-boot")?;
        return boot_default::at_boot(context, &mut cache, arguments.within);
    }
    if arguments.assert {
        need_root(context, "clr-dkms guard --assert")?;
        // What fails here must not keep the boot default from being corrected.
        if arguments.at_shutdown
            && let Err(e) = trial_check::end_of_boot(context)
        {
            tracing::error!("{e:#}");
        }
        return boot_default::assert_within(context, &mut cache, arguments.within);
    }
    let report = crate::report::observation::observe_with(context, &mut cache).guard;
    show(context, &report, arguments.json, common, render::guard::text)?;
    Ok(report.exit_code())
}
