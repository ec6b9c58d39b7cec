//! The conclusion of the enforcement document: one word, one sentence, one problem.

use super::enforcement::{EnforcementStanding, KernelReport, ModuleReport, Setting};
use super::enforcement_remedies::EnforcementProblem;
use crate::cmdline::Switch;
use crate::cmdline::parameter::KernelArguments;
use crate::dkms::{ModuleName, Signature};
use crate::enforcement::{LoadOutcome, LoadRefusal, LoadWord, Patch, SecureBoot, Tri};
use crate::exit;

/// The word for all kernels together.
pub(super) fn standing(kernels: &[KernelReport], setting: &Setting<'_>) -> EnforcementStanding {
    let Some(first) = kernels.first() else { return EnforcementStanding::Unknown };
    let loaded: Vec<&ModuleName> =
        kernels.iter().flat_map(|k| &k.modules).filter(|m| m.loaded.is_some()).map(|m| &m.module).collect();
    let in_use = |m: &ModuleReport| loaded.iter().any(|name| name.name == m.module.name);
    let next = kernels.iter().filter(|k| k.boots_next);
    if next.flat_map(|k| &k.modules).any(|m| in_use(m) && m.coming() == LoadWord::Refused) {
        return EnforcementStanding::Refused;
    }
    let open =
        first.coming().unsigned() == LoadOutcome::Unknown || first.with(LoadWord::Unknown).next().is_some();
    if open
        || first.is_line_unread()
        || now_unknown(kernels)
        || (setting.entries_hidden.is_some() && setting.entries_needed)
    {
        return EnforcementStanding::Unknown;
    }
    let helpless = first.with(LoadWord::Refused).next().is_some() && !first.parameter_would_help;
    let differs = kernels.iter().any(KernelReport::differs);
    if differs || setting.policy_fix.is_some() || lacks_entry(first, setting) || helpless {
        return EnforcementStanding::Pending;
    }
    EnforcementStanding::Settled
}

/// As [`crate::report::Verdict::exit_code`]: a reboot that is safe and leads to what is wanted needs no
/// attention, and what is refused is unsafe only if the next boot is.
pub(super) fn exit_code(
    kernels: &[KernelReport],
    setting: &Setting<'_>,
    standing: EnforcementStanding,
    problem: Option<&EnforcementProblem>,
) -> u8 {
    let is_lost = |m: &ModuleReport| m.unsafe_without && m.coming() == LoadWord::Refused;
    match standing {
        EnforcementStanding::Unknown if setting.not_applicable => exit::OK,
        _ if kernels.iter().filter(|k| k.boots_next).flat_map(|k| &k.modules).any(is_lost) => exit::UNSAFE,
        EnforcementStanding::Unknown => exit::UNKNOWN,
        EnforcementStanding::Refused => exit::ATTENTION,
        EnforcementStanding::Settled => exit::OK,
        EnforcementStanding::Pending => match problem {
            Some(EnforcementProblem::RebootPending { .. }) => exit::OK,
            _ => exit::ATTENTION,
        },
    }
}

/// Whether the behaviour of the running kernel is unknown.
fn now_unknown(kernels: &[KernelReport]) -> bool {
    kernels.iter().filter_map(|k| k.now.as_ref()).any(|now| now.unsigned() == LoadOutcome::Unknown)
}

fn lacks_entry(kernel: &KernelReport, setting: &Setting<'_>) -> bool {
    kernel.installed && setting.entries_hidden.is_none() && kernel.next_boot.is_none()
}

/// The sentence that answers whether modules will be loaded.
pub(super) fn summary(kernels: &[KernelReport], setting: &Setting<'_>) -> String {
    let Some(kernel) = kernels.first() else {
        return setting.unreadable.clone().unwrap_or_else(|| "there is no kernel".to_owned());
    };
    let when = if kernel.boots_next { "at the next boot" } else { "when it is booted" };
    let release = &kernel.release;
    let coming = kernel.coming();
    let named = |error: Option<LoadRefusal>| error.map(|e| format!(" ({})", e.name())).unwrap_or_default();
    let refused = names(kernel.with(LoadWord::Refused));
    if let Some(first) = kernel.with(LoadWord::Refused).next() {
        return format!("kernel {release} will refuse {} {when}{}", list(&refused), named(first.error));
    }
    if coming.unsigned() == LoadOutcome::Unknown {
        let fact = coming.missing.first().map_or("some fact", String::as_str);
        return format!(
            "it cannot be determined whether kernel {release} will load unsigned modules {when}; not known: {fact}"
        );
    }
    let open = names(kernel.with(LoadWord::Unknown));
    if !open.is_empty() {
        let what = list(&open);
        let fact = match kernel.with(LoadWord::Unknown).find(|m| m.unread) {
            Some(module) => &module.signature_text,
            None => "whether it trusts the key of the signature",
        };
        return format!(
            "it cannot be determined whether kernel {release} will load {what} {when}; not known: {fact}"
        );
    }
    match coming.unsigned() {
        _ if !kernel.modules.is_empty() => {
            format!("kernel {release} will load {} {when}", list(&names(kernel.modules.iter())))
        }
        LoadOutcome::Refused(error) => {
            format!("kernel {release} will refuse unsigned modules {when}{}", named(error))
        }
        _ => format!("kernel {release} will load unsigned modules {when}"),
    }
}

/// The modules that files belong to, each once.
fn names<'a>(files: impl Iterator<Item = &'a ModuleReport>) -> Vec<&'a ModuleName> {
    let mut names = Vec::new();
    for file in files {
        if !names.contains(&&file.module) {
            names.push(&file.module);
        }
    }
    names
}

fn list(modules: &[&ModuleName]) -> String {
    match modules {
        [] => "no DKMS module".to_owned(),
        [one] => one.to_string(),
        [one, other] => format!("{one} and {other}"),
        [one, more @ ..] => format!("{one} and {} other DKMS modules", more.len()),
    }
}

/// The most important fault or unknown; none if there is none.
pub(super) fn problem(
    kernels: &[KernelReport],
    setting: &Setting<'_>,
    standing: EnforcementStanding,
) -> Option<EnforcementProblem> {
    let kernel = kernels.first()?;
    if let Some(fix) = &setting.policy_fix {
        return Some(EnforcementProblem::NotAsWanted(fix.clone()));
    }
    let refused = kernel.modules.iter().find(|m| m.configured == LoadWord::Refused);
    if let Some(problem) = refused.and_then(|module| refusal(kernel, module, setting)) {
        return Some(problem);
    }
    if kernels.iter().any(KernelReport::entry_differs) || lacks_entry(kernel, setting) {
        return Some(EnforcementProblem::EntryDiffers);
    }
    if standing == EnforcementStanding::Unknown {
        return Some(open_question(kernels, kernel, setting));
    }
    // This concerns the machine, whichever kernel was asked for.
    let running = kernels.iter().find(|k| k.running)?;
    let (now, coming) = (running.now.as_ref()?, running.coming());
    let on_again = now.verdict.enforced == Tri::No && coming.verdict.enforced == Tri::Yes;
    now.differs(coming).then_some(EnforcementProblem::RebootPending { on_again })
}

/// Why a module is refused; none if the admin has configured it so.
fn refusal(
    kernel: &KernelReport,
    module: &ModuleReport,
    setting: &Setting<'_>,
) -> Option<EnforcementProblem> {
    let verdict = &kernel.configured.verdict;
    let line = kernel.configured.cmdline.as_deref().unwrap_or_default();
    let on_line = |name: &str| KernelArguments::read(line.as_bytes()).has(name);
    let firmware = setting.machine.secure_boot == SecureBoot::On;
    Some(if module.unfit || matches!(module.signature, Signature::Broken { .. }) {
        EnforcementProblem::Unfit { module: module.module.clone(), kernel: kernel.release.clone() }
    } else if verdict.disabled == Tri::Yes {
        EnforcementProblem::ModulesDisabled
    } else if verdict.ima == Tri::Yes {
        EnforcementProblem::ImaAppraises
    } else if kernel.parameter_would_help {
        return None;
    } else if verdict.enforced == Tri::Yes && kernel.patch == Patch::Absent {
        EnforcementProblem::ParameterUnknownToKernel
    } else if verdict.enforced == Tri::Yes && firmware {
        EnforcementProblem::EnforcedBySecureBoot
    } else if verdict.enforced == Tri::Yes && on_line("module.sig_enforce") {
        EnforcementProblem::EnforcedOnLine
    } else if verdict.locked == Tri::Yes && on_line("lockdown") {
        EnforcementProblem::LockedOnLine
    } else if verdict.locked == Tri::Yes && firmware {
        EnforcementProblem::LockedBySecureBoot
    } else {
        EnforcementProblem::NotTrusted
    })
}

/// What is unknown.
fn open_question(
    kernels: &[KernelReport],
    kernel: &KernelReport,
    setting: &Setting<'_>,
) -> EnforcementProblem {
    let coming = kernel.coming();
    let line = coming.cmdline.as_deref().unwrap_or_default();
    let open = coming.unsigned() == LoadOutcome::Unknown;
    if kernel.is_line_unread() {
        EnforcementProblem::CmdlineUnread
    } else if open && KernelArguments::read(line.as_bytes()).has("bootconfig") {
        EnforcementProblem::BootconfigUnknown
    } else if open && coming.sig_unenforce == Switch::Unknown {
        EnforcementProblem::ParameterUnclear
    } else if kernel.with(LoadWord::Unknown).any(|m| m.unread) {
        EnforcementProblem::ModuleUnread
    } else if let (false, Some(module)) = (open, kernel.with(LoadWord::Unknown).next()) {
        EnforcementProblem::KeyUnknown { module: module.module.name.clone() }
    } else if !open && now_unknown(kernels) {
        EnforcementProblem::RunningUnknown
    } else if setting.entries_needed {
        EnforcementProblem::EntriesUnknown
    } else {
        // An image has no firmware, and no kernel runs in it.
        EnforcementProblem::NotThisMachine
    }
}
