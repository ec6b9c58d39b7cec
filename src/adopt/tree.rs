//! The files of an unpacked source.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::evidence::{AdoptError, Evidence};
use crate::dkms::lint::makefile::{KbuildObject, Makefile};
use crate::limits::{ADOPTED_ENTRIES, TEXT};
use crate::sys::{FileKind, Root};

/// The names of files that kbuild reads.
pub(super) const MAKEFILES: [&str; 3] = ["Kbuild", "Makefile", "makefile"];
/// How many C files are searched for a version.
const MOST_SEARCHED: usize = 2_000;

/// A Makefile or Kbuild file.
#[derive(Debug)]
pub(super) struct KbuildFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) makefile: Makefile,
}

impl KbuildFile {
    /// Its directory; empty at the top.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The directory of a module's file.
    pub(super) fn place(&self, object: &KbuildObject) -> PathBuf {
        plain(&self.directory().join(&object.directory))
    }

    pub(super) fn evidence(&self, line: usize) -> Evidence {
        Evidence::of(&self.path, line, &self.text)
    }
}

/// A source below a scratch root.
#[derive(Debug)]
pub(super) struct SourceTree<'r> {
    root: &'r Root,
    top: PathBuf,
    pub(super) entries: BTreeMap<PathBuf, FileKind>,
    pub(super) kbuild: Vec<KbuildFile>,
    /// The first failed read of a file, as a sentence.
    unread: RefCell<Option<String>>,
}

impl<'r> SourceTree<'r> {
    /// Lists the source in a directory of a scratch root, and reads its Makefiles.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(super) fn observe(root: &'r Root, top: &Path) -> Result<SourceTree<'r>, AdoptError> {
        let (entries, kbuild) = (BTreeMap::new(), Vec::new());
        let mut tree = SourceTree { root, top: top.to_owned(), entries, kbuild, unread: RefCell::default() };
        let mut waiting = vec![PathBuf::new()];
        while let Some(directory) = waiting.pop() {
            for entry in root.list(top.join(&directory))? {
                let path = directory.join(&entry.name);
                if entry.kind == FileKind::Directory {
                    waiting.push(path.clone());
                }
                tree.entries.insert(path, entry.kind);
                if tree.entries.len() > ADOPTED_ENTRIES {
                    return Err(AdoptError::Unknown("it has too many files".to_owned()));
                }
            }
        }
        let makefiles: Vec<PathBuf> =
            tree.files().filter(|path| MAKEFILES.contains(&name_of(path))).map(Path::to_owned).collect();
        for path in makefiles {
            if let Some(text) = tree.text(&path) {
                let makefile = Makefile::read((text.clone() + &tree.included(&path, &text)).as_bytes());
                tree.kbuild.push(KbuildFile { path, text, makefile });
            }
        }
        tree.is_read()?;
        Ok(tree)
    }

    /// # Errors
    /// When a file could not be read: what was found without it is unknown.
    pub(super) fn is_read(&self) -> Result<(), AdoptError> {
        self.unread.borrow().clone().map_or(Ok(()), |why| Err(AdoptError::Unknown(why)))
    }

    /// The text of files in the same directory that a Makefile includes. Behind its own text: the lines keep
    /// their numbers.
    fn included(&self, path: &Path, text: &str) -> String {
        let named = |line: &str| {
            let words = line.trim_start().split_once(char::is_whitespace)?;
            let name = name_of(Path::new(words.1.split('#').next().unwrap_or_default().trim())).to_owned();
            ["include", "-include", "sinclude"].contains(&words.0).then_some(name)
        };
        let texts = text.lines().filter_map(named).filter(|name| !MAKEFILES.contains(&name.as_str()));
        texts
            .filter_map(|name| self.text(&path.with_file_name(name)))
            .map(|text| format!("\n{text}"))
            .collect()
    }

    /// The files and symlinks.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = self.entries.iter().filter(|(_, kind)| **kind != FileKind::Directory);
        files.map(|(path, _)| path.as_path())
    }

    /// The text of a file; none if there is no such file, it is too large, or it is not text. Every other
    /// error is kept for [`SourceTree::is_read`].
    pub(super) fn text(&self, path: &Path) -> Option<String> {
        self.read(path).ok()
    }

    /// As [`SourceTree::text`], with the reason why there is none.
    pub(super) fn read(&self, path: &Path) -> Result<String, String> {
        match self.root.read_within(self.top.join(path), TEXT) {
            Ok(bytes) if bytes.contains(&0) => Err("it is not a text".to_owned()),
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(e) => {
                if !e.is_absent() && !e.is_no_file() && e.cause.kind() != ErrorKind::FileTooLarge {
                    self.unread.borrow_mut().get_or_insert(e.to_string());
                }
                Err(e.cause.to_string())
            }
        }
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || self.entries.get(path) == Some(&FileKind::Directory)
    }

    /// Whether a directory has a Makefile.
    pub(super) fn has_makefile(&self, directory: &Path) -> bool {
        MAKEFILES.iter().any(|name| self.entries.contains_key(&directory.join(name)))
    }

    /// The C files below a directory, with their headers.
    pub(super) fn c_files(&self, below: &Path) -> impl Iterator<Item = &Path> {
        let is_c = |path: &&Path| path.extension().is_some_and(|ending| ending == "c" || ending == "h");
        self.files().filter(move |path| path.starts_with(below)).filter(is_c).take(MOST_SEARCHED)
    }

    /// The path in the scratch root.
    pub(super) fn path(&self, path: &Path) -> PathBuf {
        self.top.join(path)
    }
}

/// The name of a file, as far as it is text.
pub(super) fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// A relative path without `.` and, where that is possible, without `..`.
pub(super) fn plain(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut found = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if found.file_name().is_some() => drop(found.pop()),
            Component::CurDir => {}
            other => found.push(other),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::RootKind;

    #[test]
    fn a_file_that_cannot_be_read_is_not_an_absent_one() {
        // Nothing is mapped at address 0, so that a read there is EIO.
        let root = Root::open(RootKind::Image, Path::new("/proc/self")).unwrap();
        let (entries, kbuild) = (BTreeMap::new(), Vec::new());
        let tree = SourceTree { root: &root, top: "/".into(), entries, kbuild, unread: RefCell::default() };
        assert_eq!((tree.text(Path::new("no-such-file")), tree.text(Path::new("task"))), (None, None));
        tree.is_read().unwrap();
        assert_eq!(tree.text(Path::new("mem")), None);
        assert!(matches!(tree.is_read(), Err(AdoptError::Unknown(why)) if why.contains("/mem: ")));
    }
}
