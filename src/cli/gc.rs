//! `clr-dkms gc`: removes what DKMS has left of kernels that are not installed any more.

use clap::Args;

use super::{Common, begin, show};
use crate::context::Context;
use crate::dkms::gc::How;
use crate::exit;
use crate::report::render::style::{ScreenStyle, Tone, painted, plain};
use crate::report::render::text::mark;
use crate::update::gc::{self, GcDocument};

/// The arguments of `gc`.
#[derive(Debug, Args)]
pub struct GcArguments {
    /// Print what would be removed, and what is kept and why; change nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Print JSON: what is (or would be) removed, and what is kept
    #[arg(long)]
    json: bool,
}

/// Runs `gc`.
///
/// # Errors
/// If the lock cannot be taken, or stdout cannot be written.
pub fn run(context: &Context, arguments: &GcArguments, common: &Common) -> anyhow::Result<u8> {
    let document = if arguments.dry_run {
        gc::dry_run(context)
    } else {
        let _lock = begin(context, "clr-dkms gc")?;
        gc::collect(context)
    };
    for what in &document.plan.unreadable {
        tracing::error!("{what}; nothing was changed");
    }
    for failed in &document.failed {
        tracing::error!("{}: {}", failed.what, failed.why);
    }
    show(context, &document, arguments.json, common, screen)?;
    Ok(match (document.plan.unreadable.is_empty(), document.failed.is_empty()) {
        (false, _) => exit::UNKNOWN,
        (true, false) => exit::ATTENTION,
        (true, true) => exit::OK,
    })
}

/// The result as text.
fn screen(document: &GcDocument, style: &ScreenStyle) -> String {
    let GcDocument { plan, failed, dry_run, .. } = document;
    let mut lines = Vec::new();
    let mut line = |tone: Tone, text: &str| lines.push(vec![mark(Some(tone), style), plain(text)]);
    if !plan.unreadable.is_empty() {
        line(Tone::Unknown, "nothing is removed: not everything could be read");
        return painted(&lines, style);
    }
    if *dry_run {
        for r in &plan.removals {
            let how = match r.how {
                How::DkmsUnbuild => "`dkms unbuild`",
                How::Remove => "remove",
            };
            line(Tone::Attention, &format!("would {how} {}: {}", r.path, r.why));
        }
        let left_alone = plan.left_alone.iter();
        left_alone.for_each(|l| line(Tone::Plain, &format!("left alone: {}: {}", l.what, l.why)));
    }
    let gone = plan.removals.iter().filter(|r| failed.iter().all(|f| f.what != r.path)).count();
    let freed = size(document.freed);
    match (plan.removals.len(), dry_run) {
        (0, _) => line(Tone::Good, "nothing to remove"),
        (_, true) => line(Tone::Attention, &format!("would remove {}, {freed}", counted(gone))),
        (_, false) => {
            let tone = if failed.is_empty() { Tone::Good } else { Tone::Bad };
            line(tone, &format!("removed {}, {freed} freed", counted(gone)));
        }
    }
    painted(&lines, style)
}

fn counted(things: usize) -> String {
    if things == 1 { "1 leftover".to_owned() } else { format!("{things} leftovers") }
}

/// A size in a unit that is easy to read.
fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fits = UNITS.iter().find(|(_, unit)| bytes >= *unit);
    match fits {
        // Rounded down, so that it does not promise more than there was.
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} bytes"),
    }
}
