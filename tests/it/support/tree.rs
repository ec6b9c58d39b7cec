//! A whole tree as a value, to be compared before and after.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Kind and mode, and the text of a link or the bytes of a file.
    pub(crate) what: String,
    /// Modification time in nanoseconds, and the inode: a file that was replaced by an equal one is seen too.
    pub(crate) when: (i64, i64, u64),
}

/// Path below the root to what is there.
pub(crate) type Tree = BTreeMap<String, Entry>;

/// Reads everything below `root` but the stand-ins, which belong to the test.
pub(crate) fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(root, root, &mut tree);
    tree
}

fn walk(root: &Path, directory: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with(".stand-ins") {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let mode = meta.permissions().mode() & 0o7777;
        let what = if meta.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().display())
        } else if meta.is_dir() {
            format!("directory {mode:o}")
        } else if meta.is_file() {
            format!("file {mode:o} {}", fs::read(&path).unwrap().escape_ascii())
        } else {
            format!("special {mode:o}")
        };
        let when = (meta.mtime(), meta.mtime_nsec(), meta.ino());
        let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        tree.insert(name, Entry { what, when });
        if meta.is_dir() {
            walk(root, &path, tree);
        }
    }
}

/// What differs, one line an entry. Times count only where `times` says so.
pub(crate) fn difference(before: &Tree, after: &Tree, times: bool) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| match (before.get(name), after.get(name)) {
            (Some(_), None) => Some(format!("- {name}")),
            (None, Some(_)) => Some(format!("+ {name}")),
            (Some(a), Some(b)) if a.what != b.what => Some(format!("~ {name}")),
            (Some(a), Some(b)) if times && a.when != b.when => Some(format!("t {name}")),
            _ => None,
        })
        .collect()
}
