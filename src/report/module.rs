//! All that is known of one module: `clr-dkms status MODULE`.

use serde::Serialize;

use super::problem::Problem;
use super::{ModuleStatus, StatusDocument};
use crate::dkms::plan::State;
use crate::dkms::{ModuleName, Source};
use crate::exit;
use crate::kernel::Running;
use crate::kernel::module_file::kernel_name;
use crate::requirement::Importance;
use crate::system::System;

/// The document of one module.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleDocument {
    /// Grows only when a field changes its meaning.
    pub schema: u32,
    /// The name of the DKMS module; of one that DKMS does not manage, the kernel's name.
    pub module: String,
    /// The answer in one word.
    pub standing: ModuleStanding,
    /// The answer in one sentence.
    pub summary: String,
    /// What to do next; none when there is nothing to do.
    pub next_step: Option<String>,
    /// How much this machine needs it.
    pub class: Importance,
    /// Why, as a phrase.
    pub reason: String,
    /// The running kernel has loaded it. None where no kernel runs.
    pub loaded: Option<bool>,
    /// The release of the kernel on which it last worked.
    pub worked_on: Option<String>,
    /// The registered versions, the newest first.
    pub versions: Vec<RegisteredVersion>,
    /// How it is on each kernel.
    pub kernels: Vec<ModuleOfKernel>,
    /// What else is known.
    pub notes: Vec<String>,
}

/// One word for all kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum ModuleStanding {
    /// It is not missed on any kernel.
    Ready,
    /// A run is building it.
    Building,
    /// It is missed on a kernel.
    #[strum(to_string = "not ready")]
    Missed,
    /// The kernel that boots next lacks it, and it is critical.
    Unsafe,
    /// It cannot be determined.
    Unknown,
}

/// A version of it that is registered with DKMS.
#[derive(Debug, Clone, Serialize)]
pub struct RegisteredVersion {
    /// The version.
    pub version: String,
    /// The directory of its source, as the host sees it. None if it cannot be used.
    pub source: Option<String>,
    /// Why the source cannot be used.
    pub fault: Option<String>,
    /// The releases of the kernels that DKMS marks it as installed on.
    pub installed_on: Vec<String>,
}

/// How the module is on a kernel.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleOfKernel {
    /// The kernel runs.
    pub running: bool,
    /// The kernel boots next.
    pub next_boot: bool,
    /// The kernel is held back.
    pub held_back: bool,
    /// The rest.
    #[serde(flatten)]
    pub status: ModuleStatus,
}

impl ModuleStanding {
    /// The exit code of a report with this answer.
    pub fn exit_code(self) -> u8 {
        match self {
            ModuleStanding::Ready => exit::OK,
            ModuleStanding::Building | ModuleStanding::Missed => exit::ATTENTION,
            ModuleStanding::Unsafe => exit::UNSAFE,
            ModuleStanding::Unknown => exit::UNKNOWN,
        }
    }
}

/// The name of the module that is asked for: by its name, as `NAME/VERSION`, or by one of its kernel modules.
/// None if there is none.
fn named(system: &System, document: &StatusDocument, asked: &str) -> Option<String> {
    let (name, version) =
        asked.split_once('/').map_or((asked, None), |(name, version)| (name, Some(version)));
    let registered = system.tree.modules.iter().map(|known| &known.module);
    let known: Vec<&ModuleName> =
        registered.chain(document.modules.iter().map(|m| &m.record.module)).collect();
    let is_version = |module: &ModuleName| version.is_none_or(|version| version == module.version);
    let is_alike = |module: &ModuleName| kernel_name(&module.name) == kernel_name(name);
    let exact = known.iter().find(|m| m.name == name && is_version(m));
    if let Some(found) = exact.or_else(|| known.iter().find(|m| is_alike(m) && is_version(m))) {
        return Some(found.name.clone());
    }
    let pairs = system.modules_on_kernels.iter().chain(&system.fallbacks);
    let makes = pairs.filter(|pair| is_version(&pair.module)).find(|pair| {
        // What it builds is unknown then; its state gives the reason.
        let built = pair.conf.as_ref().map(|conf| conf.built.as_slice()).unwrap_or_default();
        built.iter().any(|file| kernel_name(&file.name) == kernel_name(name))
    });
    makes.map(|pair| pair.module.name.clone())
}

/// The registered versions of a module.
fn versions(system: &System, name: &str) -> Vec<RegisteredVersion> {
    let of_name = system.tree.modules.iter().filter(|known| known.module.name == name);
    let version = |known: &crate::dkms::tree::Registered| {
        let (source, fault) = match &known.source {
            Source::Directory { path, .. } => (Some(system.shown_path(&path.to_string_lossy())), None),
            Source::Broken { reason } | Source::Unknown { reason } => (None, Some(reason.clone())),
        };
        let is_installed = |version: &&String| **version == known.module.version;
        let installed =
            system.tree.installed.iter().filter(|((of, _), version)| of == name && is_installed(version));
        RegisteredVersion {
            version: known.module.version.clone(),
            source,
            fault,
            installed_on: installed.map(|((_, release), _)| release.clone()).collect(),
        }
    };
    of_name.map(version).collect()
}

/// Makes the document. None if there is no such module.
pub(super) fn module_document(
    system: &System,
    document: &StatusDocument,
    asked: &str,
) -> Option<ModuleDocument> {
    let name = named(system, document, asked)?;
    let need = document.guard.needs.iter().find(|need| need.module == name);
    let on_kernel = |kernel: &super::KernelStatus| {
        let here = document.modules.iter();
        let here = here.filter(|m| m.record.module.name == name && m.record.kernel == kernel.release);
        let of_kernel = |status: &ModuleStatus| ModuleOfKernel {
            running: kernel.running,
            next_boot: kernel.next_boot,
            held_back: kernel.held_back,
            status: status.clone(),
        };
        here.map(of_kernel).collect::<Vec<_>>()
    };
    let kernels: Vec<ModuleOfKernel> = document.kernels.iter().flat_map(on_kernel).collect();
    let standing = standing(document, &name, &kernels);
    // What the next boot lacks comes before what other kernels lack.
    let mut missed: Vec<&ModuleOfKernel> = kernels.iter().filter(|k| k.status.missed).collect();
    missed.sort_by_key(|k| (!k.next_boot, !k.held_back));
    let summary = match missed.first() {
        Some(first) => {
            let record = Box::new(first.status.record.clone());
            let problem = first.status.problem.clone().unwrap_or(Problem::ModuleNotReady(record));
            match missed.len() - 1 {
                0 => problem.to_string(),
                1 => format!("{problem}; it is missed on another kernel too"),
                n => format!("{problem}; it is missed on {n} other kernels too"),
            }
        }
        None => in_order(&name, standing, &kernels),
    };
    let is_running = matches!(system.inventory.running, Running::Known { .. });
    let files = need.map_or_else(|| vec![kernel_name(&name)], |need| need.modules());
    Some(ModuleDocument {
        schema: 1,
        standing,
        summary,
        next_step: missed.iter().find_map(|k| k.status.next_step.clone()),
        class: need.map_or(Importance::Optional, |need| need.class),
        reason: need
            .map_or_else(|| "nothing on this machine depends on it".to_owned(), |need| need.reason.clone()),
        loaded: is_running.then(|| files.iter().any(|file| system.in_use.loaded.contains(file))),
        worked_on: need.and_then(|need| need.worked_on.clone()),
        versions: versions(system, &name),
        notes: notes(system, document, &name),
        kernels,
        module: name,
    })
}

fn standing(document: &StatusDocument, name: &str, kernels: &[ModuleOfKernel]) -> ModuleStanding {
    let is_any = |state: State| kernels.iter().any(|k| k.status.record.state == state);
    let missed = || kernels.iter().filter(|k| k.status.missed);
    if document.guard.next_lacks.iter().any(|lack| lack.name() == name) {
        ModuleStanding::Unsafe
    } else if is_any(State::Building) {
        ModuleStanding::Building
    } else if missed().any(|k| k.status.record.state == State::Unknown) {
        ModuleStanding::Unknown
    } else if missed().next().is_some() {
        ModuleStanding::Missed
    } else {
        ModuleStanding::Ready
    }
}

/// The answer where it is not missed on a kernel.
fn in_order(name: &str, standing: ModuleStanding, kernels: &[ModuleOfKernel]) -> String {
    let works = kernels.iter().filter(|k| k.status.record.state.works()).count();
    match (standing, works, kernels.len()) {
        (ModuleStanding::Unsafe, ..) => format!("the kernel that boots next lacks {name}"),
        (ModuleStanding::Building, ..) => format!("a run is building {name} now"),
        (_, 0, _) => format!("{name} is not required on any kernel"),
        (_, 1, 1) => format!("{name} is ready for the kernel"),
        (_, 2, 2) => format!("{name} is ready for both kernels"),
        (_, works, all) if works == all => format!("{name} is ready for all {all} kernels"),
        (_, works, all) => {
            format!("{name} is ready for {works} of {all} kernels, and is not missed on the others")
        }
    }
}

/// What else is known of it.
fn notes(system: &System, document: &StatusDocument, name: &str) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    let allowed = document.guard.wishes.wishes.allowed.iter().filter(|allowance| allowance.without == name);
    notes.extend(allowed.map(|allowance| format!("an admin allows {allowance}")));
    let pairs = system.modules_on_kernels.iter().filter(|pair| pair.module.name == name);
    // A dkms.conf that cannot be evaluated is the state of its module.
    for conf in pairs.filter_map(|pair| pair.conf.as_ref().ok()) {
        if !conf.depends.is_empty() {
            notes.push(format!("it is built after {}", conf.depends.join(", ")));
        }
        if !conf.autoinstall {
            notes.push("its dkms.conf has no AUTOINSTALL=yes: an update does not build it".to_owned());
        }
        let hooks: Vec<&str> = conf.hooks.keys().map(String::as_str).collect();
        if !hooks.is_empty() {
            notes.push(format!("its dkms.conf runs scripts: {}", hooks.join(", ")));
        }
    }
    notes.sort();
    notes.dedup();
    notes
}
