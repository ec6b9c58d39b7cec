//! `clr-dkms-motd`: writes the fragment for the message of the day.

use std::time::Duration;

use clap::Parser;

use super::{Common, answer, exit, need_root};
use crate::context::Context;
use crate::motd::{FRAGMENT, OWN_TEXTS, fragment, shipped_text};
use crate::status::StatusDocument;
use crate::sys::{FileError, Written};

/// How long `motd-update.sh`, which concatenates some files, may take.
const UPDATE_DEADLINE: Duration = Duration::from_secs(30);

/// Write the message of the day's fragment from the present state.
///
/// At most three lines go to /run/motd.d/clr-dkms.motd; where there is nothing to say the file is removed. Afterwards
/// motd-update.sh is run, where it exists and something has changed. The mark /run/clr-dkms/reboot-required and the metrics
/// are brought up to date too.
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

/// Runs it.
///
/// # Errors
/// When the root or the configuration cannot be used, or the fragment cannot be written.
pub fn run(arguments: MotdArguments) -> anyhow::Result<u8> {
    let context = arguments.common.strict_world("clr-dkms-motd")?;
    let document = super::status::observe(&context);
    if arguments.dry_run {
        answer(&text(&context, &document)?, arguments.common.color)?;
        return Ok(exit::OK);
    }
    need_root(&context, "clr-dkms-motd")?;
    // The mark that a reboot is safe must not outlive that any more than the message.
    super::publish::write(&context, &document)?;
    Ok(exit::OK)
}

/// The fragment, with an admin's own text for the verdict where there is one.
fn text(context: &Context, document: &StatusDocument) -> Result<String, FileError> {
    if !context.settings.motd_show {
        return Ok(String::new());
    }
    let own = context.root.read_optional(format!("{OWN_TEXTS}/{}", document.verdict))?;
    Ok(match own {
        Some(bytes) => fragment(document, &String::from_utf8_lossy(&bytes)),
        None => shipped_text(document.verdict).map(|text| fragment(document, text)).unwrap_or_default(),
    })
}

/// Writes or removes the fragment, and has the message of the day made again when that changed anything.
///
/// # Errors
/// When the fragment cannot be written. A failing `motd-update.sh` is only logged: the next one shows the fragment.
pub fn write(context: &Context, document: &StatusDocument) -> Result<(), FileError> {
    let text = text(context, document)?;
    let changed = if text.is_empty() {
        context.root.remove(FRAGMENT)?
    } else {
        context.root.write(FRAGMENT, text.as_bytes(), 0o644)? == Written::Changed
    };
    if changed && context.root.is_live() {
        match context.tools.child("motd-update.sh", UPDATE_DEADLINE) {
            // Other systems show the fragments themselves.
            Err(missing) => tracing::debug!("{missing}"),
            Ok(child) => match child.run() {
                Ok(done) if done.ended.is_success() => {}
                Ok(done) => tracing::warn!("motd-update.sh: {}", done.ended),
                Err(e) => tracing::warn!("motd-update.sh cannot be started: {e}"),
            },
        }
    }
    Ok(())
}
