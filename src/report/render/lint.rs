//! The screen of `clr-dkms lint`: the sum, then each finding with what clears it.

use super::{broken, shown};
use crate::dkms::lint::Finding;
use crate::report::lint::{LintDocument, Target};

/// The whole screen.
pub fn screen(document: &LintDocument) -> String {
    let mut out = broken(&document.summary, "", "  ");
    for target in &document.targets {
        // The findings name their file; a module without any wants to be named too.
        if target.findings.is_empty() && target.unreadable.is_none() {
            out.push(format!("{}: no findings", target.name));
        }
        out.extend(unreadable(target));
        out.extend(target.findings.iter().flat_map(finding));
    }
    out.iter().map(|line| shown(line) + "\n").collect()
}

fn unreadable(target: &Target) -> Vec<String> {
    let Some(reason) = &target.unreadable else {
        return Vec::new();
    };
    broken(&format!("{}: cannot tell: {reason}", target.name), "", "    ")
}

fn finding(finding: &Finding) -> Vec<String> {
    let line = finding.line.map(|line| format!("{line}:")).unwrap_or_default();
    let Finding { file, severity, what, id, clear, .. } = finding;
    // The path is not broken at its blanks.
    let mut out = broken(&format!("{severity}: {what} [{id}]"), &format!("{file}:{line} "), "    ");
    out.extend(broken(&format!("next step: {clear}"), "  ", "    "));
    out
}
