//! Whether a kernel has a module that the machine requires. It counts every file that modprobe would load and
//! that the kernel accepts, no matter which program installed it.

use std::collections::BTreeSet;

use strum::EnumDiscriminants;

use super::initrds::{InitrdForecast, replacement_forecast};
use super::loading::{self, LoadForecast};
use super::module_state::{SignatureForecast, forecast_own, forecast_signatures, status_of, unchecked};
use super::readiness::{Missing, Ready};
use crate::dkms::loadable::{Loadable, Serves};
use crate::dkms::plan::State;
use crate::dkms::proof::in_words;
use crate::dkms::{Flaw, ModuleName, Proof};
use crate::modprobe::FileOrigin;
use crate::requirement::{Importance, ModuleOrigin, Requirement};
use crate::state::ModuleRecord;
use crate::system::System;
use crate::usage::MOST_USES;

/// The state of a required module that neither DKMS nor any module file provides.
pub const NOT_REGISTERED: &str = "not-registered";

/// Where the file that modprobe would load comes from.
pub fn origin_of(loadable: &Loadable) -> Option<ModuleOrigin> {
    match loadable {
        Loadable::BuiltIn { .. } => Some(ModuleOrigin::Kernel),
        Loadable::File { origin, .. } => Some(match origin {
            FileOrigin::Dkms => ModuleOrigin::Dkms,
            FileOrigin::InTree => ModuleOrigin::Kernel,
            FileOrigin::Updates | FileOrigin::Extra | FileOrigin::Other => ModuleOrigin::Unmanaged,
        }),
        Loadable::Absent | Loadable::Unknown { .. } => None,
    }
}

/// The command line with which a kernel is assumed to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLine {
    /// The command line of its boot entry. If the entry is not visible, the configured one.
    Coming,
    /// The configured command line, which clr-boot-manager writes into the entry.
    Configured,
}

#[derive(Debug, Clone, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(FilesRank), derive(PartialOrd, Ord))]
enum FilesVerdict {
    /// The kernel loads them.
    Loads,
    /// The kernel loads them, but it is unknown whether they serve the devices that need the module.
    Stranger(String),
    /// It is unknown whether the kernel loads them.
    Unknown(String),
    /// The kernel does not load them.
    Not(State, String),
}

/// The verdict on all files of a module, or on the modules that replace it: the worst verdict counts. None if
/// no file was observed.
fn all_files(system: &System, need: &Requirement, release: &str, line: CommandLine) -> Option<FilesVerdict> {
    if let Some(found) = replacement(system, need, release, line) {
        return Some(found.verdict);
    }
    let modules = need.modules();
    let is_seen = modules.iter().any(|module| system.files.on(release, module).is_some());
    let all = modules.iter().map(|module| one_file(system, need, release, module, line));
    all.max_by_key(|verdict| FilesRank::from(verdict)).filter(|_| is_seen)
}

/// Whether a requirement is satisfied on a kernel. None if nothing is known about the module there. `status`
/// is the state of the DKMS module on that kernel.
pub fn satisfied(
    system: &System,
    need: &Requirement,
    release: &str,
    status: Option<&ModuleRecord>,
) -> Option<Ready> {
    satisfied_with(system, need, release, status, CommandLine::Coming)
}

/// [`satisfied`] with an explicit command line.
pub fn satisfied_with(
    system: &System,
    need: &Requirement,
    release: &str,
    status: Option<&ModuleRecord>,
    line: CommandLine,
) -> Option<Ready> {
    if status.is_some_and(|status| status.state.works()) {
        return Some(Ready::Yes);
    }
    let files = all_files(system, need, release, line);
    let Some(status) = status else {
        let missing =
            |state: State, reason| Missing { version: String::new(), state: state.to_string(), reason };
        return match files? {
            FilesVerdict::Loads => Some(Ready::Yes),
            FilesVerdict::Not(..) if is_only_listed(system, need) => None,
            FilesVerdict::Not(state, why) => Some(Ready::No(missing(state, why))),
            FilesVerdict::Stranger(why) | FilesVerdict::Unknown(why) => {
                Some(Ready::Unknown(missing(State::Unknown, why)))
            }
        };
    };
    let missing = || Missing {
        version: status.module.version.clone(),
        state: status.state.to_string(),
        reason: status.reason.clone().unwrap_or_default(),
    };
    Some(match (files, status.state) {
        (_, State::Blocked | State::InitrdStale) => Ready::No(missing()),
        (Some(FilesVerdict::Loads), _) => Ready::Yes,
        // Without a readable `dkms.conf` the names of its files are unknown, so they may be installed.
        (_, State::Unknown | State::BrokenSource) => Ready::Unknown(missing()),
        (Some(FilesVerdict::Stranger(_) | FilesVerdict::Unknown(_)), _) => Ready::Unknown(missing()),
        _ => Ready::No(missing()),
    })
}

/// The state on a kernel of a module that DKMS does not manage.
pub fn unmanaged_status(system: &System, need: &Requirement, release: &str) -> ModuleRecord {
    let module = ModuleName { name: need.module.clone(), version: String::new() };
    let mut status = status_of(&module, release);
    let (state, reason) = match all_files(system, need, release, CommandLine::Coming) {
        Some(FilesVerdict::Loads) => {
            let proofs = looked_at(system, need, release).into_iter().filter_map(|found| match found {
                Loadable::File { proof: Ok(proof), .. } => Some(Proof::clone(proof)),
                _ => None,
            });
            status.files = proofs.collect();
            status.reason = replaced_by(system, need, release);
            return status;
        }
        Some(FilesVerdict::Stranger(why) | FilesVerdict::Unknown(why)) => (State::Unknown, why),
        Some(FilesVerdict::Not(state, why)) => (state, why),
        None => (State::Unknown, format!("the modules of kernel {release} were not examined")),
    };
    (status.state, status.reason) = (state, Some(reason));
    status
}

/// The modules that replace a module of which the kernel has no file.
struct Substitute<'s> {
    verdict: FilesVerdict,
    /// Each alias in use, the module that serves it, and what modprobe would load for that module.
    by: Vec<(&'s str, &'s str, &'s Loadable)>,
}

/// Looks for replacements. Drivers are renamed, merged into others, or replaced by successors. If no file of
/// a module is installed, other modules may serve all aliases that it is used for. None if replacements were
/// not looked for, or do not serve every alias.
fn replacement<'s>(
    system: &'s System,
    need: &'s Requirement,
    release: &str,
    with: CommandLine,
) -> Option<Substitute<'s>> {
    let files = need.modules();
    let is_absent = |file: &String| system.files.on(release, file) == Some(&Loadable::Absent);
    if need.aliases.is_empty() || !files.iter().all(is_absent) {
        return None;
    }
    let lacks = format!("kernel {release} has no module {}", need.module);
    if need.aliases.len() >= MOST_USES {
        let why = format!("{lacks}; it has more uses than were examined");
        return Some(Substitute { verdict: FilesVerdict::Unknown(why), by: Vec::new() });
    }
    let mut all = Substitute { verdict: FilesVerdict::Loads, by: Vec::new() };
    for alias in &need.aliases {
        let verdict = match system.files.serving(release, alias)? {
            Err(why) => FilesVerdict::Unknown(format!(
                "{lacks}, and whether another one serves {alias} there is not known: {why}"
            )),
            Ok(modules) => {
                let one = |(module, found): (&'s String, &'s Loadable)| {
                    let verdict = in_place(system, need, release, (alias, module), found, with);
                    (verdict, module, found)
                };
                let candidates = modules.iter().map(one);
                let (verdict, module, found) =
                    candidates.min_by_key(|(verdict, ..)| FilesRank::from(verdict))?;
                all.by.push((alias, module, found));
                let but = |why| format!("{lacks}; {module} serves {alias} there: {why}");
                match verdict {
                    FilesVerdict::Loads => FilesVerdict::Loads,
                    FilesVerdict::Stranger(why) | FilesVerdict::Unknown(why) => {
                        FilesVerdict::Unknown(but(why))
                    }
                    // Only the missing required module is reported, whatever prevents the replacement from
                    // being loaded.
                    FilesVerdict::Not(State::SignatureRefused, why) => {
                        FilesVerdict::Not(State::SignatureRefused, but(why))
                    }
                    FilesVerdict::Not(_, why) => FilesVerdict::Not(State::NotManaged, but(why)),
                }
            }
        };
        if FilesRank::from(&verdict) > FilesRank::from(&all.verdict) {
            all.verdict = verdict;
        }
    }
    Some(all)
}

/// The verdict on one module that serves an alias in place of the required module.
fn in_place(
    system: &System,
    need: &Requirement,
    release: &str,
    (alias, module): (&str, &str),
    found: &Loadable,
    with: CommandLine,
) -> FilesVerdict {
    let config = &system.load_policy.config;
    let mut leads = config.leads(alias).peekable();
    if let Some((at, to)) = leads.peek().copied()
        && !leads.any(|(_, to)| to == module)
    {
        let line = format!("{}:{}", system.shown_path(&at.path), at.line);
        return FilesVerdict::Not(State::Blocked, format!("an `alias` in {line} leads to {to} instead"));
    }
    if let Err(verdict) = accepted(system, need, release, module, found, with, true) {
        return verdict;
    }
    match (found, replacement_forecast(system, release, &need.modules(), module)) {
        (Loadable::BuiltIn { .. }, _) | (_, InitrdForecast::Fine | InitrdForecast::Remark(_)) => {
            FilesVerdict::Loads
        }
        (_, InitrdForecast::NotReady(why)) => FilesVerdict::Not(State::InitrdStale, why),
        (_, InitrdForecast::Unknown(why)) => FilesVerdict::Unknown(why),
    }
}

/// What modprobe would load for a module or its replacements.
pub fn looked_at<'s>(system: &'s System, need: &'s Requirement, release: &str) -> Vec<&'s Loadable> {
    match replacement(system, need, release, CommandLine::Coming) {
        Some(found) => found.by.into_iter().map(|(_, _, loadable)| loadable).collect(),
        None => need.modules().iter().filter_map(|file| system.files.on(release, file)).collect(),
    }
}

/// The replacements that a kernel loads for a module that it does not have.
fn loads_instead<'s>(system: &'s System, need: &'s Requirement, release: &str) -> Option<Substitute<'s>> {
    let found = replacement(system, need, release, CommandLine::Coming)?;
    (found.verdict == FilesVerdict::Loads).then_some(found)
}

/// Whether a kernel loads replacements for a module that it does not have.
pub fn is_replaced(system: &System, need: &Requirement, release: &str) -> bool {
    loads_instead(system, need, release).is_some()
}

/// Whether a module that is neither loaded nor proven works on the running kernel. For a registered module
/// only a replacement is left.
pub fn works_on(system: &System, need: &Requirement, running: &str, is_registered: bool) -> bool {
    match is_registered {
        true => is_replaced(system, need, running),
        false => satisfied(system, need, running, None) == Some(Ready::Yes),
    }
}

/// Whether the running kernel has loaded all replacements of the module.
pub fn is_replaced_now(system: &System, need: &Requirement, running: &str) -> bool {
    let is_there = |(_, module, found): &(&str, &str, &Loadable)| {
        matches!(found, Loadable::BuiltIn { .. }) || system.in_use.loaded.contains(*module)
    };
    loads_instead(system, need, running).is_some_and(|found| found.by.iter().all(is_there))
}

/// The replacements of a module, as a sentence without a full stop.
pub fn replaced_by(system: &System, need: &Requirement, release: &str) -> Option<String> {
    let one = |(alias, module, _): &(&str, &str, &Loadable)| format!("{module} for {alias}");
    let by: Vec<String> = loads_instead(system, need, release)?.by.iter().map(one).collect();
    Some(format!("in place of {}, kernel {release} has {}", need.module, by.join(", ")))
}

/// Only the configuration names the module: it may be misspelled.
fn is_only_listed(system: &System, need: &Requirement) -> bool {
    let on_any = |module: &String| {
        let mut all = system.files.loadable.values().filter_map(|files| files.get(module));
        all.any(|found| *found != Loadable::Absent)
    };
    need.is_listed() && need.origin.is_none() && !need.works && !need.modules().iter().any(on_any)
}

/// The installed file belongs to another DKMS module.
fn is_of_another(system: &System, need: &Requirement, release: &str, file: &str) -> bool {
    let installed = |name: &str| system.tree.installed_version(name, release).is_some();
    let has_it = |(name, files): (&String, &BTreeSet<String>)| {
        *name != need.module && files.contains(file) && installed(name)
    };
    !installed(&need.module) && system.files.of_dkms.iter().any(has_it)
}

fn one_file(
    system: &System,
    need: &Requirement,
    release: &str,
    module: &str,
    with: CommandLine,
) -> FilesVerdict {
    let found = system.files.on(release, module).unwrap_or(&Loadable::Absent);
    let is_critical = need.class == Importance::Critical;
    let serves = match accepted(system, need, release, module, found, with, is_critical) {
        Ok(serves) => serves,
        Err(verdict) => return verdict,
    };
    let is_same = need.origin.is_none_or(|origin| origin_of(found) == Some(origin))
        && !is_of_another(system, need, release, module);
    if is_critical && !is_same && serves != Serves::Yes {
        return FilesVerdict::Stranger(format!(
            "kernel {release} has another {module}, which is not known to serve what depends on it"
        ));
    }
    FilesVerdict::Loads
}

/// Whether a kernel accepts and loads the file that modprobe would load, and whether the file serves what
/// needs the module.
fn accepted(
    system: &System,
    need: &Requirement,
    release: &str,
    module: &str,
    found: &Loadable,
    with: CommandLine,
    is_critical: bool,
) -> Result<Serves, FilesVerdict> {
    match found {
        Loadable::Absent => {
            let reason = format!("kernel {release} has no module {module}");
            Err(FilesVerdict::Not(State::NotManaged, reason))
        }
        Loadable::Unknown { reason } => Err(FilesVerdict::Unknown(reason.clone())),
        Loadable::BuiltIn { serves } => Ok(*serves),
        Loadable::File { serves, proof: Ok(proof), .. } => {
            // A module that came with the kernel matches it, and is signed with the kernel's own key.
            let is_own = origin_of(found) == Some(ModuleOrigin::Kernel);
            let name = ModuleName { name: need.module.clone(), version: String::new() };
            let verdict = match with {
                CommandLine::Coming => system.verdict_of_entry(release),
                CommandLine::Configured => system.verdict_as_configured(release),
            };
            let forecast = system.cmdline_of(release).zip(verdict).map(|(line, verdict)| match is_own {
                true => forecast_own(line, &name, verdict),
                false => {
                    let proofs = std::slice::from_ref(proof.as_ref());
                    forecast_signatures(system, line, &name, proofs, verdict)
                }
            });
            match forecast {
                Some(SignatureForecast::Refused(why)) => {
                    return Err(FilesVerdict::Not(State::SignatureRefused, why));
                }
                Some(SignatureForecast::Unknown(why)) => return Err(FilesVerdict::Unknown(why)),
                Some(SignatureForecast::Accepted) | None => {}
            }
            if let Some(why) = unchecked(system, proof).filter(|_| !is_own) {
                return Err(FilesVerdict::Unknown(why));
            }
            match loading::file_forecast(system, release, module, is_critical, with) {
                LoadForecast::Blocked(why) => {
                    Err(FilesVerdict::Not(State::Blocked, loading::reason(system, release, &why)))
                }
                LoadForecast::Unknown(why) => Err(FilesVerdict::Unknown(why)),
                LoadForecast::Loads | LoadForecast::Remark(_) => Ok(*serves),
            }
        }
        Loadable::File { proof: Err(flaws), .. } => {
            let why = in_words(flaws);
            let is_unknown = flaws.iter().any(|flaw| matches!(flaw, Flaw::Unknown { .. }));
            Err(match is_unknown {
                true => FilesVerdict::Unknown(why),
                false => FilesVerdict::Not(State::NotManaged, why),
            })
        }
    }
}
