//! Checks a `dkms.conf` and its source against the rules of Clear Linux's guide and against known mistakes.
//! Pure.
//!
//! The evaluation by bash decides the values, and its trace the lines. Findings in the text of a Makefile are
//! advice. Only what makes the installed dkms fail or never build the module is an error. The rules are the
//! rows of [`rules::RULES`].

mod conf_rules;
pub mod makefile;
mod own_modules;
mod rules;
pub mod source;
mod source_rules;
mod text_rules;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::conf::{ConfFile, DkmsConf, DkmsRules, Trace};
use super::{ModuleName, is_usable_name, tree};
pub use own_modules::own_modules;
use rules::{Check, LintRule, RULES};
use source::SourceFiles;
use view::{ConfView, Hit, LintPlace};

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Severity {
    /// The installed dkms fails, or never builds the module.
    Error,
    /// It probably does not do what was meant.
    Warning,
    /// It could be improved.
    Advice,
}

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file or directory.
    pub file: String,
    /// The line number, from 1; none if it is not a single line or is unknown.
    pub line: Option<usize>,
    /// The severity.
    pub severity: Severity,
    /// The id of the problem, which never changes.
    pub id: &'static str,
    /// What is wrong.
    #[serde(rename = "text")]
    pub what: String,
    /// The remedy.
    #[serde(rename = "next_step")]
    pub clear: String,
    /// The arguments of dkms in a command that does this. Which root it is for is not known here.
    #[serde(skip)]
    pub dkms: Option<Vec<String>>,
}

impl Finding {
    /// An error of a source without a `dkms.conf` that could be read.
    fn of_source(file: String, id: &'static str, what: &str, clear: String) -> Finding {
        Finding { file, line: None, severity: Severity::Error, id, what: what.to_owned(), clear, dkms: None }
    }
}

/// A file that is evaluated for a module.
#[derive(Debug)]
pub struct ConfText {
    /// The name to be shown.
    pub name: String,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// What the kernel itself has with the name of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelOwn {
    /// A module of its own.
    Module,
    /// The code, built in.
    BuiltIn,
}

/// The result of the files for one kernel.
#[derive(Debug)]
pub struct Answer {
    /// The kernel release.
    pub release: String,
    /// Modules are needed on this kernel; otherwise it only serves as an example.
    pub matters: bool,
    /// The evaluated files, as indexes into the texts of the subject.
    pub texts: Vec<usize>,
    /// The configuration of its headers, if they are installed.
    pub config: Option<Vec<u8>>,
    /// The modules that are part of the kernel, by their names in the kernel.
    pub own_modules: BTreeMap<String, KernelOwn>,
    /// The value and the trace of bash, or why there is no answer.
    pub evaluated: Result<(DkmsConf, Trace), String>,
}

/// The expected name and version.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// Any: a checkout may be anywhere.
    Anything,
    /// Those of the registered module.
    Module(ModuleName),
    /// `NAME-VERSION` must equal this name of a directory.
    Directory(String),
}

/// Everything that is known of one module.
#[derive(Debug)]
pub struct LintSubject<'a> {
    /// The `dkms.conf` and its overrides, in order of evaluation.
    pub texts: Vec<ConfText>,
    /// The source directory, as it is shown.
    pub directory: String,
    /// The expected name and version.
    pub expected: Expected,
    /// Root builds from this directory.
    pub builds_here: bool,
    /// The result of the files for each kernel.
    pub answers: Vec<Answer>,
    /// dkms knows the source; none if that cannot be read.
    pub is_registered: Option<bool>,
    /// The names of all registered modules; none if they cannot be read.
    pub modules: Option<&'a BTreeSet<String>>,
    /// The rules of the installed dkms.
    pub rules: DkmsRules,
    /// The files of the source.
    pub source: &'a SourceFiles,
}

impl LintSubject<'_> {
    /// Adds an answer and its files. A file that applies to several kernels is stored once.
    pub fn take(&mut self, mut answer: Answer, files: Vec<ConfFile>, show: impl Fn(&Path) -> String) {
        for (path, bytes) in files {
            let name = show(&path);
            let known = self.texts.iter().position(|text| text.name == name);
            answer.texts.push(known.unwrap_or(self.texts.len()));
            if known.is_none() {
                self.texts.push(ConfText { name, bytes });
            }
        }
        self.answers.push(answer);
    }
}

/// A directory without a `dkms.conf`.
pub fn without_conf(directory: &str, source: &SourceFiles, binaries_only: bool) -> Finding {
    if binaries_only || (!source.compiled.is_empty() && !source.sources && source.is_whole()) {
        let clear = "get the source of the module".to_owned();
        return Finding::of_source(
            directory.to_owned(),
            "precompiled-only",
            source_rules::PRECOMPILED,
            clear,
        );
    }
    let clear = match source.other_confs().as_slice() {
        [] => "write one; `man dkms`, section DKMS.CONF, lists what belongs in it".to_owned(),
        [one] => format!("use {}, or what the project makes of it", one.display()),
        [one, ..] => format!("use one of those that are there, {} first", one.display()),
    };
    Finding::of_source(directory.to_owned(), "no-conf", "there is no dkms.conf", clear)
}

/// A registered module whose source does not exist.
pub fn without_source(module: &ModuleName, reason: &str) -> Finding {
    let remove = command_of("remove", module).map(|words| [words, vec!["--all".to_owned()]].concat());
    let clear = match remove {
        Some(_) => "put the source back, or take the module out",
        None => "put the source back",
    };
    let place = format!("{}/{module}", tree::TREE);
    Finding { dkms: remove, ..Finding::of_source(place, "no-source", reason, clear.to_owned()) }
}

/// The arguments of dkms for a module. None if dkms cannot take its name.
fn command_of(verb: &str, module: &ModuleName) -> Option<Vec<String>> {
    let ModuleName { name, version } = module;
    let is_usable = is_usable_name(name) && is_usable_name(version);
    is_usable.then(|| [verb, "-m", name, "-v", version].map(str::to_owned).to_vec())
}

/// All findings, sorted by place.
pub fn lint(subject: &LintSubject<'_>) -> Vec<Finding> {
    let views: Vec<ConfView<'_>> = subject.answers.iter().filter_map(|a| ConfView::of(subject, a)).collect();
    let included = views.iter().filter(|view| view.conf.excluded.is_empty()).count();
    let of_views = views
        .iter()
        .flat_map(|view| of_conf(view).into_iter().map(|found| (found, view.answer.release.clone())));
    let mut findings = Vec::new();
    for ((rule, mut hit), kernels) in grouped(of_views) {
        let all = if matches!(rule.check, Check::Text(_)) { views.len() } else { included };
        hit.what += &for_some(&kernels, all);
        findings.push(finding(subject, rule, hit));
    }
    for rule in RULES {
        if let Check::Subject(check) = rule.check {
            findings.extend(check(subject).into_iter().map(|hit| finding(subject, rule, hit)));
        }
    }
    let order = |f: &Finding| subject.texts.iter().position(|t| t.name == f.file).unwrap_or(usize::MAX);
    findings.sort_by(|a, b| {
        (order(a), a.line, a.severity, a.id, &a.what).cmp(&(order(b), b.line, b.severity, b.id, &b.what))
    });
    findings
}

/// The findings in the value for one kernel, in the order of the rules.
fn of_conf(view: &ConfView<'_>) -> Vec<(&'static LintRule, Hit)> {
    let mut found = Vec::new();
    for rule in RULES {
        let hits = match rule.check {
            Check::Text(check) => check(view),
            Check::Values(check) if view.conf.excluded.is_empty() => check(view),
            Check::Refused(kind) if view.conf.excluded.is_empty() => conf_rules::refused(view, kind),
            Check::Values(_) | Check::Refused(_) | Check::Subject(_) => continue,
        };
        let is_last = rule.is_last && !hits.is_empty();
        found.extend(hits.into_iter().map(|hit| (rule, hit)));
        if is_last {
            break;
        }
    }
    found
}

fn finding(subject: &LintSubject<'_>, rule: &LintRule, hit: Hit) -> Finding {
    let (file, line) = match hit.place {
        LintPlace::Conf(file, line) => (subject.texts.get(file).map(|text| text.name.clone()), line),
        LintPlace::Source(path, line) => (Some(format!("{}/{}", subject.directory, path.display())), line),
        LintPlace::Directory => (None, None),
    };
    Finding {
        file: file.unwrap_or_else(|| subject.directory.clone()),
        line,
        severity: hit.severity.unwrap_or(rule.severity),
        id: rule.id,
        what: hit.what,
        clear: hit.clear.unwrap_or_else(|| rule.clear.to_owned()),
        dkms: hit.dkms,
    }
}

/// ` (for kernel K)`, if it does not apply to all kernels.
fn for_some(kernels: &[String], all: usize) -> String {
    if kernels.len() == all { String::new() } else { format!(" (for kernel {})", kernels.join(", ")) }
}

/// Groups equal items, each with the kernels that it applies to, in the order of their first occurrence.
fn grouped<T: PartialEq>(items: impl Iterator<Item = (T, String)>) -> Vec<(T, Vec<String>)> {
    let mut groups: Vec<(T, Vec<String>)> = Vec::new();
    for (item, kernel) in items {
        match groups.iter_mut().find(|(known, _)| *known == item) {
            Some((_, kernels)) if kernels.last() == Some(&kernel) => {}
            Some((_, kernels)) => kernels.push(kernel),
            None => groups.push((item, vec![kernel])),
        }
    }
    groups
}
