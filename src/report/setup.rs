//! The document of `clr-dkms setup`.

use serde::Serialize;

use super::add::Steps;
use super::packages::Packages;
use super::remedy::{AdminCommand, CommandTarget, Remedy};
use crate::decide::setup::{SetupGap, Unfilled};
use crate::kernel::Inventory;

/// A kernel for which modules are to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SetupKernelReport {
    /// Its release.
    pub kernel: String,
    /// Its variant.
    pub variant: String,
    /// The DKMS bundle of the variant.
    pub bundle: Option<&'static str>,
    /// That bundle is installed.
    pub has_bundle: bool,
    /// Its headers are there.
    pub has_headers: bool,
}

/// What a system lacks, and what was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct SetupDocument {
    /// Grows when a field changes its meaning.
    pub schema: u32,
    /// The kernels.
    pub kernels: Vec<SetupKernelReport>,
    /// What was missing at the beginning, as phrases.
    pub missing: Vec<String>,
    /// The bundles that have it.
    pub bundles: Vec<String>,
    /// The command that installs them.
    pub command: Option<String>,
    pub steps: Steps,
    /// Modules can be built and will be loaded at the next boot; not before the end of a run.
    pub ready: bool,
    /// Modules can be loaded only after a reboot; none if that is unknown, or in an image.
    pub reboot_due: Option<bool>,
}

/// A gap, as a phrase.
pub fn gap_text(gap: &SetupGap) -> String {
    match gap {
        SetupGap::Headers { kernel, reason } => format!("the headers of kernel {kernel}: {reason}"),
        SetupGap::Program(name) => name.clone(),
    }
}

/// A gap that no bundle fills, with what helps.
pub fn unfilled_text(
    gap: &SetupGap,
    why: &Unfilled,
    inventory: &Inventory,
    target: &CommandTarget,
) -> String {
    let missing = gap_text(gap);
    let help = match (why, gap) {
        (Unfilled::NoSwupd, SetupGap::Headers { kernel, .. }) => {
            let packages = Packages::of(kernel, inventory);
            match packages {
                // The command of a program that this system does not have would not help.
                Packages::Swupd { .. } => Remedy::by_hand(format!("install the headers of kernel {kernel}")),
                Packages::Eopkg { .. } => packages.install_headers(kernel),
            }
        }
        (Unfilled::NoSwupd, SetupGap::Program(name)) => Remedy::by_hand(format!("install {name}")),
        (Unfilled::NoBundle { variant, move_to: Some(bundle) }, _) => {
            let add = AdminCommand::change("swupd", &["bundle-add", bundle]);
            Remedy::from(add.to(format!("move to the successor of variant {variant}")))
        }
        (Unfilled::NoBundle { variant, move_to: None }, _) => {
            return format!("{missing}; there is no DKMS bundle for kernels of variant {variant}");
        }
        (Unfilled::Incomplete(bundle), _) => {
            let repair = AdminCommand::change("swupd", &["repair"]);
            Remedy::from(repair.to(format!("restore what bundle {bundle} has")))
        }
        (Unfilled::Unknown, _) => return missing,
    };
    format!("{missing}; {}", help.text(target))
}
