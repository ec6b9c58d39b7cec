//! Runs `depmod` for one kernel in a temporary base directory. The indexes that modprobe reads are replaced
//! only after all new ones are complete.
//!
//! depmod writes each index to a temporary file and renames it. On a full disk it also renames a truncated
//! one (kmod 30: an empty `modules.dep` and exit code 1), and with a truncated `modules.dep.bin` the kernel
//! finds no module at all. It also does not sync. `--outdir` requires kmod 31. A base directory with symlinks
//! to the parts of the module directory gives the same bytes with every version.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::dkms::leftovers::DEPMOD;
use crate::kernel::inventory::module_directory;
use crate::limits::SYMBOL_MAP;
use crate::sys::{FileError, FileKind, Presence, Root, Tools};

/// The prefix of the base directories. They need a few megabytes in memory and no disk space. They are not
/// below `/usr/lib/modules`, where the remains of a killed run would look like another kernel.
const BASES: &str = "/run/clr-dkms-depmod-";
/// The indexes without which modprobe finds nothing.
const VITAL: [&str; 2] = ["modules.dep", "modules.dep.bin"];

/// Makes the indexes of a kernel. `without` are the paths of files that are about to be removed: they stay
/// while the old index lists them, and the new index leaves them out.
///
/// # Errors
///
/// If an index cannot be made or replaced. Either all old indexes are still in place, or some have been
/// replaced.
pub fn run(root: &Root, tools: &Tools, release: &str, without: &[&str], deadline: Duration) -> Result<()> {
    let directory = module_directory(release);
    // In a root it may lead to the directory of another kernel.
    if !root.is_slash() && root.lookup_link(&directory).is(FileKind::Link) {
        bail!("depmod was not run for {release}: {} is a symlink", root.shown_path(&directory).display());
    }
    let base = format!("{BASES}{release}");
    let make = || -> Result<()> {
        let made = laid_out(root, &base, release, without)?;
        called(root, tools, &base, release, deadline)?;
        replace(root, &made, release)
    };
    let done = make();
    if let Err(e) = root.remove_tree(&base) {
        tracing::warn!("{e}; the next depmod removes it");
    }
    done
}

/// Creates the base directory. Returns the directory in it that represents the module directory.
fn laid_out(root: &Root, base: &str, release: &str, without: &[&str]) -> Result<String, FileError> {
    let made = format!("{base}/lib/modules/{release}");
    root.remove_tree(base)?;
    mirror(root, &module_directory(release), &made, without)?;
    Ok(made)
}

/// Fills a directory with symlinks to the entries of another one, except for some files below it.
fn mirror(root: &Root, directory: &str, made: &str, without: &[&str]) -> Result<(), FileError> {
    root.make_directories(made)?;
    for entry in root.list(directory)? {
        // depmod skips `build` and `source` at every level.
        let is_read = |name: &&str| !DEPMOD.contains(name) && !["build", "source"].contains(name);
        let Some(name) = entry.text().filter(is_read) else { continue };
        let (path, link) = (format!("{directory}/{name}"), format!("{made}/{name}"));
        let is_within = |file: &&str| file.strip_prefix(&path).is_some_and(|rest| rest.starts_with('/'));
        if without.contains(&path.as_str()) {
            continue;
        }
        if without.iter().any(is_within) {
            mirror(root, &path, &link, without)?;
            continue;
        }
        match root.lookup(&path) {
            Presence::There(_) => drop(root.link(link, &root.host_path(&path)?)?),
            Presence::Absent => {}
            // depmod cannot follow such an entry either. No other one may be left out of the index.
            Presence::Unreadable(e) if !e.leaves_open() => {}
            Presence::Unreadable(e) => return Err(e),
        }
    }
    Ok(())
}

fn called(root: &Root, tools: &Tools, base: &str, release: &str, deadline: Duration) -> Result<()> {
    let child = tools.child("depmod", deadline)?;
    let base = root.host_path(base)?;
    // It takes about a second, and an interruption would leave modules that modprobe does not find.
    let child = child.arg("-b").arg(base).args(["-a", release]).uninterruptible();
    let done = child.run().context("depmod cannot be started")?;
    if done.ended.is_success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.output);
    bail!("depmod for {release}: {}: {}", done.ended, said.trim())
}

fn replace(root: &Root, made: &str, release: &str) -> Result<()> {
    let mut indexes = Vec::new();
    for name in DEPMOD {
        match root.has(format!("{made}/{name}"))? {
            true => indexes.push(name),
            false if VITAL.contains(&name) => bail!("depmod for {release} made no {name}"),
            false => {}
        }
    }
    for name in indexes {
        let to = format!("{}/{name}", module_directory(release));
        root.copy(format!("{made}/{name}"), to, 0o644, SYMBOL_MAP)?;
    }
    Ok(())
}
