//! Runs `dkms unbuild`: removes a module from one kernel and keeps it registered.
//!
//! Measured with 3.0.10 for a kernel whose directory is gone: if the source of the module exists, dkms
//! removes the installed file if there is one, the `kernel-K-A` link, the original of the kernel and `V/K`.
//! It exits with code 0, also if it is called again. Without the source or its dkms.conf it exits with 4,
//! with an invalid dkms.conf with 8, and does nothing. If a file that dkms.conf names is missing in
//! `V/K/A/module`, it exits with 0 and does nothing. So the exit code proves nothing, and the caller removes
//! what is left.
//!
//! After the removal of the installed file dkms runs POST_REMOVE on the machine where it runs itself. For an
//! image the script is therefore left out of the call, which is confined like a build, and is run here with
//! the image as `/`: it may have to remove what POST_INSTALL has written there.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::dkms::call::{self, GivenRoot};
use crate::dkms::hooks::{self, Hook};
use crate::dkms::plan::{build_directory, built_directory};
use crate::dkms::proof::{INSTALLED, find_file};
use crate::dkms::replace::claim_path;
use crate::dkms::tree::TREE;
use crate::dkms::{Cache, DkmsConf, ModuleName, Registered, Source, Tree, architecture, build, conf};
use crate::kernel::inventory::{MODULES, module_directory};
use crate::kernel::module_file::stem;
use crate::sys::{Child, Ended, Presence, Root, Tools};

/// The time limit, which allows for slow scripts. dkms itself needs less than a second.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs it.
///
/// # Errors
///
/// If dkms was not called or has failed. The caller removes what is left in both cases.
pub fn run(
    root: &Root,
    tools: &Tools,
    cache: &mut Cache,
    tree: &Tree,
    module: &ModuleName,
    release: &str,
) -> Result<()> {
    let registered = tree.modules.iter().find(|m| m.module == *module);
    let registered = registered.with_context(|| format!("dkms does not know {module}"))?;
    if let Source::Broken { reason } | Source::Unknown { reason } = &registered.source {
        bail!(reason.clone());
    }
    // There is no kernel left that could use an index.
    let mut child = call::call(tools, "unbuild", module, release, DEADLINE)?.arg("--no-depmod");
    let mut post_remove = String::new();
    if !root.is_slash() {
        let conf = conf::load(root, tools, cache, registered, release)?;
        child = in_image((root, tools), registered, release, &conf, child)?;
        post_remove = conf.hook("POST_REMOVE").to_owned();
    }
    let was_installed = is_installed(root, module, release);
    let done = run_dkms(child);
    let is_gone = || matches!(root.lookup_link(claim_path(module, release)), Presence::Absent);
    if !post_remove.is_empty() && was_installed && is_gone() {
        // dkms continues after a failure too. The admin has to look for what the script should have removed.
        if let Err(e) = run_post_remove((root, tools), module, &post_remove) {
            tracing::warn!("{e:#}; what POST_INSTALL made may still be there");
        }
    }
    done
}

/// A module that was removed from a kernel, although dkms could not do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithoutDkms {
    /// The release of the kernel.
    pub release: String,
    /// Why dkms could not.
    pub why: String,
    /// The installed files that were removed. Without them the build is gone too, and it is unknown which
    /// files were installed.
    pub files: Vec<String>,
}

/// Removes an installed module from a kernel as dkms would, but runs no POST_REMOVE. `why` is why dkms
/// cannot.
///
/// # Errors
///
/// If something cannot be read or removed, or dkms has put a module of the kernel aside.
pub fn without_dkms(root: &Root, module: &ModuleName, release: &str, why: String) -> Result<WithoutDkms> {
    let original = format!("{TREE}/{}/original_module/{release}", module.name);
    if root.lookup_link(&original).known()?.is_some() {
        let shown = root.shown_path(&original);
        bail!("{why}; a module of the kernel itself is kept in {}: move it back first", shown.display());
    }
    let mut files = Vec::new();
    let directory = format!("{}/{INSTALLED}", module_directory(release));
    for entry in root.list_optional(built_directory(module, release))? {
        let Some(name) = entry.text().and_then(stem) else { continue };
        if let Some((path, _)) = find_file(root, &directory, name) {
            root.remove(&path)?;
            files.push(path);
        }
    }
    root.remove(claim_path(module, release))?;
    root.remove_tree(build_directory(module, release))?;
    Ok(WithoutDkms { release: release.to_owned(), why, files })
}

/// Makes the call for a root other than `/`.
fn in_image(
    (root, tools): (&Root, &Tools),
    registered: &Registered,
    release: &str,
    conf: &DkmsConf,
    child: Child,
) -> Result<Child> {
    let module = &registered.module;
    let given = GivenRoot::for_unbuild(root);
    if let Some(reason) = build::way_out_of((given, tools), module, release, conf) {
        bail!(reason);
    }
    build::portable_source(root, module, &registered.source)?;
    let modules = root.real_path(MODULES)?;
    // The headers are gone together with the kernel. Naming them keeps dkms from using those of the host.
    let headers = given.plain_path(modules.join(release).join("build"));
    let mut child = given.named_in(child)?.arg("--kernelsourcedir").arg(headers);
    if !conf.hook("POST_REMOVE").is_empty() {
        child = child.arg("--directive").arg("POST_REMOVE=");
    }
    let sight = call::seen_in_image(given, module, &[PathBuf::from(module_directory(release))])?;
    Ok(call::confined(tools, child, sight))
}

/// Whether dkms marks this version as installed on that kernel.
fn is_installed(root: &Root, module: &ModuleName, release: &str) -> bool {
    let text = format!("{}/{release}/{}", module.version, architecture());
    // If the link cannot be read, it is not known whether anything was removed.
    root.read_link(claim_path(module, release)).is_ok_and(|link| link.as_os_str() == text.as_str())
}

fn run_dkms(child: Child) -> Result<()> {
    tracing::debug!("{}", child.display());
    // It removes link, file and build one after the other. It takes a moment only, and the next run removes
    // what a deadline would leave.
    let done = child.uninterruptible().run().context("dkms cannot be started")?;
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
            bail!("dkms unbuild: {ended}: {}", last.trim())
        }
    }
}

fn run_post_remove((root, tools): (&Root, &Tools), module: &ModuleName, command: &str) -> Result<()> {
    let child = hooks::child_in_image((root, tools), module, (Hook::PostRemove, command), DEADLINE)?;
    let Some(child) = child else {
        bail!("POST_REMOVE of {module} is not an executable file: {command}");
    };
    let done = child.run().with_context(|| format!("POST_REMOVE of {module} was not run"))?;
    for line in String::from_utf8_lossy(&done.output).lines() {
        tracing::debug!("POST_REMOVE of {module}: {line}");
    }
    match done.ended {
        Ended::Exit(0) => Ok(()),
        ended => bail!("POST_REMOVE of {module}: {ended}"),
    }
}
