//! Renderings for people.

pub mod cmdline;
pub mod enforcement;
pub mod guard;
pub mod lint;
pub mod metrics;
mod modules;
pub mod progress;
pub mod rebuild;
pub mod style;
pub mod text;

/// The width that lines keep to, where what they quote lets them.
pub const WIDTH: usize = 80;

/// Text that came from files or programs, safe for a screen; every screen is made of it.
pub use crate::sys::printable::printable as shown;
use crate::sys::printable::{LONGEST, cut};

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
