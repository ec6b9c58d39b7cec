//! Patterns for the lines of build logs.

use std::sync::OnceLock;

use regex::{Captures, Regex, RegexSet};

/// Patterns that a text is compared with at once. A single one is compiled when a text matches it, because
/// compiling all of them would take longer than the search through most logs.
#[derive(Debug)]
pub(in crate::dkms) struct Patterns {
    texts: Vec<&'static str>,
    set: RegexSet,
    each: Vec<OnceLock<Regex>>,
}

impl Patterns {
    #[allow(clippy::expect_used)] // a test compiles each of them
    pub(in crate::dkms) fn new(texts: impl Iterator<Item = &'static str>) -> Patterns {
        let texts: Vec<&str> = texts.collect();
        let set = RegexSet::new(texts.iter().map(|text| ascii(text))).expect("patterns");
        Patterns { set, each: texts.iter().map(|_| OnceLock::new()).collect(), texts }
    }

    /// The patterns that match, by their numbers, with their groups.
    pub(in crate::dkms) fn find<'t>(&self, text: &'t str) -> impl Iterator<Item = (usize, Captures<'t>)> {
        let matching = self.set.matches(text).into_iter();
        matching.filter_map(move |at| Some((at, self.one(at).captures(text)?)))
    }

    fn one(&self, at: usize) -> &Regex {
        self.each[at].get_or_init(|| pattern(self.texts[at]))
    }

    /// Compiles each of them. Returns how many there are.
    #[cfg(test)]
    pub(in crate::dkms) fn compile(&self) -> usize {
        for at in 0..self.each.len() {
            self.one(at);
        }
        self.each.len()
    }
}

/// A single pattern.
#[allow(clippy::expect_used)] // a test compiles each of them
pub(crate) fn pattern(text: &str) -> Regex {
    Regex::new(&ascii(text)).expect("pattern")
}

/// The pattern with the classes of ASCII: what they stand for in messages of compilers and make is a name, a
/// number or a blank. Those of Unicode take ten times as long to compile.
fn ascii(pattern: &str) -> String {
    let mut plain = String::with_capacity(2 * pattern.len());
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        let escaped = if letter == '\\' { letters.next() } else { None };
        match escaped {
            Some('w') => plain.push_str("[0-9A-Za-z_]"),
            Some('W') => plain.push_str("[^0-9A-Za-z_]"),
            Some('d') => plain.push_str("[0-9]"),
            Some('D') => plain.push_str("[^0-9]"),
            Some('s') => plain.push_str(r"[\t-\r ]"),
            Some('S') => plain.push_str(r"[^\t-\r ]"),
            Some('b') => plain.push_str(r"(?-u:\b)"),
            other => {
                plain.push(letter);
                plain.extend(other);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_those_of_ascii() {
        let found = |text: &str, line: &str| pattern(text).find(line).map(|m| m.as_str().to_owned());
        assert_eq!(found(r"\w+", "‘f_1’ é"), Some("f_1".to_owned()));
        assert_eq!(found(r"[\w./+~-]+", "‘/a-b.c~’"), Some("/a-b.c~".to_owned()));
        assert_eq!(found(r"[^\s'’:]+", "’ file.h: gone"), Some("file.h".to_owned()));
        assert_eq!(found(r"\bno\b\W*\S", "non no ‘x"), Some("no ‘x".to_owned()));
        assert_eq!(found(r"\\r\D\d", r"a\rb7"), Some(r"\rb7".to_owned()));
    }

    #[test]
    fn patterns_are_found_in_their_order() {
        let patterns = Patterns::new([r"c$", r"(?P<what>b)", r"x", r"^a"].into_iter());
        let numbers: Vec<usize> = patterns.find("abc").map(|(at, _)| at).collect();
        assert_eq!(numbers, [0, 1, 3]);
        let words: Vec<String> = patterns
            .find("ab")
            .filter_map(|(_, groups)| Some(groups.name("what")?.as_str().to_owned()))
            .collect();
        assert_eq!(words, ["b"]);
    }
}
