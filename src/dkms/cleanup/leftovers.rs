//! Searches the DKMS tree and the directory of the module trees for leftovers of removed kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::dkms::gc::{GcLeftover, GcRefusal, KeptKernel, Observed, Thing, claimed_release};
use crate::dkms::proof::{INSTALLED, is_dkms_own};
use crate::dkms::replace::name_before;
use crate::dkms::tree::TREE;
use crate::dkms::{ModuleName, architecture, is_usable_name};
use crate::kernel::inventory::{MODULES, module_directory};
use crate::kernel::module_file::stem;
use crate::sys::users::user_of;
use crate::sys::{FileError, FileKind, Listed, Presence, Root};

/// How many bytes of a log are read to find its kernel.
const FIRST_LINES: u64 = 16 << 10;
/// The files that depmod writes, and those that it reads: `modules.order` and `modules.builtin*` come with a
/// kernel.
pub(in crate::dkms) const DEPMOD: [&str; 11] = [
    "modules.alias",
    "modules.alias.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.dep",
    "modules.dep.bin",
    "modules.devname",
    "modules.softdep",
    "modules.symbols",
    "modules.symbols.bin",
    "modules.weakdep",
];
/// Other directories that dkms may install to. A file there belongs to dkms if the tree has a build with its
/// name.
const ELSEWHERE: [&str; 3] = ["extra/", "updates/", "kernel/extra/"];
/// If something is younger than this many nanoseconds, a dkms of an admin may still be working on it: the
/// lock of clr-dkms does not exclude that. One day, because a build may pause while a laptop is suspended,
/// and because removal is not urgent.
const RECENT: i128 = 24 * 3600 * 1_000_000_000;

/// A file or directory that was found.
struct LeftoverPiece {
    path: PathBuf,
    kind: FileKind,
    bytes: u64,
    mtime_ns: i128,
    mounted: bool,
}

/// Collects the leftovers. `now_ns` is the time in nanoseconds since the epoch.
pub fn observe(root: &Root, kept: &KeptKernel, now_ns: i128) -> Observed {
    let mut look = LeftoverScan { root, kept, now_ns, found: Observed::default(), built: BTreeMap::new() };
    for directory in [TREE, MODULES] {
        match root.lookup_link(directory) {
            // The target may belong to another system.
            Presence::There(s) if s.kind != FileKind::Directory => {
                let what = root.shown_path(directory).display().to_string();
                look.found
                    .unreadable
                    .push(format!("{what} is not a directory: its target may belong to another system"));
            }
            Presence::Unreadable(e) => look.unreadable(&e),
            Presence::There(_) | Presence::Absent => {}
        }
    }
    if look.found.unreadable.is_empty() {
        look.tree();
        look.modules();
    }
    look.found
}

struct LeftoverScan<'a> {
    root: &'a Root,
    kept: &'a KeptKernel,
    now_ns: i128,
    found: Observed,
    /// By kernel release: the names, without ending, of the files that dkms has built.
    built: BTreeMap<String, BTreeSet<String>>,
}

impl LeftoverScan<'_> {
    fn unreadable(&mut self, error: &FileError) {
        self.found.unreadable.push(error.to_string());
    }

    fn odd(&mut self, path: &str, why: &str) {
        self.found.odd.push(GcRefusal { what: path.to_owned(), why: why.to_owned() });
    }

    fn list(&mut self, path: &str) -> Vec<Listed> {
        self.root.list_optional(path).unwrap_or_else(|e| {
            self.unreadable(&e);
            Vec::new()
        })
    }

    /// The text of a name below `directory` that dkms could have assigned.
    fn usable(&mut self, directory: &str, entry: &Listed) -> Option<String> {
        match entry.text().filter(|n| is_usable_name(n)) {
            Some(name) => Some(name.to_owned()),
            None => {
                let shown = entry.name.to_string_lossy().escape_debug().to_string();
                self.odd(&format!("{directory}/{shown}"), "has a name that dkms does not give");
                None
            }
        }
    }

    fn mounted(&mut self, path: &str) -> bool {
        match self.root.is_mounted_on(path) {
            Ok(mounted) => mounted,
            Err(e) => {
                self.unreadable(&e);
                true
            }
        }
    }

    fn tree(&mut self) {
        for entry in self.list(TREE) {
            if entry.kind != FileKind::Directory {
                if entry.kind == FileKind::Link {
                    let path = format!("{TREE}/{}", entry.name.to_string_lossy());
                    self.odd(&path, "is a link in the place of a directory");
                }
                continue;
            }
            let Some(name) = self.usable(TREE, &entry) else { continue };
            let directory = format!("{TREE}/{name}");
            if self.mounted(&directory) {
                self.odd(&directory, "is a filesystem of its own");
                continue;
            }
            self.module(&name, &directory);
        }
    }

    fn module(&mut self, name: &str, directory: &str) {
        for entry in self.list(directory) {
            let Some(text) = self.usable(directory, &entry) else { continue };
            let path = format!("{directory}/{text}");
            if text == "original_module" {
                self.originals(&path, entry.kind);
            } else if text.starts_with("kernel-") {
                match claimed_release(&text) {
                    Some(release) => self.claim(release, path, entry.kind),
                    None => self.odd(&path, "is of another architecture"),
                }
            } else if entry.kind != FileKind::Directory {
                self.odd(&path, "is not a directory");
            } else if self.mounted(&path) {
                self.odd(&path, "is a filesystem of its own");
            } else {
                self.version(&ModuleName { name: name.to_owned(), version: text }, &path);
            }
        }
    }

    fn originals(&mut self, directory: &str, kind: FileKind) {
        if kind != FileKind::Directory || self.mounted(directory) {
            self.odd(directory, "is not a plain directory");
            return;
        }
        for entry in self.list(directory) {
            let Some(release) = self.usable(directory, &entry) else { continue };
            let path = format!("{directory}/{release}");
            self.directory_of(release, GcLeftover::Original, path, entry.kind);
        }
    }

    fn claim(&mut self, release: String, path: String, kind: FileKind) {
        let end = format!("/{release}/{}", architecture());
        let blocker = match kind {
            FileKind::Link => match self.root.read_link(&path) {
                Ok(text) => {
                    let version = text.to_str().and_then(|t| t.strip_suffix(&end));
                    let as_dkms = version.is_some_and(is_usable_name);
                    (!as_dkms).then(|| format!("leads to {}, and not where dkms lets it", text.display()))
                }
                Err(e) => return self.unreadable(&e),
            },
            _ => Some("is not a symlink".to_owned()),
        };
        self.found.things.push(Thing { release, left: GcLeftover::Claim, path, bytes: 0, blocker });
    }

    fn version(&mut self, module: &ModuleName, directory: &str) {
        let source = self.root.lookup(format!("{directory}/source/dkms.conf")).is(FileKind::File);
        for entry in self.list(directory) {
            let Some(name) = self.usable(directory, &entry) else { continue };
            let path = format!("{directory}/{name}");
            if name == "build" {
                self.scratch(path, entry.kind);
            } else if name.starts_with(|c: char| c.is_ascii_digit()) {
                let files = self.list_directory(&format!("{path}/{}/module", architecture()));
                let stems = files.iter().filter_map(|f| stem(f.text()?)).map(str::to_owned);
                self.built.entry(name.clone()).or_default().extend(stems);
                let dkms_can = source && !files.is_empty();
                self.directory_of(
                    name,
                    GcLeftover::Build { module: module.clone(), dkms_can },
                    path,
                    entry.kind,
                );
            }
        }
    }

    /// The entries of a path that may not be a directory, which is reported elsewhere.
    fn list_directory(&mut self, path: &str) -> Vec<Listed> {
        if self.root.lookup_link(path).is(FileKind::Directory) { self.list(path) } else { Vec::new() }
    }

    /// A directory of a kernel in the tree. Its contents matter only if the kernel may be gone.
    fn directory_of(&mut self, release: String, left: GcLeftover, path: String, kind: FileKind) {
        let mut thing = Thing { release, left, path, bytes: 0, blocker: None };
        if self.kept.why(&thing.release).is_none() {
            match self.walk(&thing.path, kind) {
                Ok(pieces) => {
                    thing.bytes = pieces.iter().map(|p| p.bytes).sum();
                    thing.blocker =
                        self.other_than_dkms(&thing, &pieces).or_else(|| self.at_work(&thing.path, &pieces));
                }
                Err(e) => return self.unreadable(&e),
            }
        }
        self.found.things.push(thing);
    }

    /// How the directory differs from what dkms leaves.
    fn other_than_dkms(&self, thing: &Thing, pieces: &[LeftoverPiece]) -> Option<String> {
        if let Some(why) = not_plain(self.root, pieces) {
            return Some(why);
        }
        let (own, staging) = (architecture(), format!(".tmp_{}_", architecture()));
        // Each piece is the directory itself or below it.
        let names = pieces.iter().filter_map(|p| p.path.strip_prefix(&thing.path).ok()?.iter().next());
        // A name that is not UTF-8 is not of dkms either.
        let other =
            names.map(OsStr::to_string_lossy).find(|name| *name != own && !name.starts_with(&staging));
        other.map(|name| format!("holds {}, which is not of this architecture's dkms", name.escape_debug()))
    }

    /// Why a dkms may be working there: something is staged, and it is recent or in use.
    fn at_work(&self, path: &str, pieces: &[LeftoverPiece]) -> Option<String> {
        let is_staged = |p: &&LeftoverPiece| p.path.to_string_lossy().contains("/.tmp_");
        let mut staged = pieces.iter().filter(is_staged).peekable();
        staged.peek()?;
        // The age of a file from the future is unknown.
        if staged.any(|p| self.now_ns - p.mtime_ns < RECENT) {
            return Some("holds a build that is not a day old: a dkms may be at work".to_owned());
        }
        self.in_use(path)
    }

    fn in_use(&self, path: &str) -> Option<String> {
        let user = || anyhow::Ok(user_of(&self.root.real_path(path)?)?);
        match user() {
            Ok(None) => None,
            Ok(Some(who)) => Some(format!("is in use by {who}")),
            Err(e) => Some(format!("may be in use: {e}")),
        }
    }

    /// The build directory is shared by all kernels. The first line of its log names the kernel.
    fn scratch(&mut self, path: String, kind: FileKind) {
        if kind != FileKind::Directory {
            return self.odd(&path, "is not a directory");
        }
        let log = match self.root.read_start(format!("{path}/make.log"), FIRST_LINES) {
            Ok(log) => log,
            Err(e) if e.is_absent() => Vec::new(),
            Err(e) => return self.unreadable(&e),
        };
        let Some(release) = kernel_of_log(&log) else {
            return self.odd(&path, "does not say for which kernel it was; dkms clears it at the next build");
        };
        if self.kept.why(&release).is_some() {
            return;
        }
        let pieces = match self.walk(&path, kind) {
            Ok(pieces) => pieces,
            Err(e) => return self.unreadable(&e),
        };
        // Symlinks in it belong to the source and are removed as symlinks.
        let mounted = pieces.iter().any(|p| p.mounted).then(|| "holds a filesystem of its own".to_owned());
        let fresh = pieces.iter().any(|p| self.now_ns - p.mtime_ns < RECENT);
        let fresh = fresh.then(|| "is not a day old: a dkms may be at work".to_owned());
        let blocker = mounted.or(fresh).or_else(|| self.in_use(&path));
        let bytes = pieces.iter().map(|p| p.bytes).sum();
        self.found.things.push(Thing { release, left: GcLeftover::Scratch, path, bytes, blocker });
    }

    fn modules(&mut self) {
        for entry in self.list(MODULES) {
            // A name that is not valid text cannot belong to a kernel of this system.
            let Some(name) = entry.text() else { continue };
            let path = module_directory(name);
            let release = moved_by_swupd(name).unwrap_or(name).to_owned();
            let empty = GcLeftover::Modules { files: Vec::new(), directories: Vec::new() };
            let mut thing = Thing { release, left: empty, path, bytes: 0, blocker: None };
            if self.kept.why(&thing.release).is_none() {
                let pieces = match self.walk(&thing.path, entry.kind) {
                    Ok(pieces) => pieces,
                    Err(e) => {
                        self.unreadable(&e);
                        continue;
                    }
                };
                let none = BTreeSet::new();
                let built = self.built.get(&thing.release).unwrap_or(&none);
                // The installation of a kernel may begin with its directories.
                let known = self.found.things.iter().any(|other| other.release == thing.release);
                let fresh = !known && pieces.iter().any(|p| self.now_ns - p.mtime_ns < RECENT);
                let too_fresh =
                    fresh.then(|| "is not a day old, and dkms knows nothing of that kernel".to_owned());
                thing.blocker = not_plain(self.root, &pieces).or(too_fresh).or_else(|| {
                    let files = pieces.iter().filter(|p| p.kind == FileKind::File);
                    let mut own = files.filter(|p| !is_left_by_dkms(&p.path, &thing.path, built));
                    // Each piece is below the directory.
                    let first = own.next()?.path.strip_prefix(&thing.path).ok()?.display().to_string();
                    Some(format!("holds {}, which is not of dkms or depmod", first.escape_debug()))
                });
                thing.bytes = pieces.iter().map(|p| p.bytes).sum();
                let (directories, files): (Vec<_>, Vec<_>) =
                    pieces.into_iter().partition(|p| p.kind == FileKind::Directory);
                thing.left = GcLeftover::Modules {
                    files: files.into_iter().map(|p| p.path).collect(),
                    // They were found from the outside in.
                    directories: directories.into_iter().rev().map(|p| p.path).collect(),
                };
            }
            self.found.things.push(thing);
        }
    }

    /// `path` and everything below it, outer entries before inner ones. Mount points are not entered.
    fn walk(&self, path: &str, kind: FileKind) -> Result<Vec<LeftoverPiece>, FileError> {
        let mut pieces = Vec::new();
        let mut open = vec![(PathBuf::from(path), kind)];
        while let Some((path, kind)) = open.pop() {
            // What has just disappeared: somebody works here, and the next run sees the result.
            let Some(stat) = self.root.lookup_link(&path).known()? else { continue };
            let mounted = self.root.is_mounted_on(&path)?;
            if kind == FileKind::Directory && !mounted {
                open.extend(self.root.list(&path)?.into_iter().map(|e| (path.join(&e.name), e.kind)));
            }
            let bytes = if stat.kind == FileKind::File { stat.size } else { 0 };
            pieces.push(LeftoverPiece { path, kind: stat.kind, bytes, mtime_ns: stat.mtime_ns, mounted });
        }
        Ok(pieces)
    }
}

/// Why this is not a plain tree of directories and files on one file system.
fn not_plain(root: &Root, pieces: &[LeftoverPiece]) -> Option<String> {
    pieces.iter().enumerate().find_map(|(at, piece)| {
        let what = match piece.kind {
            _ if piece.mounted => "a filesystem of its own",
            FileKind::Link => "a link",
            FileKind::Other => "no file",
            FileKind::File if at == 0 => "no directory",
            FileKind::File | FileKind::Directory => return None,
        };
        let path = root.shown_path(&piece.path).display().to_string();
        Some(if at == 0 {
            format!("is {what}")
        } else {
            format!("is not as dkms leaves it: {path} is {what}")
        })
    })
}

/// Whether a file in the module directory of a kernel was written by dkms or depmod.
fn is_left_by_dkms(path: &Path, directory: &str, built: &BTreeSet<String>) -> bool {
    // dkms and depmod write below the directory only, with names in UTF-8.
    let Some(text) = path.strip_prefix(directory).ok().and_then(Path::to_str) else { return false };
    let Some((place, name)) = text.rsplit_once('/') else { return DEPMOD.contains(&text) };
    // This includes backups of a run that was killed.
    let Some(stem) = stem(name_before(name).unwrap_or(name)) else { return false };
    let full = format!("{directory}/{text}");
    (place == INSTALLED && is_dkms_own(&full))
        || (built.contains(stem) && ELSEWHERE.iter().any(|e| text.starts_with(e)))
}

/// The kernel of a directory that `swupd bundle-remove` renamed to `.deleted.SECONDS.RELEASE` because it was
/// not empty.
fn moved_by_swupd(name: &str) -> Option<&str> {
    let (seconds, release) = name.strip_prefix(".deleted.")?.split_once('.')?;
    let is_time = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    is_time.then_some(release)
}

/// The kernel in the first line of a `make.log`: `DKMS make.log for M-V for kernel K (A)`.
pub(in crate::dkms) fn kernel_of_log(log: &[u8]) -> Option<String> {
    let line = String::from_utf8_lossy(log.split(|b| *b == b'\n').next()?).into_owned();
    let (_, rest) = line.starts_with("DKMS ").then_some(line.rsplit_once(" for kernel "))??;
    let release = rest.strip_suffix(&format!(" ({})", architecture()))?;
    is_usable_name(release).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_dkms_leaves() {
        let built = BTreeSet::from(["alpha".to_owned()]);
        let left = |text: &str| {
            is_left_by_dkms(Path::new(&format!("/usr/lib/modules/K/{text}")), "/usr/lib/modules/K", &built)
        };
        for yes in [
            "updates/dkms/any.ko",
            "updates/dkms/any.ko.zst",
            "updates/dkms/.tmp_any.ko_aside",
            "extra/alpha.ko.xz",
            "kernel/extra/alpha.ko",
        ] {
            assert!(left(yes), "{yes}");
        }
        assert!(left("modules.dep") && left("modules.dep.bin"));
        for no in [
            "extra/own.ko",
            "kernel/fs/alpha.ko",
            "modules.order",
            "modules.builtin",
            "modules.builtin.modinfo",
            "updates/dkms/notes",
            "updates/dkms/.ko",
            "updates/dkms/.tmp_.ko_aside",
            "updates/dkms/.tmp_any_aside",
            "updates/dkms/sub/any.ko",
            "vmlinuz",
            "build/Makefile",
            "extra/modules.dep",
        ] {
            assert!(!left(no), "{no}");
        }
    }

    #[test]
    fn directories_that_swupd_has_moved() {
        let release = Some("6.15.8-1592.native");
        assert_eq!(moved_by_swupd(".deleted.1753790400.6.15.8-1592.native"), release);
        for none in ["6.15.8-1592.native", ".deleted.6-15.native", ".deleted..x", ".deleted.1", ".deleted."] {
            assert_eq!(moved_by_swupd(none), None, "{none}");
        }
    }

    #[test]
    fn the_kernel_of_a_log() {
        let line = |text: &str| kernel_of_log(format!("{text}\nmore\n").as_bytes());
        let own = architecture();
        let release = Some("6.15.7-1591.native".to_owned());
        assert_eq!(line(&format!("DKMS make.log for a-1.0 for kernel 6.15.7-1591.native ({own})")), release);
        let newer = format!("DKMS (dkms-3.2.1) make.log for a/1.0 for kernel 6.15.7-1591.native ({own})");
        assert_eq!(line(&newer), release);
        for none in
            ["", "make", "DKMS make.log", "DKMS make.log for kernel ../x (x86_64)", "DKMS for kernel  ()"]
        {
            assert_eq!(line(none), None, "{none}");
        }
    }
}
