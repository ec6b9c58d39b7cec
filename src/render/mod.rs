//! Renderings of the status document for people.

pub mod text;

/// Text that came from files or programs, safe for a terminal: control characters are shown, not obeyed.
pub fn shown(text: &str) -> String {
    let escape = |c: char| {
        if c.is_control() { c.escape_default().collect() } else { String::from(c) }
    };
    text.chars().map(escape).collect()
}
