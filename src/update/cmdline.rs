//! Updates the boot entries after the fragments have changed.

use super::boot_default::assert_again;
use super::boot_files::is_guarded;
use super::boot_update::bring_up_to_date;
use crate::boot::{self, BootBlocker, BootFiles, ReadBack};
use crate::cmdline::writer::WriterPlan;
use crate::context::Context;
use crate::decide::assessment::assess;
use crate::decide::unread::first_that_decides;
use crate::dkms::Cache;
use crate::exit;
use crate::kernel::Inventory;
use crate::kernel::inventory::NamedKernel;
use crate::state::{self, BootRecord, RECORD, RunRecord, Stored};
use crate::system::{KernelCmdline, System, expected_entries, kernels_that_matter, line};

/// The command lines of the kernels in question.
pub fn lines(context: &Context, inventory: &Inventory) -> Vec<KernelCmdline> {
    let mut cache = Cache::load(&context.root);
    kernels_that_matter(inventory)
        .into_iter()
        .map(|k| line(context, &mut cache, &NamedKernel::of(k)))
        .collect()
}

/// Updates the boot entries, unless they are as configured. Returns false if an update was due and did not
/// succeed.
pub fn put_into_entries(
    context: &Context,
    inventory: &Inventory,
    may_refresh: bool,
    plan: &WriterPlan,
    accept_losses: bool,
) -> bool {
    let lines = lines(context, inventory);
    let boot = BootFiles::observe(&context.root, inventory);
    let says_otherwise = |line: &KernelCmdline| {
        let entry = boot.of(&line.id);
        entry.is_some_and(|e| line.kernel.switch(&e.options) != line.switch)
    };
    let record = state::load::<RunRecord>(&context.root, RECORD);
    // An unreadable record is not overwritten; see `note`.
    let last = record.as_good().map(|r| r.boot.clone()).unwrap_or_default();
    let as_configured = boot.read_back(&expected_entries(&lines)) == ReadBack::Verified;
    // If no fragment has changed, this only completes what an earlier run could not do.
    let undone = || last.error.is_some() || lines.iter().any(says_otherwise);
    if as_configured && last.error.is_some() {
        let (inputs, entries) =
            (Some(boot::inputs(&context.root)), Some(ReadBack::Verified.word().to_owned()));
        note(context, record, BootRecord { inputs, entries, error: None, ..last });
        return default_again(context, may_refresh);
    }
    if as_configured || (plan.steps.is_empty() && !(plan.blockers.is_empty() && undone())) {
        return default_again(context, may_refresh);
    }
    let blocker = boot::blocker(&context.root);
    if blocker == Some(BootBlocker::Chroot) {
        tracing::info!("pending: {}", BootBlocker::Chroot);
        return true;
    }
    if !may_refresh || !context.settings.boot_update {
        let command = boot::update_command(&context.root);
        let who = match context.settings.boot_update {
            true => "; clr-dkms-post-update runs it too",
            false => ", and [boot] update = no keeps clr-dkms from running it",
        };
        tracing::info!("pending: `{command}` puts the line into the boot entries{who}");
        return true;
    }
    // A machine that prepares an image may lack clr-boot-manager, and a copy is never booted. On a live
    // system clr-boot-manager must exist.
    if let (false, Err(missing)) = (context.root.is_live(), context.tools.find("clr-boot-manager")) {
        tracing::warn!(
            "pending: {missing}; on a machine that has it, run `sudo clr-boot-manager update --path=DIR`"
        );
        return true;
    }
    let why =
        if plan.steps.is_empty() { "the boot entries are not as configured" } else { "the line has changed" };
    let mut cache = Cache::load(&context.root);
    let system = System::observe(context, &mut cache);
    let assessment = assess(&system, &context.settings, record.as_good());
    if let Some(what) = first_that_decides(&context.root.unread()) {
        tracing::error!("clr-boot-manager update is not run: {what}");
        return false;
    }
    let result = bring_up_to_date(context, &system, &assessment, last, why, accept_losses);
    let done = result.record;
    let points_right = default_again(context, may_refresh);
    if !result.touched && done.error.is_none() && !done.waiting.is_empty() {
        note(context, record, done);
        return false;
    }
    let good = done.error.is_none();
    match done.entries.as_deref().filter(|_| good) {
        Some("verified") => tracing::info!("the boot entries have the new line"),
        Some("not-visible") => {
            tracing::info!("clr-boot-manager has finished; the boot entries could not be read back")
        }
        _ => {}
    }
    note(context, record, done);
    good && points_right
}

/// Sets the boot default to the kernel that should boot: a killed run may have left another one. Reports a
/// failure and returns false.
fn default_again(context: &Context, may_refresh: bool) -> bool {
    if !may_refresh || !is_guarded(context) {
        return true;
    }
    assert_again(context, &mut Cache::load(&context.root)) == exit::OK
}

/// Records the result for reports. Without a record there is nothing to correct.
fn note(context: &Context, record: Stored<RunRecord>, boot: BootRecord) {
    if let Stored::Good(record) = record
        && let Err(e) = context.root.write_json(RECORD, &RunRecord { boot, ..record })
    {
        tracing::warn!("{e}");
    }
}
