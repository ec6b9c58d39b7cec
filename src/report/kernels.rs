//! The kernels of the status document, and the modules on them.

use super::{DocumentSources, KernelStatus, unmanaged};
use crate::decide::assessment::BootAssessment;
use crate::decide::candidates::is_bootable;
use crate::decide::module_state::{module_status, parameter_would_help};
use crate::decide::next_boot::presumed;
use crate::decide::readiness::Ready;
use crate::decide::satisfaction::satisfied;
use crate::dkms::ModuleOnKernel;
use crate::dkms::plan::State;
use crate::kernel::{Headers, Variant};
use crate::requirement::{Importance, MissingModule};
use crate::state::ModuleRecord;
use crate::system::{KernelCmdline, System};

/// The kernels in use, and those to fall back to. [`with_modules`] counts their modules.
pub(super) fn matter(system: &System, assessment: &BootAssessment) -> Vec<KernelStatus> {
    let next = assessment.next.shown();
    let status = |line: &KernelCmdline, fallback: bool| {
        let kernel = system.inventory.of_release(&line.release)?;
        let boots_next = next == Some(line.release.as_str());
        (!fallback || boots_next || is_bootable(system, kernel)).then(|| KernelStatus {
            release: line.release.clone(),
            id: line.id.clone(),
            variant: Variant::of(&kernel.name.variant),
            running: kernel.running,
            next_boot: boots_next,
            held_back: assessment.held_back.as_ref() == Some(&line.release) && !boots_next,
            tip: kernel.tip,
            fallback: fallback && !boots_next,
            headers: kernel.headers.clone(),
            modules_ready: 0,
            modules_needed: 0,
            sig_unenforce: line.switch,
        })
    };
    let mut matter: Vec<KernelStatus> = system.lines.iter().filter_map(|line| status(line, false)).collect();
    matter.extend(system.fallback_lines.iter().filter_map(|line| status(line, true)));
    matter.sort_by_cached_key(|k| std::cmp::Reverse(by_version(&k.release)));
    matter
}

/// Orders releases by their versions: `6.15.10` is newer than `6.15.9`.
fn by_version(release: &str) -> Vec<(u64, String)> {
    let part = |part: &str| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        // A number that is longer than any version of a kernel counts as the largest.
        let number = if digits == 0 { 0 } else { part[..digits].parse().unwrap_or(u64::MAX) };
        (number, part[digits..].to_owned())
    };
    release.split(['.', '-']).map(part).collect()
}

/// The modules on those kernels for display, with paths on the host.
pub(super) fn modules_on(
    of: DocumentSources<'_>,
    kernels: &[KernelStatus],
    assessment: &BootAssessment,
) -> Vec<ModuleRecord> {
    let DocumentSources { system, progress, .. } = of;
    let is_shown = |p: &&ModuleOnKernel| kernels.iter().any(|k| k.release == p.release);
    let all = system.modules_on_kernels.iter().chain(system.fallbacks.iter().filter(is_shown));
    let display = |mut module: ModuleRecord| {
        module.log = module.log.map(|log| system.shown_path(&log));
        // Only the record needs these.
        (module.inputs, module.hook) = (None, None);
        for file in &mut module.files {
            file.path = system.shown_path(&file.path);
        }
        if !module.state.is_proven() && progress.builds(&module) {
            module = ModuleRecord { state: State::Building, reason: None, error: None, log: None, ..module };
        }
        module
    };
    let managed = all.map(|p| module_status(system, p, of.record.as_good()));
    managed.chain(unmanaged::rows(system, assessment)).map(display).collect()
}

/// The same kernels, with the number of modules that are ready for each.
pub(super) fn with_modules(
    mut kernels: Vec<KernelStatus>,
    modules: &[ModuleRecord],
    system: &System,
    assessment: &BootAssessment,
) -> Vec<KernelStatus> {
    for kernel in &mut kernels {
        let mine = || modules.iter().filter(|m| m.kernel == kernel.release);
        let is_needed = |m: &&ModuleRecord| {
            let should_be = !m.state.is_fine() && m.module.is_managed();
            m.state.works() || should_be || is_missed(m, system, assessment)
        };
        let (ready, needed) = (mine().filter(|m| m.state.works()).count(), mine().filter(is_needed).count());
        // Requirements without a row, such as a name that is not registered.
        let is_named = |lack: &MissingModule| mine().any(|m| m.module.to_string() == lack.module);
        let lacking = assessment.lacks_on(&kernel.release, |need| need.class > Importance::Optional);
        let needed = needed + lacking.iter().filter(|lack| !is_named(lack)).count();
        (kernel.modules_ready, kernel.modules_needed) = (ready, needed);
    }
    kernels
}

/// Whether the state of a module on a kernel affects the verdict. On the next kernel it always does; on
/// another tip only if the module could be built there; on an old running kernel it does not, because that is
/// not booted again. If the next kernel is unknown, every tip counts.
pub(super) fn counts(module: &ModuleRecord, system: &System) -> bool {
    let Some(next) = presumed(system) else { return true };
    if !module.module.is_managed() {
        // It was not meant to be built for the other kernels.
        return next.name.is_release(&module.kernel);
    }
    let kernel = system.inventory.of_release(&module.kernel);
    kernel.is_some_and(|k| k.name == next.name || (k.tip && k.headers != Headers::Absent))
}

/// Whether the kernel refuses the module and the parameter would help. The missing parameter is then a
/// problem of its own, or the admin does not want it.
pub(super) fn is_reported_below(module: &ModuleRecord, system: &System) -> bool {
    module.state == State::SignatureRefused && parameter_would_help(system, &module.kernel)
}

/// Whether the module will be missed on this kernel: it should be installed there, or is in use now and will
/// not be built for it.
pub(super) fn is_missed(module: &ModuleRecord, system: &System, assessment: &BootAssessment) -> bool {
    if !counts(module, system) || matches!(module.state, State::Ok | State::Building) {
        return false;
    }
    let next = presumed(system).map(|k| k.name.release());
    let in_use = || {
        system.inventory.running_kernel().is_some_and(|running| {
            let mut on_running =
                system.modules_on_kernels.iter().filter(|p| p.release == running.name.release());
            let name = &module.module.name;
            on_running.any(|p| p.module.name == *name && p.proof.is_ok())
                || system.files.in_force(name, &running.name.release()).is_some()
        })
    };
    // The author of a module may exclude a kernel that includes it.
    let is_there = || {
        let need = assessment.needs.iter().find(|need| need.module == module.module.name);
        need.is_some_and(|need| satisfied(system, need, &module.kernel, Some(module)) == Some(Ready::Yes))
    };
    !module.state.is_fine() || (next.as_ref() == Some(&module.kernel) && in_use() && !is_there())
}
