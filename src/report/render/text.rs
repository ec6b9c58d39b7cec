//! The status screen: the answer first, then what it rests on. What does not matter gives way, so that it
//! stays on one page.

use super::broken_to;
use super::kernels::kernels;
use super::modules::Modules;
use super::style::{ScreenStyle, Span, StyledLine, Tone, bold, painted, plain, toned};
use crate::cmdline::Switch;
use crate::dkms::plan::State;
use crate::enforcement::LoadWord;
use crate::report::problem::{Problem, ProblemKind};
use crate::report::{ModuleStatus, StatusDocument, Verdict, waiting};

/// Problems that are shown in any case on the smallest page.
const SOME: usize = 4;

/// How much is said at least of the modules where all problems are to have room.
const SHORTER: [(usize, usize); 3] = [(3, 3), (3, 2), (2, 2)];

/// The whole screen, with ANSI styles; anyone that prints it takes them out where they are not wanted.
pub fn screen(document: &StatusDocument, style: &ScreenStyle) -> String {
    let older = document.kernels.iter().filter(|k| k.fallback).count();
    match style.all || older == 0 {
        true => screen_of(document, 0, style),
        false => screen_of(&document.without_fallbacks(), older, style),
    }
}

/// The screen, and how many older kernels it leaves out.
fn screen_of(document: &StatusDocument, older: usize, style: &ScreenStyle) -> String {
    let mut lines = head(document, style);
    if document.verdict == Verdict::NotApplicable {
        lines.extend(section("Seen and left alone", &notes(document), usize::MAX, style));
        return painted(&lines, style);
    }
    let mut footer = footer(document, style);
    // The first lines and the table of modules have reported the others.
    let headline = document.headline();
    let has_row = |p: &Problem| p.kind() == ProblemKind::Automation && document.automation.is_some();
    let is_reported = |p: &&Problem| Some(*p) == headline || p.is_of_module() || has_row(p);
    let unreported: Vec<(Option<Tone>, String)> = document
        .problems
        .iter()
        .filter(|p| !is_reported(p))
        .map(|p| (Some(tone_of(p)), p.sentence(&style.times)))
        .collect();
    let all = if style.all { usize::MAX } else { style.some(SOME) };
    let problems = section("More problems", &unreported, all, style);
    let notes = section("Seen and left alone", &notes(document), usize::MAX, style);
    lines.extend(kernels(document, style));
    lines.extend(match older {
        0 => None,
        1 => Some(line("  and 1 older kernel that can be booted; `--all` shows it".to_owned())),
        n => Some(line(format!("  and {n} older kernels that can be booted; `--all` shows them"))),
    });
    let room = if style.all { usize::MAX } else { style.height.saturating_sub(lines.len() + footer.len()) };
    let table = Modules::of(document, style);
    let without = |more: usize| room.saturating_sub(more);
    let few = usize::from(!document.notes.is_empty());
    if let Some(modules) = table.fitted(without(problems.len() + notes.len()), (4, 4)) {
        lines.extend([modules, footer, problems, notes].concat());
    } else if let Some(modules) =
        SHORTER.into_iter().find_map(|least| table.fitted(without(problems.len() + few), least))
    {
        lines.extend([modules, footer, problems, left_out(0, document.notes.len(), style)].concat());
    } else {
        footer.extend(left_out(unreported.len(), document.notes.len(), style));
        lines.extend(table.squeezed(without(few.max(usize::from(!unreported.is_empty())))));
        lines.extend(footer);
    }
    painted(&lines, style)
}

/// What there was no room for.
fn left_out(problems: usize, notes: usize, style: &ScreenStyle) -> Vec<StyledLine> {
    let count = |n: usize, one: &str, many: &str| match n {
        0 => None,
        1 => Some(format!("1 {one}")),
        n => Some(format!("{n} {many}")),
    };
    let counted = [count(problems, "problem", "problems"), count(notes, "note", "notes")];
    let what = counted.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    match what.as_str() {
        "" => Vec::new(),
        what => {
            let them = if problems + notes == 1 { "it" } else { "them" };
            row(None, "Left out", &format!("{what}; `--all` shows {them}"), style)
        }
    }
}

fn line(text: String) -> StyledLine {
    vec![plain(text)]
}

/// The verdict and what to do about it; below that, why.
fn head(document: &StatusDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let summary = document.headline_text(&style.times).unwrap_or_else(|| document.summary.clone());
    let why = format!("{summary} [{}]", document.id);
    let step = document.next_step.clone().unwrap_or_else(|| NOTHING.to_owned());
    let action: Vec<String> = document.on_reboot().into_iter().chain([step]).collect();
    answer(&document.verdict.to_string(), tone(document.verdict), &action.join("; "), &why, style)
}

/// What is to be done where nothing is.
pub(super) const NOTHING: &str = "nothing to do";

/// A word and what to do; below that, why.
pub(super) fn answer(word: &str, tone: Tone, step: &str, why: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    let first = format!("{} {word}:", tone.symbol(style));
    let mut texts = broken_to(style.width, step, &format!("{first} "), "  ").into_iter();
    let answer = texts.next().unwrap_or_default();
    let rest = answer.strip_prefix(&first).unwrap_or_default().to_owned();
    let mut lines = vec![vec![bold(first, tone), plain(rest)]];
    lines.extend(texts.map(line));
    lines.extend(wrapped(None, why, ["  ", "  "], style));
    lines
}

fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Healthy | Verdict::RebootPending => Tone::Good,
        Verdict::Building => Tone::Busy,
        Verdict::Degraded | Verdict::Held => Tone::Attention,
        Verdict::Unsafe => Tone::Bad,
        Verdict::Unknown => Tone::Unknown,
        Verdict::NotApplicable => Tone::Plain,
    }
}

/// How bad a problem is.
fn tone_of(problem: &Problem) -> Tone {
    use ProblemKind as Kind;
    match problem.kind() {
        _ if problem.is_unknown() => Tone::Unknown,
        Kind::BootsRemoved | Kind::BootsWithout | Kind::NoGoodKernel => Tone::Bad,
        Kind::ModuleNotReady | Kind::ModuleRefused | Kind::BootUpdateFailed | Kind::BootEntry => Tone::Bad,
        _ => Tone::Attention,
    }
}

/// The notes: what they are about has no state.
fn notes(document: &StatusDocument) -> Vec<(Option<Tone>, String)> {
    document.notes.iter().map(|note| (None, note.clone())).collect()
}

/// What stands before a line: the symbol of its state, or nothing.
pub fn mark(tone: Option<Tone>, style: &ScreenStyle) -> Span {
    if let Some(tone) = tone { toned(format!("{} ", tone.symbol(style)), tone) } else { plain("  ") }
}

/// Lines of which the first one has a symbol, where it has a state. The texts begin with two blanks for it.
pub(super) fn marked(tone: Option<Tone>, texts: Vec<String>, style: &ScreenStyle) -> Vec<StyledLine> {
    let rest = |text: &String| text.get(2..).unwrap_or_default().to_owned();
    let mut lines = texts.iter();
    let first = lines.next().map(|text| vec![mark(tone, style), plain(rest(text))]);
    first.into_iter().chain(lines.map(|text| vec![plain(text.clone())])).collect()
}

/// A text in lines, marked like that. The first line begins with `first`, the others with `other`.
pub(super) fn wrapped(
    tone: Option<Tone>,
    text: &str,
    [first, other]: [&str; 2],
    style: &ScreenStyle,
) -> Vec<StyledLine> {
    marked(tone, broken_to(style.width, text, first, other), style)
}

/// The same, with the other lines below the end of `first`.
pub(super) fn hanging(tone: Option<Tone>, first: &str, text: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    wrapped(tone, text, [first, &" ".repeat(first.chars().count())], style)
}

/// A title and its items; of many the first ones, and how many there are more.
pub(super) fn section(
    title: &str,
    items: &[(Option<Tone>, String)],
    most: usize,
    style: &ScreenStyle,
) -> Vec<StyledLine> {
    if items.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![StyledLine::new(), vec![bold(title, Tone::Plain)]];
    let shown = if items.len() > most { &items[..most.saturating_sub(1)] } else { items };
    let item = |(tone, item): &(Option<Tone>, String)| wrapped(*tone, item, ["  ", "    "], style);
    lines.extend(shown.iter().flat_map(item));
    if shown.len() < items.len() {
        let more = items.len() - shown.len();
        lines.push(line(format!("  and {more} more; `--all` shows them")));
    }
    lines
}

/// What holds for the whole machine.
fn footer(document: &StatusDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut lines = vec![StyledLine::new()];
    let mut row = |tone: Option<Tone>, name: &str, text: &str| lines.extend(row(tone, name, text, style));
    let is_in_summary = document.verdict == Verdict::Unknown;
    if let Some(reason) = document.next_boot_unknown.as_ref().filter(|_| !is_in_summary) {
        row(Some(Tone::Unknown), "Next boot", &format!("unknown: {reason}"));
    }
    let signatures = format!("{} ({})", unsigned(document), parameter(document));
    row(Some(tone_of_signatures(document)), "Signatures", &signatures);
    row(Some(tone_of_boot_files(document)), "Boot files", &boot_files(document, style));
    if let Some(automation) = &document.automation {
        let faults: Vec<String> = automation.faults.iter().map(ToString::to_string).collect();
        let (tone, text) = match faults.is_empty() {
            true => (Tone::Good, "on: modules are built after each update".to_owned()),
            false if automation.faults.iter().any(|fault| fault.is_off) => (Tone::Bad, faults.join("; ")),
            false => (Tone::Attention, faults.join("; ")),
        };
        row(Some(tone), "Automation", &text);
    }
    if let Some(time) = document.last_run {
        row(None, "Changed", &style.times.moment(time));
    }
    if let Some(first) = document.unreadable.first() {
        let more = match document.unreadable.len() - 1 {
            0 => String::new(),
            // All of them are a matter of the JSON, and of `--all`.
            n if !style.all => format!(" and {n} more places"),
            _ => document.unreadable[1..].iter().map(|path| format!(", {path}")).collect(),
        };
        row(Some(Tone::Unknown), "Not seen", &format!("{first}{more}: only root may look there"));
    }
    lines
}

/// A name and what is known of it.
pub(super) fn row(tone: Option<Tone>, name: &str, text: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    hanging(tone, &format!("  {name:<12}"), text, style)
}

/// Whether modules without a trusted signature load, where that matters.
fn tone_of_signatures(document: &StatusDocument) -> Tone {
    let is_refused = |m: &ModuleStatus| m.missed && m.record.state == State::SignatureRefused;
    let on = document.kernels.iter().filter(|k| k.sig_unenforce == Switch::On).count();
    let outlook = &document.unsigned_modules;
    match (document.sig_unenforce_wanted, outlook.next_boot) {
        _ if document.modules.iter().any(is_refused) => Tone::Bad,
        (true, _) if on == 0 => Tone::Bad,
        (true, _) if on < document.kernels.len() => Tone::Attention,
        (true, Some(LoadWord::Refused)) => Tone::Bad,
        (_, Some(LoadWord::Loads | LoadWord::Taints | LoadWord::Refused)) => Tone::Good,
        // Of an image nothing is known of the machine that boots it.
        (true, _) => Tone::Unknown,
        (false, _) => Tone::Plain,
    }
}

/// What became of `module.sig_unenforce`.
fn parameter(document: &StatusDocument) -> String {
    let on = document.kernels.iter().filter(|k| k.sig_unenforce == Switch::On).count();
    match (on, document.kernels.len(), document.sig_unenforce_wanted) {
        (0, _, true) => "sig_unenforce: wanted, and not configured".to_owned(),
        (0, _, false) => "sig_unenforce: not needed".to_owned(),
        (on, all, _) if on == all => "sig_unenforce: on".to_owned(),
        (on, all, _) => format!("sig_unenforce: on for {on} of {all} kernels"),
    }
}

fn unsigned(document: &StatusDocument) -> String {
    let known = |word: Option<LoadWord>, time: &str| match word {
        Some(LoadWord::Loads | LoadWord::Taints) => Some(("load", time.to_owned())),
        Some(LoadWord::Refused) => Some(("are refused", time.to_owned())),
        Some(LoadWord::Unknown) | None => None,
    };
    let loading_outlook = &document.unsigned_modules;
    match (known(loading_outlook.now, "now"), known(loading_outlook.next_boot, "at the next boot")) {
        (None, None) => "it is not known whether unsigned modules load".to_owned(),
        (Some((same, now)), Some((word, next))) if same == word => {
            format!("unsigned modules {word} {now} and {next}")
        }
        (now, next) => {
            let times = now.into_iter().chain(next).map(|(word, time)| format!("{word} {time}"));
            format!("unsigned modules {}", times.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Whether they are as configured.
fn tone_of_boot_files(document: &StatusDocument) -> Tone {
    let guard = &document.guard;
    let is_open = guard.held_since.is_some()
        || !guard.waiting.is_empty()
        || guard.swupd.overridden_by.is_some()
        || !guard.wishes.wishes.allowed.is_empty();
    match document.boot_entries.as_deref() {
        Some("differs") => Tone::Bad,
        _ if is_open => Tone::Attention,
        Some("verified") => Tone::Good,
        _ if document.boot_updated.is_some() => Tone::Unknown,
        _ => Tone::Plain,
    }
}

/// Whether they are current, since when they wait, and what has swupd write them itself.
fn boot_files(document: &StatusDocument, style: &ScreenStyle) -> String {
    let moment = |time| style.times.moment(time);
    let made = match (document.boot_entries.as_deref(), document.boot_updated.map(moment)) {
        (Some("verified"), Some(when)) => format!("as configured, made {when}"),
        (Some("verified"), None) => "as configured".to_owned(),
        (Some("differs"), _) => "not as configured".to_owned(),
        (_, Some(when)) => format!("made {when}, not read back (is /boot mounted?)"),
        (_, None) => "not made by clr-dkms yet".to_owned(),
    };
    let guard = &document.guard;
    let held = guard.held_since.map(|since| format!("the newest kernel waits since {}", moment(since)));
    let waits = waiting::listed(&guard.waiting, &style.times);
    let overridden = guard.swupd.overridden_by.as_ref().map(|by| format!("overridden by {by}"));
    let allowed = guard.wishes.wishes.allowed.iter();
    let allowed = allowed.map(|allowance| format!("allowed: {}", allowance.text(&style.times)));
    let all = [Some(made), held, waits, overridden].into_iter().flatten().chain(allowed);
    all.collect::<Vec<_>>().join("; ")
}
