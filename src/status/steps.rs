//! The next step: one command for each thing that is wrong.

use std::path::Path;

use super::cause_remedy::cause_remedy;
use super::guard::GuardWord;
use super::{KernelStatus, ModuleStatus, Progress, StatusDocument, Verdict};
use crate::boot::ReadBack;
use crate::boot_decision::{Reason, Ruling};
use crate::cmdline::PARAMETER;
use crate::decide::initrds::how_to_make;
use crate::decide::loading::{self, LoadForecast, file_forecast, load_forecast};
use crate::decide::module_state::parameter_would_help;
use crate::decide::satisfaction::CommandLine;
use crate::dkms::cause::Cause;
use crate::dkms::conf::ConfError;
use crate::dkms::plan::State;
use crate::dkms::{ModuleOnKernel, Source};
use crate::kernel::Running;
use crate::kernel::module_file::kernel_name;
use crate::requirement::Importance;
use crate::state::ModuleRecord;
use crate::system::System;

const WAIT: &str = "wait for the run to end, and do not reboot until then";
const RUN: &str = "run `clr-dkms-post-update` as root";

/// What brings a module to a kernel; none where nothing has to be done.
pub(super) fn of_module(
    module: &ModuleRecord,
    is_missed: bool,
    system: &System,
    kernels: &[KernelStatus],
) -> Option<String> {
    match module.state {
        State::Building => Some(WAIT.to_owned()),
        state if state.is_fine() && !is_missed => None,
        _ => Some(cure(module, &module.module.to_string(), system, kernels)),
    }
}

/// What to do next; none when there is nothing to do.
pub(super) fn next_step(document: &StatusDocument, progress: &Progress, system: &System) -> Option<String> {
    match document.verdict {
        Verdict::Healthy | Verdict::NotApplicable => None,
        Verdict::Unsafe if matches!(progress, Progress::Working(_)) => Some(WAIT.to_owned()),
        Verdict::Held => Some(guard_step(document, system)),
        Verdict::Unsafe => Some(format!("do not reboot yet; {}", guard_step(document, system))),
        Verdict::RebootPending => Some("reboot when it suits you".to_owned()),
        Verdict::Building => Some(WAIT.to_owned()),
        Verdict::Unknown if !document.unreadable.is_empty() => Some("run `sudo clr-dkms status`".to_owned()),
        Verdict::Unknown if document.guard.word == GuardWord::Unknown => document.guard.next_step.clone(),
        Verdict::Unknown => Some(of_unknown(system)),
        Verdict::Degraded if *progress == Progress::BrokenOff => {
            Some(format!("{RUN}: it goes on where it was"))
        }
        Verdict::Degraded => Some(of_problem(document, system)),
    }
}

/// What makes known what is not.
pub(super) fn of_unknown(system: &System) -> String {
    match is_refused(system, |_| true) {
        true => trust(system, RUN),
        false => "see to what cannot be read, then ask again".to_owned(),
    }
}

/// Whether the dkms.conf of such a module is not evaluated because nothing confines it.
fn is_refused(system: &System, is_meant: impl Fn(&ModuleOnKernel) -> bool) -> bool {
    system
        .modules_on_kernels
        .iter()
        .any(|pair| is_meant(pair) && matches!(pair.conf, Err(ConfError::Refused(_))))
}

/// What helps where nothing confines the programs of a module. An image does not say what this machine
/// trusts.
fn trust(system: &System, run: &str) -> String {
    match is_own(system) {
        true => format!(
            "if the modules are trusted, put `[build] trust = yes` into /etc/clr-dkms/clr-dkms.conf, \
             then {run}"
        ),
        false => "if its modules are trusted, run `clr-dkms-post-update --trust` as root".to_owned(),
    }
}

/// What helps against the first problem, which is the one that the summary tells.
fn of_problem(document: &StatusDocument, system: &System) -> String {
    let Some(first) = document.problems.first() else { return RUN.to_owned() };
    let guard = &document.guard;
    if let Some(module) = document.modules.iter().find(|m| m.problem.as_ref() == Some(first)) {
        return module.next_step.clone().unwrap_or_else(|| RUN.to_owned());
    }
    if *first == guard.summary {
        return guard_step(document, system);
    }
    if guard.lost_wish.as_ref() == Some(first) {
        return "say it again with `clr-dkms hold` or `clr-dkms release` as root".to_owned();
    }
    if let Some(by) = guard.swupd.overridden_by.as_ref().filter(|by| first.starts_with(by.as_str())) {
        return format!("take that line out of {}, or set `[boot] policy = hold`", file_of(by));
    }
    if first.starts_with(PARAMETER) {
        return ENABLE.to_owned();
    }
    match &system.boot_entries {
        ReadBack::Differs(wrong) if wrong.contains(first) => {
            format!("correct the boot entries as the problems say, then {RUN}")
        }
        _ => RUN.to_owned(),
    }
}

fn file_of(place: &str) -> &str {
    place.rsplit_once(':').map_or(place, |(file, _)| file)
}

const ENABLE: &str =
    "run `clr-dkms-cmdline enable` as root: it adds module.sig_unenforce, or names what is in the way";

/// What brings the modules that a kernel is held back for, else what the guard says.
fn guard_step(document: &StatusDocument, system: &System) -> String {
    let guard = &document.guard;
    let said = || guard.next_step.clone().unwrap_or_else(|| "`clr-dkms guard` tells more".to_owned());
    // The boot default comes first where another kernel has what this one lacks, and an admin's word is an admin's.
    if guard.boots_next != guard.default || matches!(guard.because, Reason::Held | Reason::Released) {
        return said();
    }
    // To repair it is another matter, and not the way back to a machine that works.
    if let Some(step) = brings_back(&guard.comes_back) {
        return step;
    }
    let (lacks, kernel) = match guard.next_lacks.as_slice() {
        [] => (&guard.lacking, &guard.target),
        _ => (&guard.next_lacks, &guard.boots_next),
    };
    let on_kernel = |module: &str| {
        let is_it = |m: &&ModuleStatus| {
            Some(&m.record.kernel) == kernel.as_ref() && m.record.module.to_string() == module
        };
        document.modules.iter().find(is_it)
    };
    let Some(module) = lacks.first().and_then(|lack| on_kernel(&lack.module)) else { return said() };
    // What one step helps is named in it.
    let alike = lacks.iter().filter(|l| l.state == module.record.state.to_string());
    let names: Vec<&str> = alike.map(|l| l.module.as_str()).collect();
    let step = cure(&module.record, &listed(&names), system, &document.kernels);
    let may_go_ahead = document.verdict == Verdict::Held
        && guard.ruling == Ruling::Defer
        && guard.next_lacks.is_empty()
        && lacks.iter().all(|lack| lack.class < Importance::Critical);
    match (may_go_ahead, lacks.len()) {
        (false, _) => step,
        (true, 1) => step + "; or `clr-dkms release` goes ahead without it",
        (true, _) => step + "; or `clr-dkms release` goes ahead without them",
    }
}

/// What makes it known which kernel boots next.
pub(super) fn of_open(system: &System) -> String {
    let boot = &system.boot;
    if !system.denied.is_empty() {
        "ask again as root"
    } else if boot.loader.is_none() {
        "mount the boot partition, then ask again"
    } else if boot.entries.is_empty() {
        RUN
    } else {
        "`clr-boot-manager set-kernel` as root makes a kernel the boot default"
    }
    .to_owned()
}

/// The step that brings back what the running kernel lacks and the one that boots next has.
pub(super) fn brings_back(modules: &[String]) -> Option<String> {
    let names: Vec<&str> = modules.iter().map(String::as_str).collect();
    let what = if names.is_empty() { return None } else { listed(&names) };
    Some(format!("reboot: it brings {what} back"))
}

/// Names in a sentence: all of three, of more the first two.
pub(super) fn listed(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [one, other] => format!("{one} and {other}"),
        [one, other, third] => format!("{one}, {other} and {third}"),
        [one, other, more @ ..] => format!("{one}, {other} and {} more", more.len()),
    }
}

fn is_own(system: &System) -> bool {
    system.inventory.running != Running::None || system.root == Path::new("/")
}

/// In an image the commands are for that image, and not for the system that asks.
pub(super) fn for_root(step: String, system: &System) -> String {
    if is_own(system) {
        return step;
    }
    let root = system.root.display();
    let command = |(at, part): (usize, &str)| match (at % 2, part.split(' ').next()) {
        (1, Some("swupd")) => format!("{part} --path {root}"),
        (1, Some("dkms")) => format!("chroot {root} {part}"),
        (1, Some(program)) if program.starts_with("clr-dkms") => format!("{part} --root {root}"),
        _ => part.to_owned(),
    };
    step.split('`').enumerate().map(command).collect::<Vec<_>>().join("`")
}

/// The next command for a module that is not ready. `names` is that module, and others that the same is done for.
fn cure(module: &ModuleRecord, names: &str, system: &System, kernels: &[KernelStatus]) -> String {
    // Of itself a run builds for the kernel that is the default of its variant.
    let is_tip = kernels.iter().any(|k| k.release == module.kernel && k.tip);
    let run = match is_tip {
        true => RUN.to_owned(),
        false => format!("run `clr-dkms rebuild {} -k {}` as root", module.module.name, module.kernel),
    };
    match module.state {
        State::SignatureRefused if parameter_would_help(system, &module.kernel) => ENABLE.to_owned(),
        State::SignatureRefused => "`clr-dkms enforcement` tells why, and what helps".to_owned(),
        State::HeadersMissing => {
            let kernel = kernels.iter().find(|k| k.release == module.kernel);
            match kernel.and_then(|k| k.variant.dkms_bundle()) {
                Some(bundle) => format!("`swupd bundle-add {bundle}`, which brings the headers"),
                None => format!("install the headers of kernel {}", module.kernel),
            }
        }
        State::InitrdStale => {
            let kernel = system.inventory.kernels.iter().find(|k| k.name.release() == module.kernel);
            let own = system.initrds.get(&module.kernel).and_then(|initrds| initrds.own.first().cloned());
            let path = own.or_else(|| kernel.map(|k| format!("/etc/kernel/initrd-{}", k.id)));
            how_to_make(system, &module.kernel, &path.unwrap_or_default())
        }
        State::Blocked => unblock(module, system).unwrap_or(run),
        State::HeadersMismatch => format!("`swupd repair`, then {run}"),
        State::DependencyFailed => format!("bring what it needs, then {run}"),
        State::BuildFailed if module.error.as_ref().is_some_and(|e| e.cause == Cause::NotConfined) => {
            trust(system, &run)
        }
        State::BuildFailed => {
            format!("{}, then {run}", cause_remedy(module.error.as_ref(), names))
        }
        State::Unknown if is_refused(system, |pair| pair.module == module.module) => trust(system, &run),
        State::NotAutoinstall => format!(
            "`dkms install {} -k {}`, or put AUTOINSTALL=\"yes\" into its dkms.conf",
            module.module, module.kernel
        ),
        State::SkippedExclusive => {
            format!("stay on the running kernel, or find a version of {} for the new one", module.module.name)
        }
        State::BrokenSource if is_gone(module, system) => {
            format!("put the source of {} back, or `dkms remove {} --all`", module.module, module.module)
        }
        State::BrokenSource => {
            format!(
                "`clr-dkms lint {}` tells what is wrong; or give it up: `dkms remove {} --all`",
                module.module.name, module.module
            )
        }
        State::Conflict => format!(
            "keep one of the two: `dkms remove {} --all`, or the same for the other one, then {run}",
            module.module
        ),
        State::NotManaged => not_managed(module, system, &run),
        State::HookFailed => format!(
            "`clr-dkms logs {}` shows why; correct the script, then run `clr-dkms rebuild {} -k {} --force` as root",
            module.module, module.module.name, module.kernel
        ),
        State::CompilerMissing => {
            format!("`swupd bundle-add c-basic` (for clang: llvm), which brings it, then {run}")
        }
        _ => run,
    }
}

/// The next step for a module that DKMS does not manage.
fn not_managed(module: &ModuleRecord, system: &System, run: &str) -> String {
    let name = &module.module.name;
    let step = match system.files.unregistered_source(name) {
        Some(path) => format!("`dkms add {path}`, then {run}"),
        None => format!(
            "install {name} for kernel {} as it was installed before, or have DKMS manage it: `dkms add` with its source",
            module.kernel
        ),
    };
    match system.in_use.loaded.contains(&kernel_name(name)) {
        true => step,
        false => format!("{step}; or `clr-dkms forget {name}`, if it is not wanted any more"),
    }
}

/// What takes away what keeps a module from being loaded.
fn unblock(module: &ModuleRecord, system: &System) -> Option<String> {
    let pair =
        system.modules_on_kernels.iter().find(|p| p.module == module.module && p.release == module.kernel);
    let forecast = match pair {
        Some(pair) => load_forecast(system, pair, None, CommandLine::Coming),
        // DKMS does not manage it: most have one file of their own name.
        None => {
            let file = kernel_name(&module.module.name);
            file_forecast(system, &module.kernel, &file, true, CommandLine::Coming)
        }
    };
    match forecast {
        LoadForecast::Blocked(why) | LoadForecast::Remark(why) => {
            Some(loading::remedy(system, &module.module.name, &why))
        }
        LoadForecast::Loads | LoadForecast::Unknown(_) => None,
    }
}

fn is_gone(module: &ModuleRecord, system: &System) -> bool {
    system
        .modules_on_kernels
        .iter()
        .any(|p| p.module == module.module && matches!(p.source, Source::Broken { .. }))
}
