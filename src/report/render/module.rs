//! The screen of `clr-dkms status MODULE`.

use super::broken_to;
use super::module_detail::{BELOW, around, log_lines, said};
use super::modules::tone_on;
use super::style::{ScreenStyle, StyledLine, Tone, bold, painted, plain};
use super::text::{NOTHING, answer, marked, row, section, wrapped};
use crate::dkms::plan::State;
use crate::report::module::{ModuleDocument, ModuleOfKernel, ModuleStanding, RegisteredVersion};

/// The whole screen, with ANSI styles; anyone that prints it takes them out where they are not wanted.
pub fn screen(document: &ModuleDocument, style: &ScreenStyle) -> String {
    let tone = match document.standing {
        ModuleStanding::Ready => Tone::Good,
        ModuleStanding::Building => Tone::Busy,
        ModuleStanding::Missed => Tone::Attention,
        ModuleStanding::Unsafe => Tone::Bad,
        ModuleStanding::Unknown => Tone::Unknown,
    };
    let word = format!("{} is {}", document.module, document.standing);
    let step = document.next_step.as_deref().unwrap_or(NOTHING);
    let mut lines = answer(&word, tone, step, &document.summary, style);
    lines.push(StyledLine::new());
    lines.extend(row(None, "Class", &format!("{}: {}", document.class, document.reason), style));
    if let Some(is_loaded) = document.loaded {
        let tone = if is_loaded { Tone::Good } else { Tone::Plain };
        let text = if is_loaded { "loaded" } else { "not loaded" };
        lines.extend(row(Some(tone), "Now", &format!("{text} in the running kernel"), style));
    }
    if let Some(kernel) = &document.worked_on {
        lines.extend(row(None, "Last worked", &format!("on kernel {kernel}"), style));
    }
    for (at, version) in document.versions.iter().enumerate() {
        lines.extend(of_version(version, at, style));
    }
    if !document.kernels.is_empty() {
        lines.extend([StyledLine::new(), vec![bold("Kernels", Tone::Plain)]]);
    }
    lines.extend(document.kernels.iter().flat_map(|kernel| on_kernel(kernel, style)));
    let notes: Vec<(Option<Tone>, String)> = document.notes.iter().map(|note| (None, note.clone())).collect();
    lines.extend(section("Also known", &notes, usize::MAX, style));
    painted(&lines, style)
}

fn of_version(version: &RegisteredVersion, at: usize, style: &ScreenStyle) -> Vec<StyledLine> {
    let name = if at == 0 { "Versions" } else { "" };
    let installed = match version.installed_on.as_slice() {
        [] => "not installed".to_owned(),
        releases => format!("installed on {}", releases.join(", ")),
    };
    let (tone, text) = match (&version.source, &version.fault) {
        (Some(source), _) => (Tone::Good, format!("{} in {source}; {installed}", version.version)),
        (None, Some(fault)) => (Tone::Bad, format!("{}: {fault}; {installed}", version.version)),
        (None, None) => (Tone::Plain, format!("{}; {installed}", version.version)),
    };
    row(Some(tone), name, &text, style)
}

/// The state, the cause, the log and what helps; below that the files with their signatures.
fn on_kernel(kernel: &ModuleOfKernel, style: &ScreenStyle) -> Vec<StyledLine> {
    let record = &kernel.status.record;
    let roles =
        [(kernel.running, "running"), (kernel.next_boot, "next boot"), (kernel.held_back, "held back")];
    let roles: Vec<&str> = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
    let roles = if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) };
    let first =
        format!("{}{roles}: {} {} [{}]", record.kernel, record.module, record.state, kernel.status.id);
    let tone = tone_on(&kernel.status);
    let mut lines = wrapped(Some(tone), &first, ["  ", "    "], style);
    if let Some(version) = &record.in_force {
        lines.extend(said(&format!("{}/{version} is in force there", record.module.name), "", style));
    }
    lines.extend(record.reason.iter().flat_map(|reason| said(reason, "", style)));
    if let Some(error) = &record.error {
        lines.extend(said(&error.to_string(), "first error: ", style));
        lines.extend(around(error, style));
        lines.extend(said(error.cause.word(), "cause: ", style));
    }
    lines.extend(record.log.iter().flat_map(|log| log_lines(log, style)));
    if kernel.status.source_changed {
        let text = broken_to(style.width, "the source is newer than the build", "  ", "");
        lines.extend(below(Tone::Attention, text, style));
    }
    let of_files = match record.state {
        State::SignatureRefused => Tone::Bad,
        State::Unknown => Tone::Unknown,
        _ => Tone::Good,
    };
    for file in &record.files {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let signature = file.signature.as_ref().map_or("signature unknown".to_owned(), ToString::to_string);
        let texts =
            broken_to(style.width.saturating_sub(BELOW.len()), &signature, &format!("  {name}: "), "  ");
        lines.extend(below(of_files, texts, style));
    }
    lines.extend(kernel.status.next_step.iter().flat_map(|step| said(step, "next: ", style)));
    lines
}

/// Lines with a symbol, indented as what stands below a kernel.
fn below(tone: Tone, texts: Vec<String>, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut lines = marked(Some(tone), texts, style);
    lines.iter_mut().for_each(|line| line.insert(0, plain(BELOW)));
    lines
}
