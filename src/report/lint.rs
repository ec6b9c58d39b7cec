//! The document of `clr-dkms lint`.

use serde::Serialize;

use super::remedy::{AdminCommand, CommandTarget};
use crate::dkms::lint::{Finding, Severity};

/// The findings of all targets.
#[derive(Debug, Serialize)]
pub struct LintDocument {
    /// Increased only if the meaning of a field changes.
    pub schema: u32,
    /// The summary, as one sentence.
    pub summary: String,
    /// The kernels that the files were evaluated for; empty if none is known.
    pub kernels: Vec<String>,
    /// The modules and directories, in the order of the command line.
    pub targets: Vec<Target>,
}

/// One module or directory.
#[derive(Debug, Default, Serialize)]
pub struct Target {
    /// `name/version` of a registered module, or the directory as it was given.
    pub name: String,
    /// The source directory, by its name in the document.
    pub folder: Option<String>,
    /// Why it could not be read, or only partly.
    pub unreadable: Option<String>,
    /// The findings.
    pub findings: Vec<Finding>,
}

impl LintDocument {
    /// Builds the document. Its commands are for that system.
    pub fn of(kernels: Vec<String>, mut targets: Vec<Target>, system: &CommandTarget) -> LintDocument {
        for finding in targets.iter_mut().flat_map(|target| &mut target.findings) {
            let Some(arguments) = finding.dkms.take() else { continue };
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let line = AdminCommand::change("dkms", &arguments).line(system);
            finding.clear += &format!(": `{line}`");
        }
        let mut document = LintDocument { schema: 1, summary: String::new(), kernels, targets };
        document.summary = document.sum();
        document
    }

    /// The number of findings with this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.targets.iter().flat_map(|t| &t.findings).filter(|f| f.severity == severity).count()
    }

    /// The number of targets that could not be read.
    pub fn unreadable(&self) -> usize {
        self.targets.iter().filter(|t| t.unreadable.is_some()).count()
    }

    fn sum(&self) -> String {
        if self.targets.is_empty() {
            return "no module is registered with DKMS".to_owned();
        }
        let counted = |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        let parts = [
            (self.count(Severity::Error), "error", "errors"),
            (self.count(Severity::Warning), "warning", "warnings"),
            (self.count(Severity::Advice), "piece of advice", "pieces of advice"),
        ];
        let found = parts.iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| counted(*n, one, many));
        let unread = Some(self.unreadable()).filter(|n| *n > 0).map(|n| format!("{n} could not be read"));
        let found: Vec<String> = found.chain(unread).collect();
        let found = if found.is_empty() { "no findings".to_owned() } else { found.join(", ") };
        format!("{}: {found}", counted(self.targets.len(), "module", "modules"))
    }
}
