//! Registers a source with DKMS, and takes the registration back.
//!
//! In the DKMS tree a registered module is the symlink `MODULE/VERSION/source`, so that is what is written:
//! `dkms add` checks less than is checked here, and accepts versions such as `#MODULE_VERSION#`.

use anyhow::bail;

use crate::dkms::replace::claim_path;
use crate::dkms::tree::{SOURCES, TREE};
use crate::dkms::unbuild::{self, WithoutDkms};
use crate::dkms::{Cache, ModuleName, Source, Tree};
use crate::sys::{FileError, FileKind, Presence, Root, Tools};

/// The directory of a source below `/usr/src`.
pub fn source_directory(module: &ModuleName) -> String {
    format!("{SOURCES}/{}-{}", module.name, module.version)
}

fn version_directory(module: &ModuleName) -> String {
    format!("{TREE}/{}/{}", module.name, module.version)
}

/// Registers the source in [`source_directory`].
///
/// # Errors
/// When it cannot be written.
pub fn add(root: &Root, module: &ModuleName) -> Result<(), FileError> {
    let link = format!("{}/source", version_directory(module));
    root.make_directories(version_directory(module))?;
    // Relative: it leads to the same directory from outside of the root.
    root.link(&link, format!("../../../../..{}", source_directory(module)).as_ref())?;
    root.sync_directory(version_directory(module))
}

/// The kernels that have this version of a module.
pub fn kernels_of(tree: &Tree, module: &ModuleName) -> Vec<String> {
    let installed = tree.installed.iter();
    let of_it = installed.filter(|((name, _), version)| *name == module.name && **version == module.version);
    of_it.map(|((_, release), _)| release.clone()).collect()
}

/// Why it is unknown which kernels have a module: the tree, or a symlink in it, could not be read. None if
/// that is known.
pub fn kernels_unknown(root: &Root, tree: &Tree, module: &ModuleName) -> Option<String> {
    let directory = format!("{TREE}/{}", module.name);
    let claims = format!("{directory}/kernel-");
    let is_it =
        |path: &str| path == directory || path.strip_prefix(&claims).is_some_and(|rest| !rest.contains('/'));
    let unread = || root.unread().into_iter().find(|unread| unread.path.to_str().is_some_and(is_it));
    tree.unreadable.clone().or_else(|| unread().map(|unread| unread.what))
}

/// Takes a module from every kernel. It stays registered. The `modules.dep` of these kernels is to be made
/// again. Returns where dkms could not do it: it needs the source.
///
/// # Errors
/// When something cannot be read or removed.
pub fn uninstall(root: &Root, tools: &Tools, module: &ModuleName) -> anyhow::Result<Vec<WithoutDkms>> {
    let tree = Tree::observe(root);
    if let Some(reason) = kernels_unknown(root, &tree, module) {
        bail!("{reason}");
    }
    let registered = tree.modules.iter().find(|known| known.module == *module);
    if let Some(Source::Unknown { reason }) = registered.map(|known| &known.source) {
        bail!("{reason}");
    }
    let mut without_dkms = Vec::new();
    for release in kernels_of(&tree, module) {
        let done = unbuild::run(root, tools, &mut Cache::default(), &tree, module, &release);
        match root.lookup_link(claim_path(module, &release)) {
            Presence::Absent => {}
            Presence::There(_) => {
                let why = match done {
                    Ok(()) => "dkms unbuild did nothing".to_owned(),
                    Err(e) => format!("{e:#}"),
                };
                without_dkms.push(unbuild::without_dkms(root, module, &release, why)?);
            }
            Presence::Unreadable(e) => return Err(e.into()),
        }
    }
    Ok(without_dkms)
}

/// Takes back the registration of a module that no kernel has any more.
///
/// # Errors
/// When something cannot be removed.
pub fn forget(root: &Root, module: &ModuleName) -> Result<(), FileError> {
    root.remove_tree(version_directory(module))?;
    root.remove_empty_directory(format!("{TREE}/{}", module.name)).map(drop)
}

/// Whether two directories have the same files, with the same contents and the same execute bits.
///
/// # Errors
/// When something cannot be read.
pub fn is_same_source(
    (root, directory): (&Root, &str),
    (other, other_directory): (&Root, &str),
) -> Result<bool, FileError> {
    let list = |root: &Root, path: &str| root.list(path);
    let (ours, theirs) = (list(root, directory)?, list(other, other_directory)?);
    if ours != theirs {
        return Ok(false);
    }
    for entry in ours {
        let Some(name) = entry.text() else { return Ok(false) };
        let (one, two) = (format!("{directory}/{name}"), format!("{other_directory}/{name}"));
        let is_same = match entry.kind {
            FileKind::Directory => is_same_source((root, &one), (other, &two))?,
            FileKind::Link => root.read_link(&one)? == other.read_link(&two)?,
            FileKind::File => match (root.lookup_link(&one), other.lookup_link(&two)) {
                (Presence::There(a), Presence::There(b)) => {
                    a.size == b.size
                        && (a.mode & 0o100 == b.mode & 0o100)
                        && crate::sys::compare::have_same_contents(
                            root.open_file(&one)?,
                            other.open_file(&two)?,
                        )
                        .map_err(|e| root.read_failed(&one, e))?
                }
                _ => false,
            },
            FileKind::Other => false,
        };
        if !is_same {
            return Ok(false);
        }
    }
    Ok(true)
}
