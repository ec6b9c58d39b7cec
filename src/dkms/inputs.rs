//! What the outcome of a build follows from: source, `dkms.conf` with its overrides, headers, compiler, dkms. A build that
//! failed fails again while all of that is the same.

use crate::kernel::inventory::module_directory;
use crate::sys::{FileKind, Fingerprint, Root, Stat, Tools};

use super::{ModuleName, Source};

/// Where an admin's overrides lie.
const OVERRIDES: &str = "/etc/dkms";
/// The headers by what changes with each of their builds.
const HEADERS: [&str; 6] = [
    ".config",
    "Makefile",
    "Module.symvers",
    "include/config/kernel.release",
    "include/generated/autoconf.h",
    "include/generated/utsrelease.h",
];
/// The programs that a build is made with.
const PROGRAMS: [&str; 6] = ["dkms", "make", "gcc", "cc", "clang", "ld"];
/// A source tree with more entries than this is not looked through.
const MOST: usize = 20_000;

/// The fingerprint of a build's inputs. Files count by name, size and times, as for make: nobody reads 40 MB of source to
/// find out that nothing is to be done. None when the source is larger than that, or leads elsewhere by links to directories.
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
    // An update of the system may repair what no file above tells of.
    fingerprint.add(root.read("/usr/lib/os-release").unwrap_or_default());
    let headers = format!("{}/build", module_directory(release));
    for file in HEADERS {
        entry(root, &format!("{headers}/{file}"), &mut fingerprint);
    }
    for program in PROGRAMS {
        // Only the fingerprint of a failed build: at worst it is tried once more.
        fingerprint.add(tools.identity(program).unwrap_or_default());
    }
    Some(fingerprint.finish())
}

fn tree(root: &Root, directory: &str, left: &mut usize, fingerprint: &mut Fingerprint) -> Option<()> {
    // A directory that cannot be listed counts by its own times, which its parent has told.
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
            // A link counts with its text, and with what it leads to.
            FileKind::Link => {
                fingerprint.add(root.read_link(&path).unwrap_or_default().as_os_str().as_encoded_bytes())
            }
            FileKind::File | FileKind::Other => {}
        }
    }
    Some(())
}

/// A directory counts by name alone: its times change when somebody looks in with an editor.
fn entry(root: &Root, path: &str, fingerprint: &mut Fingerprint) {
    fingerprint.add(path);
    match root.lookup(path).stat() {
        Some(Stat { kind: FileKind::Directory, .. }) => fingerprint.add("folder"),
        Some(stat) => fingerprint.add(format!("{} {} {}", stat.size, stat.mtime_ns, stat.ctime_ns)),
        None => fingerprint.add("none"),
    }
}
