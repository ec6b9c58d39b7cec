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

/// A text broken at blanks, with something in front of its first line and of the others; a word that is too long stays
/// whole, so that it can be copied.
pub fn broken(text: &str, first: &str, other: &str) -> Vec<String> {
    broken_to(WIDTH, text, first, other)
}

/// The same for a screen of that many columns.
pub fn broken_to(width: usize, text: &str, first: &str, other: &str) -> Vec<String> {
    let mut lines = vec![first.to_owned()];
    let mut fresh = true;
    for word in cut(text, LONGEST).split_whitespace().map(shown) {
        let length = lines.last().map_or(0, |l| l.chars().count());
        if !fresh && length + 1 + word.chars().count() > width - 2 {
            lines.push(other.to_owned());
            fresh = true;
        }
        if let Some(line) = lines.last_mut() {
            if !fresh {
                line.push(' ');
            }
            line.push_str(&word);
        }
        fresh = false;
    }
    lines
}

/// A value as JSON with a final newline. What must not reach a screen is escaped although JSON lets it stand: what takes the
/// colour out of an answer would take control characters out with it.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn json<T: serde::Serialize>(value: &T) -> anyhow::Result<String> {
    let mut text = String::new();
    for c in serde_json::to_string_pretty(value)?.chars() {
        match c {
            // What is above 16 bits takes two of them. The line breaks are ours: JSON has its own escaped already.
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
