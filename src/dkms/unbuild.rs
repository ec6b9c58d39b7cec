//! `dkms unbuild`: takes a module off one kernel, and leaves it registered.
//!
//! What 3.0.10 does for a kernel whose directory is gone, as tried: with the module's source in place it removes the
//! installed file (where one is left), the `kernel-K-A` link, the kernel's original and `V/K`, and exits with 0, also
//! when it is called again. Without the source or its dkms.conf it exits with 4, with a dkms.conf that is not valid
//! with 8, and does nothing. Where not every file that dkms.conf names is in `V/K/A/module` it exits with 0 and does
//! nothing. So its exit code says little; what is left afterwards is removed by who calls this.

use std::path::PathBuf;
use std::time::Duration;

use super::conf::ConfError;
use super::{Cache, ModuleName, Source, Tree, build, call, conf};
use crate::kernel::inventory::{MODULES, module_directory};
use crate::sys::{Ended, Root, Tools};

/// Longer than the scripts of any module take; dkms itself is done in less than a second.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs it.
///
/// # Errors
/// In words, why dkms was not called or did not end well. Both leave what there was for others to remove.
pub fn run(
    root: &Root,
    tools: &Tools,
    cache: &mut Cache,
    tree: &Tree,
    module: &ModuleName,
    release: &str,
) -> Result<(), String> {
    let registered = tree.modules.iter().find(|m| m.module == *module);
    let registered = registered.ok_or_else(|| format!("dkms does not know {module}"))?;
    if let Source::Broken { reason } | Source::Unknown { reason } = &registered.source {
        return Err(reason.clone());
    }
    // There is no kernel that would read an index.
    let mut child = call::call(tools, "unbuild", module, release, DEADLINE)?.arg("--no-depmod");
    if !root.is_slash() {
        // It asks whether originals of other kernels are left by an unquoted path, and removes them all when it finds
        // none: to bash such a path is a pattern.
        if root.path().to_string_lossy().contains(['[', '*', '?', '\\']) {
            return Err("dkms takes the path of this root for a pattern".to_owned());
        }
        let conf = match conf::load(root, tools, cache, registered, release) {
            Ok(conf) => conf,
            Err(ConfError::Unusable(why) | ConfError::CannotTell(why) | ConfError::TimedOut(why)) => {
                return Err(why);
            }
        };
        // It is run without a sandbox.
        if let Some(bad) = call::odd_character(root) {
            return Err(format!("dkms cannot work below a path with {bad:?}"));
        }
        if let Some(reason) = build::way_out_of_root((root, tools), module, release, &conf) {
            return Err(reason);
        }
        build::portable_source(root, module, &registered.source).map_err(|e| e.to_string())?;
        let modules = root.real_path(MODULES).map_err(|e| e.to_string())?;
        // The headers are gone with the kernel: it is named so that dkms does not look for the host's.
        let headers: PathBuf = modules.join(release).join("build");
        child = call::in_root(root, child)?.arg("--kernelsourcedir").arg(headers);
    }
    tracing::debug!("{} ({})", child.display(), module_directory(release));
    // It takes away link, file and build one after the other; what a stop would leave is removed by the next run, and
    // it is over in a moment.
    let done = child.uninterruptible().run().map_err(|e| format!("dkms cannot be started: {e}"))?;
    let said = String::from_utf8_lossy(&done.output).into_owned();
    for line in said.lines().filter(|l| !l.trim().is_empty()) {
        tracing::debug!("dkms: {line}");
    }
    match done.ended {
        Ended::Exit(0) => Ok(()),
        ended => {
            let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            Err(format!("dkms unbuild: {ended}: {}", last.trim()))
        }
    }
}
