//! The status screen: the answer first, then what it rests on. What does not matter gives way, so that it stays on one page.

use jiff::Timestamp;

use super::broken_to;
use super::modules::Modules;
use super::style::{ScreenStyle, StyledLine, Tone, bold, painted, plain, toned};
use crate::kernel::Headers;
use crate::report::problem::Problem;
use crate::report::{KernelStatus, StatusDocument, Verdict, waiting};

/// Kernels and problems that are shown in any case on the smallest page.
const SOME: usize = 4;

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
        lines.extend(section("Seen and left alone", &document.notes, usize::MAX, style));
        return painted(&lines, style);
    }
    let mut footer = footer(document, style);
    // The first lines and the table of modules have reported the others.
    let headline = document.headline();
    let is_reported = |p: &&Problem| Some(*p) == headline || p.is_of_module();
    let unreported: Vec<String> =
        document.problems.iter().filter(|p| !is_reported(p)).map(ToString::to_string).collect();
    let all = if style.all { usize::MAX } else { style.some(SOME) };
    let problems = section("More problems", &unreported, all, style);
    let notes = section("Seen and left alone", &document.notes, usize::MAX, style);
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
    if let Some(modules) = table.fitted(without(problems.len() + notes.len()), (3, 3)) {
        lines.extend([modules, footer, problems, notes].concat());
    } else if let Some(modules) = table.fitted(without(problems.len() + few), (2, 2)) {
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
        what => row("Left out", &format!("{what}; `--all` shows them"), style),
    }
}

fn line(text: String) -> StyledLine {
    vec![plain(text)]
}

/// The verdict and what to do about it; below that, why.
fn head(document: &StatusDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let why = format!("{} [{}]", document.summary, document.id);
    let step = document.next_step.clone().unwrap_or_else(|| NOTHING.to_owned());
    let action: Vec<String> = document.on_reboot().into_iter().chain([step]).collect();
    answer(&document.verdict.to_string(), tone(document.verdict), &action.join("; "), &why, style)
}

/// What is to be done where nothing is.
pub(super) const NOTHING: &str = "nothing to do";

/// A word and what to do; below that, why.
pub(super) fn answer(
    word: &str,
    tone: Tone,
    action: &str,
    why: &str,
    style: &ScreenStyle,
) -> Vec<StyledLine> {
    let first = format!("{} {word}:", tone.symbol(style));
    let mut texts = broken_to(style.width, action, &format!("{first} "), "  ").into_iter();
    let answer = texts.next().unwrap_or_default();
    let rest = answer.strip_prefix(&first).unwrap_or_default().to_owned();
    let mut lines = vec![vec![bold(first, tone), plain(rest)]];
    lines.extend(texts.map(line));
    lines.extend(broken_to(style.width, why, "  ", "  ").into_iter().map(line));
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

/// A title and its items; of many the first ones, and how many there are more.
fn section(title: &str, items: &[String], most: usize, style: &ScreenStyle) -> Vec<StyledLine> {
    if items.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![StyledLine::new(), vec![bold(title, Tone::Plain)]];
    let shown = if items.len() > most { &items[..most.saturating_sub(1)] } else { items };
    lines.extend(shown.iter().flat_map(|item| broken_to(style.width, item, "  ", "    ")).map(line));
    if shown.len() < items.len() {
        let more = items.len() - shown.len();
        lines.push(line(format!("  and {more} more; `--all` shows them")));
    }
    lines
}

/// How much a kernel matters for the next boot.
pub(super) fn weight(kernel: &KernelStatus) -> (bool, bool, bool, bool, bool) {
    let lacks = kernel.modules_ready < kernel.modules_needed;
    (kernel.next_boot, kernel.running, kernel.held_back, lacks, kernel.tip)
}

/// The ones that matter most, in the order that they have.
pub(super) fn foremost(kernels: &[KernelStatus], most: usize) -> Vec<&KernelStatus> {
    let mut ranked: Vec<&KernelStatus> = kernels.iter().collect();
    ranked.sort_by_key(|k| std::cmp::Reverse(weight(k)));
    ranked.truncate(most);
    kernels.iter().filter(|k| ranked.iter().any(|r| std::ptr::eq(*r, *k))).collect()
}

fn kernels(document: &StatusDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let all = document.kernels.len();
    // Of many those with a role.
    let with_role = document.kernels.iter().filter(|k| k.running || k.next_boot || k.held_back).count();
    let most = if style.all || all <= style.some(SOME) { all } else { with_role.max(1) };
    let shown = foremost(&document.kernels, most);
    if shown.is_empty() {
        return Vec::new();
    }
    let mut rows: Vec<[String; 4]> = vec![["Kernels", "role", "modules ready", "headers"].map(str::to_owned)];
    let remembered = document.next_boot_unknown.is_some();
    let row = |k: &&KernelStatus| {
        [format!("  {}", k.release), role(k, remembered), ready(k), headers(k).to_owned()]
    };
    rows.extend(shown.iter().map(row));
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0) + 2;
    let widths = [width(0), width(1), width(2)];
    let longest = rows.iter().map(|r| r[3].chars().count()).max().unwrap_or(0);
    if widths.iter().sum::<usize>() + longest > style.width {
        return [kernels_below_each_other(&shown, remembered), more_kernels(document, &shown)].concat();
    }
    let mut lines = vec![StyledLine::new()];
    for (at, row) in rows.iter().enumerate() {
        let cell = |column: usize| format!("{:w$}", row[column], w = widths[column]);
        let kernel = at.checked_sub(1).and_then(|at| shown.get(at));
        let tone = match kernel {
            Some(k) if k.modules_ready < k.modules_needed => Tone::Bad,
            _ => Tone::Plain,
        };
        let name = if kernel.is_none() { bold(cell(0), Tone::Plain) } else { plain(cell(0)) };
        lines.push(vec![name, plain(cell(1)), toned(cell(2), tone), plain(row[3].clone())]);
    }
    lines.extend(more_kernels(document, &shown));
    lines
}

/// The same without a table, where it would be wider than the screen.
fn kernels_below_each_other(shown: &[&KernelStatus], remembered: bool) -> Vec<StyledLine> {
    let mut lines = vec![StyledLine::new(), vec![bold("Kernels", Tone::Plain)]];
    for kernel in shown {
        let tone = if kernel.modules_ready < kernel.modules_needed { Tone::Bad } else { Tone::Plain };
        let name = format!("  {}  {}", kernel.release, role(kernel, remembered));
        lines.push(line(name.trim_end().to_owned()));
        lines.push(vec![
            plain("    modules ready: "),
            toned(ready(kernel), tone),
            plain(format!("; headers: {}", headers(kernel))),
        ]);
    }
    lines
}

/// How many kernels are not shown, and how they are; none where all are.
fn more_kernels(document: &StatusDocument, shown: &[&KernelStatus]) -> Vec<StyledLine> {
    let all = document.kernels.len();
    if shown.len() < all {
        let others = document.kernels.iter().filter(|k| !shown.iter().any(|s| s.release == k.release));
        let lacking = others.filter(|k| k.modules_ready < k.modules_needed).count();
        let how = match lacking {
            0 => "complete".to_owned(),
            n => format!("{n} of them not complete"),
        };
        return vec![line(format!("  and {} more kernels, {how}; `--all` shows them", all - shown.len()))];
    }
    Vec::new()
}

fn role(kernel: &KernelStatus, remembered: bool) -> String {
    let next = if remembered { "next boot (remembered)" } else { "next boot" };
    let roles = [
        (kernel.running, "running"),
        (kernel.next_boot, next),
        (kernel.held_back, "held back"),
        (kernel.fallback, "older"),
    ];
    roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect::<Vec<_>>().join(", ")
}

fn ready(kernel: &KernelStatus) -> String {
    match kernel.modules_needed {
        0 => "none needed".to_owned(),
        needed => format!("{} of {needed}", kernel.modules_ready),
    }
}

fn headers(kernel: &KernelStatus) -> &'static str {
    match kernel.headers {
        Headers::Present => "present",
        Headers::Absent => "missing",
        Headers::Incomplete => "incomplete",
        Headers::OtherRelease { .. } => "of another kernel",
        Headers::Unreadable { .. } => "unreadable",
    }
}

/// What holds for the whole machine.
fn footer(document: &StatusDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut lines = vec![StyledLine::new()];
    let mut row = |name: &str, text: &str| lines.extend(row(name, text, style));
    let is_in_summary = document.verdict == Verdict::Unknown;
    if let Some(reason) = document.next_boot_unknown.as_ref().filter(|_| !is_in_summary) {
        row("Next boot", &format!("unknown: {reason}"));
    }
    row("Signatures", &format!("{} ({})", unsigned(document), parameter(document)));
    row("Boot files", &boot_files(document));
    if let Some(time) = document.last_run {
        row("Changed", &utc(time));
    }
    if let Some(first) = document.unreadable.first() {
        let more = match document.unreadable.len() - 1 {
            0 => String::new(),
            // All of them are a matter of the JSON, and of a person who asks for all.
            n if !style.all => format!(" and {n} more places"),
            _ => document.unreadable[1..].iter().map(|path| format!(", {path}")).collect(),
        };
        row("Not seen", &format!("{first}{more}: only root may look there"));
    }
    lines
}

fn row(name: &str, text: &str, style: &ScreenStyle) -> Vec<StyledLine> {
    broken_to(style.width, text, &format!("{name:<12}"), "            ").into_iter().map(line).collect()
}

pub(super) fn utc(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// What became of `module.sig_unenforce`.
fn parameter(document: &StatusDocument) -> String {
    let on = document.kernels.iter().filter(|k| k.sig_unenforce == "on").count();
    match (on, document.kernels.len(), document.sig_unenforce_wanted) {
        (0, _, true) => "sig_unenforce: wanted, and not configured".to_owned(),
        (0, _, false) => "sig_unenforce: not needed".to_owned(),
        (on, all, _) if on == all => "sig_unenforce: on".to_owned(),
        (on, all, _) => format!("sig_unenforce: on for {on} of {all} kernels"),
    }
}

fn unsigned(document: &StatusDocument) -> String {
    let known = |word: Option<&'static str>, time: &str| match word {
        Some("loads" | "taints") => Some(("load", time.to_owned())),
        Some("refused") => Some(("are refused", time.to_owned())),
        _ => None,
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

/// Whether they are current, since when they wait, and what has swupd write them itself.
fn boot_files(document: &StatusDocument) -> String {
    let made = match (document.boot_entries.as_deref(), document.boot_updated.map(utc)) {
        (Some("verified"), Some(when)) => format!("as configured, made {when}"),
        (Some("verified"), None) => "as configured".to_owned(),
        (Some("differs"), _) => "not as configured".to_owned(),
        (_, Some(when)) => format!("made {when}, not read back (is /boot mounted?)"),
        (_, None) => "not made by clr-dkms yet".to_owned(),
    };
    let guard = &document.guard;
    let held = guard.held_since.map(|since| format!("the newest kernel waits since {}", utc(since)));
    let waits = waiting::listed(&guard.waiting);
    let overridden = guard.swupd.overridden_by.as_ref().map(|by| format!("overridden by {by}"));
    let allowed = guard.wishes.wishes.allowed.iter().map(|allowance| format!("allowed: {allowance}"));
    let all = [Some(made), held, waits, overridden].into_iter().flatten().chain(allowed);
    all.collect::<Vec<_>>().join("; ")
}
