//! Imports go down the layers of `docs/architecture.md` only: no module depends on one above it, so there is
//! no import cycle.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The modules of the crate from the bottom up. Modules of one row know nothing of each other.
const LAYERS: [&[&str]; 17] = [
    &["sys", "message", "limits", "exit"],
    &["kernel"],
    &["cmdline"],
    &["modprobe"],
    &["initrd"],
    &["boot", "dkms"],
    &["enforcement", "adopt", "transfer"],
    &["requirement"],
    &["boot_decision"],
    &["config"],
    &["state", "context"],
    &["automation", "usage"],
    &["system"],
    &["decide"],
    &["report"],
    &["update"],
    &["cli"],
];

/// The files below a directory.
pub(crate) fn sources(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The modules that a source file names as `crate::NAME` or in `use crate::{…}`.
fn imported(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| -> String {
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
    };
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code: String = code.collect::<Vec<_>>().join("\n");
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
            Some((list, _)) => names.extend(list.split(',').map(|part| name(part.trim()))),
            None => drop(names.insert(name(rest))),
        }
    }
    names
}

#[test]
fn imports_go_down_only() {
    let level = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let module = first.trim_end_matches(".rs").to_owned();
        if ["lib", "bin"].contains(&module.as_str()) {
            continue;
        }
        let own = level(&module).unwrap_or_else(|| panic!("{module} is in no layer: add it to LAYERS"));
        for other in imported(&fs::read_to_string(&file).unwrap()) {
            // Names of the crate itself, such as `crate::{…}` of a type, are not modules.
            let Some(below) = level(&other) else { continue };
            seen += 1;
            if other != module && below >= own {
                wrong.push(format!("{} imports {other}", inside.display()));
            }
        }
    }
    assert!(seen > 200, "the sources were not read: {seen} imports");
    assert_eq!(wrong, Vec::<String>::new());
}

/// A file that fits in one reading. `.clippy.toml` limits functions.
#[test]
fn no_source_file_has_more_than_500_lines() {
    let mut files = Vec::new();
    for directory in ["benches", "packaging/pages/src", "src", "tests"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    files.retain(|file| file.extension().is_some_and(|end| end == "rs"));
    assert!(files.len() > 300, "the sources were not found: {} files", files.len());
    files.retain(|file| fs::read_to_string(file).unwrap().lines().count() > 500);
    assert_eq!(files, Vec::<std::path::PathBuf>::new());
}

/// The drawing names every module once, in the order of the layers from the top down.
#[test]
fn the_drawing_has_the_layers() {
    let page = include_str!("../../docs/architecture.md");
    let (_, drawing) = page.split_once("## The layers").unwrap();
    let drawing = drawing.split("```").nth(1).unwrap();
    let module = |word: &'static str| word.strip_suffix('/').or_else(|| word.strip_suffix(".rs"));
    let drawn: Vec<&str> =
        drawing.split_whitespace().filter_map(module).filter(|name| *name != "bin").collect();
    let level = |module: &str| LAYERS.iter().position(|layer| layer.contains(&module));
    let levels: Vec<Option<usize>> = drawn.iter().map(|module| level(module)).collect();
    assert!(levels.iter().all(Option::is_some) && levels.is_sorted_by(|a, b| a >= b), "{drawn:?}");
    let all: BTreeSet<&str> = LAYERS.iter().copied().flatten().copied().collect();
    assert_eq!((drawn.len(), drawn.into_iter().collect::<BTreeSet<&str>>()), (all.len(), all));
}

#[test]
fn the_documented_table_has_every_module() {
    let page = include_str!("../../docs/architecture.md");
    let is_described = |module: &&str| {
        let name = format!("`{module}`");
        page.lines().any(|line| line.starts_with("| `") && line.split(" | ").next().unwrap().contains(&name))
    };
    let missing: Vec<&str> =
        LAYERS.iter().copied().flatten().copied().filter(|module| !is_described(module)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
