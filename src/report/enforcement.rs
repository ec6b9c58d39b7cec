//! The enforcement document: what each kernel does with modules, as configured, at the next boot, and now.

use std::collections::BTreeMap;

use serde::Serialize;

use super::enforcement_conclusion::{exit_code, problem, standing, summary};
use super::enforcement_remedies::{ParameterFix, remedy};
use super::remedy::CommandTarget;
use crate::boot::BootEntry;
use crate::cmdline::explain::explain;
use crate::cmdline::{Switch, merge};
use crate::dkms::{ModuleName, Signature};
use crate::enforcement::{
    EnforcementVerdict, KernelFacts, LoadOutcome, LoadRefusal, LoadWord, Machine, ModuleKind, Patch, Tri, now,
};
use crate::system::KernelCmdline;

/// A built module file of a kernel.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    /// The DKMS module that it belongs to.
    pub module: ModuleName,
    /// The path of the file on the host.
    pub path: String,
    /// The signature in the file.
    pub signature: Signature,
    /// Whether any kernel can load it.
    pub fitness: FileFitness,
    /// Whether the next boot is unsafe without it.
    pub unsafe_without: bool,
    /// The taint letters of the module that is now loaded under this name.
    pub loaded: Option<String>,
}

/// Whether a file can be loaded, whatever its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFitness {
    /// It is a module of that kernel.
    Fit,
    /// It is not a module, or one of another kernel; the reason.
    Unfit(String),
    /// It cannot be read; the reason.
    Unread(String),
}

impl FileFitness {
    /// Why it is not known to be fit.
    fn reason(&self) -> Option<&str> {
        match self {
            FileFitness::Fit => None,
            FileFitness::Unfit(why) | FileFitness::Unread(why) => Some(why),
        }
    }
}

/// The input of the report on one kernel.
#[derive(Debug)]
pub struct EnforcementSubject<'a> {
    /// The kernel and its configured command line.
    pub line: &'a KernelCmdline,
    /// Whether its image exists. Without one it cannot be booted.
    pub installed: bool,
    /// It runs.
    pub running: bool,
    /// Whether it is a tip or runs. clr-boot-manager refreshes the entries of such kernels, and ignores or
    /// deletes others.
    pub refreshed: bool,
    /// It boots next.
    pub boots_next: bool,
    /// Its boot entry; none if it has none, or if entries are not visible.
    pub entry: Option<&'a BootEntry>,
    /// Its built modules.
    pub modules: Vec<ModuleFile>,
}

/// The input that is the same for all kernels.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Why boot entries are not visible; none if they are.
    pub entries_hidden: Option<&'a str>,
    /// Whether this makes the answer unknown, because the machine boots from these entries.
    pub entries_needed: bool,
    /// Oddities and faults of the boot entries, and which entry boots next.
    pub entry_notes: Vec<String>,
    /// What sets `module.sig_unenforce` as configured; none if it is.
    pub policy_fix: Option<ParameterFix>,
    /// The system that commands are for.
    pub target: CommandTarget,
    /// Why no kernel is known: they could not be listed, or none is installed.
    pub unreadable: Option<String>,
    /// No kernel is installed, so that there is nothing to know.
    pub not_applicable: bool,
}

/// The word for all kernels together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcementStanding {
    /// The configuration, the boot entry and the running kernel agree, and are as wanted.
    Settled,
    /// Something is pending, differs, or is not as wanted.
    Pending,
    /// A module in use will be refused at the next boot.
    Refused,
    /// It cannot be determined.
    Unknown,
}

/// How a kernel treats modules at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelView {
    /// The command line that was evaluated; none if it cannot be read.
    pub cmdline: Option<String>,
    /// The value of `module.sig_unenforce` on it: `on`, `off` or `unknown`.
    pub sig_unenforce: Switch,
    /// `loads`, `taints`, `refused` or `unknown`, by kind of module.
    pub loads: BTreeMap<&'static str, LoadWord>,
    /// The error of each refusal that is known.
    pub error: BTreeMap<&'static str, LoadRefusal>,
    /// The reasons, as phrases.
    pub because: Vec<String>,
    /// The facts that are missing.
    pub missing: Vec<String>,
    /// The boot entry that the command line was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    #[serde(skip)]
    pub(super) verdict: EnforcementVerdict,
}

/// What happens to one built module: as configured, at the next boot, and now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleReport {
    pub module: ModuleName,
    pub path: String,
    /// The signature in the file.
    pub signature: Signature,
    /// The signature as text, or why no kernel loads the file.
    pub signature_text: String,
    /// Whether no kernel loads the file, whatever its signature.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unfit: bool,
    /// The file cannot be read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// Whether the next boot is unsafe without it.
    #[serde(skip)]
    pub(super) unsafe_without: bool,
    /// As configured.
    pub configured: LoadWord,
    /// At the next boot; none without a boot entry.
    pub next_boot: Option<LoadWord>,
    /// Now; none if the kernel does not run.
    pub now: Option<LoadWord>,
    /// The error, if it is refused as configured or at the next boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<LoadRefusal>,
    /// The taint letters, if it is loaded now.
    pub loaded: Option<String>,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelReport {
    pub release: String,
    pub id: String,
    /// Whether its image exists. Without one it cannot be booted.
    pub installed: bool,
    /// Whether it runs.
    pub running: bool,
    /// Whether it boots next.
    pub boots_next: bool,
    /// Whether clr-boot-manager refreshes its boot entry.
    #[serde(skip)]
    pub(super) refreshed: bool,
    /// Whether it supports `module.sig_unenforce`: `v1`, `v2`, `absent` or `unknown`.
    pub patch: Patch,
    /// Whether `module.sig_unenforce` is not configured and would change the outcome. The policy decides
    /// whether that is wanted.
    #[serde(skip)]
    pub(super) parameter_would_help: bool,
    /// According to the present files.
    pub configured: KernelView,
    /// According to the boot entry; none if it has none, or if entries are not visible.
    pub next_boot: Option<KernelView>,
    /// The running kernel; none for other kernels.
    pub now: Option<KernelView>,
    /// Its built modules.
    pub modules: Vec<ModuleReport>,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnforcementDocument {
    /// Increased only if the meaning of a field changes.
    pub schema: u32,
    /// The word for all kernels together.
    pub standing: EnforcementStanding,
    /// The answer in one sentence.
    pub summary: String,
    /// The next step; none if there is nothing to do.
    pub next_step: Option<String>,
    /// `on`, `off` or `unknown`.
    pub secure_boot: &'static str,
    /// The taint letters of the running kernel.
    pub taint: Option<String>,
    /// Whether `module.sig_unenforce` is as configured.
    pub policy_met: bool,
    /// The kernels, the one that boots next first.
    pub kernels: Vec<KernelReport>,
    /// Further remarks.
    pub notes: Vec<String>,
    /// The exit code.
    #[serde(skip)]
    pub exit_code: u8,
}

/// The kinds that reports name.
const KINDS: [(&str, ModuleKind); 4] = [
    ("trusted", ModuleKind::Trusted),
    ("unsigned", ModuleKind::Unsigned),
    ("unknown_key", ModuleKind::UnknownKey),
    ("damaged", ModuleKind::Damaged),
];

/// The view of one command line and its verdict.
fn view(
    line: Option<&[u8]>,
    entry: Option<&BootEntry>,
    kernel: &KernelFacts,
    verdict: EnforcementVerdict,
) -> KernelView {
    let outcomes = || KINDS.iter().map(|(name, kind)| (*name, verdict.of(*kind)));
    let open = outcomes().any(|(_, outcome)| outcome == LoadOutcome::Unknown);
    let mut because = verdict.because.clone();
    because.extend(verdict.missing.iter().filter(|_| open).map(|fact| format!("not known: {fact}")));
    KernelView {
        cmdline: line.map(|l| String::from_utf8_lossy(l).into_owned()),
        sig_unenforce: line.map_or(Switch::Unknown, |l| kernel.switch(l)),
        loads: outcomes().map(|(name, outcome)| (name, outcome.word())).collect(),
        error: outcomes().filter_map(|(name, outcome)| Some((name, outcome.error()?))).collect(),
        because,
        missing: if open { verdict.missing.clone() } else { Vec::new() },
        entry: entry.map(|e| e.file.clone()),
        verdict,
    }
}

impl KernelView {
    /// What happens to a module without a trusted signature.
    pub fn unsigned(&self) -> LoadOutcome {
        self.verdict.of(ModuleKind::Unsigned)
    }

    /// Whether the known parts of both differ.
    pub(super) fn differs(&self, other: &KernelView) -> bool {
        let differ = |(kind, word): (&&str, &LoadWord)| {
            let there = other.loads.get(kind).copied().unwrap_or(LoadWord::Unknown);
            let errors = (self.error.get(kind), other.error.get(kind));
            let known = *word != LoadWord::Unknown && there != LoadWord::Unknown;
            known && (*word != there || matches!(errors, (Some(one), Some(another)) if one != another))
        };
        self.loads.iter().any(differ)
    }
}

impl KernelReport {
    /// Builds the report on a kernel.
    pub fn new(subject: &EnforcementSubject<'_>, machine: &Machine) -> KernelReport {
        let line = subject.line;
        let known = line.unread().is_none();
        let words = known.then_some(line.effective.as_slice());
        let mut configured = view(words, None, &line.kernel, line.configured_verdict(machine));
        if known && configured.verdict.demanded != Tri::No {
            configured.because.extend(explain(&line.sources, &merge(&line.sources)));
        }
        let next_boot = subject.entry.map(|entry| {
            view(Some(&entry.options), Some(entry), &line.kernel, line.verdict_with(&entry.options, machine))
        });
        let runtime = machine.runtime.as_ref().filter(|_| subject.running);
        let now = runtime.map(|runtime| {
            let booted = machine.line.as_deref();
            let verdict = now(&line.kernel.boot(booted.unwrap_or_default(), machine), runtime);
            view(booted, None, &line.kernel, verdict)
        });
        let modules =
            subject.modules.iter().map(|m| module(m, line, &configured, next_boot.as_ref(), now.as_ref()));
        KernelReport {
            release: line.release.clone(),
            id: line.id.clone(),
            installed: subject.installed,
            running: subject.running,
            boots_next: subject.boots_next,
            refreshed: subject.refreshed,
            patch: line.kernel.patch,
            parameter_would_help: line.parameter_would_help(machine),
            modules: modules.collect(),
            configured,
            next_boot,
            now,
        }
    }

    /// The view at the next boot: the boot entry, or the configuration that it will be made from.
    pub fn coming(&self) -> &KernelView {
        self.next_boot.as_ref().unwrap_or(&self.configured)
    }

    /// The module files with this outcome at the next boot.
    pub(super) fn with(&self, word: LoadWord) -> impl Iterator<Item = &ModuleReport> {
        self.modules.iter().filter(move |m| m.coming() == word)
    }

    /// Whether a file of the configured command line could not be read.
    pub(super) fn is_line_unread(&self) -> bool {
        self.configured.cmdline.is_none()
    }

    pub(super) fn entry_differs(&self) -> bool {
        self.refreshed && self.next_boot.as_ref().is_some_and(|view| view.differs(&self.configured))
    }

    pub(super) fn differs(&self) -> bool {
        self.entry_differs() || self.now.as_ref().is_some_and(|view| view.differs(self.coming()))
    }
}

fn module(
    file: &ModuleFile,
    line: &KernelCmdline,
    configured: &KernelView,
    next: Option<&KernelView>,
    now: Option<&KernelView>,
) -> ModuleReport {
    // Modules that another kernel has loaded are not evidence for this one.
    let loaded = file.loaded.as_deref().filter(|_| now.is_some());
    let of = |view: &KernelView| match &file.fitness {
        FileFitness::Unfit(_) => LoadOutcome::Refused(None),
        FileFitness::Unread(_) => LoadOutcome::Unknown,
        FileFitness::Fit => line.outcome(&file.signature, loaded, &view.verdict),
    };
    let coming = of(next.unwrap_or(configured));
    ModuleReport {
        module: file.module.clone(),
        path: file.path.clone(),
        signature_text: file.fitness.reason().map_or_else(|| file.signature.to_string(), str::to_owned),
        signature: file.signature.clone(),
        unfit: matches!(file.fitness, FileFitness::Unfit(_)),
        unread: matches!(file.fitness, FileFitness::Unread(_)),
        unsafe_without: file.unsafe_without,
        configured: of(configured).word(),
        next_boot: next.map(|view| of(view).word()),
        now: now.map(|view| of(view).word()),
        error: coming.error().or_else(|| of(configured).error()),
        loaded: file.loaded.clone(),
    }
}

impl ModuleReport {
    /// The outcome at the next boot.
    pub fn coming(&self) -> LoadWord {
        self.next_boot.unwrap_or(self.configured)
    }
}

/// Builds the document. The first subject is the kernel that the question is about.
pub fn document(subjects: &[EnforcementSubject<'_>], setting: &Setting<'_>) -> EnforcementDocument {
    let kernels: Vec<KernelReport> = subjects.iter().map(|s| KernelReport::new(s, setting.machine)).collect();
    let standing = standing(&kernels, setting);
    let mut notes = Vec::new();
    notes.extend(setting.entries_hidden.map(str::to_owned));
    for kernel in &kernels {
        if !kernel.installed {
            notes.push(format!(
                "{} has no image: clr-boot-manager makes no boot entry for it",
                kernel.release
            ));
        } else if setting.entries_hidden.is_none() && kernel.next_boot.is_none() {
            notes.push(format!("there is no boot entry for {}", kernel.release));
        }
    }
    notes.extend(setting.entry_notes.iter().cloned());
    if kernels.iter().any(KernelReport::entry_differs) {
        let mut note = "the next `clr-boot-manager update`, which each update runs, makes the boot entries as configured".to_owned();
        let lost = |k: &&KernelReport| {
            k.modules.iter().any(|m| m.configured == LoadWord::Refused && m.coming() != LoadWord::Refused)
        };
        if let Some(kernel) = kernels.iter().find(lost) {
            note += &format!(": then kernel {} refuses modules that it takes now", kernel.release);
        }
        notes.push(note);
    }
    let problem = problem(&kernels, setting, standing);
    EnforcementDocument {
        schema: 1,
        standing,
        exit_code: exit_code(&kernels, setting, standing, problem.as_ref()),
        summary: summary(&kernels, setting),
        next_step: problem.map(|p| remedy(&p).text(&setting.target)),
        secure_boot: setting.machine.secure_boot.into(),
        taint: setting.machine.taint.clone(),
        policy_met: setting.policy_fix.is_none() && !kernels.iter().any(KernelReport::is_line_unread),
        kernels,
        notes,
    }
}
