//! The status document: one value, made from facts and the record; text, JSON and the MOTD are renderings of it.

use jiff::Timestamp;
use serde::Serialize;

use crate::boot::ReadBack;
use crate::cmdline::{PARAMETER, Switch};
use crate::config::{Settings, SigUnenforce};
use crate::dkms::compiler_error::FirstError;
use crate::dkms::plan::{self, Decision, State, decide};
use crate::dkms::{ModuleName, Pair};
use crate::facts::Facts;
use crate::kernel::{Headers, Running, Variant};
use crate::state::{Record, Stored};

/// The answer in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All is there.
    Healthy,
    /// All is there for the next boot, which is another kernel than the running one.
    RebootPending,
    /// A run is at work.
    Building,
    /// Something is missing or failed.
    Degraded,
    /// It cannot be told.
    Unknown,
    /// No kernel of this system is installed.
    NotApplicable,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::Healthy => "healthy",
            Verdict::RebootPending => "reboot-pending",
            Verdict::Building => "building",
            Verdict::Degraded => "degraded",
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
    /// The boot manager makes it the default.
    pub next_boot: bool,
    /// It is the tip of its variant.
    pub tip: bool,
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
    /// Which module.
    #[serde(flatten)]
    pub module: ModuleName,
    /// On which kernel release.
    pub kernel: String,
    /// How it is.
    pub state: State,
    /// Why.
    pub reason: Option<String>,
    /// The first error of its last build.
    pub error: Option<FirstError>,
    /// The log of that build.
    pub log: Option<String>,
    /// The installed files.
    pub files: Vec<String>,
}

/// The document.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Grows only when a field changes its meaning.
    pub schema: u32,
    /// The answer.
    pub verdict: Verdict,
    /// The answer in one sentence.
    pub summary: String,
    /// What to do next; none when there is nothing to do.
    pub next_step: Option<String>,
    /// The running kernel release.
    pub running: Option<String>,
    /// The kernel release that the boot manager makes the default.
    pub next_boot: Option<String>,
    /// Kernels that matter.
    pub kernels: Vec<KernelStatus>,
    /// Modules on them.
    pub modules: Vec<ModuleStatus>,
    /// `module.sig_unenforce` is wanted.
    pub sig_unenforce_wanted: bool,
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
}

/// Whether a run is at work, or was broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Neither.
    None,
    /// One is at work.
    Working,
    /// One was killed before its end.
    BrokenOff,
}

/// Whether `module.sig_unenforce` is wanted: while a kernel that forces signatures has a module to load.
pub fn sig_unenforce_wanted(settings: &Settings, facts: &Facts) -> bool {
    match settings.sig_unenforce {
        SigUnenforce::On => true,
        SigUnenforce::Off => false,
        SigUnenforce::Auto => facts.pairs.iter().any(|pair| {
            let forced = facts.lines.iter().find(|l| l.release == pair.release).and_then(|l| l.forced);
            // Without a configuration to read, the kernel is taken to be one of Clear's, which all force signatures.
            forced != Some(false) && is_needed(pair)
        }),
    }
}

/// The module should be there on this kernel.
fn is_needed(pair: &Pair) -> bool {
    pair.proof.is_ok()
        || !matches!(
            decide(pair),
            Decision::Leave { state: State::SkippedExclusive | State::NotAutoinstall, .. }
        )
}

/// The state of a module on a kernel, from the facts and from what the last run found out about it.
pub fn module_status(pair: &Pair, record: Option<&Record>) -> ModuleStatus {
    let mut status = ModuleStatus {
        module: pair.module.clone(),
        kernel: pair.release.clone(),
        state: State::Ok,
        reason: None,
        error: None,
        log: None,
        files: Vec::new(),
    };
    match (decide(pair), &pair.proof) {
        (Decision::Leave { state, why }, _) => (status.state, status.reason) = (state, Some(why)),
        (Decision::Work { why, .. }, Err(flaws)) => {
            (status.state, status.reason) = (plan::state_of(flaws), Some(why));
            if let Some(known) = record.and_then(|r| r.module(&pair.module, &pair.release))
                && known.state != State::Ok
            {
                status.state = known.state;
                status.reason.clone_from(&known.reason);
                status.error.clone_from(&known.error);
                status.log.clone_from(&known.log);
            }
        }
        (_, proof) => {
            status.files = proof.iter().flatten().map(|p| p.path.clone()).collect();
        }
    }
    status
}

/// Makes the document.
pub fn document(facts: &Facts, record: &Stored<Record>, progress: Progress, settings: &Settings) -> Document {
    let known = record.as_good();
    let spelt = |mut module: ModuleStatus| {
        module.log = module.log.map(|log| facts.spell(&log));
        module.files = module.files.iter().map(|file| facts.spell(file)).collect();
        module
    };
    let modules: Vec<ModuleStatus> = facts.pairs.iter().map(|p| spelt(module_status(p, known))).collect();
    let next_boot = facts.inventory.boot_default().map(|k| k.name.release());
    let wanted = sig_unenforce_wanted(settings, facts);
    let problems = problems(facts, record, progress, settings, &modules, next_boot.as_deref());
    let running = match &facts.inventory.running {
        Running::Known { release } => Some(release.clone()),
        _ => None,
    };
    let verdict = verdict(facts, progress, &modules, &problems, running.as_ref(), next_boot.as_ref());
    let mut document = Document {
        schema: 1,
        verdict,
        summary: String::new(),
        next_step: None,
        kernels: kernels(facts, &modules, next_boot.as_deref()),
        modules,
        running,
        next_boot,
        sig_unenforce_wanted: wanted,
        boot_entries: match &facts.boot_entries {
            // What was seen by the last run, when more could be seen then.
            ReadBack::NotVisible => known.and_then(|r| r.boot.entries.clone()),
            seen => Some(seen.word().to_owned()),
        },
        boot_updated: known.and_then(|r| r.boot.updated),
        last_run: known.map(|r| r.started),
        problems,
        notes: notes(facts),
    };
    document.summary = summary(&document);
    document.next_step = next_step(&document, progress, facts);
    document
}

fn problems(
    facts: &Facts,
    record: &Stored<Record>,
    progress: Progress,
    settings: &Settings,
    modules: &[ModuleStatus],
    next_boot: Option<&str>,
) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    problems.extend(facts.inventory.unreadable.clone());
    problems.extend(facts.tree.unreadable.clone());
    for module in modules.iter().filter(|m| counts(m, facts, next_boot) && !m.state.is_fine()) {
        problems
            .push(format!("{} is not ready for kernel {} ({})", module.module, module.kernel, module.state));
    }
    if progress == Progress::BrokenOff {
        problems.push("the last run was broken off before its end".to_owned());
    }
    if sig_unenforce_wanted(settings, facts) {
        let without: Vec<&str> =
            facts.lines.iter().filter(|l| l.switch != Switch::On).map(|l| l.release.as_str()).collect();
        if !without.is_empty() {
            problems.push(format!("{PARAMETER} is not configured for kernel {}", without.join(", ")));
        }
    }
    match record {
        Stored::Good(record) => {
            let pending = settings.boot_update
                && record.boot.error.is_none()
                && record.boot.inputs.as_ref() != Some(&facts.boot_inputs)
                && facts.boot_entries != ReadBack::Verified;
            if pending {
                problems
                    .push("kernels or fragments have changed since the boot entries were made".to_owned());
            }
            problems.extend(record.boot.error.iter().cloned());
            problems.extend(record.problems.iter().cloned());
        }
        Stored::Bad(reason) => problems.push(reason.clone()),
        Stored::Absent if !facts.tree.modules.is_empty() => {
            problems.push("clr-dkms-post-update has not run on this system yet".to_owned());
        }
        Stored::Absent => {}
    }
    problems
}

/// Whether the state of a module on a kernel matters for the verdict: on the next boot always; on another tip only
/// where it could be built; on an old kernel that still runs not, as nobody boots it again.
fn counts(module: &ModuleStatus, facts: &Facts, next_boot: Option<&str>) -> bool {
    if next_boot == Some(module.kernel.as_str()) {
        return true;
    }
    let kernel = facts.inventory.kernels.iter().find(|k| k.name.release() == module.kernel);
    kernel.is_some_and(|k| k.tip && k.headers != Headers::Absent)
}

fn verdict(
    facts: &Facts,
    progress: Progress,
    modules: &[ModuleStatus],
    problems: &[String],
    running: Option<&String>,
    next_boot: Option<&String>,
) -> Verdict {
    let unknown_module =
        modules.iter().any(|m| m.state == State::Unknown && counts(m, facts, next_boot.map(String::as_str)));
    if facts.inventory.unreadable.is_some() || facts.tree.unreadable.is_some() {
        Verdict::Unknown
    } else if facts.inventory.kernels.is_empty() {
        Verdict::NotApplicable
    } else if progress == Progress::Working {
        Verdict::Building
    } else if unknown_module {
        Verdict::Unknown
    } else if !problems.is_empty() {
        Verdict::Degraded
    } else if running.is_some() && next_boot.is_some() && running != next_boot {
        Verdict::RebootPending
    } else {
        Verdict::Healthy
    }
}

fn kernels(facts: &Facts, modules: &[ModuleStatus], next_boot: Option<&str>) -> Vec<KernelStatus> {
    facts
        .lines
        .iter()
        .filter_map(|line| {
            let kernel = facts.inventory.kernels.iter().find(|k| k.name.release() == line.release)?;
            let mine = || modules.iter().filter(|m| m.kernel == line.release);
            Some(KernelStatus {
                release: line.release.clone(),
                id: line.id.clone(),
                variant: Variant::of(&kernel.name.variant),
                running: kernel.running,
                next_boot: next_boot == Some(line.release.as_str()),
                tip: kernel.tip,
                headers: kernel.headers.clone(),
                modules_ready: mine().filter(|m| m.state == State::Ok).count(),
                modules_needed: mine().filter(|m| m.state == State::Ok || !m.state.is_fine()).count(),
                sig_unenforce: match line.switch {
                    Switch::On => "on",
                    Switch::Off => "off",
                    Switch::Unknown => "unknown",
                },
            })
        })
        .collect()
}

fn notes(facts: &Facts) -> Vec<String> {
    let odd = facts.inventory.oddities.iter().chain(&facts.tree.oddities);
    let mut notes: Vec<String> = odd.map(|o| format!("{} {}", o.path, o.what)).collect();
    let unreadable = facts.lines.iter().flat_map(|l| &l.sources.unreadable);
    notes.extend(unreadable.map(ToString::to_string));
    notes.dedup();
    notes
}

fn summary(document: &Document) -> String {
    let next = document.kernels.iter().find(|k| k.next_boot);
    let ready = |k: &KernelStatus| match k.modules_needed {
        0 => format!("kernel {} needs no DKMS module", k.release),
        1 => format!("the DKMS module is ready for kernel {}", k.release),
        n => format!("all {n} DKMS modules are ready for kernel {}", k.release),
    };
    match (document.verdict, next) {
        (Verdict::Healthy, Some(k)) => ready(k),
        (Verdict::Healthy, None) => "all DKMS modules are ready".to_owned(),
        (Verdict::RebootPending, Some(k)) => format!("{}, the next boot", ready(k)),
        (Verdict::Building, _) => "a run is building modules now".to_owned(),
        (Verdict::NotApplicable, _) => "no kernel of clr-boot-manager is installed here".to_owned(),
        _ => document.problems.first().cloned().unwrap_or_else(|| "it cannot be told".to_owned()),
    }
}

fn next_step(document: &Document, progress: Progress, facts: &Facts) -> Option<String> {
    let run = "run `clr-dkms-post-update` as root";
    match document.verdict {
        Verdict::Healthy | Verdict::NotApplicable => None,
        Verdict::RebootPending => Some("reboot when it suits you".to_owned()),
        Verdict::Building => Some("wait for it to end, and do not reboot before".to_owned()),
        Verdict::Unknown => {
            Some("ask again as root; the problems below say what could not be read".to_owned())
        }
        Verdict::Degraded if progress == Progress::BrokenOff => {
            Some(format!("{run}: it goes on where it was"))
        }
        Verdict::Degraded => {
            let bad = document
                .modules
                .iter()
                .find(|m| !m.state.is_fine() && counts(m, facts, document.next_boot.as_deref()));
            Some(match bad {
                Some(m) => cure(m, document),
                None => run.to_owned(),
            })
        }
    }
}

/// The next command for a module that is not ready.
fn cure(module: &ModuleStatus, document: &Document) -> String {
    let run = "run `clr-dkms-post-update` as root";
    match module.state {
        State::HeadersMissing => {
            let kernel = document.kernels.iter().find(|k| k.release == module.kernel);
            match kernel.and_then(|k| k.variant.dkms_bundle()) {
                Some(bundle) => format!("`swupd bundle-add {bundle}`, which brings the headers"),
                None => format!("install the headers of kernel {}", module.kernel),
            }
        }
        State::HeadersMismatch => "`swupd repair`, then `clr-dkms-post-update`".to_owned(),
        State::BuildFailed => {
            format!("mend or update {}, then {run}", module.module)
        }
        State::BrokenSource => {
            format!("put the source of {} back, or `dkms remove {} --all`", module.module, module.module)
        }
        _ => run.to_owned(),
    }
}
