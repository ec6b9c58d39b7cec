//! Copies the part of a source that is built into a directory as dkms expects it below `/usr/src`.

use std::path::{Path, PathBuf};

use super::evidence::AdoptError;
use super::find::Adoptable;
use super::tree::{SourceTree, name_of, plain};
use super::unpack::Unpacked;
use crate::limits::ADOPTED_SOURCE;
use crate::sys::{FileKind, Root};

/// The directory in the scratch root that holds sources as `/usr/src` does.
pub const SOURCES: &str = "/adopted";

/// Copies it, with the resulting `dkms.conf`, and returns its directory in the scratch root.
///
/// # Errors
/// When something cannot be read or written.
pub fn place(scratch: &Root, unpacked: &Unpacked, found: &Adoptable) -> Result<PathBuf, AdoptError> {
    let source = SourceTree::observe(scratch, &unpacked.top)?;
    let target = Path::new(SOURCES).join(format!("{}-{}", found.name, found.version));
    scratch.make_directories(&target)?;
    for (path, kind) in &source.entries {
        // What is outside of the base is not built.
        let Ok(below) = path.strip_prefix(&found.base) else { continue };
        if below.as_os_str().is_empty() || is_product(&source, path) {
            continue;
        }
        let (from, to) = (source.path(path), target.join(below));
        if to == target.join("dkms.conf") {
            continue;
        }
        if let Some(text) = found.changed.get(path) {
            scratch.write(&to, text.as_bytes(), 0o644)?;
            continue;
        }
        match kind {
            FileKind::Directory => scratch.make_directories(&to)?,
            FileKind::Link => {
                let text = scratch.read_link(&from)?;
                let leads = plain(&path.parent().unwrap_or(Path::new("")).join(&text));
                if leads.starts_with(&found.base) {
                    scratch.link(&to, &text)?;
                } else if scratch.lookup(&from).is(FileKind::File) {
                    // What it leads to is not copied.
                    copy(scratch, &from, &to, 0o644)?;
                }
            }
            FileKind::File => {
                let is_hook = is_hook(found, below);
                let stat = scratch.lookup_link(&from).known()?;
                let mode = stat.map_or(0o644, |stat| stat.mode & 0o777);
                copy(scratch, &from, &to, if is_hook { 0o755 } else { mode })?;
            }
            FileKind::Other => {}
        }
    }
    scratch.write(target.join("dkms.conf"), found.text.as_bytes(), 0o644)?;
    Ok(target)
}

fn copy(scratch: &Root, from: &Path, to: &Path, mode: u32) -> Result<(), AdoptError> {
    let (mut file, _) = scratch.open_within(from, ADOPTED_SOURCE)?;
    let mut new = scratch.create_new(to, mode)?;
    std::io::copy(&mut file, &mut new).map_err(|e| AdoptError::Unknown(e.to_string()))?;
    Ok(())
}

/// A hook script of the `dkms.conf`: zip archives lose the mode, and dkms skips a script without it.
fn is_hook(found: &Adoptable, below: &Path) -> bool {
    let scripts = found.conf.hooks.values().filter_map(|hook| hook.split_ascii_whitespace().next());
    scripts.into_iter().any(|script| plain(Path::new(script)) == below)
}

/// What an earlier build left: kbuild writes `.NAME.cmd` beside each file that it makes.
fn is_product(source: &SourceTree<'_>, path: &Path) -> bool {
    let name = name_of(path);
    let command = path.with_file_name(format!(".{name}.cmd"));
    (source.entries.contains_key(&command) && !name.ends_with(".c"))
        || (name.starts_with('.') && name.ends_with(".cmd"))
        || ["modules.order", "Module.symvers", ".tmp_versions"].contains(&name)
        || name.ends_with(".mod.c")
}
