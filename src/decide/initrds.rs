//! Whether the initrds of a kernel contain the modules that the machine boots with.
//!
//! A module in the initrd of the running kernel may be needed to mount the root filesystem. The initrd of
//! another kernel must therefore contain it too, in the build that is installed for that kernel.

use super::loading::is_required;
use crate::dkms::ModuleOnKernel;
use crate::initrd::{FoundInInitrd, InitrdModule};
use crate::kernel::Running;
use crate::kernel::module_file::{kernel_name, made_for};
use crate::requirement::Use;
use crate::state::RunRecord;
use crate::system::System;
use crate::system::initrds::KernelInitrds;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitrdForecast {
    /// The initrds are correct.
    Fine,
    /// They are not correct, but nothing critical depends on the module. The text is a sentence.
    Remark(String),
    /// The module is not ready on that kernel. The text is a sentence.
    NotReady(String),
    /// It is unknown. The text is a sentence.
    Unknown(String),
}

/// The forecast for a DKMS module on a kernel.
pub fn initrd_forecast(system: &System, pair: &ModuleOnKernel, record: Option<&RunRecord>) -> InitrdForecast {
    let (Some(there), Ok(conf)) = (system.initrds.get(&pair.release), &pair.conf) else {
        return InitrdForecast::Fine;
    };
    let files: Vec<String> = conf.built.iter().map(|built| kernel_name(&built.name)).collect();
    let used = |file: &String| system.in_use.depended_on.contains_key(file);
    let critical = files.iter().any(used) || is_required(&pair.module.name, record);
    let running = system.inventory.running.release();
    let running = running.and_then(|release| Some((release, system.initrds.get(release)?)));
    for file in &files {
        let found = of_file(system, pair, file, there, running);
        match found {
            InitrdForecast::Fine => {}
            InitrdForecast::NotReady(why) if !critical => return InitrdForecast::Remark(why),
            InitrdForecast::Unknown(_) if !critical => {}
            other => return other,
        }
    }
    InitrdForecast::Fine
}

fn of_file(
    system: &System,
    pair: &ModuleOnKernel,
    file: &str,
    there: &KernelInitrds,
    running: Option<(&str, &KernelInitrds)>,
) -> InitrdForecast {
    let release = &pair.release;
    let runs = running.is_some_and(|(running, _)| running == release);
    let own = |path: &str| system.shown_path(&format!("/{path}"));
    let held = running.map(|(release, initrds)| initrds.find(release, file));
    match (there.find(release, file), held) {
        (FoundInInitrd::Module(module), _) => match wrong_build(pair, file, module, there) {
            Ok(None) => InitrdForecast::Fine,
            // The running kernel has booted with it.
            Ok(Some(why)) if runs => InitrdForecast::Remark(why),
            Ok(Some(why)) => InitrdForecast::NotReady(why),
            // It has booted with this initrd.
            Err(_) if runs => InitrdForecast::Fine,
            Err(why) => InitrdForecast::Unknown(why),
        },
        (FoundInInitrd::Absent, Some(FoundInInitrd::Module(_))) if !runs => {
            InitrdForecast::NotReady(match there.own.first() {
                Some(path) => format!(
                    "{} does not contain {file}, but the initrd of the running kernel does",
                    own(path)
                ),
                None => format!("kernel {release} has no initrd with {file}, but the running kernel has one"),
            })
        }
        (FoundInInitrd::Unknown(why), Some(FoundInInitrd::Module(_))) if !runs => {
            InitrdForecast::Unknown(format!(
                "it is unknown whether the initrd of kernel {release} contains {file}, as that of the running \
                 kernel does: {why}"
            ))
        }
        (FoundInInitrd::Absent, Some(FoundInInitrd::Unknown(why))) if !runs => {
            InitrdForecast::Unknown(format!(
                "it is unknown whether the initrd of the running kernel contains {file}, so that the initrd of \
                 {release} needs it: {why}"
            ))
        }
        _ => InitrdForecast::Fine,
    }
}

/// The forecast for a module that replaces the modules `replaced` on a kernel.
pub fn replacement_forecast(
    system: &System,
    release: &str,
    replaced: &[String],
    module: &str,
) -> InitrdForecast {
    let Running::Known { release: running } = &system.inventory.running else { return InitrdForecast::Fine };
    let (Some(held), Some(there)) = (system.initrds.get(running), system.initrds.get(release)) else {
        return InitrdForecast::Fine;
    };
    let is_held = |file: &String| held.find(running, file) != FoundInInitrd::Absent;
    let Some(file) = replaced.iter().find(|file| is_held(file)).filter(|_| running != release) else {
        return InitrdForecast::Fine;
    };
    match (there.find(release, module), held.find(running, file)) {
        (FoundInInitrd::Module(_), _) => InitrdForecast::Fine,
        (FoundInInitrd::Absent, FoundInInitrd::Module(_)) => InitrdForecast::NotReady(format!(
            "kernel {release} has no initrd with it, but the initrd of the running kernel contains {file}"
        )),
        (FoundInInitrd::Unknown(why), _) | (FoundInInitrd::Absent, FoundInInitrd::Unknown(why)) => {
            InitrdForecast::Unknown(format!(
                "it is unknown whether the initrd of kernel {release} needs and contains it: {why}"
            ))
        }
        (FoundInInitrd::Absent, FoundInInitrd::Absent) => InitrdForecast::Fine,
    }
}

/// What is wrong with the copy of a module in an initrd, as a sentence. An error if it is unknown.
fn wrong_build(
    pair: &ModuleOnKernel,
    file: &str,
    module: &InitrdModule,
    there: &KernelInitrds,
) -> Result<Option<String>, String> {
    let release = &pair.release;
    let build = match &module.build {
        Some(Ok(build)) => build,
        Some(Err(why)) => {
            return Err(format!("the build of {file} in the initrd of {release} is unknown: {why}"));
        }
        None => return Err(format!("the build of {file} in the initrd of {release} is unknown")),
    };
    let made_for = build.vermagic.as_deref().and_then(made_for);
    if made_for != Some(release.as_str()) {
        let other = made_for.unwrap_or("no kernel");
        return Ok(Some(format!("the initrd of {release} contains a {file} that was made for {other}")));
    }
    let same = there.installed.get(file).and_then(|installed| installed.same_as(&build.identity));
    match same {
        Some(true) => Ok(None),
        Some(false) => Ok(Some(format!(
            "the initrd of {release} contains another build of {file} than the installed one"
        ))),
        None => Err(format!("it is unknown whether the initrd of {release} contains the installed {file}")),
    }
}

/// A module that another kernel does not have at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostModule<'s> {
    pub module: &'s str,
    /// What depends on it.
    pub reason: &'s str,
    /// False if the contents of an initrd are unknown.
    pub is_certain: bool,
}

/// A module that something in use depends on, that the admin's initrd of the running kernel contains, and
/// that neither the image nor the initrds of another kernel contain. What is certain comes first.
pub fn lost_without_initrd<'s>(system: &'s System, release: &str) -> Option<LostModule<'s>> {
    let Running::Known { release: running } = &system.inventory.running else { return None };
    let (held, there) = (system.initrds.get(running)?, system.initrds.get(release)?);
    if running == release || held.of_admin().is_none() || there.of_admin().is_some() {
        return None;
    }
    let is_certain = |module: &String| match (held.find(running, module), there.find(release, module)) {
        _ if there.built_in.contains(module) => None,
        (FoundInInitrd::Module(_), FoundInInitrd::Absent) => Some(true),
        (FoundInInitrd::Module(_), FoundInInitrd::Unknown(_)) => Some(false),
        (FoundInInitrd::Unknown(_), FoundInInitrd::Absent) => Some(false),
        // If both are unknown, they share the initrd that cannot be read.
        (FoundInInitrd::Absent | FoundInInitrd::Unknown(_), _) | (_, FoundInInitrd::Module(_)) => None,
    };
    // Most modules in use are not in an initrd. Without those of the system's own disk nothing boots.
    let is_of_root = |what: &Use| matches!(what, Use::Mount { point, .. } if point == "/" || point == "/usr");
    let managed = |module: &String| {
        // A module without an evaluated dkms.conf has a problem of its own.
        let confs = system.of_kernel(running).filter_map(|pair| pair.conf.as_ref().ok());
        confs.flat_map(|conf| &conf.built).any(|built| kernel_name(&built.name) == *module)
    };
    // DKMS modules are requirements of their own.
    let used = system.in_use.depended_on.iter().filter(|(module, _)| !managed(module));
    let lost = used.filter_map(|(module, dependents)| {
        let is_certain = is_certain(module)?;
        let counts = is_certain || dependents.uses.iter().any(is_of_root);
        counts.then_some(LostModule { module, reason: &dependents.reason, is_certain })
    });
    lost.min_by_key(|lost| !lost.is_certain)
}

/// Kernels without an initrd although an admin made one for the running kernel: their releases, and the path
/// where the initrd is expected.
pub fn without_successor(system: &System) -> Vec<(String, String)> {
    let Some(running) = system.inventory.running_kernel() else { return Vec::new() };
    let has = |release: &str| system.initrds.get(release).is_some_and(|i| i.of_admin().is_some());
    if !has(&running.name.release()) {
        return Vec::new();
    }
    let tips = system.inventory.tips().into_iter().filter(|k| k.name.variant == running.name.variant);
    let without = tips.filter(|k| !k.running && !has(&k.name.release()));
    without.map(|k| (k.name.release(), format!("/etc/kernel/initrd-{}", k.id))).collect()
}
