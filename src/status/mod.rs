//! The status document: one value, made from facts and the record; text, JSON and the MOTD are renderings of it.

mod advice;
pub mod enforcement;
pub mod guard;
pub mod lint;
pub mod outlook;
pub mod policy;
pub mod states;
mod steps;

use jiff::Timestamp;
use serde::Serialize;

use crate::boot::{Obstacle, ReadBack};
use crate::cmdline::{PARAMETER, Switch};
use crate::config::{Policy, Settings};
use crate::dkms::Pair;
use crate::dkms::plan::{self, Decision, State, decide};
use crate::dkms::proof::{Check, Subject};
use crate::facts::{Facts, expected_entries};
use crate::guard::{Judgement, Ruling, judge};
use crate::kernel::{Headers, Running, Variant};
use crate::state::{ModuleRecord, Record, Stored};
use guard::GuardReport;
use outlook::{Fate, Outlook, fate, outlook, parameter_would_help};
use policy::sig_unenforce_wanted;

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
    /// The newest kernel is kept from becoming the boot default; what boots next has what is needed.
    Held,
    /// What boots next is without a module that is critical.
    Unsafe,
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

/// The document.
#[derive(Debug, Clone, Serialize)]
pub struct Document {
    /// Grows only when a field changes its meaning.
    pub schema: u32,
    /// The answer.
    pub verdict: Verdict,
    /// The answer in one sentence.
    pub summary: String,
    /// The root as the host sees it; paths below are spelt with it.
    pub root: String,
    /// What to do next; none when there is nothing to do.
    pub next_step: Option<String>,
    /// The running kernel release.
    pub running: Option<String>,
    /// The kernel release that the boot manager makes the default.
    pub next_boot: Option<String>,
    /// Kernels that matter.
    pub kernels: Vec<KernelStatus>,
    /// Modules on them.
    pub modules: Vec<ModuleRecord>,
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
    /// Which kernel boots next, which should, and why.
    pub guard: GuardReport,
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

/// The state of a module on a kernel, from the facts and from what the last run found out about it.
pub fn module_status(facts: &Facts, pair: &Pair, record: Option<&Record>) -> ModuleRecord {
    let mut status = ModuleRecord {
        module: pair.module.clone(),
        kernel: pair.release.clone(),
        state: State::Ok,
        reason: None,
        error: None,
        log: None,
        inputs: None,
        files: Vec::new(),
    };
    match (decide(pair), &pair.proof) {
        (Decision::Leave { state, why }, _) => (status.state, status.reason) = (state, Some(why)),
        (Decision::Work { why, .. }, Err(flaws)) => {
            (status.state, status.reason) = (plan::state_of(flaws), Some(why));
            if let Some(known) = record.and_then(|r| r.module(&pair.module, &pair.release))
                && !known.state.is_proven()
                && !known.state.is_seen()
            {
                status.state = known.state;
                status.reason.clone_from(&known.reason);
                status.error.clone_from(&known.error);
                status.log.clone_from(&known.log);
                status.inputs.clone_from(&known.inputs);
            }
        }
        (_, proof) => {
            status.files = proof.clone().unwrap_or_default();
            let not_made = match fate(facts, pair, &status.files) {
                Fate::Taken => None,
                Fate::Unknown => Some("it cannot be told what the kernel does with it".to_owned()),
                Fate::Refused(why) => {
                    (status.state, status.reason) = (State::SignatureRefused, Some(why));
                    None
                }
            };
            for file in &mut status.files {
                file.checks.push(Check { check: Subject::Signature, not_made: not_made.clone() });
            }
        }
    }
    status
}

/// Makes the document.
pub fn document(
    facts: &Facts,
    record: &Stored<Record>,
    progress: Progress,
    settings: &Settings,
    now: Timestamp,
) -> Document {
    let known = record.as_good();
    let spelt = |mut module: ModuleRecord| {
        module.log = module.log.map(|log| facts.spell(&log));
        // A matter of the record alone.
        module.inputs = None;
        for file in &mut module.files {
            file.path = facts.spell(&file.path);
        }
        module
    };
    let modules: Vec<ModuleRecord> =
        facts.pairs.iter().map(|p| spelt(module_status(facts, p, known))).collect();
    let wanted = sig_unenforce_wanted(settings, facts);
    let judgement = judge(facts, settings, known);
    let next_boot = judgement.next.clone().or_else(|| facts.next_kernel().map(|k| k.name.release()));
    let mut problems = problems(facts, record, progress, settings, &modules, &judgement);
    let (danger, held) = (guard::danger(&judgement), guard::held(&judgement));
    let is_held = held.is_some() && judgement.next == judgement.decision.default;
    for told in [held.filter(|_| acts_here(facts, settings)), danger.clone()].into_iter().flatten() {
        problems.insert(0, told);
    }
    let running = match &facts.inventory.running {
        Running::Known { release } => Some(release.clone()),
        _ => None,
    };
    let unreadable = facts.inventory.unreadable().is_some()
        || facts.tree.unreadable.is_some()
        || matches!(record, Stored::Unreadable(_))
        || modules.iter().any(|m| m.state == State::Unknown && counts(m, facts));
    let verdict = if unreadable {
        Verdict::Unknown
    } else if facts.inventory.kernels.is_empty() {
        Verdict::NotApplicable
    } else if progress == Progress::Working {
        Verdict::Building
    } else if danger.is_some() {
        Verdict::Unsafe
    } else if is_held && acts_here(facts, settings) {
        Verdict::Held
    } else if !problems.is_empty() {
        Verdict::Degraded
    } else if running.is_some() && next_boot.is_some() && running != next_boot {
        Verdict::RebootPending
    } else {
        Verdict::Healthy
    };
    let mut document = Document {
        schema: 1,
        verdict,
        summary: String::new(),
        next_step: None,
        root: facts.root.display().to_string(),
        kernels: kernels(facts, &modules, next_boot.as_deref()),
        modules,
        running,
        next_boot,
        sig_unenforce_wanted: wanted,
        unsigned_modules: outlook(facts),
        boot_entries: match &entries(facts, held_back(facts, settings, &judgement)) {
            // What was seen by the last run, when more could be seen then.
            ReadBack::NotVisible => known.and_then(|r| r.boot.entries.clone()),
            seen => Some(seen.word().to_owned()),
        },
        boot_updated: known.and_then(|r| r.boot.updated),
        last_run: known.map(|r| r.started),
        problems,
        notes: notes(facts, held_back(facts, settings, &judgement).is_some()),
        guard: GuardReport::new(
            facts,
            settings,
            &judgement,
            known.and_then(|r| r.boot.held_back.as_ref()),
            now,
        ),
    };
    document.summary = summary(&document);
    document.next_step = steps::next_step(&document, progress, facts, known);
    document
}

fn problems(
    facts: &Facts,
    record: &Stored<Record>,
    progress: Progress,
    settings: &Settings,
    modules: &[ModuleRecord],
    judgement: &Judgement,
) -> Vec<String> {
    let mut problems: Vec<String> = Vec::new();
    problems.extend(facts.inventory.unreadable().map(str::to_owned));
    problems.extend(facts.tree.unreadable.clone());
    let (refused, lacking): (Vec<&ModuleRecord>, Vec<_>) =
        modules.iter().filter(|m| is_lacking(m, facts)).partition(|m| m.state == State::SignatureRefused);
    let held_back = held_back(facts, settings, judgement);
    // Why a kernel is held back is told in one sentence.
    let is_told = |m: &&ModuleRecord| {
        let of_target = judgement.decision.target.as_ref() == Some(&m.kernel) && held_back.is_some();
        of_target && judgement.decision.lacking.iter().any(|l| l.module == m.module.to_string())
    };
    for m in lacking.into_iter().filter(|m| !is_told(m)) {
        problems.push(match m.state.is_fine() {
            // Two modules are in it: the other one's name is half of the news.
            false if m.state == State::Conflict => {
                let why = m.reason.as_deref().unwrap_or("another module has its file");
                format!("{} is not ready for kernel {} (conflict): {why}", m.module, m.kernel)
            }
            false => format!("{} is not ready for kernel {} ({})", m.module, m.kernel, m.state),
            true => {
                format!("{} is in use and will not be there on kernel {} ({})", m.module, m.kernel, m.state)
            }
        });
    }
    let told = |m: &&ModuleRecord| !is_told_below(m, facts);
    problems.extend(refused.into_iter().filter(told).filter_map(|m| m.reason.clone()));
    if let ReadBack::Differs(wrong) = entries(facts, held_back) {
        problems.extend(wrong);
    }
    problems.extend(guard::lost_wish(facts, judgement));
    if acts_here(facts, settings) {
        problems.extend(guard::not_deferred(facts, settings, judgement));
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
                && held_back.is_none()
                && record.boot.error.is_none()
                && record.boot.inputs.as_ref() != Some(&facts.boot_inputs)
                && facts.boot_entries != ReadBack::Verified
                && facts.boot_obstacle != Some(Obstacle::Chroot);
            if pending {
                problems
                    .push("kernels or fragments have changed since the boot entries were made".to_owned());
            }
            let told = |error: &&String| !problems.iter().any(|p| error.contains(p.as_str()));
            let error: Vec<String> = record.boot.error.iter().filter(told).cloned().collect();
            problems.extend(error);
            problems.extend(record.problems.iter().cloned());
        }
        Stored::Bad(reason) | Stored::Unreadable(reason) => problems.push(reason.clone()),
        Stored::Absent if !facts.tree.modules.is_empty() && !facts.inventory.kernels.is_empty() => {
            problems.push("clr-dkms-post-update has not run on this system yet".to_owned());
        }
        Stored::Absent => {}
    }
    problems
}

/// Whether the guard acts on this system: not on an image, nor where it was told to report only.
fn acts_here(facts: &Facts, settings: &Settings) -> bool {
    facts.inventory.running != Running::None && settings.boot_update && settings.boot_policy != Policy::Report
}

/// The kernel id whose boot entry is not made yet, on purpose.
fn held_back<'f>(facts: &'f Facts, settings: &Settings, judgement: &Judgement) -> Option<&'f str> {
    let decision = &judgement.decision;
    let is_held = acts_here(facts, settings) && decision.ruling == Ruling::Defer;
    let target = decision.target.as_ref().filter(|_| is_held)?;
    facts.lines.iter().find(|l| l.release == *target).map(|l| l.id.as_str())
}

/// What the boot entries say, but for one kernel's.
fn entries(facts: &Facts, but_for: Option<&str>) -> ReadBack {
    let Some(id) = but_for else { return facts.boot_entries.clone() };
    let mut expected = expected_entries(&facts.lines);
    expected.retain(|(of, _)| of != id);
    facts.boot.read_back(&expected)
}

/// Whether the state of a module on a kernel matters for the verdict: on the next boot always; on another tip only
/// where it could be built; on an old kernel that still runs not, as nobody boots it again. Where it cannot be told
/// which kernel boots next, every tip matters.
fn counts(module: &ModuleRecord, facts: &Facts) -> bool {
    let Some(next) = facts.next_kernel() else { return true };
    let kernel = facts.inventory.kernels.iter().find(|k| k.name.release() == module.kernel);
    kernel.is_some_and(|k| k.name == next.name || (k.tip && k.headers != Headers::Absent))
}

/// The kernel refuses the module, and the parameter would help. That it is not configured is told where it is wanted; where
/// the admin does not want it, all is as it should be.
fn is_told_below(module: &ModuleRecord, facts: &Facts) -> bool {
    module.state == State::SignatureRefused && parameter_would_help(facts, &module.kernel)
}

/// The module will be missed on this kernel: it should be there, or it is in use now and nothing will bring it there.
fn is_lacking(module: &ModuleRecord, facts: &Facts) -> bool {
    if !counts(module, facts) || module.state == State::Ok {
        return false;
    }
    let next = facts.next_kernel().map(|k| k.name.release());
    let in_use = || {
        facts.inventory.running_kernel().is_some_and(|running| {
            let mut on_running = facts.pairs.iter().filter(|p| p.release == running.name.release());
            on_running.any(|p| p.module.name == module.module.name && p.proof.is_ok())
        })
    };
    !module.state.is_fine() || (next.as_ref() == Some(&module.kernel) && in_use())
}

fn kernels(facts: &Facts, modules: &[ModuleRecord], next_boot: Option<&str>) -> Vec<KernelStatus> {
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
                modules_needed: mine()
                    .filter(|m| m.state == State::Ok || !m.state.is_fine() || is_lacking(m, facts))
                    .count(),
                sig_unenforce: line.switch.word(),
            })
        })
        .collect()
}

fn notes(facts: &Facts, is_held: bool) -> Vec<String> {
    let odd = facts.inventory.oddities.iter().chain(&facts.tree.oddities);
    let mut notes: Vec<String> = odd.map(|o| format!("{} {}", o.path, o.what)).collect();
    // That clr-boot-manager would have it otherwise is why it is held.
    notes.extend(
        facts.boot.notes().filter(|n| !(is_held && n.contains("`clr-boot-manager update` makes it"))),
    );
    notes.extend(facts.boot_obstacle.as_ref().map(ToString::to_string));
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
        // Of a healthy system only what its admin wants refused is not ready.
        (Verdict::Healthy | Verdict::RebootPending, Some(k)) if k.modules_ready < k.modules_needed => {
            let refused = document.modules.iter().filter(|m| m.kernel == k.release);
            refused.filter_map(|m| m.reason.clone()).next().unwrap_or_else(|| ready(k))
        }
        (Verdict::Healthy | Verdict::RebootPending, Some(k)) => ready(k),
        (Verdict::Healthy, None) => "all DKMS modules are ready".to_owned(),
        (Verdict::Building, _) => "a run is building modules now".to_owned(),
        (Verdict::NotApplicable, _) => "no kernel of clr-boot-manager is installed here".to_owned(),
        _ => document.problems.first().cloned().unwrap_or_else(|| "it cannot be told".to_owned()),
    }
}
