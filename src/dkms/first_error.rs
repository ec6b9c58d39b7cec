//! The first error of a build log: what an admin wants to see of ten thousand lines.
//!
//! Each line belongs to the first class of [`CLASSES`] whose pattern it matches. Of the errors the one of the lowest
//! rank is told, and of several the first: a full disk explains all the rest, a compiler's own line wins over what make
//! says of it later. A log of any size is read once, in a small and constant room.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::LazyLock;

use regex::{Captures, Regex, RegexSet};
use serde::{Deserialize, Serialize};

use super::cause::{self, Cause, PackagingFault, Phase};
use super::cause_rules::{self, Case};
use super::first_error_classes::{CLASSES, LineClass, PASSING, RANKS, Role};
pub use super::log_evidence::BuildFacts;
use super::log_evidence::Evidence;

/// With what our own line in a log begins behind which a build was made once more: what stands before it counts no
/// longer.
pub(super) const ONCE_MORE: &str = "once more: ";
/// The longest message or line that is kept, in characters.
const MESSAGE_LIMIT: usize = 300;
/// How much of a line is looked at, in bytes.
const LINE_LIMIT: usize = 8 << 10;
/// How many of the last lines are kept.
const LAST_LINES: usize = 12;
/// The rank from which on an error is but the echo of what went wrong before it.
const ECHO: usize = 6;

/// Who has said it, or what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The disk is full, or a quota.
    NoSpace,
    /// There was no memory; somebody was killed for it.
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
    /// A patch that does not fit.
    Patch,
    /// A program that is not there.
    MissingProgram,
    /// A shell, Perl or Python script.
    Script,
    /// make itself.
    Make,
    /// dkms itself.
    Dkms,
    /// Another program, or a kind that a later version knows.
    #[default]
    #[serde(other)]
    Other,
}

/// The first error of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstError {
    /// Who has said it.
    #[serde(default)]
    pub kind: ErrorKind,
    /// What has to change before the build can succeed.
    #[serde(flatten, deserialize_with = "cause::known_or_unknown")]
    pub cause: Cause,
    /// What dkms was doing, where the log says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// The source file, as the log names it, when one was said.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// The message, without control characters.
    pub message: String,
    /// What belongs to it in the log, a few lines: the line of source, notes, the rest of a message of several lines;
    /// of an echo of make or dkms the lines before it; the compilers, where they are the cause. Without control
    /// characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<String>,
}

impl FirstError {
    /// In few words: the file without its directory.
    pub fn short(&self) -> String {
        let file = self.file.as_ref().map(|f| f.rsplit('/').next().unwrap_or(f).to_owned());
        FirstError { file, ..self.clone() }.to_string()
    }

    /// It is said of a line of source: the same source gives it again. A header may be installed tomorrow, and a
    /// compiler that breaks down may have met bad memory.
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

/// What a log tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first error.
    pub error: Option<FirstError>,
    /// Something is said that has nothing to do with source and kernel, and may be gone tomorrow.
    pub passing: bool,
    /// The kernel whose headers make entered, though the build was for another one.
    pub other_release: Option<String>,
    /// The directives whose hook scripts dkms has gone on without, for they are not executable files.
    pub unrun_hooks: Vec<String>,
    /// What dkms did last.
    pub phase: Option<Phase>,
    /// The last lines that are not empty, without control characters, for the journal.
    pub last_lines: Vec<String>,
}

/// Finds it in a text of which nothing else is known.
pub fn find(log: &str) -> Findings {
    find_with(log, BuildFacts::default())
}

/// Finds it in a text, of a build of which more is known.
pub fn find_with(log: &str, known: BuildFacts) -> Findings {
    let mut search = Search::with(known);
    log.lines().for_each(|line| search.line(line));
    search.finish()
}

struct Patterns {
    set: RegexSet,
    one: Vec<Regex>,
    passing: Regex,
}

#[allow(clippy::expect_used)] // a test compiles each of them
static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| {
    let texts = || CLASSES.iter().map(|class| class.pattern);
    Patterns {
        set: RegexSet::new(texts()).expect("patterns"),
        passing: Regex::new(PASSING).expect("pattern"),
        one: texts().map(|text| Regex::new(text).expect("pattern")).collect(),
    }
});

/// The search through one log, or several after each other.
#[derive(Debug, Default)]
pub struct Search {
    known: BuildFacts,
    evidence: Evidence,
    /// The first error of each rank.
    found: [Option<Found>; RANKS],
    /// An error of a command whose failure make ignores.
    ignored: Option<Found>,
    /// The rank whose error is a heading: the next line says what it is.
    heading: Option<usize>,
    /// The rank whose error still collects its context, and what belongs to it.
    open: Option<(usize, &'static LineClass)>,
    number: usize,
    /// The number of the last line in which make gives up a target.
    given_up: usize,
    /// The last lines that are no noise.
    before: VecDeque<String>,
    last: VecDeque<String>,
    passing: bool,
}

/// An error, and where it was found.
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
    /// A search through the log of a build of which more is known.
    pub fn with(known: BuildFacts) -> Search {
        Search { known, ..Search::default() }
    }

    /// Reads a log to its end.
    ///
    /// # Errors
    /// When it cannot be read; what was read until then counts.
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

    /// The next line.
    pub fn line(&mut self, raw: &str) {
        let raw = raw.trim_end();
        let plain = if raw.contains('\u{1b}') {
            anstream::adapter::strip_str(raw).to_string().into()
        } else {
            Cow::from(raw)
        };
        // What a carriage return has written over was progress.
        let line = plain.rsplit('\r').next().unwrap_or(&plain);
        if line.trim().is_empty() {
            return;
        }
        if line.strip_prefix("# clr-dkms: ").is_some_and(|said| said.starts_with(ONCE_MORE)) {
            *self = Search::with(std::mem::take(&mut self.known));
        }
        self.number += 1;
        self.passing |= PATTERNS.passing.is_match(line);
        push(&mut self.last, line, LAST_LINES);
        self.evidence.line(line, &self.known);
        if self.heading.is_some_and(|rank| self.say(rank, line)) {
            return;
        }
        let first = PATTERNS.set.matches(line).iter().next();
        let class = first.and_then(|at| Some((&CLASSES[at], PATTERNS.one[at].captures(line)?)));
        match class {
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
        // More of the same belongs to the first one.
        if let Some((open, _)) = self.open.filter(|(open, of)| *open == rank && of.more) {
            self.add(open, line);
            return;
        }
        self.open = None;
        if self.found[rank].is_none() {
            let text = |name| captures.name(name).map(|m| m.as_str());
            let file = text("file").map(shortened);
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

    /// Completes a heading by the line behind it; false where that is another heading or the like.
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

    /// A line that is no error of its own.
    fn context(&mut self, line: &str, class: Option<&LineClass>, captures: Option<&Captures<'_>>) {
        let role = class.map(|class| class.role);
        if let Some((rank, of)) = self.open {
            let belongs = match role {
                Some(Role::Detail) => true,
                Some(_) => false,
                None => of.more || (of.indented && line.starts_with(char::is_whitespace)),
            };
            if belongs {
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

    /// The next line of a message in lines that begin with stars: the sentence is completed before all else.
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

    /// make goes on in spite of an error: what was found since it last gave up a target may be that one.
    fn ignore(&mut self) {
        self.open = None;
        for found in &mut self.found {
            if let Some(error) = found.take_if(|found| found.number > self.given_up) {
                self.ignored.get_or_insert(error);
            }
        }
        self.before.clear();
    }

    /// make gives up a target. With several jobs at once, the error may have come before one that was ignored.
    fn give_up(&mut self, target: &str) {
        self.given_up = self.number;
        let mine =
            |found: &mut Found| found.error.file.as_deref().is_some_and(|file| stem(file) == stem(target));
        if self.found[1].is_none() {
            self.found[1] = self.ignored.take_if(mine);
        }
    }

    /// What was found.
    pub fn finish(self) -> Findings {
        let Search { found, ignored, evidence, known, last, passing, .. } = self;
        let found = found.into_iter().flatten().next().or(ignored);
        let last_lines = last.iter().map(|line| shortened(line.trim())).collect();
        let error = found.map(|found| explained(found, &evidence, &known));
        let Evidence { unrun_hooks, phase, other_release, .. } = evidence;
        Findings { error, passing, other_release, unrun_hooks, phase, last_lines }
    }
}

/// The error with its cause, and with the lines that hold it.
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

/// Puts a line behind the last ones, in the room of the one that leaves them.
fn push(lines: &mut VecDeque<String>, line: &str, limit: usize) {
    let mut room = if lines.len() == limit { lines.pop_front() } else { None }.unwrap_or_default();
    room.clear();
    room.push_str(line);
    lines.push_back(room);
}

/// At most [`MESSAGE_LIMIT`] characters; what a terminal would obey is shown or left out.
fn shortened(line: &str) -> String {
    let line = line.trim_end().replace('\t', "        ");
    line.chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT).collect()
}
