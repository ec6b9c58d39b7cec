//! The status document: one value, built from observation and record. Text, JSON and the message of the day
//! are renderings of it.

pub mod add;
pub mod boot_remedies;
pub mod catalog;
pub mod cause_remedy;
pub mod enforcement;
mod enforcement_conclusion;
pub mod enforcement_remedies;
pub mod guard;
mod kernels;
pub mod lint;
mod loading;
pub mod loading_outlook;
pub mod module;
pub mod motd;
pub mod observation;
pub mod packages;
pub mod problem;
mod problems;
pub mod remedies;
pub mod remedy;
pub mod remove;
pub mod render;
pub mod setup;
pub mod side_files;
pub mod transfer;
mod unmanaged;
mod verdict;
pub mod waiting;

use jiff::Timestamp;
use serde::Serialize;

use crate::automation::{AutomationFault, Duty};
use crate::boot::ReadBack;
use crate::boot_decision::{NextBootSource, Reason};
use crate::cmdline::Switch;
use crate::config::{Settings, SigUnenforce};
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::decide::unread;
use crate::dkms::plan::State;
use crate::kernel::{Headers, Variant};
use crate::requirement::{Importance, Use};
use crate::state::{ModuleRecord, RunRecord, Stored};
use crate::sys::TimeStyle;
use crate::system::System;
use guard::GuardReport;
use kernels::{is_missed, is_reported_below};
use loading_outlook::{Outlook, loading_outlook};
use problem::{Problem, ProblemKind, listed};
use problems::{entries, in_all, problems};
use remedies::{Situation, remedy};
use remedy::{AdminCommand, CommandTarget, Remedy};

pub use verdict::Verdict;
use verdict::verdict;

/// One kernel.
#[derive(Debug, Clone, Serialize)]
pub struct KernelStatus {
    /// `uname -r`.
    pub release: String,
    /// The kernel id.
    pub id: String,
    /// Variant, family and bundles.
    #[serde(flatten)]
    pub variant: Variant,
    /// Whether it runs.
    pub running: bool,
    /// Whether it boots next, or did when that was last known.
    pub next_boot: bool,
    /// Whether it is kept from becoming the default.
    pub held_back: bool,
    /// Whether it is the tip of its variant.
    pub tip: bool,
    /// Whether it is an older kernel that could still be booted.
    pub fallback: bool,
    pub headers: Headers,
    /// The number of proven modules.
    pub modules_ready: usize,
    /// The number of modules that should be there.
    pub modules_needed: usize,
    /// The value of `module.sig_unenforce` in its configured command line: `on`, `off` or `unknown`.
    pub sig_unenforce: Switch,
}

/// One module on one kernel.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleStatus {
    /// Its record, with paths on the host.
    #[serde(flatten)]
    pub record: ModuleRecord,
    /// The id of its state, for `clr-dkms explain`.
    pub id: &'static str,
    /// Its importance on this machine.
    pub class: Importance,
    /// Whether it should be there or is in use now, and will be missing on a kernel that may be booted.
    pub missed: bool,
    /// Its sentence in [`StatusDocument::problems`]. None if nothing is wrong, or another sentence reports
    /// it.
    pub problem: Option<Problem>,
    /// The next step that installs it; none if nothing has to be done.
    pub next_step: Option<String>,
    /// Whether the source is newer than the build.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub source_changed: bool,
}

/// The document.
#[derive(Debug, Clone, Serialize)]
pub struct StatusDocument {
    /// Increased only if the meaning of a field changes.
    pub schema: u32,
    /// The answer.
    pub verdict: Verdict,
    /// The id of the verdict, for `clr-dkms explain`.
    pub id: &'static str,
    /// Whether the machine may be rebooted now without losing a critical module. None if that cannot be
    /// determined.
    pub may_reboot: Option<bool>,
    /// The answer in one sentence.
    pub summary: String,
    /// The path of the root on the host. Paths in the document begin with it.
    pub root: String,
    /// The next step; none if there is nothing to do.
    pub next_step: Option<String>,
    /// The release of the running kernel.
    pub running: Option<String>,
    /// The release of the kernel that boots next, or that did when it was last known.
    pub next_boot: Option<String>,
    /// How it is known; none if it is unknown.
    pub next_boot_source: Option<NextBootSource>,
    /// Why it is unknown now, as a sentence; none if it is known.
    pub next_boot_unknown: Option<String>,
    /// The kernels in use.
    pub kernels: Vec<KernelStatus>,
    /// The modules on them.
    pub modules: Vec<ModuleStatus>,
    /// Whether `module.sig_unenforce` is wanted.
    pub sig_unenforce_wanted: bool,
    /// How kernels treat modules without a trusted signature.
    pub unsigned_modules: Outlook,
    /// The state of the boot entries: `verified`, `differs` or `not-visible`. None before the first update by
    /// clr-dkms.
    pub boot_entries: Option<String>,
    /// When clr-dkms last updated the boot files.
    pub boot_updated: Option<Timestamp>,
    /// The start of the last run that found something new.
    pub last_run: Option<Timestamp>,
    /// All problems, the most important first.
    pub problems: Vec<Problem>,
    /// The same, each with its subject and its remedy.
    pub problem_list: Vec<ProblemReport>,
    /// Oddities that are not problems.
    pub notes: Vec<String>,
    /// Files and directories that this user may not read.
    pub unreadable: Vec<String>,
    /// Faults of the units and hooks that start clr-dkms. None if they are not installed, or were not
    /// checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automation: Option<AutomationReport>,
    /// Which kernel boots next, which one should, and why.
    pub guard: GuardReport,
}

/// Whether clr-dkms is started automatically.
#[derive(Debug, Clone, Serialize)]
pub struct AutomationReport {
    /// `on`, `limited` or `off`: modules are built after an update.
    pub rebuild: &'static str,
    /// Units and hooks that do not do their work.
    pub faults: Vec<AutomationFault>,
}

impl AutomationReport {
    fn new(faults: &[AutomationFault]) -> AutomationReport {
        let mut of_rebuild = faults.iter().filter(|fault| fault.duty == Duty::Rebuild).peekable();
        let rebuild = match (of_rebuild.peek().is_some(), of_rebuild.any(|fault| fault.is_off)) {
            (false, _) => "on",
            (true, false) => "limited",
            (true, true) => "off",
        };
        AutomationReport { rebuild, faults: faults.to_vec() }
    }
}

/// A problem in the document.
#[derive(Debug, Clone, Serialize)]
pub struct ProblemReport {
    /// The kind of problem.
    pub kind: ProblemKind,
    /// The module that it concerns, as `name/version`.
    pub module: Option<String>,
    /// The release of the kernel that it concerns.
    pub kernel: Option<String>,
    /// The sentence.
    pub text: String,
    /// The remedy; none if there is none.
    pub next_step: Option<String>,
    /// The words of the command, if one command is the whole remedy.
    pub command: Option<Vec<String>>,
}

impl ProblemReport {
    fn new(problem: &Problem, remedy: Option<&Remedy>, target: &CommandTarget) -> ProblemReport {
        ProblemReport {
            kind: problem.kind(),
            module: problem.module(),
            kernel: problem.kernel().map(str::to_owned),
            text: problem.to_string(),
            next_step: remedy.map(|remedy| remedy.text(target)),
            command: remedy.and_then(Remedy::command).map(|command| command.words(target)),
        }
    }
}

/// Whether a run is active, or was interrupted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// No run is active or was interrupted.
    None,
    /// A run is active. It builds these, each as `module/version on kernel`.
    Working(Vec<String>),
    /// A run was killed before its end.
    BrokenOff,
}

impl StatusDocument {
    /// The document without older kernels and the modules on them.
    #[must_use]
    pub fn without_fallbacks(&self) -> StatusDocument {
        let mut document = self.clone();
        document.kernels.retain(|k| !k.fallback);
        document.modules.retain(|m| document.kernels.iter().any(|k| k.release == m.record.kernel));
        document
    }

    /// The problem that the summary is about; none if it is about something else.
    pub fn headline(&self) -> Option<&Problem> {
        let is_said = match self.verdict {
            Verdict::Degraded | Verdict::Held | Verdict::Unsafe => true,
            Verdict::Unknown => self.unreadable.is_empty(),
            _ => false,
        };
        self.problems.first().filter(|_| is_said)
    }

    /// What the summary says of that problem, with its times in that style.
    pub fn headline_text(&self, times: &TimeStyle) -> Option<String> {
        self.headline().map(|first| in_all(first, &self.problems, times))
    }

    /// What a reboot would lead to, if the verdict alone does not say it.
    pub fn on_reboot(&self) -> Option<String> {
        let is_loaded = |name: &str| {
            let needs = self.guard.needs.iter();
            needs.filter(|need| need.module == name).any(|need| need.why.contains(&Use::Loaded))
        };
        let ok_now = |name: &str| {
            let running = |m: &&ModuleStatus| Some(&m.record.kernel) == self.running.as_ref();
            // A signature that the next boot refuses does not unload a module.
            self.modules.iter().filter(running).any(|m| {
                let state = m.record.state;
                m.record.module.name == name
                    && (state.works() || (state == State::SignatureRefused && is_loaded(name)))
            })
        };
        let next = self.next_boot.as_ref()?;
        let missed = self.modules.iter().filter(|m| m.missed && m.record.kernel == *next);
        let lost = missed.filter(|m| ok_now(&m.record.module.name)).map(|m| m.record.module.to_string());
        let lost: Vec<String> = lost.collect();
        // A next boot of the wrong kernel is not called safe.
        let is_wrong = self.problems.iter().any(|p| p.kind() == ProblemKind::WrongDefault);
        match (self.verdict, lost.as_slice()) {
            (_, []) if is_wrong => None,
            (Verdict::Held | Verdict::Degraded, []) => Some("a reboot is safe".to_owned()),
            (Verdict::Held | Verdict::Degraded, lost) => Some(format!("a reboot loses {}", listed(lost))),
            _ => None,
        }
    }
}

impl Progress {
    /// Whether the active run builds that module for that kernel.
    fn builds(&self, module: &ModuleRecord) -> bool {
        let this = || format!("{} on {}", module.module, module.kernel);
        matches!(self, Progress::Working(builds) if builds.contains(&this()))
    }
}

/// The input of the document.
#[derive(Debug, Clone, Copy)]
struct DocumentSources<'a> {
    system: &'a System,
    record: &'a Stored<RunRecord>,
    progress: &'a Progress,
    settings: &'a Settings,
}

/// The reason for the verdict comes first: what could not be read, and then what depends on it.
fn unknown_first(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| match problem.kind() {
        ProblemKind::Unreadable | ProblemKind::NextBootUnknown => 0,
        _ if problem.is_unknown() => 1,
        _ => 2,
    });
}

/// Builds the document.
pub fn document(
    system: &System,
    record: &Stored<RunRecord>,
    progress: &Progress,
    settings: &Settings,
    now: Timestamp,
) -> StatusDocument {
    let of = DocumentSources { system, record, progress, settings };
    let known = record.as_good();
    let assessment = assess(system, settings, known);
    let next_boot = assessment.next.shown().map(str::to_owned);
    let kernels = kernels::matter(system, &assessment);
    let records = kernels::modules_on(of, &kernels, &assessment);
    let kernels = kernels::with_modules(kernels, &records, system, &assessment);
    let modules: Vec<ModuleStatus> =
        records.iter().map(|record| module(record, system, settings, &assessment)).collect();
    let at =
        Situation { system, settings, assessment: &assessment, progress, record: known, modules: &records };
    let target = CommandTarget::of(system);
    let mut problems = problems(of, &modules, &assessment);
    let verdict = verdict(of, &records, &assessment, &problems);
    if verdict == Verdict::Unknown {
        unknown_first(&mut problems);
    }
    let guard = GuardReport::new(at, now);
    // A run that is active does not resolve what is unknown.
    let progress = if verdict == Verdict::Unknown { &Progress::None } else { progress };
    let at = Situation { progress, ..at };
    let reported = |problem: &Problem| ProblemReport::new(problem, remedy(problem, at).as_ref(), &target);
    let mut document = StatusDocument {
        schema: 1,
        verdict,
        id: catalog::verdict_id(verdict),
        may_reboot: match verdict {
            Verdict::Healthy | Verdict::RebootPending | Verdict::Degraded | Verdict::Held => Some(true),
            Verdict::Building | Verdict::Unsafe => Some(false),
            Verdict::Unknown | Verdict::NotApplicable => None,
        },
        summary: String::new(),
        next_step: None,
        root: system.root.display().to_string(),
        kernels,
        modules,
        running: system.inventory.running.release().map(str::to_owned),
        next_boot,
        next_boot_source: assessment.next.source(),
        next_boot_unknown: assessment.next.unknown().map(str::to_owned),
        sig_unenforce_wanted: sig_unenforce_wanted(settings, system, &assessment.needs),
        unsigned_modules: loading_outlook(system),
        boot_entries: match &entries(system, &assessment, known) {
            // The result of the last run, which may have had access to more.
            ReadBack::NotVisible => known.and_then(|r| r.boot.entries.clone()),
            seen => Some(seen.word().to_owned()),
        },
        boot_updated: known.and_then(|r| r.boot.updated),
        last_run: known.map(|r| r.started),
        problem_list: problems.iter().map(reported).collect(),
        problems,
        notes: notes(system, &assessment),
        automation: system.automation.as_deref().map(AutomationReport::new),
        unreadable: system.denied.iter().map(|path| path.display().to_string()).collect(),
        guard,
    };
    document.summary = summary(&document, &assessment);
    let step = match document.headline() {
        Some(problem) => remedy(problem, at),
        None => remedies::of_verdict(verdict),
    };
    document.next_step = match (verdict, step) {
        (Verdict::Unsafe, Some(step)) if step != Remedy::Wait => {
            Some(format!("do not reboot yet; {}", step.text(&target)))
        }
        (Verdict::Unsafe, None) => Some("do not reboot yet".to_owned()),
        (_, step) => step.map(|step| step.text(&target)),
    };
    document
}

fn module(
    record: &ModuleRecord,
    system: &System,
    settings: &Settings,
    assessment: &BootAssessment,
) -> ModuleStatus {
    let name = &record.module.name;
    // A refusal that the admin has configured is not a fault.
    let by_wish = (settings.sig_unenforce == SigUnenforce::Off && is_reported_below(record, system))
        || (record.state == State::Blocked && assessment.is_listed_as_optional(name));
    let missed = is_missed(record, system, assessment) && !by_wish;
    let step = remedies::of_module_on_kernel(record, missed, system).filter(|_| !by_wish);
    ModuleStatus {
        id: catalog::state_id(record.state),
        class: assessment.class_of(name),
        missed,
        problem: problems::of_module(record, system, assessment),
        next_step: step.map(|step| step.text(&CommandTarget::of(system))),
        source_changed: system
            .module_on_kernel(&record.module, &record.kernel)
            .is_some_and(|pair| pair.source_changed),
        record: record.clone(),
    }
}

fn notes(system: &System, assessment: &BootAssessment) -> Vec<String> {
    let is_held = assessment.held_back.is_some() || assessment.decision.because == Reason::Trial;
    let odd = system.inventory.oddities.iter().chain(&system.tree.oddities);
    let mut notes: Vec<String> = odd.map(|o| format!("{} {}", o.path, o.what)).collect();
    // A kernel is held because clr-boot-manager would choose another default, so that is not a problem.
    let odd = system.boot.oddities().filter(|problem| !(is_held && problem.is_other_default));
    notes.extend(odd.map(ToString::to_string).chain(system.boot.invisible.clone()));
    for pair in system.modules_on_kernels.iter().filter(|pair| pair.source_changed) {
        let words = ["rebuild", &pair.module.name, "-k", &pair.release];
        let build = AdminCommand::change("clr-dkms", &words).to("build it again");
        let step = build.text(&CommandTarget::of(system));
        notes.push(format!(
            "{} on kernel {}: its source is newer than the build; {step}",
            pair.module, pair.release
        ));
    }
    notes.extend(unmanaged::notes(system, assessment));
    notes.extend(loading::notes(system));
    notes.extend(system.boot_blocker.as_ref().map(ToString::to_string));
    let unreadable = system.lines.iter().flat_map(|l| &l.sources.unreadable);
    notes.extend(unreadable.map(ToString::to_string));
    notes.extend(unread::notes(system));
    notes.dedup();
    notes
}

fn summary(document: &StatusDocument, assessment: &BootAssessment) -> String {
    let next = document.kernels.iter().find(|k| k.next_boot);
    let is_managed = document.modules.iter().all(|m| m.record.module.is_managed());
    let dkms = if is_managed { "DKMS " } else { "" };
    let ready = |k: &KernelStatus| match k.modules_needed {
        0 => format!("kernel {} needs no {dkms}module", k.release),
        1 => format!("the {dkms}module is ready for kernel {}", k.release),
        n => format!("all {n} {dkms}modules are ready for kernel {}", k.release),
    };
    match (document.verdict, next) {
        (Verdict::RebootPending, Some(k)) if !assessment.refused_until_reboot.is_empty() => {
            let names = listed(&assessment.refused_until_reboot);
            format!("kernel {} refuses {names} until it is booted again", k.release)
        }
        (Verdict::RebootPending, Some(k)) if !assessment.may_be_refused_until_reboot.is_empty() => {
            let names = listed(&assessment.may_be_refused_until_reboot);
            format!("kernel {} may refuse {names} until it is booted again", k.release)
        }
        // On a healthy system only modules that its admin wants to be refused are not ready.
        (Verdict::Healthy | Verdict::RebootPending, Some(k)) if k.modules_ready < k.modules_needed => {
            let refused = document.modules.iter().filter(|m| m.record.kernel == k.release);
            refused.filter_map(|m| m.record.reason.clone()).next().unwrap_or_else(|| ready(k))
        }
        (Verdict::Healthy | Verdict::RebootPending, Some(k)) => ready(k),
        (Verdict::Healthy, None) => "all DKMS modules are ready".to_owned(),
        (Verdict::Building, _) => "a run is building modules now".to_owned(),
        (Verdict::Unknown, _) if !document.unreadable.is_empty() => {
            let more = match document.unreadable.len() - 1 {
                0 => String::new(),
                1 => " and another place".to_owned(),
                n => format!(" and {n} other places"),
            };
            format!("this user may not look at {}{more}", document.unreadable[0])
        }
        (Verdict::NotApplicable, _) => "no kernel of clr-boot-manager is installed here".to_owned(),
        _ => {
            let headline = document.headline_text(&TimeStyle::Utc);
            headline.unwrap_or_else(|| "it cannot be determined".to_owned())
        }
    }
}
