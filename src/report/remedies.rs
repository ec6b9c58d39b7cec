//! The remedy for each problem: the one function that all reports use.

use super::boot_remedies::{find_out_next_boot, of_boot_default, of_failed_boot_update};
use super::cause_remedy::{self, cause_remedy};
use super::enforcement_remedies::take_out;
use super::packages::Packages;
use super::problem::Problem;
use super::remedy::{AdminCommand, Remedy};
use super::{Progress, Verdict};
use crate::automation::{AutomationFault, Defect};
use crate::boot::SetBy;
use crate::boot::deferral::SwupdLine;
use crate::boot::inputs::BootPart;
use crate::boot_decision::Ruling;
use crate::config::Settings;
use crate::decide::assessment::BootAssessment;
use crate::decide::entry_loss::EntryLoss;
use crate::decide::loading::{LoadForecast, Obstruction, file_forecast, load_forecast};
use crate::decide::module_state::parameter_would_help;
use crate::decide::satisfaction::CommandLine;
use crate::dkms::cause::Cause;
use crate::dkms::conf::ConfError;
use crate::dkms::plan::State;
use crate::dkms::{ModuleName, ModuleOnKernel, Source};
use crate::kernel::Installed;
use crate::kernel::module_file::kernel_name;
use crate::modprobe::LoadBlocker;
use crate::state::{ModuleRecord, RunRecord};
use crate::system::System;

/// What a remedy depends on, in addition to the problem.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The observed system.
    pub system: &'a System,
    /// The settings.
    pub settings: &'a Settings,
    /// What is required, and which kernel should boot.
    pub assessment: &'a BootAssessment,
    /// Whether a run is active.
    pub progress: &'a Progress,
    /// The record of the last run.
    pub record: Option<&'a RunRecord>,
    /// The modules on the kernels that matter.
    pub modules: &'a [ModuleRecord],
}

/// The remedy for a problem; none if there is none.
pub fn remedy(problem: &Problem, at: Situation<'_>) -> Option<Remedy> {
    use Problem as P;
    Some(match problem {
        P::ModuleNotReady(record) | P::ModuleRefused(record) => of_module(record, None, at.system),
        P::NextBootUnknown { .. } => find_out_next_boot(at.system),
        P::BootsRemoved { .. }
        | P::BootsWithout { .. }
        | P::NoGoodKernel { .. }
        | P::WrongDefault { .. }
        | P::HeldByAdmin { .. }
        | P::TrialFailed { .. }
        | P::TrialUnchecked { .. }
        | P::OnTrial { .. }
        | P::HeldBack { .. } => return of_boot_default(at),
        P::TrialOverridden { set_by: SetBy::LoaderConf, .. } => {
            post_update().to("correct the boot default").into()
        }
        P::TrialOverridden { .. } => {
            let take_back = AdminCommand::change("bootctl", &["set-default", ""]);
            take_back.to("let the boot default decide").into()
        }
        P::Unreadable { .. } if !at.system.denied.is_empty() => as_root(),
        P::Unreadable { .. } if is_refused(at.system, |_| true) => cause_remedy::trust(at.system, run()),
        P::Unreadable { .. } => Remedy::by_hand("make what cannot be read readable, then ask again"),
        P::RunBrokenOff => continue_run(),
        P::BootUpdateFailed { .. } => of_failed_boot_update(),
        P::SetupFault { .. } => Remedy::by_hand("correct that").then(run()),
        // Another run fails for the same reason.
        P::BootEntry(_) | P::BootFilesOutdated
            if at.record.is_some_and(|record| record.boot.error.is_some()) =>
        {
            Remedy::by_hand("correct what keeps the boot files from being updated").then(run())
        }
        P::BootEntry(fault) if fault.clear.is_some() => {
            Remedy::by_hand("correct the boot entries as the problems say").then(run())
        }
        P::Automation(fault) => of_automation(fault),
        P::NoInitrd { kernel, path, .. } => make_initrd(kernel, path),
        P::EntryLoss(EntryLoss::Blocked { module, by, .. }) => unblock(at.system, module, by),
        P::OverridesLost { .. } | P::HeldUnbootable { .. } => {
            let hold = AdminCommand::change("clr-dkms", &["hold"]).to("hold the running kernel");
            Remedy::from(hold).or(AdminCommand::change("clr-dkms", &["unhold"]).to("hold none"))
        }
        P::SwupdOverrides(by) => leave_boot_files(by),
        P::SwupdNotAsked { .. } => Remedy::by_hand("correct that file").then(run()),
        P::ParameterMissing { .. } => enable_parameter(),
        P::Waiting(part) => of_waiting(&part.what, at),
        P::BootEntry(_)
        | P::BootFilesOutdated
        | P::EntryLoss(EntryLoss::Refused { .. } | EntryLoss::Initrd { .. })
        | P::Recorded { .. }
        | P::RecordDamaged { .. }
        | P::NeverRun => run(),
    })
}

/// The remedy for a faulty unit or hook.
pub(super) fn of_automation(fault: &AutomationFault) -> Remedy {
    let systemctl = |verb: &str| AdminCommand::change("systemctl", &[verb, &fault.what]);
    match fault.defect {
        Defect::Masked => systemctl("unmask").into(),
        Defect::NotEnabled | Defect::Missing => Remedy::by_hand("install clr-dkms again"),
        Defect::Failed => {
            let look = AdminCommand::look("systemctl", &["status", &fault.what]).to("see why");
            Remedy::from(look).then(systemctl("restart"))
        }
    }
}

/// The remedy that follows from a verdict alone; none if nothing has to be done.
pub fn of_verdict(verdict: Verdict) -> Option<Remedy> {
    let look = |verb, purpose: &str| Remedy::from(AdminCommand::look("clr-dkms", &[verb]).to(purpose));
    match verdict {
        Verdict::Healthy | Verdict::NotApplicable => None,
        Verdict::RebootPending => Some(Remedy::Reboot(Vec::new())),
        Verdict::Building => Some(Remedy::Wait),
        Verdict::Degraded => Some(look("status", "see what is wrong, and what helps")),
        Verdict::Held | Verdict::Unsafe => Some(look("guard", "see what the kernel lacks, and what helps")),
        Verdict::Unknown => Some(as_root()),
    }
}

/// Another run completes the work.
pub(super) fn run() -> Remedy {
    post_update().into()
}

pub(super) fn post_update() -> AdminCommand {
    AdminCommand::change("clr-dkms-post-update", &[])
}

pub(super) fn continue_run() -> Remedy {
    post_update().to("continue where the last run stopped").into()
}

/// Root can read more.
pub(super) fn as_root() -> Remedy {
    AdminCommand::change("clr-dkms", &["status"]).into()
}

/// The remedy for a module with an unknown state.
pub(super) fn of_unknown(then: Remedy) -> Remedy {
    Remedy::by_hand("make what cannot be read readable").then(then)
}

fn enable_parameter() -> Remedy {
    let enable = AdminCommand::change("clr-dkms-cmdline", &["enable"]);
    enable.to("add module.sig_unenforce, or to see what is in the way").into()
}

/// The remedy for an outdated part of the boot files.
fn of_waiting(part: &BootPart, at: Situation<'_>) -> Remedy {
    let now = at.assessment.decision.ruling;
    let waited_for_proof =
        at.record.and_then(|record| record.guard.as_ref()).is_some_and(|then| then.ruling == Ruling::Defer);
    let update = AdminCommand::change("clr-boot-manager", &["update"]);
    let at_own_risk = || update.to(format!("bring {part} up to date at your own risk"));
    match (now, of_boot_default(at)) {
        // Only the held kernel prevented a run from doing it.
        (Ruling::Allow, _) if waited_for_proof => run(),
        // It ends together with the reason why the kernel is held back.
        (Ruling::Defer, Some(remedy)) => remedy.or(at_own_risk()),
        _ => at_own_risk().into(),
    }
}

fn make_initrd(kernel: &str, path: &str) -> Remedy {
    let dracut = AdminCommand::change("dracut", &["--kver", kernel, path]);
    let make = dracut.to(format!("make the initrd of kernel {kernel}, or make it with another program"));
    Remedy::from(make).or(Remedy::by_hand("set initrd-command in clr-dkms.conf"))
}

/// The remedy for a module on a kernel; none if nothing has to be done.
pub fn of_module_on_kernel(record: &ModuleRecord, is_missed: bool, system: &System) -> Option<Remedy> {
    match record.state {
        State::Building => Some(Remedy::Wait),
        state if state.is_fine() && !is_missed => None,
        _ => Some(of_module(record, None, system)),
    }
}

/// The remedy for a module that is not ready on a kernel. `names` are that module and others with the same
/// remedy.
pub(super) fn of_module(record: &ModuleRecord, names: Option<&str>, system: &System) -> Remedy {
    let ModuleRecord { module, kernel, state, .. } = record;
    let installed = system.inventory.of_release(kernel);
    match state {
        State::SignatureRefused if parameter_would_help(system, kernel) => return enable_parameter(),
        State::InitrdStale => {
            let own = system.initrds.get(kernel).and_then(|initrds| initrds.own.first().cloned());
            let path = own.or_else(|| installed.map(|k| format!("/etc/kernel/initrd-{}", k.id)));
            return make_initrd(kernel, &path.unwrap_or_default());
        }
        State::Blocked => {
            if let Some(by) = obstruction(record, system) {
                return unblock(system, &module.name, &by);
            }
        }
        State::BrokenSource if is_gone(module, system) => {
            return Remedy::by_hand(format!("restore the source of {module}")).or(give_up(module));
        }
        State::NotManaged => return not_managed(record, system, installed),
        State::Unknown if is_refused(system, |pair| pair.module == *module) => {
            return cause_remedy::trust(system, build(module, kernel, installed));
        }
        State::Unknown if has_timed_out(module, kernel, system) => {
            let conf = "if the machine was not busy, correct that dkms.conf";
            return Remedy::by_hand(conf).then(build(module, kernel, installed));
        }
        _ => {}
    }
    let whole = module.to_string();
    let packages = Packages::of(kernel, &system.inventory);
    if *state == State::BuildFailed {
        let run = build(module, kernel, installed);
        return match &record.error {
            Some(error) if error.cause == Cause::NotConfined => cause_remedy::trust(system, run),
            error => cause_remedy(error.as_ref(), names.unwrap_or(&whole), &packages).then(run),
        };
    }
    of_state(*state, module, names.unwrap_or(&whole), kernel, &packages, build(module, kernel, installed))
}

/// The remedy for a hook script that was not run, or has failed.
pub fn of_hook(module: &ModuleName, kernel: &str) -> Remedy {
    let logs = AdminCommand::look("clr-dkms", &["logs", &module.name]).to("see why");
    let again = AdminCommand::change("clr-dkms", &["rebuild", &module.name, "-k", kernel, "--force"]);
    Remedy::from(logs).then(Remedy::by_hand("correct the script")).then(again)
}

/// The remedy for the state of a module on a kernel. `run` builds it there.
pub fn of_state(
    state: State,
    module: &ModuleName,
    names: &str,
    kernel: &str,
    packages: &Packages,
    run: Remedy,
) -> Remedy {
    match state {
        State::Building => Remedy::Wait,
        State::SignatureRefused => {
            AdminCommand::look("clr-dkms", &["enforcement"]).to("see why, and what helps").into()
        }
        State::HeadersMissing => packages.install_headers(kernel),
        State::Blocked => AdminCommand::look("clr-dkms", &["status"]).to("see the file and the line").into(),
        State::InitrdStale => make_initrd(kernel, "/etc/kernel/initrd-KERNEL_ID"),
        State::HeadersMismatch => Remedy::from(packages.restore_headers()).then(run),
        State::DependencyFailed => Remedy::by_hand("install what it needs").then(run),
        State::BuildFailed => Remedy::by_hand(format!("fix or update {names}")).then(run),
        State::NotAutoinstall => {
            let build = AdminCommand::change("clr-dkms", &["rebuild", &module.name, "-k", kernel]);
            Remedy::from(build.to("build it this once"))
                .or(Remedy::by_hand("put AUTOINSTALL=\"yes\" into its dkms.conf"))
        }
        State::SkippedExclusive => Remedy::by_hand("stay on the running kernel")
            .or(Remedy::by_hand(format!("find a version of {} for the new one", module.name))),
        State::HookFailed => of_hook(module, kernel),
        State::BrokenSource => {
            let lint = AdminCommand::look("clr-dkms", &["lint", &module.name]).to("see what is wrong");
            Remedy::from(lint).or(give_up(module))
        }
        State::Conflict => {
            let remove = give_up(module);
            Remedy::from(remove.to("keep the other one, or do the same with that one")).then(run)
        }
        State::NotManaged => {
            let add = AdminCommand::change("dkms", &["add", "DIRECTORY"]).to("have DKMS manage its source");
            Remedy::by_hand(format!("install {} for kernel {kernel} as it was installed before", module.name))
                .or(add)
        }
        State::CompilerMissing => Remedy::from(packages.install_compiler()).then(run),
        State::Unknown => of_unknown(run),
        State::Ok
        | State::NotBuilt
        | State::VermagicMismatch
        | State::SymbolsMismatch
        | State::NotInModulesDep => run,
    }
}

/// The remedy if swupd does not leave the boot files to clr-dkms.
pub fn leave_boot_files(by: &SwupdLine) -> Remedy {
    let take_out = Remedy::by_hand(format!("remove that line from {}", by.file));
    take_out.or(Remedy::by_hand("set `[boot] policy = hold`"))
}

/// The command that builds a module for a kernel. An ordinary run builds only for the default kernel of each
/// variant.
fn build(module: &ModuleName, kernel: &str, installed: Option<&Installed>) -> Remedy {
    match installed.is_some_and(|k| k.tip) {
        true => run(),
        false => AdminCommand::change("clr-dkms", &["rebuild", &module.name, "-k", kernel]).into(),
    }
}

fn give_up(module: &ModuleName) -> AdminCommand {
    AdminCommand::change("dkms", &["remove", &module.to_string(), "--all"]).to("give it up")
}

/// The next step for a module that DKMS does not manage.
fn not_managed(record: &ModuleRecord, system: &System, installed: Option<&Installed>) -> Remedy {
    let name = &record.module.name;
    let step = match system.files.unregistered_source(name) {
        Some(path) => Remedy::from(AdminCommand::change("dkms", &["add", path])).then(build(
            &record.module,
            &record.kernel,
            installed,
        )),
        None => {
            let packages = Packages::of(&record.kernel, &system.inventory);
            of_state(State::NotManaged, &record.module, name, &record.kernel, &packages, run())
        }
    };
    match system.in_use.loaded.contains(&kernel_name(name)) {
        true => step,
        false => step.or(AdminCommand::change("clr-dkms", &["forget", name]).to("give it up")),
    }
}

/// What prevents a module from being loaded.
fn obstruction(record: &ModuleRecord, system: &System) -> Option<Obstruction> {
    let forecast = match system.module_on_kernel(&record.module, &record.kernel) {
        Some(pair) => load_forecast(system, pair, None, CommandLine::Coming),
        // DKMS does not manage it, so its file probably has the same name.
        None => {
            let file = kernel_name(&record.module.name);
            file_forecast(system, &record.kernel, &file, true, CommandLine::Coming)
        }
    };
    match forecast {
        LoadForecast::Blocked(by) | LoadForecast::Remark(by) => Some(by),
        LoadForecast::Loads | LoadForecast::Unknown(_) => None,
    }
}

/// The remedy for what prevents a module from being loaded.
fn unblock(system: &System, module: &str, by: &Obstruction) -> Remedy {
    let blocker = match &by.blocker {
        LoadBlocker::Dependency(_, blocker) => blocker,
        own => own,
    };
    let way = match (blocker.line(), blocker.word()) {
        (Some(at), _) => {
            let name = at.path.rsplit('/').next().unwrap_or_default();
            let path = system.shown_path(&at.path);
            Remedy::by_hand(match at.path.starts_with("/etc/") || at.path.starts_with("/run/") {
                true => format!("remove line {} from {path}", at.line),
                // A file below `/usr` would be restored by the next update.
                false => format!("copy {path} to /etc/modprobe.d/{name} without line {}", at.line),
            })
        }
        (None, Some(word)) => take_out(&format!("{word}=")),
        (None, None) => Remedy::by_hand("remove the cause"),
    };
    let name = module.split('/').next().unwrap_or(module);
    way.or(Remedy::by_hand(format!(
        "if this is intended, add {name} to `[modules] optional` of clr-dkms.conf"
    )))
}

/// Whether the dkms.conf of such a module is not evaluated because the machine cannot confine it.
fn is_refused(system: &System, is_meant: impl Fn(&ModuleOnKernel) -> bool) -> bool {
    let mut all = system.modules_on_kernels.iter();
    all.any(|pair| is_meant(pair) && matches!(pair.conf, Err(ConfError::Refused(_))))
}

fn has_timed_out(module: &ModuleName, kernel: &str, system: &System) -> bool {
    let pair = system.module_on_kernel(module, kernel);
    pair.is_some_and(|pair| matches!(pair.conf, Err(ConfError::TimedOut(_))))
}

fn is_gone(module: &ModuleName, system: &System) -> bool {
    let mut all = system.modules_on_kernels.iter();
    all.any(|p| p.module == *module && matches!(p.source, Source::Broken { .. }))
}
