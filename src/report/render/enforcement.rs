//! The enforcement screen: the answer, the times side by side where they differ, and why.

use super::style::{ScreenStyle, StyledLine, Tone, bold, painted, plain, toned};
use super::text::{NOTHING, mark, wrapped};
use super::{grouped, shown};
use crate::dkms::{ModuleName, Signature};
use crate::enforcement::LoadWord;
use crate::report::enforcement::{
    EnforcementDocument, EnforcementStanding, KernelReport, KernelView, ModuleReport,
};

/// The kinds of modules, as the table names them.
const KINDS: [(&str, &str); 4] = [
    ("unsigned", "unsigned"),
    ("unknown_key", "unknown key"),
    ("trusted", "trusted key"),
    ("damaged", "damaged"),
];

/// The whole screen, with ANSI styles: the sentence, what each kernel does, what becomes of each module, and
/// why. With `is_whole` also the errors, the certificates and the reasons of every kernel.
pub fn screen(document: &EnforcementDocument, style: &ScreenStyle, is_whole: bool) -> String {
    let tone = match document.standing {
        EnforcementStanding::Settled => Tone::Good,
        EnforcementStanding::Pending => Tone::Attention,
        EnforcementStanding::Refused => Tone::Bad,
        EnforcementStanding::Unknown => Tone::Unknown,
    };
    let mut lines = wrapped(Some(tone), &document.summary, ["  ", "  "], style);
    let step = document.next_step.as_deref().unwrap_or(NOTHING);
    lines.extend(wrapped(None, step, ["  next: ", "    "], style));
    lines.extend(of_kernels(document, style));
    lines.extend(of_modules(document, style));
    lines.push(StyledLine::new());
    if let Some(first) = document.kernels.first().filter(|_| !is_whole) {
        let mut columns = columns(first);
        // Why it is configured so is said with the rest, where the next boot has not taken it up.
        if first.next_boot.is_some() {
            columns.retain(|column| column.iter().any(|(name, _)| *name != "configured"));
        }
        lines.extend(reasons(&columns, style));
    }
    let (tone, taint) = match document.taint.as_deref() {
        None => (None, String::new()),
        Some("") => (Some(Tone::Good), "; the running kernel is not tainted".to_owned()),
        Some(letters) => (Some(Tone::Plain), format!("; the running kernel is tainted: {letters}")),
    };
    let secure_boot = format!("Secure Boot: {}{taint}", document.secure_boot);
    lines.extend(wrapped(tone, &secure_boot, ["  ", "    "], style));
    for note in &document.notes {
        lines.extend(wrapped(Some(Tone::Attention), &format!("note: {note}"), ["  ", "    "], style));
    }
    for kernel in document.kernels.iter().filter(|_| is_whole) {
        lines.push(StyledLine::new());
        lines.extend(self::kernel(kernel, style));
    }
    painted(&lines, style)
}

/// What each kernel does with each kind of module; a line for the times that differ.
fn of_kernels(document: &EnforcementDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    if document.kernels.is_empty() {
        return Vec::new();
    }
    let name = |kernel: &KernelReport| format!("{}{}", kernel.release, roles(kernel));
    let cells = |cells: Vec<&str>| -> String {
        let widths = KINDS.map(|(_, label)| label.len().max(8) + 2);
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<String>()
    };
    // Where the four kinds do not fit beside the times, they stand below them.
    let room = style.width.saturating_sub(2 + cells(KINDS.map(|(_, label)| label).to_vec()).trim_end().len());
    let fits = |kernel: &KernelReport| name(kernel).chars().count() + 2 <= room;
    // A kernel has a line for each time, below its name, where the times differ or the name is too long.
    let by_time = document.kernels.iter().filter(|k| columns(k).len() > 1 || !fits(k));
    let times = by_time.flat_map(columns).map(|column| names(&column).len() + 4).max().unwrap_or(0);
    let beside = document.kernels.iter().filter(|k| fits(k)).map(|kernel| name(kernel).chars().count() + 2);
    let width = beside.chain([times, 20]).max().unwrap_or(0);
    let is_wide = width <= room;
    let width = if is_wide { width } else { 4 };
    let title = cells(KINDS.map(|(_, label)| label).to_vec());
    let mut lines = vec![StyledLine::new()];
    match is_wide {
        true => lines.push(vec![bold(format!("{:w$}", "Kernels", w = width + 2), Tone::Plain), plain(title)]),
        false => {
            lines.push(vec![bold("Kernels", Tone::Plain)]);
            lines.push(vec![plain(format!("{:w$}{title}", "", w = width + 2))]);
        }
    }
    for kernel in &document.kernels {
        let columns = columns(kernel);
        let of_view = |view: &KernelView| {
            cells(
                KINDS
                    .iter()
                    .map(|(kind, _)| view.loads.get(kind).map_or("", |word| shown_word(*word)))
                    .collect(),
            )
        };
        let tone = tone_of(kernel);
        let first = mark(Some(tone), style);
        match columns.as_slice() {
            [one] if is_wide && name(kernel).chars().count() + 2 <= width => {
                let row = of_view(one[0].1);
                lines.push(vec![first, plain(format!("{:width$}", name(kernel))), toned(row, tone)]);
            }
            several => {
                lines.push(vec![first, plain(name(kernel))]);
                for column in several {
                    let row = of_view(column[0].1);
                    match is_wide {
                        true => {
                            lines.push(vec![plain(format!("    {:w$}", names(column), w = width - 2) + &row)])
                        }
                        false => {
                            lines.push(vec![plain(format!("    {}:", names(column)))]);
                            lines.push(vec![plain(format!("{:w$}{row}", "", w = width + 2))]);
                        }
                    }
                }
            }
        }
    }
    lines
}

/// An outcome in a table; a module that taints does so with `E`.
fn shown_word(word: LoadWord) -> &'static str {
    match word {
        LoadWord::Loads => "loads",
        LoadWord::Taints => "taints E",
        LoadWord::Refused => "refused",
        LoadWord::Unknown => "unknown",
    }
}

/// How a kernel fares: with its modules, or where it has none with any.
fn tone_of(kernel: &KernelReport) -> Tone {
    let outcome = kernel.coming().unsigned().word();
    let now = kernel.now.as_ref().map(|now| now.unsigned().word());
    let is_any = |word: LoadWord| kernel.modules.iter().any(|m| m.coming() == word);
    match kernel.modules.is_empty() {
        _ if is_any(LoadWord::Refused) => Tone::Bad,
        _ if kernel.differs() => Tone::Attention,
        _ if is_any(LoadWord::Unknown) || now == Some(LoadWord::Unknown) => Tone::Unknown,
        true if outcome == LoadWord::Unknown => Tone::Unknown,
        true if outcome == LoadWord::Refused => Tone::Plain,
        _ => Tone::Good,
    }
}

/// A row for each module, and a column for each kernel that has one.
fn of_modules(document: &EnforcementDocument, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut names: Vec<&ModuleName> = Vec::new();
    for module in document.kernels.iter().flat_map(|kernel| &kernel.modules) {
        if !names.contains(&&module.module) {
            names.push(&module.module);
        }
    }
    if names.is_empty() {
        return Vec::new();
    }
    let shown_names: Vec<String> = names.iter().map(|name| shown(&name.to_string())).collect();
    let width = shown_names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(5) + 2;
    let of = |kernel: &KernelReport, name: &ModuleName| -> Option<(Tone, String)> {
        let mut files = kernel.modules.iter().filter(|m| m.module == *name);
        let worst = files.clone().map(ModuleReport::coming).max()?;
        let tone = match worst {
            LoadWord::Loads | LoadWord::Taints => Tone::Good,
            LoadWord::Refused => Tone::Bad,
            LoadWord::Unknown => Tone::Unknown,
        };
        let word = shown_word(worst);
        let is_loaded = kernel.running && files.any(|m| m.loaded.is_some());
        Some((tone, format!("{word}{}", if is_loaded { ", loaded" } else { "" })))
    };
    let with_modules: Vec<&KernelReport> =
        document.kernels.iter().filter(|k| !k.modules.is_empty()).collect();
    let column = |kernel: &KernelReport| kernel.release.chars().count().max(18) + 2;
    // As many kernels as fit; the first is the one that the question is about.
    let mut kernels: Vec<&KernelReport> = Vec::new();
    let mut used = 2 + width + SIGNATURE;
    for kernel in with_modules {
        used += column(kernel);
        if used <= style.width + 2 || kernels.is_empty() {
            kernels.push(kernel);
        }
    }
    let mut title =
        format!("{:w$}{:SIGNATURE$}", "", "signature", w = (width + 2).saturating_sub("Modules".len()));
    title.extend(kernels.iter().map(|k| format!("{:w$}", k.release, w = column(k))));
    let mut lines = vec![StyledLine::new(), vec![bold("Modules", Tone::Plain), plain(title)]];
    for (name, shown_name) in names.iter().zip(&shown_names) {
        let files = document.kernels.iter().flat_map(|k| &k.modules).filter(|m| m.module == **name);
        let signature = files.map(short_signature).next().unwrap_or_default();
        let mut row = vec![plain(format!("  {shown_name:width$}{signature:SIGNATURE$}"))];
        for kernel in &kernels {
            let (tone, text) = match of(kernel, name) {
                Some((tone, text)) => (tone, format!("{} {text}", tone.symbol(style))),
                None => (Tone::Plain, String::new()),
            };
            row.push(toned(format!("{text:w$}", w = column(kernel)), tone));
        }
        lines.push(row);
    }
    lines
}

/// The width of the column of signatures.
const SIGNATURE: usize = 11;

/// What a file says of its signature, in a word.
fn short_signature(module: &ModuleReport) -> &'static str {
    match &module.signature {
        _ if module.unfit => "unfit",
        Signature::Unsigned { .. } => "unsigned",
        Signature::Signed { .. } => "signed",
        Signature::Unknown { .. } => "unknown",
        Signature::Broken { .. } => "broken",
    }
}

fn roles(kernel: &KernelReport) -> String {
    let roles = [(kernel.boots_next, "next boot"), (kernel.running, "running")];
    let roles: Vec<&str> = roles.iter().filter(|(is, _)| *is).map(|(_, role)| *role).collect();
    if roles.is_empty() { String::new() } else { format!(" ({})", roles.join(", ")) }
}

/// A kernel at one time, or at several at which it does the same.
type Column<'a> = Vec<(&'static str, &'a KernelView)>;

fn names(times: &[(&str, &KernelView)]) -> String {
    times.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The times of a kernel; those that agree share a column.
fn columns(kernel: &KernelReport) -> Vec<Column<'_>> {
    let times = [
        ("configured", Some(&kernel.configured)),
        // The next boot of a kernel that somebody would have to choose first.
        (if kernel.boots_next { "next boot" } else { "boot entry" }, kernel.next_boot.as_ref()),
        ("now", kernel.now.as_ref()),
    ];
    let times = times.into_iter().filter_map(|(name, view)| Some((name, view?)));
    grouped(times, |(_, one), (_, other)| one.loads == other.loads && one.error == other.error)
}

/// The errors, the reasons and the files of a kernel.
fn kernel(kernel: &KernelReport, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut lines = vec![vec![bold(format!("Kernel {}{}", kernel.release, roles(kernel)), Tone::Plain)]];
    let columns = columns(kernel);
    let cell = |view: &KernelView, kind: &str| {
        let word = view.loads.get(kind).map(LoadWord::to_string).unwrap_or_default();
        if let Some(error) = view.error.get(kind) { format!("{word} {}", error.name()) } else { word }
    };
    for (kind, label) in KINDS {
        let of = |column: &Column<'_>| format!("{} ({})", cell(column[0].1, kind), names(column));
        let cells: Vec<String> = columns.iter().map(of).collect();
        lines.extend(wrapped(None, &format!("{label}: {}", cells.join("; ")), ["  ", "    "], style));
    }
    lines.extend(reasons(&columns, style));
    lines.extend(kernel.modules.iter().flat_map(|file| module(file, style)));
    lines
}

/// Why, for each column; where the same comes of different lines, for each of them.
fn reasons(columns: &[Column<'_>], style: &ScreenStyle) -> Vec<StyledLine> {
    let is_same =
        |one: &(_, &KernelView), other: &(_, &KernelView)| one.1.sig_unenforce == other.1.sig_unenforce;
    let groups: Vec<Column<'_>> =
        columns.iter().flat_map(|column| grouped(column.iter().copied(), is_same)).collect();
    let mut out = Vec::new();
    for group in &groups {
        let mut label =
            if groups.len() > 1 { format!("why ({}): ", names(group)) } else { "why: ".to_owned() };
        for reason in &group[0].1.because {
            out.extend(wrapped(None, &format!("{label}{reason}"), ["  ", "    "], style));
            label = "and: ".to_owned();
        }
    }
    out
}

fn module(module: &ModuleReport, style: &ScreenStyle) -> Vec<StyledLine> {
    let mut tone = Tone::Good;
    let fate = match module.coming() {
        LoadWord::Loads => "will load".to_owned(),
        LoadWord::Taints => "will load and taint".to_owned(),
        LoadWord::Refused => {
            tone = Tone::Bad;
            let error = module.error.map(|e| format!(" ({})", e.name())).unwrap_or_default();
            format!("will be refused{error}")
        }
        LoadWord::Unknown => {
            tone = Tone::Unknown;
            "it cannot be determined whether it will load".to_owned()
        }
    };
    let name = module.path.rsplit('/').next().unwrap_or(&module.path);
    let loaded = match module.loaded.as_deref() {
        None => String::new(),
        Some("") => "; loaded now".to_owned(),
        Some(letters) => format!("; loaded now, taint {letters}"),
    };
    let text = format!("{} {name}: {}: {fate}{loaded}", module.module, module.signature_text);
    wrapped(Some(tone), &text, ["  ", "    "], style)
}
