//! What a kernel would lose if its boot entry were rewritten with the configured command line and initrds.

use super::loading::{self, LoadForecast, Obstruction, load_forecast};
use super::module_state::{module_status, would_be_taken};
use super::satisfaction::CommandLine;
use crate::cmdline::{PARAMETER, Switch};
use crate::config::{Settings, SigUnenforce};
use crate::dkms::ModuleOnKernel;
use crate::requirement::{Importance, Requirement};
use crate::system::{KernelCmdline, System};

/// Something that is needed, that the present boot entry has, and that a new one would not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryLoss {
    /// With the new command line the kernel refuses modules that it accepts with the present one. `modules`:
    /// each module, and what it is needed for. `why`: what makes the difference, as a sentence without a full
    /// stop.
    #[error(
        "with a new boot entry {kernel} would refuse {}, which it accepts with the present one: {why}",
        needed(modules)
    )]
    Refused { kernel: String, modules: Vec<(String, String)>, why: String },
    /// With the new command line a module is not loaded that is loaded with the present one. `why`: what
    /// prevents it from being loaded, as a sentence. `by`: the same as values.
    #[error("a new boot entry of {kernel} would lose {module}: {why}")]
    Blocked { kernel: String, module: String, why: String, by: Obstruction },
    /// The initrd of the kernel no longer has a source. `initrd`: the name of the initrd.
    #[error("the boot entry of {kernel} loads {initrd}, which has no source any more")]
    Initrd { kernel: String, initrd: String },
}

fn needed(modules: &[(String, String)]) -> String {
    modules.iter().map(|(module, needed)| format!("{module} ({needed})")).collect::<Vec<_>>().join(", ")
}

impl EntryLoss {
    /// A module would no longer be loaded. No update is started then.
    pub fn is_blocked(&self) -> bool {
        matches!(self, EntryLoss::Blocked { .. })
    }
}

/// What the boot entry of one kernel would lose. `initrds` are the names of the initrds that a new entry
/// would have; None if they were not determined.
pub fn entry_losses(
    system: &System,
    settings: &Settings,
    needs: &[Requirement],
    release: &str,
    initrds: Option<&[String]>,
) -> Vec<EntryLoss> {
    let line = system.cmdline_of(release);
    let Some(entry) = line.and_then(|line| system.boot.of(&line.id)) else { return Vec::new() };
    let mut losses = Vec::new();
    let mut refused = Vec::new();
    let needed = |name: &str| {
        let is_it = |need: &&Requirement| {
            need.module == name
                && (need.class == Importance::Critical || (need.class == Importance::Wanted && need.works))
        };
        needs.iter().find(is_it)
    };
    for pair in system.of_kernel(release) {
        let Some(need) = needed(&pair.module.name) else { continue };
        let (kernel, module) = (release.to_owned(), pair.module.to_string());
        if let Some(by) = blocked_by_refresh(system, pair) {
            let why = loading::reason(system, release, &by);
            losses.push(EntryLoss::Blocked { kernel, module, why, by });
            continue;
        }
        // If an admin has set `sig-unenforce = off`, modules that need the parameter are not missed.
        let is_missed = settings.sig_unenforce != SigUnenforce::Off;
        let status = module_status(system, pair, None);
        if is_missed
            && status.state.works()
            && !would_be_taken(system, release, &status.module, &status.files)
        {
            refused.push((module, need.reason.clone()));
        }
    }
    if !refused.is_empty() {
        let why = why_refused(system, release);
        losses.push(EntryLoss::Refused { kernel: release.to_owned(), modules: refused, why });
    }
    let Some(initrds) = initrds else { return losses };
    let own = entry.id.as_ref().map(|id| format!("initrd-{id}"));
    let lost = entry.initrds.iter().filter(|name| own.as_ref() == Some(name) && !initrds.contains(name));
    losses
        .extend(lost.map(|initrd| EntryLoss::Initrd { kernel: release.to_owned(), initrd: initrd.clone() }));
    losses
}

/// Why a kernel refuses modules with its configured command line.
fn why_refused(system: &System, release: &str) -> String {
    let had = |line: &KernelCmdline| {
        let entry = system.boot.of(&line.id);
        entry.is_some_and(|entry| line.kernel.switch(&entry.options) == Switch::On)
    };
    if system.cmdline_of(release).is_some_and(|line| line.switch != Switch::On && had(line)) {
        return format!("the configured command line does not have {PARAMETER}");
    }
    let because = system.verdict_as_configured(release).and_then(|verdict| verdict.because.first());
    because.cloned().unwrap_or_else(|| "the configured command line".to_owned())
}

/// What prevents a module from being loaded with the configured command line but not with that of the present
/// entry.
fn blocked_by_refresh(system: &System, pair: &ModuleOnKernel) -> Option<Obstruction> {
    let forecast = |line| load_forecast(system, pair, None, line);
    match (forecast(CommandLine::Coming), forecast(CommandLine::Configured)) {
        (LoadForecast::Blocked(_), _) => None,
        // A module that is not proven is not lost by an entry.
        (_, LoadForecast::Blocked(by)) if pair.proof.is_ok() => Some(by),
        _ => None,
    }
}
