//! Text from files and other programs, made safe for a screen, the journal and the message of the day.
//!
//! A name or a line of a log can hold control characters that a terminal obeys, characters that change the
//! order of the rest of the line (the bidirectional controls of Unicode), invisible characters, or an
//! excessive amount of text.

/// The longest text that is shown in full, in characters: the maximum length of a kernel's command line.
pub const LONGEST: usize = 4096;

/// Characters that are invisible, or that change how others are shown. Joiners are included: a name with one
/// looks like the name without it.
const HIDDEN: [(char, char); 18] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    // Of no width; from left to right and from right to left.
    ('\u{200b}', '\u{200f}'),
    // Line and paragraph separators, embeddings and overrides.
    ('\u{2028}', '\u{202e}'),
    // Isolates, and more of no width.
    ('\u{2060}', '\u{206f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a character must not reach a screen as it is.
pub fn is_hidden(c: char) -> bool {
    // Most text is ASCII.
    c.is_control() || (!c.is_ascii() && HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&c)))
}

/// One line: hidden characters are written as in Rust (`\u{202e}`, `\n`), and text that is too long is cut.
pub fn printable(text: &str) -> String {
    escaped(&cut(text, LONGEST), |_| false)
}

/// Text of any number of lines, each of them as [`printable`]; blank lines and tabs stay.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<String> =
        text.split('\n').map(|line| escaped(&cut(line, LONGEST), |c| c == '\t')).collect();
    cut(&lines.join("\n"), 8 * LONGEST)
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) && !is_kept(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The beginning of a text that is longer than so many characters, and how much is left out.
pub fn cut(text: &str, most: usize) -> String {
    // No character is shorter than a byte.
    if text.len() <= most {
        return text.to_owned();
    }
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}... ({} bytes more)", &text[..end], text.len() - end),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_hidden_is_written_out() {
        let table = [
            ("plain/1.0 \u{6a21}\u{5757} é", "plain/1.0 \u{6a21}\u{5757} é"),
            ("a\u{1b}[31mb\r\n", "a\\u{1b}[31mb\\r\\n"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            // "txt.exe" from right to left.
            ("evil\u{202e}exe.ko\u{2066}", "evil\\u{202e}exe.ko\\u{2066}"),
            ("he\u{200b}llo\u{200d}\u{feff}\u{ad}", "he\\u{200b}llo\\u{200d}\\u{feff}\\u{ad}"),
            ("\u{2028}\u{e0041}\u{fe0f}\u{3164}", "\\u{2028}\\u{e0041}\\u{fe0f}\\u{3164}"),
        ];
        for (text, expected) in table {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable_lines("a\tb\n\u{202e}\n"), "a\tb\n\\u{202e}\n");
    }

    #[test]
    fn what_is_over_long_is_cut() {
        let long = "é".repeat(LONGEST + 5);
        let shown = printable(&long);
        assert!(shown.ends_with("é... (10 bytes more)"), "{}", &shown[shown.len() - 40..]);
        assert_eq!(printable(&long[..2 * LONGEST]), &long[..2 * LONGEST]);
        assert!(printable_lines(&"x\n".repeat(100_000)).len() < 9 * LONGEST);
    }

    proptest! {
        #[test]
        fn nothing_hidden_is_left(text in any::<String>()) {
            prop_assert!(!printable(&text).chars().any(is_hidden));
            prop_assert!(!printable_lines(&text).chars().any(|c| is_hidden(c) && c != '\n' && c != '\t'));
        }
    }
}
