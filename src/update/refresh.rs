//! Refreshes the boot entries with clr-boot-manager, and reads them back.

use crate::boot::{self, BootBlocker, BootFiles, ReadBack, write_ahead};
use crate::context::Context;
use crate::kernel::Inventory;
use crate::state::BootRecord;
use crate::system::{KernelCmdline, System, expected_entries};

/// What a refresh needs to know.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    pub inventory: &'a Inventory,
    /// The files on the boot partition.
    pub files: &'a BootFiles,
    /// The command lines that the entries should have.
    pub lines: &'a [KernelCmdline],
    /// Whether the entries have these command lines already.
    pub verified: bool,
    /// Why clr-boot-manager cannot be run here.
    pub blocker: Option<&'a BootBlocker>,
}

impl<'a> From<&'a System> for Before<'a> {
    fn from(system: &'a System) -> Before<'a> {
        Before {
            inventory: &system.inventory,
            files: &system.boot,
            lines: &system.lines,
            verified: system.boot_entries == ReadBack::Verified,
            blocker: system.boot_blocker.as_ref(),
        }
    }
}

/// Repairs what would prevent clr-boot-manager from running, and logs each repair.
///
/// # Errors
/// Why it must not be run, with the next step.
pub fn prepare(context: &Context, inventory: &Inventory) -> anyhow::Result<()> {
    for repaired in boot::preflight::prepare(&context.root, inventory)? {
        tracing::warn!("{repaired}");
    }
    Ok(())
}

/// Runs `clr-boot-manager update` if possible, and reads the entries back. An error is logged and part of the
/// returned record. `last` is the previous record.
pub fn refresh(context: &Context, before: Before<'_>, last: BootRecord, why: &str) -> BootRecord {
    let failed_with = |error: String, differs| {
        tracing::error!("boot entries: {error}");
        BootRecord { error: Some(error), differs, ..last.clone() }
    };
    let failed = |error: String| failed_with(error, false);
    let error = match before.blocker {
        // The entries are as configured, so there is nothing to run.
        Some(_) if before.verified => None,
        Some(BootBlocker::Chroot) => {
            tracing::info!("{}", BootBlocker::Chroot);
            return BootRecord { error: None, ..last };
        }
        Some(blocker) => return failed(format!("clr-boot-manager was not run: {blocker}")),
        None => {
            if let Err(why) = prepare(context, before.inventory) {
                return failed(format!("clr-boot-manager was not run: {why}"));
            }
            tracing::info!("running clr-boot-manager update, because {why}");
            write_ahead::report(write_ahead::before_update(&context.root, before.inventory, before.files));
            boot::update(&context.root, &context.tools, context.settings.boot_timeout)
        }
    };
    // An update deletes kernels, and their entries must be gone too.
    let left = Inventory::observe(&context.root);
    let mut expected = expected_entries(before.lines);
    expected.retain(|of| left.kernels.iter().any(|kernel| kernel.id == of.id));
    let seen = BootFiles::observe(&context.root, &left).read_back(&expected);
    let error = match (&seen, error) {
        (ReadBack::Differs(wrong), None) => {
            let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
            return failed_with(wrong.join("; "), true);
        }
        (ReadBack::Differs(wrong), Some(said)) => {
            wrong.iter().for_each(|fault| tracing::error!("boot entries: {fault}"));
            Some(said)
        }
        // On a live system the boot partition is usually not mounted. A copy or an image has no other boot
        // partition.
        (ReadBack::NotVisible, None) if !context.root.is_live() => {
            let boot = context.root.shown_path("/boot");
            Some(format!("clr-boot-manager update wrote no boot entry below {}", boot.display()))
        }
        (ReadBack::Verified, Some(said)) => {
            tracing::warn!("{said}; nevertheless the boot entries are correct");
            None
        }
        (_, said) => said,
    };
    if let Some(error) = error {
        return failed(error);
    }
    BootRecord {
        // Read again: clr-boot-manager deletes old kernels, and that change must not cause another update.
        inputs: Some(boot::inputs(&context.root)),
        updated: Some(context.clock.now()),
        entries: Some(seen.word().to_owned()),
        error: None,
        ..last
    }
}
