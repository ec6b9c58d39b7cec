//! The inputs of `clr-boot-manager update`, as fingerprints. With equal fingerprints an update would change
//! nothing.
//!
//! If swupd leaves the boot files to clr-dkms, clr-dkms must run clr-boot-manager for every reason for which
//! swupd would have: its list of paths, and everything else that the boot partition is made from. Large files
//! are identified by size and modification time, small files by their contents. A file that cannot be read
//! counts as empty, because root can read all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::initrds::{FREESTANDING, OF_ADMIN};
use crate::cmdline::sources::{ADMIN, LOCAL, REMOVALS, VENDOR};
use crate::kernel::KernelName;
use crate::kernel::inventory::IMAGES;
use crate::sys::{FileKind, Fingerprint, Root};

/// A part of the boot files, named by what it is made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum BootPart {
    /// The image, the command line file and the initrds of a kernel, by its release.
    Kernel(String),
    /// The choice of the tip of each type.
    Tips,
    /// The command line fragments of every kernel, and the timeout of the menu.
    Fragments,
    /// The boot loader, and clr-boot-manager itself, because another version may write other files.
    BootLoader,
    /// The microcode that is loaded before the kernel.
    Microcode,
    /// Freestanding initrds other than microcode.
    Initrds,
    /// The name of the operating system, which is the title of every entry.
    Titles,
    /// A part that only a later version knows.
    Other(String),
}

const KERNEL: &str = "kernel ";

impl From<BootPart> for String {
    fn from(part: BootPart) -> String {
        let word = match part {
            BootPart::Kernel(release) => return format!("{KERNEL}{release}"),
            BootPart::Other(word) => return word,
            BootPart::Tips => "tips",
            BootPart::Fragments => "fragments",
            BootPart::BootLoader => "boot-loader",
            BootPart::Microcode => "microcode",
            BootPart::Initrds => "initrds",
            BootPart::Titles => "titles",
        };
        word.to_owned()
    }
}

impl From<String> for BootPart {
    fn from(word: String) -> BootPart {
        use BootPart::{BootLoader, Fragments, Initrds, Microcode, Tips, Titles};
        if let Some(release) = word.strip_prefix(KERNEL) {
            return BootPart::Kernel(release.to_owned());
        }
        let known = [Tips, Fragments, BootLoader, Microcode, Initrds, Titles];
        let is_it = |part: &BootPart| String::from(part.clone()) == word;
        known.into_iter().find(is_it).unwrap_or(BootPart::Other(word))
    }
}

impl fmt::Display for BootPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BootPart::Kernel(release) => return write!(f, "kernel {release} and its boot entry"),
            BootPart::Other(word) => word,
            BootPart::Tips => "the choice of a kernel for each type",
            BootPart::Fragments => "the kernel command line",
            BootPart::BootLoader => "the boot loader",
            BootPart::Microcode => "microcode",
            BootPart::Initrds => "freestanding initrds",
            BootPart::Titles => "the titles of the boot entries",
        })
    }
}

/// The fingerprints of all parts.
pub type BootInputs = BTreeMap<BootPart, String>;

/// The paths of boot loaders and of the programs that install them. A directory includes its contents.
const LOADERS: [&str; 7] = [
    "/usr/bin/bootctl",
    "/usr/bin/clr-boot-manager",
    "/usr/bin/gummiboot",
    "/usr/lib/gummiboot",
    "/usr/lib/shim",
    "/usr/lib/syslinux",
    "/usr/share/syslinux",
];
/// The directory in which, as in swupd, everything that begins with `boot` belongs to the boot loader.
const SYSTEMD: &str = "/usr/lib/systemd";
/// The first file that exists counts.
pub(super) const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];
/// How long the boot loader shows its menu.
pub(super) const TIMEOUT: &str = "/etc/kernel/timeout";
/// The depth to which directories of boot loaders are read.
const DEPTH: u32 = 3;

/// The fingerprint of all parts together.
pub fn inputs(root: &Root) -> String {
    whole(&parts(root))
}

/// The fingerprint of these parts together.
pub fn whole(parts: &BootInputs) -> String {
    let mut whole = Fingerprint::default();
    for (part, fingerprint) in parts {
        whole.add(String::from(part.clone()).as_bytes());
        whole.add(fingerprint.as_bytes());
    }
    whole.finish()
}

/// Whether a path is one of the inputs.
pub fn are_read_from(path: &Path) -> bool {
    let directories = [IMAGES, OF_ADMIN, ADMIN, LOCAL, REMOVALS, VENDOR, TIMEOUT, SYSTEMD];
    let mut inputs = directories.iter().chain(&FREESTANDING).chain(&LOADERS).chain(&OS_RELEASE);
    inputs.any(|input| path.starts_with(input) || Path::new(input).starts_with(path))
}

/// The fingerprint of each part.
pub fn parts(root: &Root) -> BootInputs {
    let (microcode, initrds) = freestanding(root);
    let (tips, mut parts) = kernels(root);
    parts.extend([
        (BootPart::Tips, tips),
        (BootPart::Fragments, fragments(root)),
        (BootPart::BootLoader, loaders(root)),
        (BootPart::Microcode, microcode),
        (BootPart::Initrds, initrds),
        (BootPart::Titles, title(root)),
    ]);
    parts
}

/// The parts that have changed. A kernel that was removed is not included.
pub fn changed(before: &BootInputs, now: &BootInputs) -> Vec<BootPart> {
    now.iter().filter(|(part, is)| before.get(part) != Some(is)).map(|(part, _)| part.clone()).collect()
}

/// Adds a file without reading it. A symlink includes its target.
fn add_identity(root: &Root, fingerprint: &mut Fingerprint, path: &str, kind: FileKind) {
    add_name(root, fingerprint, path, kind);
    if let Some(stat) = root.lookup(path).stat().filter(|s| s.kind == FileKind::File) {
        fingerprint.add(format!("{} {}", stat.size, stat.mtime_ns).as_bytes());
    }
}

/// Adds a small file with its contents.
fn add_contents(root: &Root, fingerprint: &mut Fingerprint, path: &str, kind: FileKind) {
    add_name(root, fingerprint, path, kind);
    // A FIFO or a directory has no contents. A fragment includes the contents of its symlink's target.
    if matches!(kind, FileKind::File | FileKind::Link) {
        // A failed read is in `Root::unread`, and no update is run then.
        fingerprint.add(root.read(path).unwrap_or_default());
    }
}

fn add_name(root: &Root, fingerprint: &mut Fingerprint, path: &str, kind: FileKind) {
    fingerprint.add(path.as_bytes());
    if kind == FileKind::Link {
        // A failed read is in `Root::unread`, and no update is run then. This also applies below.
        fingerprint.add(root.read_link(path).unwrap_or_default().as_os_str().as_encoded_bytes());
    }
}

/// The tips, and the files of each kernel. clr-boot-manager does not read other files beside an image.
fn kernels(root: &Root) -> (String, BootInputs) {
    let (mut tips, mut by_release) = (Fingerprint::default(), BTreeMap::new());
    let mut visible = BTreeSet::new();
    for directory in [IMAGES, OF_ADMIN] {
        // A directory that cannot be listed adds nothing to the fingerprint; see above.
        for entry in root.list_optional(directory).unwrap_or_default() {
            let name = entry.name.to_string_lossy();
            let path = format!("{directory}/{name}");
            if name.starts_with("default-") {
                add_name(root, &mut tips, &path, entry.kind);
                continue;
            }
            let release_of = |id: &str| KernelName::from_any_id(id).map(|(name, _)| name.release());
            let cmdline = name.strip_prefix("cmdline-").filter(|_| directory == IMAGES);
            let release = match (cmdline, name.strip_prefix("initrd-")) {
                (Some(release), _) => Some(release.to_owned()),
                (None, Some(id)) => release_of(id),
                (None, None) if directory == IMAGES => release_of(&name),
                (None, None) => None,
            };
            let Some(release) = release else { continue };
            if cmdline.is_some() {
                visible.insert(release.clone());
            }
            let part: &mut Fingerprint = by_release.entry(release).or_default();
            match cmdline {
                Some(_) => add_contents(root, part, &path, entry.kind),
                None => add_identity(root, part, &path, entry.kind),
            }
        }
    }
    // Without `cmdline-…` clr-boot-manager does not see a kernel. `System.map-…` and similar files have names
    // like kernels.
    by_release.retain(|release, _| visible.contains(release));
    let parts = by_release.into_iter().map(|(release, part)| (BootPart::Kernel(release), part.finish()));
    (tips.finish(), parts.collect())
}

fn fragments(root: &Root) -> String {
    let mut fingerprint = Fingerprint::default();
    for directory in [VENDOR, LOCAL, REMOVALS] {
        // A failed read is in `Root::unread`; see `add_name`.
        for entry in root.list_optional(directory).unwrap_or_default() {
            let path = format!("{directory}/{}", entry.name.to_string_lossy());
            add_contents(root, &mut fingerprint, &path, entry.kind);
        }
    }
    for path in [ADMIN, TIMEOUT] {
        fingerprint.add(path.as_bytes());
        // As above.
        fingerprint.add(root.read(path).unwrap_or_default());
    }
    fingerprint.finish()
}

fn loaders(root: &Root) -> String {
    let mut fingerprint = Fingerprint::default();
    for path in LOADERS {
        if let Some(stat) = root.lookup_link(path).stat() {
            add_all(root, &mut fingerprint, path, stat.kind, DEPTH);
        }
    }
    // A failed read is in `Root::unread`; see `add_name`.
    for entry in root.list_optional(SYSTEMD).unwrap_or_default() {
        if let Some(name) = entry.text().filter(|name| name.starts_with("boot")) {
            add_all(root, &mut fingerprint, &format!("{SYSTEMD}/{name}"), entry.kind, DEPTH);
        }
    }
    fingerprint.finish()
}

fn add_all(root: &Root, fingerprint: &mut Fingerprint, path: &str, kind: FileKind, depth: u32) {
    add_identity(root, fingerprint, path, kind);
    if kind == FileKind::Directory && depth > 0 {
        // As above.
        for entry in root.list_optional(path).unwrap_or_default() {
            let below = format!("{path}/{}", entry.name.to_string_lossy());
            add_all(root, fingerprint, &below, entry.kind, depth - 1);
        }
    }
}

/// The fingerprints of microcode and of the other freestanding initrds.
fn freestanding(root: &Root) -> (String, String) {
    let (mut microcode, mut initrds) = (Fingerprint::default(), Fingerprint::default());
    for directory in FREESTANDING {
        // A failed read is in `Root::unread`; see `add_name`.
        for entry in root.list_optional(directory).unwrap_or_default() {
            let name = entry.name.to_string_lossy();
            let part = if name.ends_with("-ucode.cpio") { &mut microcode } else { &mut initrds };
            add_identity(root, part, &format!("{directory}/{name}"), entry.kind);
        }
    }
    (microcode.finish(), initrds.finish())
}

/// Only the name counts. The version changes with every update of the system, and is not part of an entry.
fn title(root: &Root) -> String {
    let mut fingerprint = Fingerprint::default();
    // As above, and one of the two files is enough.
    let text = OS_RELEASE.iter().find_map(|path| root.read(path).ok()).unwrap_or_default();
    for line in text.split(|b| *b == b'\n').filter(|line| line.starts_with(b"PRETTY_NAME=")) {
        fingerprint.add(line);
    }
    fingerprint.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::RootKind;

    #[test]
    fn each_reason_for_an_update_belongs_to_a_part() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, scratch.path()).unwrap();
        let put = |path: &str, text: &str| _ = root.write(path, text.as_bytes(), 0o644).unwrap();
        put("/usr/lib/os-release", "PRETTY_NAME=\"Clear Linux OS\"\nVERSION_ID=1\n");
        let mut before = parts(&root);
        let mut after = |path: &str, text: &str| {
            put(path, text);
            let now = parts(&root);
            let changed = changed(&before, &now);
            before = now;
            changed
        };
        let kernel = || BootPart::Kernel("6.1.1-1.native".to_owned());
        for (path, part) in [
            ("/usr/lib/kernel/cmdline-6.1.1-1.native", kernel()),
            ("/usr/lib/kernel/org.clearlinux.native.6.1.1-1", kernel()),
            ("/usr/lib/kernel/org.clearlinux.native.6.1.1-1.bak", kernel()),
            ("/usr/lib/kernel/initrd-org.clearlinux.native.6.1.1-1", kernel()),
            ("/etc/kernel/initrd-org.clearlinux.native.6.1.1-1", kernel()),
            ("/etc/kernel/cmdline", BootPart::Fragments),
            ("/etc/kernel/timeout", BootPart::Fragments),
            ("/etc/kernel/cmdline.d/x.conf", BootPart::Fragments),
            ("/etc/kernel/cmdline-removal.d/x.conf", BootPart::Fragments),
            ("/usr/share/kernel/cmdline.d/x.conf", BootPart::Fragments),
            ("/usr/lib/systemd/boot/efi/systemd-bootx64.efi", BootPart::BootLoader),
            ("/usr/lib/systemd/bootctl-helper", BootPart::BootLoader),
            ("/usr/bin/clr-boot-manager", BootPart::BootLoader),
            ("/usr/bin/bootctl", BootPart::BootLoader),
            ("/usr/bin/gummiboot", BootPart::BootLoader),
            ("/usr/lib/gummiboot", BootPart::BootLoader),
            ("/usr/share/syslinux/ldlinux.c32", BootPart::BootLoader),
            ("/usr/lib/shim/shimx64.efi", BootPart::BootLoader),
            ("/usr/lib/initrd.d/00-intel-ucode.cpio", BootPart::Microcode),
            ("/etc/kernel/initrd.d/01-own-ucode.cpio", BootPart::Microcode),
            ("/usr/lib/initrd.d/extra.cpio.gz", BootPart::Initrds),
            ("/etc/kernel/initrd.d/extra.cpio.gz", BootPart::Initrds),
            ("/etc/os-release", BootPart::Titles),
        ] {
            assert_eq!(after(path, "one"), std::slice::from_ref(&part), "{path} appears");
            assert_eq!(after(path, "one"), [], "{path} stays");
            assert_eq!(
                after(path, "three"),
                if part == BootPart::Titles { vec![] } else { vec![part] },
                "{path} changes"
            );
        }
        for (text, changes) in [
            ("PRETTY_NAME=X\nVERSION_ID=1\n", true),
            ("PRETTY_NAME=X\nVERSION_ID=2\n", false),
            ("PRETTY_NAME=Y\nVERSION_ID=2\n", true),
        ] {
            assert_eq!(after("/etc/os-release", text) == [BootPart::Titles], changes, "{text}");
        }
        for path in [
            "/etc/initrd.d/x",
            "/usr/lib/kernel/config-6.1.1-1.native",
            "/usr/lib/kernel/System.map-6.1.1-1.native",
            "/usr/lib/systemd/systemd",
            "/usr/bin/other",
        ] {
            assert_eq!(after(path, "x"), [], "{path} is not read by clr-boot-manager");
        }
        let whole = inputs(&root);
        put("/usr/lib/initrd.d/00-intel-ucode.cpio", "a third");
        assert_ne!(inputs(&root), whole);
        assert_eq!(changed(&BootInputs::new(), &parts(&root)).len(), 7);
        let now = parts(&root);
        let text = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<BootInputs>(&text).unwrap(), now);
        root.link("/usr/lib/kernel/default-native", "org.clearlinux.native.6.1.1-1".as_ref()).unwrap();
        assert_eq!(changed(&now, &parts(&root)), [BootPart::Tips]);
    }
}
