//! Writes clr-dkms's fragment of the message of the day.

use std::time::Duration;

use crate::context::Context;
use crate::report::StatusDocument;
use crate::report::motd::{FRAGMENT, OWN_TEXTS, fragment, shipped_text};
use crate::sys::{FileError, Written};

/// The time limit of `motd-update.sh`, which concatenates some files.
const UPDATE_DEADLINE: Duration = Duration::from_secs(30);

/// The text of the fragment. An admin's own text for the verdict takes precedence.
///
/// # Errors
/// If an admin's own text cannot be read.
pub fn text(context: &Context, document: &StatusDocument) -> Result<String, FileError> {
    if !context.settings.motd_show {
        return Ok(String::new());
    }
    let own = context.root.read_optional(format!("{OWN_TEXTS}/{}", document.verdict))?;
    Ok(match own {
        Some(bytes) => fragment(document, &String::from_utf8_lossy(&bytes)),
        None => shipped_text(document.verdict).map(|text| fragment(document, text)).unwrap_or_default(),
    })
}

/// Writes or removes the fragment, and updates the message of the day if that changed anything.
///
/// # Errors
/// If the fragment cannot be written. A failure of `motd-update.sh` is only logged: its next run includes the
/// fragment.
pub fn write(context: &Context, document: &StatusDocument) -> Result<(), FileError> {
    let text = text(context, document)?;
    let changed = if text.is_empty() {
        context.root.remove(FRAGMENT)?
    } else {
        context.root.write(FRAGMENT, text.as_bytes(), 0o644)? == Written::Changed
    };
    if changed && context.root.is_live() {
        match context.tools.child("motd-update.sh", UPDATE_DEADLINE) {
            // Other systems read the fragments directly.
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
