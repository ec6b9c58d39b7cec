//! The manifest of what `clr-dkms add` put on the machine: the sources below `/usr/src`, and side files such
//! as `modprobe.d` files, each with the SHA-256 of what was written.
//!
//! A file is recorded before it is written, so a run that is killed leaves no file that is not recorded. A
//! recorded file may therefore be absent, or still have the contents that it was to replace.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{SCHEMA, Stored, load};
use crate::dkms::{ModuleName, modfile};
use crate::limits::{ADOPTED_ENTRIES, ADOPTED_SOURCE};
use crate::sys::{FileError, FileKind, Fingerprint, Presence, Root};

/// The path of the manifest.
pub const ADDED: &str = "/var/lib/clr-dkms/added.json";

/// Why the manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The manifest exists, and what it records is unknown.
    #[error("what clr-dkms add installed is unknown: {0}")]
    Unknown(String),
    /// A file is in the way that `clr-dkms add` did not write, or that was edited since.
    #[error("{} is there, and clr-dkms did not write it as it is", .0.display())]
    Occupied(PathBuf),
    #[error("{0}")]
    File(#[from] FileError),
}

/// What a recorded file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum AddedFileKind {
    /// A `modprobe.d` file of the source.
    Modprobe,
    /// udev rules of the source.
    Udev,
    /// A `modules-load.d` file of the source, or one that was made for `--autoload`.
    ModulesLoad,
    /// A `modprobe.d` file that keeps drivers of the kernel from being loaded in place of the module.
    Blacklist,
}

/// A side file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedFile {
    /// The path inside the root.
    pub path: String,
    pub kind: AddedFileKind,
    /// The SHA-256 of the contents that were written, or were to be written when the run was killed.
    pub sha256: String,
    /// The SHA-256 of the contents that this version of the file replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
    /// The drivers that a [`AddedFileKind::Blacklist`] names, as the kernel writes names.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drivers: BTreeSet<String>,
}

/// A source that `clr-dkms add` copied to `/usr/src`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedSource {
    /// The directory inside the root.
    pub path: String,
    /// The result of [`tree_fingerprint`].
    pub fingerprint: String,
}

/// What was installed for one version of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedModule {
    #[serde(flatten)]
    pub module: ModuleName,
    /// None if the source was there before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<AddedSource>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<AddedFile>,
}

/// What is at the path of a recorded file or source now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddedState {
    Absent,
    /// It is as it was written.
    Unedited,
    /// It has other contents, or is not a regular file.
    Edited,
}

/// What [`AddedManifest::take_back`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenBack {
    /// The paths of the files that were removed.
    pub removed: Vec<String>,
    /// The paths of the files that were edited since, which stay and are no longer recorded.
    pub edited: Vec<String>,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddedManifest {
    /// See [`SCHEMA`].
    pub schema: u32,
    /// Sorted by name and version.
    pub modules: Vec<AddedModule>,
}

impl Default for AddedManifest {
    fn default() -> AddedManifest {
        AddedManifest { schema: SCHEMA, modules: Vec::new() }
    }
}

impl AddedManifest {
    /// Reads the manifest. An absent one is empty.
    ///
    /// # Errors
    ///
    /// If it exists and cannot be used.
    pub fn load(root: &Root) -> Result<AddedManifest, ManifestError> {
        match load::<AddedManifest>(root, ADDED) {
            Stored::Good(manifest) => Ok(manifest),
            Stored::Absent => Ok(AddedManifest::default()),
            Stored::Bad(why) | Stored::Unreadable(why) => Err(ManifestError::Unknown(why)),
        }
    }

    /// What was installed for a module.
    pub fn of(&self, module: &ModuleName) -> Option<&AddedModule> {
        self.modules.iter().find(|added| added.module == *module)
    }

    /// The record of a path, and the module that it was written for.
    pub fn file(&self, path: &str) -> Option<(&ModuleName, &AddedFile)> {
        let mut files = self.modules.iter().flat_map(|m| m.files.iter().map(move |file| (&m.module, file)));
        files.find(|(_, file)| file.path == path)
    }

    /// Records a source directory. To be called before the directory appears.
    ///
    /// # Errors
    ///
    /// If the manifest cannot be written.
    pub fn record_source(
        &mut self,
        root: &Root,
        module: &ModuleName,
        source: AddedSource,
    ) -> Result<(), ManifestError> {
        self.entry(module).source = Some(source);
        self.write(root)
    }

    /// Records that a source directory was removed, or was not written.
    ///
    /// # Errors
    ///
    /// If the manifest cannot be written.
    pub fn forget_source(&mut self, root: &Root, module: &ModuleName) -> Result<(), ManifestError> {
        if self.of(module).is_none_or(|added| added.source.is_none()) {
            return Ok(());
        }
        self.entry(module).source = None;
        self.write(root)
    }

    /// Checks that nothing is at a path, or only what `clr-dkms add` wrote there.
    ///
    /// # Errors
    ///
    /// If something else is there, or this is unknown.
    pub fn check_free(&self, root: &Root, path: &str) -> Result<(), ManifestError> {
        let state = match (self.file(path), root.lookup_link(path)) {
            (Some((_, file)), _) => file.state(root)?,
            (None, Presence::Absent) => AddedState::Absent,
            (None, Presence::There(_)) => AddedState::Edited,
            (None, Presence::Unreadable(e)) => return Err(e.into()),
        };
        match state {
            AddedState::Absent | AddedState::Unedited => Ok(()),
            AddedState::Edited => Err(ManifestError::Occupied(root.shown_path(path))),
        }
    }

    /// Records a side file, and writes it. A file of the same path that another version of the module
    /// installed passes to this one.
    ///
    /// # Errors
    ///
    /// If a file that is not ours is at the path, or one of them cannot be written. In the second case the
    /// file may be recorded.
    pub fn write_file(
        &mut self,
        root: &Root,
        module: &ModuleName,
        (path, kind): (&str, AddedFileKind),
        text: &[u8],
        drivers: BTreeSet<String>,
    ) -> Result<(), ManifestError> {
        let sha256 = modfile::digest_of(text);
        self.check_free(root, path)?;
        let replaced = sha256_of(root, path)?.filter(|now| *now != sha256);
        for added in &mut self.modules {
            added.files.retain(|file| file.path != path);
        }
        let file = AddedFile { path: path.to_owned(), kind, sha256, replaced, drivers };
        let entry = self.entry(module);
        entry.files.push(file);
        entry.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.write(root)?;
        root.write(path, text, 0o644)?;
        Ok(())
    }

    /// Lets the side files of a version belong to another version, which replaces it. The source stays with
    /// its version.
    ///
    /// # Errors
    ///
    /// If the manifest cannot be written.
    pub fn pass_on(&mut self, root: &Root, from: &ModuleName, to: &ModuleName) -> Result<(), ManifestError> {
        if from == to || self.of(from).is_none_or(|added| added.files.is_empty()) {
            return Ok(());
        }
        let files = std::mem::take(&mut self.entry(from).files);
        let entry = self.entry(to);
        entry.files.extend(files);
        entry.files.sort_by(|a, b| a.path.cmp(&b.path));
        self.write(root)
    }

    /// Removes the side files of a module that were not edited since, and forgets all of them. The source
    /// directory stays recorded.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or removed: it stays recorded, and what was removed before is forgotten.
    pub fn take_back(&mut self, root: &Root, module: &ModuleName) -> Result<TakenBack, ManifestError> {
        let files = self.of(module).map(|added| added.files.clone()).unwrap_or_default();
        let mut done = TakenBack::default();
        let mut failed = None;
        for file in files {
            let removed = file.state(root).and_then(|state| match state {
                AddedState::Unedited => root.remove(&file.path).map(|_| done.removed.push(file.path.clone())),
                AddedState::Edited => {
                    done.edited.push(file.path.clone());
                    Ok(())
                }
                AddedState::Absent => Ok(()),
            });
            match removed {
                Ok(()) => self.entry(module).files.retain(|other| other.path != file.path),
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        self.write(root)?;
        failed.map_or(Ok(done), |e| Err(e.into()))
    }

    fn entry(&mut self, module: &ModuleName) -> &mut AddedModule {
        let at = self.modules.binary_search_by(|added| added.module.cmp(module));
        let at = at.unwrap_or_else(|at| {
            let added = AddedModule { module: module.clone(), source: None, files: Vec::new() };
            self.modules.insert(at, added);
            at
        });
        &mut self.modules[at]
    }

    fn write(&mut self, root: &Root) -> Result<(), ManifestError> {
        self.modules.retain(|added| added.source.is_some() || !added.files.is_empty());
        self.modules.sort_by(|a, b| a.module.cmp(&b.module));
        match self.modules.is_empty() {
            true => drop(root.remove(ADDED)?),
            false => drop(root.write_json(ADDED, self)?),
        }
        Ok(())
    }
}

impl AddedFile {
    /// Compares the file with what was written.
    ///
    /// # Errors
    ///
    /// If it exists and cannot be read.
    pub fn state(&self, root: &Root) -> Result<AddedState, FileError> {
        state_of(root, &self.path, FileKind::File, || {
            let now = sha256_of(root, &self.path)?;
            Ok(now.map(|now| now == self.sha256 || Some(&now) == self.replaced.as_ref()))
        })
    }
}

impl AddedSource {
    /// Compares the directory with what was copied.
    ///
    /// # Errors
    ///
    /// If it exists and cannot be read.
    pub fn state(&self, root: &Root) -> Result<AddedState, FileError> {
        state_of(root, &self.path, FileKind::Directory, || {
            Ok(Some(tree_fingerprint(root, &self.path)? == self.fingerprint))
        })
    }
}

/// What is at a path. `is_ours` compares a file of that kind with what was written; none if it is gone.
fn state_of(
    root: &Root,
    path: &str,
    kind: FileKind,
    is_ours: impl FnOnce() -> Result<Option<bool>, FileError>,
) -> Result<AddedState, FileError> {
    let is_ours = match root.lookup_link(path).known()? {
        None => None,
        Some(stat) if stat.kind != kind => Some(false),
        Some(_) => is_ours()?,
    };
    Ok(is_ours.map_or(AddedState::Absent, |is_ours| match is_ours {
        true => AddedState::Unedited,
        false => AddedState::Edited,
    }))
}

/// The SHA-256 of a file. None if it does not exist.
fn sha256_of(root: &Root, path: &str) -> Result<Option<String>, FileError> {
    match modfile::sha256(root, path) {
        Ok(sha256) => Ok(Some(sha256)),
        Err(e) if e.is_absent() => Ok(None),
        Err(e) => Err(e),
    }
}

/// A fingerprint of the names, contents and execute bits below a directory, and of the targets of symlinks.
///
/// # Errors
///
/// If something cannot be read, or there are more files than a source may have.
pub fn tree_fingerprint(root: &Root, directory: &str) -> Result<String, FileError> {
    let mut found = Fingerprint::default();
    let mut waiting = vec![String::new()];
    let mut left = ADOPTED_ENTRIES;
    while let Some(below) = waiting.pop() {
        for entry in root.list(format!("{directory}{below}"))? {
            left = left.checked_sub(1).ok_or_else(|| root.too_large(directory, ADOPTED_SOURCE))?;
            let inside = format!("{below}/{}", entry.name.to_string_lossy());
            let path = format!("{directory}{inside}");
            found.add(&inside);
            match entry.kind {
                FileKind::Directory => {
                    found.add("directory");
                    waiting.push(inside);
                }
                FileKind::Link => found.add(root.read_link(&path)?.as_os_str().as_encoded_bytes()),
                FileKind::File => {
                    found.add(modfile::sha256(root, &path)?);
                    let executable =
                        root.lookup_link(&path).known()?.is_some_and(|stat| stat.mode & 0o100 != 0);
                    found.add(if executable { "executable" } else { "file" });
                }
                FileKind::Other => found.add("other"),
            }
        }
    }
    Ok(found.finish())
}
