//! What a kernel that boots well today would lose if its boot entry were made again as configured.

use std::fmt;

use super::module_state::{module_status, would_be_taken};
use crate::cmdline::PARAMETER;
use crate::config::{Settings, SigUnenforce};
use crate::dkms::plan::State;
use crate::requirement::{Importance, Requirement};
use crate::system::System;

/// Something that a boot entry has, that is needed, and that it would not have any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryLoss {
    /// With its new command line the kernel refuses a module that it takes with the present one.
    Module {
        /// The kernel release.
        kernel: String,
        /// `name/version`.
        module: String,
        /// What it is needed for.
        needed: String,
    },
    /// The initrd of the kernel has no source any more.
    Initrd {
        /// The kernel release.
        kernel: String,
        /// The name of the initrd.
        initrd: String,
    },
}

impl fmt::Display for EntryLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryLoss::Module { kernel, module, needed } => write!(
                f,
                "the boot entry of {kernel} has {PARAMETER}, the configured command line has not, and without it the kernel \
                 refuses {module} ({needed})"
            ),
            EntryLoss::Initrd { kernel, initrd } => {
                write!(f, "the boot entry of {kernel} loads {initrd}, which has no source any more")
            }
        }
    }
}

/// The losses of one kernel. `initrds` are the names of the initrds that it would get.
pub fn entry_losses(
    system: &System,
    settings: &Settings,
    needs: &[Requirement],
    release: &str,
    initrds: &[String],
) -> Vec<EntryLoss> {
    let line = system.lines.iter().find(|line| line.release == release);
    let Some(entry) = line.and_then(|line| system.boot.of(&line.id)) else { return Vec::new() };
    let mut losses = Vec::new();
    let needed = |name: &str| {
        let is_it = |need: &&Requirement| {
            need.module == name
                && (need.class == Importance::Critical || (need.class == Importance::Wanted && need.works))
        };
        needs.iter().find(is_it)
    };
    // An admin has switched the parameter off for good: what it does is not missed.
    if settings.sig_unenforce != SigUnenforce::Off {
        for pair in system.of_kernel(release) {
            let Some(need) = needed(&pair.module.name) else { continue };
            let status = module_status(system, pair, None);
            if status.state == State::Ok && !would_be_taken(system, release, &status.module, &status.files) {
                losses.push(EntryLoss::Module {
                    kernel: release.to_owned(),
                    module: status.module.to_string(),
                    needed: need.reason.clone(),
                });
            }
        }
    }
    let own = entry.id.as_ref().map(|id| format!("initrd-{id}"));
    let lost = entry.initrds.iter().filter(|name| own.as_ref() == Some(name) && !initrds.contains(name));
    losses
        .extend(lost.map(|initrd| EntryLoss::Initrd { kernel: release.to_owned(), initrd: initrd.clone() }));
    losses
}
