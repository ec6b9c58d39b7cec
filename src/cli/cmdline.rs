//! `clr-dkms-cmdline`: `module.sig_unenforce` on the kernel command line.

mod refused;

use std::collections::BTreeSet;
use std::io::IsTerminal;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;

use self::refused::Refused;
use super::{Common, answer, need_root};
use crate::cmdline::report::{LineReport, report};
use crate::cmdline::writer::{self, Ours, Wish, WriterPlan};
use crate::cmdline::{CmdlineSources, PARAMETER, effective, merge};
use crate::config::SigUnenforce;
use crate::context::Context;
use crate::decide::assessment::assess;
use crate::decide::sig_unenforce::{Breach, parameter_wanted};
use crate::decide::unread::first_that_decides;
use crate::dkms::Cache;
use crate::exit::{self, ExitReason};
use crate::kernel::inventory::{IMAGES, NamedKernel};
use crate::kernel::{Images, Inventory, NoSuchKernel};
use crate::report::enforcement_remedies::ParameterFix;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::report::render::cmdline::{screen, word_diff};
use crate::report::render::{WIDTH, broken, shown};
use crate::state::{self, RECORD, RunRecord};
use crate::sys::Root;
use crate::sys::printable::printable_lines;
use crate::system::{KernelCmdline, System};
use crate::update::cmdline::{lines, put_into_entries};
use crate::update::sequence::lock;

/// Add module.sig_unenforce to the kernel command line or remove it, and show the line.
///
/// A Clear Linux kernel refuses every module that was not signed when the kernel was built, unless this
/// parameter is on its command line. Only files that clr-dkms-cmdline wrote itself are ever changed or
/// removed. If another file prevents the change, it is named, with the command that would remove the
/// obstacle. Afterwards `clr-boot-manager update` is run, and the boot entries are read back.
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-cmdline",
    version,
    after_help = "Examples:\n  clr-dkms-cmdline show\n  \
    clr-dkms-cmdline show --kernel native --raw\n  clr-dkms-cmdline enable --dry-run\n  clr-dkms-cmdline default\n  \
    clr-dkms-cmdline check || clr-dkms-cmdline enable"
)]
pub struct CmdlineArguments {
    #[command(subcommand)]
    verb: CmdlineVerb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum CmdlineVerb {
    /// Make the parameter effective, with the smallest change
    ///
    /// If a fragment in force sets it, nothing is changed. Otherwise the mask that clr-dkms-cmdline wrote is
    /// removed, or /etc/kernel/cmdline.d/clr-dkms.conf is written.
    ///
    /// Exit code 0: it is effective; 1: something prevents it, or the boot entries could not be written; 3:
    /// it cannot be determined what sets it.
    Enable(Change),
    /// Remove the parameter from the line: mask the vendor's fragment
    ///
    /// If no bundle ships a fragment there is nothing to mask: `[cmdline] sig-unenforce = off` in
    /// clr-dkms.conf keeps clr-dkms-post-update from writing its own again.
    ///
    /// Modules that this machine uses, and that the next boot will refuse because of the change, are listed.
    /// If one of them is critical, nothing is changed unless --force is given. If the next run would set the
    /// parameter again, this is reported.
    ///
    /// Exit code 0: it is off; 1: a file that is not from clr-dkms sets it, the boot entries could not be
    /// written, or a wanted module will be refused; 2: the next boot would lack a critical module; 3: it
    /// cannot be determined what sets it. The codes are the same with --dry-run.
    Disable(DefaultChange),
    /// Revert every change that clr-dkms-cmdline made
    ///
    /// If the next boot would then refuse a module that is in use and that it accepts now, nothing is changed
    /// unless --force is given.
    ///
    /// Exit code 0: done, or nothing to do; 1: something prevents it, the boot entries could not be written,
    /// or a wanted module would be refused; 2: the next boot would lack a critical module.
    Default(DefaultChange),
    /// Check whether the configured line matches the configuration
    ///
    /// `[cmdline] sig-unenforce` in clr-dkms.conf can be `on`, `off` or `auto`. With `auto` the parameter is
    /// wanted on as long as a kernel that requires signatures has to load any DKMS module. Only differences
    /// are printed.
    ///
    /// Exit code 0: it matches, or no kernel is installed; 1: it does not match, or a setting in
    /// clr-dkms.conf is invalid; 3: it cannot be determined.
    Check,
    /// Show the command line that clr-boot-manager makes of the present files
    ///
    /// Each word is shown with its file and line. `–` marks what is masked or removed, `!` what lost a part.
    /// This is what the next `clr-boot-manager update` writes after `root=…`.
    ///
    /// Exit code 0: shown, or no kernel is installed; 3: a file cannot be read that may add to the line, or
    /// there is no such kernel.
    Show(ShowArguments),
}

#[derive(Debug, Args)]
struct Change {
    /// Print what would be changed, and the line before and after
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Do not update the boot entries
    #[arg(long)]
    no_refresh: bool,
}

#[derive(Debug, Args)]
struct DefaultChange {
    #[command(flatten)]
    change: Change,
    /// Continue even if the next boot will refuse a module that it accepts now, or lack a critical one
    #[arg(long, short)]
    force: bool,
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// A kernel release, a kernel id or a variant; the default is the default kernel of each variant
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Option<String>,
    /// Print only the line
    #[arg(long, requires = "kernel", conflicts_with = "json")]
    raw: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `clr-dkms-cmdline`.
///
/// # Errors
/// If the root or the configuration cannot be used, or a file cannot be written.
pub fn run(arguments: CmdlineArguments) -> Result<u8> {
    let context = match arguments.verb {
        CmdlineVerb::Show(_) | CmdlineVerb::Check => arguments.common.report_world("clr-dkms-cmdline")?,
        _ => arguments.common.strict_world("clr-dkms-cmdline")?,
    };
    let (wish, change, force) = match arguments.verb {
        CmdlineVerb::Show(show) => return self::show(&context, &show, &arguments.common),
        CmdlineVerb::Check => return Ok(check(&context)),
        CmdlineVerb::Enable(change) => (Wish::Enable, change, false),
        CmdlineVerb::Disable(DefaultChange { change, force }) => (Wish::Disable, change, force),
        CmdlineVerb::Default(DefaultChange { change, force }) => (Wish::Default, change, force),
    };
    if change.dry_run {
        return self::change(&context, wish, &change, force, &arguments.common);
    }
    need_root(&context, "clr-dkms-cmdline")?;
    let _lock = lock(&context)?;
    self::change(&context, wish, &change, force, &arguments.common)
}

/// Why there is no kernel to report on; none if there is one.
pub fn no_kernels(root: &Root, inventory: &Inventory) -> Option<String> {
    let why = match (&inventory.images, inventory.kernels.is_empty()) {
        (Images::Unreadable { reason }, _) => reason.clone(),
        (_, true) => format!("there is no kernel in {}", root.shown_path(IMAGES).display()),
        _ => return None,
    };
    Some(format!("{why}; is this the root of a system?"))
}

/// The exit code of a report without a kernel: 0 as for the verdict `not-applicable`, unless the kernels
/// could not be listed.
pub fn without_kernel(inventory: &Inventory, why: &str) -> u8 {
    if matches!(inventory.images, Images::Unreadable { .. }) || !inventory.kernels.is_empty() {
        tracing::error!("{why}");
        return exit::UNKNOWN;
    }
    tracing::info!("{why}");
    exit::OK
}

/// With `force` the change is made even if a kernel then refuses what it accepts now.
fn change(context: &Context, wish: Wish, change: &Change, force: bool, common: &Common) -> Result<u8> {
    let inventory = Inventory::observe(&context.root);
    if let Some(why) = no_kernels(&context.root, &inventory) {
        // Reverting our own changes does not need a kernel.
        if wish != Wish::Default {
            return Err(ExitReason::unknown(why).into());
        }
        tracing::debug!("{why}");
    }
    let before = lines(context, &inventory);
    // An unreadable file may set the parameter, or be at the path that would be written. A revert does not
    // depend on it.
    if wish != Wish::Default && tell_unreadable(before.iter().flat_map(|l| &l.sources.unreadable)) {
        return Ok(exit::UNKNOWN);
    }
    if wish != Wish::Default && tell_unreadable(first_that_decides(&context.root.unread()).into_iter()) {
        return Ok(exit::UNKNOWN);
    }
    let sources: Vec<CmdlineSources> = before.iter().map(|l| l.sources.copy()).collect();
    let ours = Ours::load(&context.root)?;
    let plan = writer::plan(wish, &sources, &ours);
    // Computed before the change: modules that a kernel refuses do not appear to be in use.
    let newly = matches!(wish, Wish::Disable | Wish::Default).then(|| Refused::foresee(context, &plan, true));
    // With `disable` the admin accepts that modules are refused, but not that the machine loses its disk.
    let is_against = |r: &&Refused| !r.modules.is_empty() && (wish != Wish::Disable || r.is_unsafe);
    if let Some(refused) = newly.as_ref().filter(|r| !force && is_against(r)) {
        let modules = refused.modules.join(", ");
        let force =
            AdminCommand::change("clr-dkms-cmdline", &[wish.verb(), "--force"]).to("change it anyway");
        let step = force.text(&CommandTarget::of_root(&context.root));
        let why =
            format!("the next boot would refuse {modules}, which it accepts now: nothing is changed; {step}");
        return Err(ExitReason { code: refused.code(), why }.into());
    }
    let refused = match wish {
        Wish::Disable => Some(Refused::foresee(context, &plan, false)),
        _ => newly,
    };
    let would = if change.dry_run { "would " } else { "" };
    let steps = plan.steps.iter().flat_map(|step| broken(&format!("{would}{step}"), "", "  "));
    let mut text: String = steps.map(|line| shown(&line) + "\n").collect();
    if plan.steps.is_empty() {
        text += "nothing to change\n";
    }
    if change.dry_run {
        text += &differences(&before, &plan);
    } else {
        writer::apply(&context.root, &plan, &ours)?;
    }
    answer(&text, common.color)?;
    for blocker in &plan.blockers {
        tracing::error!("{}", blocker.message(&context.root));
    }
    let refreshed = change.dry_run
        || before.is_empty()
        || put_into_entries(context, &inventory, !change.no_refresh, &plan, force || wish == Wish::Disable);
    if wish == Wish::Disable
        && plan.blockers.is_empty()
        && let Some(warning) = refused::set_again(context, &plan)
    {
        tracing::warn!("{warning}");
    }
    let done = if plan.blockers.is_empty() && refreshed { exit::OK } else { exit::ATTENTION };
    Ok(done.max(refused.map_or(exit::OK, |refused| refused.tell(&plan, &context.root))))
}

/// The command lines before and after the change, by kernel.
fn differences(before: &[KernelCmdline], plan: &WriterPlan) -> String {
    if plan.steps.is_empty() {
        return String::new();
    }
    // Without quotes, if it fits into the line.
    let quoted = |name: &str, text: &str| -> String {
        let whole = format!("{name}{text}").trim_end().to_owned();
        if whole.chars().count() <= WIDTH {
            return whole + "\n";
        }
        let lines = broken(text, name, &" ".repeat(name.len()));
        lines.iter().map(|line| line.trim_end().to_owned() + "\n").collect()
    };
    let of_kernel = |line: &KernelCmdline| {
        let then = effective(&writer::after(&line.sources, &plan.steps));
        let (before, after) = word_diff(&line.effective, &then);
        format!("{}\n{}{}", line.release, quoted("  before: ", &before), quoted("  after:  ", &after))
    };
    before.iter().map(of_kernel).collect()
}

/// Logs each unreadable item once. Returns whether there is any.
fn tell_unreadable(what: impl Iterator<Item = impl ToString>) -> bool {
    let what: BTreeSet<String> = what.map(|w| w.to_string()).collect();
    for what in &what {
        tracing::error!("{what}{}", super::root_hint());
    }
    !what.is_empty()
}

/// Whether the parameter is as configured, and what to do if it is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyReport {
    /// Whether it is as configured.
    pub met: bool,
    /// What is wrong, as phrases.
    pub wrong: Vec<String>,
    /// What cannot be determined, as phrases.
    pub unknown: Vec<String>,
    /// What corrects it.
    pub fix: Option<ParameterFix>,
    /// The names of the modules without which the next boot is not safe, as things are.
    pub unsafe_without: Vec<String>,
}

/// Compares the configured lines of the tips with the `[cmdline] sig-unenforce` setting.
pub fn policy(context: &Context, system: &System) -> PolicyReport {
    let record = state::load::<RunRecord>(&context.root, RECORD).good();
    let assessment = assess(system, &context.settings, record.as_ref());
    let decision = &assessment.decision;
    let lacks = assessment.next_lacks.iter().chain(&decision.default_lacks).chain(&decision.lacking);
    let is_unsafe = assessment.is_unsafe();
    let unsafe_without = lacks.filter(|_| is_unsafe).map(|lack| lack.name().to_owned()).collect();
    let wanted = parameter_wanted(&context.settings, system, &assessment.needs);
    let Breach { wrong, unknown, wish } = wanted.against(system);
    let Some(wish) = wish else {
        return PolicyReport { met: unknown.is_empty(), wrong, unknown, fix: None, unsafe_without };
    };
    let plan = Ours::load(&context.root).map(|ours| {
        let sources: Vec<CmdlineSources> = system.lines.iter().map(|l| l.sources.copy()).collect();
        writer::plan(wish, &sources, &ours)
    });
    let fix = match plan {
        Ok(plan) => match plan.blockers.first() {
            Some(blocker) => ParameterFix::InTheWay(blocker.message(&context.root)),
            None => ParameterFix::Verb(wish.verb()),
        },
        Err(e) => ParameterFix::InTheWay(e.to_string()),
    };
    PolicyReport { met: false, wrong, unknown, fix: Some(fix), unsafe_without }
}

fn check(context: &Context) -> u8 {
    let mut cache = Cache::load(&context.root);
    let system = System::observe(context, &mut cache);
    if let Some(why) = no_kernels(&context.root, &system.inventory) {
        return without_kernel(&system.inventory, &why);
    }
    let of_lines = system.lines.iter().flat_map(|l| &l.sources.unreadable).map(ToString::to_string);
    // The modules are observed only if the setting depends on them.
    let auto = context.settings.sig_unenforce == SigUnenforce::Auto;
    let of_tree = system.tree.unreadable.clone().filter(|_| auto);
    if tell_unreadable(of_lines.chain(of_tree)) {
        return exit::UNKNOWN;
    }
    let policy = policy(context, &system);
    for wrong in &policy.wrong {
        tracing::warn!("{wrong}");
    }
    for unknown in &policy.unknown {
        tracing::error!("{unknown}");
    }
    if let Some(fix) = &policy.fix {
        tracing::warn!("next step: {}", fix.remedy().text(&CommandTarget::of(&system)));
    }
    // The valid settings count, as in `clr-dkms status`.
    for fault in &context.settings.faults {
        tracing::warn!("{fault}");
    }
    match (policy.met && context.settings.faults.is_empty(), policy.wrong.is_empty()) {
        (true, _) => exit::OK,
        (false, true) if !policy.met => exit::UNKNOWN,
        (false, _) => exit::ATTENTION,
    }
}

#[derive(Debug, Serialize)]
struct CmdlineDocument {
    schema: u32,
    parameter: &'static str,
    kernels: Vec<LineReport>,
}

fn show(context: &Context, show: &ShowArguments, common: &Common) -> Result<u8> {
    let inventory = Inventory::observe(&context.root);
    let kernels: Vec<NamedKernel<'_>> = match &show.kernel {
        None => inventory.tips().into_iter().map(NamedKernel::of).collect(),
        Some(asked) => match inventory.named(&context.root, asked) {
            Some(kernel) => vec![kernel],
            None => {
                let why = no_kernels(&context.root, &inventory);
                let why = why.unwrap_or_else(|| NoSuchKernel(asked.clone()).to_string());
                return Err(ExitReason::unknown(why).into());
            }
        },
    };
    if kernels.is_empty() {
        let why = no_kernels(&context.root, &inventory);
        let why = why.unwrap_or_else(|| "no kernel is the tip of its variant".to_owned());
        return Ok(without_kernel(&inventory, &why));
    }
    for kernel in kernels.iter().filter(|k| k.installed.is_none()) {
        let directory = context.root.shown_path(IMAGES);
        tracing::info!(
            "{} has no image in {}: clr-boot-manager writes no entry for it",
            shown(&kernel.release),
            directory.display()
        );
    }
    let sources: Vec<CmdlineSources> =
        kernels.iter().map(|k| CmdlineSources::observe(&context.root, &k.release)).collect();
    let is_unread = tell_unreadable(sources.iter().flat_map(|s| &s.unreadable))
        || tell_unreadable(first_that_decides(&context.root.unread()).into_iter());
    let code = if is_unread { exit::UNKNOWN } else { exit::OK };
    if show.raw {
        // Bytes, not text: the line is printed unchanged. On a terminal it is escaped, because it may contain
        // control sequences.
        let raw: Vec<u8> = sources.iter().flat_map(|s| [effective(s).as_slice(), b"\n"].concat()).collect();
        if std::io::stdout().is_terminal() {
            answer(&printable_lines(&String::from_utf8_lossy(&raw)), common.color)?;
        } else {
            std::io::Write::write_all(&mut std::io::stdout(), &raw)?;
        }
        return Ok(code);
    }
    let lines = kernels.iter().zip(&sources).map(|(k, s)| report(&k.release, &k.id, s, &merge(s)));
    let lines: Vec<LineReport> = lines.collect();
    let document = CmdlineDocument { schema: 1, parameter: PARAMETER, kernels: lines };
    super::show(context, &document, show.json, common, |document, style| screen(&document.kernels, style))?;
    Ok(code)
}
