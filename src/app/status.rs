//! `clr-dkms status`: may I reboot, and will my modules be there?

use clap::{Args, Parser, Subcommand};

use super::enforcement::{self, EnforcementArguments};
use super::gc::{self, GcArguments};
use super::{Common, LOCK, answer, exit, json};
use crate::dkms::Cache;
use crate::facts::Facts;
use crate::render::text;
use crate::state::{self, IN_PROGRESS, InProgress, RECORD, Stored};
use crate::status::{Document, Progress, Verdict, document};
use crate::sys::lock;
use crate::world::World;

/// Tell whether it is safe to reboot, and whether the DKMS modules will be there and will be taken.
#[derive(Debug, Parser)]
#[command(name = "clr-dkms", version)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show kernels and modules, and one verdict
    ///
    /// Exit code 0: all is there, also when a reboot is pending; 1: something is missing, failed or being built; 3: it
    /// cannot be told.
    #[command(after_help = "Examples:\n  clr-dkms status\n  clr-dkms status --json | jq .verdict\n  \
        clr-dkms status --root /mnt")]
    Status(StatusArguments),
    /// Tell whether kernels take modules without a trusted signature: as configured, at the next boot, and now
    ///
    /// Exit code 0: the three agree and are as wanted; 1: something is pending, differs, or is not as wanted; 2: a module
    /// that is in use will be refused at the next boot; 3: it cannot be told.
    #[command(after_help = "Examples:\n  clr-dkms enforcement\n  clr-dkms enforcement --kernel native\n  \
        clr-dkms enforcement --json | jq '.kernels[0].next_boot.loads'")]
    Enforcement(EnforcementArguments),
    /// Remove what DKMS has left of kernels that are gone
    ///
    /// Built modules, links and folders in /var/lib/dkms and /usr/lib/modules, of kernels that have no image, no boot
    /// entry and no file of their own any more; by `dkms unbuild`, so that every module stays registered for the kernels
    /// to come. What is not proven to be garbage stays, and where anything cannot be read, everything does. Exit code 0:
    /// done, or nothing to do; 1: something could not be removed; 3: something could not be read, and nothing was
    /// changed; 75: another run is at work; 77: no permission.
    #[command(after_help = "Examples:\n  clr-dkms gc --dry-run\n  clr-dkms gc\n  clr-dkms gc --root /mnt")]
    Gc(GcArguments),
}

#[derive(Debug, Args)]
struct StatusArguments {
    /// The whole document, as JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
///
/// # Errors
/// When the root or the configuration cannot be used, or stdout cannot be written.
pub fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let world = arguments.common.strict_world("clr-dkms")?;
    let status = match arguments.verb {
        Verb::Status(status) => status,
        Verb::Enforcement(asked) => return enforcement::run(&world, &asked, &arguments.common),
        Verb::Gc(asked) => return gc::run(&world, &asked, &arguments.common),
    };
    let document = look(&world);
    let text = if status.json { json(&document)? } else { text::screen(&document) };
    answer(&text, arguments.common.color)?;
    Ok(code(document.verdict))
}

/// The exit code of a verdict.
pub fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Healthy | Verdict::RebootPending => exit::OK,
        Verdict::Building | Verdict::Degraded => exit::ATTENTION,
        Verdict::Unknown | Verdict::NotApplicable => exit::UNKNOWN,
    }
}

/// Observes, and makes the document. Changes nothing.
pub fn look(world: &World) -> Document {
    let mut cache = Cache::load(&world.root);
    let facts = Facts::observe(world, &mut cache);
    let record = state::load(&world.root, RECORD);
    document(&facts, &record, progress(world), &world.settings)
}

fn progress(world: &World) -> Progress {
    match state::load::<InProgress>(&world.root, IN_PROGRESS) {
        // What may not be read says nothing of a run.
        Stored::Absent | Stored::Unreadable(_) => Progress::None,
        _ if lock::is_held(&world.root, LOCK) => Progress::Working,
        _ => Progress::BrokenOff,
    }
}
