//! How the kernel reads its command line: words, quotes, names and booleans. Measured on booted kernels (6.1
//! and 6.12).

use std::ops::Range;

use serde::Serialize;

use crate::kernel::module_file::folded;

/// The number of bytes that the kernel keeps of a command line.
pub const LINE_LIMIT: usize = 2047;
/// The length at which a warning is useful, because the boot loader adds words before the line.
pub const LINE_WARNING: usize = 2000;

/// The value of a boolean parameter that stays true once it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Switch {
    /// It is true.
    On,
    /// It is absent, or has only false or invalid values.
    Off,
    /// It depends on the kernel version (`=enabled`), on an open quote, or on an additional bootconfig.
    Unknown,
}

/// How kernels differ in reading a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// The kernel may accept `enabled` and `disabled` as booleans. Kernels up to 6.12 do not, some later ones
    /// do.
    pub enabled_words: bool,
    /// The kernel may read additional parameters from its initrd if the word `bootconfig` is on the line.
    pub bootconfig: bool,
}

/// The dialect of a kernel about which nothing is known.
impl Default for Dialect {
    fn default() -> Dialect {
        Dialect { enabled_words: true, bootconfig: true }
    }
}

/// One word of the line, as the kernel parses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The text before `=`, without quotes.
    pub name: Vec<u8>,
    /// The text after `=`, without quotes. None without `=`.
    pub value: Option<Vec<u8>>,
    /// It opens a quote that is not closed, so it extends to the end of the line.
    pub unclosed: bool,
    /// Its position in the line.
    pub span: Range<usize>,
}

/// Why the kernel ignores a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaf {
    /// It comes after `--`, and is passed to init.
    BehindDashes,
    /// It ends after the last byte that the kernel keeps.
    TooFar,
}

/// A parsed command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelArguments {
    /// The words that the kernel reads.
    pub heard: Vec<Argument>,
    /// The words that the kernel ignores.
    pub unheard: Vec<(Argument, Deaf)>,
    /// The beginning of a word that continues after the last byte that the kernel keeps. Whether the kernel
    /// reads it depends on how it was started: its own EFI stub drops the word, other loaders cut it.
    pub cut: Option<Argument>,
}

impl KernelArguments {
    /// Parses a command line.
    pub fn read(line: &[u8]) -> KernelArguments {
        let mut arguments = KernelArguments::default();
        let mut behind = false;
        for span in spans(line) {
            let argument = Argument::read(line, span);
            // `"--"` ends the parameters too, but `--=x` does not.
            let dashes = argument.name == b"--" && argument.value.is_none();
            behind |= dashes;
            if behind {
                if !dashes {
                    arguments.unheard.push((argument, Deaf::BehindDashes));
                }
            } else if argument.span.end > LINE_LIMIT {
                if argument.span.start < LINE_LIMIT {
                    arguments.cut =
                        Some(Argument::read(&line[..LINE_LIMIT], argument.span.start..LINE_LIMIT));
                }
                arguments.unheard.push((argument, Deaf::TooFar));
            } else {
                arguments.heard.push(argument);
            }
        }
        arguments
    }

    /// Reads a boolean that stays true once it is true: `module.sig_enforce`, `module.sig_unenforce`.
    pub fn switch(&self, name: &str, dialect: Dialect) -> Switch {
        let mut result = Switch::Off;
        for argument in &self.heard {
            if dialect.bootconfig && argument.name == b"bootconfig" {
                result = Switch::Unknown;
            }
            match argument.says(name) {
                // Once true, it stays true.
                Some(Boolean::True) => return Switch::On,
                Some(Boolean::LaterWord) if !dialect.enabled_words => {}
                Some(Boolean::LaterWord | Boolean::Open) => result = Switch::Unknown,
                Some(Boolean::False | Boolean::Wrong) | None => {}
            }
        }
        let cut = self.cut.as_ref().and_then(|a| a.says(name));
        match (result, cut) {
            (Switch::Off, Some(Boolean::True | Boolean::LaterWord | Boolean::Open)) => Switch::Unknown,
            (known, _) => known,
        }
    }

    /// Reads a boolean of which the last valid word counts: `nomodule`.
    pub fn last_switch(&self, name: &str, dialect: Dialect) -> Switch {
        let mut result = Switch::Off;
        for said in self.heard.iter().chain(&self.cut).filter_map(|a| a.says(name)) {
            match said {
                Boolean::True => result = Switch::On,
                Boolean::False => result = Switch::Off,
                Boolean::LaterWord if !dialect.enabled_words => {}
                Boolean::LaterWord | Boolean::Open => result = Switch::Unknown,
                Boolean::Wrong => {}
            }
        }
        // It is unknown whether the kernel reads a word that was cut.
        let cut = self.cut.as_ref().is_some_and(|a| a.says(name).is_some());
        if cut { Switch::Unknown } else { result }
    }

    /// Whether the line has a parameter of that name, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.heard.iter().any(|a| a.is_named(name))
    }

    /// Whether the end of the line leaves the value of a parameter unknown: an open quote, or a word that is
    /// cut.
    pub fn is_open(&self, name: &str) -> bool {
        let unclosed = self.heard.iter().any(|a| a.unclosed && a.begins_with(name));
        unclosed || self.cut.as_ref().is_some_and(|a| a.begins_with(name))
    }

    /// The values of a parameter, in order. A word without `=` is a different word to the kernel.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.heard.iter().filter(move |a| a.is_named(name) && !a.unclosed).filter_map(|a| a.value.as_deref())
    }

    /// Why words that look like the parameter have another meaning, as sentences.
    pub fn remarks(&self, name: &str) -> Vec<String> {
        let base = name.rsplit('.').next().unwrap_or(name);
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut remarks = Vec::new();
        for argument in &self.heard {
            let whole = shown(&argument.text());
            if argument.unclosed
                && argument.mentions(base)
                && !matches!(argument.says(name), Some(Boolean::True))
            {
                remarks.push("an open quote extends to the end of the line".to_owned());
            } else if argument.is_named(name) {
                match argument.says(name) {
                    None | Some(Boolean::True | Boolean::Open) => {}
                    Some(Boolean::False) => remarks.push(format!("{whole} is false, which changes nothing")),
                    Some(Boolean::LaterWord) => {
                        remarks.push(format!("whether {whole} counts depends on the kernel's version"));
                    }
                    Some(Boolean::Wrong) => {
                        remarks.push(format!("{whole} has no boolean value: it is ignored"))
                    }
                }
            } else if mentions(&argument.name, base) {
                remarks.push(format!("{whole} is not {name}: the kernel ignores it without a message"));
            } else if argument.mentions(base) {
                remarks.push(format!("{whole} contains {base} as the value of another parameter"));
            }
        }
        for (argument, why) in self.unheard.iter().filter(|(a, _)| a.is_named(name)) {
            let whole = shown(&argument.text());
            remarks.push(match why {
                Deaf::BehindDashes => format!("{whole} comes after `--`, which the kernel does not read"),
                Deaf::TooFar => {
                    format!("{whole} comes after byte {LINE_LIMIT}, where the kernel cuts the line")
                }
            });
        }
        remarks
    }
}

impl Argument {
    fn read(line: &[u8], span: Range<usize>) -> Argument {
        let raw = &line[span.clone()];
        let unclosed = raw.iter().filter(|b| **b == b'"').count() % 2 == 1;
        // One quote is removed before the word and before the value, and at most one at the end.
        let (quoted, text) = raw.strip_prefix(b"\"").map_or((false, raw), |inner| (true, inner));
        let (name, value) = match text.iter().position(|b| *b == b'=') {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let inner = value.and_then(|v| v.strip_prefix(b"\""));
        let end = |text: &[u8], quoted: bool| -> Vec<u8> {
            text.strip_suffix(b"\"").filter(|_| quoted).unwrap_or(text).to_vec()
        };
        let (name, value) = match value {
            Some(value) => (name.to_vec(), Some(end(inner.unwrap_or(value), quoted || inner.is_some()))),
            None => (end(name, quoted), None),
        };
        Argument { name, value, unclosed, span }
    }

    /// The boolean value of that parameter. None if the word is another parameter.
    fn says(&self, name: &str) -> Option<Boolean> {
        match (self.is_named(name), &self.value, self.unclosed) {
            (true, None, false) => Some(Boolean::True),
            // The first letters decide, whatever an open quote adds.
            (true, Some(value), false) => Some(boolean(value)),
            (true, Some(value), true) if value.len() > 1 => Some(boolean(value)),
            // If the quote is in the name, the result depends on how the boot loader ends the line.
            (true, Some(_), true) => Some(Boolean::Open),
            (_, None, true) if self.begins_with(name) => Some(Boolean::Open),
            _ => None,
        }
    }

    /// The word without quotes.
    fn text(&self) -> Vec<u8> {
        match &self.value {
            Some(value) => [&self.name, b"=".as_slice(), value].concat(),
            None => self.name.clone(),
        }
    }

    /// Whether it is that parameter. `-` and `_` are equal; case matters.
    pub fn is_named(&self, name: &str) -> bool {
        self.name.iter().copied().map(folded).eq(name.bytes().map(folded))
    }

    fn begins_with(&self, name: &str) -> bool {
        let text = self.text();
        text.len() >= name.len() && text.iter().zip(name.as_bytes()).all(|(a, b)| folded(*a) == folded(*b))
    }

    fn mentions(&self, base: &str) -> bool {
        mentions(&self.text(), base)
    }
}

fn mentions(text: &[u8], base: &str) -> bool {
    let lower: Vec<u8> = text.iter().map(|b| folded(*b).to_ascii_lowercase()).collect();
    memchr::memmem::find(&lower, base.as_bytes()).is_some()
}

/// Reads the parameter `name` (such as `module.sig_unenforce`) for an unknown kernel.
pub fn read_switch(line: &[u8], name: &str) -> Switch {
    KernelArguments::read(line).switch(name, Dialect::default())
}

/// The value of the parameter on the line alone, without a bootconfig.
pub fn written_switch(line: &[u8], name: &str) -> Switch {
    KernelArguments::read(line).switch(name, Dialect { bootconfig: false, ..Dialect::default() })
}

/// The positions of the words of a line, which are separated by blanks outside of double quotes.
pub fn spans(line: &[u8]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(start) = line[at..].iter().position(|b| !is_separator(*b)) {
        let start = at + start;
        let mut quoted = false;
        let end = line[start..].iter().position(|b| {
            quoted ^= *b == b'"';
            !quoted && is_separator(*b)
        });
        at = end.map_or(line.len(), |end| start + end);
        found.push(start..at);
    }
    found
}

/// Bytes 09 to 0D, 20 and A0, because the kernel's `isspace` uses Latin-1.
pub fn is_separator(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0d | 0x20 | 0xa0)
}

enum Boolean {
    True,
    False,
    /// `e…` and `d…`, which later kernels accept.
    LaterWord,
    /// It depends on what follows an open quote.
    Open,
    Wrong,
}

/// The kernel's boolean: only the first letter counts, or the second one after `o`.
fn boolean(value: &[u8]) -> Boolean {
    match value {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Boolean::True,
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Boolean::False,
        [b'e' | b'E' | b'd' | b'D', ..] => Boolean::LaterWord,
        _ => Boolean::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_measured_on_kernels() {
        let on = [
            "module.sig_unenforce",
            "quiet module.sig_unenforce=1 rw",
            "module.sig-unenforce=y",
            "\"module.sig_unenforce=1\"",
            "module.sig_unenforce=\"1\"",
            "module.sig_unenforce=true",
            "module.sig_unenforce=1bogus",
            "module.sig_unenforce=0 module.sig_unenforce=on",
            "a\u{b}module.sig_unenforce",
            "--=x module.sig_unenforce",
            // The first letter decides, whatever the open quote adds.
            "module.sig_unenforce=\"1 quiet",
        ];
        for line in on {
            assert_eq!(read_switch(line.as_bytes(), super::super::PARAMETER), Switch::On, "{line}");
        }
        assert_eq!(read_switch(b"a\xa0module.sig_unenforce", super::super::PARAMETER), Switch::On);
        let off = [
            "",
            "quiet",
            "module.sig_unenforce=0",
            "module.sig_unenforce=01",
            "module.sig_unenforce=2",
            "module.sig_unenforce=",
            "module.sig_unenforce='1'",
            "Module.sig_unenforce",
            "sig_unenforce",
            "-- module.sig_unenforce",
            "\"--\" module.sig_unenforce",
            "x=\"a module.sig_unenforce b\"",
        ];
        for line in off {
            assert_eq!(read_switch(line.as_bytes(), super::super::PARAMETER), Switch::Off, "{line}");
        }
        assert_eq!(read_switch(b"x=\"a module.sig_unenforce", super::super::PARAMETER), Switch::Off);
        for line in ["module.sig_unenforce=enabled", "x \"module.sig_unenforce", "quiet bootconfig"] {
            assert_eq!(read_switch(line.as_bytes(), super::super::PARAMETER), Switch::Unknown, "{line}");
        }
        // A word after the last byte is lost. A word across it is cut or dropped.
        for (blanks, expected) in [(2027, Switch::On), (2030, Switch::Off), (2047, Switch::Off)] {
            let late = format!("{}module.sig_unenforce", " ".repeat(blanks));
            assert_eq!(read_switch(late.as_bytes(), super::super::PARAMETER), expected, "{blanks}");
        }
        for rest in ["d", "=0", "=1"] {
            let cut = format!("{}module.sig_unenforce{rest}", " ".repeat(2027));
            assert_eq!(read_switch(cut.as_bytes(), super::super::PARAMETER), Switch::Unknown, "{rest}");
        }
    }

    #[test]
    fn of_quotes_one_goes_at_each_end() {
        let table: [(&str, &str, Option<&str>); 6] = [
            ("\"a=b\"", "a", Some("b")),
            ("a=\"b\"", "a", Some("b")),
            ("\"a=\"b\"\"", "a", Some("b\"")),
            ("\"a\"", "a", None),
            ("a=b\"c d\"", "a", Some("b\"c d\"")),
            ("a=\"", "a", Some("")),
        ];
        for (text, name, value) in table {
            let arguments = KernelArguments::read(text.as_bytes());
            let first = &arguments.heard[0];
            let read = (first.name.as_slice(), first.value.as_deref());
            assert_eq!(read, (name.as_bytes(), value.map(str::as_bytes)), "{text}");
        }
    }
}
