//! The list of kernels on the status screen.

use super::modules::tone_on;
use super::style::{ScreenStyle, StyledLine, Tone, bold, plain, toned};
use super::text::mark;
use crate::dkms::plan::State;
use crate::kernel::Headers;
use crate::report::problem::ProblemKind;
use crate::report::{KernelStatus, StatusDocument};

/// Kernels that are shown in any case on the smallest page.
const SOME: usize = 4;

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

/// How a kernel stands: by what it lacks, by the hold, by its headers.
fn tone(kernel: &KernelStatus, document: &StatusDocument) -> Tone {
    let here = document.modules.iter().filter(|m| m.record.kernel == kernel.release);
    let lacking: Vec<_> = here.filter(|m| !m.record.state.works() && !m.record.state.is_fine()).collect();
    let is_there = kernel.headers == Headers::Present;
    if kernel.modules_ready >= kernel.modules_needed {
        let is_open = kernel.held_back || (kernel.modules_needed > 0 && !is_there);
        return if is_open { Tone::Attention } else { Tone::Good };
    }
    let is_all = |state: State| !lacking.is_empty() && lacking.iter().all(|m| m.record.state == state);
    let is_any = |tone: Tone| lacking.iter().any(|m| tone_on(m) == tone);
    match lacking.is_empty() {
        _ if is_all(State::Unknown) => Tone::Unknown,
        _ if is_any(Tone::Busy) => Tone::Busy,
        // What is required and is not registered has no row. It may be registered where something is unread.
        true if document.problems.iter().any(|p| p.kind() == ProblemKind::Unreadable) => Tone::Unknown,
        true => Tone::Bad,
        false if is_any(Tone::Bad) => Tone::Bad,
        false => Tone::Attention,
    }
}

/// The kernels that matter, as a table where one fits.
pub(super) fn kernels(document: &StatusDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let all = document.kernels.len();
    // Of many those with a role.
    let with_role = document.kernels.iter().filter(|k| k.running || k.next_boot || k.held_back).count();
    let most = if style.all || all <= style.some(SOME) { all } else { with_role.max(1) };
    let shown = foremost(&document.kernels, most);
    if shown.is_empty() {
        return Vec::new();
    }
    let is_remembered = document.next_boot_unknown.is_some();
    let tones: Vec<Tone> = shown.iter().map(|k| tone(k, document)).collect();
    let mut rows: Vec<[String; 4]> = vec![["Kernels", "role", "modules ready", "headers"].map(str::to_owned)];
    let row =
        |k: &&KernelStatus| [k.release.clone(), role(k, is_remembered), ready(k), headers(k).to_owned()];
    rows.extend(shown.iter().map(row));
    let mut lines = match table(&rows, &tones, style) {
        Some(lines) => lines,
        None => {
            // Headers that are there are no news.
            if shown.iter().all(|k| k.headers == Headers::Present) {
                rows[0][2] = "ready".to_owned();
                rows.iter_mut().for_each(|row| row[3].clear());
            }
            table(&rows, &tones, style).unwrap_or_else(|| below_each_other(&rows, &tones, style))
        }
    };
    lines.extend(more_kernels(document, &shown));
    lines
}

/// None where it would be wider than the screen.
fn table(rows: &[[String; 4]], tones: &[Tone], style: &ScreenStyle) -> Option<Vec<StyledLine>> {
    let longest = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    // The title of the first column stands above the symbols.
    let widths = [longest(0) + 2, longest(1) + 2, longest(2) + 2];
    if 2 + widths.iter().sum::<usize>() + longest(3) > style.width {
        return None;
    }
    let cell = |row: &[String; 4], column: usize| format!("{:w$}", row[column], w = widths[column]);
    let title = rows.first()?;
    let first = format!("{:w$}", title[0], w = widths[0] + 2);
    let mut lines = vec![StyledLine::new()];
    lines.push(vec![bold(first, Tone::Plain), plain(cell(title, 1) + &cell(title, 2) + &title[3])]);
    lines.extend(rows[1..].iter().zip(tones).map(|(row, tone)| {
        let ready = if *tone == Tone::Good { plain(cell(row, 2)) } else { toned(cell(row, 2), *tone) };
        vec![mark(Some(*tone), style), plain(cell(row, 0) + &cell(row, 1)), ready, plain(row[3].clone())]
    }));
    Some(lines)
}

/// The same without a table.
fn below_each_other(rows: &[[String; 4]], tones: &[Tone], style: &ScreenStyle) -> Vec<StyledLine> {
    let mut lines = vec![StyledLine::new(), vec![bold("Kernels", Tone::Plain)]];
    for ([release, role, ready, headers], tone) in rows[1..].iter().zip(tones) {
        lines.push(vec![mark(Some(*tone), style), plain(format!("{release}  {role}"))]);
        let headers = if headers.is_empty() { String::new() } else { format!("; headers: {headers}") };
        lines.push(vec![plain("    modules ready: "), toned(ready.clone(), *tone), plain(headers)]);
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
        return vec![vec![plain(format!(
            "  and {} more kernels, {how}; `--all` shows them",
            all - shown.len()
        ))]];
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
