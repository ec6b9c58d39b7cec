//! The screen of `clr-dkms guard`.

use super::style::{ScreenStyle, StyledLine, Tone, bold, painted};
use super::text::{NOTHING, answer, hanging, wrapped};
use crate::decide::trial::TrialWord;
use crate::report::guard::{GuardReport, GuardWord, TrialReport};
use crate::report::problem::Problem;
use crate::requirement::Importance;
use crate::state::WaitingPart;

/// The whole screen, with ANSI styles; anyone that prints it takes them out where they are not wanted.
pub fn text(report: &GuardReport, style: &ScreenStyle) -> String {
    let tone = match report.word {
        GuardWord::Allowed => Tone::Good,
        GuardWord::Released | GuardWord::Held => Tone::Attention,
        GuardWord::Unsafe => Tone::Bad,
        GuardWord::Unknown => Tone::Unknown,
        GuardWord::NotApplicable => Tone::Plain,
    };
    let step = report.next_step.as_deref().unwrap_or(NOTHING);
    let summary = report.problem.as_ref().map(|problem| problem.sentence(&style.times));
    let summary = summary.unwrap_or_else(|| report.summary.clone());
    let mut lines = answer(&report.word.to_string(), tone, step, &summary, style);
    if report.word == GuardWord::NotApplicable {
        return painted(&lines, style);
    }
    lines.push(StyledLine::new());
    lines.extend(rows(report, style));
    let title = |text: String| vec![StyledLine::new(), vec![bold(text, Tone::Plain)]];
    if !report.needs.is_empty() {
        lines.extend(title("Modules".to_owned()));
        let name = |module: &str| report.versions.get(module).map_or(module, String::as_str).to_owned();
        let width = report.needs.iter().map(|n| name(&n.module).chars().count()).max().unwrap_or(0);
        let mut needs = report.needs.clone();
        needs.sort_by(|a, b| b.class.cmp(&a.class).then_with(|| a.module.cmp(&b.module)));
        for need in &needs {
            let is_missed = !need.works && need.class > Importance::Optional;
            let now = if is_missed { "; does not work now" } else { "" };
            let first = format!("  {:<width$}  {:<8}  ", name(&need.module), need.class.to_string());
            let tone = match (is_missed, need.works) {
                (true, _) => Tone::Bad,
                (false, true) => Tone::Good,
                (false, false) => Tone::Plain,
            };
            lines.extend(hanging(Some(tone), &first, &format!("{}{now}", need.reason), style));
        }
    }
    if !report.lacking.is_empty() {
        lines
            .extend(title(format!("What {} lacks", report.target.as_deref().unwrap_or("the newest kernel"))));
        for lack in &report.lacking {
            let reason = report.errors.get(&lack.module).unwrap_or(&lack.reason);
            let why = format!("{} ({}: {}): {reason}", lack.module, lack.class, lack.needed);
            let tone = if lack.class == Importance::Critical { Tone::Bad } else { Tone::Attention };
            lines.extend(wrapped(Some(tone), &why, ["  ", "    "], style));
        }
    }
    painted(&lines, style)
}

/// What is known of the boot default, and what an admin has requested.
fn rows(report: &GuardReport, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut lines = Vec::new();
    let mut row = |tone: Option<Tone>, name: &str, text: &str| {
        lines.extend(hanging(tone, &format!("  {name:<15} "), text, style));
    };
    let is_seen = report.boots_next_unknown.is_none() && report.other_system.is_none();
    let boots_next = match (report.boots_next.as_ref(), report.default.as_ref()) {
        _ if report.is_unsafe => Tone::Bad,
        (Some(_), _) if report.boots_removed => Tone::Bad,
        (Some(next), Some(default)) if is_seen && next == default => Tone::Good,
        (Some(_), Some(_)) if is_seen => Tone::Attention,
        _ if report.other_system.is_some() => Tone::Attention,
        _ => Tone::Unknown,
    };
    row(Some(boots_next), "boots next", &boots_next_text(report));
    if let Some(trial) = &report.trial {
        let tone = match trial.stage {
            TrialWord::Armed => Tone::Good,
            TrialWord::Running | TrialWord::Unchecked => Tone::Attention,
            TrialWord::Failed | TrialWord::Unfinished => Tone::Bad,
        };
        let is_overridden = matches!(report.problem, Some(Problem::TrialOverridden { .. }));
        let tone = if is_overridden { Tone::Attention } else { tone };
        row(Some(tone), "trial", &trial_text(trial, is_overridden, style));
    }
    row(None, "should boot", report.default.as_deref().unwrap_or("no kernel is there"));
    row(None, "newest", report.target.as_deref().unwrap_or("unknown"));
    row(None, "policy", report.policy);
    let swupd = &report.swupd;
    row(Some(if swupd.defers { Tone::Good } else { Tone::Attention }), "swupd", &swupd_text(report));
    if let Some(since) = report.held_since {
        row(Some(Tone::Attention), "held since", &style.times.moment(since));
    }
    for part in &report.waiting {
        let WaitingPart { what, since, why, command } = part;
        row(
            Some(Tone::Attention),
            "out of date",
            &format!(
                "{what}, since {}, because {why}; `sudo {command}` does not wait, at your own risk",
                style.times.moment(*since)
            ),
        );
    }
    let wishes = &report.wishes.wishes;
    if let Some(hold) = &wishes.hold {
        row(Some(Tone::Attention), "admin holds", &format!("{hold}{}", wishes.held.text(&style.times)));
    }
    if let Some(lost) = &report.lost_wish {
        row(Some(Tone::Attention), "request", lost);
    }
    for allowance in &wishes.allowed {
        row(Some(Tone::Attention), "admin allows", &allowance.text(&style.times));
    }
    lines
}

/// The kernel that boots next, and how that is known where it is not simply the boot default.
fn boots_next_text(report: &GuardReport) -> String {
    let release = report.boots_next.as_deref();
    match (&report.other_system, &report.boots_next_unknown, release) {
        (Some(entry), ..) => format!("{entry}, which is not a kernel of this system"),
        (None, Some(why), Some(release)) => format!("unknown: {why}; the last run saw {release}"),
        (None, Some(why), None) => format!("unknown: {why}"),
        (None, None, Some(release)) if report.boots_removed => {
            format!("{release}, which is not installed any more")
        }
        (None, None, release) => release.unwrap_or("unknown").to_owned(),
    }
}

fn trial_text(trial: &TrialReport, is_overridden: bool, style: &ScreenStyle) -> String {
    let TrialReport { kernel, fallback, since, failed, .. } = trial;
    let since = style.times.moment(*since);
    match (trial.stage, trial.once) {
        (TrialWord::Armed, true) if is_overridden => {
            format!("{kernel} is booted once, unless the machine reboots in an orderly way before")
        }
        (TrialWord::Armed, true) => format!("{kernel} is booted once; {fallback} stays the boot default"),
        (TrialWord::Armed, false) => format!("{kernel} is checked in its first boot"),
        (TrialWord::Running, _) => format!("{kernel} runs, and everything critical has to work"),
        (TrialWord::Failed, _) => format!("{kernel} failed, prepared {since}: {}", failed.join(", ")),
        (TrialWord::Unfinished, _) => format!("{kernel} did not show that it works, prepared {since}"),
        (TrialWord::Unchecked, _) => {
            format!("the machine was rebooted before {kernel} could be checked, prepared {since}")
        }
    }
}

fn swupd_text(report: &GuardReport) -> String {
    let swupd = &report.swupd;
    match (swupd.defers, &swupd.overridden_by, &swupd.refused) {
        (true, ..) => "leaves the boot files to clr-dkms".to_owned(),
        (false, Some(by), _) => {
            format!("runs clr-boot-manager itself, before the modules are built: {by} says so")
        }
        (false, None, Some(why)) => format!("runs clr-boot-manager itself: {why}"),
        (false, None, None) => "runs clr-boot-manager itself, before the modules are built".to_owned(),
    }
}
