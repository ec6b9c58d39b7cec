//! The enforcement document: what each kernel does with modules, as configured, at the next boot, and now.

use std::collections::BTreeMap;

use serde::Serialize;

use super::advice::{exit_code, problem, standing, summary};
use super::enforcement_remedies::{ParameterFix, remedy};
use super::remedy::CommandTarget;
use crate::boot::BootEntry;
use crate::cmdline::explain::explain;
use crate::cmdline::merge;
use crate::dkms::{ModuleName, Signature};
use crate::enforcement::{
    EnforcementVerdict, KernelFacts, LoadOutcome, LoadRefusal, Machine, ModuleKind, Tri, now,
};
use crate::system::KernelCmdline;

/// One built module of a kernel.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    /// The DKMS module that it belongs to.
    pub module: ModuleName,
    /// The path of the file as the host spells it.
    pub path: String,
    /// What the file says of its signature.
    pub signature: Signature,
    /// Whether a kernel takes it at all.
    pub fitness: FileFitness,
    /// Without it the next boot is not safe.
    pub unsafe_without: bool,
    /// The taint letters of the module that is loaded under that name now.
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

/// What the document says of one kernel is made from this.
#[derive(Debug)]
pub struct EnforcementSubject<'a> {
    /// The kernel and its configured command line.
    pub line: &'a KernelCmdline,
    /// Its image is there; without one nothing can boot it.
    pub installed: bool,
    /// It runs.
    pub running: bool,
    /// It is a tip, or runs: clr-boot-manager refreshes its entry. Others it leaves alone, or deletes.
    pub refreshed: bool,
    /// It boots next.
    pub boots_next: bool,
    /// Its boot entry; none when there is none, or none can be seen.
    pub entry: Option<&'a BootEntry>,
    /// Its built modules.
    pub modules: Vec<ModuleFile>,
}

/// What holds for all kernels.
#[derive(Debug)]
pub struct Setting<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// Why no boot entry can be seen; none when they can.
    pub entries_hidden: Option<&'a str>,
    /// That alone makes the answer unknown: the machine boots from them.
    pub entries_needed: bool,
    /// What is odd or wrong with the boot entries, and which of them the next boot takes.
    pub entry_notes: Vec<String>,
    /// What makes `module.sig_unenforce` as the configuration wants it; none where it is.
    pub policy_fix: Option<ParameterFix>,
    /// The system that commands are for.
    pub target: CommandTarget,
    /// The kernels could not be listed, or there is none.
    pub unreadable: Option<String>,
    /// No kernel is installed, so that there is nothing to know.
    pub not_applicable: bool,
}

/// One word for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcementStanding {
    /// Configuration, boot entry and running kernel agree, and are as wanted.
    Settled,
    /// Something is pending, differs, or is not as wanted.
    Pending,
    /// A module in use will be refused at the next boot.
    Refused,
    /// It cannot be determined.
    Unknown,
}

/// What a kernel does at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelView {
    /// The command line that decides; none when it cannot be read.
    pub cmdline: Option<String>,
    /// `module.sig_unenforce` on it: `on`, `off`, `unknown`.
    pub sig_unenforce: &'static str,
    /// `loads`, `taints`, `refused` or `unknown`, by kind of module.
    pub loads: BTreeMap<&'static str, &'static str>,
    /// The error of each refusal that is known.
    pub error: BTreeMap<&'static str, LoadRefusal>,
    /// Why, in words.
    pub because: Vec<String>,
    /// The facts that are missing.
    pub missing: Vec<String>,
    /// The boot entry that it was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    #[serde(skip)]
    pub(super) verdict: EnforcementVerdict,
}

/// What happens to one built module, three times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModuleReport {
    /// The DKMS module.
    pub module: ModuleName,
    /// The file.
    pub path: String,
    /// What it says of its signature.
    pub signature: Signature,
    /// The same in words, or why no kernel takes the file.
    pub signature_text: String,
    /// No kernel takes the file, whatever its signature.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unfit: bool,
    /// The file cannot be read.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
    /// Without it the next boot is not safe.
    #[serde(skip)]
    pub(super) unsafe_without: bool,
    /// As configured.
    pub configured: &'static str,
    /// At the next boot; none without a boot entry.
    pub next_boot: Option<&'static str>,
    /// Now; none where the kernel does not run.
    pub now: Option<&'static str>,
    /// The error, where it is refused as configured or at the next boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<LoadRefusal>,
    /// It is loaded now, with these taint letters.
    pub loaded: Option<String>,
}

/// One kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelReport {
    /// The kernel release.
    pub release: String,
    /// The kernel id.
    pub id: String,
    /// Its image is there; without one nothing can boot it.
    pub installed: bool,
    /// It runs.
    pub running: bool,
    /// It boots next.
    pub boots_next: bool,
    /// clr-boot-manager refreshes its boot entry.
    #[serde(skip)]
    pub(super) refreshed: bool,
    /// Whether it knows `module.sig_unenforce`: `v1`, `v2`, `absent`, `unknown`.
    pub patch: &'static str,
    /// Today's files.
    pub configured: KernelView,
    /// The boot entry; none when there is none, or it cannot be seen.
    pub next_boot: Option<KernelView>,
    /// The running kernel; none for the others.
    pub now: Option<KernelView>,
    /// Its built modules.
    pub modules: Vec<ModuleReport>,
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnforcementDocument {
    /// Grows only when a field changes its meaning.
    pub schema: u32,
    /// One word.
    pub standing: EnforcementStanding,
    /// The answer in one sentence.
    pub summary: String,
    /// What to do next; none when there is nothing to do.
    pub next_step: Option<String>,
    /// `on`, `off` or `unknown`.
    pub secure_boot: &'static str,
    /// What taints the running kernel, as letters.
    pub taint: Option<String>,
    /// `module.sig_unenforce` is as the configuration wants it.
    pub policy_met: bool,
    /// The kernels; the one that boots next first.
    pub kernels: Vec<KernelReport>,
    /// What else is to be known.
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

/// What one verdict says, with the line that it is about.
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
        sig_unenforce: line.map_or("unknown", |l| kernel.switch(l).word()),
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

    /// What is known of both is not the same.
    pub(super) fn differs(&self, other: &KernelView) -> bool {
        let differ = |(kind, word): (&&str, &&str)| {
            let there = other.loads.get(kind).copied().unwrap_or("unknown");
            let errors = (self.error.get(kind), other.error.get(kind));
            let known = *word != "unknown" && there != "unknown";
            known && (*word != there || matches!(errors, (Some(one), Some(another)) if one != another))
        };
        self.loads.iter().any(differ)
    }
}

impl KernelReport {
    /// Makes it.
    pub fn new(subject: &EnforcementSubject<'_>, machine: &Machine) -> KernelReport {
        let line = subject.line;
        let mut configured =
            view(Some(&line.effective), None, &line.kernel, line.verdict_with(&line.effective, machine));
        if configured.verdict.demanded != Tri::No {
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
            patch: line.kernel.patch.word(),
            modules: modules.collect(),
            configured,
            next_boot,
            now,
        }
    }

    /// What counts at the next boot: the entry, or what it will be made of.
    pub fn coming(&self) -> &KernelView {
        self.next_boot.as_ref().unwrap_or(&self.configured)
    }

    /// The files of modules that fare so at the next boot: `loads`, `taints`, `refused`, `unknown`.
    pub(super) fn with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = &'a ModuleReport> {
        self.modules.iter().filter(move |m| m.coming() == word)
    }

    /// It is configured without the parameter, and would do otherwise with it: whether that is as wanted is a matter of
    /// the policy.
    pub(super) fn parameter_would_help(&self) -> bool {
        let verdict = &self.configured.verdict;
        self.configured.sig_unenforce != "on"
            && verdict.disabled != Tri::Yes
            && verdict.checked != Tri::No
            && verdict.demanded != Tri::No
            && self.patch != "absent"
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
    // What another kernel has loaded is no evidence for this one.
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
    /// What happens at the next boot.
    pub fn coming(&self) -> &'static str {
        self.next_boot.unwrap_or(self.configured)
    }
}

/// Makes the document. The first subject is the one that the question is about.
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
            k.modules.iter().any(|m| m.configured == "refused" && m.coming() != "refused")
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
        policy_met: setting.policy_fix.is_none(),
        kernels,
        notes,
    }
}
