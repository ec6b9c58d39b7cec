//! The command line of a kernel as a table of words and origins.

use super::style::{ScreenStyle, StyledLine, Tone, painted, plain};
use super::text::{mark, marked, section};
use super::{broken_to, shown};
use crate::cmdline::Switch;
use crate::cmdline::report::{CmdlineWordReport, LineReport, WordState};

/// The widest first column, with which the path of the usual fragment still fits in; a longer word stands on
/// a line of its own.
const COLUMN: usize = 22;
/// How far a place is indented that does not fit in behind the first column.
const NARROW: usize = 6;

/// The screen for some kernels.
pub fn screen(lines: &[LineReport], style: &ScreenStyle) -> String {
    let tables: Vec<String> = lines.iter().map(|line| painted(&table(line, style), style)).collect();
    tables.join("\n")
}

fn table(line: &LineReport, style: &ScreenStyle) -> Vec<StyledLine> {
    let tone = match line.sig_unenforce {
        Switch::On => Tone::Good,
        // Whether it is wanted is not known here.
        Switch::Off => Tone::Plain,
        Switch::Unknown => Tone::Unknown,
    };
    let first = format!("  {}: module.sig_unenforce is {}", line.release, line.sig_unenforce);
    let mut out = marked(Some(tone), vec![first], style);
    // As it is, where it fits in; anyone that wants the bytes asks for them.
    let texts = match line.cmdline.trim_end() {
        short if short.chars().count() <= style.width.saturating_sub(4) => vec![format!("    {short}")],
        long => broken_to(style.width, long, "    ", "    "),
    };
    out.extend(texts.into_iter().map(|text| vec![plain(text)]));
    out.push(StyledLine::new());
    let width = line.words.iter().map(|r| r.word.chars().count()).filter(|n| *n <= COLUMN).max().unwrap_or(0);
    out.extend(line.words.iter().flat_map(|r| row(r, width, style)));
    // A mask that hides no word is worth a line too: it may be there for a fragment to come.
    let tells = |r: &CmdlineWordReport, path: &std::path::Path| {
        r.origins.iter().any(|o| o.path == path)
            || r.by.as_deref().is_some_and(|by| std::path::Path::new(by) == path)
    };
    for mask in line.masks.iter().filter(|m| !line.words.iter().any(|r| tells(r, &m.path))) {
        let first = format!("  {:width$}  {}", "(no word)", mask.path.display());
        let second = format!("  {:width$}  masked by {}", "", mask.by.display());
        out.extend(marked(Some(Tone::Plain), vec![first, second], style));
    }
    let idle: Vec<String> = line
        .removals
        .iter()
        .filter(|r| r.effect != "removed")
        .map(|r| format!("{}: \"{}\": {}", r.by, r.text, r.detail.as_deref().unwrap_or_default()))
        .collect();
    for (title, tone, items) in [
        ("Removals that did not take whole words", Tone::Attention, &idle),
        ("Remarks", Tone::Attention, &line.remarks),
        ("Not read", Tone::Unknown, &line.unreadable),
    ] {
        let items: Vec<(Option<Tone>, String)> =
            items.iter().map(|item| (Some(tone), item.clone())).collect();
        out.extend(section(title, &items, usize::MAX, style));
    }
    out
}

fn row(row: &CmdlineWordReport, width: usize, style: &ScreenStyle) -> Vec<StyledLine> {
    let tone = match row.state {
        WordState::Effective => Tone::Good,
        WordState::PartRemoved => Tone::Attention,
        WordState::Removed | WordState::Masked => Tone::Plain,
    };
    let mut places: Vec<String> = row.origins.iter().map(ToString::to_string).collect();
    if let Some(by) = &row.by {
        let how = match row.state {
            WordState::Masked => "masked by",
            WordState::PartRemoved => "part of it removed by",
            _ => "removed by",
        };
        places.push(format!("{how} {by}"));
    }
    let word = row.word.as_str();
    let fits = |place: &String| width + 4 + place.chars().count() <= style.width;
    let mut places = places.iter().peekable();
    let beside = places.next_if(|place| word.chars().count() <= width && fits(place));
    let first = if let Some(place) = beside { format!("{word:width$}  {place}") } else { word.to_owned() };
    let indented = |place: &String| {
        let blanks = if fits(place) { width + 4 } else { NARROW };
        vec![plain(format!("{:blanks$}{place}", ""))]
    };
    [vec![mark(Some(tone), style), plain(first)]].into_iter().chain(places.map(indented)).collect()
}

/// Two lines with what is only in the first marked `[-so-]`, and what is only in the second `{+so+}`.
pub fn word_diff(before: &[u8], after: &[u8]) -> (String, String) {
    // Words and the blanks between them, so that nothing of the lines is lost.
    let parts = |line: &[u8]| -> Vec<String> {
        let same = |a: &u8, b: &u8| a.is_ascii_whitespace() == b.is_ascii_whitespace();
        line.chunk_by(same).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
    };
    let (old, new) = (parts(before), parts(after));
    let (mut first, mut second) = (String::new(), String::new());
    for change in similar::capture_diff_slices(similar::Algorithm::Myers, &old, &new) {
        let (is, will) = (old[change.old_range()].concat(), new[change.new_range()].concat());
        if change.tag() == similar::DiffTag::Equal {
            first += &shown(&is);
            second += &shown(&will);
            continue;
        }
        // Blanks come and go with their words.
        let marked = |text: &str, open: &str, close: &str| match text.trim().is_empty() {
            true => text.to_owned(),
            false => format!("{open}{}{close}", shown(text)),
        };
        first += &marked(&is, "[-", "-]");
        second += &marked(&will, "{+", "+}");
    }
    (first, second)
}
