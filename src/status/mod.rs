//! The status document: one value, made from facts and the record; text, JSON and the MOTD are renderings of it.

mod advice;
pub mod catalog;
mod cause_remedy;
pub mod enforcement;
pub mod guard;
pub mod lint;
mod loading;
pub mod loading_outlook;
pub mod observation;
mod problems;
mod steps;
mod unmanaged;
pub mod waiting;

use jiff::Timestamp;
use serde::Serialize;

use crate::boot::ReadBack;
use crate::boot_decision::NextBootSource;
use crate::config::{Settings, SigUnenforce};
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::candidates::is_bootable;
use crate::decide::module_state::{module_status, parameter_would_help};
use crate::decide::next_boot::presumed;
use crate::decide::readiness::Ready;
use crate::decide::satisfaction::satisfied;
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::decide::unread;
use crate::dkms::ModuleOnKernel;
use crate::dkms::plan::State;
use crate::exit;
use crate::kernel::{Headers, Running, Variant};
use crate::requirement::Importance;
use crate::state::{ModuleRecord, RunRecord, Stored};
use crate::system::{KernelCmdline, System};
use guard::GuardReport;
use loading_outlook::{Outlook, loading_outlook};
use problems::{entries, problems};

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All is there.
    Healthy,
    /// All is there for the next boot, which is another kernel than the running one, or makes the running one
    /// take its modules.
    RebootPending,
    /// A run is at work.
    Building,
    /// Something is missing or failed.
    Degraded,
    /// The newest kernel is kept from becoming the boot default; what boots next has what is needed.
    Held,
    /// What boots next is without a module that is critical.
    Unsafe,
    /// It cannot be determined.
    Unknown,
    /// No kernel of this system is installed.
    NotApplicable,
}

impl Verdict {
    /// The exit code of a report with this verdict.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Healthy | Verdict::RebootPending => exit::OK,
            Verdict::Building | Verdict::Degraded | Verdict::Held => exit::ATTENTION,
            Verdict::Unsafe => exit::UNSAFE,
            Verdict::Unknown | Verdict::NotApplicable => exit::UNKNOWN,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Healthy => "healthy",
            Verdict::RebootPending => "reboot-pending",
            Verdict::Building => "building",
            Verdict::Degraded => "degraded",
            Verdict::Held => "held",
            Verdict::Unsafe => "unsafe",
            Verdict::Unknown => "unknown",
            Verdict::NotApplicable => "not-applicable",
        })
    }
}

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
    /// The sentence that [`Document::problems`] has on it; none where nothing is wrong, or another sentence tells it.
    pub problem: Option<String>,
    /// What brings it there; none where nothing has to be done.
    pub next_step: Option<String>,
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
    /// Whether the machine may be rebooted now: nothing that is critical will be missing. None where that cannot be determined.
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
    pub problems: Vec<String>,
    /// Odd things that were seen and left alone.
    pub notes: Vec<String>,
    /// Files and directories that we were not allowed to look at.
    pub unreadable: Vec<String>,
    /// Which kernel boots next, which should, and why.
    pub guard: GuardReport,
}

/// Whether a run is at work, or was broken off.
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
        match (self.verdict, names.as_slice()) {
            (Verdict::Held | Verdict::Degraded, []) => Some("a reboot is safe".to_owned()),
            (Verdict::Held | Verdict::Degraded, names) => {
                Some(format!("a reboot loses {}", steps::listed(names)))
            }
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

/// Makes the document.
pub fn document(
    system: &System,
    record: &Stored<RunRecord>,
    progress: &Progress,
    settings: &Settings,
    now: Timestamp,
) -> StatusDocument {
    let known = record.as_good();
    let display = |mut module: ModuleRecord| {
        module.log = module.log.map(|log| system.shown_path(&log));
        // A matter of the record alone.
        (module.inputs, module.hook) = (None, None);
        for file in &mut module.files {
            file.path = system.shown_path(&file.path);
        }
        if !module.state.is_proven() && progress.builds(&module) {
            module = ModuleRecord { state: State::Building, reason: None, error: None, log: None, ..module };
        }
        module
    };
    let assessment = assess(system, settings, known);
    let next_boot = assessment.next.shown().map(str::to_owned);
    let kernels = kernels(system, &assessment);
    let managed = modules_on(&kernels, system).map(|p| module_status(system, p, known));
    let modules: Vec<ModuleRecord> =
        managed.chain(unmanaged::rows(system, &assessment)).map(display).collect();
    let kernels = with_modules(kernels, &modules, system, &assessment);
    let modules = statuses(modules, system, settings, &assessment, &kernels);
    let mut problems = problems(system, record, progress, settings, &modules, &assessment);
    let (danger, held) = (guard::danger(&assessment), guard::held(&assessment));
    let is_held = held.is_some() && assessment.acts && assessment.is_carried_out();
    // That it boots next without something is reported once.
    let target = assessment.decision.target.as_deref();
    let twice = danger.is_some() && target.is_some_and(|target| assessment.next.is(target));
    let held = held.filter(|_| assessment.acts && !twice);
    for said in [held, danger.clone(), guard::open(&assessment)].into_iter().flatten() {
        problems.insert(0, said);
    }
    let running = match &system.inventory.running {
        Running::Known { release } => Some(release.clone()),
        _ => None,
    };
    let unreadable = guard::unreadable(system).is_some() || matches!(record, Stored::Unreadable(_));
    let unknown = assessment.unknown_target.is_some()
        || modules.iter().any(|m| m.record.state == State::Unknown && counts(&m.record, system));
    // What is seen to be missing is missing, whatever else cannot be read.
    let is_unsafe = danger.is_some() && !(unknown && guard::is_unseen(&assessment));
    let is_pending = (running.is_some() && next_boot.is_some() && running != next_boot)
        || !assessment.refused_until_reboot.is_empty();
    let verdict = if unreadable {
        Verdict::Unknown
    } else if system.inventory.kernels.is_empty() {
        Verdict::NotApplicable
    } else if is_unsafe {
        // Also while a run is at work: until it ends this is what a reboot would find.
        Verdict::Unsafe
    } else if unknown || assessment.is_open {
        Verdict::Unknown
    } else if matches!(progress, Progress::Working(_)) {
        Verdict::Building
    } else if is_held {
        Verdict::Held
    } else if !problems.is_empty() {
        Verdict::Degraded
    } else if is_pending {
        Verdict::RebootPending
    } else {
        Verdict::Healthy
    };
    let mut document = StatusDocument {
        schema: 1,
        verdict,
        id: catalog::verdict(verdict).id,
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
        running,
        next_boot,
        next_boot_source: assessment.next.source(),
        next_boot_unknown: assessment.next.unknown().map(str::to_owned),
        sig_unenforce_wanted: sig_unenforce_wanted(settings, system, &assessment.needs),
        unsigned_modules: loading_outlook(system),
        boot_entries: match &entries(system, &assessment) {
            // What was seen by the last run, when more could be seen then.
            ReadBack::NotVisible => known.and_then(|r| r.boot.entries.clone()),
            seen => Some(seen.word().to_owned()),
        },
        boot_updated: known.and_then(|r| r.boot.updated),
        last_run: known.map(|r| r.started),
        problems,
        notes: notes(system, &assessment, assessment.held_back.is_some()),
        unreadable: system.denied.iter().map(|path| path.display().to_string()).collect(),
        guard: GuardReport::new(system, settings, &assessment, known.map(|record| &record.boot), now),
    };
    document.summary = summary(&document, &assessment);
    document.next_step =
        steps::next_step(&document, progress, system).map(|step| steps::for_root(step, system));
    document
}

fn statuses(
    modules: Vec<ModuleRecord>,
    system: &System,
    settings: &Settings,
    assessment: &BootAssessment,
    kernels: &[KernelStatus],
) -> Vec<ModuleStatus> {
    let status = |record: ModuleRecord| {
        // What an admin wants refused is missed by nobody.
        let by_wish = (settings.sig_unenforce == SigUnenforce::Off && is_reported_below(&record, system))
            || (record.state == State::Blocked && assessment.is_listed_as_optional(&record.module.name));
        let missed = is_missed(&record, system, assessment) && !by_wish;
        ModuleStatus {
            id: catalog::state(record.state).id,
            class: assessment.class_of(&record.module.name),
            missed,
            problem: problems::of_module(&record, system, assessment),
            next_step: steps::of_module(&record, missed, system, kernels)
                .filter(|_| !by_wish)
                .map(|step| steps::for_root(step, system)),
            record,
        }
    };
    modules.into_iter().map(status).collect()
}

/// Whether the state of a module on a kernel matters for the verdict: on the next boot always; on another tip only
/// where it could be built; on an old kernel that still runs not, as nobody boots it again. Where it cannot be determined
/// which kernel boots next, every tip matters.
fn counts(module: &ModuleRecord, system: &System) -> bool {
    let Some(next) = presumed(system) else { return true };
    if !module.module.is_managed() {
        // Nothing brings it to the other kernels, and nothing was meant to.
        return next.name.release() == module.kernel;
    }
    let kernel = system.inventory.kernels.iter().find(|k| k.name.release() == module.kernel);
    kernel.is_some_and(|k| k.name == next.name || (k.tip && k.headers != Headers::Absent))
}

/// The kernel refuses the module, and the parameter would help. That it is not configured is told where it is wanted; where
/// the admin does not want it, all is as it should be.
fn is_reported_below(module: &ModuleRecord, system: &System) -> bool {
    module.state == State::SignatureRefused && parameter_would_help(system, &module.kernel)
}

/// The module will be missed on this kernel: it should be there, or it is in use now and nothing will bring it there.
fn is_missed(module: &ModuleRecord, system: &System, assessment: &BootAssessment) -> bool {
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
    // Its author may leave out a kernel that has come to have the module itself.
    let is_there = || {
        let need = assessment.needs.iter().find(|need| need.module == module.module.name);
        need.is_some_and(|need| satisfied(system, need, &module.kernel, Some(module)) == Some(Ready::Yes))
    };
    !module.state.is_fine() || (next.as_ref() == Some(&module.kernel) && in_use() && !is_there())
}

/// The kernels that matter, and those that could be fallen back to; their modules are counted in
/// [`with_modules`].
fn kernels(system: &System, assessment: &BootAssessment) -> Vec<KernelStatus> {
    let next = assessment.next.shown();
    let status = |line: &KernelCmdline, fallback: bool| {
        let kernel = system.inventory.kernels.iter().find(|k| k.name.release() == line.release)?;
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
            sig_unenforce: line.switch.word(),
        })
    };
    let matter = system.lines.iter().filter_map(|line| status(line, false));
    matter.chain(system.fallback_lines.iter().filter_map(|line| status(line, true))).collect()
}

/// The modules on those kernels.
fn modules_on<'f>(kernels: &[KernelStatus], system: &'f System) -> impl Iterator<Item = &'f ModuleOnKernel> {
    let shown = |p: &&ModuleOnKernel| kernels.iter().any(|k| k.release == p.release);
    system.modules_on_kernels.iter().chain(system.fallbacks.iter().filter(shown))
}

fn with_modules(
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
        (kernel.modules_ready, kernel.modules_needed) = (ready, needed);
    }
    kernels
}

fn notes(system: &System, assessment: &BootAssessment, is_held: bool) -> Vec<String> {
    let odd = system.inventory.oddities.iter().chain(&system.tree.oddities);
    let mut notes: Vec<String> = odd.map(|o| format!("{} {}", o.path, o.what)).collect();
    // That clr-boot-manager would have it otherwise is why it is held.
    let odd = system.boot.oddities().filter(|problem| !(is_held && problem.is_other_default));
    notes.extend(odd.map(ToString::to_string).chain(system.boot.invisible.clone()));
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
            format!("kernel {} refuses {} until it is booted again", k.release, steps::listed(&names))
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
        _ => document.problems.first().cloned().unwrap_or_else(|| "it cannot be determined".to_owned()),
    }
}
