//! Everything below a directory: what a run must not change.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is read of a directory.
#[derive(Debug, Clone, Copy)]
struct What {
    contents: bool,
    headers: bool,
}

/// Path, kind, mode, time, size and content of everything below a directory.
#[derive(Debug)]
pub(crate) struct Listing(BTreeMap<PathBuf, String>);

impl Listing {
    /// Reads it, but for what lies below the headers of a kernel: 6,800 files that no run looks at closely.
    pub(crate) fn of(directory: &Path) -> Listing {
        Listing::read(directory, What { contents: true, headers: false })
    }

    /// Reads everything.
    pub(crate) fn whole(directory: &Path) -> Listing {
        Listing::read(directory, What { contents: true, headers: true })
    }

    /// Reads it without contents.
    pub(crate) fn without_contents(directory: &Path) -> Listing {
        Listing::read(directory, What { contents: false, headers: true })
    }

    fn read(directory: &Path, what: What) -> Listing {
        let mut listing = Listing(BTreeMap::new());
        listing.add(directory, directory, what);
        listing
    }

    fn add(&mut self, top: &Path, path: &Path, what: What) {
        // They belong to the test.
        if path.ends_with(crate::scene::TOOLS) {
            return;
        }
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            // The host's directories are the host's: something may just have gone.
            Err(_) => return,
        };
        let mut text = format!("{:o} {} {}.{:09}", meta.mode(), meta.size(), meta.mtime(), meta.mtime_nsec());
        if meta.is_symlink() {
            text = format!("{text} -> {}", fs::read_link(path).unwrap().display());
        } else if meta.is_file() && what.contents {
            let mut hash = DefaultHasher::new();
            hash.write(&fs::read(path).unwrap());
            text = format!("{text} {:016x}", hash.finish());
        }
        self.0.insert(path.strip_prefix(top).unwrap().to_owned(), text);
        if meta.is_dir() && (what.headers || !is_headers(path)) {
            for entry in fs::read_dir(path).into_iter().flatten() {
                self.add(top, &entry.unwrap().path(), what);
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

/// The directory `usr/lib/modules/RELEASE/build`.
fn is_headers(path: &Path) -> bool {
    path.ends_with("build") && path.ancestors().nth(2).is_some_and(|above| above.ends_with("modules"))
}
