//! Setting a build or an installed file aside until its successor is there, and taking it back when none comes: after a
//! failure at once, after a kill at the beginning of the next run.

use super::modfile::ENDINGS;
use super::plan::built_folder;
use super::proof::{INSTALLED, find_file};
use super::tree::TREE;
use super::{ModuleName, Registered, architecture, modfile};
use crate::kernel::inventory::{MODULES, module_folder};
use crate::sys::{FileError, Kind, Root};

/// The name of what is set aside: dkms sees nothing that begins with a dot, depmod nothing that ends so.
fn aside_name(path: &str) -> String {
    format!(".tmp_{}_aside", path.rsplit('/').next().unwrap_or(path))
}

fn aside_path(path: &str) -> String {
    format!("{}/{}", path.rsplit_once('/').map_or("", |(folder, _)| folder), aside_name(path))
}

/// The name that something had before it was set aside; none for what was not.
pub fn name_before(name: &str) -> Option<&str> {
    name.strip_prefix(".tmp_")?.strip_suffix("_aside")
}

/// Sets a file or folder aside.
///
/// # Errors
/// When it cannot be renamed; then it is where it was.
pub(super) fn set(root: &Root, path: &str) -> Result<(), FileError> {
    // What an interrupted run has left there is older than this one.
    root.remove_tree(aside_path(path))?;
    root.rename(path, &aside_name(path)).map(|_| ())
}

/// Takes a build back that was set aside, or throws it away when there is another one.
pub(super) fn settle_build(root: &Root, path: &str, superseded: bool) {
    settle(root, path, path, superseded);
}

/// The same for an installed file. Whether there is another one is seen on the disk: a copy of one of these builds.
pub(super) fn settle_file<'m>(
    root: &Root,
    path: &str,
    release: &str,
    builds: impl IntoIterator<Item = &'m ModuleName>,
) {
    let Some((folder, stem)) = path.rsplit_once('/').and_then(|(folder, name)| Some((folder, stem(name)?)))
    else {
        return;
    };
    let contents = |folder: &str| {
        let (path, _) = find_file(root, folder, stem)?;
        let bytes = root.read(&path).ok()?;
        Some(modfile::read(&path, &bytes).sha256)
    };
    let now = contents(folder);
    let is_copy = |module: &ModuleName| contents(&built_folder(module, release)) == now;
    let superseded = now.is_some() && builds.into_iter().any(is_copy);
    // A part of a copy may have another ending than the file before.
    let part = find_file(root, folder, stem).map_or_else(|| path.to_owned(), |(path, _)| path);
    settle(root, path, &part, superseded);
}

fn settle(root: &Root, path: &str, part: &str, superseded: bool) {
    let aside = aside_path(path);
    if !root.lookup_link(&aside).is_there() {
        return;
    }
    let result = if superseded {
        root.remove_tree(&aside)
    } else {
        let name = path.rsplit('/').next().unwrap_or(path);
        root.remove_tree(part).and_then(|_| root.rename(&aside, name))
    };
    if let Err(e) = result {
        tracing::warn!("{e}; the next run goes on from here");
    }
}

fn stem(file: &str) -> Option<&str> {
    ENDINGS.iter().find_map(|ending| file.strip_suffix(ending)).filter(|stem| !stem.is_empty())
}

/// Takes back what a killed run has set aside, before anybody looks: what is in its place may be a part of something.
pub fn recover(root: &Root, modules: &[Registered]) {
    let own = architecture();
    for module in modules.iter().map(|m| &m.module) {
        let folder = format!("{TREE}/{}/{}", module.name, module.version);
        for kernel in folders(root, &folder) {
            let path = format!("{folder}/{kernel}/{own}");
            if root.lookup_link(aside_path(&path)).is(Kind::Folder) {
                tracing::warn!("{path}: the build from before an interrupted one is taken back");
                settle_build(root, &path, false);
            }
        }
    }
    for release in folders(root, MODULES) {
        let folder = format!("{}/{INSTALLED}", module_folder(&release));
        let entries = root.list_optional(&folder).unwrap_or_default();
        for name in entries.iter().filter_map(|entry| name_before(entry.text()?)) {
            tracing::warn!("{folder}/{name}: what an interrupted installation has left is put right");
            settle_file(root, &format!("{folder}/{name}"), &release, modules.iter().map(|m| &m.module));
        }
    }
}

/// The names of the folders in a folder. What cannot be listed is told by who observes it.
fn folders(root: &Root, path: &str) -> Vec<String> {
    let entries = root.list_optional(path).unwrap_or_default();
    let folders = entries.iter().filter(|entry| entry.kind == Kind::Folder);
    folders.filter_map(|entry| entry.text().map(str::to_owned)).collect()
}
