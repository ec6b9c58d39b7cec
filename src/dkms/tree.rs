//! The DKMS tree as it is on disk: which modules are registered, built and installed for which kernel.
//!
//! The layout is that of dkms 3.0.10 (Debian 12) and 3.2.1 (Clear Linux). Reading it gives the same answers
//! as `dkms status`, in milliseconds instead of seconds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::conf::is_placeholder;
use super::{ModuleName, architecture, compare_versions, is_usable_name};
use crate::kernel::inventory::Oddity;
use crate::limits::TEXT;
use crate::sys::{Directory, FileKind, Listed, Presence, Root};

/// The default location of the tree.
pub const TREE: &str = "/var/lib/dkms";
/// The directory of the sources.
pub const SOURCES: &str = "/usr/src";

/// How far dkms has got with a module on a kernel, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Only registered.
    Added,
    /// There is a directory for the kernel without built files. Every further build then fails with exit code
    /// 3.
    HalfBuilt,
    /// The tree has built files.
    Built,
    /// The tree marks them as installed.
    Installed,
}

/// The source directory of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It exists. `portable`: the link has the same target from outside the root as from inside.
    Directory { path: PathBuf, portable: bool },
    /// The link is missing or dangling.
    Broken { reason: String },
    /// It cannot be determined.
    Unknown { reason: String },
}

/// A registered module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name and version.
    pub module: ModuleName,
    /// Its source.
    pub source: Source,
    /// The kernel releases (for this architecture) with a directory, and whether it has a `module/`.
    pub builds: BTreeMap<String, bool>,
}

/// The tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Sorted by name, and by descending version for each name.
    pub modules: Vec<Registered>,
    /// The version of a module that is installed on a kernel: (name, release) to version.
    pub installed: BTreeMap<(String, String), String>,
    /// Irregularities.
    pub oddities: Vec<Oddity>,
    /// Why the tree could not be listed. Then nothing may be concluded from the absence of a module.
    pub unreadable: Option<String>,
}

impl Tree {
    /// Reads the tree at [`TREE`].
    pub fn observe(root: &Root) -> Tree {
        let mut tree = Tree::default();
        let architecture = architecture();
        let entries = match root.list_optional(TREE) {
            Ok(entries) => entries,
            Err(e) => {
                tree.unreadable = Some(e.to_string());
                return tree;
            }
        };
        for entry in &entries {
            if is_directory(root, TREE, entry)
                && let Some(name) = tree.usable(TREE, entry)
            {
                tree.read_module(root, &name, &architecture);
            }
        }
        tree
    }

    /// The newest version of each module.
    pub fn newest(&self) -> impl Iterator<Item = &Registered> {
        let modules = &self.modules;
        modules
            .iter()
            .enumerate()
            .filter(|(at, m)| *at == 0 || modules[at - 1].module.name != m.module.name)
            .map(|(_, m)| m)
    }

    /// How far dkms has got with a module on a kernel.
    pub fn stage(&self, registered: &Registered, release: &str) -> Stage {
        let name = &registered.module;
        let built = registered.builds.get(release);
        let claimed = self.installed_version(&name.name, release) == Some(name.version.as_str());
        match built {
            Some(true) if claimed => Stage::Installed,
            Some(true) => Stage::Built,
            Some(false) => Stage::HalfBuilt,
            None => Stage::Added,
        }
    }

    /// The version of a module that dkms marks as installed on a kernel.
    pub fn installed_version(&self, name: &str, release: &str) -> Option<&str> {
        self.installed.get(&(name.to_owned(), release.to_owned())).map(String::as_str)
    }

    fn usable(&mut self, directory: &str, entry: &Listed) -> Option<String> {
        let shown = entry.name.to_string_lossy().escape_debug().to_string();
        match entry.text().filter(|n| is_usable_name(n)) {
            Some(name) => Some(name.to_owned()),
            None if shown.starts_with('.') => None,
            None => {
                let what = "has a name that dkms cannot take; it is left alone".to_owned();
                self.oddities.push(Oddity { path: format!("{directory}/{shown}"), what });
                None
            }
        }
    }

    fn read_module(&mut self, root: &Root, name: &str, architecture: &str) {
        let directory = format!("{TREE}/{name}");
        let entries = match root.list(&directory) {
            Ok(entries) => entries,
            Err(e) => {
                self.unreadable.get_or_insert(e.to_string());
                return;
            }
        };
        let mut versions = Vec::new();
        // A failed read is in `Root::unread`; see `claimed_version` for the rest.
        let opened = root.open_directory(&directory).ok();
        for entry in &entries {
            let text = entry.text().unwrap_or_default();
            if let Some(kernel) = text.strip_prefix("kernel-").and_then(|k| k.strip_suffix(architecture)) {
                let Some(release) = kernel.strip_suffix('-') else {
                    continue;
                };
                if entry.kind == FileKind::Link
                    && let Some(version) = opened
                        .as_ref()
                        .and_then(|directory| claimed_version(directory, text, release, architecture))
                {
                    self.installed.insert((name.to_owned(), release.to_owned()), version);
                }
            } else if text != "original_module"
                && !text.starts_with("kernel-")
                && is_directory(root, &directory, entry)
            {
                let placeholder = entry.text().filter(|version| is_placeholder_version(version));
                versions.extend(match placeholder {
                    Some(version) => Some(version.to_owned()),
                    None => self.usable(&directory, entry),
                });
            }
        }
        versions.sort_by(|a, b| compare_versions(b, a));
        for version in versions {
            let module = ModuleName { name: name.to_owned(), version };
            let Some(source) = source(root, &module) else {
                continue;
            };
            let builds = builds(root, &module, architecture);
            self.modules.push(Registered { module, source, builds });
        }
    }
}

/// Whether dkms, which checks `[[ -d … ]]`, treats an entry as a directory: symlinks to one count. The
/// symlink is resolved inside the root.
fn is_directory(root: &Root, parent: &str, entry: &Listed) -> bool {
    match entry.kind {
        FileKind::Directory => true,
        FileKind::Link => {
            entry.text().is_some_and(|name| root.lookup(format!("{parent}/{name}")).is(FileKind::Directory))
        }
        FileKind::File | FileKind::Other => false,
    }
}

/// The version in the target of a `kernel-K-A` link, if that is the relative path `VERSION/K/A` that dkms
/// writes.
fn claimed_version(below: &Directory<'_>, link: &str, release: &str, architecture: &str) -> Option<String> {
    // A link that cannot be read counts as absent. The module is then not installed, and a run examines it.
    let text = below.read_link(link).ok()?;
    let rest = Path::new(release).join(architecture);
    let version = text.to_str()?.strip_suffix(rest.to_str()?)?.strip_suffix('/')?;
    is_usable_name(version).then(|| version.to_owned())
}

/// Whether a version is the unexpanded `#MODULE_VERSION#` from the dkms.conf of a source repository. `dkms
/// add` accepts it, but no build can succeed.
fn is_placeholder_version(version: &str) -> bool {
    version.contains('#') && is_placeholder(version) && is_usable_name(&version.replace('#', "_"))
}

/// Why a module with such a version cannot be built, with the line in its `dkms.conf`.
fn placeholder(root: &Root, module: &ModuleName) -> Source {
    let version = &module.version;
    let conf = format!("{TREE}/{module}/source/dkms.conf");
    // Without the file, the version alone is the reason.
    let text = root.read_within(conf, TEXT).unwrap_or_default();
    let line =
        text.split(|b| *b == b'\n').position(|line| memchr::memmem::find(line, version.as_bytes()).is_some());
    let at = line.map(|line| format!(", line {}", line + 1)).unwrap_or_default();
    let reason =
        format!("its dkms.conf{at}: PACKAGE_VERSION is {version:?}, a placeholder that no build can have");
    Source::Broken { reason }
}

/// The source of a module; none if dkms would not list the module at all.
fn source(root: &Root, module: &ModuleName) -> Option<Source> {
    if !is_usable_name(&module.version) {
        return Some(placeholder(root, module));
    }
    let link = format!("{TREE}/{module}/source");
    let broken = |reason: String| Some(Source::Broken { reason });
    let unknown = |reason: String| Some(Source::Unknown { reason });
    let text = match root.lookup_link(&link) {
        Presence::There(s) if s.kind == FileKind::Link => match root.read_link(&link) {
            Ok(text) => text,
            Err(e) => return unknown(e.to_string()),
        },
        Presence::Unreadable(e) => return unknown(e.to_string()),
        // Instead of the link there is a directory or nothing: the module is broken if a source exists, and
        // otherwise not listed.
        other => {
            let sources = format!("{SOURCES}/{}-{}", module.name, module.version);
            return match root.lookup(&sources) {
                Presence::Absent if matches!(other, Presence::Absent) => None,
                _ => broken(format!("{} is not a symlink", root.shown_path(&link).display())),
            };
        }
    };
    // dkms on the host, working on a root, writes the path of the host.
    let path = match root.inside(&text).filter(|_| text.is_absolute() && !root.is_slash()) {
        Some(inside) => inside,
        None => PathBuf::from(&link),
    };
    let portable = root.host_finds(&link, &path);
    match root.lookup(&path) {
        Presence::There(s) if s.kind == FileKind::Directory => Some(Source::Directory { path, portable }),
        Presence::Unreadable(e) => unknown(e.to_string()),
        _ => broken(format!("the source directory {} is gone", text.display())),
    }
}

fn builds(root: &Root, module: &ModuleName, architecture: &str) -> BTreeMap<String, bool> {
    let directory = format!("{TREE}/{module}");
    let mut builds = BTreeMap::new();
    // A directory that cannot be listed counts as not built. A build then reports the reason.
    for entry in root.list(&directory).unwrap_or_default() {
        let Some(release) = entry.text().filter(|_| entry.kind == FileKind::Directory) else {
            continue;
        };
        if !release.starts_with(|c: char| c.is_ascii_digit()) || !release.contains('.') {
            continue;
        }
        let kernel = format!("{directory}/{release}/{architecture}");
        let is_built = root.lookup(format!("{kernel}/module")).is(FileKind::Directory);
        if is_built || root.lookup(&kernel).is_there() {
            builds.insert(release.to_owned(), is_built);
        }
    }
    builds
}
