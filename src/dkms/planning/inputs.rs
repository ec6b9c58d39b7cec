//! The inputs that decide the outcome of a build: source, `dkms.conf` with its overrides, headers, compiler,
//! dkms. A failed build fails again while all of them are unchanged.

use crate::kernel::inventory::module_directory;
use crate::sys::{FileKind, Fingerprint, Root, Stat, Tools};

use crate::dkms::source_change::{MOST, walk};
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

/// The fingerprint of the inputs of a build. Files count by name, size and times, as in make: reading 40 MB
/// of source would be too expensive for a run without work. None if the source has too many entries or
/// symlinks to directories, or cannot be listed.
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
        let path = format!("{headers}/{file}");
        entry(&path, root.lookup(&path).stat(), &mut fingerprint);
    }
    for program in PROGRAMS {
        // Only used to recognise a failed build; without it the build is tried once more at worst.
        fingerprint.add(tools.identity(program).unwrap_or_default());
    }
    Some(fingerprint.finish())
}

fn tree(root: &Root, directory: &str, left: &mut usize, fingerprint: &mut Fingerprint) -> Option<()> {
    walk(root, directory, left, &mut |path, kind, stat| {
        entry(path, stat, fingerprint);
        if kind == FileKind::Link {
            // A symlink counts by its text, empty if unreadable, and by its target.
            fingerprint.add(root.read_link(path).unwrap_or_default().as_os_str().as_encoded_bytes());
        }
    })
}

/// A directory counts by its name alone, because editors change its times.
fn entry(path: &str, stat: Option<Stat>, fingerprint: &mut Fingerprint) {
    fingerprint.add(path);
    match stat {
        Some(Stat { kind: FileKind::Directory, .. }) => fingerprint.add("directory"),
        Some(stat) => fingerprint.add(format!("{} {} {}", stat.size, stat.mtime_ns, stat.ctime_ns)),
        None => fingerprint.add("none"),
    }
}
