//! The facts that decisions and reports are made from.

pub mod initrds;
mod module_files;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::boot::deferral::{self, Deferral};
use crate::boot::loader_interface::LoaderInterface;
use crate::boot::{self, BootBlocker, BootFiles, ReadBack};
use crate::boot_decision::{AdminOverrides, NextBootSource};
use crate::cmdline::{CmdlineSources, Switch, effective};
use crate::context::Context;
use crate::dkms::conf::ConfError;
use crate::dkms::conflict::{self, Rival};
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::plan::built_directory;
use crate::dkms::proof::{INSTALLED, built_files_good, facts_of, find_file, prove};
use crate::dkms::{
    Cache, DkmsConf, Flaw, ModuleName, ModuleOnKernel, Registered, Signature, Stage, Tree, conf, toolchain,
};
use crate::enforcement::{
    EnforcementVerdict, KernelFacts, LoadOutcome, Machine, ModuleKind, Patch, Tri, at_boot,
};
use crate::kernel::headers::{Headers, headers};
use crate::kernel::inventory::{NamedKernel, There, module_directory};
use crate::kernel::module_file::kernel_name;
use crate::kernel::{Installed, Inventory, Running};
use crate::modprobe::LoadPolicy;
use crate::requirement::Requirement;
use crate::state::{self, RECORD, RunRecord};
use crate::sys::Root;
use crate::sys::root::below;
use crate::sys::unread::Unread;
use crate::usage::Usage;
use initrds::KernelInitrds;
pub use module_files::{InForce, ModuleFiles};

/// The command line of one kernel.
#[derive(Debug)]
pub struct KernelCmdline {
    /// The kernel release.
    pub release: String,
    /// The kernel id.
    pub id: String,
    /// What it is made of.
    pub sources: CmdlineSources,
    /// What clr-boot-manager will write.
    pub effective: Vec<u8>,
    /// What that says of `module.sig_unenforce`.
    pub switch: Switch,
    /// What decides whether it takes modules without a trusted signature.
    pub kernel: KernelFacts,
}

impl KernelCmdline {
    /// What the kernel does with modules when it is booted with `line`.
    pub fn verdict_with(&self, line: &[u8], machine: &Machine) -> EnforcementVerdict {
        at_boot(&self.kernel.boot(line, machine))
    }

    /// What the kernel does with a file of that signature, where `verdict` holds. `loaded` are the taint letters of the
    /// module that this kernel, which runs, has loaded under that name.
    pub fn outcome(
        &self,
        signature: &Signature,
        loaded: Option<&str>,
        verdict: &EnforcementVerdict,
    ) -> LoadOutcome {
        match signature {
            Signature::Unsigned { .. } => verdict.of(ModuleKind::Unsigned),
            Signature::Broken { .. } => verdict.of(ModuleKind::Unparsable),
            // Where nothing is enforced it holds nothing back.
            Signature::Unknown { .. } => verdict.of(ModuleKind::UnknownKey),
            Signature::Signed { .. } => {
                let (unknown, trusted) =
                    (verdict.of(ModuleKind::UnknownKey), verdict.of(ModuleKind::Trusted));
                // A signature that the kernel took leaves no E behind: it has the key. (The kernel's own module of the
                // same name would have no O.)
                let taken = loaded.is_some_and(|letters| letters.contains('O') && !letters.contains('E'));
                match (self.kernel.takes_foreign_keys(), taken) {
                    (false, _) => unknown,
                    (true, true) => trusted,
                    (true, false) if unknown.is_loaded() == trusted.is_loaded() => unknown,
                    (true, false) => LoadOutcome::Unknown,
                }
            }
        }
    }

    /// Whether the parameter makes a difference to this kernel. What cannot be determined counts as yes: Clear's kernels all
    /// demand signatures and know the parameter.
    pub fn takes_the_parameter(&self, machine: &Machine) -> bool {
        let verdict = self.verdict_with(&self.effective, machine);
        verdict.checked != Tri::No && verdict.demanded != Tri::No && self.kernel.patch != Patch::Absent
    }
}

/// What an observation takes over from the one before.
#[derive(Debug, Default)]
struct PriorObservation {
    /// By kernel release.
    modules_on_kernels: BTreeMap<String, Vec<ModuleOnKernel>>,
    in_use: Option<Usage>,
    files: Option<ModuleFiles>,
}

/// Everything that was observed.
#[derive(Debug)]
pub struct System {
    /// Kernels.
    pub inventory: Inventory,
    /// What decides about modules, whatever the kernel.
    pub machine: Machine,
    /// What is known of the running kernel, also of one that is not installed; none where nothing runs.
    pub running: Option<KernelFacts>,
    /// The DKMS tree.
    pub tree: Tree,
    /// Every newest module on every tip, and on the running kernel; kernels in the order of work.
    pub modules_on_kernels: Vec<ModuleOnKernel>,
    /// The same for kernels that are none of these, and have been booted once or have a boot entry: what
    /// could be fallen back to.
    pub fallbacks: Vec<ModuleOnKernel>,
    /// The command lines of the tips and of the running kernel.
    pub lines: Vec<KernelCmdline>,
    /// Those of the fallbacks.
    pub fallback_lines: Vec<KernelCmdline>,
    /// The variables of the boot loader, or why they cannot be read; only read where the boot files are not
    /// visible.
    pub loader_interface: Option<Result<LoaderInterface, String>>,
    /// The release that the last run saw as the next boot; only read where the boot files do not say it.
    pub remembered_boot: Option<String>,
    /// The fingerprint of what the boot manager reads.
    pub boot_inputs: String,
    /// What lies in the boot partition.
    pub boot: BootFiles,
    /// What the boot entries of these kernels say now.
    pub boot_entries: ReadBack,
    /// Why the boot manager cannot be run here.
    pub boot_blocker: Option<BootBlocker>,
    /// The root as the host sees it, for paths that a person follows.
    pub root: PathBuf,
    /// What is in use on the running machine, and the modules that it hangs on.
    pub in_use: Usage,
    /// The files of the modules that it may require, on each kernel.
    pub files: ModuleFiles,
    /// The initrds of the kernels in question, by kernel release; empty where no module is registered.
    pub initrds: BTreeMap<String, KernelInitrds>,
    /// What keeps modules from being loaded, whatever the kernel.
    pub load_policy: LoadPolicy,
    /// What an admin has said of the boot default.
    pub wishes: AdminOverrides,
    /// Whether swupd leaves the boot files to us.
    pub deferral: Deferral,
    /// What we were not allowed to look at, as the host spells it.
    pub denied: Vec<PathBuf>,
    /// Module files that the last run could check whole, and their SHA-256.
    pub checked: BTreeMap<String, String>,
    /// Every read of this run that failed: what [`crate::decide::unread`] says of it is unknown.
    pub unread: Vec<Unread>,
}

impl System {
    /// Looks at everything.
    pub fn observe(context: &Context, cache: &mut Cache) -> System {
        System::observe_also(context, cache, &[])
    }

    /// The same, also for some kernels that are neither tips nor run nor boot next.
    pub fn observe_also(context: &Context, cache: &mut Cache, also: &[String]) -> System {
        let tree = Tree::observe(&context.root);
        System::observe_around(context, cache, also, tree, PriorObservation::default())
    }

    /// The same again, after something other than modules has changed: what is known of these is not looked at again.
    pub fn observe_again(&mut self, context: &Context, cache: &mut Cache, also: &[String]) {
        let mut known = PriorObservation {
            in_use: Some(take(&mut self.in_use)),
            files: Some(take(&mut self.files)),
            ..PriorObservation::default()
        };
        for pair in take(&mut self.modules_on_kernels).into_iter().chain(take(&mut self.fallbacks)) {
            known.modules_on_kernels.entry(pair.release.clone()).or_default().push(pair);
        }
        *self = System::observe_around(context, cache, also, take(&mut self.tree), known);
    }

    fn observe_around(
        context: &Context,
        cache: &mut Cache,
        also: &[String],
        tree: Tree,
        mut known: PriorObservation,
    ) -> System {
        let inventory = Inventory::observe(&context.root);
        let boot = BootFiles::observe(&context.root, &inventory);
        let mut kernels = kernels_that_matter(&inventory);
        // An admin may have chosen another one.
        let default = boot.default.as_ref().and_then(|d| d.id.as_ref());
        kernels.extend(inventory.kernels.iter().filter(|k| Some(&k.id) == default && !k.tip && !k.running));
        for kernel in inventory.kernels.iter().filter(|k| also.contains(&k.name.release())) {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        let mut modules_on_kernels = Vec::new();
        let mut lines = Vec::new();
        let mut fallbacks = Vec::new();
        let sources = conf::ConfSources::default();
        let mut pairs_on = |cache: &mut Cache, kernel: &Installed, endless: &Endless| {
            let known = known.modules_on_kernels.remove(&kernel.name.release());
            known.unwrap_or_else(|| pairs_with(context, cache, &sources, &tree, kernel, endless))
        };
        let mut seen: Vec<(String, Headers)> = Vec::new();
        for kernel in &kernels {
            seen.push((kernel.name.release(), kernel.headers.clone()));
            modules_on_kernels.extend(pairs_on(cache, kernel, &Endless::new()));
            lines.push(line(context, cache, &NamedKernel::of(kernel)));
        }
        // What bash did not come to an end with for a kernel that matters is not waited for once more.
        let timed_out = |p: &ModuleOnKernel| match &p.conf {
            Err(error @ ConfError::TimedOut(_)) => Some((p.module.clone(), error.clone())),
            _ => None,
        };
        let endless: Endless = modules_on_kernels.iter().filter_map(timed_out).collect();
        let mut fallback_lines = Vec::new();
        let is_fallback = |k: &&Installed| k.booted == There::Yes || boot.of(&k.id).is_some();
        for kernel in inventory.kernels.iter().filter(|k| is_fallback(k) && !kernels.contains(k)) {
            seen.push((kernel.name.release(), kernel.headers.clone()));
            fallbacks.extend(pairs_on(cache, kernel, &endless));
            fallback_lines.push(line(context, cache, &NamedKernel::of(kernel)));
        }
        let in_use = known.in_use.unwrap_or_else(|| in_use(context, &inventory));
        let all_pairs = modules_on_kernels.iter().chain(&fallbacks).collect();
        let is_known = |files: &ModuleFiles| seen.iter().all(|(release, _)| files.kernels.contains(release));
        let files = known.files.filter(is_known);
        let files =
            files.unwrap_or_else(|| files_of(context, cache, &inventory, &tree, &in_use, all_pairs, seen));
        let names = modules_on_kernels.iter().chain(&fallbacks).flat_map(|pair| &pair.beneath);
        let names =
            names.flat_map(|(name, beneath)| beneath.iter().map(|n| kernel_name(n)).chain([name.clone()]));
        let serving: BTreeSet<String> = files.names_of_serving().cloned().collect();
        let names = names.chain(in_use.depended_on.keys().cloned()).chain(serving.iter().cloned());
        let load_policy = LoadPolicy::observe(&context.root, &names.collect());
        let initrds = initrds::observe(
            &context.root,
            cache,
            &kernels,
            &modules_on_kernels,
            &in_use.depended_on,
            serving,
        );
        System {
            boot_inputs: boot::inputs(&context.root),
            boot_entries: boot.read_back(&expected_entries(&lines)),
            loader_interface: loader_interface(&context.root, &inventory, &boot),
            remembered_boot: boot.default.is_none().then(|| remembered_boot(&context.root)).flatten(),
            boot,
            boot_blocker: boot::blocker(&context.root),
            root: context.root.path().to_owned(),
            machine: Machine::observe(&context.root),
            in_use,
            files,
            load_policy,
            initrds,
            wishes: state::wishes(&context.root),
            checked: state::checked(&context.root),
            deferral: deferral::observe(&context.root),
            running: running_kernel(&context.root, cache, &inventory, &lines),
            inventory,
            tree,
            modules_on_kernels,
            fallbacks,
            lines,
            fallback_lines,
            // The last one: by now all has been asked for.
            denied: context.root.denied(),
            unread: context.root.unread(),
        }
    }

    /// How a path inside the root is written on the host.
    pub fn shown_path(&self, path: &str) -> String {
        below(&self.root, Path::new(path)).display().to_string()
    }

    /// The command line of a kernel, also of one that could be fallen back to.
    pub fn cmdline_of(&self, release: &str) -> Option<&KernelCmdline> {
        self.lines.iter().chain(&self.fallback_lines).find(|l| l.release == release)
    }

    /// The pairs of one kernel.
    pub fn of_kernel<'a>(&'a self, release: &'a str) -> impl Iterator<Item = &'a ModuleOnKernel> {
        self.modules_on_kernels.iter().filter(move |p| p.release == release)
    }
}

fn in_use(context: &Context, inventory: &Inventory) -> Usage {
    match &inventory.running {
        Running::Known { release } => Usage::observe(&context.root, release, context.clock.now()),
        _ => Usage::default(),
    }
}

/// The part of the last record that says what was required: the rest is long.
#[derive(Debug, Deserialize)]
struct LastNeeds {
    #[serde(default)]
    needs: Vec<Requirement>,
}

fn files_of(
    context: &Context,
    cache: &mut Cache,
    inventory: &Inventory,
    tree: &Tree,
    in_use: &Usage,
    modules_on_kernels: Vec<&ModuleOnKernel>,
    mut kernels: Vec<(String, Headers)>,
) -> ModuleFiles {
    let running = match &inventory.running {
        Running::Known { release } => Some(release.as_str()),
        _ => None,
    };
    if let Some(release) = running.filter(|running| !kernels.iter().any(|(of, _)| of == running)) {
        kernels.push((release.to_owned(), headers(&context.root, release)));
    }
    let before = state::load::<LastNeeds>(&context.root, RECORD).good();
    // A record that could not be read is in `Root::unread`, which blocks every decision.
    let before = before.map(|record| record.needs).unwrap_or_default();
    module_files::observe(
        context,
        cache,
        &module_files::FilesQuery { tree, modules_on_kernels, kernels, running, in_use, before: &before },
    )
}

/// The variables of the boot loader, where its files are not visible and something runs that it has booted.
fn loader_interface(
    root: &Root,
    inventory: &Inventory,
    boot: &BootFiles,
) -> Option<Result<LoaderInterface, String>> {
    let is_needed = boot.loader.is_none() && inventory.running != Running::None;
    is_needed.then(|| LoaderInterface::read(root).map_err(|e| e.to_string()))
}

/// The kernel that the last run saw as the default of the boot files. What an EFI variable chose then is not
/// remembered: it can be read now.
fn remembered_boot(root: &Root) -> Option<String> {
    let record = state::load::<RunRecord>(root, RECORD).good()?;
    let was_seen = |source| matches!(source, NextBootSource::Entry | NextBootSource::Remembered);
    record.next_boot.filter(|_| record.next_boot_source.is_some_and(was_seen))
}

fn running_kernel(
    root: &Root,
    cache: &mut Cache,
    inventory: &Inventory,
    lines: &[KernelCmdline],
) -> Option<KernelFacts> {
    let Running::Known { release } = &inventory.running else { return None };
    let known = lines.iter().find(|l| l.release == *release).map(|l| l.kernel.clone());
    Some(known.unwrap_or_else(|| KernelFacts::observe(root, cache, release, None)))
}

/// The boot entries that there should be: kernel ids and effective command lines.
pub fn expected_entries(lines: &[KernelCmdline]) -> Vec<(String, Vec<u8>)> {
    lines.iter().map(|line| (line.id.clone(), line.effective.clone())).collect()
}

/// The tips, in the order of work, and the running kernel, when it is none of them.
pub fn kernels_that_matter(inventory: &Inventory) -> Vec<&Installed> {
    let mut kernels = inventory.tips();
    kernels.extend(inventory.running_kernel().filter(|k| !k.tip));
    kernels
}

/// Every newest module on one kernel.
pub fn pairs_of(
    context: &Context,
    cache: &mut Cache,
    tree: &Tree,
    kernel: &Installed,
) -> Vec<ModuleOnKernel> {
    pairs_with(context, cache, &conf::ConfSources::default(), tree, kernel, &Endless::new())
}

/// The modules whose dkms.conf was not evaluated in time for another kernel.
type Endless = BTreeMap<ModuleName, ConfError>;

fn pairs_with(
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
            let unknown = |reason: &str| Err(vec![Flaw::Unknown { reason: reason.to_owned() }]);
            let proof = match (&conf, &scope) {
                (Err(error), _) => unknown(error.reason()),
                (_, Err(reason)) => unknown(reason),
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
        let missing =
            toolchain::missing(&toolchain::config(root, &release), |name| context.tools.find(name).is_ok());
        modules_on_kernels.iter_mut().for_each(|pair| pair.programs_missing.clone_from(&missing));
    }
    modules_on_kernels
}

/// The files with the names of a module in the directory that only dkms installs to: names and paths.
fn own_files(root: &Root, conf: &DkmsConf, release: &str) -> Vec<(String, String)> {
    let directory = format!("{}/{INSTALLED}", module_directory(release));
    let found = |name: &String| Some((name.clone(), find_file(root, &directory, name)?.0));
    conf.built.iter().filter_map(|built| found(&built.name)).collect()
}

/// The module whose build an installed file is, when it is that of another one than of the pair: it may be one whose
/// dkms.conf cannot be read any more.
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

/// One version of each module: the highest that asks to be built by itself, as dkms chooses, else the highest.
fn chosen_versions<'t>(
    context: &Context,
    cache: &mut Cache,
    sources: &conf::ConfSources,
    tree: &'t Tree,
    release: &str,
    endless: &Endless,
) -> Vec<(&'t Registered, Result<DkmsConf, ConfError>)> {
    let mut chosen: Vec<(&Registered, Result<DkmsConf, ConfError>)> = Vec::new();
    let asks = |conf: &Result<DkmsConf, ConfError>| conf.as_ref().is_ok_and(|c| c.autoinstall);
    let reader = conf::ConfReader::new(&context.root, &context.tools, cache, sources, release);
    for registered in &tree.modules {
        let known = chosen.last().filter(|(last, _)| last.module.name == registered.module.name);
        // Of one name the highest version comes first; one that cannot be read may ask for it.
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

/// The names of module files that some module has installed on a kernel. None when that cannot be determined: then no file
/// may be taken for an orphan.
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

/// The command line of one kernel.
pub fn line(context: &Context, cache: &mut Cache, kernel: &NamedKernel<'_>) -> KernelCmdline {
    let mut sources = CmdlineSources::observe(&context.root, &kernel.release);
    let effective = effective(&sources);
    let image = kernel.installed.map(|k| k.image.as_str());
    let system = KernelFacts::observe(&context.root, cache, &kernel.release, image);
    sources.dialect = system.dialect();
    KernelCmdline {
        switch: system.switch(&effective),
        kernel: system,
        id: kernel.id.clone(),
        release: kernel.release.clone(),
        sources,
        effective,
    }
}
