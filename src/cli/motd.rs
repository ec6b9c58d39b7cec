//! `clr-dkms-motd`: writes the fragment for the message of the day.

use clap::Parser;

use super::{Common, answer, need_root};
use crate::exit;
use crate::update::motd;

/// Write clr-dkms's fragment of the message of the day.
///
/// At most three lines are written to /run/motd.d/clr-dkms.motd. If there is nothing to report the file is
/// removed. If something has changed and motd-update.sh exists, it is run afterwards. The mark
/// /run/clr-dkms/reboot-required and the metrics are updated too.
///
/// Exit code 0: done, or nothing to do; 1: the file could not be written.
#[derive(Debug, Parser)]
#[command(
    name = "clr-dkms-motd",
    version,
    after_help = "Examples:\n  clr-dkms-motd\n  clr-dkms-motd --dry-run"
)]
pub struct MotdArguments {
    /// Print the fragment instead of writing it
    #[arg(long, short = 'n')]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs `clr-dkms-motd`.
///
/// # Errors
/// If the root or the configuration cannot be used, or the fragment cannot be written.
pub fn run(arguments: MotdArguments) -> anyhow::Result<u8> {
    let context = arguments.common.strict_world("clr-dkms-motd")?;
    let document = crate::report::observation::observe(&context);
    if arguments.dry_run {
        answer(&motd::text(&context, &document)?, arguments.common.color)?;
        return Ok(exit::OK);
    }
    need_root(&context, "clr-dkms-motd")?;
    // The mark that a reboot is safe must be updated together with the message.
    crate::update::publish::write(&context, &document)?;
    Ok(exit::OK)
}
