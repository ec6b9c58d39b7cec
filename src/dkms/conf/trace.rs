//! The commands of a `dkms.conf` that bash ran, each with its line: the output of `set -x` with a `PS4` that
//! contains file and line. Code that did not run is not included.

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

/// A line of an evaluated file: the index of the file, and the line number, from 1.
pub type FileLine = (usize, usize);

/// A command that bash ran. Assignments are commands too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedCommand {
    /// The place where it begins.
    pub at: FileLine,
    /// The text in the output of `set -x`, quoted by bash.
    pub text: String,
}

/// `NAME=`, `NAME+=` or `NAME[INDEX]=` at the beginning of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// The variable.
    pub name: &'a str,
    /// The text between the brackets.
    pub index: Option<&'a str>,
    /// The text after the equals sign, quoted by bash.
    pub value: &'a str,
}

impl<'a> Assignment<'a> {
    fn of(text: &'a str) -> Option<Assignment<'a>> {
        let (name, index, rest) = left_side(text)?;
        let value = rest.strip_prefix("+=").or_else(|| rest.strip_prefix('='))?;
        Some(Assignment { name, index, value })
    }
}

/// The commands, in the order in which bash ran them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace(Vec<TracedCommand>);

impl Trace {
    /// Parses the output of `set -x`. `files` are the paths that bash was given, and their contents.
    pub fn read(output: &[u8], files: &[(&str, &[u8])]) -> Trace {
        let output = String::from_utf8_lossy(output);
        let mut commands: Vec<TracedCommand> = Vec::new();
        let mut is_ours = false;
        for line in output.split_inclusive('\n') {
            match position(line, files) {
                Some((at, text)) => {
                    is_ours = at.is_some();
                    commands.extend(at.map(|at| TracedCommand { at, text: text.to_owned() }));
                }
                // The continuation of a value.
                None if is_ours => commands.last_mut().into_iter().for_each(|last| last.text += line),
                None => {}
            }
        }
        for command in &mut commands {
            command.text.truncate(command.text.trim_end_matches('\n').len());
            command.at.1 = first_line(command, files[command.at.0].1);
        }
        Trace(commands)
    }

    /// All commands.
    pub fn commands(&self) -> &[TracedCommand] {
        &self.0
    }

    /// The assignments, with their places.
    pub fn assignments(&self) -> impl DoubleEndedIterator<Item = (FileLine, Assignment<'_>)> {
        self.0.iter().filter_map(|command| Some((command.at, Assignment::of(&command.text)?)))
    }

    /// The last assignment to a variable.
    pub fn line_of(&self, name: &str) -> Option<FileLine> {
        self.assignments().rev().find(|(_, found)| found.name == name).map(|(at, _)| at)
    }

    /// The assignment to element `index` of a variable, as far as the text shows it.
    pub fn line_of_element(&self, name: &str, index: usize) -> Option<FileLine> {
        let wanted = index.to_string();
        let gives = |found: &Assignment<'_>| match found.index {
            // An index such as `[$i]`, whose value is not shown.
            Some(text) => text.trim() == wanted || text.contains('$') || text.contains(char::is_alphabetic),
            None => index == 0 || found.value.starts_with('('),
        };
        self.assignments().rev().find(|(_, found)| found.name == name && gives(found)).map(|(at, _)| at)
    }
}

/// The place of the command in a line of output, and its text; without a place for a command of another file.
/// None for a line that continues a value.
fn position<'l>(line: &'l str, files: &[(&str, &[u8])]) -> Option<(Option<FileLine>, &'l str)> {
    let rest = line.strip_prefix('@')?.trim_start_matches('@');
    for (file, (path, _)) in files.iter().enumerate() {
        let behind = rest.strip_prefix(*path).and_then(|rest| rest.strip_prefix(':'));
        if let Some((number, text)) = behind.and_then(|rest| rest.split_once('@')) {
            // bash prints a number; anything else is text of the script.
            return number.parse().ok().map(|number| (Some((file, number)), text));
        }
    }
    let (before, text) = rest.split_once('@')?;
    let number = before.rsplit_once(':')?.1;
    number.bytes().all(|b| b.is_ascii_digit()).then_some((None, text))
}

/// The line where a command begins. For a command of several lines bash reports the last one, so the
/// assignment is searched upwards from there.
fn first_line(command: &TracedCommand, text: &[u8]) -> usize {
    let lines: Vec<&[u8]> = text.split(|b| *b == b'\n').collect();
    let last = command.at.1.clamp(1, lines.len() - usize::from(text.ends_with(b"\n") && lines.len() > 1));
    let Some(Assignment { name, .. }) = Assignment::of(&command.text) else { return last };
    let begins = |line: &&[u8]| {
        memchr::memmem::find_iter(line, name).any(|at| {
            let before = at.checked_sub(1).map_or(b' ', |before| line[before]);
            let after = line.get(at + name.len());
            !is_name(before) && matches!(after, Some(b'=' | b'[' | b'+'))
        })
    };
    lines[..last].iter().rposition(begins).map_or(last, |at| at + 1)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The name at the beginning, the text in brackets after it, and the rest.
pub fn left_side(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let length = text.bytes().take_while(|b| is_name(*b)).count();
    if length == 0 || text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (name, rest) = text.split_at(length);
    match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((index, rest)) => Some((name, Some(index), rest)),
        None => Some((name, None, rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"# MAKE=no\nMAKE[0]=\"make\n  all\"\nif true; then\n  AUTOINSTALL=yes; fi\n\
        BUILT_MODULE_NAME=(a\n b)\nfor i in 0 1; do\n  DEST_MODULE_LOCATION[$i]=/extra\ndone\nX=1 CLEAN=x\n";

    fn trace() -> Trace {
        let output = b"@:4@. /a/dkms.conf\n@@/a/dkms.conf:3@MAKE[0]='make\n  all'\n@@/a/dkms.conf:4@true\n\
            @@/a/dkms.conf:5@AUTOINSTALL=yes\n@@/a/dkms.conf:7@BUILT_MODULE_NAME=(a b)\n\
            @@/a/dkms.conf:9@DEST_MODULE_LOCATION[$i]=/extra\n@@/etc/other:1@CLEAN=other\nand more\n\
            @@/a/dkms.conf:11@X=1\n@@/a/dkms.conf:11@CLEAN=x\n";
        Trace::read(output, &[("/a/dkms.conf", TEXT)])
    }

    #[test]
    fn lines_of_assignments() {
        let trace = trace();
        let line = |name| trace.line_of(name).map(|at| at.1);
        assert_eq!(
            ["MAKE", "AUTOINSTALL", "BUILT_MODULE_NAME", "CLEAN", "STRIP"].map(line),
            [Some(2), Some(5), Some(6), Some(11), None]
        );
        let element = |name, index| trace.line_of_element(name, index).map(|at| at.1);
        assert_eq!(element("BUILT_MODULE_NAME", 1), Some(6));
        assert_eq!(element("DEST_MODULE_LOCATION", 7), Some(9));
        assert_eq!([element("MAKE", 0), element("MAKE", 1), element("CLEAN", 1)], [Some(2), None, None]);
    }

    #[test]
    fn a_value_of_several_lines_stays_whole() {
        assert_eq!(trace().commands()[0].text, "MAKE[0]='make\n  all'");
        assert_eq!(trace().commands().len(), 7, "what another file did is left out");
    }

    #[test]
    fn a_line_that_the_file_does_not_have() {
        let files = [("/a", &b"A=1\n"[..])];
        for output in ["@@/a:99@A=1\n", "@@/a:0@A=1\n", "@@/a:1@A='x\n@@/a:7@A=y'\n"] {
            assert_eq!(Trace::read(output.as_bytes(), &files).line_of("A"), Some((0, 1)), "{output:?}");
        }
        assert_eq!(Trace::read(b"@@/a:x@A=1\n@@/a\n", &files).commands(), []);
    }
}
