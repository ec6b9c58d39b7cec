//! The enforcement screen: the answer, the times side by side where they differ, and why.

use super::{broken, shown};
use crate::enforcement::report::{Document, KernelReport, ModuleReport, View};

/// The kinds of modules, as the table spells them.
const KINDS: [(&str, &str); 4] = [
    ("unsigned", "unsigned"),
    ("unknown_key", "unknown key"),
    ("trusted", "trusted key"),
    ("damaged", "damaged"),
];

/// The whole screen.
pub fn screen(document: &Document) -> String {
    let mut out = broken(&document.summary, "", "  ");
    let step = document.next_step.as_deref().unwrap_or("none");
    out.extend(broken(&format!("next step: {step}"), "", "  "));
    // The one that was asked for, or boots next, and the running one whole; of the others what matters.
    for (at, kernel) in document.kernels.iter().enumerate() {
        if at == 0 || kernel.running {
            out.push(String::new());
            out.extend(self::kernel(kernel));
        }
    }
    out.push(String::new());
    for kernel in document.kernels.iter().skip(1).filter(|k| !k.running) {
        let times =
            columns(kernel).into_iter().map(|(names, view)| format!("{} ({names})", cell(view, "unsigned")));
        let times: Vec<String> = times.collect();
        out.extend(broken(&format!("Kernel {}: unsigned: {}", kernel.release, times.join("; ")), "", "  "));
    }
    let taint = match document.taint.as_deref() {
        None => String::new(),
        Some("") => "; the running kernel is not tainted".to_owned(),
        Some(letters) => format!("; the running kernel is tainted: {letters}"),
    };
    out.push(format!("Secure Boot: {}{taint}", document.secure_boot));
    for note in &document.notes {
        out.extend(broken(&format!("note: {note}"), "", "  "));
    }
    out.iter().map(|line| shown(line) + "\n").collect()
}

/// The times of a kernel; those that agree share a column.
fn columns(kernel: &KernelReport) -> Vec<(String, &View)> {
    let mut columns: Vec<(String, &View)> = Vec::new();
    let times = [
        ("configured", Some(&kernel.configured)),
        ("next boot", kernel.next_boot.as_ref()),
        ("now", kernel.now.as_ref()),
    ];
    for (name, view) in times {
        let Some(view) = view else { continue };
        match columns.iter_mut().find(|(_, known)| known.loads == view.loads && known.error == view.error) {
            Some((names, _)) => {
                names.push_str(", ");
                names.push_str(name);
            }
            None => columns.push((name.to_owned(), view)),
        }
    }
    columns
}

fn kernel(kernel: &KernelReport) -> Vec<String> {
    let roles: Vec<&str> = [(kernel.boots_next, "next boot"), (kernel.running, "running")]
        .iter()
        .filter(|(is, _)| *is)
        .map(|(_, r)| *r)
        .collect();
    let roles = if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) };
    let mut out = vec![format!("Kernel {}{roles}", kernel.release)];
    let columns = columns(kernel);
    let row = |label: &str, cells: Vec<String>| {
        let cells: String = cells.iter().map(|cell| format!("{cell:22}")).collect();
        format!("  {label:12}  {cells}").trim_end().to_owned()
    };
    out.push(row("", columns.iter().map(|(names, _)| names.clone()).collect()));
    for (kind, label) in KINDS {
        out.push(row(label, columns.iter().map(|(_, view)| cell(view, kind)).collect()));
    }
    for (names, view) in &columns {
        let label = if columns.len() > 1 { format!("why ({names}): ") } else { "why: ".to_owned() };
        let mut label = label.as_str();
        for reason in &view.because {
            out.extend(broken(&format!("{label}{reason}"), "  ", "    "));
            label = "and: ";
        }
    }
    out.extend(kernel.modules.iter().flat_map(module));
    out
}

fn cell(view: &View, kind: &str) -> String {
    let word = match view.loads.get(kind).copied().unwrap_or_default() {
        "taints" => "loads, taints E",
        word => word,
    };
    match view.error.get(kind) {
        Some(error) => format!("{word} {}", error.name()),
        None => word.to_owned(),
    }
}

fn module(module: &ModuleReport) -> Vec<String> {
    let fate = match module.coming() {
        "loads" => "will load".to_owned(),
        "taints" => "will load and taint".to_owned(),
        "refused" => {
            let error = module.error.map(|e| format!(" ({})", e.name())).unwrap_or_default();
            format!("will be refused{error}")
        }
        _ => "it cannot be told whether it will load".to_owned(),
    };
    let name = module.path.rsplit('/').next().unwrap_or(&module.path);
    let loaded = match module.loaded.as_deref() {
        None => String::new(),
        Some("") => "; loaded now".to_owned(),
        Some(letters) => format!("; loaded now, taint {letters}"),
    };
    broken(&format!("{} {name}: {}: {fate}{loaded}", module.module, module.signature_text), "  ", "    ")
}
