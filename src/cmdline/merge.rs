//! The effective command line, byte for byte as clr-boot-manager 3.3.1 writes it into a boot entry, and the
//! origin of each byte. The `root=…` prefix is not part of it.
//!
//! `tests/data/cmdline-vectors.jsonl` has the results of the real program for 401 sets of files.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::parameter;
use super::sources::{ADMIN, CmdlineSources, Fragment};

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct WordOrigin {
    /// The path inside the root.
    pub path: PathBuf,
    /// The line number, from 1.
    pub line: usize,
}

impl std::fmt::Display for WordOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// A piece of the line with one origin. None for the blanks that join pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordPiece {
    pub origin: Option<WordOrigin>,
    pub bytes: Vec<u8>,
}

/// A word, as the kernel splits the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CmdlineWord {
    /// The bytes, including quotes.
    pub bytes: Vec<u8>,
    /// The origins of its bytes, in order. There is more than one if a removal has joined two words.
    pub origins: Vec<WordOrigin>,
}

/// What one line of a removal file did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It removed these words.
    Took(Vec<CmdlineWord>),
    /// It began inside of a word and left the rest, joined with what follows. `of`: the affected words,
    /// before the removal. `left`: what is left of them.
    TookPart { of: Vec<CmdlineWord>, left: Vec<u8> },
    /// The line does not contain its text.
    NotThere,
    /// The first occurrence of its text is followed by neither a blank nor the end. Later occurrences are not
    /// tried.
    NotAtAnEnd,
}

/// One line of a removal file, and what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The line of the removal file.
    pub by: WordOrigin,
    pub text: Vec<u8>,
    pub effect: Effect,
}

/// The effective command line, and how it was composed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Merged {
    pub line: Vec<u8>,
    /// The line in pieces, each with its origin.
    pub pieces: Vec<WordPiece>,
    pub words: Vec<CmdlineWord>,
    /// What the removals did, in order.
    pub removed: Vec<Removed>,
    /// The lines with a NUL byte that cut off everything after it, of the kernel's own line or of all others.
    pub cut_at: Vec<WordOrigin>,
}

/// The effective command line.
pub fn effective(sources: &CmdlineSources) -> Vec<u8> {
    line(sources).0.bytes
}

/// The effective command line, and how it was composed.
pub fn merge(sources: &CmdlineSources) -> Merged {
    let (buffer, removed, cut_at) = line(sources);
    Merged {
        pieces: buffer.pieces(),
        words: buffer.words(0..buffer.bytes.len()),
        removed,
        cut_at,
        line: buffer.bytes,
    }
}

fn line(sources: &CmdlineSources) -> (Buffer, Vec<Removed>, Vec<WordOrigin>) {
    let mut cut_at = Vec::new();
    let mut line = Buffer::default();
    line.add_contents(&sources.kernel, &sources.kernel_path);
    cut_at.extend(line.cut_at_nul(0));
    line.join();
    let start = line.bytes.len();
    if sources.glob_blind {
        if let Some(admin) = &sources.admin {
            line.add_contents(admin, Path::new(ADMIN));
        }
        cut_at.extend(line.cut_at_nul(start));
        return (line, Vec::new(), cut_at);
    }
    global(sources, &mut line);
    cut_at.extend(line.cut_at_nul(start));
    let removed = remove(&mut line, sources);
    (line, removed, cut_at)
}

/// The part that all kernels share: vendor fragments, the admin's line, the admin's fragments.
fn global(sources: &CmdlineSources, line: &mut Buffer) {
    let mut bump = directory(&sources.vendor, false, line) >= 1;
    if let Some(admin) = &sources.admin {
        if bump {
            line.join();
        }
        bump |= line.add_contents(admin, Path::new(ADMIN));
    }
    directory(&sources.local, bump, line);
}

/// Appends a directory, and returns the number of its files with content. `bump` means that the line already
/// has content.
fn directory(fragments: &[Fragment], mut bump: bool, line: &mut Buffer) -> usize {
    let mut with_content = 0;
    for fragment in fragments.iter().filter(|f| f.mask.is_none()) {
        if with_content > 0 || bump {
            line.join();
            bump = false;
        }
        with_content += usize::from(line.add_contents(&fragment.bytes, &fragment.path));
    }
    with_content
}

/// The content of a file: its lines without comments, joined by one blank.
pub fn contents(bytes: &[u8]) -> Vec<u8> {
    lines(bytes).map(|(_, line)| line).collect::<Vec<_>>().join(&b' ')
}

/// The words of a file that is not part of the line.
pub fn words_of(bytes: &[u8], path: &Path) -> Vec<CmdlineWord> {
    let mut buffer = Buffer::default();
    buffer.add_contents(bytes, path);
    buffer.words(0..buffer.bytes.len())
}

/// The lines of a file that are content, with their numbers: stripped, not empty, not a comment.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    bytes
        .split(|b| *b == b'\n')
        .enumerate()
        .map(|(at, line)| {
            let start = line.iter().position(|b| !is_blank(*b)).unwrap_or(line.len());
            (at + 1, strip_end(&line[start..]))
        })
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(b"#"))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | b'\n')
}

fn strip_end(line: &[u8]) -> &[u8] {
    let end = line.iter().rposition(|b| !is_blank(*b)).map_or(0, |at| at + 1);
    &line[..end]
}

/// A line under construction. For each byte it has an index into `places`, or [`JOINT`] for a joining blank.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    from: Vec<usize>,
    places: Vec<WordOrigin>,
}

const JOINT: usize = usize::MAX;

impl Buffer {
    fn add(&mut self, bytes: &[u8], place: usize) {
        self.bytes.extend_from_slice(bytes);
        self.from.resize(self.bytes.len(), place);
    }

    fn join(&mut self) {
        self.add(b" ", JOINT);
    }

    /// Appends the content of a file. Returns whether it had any.
    fn add_contents(&mut self, bytes: &[u8], path: &Path) -> bool {
        let mut any = false;
        for (number, text) in lines(bytes) {
            if any {
                self.join();
            }
            self.places.push(WordOrigin { path: path.to_owned(), line: number });
            self.add(text, self.places.len() - 1);
            any = true;
        }
        any
    }

    fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.from.truncate(length);
    }

    /// Cuts off everything after the first NUL byte from `start` on. Returns the origin of that byte.
    fn cut_at_nul(&mut self, start: usize) -> Option<WordOrigin> {
        let at = start + self.bytes[start..].iter().position(|b| *b == 0)?;
        let origin = self.places.get(self.from[at]).cloned();
        self.truncate(at);
        origin
    }

    fn pieces(&self) -> Vec<WordPiece> {
        let mut pieces: Vec<WordPiece> = Vec::new();
        let mut start = 0;
        for run in self.from.chunk_by(|a, b| a == b) {
            let bytes = self.bytes[start..start + run.len()].to_vec();
            pieces.push(WordPiece { origin: self.places.get(run[0]).cloned(), bytes });
            start += run.len();
        }
        pieces
    }

    fn words(&self, range: Range<usize>) -> Vec<CmdlineWord> {
        let spans = parameter::spans(&self.bytes[range.clone()]);
        spans.into_iter().map(|s| self.word(range.start + s.start..range.start + s.end)).collect()
    }

    fn word(&self, range: Range<usize>) -> CmdlineWord {
        let mut origins: Vec<WordOrigin> = Vec::new();
        for place in self.from[range.clone()].chunk_by(|a, b| a == b) {
            if let Some(origin) = self.places.get(place[0])
                && !origins.contains(origin)
            {
                origins.push(origin.clone());
            }
        }
        CmdlineWord { bytes: self.bytes[range].to_vec(), origins }
    }
}

/// Applies the removals. The line is in a buffer with a separate length, as in clr-boot-manager: a removal
/// file that cannot be opened strips the buffer but not the length, and leaves a NUL byte.
fn remove(line: &mut Buffer, sources: &CmdlineSources) -> Vec<Removed> {
    let mut removed = Vec::new();
    let mut length = line.bytes.len();
    line.add(b"\0", JOINT);
    for removal in &sources.removals {
        let stripped = strip_end(&line.bytes[..length]).len();
        // An empty line has no trailing blank.
        if length > 0 {
            line.bytes[stripped] = 0;
        }
        let Some(bytes) = &removal.bytes else { continue };
        length = stripped;
        for (number, text) in lines(bytes) {
            let (left, effect) = remove_one(line, length, text);
            length = left;
            let by = WordOrigin { path: removal.path.clone(), line: number };
            removed.push(Removed { by, text: text.to_vec(), effect });
        }
    }
    // Cuts the line at the NUL byte that ends it, or that a removal file left.
    line.cut_at_nul(0);
    removed
}

/// Removes the first occurrence of `text` if a word ends there. Returns the new length.
fn remove_one(line: &mut Buffer, length: usize, text: &[u8]) -> (usize, Effect) {
    let Some(start) = memchr::memmem::find(&line.bytes[..length], text) else {
        return (length, Effect::NotThere);
    };
    let mut size = text.len();
    // Only the character after it is checked, not the one before it, and later occurrences are not tried.
    if !matches!(line.bytes[start + size], 0 | b' ') {
        return (length, Effect::NotAtAnEnd);
    }
    let end = start + size;
    // The affected words, as the kernel splits the line: a blank inside of quotes does not end a word.
    let touched: Vec<Range<usize>> = parameter::spans(&line.bytes[..length]);
    let touched: Vec<Range<usize>> = touched.into_iter().filter(|w| w.start < end && w.end > start).collect();
    let whole =
        touched.first().is_none_or(|w| w.start == start) && touched.last().is_none_or(|w| w.end == end);
    let of: Vec<CmdlineWord> = touched.iter().map(|w| line.word(w.clone())).collect();
    if size == length {
        line.bytes[0] = 0;
        return (0, Effect::Took(of));
    }
    if line.bytes[end] == b' ' {
        size += 1;
    }
    let rest = (length - start).saturating_sub(size);
    line.bytes.copy_within(start + size..start + size + rest, start);
    line.from.copy_within(start + size..start + size + rest, start);
    line.bytes[start + rest] = 0;
    let length = length.saturating_sub(size);
    if whole {
        return (length, Effect::Took(of));
    }
    let mut now = parameter::spans(&line.bytes[..length]).into_iter();
    let left = now.find(|w| w.start <= start && start <= w.end);
    let left = left.map(|w| line.bytes[w].to_vec()).unwrap_or_default();
    (length, Effect::TookPart { of, left })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_of(kernel: &str) -> CmdlineSources {
        CmdlineSources { kernel: kernel.as_bytes().to_vec(), ..CmdlineSources::default() }
    }

    #[test]
    fn the_blank_is_always_there() {
        assert_eq!(effective(&line_of("")), b" ");
        assert_eq!(effective(&line_of("quiet\nrw\n")), b"quiet rw ");
    }

    #[test]
    fn a_root_with_glob_characters_loses_all_fragments() {
        let mut sources = line_of("quiet");
        sources.vendor.push(Fragment {
            name: "a.conf".into(),
            path: "/usr/share/kernel/cmdline.d/a.conf".into(),
            bytes: b"word".to_vec(),
            mask: None,
        });
        assert_eq!(effective(&sources), b"quiet word");
        sources.glob_blind = true;
        assert_eq!(effective(&sources), b"quiet ");
    }

    fn with_removals(kernel: &str, removals: &str) -> Merged {
        let path = PathBuf::from("/etc/kernel/cmdline-removal.d/r.conf");
        let removal = super::super::sources::RemovalFile { path, bytes: Some(removals.as_bytes().to_vec()) };
        merge(&CmdlineSources { kernel_path: "/k".into(), removals: vec![removal], ..line_of(kernel) })
    }

    #[test]
    fn what_a_removal_did() {
        let merged =
            with_removals("quiet rw module.sig_unenforce\nfoo=bar\n", "# why\nsig_unenforce\nrw\nqui\nx\n");
        assert_eq!(merged.line, b"quiet module.foo=bar");
        let effects: Vec<&Effect> = merged.removed.iter().map(|r| &r.effect).collect();
        let Effect::TookPart { of, left } = effects[0] else { panic!("{effects:?}") };
        assert_eq!(
            (of[0].bytes.as_slice(), left.as_slice()),
            (b"module.sig_unenforce".as_slice(), b"module.foo=bar".as_slice())
        );
        assert_eq!(merged.removed[0].by.line, 2);
        let Effect::Took(words) = effects[1] else { panic!("{effects:?}") };
        assert_eq!(words[0].bytes, b"rw");
        assert_eq!(effects[2..], [&Effect::NotAtAnEnd, &Effect::NotThere]);
        let glued = merged.words.last().map(|w| w.origins.iter().map(|o| o.line).collect::<Vec<_>>());
        assert_eq!(glued, Some(vec![1, 2]), "{:?}", merged.words);
    }
}
