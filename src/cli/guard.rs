//! `clr-dkms guard`, `hold` and `release`: which kernel boots next, and why; and an admin's word on it.

use std::time::Duration;

use clap::Args;

use super::{Common, answer, need_root};
use crate::boot::removal;
use crate::boot_decision::AdminOverrides;
use crate::config::duration;
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::candidates::is_bootable;
use crate::dkms::Cache;
use crate::exit;
use crate::kernel::Installed;
use crate::report::problem::lacks;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::render::style::ScreenStyle;
use crate::report::render::{self, json, shown};
use crate::requirement::{Importance, MissingModule};
use crate::system::System;
use crate::update::boot_default;
use crate::update::overrides::{self, GuardRefusal};

/// The arguments of `guard`.
#[derive(Debug, Args)]
pub struct GuardArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Point the boot default to the kernel that should be booted (clr-dkms-hold.service, at boot and
    /// shutdown)
    #[arg(long, help_heading = "For units", conflicts_with = "json")]
    pub(super) assert: bool,
    /// Configure swupd, repair modules.dep, restore the message of the day, request a run
    /// (clr-dkms-boot.service)
    #[arg(long, help_heading = "For units", conflicts_with_all = ["json", "assert"])]
    pub(super) at_boot: bool,
    /// With --at-boot or --assert: end after TIME, and leave the rest to the next run
    #[arg(long, help_heading = "For units", value_name = "TIME", value_parser = duration,
        conflicts_with_all = ["json", "may_mark_booted", "disarm"])]
    within: Option<Duration>,
    /// Exit 1 when the running kernel lacks a critical module that the last good one had, else 0
    #[arg(long, help_heading = "For units", conflicts_with_all = ["json", "assert", "at_boot"])]
    may_mark_booted: bool,
    /// Undo the swupd setting of --at-boot (before clr-dkms is removed)
    #[arg(long, help_heading = "For units", conflicts_with_all = ["json", "assert", "at_boot", "may_mark_booted"])]
    disarm: bool,
}

/// The arguments of `hold` and `release`.
#[derive(Debug, Args)]
pub struct KernelArguments {
    /// A kernel release, a kernel id or a variant
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
    /// Print what would be written and which kernel would boot then; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
}

/// The arguments of `release`.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    #[command(flatten)]
    of: KernelArguments,
    /// Also go ahead without a critical module
    #[arg(long, short)]
    force: bool,
}

/// Runs `guard`.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn run(context: &Context, arguments: GuardArguments, common: &Common) -> anyhow::Result<u8> {
    let mut cache = Cache::load(&context.root);
    if arguments.may_mark_booted {
        return Ok(boot_default::may_mark_booted(context, &mut cache));
    }
    if arguments.disarm {
        need_root(context, "clr-dkms guard --disarm")?;
        removal::stop_deferring(&context.root, &context.tools).map_err(anyhow::Error::msg)?;
        return Ok(exit::OK);
    }
    if arguments.at_boot {
        need_root(context, "clr-dkms guard --at-boot")?;
        return boot_default::at_boot(context, &mut cache, arguments.within);
    }
    if arguments.assert {
        need_root(context, "clr-dkms guard --assert")?;
        return boot_default::assert_within(context, &mut cache, arguments.within);
    }
    let report = crate::report::observation::observe_with(context, &mut cache).guard;
    let text =
        if arguments.json { json(&report)? } else { render::guard::text(&report, &ScreenStyle::here(true)) };
    answer(&text, common.color)?;
    Ok(report.exit_code())
}

/// Runs `hold`.
///
/// # Errors
/// When the lock cannot be had, or something cannot be written.
pub fn hold(context: &Context, arguments: &KernelArguments, common: &Common) -> anyhow::Result<u8> {
    change(context, "clr-dkms hold", arguments.dry_run, common, |system, _| {
        let kernel = match &arguments.kernel {
            Some(asked) => named(system, asked)?,
            None => system
                .inventory
                .running_kernel()
                .ok_or_else(|| GuardRefusal::unknown("the running kernel is not installed: name one"))?,
        };
        let release = kernel.name.release();
        if !is_bootable(system, kernel) {
            return Err(GuardRefusal::unknown(format!(
                "{release} cannot be booted: it has no boot entry, and clr-boot-manager makes one only for the tip \
                 of each variant and for the running kernel"
            )));
        }
        if !arguments.dry_run {
            tracing::info!("{release} is the boot default until `clr-dkms release`");
        }
        // The last word counts: what was released before is to be proven again.
        Ok(AdminOverrides { hold: Some(release), ..AdminOverrides::default() })
    })
}

fn named<'f>(system: &'f System, asked: &str) -> Result<&'f Installed, GuardRefusal> {
    system.inventory.require(asked).map_err(|e| GuardRefusal::unknown(e.to_string()))
}

/// Runs `release`.
///
/// # Errors
/// As [`hold`].
pub fn release(context: &Context, arguments: &ReleaseArguments, common: &Common) -> anyhow::Result<u8> {
    let dry = arguments.of.dry_run;
    change(context, "clr-dkms release", dry, common, |system, assessment| {
        let decision = &assessment.decision;
        let mut wishes = system.wishes.clone();
        let held = wishes.hold.take();
        if let Some(held) = held.as_ref().filter(|_| !dry) {
            tracing::info!("{held} is held no more");
        }
        let target = match &arguments.of.kernel {
            Some(asked) => Some(named(system, asked)?.name.release()),
            // To let go of a hold is one thing, to go ahead without a module another.
            None if held.is_some() => None,
            None if decision.holds_back() => decision.target.clone(),
            None => None,
        };
        // To let go of a kernel does not say that it may lack something.
        let Some(target) = target.filter(|target| held.as_ref() != Some(target)) else {
            if held.is_none() {
                tracing::info!("no kernel is held back: nothing to release");
            }
            return Ok(wishes);
        };
        let is_target = decision.target.as_ref() == Some(&target);
        let lacking = match is_target {
            true => decision.lacking.clone(),
            false => assessment.lacks_on(&target, |_| true),
        };
        let critical: Vec<MissingModule> =
            lacking.iter().filter(|l| l.class == Importance::Critical).cloned().collect();
        let is_said = arguments.force || wishes.released.contains(&target);
        if let Some(lack) = lacks(&critical).filter(|_| !is_said) {
            let force = AdminCommand::change("clr-dkms", &["release", "--force"]).to("go ahead without it");
            let step = force.text(&CommandTarget::of_root(&context.root));
            let why = format!("kernel {target} lacks {lack}; {step}");
            if held.is_none() {
                return Err(GuardRefusal { code: exit::UNSAFE, why });
            }
            // The hold goes in any case.
            tracing::warn!("{why}");
            return Ok(wishes);
        }
        if !is_target {
            tracing::info!("{target} is not held back: it is remembered for when it would be");
        }
        for lack in lacking.iter().filter(|_| is_target) {
            tracing::warn!("{target} {} without {lack}", if dry { "would be" } else { "will be" });
        }
        wishes.released.insert(target);
        Ok(wishes)
    })
}

fn change(
    context: &Context,
    verb: &'static str,
    dry_run: bool,
    common: &Common,
    change: impl FnOnce(&System, &BootAssessment) -> Result<AdminOverrides, GuardRefusal>,
) -> anyhow::Result<u8> {
    if !dry_run {
        need_root(context, verb)?;
    }
    let done = overrides::change(context, dry_run, change)?;
    let text: String = done.foretold.iter().map(|line| shown(line) + "\n").collect();
    if !text.is_empty() {
        answer(&text, common.color)?;
    }
    Ok(done.code)
}
