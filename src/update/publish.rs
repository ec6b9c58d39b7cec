//! Where the document of a run goes beside the record: the message of the day, the mark that a reboot is due,
//! metrics, and the programs of an admin that want to know of a new verdict.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use crate::context::Context;
use crate::kernel::Images;
use crate::report::{StatusDocument, Verdict};
use crate::state::{RECORD, RunRecord, Stored};
use crate::sys::{Ended, FileError, FileKind, RootKind};
use crate::system::System;

/// There while a reboot is pending *and* safe.
pub const REBOOT_REQUIRED: &str = "/run/clr-dkms/reboot-required";
/// Executables that get the document on their standard input when the verdict has changed.
const NOTIFY: &str = "/etc/clr-dkms/notify.d";

/// A link to the metrics file that was written last: when the setting changes or goes away, nobody writes
/// that file any more, and what reads it does not ask for its age.
const METRICS: &str = "/var/lib/clr-dkms/metrics";
/// What every metrics file of ours begins with.
const METRICS_BEGIN: &[u8] = b"# HELP clr_dkms_";

/// Writes the message of the day, the mark and the metrics.
///
/// # Errors
/// When the message of the day or the mark cannot be written; the other one is still written. Errors of the
/// metrics file are only logged: the run itself did not fail.
pub fn write(context: &Context, document: &StatusDocument) -> Result<(), FileError> {
    let marked = match document.verdict {
        Verdict::RebootPending => context
            .root
            .write(REBOOT_REQUIRED, format!("{}\n", document.summary).as_bytes(), 0o644)
            .map(|_| ()),
        _ => context.root.remove(REBOOT_REQUIRED).map(|_| ()),
    };
    write_metrics(context, document);
    super::motd::write(context, document).and(marked)
}

/// The same after a run, and tells the programs that want to know when the verdict is not the one of
/// `before`.
///
/// # Errors
/// As [`write`]: programs are a gift to others too.
pub fn write_all(
    context: &Context,
    document: &StatusDocument,
    before: Option<&str>,
) -> Result<(), FileError> {
    let written = write(context, document);
    if before != Some(document.verdict.to_string().as_str()) {
        notify(context, document, before.unwrap_or("none"));
    }
    written
}

/// Notes in the record why nothing was done: a hook's exit code and output are thrown away. Where nothing of
/// ours has been written before, it is done in images only, where a first record decides nothing.
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

/// Writes the metrics where they are wanted, and removes the file that is wanted no more.
pub fn write_metrics(context: &Context, document: &StatusDocument) {
    if let Err(e) = put_metrics(context, document) {
        tracing::warn!("[report] metrics: {e}");
    }
}

fn put_metrics(context: &Context, document: &StatusDocument) -> anyhow::Result<()> {
    let root = &context.root;
    let wanted = context.settings.metrics.as_ref();
    // One that cannot be read names no file that could be removed.
    if let Some(old) = root.read_link(METRICS).ok().filter(|old| Some(old) != wanted) {
        if is_metrics(context, &old)? {
            root.remove(&old)?;
        }
        root.remove(METRICS)?;
    }
    let Some(path) = wanted else { return Ok(()) };
    // A slip in the setting must not cost a file of somebody else.
    if root.lookup_link(path).stat().is_some() && !is_metrics(context, path)? {
        anyhow::bail!(
            "{} is there, and holds no metrics of ours: left alone",
            root.shown_path(path).display()
        );
    }
    root.link(METRICS, path)?;
    root.write(path, crate::report::render::metrics::text(document).as_bytes(), 0o644)?;
    Ok(())
}

/// It is a file that we have written, or an empty one that was made for us.
fn is_metrics(context: &Context, path: &PathBuf) -> Result<bool, FileError> {
    let bytes = context.root.read_optional(path)?;
    Ok(bytes.is_some_and(|bytes| bytes.is_empty() || bytes.starts_with(METRICS_BEGIN)))
}

/// Runs the programs one after the other. Of a root that is not `/` no program is run.
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
        let runs = context
            .root
            .lookup(&path)
            .stat()
            .is_some_and(|s| s.kind == FileKind::File && s.mode & 0o111 != 0);
        if !runs {
            tracing::debug!("{path} is not an executable file");
            continue;
        }
        match open_to_others(context, Path::new(&path)) {
            Ok(None) => {}
            Ok(Some(open)) => {
                tracing::warn!(
                    "{path} is not run: {} can be changed by others than root; `chown root` and `chmod go-w` \
                     close it",
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

/// The first of a program's file, the target of its symlink and the directories above that users other than
/// root can change: any of them could replace the program, which runs as root.
fn open_to_others(context: &Context, path: &Path) -> Result<Option<PathBuf>, FileError> {
    let real = context.root.real_path(path)?;
    let is_open = |part: &&Path| {
        context.root.lookup(part).stat().is_none_or(|stat| stat.owner != 0 || stat.mode & 0o022 != 0)
    };
    Ok(real.ancestors().chain(path.ancestors().skip(1)).find(is_open).map(Path::to_owned))
}
