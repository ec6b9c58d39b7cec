//! Finds the first error of a build log: the line that explains the failure.
//!
//! Each line belongs to the first class of [`CLASSES`] whose pattern it matches. The error with the lowest
//! rank is reported, and the first one of several: a full disk explains all other errors, and a message of
//! the compiler is more precise than a later one of make. A log of any size is read once, in constant memory.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde::{Deserialize, Serialize};

use crate::dkms::cause::{self, Cause, PackagingFault, Phase};
use crate::dkms::cause_rules::{self, Case};
use crate::dkms::first_error_classes::{CLASSES, LineClass, PASSING, RANKS, Role};
pub use crate::dkms::log_evidence::BuildFacts;
use crate::dkms::log_evidence::Evidence;
use crate::dkms::patterns::{Patterns, pattern};

/// The prefix of the log line before which a build was repeated. Lines before it do not count.
pub(in crate::dkms) const ONCE_MORE: &str = "once more: ";
/// The maximum length of a message or line, in characters.
const MESSAGE_LIMIT: usize = 300;
/// How many bytes of a line are examined.
const LINE_LIMIT: usize = 8 << 10;
/// How many of the last lines are kept.
const LAST_LINES: usize = 12;
/// From this rank on, an error only repeats an earlier one.
const ECHO: usize = 6;

/// The program that printed the error, or its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// A full disk or an exceeded quota.
    NoSpace,
    /// Memory was exhausted, or a process was killed for lack of it.
    NoMemory,
    /// The disk cannot be written or read.
    Disk,
    /// Compiler or assembler.
    Compiler,
    /// Linker.
    Linker,
    /// kbuild's check of symbols.
    Modpost,
    /// kbuild's check of machine code.
    Objtool,
    /// A patch that does not apply.
    Patch,
    /// A program that is not installed.
    MissingProgram,
    /// A shell, Perl or Python script.
    Script,
    /// make itself.
    Make,
    /// dkms itself.
    Dkms,
    /// Another program, or a kind that only later versions know.
    #[default]
    #[serde(other)]
    Other,
}

/// The first error of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstError {
    /// The program that printed it, or its subject.
    #[serde(default)]
    pub kind: ErrorKind,
    /// What has to change before the build can succeed.
    #[serde(flatten, deserialize_with = "cause::known_or_unknown")]
    pub cause: Cause,
    /// The phase of dkms, if the log shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The source file, as the log names it.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// The message, without control characters.
    pub message: String,
    /// A few lines of the log that belong to the error: the line of source, notes, and the rest of a message
    /// with several lines; for a message of make or dkms the lines before it; the compilers, if they are the
    /// cause. Without control characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
}

impl FirstError {
    /// A short form: the file without its directory.
    pub fn short(&self) -> String {
        let file = self.file.as_ref().map(|f| f.rsplit('/').next().unwrap_or(f).to_owned());
        FirstError { file, ..self.clone() }.to_string()
    }

    /// The error is in a line of source, and the same source gives it again. A missing header may be
    /// installed later, and a crash of the compiler may come from bad memory.
    pub fn is_in_source(&self) -> bool {
        let passing = ["No such file", "internal compiler error"];
        self.kind == ErrorKind::Compiler
            && self.line.is_some()
            && !passing.iter().any(|words| self.message.contains(words))
    }
}

impl std::fmt::Display for FirstError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: {}", self.message),
            (Some(file), None) => write!(f, "{file}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

/// The findings in a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first error.
    pub error: Option<FirstError>,
    /// A temporary error, independent of source and kernel, was found.
    pub passing: bool,
    /// The kernel whose headers make entered, if it is not the target kernel.
    pub other_release: Option<String>,
    /// The directives whose hook scripts dkms skipped because they are not executable files.
    pub unrun_hooks: Vec<String>,
    /// The last phase of dkms.
    pub phase: Option<Phase>,
    /// The last lines that are not empty, for the journal. Without control characters.
    pub last_lines: Vec<String>,
}

/// Searches a text without further knowledge of the build.
pub fn find(log: &str) -> Findings {
    find_with(log, BuildFacts::default())
}

/// Searches the text of a build about which more is known.
pub fn find_with(log: &str, known: BuildFacts) -> Findings {
    let mut search = Search::with(known);
    log.lines().for_each(|line| search.line(line));
    search.finish()
}

static PATTERNS: LazyLock<Patterns> =
    LazyLock::new(|| Patterns::new(CLASSES.iter().map(|class| class.pattern)));
static TEMPORARY: LazyLock<Regex> = LazyLock::new(|| pattern(PASSING));

/// A search through one log, or several consecutive ones.
#[derive(Debug, Default)]
pub struct Search {
    known: BuildFacts,
    evidence: Evidence,
    /// The first error of each rank.
    found: [Option<Found>; RANKS],
    /// An error of a command whose failure make ignores.
    ignored: Option<Found>,
    /// The rank whose error is a heading that the next line completes.
    heading: Option<usize>,
    /// The rank whose error still collects context, and its class.
    open: Option<(usize, &'static LineClass)>,
    number: usize,
    /// The number of the last line in which make reported a failed target.
    given_up: usize,
    /// The last lines other than noise.
    before: VecDeque<String>,
    last: VecDeque<String>,
    passing: bool,
}

/// An error, and its place.
#[derive(Debug)]
struct Found {
    /// The number of its line.
    number: usize,
    /// The line.
    line: String,
    /// The directory that make was in.
    directory: Option<String>,
    error: FirstError,
}

impl Search {
    /// A search through the log of a build about which more is known.
    pub fn with(known: BuildFacts) -> Search {
        Search { known, ..Search::default() }
    }

    /// Reads a log to its end.
    ///
    /// # Errors
    ///
    /// If it cannot be read. The lines before the error count.
    pub fn read(&mut self, mut log: impl Read) -> io::Result<()> {
        let mut block = vec![0; 64 << 10];
        let mut line = Vec::with_capacity(LINE_LIMIT);
        loop {
            let length = match log.read(&mut block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            for part in block[..length].split_inclusive(|b| *b == b'\n') {
                line.extend_from_slice(&part[..part.len().min(LINE_LIMIT - line.len())]);
                if part.ends_with(b"\n") {
                    self.line(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            }
            if length == 0 {
                self.line(&String::from_utf8_lossy(&line));
                return Ok(());
            }
        }
    }

    /// Examines the next line.
    pub fn line(&mut self, raw: &str) {
        let raw = raw.trim_end();
        let plain = if raw.contains('\u{1b}') {
            anstream::adapter::strip_str(raw).to_string().into()
        } else {
            Cow::from(raw)
        };
        // Text before a carriage return was overwritten on the screen; it is progress output.
        let line = plain.rsplit('\r').next().unwrap_or(&plain);
        if line.trim().is_empty() {
            return;
        }
        if line.strip_prefix("# clr-dkms: ").is_some_and(|said| said.starts_with(ONCE_MORE)) {
            *self = Search::with(std::mem::take(&mut self.known));
        }
        self.number += 1;
        self.passing |= TEMPORARY.is_match(line);
        push(&mut self.last, line, LAST_LINES);
        self.evidence.line(line, &self.known);
        if self.heading.is_some_and(|rank| self.say(rank, line)) {
            return;
        }
        match PATTERNS.find(line).next().map(|(at, captures)| (&CLASSES[at], captures)) {
            Some((class, captures)) => match class.role {
                Role::Error(kind, rank) => self.error(class, kind, rank, line, &captures),
                Role::Ignored => self.ignore(),
                Role::Detail | Role::Noise => self.context(line, Some(class), Some(&captures)),
            },
            None => self.context(line, None, None),
        }
    }

    fn error(
        &mut self,
        class: &'static LineClass,
        kind: ErrorKind,
        rank: usize,
        line: &str,
        captures: &Captures<'_>,
    ) {
        if rank == ECHO {
            self.give_up(captures.name("target").map_or("", |m| m.as_str()));
        }
        if let Some((open, _)) = self.open.filter(|(_, of)| of.heading || of.starred)
            && let Some(said) = line.trim_start().strip_prefix("*** ")
        {
            self.go_on(open, said.trim(), line);
            return;
        }
        // Further errors of the same kind belong to the first one.
        if let Some((open, _)) = self.open.filter(|(open, of)| *open == rank && of.more) {
            self.add(open, line);
            return;
        }
        self.open = None;
        if self.found[rank].is_none() {
            let text = |name| captures.name(name).map(|m| m.as_str());
            let file = text("file").map(shortened);
            // A number that is larger than any line is none.
            let number = text("line").and_then(|n| n.parse().ok()).filter(|_| file.is_some());
            let context =
                if rank >= ECHO { self.before.iter().map(|l| shortened(l)).collect() } else { Vec::new() };
            let message = shortened(text("message").unwrap_or(line).trim());
            let (cause, phase) = (Cause::Unknown, self.evidence.phase);
            self.found[rank] = Some(Found {
                number: self.number,
                line: shortened(line),
                directory: self.evidence.directory().map(str::to_owned),
                error: FirstError { kind, cause, phase, file, line: number, message, context },
            });
            self.open = (rank < ECHO).then_some((rank, class));
            self.heading = class.heading.then_some(rank);
        }
        if rank < ECHO {
            push(&mut self.before, line, 2);
        }
    }

    /// Completes a heading with the next line. Returns false if that line is a heading too.
    fn say(&mut self, rank: usize, line: &str) -> bool {
        let said =
            line.trim().trim_start_matches("configure: error:").trim_start().trim_start_matches('*').trim();
        if let Some(found) = self.found[rank].as_mut().filter(|_| !said.is_empty()) {
            let program = found.error.message.split(": ").next().unwrap_or_default().to_owned();
            found.error.message = shortened(&format!("{program}: error: {said}"));
            found.line = found.error.message.clone();
            self.heading = None;
        }
        true
    }

    /// A line that is not an error itself.
    fn context(&mut self, line: &str, class: Option<&LineClass>, captures: Option<&Captures<'_>>) {
        let role = class.map(|class| class.role);
        if let Some((rank, of)) = self.open {
            let belongs = match role {
                Some(Role::Detail) => true,
                Some(_) => false,
                None => of.more || (of.indented && line.starts_with(char::is_whitespace)),
            };
            if belongs {
                // As above.
                let place =
                    captures.and_then(|c| Some((c.name("file")?, c.name("line")?.as_str().parse().ok()?)));
                if let (Some(Found { error, .. }), Some((file, number))) = (&mut self.found[rank], place)
                    && error.file.is_none()
                {
                    (error.file, error.line) = (Some(shortened(file.as_str())), Some(number));
                }
                self.add(rank, line);
            } else {
                self.open = None;
            }
        }
        if role != Some(Role::Noise) {
            push(&mut self.before, line, 2);
        }
    }

    /// The next line of a message whose lines begin with asterisks. It completes the sentence first.
    fn go_on(&mut self, rank: usize, said: &str, line: &str) {
        if let Some(Found { error, line: whole, .. }) = &mut self.found[rank]
            && error.context.is_empty()
            && !error.message.ends_with(['.', '!', ':'])
        {
            error.message = shortened(&format!("{} {said}", error.message));
            whole.clone_from(&error.message);
        } else {
            self.add(rank, line);
        }
    }

    fn add(&mut self, rank: usize, line: &str) {
        let room = self.open.map_or(0, |(_, of)| of.room);
        if let Some(Found { error, .. }) = &mut self.found[rank] {
            if error.context.len() < room {
                error.context.push(shortened(line));
            } else {
                self.open = None;
            }
        }
    }

    /// make continues in spite of an error, which may be one that was found since the last failed target.
    fn ignore(&mut self) {
        self.open = None;
        for found in &mut self.found {
            if let Some(error) = found.take_if(|found| found.number > self.given_up) {
                self.ignored.get_or_insert(error);
            }
        }
        self.before.clear();
    }

    /// make reports a failed target. With parallel jobs its error may be older than one that was ignored.
    fn give_up(&mut self, target: &str) {
        self.given_up = self.number;
        let mine =
            |found: &mut Found| found.error.file.as_deref().is_some_and(|file| stem(file) == stem(target));
        if self.found[1].is_none() {
            self.found[1] = self.ignored.take_if(mine);
        }
    }

    /// The findings.
    pub fn finish(self) -> Findings {
        let Search { found, ignored, evidence, known, last, passing, .. } = self;
        let found = found.into_iter().flatten().next().or(ignored);
        let last_lines = last.iter().map(|line| shortened(line.trim())).collect();
        let error = found.map(|found| explained(found, &evidence, &known));
        let Evidence { unrun_hooks, phase, other_release, .. } = evidence;
        Findings { error, passing, other_release, unrun_hooks, phase, last_lines }
    }
}

/// The error with its cause and its context.
fn explained(found: Found, evidence: &Evidence, known: &BuildFacts) -> FirstError {
    let Found { line, directory, mut error, .. } = found;
    let text = std::iter::once(&line).chain(&error.context).cloned().collect::<Vec<_>>().join("\n");
    let directory = directory.as_deref();
    error.cause = cause_rules::cause(&Case { error: &error, text: &text, directory, evidence, known });
    let held = match &error.cause {
        Cause::Toolchain { kernel_compiler, compiler, .. } => [
            kernel_compiler.as_ref().map(|by| format!("the kernel was built by: {by}")),
            compiler.as_ref().map(|by| format!("this machine has: {by}")),
        ],
        Cause::Clang { kernel_compiler } => {
            [kernel_compiler.as_ref().map(|by| format!("the kernel was built by: {by}")), None]
        }
        Cause::Packaging(PackagingFault::WrongName { built, .. }) if !built.is_empty() => {
            [Some(format!("make has built: {}", built.join(", "))), None]
        }
        Cause::Packaging(PackagingFault::OtherKernel { release: Some(release) }) => {
            [Some(format!("it was built for: {release}")), None]
        }
        Cause::Packaging(PackagingFault::NoMakefile { directory: Some(directory) }) => {
            [Some(format!("in: {directory}")), None]
        }
        Cause::Headers { missing: Some(missing) } => [Some(format!("missing: {missing}")), None],
        _ => [None, None],
    };
    let is_new =
        |line: &String| !text.contains(line.split_once(": ").map_or(line.as_str(), |(_, said)| said));
    error.context.splice(0..0, held.into_iter().flatten().filter(is_new).map(|line| shortened(&line)));
    error
}

fn stem(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.split_once('.').map_or(name, |(stem, _)| stem)
}

/// Appends a line to the last ones, and reuses the memory of the line that is dropped.
fn push(lines: &mut VecDeque<String>, line: &str, limit: usize) {
    let mut room = if lines.len() == limit { lines.pop_front() } else { None }.unwrap_or_default();
    room.clear();
    room.push_str(line);
    lines.push_back(room);
}

/// At most [`MESSAGE_LIMIT`] characters; control characters are escaped or removed.
fn shortened(line: &str) -> String {
    let line = line.trim_end().replace('\t', "        ");
    line.chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT).collect()
}
