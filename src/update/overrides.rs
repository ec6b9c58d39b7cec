//! Stores an admin's override of the boot default, and carries it out.

use super::boot_default::Observed;
use super::engine::Order;
use super::progress::ProgressMode;
use super::sequence;
use crate::boot_decision::{AdminOverrides, Reason, Ruling};
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess};
use crate::dkms::Cache;
use crate::exit;
use crate::report::Verdict;
use crate::report::observation::observe as observe_status;
use crate::requirement::{Importance, Requirement};
use crate::state::{self, LOCK, SCHEMA, WISHES, is_ours};
use crate::sys::{Lock, interrupt};
use crate::system::System;

/// Why an override is refused.
pub struct GuardRefusal {
    /// The exit code.
    pub code: u8,
    /// Why, with the next step.
    pub why: String,
}

impl GuardRefusal {
    /// It is unknown what is meant.
    pub fn unknown(why: impl Into<String>) -> GuardRefusal {
        GuardRefusal { code: exit::UNKNOWN, why: why.into() }
    }
}

/// The result of a change.
#[derive(Debug)]
pub struct OverrideResult {
    /// The exit code.
    pub code: u8,
    /// In a dry run, what would be done.
    pub foretold: Vec<String>,
}

impl From<u8> for OverrideResult {
    fn from(code: u8) -> OverrideResult {
        OverrideResult { code, foretold: Vec::new() }
    }
}

/// Stores an override, and carries it out.
///
/// # Errors
/// When the lock cannot be taken, or something cannot be written.
pub fn change(
    context: &Context,
    dry_run: bool,
    change: impl FnOnce(&System, &BootAssessment) -> Result<AdminOverrides, GuardRefusal>,
) -> anyhow::Result<OverrideResult> {
    let mut lock = None;
    if !dry_run {
        interrupt::watch()?;
        lock = Some(Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)?);
    }
    let mut cache = Cache::load(&context.root);
    let seen = Observed::new(context, &mut cache);
    let mut wishes = match change(&seen.system, &seen.assessment) {
        Ok(wishes) => wishes,
        Err(refusal) => {
            tracing::error!("{}", refusal.why);
            return Ok(refusal.code.into());
        }
    };
    // Overrides for kernels that are not installed any more are dropped.
    let installed: Vec<String> = seen.system.inventory.kernels.iter().map(|k| k.name.release()).collect();
    wishes.released.retain(|release| installed.contains(release));
    let is_damaged = wishes.fault.take().is_some() || seen.system.wishes.fault.is_some();
    let is_new = is_damaged || wishes != seen.system.wishes;
    if dry_run {
        return Ok(foretold(context, seen, wishes, is_new));
    }
    // If the boot default has changed since, the same override is carried out again.
    let is_done = seen.assessment.is_carried_out() || !seen.assessment.acts;
    if !is_new && is_done {
        return Ok(if wishes == AdminOverrides::default() { exit::OK } else { code_of(&seen) }.into());
    }
    if is_damaged {
        match state::set_aside(&context.root, WISHES) {
            Ok(aside) => {
                tracing::warn!("what was said before is kept as {}", context.root.shown_path(aside).display())
            }
            Err(e) => tracing::warn!("what was said before cannot be kept: {e}"),
        }
    }
    if !is_new {
        tracing::debug!("it has been said before");
    } else if wishes == AdminOverrides::default() {
        context.root.remove(WISHES)?;
    } else {
        context.root.write_json(WISHES, &state::WishesFile { schema: SCHEMA, wishes })?;
    }
    if !seen.assessment.acts {
        tracing::warn!(
            "[boot] policy = report, update = no, or an image: it is remembered, and the boot files stay as \
             they are"
        );
    }
    let done = sequence::work(context, Vec::new(), &Order::default(), ProgressMode::Nothing)?;
    drop(lock);
    // The override is carried out; modules that another kernel lacks do not make it a failure.
    let document = observe_status(context);
    let boots = document.kernels.iter().find(|k| k.next_boot);
    let is_whole = boots.is_some_and(|k| k.modules_ready >= k.modules_needed);
    let is_done = document.guard.boots_next == document.guard.default && is_whole;
    let code = match document.verdict {
        Verdict::Held if document.guard.because == Reason::Held && is_done => exit::OK,
        _ => done.code,
    };
    Ok(code.into())
}

/// The result of a dry run.
fn foretold(context: &Context, mut seen: Observed, wishes: AdminOverrides, is_new: bool) -> OverrideResult {
    let file = context.root.shown_path(WISHES);
    let mut lines = match (is_new, wishes == AdminOverrides::default()) {
        (false, _) => vec!["nothing to write".to_owned()],
        (true, true) => vec![format!("would remove {}", file.display())],
        (true, false) => vec![format!("would write {}", file.display())],
    };
    if is_new {
        lines.extend(wishes.hold.iter().map(|kernel| format!("  hold {kernel}")));
        lines.extend(wishes.released.iter().map(|kernel| format!("  release {kernel}")));
    }
    seen.system.wishes = wishes;
    seen.assessment = assess(&seen.system, &context.settings, seen.record.as_ref());
    lines.push(match (seen.assessment.acts, &seen.assessment.decision.default) {
        (true, Some(release)) => format!("{release} would boot next"),
        (true, None) => "no kernel would be chosen".to_owned(),
        (false, _) => "the boot files would stay as they are".to_owned(),
    });
    OverrideResult { code: code_of(&seen), foretold: lines }
}

/// The exit code where the decision has been carried out.
fn code_of(seen: &Observed) -> u8 {
    let decision = &seen.assessment.decision;
    let needed =
        |n: &Requirement| n.class == Importance::Critical || (n.class == Importance::Wanted && n.works);
    let default = decision.default.as_ref();
    let lacks = || default.is_some_and(|k| !seen.assessment.lacks_on(k, needed).is_empty());
    if seen.assessment.unknown.is_some() {
        return exit::UNKNOWN;
    }
    match decision.is_unsafe {
        true => exit::UNSAFE,
        false if decision.ruling == Ruling::Defer && decision.because != Reason::Held => exit::ATTENTION,
        false if lacks() => exit::ATTENTION,
        false => exit::OK,
    }
}
