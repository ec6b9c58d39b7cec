//! Everything below a folder: what a run must not change.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Path, kind, mode, time, size and content of everything below a folder.
#[derive(Debug)]
pub(crate) struct Listing(BTreeMap<PathBuf, String>);

impl Listing {
    /// Reads it. The contents of kernel headers, 60 MB a kernel that nothing may write to, are taken to be unchanged
    /// while their times are.
    pub(crate) fn of(folder: &Path) -> Listing {
        Listing::read(folder, &|path| !is_header(path))
    }

    /// Reads it, all contents included.
    pub(crate) fn with_all_contents(folder: &Path) -> Listing {
        Listing::read(folder, &|_| true)
    }

    /// Reads it without contents.
    pub(crate) fn without_contents(folder: &Path) -> Listing {
        Listing::read(folder, &|_| false)
    }

    fn read(folder: &Path, hashed: &dyn Fn(&Path) -> bool) -> Listing {
        let mut listing = Listing(BTreeMap::new());
        listing.add(folder, folder, hashed);
        listing
    }

    fn add(&mut self, top: &Path, path: &Path, hashed: &dyn Fn(&Path) -> bool) {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            // The host's folders are the host's: something may just have gone.
            Err(_) => return,
        };
        let mut text = format!("{:o} {} {}.{:09}", meta.mode(), meta.size(), meta.mtime(), meta.mtime_nsec());
        if meta.is_symlink() {
            text = format!("{text} -> {}", fs::read_link(path).unwrap().display());
        } else if meta.is_file() && hashed(path) {
            let mut hash = DefaultHasher::new();
            hash.write(&fs::read(path).unwrap());
            text = format!("{text} {:016x}", hash.finish());
        }
        self.0.insert(path.strip_prefix(top).unwrap().to_owned(), text);
        if meta.is_dir() {
            for entry in fs::read_dir(path).into_iter().flatten() {
                self.add(top, &entry.unwrap().path(), hashed);
            }
        }
    }

    /// Only what lies below these paths.
    pub(crate) fn only(mut self, places: &[&str]) -> Listing {
        self.0.retain(|path, _| places.iter().any(|place| path.starts_with(place)));
        self
    }

    /// What differs, one line each.
    pub(crate) fn differences(&self, later: &Listing) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, was) in &self.0 {
            match later.0.get(path) {
                None => lines.push(format!("{} is gone", path.display())),
                Some(is) if is != was => lines.push(format!("{}: {was} became {is}", path.display())),
                Some(_) => {}
            }
        }
        let new = later.0.keys().filter(|path| !self.0.contains_key(*path));
        lines.extend(new.map(|path| format!("{} is new", path.display())));
        lines
    }
}

fn is_header(path: &Path) -> bool {
    let mut parts = path.components().map(|c| c.as_os_str());
    parts.any(|part| part == "modules") && parts.nth(1).is_some_and(|part| part == "build")
}
