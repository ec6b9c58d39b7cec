//! Writes the fragment of the message of the day.

use std::time::Duration;

use crate::context::Context;
use crate::report::StatusDocument;
use crate::report::motd::{FRAGMENT, OWN_TEXTS, fragment, shipped_text};
use crate::sys::{FileError, Written};

/// How long `motd-update.sh`, which concatenates some files, may take.
const UPDATE_DEADLINE: Duration = Duration::from_secs(30);

/// The fragment, with an admin's own text for the verdict where there is one.
///
/// # Errors
/// When an admin's own text cannot be read.
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

/// Writes or removes the fragment, and has the message of the day made again when that changed anything.
///
/// # Errors
/// When the fragment cannot be written. A failing `motd-update.sh` is only logged: the next one shows the
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
