//! What `clr-dkms add` offers beside the module: the side files of the source, a blacklist of the drivers
//! that claim the same devices, and a line in `modules-load.d`.

use std::collections::{BTreeMap, BTreeSet};

use crate::adopt::unpack::Unpacked;
use crate::adopt::{BuiltModule, SideFile, SideFileKind, side_files};
use crate::context::Context;
use crate::kernel::module_file::kernel_name;
use crate::kernel::module_image::ModuleImage;
use crate::kernel::{Inventory, firmware, module_file};
use crate::modprobe::competing::bus;
use crate::modprobe::config::Directive;
use crate::modprobe::resolve::claims;
use crate::modprobe::{KernelModules, ModprobeConfig, Resolution};
use crate::report::add::{AddDocument, StepResult};
use crate::report::side_files::{
    AliasPair, AutoloadNeed, CompetingDriver, OfferedFile, SideDocument, SideFileResult,
};
use crate::sys::{FileKind, Root, RootKind, Scratch};
use crate::usage::Usage;

/// The modules that were built for a kernel release.
pub type BuiltOnKernel = (String, Vec<BuiltModule>);

/// The bus of devices that drivers themselves create: an alias of it does not show that a device exists.
const PLATFORM: &str = "platform";
/// The name of the step.
pub const STEP: &str = "side-file";

/// The `modprobe.d` file with the blacklist of a module.
pub fn blacklist_path(module: &str) -> String {
    format!("{}/clr-dkms-{module}.conf", SideFileKind::Modprobe.directories()[0])
}

/// Finds the side files of a source.
pub fn find_side_files(scratch: &Scratch, unpacked: &Unpacked, module: &str, document: &mut AddDocument) {
    match side_files(scratch.root(), unpacked, module) {
        Ok(files) => document.side.side_files = files.into_iter().map(offered).collect(),
        Err(e) => document.steps.add(STEP, StepResult::Warning, e.to_string()),
    }
}

fn offered(file: SideFile) -> OfferedFile {
    OfferedFile { path: file.path(), blacklists: file.blacklisted(), file, result: SideFileResult::Offered }
}

/// Determines what follows from the modules that were built, for each kernel.
pub fn complete(context: &Context, module: &str, built: &[BuiltOnKernel], document: &mut AddDocument) {
    if built.is_empty() {
        return;
    }
    let devices = devices(&context.root);
    match competing_drivers(context, built, &devices) {
        Ok(drivers) => document.side.blacklist = Some(drivers),
        Err(e) => {
            let why = format!("the drivers that claim the same devices are unknown: {e:#}");
            document.steps.add(STEP, StepResult::Warning, why);
        }
    }
    let mut missing = BTreeSet::new();
    for (release, modules) in built {
        let names: Vec<String> = modules.iter().flat_map(|module| module.firmware.clone()).collect();
        match firmware::missing(&context.root, release, &names) {
            Ok(names) => missing.extend(names),
            Err(e) => {
                document.steps.add(
                    STEP,
                    StepResult::Warning,
                    format!("the missing firmware is unknown: {e}"),
                );
                return;
            }
        }
    }
    document.side.firmware_missing = Some(missing.into_iter().collect());
    document.side.autoload = Some(autoload(module, built, &devices, &mut document.side));
}

/// The modules that are installed, where none were built in scratch.
///
/// # Errors
///
/// If one of them cannot be read.
pub fn installed(
    context: &Context,
    names: &[String],
    kernels: &[String],
) -> Result<Vec<BuiltOnKernel>, String> {
    let mut found = Vec::new();
    for release in kernels {
        let on_kernel = KernelModules::new(&context.root, release);
        let mut modules = Vec::new();
        for name in names {
            match on_kernel.resolve(&kernel_name(name)) {
                Resolution::File { path, .. } => {
                    let image = ModuleImage::of_file(&context.root, &path, &path).map_err(|e| e.of(&path))?;
                    let info = module_file::info(&image).map_err(|e| format!("{path}: {e:#}"))?;
                    modules.push(BuiltModule::new(name, info));
                }
                Resolution::Unknown(why) => return Err(why),
                Resolution::BuiltIn | Resolution::Dangling { .. } | Resolution::Absent => {}
            }
        }
        if !modules.is_empty() {
            found.push((release.clone(), modules));
        }
    }
    Ok(found)
}

/// The devices of this machine with their aliases. None if it is not known: nothing runs in an image.
fn devices(root: &Root) -> Option<Vec<(String, String)>> {
    const BUSES: &str = "/sys/bus";
    if root.kind() == RootKind::Image {
        return None;
    }
    let mut found = Vec::new();
    // What cannot be listed or read adds no device: only what a driver is used for decides, which is
    // observed elsewhere.
    for bus in root.list_optional(BUSES).unwrap_or_default() {
        let directory = format!("{BUSES}/{}/devices", bus.name.to_string_lossy());
        // As above, here and below.
        for device in root.list_optional(&directory).unwrap_or_default() {
            let path = format!("{directory}/{}", device.name.to_string_lossy());
            let alias = format!("{path}/modalias");
            if !root.lookup(&alias).is(FileKind::File) {
                continue;
            }
            // As above.
            let text = root.read(&alias).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            if !text.is_empty() {
                found.push((path, text));
            }
        }
    }
    Some(found)
}

fn competing_drivers(
    context: &Context,
    built: &[BuiltOnKernel],
    devices: &Option<Vec<(String, String)>>,
) -> anyhow::Result<Vec<CompetingDriver>> {
    let running = Inventory::observe(&context.root).running;
    let usage = Usage::observe(&context.root, &running, context.clock.now());
    let config = ModprobeConfig::load(&context.root);
    let present: Vec<String> = devices.iter().flatten().map(|(_, alias)| alias.clone()).collect();
    let mut found: BTreeMap<String, CompetingDriver> = BTreeMap::new();
    for (release, modules) in built {
        let on_kernel = KernelModules::new(&context.root, release);
        let aliases: Vec<String> = modules.iter().flat_map(|module| module.aliases.clone()).collect();
        // The module needs what it is built upon.
        let depends = modules.iter().flat_map(|module| &module.depends);
        let own: BTreeSet<String> =
            modules.iter().map(|module| &module.name).chain(depends).map(|name| kernel_name(name)).collect();
        let served: Vec<&(String, String)> = devices.iter().flatten().collect();
        let served =
            served.into_iter().filter(|(_, alias)| claims(aliases.iter().map(String::as_str), alias));
        let served: Vec<(&String, BTreeSet<String>)> = served
            .map(|(path, alias)| Ok((path, on_kernel.listed_for(alias)?)))
            .collect::<anyhow::Result<_>>()?;
        for (driver, pairs) in on_kernel.competing(&own, &aliases, &present)? {
            let entry = found.entry(driver.clone()).or_insert_with(|| CompetingDriver {
                kernels: Vec::new(),
                built_in: Vec::new(),
                aliases: Vec::new(),
                devices: Vec::new(),
                used_for: usage.depended_on.get(&driver).map(|by| by.uses.clone()).unwrap_or_default(),
                blacklisted_by: blacklisted_by(&config, &driver),
                driver: driver.clone(),
            });
            entry.kernels.push(release.clone());
            if on_kernel.resolve(&driver) == Resolution::BuiltIn {
                entry.built_in.push(release.clone());
            }
            if entry.aliases.is_empty() {
                let pairs = pairs.into_iter().map(|(module, driver)| AliasPair { module, driver });
                entry.aliases = pairs.collect();
            }
            for (path, drivers) in &served {
                if drivers.contains(&driver) && !entry.devices.contains(path) {
                    entry.devices.push((*path).clone());
                }
            }
        }
    }
    Ok(found.into_values().collect())
}

fn blacklisted_by(config: &ModprobeConfig, driver: &str) -> Option<String> {
    let lines = config.directives.iter();
    let mut lines = lines
        .filter(|(_, directive)| matches!(directive, Directive::Blacklist { module } if module == driver));
    lines.next().map(|(at, _)| at.path.clone())
}

/// Whether an alias of a device loads one of the modules. A file of the source that only lists them, for
/// `modules-load.d`, is not a side file of its own then.
fn autoload(
    module: &str,
    built: &[BuiltOnKernel],
    devices: &Option<Vec<(String, String)>>,
    side: &mut SideDocument,
) -> AutoloadNeed {
    let modules = || built.iter().flat_map(|(_, modules)| modules);
    let is_there =
        |alias: &str| devices.iter().flatten().any(|(_, device)| claims(std::iter::once(alias), device));
    let loads = |alias: &&String| bus(alias).is_some_and(|bus| bus != PLATFORM || is_there(alias));
    let alias = modules().flat_map(|module| &module.aliases).find(loads).cloned();
    let depended: BTreeSet<String> =
        modules().flat_map(|m| &m.depends).map(|name| kernel_name(name)).collect();
    let names: BTreeSet<String> = modules().map(|module| kernel_name(&module.name)).collect();
    let mut need = AutoloadNeed {
        needed: alias.is_none(),
        alias,
        modules: names.difference(&depended).cloned().collect(),
        path: format!("{}/clr-dkms-{module}.conf", SideFileKind::ModulesLoad.directories()[0]),
        result: SideFileResult::Offered,
    };
    let lists_own = |file: &OfferedFile| {
        file.file.kind == SideFileKind::ModulesLoad && file.file.loaded().is_subset(&names)
    };
    if let Some(own) = side.side_files.iter().find(|file| lists_own(file)) {
        need.path.clone_from(&own.path);
        need.modules = own.file.loaded().into_iter().collect();
    }
    side.side_files.retain(|file| !lists_own(file));
    need
}
