//! Stores an admin's override of the boot default, and carries it out.

use serde::Serialize;

use super::boot_default::Observed;
use super::engine::Order;
use super::progress::ProgressMode;
use super::{sequence, trial};
use crate::boot_decision::{AdminOverrides, Reason, Ruling};
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess};
use crate::dkms::Cache;
use crate::exit::{self, ExitReason};
use crate::report::Verdict;
use crate::report::observation::observe as observe_status;
use crate::requirement::{Importance, Requirement};
use crate::state::trial::TRIAL;
use crate::state::{self, SCHEMA, WISHES, WishesFile};
use crate::sys::{FileError, interrupt};
use crate::system::System;

/// The result of a change, as a document.
#[derive(Debug, Serialize)]
pub struct OverrideResult {
    /// Increased only if the meaning of a field changes.
    pub schema: u32,
    /// Whether nothing was written.
    pub dry_run: bool,
    /// Whether the requests differ from the previous ones.
    pub changed: bool,
    /// Why nothing was changed.
    pub refused: Option<String>,
    /// The requests now. In a dry run, the requests afterwards.
    #[serde(flatten)]
    pub wishes: AdminOverrides,
    /// The kernel release that should be the boot default.
    pub default: Option<String>,
    /// The kernel release that boots next in the present state.
    pub boots_next: Option<String>,
    pub exit_code: u8,
    /// The lines that describe what a dry run would do.
    #[serde(skip)]
    pub foreseen: Vec<String>,
}

impl OverrideResult {
    fn new(seen: &Observed, dry_run: bool, code: u8) -> OverrideResult {
        OverrideResult {
            schema: SCHEMA,
            dry_run,
            changed: false,
            refused: None,
            wishes: seen.system.wishes.clone(),
            default: seen.assessment.decision.default.clone(),
            boots_next: seen.assessment.next.shown().map(str::to_owned),
            exit_code: code,
            foreseen: Vec::new(),
        }
    }
}

/// What an admin requests.
#[derive(Debug)]
pub struct Request {
    /// All requests, in place of the earlier ones.
    pub wishes: AdminOverrides,
    /// The kernel whose failed trial is to be forgotten. A run prepares another one if the kernel has to show
    /// again that it works.
    pub try_again: Option<String>,
}

impl From<AdminOverrides> for Request {
    fn from(wishes: AdminOverrides) -> Request {
        Request { wishes, try_again: None }
    }
}

/// Stores an override, and carries it out. `change` computes the new requests from the observed ones; it
/// returns none if there is nothing to do.
///
/// # Errors
/// If the lock cannot be taken, or a file cannot be written.
pub fn change(
    context: &Context,
    dry_run: bool,
    change: impl FnOnce(&System, &BootAssessment) -> Result<Option<Request>, ExitReason>,
) -> anyhow::Result<OverrideResult> {
    let mut lock = None;
    if !dry_run {
        interrupt::watch()?;
        lock = Some(sequence::lock(context)?);
    }
    let mut cache = Cache::load(&context.root);
    let seen = Observed::new(context, &mut cache);
    let request = match change(&seen.system, &seen.assessment) {
        Ok(request) => request,
        Err(ExitReason { code, why }) => {
            tracing::error!("{why}");
            return Ok(OverrideResult { refused: Some(why), ..OverrideResult::new(&seen, dry_run, code) });
        }
    };
    let Some(Request { mut wishes, try_again }) = request else {
        let known = seen.system.wishes.clone();
        return Ok(match dry_run {
            true => OverrideResult { exit_code: exit::OK, ..foreseen(context, seen, known, false, None) },
            false => OverrideResult::new(&seen, dry_run, exit::OK),
        });
    };
    drop_gone(&mut wishes, &seen.system);
    let is_damaged = wishes.fault.take().is_some() || seen.system.wishes.fault.is_some();
    let is_new = is_damaged || wishes != seen.system.wishes;
    if dry_run {
        return Ok(foreseen(context, seen, wishes, is_new, try_again.as_deref()));
    }
    // If the boot default has changed since, the same override is carried out again.
    let is_done = seen.assessment.is_carried_out() || !seen.assessment.acts;
    if let Some(kernel) = &try_again {
        trial::try_again(&context.root, &seen.system, kernel)?;
    }
    if !is_new && is_done && try_again.is_none() {
        let code = if wishes.is_empty() { exit::OK } else { code_of(&seen) };
        return Ok(OverrideResult::new(&seen, dry_run, code));
    }
    if is_damaged {
        keep_damaged(context);
    }
    if is_new {
        store(context, &wishes)?;
    } else {
        tracing::debug!("it was requested before");
    }
    if !seen.assessment.acts {
        tracing::warn!(
            "[boot] policy = report, update = no, or an image: it is stored, and the boot files \
             stay as they are"
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
    Ok(OverrideResult {
        changed: is_new || try_again.is_some(),
        wishes,
        default: document.guard.default,
        boots_next: document.guard.boots_next,
        ..OverrideResult::new(&seen, dry_run, code)
    })
}

/// Keeps requests that cannot be read under another name, before they are written again.
fn keep_damaged(context: &Context) {
    match state::set_aside(&context.root, WISHES) {
        Ok(aside) => {
            tracing::warn!("the previous requests are kept as {}", context.root.shown_path(aside).display())
        }
        Err(e) => tracing::warn!("the previous requests cannot be kept: {e}"),
    }
}

fn store(context: &Context, wishes: &AdminOverrides) -> Result<(), FileError> {
    if wishes.is_empty() {
        return context.root.remove(WISHES).map(drop);
    }
    let file = WishesFile { schema: SCHEMA, wishes: wishes.clone(), released: Default::default() };
    context.root.write_json(WISHES, &file).map(drop)
}

/// An allowance ends with its kernel.
fn drop_gone(wishes: &mut AdminOverrides, system: &System) {
    let installed: Vec<String> = system.inventory.kernels.iter().map(|k| k.name.release()).collect();
    wishes.allowed.retain(|allowance| installed.contains(&allowance.kernel));
}

/// Rewrites the requests if a kernel with an allowance is gone, or if the file is of version 0.1: what a
/// kernel lacked at its release is known only until the next record is written.
pub(super) fn keep_current(context: &Context, system: &System) {
    if system.wishes.fault.is_some() || system.inventory.unreadable().is_some() {
        return;
    }
    let mut current = system.wishes.clone();
    drop_gone(&mut current, system);
    let is_due = current.is_converted || current != system.wishes;
    // The next run tries again. Until then it has no effect, because the kernel is gone.
    if is_due && let Err(e) = store(context, &current) {
        tracing::error!("what an admin allowed cannot be recorded: {e}");
    }
}

/// The result of a dry run.
fn foreseen(
    context: &Context,
    mut seen: Observed,
    wishes: AdminOverrides,
    is_new: bool,
    retried: Option<&str>,
) -> OverrideResult {
    let file = context.root.shown_path(WISHES);
    let mut lines = match (is_new, wishes.is_empty()) {
        (false, _) => vec!["nothing to write".to_owned()],
        (true, true) => vec![format!("would remove {}", file.display())],
        (true, false) => vec![format!("would write {}", file.display())],
    };
    if is_new {
        lines.extend(wishes.hold.iter().map(|kernel| format!("  hold {kernel}{}", wishes.held)));
        lines.extend(wishes.allowed.iter().map(|allowance| format!("  allow {allowance}")));
    }
    if let Some(kernel) = retried {
        lines.push(format!("would forget the failed trial in {}", context.root.shown_path(TRIAL).display()));
        seen.system.trial.recorded = seen.system.trial.recorded.and_then(|trial| trial.without(kernel));
    }
    seen.system.wishes = wishes;
    seen.assessment = assess(&seen.system, &context.settings, seen.record.as_ref());
    lines.push(match (seen.assessment.acts, &seen.assessment.decision.default) {
        (true, Some(release)) => format!("{release} would boot next"),
        (true, None) => "no kernel would be chosen".to_owned(),
        (false, _) => "the boot files would stay as they are".to_owned(),
    });
    let code = code_of(&seen);
    OverrideResult {
        changed: is_new || retried.is_some(),
        foreseen: lines,
        ..OverrideResult::new(&seen, true, code)
    }
}

/// The exit code after the decision was carried out.
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
