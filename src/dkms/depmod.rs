//! `depmod` for one kernel, in a directory of its own: the indexes that modprobe reads are replaced when all of them are
//! made, and only then.
//!
//! depmod writes each index beside the old one and renames it. On a full disk it renames a truncated one all the same
//! (kmod 30: an empty `modules.dep`, exit code 1), and a truncated `modules.dep.bin` is a kernel without any module. It
//! also does not sync. `--outdir` exists from kmod 31 on only; a base directory with symlinks to the parts of the module
//! directory gives the same bytes with every version.

use std::path::PathBuf;
use std::time::Duration;

use super::leftovers::DEPMOD;
use crate::kernel::inventory::module_folder;
use crate::sys::{FileError, Kind, Presence, Root, Tools};

/// Where the base directories are. Not below `/usr/lib/modules`: what is killed there would be another kernel.
const BASES: &str = "/var/lib/clr-dkms/depmod";
/// Without these two modprobe finds nothing.
const VITAL: [&str; 2] = ["modules.dep", "modules.dep.bin"];

/// Makes the indexes of a kernel.
///
/// # Errors
/// In words. The old indexes are in place then, or some of them with the others new.
pub fn run(root: &Root, tools: &Tools, release: &str, deadline: Duration) -> Result<(), String> {
    let folder = module_folder(release);
    // Below a root it may lead to another kernel's directory.
    if !root.is_slash() && root.lookup_link(&folder).is(Kind::Link) {
        return Err(format!(
            "depmod was not run for {release}: {} is a symlink",
            root.spell(&folder).display()
        ));
    }
    let base = format!("{BASES}/{release}");
    let made = laid_out(root, &base, release).map_err(|e| e.to_string()).and_then(|made| {
        called(root, tools, &base, release, deadline)?;
        replace(root, &made, release)
    });
    if let Err(e) = root.remove_tree(&base) {
        tracing::warn!("{e}; the next depmod removes it");
    }
    made
}

/// Lays out the base directory; gives the directory in it that stands for the module directory.
fn laid_out(root: &Root, base: &str, release: &str) -> Result<String, FileError> {
    let (folder, made) = (module_folder(release), format!("{base}/lib/modules/{release}"));
    root.remove_tree(base)?;
    root.make_folders(&made)?;
    for entry in root.list(&folder)? {
        // depmod enters neither `build` nor `source`, at any depth.
        let is_read = |name: &&str| !DEPMOD.contains(name) && !["build", "source"].contains(name);
        let Some(name) = entry.text().filter(is_read) else { continue };
        let path = format!("{folder}/{name}");
        if let Presence::There(_) = root.lookup(&path) {
            root.link(format!("{made}/{name}"), &on_the_host(root, &path)?)?;
        }
    }
    Ok(made)
}

/// The path as depmod sees it. Where there is no `/proc`, as in a bare chroot, only the system's own root has paths.
fn on_the_host(root: &Root, path: &str) -> Result<PathBuf, FileError> {
    if root.is_slash() { Ok(PathBuf::from(path)) } else { root.real_path(path) }
}

fn called(root: &Root, tools: &Tools, base: &str, release: &str, deadline: Duration) -> Result<(), String> {
    let child = tools.child("depmod", deadline).map_err(|e| e.to_string())?;
    let base = on_the_host(root, base).map_err(|e| e.to_string())?;
    // It is over in a second, and without it what was installed before is not found.
    let child = child.arg("-b").arg(base).args(["-a", release]).uninterruptible();
    let done = child.run().map_err(|e| format!("depmod cannot be started: {e}"))?;
    if done.ended.is_success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.output);
    Err(format!("depmod for {release}: {}: {}", done.ended, said.trim()))
}

fn replace(root: &Root, made: &str, release: &str) -> Result<(), String> {
    let mut indexes = Vec::new();
    for name in DEPMOD {
        let path = format!("{made}/{name}");
        match root.read_optional(&path).map_err(|e| e.to_string())? {
            Some(bytes) => indexes.push((name, bytes)),
            None if VITAL.contains(&name) => return Err(format!("depmod for {release} made no {name}")),
            None => {}
        }
    }
    for (name, bytes) in indexes {
        root.write(format!("{}/{name}", module_folder(release)), &bytes, 0o644).map_err(|e| e.to_string())?;
    }
    Ok(())
}
