//! The classes of lines in a build log: the patterns of [`crate::dkms::first_error`], in the order in which
//! they are tried.

use crate::dkms::first_error::ErrorKind;

/// The number of ranks.
pub(in crate::dkms) const RANKS: usize = 9;

/// Messages of temporary errors, independent of source and kernel.
pub(in crate::dkms) const PASSING: &str = "No space left on device|Killed|Cannot allocate memory|virtual memory exhausted|\
    Read-only file system|Input/output error|out of memory|memory exhausted|Resource temporarily unavailable|\
    Too many open files|Disk quota exceeded|Text file busy|Stale file handle";

/// The role of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dkms) enum Role {
    /// Progress, warnings and echoed commands, which belong to no error.
    Noise,
    /// It belongs to the preceding error.
    Detail,
    /// make ignores the preceding error.
    Ignored,
    /// An error with its rank. 0: explains all others; 1: the message of a tool about its input; 2 to 4:
    /// decreasingly certain; 5: an error of dkms itself; 6 and 7: make and dkms repeat an earlier error; 8: a
    /// probe that may fail.
    Error(ErrorKind, usize),
}

/// A class of lines.
#[derive(Debug)]
pub(in crate::dkms) struct LineClass {
    pub(in crate::dkms) role: Role,
    /// A pattern with the groups `file`, `line`, `message` (by default the whole line) and `target`, as far
    /// as they apply.
    pub(in crate::dkms) pattern: &'static str,
    /// Following lines of the same rank or of no class belong to it.
    pub(in crate::dkms) more: bool,
    /// Following indented lines belong to it.
    pub(in crate::dkms) indented: bool,
    /// How many of these lines are kept.
    pub(in crate::dkms) room: usize,
    /// It is a heading: the next line has the message.
    pub(in crate::dkms) heading: bool,
    /// Its lines begin with asterisks.
    pub(in crate::dkms) starred: bool,
}

/// How many lines are kept in addition to that of the error, by default.
const CONTEXT: usize = 4;

const fn line(role: Role, pattern: &'static str) -> LineClass {
    LineClass { role, pattern, more: false, indented: false, room: 0, heading: false, starred: false }
}

const fn error(kind: ErrorKind, rank: usize, pattern: &'static str) -> LineClass {
    LineClass { indented: true, room: CONTEXT, ..line(Role::Error(kind, rank), pattern) }
}

const fn list(kind: ErrorKind, rank: usize, pattern: &'static str) -> LineClass {
    LineClass { more: true, ..error(kind, rank, pattern) }
}

/// A message with several lines, all of which are kept.
const fn block(kind: ErrorKind, rank: usize, pattern: &'static str) -> LineClass {
    LineClass { room: 10, ..list(kind, rank, pattern) }
}

const fn heading(kind: ErrorKind, rank: usize, pattern: &'static str) -> LineClass {
    LineClass { heading: true, ..block(kind, rank, pattern) }
}

/// The classes.
pub(in crate::dkms) const CLASSES: &[LineClass] = &[
    // Lines of source, carets, and the places of errors of Rust or lld.
    line(Role::Detail, r"^ *\d* \|"),
    line(Role::Detail, r"^\s*~*\^[~^ ]*$"),
    line(Role::Detail, r"^\s*--> (?P<file>\S+?):(?P<line>\d+):\d+$"),
    line(Role::Detail, r"^>>> "),
    line(Role::Detail, r"^\S+: note: "),
    // Progress of kbuild, lines of clr-dkms, and echoed commands.
    line(Role::Noise, r"^  [A-Z][A-Z0-9_]*\s+(?:\[M\]\s+)?\S+$"),
    line(Role::Noise, r"^(?:# |\++ )"),
    line(
        Role::Noise,
        r"^\s*(?:\S*/)?(?:[\w.]+-)*(?:gcc|g\+\+|cc|clang|ld|make|rm|sh|set|echo|test)(?:-[\d.]+)? [^:]*(?: -|;)",
    ),
    line(Role::Noise, r"^\S+: (?:[Ww]arning|remark|info): "),
    line(Role::Noise, r"^(?:\S*/)?(?:[\w.]+-)*ld(?:\.\w+)?: (?:.*: )?(?:warning: |in function )"),
    line(Role::Noise, r"^\S+: in function "),
    line(
        Role::Noise,
        r"^\S*make(?:\[\d+\])?: (?:Entering|Leaving|Nothing|\*\*\* (?:Waiting|Deleting|wait:)|[Ww]arning)",
    ),
    line(Role::Noise, r"^\S+:\d+: recipe for target .* failed$"),
    line(Role::Ignored, r"^\S*make(?:\[\d+\])?: \[.*\(ignored\)$"),
    // Errors that explain all others.
    error(ErrorKind::NoSpace, 0, r"(?:^|[:\]] )\W?(?:No space left on device|Disk quota exceeded)\b"),
    error(
        ErrorKind::NoMemory,
        0,
        r"Killed signal terminated program|internal compiler error: Killed|terminated with signal 9|fork: (?:retry: )?Resource temporarily unavailable|memory exhausted|: out of memory allocating |: \W?Cannot allocate memory\b|^(?:\S+: )*(?:LLVM ERROR: )?out of memory\W*$|^\S*make(?:\[\d+\])?: \*\*\* \[.*\] (?:Killed|Error 137)\b|: line \d+: +\d+ Killed\b|^Killed$|^MemoryError\b",
    ),
    error(
        ErrorKind::Disk,
        0,
        r": \W?(?:Read-only file system|Input/output error|Structure needs cleaning)\W*$",
    ),
    // Other output of dkms: about signing, and about its environment.
    line(Role::Noise, r"^stat: cannot statx? '?/proc/1/root|^modinfo: ERROR: |^depmod: (?:WARNING|ERROR): "),
    line(
        Role::Noise,
        r"^(?:Certificate or key are missing|Sign(?:ing)? (?:command|key|module)\b|Public certificate|Building module|Cleaning build area|Running depmod)",
    ),
    line(
        Role::Noise,
        r"^(?:Generating an? RSA|writing new private key|-----$|[.+*]{4,}$|Can't load \S*\.rnd into RNG|At main\.c:\d+:|- SSL error:|sign-file: |(?:/usr)?/s?bin/dkms: line \d+: )",
    ),
    // Compiler and assembler. Compilations by configure are expected to fail now and then.
    error(
        ErrorKind::Compiler,
        8,
        r"^(?P<file>(?:\S*/)?conftest\w*\.\w+|<stdin>):(?P<line>\d+)(?::\d+)?: (?:fatal )?error: (?P<message>.*)",
    ),
    error(
        ErrorKind::Compiler,
        1,
        r"^(?P<file>\S+?):(?P<line>\d+)(?:[.:]\d+(?:-[\d.]+)?)?: (?:[Ff]atal )?[Ee]rror: (?P<message>.*)",
    ),
    error(
        ErrorKind::Compiler,
        1,
        r"^(?P<file>\S+?):(?P<line>\d+)(?::\d+)?: (?P<message>internal compiler error: .*)",
    ),
    error(ErrorKind::Compiler, 1, r"^error\[E\d+\]: (?P<message>.*)"),
    error(ErrorKind::Compiler, 1, r"^(?P<file><command-line>|\S+\.[chS]): fatal error: (?P<message>.*)"),
    block(ErrorKind::Compiler, 1, r"^(?:\w+: )?Compiler version check failed"),
    // Problems of the tools that kbuild builds and uses.
    error(ErrorKind::Other, 1, r"^(?:\S+: )?\S+: version [`']\S+' not found\b"),
    error(
        ErrorKind::Other,
        1,
        r"^(?:Failed to parse base BTF|FAILED: load BTF|libbpf: .*failed|Error: failed to load BTF)",
    ),
    // Checks by kbuild.
    error(
        ErrorKind::Objtool,
        1,
        r"^(?:(?P<file>\S+): )?(?:error: objtool|(?:\S*/)?objtool: error|objtool): (?P<message>.*)",
    ),
    list(ErrorKind::Modpost, 1, r"^(?:ERROR|FATAL): (?:modpost: |\S+ \[\S+\] undefined!)"),
    // Linker.
    line(Role::Detail, r"^(?:collect2: error: ld returned|clang\S*: error: linker command failed)"),
    list(
        ErrorKind::Linker,
        1,
        r"^(?:(?:\S*/)?(?:[\w.]+-)*ld(?:\.\w+)?: )?(?P<file>\S+?):(?P<line>\d+|\(\S+\)): (?P<message>(?:undefined reference to|multiple definition of) .*)",
    ),
    list(ErrorKind::Linker, 1, r"^(?:\S*/)?(?:[\w.]+-)*ld(?:\.\w+)?: (?:error: )?(?P<message>.*)"),
    // A compiler error without a place.
    error(
        ErrorKind::Compiler,
        1,
        r"^(?:\S*/)?(?:[\w.]+-)*(?:gcc|g\+\+|cc1(?:plus)?|clang|cc|as|cpp|lto1|rustc)(?:-[\d.]+)?: (?:[Ff]atal |internal compiler )?[Ee]rror: (?P<message>.*)",
    ),
    // Patches, as reported by dkms and patch.
    list(ErrorKind::Patch, 1, r"^Error!\s+(?P<message>(?:Application of )?[Pp]atch .*)"),
    list(ErrorKind::Patch, 2, r"^(?:Hunk #\d+ FAILED|patch: \*\*\*\*|error: patch failed)"),
    // make: its own errors, and its reports about others.
    error(ErrorKind::Make, 6, r"^\S*make(?:\[\d+\])?: \*\*\* \[(?:\S+:\d+: )?(?P<target>.*)\] "),
    error(ErrorKind::Make, 2, r"^(?P<file>\S+?):(?P<line>\d+): \*\*\* (?P<message>.*)"),
    block(
        ErrorKind::Make,
        2,
        r"^(?:(?P<file>\S+?):(?P<line>\d+): )?(?P<message>.*\bSUBDIRS'? (?:was|is|has been) (?:removed|no longer).*)",
    ),
    list(
        ErrorKind::Make,
        2,
        r"^(?P<file>\S*(?:Makefile|Kbuild|\.mk)\S*?):(?P<line>\d+): (?P<message>\S+: No such file or directory)$",
    ),
    error(
        ErrorKind::MissingProgram,
        3,
        r"^\S*make(?:\[\d+\])?: (?P<message>(?:execvp: )?\S+: (?:No such file or directory|Permission denied|[Cc]ommand not found))$",
    ),
    error(ErrorKind::Make, 2, r"^\S*make(?:\[\d+\])?: \*\*\* (?P<message>.*)"),
    // Missing programs and failing scripts.
    error(
        ErrorKind::MissingProgram,
        3,
        r"^(?:(?:/\S*/)?(?:ba|da)?sh|(?P<file>\S+)): (?:line )?(?P<line>\d+): (?P<message>\S+: (?:command )?not found)$",
    ),
    error(
        ErrorKind::MissingProgram,
        3,
        r"^(?:/\S*/)?(?:ba|da|k)?sh: (?P<message>\S+: (?:(?:command )?not found|No such file or directory))$",
    ),
    error(ErrorKind::MissingProgram, 3, r"^(?:\S*/)?env: .*: No such file or directory$|: bad interpreter: "),
    error(
        ErrorKind::Script,
        3,
        r"^(?:(?:/\S*/)?(?:ba|da)?sh|(?P<file>\S+)): line (?P<line>\d+): +(?P<message>.*)",
    ),
    error(
        ErrorKind::Script,
        3,
        r"^(?:(?:/\S*/)?(?:ba|da)?sh|(?P<file>\S+)): (?P<line>\d+): (?P<message>[Ss]yntax error.*|cannot .*|\S+: Permission denied)",
    ),
    error(ErrorKind::MissingProgram, 3, r"^Can't locate \S+ in @INC"),
    error(ErrorKind::Script, 3, r"^(?P<message>\S.* at \S+ line \d+\.)$"),
    error(ErrorKind::Script, 3, r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit)(?:: .*)?$"),
    // configure, and checks of the kernel's headers.
    heading(ErrorKind::Other, 2, r"^(?P<message>configure: error:(?: in [`'].*':)?)\s*$"),
    LineClass { starred: true, ..block(ErrorKind::Other, 2, r"^configure: error: ") },
    block(ErrorKind::Other, 2, r"^The kernel header file .* does not exist"),
    // dkms continues without a hook script, and a later step misses its result.
    error(ErrorKind::Script, 2, r"^Warning:? +(?P<message>The \w+ script is not executable\.)"),
    // Any other line that calls itself an error.
    error(ErrorKind::Other, 3, r"^\s*(?:ERROR|FATAL|[Ee]rror|[Ff]atal|FAILED)(?: error)?: "),
    error(ErrorKind::Other, 3, r"^\S+: (?:fatal )?(?:error|ERROR): "),
    error(
        ErrorKind::Other,
        4,
        r"^[\w./+-]+: (?:[Cc]annot|[Cc]an't|[Uu]nable to|unrecognized|invalid|missing|failed) ",
    ),
    error(
        ErrorKind::Other,
        4,
        r"^[\w./+-]+: .*: (?:No such file or directory|Permission denied|Not a directory|Is a directory|Exec format error)$",
    ),
    error(ErrorKind::Other, 4, r"\bSegmentation fault\b"),
    LineClass { starred: true, ..block(ErrorKind::Make, 4, r"^\s*\*\*\* (?P<message>\w.*)") },
    // dkms.
    error(ErrorKind::Dkms, 7, r"^Error!\s+(?P<message>(?:Bad return status|Build of |One or more ).*)"),
    list(ErrorKind::Dkms, 5, r"^(?:dkms\.conf: )?Error!\s+(?P<message>.*)"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkms::patterns::pattern;

    #[test]
    fn each_pattern_compiles_and_has_its_rank() {
        pattern(PASSING);
        for class in CLASSES {
            pattern(class.pattern);
            assert!(!matches!(class.role, Role::Error(_, rank) if rank >= RANKS), "{}", class.pattern);
        }
    }
}
