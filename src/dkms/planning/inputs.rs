//! The inputs that decide the outcome of a build: source, `dkms.conf` with its overrides, headers, compiler,
//! dkms. A failed build fails again while all of them are unchanged.

use crate::kernel::inventory::module_directory;
use crate::sys::{FileKind, Fingerprint, Root, Stat, Tools};

use crate::dkms::{ModuleName, Source};

/// The directory of the admin's overrides.
const OVERRIDES: &str = "/etc/dkms";
/// Files of the headers that change with each build of the kernel.
const HEADERS: [&str; 6] = [
    ".config",
    "Makefile",
    "Module.symvers",
    "include/config/kernel.release",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
];
/// The programs that a build uses.
const PROGRAMS: [&str; 6] = ["dkms", "make", "gcc", "cc", "clang", "ld"];
/// Source trees with more entries are not examined.
const MOST: usize = 20_000;

/// The fingerprint of the inputs of a build. Files count by name, size and times, as in make: reading 40 MB
/// of source would be too expensive for a run without work. None if the source has too many entries, or
/// contains symlinks to directories elsewhere.
pub fn fingerprint(
    root: &Root,
    tools: &Tools,
    module: &ModuleName,
    source: &Source,
    release: &str,
) -> Option<String> {
    let mut fingerprint = Fingerprint::default();
    fingerprint.add(format!("{module} {release}"));
    let mut left = MOST;
    if let Source::Directory { path, .. } = source {
        tree(root, &path.to_string_lossy(), &mut left, &mut fingerprint)?;
    }
    tree(root, OVERRIDES, &mut left, &mut fingerprint)?;
    // An update of the system may fix what none of the other inputs shows. If the file cannot be read, it
    // does not contribute.
    fingerprint.add(root.read("/usr/lib/os-release").unwrap_or_default());
    let headers = format!("{}/build", module_directory(release));
    for file in HEADERS {
        entry(root, &format!("{headers}/{file}"), &mut fingerprint);
    }
    for program in PROGRAMS {
        // Only used to recognise a failed build; without it the build is tried once more at worst.
        fingerprint.add(tools.identity(program).unwrap_or_default());
    }
    Some(fingerprint.finish())
}

fn tree(root: &Root, directory: &str, left: &mut usize, fingerprint: &mut Fingerprint) -> Option<()> {
    // A directory that cannot be listed still counts by its own times, which are part of the entry in its
    // parent.
    for found in root.list_optional(directory).unwrap_or_default() {
        if found.name == ".git" {
            continue;
        }
        *left = left.checked_sub(1)?;
        let path = format!("{directory}/{}", found.name.to_string_lossy());
        entry(root, &path, fingerprint);
        match found.kind {
            FileKind::Directory => tree(root, &path, left, fingerprint)?,
            FileKind::Link if root.lookup(&path).is(FileKind::Directory) => return None,
            // A symlink counts by its text, empty if unreadable, and by its target.
            FileKind::Link => {
                fingerprint.add(root.read_link(&path).unwrap_or_default().as_os_str().as_encoded_bytes())
            }
            FileKind::File | FileKind::Other => {}
        }
    }
    Some(())
}

/// A directory counts by its name alone, because editors change its times.
fn entry(root: &Root, path: &str, fingerprint: &mut Fingerprint) {
    fingerprint.add(path);
    match root.lookup(path).stat() {
        Some(Stat { kind: FileKind::Directory, .. }) => fingerprint.add("directory"),
        Some(stat) => fingerprint.add(format!("{} {} {}", stat.size, stat.mtime_ns, stat.ctime_ns)),
        None => fingerprint.add("none"),
    }
}
