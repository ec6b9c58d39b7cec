//! The files that clr-dkms has written, so that it can remove them again.
//!
//! An admin's mask (a symlink to `/dev/null`, as the documentation of the distribution recommends) looks
//! exactly like one of clr-dkms. The state file distinguishes them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PARAMETER;
use super::sources::LOCAL;
use crate::sys::{FileError, FileKind, Root};

pub const STATE: &str = "/var/lib/clr-dkms/cmdline.json";

/// The contents of the state file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ours {
    schema: u32,
    wrote: Vec<PathBuf>,
    /// Directories that clr-dkms created, the outermost first.
    #[serde(default)]
    made: Vec<PathBuf>,
    /// The written files that are masks.
    #[serde(skip)]
    masks: Vec<PathBuf>,
    /// The state file names files that do not exist: a run was killed, or somebody has removed or changed
    /// them.
    #[serde(skip)]
    pub(super) stale: bool,
}

/// The contents of our own fragment.
pub(super) fn fragment_bytes() -> Vec<u8> {
    format!("{PARAMETER}\n").into_bytes()
}

/// Whether a path still has what clr-dkms wrote.
fn is_ours(root: &Root, path: &Path) -> Result<bool, FileError> {
    if path.parent() != Some(Path::new(LOCAL)) {
        return Ok(false);
    }
    match root.lookup_link(path).known()?.map(|stat| stat.kind) {
        Some(FileKind::Link) => root.read_link(path).map(|text| text == Path::new("/dev/null")),
        Some(FileKind::File) => root.read(path).map(|bytes| bytes == fragment_bytes()),
        Some(FileKind::Directory | FileKind::Other) | None => Ok(false),
    }
}

impl Ours {
    /// Reads the state file, without the files that were changed since.
    ///
    /// # Errors
    ///
    /// If the state file, or a file that it names, cannot be read. A damaged file counts as absent, and is
    /// reported.
    pub fn load(root: &Root) -> Result<Ours, FileError> {
        let Some(bytes) = root.read_optional(STATE)? else {
            return Ok(Ours::default());
        };
        let mut ours: Ours = match serde_json::from_slice(&bytes) {
            Ok(ours) => ours,
            Err(e) => {
                let path = root.shown_path(STATE);
                tracing::warn!("{} is damaged ({e}): no fragment or mask counts as ours", path.display());
                return Ok(Ours::default());
            }
        };
        let named = ours.wrote.clone();
        ours.wrote.clear();
        for path in &named {
            if is_ours(root, path)? {
                ours.wrote.push(path.clone());
            }
        }
        ours.stale = ours.wrote.is_empty() || ours.wrote != named;
        ours.made.retain(|directory| {
            directory.parent().is_some()
                && (Path::new(LOCAL).starts_with(directory)
                    || Path::new(STATE).parent().is_some_and(|of_state| of_state.starts_with(directory)))
        });
        // Each of these symlinks was read above. If reading fails now, the file does not count as ours.
        ours.masks = ours.wrote.iter().filter(|path| root.read_link(path).is_ok()).cloned().collect();
        Ok(ours)
    }

    /// Records which parent directories of `path` do not exist yet.
    fn note_directories(&mut self, root: &Root, path: &Path) {
        let mut missing: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .take_while(|directory| !root.lookup(directory).is_there())
            .map(Path::to_owned)
            .filter(|directory| !self.made.contains(directory))
            .collect();
        missing.reverse();
        self.made.extend(missing);
    }

    pub(super) fn has(&self, path: &Path) -> bool {
        self.wrote.iter().any(|p| p == path)
    }

    fn is_mask(&self, path: &Path) -> bool {
        self.masks.iter().any(|mask| mask == path)
    }

    pub(super) fn fragments(&self) -> impl Iterator<Item = &PathBuf> {
        self.wrote.iter().filter(|path| !self.is_mask(path))
    }

    pub(super) fn masks(&self) -> impl Iterator<Item = &PathBuf> {
        self.masks.iter()
    }

    /// Records that `path` is about to be written.
    pub(super) fn add(&mut self, root: &Root, path: &Path) -> Result<(), FileError> {
        self.note_directories(root, path);
        self.note_directories(root, Path::new(STATE));
        if !self.has(path) {
            self.wrote.push(path.to_owned());
        }
        self.save(root)
    }

    /// Records that `path` was removed.
    pub(super) fn forget(&mut self, root: &Root, path: &Path) -> Result<(), FileError> {
        self.wrote.retain(|p| p != path);
        self.masks.retain(|p| p != path);
        self.save(root)
    }

    pub(super) fn save(&mut self, root: &Root) -> Result<(), FileError> {
        self.stale = false;
        if !self.wrote.is_empty() {
            return root.write_json(STATE, &Ours { schema: 1, ..self.clone() }).map(|_| ());
        }
        // The record is removed after the directories that do not contain it: after a kill, the next run
        // still knows them. A directory with other files in it is not removed.
        let (around, elsewhere): (Vec<_>, Vec<_>) =
            self.made.iter().rev().partition(|directory| Path::new(STATE).starts_with(directory));
        let remove = |directories: Vec<&PathBuf>| {
            for directory in directories {
                if let Err(e) = root.remove_empty_directory(directory) {
                    tracing::debug!(
                        "{e}; the directory that clr-dkms made has been replaced by another file"
                    );
                }
            }
        };
        remove(elsewhere);
        root.remove(STATE)?;
        remove(around);
        Ok(())
    }
}
