//! What the enforcement document comes to: one word, one sentence, one next step.

use super::enforcement::{EnforcementStanding, KernelReport, ModuleReport, Setting};
use crate::cmdline::PARAMETER;
use crate::cmdline::parameter::KernelArguments;
use crate::dkms::{ModuleName, Signature};
use crate::enforcement::{LoadOutcome, LoadRefusal, SecureBoot, Tri};

/// One word for the whole.
pub(super) fn standing(kernels: &[KernelReport], setting: &Setting<'_>) -> EnforcementStanding {
    let Some(first) = kernels.first() else { return EnforcementStanding::Unknown };
    let loaded: Vec<&ModuleName> =
        kernels.iter().flat_map(|k| &k.modules).filter(|m| m.loaded.is_some()).map(|m| &m.module).collect();
    let in_use = |m: &ModuleReport| loaded.iter().any(|name| name.name == m.module.name);
    let next = kernels.iter().filter(|k| k.boots_next);
    if next.flat_map(|k| &k.modules).any(|m| in_use(m) && m.coming() == "refused") {
        return EnforcementStanding::Refused;
    }
    let open = first.coming().unsigned() == LoadOutcome::Unknown || first.with("unknown").next().is_some();
    if open || now_unknown(kernels) || (setting.entries_hidden.is_some() && setting.entries_needed) {
        return EnforcementStanding::Unknown;
    }
    let helpless = first.with("refused").next().is_some() && !first.parameter_would_help();
    let differs = kernels.iter().any(KernelReport::differs);
    if differs || !setting.policy_met || lacks_entry(first, setting) || helpless {
        return EnforcementStanding::Pending;
    }
    EnforcementStanding::Settled
}

/// The running kernel does not say what it does.
fn now_unknown(kernels: &[KernelReport]) -> bool {
    kernels.iter().filter_map(|k| k.now.as_ref()).any(|now| now.unsigned() == LoadOutcome::Unknown)
}

fn lacks_entry(kernel: &KernelReport, setting: &Setting<'_>) -> bool {
    kernel.installed && setting.entries_hidden.is_none() && kernel.next_boot.is_none()
}

/// The sentence that answers the question.
pub(super) fn summary(kernels: &[KernelReport], setting: &Setting<'_>) -> String {
    let Some(kernel) = kernels.first() else {
        return setting.unreadable.clone().unwrap_or_else(|| "there is no kernel".to_owned());
    };
    let when = if kernel.boots_next { "at the next boot" } else { "when it is booted" };
    let release = &kernel.release;
    let coming = kernel.coming();
    let named = |error: Option<LoadRefusal>| error.map(|e| format!(" ({})", e.name())).unwrap_or_default();
    let refused = names(kernel.with("refused"));
    if let Some(first) = kernel.with("refused").next() {
        return format!("kernel {release} will refuse {} {when}{}", list(&refused), named(first.error));
    }
    if coming.unsigned() == LoadOutcome::Unknown {
        let fact = coming.missing.first().map_or("some fact", String::as_str);
        return format!(
            "it cannot be determined whether kernel {release} will load unsigned modules {when}; not known: {fact}"
        );
    }
    let open = names(kernel.with("unknown"));
    if !open.is_empty() {
        let what = list(&open);
        return format!(
            "it cannot be determined whether kernel {release} will load {what} {when}; not known: whether it trusts the key of the signature"
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

/// The next step; none when there is nothing to do.
pub(super) fn next_step(
    kernels: &[KernelReport],
    setting: &Setting<'_>,
    standing: EnforcementStanding,
) -> Option<String> {
    let kernel = kernels.first()?;
    if let (false, Some(step)) = (setting.policy_met, &setting.policy_step) {
        return Some(step.clone());
    }
    let refused = kernel.modules.iter().find(|m| m.configured == "refused");
    if let Some(cure) = refused.and_then(|module| cure(kernel, module, setting)) {
        return Some(cure);
    }
    if kernels.iter().any(KernelReport::entry_differs) || lacks_entry(kernel, setting) {
        return Some("run `clr-boot-manager update` as root".to_owned());
    }
    if standing == EnforcementStanding::Unknown {
        return Some(how_to_know(kernels, kernel, setting));
    }
    // What runs is no matter of the kernel that was asked for, but of the machine.
    let running = kernels.iter().find(|k| k.running)?;
    let (now, coming) = (running.now.as_ref()?, running.coming());
    if !now.differs(coming) {
        return None;
    }
    let on_again = now.verdict.enforced == Tri::No && coming.verdict.enforced == Tri::Yes;
    Some(match on_again {
        true => "reboot when it suits you: only a reboot turns enforcement on again".to_owned(),
        false => "reboot when it suits you".to_owned(),
    })
}

/// What helps a module that the configured line does not help; none where it is refused because the admin wants it so.
fn cure(kernel: &KernelReport, module: &ModuleReport, setting: &Setting<'_>) -> Option<String> {
    const SHOW: &str = "`clr-dkms-cmdline show` tells which file it comes from";
    const SIGN: &str = "sign the modules with a key that this kernel trusts";
    let verdict = &kernel.configured.verdict;
    let line = kernel.configured.cmdline.as_deref().unwrap_or_default();
    let on_line = |name: &str| KernelArguments::read(line.as_bytes()).has(name);
    let firmware = setting.machine.secure_boot == SecureBoot::On;
    Some(if module.unfit || matches!(module.signature, Signature::Broken { .. }) {
        let (module, release) = (&module.module, &kernel.release);
        // Not `dkms remove`: for the module's last kernel that would forget the module.
        format!(
            "as root: `dkms unbuild {module} -k {release}`, then `clr-dkms-post-update`, which builds it again"
        )
    } else if verdict.disabled == Tri::Yes {
        format!("take what disables all modules off the command line; {SHOW}")
    } else if verdict.ima == Tri::Yes {
        "boot another kernel, or take the IMA policy that appraises modules away".to_owned()
    } else if kernel.parameter_would_help() {
        return None;
    } else if verdict.enforced == Tri::Yes && kernel.patch == "absent" {
        format!("this kernel does not know {PARAMETER}: boot another kernel, or {SIGN}")
    } else if verdict.enforced == Tri::Yes && firmware {
        "turn Secure Boot off in the firmware, or boot a kernel of 5.19.1 or later".to_owned()
    } else if verdict.enforced == Tri::Yes && on_line("module.sig_enforce") {
        format!("take module.sig_enforce off the command line; {SHOW}")
    } else if verdict.locked == Tri::Yes && on_line("lockdown") {
        format!("{SIGN}, or take lockdown= off the command line; {SHOW}")
    } else if verdict.locked == Tri::Yes && firmware {
        format!("{SIGN}, or turn Secure Boot off in the firmware")
    } else {
        format!("{SIGN}, or boot another kernel")
    })
}

/// How what is not known can be found out.
fn how_to_know(kernels: &[KernelReport], kernel: &KernelReport, setting: &Setting<'_>) -> String {
    let coming = kernel.coming();
    let line = coming.cmdline.as_deref().unwrap_or_default();
    let open = coming.unsigned() == LoadOutcome::Unknown;
    if open && KernelArguments::read(line.as_bytes()).has("bootconfig") {
        "boot it and ask again: what the bootconfig in its initrd adds shows only then".to_owned()
    } else if open && coming.sig_unenforce == "unknown" {
        format!(
            "write {PARAMETER} as a plain word, or leave it out; `clr-dkms-cmdline show` tells which file it comes from"
        )
    } else if let (false, Some(module)) = (open, kernel.with("unknown").next()) {
        let name = &module.module.name;
        format!("load {name} while this kernel runs and ask again: whether it trusts the key shows only then")
    } else if !open && now_unknown(kernels) {
        "ask again as root, with /proc and /sys as the kernel shows them".to_owned()
    } else if setting.entries_needed {
        "ask again as root; what is missing then shows only when that kernel runs".to_owned()
    } else {
        // An image has no firmware, and nothing runs in it.
        "ask `clr-dkms enforcement` on the machine that boots it".to_owned()
    }
}
