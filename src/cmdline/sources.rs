//! The files that a command line is composed of, as they are on disk.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::parameter::Dialect;
use crate::kernel::inventory::IMAGES;
use crate::limits::FRAGMENTS;
use crate::sys::{FileError, FileKind, Presence, Root};

/// The fragments of the vendor.
pub const VENDOR: &str = "/usr/share/kernel/cmdline.d";
/// The fragments of the admin, and masks of vendor fragments.
pub const LOCAL: &str = "/etc/kernel/cmdline.d";
/// The command line of the admin.
pub const ADMIN: &str = "/etc/kernel/cmdline";
/// Texts that are removed from the line.
pub const REMOVALS: &str = "/etc/kernel/cmdline-removal.d";

/// How many symlinks are followed in a row, as in the kernel.
const LINKS: usize = 40;

/// Why a fragment is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mask {
    /// The local directory has an entry of the same name.
    SameName,
    /// It is a symlink to `/dev/null`.
    DevNull,
}

/// One file of a fragment directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    pub name: OsString,
    /// The path inside the root.
    pub path: PathBuf,
    /// The contents. Empty for a directory, a dangling symlink or a file that cannot be opened.
    pub bytes: Vec<u8>,
    /// Why it is not used.
    pub mask: Option<Mask>,
}

/// One removal file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalFile {
    /// The path inside the root.
    pub path: PathBuf,
    /// The contents. None if it cannot be opened.
    pub bytes: Option<Vec<u8>>,
}

/// Everything that one kernel's command line is composed of.
#[derive(Debug, Default)]
pub struct CmdlineSources {
    /// The contents of the kernel's own file.
    pub kernel: Vec<u8>,
    /// Its path inside the root.
    pub kernel_path: PathBuf,
    /// The vendor fragments, sorted.
    pub vendor: Vec<Fragment>,
    /// The admin's line, if a directory entry of that name exists.
    pub admin: Option<Vec<u8>>,
    /// The admin's fragments, sorted.
    pub local: Vec<Fragment>,
    /// The removal files, sorted.
    pub removals: Vec<RemovalFile>,
    /// Files that could not be read and that may be part of the line. clr-boot-manager runs as root and may
    /// be able to read them.
    pub unreadable: Vec<FileError>,
    /// The path of the root has a character of glob(7): clr-boot-manager, when it is given this path, finds
    /// neither fragments nor removal files.
    pub glob_blind: bool,
    /// How the kernel reads its line, as far as it is known.
    pub dialect: Dialect,
}

impl CmdlineSources {
    /// A copy to try changes on, without the failed reads.
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

    /// Reads the sources of the command line of the kernel `release`.
    pub fn observe(root: &Root, release: &str) -> CmdlineSources {
        let (mut unreadable, mut left) = (Vec::new(), FRAGMENTS);
        let kernel_path = PathBuf::from(format!("{IMAGES}/cmdline-{release}"));
        let kernel = content(root, &kernel_path, &mut left, &mut unreadable);
        let local_names = names(root, LOCAL, &mut unreadable);
        // The failed read was already recorded when the names were listed.
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
                // A directory can be opened, but has no lines.
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

/// The `*.conf` names in a directory that do not begin with a dot, sorted by bytes.
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
            // clr-boot-manager cannot list a loop of symlinks either.
            if !e.is_no_file() {
                unreadable.push(e);
            }
            Vec::new()
        }
    }
}

/// The contents of a file. Anything but a regular file counts as empty. `left` is what remains of the size
/// limit of all files together.
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
            // clr-boot-manager cannot read a directory or a loop of symlinks either.
            if !e.is_no_file() {
                unreadable.push(e);
            }
            None
        }
    }
}

/// Whether the real path is exactly `/dev/null`. For an image this is the host's `/dev/null`, so only the
/// texts of the symlinks decide, and nothing outside of the root is looked up.
fn leads_to_dev_null(root: &Root, path: &Path) -> bool {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        // A parent directory may be a symlink too. If it does not exist (such as /dev in an image), its name
        // counts.
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
            && let Some(real) = root.real_path(parent).ok().and_then(|real| root.inside(&real))
        {
            path = real.join(name);
        }
        if path == Path::new("/dev/null") {
            return true;
        }
        // Something other than a symlink. A failed read is in `Root::unread`.
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
