//! Firmware files, where the kernel looks for them.

use crate::sys::{FileError, Root};

/// The directories. `/lib` is a symlink to `/usr/lib`, except in images that lack it.
const DIRECTORIES: [&str; 2] = ["/lib/firmware", "/usr/lib/firmware"];
/// The kernel also unpacks these, if it is configured to.
const COMPRESSED: [&str; 3] = ["", ".zst", ".xz"];

/// The names that no file of a kernel release exists for. A name with `*` or `?`, which stands for several,
/// counts as present.
///
/// # Errors
///
/// If it cannot be determined.
pub fn missing(root: &Root, release: &str, names: &[String]) -> Result<Vec<String>, FileError> {
    let mut missing = Vec::new();
    for name in names.iter().filter(|name| !name.is_empty() && !name.contains(['*', '?'])) {
        if !is_there(root, release, name)? && !missing.contains(name) {
            missing.push(name.clone());
        }
    }
    missing.sort();
    Ok(missing)
}

fn is_there(root: &Root, release: &str, name: &str) -> Result<bool, FileError> {
    for directory in DIRECTORIES {
        for below in [format!("updates/{release}"), "updates".to_owned(), release.to_owned(), String::new()] {
            for ending in COMPRESSED {
                if root.has(format!("{directory}/{below}/{name}{ending}"))? {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}
