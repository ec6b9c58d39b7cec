//! The verdict on the running kernel. Its own parameters count, because they can be changed at run time.

use super::verdict::{Reasons, at_boot, dialect, is_lenient};
use super::{Boot, EnforcementVerdict, Patch, SecureBoot, Tri};
use crate::cmdline::parameter::KernelArguments;
use crate::cmdline::{PARAMETER, Switch};

/// What the running kernel reports. None for values that cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `/sys/module/module/parameters/sig_enforce`.
    pub sig_enforce: Option<bool>,
    /// `/sys/module/module/parameters/sig_unenforce`. The inner None means that the kernel does not have the
    /// parameter.
    pub sig_unenforce: Option<Option<bool>>,
    /// `/proc/sys/kernel/modules_disabled`.
    pub modules_disabled: Option<bool>,
    /// `/sys/kernel/security/lockdown`, and whether lockdown is an active security module.
    pub locked: Option<bool>,
    /// The active IMA policy appraises modules.
    pub ima: Option<bool>,
}

/// The verdict on the running kernel. Values that it reports count. `boot`, with `/proc/cmdline` as its line,
/// is used only for values that it does not report.
pub fn now(boot: &Boot<'_>, runtime: &Runtime) -> EnforcementVerdict {
    let started = at_boot(boot);
    let mut reasons = Reasons::default();
    let checked = match (runtime.sig_enforce, started.checked) {
        (Some(_), _) => Tri::Yes,
        (None, known) => known,
    };
    let disabled = match runtime.modules_disabled {
        Some(true) => reasons.yes("kernel.modules_disabled is 1: no module can be loaded until a reboot"),
        Some(false) => Tri::No,
        // It cannot be reset.
        None if started.disabled == Tri::Yes => Tri::Yes,
        None => reasons.unknown("/proc/sys/kernel/modules_disabled"),
    };
    let ima = match runtime.ima {
        Some(true)
            if !is_lenient(&KernelArguments::read(boot.line)) || boot.secure_boot == SecureBoot::On =>
        {
            reasons.yes("the active IMA policy appraises modules")
        }
        Some(_) => Tri::No,
        None => started.ima,
    };
    let enforced =
        if checked == Tri::No { Tri::No } else { enforced_now(boot, runtime, &started, &mut reasons) };
    let locked = match runtime.locked {
        Some(true) => reasons.yes("the kernel is locked down: unsigned modules are refused"),
        Some(false) => Tri::No,
        None if boot.config.is_some_and(|c| !c.has("SECURITY_LOCKDOWN_LSM")) || checked == Tri::No => Tri::No,
        // It cannot be reset.
        None if started.locked == Tri::Yes => Tri::Yes,
        None => {
            if enforced != Tri::Yes {
                reasons.missing("/sys/kernel/security/lockdown");
            }
            Tri::Unknown
        }
    };
    if checked == Tri::Unknown {
        reasons.missing("/sys/module/module/parameters/sig_enforce");
    }
    if checked == Tri::No {
        reasons.because("the kernel was built without module signatures: it loads every module");
    }
    let demanded = Tri::of(runtime.sig_enforce).or(started.demanded);
    EnforcementVerdict {
        disabled,
        ima,
        checked,
        demanded,
        enforced,
        locked,
        because: reasons.because,
        missing: reasons.missing,
    }
}

fn enforced_now(
    boot: &Boot<'_>,
    runtime: &Runtime,
    started: &EnforcementVerdict,
    reasons: &mut Reasons,
) -> Tri {
    let in_line = KernelArguments::read(boot.line).switch(PARAMETER, dialect(boot)) == Switch::On;
    let patch = match (runtime.sig_unenforce, boot.patch) {
        (Some(None), _) => Patch::Absent,
        // The parameter exists, so the kernel is patched and its version determines the version of the patch.
        (Some(Some(_)), Patch::Absent | Patch::Unknown) => Patch::of_version(boot.version),
        (_, known) => known,
    };
    match (runtime.sig_enforce, runtime.sig_unenforce) {
        (Some(false), _) => reasons.no("sig_enforce is N: the kernel demands no signature"),
        (Some(true), Some(None)) => reasons.yes("sig_enforce is Y, and this kernel has no sig_unenforce"),
        (Some(true), Some(Some(false))) => {
            reasons.yes("sig_enforce is Y and sig_unenforce is N: the kernel demands signatures")
        }
        (Some(true), Some(Some(true))) => match patch {
            Patch::V2 => {
                reasons.no(match (in_line, boot.line.is_empty()) {
                    (true, _) => format!("{PARAMETER} was on its command line, and is in force"),
                    // The command line cannot be read.
                    (false, true) => format!("sig_unenforce is Y: {PARAMETER} is in force"),
                    (false, false) => {
                        format!("{PARAMETER} was switched on at run time: only a reboot undoes that")
                    }
                })
            }
            Patch::V1 => reasons.yes("sig_enforce is Y: in a kernel before 5.19.1 that alone counts"),
            Patch::Absent | Patch::Unknown => {
                reasons.unknown("the kernel's version, which decides what sig_unenforce means")
            }
        },
        // sysfs does not have the parameter. What the line has disabled stays disabled; the opposite proves
        // nothing.
        (_, _) if started.enforced == Tri::No && boot.patch == Patch::V2 => {
            reasons.no(format!("{PARAMETER} was on its command line"))
        }
        (_, _) => reasons.unknown("/sys/module/module/parameters/sig_enforce and sig_unenforce"),
    }
}
