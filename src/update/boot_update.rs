//! Updates the boot files. There are three ways: an unrestricted update where that is safe, a restricted one
//! while another kernel must not become bootable, or none. In the last case the record has the reason.

use serde::Serialize;

use super::boot_files::{is_guarded, running_is_foreign};
use super::refresh::refresh;
use crate::boot::files::ExpectedEntry;
use crate::boot::foresee::{Objection, UpdateInput};
use crate::boot::inputs::{self, BootPart};
use crate::boot::restricted::{RestrictedError, RestrictedUpdate, swupd_at_work};
use crate::boot::{self, BootFiles, initrds};
use crate::boot_decision::{Reason, Ruling};
use crate::context::Context;
use crate::decide::assessment::BootAssessment;
use crate::decide::entry_loss::{EntryLoss, entry_losses};
use crate::decide::update_way::{UpdateCandidate, UpdateQuestion, UpdateWay, update_way};
use crate::kernel::{Installed, KernelName};
use crate::state::{BootRecord, WaitingPart};
use crate::sys::RootKind;
use crate::system::{System, expected_entries};

/// The result of an update of the boot files.
#[derive(Debug)]
pub struct UpdateResult {
    pub record: BootRecord,
    /// Whether boot files were updated, in one of the two ways.
    pub touched: bool,
}

/// Observes what the way depends on, and decides. With `accept_losses` an admin accepts that a boot entry
/// loses what a module needs.
fn way(context: &Context, system: &System, assessment: &BootAssessment, accept_losses: bool) -> UpdateWay {
    let losses = |kernel: &Installed| {
        // Without the list each initrd of the entry counts as lost, and the update is not run.
        let initrds = initrds::of_kernel(&context.root, &kernel.id).unwrap_or_default();
        let initrds: Vec<String> = initrds.into_keys().collect();
        entry_losses(system, &context.settings, &assessment.needs, &kernel.name.release(), Some(&initrds))
    };
    let is_guarded = is_guarded(context);
    let kernels = system.inventory.kernels.iter().filter(|_| is_guarded);
    let kernels: Vec<UpdateCandidate> = kernels
        .map(|kernel| UpdateCandidate { losses: losses(kernel), ..update_candidate(system, kernel) })
        .collect();
    update_way(&UpdateQuestion {
        is_guarded,
        foreign: running_is_foreign(system),
        input: UpdateInput::observe(&context.root, &system.inventory, &system.boot)
            .map_err(|e| e.to_string()),
        unseen: system.boot.invisible.as_deref(),
        kernels: &kernels,
        hold: system.wishes.hold.as_deref(),
        decision: &assessment.decision,
        is_tried_once: assessment.is_tried_once(),
        accept_losses,
    })
}

/// How a run would update the boot files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "way", rename_all = "kebab-case")]
pub enum ForeseenUpdate {
    /// An unrestricted `clr-boot-manager update`.
    Whole,
    /// A restricted update, which changes neither the boot default nor the entry of another kernel.
    /// `kernels`: the releases of the kernels whose boot files are refreshed.
    Restricted { kernels: Vec<String> },
    /// Nothing is run.
    None { why: String },
}

/// Why an unrestricted update has to wait for swupd. It would make entries of kernels that are half
/// installed, and delete others. An image is not affected: swupd runs the hook in it before it ends.
fn swupd_changes_kernels(context: &Context) -> Option<String> {
    let is_image = context.root.kind() == RootKind::Image;
    swupd_at_work(&context.root).filter(|_| !is_image)
}

/// Returns how a run would update the boot files, and changes nothing.
pub fn foreseen(context: &Context, system: &System, assessment: &BootAssessment) -> ForeseenUpdate {
    let names = match way(context, system, assessment, false) {
        UpdateWay::Whole => match swupd_changes_kernels(context) {
            Some(why) => return ForeseenUpdate::None { why },
            None => return ForeseenUpdate::Whole,
        },
        UpdateWay::Restricted(names) => names,
        refused => return ForeseenUpdate::None { why: reason_not_run(&refused).unwrap_or_default() },
    };
    let kernels = installed(system, &names);
    let lines = lines_of(context, system, &kernels);
    match restricted_update(context, system, &kernels, &lines).blocker() {
        Some(why) => ForeseenUpdate::None { why },
        None => ForeseenUpdate::Restricted { kernels: kernels.iter().map(|k| k.name.release()).collect() },
    }
}

fn installed<'s>(system: &'s System, names: &[KernelName]) -> Vec<&'s Installed> {
    let find = |name: &KernelName| system.inventory.kernels.iter().find(|k| k.name == *name);
    names.iter().filter_map(find).collect()
}

/// Why clr-boot-manager is not to be run; none if it is to be run.
fn reason_not_run(way: &UpdateWay) -> Option<String> {
    let joined = |texts: Vec<String>| Some(texts.join("; "));
    match way {
        UpdateWay::Whole | UpdateWay::Restricted(_) => None,
        UpdateWay::Loses(losses) => joined(losses.iter().map(EntryLoss::to_string).collect()),
        UpdateWay::Blocked(objections) => joined(objections.iter().map(Objection::to_string).collect()),
        UpdateWay::Foreign(release) => {
            Some(format!("the running kernel {release} is not one of clr-boot-manager's"))
        }
    }
}

/// A kernel as a candidate, with an empty list of what its entry would lose.
fn update_candidate(system: &System, kernel: &Installed) -> UpdateCandidate {
    UpdateCandidate {
        name: kernel.name.clone(),
        has_entry: system.boot.of(&kernel.id).is_some(),
        is_default: system
            .boot
            .default
            .as_ref()
            .is_some_and(|default| default.id.as_ref() == Some(&kernel.id)),
        running: kernel.running,
        tip: kernel.tip,
        losses: Vec::new(),
    }
}

/// The outdated parts of the boot files that a restricted update can renew. `last` is the record of the last
/// update.
pub fn outdated(
    system: &System,
    assessment: &BootAssessment,
    last: &BootRecord,
    now: &inputs::BootInputs,
) -> Vec<BootPart> {
    let is_kept = |release: &String| {
        let kernel = system.inventory.of_release(release);
        kernel.is_some_and(|k| update_candidate(system, k).is_refreshed(&assessment.decision))
    };
    // There is no record of the parts as long as swupd itself ran clr-boot-manager. Then only an entry can be
    // outdated.
    let known = if last.parts.is_empty() { now } else { &last.parts };
    let mut changed = inputs::changed(known, now);
    changed.retain(|part| match part {
        BootPart::Kernel(release) => is_kept(release),
        // The entries themselves are compared with the expected ones, which does not depend on the tips.
        BootPart::Fragments | BootPart::Tips => false,
        _ => true,
    });
    let expected = expected_entries(&system.lines);
    for line in system.lines.iter().filter(|line| is_kept(&line.release)) {
        let configured = expected.iter().find(|of| of.id == line.id);
        let part = BootPart::Kernel(line.release.clone());
        let differs = configured.is_some_and(|of| system.boot.differs(of).is_some());
        if system.boot.loader.is_some() && differs && !changed.contains(&part) {
            changed.push(part);
        }
    }
    changed
}

/// Updates the boot files for the reason `why`.
pub fn bring_up_to_date(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    last: BootRecord,
    why: &str,
    accept_losses: bool,
) -> UpdateResult {
    let failed = |last: BootRecord, why: String, hint: &str| {
        let error = format!("clr-boot-manager was not run: {why}; {hint}");
        tracing::error!("boot entries: {error}");
        let mut result = wait(context, system, assessment, last, &why);
        (result.record.error, result.record.differs) = (Some(error), false);
        result
    };
    if let Some(unknown) = &assessment.unknown {
        return wait(context, system, assessment, last, unknown);
    }
    let way = way(context, system, assessment, accept_losses);
    let not_run = reason_not_run(&way).unwrap_or_default();
    match way {
        UpdateWay::Whole => {
            if let Some(why) = swupd_changes_kernels(context) {
                return failed(last, why, "if it hangs, end it");
            }
            let record = refresh(context, system.into(), last, why);
            let parts = if record.error.is_some() { record.parts } else { inputs::parts(&context.root) };
            let waiting = if record.error.is_none() { Vec::new() } else { record.waiting };
            UpdateResult { record: BootRecord { parts, waiting, ..record }, touched: true }
        }
        UpdateWay::Restricted(names) => {
            restricted(context, system, assessment, last, why, &installed(system, &names))
        }
        UpdateWay::Loses(_) => {
            let command = boot::update_command(&context.root);
            failed(last, not_run, &format!("`{command}` runs it anyway"))
        }
        UpdateWay::Blocked(_) | UpdateWay::Foreign(_) => wait(context, system, assessment, last, &not_run),
    }
}

fn restricted_update<'a>(
    context: &'a Context,
    system: &'a System,
    kernels: &'a [&'a Installed],
    lines: &'a [ExpectedEntry],
) -> RestrictedUpdate<'a> {
    RestrictedUpdate {
        root: &context.root,
        tools: &context.tools,
        deadline: context.settings.boot_timeout,
        inventory: &system.inventory,
        files: &system.boot,
        kernels,
        lines,
    }
}

fn restricted(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    last: BootRecord,
    why: &str,
    kernels: &[&Installed],
) -> UpdateResult {
    let lines = lines_of(context, system, kernels);
    let update = restricted_update(context, system, kernels, &lines);
    tracing::info!("refreshing the boot files of {} without touching the boot default, because {why}", {
        kernels.iter().map(|k| k.name.release()).collect::<Vec<_>>().join(", ")
    });
    match update.run() {
        Ok(()) => {
            let now = inputs::parts(&context.root);
            let is_done = |part: &BootPart| match part {
                BootPart::Kernel(release) => kernels.iter().any(|k| k.name.is_release(release)),
                // Only an unrestricted update changes these.
                BootPart::Tips => false,
                _ => true,
            };
            let mut parts = last.parts;
            parts.retain(|part, _| now.contains_key(part));
            parts.extend(now.into_iter().filter(|(part, _)| is_done(part)));
            let seen = BootFiles::observe(&context.root, &system.inventory);
            let entries = Some(seen.read_back(&lines).word().to_owned());
            let error = set_default(context, system, assessment, &seen).err().map(|e| format!("{e:#}"));
            if let Some(error) = &error {
                tracing::error!("the boot default: {error}");
            }
            let record = BootRecord {
                updated: Some(context.clock.now()),
                entries,
                error,
                waiting: Vec::new(),
                parts,
                ..last
            };
            UpdateResult { record, touched: true }
        }
        Err(RestrictedError::NotRun(why)) => wait(context, system, assessment, last, &why),
        Err(RestrictedError::Failed(error)) => {
            tracing::error!("boot entries: {error}");
            UpdateResult { record: BootRecord { error: Some(error), differs: false, ..last }, touched: true }
        }
    }
}

/// Makes a kernel the boot default that needs no trial any more, after a restricted update: an unrestricted
/// one would have done that. `files` are the boot files after the update.
fn set_default(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    files: &BootFiles,
) -> anyhow::Result<()> {
    let decision = &assessment.decision;
    let is_ready = matches!(decision.because, Reason::Proven | Reason::Released)
        && decision.ruling == Ruling::Allow
        && !assessment.is_tried_once();
    let is_overridden = files.default.as_ref().is_some_and(|default| default.set_by.overrides());
    let chosen = decision.default.as_deref().and_then(|release| system.inventory.of_release(release));
    let Some(kernel) = chosen.filter(|_| is_ready && !is_overridden) else { return Ok(()) };
    let deadline = context.settings.boot_timeout;
    let Context { root, tools, .. } = context;
    boot::default::set(root, tools, deadline, files, &system.inventory, &kernel.id).map(drop)
}

/// The command lines of kernels, including those that are not among the observed lines.
fn lines_of(context: &Context, system: &System, kernels: &[&Installed]) -> Vec<ExpectedEntry> {
    let mut lines = expected_entries(&system.lines);
    lines.retain(|of| kernels.iter().any(|k| k.id == of.id));
    for kernel in kernels {
        if !lines.iter().any(|of| of.id == kernel.id) {
            let sources = crate::cmdline::CmdlineSources::observe(&context.root, &kernel.name.release());
            let is_known = sources.unreadable.is_empty();
            let line = is_known.then(|| crate::cmdline::effective(&sources));
            lines.push(ExpectedEntry { id: kernel.id.clone(), line });
        }
    }
    lines
}

/// Records which parts wait, and since when.
fn wait(
    context: &Context,
    system: &System,
    assessment: &BootAssessment,
    last: BootRecord,
    why: &str,
) -> UpdateResult {
    let now = context.clock.now();
    let outdated = outdated(system, assessment, &last, &inputs::parts(&context.root));
    let since = |what: &BootPart| {
        let known = last.waiting.iter().find(|waiting| waiting.what == *what);
        // If the clock was wrong once, a time in the future must not hide for years how long it has waited.
        known.map_or(now, |waiting| waiting.since.min(now))
    };
    let waiting: Vec<WaitingPart> = outdated
        .into_iter()
        .map(|what| WaitingPart {
            since: since(&what),
            what,
            why: why.to_owned(),
            command: boot::update_command(&context.root),
        })
        .collect();
    for part in waiting.iter().filter(|part| !last.waiting.iter().any(|known| known.what == part.what)) {
        tracing::warn!("not brought up to date: {}: {why}; `{}` does it anyway", part.what, part.command);
    }
    UpdateResult { record: BootRecord { waiting, ..last }, touched: false }
}
