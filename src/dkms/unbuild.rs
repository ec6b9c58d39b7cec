//! `dkms unbuild`: takes a module off one kernel, and leaves it registered.
//!
//! What 3.0.10 does for a kernel whose directory is gone, as tried: with the module's source in place it removes the
//! installed file (where one is left), the `kernel-K-A` link, the kernel's original and `V/K`, and exits with 0, also
//! when it is called again. Without the source or its dkms.conf it exits with 4, with a dkms.conf that is not valid
//! with 8, and does nothing. Where not every file that dkms.conf names is in `V/K/A/module` it exits with 0 and does
//! nothing. So its exit code says little; what is left afterwards is removed by who calls this.
//!
//! When it has taken the installed file away it runs POST_REMOVE, where it runs itself. So for an image the
//! script is left out of the call, which is confined as a build is, and is run here with the image as `/`: it
//! may have to remove what POST_INSTALL has written there.

use std::path::PathBuf;
use std::time::Duration;

use super::call::{self, GivenRoot};
use super::hooks::{self, Hook};
use super::replace::claim_path;
use super::{Cache, DkmsConf, ModuleName, Registered, Source, Tree, architecture, build, conf};
use crate::kernel::inventory::{MODULES, module_directory};
use crate::sys::{Child, Ended, Presence, Root, Tools};

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
    let mut post_remove = String::new();
    if !root.is_slash() {
        let conf = conf::load(root, tools, cache, registered, release);
        let conf = conf.map_err(|e| e.reason().to_owned())?;
        child = in_image((root, tools), registered, release, &conf, child)?;
        post_remove = conf.hook("POST_REMOVE").to_owned();
    }
    let was_installed = is_installed(root, module, release);
    let done = run_dkms(child);
    let is_gone = || matches!(root.lookup_link(claim_path(module, release)), Presence::Absent);
    if !post_remove.is_empty() && was_installed && is_gone() {
        // dkms goes on too when it fails: what it should have removed is the admin's to look for.
        if let Err(e) = run_post_remove((root, tools), module, &post_remove) {
            tracing::warn!("{e}; what POST_INSTALL made may still be there");
        }
    }
    done
}

/// The call for a root that is not the system's own.
fn in_image(
    (root, tools): (&Root, &Tools),
    registered: &Registered,
    release: &str,
    conf: &DkmsConf,
    child: Child,
) -> Result<Child, String> {
    let module = &registered.module;
    let given = GivenRoot::for_unbuild(root);
    if let Some(reason) = build::way_out_of((given, tools), module, release, conf) {
        return Err(reason);
    }
    build::portable_source(root, module, &registered.source).map_err(|e| e.to_string())?;
    let modules = root.real_path(MODULES).map_err(|e| e.to_string())?;
    // The headers are gone with the kernel: it is named so that dkms does not look for the host's.
    let headers = given.plain_path(modules.join(release).join("build"));
    let mut child = given.named_in(child)?.arg("--kernelsourcedir").arg(headers);
    if !conf.hook("POST_REMOVE").is_empty() {
        child = child.arg("--directive").arg("POST_REMOVE=");
    }
    let sight = call::seen_in_image(given, module, &[PathBuf::from(module_directory(release))])?;
    Ok(call::confined(tools, child, sight))
}

/// Whether dkms says that it is installed on that kernel.
fn is_installed(root: &Root, module: &ModuleName, release: &str) -> bool {
    let text = format!("{}/{release}/{}", module.version, architecture());
    // Of what cannot be read nothing is known to have been taken away.
    root.read_link(claim_path(module, release)).is_ok_and(|link| link.as_os_str() == text.as_str())
}

fn run_dkms(child: Child) -> Result<(), String> {
    tracing::debug!("{}", child.display());
    // It takes away link, file and build one after the other; what a stop would leave is removed by the next run, and
    // it is over in a moment.
    let done = child.uninterruptible().run().map_err(|e| format!("dkms cannot be started: {e}"))?;
    let said = String::from_utf8_lossy(&done.output).into_owned();
    for line in said.lines().filter(|l| !l.trim().is_empty()) {
        tracing::debug!("dkms: {line}");
    }
    if let Some(layers) = done.layers {
        tracing::debug!("dkms: confined by: {layers}");
    }
    match done.ended {
        Ended::Exit(0) => Ok(()),
        ended => {
            let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing");
            Err(format!("dkms unbuild: {ended}: {}", last.trim()))
        }
    }
}

fn run_post_remove((root, tools): (&Root, &Tools), module: &ModuleName, command: &str) -> Result<(), String> {
    let child = hooks::child_in_image((root, tools), module, (Hook::PostRemove, command), DEADLINE)?;
    let Some(child) = child else {
        return Err(format!("POST_REMOVE of {module} is not an executable file: {command}"));
    };
    let done = child.run().map_err(|e| format!("POST_REMOVE of {module} was not run: {e}"))?;
    for line in String::from_utf8_lossy(&done.output).lines() {
        tracing::debug!("POST_REMOVE of {module}: {line}");
    }
    match done.ended {
        Ended::Exit(0) => Ok(()),
        ended => Err(format!("POST_REMOVE of {module}: {ended}")),
    }
}
