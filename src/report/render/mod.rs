//! Renderings for people.

pub mod add;
pub mod cmdline;
pub mod enforcement;
pub mod guard;
mod kernels;
pub mod lint;
pub mod metrics;
pub mod module;
mod module_detail;
mod modules;
pub mod nagios;
pub mod progress;
pub mod rebuild;
pub mod setup;
mod side_files;
pub mod style;
pub mod text;
pub mod transfer;

/// The width that lines keep to, where what they quote lets them.
pub const WIDTH: usize = 80;

/// The lines of the smallest page that a screen is laid out for.
pub const PAGE: usize = 24;

/// Text that came from files or programs, safe for a screen; every screen is made of it.
pub use crate::sys::printable::printable as shown;
use crate::sys::printable::{LONGEST, cut, is_hidden};

/// A text broken at blanks, with something in front of its first line and of the others. A word that is too
/// long stays whole, and so does a command between backquotes that fits on a line: both can be copied.
pub fn broken(text: &str, first: &str, other: &str) -> Vec<String> {
    broken_to(WIDTH, text, first, other)
}

/// The same for a screen of that many columns.
pub fn broken_to(width: usize, text: &str, first: &str, other: &str) -> Vec<String> {
    let words: Vec<String> = cut(text, LONGEST).split_whitespace().map(shown).collect();
    if words.is_empty() {
        return vec![first.to_owned()];
    }
    let width = width.saturating_sub(2);
    let options = textwrap::Options::new(width)
        .initial_indent(first)
        .subsequent_indent(other)
        .break_words(false)
        .word_separator(textwrap::WordSeparator::AsciiSpace)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .wrap_algorithm(textwrap::WrapAlgorithm::FirstFit);
    let text = with_whole_commands(&words.join(" "), width.saturating_sub(other.chars().count()));
    textwrap::wrap(&text, options).iter().map(|line| line.replace(KEPT_BLANK, " ")).collect()
}

/// A blank at which no line is broken. It is whitespace, so that it is never part of a word.
const KEPT_BLANK: char = '\u{a0}';

/// The text, with [`KEPT_BLANK`] in the commands that fit into so many columns with their backquotes.
fn with_whole_commands(text: &str, columns: usize) -> String {
    let parts = text.split('`').enumerate().map(|(at, part)| match at % 2 == 1 {
        true if part.chars().count() + 3 <= columns => part.replace(' ', &KEPT_BLANK.to_string()),
        _ => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("`")
}

/// The items in groups of those that are alike, in the order of the first of each group.
fn grouped<T>(items: impl IntoIterator<Item = T>, are_alike: impl Fn(&T, &T) -> bool) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    for item in items {
        match groups.iter_mut().find(|group| are_alike(&group[0], &item)) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

/// A value as JSON with a final newline. What must not reach a screen is escaped although JSON lets it stand:
/// what takes the colour out of an answer would take control characters out with it.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json<T: serde::Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(value)?.chars() {
        match c {
            // What is above 16 bits takes two of them. The line breaks are ours: JSON has its own escaped
            // already.
            c if is_hidden(c) && c != '\n' => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => text.push(c),
        }
    }
    Ok(text + "\n")
}
