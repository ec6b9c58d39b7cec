//! Refreshing the boot entries with clr-boot-manager, and reading them back.

use crate::boot::{self, BootFiles, Obstacle, ReadBack, write_ahead};
use crate::kernel::Inventory;
use crate::state::BootRecord;
use crate::system::{Line, System, expected_entries};
use crate::world::World;

/// What a refresh has to know.
#[derive(Debug, Clone, Copy)]
pub struct Before<'a> {
    /// The kernels.
    pub inventory: &'a Inventory,
    /// What is on the boot partition.
    pub files: &'a BootFiles,
    /// The command lines that the entries should have.
    pub lines: &'a [Line],
    /// They have them already.
    pub verified: bool,
    /// Why the boot manager cannot be run here.
    pub obstacle: Option<&'a Obstacle>,
}

impl<'a> From<&'a System> for Before<'a> {
    fn from(facts: &'a System) -> Before<'a> {
        Before {
            inventory: &facts.inventory,
            files: &facts.boot,
            lines: &facts.lines,
            verified: facts.boot_entries == ReadBack::Verified,
            obstacle: facts.boot_obstacle.as_ref(),
        }
    }
}

/// Makes sure that clr-boot-manager can be run, and tells what was mended for it.
///
/// # Errors
/// Why it must not be run, with the next step.
pub fn prepare(world: &World, inventory: &Inventory) -> Result<(), String> {
    for mended in boot::ready::prepare(&world.root, inventory)? {
        tracing::warn!("{mended}");
    }
    Ok(())
}

/// Runs `clr-boot-manager update` where it can be run, and reads the entries back. An error is logged, and is in the
/// record that is given back; `last` is what it was before.
pub fn refresh(world: &World, before: Before<'_>, last: BootRecord, why: &str) -> BootRecord {
    let failed = |error: String| {
        tracing::error!("boot entries: {error}");
        BootRecord { error: Some(error), ..last.clone() }
    };
    let update = match before.obstacle {
        // Whoever can run it has done so.
        Some(_) if before.verified => boot::Update { error: None },
        Some(Obstacle::Chroot) => {
            tracing::info!("{}", Obstacle::Chroot);
            return BootRecord { error: None, ..last };
        }
        Some(obstacle) => return failed(format!("clr-boot-manager was not run: {obstacle}")),
        None => {
            if let Err(why) = prepare(world, before.inventory) {
                return failed(format!("clr-boot-manager was not run: {why}"));
            }
            tracing::info!("running clr-boot-manager update, because {why}");
            write_ahead::report(write_ahead::before_update(&world.root, before.inventory, before.files));
            boot::update(&world.root, &world.tools, world.settings.boot_timeout)
        }
    };
    // It deletes kernels, and no entry of these is to be there any more.
    let left = Inventory::observe(&world.root);
    let mut expected = expected_entries(before.lines);
    expected.retain(|(id, _)| left.kernels.iter().any(|kernel| kernel.id == *id));
    let seen = BootFiles::observe(&world.root, &left).read_back(&expected);
    let error = match (&seen, update.error) {
        (ReadBack::Differs(wrong), said) => {
            Some(wrong.iter().cloned().chain(said).collect::<Vec<_>>().join("; "))
        }
        // On a live system the boot partition is usually not mounted; in a copy or an image nothing else can be it.
        (ReadBack::NotVisible, None) if !world.root.is_live() => {
            let boot = world.root.spell("/boot");
            Some(format!("clr-boot-manager update wrote no boot entry below {}", boot.display()))
        }
        (ReadBack::Verified, Some(said)) => {
            tracing::warn!("{said}; the boot entries are as they should be all the same");
            None
        }
        (_, said) => said,
    };
    if let Some(error) = error {
        return failed(error);
    }
    BootRecord {
        // Read again: clr-boot-manager deletes old kernels, and that is no change to react to.
        inputs: Some(boot::inputs(&world.root)),
        updated: Some(world.clock.now()),
        entries: Some(seen.word().to_owned()),
        error: None,
        ..last
    }
}
