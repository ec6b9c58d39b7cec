//! The state of a module on a kernel. It combines the files on disk, the record of the last run, and what the
//! kernel will do with the module at its next boot.

use std::collections::{BTreeMap, BTreeSet};

use super::initrds::{InitrdForecast, initrd_forecast};
use super::loading::{self, LoadForecast, load_forecast};
use super::next_boot::next_boot;
use super::satisfaction::CommandLine;
use super::unread::blocked;
use crate::dkms::loadable::Loadable;
use crate::dkms::plan::{self, Decision, State, decide};
use crate::dkms::proof::{Check, ProofSubject};
use crate::dkms::{Flaw, ModuleName, ModuleOnKernel, Proof};
use crate::enforcement::{EnforcementVerdict, LoadOutcome, ModuleKind};
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::{kernel_name, stem};
use crate::modprobe::FileOrigin;
use crate::state::{ModuleRecord, RunRecord};
use crate::system::{InForce, KernelCmdline, System};

/// The state of a module on a kernel.
///
/// No run builds the newest version for a kernel that is not the tip of its variant. On such a kernel the
/// installed version counts.
pub fn module_status(system: &System, pair: &ModuleOnKernel, record: Option<&RunRecord>) -> ModuleRecord {
    let in_force = system.files.in_force(&pair.module.name, &pair.release);
    let older = in_force.filter(|_| !system.inventory.is_tip(&pair.release));
    if let Some(status) = older.and_then(|older| status_in_force(system, older)) {
        return status;
    }
    let mut status = status_of(&pair.module, &pair.release);
    let works = in_force.filter(|older| status_in_force(system, older).is_some_and(|s| s.state.works()));
    status.in_force = works.map(|older| older.module.version.clone());
    match (decide(pair), &pair.proof) {
        (Decision::Leave { state, why }, _) => (status.state, status.reason) = (state, Some(why)),
        (Decision::Work { why, .. }, Err(flaws)) => {
            (status.state, status.reason) = (plan::state_of(flaws), Some(why));
            if let Some(known) = record.and_then(|r| r.module(&pair.module, &pair.release))
                && !known.state.is_proven()
                && !known.state.is_seen()
            {
                status.state = known.state;
                status.reason.clone_from(&known.reason);
                status.error.clone_from(&known.error);
                status.log.clone_from(&known.log);
                status.inputs.clone_from(&known.inputs);
            }
        }
        (_, proof) => {
            // The decision is `Proven`, so there is a proof.
            status.files = proof.clone().unwrap_or_default();
            let unchecked = status.files.iter().find_map(|proof| unchecked(system, proof));
            if let Some(why) = &unchecked {
                (status.state, status.reason) = (State::Unknown, Some(why.clone()));
            }
            let not_made = match signature_forecast(system, pair, &status.files) {
                SignatureForecast::Accepted => None,
                SignatureForecast::Unknown(why) => {
                    if status.state == State::Ok {
                        (status.state, status.reason) = (State::Unknown, Some(why.clone()));
                    }
                    Some(why)
                }
                SignatureForecast::Refused(why) => {
                    (status.state, status.reason) = (State::SignatureRefused, Some(why));
                    None
                }
            };
            for file in &mut status.files {
                file.checks.push(Check { check: ProofSubject::Signature, not_made: not_made.clone() });
            }
            if status.state == State::Ok {
                forecast_loading(system, pair, record, &mut status);
            }
            let known = record.and_then(|r| r.module(&pair.module, &pair.release));
            let hook =
                known.filter(|known| are_same(&known.files, &status.files)).and_then(|k| k.hook.clone());
            tell_hook(&mut status, hook);
        }
    }
    status
}

/// Records what a hook script failed to do. It becomes the state of a module that is otherwise correct.
pub fn tell_hook(status: &mut ModuleRecord, hook: Option<String>) {
    if status.state == State::Ok && hook.is_some() {
        (status.state, status.reason) = (State::HookFailed, hook.clone());
    }
    status.hook = hook;
}

/// Whether both are the same files with the same contents.
fn are_same(known: &[Proof], now: &[Proof]) -> bool {
    let of = |files: &[Proof]| -> Vec<(String, Option<String>)> {
        files.iter().map(|file| (file.path.clone(), file.sha256.clone())).collect()
    };
    of(known) == of(now)
}

/// Why the proof of a file is incomplete: the symbols or the modules that it depends on could not be checked,
/// and no earlier run has checked the same file.
pub(super) fn unchecked(system: &System, proof: &Proof) -> Option<String> {
    let decides = |check: &&Check| matches!(check.check, ProofSubject::Symbols | ProofSubject::Dependencies);
    let open = proof.checks.iter().filter(decides).find_map(|check| check.not_made.as_ref())?;
    let is_known = proof.sha256.is_some() && system.checked.get(&proof.path) == proof.sha256.as_ref();
    (!is_known).then(|| format!("{} could not be checked completely: {open}", proof.path))
}

/// The SHA-256 of each module file that is checked completely, now or by an earlier run.
pub fn checked_files(system: &System) -> BTreeMap<String, String> {
    let of_pairs = system
        .modules_on_kernels
        .iter()
        .chain(&system.fallbacks)
        .flat_map(|pair| pair.proof.iter().flatten());
    let whole = of_pairs.filter(|proof| unchecked(system, proof).is_none());
    let mut checked: BTreeMap<String, String> =
        whole.filter_map(|proof| Some((proof.path.clone(), proof.sha256.clone()?))).collect();
    // Without a complete observation, the results of earlier runs are kept.
    let is_unknown = |flaw: &Flaw| matches!(flaw, Flaw::Unknown { .. } | Flaw::NotListed { .. });
    let pairs = system.modules_on_kernels.iter().chain(&system.fallbacks);
    let open = pairs.filter(|pair| pair.proof.as_ref().is_err_and(|flaws| flaws.iter().any(is_unknown)));
    let open: BTreeSet<String> = open.map(|pair| format!("{}/", module_directory(&pair.release))).collect();
    let is_blocked = blocked(system).is_some();
    for (path, sum) in &system.checked {
        if is_blocked || open.iter().any(|directory| path.starts_with(directory)) {
            checked.entry(path.clone()).or_insert_with(|| sum.clone());
        }
    }
    checked
}

/// The state of a proven module.
pub fn status_of(module: &ModuleName, release: &str) -> ModuleRecord {
    ModuleRecord {
        module: module.clone(),
        kernel: release.to_owned(),
        state: State::Ok,
        reason: None,
        error: None,
        log: None,
        inputs: None,
        hook: None,
        files: Vec::new(),
        in_force: None,
    }
}

/// The state of an older version that is installed. None if its files are not proven.
pub fn status_in_force(system: &System, older: &InForce) -> Option<ModuleRecord> {
    let mut status = status_of(&older.module, &older.release);
    for file in &older.files {
        match system.files.on(&older.release, file)? {
            Loadable::File { origin: FileOrigin::Dkms, proof: Ok(proof), .. } => {
                status.files.push(Proof::clone(proof))
            }
            _ => return None,
        }
    }
    let line = system.cmdline_of(&older.release).zip(system.verdict_of_entry(&older.release));
    let forecast =
        line.map(|(line, verdict)| forecast_signatures(system, line, &older.module, &status.files, verdict));
    match forecast {
        Some(SignatureForecast::Refused(why)) => {
            (status.state, status.reason) = (State::SignatureRefused, Some(why));
        }
        Some(SignatureForecast::Unknown(why)) => (status.state, status.reason) = (State::Unknown, Some(why)),
        Some(SignatureForecast::Accepted) | None => {}
    }
    Some(status)
}

/// For a module that is proven and accepted: whether it will be loaded.
fn forecast_loading(
    system: &System,
    pair: &ModuleOnKernel,
    record: Option<&RunRecord>,
    status: &mut ModuleRecord,
) {
    (status.state, status.reason) = match load_forecast(system, pair, record, CommandLine::Coming) {
        LoadForecast::Loads | LoadForecast::Remark(_) => match initrd_forecast(system, pair, record) {
            InitrdForecast::Fine | InitrdForecast::Remark(_) => return,
            InitrdForecast::NotReady(why) => (State::InitrdStale, Some(why)),
            InitrdForecast::Unknown(why) => (State::Unknown, Some(why)),
        },
        LoadForecast::Blocked(why) => (State::Blocked, Some(loading::reason(system, &pair.release, &why))),
        LoadForecast::Unknown(why) => (State::Unknown, Some(why)),
    };
}

/// What a kernel does at its next boot with the signatures of a proven module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureForecast {
    /// It accepts them.
    Accepted,
    /// A fact is missing. The text is a sentence for people.
    Unknown(String),
    /// It refuses one of them. The text is a sentence for people.
    Refused(String),
}

fn signature_forecast(system: &System, pair: &ModuleOnKernel, proofs: &[Proof]) -> SignatureForecast {
    match system.cmdline_of(&pair.release).zip(system.verdict_of_entry(&pair.release)) {
        Some((line, verdict)) => forecast_signatures(system, line, &pair.module, proofs, verdict),
        None => SignatureForecast::Unknown(format!("the command line of kernel {} is unknown", pair.release)),
    }
}

/// Whether a kernel accepts the files with its configured command line, which clr-boot-manager writes into
/// its entry.
pub fn would_be_taken(system: &System, release: &str, module: &ModuleName, proofs: &[Proof]) -> bool {
    system.cmdline_of(release).zip(system.verdict_as_configured(release)).is_some_and(|(line, verdict)| {
        forecast_signatures(system, line, module, proofs, verdict) == SignatureForecast::Accepted
    })
}

/// Whether the running kernel refuses the files now. Then the module does not work today, and nothing is lost
/// without it.
pub fn refused_now(system: &System, module: &ModuleName, proofs: &[Proof]) -> bool {
    refusal_now(system, module, proofs) == Some(RefusalNow::Certain)
}

/// How certain it is that the running kernel refuses the files of a module now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalNow {
    /// It refuses them.
    Certain,
    /// It refuses modules that are signed with a key that it does not trust, whether it trusts this key is
    /// unknown, and none of the files is loaded.
    Possible,
}

/// Whether the running kernel refuses the files now, or may; none if it takes them, or nothing is known.
pub fn refusal_now(system: &System, module: &ModuleName, proofs: &[Proof]) -> Option<RefusalNow> {
    let is_loaded = |proof: &Proof| {
        stem(&proof.path).is_some_and(|name| system.in_use.loaded.contains(&kernel_name(name)))
    };
    let (forecast, verdict) = forecast_now(system, module, proofs)?;
    let refuses_others = matches!(verdict.of(ModuleKind::UnknownKey), LoadOutcome::Refused(_));
    match forecast {
        SignatureForecast::Refused(_) => Some(RefusalNow::Certain),
        SignatureForecast::Unknown(_) if refuses_others && !proofs.iter().any(is_loaded) => {
            Some(RefusalNow::Possible)
        }
        SignatureForecast::Unknown(_) | SignatureForecast::Accepted => None,
    }
}

/// What the running kernel does now with the files, and its enforcement verdict; none if that is not known.
fn forecast_now(
    system: &System,
    module: &ModuleName,
    proofs: &[Proof],
) -> Option<(SignatureForecast, EnforcementVerdict)> {
    let verdict = system.verdict_now()?;
    let line = system.cmdline_of(system.inventory.running.release()?)?;
    Some((forecast_signatures(system, line, module, proofs, &verdict), verdict))
}

/// What a kernel does with the proven files of a module under an enforcement verdict.
pub fn forecast_signatures(
    system: &System,
    line: &KernelCmdline,
    module: &ModuleName,
    proofs: &[Proof],
    verdict: &EnforcementVerdict,
) -> SignatureForecast {
    let outcome = |proof: &Proof| {
        let Some(known) = &proof.signature else { return LoadOutcome::Unknown };
        // A module that the running kernel has loaded shows that the kernel trusts its key.
        let is_trusted = |name: &str| system.in_use.trusted.contains(&kernel_name(name));
        let is_taken = system.inventory.runs(&line.release) && stem(&proof.path).is_some_and(is_trusted);
        line.outcome(known, is_taken.then_some("O"), verdict)
    };
    let outcomes: Vec<LoadOutcome> = proofs.iter().map(outcome).collect();
    let which = || if next_boot(system).is(&line.release) { "the" } else { "its" };
    forecast_of(&outcomes, line, module, verdict, which)
}

/// The same for a module that came with the kernel.
pub fn forecast_own(
    line: &KernelCmdline,
    module: &ModuleName,
    verdict: &EnforcementVerdict,
) -> SignatureForecast {
    forecast_of(&[verdict.of(ModuleKind::Trusted)], line, module, verdict, || "its")
}

fn forecast_of(
    outcomes: &[LoadOutcome],
    line: &KernelCmdline,
    module: &ModuleName,
    verdict: &EnforcementVerdict,
    which: impl Fn() -> &'static str,
) -> SignatureForecast {
    let refused = outcomes.iter().find_map(|outcome| match outcome {
        LoadOutcome::Refused(error) => Some(error.map(|e| format!(" ({})", e.name())).unwrap_or_default()),
        _ => None,
    });
    let release = &line.release;
    match refused {
        Some(error) => SignatureForecast::Refused(format!(
            "kernel {release} will refuse {module} at {} next boot{error}",
            which()
        )),
        None if outcomes.contains(&LoadOutcome::Unknown) => {
            let of_signature = "whether it trusts the key of the signature";
            let fact = verdict.missing.first().map_or(of_signature, String::as_str);
            SignatureForecast::Unknown(format!(
                "it is unknown whether kernel {release} will load {module} at {} next boot; not known: {fact}",
                which()
            ))
        }
        None => SignatureForecast::Accepted,
    }
}

/// Whether the parameter would make a kernel that refuses modules accept them, and is not configured. A
/// missing parameter is reported separately.
pub fn parameter_would_help(system: &System, release: &str) -> bool {
    system.cmdline_of(release).is_some_and(|line| line.parameter_would_help(&system.machine))
}
