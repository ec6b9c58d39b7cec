//! Whether a kernel has a module that the machine requires: any file that modprobe would load there, and that the kernel
//! accepts, whoever installed it.

use std::collections::BTreeSet;

use super::boot_choice::{Missing, Ready};
use super::loading::{self, LoadForecast};
use super::module_state::{
    SignatureForecast, coming, forecast_own, forecast_signatures, status_of, unchecked,
};
use crate::dkms::loadable::{Loadable, Serves};
use crate::dkms::plan::State;
use crate::dkms::{Flaw, ModuleName, Proof};
use crate::modprobe::Origin;
use crate::requirement::{Importance, ModuleOrigin, Requirement};
use crate::state::ModuleRecord;
use crate::system::System;

/// The word for a module that no DKMS module, no file and no admin's memory explains.
pub const NOT_REGISTERED: &str = "not-registered";

/// Who a file is from.
pub fn origin_of(loadable: &Loadable) -> Option<ModuleOrigin> {
    match loadable {
        Loadable::BuiltIn { .. } => Some(ModuleOrigin::Kernel),
        Loadable::File { origin, .. } => Some(match origin {
            Origin::Dkms => ModuleOrigin::Dkms,
            Origin::InTree => ModuleOrigin::Kernel,
            Origin::Updates | Origin::Extra | Origin::Other => ModuleOrigin::Unmanaged,
        }),
        Loadable::Absent | Loadable::Unknown { .. } => None,
    }
}

/// The command line that a kernel is booted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandLine {
    /// That of its boot entry or, where that cannot be seen, the configured one.
    Coming,
    /// The configured one, which clr-boot-manager puts into its entry.
    Configured,
}

/// What a kernel makes of the files of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
enum FilesVerdict {
    /// It loads them.
    Loads,
    /// It loads them; whether they serve what they are needed for is not known.
    Stranger(String),
    /// Neither is known.
    Unknown(String),
    /// It does not load them.
    Not(State, String),
}

impl FilesVerdict {
    fn rank(&self) -> u8 {
        match self {
            FilesVerdict::Loads => 0,
            FilesVerdict::Stranger(_) => 1,
            FilesVerdict::Unknown(_) => 2,
            FilesVerdict::Not(..) => 3,
        }
    }
}

/// All that a module consists of: the worst of it counts. None where nothing was looked at.
fn all_files(facts: &System, need: &Requirement, release: &str, line: CommandLine) -> Option<FilesVerdict> {
    let modules = need.modules();
    let is_seen = modules.iter().any(|module| facts.files.on(release, module).is_some());
    let all = modules.iter().map(|module| one_file(facts, need, release, module, line));
    all.max_by_key(FilesVerdict::rank).filter(|_| is_seen)
}

/// Whether a requirement is satisfied on a kernel; none where nothing there is known of it. `status` is the state of its DKMS
/// module there.
pub fn satisfied(
    facts: &System,
    need: &Requirement,
    release: &str,
    status: Option<&ModuleRecord>,
) -> Option<Ready> {
    satisfied_with(facts, need, release, status, CommandLine::Coming)
}

/// The same with another command line.
pub fn satisfied_with(
    facts: &System,
    need: &Requirement,
    release: &str,
    status: Option<&ModuleRecord>,
    line: CommandLine,
) -> Option<Ready> {
    if status.is_some_and(|status| status.state == State::Ok) {
        return Some(Ready::Yes);
    }
    let files = all_files(facts, need, release, line);
    let Some(status) = status else {
        let missing =
            |state: State, reason| Missing { version: String::new(), state: state.to_string(), reason };
        return match files? {
            FilesVerdict::Loads => Some(Ready::Yes),
            FilesVerdict::Not(..) if is_only_listed(facts, need) => None,
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
        // Without its dkms.conf the names of its files are not known: they may be there.
        (_, State::Unknown | State::BrokenSource) => Ready::Unknown(missing()),
        (Some(FilesVerdict::Stranger(_) | FilesVerdict::Unknown(_)), _) => Ready::Unknown(missing()),
        _ => Ready::No(missing()),
    })
}

/// The state of a module that DKMS does not know, on a kernel.
pub fn unmanaged_status(facts: &System, need: &Requirement, release: &str) -> ModuleRecord {
    let module = ModuleName { name: need.module.clone(), version: String::new() };
    let mut status = status_of(&module, release);
    let (state, reason) = match all_files(facts, need, release, CommandLine::Coming) {
        Some(FilesVerdict::Loads) => {
            let files = need.modules();
            let proofs = files.iter().filter_map(|file| match facts.files.on(release, file) {
                Some(Loadable::File { proof: Ok(proof), .. }) => Some(Proof::clone(proof)),
                _ => None,
            });
            status.files = proofs.collect();
            return status;
        }
        Some(FilesVerdict::Stranger(why) | FilesVerdict::Unknown(why)) => (State::Unknown, why),
        Some(FilesVerdict::Not(state, why)) => (state, why),
        None => (State::Unknown, format!("the modules of kernel {release} were not looked at")),
    };
    (status.state, status.reason) = (state, Some(reason));
    status
}

/// Nothing but the configuration knows of it: the name may be wrong.
fn is_only_listed(facts: &System, need: &Requirement) -> bool {
    let on_any = |module: &String| {
        let mut all = facts.files.loadable.values().filter_map(|files| files.get(module));
        all.any(|found| *found != Loadable::Absent)
    };
    need.is_listed() && need.origin.is_none() && !need.works && !need.modules().iter().any(on_any)
}

/// The installed file is that of another DKMS module, whatever its name.
fn is_of_another(facts: &System, need: &Requirement, release: &str, file: &str) -> bool {
    let installed = |name: &str| facts.tree.installed_version(name, release).is_some();
    let has_it = |(name, files): (&String, &BTreeSet<String>)| {
        *name != need.module && files.contains(file) && installed(name)
    };
    !installed(&need.module) && facts.files.of_dkms.iter().any(has_it)
}

fn one_file(
    facts: &System,
    need: &Requirement,
    release: &str,
    module: &str,
    with: CommandLine,
) -> FilesVerdict {
    let absent = || FilesVerdict::Not(State::NotManaged, format!("kernel {release} has no module {module}"));
    let Some(found) = facts.files.on(release, module) else { return absent() };
    let serves = match found {
        Loadable::Absent => return absent(),
        Loadable::Unknown { reason } => return FilesVerdict::Unknown(reason.clone()),
        Loadable::BuiltIn { serves } => *serves,
        Loadable::File { serves, proof: Ok(proof), .. } => {
            // What came with the kernel fits it, and is signed by its own key where it demands signatures.
            let is_own = origin_of(found) == Some(ModuleOrigin::Kernel);
            let name = ModuleName { name: need.module.clone(), version: String::new() };
            let forecast = facts.line_of(release).map(|line| {
                let verdict = match with {
                    CommandLine::Coming => coming(facts, line),
                    CommandLine::Configured => line.verdict_with(&line.effective, &facts.machine),
                };
                match is_own {
                    true => forecast_own(line, &name, &verdict),
                    false => {
                        let proofs = std::slice::from_ref(proof.as_ref());
                        forecast_signatures(facts, line, &name, proofs, &verdict)
                    }
                }
            });
            match forecast {
                Some(SignatureForecast::Refused(why)) => {
                    return FilesVerdict::Not(State::SignatureRefused, why);
                }
                Some(SignatureForecast::Unknown(why)) => return FilesVerdict::Unknown(why),
                Some(SignatureForecast::Accepted) | None => {}
            }
            if let Some(why) = unchecked(facts, proof).filter(|_| !is_own) {
                return FilesVerdict::Unknown(why);
            }
            match loading::file_forecast(facts, release, module, need.class == Importance::Critical, with) {
                LoadForecast::Blocked(why) => {
                    return FilesVerdict::Not(State::Blocked, loading::reason(facts, release, &why));
                }
                LoadForecast::Unknown(why) => return FilesVerdict::Unknown(why),
                LoadForecast::Loads | LoadForecast::Remark(_) => {}
            }
            *serves
        }
        Loadable::File { proof: Err(flaws), .. } => {
            let why = flaws.iter().map(Flaw::to_string).collect::<Vec<_>>().join("; ");
            let is_unknown = flaws.iter().any(|flaw| matches!(flaw, Flaw::Unknown { .. }));
            return if is_unknown {
                FilesVerdict::Unknown(why)
            } else {
                FilesVerdict::Not(State::NotManaged, why)
            };
        }
    };
    let is_same = need.origin.is_none_or(|origin| origin_of(found) == Some(origin))
        && !is_of_another(facts, need, release, module);
    if need.class == Importance::Critical && !is_same && serves != Serves::Yes {
        return FilesVerdict::Stranger(format!(
            "kernel {release} has another {module}, which is not known to serve what depends on it"
        ));
    }
    FilesVerdict::Loads
}
