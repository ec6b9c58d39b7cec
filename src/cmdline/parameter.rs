//! How the kernel reads one boolean parameter from its command line; measured on booted kernels.

/// The bytes of a command line that the kernel keeps.
const LINE_LIMIT: usize = 2047;

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

/// Reads the parameter `name` (as `module.sig_unenforce`).
pub fn read_switch(line: &[u8], name: &str) -> Switch {
    let line = &line[..line.len().min(LINE_LIMIT)];
    let mut result = Switch::Off;
    for word in words(line) {
        if word.text == b"--" {
            break;
        }
        if word.unclosed {
            return if result == Switch::On { Switch::On } else { Switch::Unknown };
        }
        let (found, value) = match word.text.iter().position(|b| *b == b'=') {
            Some(at) => (&word.text[..at], Some(&word.text[at + 1..])),
            None => (word.text.as_slice(), None),
        };
        if found == b"bootconfig" && result == Switch::Off {
            result = Switch::Unknown;
        }
        if !same_name(found, name.as_bytes()) {
            continue;
        }
        match value.map(boolean) {
            None | Some(Some(true)) => return Switch::On,
            Some(Some(false)) => {}
            Some(None) => {
                if value.is_some_and(|v| matches!(v.first(), Some(b'e' | b'd'))) {
                    result = Switch::Unknown;
                }
            }
        }
    }
    result
}

struct Word {
    text: Vec<u8>,
    unclosed: bool,
}

/// The words of a line: separated by blanks outside of double quotes. One pair of quotes around the whole word or
/// around the whole value goes.
fn words(line: &[u8]) -> Vec<Word> {
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        let start = rest.iter().position(|b| !is_separator(*b)).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return found;
        }
        let mut quoted = false;
        let end = rest
            .iter()
            .position(|b| {
                quoted ^= *b == b'"';
                !quoted && is_separator(*b)
            })
            .unwrap_or(rest.len());
        found.push(Word { text: unquoted(&rest[..end]), unclosed: quoted });
        rest = &rest[end..];
    }
}

/// Bytes 09 to 0D, 20 and A0: the kernel's `isspace` knows Latin-1.
fn is_separator(byte: u8) -> bool {
    matches!(byte, 0x09..=0x0d | 0x20 | 0xa0)
}

fn unquoted(word: &[u8]) -> Vec<u8> {
    let strip = |text: &[u8]| -> Vec<u8> {
        match text.strip_prefix(b"\"") {
            Some(inner) => inner.strip_suffix(b"\"").unwrap_or(inner).to_vec(),
            None => text.to_vec(),
        }
    };
    let word = strip(word);
    match word.iter().position(|b| *b == b'=') {
        Some(at) => [&word[..=at], &strip(&word[at + 1..])].concat(),
        None => word,
    }
}

/// Dash and underscore are one letter; case matters.
fn same_name(a: &[u8], b: &[u8]) -> bool {
    let fold = |byte: &u8| if *byte == b'-' { b'_' } else { *byte };
    a.iter().map(fold).eq(b.iter().map(fold))
}

/// The kernel's boolean: only the first letter counts, after `o` the second.
fn boolean(value: &[u8]) -> Option<bool> {
    match value {
        [b'1' | b'y' | b'Y' | b't' | b'T', ..] | [b'o' | b'O', b'n' | b'N', ..] => Some(true),
        [b'0' | b'n' | b'N' | b'f' | b'F', ..] | [b'o' | b'O', b'f' | b'F', ..] => Some(false),
        _ => None,
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
        for line in ["module.sig_unenforce=enabled", "x=\"a module.sig_unenforce", "quiet bootconfig"] {
            assert_eq!(read_switch(line.as_bytes(), super::super::PARAMETER), Switch::Unknown, "{line}");
        }
        let late = format!("{} module.sig_unenforce", "x".repeat(2040));
        assert_eq!(read_switch(late.as_bytes(), super::super::PARAMETER), Switch::Off);
    }
}
