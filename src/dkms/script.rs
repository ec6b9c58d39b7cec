//! A static reading of a `dkms.conf`: on which line something stands, and where a quote opens that nobody meant to be
//! so long. It knows bash's quotes, comments and here-documents, and nothing of what a program does; anyone that asks
//! believes bash first.

/// The directives of a `dkms.conf`.
pub const DIRECTIVES: [&str; 33] = [
    "AUTOINSTALL",
    "BUILD_DEPENDS",
    "BUILD_DEPENDS_REBUILD",
    "BUILD_EXCLUSIVE_ARCH",
    "BUILD_EXCLUSIVE_CONFIG",
    "BUILD_EXCLUSIVE_KERNEL",
    "BUILD_EXCLUSIVE_KERNEL_MAX",
    "BUILD_EXCLUSIVE_KERNEL_MIN",
    "BUILT_MODULE_LOCATION",
    "BUILT_MODULE_NAME",
    "CLEAN",
    "DEST_MODULE_LOCATION",
    "DEST_MODULE_NAME",
    "MAKE",
    "MAKE_MATCH",
    "MODULES_CONF",
    "MODULES_CONF_ALIAS_TYPE",
    "MODULES_CONF_OBSOLETES",
    "MODULES_CONF_OBSOLETE_ONLY",
    "NO_WEAK_MODULES",
    "OBSOLETE_BY",
    "PACKAGE_NAME",
    "PACKAGE_VERSION",
    "PATCH",
    "PATCH_MATCH",
    "POST_ADD",
    "POST_BUILD",
    "POST_INSTALL",
    "POST_REMOVE",
    "PRE_BUILD",
    "PRE_INSTALL",
    "REMAKE_INITRD",
    "STRIP",
];

/// `NAME=`, `NAME[INDEX]=` or `NAME=(`, somewhere a command or its word may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assignment {
    name: String,
    /// The text between the brackets.
    index: Option<String>,
    /// A whole array.
    array: bool,
    line: usize,
}

/// A quote with the assignment of a directive inside it, at the beginning of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swallow {
    /// The line where the quote opens.
    pub opened: usize,
    /// The directive.
    pub directive: String,
    /// Its line.
    pub line: usize,
}

/// What a static reading finds. Lines are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    assignments: Vec<Assignment>,
    /// Quotes that hold directives: one entry a quote.
    pub swallows: Vec<Swallow>,
    /// The line where a quote opens that is open at the end.
    pub unclosed: Option<usize>,
    /// `DIRECTIVE = …`: bash takes that for a command.
    pub blanks: Vec<(String, usize)>,
    /// The first line that ends as lines of DOS do.
    pub carriage_return: Option<usize>,
    /// The first line with a NUL byte.
    pub binary: Option<usize>,
    /// How many lines there are.
    pub lines: usize,
}

impl Script {
    /// Reads a text, whatever it is.
    pub fn read(text: &[u8]) -> Script {
        let mut reader = Reader {
            text,
            at: 0,
            line: 1,
            open: Vec::new(),
            doubles: 0,
            documents: Vec::new(),
            found: Script::default(),
        };
        reader.run();
        let mut found = reader.found;
        let line_with = |test: fn(&[u8]) -> bool| text.split(|b| *b == b'\n').position(test).map(|at| at + 1);
        found.carriage_return = line_with(|line| line.ends_with(b"\r"));
        found.binary = line_with(|line| line.contains(&0));
        found.lines = text.split_inclusive(|b| *b == b'\n').count();
        found
    }

    /// The line of the last assignment to a directive.
    pub fn line_of(&self, name: &str) -> Option<usize> {
        self.assignments.iter().rev().find(|a| a.name == name).map(|a| a.line)
    }

    /// The line that gives element `index` of a directive, when the text tells.
    pub fn line_of_element(&self, name: &str, index: usize) -> Option<usize> {
        let wanted = index.to_string();
        let gives = |a: &&Assignment| {
            a.name == name
                && match &a.index {
                    Some(text) => text.trim() == wanted,
                    None => a.array || index == 0,
                }
        };
        self.assignments.iter().rev().find(gives).map(|a| a.line)
    }
}

/// What the reader is inside of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Single,
    Double,
    /// `$'…'`
    Escaped,
    Backtick,
    /// `$(…)`, or `(…)` within it
    Command,
    /// `${…}`
    Parameter,
    /// `((…))`, with or without a dollar
    Arithmetic,
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
    open: Vec<(Open, usize)>,
    /// How many of them are double quotes.
    doubles: usize,
    /// Ends of here-documents that begin on the next line; true when tabs in front of them do not count.
    documents: Vec<(Vec<u8>, bool)>,
    found: Script,
}

impl Reader<'_> {
    fn run(&mut self) {
        self.line_begins();
        while let Some(byte) = self.peek(0) {
            match self.open.last().map(|(open, _)| *open) {
                Some(Open::Single) => self.quoted(byte, b'\'', false),
                Some(Open::Escaped) => self.quoted(byte, b'\'', true),
                Some(Open::Double) => self.in_double(byte),
                Some(Open::Parameter) => match byte {
                    b'}' => self.close(1),
                    _ => self.expansion_or_next(byte),
                },
                Some(Open::Arithmetic) => match byte {
                    b')' if self.peek(1) == Some(b')') => self.close(2),
                    b'(' => self.push(Open::Command, 1),
                    _ => self.expansion_or_next(byte),
                },
                inside => self.in_code(byte, inside),
            }
        }
        let quote = |(open, _): &&(Open, usize)| {
            matches!(open, Open::Single | Open::Double | Open::Escaped | Open::Backtick)
        };
        let open = self.open.iter().find(quote).map(|(_, line)| *line);
        // The quote that nobody closed is closed by the next one, and so on: the first that holds what it should not is
        // the one to look at.
        self.found.unclosed =
            open.map(|line| self.found.swallows.first().map_or(line, |s| s.opened.min(line)));
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    /// Goes on by a byte.
    fn next(&mut self) {
        let newline = self.peek(0) == Some(b'\n');
        self.at += 1;
        if newline {
            self.line += 1;
            let documents = std::mem::take(&mut self.documents);
            documents.iter().for_each(|(end, tabs)| self.document(end, *tabs));
            self.line_begins();
        }
    }

    fn skip(&mut self, bytes: usize) {
        (0..bytes).for_each(|_| {
            if self.at < self.text.len() {
                self.next()
            }
        });
    }

    fn push(&mut self, open: Open, bytes: usize) {
        self.doubles += usize::from(open == Open::Double);
        self.open.push((open, self.line));
        self.skip(bytes);
    }

    fn close(&mut self, bytes: usize) {
        let closed = self.open.pop();
        self.doubles -= usize::from(closed.is_some_and(|(open, _)| open == Open::Double));
        self.skip(bytes);
    }

    fn quoted(&mut self, byte: u8, end: u8, escapes: bool) {
        match byte {
            b'\\' if escapes => self.skip(2),
            _ if byte == end => self.close(1),
            _ => self.next(),
        }
    }

    fn in_double(&mut self, byte: u8) {
        match byte {
            b'"' => self.close(1),
            b'\\' => self.skip(2),
            b'`' => self.push(Open::Backtick, 1),
            b'$' if !matches!(self.peek(1), Some(b'\'' | b'"')) => self.dollar(),
            _ => self.next(),
        }
    }

    /// Inside `${…}` and `((…))`, where quotes count and words do not begin.
    fn expansion_or_next(&mut self, byte: u8) {
        match byte {
            b'\\' => self.skip(2),
            // Within double quotes a single one inside `${…}` is a letter like any other.
            b'\'' if self.doubles > 0 => self.next(),
            b'\'' => self.push(Open::Single, 1),
            b'"' => self.push(Open::Double, 1),
            b'`' => self.push(Open::Backtick, 1),
            b'$' => self.dollar(),
            _ => self.next(),
        }
    }

    fn dollar(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some(b'('), Some(b'(')) => self.push(Open::Arithmetic, 3),
            (Some(b'('), _) => self.push(Open::Command, 2),
            (Some(b'{'), _) => self.push(Open::Parameter, 2),
            (Some(b'\''), _) => self.push(Open::Escaped, 2),
            _ => self.next(),
        }
    }

    fn in_code(&mut self, byte: u8, inside: Option<Open>) {
        match byte {
            b'`' if inside == Some(Open::Backtick) => self.close(1),
            b')' if inside == Some(Open::Command) => self.close(1),
            b'(' if self.peek(1) == Some(b'(') && self.word_begins() => self.push(Open::Arithmetic, 2),
            b'(' if inside.is_some() => self.push(Open::Command, 1),
            b'#' if self.word_begins() => {
                while self.peek(0).is_some_and(|b| b != b'\n') {
                    self.at += 1;
                }
            }
            b'<' if self.text[self.at..].starts_with(b"<<<") => self.skip(3),
            b'<' if self.peek(1) == Some(b'<') => self.document_end(),
            b'\\' | b'\'' | b'"' | b'`' | b'$' => self.expansion_or_next(byte),
            _ => {
                if inside.is_none() && self.word_begins() {
                    self.assignment();
                }
                self.next();
            }
        }
    }

    fn word_begins(&self) -> bool {
        self.at == 0
            || matches!(self.text[self.at - 1], b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b'{')
    }

    /// Notes an assignment that begins here; goes nowhere.
    fn assignment(&mut self) {
        let rest = &self.text[self.at..];
        let Some((name, index, length)) = left_side(rest) else {
            return;
        };
        // Nobody asks for another, and there may be very many.
        if !DIRECTIVES.contains(&name.as_str()) {
            return;
        }
        if rest.get(length) == Some(&b'=') || rest[length..].starts_with(b"+=") {
            let equals = length + usize::from(rest.get(length) == Some(&b'+'));
            let array = rest.get(equals + 1) == Some(&b'(');
            self.found.assignments.push(Assignment { name, index, array, line: self.line });
        }
    }

    /// At the beginning of a line: is a directive inside a quote, or does a blank keep it from being one?
    fn line_begins(&mut self) {
        let rest = &self.text[self.at.min(self.text.len())..];
        let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let rest = &rest[blanks..];
        let Some((directive, _, length)) =
            left_side(rest).filter(|(name, ..)| DIRECTIVES.contains(&name.as_str()))
        else {
            return;
        };
        let rest = &rest[length..];
        match self.open.last() {
            None => {
                let gap = rest.iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
                if gap > 0 && rest.get(gap) == Some(&b'=') && rest.get(gap + 1) != Some(&b'=') {
                    self.found.blanks.push((directive, self.line));
                }
            }
            Some((Open::Single | Open::Double, opened))
                if self.open.len() == 1 && rest.first() == Some(&b'=') =>
            {
                let opened = *opened;
                if self.found.swallows.last().is_none_or(|last| last.opened != opened) {
                    self.found.swallows.push(Swallow { opened, directive, line: self.line });
                }
            }
            Some(_) => {}
        }
    }

    /// `<<WORD`, `<<-WORD`, with quotes or not: its body begins on the next line.
    fn document_end(&mut self) {
        self.at += 2;
        let tabs = self.peek(0) == Some(b'-');
        self.at += usize::from(tabs);
        while matches!(self.peek(0), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let mut end = Vec::new();
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' => break,
                b'\'' | b'"' | b'\\' => {}
                _ => end.push(byte),
            }
            self.at += 1;
        }
        if !end.is_empty() {
            self.documents.push((end, tabs));
        }
    }

    /// Skips the body of a here-document, from the beginning of its first line.
    fn document(&mut self, end: &[u8], tabs: bool) {
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            let length = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let line = &rest[..length];
            let shift = if tabs { line.iter().take_while(|b| **b == b'\t').count() } else { 0 };
            self.at += length;
            if self.at < self.text.len() {
                self.at += 1;
                self.line += 1;
            }
            if &line[shift..] == end {
                return;
            }
        }
    }
}

/// The name at the beginning, what stands in brackets behind it, and the length of both.
fn left_side(text: &[u8]) -> Option<(String, Option<String>, usize)> {
    let length = text.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    if length == 0 || text[0].is_ascii_digit() {
        return None;
    }
    let name = String::from_utf8_lossy(&text[..length]).into_owned();
    if text.get(length) != Some(&b'[') {
        return Some((name, None, length));
    }
    let line = &text[..memchr::memchr(b'\n', text).unwrap_or(text.len())];
    let end = length + line[length..].iter().position(|b| *b == b']')?;
    let index = String::from_utf8_lossy(&text[length + 1..end]).into_owned();
    Some((name, Some(index), end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_assignments() {
        let script = Script::read(
            b"# MAKE=no\nMAKE[0]=\"make\n  all\"\nif true; then\n  AUTOINSTALL=yes; fi\nDEST_MODULE_LOCATION[ 1 ]=/x\n\
              X=1 DEST_MODULE_LOCATION=/y\nBUILT_MODULE_NAME=(a\n b)\nBUILT_MODULE_NAME[$i]=c\nAUTOINSTALL+=x\n",
        );
        assert_eq!(script.line_of("MAKE"), Some(2));
        assert_eq!(script.line_of("AUTOINSTALL"), Some(11));
        assert_eq!(script.line_of_element("DEST_MODULE_LOCATION", 1), Some(6));
        assert_eq!(script.line_of_element("DEST_MODULE_LOCATION", 0), Some(7));
        assert_eq!(script.line_of_element("DEST_MODULE_LOCATION", 2), None);
        assert_eq!(script.line_of_element("BUILT_MODULE_NAME", 1), Some(8));
        assert_eq!(script.line_of("CLEAN"), None);
    }

    #[test]
    fn the_quote_that_nobody_closed() {
        for (text, unclosed) in [
            ("A=1\nMAKE=\"make\nAUTOINSTALL=yes\n", Some(2)),
            // The next quote closes it, and opens another one at the end.
            ("A=1\nMAKE=\"make\nCLEAN=\"x\"\nAUTOINSTALL=\"yes\"\n", Some(2)),
            ("A='it is\n", Some(1)),
            ("A=1\nB=`ls\n", Some(2)),
            ("A=\"$(echo \")\")\"\n", None),
            ("A=\"${B:-it's}\"\n", None),
            ("A=${B#\"x\"} # it's fine\n", None),
            ("cat <<EOF\nit's \" fine\nEOF\nA=\"b\"\n", None),
            ("cat <<-'EOF' >/dev/null\n'\n\tEOF\nA=\"b\nC=d\n", Some(4)),
            ("A=$'it\\'s'\nB=$((1 << 2))\nC=\"\\\"\"\n", None),
            ("A=x#y'\n", Some(1)),
            ("A='\\'\n", None),
        ] {
            assert_eq!(Script::read(text.as_bytes()).unclosed, unclosed, "{text:?}");
        }
    }

    #[test]
    fn what_a_quote_swallows() {
        let text = "MAKE=\"make\nCLEAN=\"clean\nAUTOINSTALL=yes\n";
        let swallows = Script::read(text.as_bytes()).swallows;
        assert_eq!(swallows, [Swallow { opened: 1, directive: "CLEAN".to_owned(), line: 2 }]);
        for fine in ["MAKE=\"make \\\n  KV=1 MAKE=x\"\n", "A=\"\nother=1\n\"\n", "cat <<E\nMAKE=x\nE\n"] {
            assert_eq!(Script::read(fine.as_bytes()).swallows, [], "{fine:?}");
        }
    }

    #[test]
    fn a_blank_at_the_equals_sign() {
        let script = Script::read(b"AUTOINSTALL = yes\n[ x = y ]\nFOO = x\nMAKE[0] =\"x\"\nCLEAN == x\n");
        assert_eq!(script.blanks, [("AUTOINSTALL".to_owned(), 1), ("MAKE".to_owned(), 4)]);
    }
}
