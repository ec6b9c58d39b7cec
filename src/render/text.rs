//! The status screen: the answer first, then what it rests on.

use anstyle::{AnsiColor, Style};

use super::{WIDTH, broken, shown};
use crate::dkms::plan::State;
use crate::kernel::Headers;
use crate::state::ModuleRecord;
use crate::status::{Document, KernelStatus, Verdict};

/// The whole screen, with ANSI styles; whoever prints it takes them out where they are not wanted.
pub fn screen(document: &Document) -> String {
    // The verdict is painted after the line has been broken: its colour takes no room.
    let plain = document.verdict.to_string();
    let first = broken(&format!("{plain}: {}", document.summary), "", "  ");
    let first: String = first.iter().map(|line| shown(line) + "\n").collect();
    let first = first.replacen(&plain, &painted(document.verdict), 1);
    let mut lines = Vec::new();
    if let Some(step) = &document.next_step {
        lines.extend(broken(&format!("next step: {step}"), "", "  "));
    }
    if !document.kernels.is_empty() {
        lines.push(String::new());
        lines.push("Kernels".to_owned());
        let width = document.kernels.iter().map(|k| k.release.len()).max().unwrap_or(0);
        let role_width = document.kernels.iter().map(|k| role(k).len()).max().unwrap_or(0);
        lines.extend(document.kernels.iter().map(|k| kernel(k, width, role_width)));
    }
    if !document.modules.is_empty() {
        lines.push(String::new());
        lines.push("Modules".to_owned());
        for module in &document.modules {
            lines.extend(self::module(module));
        }
    }
    if document.verdict == Verdict::NotApplicable {
        section(&mut lines, "Seen and left alone", &document.notes);
        return lines.iter().fold(first, |screen, line| screen + &shown(line) + "\n");
    }
    lines.push(String::new());
    lines.push(format!("Command line: {}", command_line(document)));
    lines.push(format!("Signatures:   {}", unsigned(document)));
    lines.push(format!("Boot entries: {}", boot_entries(document)));
    if let Some(since) = document.guard.held_since {
        let waiting = if document.guard.deferred { "; microcode and boot loader wait too" } else { "" };
        lines.push(format!("Held back:    since {}{waiting}", since.strftime("%Y-%m-%d %H:%M:%S UTC")));
    }
    if let Some(time) = document.last_run {
        lines.push(format!("Last change:  {}", time.strftime("%Y-%m-%d %H:%M:%S UTC")));
    }
    // The first line says the first of them already.
    let more: Vec<String> = document.problems.iter().filter(|p| **p != document.summary).cloned().collect();
    section(&mut lines, "More problems", &more);
    section(&mut lines, "Seen and left alone", &document.notes);
    lines.iter().fold(first, |screen, line| screen + &shown(line) + "\n")
}

fn section(lines: &mut Vec<String>, title: &str, items: &[String]) {
    if !items.is_empty() {
        lines.push(String::new());
        lines.push(title.to_owned());
        lines.extend(items.iter().flat_map(|item| wrapped(item)));
    }
}

fn painted(verdict: Verdict) -> String {
    let color = match verdict {
        Verdict::Healthy | Verdict::RebootPending => AnsiColor::Green,
        Verdict::Degraded | Verdict::Unsafe => AnsiColor::Red,
        Verdict::Held | Verdict::Building | Verdict::Unknown | Verdict::NotApplicable => AnsiColor::Yellow,
    };
    let style = Style::new().bold().fg_color(Some(color.into()));
    format!("{style}{verdict}{style:#}")
}

fn role(kernel: &KernelStatus) -> &'static str {
    match (kernel.running, kernel.next_boot) {
        (true, true) => "running, next boot",
        (true, false) => "running",
        (false, true) => "next boot",
        (false, false) => "",
    }
}

fn kernel(kernel: &KernelStatus, width: usize, role_width: usize) -> String {
    let headers = match &kernel.headers {
        Headers::Present => String::new(),
        Headers::Absent => ", no headers".to_owned(),
        Headers::Incomplete => ", headers incomplete".to_owned(),
        Headers::OtherRelease { .. } => ", wrong headers".to_owned(),
        Headers::Unreadable { .. } => ", headers unreadable".to_owned(),
    };
    let modules = match kernel.modules_needed {
        0 => "no module needed".to_owned(),
        1 => format!("{} of 1 module ready", kernel.modules_ready),
        n => format!("{} of {n} modules ready", kernel.modules_ready),
    };
    format!("  {:width$}  {:role_width$}  {modules}{headers}", kernel.release, role(kernel))
}

fn module(module: &ModuleRecord) -> Vec<String> {
    let mut lines = vec![format!("  {} on {}: {}", module.module, module.kernel, module.state)];
    if module.state == State::Ok {
        return lines;
    }
    let about =
        |label: &str, text: &str| wrapped(&format!("{label}{text}")).into_iter().map(|l| format!("  {l}"));
    if let Some(reason) = &module.reason {
        lines.extend(about("", reason));
    }
    if let Some(error) = &module.error {
        lines.extend(about("", &error.to_string()));
        // Not broken anew: a caret must stay below what it points to.
        lines.extend(error.context.iter().map(|line| cut(&format!("      {}", shown(line)))));
    }
    if let Some(log) = &module.log {
        lines.push(format!("    log: {log}"));
    }
    lines
}

fn command_line(document: &Document) -> String {
    let on = document.kernels.iter().filter(|k| k.sig_unenforce == "on").count();
    let wanted = if document.sig_unenforce_wanted { "wanted" } else { "not wanted" };
    let kernels = match document.kernels.len() {
        1 => "1 kernel".to_owned(),
        n => format!("{n} kernels"),
    };
    format!("module.sig_unenforce is {wanted}, and configured for {on} of {kernels}")
}

fn unsigned(document: &Document) -> String {
    let known = |word: Option<&'static str>, time: &str| match word {
        Some("loads" | "taints") => Some(("load", time.to_owned())),
        Some("refused") => Some(("are refused", time.to_owned())),
        _ => None,
    };
    let outlook = &document.unsigned_modules;
    match (known(outlook.now, "now"), known(outlook.next_boot, "at the next boot")) {
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

fn boot_entries(document: &Document) -> String {
    let when = document.boot_updated.map(|t| t.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
    match (document.boot_entries.as_deref(), when) {
        (Some("verified"), Some(when)) => format!("as configured, {when}"),
        (Some("differs"), Some(when)) => format!("not as configured, {when}"),
        (Some(_), Some(when)) => format!("updated {when}, not read back (is /boot mounted?)"),
        _ => "not updated by clr-dkms yet".to_owned(),
    }
}

/// A line that ends at the width of the screen.
fn cut(line: &str) -> String {
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH - 3).chain("...".chars()).collect()
}

/// A text indented by two blanks and broken at blanks.
fn wrapped(text: &str) -> Vec<String> {
    broken(text, "  ", "    ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkms::ModuleName;
    use crate::dkms::first_error::find;

    #[test]
    fn what_belongs_to_an_error_keeps_its_columns() {
        let far = "x".repeat(90);
        let log = format!("a.c:7:3: error: no\n    7 |   y = 3;\n      |   ^\n    8 | {far}\n");
        let record = ModuleRecord {
            module: ModuleName { name: "a".to_owned(), version: "1".to_owned() },
            kernel: "6.15.7-1591.native".to_owned(),
            state: State::BuildFailed,
            reason: None,
            error: find(&log).error,
            log: None,
            inputs: None,
            files: Vec::new(),
        };
        let cut = format!("          8 | {}...", "x".repeat(63));
        let lines = ["    a.c:7: no", "          7 |   y = 3;", "            |   ^", cut.as_str()];
        assert_eq!(module(&record)[1..], lines);
        assert_eq!(cut.len(), WIDTH);
    }
}
