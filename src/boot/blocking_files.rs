//! Files that would block clr-boot-manager: a FIFO, a socket or a device where it opens a regular file.
//!
//! clr-boot-manager opens the files that it reads without `O_NONBLOCK` and without checking their type.
//! Opening a FIFO then blocks until a writer appears, and reading a device such as `/dev/zero` never ends. It
//! is therefore not run while such a file exists. `/dev/null` is allowed: reading it ends at once, and a
//! symlink to it is the usual way to mask a file.

use std::path::{Path, PathBuf};

use super::initrds::{FREESTANDING, OF_ADMIN};
use super::inputs::{OS_RELEASE, TIMEOUT};
use super::menu::EntryPlace;
use crate::cmdline::sources::{ADMIN, LOCAL, REMOVALS, VENDOR};
use crate::kernel::inventory::IMAGES;
use crate::sys::{FileKind, Listed, Root, Stat};

/// The device number of `/dev/null`: major 1, minor 3.
const DEV_NULL: u64 = 1 << 8 | 3;

/// A name in a directory that clr-boot-manager reads.
type NameFilter = fn(&[u8]) -> bool;

/// Directories of the root filesystem, and which of their files are opened.
const DIRECTORIES: [(&str, NameFilter); 7] = [
    (VENDOR, is_fragment),
    (LOCAL, is_fragment),
    (REMOVALS, is_fragment),
    (IMAGES, is_any),
    (OF_ADMIN, |name| name.starts_with(b"initrd-")),
    (FREESTANDING[0], is_any),
    (FREESTANDING[1], is_any),
];

/// The directory of the boot loaders and of the kernel images on the boot partition. clr-boot-manager
/// compares the files in its subdirectories with their sources.
const EFI: &str = "EFI";

/// Other directories of the boot partition, and which of their files are opened. Without UEFI firmware the
/// menu of syslinux and the initrds are at the top.
const ON_PARTITION: [(&str, NameFilter); 3] = [
    ("loader", |name| name.eq_ignore_ascii_case(b"loader.conf")),
    ("loader/entries", |name| name.to_ascii_lowercase().ends_with(b".conf")),
    ("", |name| name.to_ascii_lowercase().ends_with(b"linux.cfg") || name.starts_with(b"initrd-")),
];

fn is_fragment(name: &[u8]) -> bool {
    name.ends_with(b".conf")
}

fn is_any(_: &[u8]) -> bool {
    true
}

/// The first blocking file below the root, as a path inside the root.
pub(super) fn in_root(root: &Root) -> Option<PathBuf> {
    let in_directories = DIRECTORIES.iter().find_map(|(directory, filter)| first(root, directory, *filter));
    let single = || [ADMIN, TIMEOUT].into_iter().chain(OS_RELEASE).map(PathBuf::from);
    in_directories.or_else(|| single().find(|path| blocks(root, path)))
}

/// The first blocking file on the boot partition, as a path below its top.
pub(super) fn on_partition(place: &EntryPlace) -> Option<String> {
    let below = |directory: &str, filter: NameFilter| {
        let found = first(place.root, &place.path(directory), filter)?;
        Some(found.strip_prefix(place.path("")).unwrap_or(&found).to_string_lossy().into_owned())
    };
    // As in `first`.
    let listed = place.list(EFI).unwrap_or_default();
    let mut programs = listed.iter().filter_map(|entry| Some(format!("{EFI}/{}", entry.text()?)));
    let named = ON_PARTITION.iter().find_map(|(directory, filter)| below(directory, *filter));
    named.or_else(|| programs.find_map(|directory| below(&directory, is_any)))
}

fn first(root: &Root, directory: &str, filter: NameFilter) -> Option<PathBuf> {
    let is_suspect = |entry: &&Listed| {
        matches!(entry.kind, FileKind::Other | FileKind::Link) && filter(entry.name.as_encoded_bytes())
    };
    // A directory that cannot be listed is recorded in `Root::unread`, which keeps the boot files as they
    // are.
    let listed = root.list_optional(directory).unwrap_or_default();
    let mut paths = listed.iter().filter(is_suspect).map(|entry| Path::new(directory).join(&entry.name));
    paths.find(|path| blocks(root, path))
}

/// Whether a path, at the end of its symlinks, is a FIFO, a socket or a device other than `/dev/null`. With
/// `--path` clr-boot-manager follows an absolute symlink of the root to a file of the host.
fn blocks(root: &Root, path: &Path) -> bool {
    let blocking = |s: Stat| s.kind == FileKind::Other && s.stands_for != DEV_NULL;
    let in_root = root.lookup(path).stat().is_some_and(blocking);
    in_root || (!root.is_slash() && root.stat_from_host(path).is_some_and(blocking))
}
