//! How the kernel reads its command line: words, quotes, names, booleans. Measured on booted kernels (6.1 and 6.12).

use std::ops::Range;

use crate::kernel::module_file::folded;

/// The bytes of a command line that the kernel keeps.
pub const LINE_LIMIT: usize = 2047;
/// From this length on a line is worth a warning: the boot loader puts some words in front of it.
pub const LINE_WARNING: usize = 2000;

/// What a command line says of a boolean that, once true, stays true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// It is switched on.
    On,
    /// It is not named, or only with false or wrong values.
    Off,
    /// It depends on the kernel's version (`=enabled`), on a quote that nobody closed, or on an extra bootconfig.
    Unknown,
}

impl Switch {
    /// One word for reports.
    pub fn word(self) -> &'static str {
        match self {
            Switch::On => "on",
            Switch::Off => "off",
            Switch::Unknown => "unknown",
        }
    }
}

/// What kernels differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// It may know `enabled` and `disabled` as booleans. 6.12 and before do not; some later ones do.
    pub enabled_words: bool,
    /// It may read an extra command line out of its initrd, when the word `bootconfig` asks for it.
    pub bootconfig: bool,
}

/// A kernel of which nothing is known.
impl Default for Dialect {
    fn default() -> Dialect {
        Dialect { enabled_words: true, bootconfig: true }
    }
}

/// One word of the line, as the kernel takes it apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// What stands before the `=`, without quotes.
    pub name: Vec<u8>,
    /// What stands behind the `=`, without quotes; none without `=`.
    pub value: Option<Vec<u8>>,
    /// A quote was opened in it and not closed: it goes on to the end of the line.
    pub unclosed: bool,
    /// Where it stands in the line.
    pub span: Range<usize>,
}

/// Why the kernel takes no notice of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deaf {
    /// It stands behind `--`: it is for init.
    BehindDashes,
    /// It ends behind the last byte that the kernel keeps.
    TooFar,
}

/// A command line, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelArguments {
    /// What the kernel takes notice of.
    pub heard: Vec<Argument>,
    /// What it does not.
    pub unheard: Vec<(Argument, Deaf)>,
    /// What is left of a word that goes on behind the last byte that the kernel keeps. Whether that is heard depends on
    /// how the kernel was started: its own EFI loader drops the word, others cut it.
    pub cut: Option<Argument>,
}

impl KernelArguments {
    /// Takes a line apart.
    pub fn read(line: &[u8]) -> KernelArguments {
        let mut arguments = KernelArguments::default();
        let mut behind = false;
        for span in spans(line) {
            let argument = Argument::read(line, span);
            // `"--"` too, but not `--=x`.
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

    /// Reads a boolean that, once true, stays true: `module.sig_enforce`, `module.sig_unenforce`.
    pub fn switch(&self, name: &str, dialect: Dialect) -> Switch {
        let mut result = Switch::Off;
        for argument in &self.heard {
            if dialect.bootconfig && argument.name == b"bootconfig" {
                result = Switch::Unknown;
            }
            match argument.says(name) {
                // Once true, for ever true.
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

    /// Reads a boolean of which the last word that can be read wins: `nomodule`.
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
        // Of a word that was cut it is not even known whether it is heard.
        let cut = self.cut.as_ref().is_some_and(|a| a.says(name).is_some());
        if cut { Switch::Unknown } else { result }
    }

    /// A parameter of that name is on the line, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.heard.iter().any(|a| a.is_named(name))
    }

    /// The kernel's end of the line makes it uncertain what a parameter of that name says: a quote that is not closed, or a
    /// word that is cut in the middle.
    pub fn is_open(&self, name: &str) -> bool {
        let unclosed = self.heard.iter().any(|a| a.unclosed && a.begins_with(name));
        unclosed || self.cut.as_ref().is_some_and(|a| a.begins_with(name))
    }

    /// The values of a parameter, in order. A word without `=` has none: to the kernel it is another word.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.heard.iter().filter(move |a| a.is_named(name) && !a.unclosed).filter_map(|a| a.value.as_deref())
    }

    /// Why words that look like the parameter are not what they seem, in words.
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
                remarks.push("a quote that is not closed swallows the rest of the line".to_owned());
            } else if argument.is_named(name) {
                match argument.says(name) {
                    None | Some(Boolean::True | Boolean::Open) => {}
                    Some(Boolean::False) => {
                        remarks.push(format!("{whole} says false, which changes nothing"))
                    }
                    Some(Boolean::LaterWord) => {
                        remarks.push(format!("whether {whole} counts depends on the kernel's version"));
                    }
                    Some(Boolean::Wrong) => {
                        remarks.push(format!("{whole} has no boolean value: it is ignored"))
                    }
                }
            } else if argument.name_mentions(base) {
                remarks.push(format!("{whole} is not {name}: the kernel ignores it without a message"));
            } else if argument.mentions(base) {
                remarks.push(format!("{whole} holds {base} as data of another parameter"));
            }
        }
        for (argument, why) in self.unheard.iter().filter(|(a, _)| a.is_named(name)) {
            let whole = shown(&argument.text());
            remarks.push(match why {
                Deaf::BehindDashes => format!("{whole} stands behind `--`, where the kernel does not look"),
                Deaf::TooFar => {
                    format!("{whole} stands behind byte {LINE_LIMIT}, where the kernel cuts the line")
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
        // One quote goes from in front of the word and of the value each; at the end one, and no more.
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

    /// What it says of that boolean; none when it is another word.
    fn says(&self, name: &str) -> Option<Boolean> {
        match (self.is_named(name), &self.value, self.unclosed) {
            (true, None, false) => Some(Boolean::True),
            // The first letters decide, whatever an open quote swallows behind them.
            (true, Some(value), false) => Some(boolean(value)),
            (true, Some(value), true) if value.len() > 1 => Some(boolean(value)),
            // Where the quote stands in the name, it depends on what the boot loader makes of the end of the line.
            (true, Some(_), true) => Some(Boolean::Open),
            (_, None, true) if self.begins_with(name) => Some(Boolean::Open),
            _ => None,
        }
    }

    /// The word without its quotes.
    fn text(&self) -> Vec<u8> {
        match &self.value {
            Some(value) => [&self.name, b"=".as_slice(), value].concat(),
            None => self.name.clone(),
        }
    }

    /// Whether it is that parameter: dash and underscore are one letter; case matters.
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

    fn name_mentions(&self, base: &str) -> bool {
        mentions(&self.name, base)
    }
}

fn mentions(text: &[u8], base: &str) -> bool {
    let lower: Vec<u8> = text.iter().map(|b| folded(*b).to_ascii_lowercase()).collect();
    memchr::memmem::find(&lower, base.as_bytes()).is_some()
}

/// Reads the parameter `name` (as `module.sig_unenforce`) for a kernel of which nothing else is known.
pub fn read_switch(line: &[u8], name: &str) -> Switch {
    KernelArguments::read(line).switch(name, Dialect::default())
}

/// What a line itself says of the parameter, whatever a bootconfig may add.
pub fn written_switch(line: &[u8], name: &str) -> Switch {
    KernelArguments::read(line).switch(name, Dialect { bootconfig: false, ..Dialect::default() })
}

/// Where the words of a line stand: separated by blanks outside of double quotes.
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

/// Bytes 09 to 0D, 20 and A0: the kernel's `isspace` knows Latin-1.
pub fn is_separator(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0d | 0x20 | 0xa0)
}

enum Boolean {
    True,
    False,
    /// `e…` and `d…`, which later kernels know.
    LaterWord,
    /// It depends on what follows an open quote.
    Open,
    Wrong,
}

/// The kernel's boolean: only the first letter counts, after `o` the second.
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
            // The first letter decides, whatever the open quote swallows.
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
        // Behind the last byte it is lost; a word on the border is cut, or dropped.
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
