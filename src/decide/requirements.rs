//! What the machine requires: collects the known modules and classifies each of them.

use std::collections::BTreeSet;

use super::importance::{KnownModule, classify};
use super::memory::{Trace, is_removed};
use super::module_state::{refused_now, would_be_taken};
use super::satisfaction::{origin_of, works_on};
use crate::config::{Settings, SigUnenforce};
use crate::dkms::loadable::Loadable;
use crate::dkms::plan::State;
use crate::dkms::{ModuleName, ModuleOnKernel, Proof};
use crate::kernel::module_file::kernel_name;
use crate::modprobe::FileOrigin;
use crate::requirement::{Importance, ModuleOrigin, Requirement, Use};
use crate::state::{ModuleRecord, RunRecord};
use crate::system::System;

/// The requirements of the machine, one for each module. `states` are the states of the DKMS modules.
pub(super) fn requirements(
    system: &System,
    settings: &Settings,
    record: Option<&RunRecord>,
    states: &[ModuleRecord],
) -> Vec<Requirement> {
    let running = system.inventory.running.release();
    let before: Vec<&Requirement> = match record {
        Some(record) => record.needs.iter().filter(|need| !was_removed(system, record, need)).collect(),
        // A trial says what worked before it.
        None => system.trial.recorded.iter().flat_map(|trial| &trial.expects).collect(),
    };
    let before: Vec<Requirement> = before.into_iter().map(|need| without_replaced(system, need)).collect();
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
    // A module that an admin lists is required even if DKMS does not manage it.
    for name in settings.modules.critical.iter().chain(&settings.modules.wanted) {
        add(name, vec![kernel_name(name)], false);
    }
    for need in before.iter().filter(|n| n.class > Importance::Optional && !n.is_listed()) {
        // Records of version 0.1 contain only DKMS modules, and no origin.
        add(&need.module, need.modules(), need.origin.is_none_or(|origin| origin == ModuleOrigin::Dkms));
    }
    // Without it no driver is left for its devices, even if DKMS no longer manages it.
    for name in system.replaced_drivers.iter().flat_map(|replaced| replaced.keys()) {
        add(name, vec![kernel_name(name)], true);
    }
    // A module that was loaded without an installed file is reported, but no kernel can be required to have
    // it.
    let has_file = |name: &&String| !system.files.without_file.contains(*name);
    for name in system.in_use.out_of_tree().filter(has_file) {
        add(name, vec![name.clone()], false);
    }
    let mut needs = classify(&modules, &settings.modules, &system.in_use, &before, running);
    needs.iter_mut().for_each(|need| add_replaced(system, need));
    for need in needs.iter_mut().filter(|need| !need.works && need.class > Importance::Optional) {
        let is_registered = registered.contains(need.module.as_str());
        need.works = running.is_some_and(|running| works_on(system, need, running, is_registered));
    }
    needs
}

/// What is required if the record of the last run is damaged: each module that DKMS has installed for another
/// kernel, and not for the running one. What depended on it is unknown, so it counts as critical. Otherwise
/// the running kernel, which may be the one that was held back, would seem to need nothing.
pub fn without_record(system: &System) -> Vec<Requirement> {
    let is_proven = |pair: &&ModuleOnKernel| pair.proof.is_ok();
    let runs = |pair: &ModuleOnKernel| system.inventory.runs(&pair.release);
    let all = || system.modules_on_kernels.iter().chain(&system.fallbacks).filter(is_proven);
    let recorded = system.trial.recorded.iter().flat_map(|trial| &trial.expects);
    let mut needs: Vec<Requirement> = recorded.cloned().collect();
    for pair in all().filter(|pair| !runs(pair)) {
        let name = &pair.module.name;
        let is_known = needs.iter().any(|need| need.module == *name);
        if is_known || all().any(|other| runs(other) && other.module.name == *name) {
            continue;
        }
        let files = system.files.of_dkms.get(name).into_iter().flatten().map(|file| kernel_name(file));
        needs.push(Requirement {
            module: name.clone(),
            class: Importance::Critical,
            reason: Use::Remembered.to_string(),
            why: vec![Use::Installed, Use::Remembered],
            files: files.collect(),
            aliases: Vec::new(),
            origin: Some(ModuleOrigin::Dkms),
            works: false,
            worked_on: Some(pair.release.clone()),
            idle: None,
        });
    }
    needs
}

/// A recorded requirement without the drivers that the module replaced: a blacklist is known to be in force
/// or not.
fn without_replaced(system: &System, need: &Requirement) -> Requirement {
    let mut need = need.clone();
    let is_replaced = |why: &Use| matches!(why, Use::Replaces { .. });
    // `decide::unread` reports the error; what was recorded stays then.
    if system.replaced_drivers.is_err() || !need.why.iter().any(is_replaced) {
        return need;
    }
    need.why.retain(|why| !is_replaced(why));
    match need.why.iter().find(|why| **why != Use::Remembered) {
        Some(first) if first.is_critical() => need.reason = first.to_string(),
        Some(first) => (need.class, need.reason) = (Importance::Wanted, first.to_string()),
        None => (need.class, need.reason) = (Importance::Wanted, Use::Installed.to_string()),
    }
    need
}

/// Makes a module critical on every kernel while drivers are blacklisted in its favour. An admin may have
/// listed it as optional.
fn add_replaced(system: &System, need: &mut Requirement) {
    // `decide::unread` reports the error: what is required is unknown then.
    let replaced = system.replaced_drivers.as_ref().ok().and_then(|replaced| replaced.get(&need.module));
    let Some(drivers) = replaced.filter(|_| !(need.is_listed() && need.class == Importance::Optional)) else {
        return;
    };
    let why = Use::Replaces { drivers: drivers.iter().cloned().collect() };
    if need.class != Importance::Critical {
        (need.class, need.reason) = (Importance::Critical, why.to_string());
    }
    need.why.push(why);
}

/// A module that DKMS manages.
fn managed(
    system: &System,
    settings: &Settings,
    states: &[ModuleRecord],
    running: Option<&str>,
    name: &str,
    before: &[Requirement],
) -> KnownModule {
    // Another version, or the same version on another kernel, may consist of other files. All of them belong
    // to the module.
    let mut built = system.files.of_dkms.get(name).cloned().unwrap_or_default();
    let confs = || system.modules_on_kernels.iter().filter(|p| p.module.name == name);
    // The reason makes no difference: the names of its modules are unknown.
    let unclear = !confs().any(|p| p.conf.is_ok());
    if built.is_empty() {
        // Most modules consist of one file of the same name.
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
    // A module that the running kernel refuses does not work now, even if its file is proven.
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

/// The proof of a file that DKMS installed, of any version.
fn installed_proof<'s>(system: &'s System, release: &str, file: &str) -> Option<&'s Proof> {
    match system.files.on(release, file) {
        Some(Loadable::File { origin: FileOrigin::Dkms, proof: Ok(proof), .. }) => Some(proof),
        _ => None,
    }
}

/// A module that DKMS does not manage, or no longer manages.
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

/// Whether an admin has removed the module with `dkms remove` since the last run.
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

/// Keeps the recorded requirements when it is unknown what is required now.
pub(super) fn keep_remembered(needs: &mut Vec<Requirement>, record: Option<&RunRecord>) {
    for known in record.iter().flat_map(|record| &record.needs) {
        match needs.iter_mut().find(|need| need.module == known.module) {
            Some(need) if need.class < known.class => *need = known.clone(),
            Some(_) => {}
            None => needs.push(known.clone()),
        }
    }
}

/// The module is proven and the running kernel accepts it. That its next boot refuses it does not mean that
/// the module is not needed.
fn works_until_reboot(system: &System, settings: &Settings, status: &ModuleRecord) -> bool {
    status.state == State::SignatureRefused
        && is_taken_for_now(system, settings, &status.kernel, &status.module, &status.files)
}

/// The running kernel accepts the files of a module, now or with its configured command line. If an admin has
/// set `sig-unenforce = off`, modules that are accepted only now do not count.
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
