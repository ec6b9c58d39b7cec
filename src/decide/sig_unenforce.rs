//! Whether `module.sig_unenforce` is wanted, and how the configured command lines differ from that.

use super::next_boot::coming_lines;
use super::satisfaction::looked_at;
use crate::cmdline::writer::Wish;
use crate::cmdline::{PARAMETER, Switch};
use crate::config::{Settings, SigUnenforce};
use crate::dkms::loadable::Loadable;
use crate::dkms::plan::{Decision, State, decide};
use crate::dkms::proof::Proof;
use crate::dkms::{ModuleOnKernel, Signature};
use crate::modprobe::FileOrigin;
use crate::requirement::{Importance, Requirement};
use crate::system::{KernelCmdline, System};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// On the command line of every kernel.
    On,
    /// On the command line of no kernel.
    Off,
    /// No module needs it, and the settings do not forbid it.
    Either,
}

/// How the configured command lines differ from what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Breach {
    /// Differences, as sentences.
    pub wrong: Vec<String>,
    /// What cannot be determined, as sentences.
    pub unknown: Vec<String>,
    /// The change that would correct it.
    pub wish: Option<Wish>,
}

impl Wanted {
    /// Compares it with the configured command lines of the tips and of the next boot.
    pub fn against(self, system: &System) -> Breach {
        let (right, wish, what) = match self {
            Wanted::Either => return Breach::default(),
            Wanted::On => (Switch::On, Wish::Ensure, "is not configured"),
            Wanted::Off => (Switch::Off, Wish::Disable, "is configured, and not wanted,"),
        };
        let said = |unknown: bool, what: &str| {
            let lines = coming_lines(system).filter(|l| l.switch != right && l.unread().is_none());
            let lines = lines.filter(|l| (l.switch == Switch::Unknown) == unknown);
            let releases: Vec<&str> = lines.map(|l| l.release.as_str()).collect();
            (!releases.is_empty()).then(|| format!("{PARAMETER} {what} for kernel {}", releases.join(", ")))
        };
        let wrong = said(false, what);
        let unclear = said(true, "is written in a way that cannot be determined");
        // No change makes a file readable.
        let wish = (wrong.is_some() || unclear.is_some()).then_some(wish);
        let unread = coming_lines(system).find_map(KernelCmdline::unread).map(ToString::to_string);
        Breach {
            wrong: wrong.into_iter().collect(),
            unknown: unclear.into_iter().chain(unread).collect(),
            wish,
        }
    }
}

/// How `module.sig_unenforce` is wanted. `sig-unenforce = auto` means on if a kernel that demands signatures
/// and knows the parameter has a module to load that needs it, whether or not DKMS manages the module.
/// `needs` is what the machine requires.
pub fn parameter_wanted(settings: &Settings, system: &System, needs: &[Requirement]) -> Wanted {
    let for_pair = |pair: &ModuleOnKernel| {
        let line = system.cmdline_of(&pair.release);
        // Without a proof there are no files to ask about.
        let proofs = || pair.proof.as_ref().map_or_else(|_| Vec::new(), |proofs| proofs.iter().collect());
        line.is_none_or(|line| helps(system, line, &proofs())) && is_needed(pair)
    };
    match settings.sig_unenforce {
        SigUnenforce::On => Wanted::On,
        SigUnenforce::Off => Wanted::Off,
        SigUnenforce::Auto if system.modules_on_kernels.iter().any(for_pair) => Wanted::On,
        SigUnenforce::Auto if needs.iter().any(|need| is_unmanaged_need(system, need)) => Wanted::On,
        SigUnenforce::Auto => Wanted::Either,
    }
}

pub fn sig_unenforce_wanted(settings: &Settings, system: &System, needs: &[Requirement]) -> bool {
    parameter_wanted(settings, system, needs) == Wanted::On
}

/// Whether a kernel needs the parameter to load a module with these files. The list is empty for a module
/// that is not built yet.
fn helps(system: &System, line: &KernelCmdline, proofs: &[&Proof]) -> bool {
    line.takes_the_parameter(&system.machine) && !is_signed_for(line, proofs)
}

/// The machine requires a module that DKMS does not manage, and its file did not come with the kernel. Only
/// the vendor of the kernel could sign it.
fn is_unmanaged_need(system: &System, need: &Requirement) -> bool {
    let is_registered = system.tree.modules.iter().any(|known| known.module.name == need.module);
    let on = |line: &KernelCmdline| {
        looked_at(system, need, &line.release).into_iter().any(|found| match found {
            Loadable::File { origin, proof: Ok(proof), .. } => {
                *origin != FileOrigin::InTree && helps(system, line, &[proof.as_ref()])
            }
            _ => false,
        })
    };
    need.class > Importance::Optional && !is_registered && system.lines.iter().any(on)
}

/// A signed module on a kernel that accepts additional keys is meant to be accepted by its key, without the
/// parameter.
fn is_signed_for(line: &KernelCmdline, proofs: &[&Proof]) -> bool {
    let signed = |proof: &&Proof| matches!(proof.signature, Some(Signature::Signed { .. }));
    line.kernel.takes_foreign_keys()
        && line.kernel.config.is_some()
        && !proofs.is_empty()
        && proofs.iter().all(signed)
}

/// The module should be installed on this kernel.
fn is_needed(pair: &ModuleOnKernel) -> bool {
    pair.proof.is_ok()
        || !matches!(
            decide(pair),
            Decision::Leave { state: State::SkippedExclusive | State::NotAutoinstall, .. }
        )
}
