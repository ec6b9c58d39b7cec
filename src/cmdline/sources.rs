//! The files that a command line is made of, as they lie on disk.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::parameter::Dialect;
use crate::kernel::inventory::IMAGES;
use crate::limits::FRAGMENTS;
use crate::sys::{FileError, FileKind, Presence, Root};

/// The vendor's fragments.
pub const VENDOR: &str = "/usr/share/kernel/cmdline.d";
/// The admin's own fragments, and masks of the vendor's.
pub const LOCAL: &str = "/etc/kernel/cmdline.d";
/// The admin's own line.
pub const ADMIN: &str = "/etc/kernel/cmdline";
/// Lines that are taken out again.
pub const REMOVALS: &str = "/etc/kernel/cmdline-removal.d";

/// How many links one after the other are followed, as in the kernel.
const LINKS: usize = 40;

/// Why a fragment does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// An entry of the same name stands in the local directory.
    SameName,
    /// It is a link to `/dev/null`.
    DevNull,
}

/// One file of a `.d` directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    /// The file's name.
    pub name: OsString,
    /// The path inside the root.
    pub path: PathBuf,
    /// Its bytes; nothing for a directory, a dangling link or a file that cannot be opened.
    pub bytes: Vec<u8>,
    /// It is left out.
    pub mask: Option<Mask>,
}

/// One file of removals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalFile {
    /// The path inside the root.
    pub path: PathBuf,
    /// Its bytes; none when it cannot be opened.
    pub bytes: Option<Vec<u8>>,
}

/// Everything that one kernel's command line is made of.
#[derive(Debug, Default)]
pub struct CmdlineSources {
    /// The kernel's own file.
    pub kernel: Vec<u8>,
    /// The path of it inside the root.
    pub kernel_path: PathBuf,
    /// The vendor's fragments, sorted.
    pub vendor: Vec<Fragment>,
    /// The admin's line, when any entry of that name is there.
    pub admin: Option<Vec<u8>>,
    /// The admin's fragments, sorted.
    pub local: Vec<Fragment>,
    /// The admin's removals, sorted.
    pub removals: Vec<RemovalFile>,
    /// What could not be read, though it may count. clr-boot-manager, which is root, may see more than we did.
    pub unreadable: Vec<FileError>,
    /// The root's path holds a character of glob(7): a clr-boot-manager that is given this path finds no fragment
    /// and no removal in it.
    pub glob_blind: bool,
    /// How the kernel reads its line, as far as that is known.
    pub dialect: Dialect,
}

impl CmdlineSources {
    /// The same sources to try a change on; what could not be read is not carried over.
    pub fn copy(&self) -> CmdlineSources {
        CmdlineSources {
            kernel: self.kernel.clone(),
            kernel_path: self.kernel_path.clone(),
            vendor: self.vendor.clone(),
            admin: self.admin.clone(),
            local: self.local.clone(),
            removals: self.removals.clone(),
            unreadable: Vec::new(),
            glob_blind: self.glob_blind,
            dialect: self.dialect,
        }
    }

    /// Reads what the command line of the kernel `release` is made of.
    pub fn observe(root: &Root, release: &str) -> CmdlineSources {
        let (mut unreadable, mut left) = (Vec::new(), FRAGMENTS);
        let kernel_path = PathBuf::from(format!("{IMAGES}/cmdline-{release}"));
        let kernel = content(root, &kernel_path, &mut left, &mut unreadable);
        let local_names = names(root, LOCAL, &mut unreadable);
        // That it cannot be listed is told by the line above.
        let every_local = root.list_optional(LOCAL).unwrap_or_default();
        let mut vendor = Vec::new();
        for name in names(root, VENDOR, &mut unreadable) {
            let path = Path::new(VENDOR).join(&name);
            let masked = every_local.iter().any(|e| e.name == name);
            let bytes = content(root, &path, &mut left, &mut unreadable).unwrap_or_default();
            vendor.push(Fragment { name, path, bytes, mask: masked.then_some(Mask::SameName) });
        }
        let mut local = Vec::new();
        for name in local_names {
            let path = Path::new(LOCAL).join(&name);
            let mask = leads_to_dev_null(root, &path).then_some(Mask::DevNull);
            let bytes = match mask {
                Some(_) => Vec::new(),
                None => content(root, &path, &mut left, &mut unreadable).unwrap_or_default(),
            };
            local.push(Fragment { name, path, bytes, mask });
        }
        let admin = match root.lookup_link(ADMIN) {
            Presence::Absent => None,
            _ => Some(content(root, Path::new(ADMIN), &mut left, &mut unreadable).unwrap_or_default()),
        };
        let removals = names(root, REMOVALS, &mut unreadable)
            .into_iter()
            .map(|name| {
                let path = Path::new(REMOVALS).join(name);
                // A directory can be opened and holds no line.
                let bytes = match root.lookup(&path) {
                    p if p.is(FileKind::Directory) => Some(Vec::new()),
                    _ => content(root, &path, &mut left, &mut unreadable),
                };
                RemovalFile { path, bytes }
            })
            .collect();
        let glob_blind = root.is_pattern();
        let kernel = kernel.unwrap_or_default();
        let dialect = Dialect::default();
        CmdlineSources {
            kernel,
            kernel_path,
            vendor,
            admin,
            local,
            removals,
            unreadable,
            glob_blind,
            dialect,
        }
    }
}

/// The `*.conf` names of a directory that do not begin with a dot, sorted by bytes.
fn names(root: &Root, directory: &str, unreadable: &mut Vec<FileError>) -> Vec<OsString> {
    match root.list_optional(directory) {
        Ok(entries) => entries
            .into_iter()
            .map(|e| e.name)
            .filter(|n| {
                let bytes = n.as_encoded_bytes();
                bytes.ends_with(b".conf") && !bytes.starts_with(b".")
            })
            .collect(),
        Err(e) => {
            unreadable.push(e);
            Vec::new()
        }
    }
}

/// The bytes of a file. What is no file counts as nothing, as it does for clr-boot-manager (which a FIFO hangs).
/// Of the bytes that all of them may have `left` remain.
fn content(root: &Root, path: &Path, left: &mut u64, unreadable: &mut Vec<FileError>) -> Option<Vec<u8>> {
    let read = root.read_within(path, FRAGMENTS).and_then(|bytes| {
        match left.checked_sub(bytes.len() as u64) {
            Some(rest) => *left = rest,
            None => return Err(root.too_large_with_others(path, FRAGMENTS)),
        }
        Ok(bytes)
    });
    match read {
        Ok(bytes) => Some(bytes),
        Err(e) if e.is_absent() => None,
        Err(e) => {
            // A directory, a FIFO, a loop of links: clr-boot-manager cannot read them either.
            if !e.is_no_file() {
                unreadable.push(e);
            }
            None
        }
    }
}

/// Whether the real path is exactly `/dev/null`. It is the host's `/dev/null`, also for an image; so the texts of
/// the links decide, and nothing outside is looked at.
fn leads_to_dev_null(root: &Root, path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        // A directory on the way may be a link too. One that is not there, as /dev in an image, is what it is called.
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Some(real) = root.real_path(parent).ok().and_then(|real| root.inside(&real))
        {
            path = real.join(name);
        }
        if path == Path::new("/dev/null") {
            return true;
        }
        let Ok(text) = root.read_link(&path) else {
            return false;
        };
        let joined = match (text.is_absolute(), path.parent()) {
            (false, Some(parent)) => parent.join(text),
            _ => root.inside(&text).filter(|_| !root.is_slash()).unwrap_or(text),
        };
        path = without_dots(&joined);
    }
    false
}

fn without_dots(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                result.pop();
            }
            Component::Normal(name) => result.push(name),
            _ => {}
        }
    }
    result
}
