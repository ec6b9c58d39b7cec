//! The next step: one command for each thing that is wrong.

use super::{Document, KernelStatus, ModuleStatus, Progress, Verdict, is_lacking, is_told_below};
use crate::boot::ReadBack;
use crate::dkms::plan::State;
use crate::facts::Facts;
use crate::guard::Ruling;
use crate::state::{ModuleRecord, Record};

const WAIT: &str = "wait for the run to end, and do not reboot before";

/// What brings a module to a kernel; none where nothing has to be done.
pub(super) fn of_module(module: &ModuleRecord, is_lacking: bool, kernels: &[KernelStatus]) -> Option<String> {
    match module.state {
        State::Building => Some(WAIT.to_owned()),
        state if state.is_fine() && !is_lacking => None,
        State::SignatureRefused => Some("`clr-dkms enforcement` tells why, and what helps".to_owned()),
        _ => Some(cure(module, kernels)),
    }
}

/// What to do next; none when there is nothing to do.
pub(super) fn next_step(
    document: &Document,
    progress: &Progress,
    facts: &Facts,
    known: Option<&Record>,
) -> Option<String> {
    let run = "run `clr-dkms-post-update` as root";
    let lacking = || document.modules.iter().map(|m| &m.record).filter(|m| is_lacking(m, facts));
    match document.verdict {
        Verdict::Healthy | Verdict::NotApplicable => None,
        Verdict::Unsafe if matches!(progress, Progress::Working(_)) => Some(WAIT.to_owned()),
        Verdict::Held => Some(guard_step(document)),
        Verdict::Unsafe => Some(format!("do not reboot yet; {}", guard_step(document))),
        Verdict::RebootPending => Some("reboot when it suits you".to_owned()),
        Verdict::Building => Some(WAIT.to_owned()),
        Verdict::Unknown => {
            Some("ask again as root; the problems below say what could not be read".to_owned())
        }
        Verdict::Degraded if *progress == Progress::BrokenOff => {
            Some(format!("{run}: it goes on where it was"))
        }
        Verdict::Degraded => Some(match lacking().find(|m| m.state != State::SignatureRefused) {
            Some(m) => cure(m, &document.kernels),
            None if lacking().any(|m| !is_told_below(m, facts)) => {
                "`clr-dkms enforcement` tells why, and what helps".to_owned()
            }
            // What post-update leaves alone has been tried already, and stands in the record.
            None if known.is_some_and(|r| !r.cmdline.obstacles.is_empty())
                && document.sig_unenforce_wanted =>
            {
                "`clr-dkms-cmdline enable` as root names what stands in the way".to_owned()
            }
            None if matches!(facts.boot_entries, ReadBack::Differs(_)) => {
                format!("mend the boot entries as the problems say, then {run}")
            }
            None if document.guard.lost_wish.as_ref() == document.problems.first() => {
                "say it anew with `clr-dkms hold` or `clr-dkms release` as root".to_owned()
            }
            None => run.to_owned(),
        }),
    }
}

/// What mends the module that a kernel is held back for, else what the guard says.
fn guard_step(document: &Document) -> String {
    let guard = &document.guard;
    let said = || guard.next_step.clone().unwrap_or_else(|| "`clr-dkms guard` tells more".to_owned());
    let (lack, kernel) = match (guard.next_lacks.first(), guard.lacking.first()) {
        (Some(lack), _) => (Some(lack), &guard.boots_next),
        (None, lack) => (lack, &guard.target),
    };
    let is_it = |m: &&ModuleStatus| {
        let m = &m.record;
        Some(&m.kernel) == kernel.as_ref() && lack.is_some_and(|l| l.module == m.module.to_string())
    };
    let known = document.modules.iter().find(is_it);
    match known {
        // The boot default comes first where another kernel has what this one lacks.
        Some(module) if guard.boots_next == guard.default => {
            let release = if guard.ruling == Ruling::Defer && guard.next_lacks.is_empty() {
                "; or `clr-dkms release` goes ahead without it"
            } else {
                ""
            };
            cure(&module.record, &document.kernels) + release
        }
        _ => said(),
    }
}

/// The next command for a module that is not ready.
fn cure(module: &ModuleRecord, kernels: &[KernelStatus]) -> String {
    // Of itself a run builds for the kernel that is the default of its variant.
    let is_tip = kernels.iter().any(|k| k.release == module.kernel && k.tip);
    let run = match is_tip {
        true => "run `clr-dkms-post-update` as root".to_owned(),
        false => format!("run `clr-dkms rebuild {} -k {}` as root", module.module.name, module.kernel),
    };
    match module.state {
        State::HeadersMissing => {
            let kernel = kernels.iter().find(|k| k.release == module.kernel);
            match kernel.and_then(|k| k.variant.dkms_bundle()) {
                Some(bundle) => format!("`swupd bundle-add {bundle}`, which brings the headers"),
                None => format!("install the headers of kernel {}", module.kernel),
            }
        }
        State::HeadersMismatch => format!("`swupd repair`, then {run}"),
        State::DependencyFailed => format!("bring what it needs, then {run}"),
        State::BuildFailed => {
            format!("mend or update {}, then {run}", module.module)
        }
        State::NotAutoinstall => format!(
            "`dkms install {} -k {}`, or put AUTOINSTALL=\"yes\" into its dkms.conf",
            module.module, module.kernel
        ),
        State::SkippedExclusive => {
            format!("stay on the running kernel, or find a version of {} for the new one", module.module.name)
        }
        State::BrokenSource => {
            format!("put the source of {} back, or `dkms remove {} --all`", module.module, module.module)
        }
        State::Conflict => format!(
            "keep one of the two: `dkms remove {} --all`, or the same for the other one, then {run}",
            module.module
        ),
        State::CompilerMissing => {
            format!("`swupd bundle-add c-basic` (for clang: llvm), which brings it, then {run}")
        }
        _ => run,
    }
}
