//! The files of a module's source, as far as their names, kinds and modes tell something. No link is followed.

use std::path::{Path, PathBuf};

use crate::sys::{FileKind, Root, Stat};

/// How many entries are looked at.
const ENTRY_LIMIT: usize = 20_000;
/// How deep.
const DEPTH_LIMIT: usize = 32;

/// Who may own and write a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// These users; and the group root: a source that root builds from.
    Users(Vec<u32>),
    /// Whoever owns it, and that user's group: a checkout that is nobody else's business.
    Owner,
}

impl Trust {
    /// Why somebody else can write it.
    fn broken(&self, stat: &Stat) -> Option<String> {
        let writes = |bit: u32| stat.mode & bit != 0;
        match self {
            _ if stat.kind == FileKind::Link => None,
            _ if writes(0o002) => Some("everybody can write it".to_owned()),
            Trust::Users(users) if !users.contains(&stat.owner) => {
                Some(format!("it belongs to user {}", stat.owner))
            }
            // A group of the same number as a trusted user is that user's own, by custom.
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
    /// Below the source directory; empty for the directory itself.
    pub path: PathBuf,
    /// Who can.
    pub why: String,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceFiles {
    /// A `Makefile` or `Kbuild` is in the directory itself.
    pub makefile: bool,
    /// There is something to compile, or to unpack and compile.
    pub sources: bool,
    /// Compiled modules, below the directory.
    pub compiled: Vec<PathBuf>,
    /// What another user can write.
    pub writable: Vec<Writable>,
    /// Directories that could not be looked into.
    pub unseen: Vec<String>,
    /// There was more than is looked at.
    pub cut: bool,
}

impl SourceFiles {
    /// Everything was seen: what was not found is not there.
    pub fn is_whole(&self) -> bool {
        self.unseen.is_empty() && !self.cut
    }

    /// Looks at the files of a directory.
    pub fn observe(root: &Root, directory: &Path, trust: &Trust) -> SourceFiles {
        let mut found = SourceFiles::default();
        // A link that leads to the directory has been followed once, by anyone that gave it.
        found.judge(root.lookup(directory).stat(), PathBuf::new(), trust);
        let mut waiting = vec![(PathBuf::new(), 0)];
        let mut entries = 0;
        while let Some((below, depth)) = waiting.pop() {
            let listed = match root.list(directory.join(&below)) {
                Ok(listed) => listed,
                Err(e) => {
                    found.unseen.push(e.to_string());
                    continue;
                }
            };
            for entry in listed {
                entries += 1;
                if entries > ENTRY_LIMIT {
                    found.cut = true;
                    return found;
                }
                let path = below.join(&entry.name);
                found.judge(root.lookup_link(directory.join(&path)).stat(), path.clone(), trust);
                match entry.kind {
                    FileKind::Directory if depth >= DEPTH_LIMIT => found.cut = true,
                    // What git keeps is no source, and there is much of it.
                    FileKind::Directory if entry.name == ".git" => {}
                    FileKind::Directory => waiting.push((path, depth + 1)),
                    FileKind::File | FileKind::Link => found.sort(path, depth == 0),
                    FileKind::Other => {}
                }
            }
        }
        found.compiled.sort();
        found.writable.sort_by(|a, b| a.path.cmp(&b.path));
        found
    }

    fn judge(&mut self, stat: Option<Stat>, path: PathBuf, trust: &Trust) {
        if let Some(why) = stat.and_then(|stat| trust.broken(&stat)) {
            self.writable.push(Writable { path, why });
        }
    }

    fn sort(&mut self, path: PathBuf, top: bool) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
        self.makefile |= top && ["Makefile", "Kbuild"].contains(&name.as_str());
        if ends(&[".ko", ".ko.gz", ".ko.xz", ".ko.zst"]) {
            self.compiled.push(path);
        } else if ends(&[".c", ".S", ".s", ".cc", ".cpp", ".rs", ".o", ".o_shipped", ".o_binary", ".patch"])
            || ends(&[".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst", ".zip"])
        {
            self.sources = true;
        }
    }
}
