//! Prose uses the words of the field: the rules are in `tests/data/banned-words`.
//!
//! Of Rust sources the comments and the string literals are read, of every other text file all of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};

/// What is read, below the repository. Recorded inputs are not prose.
const READ: [&str; 18] = [
    ".ci",
    ".github",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.toml",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "benches",
    "docs",
    "hooks",
    "man",
    "packaging",
    "src",
    "systemd",
    "tests/it",
    "tests/real",
    "tests/support",
];

/// Pictures, and screens of the programs.
const SKIPPED: [&str; 2] = ["png", "snap"];
/// It has the words on purpose.
const THIS: &str = file!();

/// Takes the place of code between two pieces of prose: no expression matches across it.
const CODE: char = '\u{1}';

struct Rule {
    expression: Regex,
    instead: String,
}

struct Finding {
    at: usize,
    line: usize,
    words: String,
    instead: String,
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> Vec<Rule> {
    let rule = |line: &str| {
        let (expression, instead) = line.split_once('\t').unwrap_or_else(|| panic!("no tab in {line:?}"));
        let expression = expression.replace(' ', r"\s+");
        let expression = RegexBuilder::new(&expression).case_insensitive(true).build().unwrap();
        Rule { expression, instead: instead.to_owned() }
    };
    let lines = include_str!("../data/banned-words").lines();
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(rule).collect()
}

/// Findings of one text, which has a line of prose where the file has that line.
fn findings(prose: &str, rules: &[Rule]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut taken: Vec<std::ops::Range<usize>> = Vec::new();
    for rule in rules {
        let grouped = rule.expression.as_str().contains("|(");
        for hit in rule.expression.captures_iter(prose) {
            let whole = match grouped {
                true => hit.get(1),
                false => hit.get(0),
            };
            let Some(words) = whole else { continue };
            // "cannot be told" is one finding, not also one of "told".
            if taken.iter().any(|range| range.contains(&words.start())) {
                continue;
            }
            taken.push(words.range());
            found.push(Finding {
                at: words.start(),
                line: prose[..words.start()].matches('\n').count() + 1,
                words: words.as_str().split_whitespace().collect::<Vec<_>>().join(" "),
                instead: rule.instead.clone(),
            });
        }
    }
    found.sort_by_key(|finding| finding.at);
    found
}

/// The comments and string literals of a Rust source, each on its own line; all else is `CODE`.
fn rust_prose(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut prose = String::new();
    let mut index = 0;
    while index < characters.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => line_end(&characters, index),
            ('/', '*') => block_end(&characters, index),
            ('"', _) => string_end(&characters, index),
            ('r', '"' | '#') if !is_word(&characters, index) => raw_end(&characters, index),
            ('\'', _) => character_end(&characters, index),
            _ => None,
        };
        match end {
            Some(end) => {
                let piece: String = characters[index..end].iter().collect();
                match at(index) {
                    '\'' => prose.push(CODE),
                    '/' => prose.push_str(&without_markers(&piece)),
                    // Two literals in a row, such as items of a list, are two texts.
                    _ => {
                        prose.push(CODE);
                        prose.push_str(&without_holes(&piece));
                        prose.push(CODE);
                    }
                }
                index = end;
            }
            None => {
                prose.push(if at(index).is_whitespace() { at(index) } else { CODE });
                index += 1;
            }
        }
    }
    prose
}

/// Is there a word character before this index, so that an `r` here ends an identifier?
fn is_word(characters: &[char], index: usize) -> bool {
    index > 0 && (characters[index - 1].is_alphanumeric() || characters[index - 1] == '_')
}

fn line_end(characters: &[char], start: usize) -> Option<usize> {
    let length = characters[start..].iter().position(|c| *c == '\n');
    Some(length.map_or(characters.len(), |length| start + length))
}

fn block_end(characters: &[char], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut index = start;
    while index + 1 < characters.len() {
        match (characters[index], characters[index + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                index += 1;
                continue;
            }
        }
        index += 2;
        if depth == 0 {
            return Some(index);
        }
    }
    None
}

fn string_end(characters: &[char], start: usize) -> Option<usize> {
    let mut index = start + 1;
    while index < characters.len() {
        match characters[index] {
            '\\' => index += 1,
            '"' => return Some(index + 1),
            _ => {}
        }
        index += 1;
    }
    None
}

fn raw_end(characters: &[char], start: usize) -> Option<usize> {
    let hashes = characters[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if characters.get(open) != Some(&'"') {
        return None;
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = characters[open + 1..].windows(closing.len()).position(|window| window == closing)?;
    Some(open + 1 + length + closing.len())
}

/// The end of a character literal; `None` for a lifetime.
fn character_end(characters: &[char], start: usize) -> Option<usize> {
    match (characters.get(start + 1)?, characters.get(start + 2)?) {
        ('\\', _) => {
            let length = characters[start + 3..].iter().position(|c| *c == '\'')?;
            Some(start + 3 + length + 1)
        }
        (_, '\'') => Some(start + 3),
        _ => None,
    }
}

/// A comment without `//`, `///`, `//!`, so that a sentence can go on in the next line.
fn without_markers(comment: &str) -> String {
    let marker = comment.len() - comment.trim_start_matches(['/', '!', '*']).len();
    format!("{}{}", " ".repeat(marker), &comment[marker..])
}

/// A literal without the names in `{…}`, and with white space for `\n` and for `\` at the end of a line.
fn without_holes(literal: &str) -> String {
    let mut text = String::new();
    let mut depth = 0_usize;
    let mut characters = literal.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if characters.peek() == Some(&'\n') => text.push(' '),
            '\\' if characters.next_if_eq(&'n').is_some() => text.push(' '),
            '{' if characters.next_if_eq(&'{').is_some() => text.push('{'),
            '{' => depth += 1,
            '}' if depth > 0 => {
                depth -= 1;
                text.push(CODE);
            }
            c if depth > 0 && c != '\n' => {}
            c => text.push(c),
        }
    }
    text
}

/// A shell or roff source in which a comment's sentence can go on in the next line.
fn plain_prose(source: &str) -> String {
    let line = |line: &str| {
        let text = line.trim_start();
        match text.strip_prefix('#').or_else(|| text.strip_prefix(".\\\"")) {
            Some(rest) => rest.to_owned(),
            None => line.to_owned(),
        }
    };
    source.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn collect(path: &Path, found: &mut BTreeSet<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            collect(&entry.unwrap().path(), found);
        }
    } else if path.is_file() && !path.is_symlink() {
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        if !SKIPPED.contains(&extension.as_str()) && !path.ends_with(THIS) {
            found.insert(path.to_owned());
        }
    }
}

fn all_findings() -> Vec<(String, Vec<Finding>)> {
    let root = repository();
    let mut files = BTreeSet::new();
    READ.iter().for_each(|path| collect(&root.join(path), &mut files));
    let rules = rules();
    let of_file = |file: &PathBuf| {
        let source = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let prose = match file.extension().is_some_and(|extension| extension == "rs") {
            true => rust_prose(&source),
            false => plain_prose(&source),
        };
        let name = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        (name, findings(&prose, &rules))
    };
    files.iter().map(of_file).collect()
}

#[test]
fn prose_avoids_the_banned_words() {
    let files = all_findings();
    assert!(files.len() > 100, "the sources were not read: {} files", files.len());
    let mut wrong = String::new();
    for (name, found) in &files {
        for Finding { line, words, instead, .. } in found {
            wrong += &format!("{name}:{line}: \"{words}\": write {instead}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What the rules say of a text, as words.
fn words_found(prose: &str) -> Vec<String> {
    findings(prose, &rules()).into_iter().map(|finding| finding.words).collect()
}

#[test]
fn every_rule_finds_its_words_and_leaves_normal_english_alone() {
    for (text, words) in [
        ("The folder and its Folders.", vec!["folder", "Folders"]),
        ("A word that is spelt so.", vec!["spelt"]),
        ("The default cannot be\ntold here.", vec!["cannot be told"]),
        ("swupd is told.", vec!["told"]),
        ("It tells of a fault.", vec!["tells of"]),
        ("Built anew, and mended.", vec!["anew", "mended"]),
        ("It mends a mend.", vec!["mends", "mend"]),
        ("What was put it right, puts right.", vec!["put it right", "puts right"]),
        ("Whoever holds it.", vec!["Whoever"]),
        ("A user who is not root.", vec!["who is"]),
        ("Who reads it waits.", vec!["Who reads"]),
        ("It is no link, they are no links.", vec!["is no link", "are no links"]),
    ] {
        assert_eq!(words_found(text), words, "{text}");
    }
    for text in [
        "There is no kernel, and there are no entries.",
        "It is no longer there, and is no more than a name; it was no later than today.",
        "It says who holds the lock. By whom? Recommend, amend, foretold.",
        "`clr-dkms guard` tells which kernel boots.",
        "No folderol.",
    ] {
        assert_eq!(words_found(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn of_rust_the_comments_and_literals_are_read() {
    let source = r##"
//! a folder
/// spelt so, and it
/// cannot be
/// told
fn folder<'a>(told: &'a str) -> char { // anew
    let quote = '"'; let escaped = '\''; /* one /* mended */ folder */
    call("whoever", r#"a "folder" here"#, b"folder", "\"folder", "{told} {folder:?} {{folder}}", "is", "no use");
    "two \
     folders"; 'x'
}
"##;
    let found = findings(&rust_prose(source), &rules());
    let found: Vec<_> = found.iter().map(|finding| (finding.line, finding.words.as_str())).collect();
    let literals = [(8, "whoever"), (8, "folder"), (8, "folder"), (8, "folder"), (8, "folder")];
    let comments =
        [(2, "folder"), (3, "spelt"), (4, "cannot be told"), (6, "anew"), (7, "mended"), (7, "folder")];
    assert_eq!(found, [&comments[..], &literals[..], &[(10, "folders")]].concat());
}
