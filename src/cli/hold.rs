//! `clr-dkms hold`, `unhold`, `allow` and `release`: an admin's override of which kernel boots next.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::{Common, answer, need_root};
use crate::boot_decision::{AdminOverrides, Allowance, OverrideNote};
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::candidates::is_bootable;
use crate::decide::trial::has_failed;
use crate::dkms::Cache;
use crate::exit::{self, ExitReason};
use crate::kernel::Installed;
use crate::report::boot_remedies;
use crate::report::problem::lacks;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::render::{json, shown};
use crate::requirement::{Importance, MissingModule};
use crate::sys::users;
use crate::system::System;
use crate::update::boot_default::Observed;
use crate::update::overrides::{self, Request};

/// The options that these verbs share.
#[derive(Debug, Args)]
pub struct OverrideOptions {
    /// Print what would be written and which kernel would boot then; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The arguments of `hold`.
#[derive(Debug, Args)]
pub struct HoldArguments {
    /// A kernel release, a kernel id or a variant
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
    /// Record why; `clr-dkms status` shows it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    options: OverrideOptions,
}

/// The arguments of `unhold`.
#[derive(Debug, Args)]
pub struct UnholdArguments {
    #[command(flatten)]
    options: OverrideOptions,
}

/// The arguments of `release`, which had two purposes in version 0.1.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// Ignored
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
    /// Ignored
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    options: OverrideOptions,
}

/// The arguments of `allow`.
#[derive(Debug, Args)]
pub struct AllowArguments {
    /// A kernel release, a kernel id or a variant
    #[arg(value_name = "KERNEL")]
    kernel: String,
    /// A module that the kernel may lack, with or without its version (repeat for more); without this option,
    /// a kernel whose first boot failed is tried again
    #[arg(long, value_name = "MODULE")]
    without: Vec<String>,
    /// Record why; `clr-dkms status` shows it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Do not ask for confirmation
    #[arg(long, short)]
    yes: bool,
    /// Also allow it if a module is critical; --yes does not include this
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    options: OverrideOptions,
}

/// The user, the time and the reason of a request.
fn note(context: &Context, reason: Option<&str>) -> OverrideNote {
    // It is shown within a line.
    let reason = reason.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    OverrideNote {
        by: Some(users::own_name()),
        since: Some(context.clock.now()),
        reason: reason.filter(|text| !text.is_empty()),
    }
}

/// Runs `hold`.
///
/// # Errors
/// If the lock cannot be taken, or a file cannot be written.
pub fn hold(context: &Context, arguments: &HoldArguments, common: &Common) -> anyhow::Result<u8> {
    let options = &arguments.options;
    change(context, "clr-dkms hold", options, common, |system, _| {
        let kernel = match &arguments.kernel {
            Some(asked) => named(system, asked)?,
            None => system
                .inventory
                .running_kernel()
                .ok_or_else(|| ExitReason::unknown("the running kernel is not installed: name one"))?,
        };
        let release = kernel.name.release();
        if !is_bootable(system, kernel) {
            return Err(ExitReason::unknown(format!(
                "{release} cannot be booted: it has no boot entry, and clr-boot-manager makes one only for the tip \
                 of each variant and for the running kernel"
            )));
        }
        if !options.dry_run {
            tracing::info!("{release} is the boot default until `clr-dkms unhold`");
        }
        for ended in system.wishes.allowed.iter().filter(|_| !options.dry_run) {
            tracing::info!("no longer allowed: {ended}");
        }
        let is_same = system.wishes.hold.as_ref() == Some(&release) && arguments.reason.is_none();
        let held = match is_same {
            true => system.wishes.held.clone(),
            false => note(context, arguments.reason.as_deref()),
        };
        // The latest request replaces the earlier ones: an allowed kernel must be proven again.
        Ok(Some(AdminOverrides { hold: Some(release), held, ..AdminOverrides::default() }.into()))
    })
}

fn named<'f>(system: &'f System, asked: &str) -> Result<&'f Installed, ExitReason> {
    system.inventory.require(asked).map_err(ExitReason::unknown)
}

/// The requests without the hold; none if there is no hold.
fn without_hold(system: &System, dry_run: bool) -> Option<AdminOverrides> {
    let mut wishes = system.wishes.clone();
    let held = wishes.hold.take();
    wishes.held = OverrideNote::default();
    if let Some(held) = held.as_ref().filter(|_| !dry_run) {
        tracing::info!("{held} is no longer held");
    }
    // A faulty file may contain a hold.
    (held.is_some() || wishes.fault.is_some()).then_some(wishes)
}

/// Runs `unhold`.
///
/// # Errors
/// As for [`hold`].
pub fn unhold(context: &Context, arguments: &UnholdArguments, common: &Common) -> anyhow::Result<u8> {
    let options = &arguments.options;
    change(context, "clr-dkms unhold", options, common, |system, _| {
        let wishes = without_hold(system, options.dry_run);
        if wishes.is_none() {
            tracing::info!("no kernel is held: nothing to do");
        }
        Ok(wishes.map(Request::from))
    })
}

/// Runs `release`: like `unhold` if a kernel is held. Without a hold, version 0.1 accepted what a kernel
/// lacks.
///
/// # Errors
/// As for [`hold`].
pub fn release(context: &Context, arguments: &ReleaseArguments, common: &Common) -> anyhow::Result<u8> {
    let options = &arguments.options;
    change(context, "clr-dkms release", options, common, |system, assessment| {
        if let Some(wishes) = without_hold(system, options.dry_run) {
            return Ok(Some(wishes.into()));
        }
        let decision = &assessment.decision;
        let target = decision.target.as_deref().filter(|_| decision.holds_back());
        let allow = target.and_then(|kernel| boot_remedies::allow(&system.wishes, kernel, &decision.lacking));
        let allow = allow.unwrap_or_else(|| {
            let words = ["allow", "KERNEL", "--without", "MODULE"];
            AdminCommand::change("clr-dkms", &words).to("let a kernel boot without a module")
        });
        let step = allow.text(&CommandTarget::of_root(&context.root));
        Err(ExitReason::attention(format!("no kernel is held, and nothing has been changed; {step}")))
    })
}

/// The kernel, and those of the named modules that it lacks.
fn lacking(
    system: &System,
    assessment: &BootAssessment,
    arguments: &AllowArguments,
) -> Result<(String, Vec<MissingModule>), ExitReason> {
    let release = named(system, &arguments.kernel)?.name.release();
    let decision = &assessment.decision;
    let all = match decision.target.as_ref() == Some(&release) {
        true => decision.lacking.clone(),
        false => assessment.lacks_on(&release, |need| need.class > Importance::Optional),
    };
    let mut found = Vec::new();
    for asked in &arguments.without {
        let is_it = |lack: &&MissingModule| lack.module == *asked || lack.name() == asked;
        let name = asked.split('/').next().unwrap_or(asked);
        match all.iter().find(is_it) {
            Some(lack) => found.push(lack.clone()),
            None if system.wishes.allows(&release, name) => {}
            None => {
                let names: Vec<&str> = all.iter().map(MissingModule::name).collect();
                return Err(ExitReason::unknown(match names.as_slice() {
                    [] => format!("kernel {release} lacks no required module: nothing has to be allowed"),
                    names => format!(
                        "{} is not a required module that kernel {release} lacks; it lacks: {}",
                        shown(asked),
                        names.join(", ")
                    ),
                }));
            }
        }
    }
    let critical: Vec<MissingModule> =
        found.iter().filter(|lack| lack.class == Importance::Critical).cloned().collect();
    let is_known = critical.iter().all(|lack| system.wishes.allows(&release, lack.name()));
    if let Some(lack) = lacks(&critical).filter(|_| !arguments.force && !is_known) {
        return Err(ExitReason {
            code: exit::UNSAFE,
            why: format!("kernel {release} lacks {lack}; to go ahead without it, add --force to the command"),
        });
    }
    Ok((release, found))
}

/// What the user answers on a terminal; none without a terminal.
fn answered(question: &str) -> std::io::Result<Option<String>> {
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() || !stderr.is_terminal() {
        return Ok(None);
    }
    write!(stderr, "{question} ")?;
    stderr.flush()?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(Some(line.trim().to_owned()))
}

/// Whether the user confirms on a terminal; none without a terminal.
pub(super) fn confirmed(question: &str) -> std::io::Result<Option<bool>> {
    let answer = answered(&format!("{} [y/N]", shown(question)))?;
    Ok(answer.map(|answer| ["y", "yes"].contains(&answer.to_ascii_lowercase().as_str())))
}

/// The usual reason of [`unconfirmed`] without a terminal.
pub(super) const NO_TERMINAL: &str = "without a terminal to ask on, --yes confirms; nothing has been changed";

/// Why nothing is to be done; none if the user confirms on a terminal. `alone` is the reason without one.
pub(super) fn unconfirmed(question: &str, alone: &str) -> std::io::Result<Option<String>> {
    Ok(match confirmed(question)? {
        Some(true) => None,
        Some(false) => Some("not confirmed: nothing has been changed".to_owned()),
        None => Some(alone.to_owned()),
    })
}

/// The choice that the user makes on a terminal, counted from 0; none without a terminal, or without a valid
/// answer.
pub(super) fn chosen(question: &str, choices: &[String]) -> std::io::Result<Option<usize>> {
    let list = choices.iter().enumerate().map(|(at, choice)| format!("{:>3}  {}\n", at + 1, shown(choice)));
    let list: String = list.collect();
    let answer = answered(&format!("{list}{} [1-{}]", shown(question), choices.len()))?;
    // What is not a number is not a choice.
    let at = answer.and_then(|answer| answer.parse::<usize>().ok()).and_then(|at| at.checked_sub(1));
    Ok(at.filter(|at| *at < choices.len()))
}

/// Asks before the lock is taken, because the answer may take a while.
fn ask(context: &Context, arguments: &AllowArguments) -> anyhow::Result<Result<(), ExitReason>> {
    let seen = Observed::new(context, &mut Cache::load(&context.root));
    let (release, lacking) = match lacking(&seen.system, &seen.assessment, arguments) {
        Ok(found) => found,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let new: Vec<MissingModule> =
        lacking.into_iter().filter(|lack| !seen.system.wishes.allows(&release, lack.name())).collect();
    let Some(lack) = lacks(&new) else { return Ok(Ok(())) };
    let alone = format!("kernel {release} lacks {lack}: {NO_TERMINAL}");
    let why = unconfirmed(&format!("Let kernel {release} boot without {lack}?"), &alone)?;
    Ok(why.map_or(Ok(()), |why| Err(ExitReason::attention(why))))
}

/// Runs `allow`.
///
/// # Errors
/// As for [`hold`].
pub fn allow(context: &Context, arguments: &AllowArguments, common: &Common) -> anyhow::Result<u8> {
    if arguments.without.is_empty() {
        return try_again(context, arguments, common);
    }
    let dry_run = arguments.options.dry_run;
    let asked = match arguments.yes || dry_run {
        true => Ok(()),
        false => {
            need_root(context, "clr-dkms allow")?;
            ask(context, arguments)?
        }
    };
    change(context, "clr-dkms allow", &arguments.options, common, |system, assessment| {
        asked?;
        let (release, lacking) = lacking(system, assessment, arguments)?;
        let mut wishes = system.wishes.clone();
        let is_target = assessment.decision.target.as_ref() == Some(&release);
        for lack in lacking.iter().filter(|lack| !system.wishes.allows(&release, lack.name())) {
            wishes.allowed.push(Allowance {
                kernel: release.clone(),
                without: lack.name().to_owned(),
                note: note(context, arguments.reason.as_deref()),
            });
        }
        if let Some(held) = &wishes.hold {
            tracing::info!("{held} is held: {release} does not boot by default until `clr-dkms unhold`");
        } else if !is_target {
            tracing::info!("{release} is not held back: the permission is stored for that case");
        } else {
            for lack in &lacking {
                tracing::warn!("{release} {} without {lack}", if dry_run { "would be" } else { "will be" });
            }
        }
        Ok(Some(wishes.into()))
    })
}

/// Lets a kernel be booted again whose trial has failed.
fn try_again(context: &Context, arguments: &AllowArguments, common: &Common) -> anyhow::Result<u8> {
    change(context, "clr-dkms allow", &arguments.options, common, |system, assessment| {
        let release = named(system, &arguments.kernel)?.name.release();
        if !has_failed(system, &release) {
            let lacking = match assessment.decision.target.as_ref() == Some(&release) {
                true => assessment.decision.lacking.clone(),
                false => assessment.lacks_on(&release, |need| need.class > Importance::Optional),
            };
            let step = boot_remedies::allow(&system.wishes, &release, &lacking);
            let step = step.map(|step| format!("; {}", step.text(&CommandTarget::of_root(&context.root))));
            return Err(ExitReason::unknown(format!(
                "no boot of kernel {release} has failed: there is nothing to try again{}",
                step.unwrap_or_default()
            )));
        }
        if !arguments.options.dry_run {
            tracing::info!("kernel {release} is tried again");
        }
        Ok(Some(Request { wishes: system.wishes.clone(), try_again: Some(release) }))
    })
}

fn change(
    context: &Context,
    verb: &'static str,
    options: &OverrideOptions,
    common: &Common,
    change: impl FnOnce(&System, &BootAssessment) -> Result<Option<Request>, ExitReason>,
) -> anyhow::Result<u8> {
    if !options.dry_run {
        need_root(context, verb)?;
    }
    let done = overrides::change(context, options.dry_run, change)?;
    let text = match options.json {
        true => json(&done)?,
        false => done.foreseen.iter().map(|line| shown(line) + "\n").collect(),
    };
    if !text.is_empty() {
        answer(&text, common.color)?;
    }
    Ok(done.exit_code)
}
