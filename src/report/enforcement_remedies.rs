//! The problems of enforcement, and their remedies.

use super::remedies::run;
use super::remedy::{AdminCommand, Remedy};
use crate::cmdline::PARAMETER;
use crate::dkms::ModuleName;

/// A fault, or an unknown fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnforcementProblem {
    /// `module.sig_unenforce` is not as configured.
    NotAsWanted(ParameterFix),
    /// The installed file of a module cannot be loaded, whatever its signature.
    Unfit { module: ModuleName, kernel: String },
    /// The command line disables all modules.
    ModulesDisabled,
    /// An IMA policy appraises modules.
    ImaAppraises,
    /// The kernel enforces signatures and does not support the parameter.
    ParameterUnknownToKernel,
    /// The kernel enforces signatures because of Secure Boot.
    EnforcedBySecureBoot,
    /// `module.sig_enforce` is on the command line.
    EnforcedOnLine,
    /// `lockdown=` is on the command line.
    LockedOnLine,
    /// The kernel is locked down because of Secure Boot.
    LockedBySecureBoot,
    /// The kernel enforces signatures, and does not trust this one.
    NotTrusted,
    /// A boot entry is not as configured.
    EntryDiffers,
    /// A file of the configured command line cannot be read.
    CmdlineUnread,
    /// A bootconfig in the initrd adds to the command line.
    BootconfigUnknown,
    /// The value of the parameter cannot be determined from the way it is written.
    ParameterUnclear,
    /// Whether the kernel trusts the key of a module is unknown.
    KeyUnknown { module: String },
    /// The file of a module cannot be read.
    ModuleUnread,
    /// The behaviour of the running kernel is unknown.
    RunningUnknown,
    /// The contents of the boot entries are unknown.
    EntriesUnknown,
    /// Only the machine that boots the image can determine it.
    NotThisMachine,
    /// The next boot differs from the running system. `on_again`: enforcement is off now, and on at the next
    /// boot.
    RebootPending { on_again: bool },
}

/// What sets `module.sig_unenforce` as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterFix {
    /// A verb of `clr-dkms-cmdline`.
    Verb(&'static str),
    /// An obstacle, and how to remove it, as a phrase.
    InTheWay(String),
}

impl ParameterFix {
    /// What to do.
    pub fn remedy(&self) -> Remedy {
        match self {
            ParameterFix::Verb(verb) => AdminCommand::change("clr-dkms-cmdline", &[verb]).into(),
            ParameterFix::InTheWay(what) => Remedy::by_hand(what.clone()),
        }
    }
}

/// A change of the file that a word of the kernel command line comes from.
fn in_its_file(change: String) -> Remedy {
    let show = AdminCommand::look("clr-dkms-cmdline", &["show"]).to("see which file it comes from");
    Remedy::from(show).then(Remedy::by_hand(change))
}

/// What removes a word from the kernel command line.
pub(super) fn take_out(word: &str) -> Remedy {
    in_its_file(format!("remove {word} from the kernel command line"))
}

/// What to do about it.
pub fn remedy(problem: &EnforcementProblem) -> Remedy {
    use EnforcementProblem as P;
    let sign = || Remedy::by_hand("sign the modules with a key that this kernel trusts");
    let other_kernel = || Remedy::by_hand("boot another kernel");
    let no_secure_boot = || Remedy::by_hand("turn Secure Boot off in the firmware");
    let ask = |purpose: &str| AdminCommand::change("clr-dkms", &["enforcement"]).to(purpose).into();
    match problem {
        P::NotAsWanted(fix) => fix.remedy(),
        // Not `dkms remove`: for the last kernel of a module it would unregister the module.
        P::Unfit { module, kernel } => {
            let unbuild = AdminCommand::change("dkms", &["unbuild", &module.to_string(), "-k", kernel]);
            Remedy::from(unbuild).then(run())
        }
        P::ModulesDisabled => take_out("what disables all modules"),
        P::ImaAppraises => other_kernel().or(Remedy::by_hand("remove the IMA policy that appraises modules")),
        P::ParameterUnknownToKernel => {
            Remedy::by_hand(format!("boot another kernel, as this one does not know {PARAMETER}")).or(sign())
        }
        P::EnforcedBySecureBoot => no_secure_boot().or(Remedy::by_hand("boot a kernel of 5.19.1 or later")),
        P::EnforcedOnLine => take_out("module.sig_enforce"),
        P::LockedOnLine => sign().or(take_out("lockdown=")),
        P::LockedBySecureBoot => sign().or(no_secure_boot()),
        P::NotTrusted => sign().or(other_kernel()),
        P::EntryDiffers => AdminCommand::change("clr-boot-manager", &["update"]).into(),
        P::BootconfigUnknown => Remedy::by_hand(
            "boot it and ask again: what the bootconfig in its initrd adds is known only then",
        ),
        P::ParameterUnclear => in_its_file(format!("write {PARAMETER} as a plain word, or leave it out")),
        P::KeyUnknown { module } => Remedy::by_hand(format!(
            "load {module} while this kernel runs and ask again: whether it trusts the key is known only then"
        )),
        P::CmdlineUnread => ask("read the whole command line"),
        P::ModuleUnread => Remedy::by_hand("make what cannot be read readable, then ask again"),
        P::RunningUnknown => ask("ask with /proc and /sys as the kernel shows them"),
        P::EntriesUnknown => {
            ask("see the boot entries; what is still missing is known when that kernel runs")
        }
        P::NotThisMachine => Remedy::by_hand("ask on the machine that boots it"),
        P::RebootPending { on_again: true } => {
            Remedy::by_hand("reboot when it suits you: only a reboot turns enforcement on again")
        }
        P::RebootPending { on_again: false } => Remedy::Reboot(Vec::new()),
    }
}
