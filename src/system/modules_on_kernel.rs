//! The modules of DKMS on one kernel: which version of each counts, and what is built and installed.

use std::collections::{BTreeMap, BTreeSet};

use crate::context::Context;
use crate::dkms::conf::{self, ConfError};
use crate::dkms::conflict::{self, Rival};
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::plan::built_directory;
use crate::dkms::proof::{INSTALLED, built_files_good, facts_of, find_file, prove};
use crate::dkms::{Cache, DkmsConf, Flaw, ModuleName, ModuleOnKernel, Registered, Stage, Tree, toolchain};
use crate::kernel::Installed;
use crate::kernel::inventory::module_directory;
use crate::sys::Root;

/// The newest version of every module on one kernel.
pub fn pairs_of(
    context: &Context,
    cache: &mut Cache,
    tree: &Tree,
    kernel: &Installed,
) -> Vec<ModuleOnKernel> {
    pairs_with(context, cache, &conf::ConfSources::default(), tree, kernel, &Endless::new())
}

/// Modules whose dkms.conf timed out on another kernel.
pub(super) type Endless = BTreeMap<ModuleName, ConfError>;

pub(super) fn pairs_with(
    context: &Context,
    cache: &mut Cache,
    sources: &conf::ConfSources,
    tree: &Tree,
    kernel: &Installed,
    endless: &Endless,
) -> Vec<ModuleOnKernel> {
    let root = &context.root;
    let release = kernel.name.release();
    let scope = KernelSymbols::load(root, &release, &kernel.headers, context.clock.now());
    let confs = chosen_versions(context, cache, sources, tree, &release, endless);
    let claimed = claimed_files(tree, &confs, &release);
    let mut modules_on_kernels: Vec<ModuleOnKernel> = confs
        .into_iter()
        .map(|(registered, conf)| {
            let stage = tree.stage(registered, &release);
            let unknown = |reason: String| Err(vec![Flaw::Unknown { reason }]);
            let proof = match (&conf, &scope) {
                (Err(error), _) => unknown(error.to_string()),
                (_, Err(error)) => unknown(error.to_string()),
                (Ok(conf), Ok(scope)) => prove(scope, cache, &registered.module, stage, conf),
            };
            let mut pair = ModuleOnKernel {
                module: registered.module.clone(),
                release: release.clone(),
                source: registered.source.clone(),
                stage,
                conf,
                proof,
                built_files_good: false,
                in_the_way: Vec::new(),
                headers: kernel.headers.clone(),
                conflict: None,
                programs_missing: Vec::new(),
                beneath: BTreeMap::new(),
                source_changed: false,
            };
            if let (Ok(conf), Ok(scope), Ok(_)) = (&pair.conf, &scope, &pair.proof) {
                pair.beneath = conf.built.iter().map(|built| scope.beneath(&built.name)).collect();
            }
            if let (Ok(conf), Ok(scope), Err(flaws)) = (&pair.conf, &scope, &pair.proof) {
                pair.built_files_good = built_files_good(scope, cache, &pair.module, conf)
                    && !flaws.iter().any(|f| matches!(f, Flaw::Symbols { .. }));
                let files = own_files(root, conf, &release);
                pair.conflict =
                    files.iter().find_map(|(name, path)| owner(root, cache, tree, &pair, name, path));
                let free = |name: &str| claimed.as_ref().is_some_and(|claimed| !claimed.contains(name));
                let files = files.into_iter().filter(|(name, _)| stage == Stage::Installed || free(name));
                pair.in_the_way = files.map(|(_, path)| path).collect();
            }
            pair
        })
        .collect();
    conflict::find(&mut modules_on_kernels);
    if modules_on_kernels.iter().any(|pair| pair.proof.is_err()) {
        // The only error of `find` is that the program is not there.
        let missing =
            toolchain::missing(&toolchain::config(root, &release), |name| context.tools.find(name).is_ok());
        modules_on_kernels.iter_mut().for_each(|pair| pair.programs_missing.clone_from(&missing));
    }
    modules_on_kernels
}

/// The installed files of a module: names, and paths in the directory that only DKMS installs to.
fn own_files(root: &Root, conf: &DkmsConf, release: &str) -> Vec<(String, String)> {
    let directory = format!("{}/{INSTALLED}", module_directory(release));
    let found = |name: &String| Some((name.clone(), find_file(root, &directory, name)?.0));
    conf.built.iter().filter_map(|built| found(&built.name)).collect()
}

/// The other module that an installed file was built by, if its contents equal that module's build. The
/// dkms.conf of the other module may be unreadable.
fn owner(
    root: &Root,
    cache: &mut Cache,
    tree: &Tree,
    pair: &ModuleOnKernel,
    file: &str,
    path: &str,
) -> Option<Rival> {
    let mut contents = |directory: &str| {
        let (path, there) = find_file(root, directory, file)?;
        // A failed read is in `Root::unread`, and leaves the owner unknown.
        facts_of(root, cache, &path, &there).ok().map(|system| system.sha256)
    };
    let installed = contents(path.rsplit_once('/')?.0)?;
    if contents(&built_directory(&pair.module, &pair.release)).as_ref() == Some(&installed) {
        return None;
    }
    let others =
        tree.installed.iter().filter(|((name, on), _)| *on == pair.release && *name != pair.module.name);
    others.into_iter().find_map(|((name, _), version)| {
        let module = ModuleName { name: name.clone(), version: version.clone() };
        let built = contents(&built_directory(&module, &pair.release))?;
        (built == installed).then(|| Rival { module, file: file.to_owned() })
    })
}

/// One version of each module: the highest version with `AUTOINSTALL`, as DKMS chooses, otherwise the highest
/// version.
fn chosen_versions<'t>(
    context: &Context,
    cache: &mut Cache,
    sources: &conf::ConfSources,
    tree: &'t Tree,
    release: &str,
    endless: &Endless,
) -> Vec<(&'t Registered, Result<DkmsConf, ConfError>)> {
    let mut chosen: Vec<(&Registered, Result<DkmsConf, ConfError>)> = Vec::new();
    // A dkms.conf that cannot be evaluated asks for nothing.
    let asks = |conf: &Result<DkmsConf, ConfError>| conf.as_ref().is_ok_and(|c| c.autoinstall);
    let reader = conf::ConfReader::new(&context.root, &context.tools, cache, sources, release);
    for registered in &tree.modules {
        let known = chosen.last().filter(|(last, _)| last.module.name == registered.module.name);
        // Versions of a module come in descending order. A version that cannot be read may have
        // `AUTOINSTALL`.
        let is_refused = |conf: &DkmsConf| !conf.refusals.is_empty();
        if known.is_some_and(|(_, conf)| asks(conf) || conf.as_ref().map_or(true, is_refused)) {
            continue;
        }
        let conf = match endless.get(&registered.module) {
            Some(error) => Err(error.clone()),
            None => reader.load(cache, registered),
        };
        match known.is_some() {
            false => chosen.push((registered, conf)),
            true if asks(&conf) => {
                chosen.pop();
                chosen.push((registered, conf));
            }
            true => {}
        }
    }
    chosen
}

/// The names of the module files that any module has installed on a kernel. None if that is unknown: then no
/// file counts as an orphan.
fn claimed_files(
    tree: &Tree,
    confs: &[(&Registered, Result<DkmsConf, ConfError>)],
    release: &str,
) -> Option<BTreeSet<String>> {
    let mut claimed = BTreeSet::new();
    let by_name: BTreeMap<&str, &Result<DkmsConf, ConfError>> =
        confs.iter().map(|(m, conf)| (m.module.name.as_str(), conf)).collect();
    for (name, on) in tree.installed.keys() {
        if on != release {
            continue;
        }
        match by_name.get(name.as_str()) {
            Some(Ok(conf)) => claimed.extend(conf.built.iter().map(|b| b.name.clone())),
            _ => return None,
        }
    }
    Some(claimed)
}
