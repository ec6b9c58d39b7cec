//! Completes the replacements that an interrupted run has left.

use std::collections::BTreeSet;

use super::{
    INSTALLED, JOURNAL, Replacement, STATE, TREE, architecture, backup, modfile, module_directory,
    name_before, remove, settle_build, split, staged,
};
use crate::dkms::Registered;
use crate::dkms::staging::STAGING;
use crate::kernel::inventory::MODULES;
use crate::kernel::module_file::made_for;
use crate::sys::{FileError, FileKind, Presence, Root};

impl Replacement {
    /// Checks that every file of both sets either can be read or is certainly absent: a file that only cannot
    /// be read must not be given up.
    ///
    /// # Errors
    ///
    /// The file that could not be read.
    pub(super) fn can_be_read(&self, root: &Root) -> Result<(), FileError> {
        let files = self.old.iter().chain(&self.new).map(|known| &known.path);
        for path in files.flat_map(|path| [path.clone(), backup(path), staged(path)]) {
            modfile::sha256(root, &path)
                .map(drop)
                .or_else(|e| if e.leaves_open() { Err(e) } else { Ok(()) })?;
        }
        Ok(())
    }
}

/// Completes interrupted replacements, before anything is observed. Returns the kernels whose index may not
/// match their files; none if there was nothing to do. Whatever cannot be read stays unchanged, and so does
/// everything that an unreadable journal may refer to.
pub fn recover(root: &Root, modules: &[Registered]) -> Option<BTreeSet<String>> {
    let (mut stale, mut found, mut is_known) = (BTreeSet::new(), false, true);
    let entries = root.list_optional(STATE).unwrap_or_else(|e| {
        tracing::error!("{e}; what an interrupted installation may have left stays as it is");
        is_known = false;
        Vec::new()
    });
    for entry in entries {
        let Some(name) = entry.text() else { continue };
        let path = format!("{STATE}/{name}");
        if name.starts_with(STAGING) {
            remove(root, &path);
        }
        if !name.starts_with(JOURNAL) {
            continue;
        }
        found = true;
        match root.read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Replacement>(&bytes) {
                Ok(set) => {
                    set.recover(root);
                    stale.insert(set.release);
                }
                Err(e) => {
                    // It was written before the first file was renamed; `take_back` looks at the files alone.
                    tracing::warn!("{} is damaged ({e}) and is removed", root.shown_path(&path).display());
                    remove(root, &path);
                }
            },
            Err(e) if e.leaves_open() => {
                tracing::error!("{e}; what was left of an interrupted installation stays as it is");
                is_known = false;
            }
            // It is certainly no journal.
            Err(_) => remove(root, &path),
        }
    }
    found |= recover_builds(root, modules);
    // A set that could not be read has kept its journal and needs the second names of its files.
    let has_journal = |e: &crate::sys::Listed| e.text().is_some_and(|name| name.starts_with(JOURNAL));
    // If the directory cannot be listed, there may be one.
    is_known &= root.list_optional(STATE).is_ok_and(|left| !left.iter().any(has_journal));
    if is_known {
        found |= take_back(root, &mut stale);
    }
    found.then_some(stale)
}

/// Handles second names without a journal. One is taken back only if the file with the first name is gone.
/// Returns whether there were any.
fn take_back(root: &Root, stale: &mut BTreeSet<String>) -> bool {
    let mut found = false;
    for release in directories(root, MODULES) {
        let directory = format!("{}/{INSTALLED}", module_directory(&release));
        // A directory that cannot be listed is reported when it is observed.
        for entry in root.list_optional(&directory).unwrap_or_default() {
            let Some(name) = entry.text() else { continue };
            if is_unfinished_copy(name) {
                remove(root, &format!("{directory}/{name}"));
            }
            let Some(before) = name_before(name) else { continue };
            let (path, old) = (format!("{directory}/{name}"), format!("{directory}/{before}"));
            let is_lost = match root.lookup_link(&old) {
                Presence::Absent => name == split(&backup(&old)).1,
                Presence::There(_) => false,
                // The file may be gone, and this the only copy.
                Presence::Unreadable(_) => continue,
            };
            let is_of_kernel = match modfile::of_file_named(root, &path, before) {
                // A file without a vermagic is for no kernel.
                Ok(system) => system.vermagic.is_ok_and(|text| made_for(&text) == Some(&release)),
                // It may be the only copy.
                Err(_) if is_lost => continue,
                Err(_) => false,
            };
            found = true;
            if !(is_lost && is_of_kernel) {
                remove(root, &path);
                continue;
            }
            match root.rename(&path, before) {
                Ok(_) => {
                    tracing::warn!("{old}: the file from before an interrupted installation is taken back");
                    stale.insert(release.clone());
                }
                // It is the only copy, so it stays.
                Err(e) => tracing::error!("{e}; the next run tries again"),
            }
        }
    }
    found
}

/// A file that was killed before it got its temporary name is `.NAME.PID`.
fn is_unfinished_copy(name: &str) -> bool {
    let parts = name.strip_prefix('.').and_then(|name| name.rsplit_once('.'));
    parts.is_some_and(|(name, process)| {
        name_before(name).is_some() && process.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Restores or removes builds that were set aside. Returns whether there were any.
fn recover_builds(root: &Root, modules: &[Registered]) -> bool {
    let (own, mut found) = (architecture(), false);
    for module in modules.iter().map(|m| &m.module) {
        let directory = format!("{TREE}/{module}");
        for kernel in directories(root, &directory) {
            let path = format!("{directory}/{kernel}/{own}");
            if root.lookup_link(backup(&path)).is(FileKind::Directory) {
                tracing::warn!("{path}: the build from before an interrupted one is taken back");
                settle_build(root, &path, false);
                found = true;
            }
        }
    }
    found
}

/// The names of the subdirectories. A directory that cannot be listed is reported when it is observed.
fn directories(root: &Root, path: &str) -> Vec<String> {
    // The reason makes no difference here; see above.
    let entries = root.list_optional(path).unwrap_or_default();
    let directories = entries.iter().filter(|entry| entry.kind == FileKind::Directory);
    directories.filter_map(|entry| entry.text().map(str::to_owned)).collect()
}
