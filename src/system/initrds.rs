//! The contents of each kernel's initrds, read from the sources that clr-boot-manager copies them from.

use std::collections::{BTreeMap, BTreeSet};

use crate::boot::initrds::{self, OF_ADMIN};
use crate::dkms::proof::facts_of;
use crate::dkms::{Cache, ModuleOnKernel};
use crate::initrd::{FoundInInitrd, InitrdContents};
use crate::kernel::Installed;
use crate::kernel::module_file::{BuildIdentity, kernel_name};
use crate::modprobe::{KernelModules, Resolution};
use crate::sys::Root;
use crate::usage::Dependents;

/// The initrds of one kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelInitrds {
    /// The initrds that belong to this kernel alone. Freestanding initrds belong to every kernel.
    pub own: Vec<String>,
    /// The modules in all of its initrds.
    pub contents: InitrdContents,
    /// The installed build of each module in the initrds, by the kernel's name of the module.
    pub installed: BTreeMap<String, BuildIdentity>,
    /// Modules that something in use depends on and that are built into this kernel.
    pub built_in: BTreeSet<String>,
}

impl KernelInitrds {
    /// The initrd that an admin made for this kernel.
    pub fn of_admin(&self) -> Option<&str> {
        self.own.iter().map(String::as_str).find(|path| path.starts_with(OF_ADMIN))
    }

    /// Looks up a module of that kernel.
    pub fn find(&self, release: &str, module: &str) -> FoundInInitrd<'_> {
        self.contents.find(release, module)
    }
}

/// Reads the initrds of some kernels. Only these modules are looked for: those of `modules_on_kernels`, those
/// that something in use depends on, and `others`.
pub(super) fn observe(
    root: &Root,
    cache: &mut Cache,
    kernels: &[&Installed],
    modules_on_kernels: &[ModuleOnKernel],
    in_use: &BTreeMap<String, Dependents>,
    others: BTreeSet<String>,
) -> BTreeMap<String, KernelInitrds> {
    // What is in an initrd is compared with proven modules, and without a dkms.conf nothing is proven.
    let of_pairs = modules_on_kernels.iter().filter_map(|pair| pair.conf.as_ref().ok());
    let mut wanted: BTreeSet<String> =
        of_pairs.flat_map(|conf| conf.built.iter().map(|built| kernel_name(&built.name))).collect();
    wanted.extend(in_use.keys().cloned().chain(others));
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let freestanding = match initrds::freestanding(root) {
        Ok(found) => found.into_values().flatten().collect(),
        Err(e) => return all_unknown(kernels, &e.to_string()),
    };
    let freestanding: Vec<String> = freestanding;
    let mut found = BTreeMap::new();
    for kernel in kernels {
        let mut initrds = KernelInitrds::default();
        match initrds::of_kernel(root, &kernel.id) {
            Ok(own) => initrds.own = own.into_values().collect(),
            Err(e) => initrds.contents.extend(InitrdContents::unreadable(e.to_string())),
        }
        for path in initrds.own.iter().chain(&freestanding) {
            initrds.contents.extend(read(root, cache, path, &wanted));
        }
        let release = kernel.name.release();
        initrds.installed = installed(root, cache, &release, modules_on_kernels, &initrds.contents);
        found.insert(release, initrds);
    }
    built_in(root, kernels, in_use, &mut found);
    found
}

fn all_unknown(kernels: &[&Installed], reason: &str) -> BTreeMap<String, KernelInitrds> {
    let unknown = || KernelInitrds {
        contents: InitrdContents::unreadable(reason.to_owned()),
        ..KernelInitrds::default()
    };
    kernels.iter().map(|kernel| (kernel.name.release(), unknown())).collect()
}

fn read(root: &Root, cache: &mut Cache, path: &str, wanted: &BTreeSet<String>) -> InitrdContents {
    match root.lookup(path).stat() {
        Some(stat) => cache.initrd(path, &stat, wanted, || InitrdContents::of_file(root, path, wanted)),
        None => InitrdContents::unreadable(format!("{} cannot be read", root.shown_path(path).display())),
    }
}

/// The builds of the proven files on a kernel, for the modules in its initrds.
fn installed(
    root: &Root,
    cache: &mut Cache,
    release: &str,
    modules_on_kernels: &[ModuleOnKernel],
    contents: &InitrdContents,
) -> BTreeMap<String, BuildIdentity> {
    let mut builds = BTreeMap::new();
    for pair in modules_on_kernels.iter().filter(|pair| pair.release == release) {
        for proof in pair.proof.iter().flatten() {
            let Some(name) = crate::kernel::module_file::stem(&proof.path).map(kernel_name) else { continue };
            if contents.find(release, &name) == FoundInInitrd::Absent {
                continue;
            }
            // A file that cannot be read has no build to compare with.
            if let Ok(system) = facts_of(root, cache, &proof.path, &root.lookup(&proof.path)) {
                builds.insert(name, system.build);
            }
        }
    }
    builds
}

/// Determines which modules that the admin's initrd contains, or may contain, are built into the kernels that
/// have no such initrd.
fn built_in(
    root: &Root,
    kernels: &[&Installed],
    in_use: &BTreeMap<String, Dependents>,
    found: &mut BTreeMap<String, KernelInitrds>,
) {
    let Some(running) = kernels.iter().find(|kernel| kernel.running).map(|kernel| kernel.name.release())
    else {
        return;
    };
    let Some(of_running) = found.get(&running).filter(|initrds| initrds.of_admin().is_some()).cloned() else {
        return;
    };
    let held = in_use.keys().filter(|m| of_running.find(&running, m) != FoundInInitrd::Absent);
    let held: Vec<&String> = held.collect();
    for (release, initrds) in found.iter_mut().filter(|(_, initrds)| initrds.of_admin().is_none()) {
        let modules = KernelModules::new(root, release);
        let in_image = held.iter().filter(|m| modules.resolve(m) == Resolution::BuiltIn);
        initrds.built_in = in_image.map(|m| (*m).clone()).collect();
    }
}
