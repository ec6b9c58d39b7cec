//! The effective command line, byte for byte as clr-boot-manager 3.3.1 writes it into a boot entry (behind
//! `root=…`, which is not part of it), and where each byte of it comes from.
//!
//! `tests/data/cmdline-vectors.jsonl` holds what the real program made of 401 sets of files.

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
    /// The line, from 1.
    pub line: usize,
}

impl std::fmt::Display for WordOrigin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// A piece of the line that comes from one place; none for the blanks that join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WordPiece {
    /// The place.
    pub origin: Option<WordOrigin>,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// One word, as the kernel splits the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CmdlineWord {
    /// The bytes, quotes included.
    pub bytes: Vec<u8>,
    /// The places that its bytes come from, in order: more than one where a removal glued two words together.
    pub origins: Vec<WordOrigin>,
}

/// What one line of a removal file did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// It took these words out.
    Took(Vec<CmdlineWord>),
    /// It began in the middle of a word, and left the rest of it behind, glued to what follows.
    TookPart {
        /// The words that lost something, as they were.
        of: Vec<CmdlineWord>,
        /// What stands there now.
        left: Vec<u8>,
    },
    /// Its text is not in the line.
    NotThere,
    /// The first place where its text stands is not followed by a blank or the end; later places are not tried.
    NotAtAnEnd,
}

/// One line of a removal file, and what it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The line of the removal file.
    pub by: WordOrigin,
    /// Its text.
    pub text: Vec<u8>,
    /// What it did.
    pub effect: Effect,
}

/// The effective command line, with how it came about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Merged {
    /// The line.
    pub line: Vec<u8>,
    /// The line in pieces, each with its origin.
    pub pieces: Vec<WordPiece>,
    /// The words of the line.
    pub words: Vec<CmdlineWord>,
    /// What the removals did, in their order.
    pub removed: Vec<Removed>,
    /// The lines whose NUL byte cut off everything behind it: of the kernel's own line, of all others.
    pub cut_at: Vec<WordOrigin>,
}

/// The line.
pub fn effective(sources: &CmdlineSources) -> Vec<u8> {
    line(sources).0.bytes
}

/// The line, and how it came about.
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

/// What all kernels share: vendor fragments, the admin's line, the admin's fragments.
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

/// Appends a directory; gives the number of its files that had content. `bump` says that something came before.
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

/// The lines of a file that count, joined with one blank.
pub fn contents(bytes: &[u8]) -> Vec<u8> {
    lines(bytes).map(|(_, line)| line).collect::<Vec<_>>().join(&b' ')
}

/// The words of a file, for one that is not part of the line.
pub fn words_of(bytes: &[u8], path: &Path) -> Vec<CmdlineWord> {
    let mut buffer = Buffer::default();
    buffer.add_contents(bytes, path);
    buffer.words(0..buffer.bytes.len())
}

/// The lines of a file that count, with their numbers: stripped, not empty, no comment.
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

/// A line under construction. Each byte knows its place: an index into `places`, [`JOINT`] for a blank that joins.
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

    /// Appends the lines of a file that count, joined with one blank; true when there were any.
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

    /// Cuts what follows the first NUL behind `start`; gives the line that it stood in.
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

/// Takes the removals out. The line is held in a buffer with a length beside it, as clr-boot-manager holds it: a
/// removal file that cannot be opened strips the buffer but not the length, and leaves a NUL behind.
fn remove(line: &mut Buffer, sources: &CmdlineSources) -> Vec<Removed> {
    let mut removed = Vec::new();
    let mut length = line.bytes.len();
    line.add(b"\0", JOINT);
    for removal in &sources.removals {
        let stripped = strip_end(&line.bytes[..length]).len();
        // An empty line has no end to strip.
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
    // Its NUL is ours, or stands where a blank was stripped.
    line.cut_at_nul(0);
    removed
}

/// Takes the first occurrence of `text` out, when it ends there; gives the new length.
fn remove_one(line: &mut Buffer, length: usize, text: &[u8]) -> (usize, Effect) {
    let Some(start) = memchr::memmem::find(&line.bytes[..length], text) else {
        return (length, Effect::NotThere);
    };
    let mut size = text.len();
    // The character after it is looked at, the one before it is not; later occurrences are not tried.
    if !matches!(line.bytes[start + size], 0 | b' ') {
        return (length, Effect::NotAtAnEnd);
    }
    let end = start + size;
    // The words that lose something, as the kernel splits the line: a blank inside of quotes is no end.
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
