//! Loading a module into the running kernel, and what becomes of it there.

use std::time::Duration;

use crate::context::Context;
use crate::dkms::plan::built_directory;
use crate::dkms::tree::Tree;
use crate::dkms::{ModuleName, register};
use crate::kernel::module_file::{kernel_name, stem};
use crate::kernel::{Inventory, Running};
use crate::sys::kernel_log::KernelLog;
use crate::sys::{FileError, FileKind, Root};
use crate::usage::{self, LoadedLine};

/// The time limit of modprobe, which waits for the initialization of the module.
const DEADLINE: Duration = Duration::from_secs(120);

/// What became of a module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoadOutcome {
    /// It is loaded. `taints`: the letters by which the kernel marks it. `devices`: the devices that it
    /// drives, as sysfs names them.
    Loaded { taints: String, devices: Vec<String> },
    /// It was loaded before.
    Before,
    /// It is not loaded. `log`: what the kernel wrote into its log meanwhile.
    Refused { why: String, log: Vec<String> },
}

/// The files of a module that the running kernel has, or why there is nothing to load.
///
/// # Errors
/// When they cannot be listed.
pub fn files(context: &Context, module: &ModuleName) -> Result<Result<Vec<String>, String>, FileError> {
    let root = &context.root;
    let release = match Inventory::observe(root).running {
        Running::Known { release } => release,
        Running::None => return Ok(Err("no kernel runs there".to_owned())),
        Running::Unknown { reason } => return Ok(Err(format!("the running kernel is unknown: {reason}"))),
    };
    let tree = Tree::observe(root);
    if let Some(why) = register::kernels_unknown(root, &tree, module) {
        return Ok(Err(format!("whether the running kernel has it is unknown: {why}")));
    }
    if !register::kernels_of(&tree, module).contains(&release) {
        return Ok(Err(format!("the running kernel, {release}, does not have it; the next boot may")));
    }
    let entries = root.list_optional(built_directory(module, &release))?;
    let files = entries.iter().filter_map(|entry| entry.text()).filter(|name| stem(name).is_some());
    Ok(Ok(files.map(|name| format!("{}/{name}", built_directory(module, &release))).collect()))
}

/// Loads a module file with modprobe. It is tried once: the initialization of a driver may have effects also
/// if it fails.
///
/// # Errors
/// When modprobe cannot be run, or the kernel does not report what is loaded.
pub fn load(context: &Context, file: &str) -> Result<LoadOutcome, String> {
    let root = &context.root;
    let name = kernel_name(stem(file).unwrap_or(file));
    let is_loaded = || usage::loaded(root).map(|lines| lines.into_iter().find(|line| line.name == name));
    if is_loaded().map_err(|e| e.to_string())?.is_some() {
        return Ok(LoadOutcome::Before);
    }
    let log = if root.is_live() { KernelLog::from_now() } else { None };
    let child = context.tools.child("modprobe", DEADLINE).map_err(|e| e.to_string())?;
    let done = child.args(["--", &name]).run().map_err(|e| e.to_string())?;
    if let Some(LoadedLine { taints, .. }) = is_loaded().map_err(|e| e.to_string())? {
        return Ok(LoadOutcome::Loaded { taints, devices: devices(root, &name) });
    }
    let log = log.map(KernelLog::messages).unwrap_or_default();
    let said = String::from_utf8_lossy(&done.output).into_owned();
    let said = said.lines().rev().find(|line| !line.trim().is_empty()).map(str::trim);
    let why = said.map_or_else(|| format!("modprobe: {}", done.ended), str::to_owned);
    Ok(LoadOutcome::Refused { why, log })
}

/// The devices that a loaded module drives. What cannot be read is left out: it is for information.
fn devices(root: &Root, name: &str) -> Vec<String> {
    let drivers = format!("/sys/module/{name}/drivers");
    let links = |directory: &str| {
        // The reason makes no difference: this is for information.
        let entries = root.list_optional(directory).unwrap_or_default();
        let links = entries.into_iter().filter(|entry| entry.kind == FileKind::Link);
        links.filter_map(|entry| entry.text().map(str::to_owned)).collect::<Vec<_>>()
    };
    let of_driver = |driver: String| {
        let devices = links(&format!("{drivers}/{driver}"));
        devices.into_iter().filter(|device| device != "module").collect::<Vec<_>>()
    };
    links(&drivers).into_iter().flat_map(of_driver).collect()
}
