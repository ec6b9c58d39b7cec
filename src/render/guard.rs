//! The screen of `clr-dkms guard`.

use super::{broken, shown};
use crate::guard::{Class, Ruling};
use crate::status::guard::GuardReport;

/// The whole screen.
pub fn text(report: &GuardReport) -> String {
    let word = match (report.is_unsafe, report.ruling) {
        (true, _) => "unsafe",
        (false, Ruling::Defer) => "held",
        (false, Ruling::Allow) => "allowed",
    };
    let mut lines = broken(&format!("{word}: {}", report.summary), "", "  ");
    if let Some(step) = &report.next_step {
        lines.extend(broken(&format!("next step: {step}"), "", "  "));
    }
    lines.push(String::new());
    let mut row = |name: &str, text: &str| {
        let first = format!("{name:<15} ");
        lines.extend(broken(text, &first, &" ".repeat(first.len())));
    };
    let unknown = "it cannot be told";
    row("boots next", report.boots_next.as_deref().unwrap_or(unknown));
    row("should boot", report.default.as_deref().unwrap_or("no kernel is there"));
    row("newest", report.target.as_deref().unwrap_or(unknown));
    row("policy", report.policy);
    row("swupd", &swupd(report));
    if let Some(since) = report.held_since {
        let waiting = if report.deferred { "; microcode and boot loader wait too" } else { "" };
        row("held since", &format!("{}{waiting}", since.strftime("%Y-%m-%d %H:%M:%S UTC")));
    }
    if let Some(hold) = &report.wishes.hold {
        row("admin holds", hold);
    }
    if let Some(lost) = &report.lost_wish {
        row("admin's word", lost);
    }
    for release in &report.wishes.released {
        row("admin released", release);
    }
    if !report.needs.is_empty() {
        lines.push(String::new());
        lines.push("Modules".to_owned());
        let width = report.needs.iter().map(|n| n.module.len()).max().unwrap_or(0);
        let mut needs = report.needs.clone();
        needs.sort_by(|a, b| b.class.cmp(&a.class).then_with(|| a.module.cmp(&b.module)));
        for need in &needs {
            let now = match (need.works, need.class) {
                (false, Class::Critical | Class::Wanted) => "; does not work now",
                _ => "",
            };
            let first = format!("  {:<width$}  {:<8}  ", need.module, need.class.to_string());
            lines.extend(broken(&format!("{}{now}", need.reason), &first, &" ".repeat(first.len())));
        }
    }
    if !report.lacking.is_empty() {
        lines.push(String::new());
        lines.push(format!("What {} lacks", report.target.as_deref().unwrap_or("the newest kernel")));
        for lack in &report.lacking {
            let why = format!("{} ({}: {}): {}", lack.module, lack.class, lack.needed, lack.reason);
            lines.extend(broken(&why, "  ", "    "));
        }
    }
    lines.iter().map(|line| shown(line.trim_end()) + "\n").collect()
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
