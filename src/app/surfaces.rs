//! Where the document of a run goes beside the record: the message of the day, the mark that a reboot is due, metrics, and
//! the programs of an admin that want to know of a new verdict.

use std::time::Duration;

use crate::status::{Document, Verdict};
use crate::sys::{Ended, FileError, Kind};
use crate::world::World;

/// There while a reboot is pending *and* safe.
pub const REBOOT_REQUIRED: &str = "/run/clr-dkms/reboot-required";
/// Executables that get the document on their standard input when the verdict has changed.
const NOTIFY: &str = "/etc/clr-dkms/notify.d";

/// Writes the message of the day and the mark.
///
/// # Errors
/// When one of them cannot be written; the other is written all the same.
pub fn write(world: &World, document: &Document) -> Result<(), FileError> {
    let marked = match document.verdict {
        Verdict::RebootPending => {
            world.root.write(REBOOT_REQUIRED, format!("{}\n", document.summary).as_bytes(), 0o644).map(|_| ())
        }
        _ => world.root.remove(REBOOT_REQUIRED).map(|_| ()),
    };
    super::motd::write(world, document).and(marked)
}

/// The same after a run, with metrics, and the programs that want to know.
///
/// # Errors
/// When the message of the day or the mark cannot be written. Metrics and programs are a gift to others: what goes wrong
/// there is told, and is no failure of ours.
pub fn write_all(world: &World, document: &Document, before: Option<&str>) -> Result<(), FileError> {
    let written = write(world, document);
    if let Some(path) = &world.settings.metrics {
        let text = crate::render::metrics::text(document);
        if let Err(e) = world.root.write(path, text.as_bytes(), 0o644) {
            tracing::warn!("[report] metrics: {e}");
        }
    }
    if before != Some(document.verdict.to_string().as_str()) {
        notify(world, document, before.unwrap_or("none"));
    }
    written
}

/// Runs the programs one after the other. Of a root that is not `/` no program is run.
fn notify(world: &World, document: &Document, before: &str) {
    if !world.root.is_live() {
        return;
    }
    let listed = match world.root.list_optional(NOTIFY) {
        Ok(listed) => listed,
        Err(e) => return tracing::warn!("{e}"),
    };
    let mut names: Vec<&str> = listed.iter().filter_map(|file| file.text()).collect();
    names.retain(|name| !name.starts_with('.') && !name.ends_with('~'));
    names.sort_unstable();
    let text = match super::json(document) {
        Ok(text) => text,
        Err(e) => return tracing::warn!("{e}"),
    };
    for path in names.iter().map(|name| format!("{NOTIFY}/{name}")) {
        let runs =
            world.root.lookup(&path).stat().is_some_and(|s| s.kind == Kind::File && s.mode & 0o111 != 0);
        if !runs {
            tracing::debug!("{path} is no executable file");
            continue;
        }
        let limit: Duration = world.settings.notify_timeout;
        let child = world
            .tools
            .child_at(&world.root.spell(&path), limit)
            .env("CLR_DKMS_VERDICT", document.verdict.to_string())
            .env("CLR_DKMS_VERDICT_BEFORE", before)
            .input(text.clone().into_bytes());
        match child.run() {
            Ok(done) if done.ended == Ended::Exit(0) => tracing::debug!("{path} was told"),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.output).trim().to_owned();
                tracing::warn!("{path}: {}{}{said}", done.ended, if said.is_empty() { "" } else { ": " });
            }
            Err(e) => tracing::warn!("{path} cannot be started: {e}"),
        }
    }
}
