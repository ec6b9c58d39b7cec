//! The files of the modules that a machine may require: what modprobe would load for them on each kernel, and
//! modules that DKMS does not manage.

use std::collections::{BTreeMap, BTreeSet};

use crate::context::Context;
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::loadable::{Loadable, Serving, loadable, serving};
use crate::dkms::plan::built_directory;
use crate::dkms::tree::SOURCES;
use crate::dkms::{Cache, ModuleName, ModuleOnKernel, Source, Tree};
use crate::kernel::Headers;
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::{kernel_name, stem};
use crate::modprobe::KernelModules;
use crate::modprobe::index::is_file_of;
use crate::requirement::Requirement;
use crate::sys::{FileKind, Root};
use crate::usage::Usage;

/// The most directory entries that are read in search of one module file.
const MOST_ENTRIES: usize = 50_000;

/// An older version that is installed while the newest version is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// The installed version.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// Its kernel modules.
    pub files: BTreeSet<String>,
}

/// What was observed of all these modules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleFiles {
    /// The observed kernels.
    pub kernels: BTreeSet<String>,
    /// The kernel modules of each DKMS module, in all known versions.
    pub of_dkms: BTreeMap<String, BTreeSet<String>>,
    /// What modprobe would load, by kernel release and kernel module. DKMS modules that are proven are not
    /// included.
    pub loadable: BTreeMap<String, BTreeMap<String, Loadable>>,
    /// The modules that serve an alias, by kernel release and alias. Only for aliases in use whose module is
    /// absent on that kernel.
    pub serving: BTreeMap<String, BTreeMap<String, Serving>>,
    /// Older versions that are installed while the newest version is not.
    pub in_force: Vec<InForce>,
    /// Loaded modules that did not come with the kernel and have no file in its module directory, such as
    /// those that insmod loaded.
    pub without_file: BTreeSet<String>,
    /// Directories in `/usr/src` with a `dkms.conf` that are not registered with DKMS.
    pub unregistered: Vec<String>,
    /// The DKMS tree exists.
    pub has_tree: bool,
}

impl ModuleFiles {
    /// What modprobe would load for a module on a kernel.
    pub fn on(&self, release: &str, module: &str) -> Option<&Loadable> {
        self.loadable.get(release)?.get(&kernel_name(module))
    }

    /// The modules of a kernel that serve an alias. None if they were not looked for.
    pub fn serving(&self, release: &str, alias: &str) -> Option<&Serving> {
        self.serving.get(release)?.get(alias)
    }

    /// The names of all modules that may replace an absent one.
    pub fn names_of_serving(&self) -> impl Iterator<Item = &String> {
        self.serving.values().flat_map(BTreeMap::values).flatten().flat_map(BTreeMap::keys)
    }

    /// The older version of a DKMS module that is installed on a kernel.
    pub fn in_force(&self, name: &str, release: &str) -> Option<&InForce> {
        self.in_force.iter().find(|found| found.module.name == name && found.release == release)
    }

    /// The source directory of a module that is not registered.
    pub fn unregistered_source(&self, module: &str) -> Option<&str> {
        let is_it = |path: &&String| {
            let name = path.rsplit('/').next().and_then(|name| name.rsplit_once('-'));
            name.is_some_and(|(name, _)| kernel_name(name) == kernel_name(module))
        };
        self.unregistered.iter().find(is_it).map(String::as_str)
    }
}

/// What [`observe`] needs to know.
pub(super) struct FilesQuery<'a> {
    pub(super) tree: &'a Tree,
    /// On the kernels that matter, and on those to fall back to.
    pub(super) modules_on_kernels: Vec<&'a ModuleOnKernel>,
    /// These kernels and the running one, with their headers.
    pub(super) kernels: Vec<(String, Headers)>,
    pub(super) running: Option<&'a str>,
    pub(super) in_use: &'a Usage,
    /// The requirements in the last record.
    pub(super) before: &'a [Requirement],
}

/// Observes the files.
pub(super) fn observe(context: &Context, cache: &mut Cache, known: &FilesQuery<'_>) -> ModuleFiles {
    let root = &context.root;
    let mut found = ModuleFiles {
        kernels: known.kernels.iter().map(|(release, _)| release.clone()).collect(),
        of_dkms: files_of_dkms(root, known),
        in_force: in_force(root, known),
        unregistered: unregistered(root, known.tree),
        has_tree: root.lookup(crate::dkms::tree::TREE).is_there(),
        ..ModuleFiles::default()
    };
    let managed: BTreeSet<String> = found.of_dkms.values().flatten().cloned().collect();
    let others = unmanaged(context, known, &managed);
    for (release, headers) in &known.kernels {
        let mut names = others.clone();
        for pair in known.modules_on_kernels.iter().filter(|p| p.release == *release && p.proof.is_err()) {
            let remembered = known.before.iter().filter(|n| n.module == pair.module.name);
            names.extend(remembered.flat_map(Requirement::modules));
            names.extend(found.of_dkms.get(&pair.module.name).into_iter().flatten().cloned());
        }
        if !names.is_empty() {
            let (loadable, serving) = files_on(context, cache, known, release, headers, &names);
            found.loadable.insert(release.clone(), loadable);
            found.serving.insert(release.clone(), serving);
        }
    }
    if let Some(running) = known.running {
        let absent =
            |name: &&String| !managed.contains(*name) && found.on(running, name) == Some(&Loadable::Absent);
        let suspects: BTreeSet<&String> = known.in_use.out_of_tree().filter(absent).collect();
        let directory = module_directory(running);
        let has_none = |name: &&&String| !has_file(root, &directory, name, &mut MOST_ENTRIES.clone());
        found.without_file = suspects.iter().filter(has_none).map(|name| (*name).clone()).collect();
    }
    found
}

fn files_on(
    context: &Context,
    cache: &mut Cache,
    known: &FilesQuery<'_>,
    release: &str,
    headers: &Headers,
    names: &BTreeSet<String>,
) -> (BTreeMap<String, Loadable>, BTreeMap<String, Serving>) {
    let modules = KernelModules::new(&context.root, release);
    let aliases = |name: &String| -> BTreeSet<String> {
        let used = known.in_use.depended_on.get(name).map(|found| found.aliases.clone());
        let before = known.before.iter().filter(|n| n.modules().contains(name));
        used.into_iter().flatten().chain(before.flat_map(|n| n.aliases.clone())).collect()
    };
    match KernelSymbols::load(&context.root, release, headers, context.clock.now()) {
        Ok(scope) => {
            let one = |name: &String| (name.clone(), loadable(&scope, &modules, cache, name, &aliases(name)));
            let found: BTreeMap<String, Loadable> = names.iter().map(one).collect();
            // The lists of aliases are large, and are read only if a module in use is absent.
            let absent = found.iter().filter(|(_, found)| **found == Loadable::Absent);
            let in_use: BTreeSet<String> = absent.flat_map(|(name, _)| aliases(name)).collect();
            let one = |alias: String| {
                let serving = serving(&scope, &modules, cache, &alias);
                (alias, serving)
            };
            let serving = in_use.into_iter().map(one).collect();
            (found, serving)
        }
        Err(error) => {
            let unknown = |name: &String| (name.clone(), Loadable::Unknown { reason: error.to_string() });
            (names.iter().map(unknown).collect(), BTreeMap::new())
        }
    }
}

/// From each dkms.conf, and from the build directory of the version that is installed.
fn files_of_dkms(root: &Root, known: &FilesQuery<'_>) -> BTreeMap<String, BTreeSet<String>> {
    let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for pair in &known.modules_on_kernels {
        let of = files.entry(pair.module.name.clone()).or_default();
        let built = pair.conf.iter().flat_map(|conf| &conf.built);
        of.extend(built.map(|built| kernel_name(&built.name)));
        let version = known.tree.installed_version(&pair.module.name, &pair.release);
        if pair.proof.is_err()
            && let Some(version) = version
        {
            of.extend(built_files(root, &pair.module.name, version, &pair.release));
        }
    }
    files
}

/// The kernel modules in a build directory. If it cannot be listed, their names come from other sources.
fn built_files(root: &Root, name: &str, version: &str, release: &str) -> BTreeSet<String> {
    let module = ModuleName { name: name.to_owned(), version: version.to_owned() };
    // The reason makes no difference: see above.
    let files = root.list_optional(built_directory(&module, release)).unwrap_or_default();
    files.iter().filter_map(|file| stem(file.text()?)).map(kernel_name).collect()
}

fn in_force(root: &Root, known: &FilesQuery<'_>) -> Vec<InForce> {
    let older = |pair: &&&ModuleOnKernel| {
        let installed = known.tree.installed_version(&pair.module.name, &pair.release)?;
        let module = ModuleName { name: pair.module.name.clone(), version: installed.to_owned() };
        let files = built_files(root, &module.name, installed, &pair.release);
        let is_older = pair.proof.is_err() && module != pair.module && !files.is_empty();
        is_older.then(|| InForce { module, release: pair.release.clone(), files })
    };
    known.modules_on_kernels.iter().filter_map(|pair| older(&pair)).collect()
}

/// Modules that may be required and that DKMS does not manage.
fn unmanaged(context: &Context, known: &FilesQuery<'_>, managed: &BTreeSet<String>) -> BTreeSet<String> {
    let listed = &context.settings.modules;
    let registered = |name: &str| known.tree.modules.iter().any(|m| m.module.name == name);
    let configured = listed.critical.iter().chain(&listed.wanted).filter(|name| !registered(name));
    let before = known.before.iter().filter(|n| !registered(&n.module));
    let names = known.in_use.out_of_tree().cloned();
    names
        .chain(configured.map(|name| kernel_name(name)))
        .chain(before.flat_map(Requirement::modules))
        .chain(known.in_use.configured.modules_load.keys().cloned())
        .filter(|name| !managed.contains(name))
        .collect()
}

/// Whether a directory tree contains the file of a module. A directory that cannot be listed counts as yes.
fn has_file(root: &Root, directory: &str, module: &str, left: &mut usize) -> bool {
    let Ok(entries) = root.list_optional(directory) else { return true };
    for entry in &entries {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return true;
        }
        let below = |name: &str| format!("{directory}/{name}");
        match (entry.kind, entry.text()) {
            (FileKind::Directory, Some(name)) if has_file(root, &below(name), module, left) => return true,
            (FileKind::Directory, _) => {}
            (_, Some(name)) if is_file_of(name.as_bytes(), module) => return true,
            _ => {}
        }
    }
    false
}

/// The directories in `/usr/src` with a `dkms.conf` that are not registered with DKMS.
fn unregistered(root: &Root, tree: &Tree) -> Vec<String> {
    if tree.unreadable.is_some() {
        return Vec::new();
    }
    let is_known = |name: &str, path: &str| {
        tree.modules.iter().any(|known| {
            let is_source =
                matches!(&known.source, Source::Directory { path: of, .. } if of.as_os_str() == path);
            is_source || format!("{}-{}", known.module.name, known.module.version) == name
        })
    };
    // An unreadable directory is reported where a source is needed, not here.
    let entries = root.list_optional(SOURCES).unwrap_or_default();
    let found = entries.iter().filter(|entry| matches!(entry.kind, FileKind::Directory | FileKind::Link));
    let found = found.filter_map(|entry| {
        let name = entry.text()?;
        let path = format!("{SOURCES}/{name}");
        let is_dkms = !is_known(name, &path) && root.lookup(format!("{path}/dkms.conf")).is(FileKind::File);
        is_dkms.then_some(path)
    });
    found.collect()
}
