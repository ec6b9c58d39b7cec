//! Publishes the document of a run: the message of the day, the mark that a reboot is due, metrics, and the
//! programs of the admin that are notified of a new verdict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::context::Context;
use crate::kernel::Images;
use crate::report::{StatusDocument, Verdict};
use crate::state::{RECORD, RunRecord, Stored};
use crate::sys::{Ended, FileError, FileKind, RootKind};
use crate::system::System;

/// Exists while a reboot is pending *and* safe.
pub const REBOOT_REQUIRED: &str = "/run/clr-dkms/reboot-required";
/// Executables that receive the document on their standard input when the verdict has changed.
const NOTIFY: &str = "/etc/clr-dkms/notify.d";

/// A symlink to the metrics file that was last written. If the setting changes, it identifies the old file,
/// which must be removed: a reader of metrics does not check their age.
const METRICS: &str = "/var/lib/clr-dkms/metrics";
/// The first bytes of every metrics file of clr-dkms.
const METRICS_BEGIN: &[u8] = b"# HELP clr_dkms_";

/// Writes the message of the day, the mark and the metrics.
///
/// # Errors
/// If the message of the day or the mark cannot be written; the other one is still written. Errors of the
/// metrics file are only logged, because the run itself did not fail.
pub fn write(context: &Context, document: &StatusDocument) -> Result<(), FileError> {
    let marked = match document.verdict {
        Verdict::RebootPending => context
            .root
            .write(REBOOT_REQUIRED, format!("{}\n", document.summary).as_bytes(), 0o644)
            .map(|_| ()),
        _ => context.root.remove(REBOOT_REQUIRED).map(|_| ()),
    };
    write_metrics(context, document);
    both(super::motd::write(context, document), marked)
}

/// The first error of two steps. The second one is logged, because only one is returned.
pub(super) fn both<E: std::fmt::Display>(first: Result<(), E>, second: Result<(), E>) -> Result<(), E> {
    match (first, second) {
        (Err(first), Err(second)) => {
            tracing::error!("{second}");
            Err(first)
        }
        (first, second) => first.and(second),
    }
}

/// Like [`write`], for the end of a run. Also runs the programs of the admin if the verdict is not `before`.
///
/// # Errors
/// As for [`write`]. A failure of a program is only logged.
pub fn write_all(context: &Context, status: &StatusDocument, before: Option<&str>) -> Result<(), FileError> {
    let written = write(context, status);
    if before != Some(status.verdict.to_string().as_str()) {
        notify(context, status, before.unwrap_or("none"));
    }
    written
}

/// Records why nothing was done, because swupd discards the exit code and output of a hook. If there is no
/// record yet, only images get one, where a first record affects no decision.
pub fn record_unknown(
    context: &Context,
    system: &System,
    before: &Stored<RunRecord>,
    started: Timestamp,
    reason: &str,
) {
    let known = before.as_good().cloned();
    let is_first = matches!(before, Stored::Absent)
        && context.root.kind() == RootKind::Image
        && !matches!(system.inventory.images, Images::Absent);
    let Some(known) = known.or_else(|| is_first.then(|| RunRecord::empty(started))) else { return };
    let record = RunRecord {
        started,
        finished: context.clock.now(),
        problems: vec![format!("{reason}; nothing has been changed")],
        verdict: Some(Verdict::Unknown.to_string()),
        ..known
    };
    if before.as_good().is_none_or(|old| !old.tells_the_same_as(&record))
        && let Err(e) = context.root.write_json(RECORD, &record)
    {
        tracing::warn!("{e}; the next report does not show it");
    }
}

/// Writes the metrics file if it is configured, and removes one that is not configured any more.
pub fn write_metrics(context: &Context, document: &StatusDocument) {
    if let Err(e) = put_metrics(context, document) {
        tracing::warn!("[report] metrics: {e}");
    }
}

fn put_metrics(context: &Context, document: &StatusDocument) -> anyhow::Result<()> {
    let root = &context.root;
    let wanted = context.settings.metrics.as_ref();
    let old = match root.read_link(METRICS) {
        Ok(old) => Some(old),
        // It may name a file that is not written any more. Replacing it would leave that file for ever.
        Err(e) if e.leaves_open() => return Err(e.into()),
        // Absent, or not a symlink.
        Err(_) => None,
    };
    if let Some(old) = old.filter(|old| Some(old) != wanted) {
        if is_metrics(context, &old)? {
            root.remove(&old)?;
        }
        root.remove(METRICS)?;
    }
    let Some(path) = wanted else { return Ok(()) };
    // A mistake in the setting must not delete an unrelated file.
    if root.lookup_link(path).stat().is_some() && !is_metrics(context, path)? {
        anyhow::bail!(
            "{} exists and is not a metrics file of clr-dkms: left alone",
            root.shown_path(path).display()
        );
    }
    root.link(METRICS, path)?;
    root.write(path, crate::report::render::metrics::text(document).as_bytes(), 0o644)?;
    Ok(())
}

/// Whether clr-dkms has written the file, or the file is empty.
fn is_metrics(context: &Context, path: &PathBuf) -> Result<bool, FileError> {
    let bytes = context.root.read_optional(path)?;
    Ok(bytes.is_some_and(|bytes| bytes.is_empty() || bytes.starts_with(METRICS_BEGIN)))
}

/// Runs the programs one after the other. Programs of a root other than `/` are never run.
fn notify(context: &Context, document: &StatusDocument, before: &str) {
    if !context.root.is_live() {
        return;
    }
    let listed = match context.root.list_optional(NOTIFY) {
        Ok(listed) => listed,
        Err(e) => return tracing::warn!("{e}"),
    };
    let mut names: Vec<&str> = listed.iter().filter_map(|file| file.text()).collect();
    names.retain(|name| !name.starts_with('.') && !name.ends_with('~'));
    names.sort_unstable();
    let text = match crate::report::render::json(document) {
        Ok(text) => text,
        Err(e) => return tracing::warn!("{e}"),
    };
    for path in names.iter().map(|name| format!("{NOTIFY}/{name}")) {
        let there = match context.root.lookup(&path).known() {
            Ok(there) => there,
            Err(e) => {
                tracing::warn!("{path} is not run: {e}");
                continue;
            }
        };
        if !there.is_some_and(|stat| stat.kind == FileKind::File && stat.mode & 0o111 != 0) {
            tracing::debug!("{path} is not an executable file");
            continue;
        }
        match open_to_others(context, Path::new(&path)) {
            Ok(None) => {}
            Ok(Some(open)) => {
                tracing::warn!(
                    "{path} is not run: {} can be changed by users other than root; run `sudo chown root` and \
                     `sudo chmod go-w` on it",
                    open.display()
                );
                continue;
            }
            Err(e) => {
                tracing::warn!("{path} is not run: {e}");
                continue;
            }
        }
        let limit: Duration = context.settings.notify_timeout;
        let child = context
            .tools
            .child_at(&context.root.shown_path(&path), limit)
            .env("CLR_DKMS_VERDICT", document.verdict.to_string())
            .env("CLR_DKMS_VERDICT_BEFORE", before)
            .input(text.clone().into_bytes());
        match child.run() {
            Ok(done) if done.ended == Ended::Exit(0) => tracing::debug!("{path} was notified"),
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.output).trim().to_owned();
                tracing::warn!("{path}: {}{}{said}", done.ended, if said.is_empty() { "" } else { ": " });
            }
            Err(e) => tracing::warn!("{path} cannot be started: {e}"),
        }
    }
}

/// The first path that users other than root can change: the file of a program, the target of its symlink, or
/// a directory above them. Each of them could replace the program, which runs as root.
fn open_to_others(context: &Context, path: &Path) -> Result<Option<PathBuf>, FileError> {
    let real = context.root.real_path(path)?;
    let is_open = |part: &&Path| {
        context.root.lookup(part).stat().is_none_or(|stat| stat.owner != 0 || stat.mode & 0o022 != 0)
    };
    Ok(real.ancestors().chain(path.ancestors().skip(1)).find(is_open).map(Path::to_owned))
}
