//! Symlinks that come with a source, from an archive or an admin.

use std::path::{Component, Path};

/// Whether a symlink at `path` leads to a place inside the source. `..` may only be at its beginning, because
/// a name before it may be another symlink.
pub fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() - 1;
    let mut has_name = false;
    target.components().all(|part| match part {
        Component::Normal(_) => {
            has_name = true;
            true
        }
        Component::CurDir => true,
        Component::ParentDir if has_name || depth == 0 => false,
        Component::ParentDir => {
            depth -= 1;
            true
        }
        Component::RootDir | Component::Prefix(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symlinks_that_stay_in_the_source() {
        for (path, text) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a", "./b/c")] {
            assert!(stays_inside(Path::new(path), Path::new(text)), "{path} {text}");
        }
        for (path, text) in [("a", "/etc"), ("a", ".."), ("a/b", "../.."), ("a/b", "x/../..")] {
            assert!(!stays_inside(Path::new(path), Path::new(text)), "{path} {text}");
        }
    }
}
