//! The enforcement screen: the answer, the times side by side where they differ, and why.

use super::{broken, shown};
use crate::report::enforcement::{EnforcementDocument, KernelReport, KernelView, ModuleReport};

/// The kinds of modules, as the table spells them.
const KINDS: [(&str, &str); 4] = [
    ("unsigned", "unsigned"),
    ("unknown_key", "unknown key"),
    ("trusted", "trusted key"),
    ("damaged", "damaged"),
];

/// The whole screen.
pub fn screen(document: &EnforcementDocument) -> String {
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
        let columns = columns(kernel);
        let times = columns
            .iter()
            .filter_map(|column| Some(format!("{} ({})", cell(column.view()?, "unsigned"), column.name())));
        let times: Vec<String> = times.collect();
        out.extend(broken(&format!("Kernel {}: unsigned: {}", kernel.release, times.join("; ")), "", "  "));
    }
    if out.last().is_some_and(|line| !line.is_empty()) {
        out.push(String::new());
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

/// A kernel at one time, or at several at which it does the same.
struct Column<'a> {
    times: Vec<(&'static str, &'a KernelView)>,
}

impl Column<'_> {
    fn view(&self) -> Option<&KernelView> {
        self.times.first().map(|(_, view)| *view)
    }

    fn name(&self) -> String {
        names(&self.times)
    }
}

fn names(times: &[(&'static str, &KernelView)]) -> String {
    times.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The times of a kernel; those that agree share a column.
fn columns(kernel: &KernelReport) -> Vec<Column<'_>> {
    let mut columns: Vec<Column<'_>> = Vec::new();
    let times = [
        ("configured", Some(&kernel.configured)),
        // The next boot of a kernel that somebody would have to choose first.
        (if kernel.boots_next { "next boot" } else { "boot entry" }, kernel.next_boot.as_ref()),
        ("now", kernel.now.as_ref()),
    ];
    for (name, view) in times {
        let Some(view) = view else { continue };
        let same = |known: &&KernelView| known.loads == view.loads && known.error == view.error;
        match columns.iter_mut().find(|c| c.view().as_ref().is_some_and(same)) {
            Some(column) => column.times.push((name, view)),
            None => columns.push(Column { times: vec![(name, view)] }),
        }
    }
    columns
}

fn kernel(kernel: &KernelReport) -> Vec<String> {
    let roles = [(kernel.boots_next, "next boot"), (kernel.running, "running")];
    let roles: Vec<&str> = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
    let roles = if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) };
    let mut out = vec![format!("Kernel {}{roles}", kernel.release)];
    let columns = columns(kernel);
    let row = |label: &str, cells: Vec<String>| {
        // Three fit into 80 columns only when they stand closer.
        let width = if cells.len() > 2 { 22 } else { 24 };
        let cells: String = cells.iter().map(|cell| format!("{cell:width$}")).collect();
        format!("  {label:12}  {cells}").trim_end().to_owned()
    };
    out.push(row("", columns.iter().map(Column::name).collect()));
    for (kind, label) in KINDS {
        out.push(row(label, columns.iter().filter_map(Column::view).map(|view| cell(view, kind)).collect()));
    }
    out.extend(reasons(&columns));
    out.extend(kernel.modules.iter().flat_map(module));
    out
}

/// Why, for each column; where the same comes of different lines, for each of them.
fn reasons(columns: &[Column<'_>]) -> Vec<String> {
    let mut groups: Vec<Vec<(&'static str, &KernelView)>> = Vec::new();
    for column in columns {
        let of_before = groups.len();
        for (name, view) in &column.times {
            let same = |g: &&mut Vec<(&'static str, &KernelView)>| g[0].1.sig_unenforce == view.sig_unenforce;
            match groups[of_before..].iter_mut().find(same) {
                Some(group) => group.push((name, view)),
                None => groups.push(vec![(name, view)]),
            }
        }
    }
    let mut out = Vec::new();
    for group in &groups {
        let mut label =
            if groups.len() > 1 { format!("why ({}): ", names(group)) } else { "why: ".to_owned() };
        for reason in &group[0].1.because {
            out.extend(broken(&format!("{label}{reason}"), "  ", "    "));
            label = "and: ".to_owned();
        }
    }
    out
}

fn cell(view: &KernelView, kind: &str) -> String {
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
        _ => "it cannot be determined whether it will load".to_owned(),
    };
    let name = module.path.rsplit('/').next().unwrap_or(&module.path);
    let loaded = match module.loaded.as_deref() {
        None => String::new(),
        Some("") => "; loaded now".to_owned(),
        Some(letters) => format!("; loaded now, taint {letters}"),
    };
    broken(&format!("{} {name}: {}: {fate}{loaded}", module.module, module.signature_text), "  ", "    ")
}
