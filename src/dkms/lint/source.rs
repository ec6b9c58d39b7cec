//! The files of a module's source: names, kinds, modes, and the contents of a few. Symlinks are not followed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::makefile::Makefile;
use crate::kernel::module_file::ENDINGS;
use crate::limits::TEXT;
use crate::sys::{FileKind, Root, Stat};

/// How many entries are examined.
const ENTRY_LIMIT: usize = 20_000;
/// The maximum depth.
const DEPTH_LIMIT: usize = 32;
/// How many Makefiles are read.
const MAKEFILE_LIMIT: usize = 100;
/// How many bytes of C files are searched for a licence.
const TEXT_LIMIT: u64 = 32 << 20;

/// The users that may own and write a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// These users, and the group root: for a source that root builds from.
    Users(Vec<u32>),
    /// Its owner, and the group of that user: for a checkout, which concerns that user only.
    Owner,
}

impl Trust {
    /// Why another user can write it.
    fn broken(&self, stat: &Stat) -> Option<String> {
        let writes = |bit: u32| stat.mode & bit != 0;
        match self {
            _ if stat.kind == FileKind::Link => None,
            _ if writes(0o002) => Some("everybody can write it".to_owned()),
            Trust::Users(users) if !users.contains(&stat.owner) => {
                Some(format!("it belongs to user {}", stat.owner))
            }
            // By convention a group with the number of a trusted user is the private group of that user.
            Trust::Users(users) if writes(0o020) && stat.group != 0 && !users.contains(&stat.group) => {
                Some(format!("group {} can write it", stat.group))
            }
            Trust::Users(_) | Trust::Owner => None,
        }
    }
}

/// A file or directory that another user can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writable {
    /// Relative to the source directory; empty for the directory itself.
    pub path: PathBuf,
    /// The reason.
    pub why: String,
}

/// An entry in the source directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceEntry {
    /// Its kind. Symlinks are not followed.
    pub kind: FileKind,
    /// Its permissions.
    pub mode: u32,
}

/// The files of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFiles {
    /// All entries, by path relative to the directory.
    pub entries: BTreeMap<PathBuf, SourceEntry>,
    /// There is something to compile, or an archive to unpack and compile.
    pub sources: bool,
    /// Compiled modules, relative to the directory.
    pub compiled: Vec<PathBuf>,
    /// Entries that another user can write.
    pub writable: Vec<Writable>,
    /// Directories that could not be listed.
    pub unseen: Vec<String>,
    /// There are more entries than the limit.
    pub cut: bool,
    /// All Makefiles and Kbuild files that were read, by path relative to the directory.
    pub makefiles: BTreeMap<PathBuf, Makefile>,
    /// Whether a C file contains `MODULE_LICENSE`; none if not every source could be searched.
    pub is_licensed: Option<bool>,
}

impl SourceFiles {
    /// Everything was examined: what was not found does not exist.
    pub fn is_whole(&self) -> bool {
        self.unseen.is_empty() && !self.cut
    }

    /// A `Makefile` or `Kbuild` is in the directory itself.
    pub fn has_makefile(&self) -> bool {
        ["Makefile", "Kbuild"].iter().any(|name| self.entries.contains_key(Path::new(name)))
    }

    /// Files that may have been meant as the `dkms.conf` of this source: in a subdirectory, or templates.
    pub fn other_confs(&self) -> Vec<&Path> {
        let is_conf = |path: &Path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // `NAME.dkms` is the file that debhelper installs as dkms.conf. Some projects have a
            // Makefile.dkms, which calls dkms.
            let is_debhelpers = name.ends_with(".dkms") && !name.to_lowercase().starts_with("makefile");
            name.starts_with("dkms.conf") || is_debhelpers
        };
        let mut found: Vec<&Path> = self
            .entries
            .iter()
            .filter(|(path, entry)| entry.kind != FileKind::Directory && is_conf(path))
            .map(|(path, _)| path.as_path())
            .collect();
        // One that can be used as it is comes before templates.
        found.sort_by_key(|path| path.file_name().is_none_or(|name| name != "dkms.conf"));
        found
    }

    /// Examines the files of a directory.
    pub fn observe(root: &Root, directory: &Path, trust: &Trust) -> SourceFiles {
        let mut found = SourceFiles::default();
        // The caller has resolved a symlink that leads to the directory.
        found.judge(root.lookup(directory).stat(), PathBuf::new(), trust);
        let mut waiting = vec![(PathBuf::new(), 0)];
        while let Some((below, depth)) = waiting.pop() {
            let listed = match root.list(directory.join(&below)) {
                Ok(listed) => listed,
                Err(e) => {
                    found.unseen.push(e.to_string());
                    continue;
                }
            };
            for entry in listed {
                if found.entries.len() >= ENTRY_LIMIT {
                    found.cut = true;
                    return found;
                }
                let path = below.join(&entry.name);
                let stat = root.lookup_link(directory.join(&path)).stat();
                let mode = stat.as_ref().map_or(0, |stat| stat.mode);
                found.judge(stat, path.clone(), trust);
                found.entries.insert(path.clone(), SourceEntry { kind: entry.kind, mode });
                match entry.kind {
                    FileKind::Directory if depth >= DEPTH_LIMIT => found.cut = true,
                    // The data of git are not part of the source, and are large.
                    FileKind::Directory if entry.name == ".git" => {}
                    FileKind::Directory => waiting.push((path, depth + 1)),
                    FileKind::File | FileKind::Link => found.sort(path),
                    FileKind::Other => {}
                }
            }
        }
        found.compiled.sort();
        found.writable.sort_by(|a, b| a.path.cmp(&b.path));
        found.read(root, directory);
        found
    }

    fn judge(&mut self, stat: Option<Stat>, path: PathBuf, trust: &Trust) {
        if let Some(why) = stat.and_then(|stat| trust.broken(&stat)) {
            self.writable.push(Writable { path, why });
        }
    }

    fn sort(&mut self, path: PathBuf) {
        if ends(&path, &ENDINGS) {
            self.compiled.push(path);
        } else if is_c(&path) || ends(&path, &OTHER_SOURCES) {
            self.sources = true;
        }
    }

    /// Reads the Makefiles, and searches for a licence.
    fn read(&mut self, root: &Root, directory: &Path) {
        let mut left = TEXT_LIMIT;
        let mut license = Some(false);
        for (path, entry) in &self.entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_makefile = ["Makefile", "Kbuild"].contains(&&*name);
            let may_have_license = license != Some(true) && (is_c(path) || ends(path, &[".h"]));
            if entry.kind == FileKind::Directory || !(is_makefile || may_have_license) {
                // Only C can be searched.
                if license == Some(false) && ends(path, &OTHER_SOURCES) {
                    license = None;
                }
                continue;
            }
            if is_makefile && self.makefiles.len() >= MAKEFILE_LIMIT {
                self.cut = true;
                continue;
            }
            let bytes = match entry.kind {
                // What is too large or cannot be read is not examined.
                FileKind::File => root.read_within(directory.join(path), TEXT.min(left)).ok(),
                _ => None,
            };
            match bytes {
                Some(bytes) if is_makefile => {
                    self.makefiles.insert(path.clone(), Makefile::read(&bytes));
                }
                // A Makefile that cannot be read may name any module.
                None if is_makefile => self.cut |= entry.kind == FileKind::File,
                Some(bytes) => {
                    left -= bytes.len() as u64;
                    if memchr::memmem::find(&bytes, b"MODULE_LICENSE").is_some() {
                        license = Some(true);
                    }
                }
                None => license = None,
            }
        }
        self.is_licensed = license.filter(|licensed| *licensed || (self.is_whole() && self.sources));
    }
}

/// Files that are compiled, or unpacked and compiled, and are not C.
const OTHER_SOURCES: [&str; 16] = [
    ".S",
    ".s",
    ".cc",
    ".cpp",
    ".rs",
    ".o",
    ".o_shipped",
    ".o_binary",
    ".patch",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.xz",
    ".tar.bz2",
    ".tar.zst",
    ".zip",
];

fn is_c(path: &Path) -> bool {
    ends(path, &[".c"])
}

fn ends(path: &Path, endings: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    endings.iter().any(|ending| name.ends_with(ending))
}
