//! Advice on a `dkms.conf` and its source: the rules of Clear Linux's guide, and the traps that are known. Pure.
//!
//! Bash's evaluation decides what a value is; the static reading of the text says on which line it stands, and warns of
//! what an evaluation cannot see. So nothing is called an error only because a line looks odd.

mod values;

use std::collections::BTreeSet;

use serde::Serialize;

use super::ModuleName;
use super::script::Script;
use super::source::SourceFiles;
use super::told::Told;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It will not be built, or not be safe.
    Error,
    /// It will not do what was probably meant.
    Warning,
    /// It could be better.
    Advice,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Advice => "advice",
        })
    }
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file or directory.
    pub file: String,
    /// Counted from 1; none when it is no single line, or the text does not tell which.
    pub line: Option<usize>,
    /// How bad it is.
    pub severity: Severity,
    /// The name of the problem; the same for ever.
    pub id: &'static str,
    /// What is wrong.
    #[serde(rename = "text")]
    pub what: String,
    /// What clears it.
    #[serde(rename = "next_step")]
    pub clear: String,
}

/// A file that counts for a module.
#[derive(Debug)]
pub struct Text {
    /// As it is to be shown.
    pub name: String,
    /// What a static reading finds in it.
    pub script: Script,
}

/// What the files say for one kernel.
#[derive(Debug)]
pub struct Answer {
    /// The kernel release.
    pub release: String,
    /// It is a kernel whose modules matter here, not one that only stands for any.
    pub matters: bool,
    /// Its headers are there, and with them its configuration.
    pub headers: bool,
    /// What bash says, or why it says nothing.
    pub told: Result<Told, String>,
}

/// What name and version should be.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    /// Anything: a checkout may lie anywhere.
    Anything,
    /// Those of the module as it is registered.
    Module(ModuleName),
    /// `NAME-VERSION` is this name of a directory.
    Directory(String),
}

/// Everything that is known of one module.
#[derive(Debug)]
pub struct LintSubject<'a> {
    /// The `dkms.conf`, and what overrides it, in the order in which they count.
    pub texts: Vec<Text>,
    /// The source directory, as it is to be shown.
    pub directory: String,
    /// What name and version should be.
    pub expected: Expected,
    /// Root builds from this directory.
    pub builds_here: bool,
    /// What the files say, for each kernel.
    pub answers: Vec<Answer>,
    /// The names of all modules; none when that cannot be determined.
    pub modules: Option<&'a BTreeSet<String>>,
    /// The files of the source.
    pub source: &'a SourceFiles,
}

/// A directory without a `dkms.conf`.
pub fn without_conf(directory: &str, source: &SourceFiles, binaries_only: bool) -> Finding {
    if binaries_only || (!source.compiled.is_empty() && !source.sources && source.is_whole()) {
        return precompiled(directory, Severity::Error);
    }
    Finding {
        file: directory.to_owned(),
        line: None,
        severity: Severity::Error,
        id: "no-conf",
        what: "there is no dkms.conf".to_owned(),
        clear: "write one; `man dkms`, section DKMS.CONF, lists what belongs in it".to_owned(),
    }
}

/// A registered module whose source is gone.
pub fn without_source(module: &ModuleName, reason: &str) -> Finding {
    let ModuleName { name, version } = module;
    Finding {
        file: format!("{}/{module}", super::tree::TREE),
        line: None,
        severity: Severity::Error,
        id: "no-source",
        what: reason.to_owned(),
        clear: format!(
            "put the source back, or take the module out: `dkms remove -m {name} -v {version} --all`"
        ),
    }
}

fn precompiled(directory: &str, severity: Severity) -> Finding {
    Finding {
        file: directory.to_owned(),
        line: None,
        severity,
        id: "precompiled-only",
        what: "it holds compiled modules and no source: they fit one kernel only, and not this system's"
            .to_owned(),
        clear: "get the source of the module".to_owned(),
    }
}

/// All findings, sorted by place.
pub fn lint(subject: &LintSubject<'_>) -> Vec<Finding> {
    let mut found = Found { subject, findings: Vec::new() };
    found.texts();
    found.silent();
    found.values();
    found.excluded();
    found.files();
    let mut findings = found.findings;
    let order = |f: &Finding| subject.texts.iter().position(|t| t.name == f.file).unwrap_or(usize::MAX);
    findings.sort_by(|a, b| {
        (order(a), a.line, a.severity, a.id, &a.what).cmp(&(order(b), b.line, b.severity, b.id, &b.what))
    });
    findings
}

/// Where something stands.
type Place = (usize, Option<usize>);

struct Found<'a> {
    subject: &'a LintSubject<'a>,
    findings: Vec<Finding>,
}

impl Found<'_> {
    fn add(&mut self, place: Place, severity: Severity, id: &'static str, what: String, clear: &str) {
        let file = self
            .subject
            .texts
            .get(place.0)
            .map_or_else(|| self.subject.directory.clone(), |t| t.name.clone());
        self.findings.push(Finding { file, line: place.1, severity, id, what, clear: clear.to_owned() });
    }

    /// The last file that gives a directive.
    fn place(&self, name: &str) -> Place {
        let lines = self.subject.texts.iter().enumerate().rev();
        lines.filter_map(|(at, t)| Some((at, Some(t.script.line_of(name)?)))).next().unwrap_or((0, None))
    }

    fn place_of_element(&self, name: &str, index: usize) -> Place {
        let lines = self.subject.texts.iter().enumerate().rev();
        let line = |(at, text): (usize, &Text)| Some((at, Some(text.script.line_of_element(name, index)?)));
        lines.filter_map(line).next().unwrap_or((0, None))
    }

    fn told(&self) -> impl Iterator<Item = (&str, &Told)> {
        self.subject.answers.iter().filter_map(|a| Some((a.release.as_str(), a.told.as_ref().ok()?)))
    }

    /// What only the text tells.
    fn texts(&mut self) {
        let broken = self.told().any(|(_, told)| told.syntax.is_some());
        for (at, text) in self.subject.texts.iter().enumerate() {
            // When bash stumbles over it, that is said once.
            for swallow in text.script.swallows.iter().filter(|_| !broken) {
                let what = format!(
                    "the quote that opens here goes on to line {} and swallows {}",
                    swallow.line, swallow.directive
                );
                let clear = "close the quote on its own line";
                self.add((at, Some(swallow.opened)), Severity::Warning, "quote-swallows", what, clear);
            }
            for (directive, line) in &text.script.blanks {
                let what =
                    format!("a blank stands between {directive} and its =: bash takes it for a command");
                let clear = "take the blanks around = away";
                self.add((at, Some(*line)), Severity::Warning, "blank-at-equals", what, clear);
            }
            if let Some(line) = text.script.binary {
                let what = "it holds a NUL byte: bash leaves it out".to_owned();
                self.add(
                    (at, Some(line)),
                    Severity::Warning,
                    "not-text",
                    what,
                    "save the file as plain text",
                );
            }
        }
    }

    /// Kernels for which bash gives no answer.
    fn silent(&mut self) {
        let silent = |a: &Answer| Some((a.told.as_ref().err()?.clone(), a.release.clone()));
        for (reason, kernels) in grouped(self.subject.answers.iter().filter_map(silent)) {
            let what = reason + &self.for_some(&kernels, self.subject.answers.len());
            let clear = "look at what it does when bash runs it: it must end by itself, within ten seconds";
            self.add((0, None), Severity::Error, "no-answer", what, clear);
        }
    }

    /// ` (for kernel K)`, when it is not so for all of them.
    fn for_some(&self, kernels: &[String], all: usize) -> String {
        if kernels.len() == all { String::new() } else { format!(" (for kernel {})", kernels.join(", ")) }
    }

    /// What the values are, for each kernel that the module is for.
    fn values(&mut self) {
        let mut judged = Vec::new();
        let mut all = 0;
        for (release, told) in self.told() {
            if told.excluded.is_empty() || told.syntax.is_some() {
                all += 1;
                judged.extend(values::judge(self, told).into_iter().map(|f| (f, release.to_owned())));
            }
        }
        for ((place, severity, id, what, clear), kernels) in grouped(judged.into_iter()) {
            let what = what + &self.for_some(&kernels, all);
            self.add(place, severity, id, what, &clear);
        }
    }

    fn excluded(&mut self) {
        let answers = self.subject.answers.iter().filter(|a| a.matters);
        let told = answers.filter_map(|a| Some((a.told.as_ref().ok()?, a)));
        let reasons = told.flat_map(|(told, answer)| told.excluded.iter().map(move |r| (r, answer)));
        let reasons = reasons.map(|(reason, a)| ((reason.clone(), a.headers), a.release.clone()));
        for ((reason, headers), kernels) in grouped(reasons.collect::<Vec<_>>().into_iter()) {
            let directive = reason.split(' ').next().unwrap_or_default().to_owned();
            let is = if kernels.len() == 1 { "is" } else { "are" };
            let mut what = format!("kernel {} {is} left out: {reason}", kernels.join(", "));
            let mut clear = format!("none when that is meant; else change {directive}");
            let mut severity = Severity::Warning;
            // Many a file looks into the kernel's configuration, and takes one that is not there for a no.
            if !headers {
                severity = Severity::Advice;
                what += " (its headers are not there, which may be why)";
                clear = "install the headers of the kernel, and ask again".to_owned();
            }
            self.add(self.place(&directive), severity, "excluded", what, &clear);
        }
    }

    fn files(&mut self) {
        let (source, directory) = (self.subject.source, &self.subject.directory);
        let nowhere = usize::MAX;
        if !source.compiled.is_empty() && source.is_whole() {
            if !source.sources {
                // What it prepares may bring the source.
                let prepares = self.told().any(|(_, told)| told.prepares);
                let severity = if prepares { Severity::Warning } else { Severity::Error };
                self.findings.push(precompiled(directory, severity));
            } else {
                let what = format!(
                    "compiled modules lie beside the source, {} first: a build may take one for its own",
                    source.compiled[0].display()
                );
                self.add(
                    (nowhere, None),
                    Severity::Advice,
                    "precompiled-beside",
                    what,
                    "remove them from the source",
                );
            }
        }
        if let Some(first) = source.writable.first() {
            let who = &first.why;
            let what = match (first.path.as_os_str().is_empty(), source.writable.len()) {
                (true, 1) => format!("another user can change the source directory: {who}"),
                (true, n) => {
                    format!("another user can change the source directory ({who}) and {} of its files", n - 1)
                }
                (false, 1) => format!("another user can change {}: {who}", first.path.display()),
                (false, n) => {
                    format!("another user can change {n} files, {} first: {who}", first.path.display())
                }
            };
            let (severity, risk) = match self.subject.builds_here {
                true => (Severity::Error, "; root runs what stands there at each new kernel"),
                false => (Severity::Warning, ""),
            };
            let directory = quoted(directory);
            let clear = match self.subject.builds_here {
                true => format!(
                    "`chown -R root:root {directory}` and `chmod -R go-w {directory}`, when the files are good"
                ),
                false => format!("`chmod -R go-w {directory}`, when the files are good"),
            };
            self.add((nowhere, None), severity, "writable-by-others", what + risk, &clear);
        }
        if !source.is_whole() {
            let what = match source.unseen.first() {
                Some(first) => format!("not all of the source could be looked at: {first}"),
                None => "the source has more files than are looked at".to_owned(),
            };
            self.add(
                (nowhere, None),
                Severity::Advice,
                "not-all-seen",
                what,
                "run it as root, or look at the rest yourself",
            );
        }
    }
}

/// A path as a shell takes it for one word.
fn quoted(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/._+~-:@%".contains(&b);
    let path = if path.starts_with('-') { format!("./{path}") } else { path.to_owned() };
    if path.bytes().all(plain) { path } else { format!("'{}'", path.replace('\'', "'\\''")) }
}

/// Equal things together, with the kernels that they are so for, in the order of their first appearance.
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
