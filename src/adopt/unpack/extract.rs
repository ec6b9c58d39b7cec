//! Writes the entries of a foreign source into a scratch directory, and refuses hostile ones.
//!
//! Nothing is written through a symlink: the scratch directory is a root of its own, and an entry below a
//! symlink is refused. The rules for symlinks keep each of them inside the source, so that a copy of the
//! source is complete.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use crate::adopt::side_files::LARGEST;
use crate::limits::{ADOPTED_DEPTH, ADOPTED_ENTRIES, ADOPTED_SOURCE};
use crate::sys::{FileError, FileKind, Root, stays_inside};

/// The longest name of a file, and the longest path, that Linux accepts.
const LONGEST_NAME: usize = 255;
const LONGEST_PATH: usize = 4095;
/// The most side files of a package.
const MOST_BESIDE: usize = 64;

/// Why an entry is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    #[error("its name is empty")]
    NoName,
    #[error("its name is not valid UTF-8")]
    NotText,
    #[error("its name has a control character")]
    ControlCharacter,
    #[error("its path contains `..`")]
    Upwards,
    #[error("its path is absolute")]
    Absolute,
    #[error("its name is longer than {LONGEST_NAME} bytes, or its path longer than {LONGEST_PATH}")]
    TooLong,
    #[error("it is nested deeper than {ADOPTED_DEPTH} directories")]
    TooDeep,
    #[error("it is a hard link")]
    HardLink,
    #[error("it is a device, a FIFO or a socket")]
    Special,
    #[error("it is a sparse file")]
    Sparse,
    #[error("it is of an unknown type")]
    UnknownType,
    #[error("it is encrypted")]
    Encrypted,
    #[error("it is a symlink to {0}, which is outside of the source")]
    LinkOut(String),
    #[error("it is a symlink to an absolute path, {0}")]
    LinkAbsolute(String),
    #[error("it is a symlink without a valid target")]
    LinkTarget,
    #[error("{0} is a symlink, and nothing may be written through it")]
    BelowLink(String),
    #[error("{0} is a file, not a directory")]
    BelowFile(String),
    #[error("it occurs twice")]
    Twice,
    #[error("with it the source is larger than {} MiB", ADOPTED_SOURCE >> 20)]
    TooLarge,
    #[error("with it the source has more than {ADOPTED_ENTRIES} entries")]
    TooMany,
    #[error("it is truncated")]
    Truncated,
    #[error("it cannot be read: {0}")]
    Damaged(String),
}

/// Why a source was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry is refused.
    #[error("{}: {fault}", name.escape_debug())]
    Entry { name: String, fault: EntryFault },
    /// It cannot be opened. `path`: its path, as it was given.
    #[error("cannot open {}: {reason}", path.display())]
    NotOpened { path: PathBuf, reason: io::Error },
    /// It is not an archive of a known format.
    #[error("it is not an archive that is known")]
    Format,
    /// The whole of it is refused.
    #[error("{0}")]
    Source(String),
    /// A file of this machine cannot be read or written.
    #[error("{0}")]
    File(#[from] FileError),
}

/// What an entry is.
pub(super) enum Entry<'e> {
    Directory,
    File { size: u64, mode: u32, body: &'e mut dyn Read },
    Symlink(&'e [u8]),
    Refused(EntryFault),
}

/// An extraction below a directory of the scratch root.
pub(super) struct Extraction<'r> {
    root: &'r Root,
    below: PathBuf,
    written: BTreeMap<PathBuf, FileKind>,
    left: u64,
    beside: Vec<(PathBuf, String)>,
}

impl<'r> Extraction<'r> {
    pub(super) fn new(root: &'r Root, below: &str) -> Result<Extraction<'r>, UnpackError> {
        root.make_directories(below)?;
        Ok(Extraction {
            root,
            below: PathBuf::from(below),
            written: BTreeMap::new(),
            left: ADOPTED_SOURCE,
            beside: Vec::new(),
        })
    }

    /// Writes one entry. `name` is relative to the directory.
    pub(super) fn take(&mut self, name: &[u8], entry: Entry<'_>) -> Result<(), UnpackError> {
        let fail =
            |fault| Err(UnpackError::Entry { name: String::from_utf8_lossy(name).into_owned(), fault });
        let path = match clean(name) {
            Ok(path) => path,
            Err(fault) => return fail(fault),
        };
        let is_directory = matches!(entry, Entry::Directory);
        if path.as_os_str().is_empty() {
            return if is_directory { Ok(()) } else { fail(EntryFault::NoName) };
        }
        if let Err(fault) = self.place(&path, is_directory) {
            return fail(fault);
        }
        let target = self.below.join(&path);
        let kind = match entry {
            Entry::Refused(fault) => return fail(fault),
            Entry::Directory => {
                self.root.make_directories(&target)?;
                FileKind::Directory
            }
            Entry::Symlink(text) => {
                let text = match link_target(&path, text) {
                    Ok(text) => text,
                    Err(fault) => return fail(fault),
                };
                self.root.make_directories(target.parent().unwrap_or(&target))?;
                self.root.link(&target, &text)?;
                FileKind::Link
            }
            Entry::File { size, mode, body } => {
                if size > self.left {
                    return fail(EntryFault::TooLarge);
                }
                let mode = if mode & 0o111 == 0 { 0o644 } else { 0o755 };
                let mut file = self.root.create_new(&target, mode)?;
                // What is declared may be less than what comes.
                match io::copy(&mut body.take(size + 1), &mut file) {
                    Ok(copied) if copied < size => return fail(EntryFault::Truncated),
                    Ok(copied) if copied > size => {
                        return fail(EntryFault::Damaged("it is larger than it says".to_owned()));
                    }
                    Ok(_) => self.left -= size,
                    Err(e) => return fail(EntryFault::Damaged(e.to_string())),
                }
                FileKind::File
            }
        };
        self.written.insert(path, kind);
        Ok(())
    }

    /// Keeps the text of a small file of a package that is not a part of its source. Other files of these
    /// directories are not used.
    pub(super) fn keep(&mut self, name: &[u8], size: u64, body: &mut dyn Read) -> Result<(), UnpackError> {
        let Ok(path) = clean(name) else { return Ok(()) };
        let is_wanted = size <= LARGEST as u64 && self.beside.len() < MOST_BESIDE;
        let mut bytes = Vec::new();
        if is_wanted && !self.beside.iter().any(|(known, _)| *known == path) {
            let read = body.take(size).read_to_end(&mut bytes);
            read.map_err(|e| UnpackError::Source(format!("the package is damaged: {e}")))?;
            // Files that are not text are not side files of a module.
            self.beside.extend(String::from_utf8(bytes).ok().map(|text| (path, text)));
        }
        Ok(())
    }

    /// The files that [`Extraction::keep`] kept.
    pub(super) fn beside(&self) -> &[(PathBuf, String)] {
        &self.beside
    }

    /// Checks that nothing is in the way of an entry.
    fn place(&mut self, path: &Path, is_directory: bool) -> Result<(), EntryFault> {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            match self.written.get(parent) {
                Some(FileKind::Link) => return Err(EntryFault::BelowLink(parent.display().to_string())),
                Some(FileKind::File | FileKind::Other) => {
                    return Err(EntryFault::BelowFile(parent.display().to_string()));
                }
                Some(FileKind::Directory) => {}
                None => {
                    self.written.insert(parent.to_owned(), FileKind::Directory);
                }
            }
        }
        if self.written.len() >= ADOPTED_ENTRIES {
            return Err(EntryFault::TooMany);
        }
        match self.written.get(path) {
            None => Ok(()),
            Some(FileKind::Directory) if is_directory => Ok(()),
            Some(_) => Err(EntryFault::Twice),
        }
    }

    /// The names at the top, with whether each is a directory.
    pub(super) fn tops(&self) -> Vec<(String, bool)> {
        let at_top = self.written.iter().filter(|(path, _)| path.components().count() == 1);
        at_top.map(|(path, kind)| (path.display().to_string(), *kind == FileKind::Directory)).collect()
    }

    /// Nothing was written.
    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty()
    }
}

/// A name without `.`, if it is one that may be written.
fn clean(name: &[u8]) -> Result<PathBuf, EntryFault> {
    let text = std::str::from_utf8(name).map_err(|_| EntryFault::NotText)?;
    if text.is_empty() {
        return Err(EntryFault::NoName);
    }
    if text.chars().any(char::is_control) {
        return Err(EntryFault::ControlCharacter);
    }
    if text.len() > LONGEST_PATH || text.split('/').any(|part| part.len() > LONGEST_NAME) {
        return Err(EntryFault::TooLong);
    }
    let mut path = PathBuf::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => return Err(EntryFault::Upwards),
            Component::RootDir | Component::Prefix(_) => return Err(EntryFault::Absolute),
        }
    }
    match path.components().count() {
        depth if depth > ADOPTED_DEPTH => Err(EntryFault::TooDeep),
        _ => Ok(path),
    }
}

/// The target of a symlink at `path`, if it stays inside.
fn link_target(path: &Path, text: &[u8]) -> Result<PathBuf, EntryFault> {
    let text = std::str::from_utf8(text).map_err(|_| EntryFault::LinkTarget)?;
    if text.is_empty() || text.chars().any(char::is_control) || text.len() > LONGEST_PATH {
        return Err(EntryFault::LinkTarget);
    }
    if Path::new(text).is_absolute() {
        return Err(EntryFault::LinkAbsolute(text.to_owned()));
    }
    if !stays_inside(path, Path::new(text)) {
        return Err(EntryFault::LinkOut(text.to_owned()));
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, expected) in [
            (&b"a/b.c"[..], Ok("a/b.c")),
            (b"./a/./b", Ok("a/b")),
            (b"./", Ok("")),
            (b"a b (c)/\xc3\xa4", Ok("a b (c)/\u{e4}")),
            (b"", Err(EntryFault::NoName)),
            (b"../a", Err(EntryFault::Upwards)),
            (b"a/../../b", Err(EntryFault::Upwards)),
            (b"/etc/passwd", Err(EntryFault::Absolute)),
            (b"a\nb", Err(EntryFault::ControlCharacter)),
            (b"\xff", Err(EntryFault::NotText)),
            (&[b'a'; 256], Err(EntryFault::TooLong)),
            (&b"a/".repeat(33), Err(EntryFault::TooDeep)),
        ] {
            assert_eq!(clean(name), expected.map(PathBuf::from), "{name:?}");
        }
    }

    #[test]
    fn symlinks_stay_inside() {
        let is_kept = |path: &str, text: &str| link_target(Path::new(path), text.as_bytes()).is_ok();
        for (path, text) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a", "./b/c")] {
            assert!(is_kept(path, text), "{path} {text}");
        }
        for (path, text) in
            [("a", "/etc"), ("a", ".."), ("a/b", "../.."), ("a", ""), ("a/b", "x/../.."), ("a", "b\0")]
        {
            assert!(!is_kept(path, text), "{path} {text}");
        }
    }
}
