//! The screen of `clr-dkms lint`: the sum, then each finding with what clears it.

use super::style::{ScreenStyle, StyledLine, Tone, painted};
use super::text::{marked, wrapped};
use crate::dkms::lint::{Finding, Severity};
use crate::report::lint::{LintDocument, Target};

/// The whole screen.
pub fn screen(document: &LintDocument, style: &ScreenStyle) -> String {
    let findings = document.targets.iter().flat_map(|target| &target.findings);
    let tone = match document.unreadable() {
        // The most severe one comes first.
        0 => findings.map(|found| found.severity).min().map_or(Tone::Good, tone_of),
        _ => Tone::Unknown,
    };
    let mut out = wrapped(Some(tone), &document.summary, ["  ", "    "], style);
    for target in &document.targets {
        // The findings name their file; a module without any wants to be named too.
        if target.findings.is_empty() && target.unreadable.is_none() {
            let text = vec![format!("  {}: no findings", target.name)];
            out.extend(marked(Some(Tone::Good), text, style));
        }
        out.extend(unreadable(target, style));
        out.extend(target.findings.iter().flat_map(|found| finding(found, style)));
    }
    painted(&out, style)
}

fn tone_of(severity: Severity) -> Tone {
    match severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Attention,
        Severity::Advice => Tone::Plain,
    }
}

fn unreadable(target: &Target, style: &ScreenStyle) -> Vec<StyledLine> {
    let Some(reason) = &target.unreadable else {
        return Vec::new();
    };
    let text = format!("{}: unknown: {reason}", target.name);
    wrapped(Some(Tone::Unknown), &text, ["  ", "    "], style)
}

fn finding(finding: &Finding, style: &ScreenStyle) -> Vec<StyledLine> {
    let line = finding.line.map(|line| format!("{line}:")).unwrap_or_default();
    let Finding { file, severity, what, id, clear, .. } = finding;
    // The path is not broken at its blanks.
    let text = format!("{severity}: {what} [{id}]");
    let first = format!("  {file}:{line} ");
    let mut out = wrapped(Some(tone_of(*severity)), &text, [&first, "    "], style);
    out.extend(wrapped(None, &format!("next: {clear}"), ["    ", "      "], style));
    out
}
