//! From facts to the decision: what each kernel has of what this machine needs.

use std::collections::{BTreeMap, BTreeSet};

use super::boot_choice::{Candidate, Missing, Ready, choose_default, keep_default, lacks};
use super::importance::{KnownModule, classify};
use super::initrds::lost_without_initrd;
use super::loading::{LoadForecast, load_forecast};
use super::memory::{Trace, is_removed};
use super::module_state::{module_status, refused_now, would_be_taken};
use super::next_boot::{NextBoot, booted_from_installed, next_boot};
use super::satisfaction::{CommandLine, origin_of, satisfied_with, works_on};
use super::unread::{Gaps, gaps};
use crate::boot_decision::BootDecision;
use crate::config::{Settings, SigUnenforce};
use crate::dkms::loadable::Loadable;
use crate::dkms::plan::State;
use crate::dkms::{ModuleName, Proof};
use crate::kernel::inventory::There;
use crate::kernel::module_file::kernel_name;
use crate::kernel::{Installed, KernelName, Running};
use crate::modprobe::FileOrigin;
use crate::requirement::{Importance, MissingModule, ModuleOrigin, Requirement};
use crate::state::{ModuleRecord, RunRecord};
use crate::system::System;

/// What this machine needs, and what follows for the boot default.
#[derive(Debug, Clone)]
pub struct BootAssessment {
    /// One for each module.
    pub needs: Vec<Requirement>,
    /// The decision.
    pub decision: BootDecision,
    /// What boots next as things are.
    pub next: NextBoot,
    /// What that lacks of what is critical; nothing where it is unknown.
    pub next_lacks: Vec<MissingModule>,
    /// What the default of the decision lacks of what is critical, with its boot entry as it is.
    pub entry_lacks: Vec<MissingModule>,
    /// It is unknown which kernel boots next, and the kernels differ in what this machine needs.
    pub is_open: bool,
    /// Whether the guard acts on this system.
    pub acts: bool,
    /// The release of the kernel that is kept from becoming the boot default.
    pub held_back: Option<String>,
    /// The modules that the running kernel lacks, and that the kernel that boots next has.
    pub comes_back: Vec<String>,
    /// The modules, `name/version`, that are proven for the running kernel, which boots next, and that it
    /// refuses until then.
    pub refused_until_reboot: Vec<String>,
    /// The fact that could not be read, for want of which nothing is decided; none where the decision stands.
    pub unknown: Option<String>,
    /// No `default-TYPE` names the target: clr-boot-manager leaves the boot default as it is.
    pub leaves_default: bool,
    /// A fact about the target that could not be read: it counts as lacking what is needed.
    pub unknown_target: Option<String>,
    /// All installed kernels, in ascending order, as clr-boot-manager would boot them.
    candidates: Vec<Candidate>,
}

impl BootAssessment {
    /// What boots next, or would by the decision, is without something critical, or without all of its
    /// modules.
    pub fn is_unsafe(&self) -> bool {
        self.decision.is_unsafe || !self.next_lacks.is_empty() || self.next.is_removed()
    }

    /// `[modules] optional` lists it.
    pub fn is_listed_as_optional(&self, module: &str) -> bool {
        let mut needs = self.needs.iter().filter(|need| need.module == module);
        needs.any(|need| need.class == Importance::Optional && need.is_listed())
    }

    /// How much a module, by its name, is needed.
    pub fn class_of(&self, module: &str) -> Importance {
        self.needs.iter().find(|need| need.module == module).map_or(Importance::Optional, |need| need.class)
    }

    /// The boot default is the one that it should be.
    pub fn is_carried_out(&self) -> bool {
        self.decision.default.as_deref() == self.next.release()
    }

    /// The kernel release that the default is to be pointed to, where `entry_lacks` is what it lacks of what is critical
    /// when it is booted by its present entry.
    pub fn asserted_default(&self, entry_lacks: &[MissingModule]) -> Option<&str> {
        self.decision.asserted_default(entry_lacks, self.next.is_removed(), self.leaves_default)
    }

    /// What a kernel lacks of those needs: whatever is not proven for it.
    pub fn lacks_on(&self, release: &str, needs: impl Fn(&Requirement) -> bool) -> Vec<MissingModule> {
        let needs = self.needs.iter().filter(|need| needs(need));
        match self.candidates.iter().find(|k| k.release == release) {
            Some(kernel) => lacks(kernel, needs),
            None => needs.map(missing_with_kernel).collect(),
        }
    }
}

/// Whether the guard acts on this system: not on an image, whose boot files nothing boots from while it is
/// one, nor where it was asked to report only.
pub fn guard_acts(is_image: bool, settings: &Settings) -> bool {
    !is_image && settings.guards()
}

/// What a machine is without once it has booted a kernel that is not installed any more.
fn missing_with_kernel(need: &Requirement) -> MissingModule {
    MissingModule {
        module: need.module.clone(),
        class: need.class,
        needed: need.reason.clone(),
        state: State::NotBuilt.to_string(),
        reason: "the kernel is not installed any more".to_owned(),
    }
}

/// Judges. `record` is that of the last run.
pub fn assess(system: &System, settings: &Settings, record: Option<&RunRecord>) -> BootAssessment {
    let modules_on_kernels = system.modules_on_kernels.iter().chain(&system.fallbacks);
    let states: Vec<ModuleRecord> = modules_on_kernels.map(|p| module_status(system, p, record)).collect();
    let gaps = gaps(system);
    let mut needs = needs(system, settings, record, &states);
    if gaps.everything.is_some() {
        keep_remembered(&mut needs, record);
    }
    // It is found again each time, and not remembered.
    let all: Vec<Requirement> = needs.iter().cloned().chain(initrd_requirement(system)).collect();
    let next = next_boot(system);
    let as_seen = |as_configured: bool| -> Vec<Candidate> {
        let candidate = |kernel| candidate(system, kernel, &states, &all, &gaps, next.shown(), as_configured);
        // Ascending: the inventory begins with the newest.
        system.inventory.kernels.iter().rev().map(candidate).collect()
    };
    let candidates = as_seen(true);
    // As the boot entries are now, and not as clr-boot-manager would make them.
    let as_booted = as_seen(false);
    let target = system.inventory.boot_default().map(|k| k.name.release());
    let mut decision =
        choose_default(&candidates, target.as_deref(), is_orphaned(system), &all, &system.wishes);
    if gaps.everything.is_some() {
        decision = keep_default(decision, next.release().map(str::to_owned));
    }
    let critical = || all.iter().filter(|n| n.class == Importance::Critical);
    let booted_next = as_booted.iter().find(|k| next.is(&k.release));
    let next_lacks = match (&next, booted_next) {
        (NextBoot::Removed { .. }, _) => critical().map(missing_with_kernel).collect(),
        (_, Some(kernel)) => lacks(kernel, critical()),
        (_, None) => Vec::new(),
    };
    let acts = guard_acts(system.inventory.running == Running::None, settings);
    let default = as_booted.iter().find(|k| Some(&k.release) == decision.default.as_ref());
    BootAssessment {
        entry_lacks: default.map(|k| lacks(k, critical())).unwrap_or_default(),
        is_open: next.unknown().is_some() && makes_a_difference(system, record, &as_booted, &needs),
        held_back: decision.target.clone().filter(|_| acts && decision.holds_back()),
        comes_back: match booted_next {
            Some(kernel) if !kernel.running && next_lacks.is_empty() => comes_back(kernel, &needs),
            _ => Vec::new(),
        },
        refused_until_reboot: match booted_next {
            Some(kernel) if kernel.running => refused_until_reboot(system, &states),
            _ => Vec::new(),
        },
        leaves_default: system.inventory.running != Running::None
            && system.inventory.boot_default().is_some_and(|kernel| !kernel.is_named),
        unknown_target: target.and_then(|release| gaps.kernels.get(&release).cloned()),
        unknown: gaps.everything,
        candidates,
        acts,
        decision,
        next_lacks,
        next,
        needs,
    }
}

/// A kernel of this system runs, and neither it nor another one of its variant is installed any more:
/// clr-boot-manager then leaves the boot default as it is, and an entry of a kernel without modules may be
/// it.
fn is_orphaned(system: &System) -> bool {
    let Running::Known { release } = &system.inventory.running else { return false };
    system.inventory.boot_default().is_none()
        && KernelName::from_release(release, &system.inventory.namespace).is_some()
}

/// Whether it matters which kernel boots next, where that is unknown. It does not where nothing is needed,
/// nor where every kernel that can be meant has all that is needed. These are the kernels of the entries,
/// where they are visible; else all that are installed, if the last run saw one of them as the default and
/// nothing that decides it has changed since.
fn makes_a_difference(
    system: &System,
    record: Option<&RunRecord>,
    kernels: &[Candidate],
    needs: &[Requirement],
) -> bool {
    let needed = || needs.iter().filter(|n| n.class > Importance::Optional);
    let is_whole = |k: &Candidate| lacks(k, needed()).is_empty();
    if needed().next().is_none() {
        return false;
    }
    let entries = &system.boot.entries;
    if system.boot.loader.is_some() {
        let of_whole_kernel = |id: &String| {
            let kernel = system.inventory.kernels.iter().find(|k| k.id == *id);
            kernel.is_some_and(|k| kernels.iter().any(|c| c.release == k.name.release() && is_whole(c)))
        };
        return entries.is_empty() || !entries.iter().all(|e| e.id.as_ref().is_some_and(of_whole_kernel));
    }
    let is_as_before = || {
        record.is_some_and(|r| r.boot.inputs.as_ref() == Some(&system.boot_inputs))
            && kernels.iter().any(|k| k.default)
            && booted_from_installed(system)
    };
    !(is_as_before() && kernels.iter().all(is_whole))
}

/// The modules that do not work now and are on that kernel.
fn comes_back(kernel: &Candidate, needs: &[Requirement]) -> Vec<String> {
    let is_back = |need: &&Requirement| {
        need.class > Importance::Optional
            && !need.works
            && kernel.modules.get(&need.module) == Some(&Ready::Yes)
    };
    needs.iter().filter(is_back).map(|need| need.module.clone()).collect()
}

/// The modules that are there for the running kernel, which takes them when it is booted again, and refuses
/// them now.
fn refused_until_reboot(system: &System, states: &[ModuleRecord]) -> Vec<String> {
    let is_refused = |s: &&ModuleRecord| {
        s.state == State::Ok && system.inventory.runs(&s.kernel) && refused_now(system, &s.module, &s.files)
    };
    states.iter().filter(is_refused).map(|s| s.module.to_string()).collect()
}

fn needs(
    system: &System,
    settings: &Settings,
    record: Option<&RunRecord>,
    states: &[ModuleRecord],
) -> Vec<Requirement> {
    let running = match &system.inventory.running {
        Running::Known { release } => Some(release.as_str()),
        _ => None,
    };
    let before: Vec<Requirement> = record
        .iter()
        .flat_map(|record| record.needs.iter().filter(|need| !was_removed(system, record, need)).cloned())
        .collect();
    let mut modules: Vec<KnownModule> = Vec::new();
    let registered: BTreeSet<&str> =
        system.modules_on_kernels.iter().map(|p| p.module.name.as_str()).collect();
    modules.extend(registered.iter().map(|name| managed(system, settings, states, running, name, &before)));
    let mut add = |name: &str, files: Vec<String>, was_managed: bool| {
        let is_known = |m: &KnownModule| m.name == name || files.iter().any(|file| m.built.contains(file));
        if !modules.iter().any(is_known) {
            modules.push(unmanaged(system, running, name, files, was_managed));
        }
    };
    // What an admin has listed is needed, whether or not dkms knows of it.
    for name in settings.modules.critical.iter().chain(&settings.modules.wanted) {
        add(name, vec![kernel_name(name)], false);
    }
    for need in before.iter().filter(|n| n.class > Importance::Optional && !n.is_listed()) {
        // Version 0.1 knew modules of DKMS only.
        add(&need.module, need.modules(), need.origin.is_none_or(|origin| origin == ModuleOrigin::Dkms));
    }
    // What is loaded without a file is reported, and cannot be required of a kernel.
    let has_file = |name: &&String| !system.files.without_file.contains(*name);
    for name in system.in_use.out_of_tree().filter(has_file) {
        add(name, vec![name.clone()], false);
    }
    let mut needs = classify(&modules, &settings.modules, &system.in_use, &before, running);
    for need in needs.iter_mut().filter(|need| !need.works && need.class > Importance::Optional) {
        let is_registered = registered.contains(need.module.as_str());
        need.works = running.is_some_and(|running| works_on(system, need, running, is_registered));
    }
    needs
}

/// A module that DKMS knows.
fn managed(
    system: &System,
    settings: &Settings,
    states: &[ModuleRecord],
    running: Option<&str>,
    name: &str,
    before: &[Requirement],
) -> KnownModule {
    // Another version, or the same one on another kernel, may have other files: all of them are this module.
    let mut built = system.files.of_dkms.get(name).cloned().unwrap_or_default();
    let confs = || system.modules_on_kernels.iter().filter(|p| p.module.name == name);
    let unclear = !confs().any(|p| p.conf.is_ok());
    if built.is_empty() {
        // Most have one file of their own name.
        built.extend(before.iter().filter(|n| n.module == name).flat_map(Requirement::modules));
        built.insert(kernel_name(name));
    }
    let status = states.iter().find(|s| s.module.name == name && running == Some(s.kernel.as_str()));
    let is_conflict = status.is_some_and(|s| s.state == State::Conflict);
    let installed: Vec<String> = built
        .iter()
        .filter(|file| {
            !is_conflict && running.is_some_and(|release| installed_proof(system, release, file).is_some())
        })
        .cloned()
        .collect();
    let is_ok = status.is_some_and(|s| s.state.works() || works_until_reboot(system, settings, s));
    let is_taken = |file: &String| {
        let proof = running.and_then(|release| installed_proof(system, release, file));
        running.zip(proof).is_some_and(|(release, proof)| {
            let module = ModuleName { name: name.to_owned(), version: String::new() };
            is_taken_for_now(system, settings, release, &module, std::slice::from_ref(proof))
        })
    };
    // What the running kernel refuses does not work now, also where the file is proven.
    let proven = is_ok || (!installed.is_empty() && installed.iter().all(is_taken));
    KnownModule {
        name: name.to_owned(),
        built: built.into_iter().collect(),
        installed,
        proven,
        is_loadable: proven,
        unclear,
        is_managed: true,
        origin: Some(ModuleOrigin::Dkms),
    }
}

/// The proof of a file that dkms has installed, in whatever version.
fn installed_proof<'s>(system: &'s System, release: &str, file: &str) -> Option<&'s Proof> {
    match system.files.on(release, file) {
        Some(Loadable::File { origin: FileOrigin::Dkms, proof: Ok(proof), .. }) => Some(proof),
        _ => None,
    }
}

/// A module that DKMS does not know, or does not know any more.
fn unmanaged(
    system: &System,
    running: Option<&str>,
    name: &str,
    files: Vec<String>,
    was_managed: bool,
) -> KnownModule {
    let on_running = |file: &String| running.and_then(|release| system.files.on(release, file));
    let is_there = |file: &&String| matches!(on_running(file), Some(Loadable::File { proof: Ok(_), .. }));
    let installed: Vec<String> = files.iter().filter(is_there).cloned().collect();
    let origin = files.iter().find_map(|file| on_running(file).and_then(origin_of));
    let dkms = Some(ModuleOrigin::Dkms);
    KnownModule {
        name: name.to_owned(),
        proven: false,
        is_loadable: !files.is_empty() && installed.len() == files.len(),
        unclear: false,
        is_managed: was_managed || origin == dkms,
        origin: origin.or(dkms.filter(|_| was_managed)),
        installed,
        built: files,
    }
}

/// An admin has removed the module with dkms since the last run.
fn was_removed(system: &System, record: &RunRecord, need: &Requirement) -> bool {
    let is_registered = system.tree.modules.iter().any(|m| m.module.name == need.module);
    let mut known = record.modules.iter().filter(|m| m.module.name == need.module).peekable();
    if is_registered || known.peek().is_none() {
        return false;
    }
    let had: BTreeSet<&str> = known
        .filter(|m| m.state.is_proven())
        .map(|m| m.kernel.as_str())
        .chain(need.worked_on.as_deref())
        .filter(|release| system.files.loadable.contains_key(*release))
        .collect();
    let files = need.modules();
    let is_gone =
        |release: &&&str| files.iter().all(|file| system.files.on(release, file) == Some(&Loadable::Absent));
    is_removed(Trace {
        has_tree: system.files.has_tree && system.tree.unreadable.is_none(),
        kernels: had.len(),
        without: had.iter().filter(is_gone).count(),
    })
}

/// What was required before stays so where it is not known what is required now.
fn keep_remembered(needs: &mut Vec<Requirement>, record: Option<&RunRecord>) {
    for known in record.iter().flat_map(|record| &record.needs) {
        match needs.iter_mut().find(|need| need.module == known.module) {
            Some(need) if need.class < known.class => *need = known.clone(),
            Some(_) => {}
            None => needs.push(known.clone()),
        }
    }
}

/// `as_configured`: with the command line that clr-boot-manager would write, where its entry has another one.
/// `default` is the release of the boot default.
fn candidate(
    system: &System,
    kernel: &Installed,
    states: &[ModuleRecord],
    needs: &[Requirement],
    gaps: &Gaps,
    default: Option<&str>,
    as_configured: bool,
) -> Candidate {
    let release = kernel.name.release();
    let gap = gaps.kernels.get(&release);
    let is_default = default == Some(release.as_str());
    let ready = |need: &Requirement| {
        if let Some(what) = gap {
            // A file that was not read may be the one that matters.
            return Some((need.module.clone(), Ready::Unknown(unread(what))));
        }
        let status = states.iter().find(|s| s.kernel == release && s.module.name == need.module);
        let taken = status.is_some_and(|s| {
            as_configured && (refused_by_entry_only(system, s) || blocked_by_entry_only(system, s))
        });
        let by_entry = || satisfied_with(system, need, &release, status, CommandLine::Coming);
        let ready = match as_configured {
            _ if taken => Some(Ready::Yes),
            false => by_entry(),
            // The entry of the default is not made again where it would lose something.
            true if is_default && by_entry() == Some(Ready::Yes) => Some(Ready::Yes),
            true => satisfied_with(system, need, &release, status, CommandLine::Configured),
        };
        ready.map(|ready| (need.module.clone(), ready))
    };
    let mut modules: BTreeMap<String, Ready> = needs.iter().filter_map(ready).collect();
    modules.insert(INITRD.to_owned(), initrd_of(system, &release));
    // A restricted update makes an entry also of a kernel that is not a tip: one that an admin holds gets it
    // back.
    let is_held = system.wishes.hold.as_ref() == Some(&release) && kernel.modules != There::No;
    Candidate {
        bootable: is_held || is_bootable(system, kernel),
        running: kernel.running,
        booted: kernel.booted == There::Yes,
        default: is_default,
        variant: kernel.name.variant.clone(),
        release,
        modules,
    }
}

/// The name of what an initrd stands for among the modules that a kernel has.
const INITRD: &str = "initrd";

/// Something in use depends on a module that the running kernel takes from an admin's initrd, and another kernel has no
/// such initrd.
fn initrd_requirement(system: &System) -> Option<Requirement> {
    let running = system.inventory.running_kernel()?.name.release();
    let lost = |k: &Installed| lost_without_initrd(system, &k.name.release());
    let (_, reason) = system.inventory.kernels.iter().find_map(lost)?;
    Some(Requirement {
        module: INITRD.to_owned(),
        class: Importance::Critical,
        reason: format!("{reason}, from the initrd of {running}"),
        why: Vec::new(),
        files: Vec::new(),
        aliases: Vec::new(),
        origin: None,
        works: true,
        worked_on: Some(running),
        idle: None,
    })
}

fn initrd_of(system: &System, release: &str) -> Ready {
    match lost_without_initrd(system, release) {
        None => Ready::Yes,
        Some((module, _)) => Ready::No(Missing {
            version: release.to_owned(),
            state: "missing".to_owned(),
            reason: format!("kernel {release} has no initrd with {module}, and it is not part of its image"),
        }),
    }
}

/// Whether the boot default can be pointed to it.
pub fn is_bootable(system: &System, kernel: &Installed) -> bool {
    // An entry that is not there is made by clr-boot-manager for the tips and the running kernel, and for no other.
    let entry = system.boot.loader.is_none() || system.boot.of(&kernel.id).is_some();
    kernel.modules != There::No && (entry || kernel.tip || kernel.running)
}

/// It is there, and the running kernel takes it; that the next boot of it will not is no reason to say that nobody needs
/// it.
fn works_until_reboot(system: &System, settings: &Settings, status: &ModuleRecord) -> bool {
    status.state == State::SignatureRefused
        && is_taken_for_now(system, settings, &status.kernel, &status.module, &status.files)
}

/// The running kernel takes the files of a module, now or with its configured command line. An admin that has switched
/// the parameter off for good does without those that are taken only now.
fn is_taken_for_now(
    system: &System,
    settings: &Settings,
    release: &str,
    module: &ModuleName,
    proofs: &[Proof],
) -> bool {
    would_be_taken(system, release, module, proofs)
        || (settings.sig_unenforce != SigUnenforce::Off && !refused_now(system, module, proofs))
}

/// Only the command line of the boot entry has the kernel refuse it, which clr-boot-manager would write again.
fn refused_by_entry_only(system: &System, status: &ModuleRecord) -> bool {
    status.state == State::SignatureRefused
        && would_be_taken(system, &status.kernel, &status.module, &status.files)
}

fn unread(what: &str) -> Missing {
    Missing { version: String::new(), state: State::Unknown.to_string(), reason: what.to_owned() }
}

/// Only the command line of the boot entry keeps it from being loaded, which clr-boot-manager would write again.
fn blocked_by_entry_only(system: &System, status: &ModuleRecord) -> bool {
    let mut modules_on_kernels = system.modules_on_kernels.iter().chain(&system.fallbacks);
    status.state == State::Blocked
        && modules_on_kernels.find(|p| p.module == status.module && p.release == status.kernel).is_some_and(
            |pair| {
                let configured = load_forecast(system, pair, None, CommandLine::Configured);
                matches!(configured, LoadForecast::Loads | LoadForecast::Remark(_))
            },
        )
}
