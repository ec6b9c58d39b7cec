//! Initrds as clr-boot-manager finds them: those of one kernel, and freestanding initrds for every kernel.

use std::collections::BTreeMap;

use crate::kernel::inventory::IMAGES;
use crate::sys::{FileError, FileKind, Root};

/// The directories of freestanding initrds. Of several files with the same name the first counts.
pub const FREESTANDING: [&str; 2] = ["/etc/kernel/initrd.d", "/usr/lib/initrd.d"];
/// The directory of initrds that an admin makes for a kernel. They replace the one beside the image.
pub const OF_ADMIN: &str = "/etc/kernel";

/// The path of a freestanding initrd. None if an admin masks it with a symlink to `/dev/null`.
pub type InitrdOrigin = Option<String>;

/// The freestanding initrds by name, with their paths inside the root. As in clr-boot-manager, empty files
/// and anything that is neither a file nor a symlink do not count.
///
/// # Errors
///
/// If a directory exists and cannot be read.
pub fn freestanding(root: &Root) -> Result<BTreeMap<String, InitrdOrigin>, FileError> {
    let mut found = BTreeMap::new();
    for directory in FREESTANDING {
        for entry in root.list_optional(directory)? {
            let name = entry.name.to_string_lossy().into_owned();
            let path = format!("{directory}/{name}");
            let origin = match entry.kind {
                FileKind::File if root.lookup_link(&path).stat().is_some_and(|s| s.size == 0) => continue,
                FileKind::File => Some(path),
                // Only the text of the symlink decides.
                FileKind::Link if is_mask(&root.read_link(&path)?.to_string_lossy()) => None,
                FileKind::Link => Some(path),
                FileKind::Directory | FileKind::Other => continue,
            };
            found.entry(name).or_insert(origin);
        }
    }
    Ok(found)
}

fn is_mask(text: &str) -> bool {
    text.contains("/dev/null")
}

/// The initrds of the kernel `id`, by their names on the boot partition: `initrd-ID`, from the admin or from
/// beside the image, and on Solus every `initrd-ID.*` in the same directory.
///
/// # Errors
///
/// If a directory exists and cannot be read.
pub fn of_kernel(root: &Root, id: &str) -> Result<BTreeMap<String, String>, FileError> {
    let own = format!("initrd-{id}");
    let admins = format!("{OF_ADMIN}/{own}");
    let directory = match root.lookup_link(&admins).known()?.map(|stat| stat.kind) {
        None => IMAGES,
        Some(FileKind::Link) if is_mask(&root.read_link(&admins)?.to_string_lossy()) => {
            return Ok(BTreeMap::new());
        }
        Some(_) => OF_ADMIN,
    };
    let more = format!("{own}.");
    let named = |name: &&str| *name == own || name.starts_with(&more);
    let listed = root.list_optional(directory)?;
    let found: BTreeMap<String, String> = listed
        .iter()
        .filter_map(|entry| entry.text().filter(named))
        .map(|name| (name.to_owned(), format!("{directory}/{name}")))
        .collect();
    // The others count only if a file of that name exists.
    Ok(if found.contains_key(&own) { found } else { BTreeMap::new() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::RootKind;

    #[test]
    fn initrds_are_found_as_clr_boot_manager_finds_them() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, scratch.path()).unwrap();
        let put = |path: &str, text: &str| _ = root.write(path, text.as_bytes(), 0o644).unwrap();
        put("/usr/lib/initrd.d/00-intel-ucode.cpio", "x");
        put("/usr/lib/initrd.d/masked", "x");
        put("/usr/lib/initrd.d/both", "x");
        put("/usr/lib/initrd.d/empty", "");
        put("/etc/kernel/initrd.d/both", "y");
        put("/etc/initrd.d/never-read", "z");
        root.link("/etc/kernel/initrd.d/masked", "/dev/null".as_ref()).unwrap();
        let found = freestanding(&root).unwrap();
        let both = Some("/etc/kernel/initrd.d/both".to_owned());
        assert_eq!(
            found,
            [
                ("00-intel-ucode.cpio".to_owned(), Some("/usr/lib/initrd.d/00-intel-ucode.cpio".to_owned())),
                ("both".to_owned(), both),
                ("masked".to_owned(), None)
            ]
            .into()
        );
    }

    #[test]
    fn the_initrd_of_an_admin_replaces_the_one_beside_the_image() {
        let scratch = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, scratch.path()).unwrap();
        let put = |path: &str| _ = root.write(path, b"x", 0o644).unwrap();
        let paths = || of_kernel(&root, "a.b.1-2").unwrap().into_values().collect::<Vec<_>>();
        put("/usr/lib/kernel/initrd-a.b.1-2.more");
        put("/usr/lib/kernel/initrd-a.b.1-23");
        assert_eq!(paths(), [""; 0]);
        put("/usr/lib/kernel/initrd-a.b.1-2");
        assert_eq!(paths(), ["/usr/lib/kernel/initrd-a.b.1-2", "/usr/lib/kernel/initrd-a.b.1-2.more"]);
        put("/etc/kernel/initrd-a.b.1-2");
        assert_eq!(paths(), ["/etc/kernel/initrd-a.b.1-2"]);
        root.link("/etc/kernel/initrd-a.b.1-2", "../../dev/null".as_ref()).unwrap();
        assert_eq!(paths(), [""; 0]);
    }
}
