//! The end of `clr-dkms rebuild`: what became of each module, what to do next, and the sum.

use std::time::Duration;

use serde::Serialize;

use super::modules::tone_of;
use super::progress::spent;
use super::style::ScreenStyle;
use super::{broken, shown};
use crate::dkms::first_error::FirstError;
use crate::dkms::plan::State;

/// The document, schema 1.
#[derive(Debug, Clone, Serialize)]
pub struct RebuildReport {
    /// 1.
    pub schema: u32,
    /// In the order in which they ended; what was left alone at the end.
    pub modules: Vec<BuildOutcome>,
    /// How many were built and installed.
    pub built: usize,
    /// How many were there, and were installed or listed in `modules.dep`.
    pub put_right: usize,
    /// How many are not there because something went wrong.
    pub failed: usize,
    /// How many were left alone, those that cannot be built among them.
    pub left_alone: usize,
    /// How many should be there and cannot be built.
    pub cannot: usize,
    /// How many are there and will be refused for their signature.
    pub refused: usize,
    /// We were asked to stop: how many were not done.
    pub stopped: Option<usize>,
    /// How long all of it took, in seconds.
    pub seconds: f64,
    /// What goes on with it after a stop.
    pub next: Option<String>,
}

/// What became of one module on one kernel.
#[derive(Debug, Clone, Serialize)]
pub struct BuildOutcome {
    /// NAME/VERSION.
    pub module: String,
    /// The kernel release.
    pub kernel: String,
    /// What is true of it now.
    pub state: State,
    /// What was tried: `build` (and install), `install`, `depmod`; nothing of what was left alone or cut
    /// short.
    pub action: Option<&'static str>,
    /// Why it is not ok.
    pub reason: Option<String>,
    /// The first error of its log.
    pub error: Option<FirstError>,
    /// Its log, as a path of this machine.
    pub log: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What to do about it.
    pub next: Option<String>,
}

/// A time for the document, in seconds with three places.
pub fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// The text of it, at most 80 columns where paths and names let it.
pub fn screen(report: &RebuildReport, style: &ScreenStyle) -> String {
    if report.modules.is_empty() && report.stopped.is_none() {
        return "nothing to do\n".to_owned();
    }
    let mut lines: Vec<String> = report.modules.iter().flat_map(|module| outcome(module, style)).collect();
    lines.extend(broken(&sum(report), "", "  "));
    lines.iter().map(|line| shown(line) + "\n").collect()
}

/// The result for one module.
pub fn outcome(m: &BuildOutcome, style: &ScreenStyle) -> Vec<String> {
    let took = spent(Duration::from_secs_f64(m.seconds));
    let reason = m.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let how = match (m.action, m.state) {
        (Some("depmod"), State::Ok) => "ok (listed in modules.dep)".to_owned(),
        (Some("build"), State::Ok) => format!("ok (built in {took})"),
        (Some(_), State::Ok) => format!("ok (installed in {took})"),
        (_, State::SignatureRefused) => format!("{}{reason}", m.state),
        // A module that was not tried took no time.
        (Some(_), state) if m.log.is_some() => format!("{state} after {took}{reason}"),
        (Some(_), state) => format!("{state}{reason}"),
        (None, state) if state.is_fine() => format!("left alone ({state}){reason}"),
        (None, state) => format!("{state}{reason}"),
    };
    let mark = format!("{} ", tone_of(m.state).symbol(style));
    let mut lines = broken(&format!("{} on {}: {how}", m.module, m.kernel), &mark, "    ");
    let more = |word: &str, text: &str| broken(text, &format!("  {word}: "), "    ");
    lines.extend(m.error.iter().flat_map(|error| more("first error", &error.to_string())));
    // A path is not broken at its blanks.
    lines.extend(
        m.log
            .iter()
            .filter(|_| m.action.is_some() && !m.state.is_proven())
            .map(|log| format!("  log: {log}")),
    );
    lines.extend(m.next.iter().flat_map(|next| more("next", next)));
    lines
}

fn sum(report: &RebuildReport) -> String {
    let took = spent(Duration::from_secs_f64(report.seconds));
    let RebuildReport { built, put_right, failed, left_alone, cannot, refused, .. } = *report;
    if let Some(undone) = report.stopped {
        let done = built + put_right + failed;
        let failed = if failed > 0 { format!(" ({failed} failed)") } else { String::new() };
        let next = report.next.as_deref().unwrap_or_default();
        return format!("stopped after {took}: {done} of {} done{failed}; {next}", done + undone);
    }
    let others = [
        (put_right, "repaired without a build"),
        (failed, "failed"),
        (cannot, "cannot be built"),
        (refused, "refused for the signature"),
        (left_alone - cannot, "left alone"),
    ];
    let others = others.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}"));
    format!("{built} built{} in {took}", others.collect::<String>())
}
