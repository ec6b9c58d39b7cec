//! The screen of `clr-dkms add`: a line for each step, what was decided and why, the `dkms.conf`.

use super::side_files::offered;
use super::style::{ScreenStyle, StyledLine, Tone, painted, plain};
use super::text::wrapped;
use crate::adopt::{Decision, Evidence};
use crate::report::add::{AddDocument, AddStep, StepResult};

/// The columns before the text of a step: a mark, and its name.
const INDENT: &str = "            ";

/// What is known before anything is installed.
pub fn found(document: &AddDocument, style: &ScreenStyle) -> String {
    let mut out: Vec<StyledLine> = Vec::new();
    let at = document.steps.iter().position(|step| step.step == "find").map_or(0, |at| at + 1);
    out.extend(document.steps.iter().take(at).flat_map(|one| step(one, style)));
    out.extend(document.decisions.iter().flat_map(|one| decision(one, style)));
    out.extend(conf(document).map(|line| vec![plain(line)]));
    out.extend(document.steps.iter().skip(at).flat_map(|one| step(one, style)));
    out.extend(offered(&document.side, style));
    painted(&out, style)
}

/// The steps from that one on, and what takes it all back.
pub fn rest(document: &AddDocument, from: usize, style: &ScreenStyle) -> String {
    let mut out: Vec<StyledLine> =
        document.steps.iter().skip(from).flat_map(|one| step(one, style)).collect();
    out.extend(document.undo.iter().map(|undo| vec![plain(format!("undo: {undo}"))]));
    painted(&out, style)
}

/// The steps of another verb.
pub fn steps(steps: &[AddStep], style: &ScreenStyle) -> String {
    painted(&steps.iter().flat_map(|one| step(one, style)).collect::<Vec<_>>(), style)
}

pub(super) fn step(step: &AddStep, style: &ScreenStyle) -> Vec<StyledLine> {
    let (tone, word) = match step.result {
        StepResult::Done => (Tone::Good, ""),
        StepResult::Skipped => (Tone::Plain, "skipped: "),
        StepResult::Warning => (Tone::Attention, "warning: "),
        StepResult::Failed => (Tone::Bad, "failed: "),
        StepResult::Planned => (Tone::Plain, "would be done: "),
    };
    let cause = step.cause.map(|cause| format!(" [{cause}]")).unwrap_or_default();
    let mut out = line(Some(tone), step.step, &format!("{word}{}{cause}", step.text), style);
    out.extend(step.evidence.iter().map(of_source));
    out.extend(step.next_step.iter().flat_map(|next| line(None, "next:", next, style)));
    out
}

/// A line that begins like a step.
pub(super) fn line(tone: Option<Tone>, name: &str, text: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    wrapped(tone, text, [&format!("  {name:<9} "), INDENT], style)
}

fn decision(decision: &Decision, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut out = wrapped(None, &decision.to_string(), [INDENT, "              "], style);
    out.extend(decision.evidence.iter().map(of_source));
    out
}

fn of_source(evidence: &Evidence) -> StyledLine {
    vec![plain(format!("{INDENT}  {evidence}"))]
}

fn conf(document: &AddDocument) -> impl Iterator<Item = String> {
    let text = document.dkms_conf.iter().flat_map(|text| {
        let (title, lines): (String, Vec<&str>) = match (&document.original, document.changes.is_empty()) {
            (Some(path), true) => (format!("{path}, unchanged"), text.lines().collect()),
            (Some(path), false) => {
                (format!("{path} with these changes"), document.changes.iter().map(String::as_str).collect())
            }
            (None, _) => ("generated".to_owned(), text.lines().collect()),
        };
        let lines: Vec<String> = lines.into_iter().map(|line| format!("{INDENT}  {line}")).collect();
        std::iter::once(format!("{INDENT}the dkms.conf is {title}:")).chain(lines)
    });
    text.collect::<Vec<_>>().into_iter()
}
