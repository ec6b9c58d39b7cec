//! The status document: one value, made from facts and the record; text, JSON and the MOTD are renderings of
//! it.

mod advice;
pub mod boot_remedies;
pub mod catalog;
pub mod cause_remedy;
pub mod enforcement;
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
pub mod render;
mod unmanaged;
mod verdict;
pub mod waiting;

use jiff::Timestamp;
use serde::Serialize;

use crate::automation::{AutomationFault, Duty};
use crate::boot::ReadBack;
use crate::boot_decision::NextBootSource;
use crate::config::{Settings, SigUnenforce};
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::decide::unread;
use crate::dkms::plan::State;
use crate::kernel::{Headers, Running, Variant};
use crate::requirement::Importance;
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
    /// It runs.
    pub running: bool,
    /// It boots next, or did when that was last seen.
    pub next_boot: bool,
    /// It is kept from becoming the default.
    pub held_back: bool,
    /// It is the tip of its variant.
    pub tip: bool,
    /// It is none of these: an older one that could be booted.
    pub fallback: bool,
    /// Its headers.
    pub headers: Headers,
    /// Modules that are proven.
    pub modules_ready: usize,
    /// Modules that should be there.
    pub modules_needed: usize,
    /// `module.sig_unenforce` in its configured command line: `on`, `off`, `unknown`.
    pub sig_unenforce: &'static str,
}

/// One module on one kernel.
#[derive(Debug, Clone, Serialize)]
pub struct ModuleStatus {
    /// Which, and how it is; paths as the host spells them.
    #[serde(flatten)]
    pub record: ModuleRecord,
    /// The id of its state, which `clr-dkms explain` knows.
    pub id: &'static str,
    /// How much this machine needs it.
    pub class: Importance,
    /// It should be there, or is in use now, and will not be there on a kernel that may be booted.
    pub missed: bool,
    /// The sentence that [`StatusDocument::problems`] has on it; none where nothing is wrong, or another
    /// sentence tells it.
    pub problem: Option<Problem>,
    /// What brings it there; none where nothing has to be done.
    pub next_step: Option<String>,
    /// The source is newer than the build.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub source_changed: bool,
}

/// The document.
#[derive(Debug, Clone, Serialize)]
pub struct StatusDocument {
    /// Grows only when a field changes its meaning.
    pub schema: u32,
    /// The answer.
    pub verdict: Verdict,
    /// The id of the verdict, which `clr-dkms explain` knows.
    pub id: &'static str,
    /// Whether the machine may be rebooted now: nothing that is critical will be missing. None where that
    /// cannot be determined.
    pub may_reboot: Option<bool>,
    /// The answer in one sentence.
    pub summary: String,
    /// The root as the host sees it; paths below are written with it.
    pub root: String,
    /// What to do next; none when there is nothing to do.
    pub next_step: Option<String>,
    /// The running kernel release.
    pub running: Option<String>,
    /// The release of the kernel that boots next, or that did when it was last seen.
    pub next_boot: Option<String>,
    /// How it is known; none where it is not.
    pub next_boot_source: Option<NextBootSource>,
    /// Why it is not known now, in a sentence; none where it is.
    pub next_boot_unknown: Option<String>,
    /// Kernels that matter.
    pub kernels: Vec<KernelStatus>,
    /// Modules on them.
    pub modules: Vec<ModuleStatus>,
    /// `module.sig_unenforce` is wanted.
    pub sig_unenforce_wanted: bool,
    /// What kernels do with modules without a trusted signature.
    pub unsigned_modules: Outlook,
    /// What the boot entries say: `verified`, `differs`, `not-visible`; none before the first update by us.
    pub boot_entries: Option<String>,
    /// When the boot files were last updated by us.
    pub boot_updated: Option<Timestamp>,
    /// When the last run that found something new began.
    pub last_run: Option<Timestamp>,
    /// Everything that is wrong, the most important first.
    pub problems: Vec<Problem>,
    /// The same, each with what it is about and what helps.
    pub problem_list: Vec<ProblemReport>,
    /// Odd things that were seen and left alone.
    pub notes: Vec<String>,
    /// Files and directories that we were not allowed to look at.
    pub unreadable: Vec<String>,
    /// What is wrong with the units and hooks that start clr-dkms. None where they are not installed, or were
    /// not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automation: Option<AutomationReport>,
    /// Which kernel boots next, which should, and why.
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
    /// What kind of problem it is, in a word.
    pub kind: ProblemKind,
    /// The module that it is about, as `name/version`.
    pub module: Option<String>,
    /// The release of the kernel that it is about.
    pub kernel: Option<String>,
    /// The sentence.
    pub text: String,
    /// What helps; none where nothing does.
    pub next_step: Option<String>,
    /// The words of the command, where one command is all that has to be done.
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
    /// Neither.
    None,
    /// One is at work; what it builds, each as `module/version on kernel`.
    Working(Vec<String>),
    /// One was killed before its end.
    BrokenOff,
}

impl StatusDocument {
    /// The same without older kernels, and without the modules on them.
    #[must_use]
    pub fn without_fallbacks(&self) -> StatusDocument {
        let mut document = self.clone();
        document.kernels.retain(|k| !k.fallback);
        document.modules.retain(|m| document.kernels.iter().any(|k| k.release == m.record.kernel));
        document
    }

    /// The problem that the summary is about; none where it says something else.
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

    /// What a reboot would come to, where the verdict alone does not say it.
    pub fn on_reboot(&self) -> Option<String> {
        let ok_now = |name: &str| {
            let running = |m: &&ModuleStatus| Some(&m.record.kernel) == self.running.as_ref();
            self.modules
                .iter()
                .filter(running)
                .any(|m| m.record.module.name == name && m.record.state.works())
        };
        let next = self.next_boot.as_ref()?;
        let missed = self.modules.iter().filter(|m| m.missed && m.record.kernel == *next);
        let lost = missed.filter(|m| ok_now(&m.record.module.name)).map(|m| m.record.module.to_string());
        let lost: Vec<String> = lost.collect();
        let names: Vec<&str> = lost.iter().map(String::as_str).collect();
        // That another kernel boots than the one that should is not what to call safe in one breath.
        let is_wrong = self.problems.iter().any(|p| p.kind() == ProblemKind::WrongDefault);
        match (self.verdict, names.as_slice()) {
            (_, []) if is_wrong => None,
            (Verdict::Held | Verdict::Degraded, []) => Some("a reboot is safe".to_owned()),
            (Verdict::Held | Verdict::Degraded, names) => Some(format!("a reboot loses {}", listed(names))),
            _ => None,
        }
    }
}

impl Progress {
    /// Whether a run builds that module for that kernel now, or will.
    fn builds(&self, module: &ModuleRecord) -> bool {
        let this = || format!("{} on {}", module.module, module.kernel);
        matches!(self, Progress::Working(builds) if builds.contains(&this()))
    }
}

/// What a document is made from.
#[derive(Debug, Clone, Copy)]
struct DocumentSources<'a> {
    system: &'a System,
    record: &'a Stored<RunRecord>,
    progress: &'a Progress,
    settings: &'a Settings,
}

/// Makes the document.
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
        // The first one is the reason for the verdict.
        problems.sort_by_key(|problem| !problem.is_unknown());
    }
    let guard = GuardReport::new(at, now);
    // Waiting for a run does not make known what is unknown.
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
        running: match &system.inventory.running {
            Running::Known { release } => Some(release.clone()),
            _ => None,
        },
        next_boot,
        next_boot_source: assessment.next.source(),
        next_boot_unknown: assessment.next.unknown().map(str::to_owned),
        sig_unenforce_wanted: sig_unenforce_wanted(settings, system, &assessment.needs),
        unsigned_modules: loading_outlook(system),
        boot_entries: match &entries(system, &assessment, known) {
            // What was seen by the last run, when more could be seen then.
            ReadBack::NotVisible => known.and_then(|r| r.boot.entries.clone()),
            seen => Some(seen.word().to_owned()),
        },
        boot_updated: known.and_then(|r| r.boot.updated),
        last_run: known.map(|r| r.started),
        problem_list: problems.iter().map(reported).collect(),
        problems,
        notes: notes(system, &assessment, assessment.held_back.is_some()),
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
    // What an admin wants refused is missed by nobody.
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

fn notes(system: &System, assessment: &BootAssessment, is_held: bool) -> Vec<String> {
    let odd = system.inventory.oddities.iter().chain(&system.tree.oddities);
    let mut notes: Vec<String> = odd.map(|o| format!("{} {}", o.path, o.what)).collect();
    // That clr-boot-manager would have it otherwise is why it is held.
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
            let names: Vec<&str> = assessment.refused_until_reboot.iter().map(String::as_str).collect();
            format!("kernel {} refuses {} until it is booted again", k.release, listed(&names))
        }
        // Of a healthy system only what its admin wants refused is not ready.
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
