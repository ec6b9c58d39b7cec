//! Whether the source of a module has changed since the installed files were built.

use std::collections::BTreeMap;

use crate::dkms::plan::{ModuleOnKernel, built_directory};
use crate::dkms::proof::find_file;
use crate::dkms::{DkmsConf, ModuleName, Source, modfile};
use crate::sys::{FileKind, Fingerprint, Root, Stat};

/// A source tree with more entries than this is not examined.
pub(in crate::dkms) const MOST: usize = 20_000;

/// The SHA-256 of each file that the build of a module in the DKMS tree has made.
pub fn sums_of_build(root: &Root, module: &ModuleName, release: &str, conf: &DkmsConf) -> Vec<String> {
    let directory = built_directory(module, release);
    let files = conf.built.iter().filter_map(|built| find_file(root, &directory, &built.name));
    // A file that cannot be read is not installed either.
    files.filter_map(|(path, _)| modfile::sha256(root, &path).ok()).collect()
}

/// Calls `see` for each entry below a directory, except `.git`: its path, what it is, and the file that it
/// leads to. None if what is there is not known: a directory cannot be listed, there are more entries than
/// `left`, or a symlink leads to a directory.
pub(in crate::dkms) fn walk(
    root: &Root,
    directory: &str,
    left: &mut usize,
    see: &mut dyn FnMut(&str, FileKind, Option<Stat>),
) -> Option<()> {
    // The reason makes no difference: what is in the directory is unknown.
    let listed = root.list_optional(directory).ok()?;
    if listed.is_empty() {
        return Some(());
    }
    // Its path is resolved once, not for each of thousands of files. The reason makes no difference either.
    let opened = root.open_directory(directory).ok()?;
    for found in listed {
        if found.name == ".git" {
            continue;
        }
        *left = left.checked_sub(1)?;
        let name = found.name.to_string_lossy();
        let path = format!("{directory}/{name}");
        let stat = opened.lookup(&name).and_then(|there| there.stat());
        let is_directory = stat.is_some_and(|stat| stat.kind == FileKind::Directory);
        if found.kind != FileKind::Directory && is_directory {
            return None;
        }
        see(&path, found.kind, stat);
        if found.kind == FileKind::Directory {
            walk(root, &path, left, see)?;
        }
    }
    Some(())
}

/// The files of a source tree, with their sizes and modification times.
#[derive(Debug, Default)]
pub struct SourceFiles(Vec<(String, Stat)>);

impl SourceFiles {
    /// Lists the tree. None if the source is missing, has too many files or contains links to directories.
    pub fn observe(root: &Root, source: &Source) -> Option<SourceFiles> {
        let Source::Directory { path, .. } = source else { return None };
        let mut files = SourceFiles::default();
        walk(root, &path.to_string_lossy(), &mut { MOST }, &mut |path, _, stat| match stat {
            // A directory counts by its entries, and a dangling symlink is not an input of a build.
            Some(Stat { kind: FileKind::Directory, .. }) | None => {}
            Some(stat) => files.0.push((path.to_owned(), stat)),
        })?;
        Some(files)
    }

    /// A fingerprint of names, sizes and modification times. Copying the tree with its times keeps it.
    pub fn fingerprint(&self) -> String {
        let mut fingerprint = Fingerprint::default();
        let mut files: Vec<&(String, Stat)> = self.0.iter().collect();
        files.sort_by(|one, other| one.0.cmp(&other.0));
        for (path, stat) in files {
            fingerprint.add(path);
            fingerprint.add(format!("{} {}", stat.size, stat.mtime_ns));
        }
        fingerprint.finish()
    }

    /// Whether the installed files were built from another state of these files. `built_from` has the
    /// fingerprints that earlier runs recorded, by the SHA-256 of the installed file. For a build by another
    /// program, a source file that is newer than the installed file counts.
    pub fn differ_from_build(
        &self,
        root: &Root,
        pair: &ModuleOnKernel,
        built_from: Option<&BTreeMap<String, String>>,
    ) -> bool {
        // What is not proven is built again in any case.
        let Some(installed) = pair.proof.as_ref().ok().and_then(|proofs| proofs.first()) else {
            return false;
        };
        if let Some(then) = installed.sha256.as_ref().and_then(|sum| built_from?.get(sum)) {
            return *then != self.fingerprint();
        }
        let newest = self.0.iter().map(|(_, stat)| stat.mtime_ns).max();
        let built = root.lookup(&installed.path).stat().map(|stat| stat.mtime_ns);
        matches!((newest, built), (Some(newest), Some(built)) if newest > built)
    }
}
