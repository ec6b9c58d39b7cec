//! The installed kernels as candidates for the boot default: what each kernel has of what the machine
//! requires.

use std::collections::BTreeMap;

use super::initrds::{LostModule, lost_without_initrd};
use super::loading::{LoadForecast, load_forecast};
use super::module_state::would_be_taken;
use super::readiness::{Candidate, Missing, Ready};
use super::satisfaction::{CommandLine, satisfied_with};
use super::unread::Gaps;
use crate::dkms::ModuleOnKernel;
use crate::dkms::plan::State;
use crate::kernel::Installed;
use crate::kernel::inventory::There;
use crate::requirement::{Importance, Requirement};
use crate::state::ModuleRecord;
use crate::system::System;

/// Evaluates one kernel. With `as_configured` it is evaluated with the command line that clr-boot-manager
/// would write, otherwise with the command line of its present entry. `default` is the release of the boot
/// default.
pub(super) fn candidate(
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
    let states: Vec<&ModuleRecord> = states.iter().filter(|s| s.kernel == release).collect();
    let ready = |need: &Requirement| {
        if let Some(what) = gap {
            // The file that could not be read may belong to this module.
            return Some((need.module.clone(), Ready::Unknown(unread(what))));
        }
        let status = states.iter().copied().find(|s| s.module.name == need.module);
        let taken = status.is_some_and(|s| {
            as_configured && (refused_by_entry_only(system, s) || blocked_by_entry_only(system, s))
        });
        let by_entry = || satisfied_with(system, need, &release, status, CommandLine::Coming);
        let ready = match as_configured {
            _ if taken => Some(Ready::Yes),
            false => by_entry(),
            // The entry of the default is not rewritten if that would lose something.
            true if is_default && by_entry() == Some(Ready::Yes) => Some(Ready::Yes),
            true => satisfied_with(system, need, &release, status, CommandLine::Configured),
        };
        ready.map(|ready| (need.module.clone(), ready))
    };
    let mut modules: BTreeMap<String, Ready> = needs.iter().filter_map(ready).collect();
    modules.insert(INITRD.to_owned(), initrd_of(system, &release));
    // A restricted update also makes an entry for a held kernel that is not a tip.
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

/// The name under which the initrd is listed among the modules of a kernel.
const INITRD: &str = "initrd";

/// The requirement of an initrd: something in use depends on a module from the admin's initrd of the running
/// kernel, and another kernel has no such initrd.
pub(super) fn initrd_requirement(system: &System) -> Option<Requirement> {
    let running = system.inventory.running_kernel()?.name.release();
    let lost = |k: &Installed| lost_without_initrd(system, &k.name.release());
    let LostModule { reason, .. } = system.inventory.kernels.iter().find_map(lost)?;
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
        Some(LostModule { module, is_certain: true, .. }) => Ready::No(Missing {
            version: release.to_owned(),
            state: "missing".to_owned(),
            reason: format!("kernel {release} has no initrd with {module}, and it is not part of its image"),
        }),
        Some(LostModule { module, .. }) => Ready::Unknown(Missing {
            version: release.to_owned(),
            state: State::Unknown.to_string(),
            reason: format!(
                "whether kernel {release} needs an initrd with {module}, or has one, is unknown: an initrd cannot be \
                 read completely"
            ),
        }),
    }
}

/// Whether a kernel can be made the boot default.
pub fn is_bootable(system: &System, kernel: &Installed) -> bool {
    // clr-boot-manager makes missing entries only for the tips and for the running kernel.
    let entry = system.boot.loader.is_none() || system.boot.of(&kernel.id).is_some();
    kernel.modules != There::No && (entry || kernel.tip || kernel.running)
}

/// The kernel refuses the module only because of the command line in its boot entry, which the next update
/// replaces.
fn refused_by_entry_only(system: &System, status: &ModuleRecord) -> bool {
    status.state == State::SignatureRefused
        && would_be_taken(system, &status.kernel, &status.module, &status.files)
}

fn unread(what: &str) -> Missing {
    Missing { version: String::new(), state: State::Unknown.to_string(), reason: what.to_owned() }
}

/// The module is not loaded only because of the command line in the boot entry, which the next update
/// replaces.
fn blocked_by_entry_only(system: &System, status: &ModuleRecord) -> bool {
    let loads = |pair: &ModuleOnKernel| {
        let configured = load_forecast(system, pair, None, CommandLine::Configured);
        matches!(configured, LoadForecast::Loads | LoadForecast::Remark(_))
    };
    status.state == State::Blocked
        && system.module_on_kernel(&status.module, &status.kernel).is_some_and(loads)
}
