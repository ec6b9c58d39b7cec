//! The fragment for the message of the day: at most three lines, from the status document.

use crate::dkms::first_error::FirstError;
use crate::report::{StatusDocument, Verdict, waiting};
use crate::sys::TimeStyle;
use crate::sys::printable::printable;

/// The path of the fragment. `/run` is empty after a reboot, so it is written again at boot.
pub const FRAGMENT: &str = "/run/motd.d/clr-dkms.motd";
/// The directory with an admin's own texts, one file for each verdict.
pub const OWN_TEXTS: &str = "/etc/clr-dkms/motd.d";
/// The longest line, in characters.
const WIDTH: usize = 100;
/// The maximum number of lines.
const LINES: usize = 3;

/// The placeholders that may be shortened in the middle of a line.
const ELASTIC: [&str; 3] = ["{problem}", "{error}", "{waiting}"];
/// The placeholders of a text.
const PLACEHOLDERS: [&str; 7] =
    ["{kernel}", "{problem}", "{error}", "{log}", "{enforcement}", "{waiting}", "{command}"];

/// The shipped text for a verdict; none if there is nothing to report.
pub fn shipped_text(verdict: Verdict) -> Option<&'static str> {
    match verdict {
        Verdict::NotApplicable => None,
        Verdict::Healthy => Some(include_str!("../../motd.d/healthy")),
        Verdict::RebootPending => Some(include_str!("../../motd.d/reboot-pending")),
        Verdict::Building => Some(include_str!("../../motd.d/building")),
        Verdict::Degraded => Some(include_str!("../../motd.d/degraded")),
        Verdict::Held => Some(include_str!("../../motd.d/held")),
        Verdict::Unsafe => Some(include_str!("../../motd.d/unsafe")),
        Verdict::Unknown => Some(include_str!("../../motd.d/unknown")),
    }
}

/// Fills in the placeholders of a text. `{kernel}` is the release of the next boot. `{problem}` is the first
/// problem. `{error}` is the first error of the first failed build, and `{log}` its log. `{enforcement}` says
/// that modules load without a trusted signature, if they really do or will. `{waiting}` lists the outdated
/// parts of the boot files, with a date, and `{command}` updates them. A line is omitted if one of its
/// placeholders has no value, or if an earlier line begins with it. The result is empty if there is nothing
/// to report.
pub fn fragment(document: &StatusDocument, text: &str) -> String {
    let failed = document.modules.iter().map(|m| &m.record).find(|m| m.error.is_some());
    let error = failed.and_then(|m| m.error.as_ref()).map(FirstError::short);
    let value = |placeholder: &str| match placeholder {
        "{kernel}" => document.next_boot.clone(),
        "{problem}" => match document.headline() {
            Some(_) => Some(document.summary.clone()),
            None => document.problems.first().map(ToString::to_string),
        },
        "{error}" => error.clone(),
        "{enforcement}" => document.unsigned_modules.sentence().map(str::to_owned),
        "{waiting}" => waiting::listed(&document.guard.waiting, &TimeStyle::Utc),
        "{command}" => document.guard.waiting.first().map(|part| part.command.clone()),
        // Users read it on that system, where the root is /.
        "{log}" => failed.and_then(|m| m.log.as_deref()).map(|log| inside(log, &document.root)),
        plain => Some(plain.to_owned()),
    };
    let mut lines: Vec<(String, String)> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        // The line is split once, so that a placeholder in a value is not replaced.
        let parts = split_keeping(line).map(|part| Some((ELASTIC.contains(&part), value(part)?)));
        let Some(parts) = parts.collect::<Option<Vec<(bool, String)>>>() else { continue };
        let whole: String = parts.iter().map(|(_, text)| text.as_str()).collect();
        if !lines.iter().any(|(known, _)| known.starts_with(&whole)) {
            lines.push((whole, fitted(&parts)));
        }
    }
    lines.iter().take(LINES).map(|(_, line)| cut(line) + "\n").collect()
}

/// Joins the parts to one line. Elastic parts are shortened, so that the text after them is not cut off.
fn fitted(parts: &[(bool, String)]) -> String {
    let length = |text: &str| text.chars().count();
    let excess = parts.iter().map(|(_, text)| length(text)).sum::<usize>().saturating_sub(WIDTH);
    let mut gives =
        parts.iter().position(|(elastic, text)| *elastic && excess > 0 && length(text) > excess + 20);
    let shorter = |(at, (_, text)): (usize, &(bool, String))| match gives.take_if(|gives| *gives == at) {
        Some(_) => shortened(text, length(text) - excess),
        None => text.clone(),
    };
    parts.iter().enumerate().map(shorter).collect()
}

fn inside(path: &str, root: &str) -> String {
    let inside = path.strip_prefix(root.trim_end_matches('/'));
    inside.filter(|rest| rest.starts_with('/')).unwrap_or(path).to_owned()
}

fn split_keeping(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let place = PLACEHOLDERS.iter().filter_map(|p| rest.find(p).map(|at| (at, p.len()))).min();
        let end = match place {
            Some((0, length)) => length,
            Some((at, _)) => at,
            None => rest.len(),
        };
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(part)
    })
}

fn cut(line: &str) -> String {
    let clean = printable(line);
    if clean.chars().count() <= WIDTH {
        return clean;
    }
    shortened(&clean, WIDTH)
}

/// At most this number of characters, cut between words if possible.
fn shortened(text: &str, length: usize) -> String {
    let kept: String = text.chars().take(length.saturating_sub(3)).collect();
    let whole = kept.rfind(' ').filter(|at| kept.len() - at < 20).map_or(kept.as_str(), |at| &kept[..at]);
    whole.trim_end_matches([' ', ';', ',', ':', '(']).to_owned() + "..."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_short_and_few() {
        let long = "x".repeat(300);
        assert_eq!(cut(&long).chars().count(), WIDTH);
        assert_eq!(cut("a\u{1b}[31mb\u{202e}"), "a\\u{1b}[31mb\\u{202e}");
        assert_eq!(shortened("lacks hello/1.0 (wanted; build-failed) and", 36), "lacks hello/1.0 (wanted...");
        let parts: Vec<_> = split_keeping("a {kernel} b{problem}{x}").collect();
        assert_eq!(parts, ["a ", "{kernel}", " b", "{problem}", "{x}"]);
    }

    #[test]
    fn what_is_elastic_gives_way() {
        let part = |elastic, length| (elastic, if elastic { "e" } else { "x" }.repeat(length));
        for parts in
            [vec![part(true, 200), part(false, 40)], vec![part(false, 10), part(true, 90), part(false, 30)]]
        {
            let line = fitted(&parts);
            assert_eq!(line.chars().count(), WIDTH, "{line}");
            assert!(line.ends_with('x') && line.contains("e...x"), "{line}");
        }
        // Text that fits is unchanged, and so is text of which hardly anything would be left.
        assert_eq!(fitted(&[part(true, 50), part(false, 50)]).len(), 100);
        assert_eq!(fitted(&[part(true, 20), part(false, 150)]).len(), 170);
    }
}
