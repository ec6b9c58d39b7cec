//! The screen of `clr-dkms add`: a line for each step, what was decided and why, the `dkms.conf`.

use super::side_files::offered;
use super::{broken, shown};
use crate::adopt::{Decision, Evidence};
use crate::report::add::{AddDocument, AddStep, StepResult};

/// What is known before anything is installed.
pub fn found(document: &AddDocument) -> String {
    let mut out: Vec<String> = Vec::new();
    let at = document.steps.iter().position(|step| step.step == "find").map_or(0, |at| at + 1);
    out.extend(document.steps.iter().take(at).flat_map(step));
    out.extend(document.decisions.iter().flat_map(decision));
    out.extend(conf(document));
    out.extend(document.steps.iter().skip(at).flat_map(step));
    out.extend(offered(&document.side));
    text(&out)
}

/// The steps from that one on, and what takes it all back.
pub fn rest(document: &AddDocument, from: usize) -> String {
    let mut out: Vec<String> = document.steps.iter().skip(from).flat_map(step).collect();
    if let Some(undo) = &document.undo {
        out.push(format!("undo: {undo}"));
    }
    text(&out)
}

/// The steps of another verb.
pub fn steps(steps: &[AddStep]) -> String {
    text(&steps.iter().flat_map(step).collect::<Vec<_>>())
}

pub(super) fn text(lines: &[String]) -> String {
    lines.iter().map(|line| shown(line) + "\n").collect()
}

pub(super) fn step(step: &AddStep) -> Vec<String> {
    let word = match step.result {
        StepResult::Done => "",
        StepResult::Skipped => "skipped: ",
        StepResult::Warning => "warning: ",
        StepResult::Failed => "failed: ",
        StepResult::Planned => "would be done: ",
    };
    let cause = step.cause.map(|cause| format!(" [{cause}]")).unwrap_or_default();
    let mut out = broken(&format!("{word}{}{cause}", step.text), &format!("{:<9} ", step.step), "          ");
    out.extend(step.evidence.iter().map(line));
    out.extend(step.next_step.iter().flat_map(|next| broken(next, "next:     ", "          ")));
    out
}

fn decision(decision: &Decision) -> Vec<String> {
    let mut out = broken(&decision.to_string(), "          ", "            ");
    out.extend(decision.evidence.iter().map(line));
    out
}

fn line(evidence: &Evidence) -> String {
    format!("            {evidence}")
}

fn conf(document: &AddDocument) -> Vec<String> {
    let Some(text) = &document.dkms_conf else { return Vec::new() };
    let (title, lines): (String, Vec<String>) = match (&document.original, document.changes.is_empty()) {
        (Some(path), true) => {
            (format!("the dkms.conf is {path}, unchanged:"), text.lines().map(str::to_owned).collect())
        }
        (Some(path), false) => {
            (format!("the dkms.conf is {path} with these changes:"), document.changes.clone())
        }
        (None, _) => ("the dkms.conf is generated:".to_owned(), text.lines().map(str::to_owned).collect()),
    };
    let lines = lines.into_iter().map(|line| format!("            {line}"));
    std::iter::once(format!("          {title}")).chain(lines).collect()
}
