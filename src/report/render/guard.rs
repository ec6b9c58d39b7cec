//! The screen of `clr-dkms guard`.

use super::broken_to;
use super::style::{ScreenStyle, StyledLine, Tone, bold, painted, plain, toned};
use super::text::{NOTHING, answer, utc};
use crate::report::guard::{GuardReport, GuardWord};
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
    let mut lines = answer(&report.word.to_string(), tone, step, &report.summary, style);
    if report.word == GuardWord::NotApplicable {
        return painted(&lines, style);
    }
    let wrapped = |text: &str, first: &str, other: &str| -> Vec<StyledLine> {
        broken_to(style.width, text, first, other).into_iter().map(|text| vec![plain(text)]).collect()
    };
    let title = |text: String| vec![StyledLine::new(), vec![bold(text, Tone::Plain)]];
    lines.push(StyledLine::new());
    let mut row = |name: &str, text: &str| {
        let first = format!("{name:<15} ");
        lines.extend(wrapped(text, &first, &" ".repeat(first.len())));
    };
    let unknown = "unknown";
    row("boots next", &boots_next(report));
    row("should boot", report.default.as_deref().unwrap_or("no kernel is there"));
    row("newest", report.target.as_deref().unwrap_or(unknown));
    row("policy", report.policy);
    row("swupd", &swupd(report));
    if let Some(since) = report.held_since {
        row("held since", &utc(since));
    }
    for part in &report.waiting {
        let WaitingPart { what, since, why, command } = part;
        row(
            "out of date",
            &format!(
                "{what}, since {}, because {why}; `sudo {command}` does not wait, at your own risk",
                utc(*since)
            ),
        );
    }
    let wishes = &report.wishes.wishes;
    if let Some(hold) = &wishes.hold {
        row("admin holds", &format!("{hold}{}", wishes.held));
    }
    if let Some(lost) = &report.lost_wish {
        row("admin's word", lost);
    }
    for allowance in &wishes.allowed {
        row("admin allows", &allowance.to_string());
    }
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
            let other = " ".repeat(first.chars().count());
            let tone = if is_missed { Tone::Bad } else { Tone::Plain };
            let texts = broken_to(style.width, &format!("{}{now}", need.reason), &first, &other);
            lines.extend(texts.into_iter().map(|text| vec![toned(text, tone)]));
        }
    }
    if !report.lacking.is_empty() {
        lines
            .extend(title(format!("What {} lacks", report.target.as_deref().unwrap_or("the newest kernel"))));
        for lack in &report.lacking {
            let reason = report.errors.get(&lack.module).unwrap_or(&lack.reason);
            let why = format!("{} ({}: {}): {reason}", lack.module, lack.class, lack.needed);
            lines.extend(wrapped(&why, "  ", "    "));
        }
    }
    painted(&lines, style)
}

/// The kernel that boots next, and how that is known where it is not simply the boot default.
fn boots_next(report: &GuardReport) -> String {
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

fn swupd(report: &GuardReport) -> String {
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
