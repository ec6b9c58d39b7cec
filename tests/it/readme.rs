//! What README.md and docs/ show of the programs is what the programs print.
//!
//! `<!-- output: NAME -->` before a code block names a golden screen, or a verb of `clr-dkms` with its
//! arguments. The block begins with the command; the rest is compared. `INSTA_UPDATE=always` writes it again.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::TestRoot;

const MARK: &str = "<!-- output: ";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and the pages in docs/.
pub(crate) fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut pages: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|extension| extension == "md")).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| repository().join(name)));
    pages.sort();
    pages
}

/// The screen of that name, without its variants for other terminals; else what the verb prints.
fn output(name: &str) -> String {
    let snapshots = repository().join("tests/it/snapshots");
    let mut files = fs::read_dir(snapshots).unwrap().map(|entry| entry.unwrap().path());
    let wanted = format!("__{name}.snap");
    let text = match files.find(|path| path.to_string_lossy().ends_with(&wanted)) {
        Some(path) => {
            let text = fs::read_to_string(path).unwrap();
            let body = text.splitn(3, "---\n").nth(2).unwrap();
            body.split("\n== ").next().unwrap().to_owned()
        }
        None => {
            let words: Vec<&str> = name.split(' ').collect();
            TestRoot::new().run("clr-dkms", &words).code(0).stdout.clone()
        }
    };
    text.trim_end().replace("ROOT/", "/")
}

/// The page with the output of today in each marked block, and how many there are.
fn with_outputs(page: &str) -> (String, usize) {
    let mut result = String::new();
    let mut count = 0;
    let mut rest = page;
    while let Some((before, after)) = rest.split_once(MARK) {
        let (name, after) = after.split_once(" -->\n```\n").expect("a code block follows the mark");
        let (block, after) = after.split_once("\n```\n").expect("the code block ends");
        let command = block.lines().next().unwrap();
        assert!(command.starts_with("$ "), "the block of {name} begins with a command");
        result += &format!("{before}{MARK}{name} -->\n```\n{command}\n{}\n```\n", output(name));
        rest = after;
        count += 1;
    }
    (result + rest, count)
}

#[test]
fn outputs_are_those_of_the_programs() {
    let mut count = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let (current, blocks) = with_outputs(&page);
        count += blocks;
        if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") && page != current {
            fs::write(&path, current).unwrap();
            continue;
        }
        assert!(page == current, "{} wants (INSTA_UPDATE=always writes it):\n{current}", path.display());
    }
    assert!(count >= 5, "{count} outputs are shown");
}

#[test]
fn the_readme_is_short() {
    let readme = fs::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.len() <= 12 * 1024, "README.md has {} bytes", readme.len());
}

/// Tables, pictures, links and headings stay on one line.
#[test]
fn lines_have_at_most_110_columns() {
    let mut wrong = String::new();
    for path in pages() {
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            let whole = ["|", "![", "<img"].iter().any(|start| line.trim_start().starts_with(start));
            if !whole && line.chars().count() > 110 {
                wrong += &format!("{}:{}\n", path.display(), number + 1);
            }
        }
    }
    assert!(wrong.is_empty(), "longer than 110 columns:\n{wrong}");
}

/// Tables stay on one line.
#[test]
fn comments_have_at_most_110_columns() {
    let mut left =
        ["benches", "packaging/pages", "src", "tests"].map(|name| repository().join(name)).to_vec();
    let (mut wrong, mut seen) = (String::new(), 0);
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|end| end == "rs") {
            seen += 1;
            for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let comment = line.trim_start();
                let whole = !comment.starts_with("//") || comment.starts_with("//! |");
                if !whole && line.chars().count() > 110 {
                    wrong += &format!("{}:{}\n", path.display(), number + 1);
                }
            }
        }
    }
    assert!(seen > 300, "{seen} files");
    assert!(wrong.is_empty(), "longer than 110 columns:\n{wrong}");
}

/// Links between the pages lead somewhere.
#[test]
fn links_lead_to_files() {
    let mut checked = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for target in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(path.parent().unwrap().join(file).exists(), "{}: {target}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 10, "{checked} links");
}
