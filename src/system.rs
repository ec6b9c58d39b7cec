//! One complete observation of a machine: the facts that decisions and reports are made from.
//!
//! A [`System`] is read from a root directory once per phase of a run. It only reads. A read that failed is
//! recorded in [`System::unread`], and [`crate::decide::unread`] says which decisions it blocks.

pub mod initrds;
mod kernel_cmdline;
mod module_files;
mod modules_on_kernel;
mod replaced_drivers;
pub mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::take;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::automation::AutomationFault;
use crate::boot::deferral::{self, Deferral};
use crate::boot::inputs::{self, BootInputs};
use crate::boot::loader_interface::LoaderInterface;
use crate::boot::{self, BootBlocker, BootFiles, ReadBack};
use crate::boot_decision::{AdminOverrides, NextBootSource};
use crate::cmdline::effective;
use crate::cmdline::writer::{self, WriterPlan};
use crate::context::Context;
use crate::dkms::conf::{self, ConfError};
use crate::dkms::source_change::SourceFiles;
use crate::dkms::{Cache, ModuleName, ModuleOnKernel, Tree};
use crate::enforcement::{EnforcementVerdict, KernelFacts, Machine, now};
use crate::kernel::headers::{Headers, headers};
use crate::kernel::inventory::{NamedKernel, There};
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
use kernel_cmdline::LineVerdicts;
pub use kernel_cmdline::{KernelCmdline, expected_entries, line};
pub use module_files::{InForce, ModuleFiles};
pub use modules_on_kernel::pairs_of;
use modules_on_kernel::{Endless, pairs_with};
pub use replaced_drivers::ReplacedDrivers;
pub use trial::TrialFacts;

/// What an observation takes over from an earlier one.
#[derive(Debug, Default)]
struct PriorObservation {
    /// By kernel release.
    modules_on_kernels: BTreeMap<String, Vec<ModuleOnKernel>>,
    in_use: Option<Usage>,
    files: Option<ModuleFiles>,
}

#[derive(Debug)]
pub struct System {
    pub inventory: Inventory,
    /// Facts about module signatures and loading that do not depend on the kernel.
    pub machine: Machine,
    /// Facts about the running kernel, even if it is not installed. None if no kernel runs.
    pub running: Option<KernelFacts>,
    pub tree: Tree,
    /// The newest version of every module on every tip and on the running kernel, with kernels in the order
    /// in which they are worked on.
    pub modules_on_kernels: Vec<ModuleOnKernel>,
    /// The same for other kernels that have been booted before or have a boot entry: the kernels to fall back
    /// to.
    pub fallbacks: Vec<ModuleOnKernel>,
    /// The command lines of the tips and of the running kernel.
    pub lines: Vec<KernelCmdline>,
    /// The command lines of the kernels to fall back to.
    pub fallback_lines: Vec<KernelCmdline>,
    /// How each of these kernels treats modules at its next boot, by kernel release.
    verdicts: BTreeMap<String, LineVerdicts>,
    /// The EFI variables of the boot loader, or why they cannot be read. Read only if the boot files are not
    /// visible.
    pub loader_interface: Option<Result<LoaderInterface, String>>,
    /// The release that the last run saw as the next boot. Read only if the boot files do not name a default.
    pub remembered_boot: Option<String>,
    /// The fingerprint of what clr-boot-manager reads.
    pub boot_inputs: String,
    /// The fingerprint of each part of that.
    pub boot_parts: BootInputs,
    /// The contents of the boot partition.
    pub boot: BootFiles,
    /// How the present boot entries of these kernels compare with the configuration.
    pub boot_entries: ReadBack,
    /// Why clr-boot-manager cannot be run here.
    pub boot_blocker: Option<BootBlocker>,
    /// The path of the root on the host, for paths in messages.
    pub root: PathBuf,
    /// What is in use on the running machine, and the modules that it depends on.
    pub in_use: Usage,
    /// The files of required modules on each kernel.
    pub files: ModuleFiles,
    /// The initrds of these kernels, by kernel release. Empty if no module needs them.
    pub initrds: BTreeMap<String, KernelInitrds>,
    /// What prevents modules from being loaded, on any kernel.
    pub load_policy: LoadPolicy,
    /// The drivers that are blacklisted in favour of a module, or why they are unknown.
    pub replaced_drivers: Result<ReplacedDrivers, String>,
    /// What an admin has requested for the boot default.
    pub wishes: AdminOverrides,
    /// The trial of a new kernel.
    pub trial: TrialFacts,
    /// Whether swupd leaves the boot files to clr-dkms.
    pub deferral: Deferral,
    /// Paths that could not be read for lack of permission, as paths on the host.
    pub denied: Vec<PathBuf>,
    /// The SHA-256 of the module files that the last run could check completely.
    pub checked: BTreeMap<String, String>,
    /// What is wrong with the units and hooks. None if it was not observed, or nothing is installed.
    pub automation: Option<Vec<AutomationFault>>,
    /// Every failed read of this run; see [`crate::decide::unread`].
    pub unread: Vec<Unread>,
}

impl System {
    /// Observes the machine.
    pub fn observe(context: &Context, cache: &mut Cache) -> System {
        System::observe_also(context, cache, &[])
    }

    /// The same, also for the kernels `also`.
    pub fn observe_also(context: &Context, cache: &mut Cache, also: &[String]) -> System {
        let tree = Tree::observe(&context.root);
        System::observe_around(context, cache, also, tree, PriorObservation::default())
    }

    /// Observes again after something other than modules has changed. What is known about modules is reused.
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
        known: PriorObservation,
    ) -> System {
        let inventory = Inventory::observe(&context.root);
        let mut boot = BootFiles::observe(&context.root, &inventory);
        let trial = TrialFacts::observe(&context.root, &boot);
        if trial.is_armed() {
            // clr-dkms itself has chosen that entry.
            boot.problems.retain(|problem| !problem.is_one_shot);
        }
        let mut kernels = kernels_that_matter(&inventory);
        // An admin may have made another kernel the default.
        let default = boot.default.as_ref().and_then(|d| d.id.as_ref());
        kernels.extend(inventory.kernels.iter().filter(|k| Some(&k.id) == default && !k.tip && !k.running));
        for kernel in inventory.kernels.iter().filter(|k| also.contains(&k.name.release())) {
            if !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        let found = on_kernels(context, cache, &tree, &inventory, &boot, &kernels, known.modules_on_kernels);
        let ObservedKernels { modules_on_kernels, lines, fallbacks, fallback_lines, seen } = found;
        let in_use = known
            .in_use
            .unwrap_or_else(|| Usage::observe(&context.root, &inventory.running, context.clock.now()));
        let all_pairs = modules_on_kernels.iter().chain(&fallbacks).collect();
        let is_known = |files: &ModuleFiles| seen.iter().all(|(release, _)| files.kernels.contains(release));
        let files = known.files.filter(is_known);
        let files =
            files.unwrap_or_else(|| files_of(context, cache, &inventory, &tree, &in_use, all_pairs, seen));
        let serving: BTreeSet<String> = files.names_of_serving().cloned().collect();
        let of_pairs = modules_on_kernels.iter().chain(&fallbacks).flat_map(names_beneath);
        let names = of_pairs.chain(in_use.depended_on.keys().cloned()).chain(serving.iter().cloned());
        let load_policy = LoadPolicy::observe(&context.root, &names.collect());
        let replaced_drivers = replaced_drivers::observe(&context.root, &load_policy.config);
        let used = &in_use.depended_on;
        let initrds = initrds::observe(&context.root, cache, &kernels, &modules_on_kernels, used, serving);
        let machine = Machine::observe(&context.root);
        let verdicts = verdicts(lines.iter().chain(&fallback_lines), &boot, &machine);
        let boot_parts = inputs::parts(&context.root);
        System {
            boot_inputs: inputs::whole(&boot_parts),
            boot_parts,
            boot_entries: boot.read_back(&expected_entries(&lines)),
            loader_interface: loader_interface(&context.root, &inventory, &boot),
            remembered_boot: boot.default.is_none().then(|| remembered_boot(&context.root)).flatten(),
            boot,
            boot_blocker: boot::blocker(&context.root),
            root: context.root.path().to_owned(),
            machine,
            verdicts,
            in_use,
            files,
            load_policy,
            initrds,
            replaced_drivers,
            wishes: state::wishes(&context.root),
            trial,
            checked: state::checked(&context.root),
            deferral: deferral::observe(&context.root),
            running: running_kernel(&context.root, cache, &inventory, &lines),
            inventory,
            tree,
            modules_on_kernels,
            fallbacks,
            lines,
            fallback_lines,
            automation: None,
            // These two come last, after all other reads.
            denied: context.root.denied(),
            unread: context.root.unread(),
        }
    }

    /// Assumes that the changes of a plan are made, and with `is_refreshed` also that the boot entries have
    /// the new command lines.
    pub fn assume(&mut self, plan: &WriterPlan, is_refreshed: bool) {
        for line in &mut self.lines {
            line.sources = writer::after(&line.sources, &plan.steps);
            line.effective = effective(&line.sources);
            line.switch = line.kernel.switch(&line.effective);
            let entries = self.boot.entries.iter_mut().filter(|_| is_refreshed);
            let mine = entries.filter(|entry| entry.id.as_ref() == Some(&line.id));
            mine.for_each(|entry| entry.options.clone_from(&line.effective));
        }
        self.verdicts = verdicts(self.lines.iter().chain(&self.fallback_lines), &self.boot, &self.machine);
    }

    /// Marks the proven modules whose source has changed since they were built. It looks at every file of the
    /// sources, so only reports do it, and runs that an admin asked for.
    /// `record` is that of the last run.
    pub fn look_at_sources(&mut self, root: &Root, record: Option<&RunRecord>) {
        self.compare_sources(root, record.map(|record| &record.built_from));
    }

    /// The same with the fingerprints of the sources of built files, by the SHA-256 of the file.
    pub fn compare_sources(&mut self, root: &Root, built_from: Option<&BTreeMap<String, String>>) {
        let mut sources: BTreeMap<ModuleName, Option<SourceFiles>> = BTreeMap::new();
        // What is not proven is built again in any case.
        for pair in self.modules_on_kernels.iter_mut().filter(|pair| pair.proof.is_ok()) {
            let look = || SourceFiles::observe(root, &pair.source);
            let files = sources.entry(pair.module.clone()).or_insert_with(look);
            pair.source_changed =
                files.as_ref().is_some_and(|files| files.differ_from_build(root, pair, built_from));
        }
    }

    /// A path inside the root, as a path on the host.
    pub fn shown_path(&self, path: &str) -> String {
        below(&self.root, Path::new(path)).display().to_string()
    }

    /// The command line of a kernel, including the kernels to fall back to.
    pub fn cmdline_of(&self, release: &str) -> Option<&KernelCmdline> {
        self.lines.iter().chain(&self.fallback_lines).find(|l| l.release == release)
    }

    /// How a kernel treats modules at its next boot: with the command line of its boot entry, or with its
    /// configured command line if the entry is not visible.
    pub fn verdict_of_entry(&self, release: &str) -> Option<&EnforcementVerdict> {
        self.verdicts.get(release).map(|verdicts| verdicts.entry.as_ref().unwrap_or(&verdicts.configured))
    }

    /// The same with the configured command line, which clr-boot-manager writes into the boot entry.
    pub fn verdict_as_configured(&self, release: &str) -> Option<&EnforcementVerdict> {
        self.verdicts.get(release).map(|verdicts| &verdicts.configured)
    }

    /// How the running kernel treats modules now. None if no kernel runs, or if that is not known.
    pub fn verdict_now(&self) -> Option<EnforcementVerdict> {
        let (runtime, kernel) = (self.machine.runtime.as_ref()?, self.running.as_ref()?);
        let line = self.machine.line.as_deref().unwrap_or_default();
        Some(now(&kernel.boot(line, &self.machine), runtime))
    }

    /// A module of DKMS on a kernel, including the kernels to fall back to.
    pub fn module_on_kernel(&self, module: &ModuleName, release: &str) -> Option<&ModuleOnKernel> {
        let mut all = self.modules_on_kernels.iter().chain(&self.fallbacks);
        all.find(|p| p.module == *module && p.release == release)
    }

    /// The modules of DKMS on one kernel.
    pub fn of_kernel<'a>(&'a self, release: &'a str) -> impl Iterator<Item = &'a ModuleOnKernel> {
        self.modules_on_kernels.iter().filter(move |p| p.release == release)
    }
}

fn verdicts<'a>(
    lines: impl Iterator<Item = &'a KernelCmdline>,
    boot: &BootFiles,
    machine: &Machine,
) -> BTreeMap<String, LineVerdicts> {
    lines.map(|line| (line.release.clone(), line.verdicts(boot, machine))).collect()
}

/// The modules and command lines of the kernels that matter, and of those to fall back to.
struct ObservedKernels {
    modules_on_kernels: Vec<ModuleOnKernel>,
    lines: Vec<KernelCmdline>,
    fallbacks: Vec<ModuleOnKernel>,
    fallback_lines: Vec<KernelCmdline>,
    /// The releases of all these kernels, with their headers.
    seen: Vec<(String, Headers)>,
}

/// `kernels` are the kernels that matter. `known` are the modules that an earlier observation found, by
/// kernel release.
fn on_kernels(
    context: &Context,
    cache: &mut Cache,
    tree: &Tree,
    inventory: &Inventory,
    boot: &BootFiles,
    kernels: &[&Installed],
    mut known: BTreeMap<String, Vec<ModuleOnKernel>>,
) -> ObservedKernels {
    let mut modules_on_kernels = Vec::new();
    let mut lines = Vec::new();
    let mut fallbacks = Vec::new();
    let sources = conf::ConfSources::default();
    let mut pairs_on = |cache: &mut Cache, kernel: &Installed, endless: &Endless| {
        let known = known.remove(&kernel.name.release());
        known.unwrap_or_else(|| pairs_with(context, cache, &sources, tree, kernel, endless))
    };
    let mut seen: Vec<(String, Headers)> = Vec::new();
    for kernel in kernels {
        seen.push((kernel.name.release(), kernel.headers.clone()));
        modules_on_kernels.extend(pairs_on(cache, kernel, &Endless::new()));
        lines.push(line(context, cache, &NamedKernel::of(kernel)));
    }
    // Evaluating a dkms.conf that timed out for one kernel is not tried again for the others.
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
    ObservedKernels { modules_on_kernels, lines, fallbacks, fallback_lines, seen }
}

/// The kernel modules of a DKMS module, and those that they depend on.
fn names_beneath(pair: &ModuleOnKernel) -> impl Iterator<Item = String> {
    let of_one = |(name, beneath): (&String, &Vec<String>)| {
        beneath.iter().map(|n| kernel_name(n)).chain([name.clone()]).collect::<Vec<_>>()
    };
    pair.beneath.iter().flat_map(of_one)
}

/// The requirements in the last record. The rest of the record is long and not needed here.
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
    let running = inventory.running.release();
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

/// The EFI variables of the boot loader, if a kernel runs and the boot files are not visible.
fn loader_interface(
    root: &Root,
    inventory: &Inventory,
    boot: &BootFiles,
) -> Option<Result<LoaderInterface, String>> {
    let is_needed = boot.loader.is_none() && inventory.running != Running::None;
    is_needed.then(|| LoaderInterface::read(root).map_err(|e| e.to_string()))
}

/// The kernel that the last run saw as the default in the boot files. A choice by an EFI variable is not
/// remembered, because the variable can be read again.
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
    let release = inventory.running.release()?;
    let known = lines.iter().find(|l| l.release == release).map(|l| l.kernel.clone());
    Some(known.unwrap_or_else(|| KernelFacts::observe(root, cache, release, None)))
}

/// The tips in the order in which they are worked on, and the running kernel if it is not a tip.
pub fn kernels_that_matter(inventory: &Inventory) -> Vec<&Installed> {
    let mut kernels = inventory.tips();
    kernels.extend(inventory.running_kernel().filter(|k| !k.tip));
    kernels
}
