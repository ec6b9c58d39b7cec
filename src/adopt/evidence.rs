//! What was decided about a source, why it was refused, and the lines that say so.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::sys::FileError;

/// A line of the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The file, relative to the top of the source.
    pub file: PathBuf,
    /// The line number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
}

impl Evidence {
    /// The line with that number.
    pub fn of(file: &Path, line: usize, text: &str) -> Evidence {
        let text = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        Evidence { file: file.to_owned(), line, text: text.trim().to_owned() }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tabs and the columns of a Makefile say nothing here.
        let text: Vec<&str> = self.text.split_whitespace().collect();
        write!(f, "{}:{}: {}", self.file.display(), self.line, text.join(" "))
    }
}

/// A decision, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What was decided.
    pub subject: &'static str,
    /// The result.
    pub value: String,
    /// The reason.
    pub why: String,
    /// The line that says so, if one does.
    pub evidence: Option<Evidence>,
}

impl Decision {
    pub(super) fn new(
        subject: &'static str,
        value: impl Into<String>,
        why: impl Into<String>,
        evidence: Option<Evidence>,
    ) -> Decision {
        Decision { subject, value: value.into(), why: why.into(), evidence }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.value.is_empty() { "empty" } else { &self.value };
        write!(f, "{}: {value} ({})", self.subject, self.why)
    }
}

/// Why a source cannot be adopted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum AdoptError {
    /// There are modules, and nothing to build them from.
    #[error(
        "{}: only precompiled modules are there. A module must be built with the headers of the kernel that \
         loads it", .0.display()
    )]
    #[strum(serialize = "precompiled-only")]
    Precompiled(PathBuf),
    /// There is nothing to build.
    #[error("there is no source of a kernel module in it: no dkms.conf, and no Makefile with obj-m")]
    #[strum(serialize = "no-module-source")]
    NoSource,
    /// A part of the source is missing.
    #[error("{}: the submodule is empty, as in archives that a web site makes", .path.display())]
    EmptySubmodule { path: PathBuf, evidence: Option<Evidence> },
    /// More than one answer is possible. `by_conf`: the answer is a value of `--conf`.
    #[error("{what}: {}", .choices.join(", "))]
    Ambiguous { what: &'static str, choices: Vec<String>, option: &'static str, by_conf: bool },
    /// A placeholder whose value is unknown.
    #[error("the value of the placeholder {token} is unknown")]
    Placeholder { token: String, evidence: Evidence },
    /// The project is prepared for the build in a way that is its own.
    #[error("{why}")]
    NeedsRecipe { why: String, evidence: Option<Evidence> },
    /// There is no version.
    #[error("no version was found")]
    NoVersion,
    /// dkms does not accept a name or a version.
    #[error("{0:?} cannot be a {1} of a DKMS module")]
    BadName(String, &'static str),
    /// The `dkms.conf` is not usable.
    #[error("{reason}")]
    #[strum(serialize = "unusable-dkms-conf")]
    Conf { reason: String, evidence: Option<Evidence> },
    /// Something could not be read or evaluated.
    #[error("{0}")]
    Unknown(String),
}

impl From<FileError> for AdoptError {
    fn from(e: FileError) -> AdoptError {
        AdoptError::Unknown(e.to_string())
    }
}

impl AdoptError {
    /// The files among which one is to be chosen.
    pub fn confs(&self) -> &[String] {
        match self {
            AdoptError::Ambiguous { choices, by_conf: true, .. } => choices,
            _ => &[],
        }
    }

    /// The identifier of the cause, which never changes.
    pub fn id(&self) -> &'static str {
        self.into()
    }

    /// What helps, as a phrase. None where only the error itself says what to do.
    pub fn next_step(&self) -> Option<String> {
        let given = "give another dkms.conf with --conf";
        Some(match self {
            AdoptError::Precompiled(_) => "ask the maker of the module for its source".to_owned(),
            AdoptError::NoSource => {
                "give the directory or the archive with the source of the module".to_owned()
            }
            AdoptError::EmptySubmodule { .. } => {
                "clone the project with git, run `git submodule update --init` there, and add the checkout"
                    .to_owned()
            }
            AdoptError::Ambiguous { option, .. } => (*option).to_owned(),
            AdoptError::Placeholder { token, evidence } => {
                format!("write the value in place of {token} in {}, or {given}", evidence.file.display())
            }
            AdoptError::NeedsRecipe { .. } => {
                "prepare the source as its documentation says, and add the result".to_owned()
            }
            AdoptError::NoVersion => "give one with --version".to_owned(),
            AdoptError::BadName(_, what) => format!("give another {what} with --{what}"),
            AdoptError::Conf { evidence: Some(line), .. } => {
                format!("correct line {} of {}, or {given}", line.line, line.file.display())
            }
            AdoptError::Conf { evidence: None, .. } => given.to_owned(),
            AdoptError::Unknown(_) => return None,
        })
    }

    /// The line that forces it.
    pub fn evidence(&self) -> Option<&Evidence> {
        match self {
            AdoptError::Placeholder { evidence, .. } => Some(evidence),
            AdoptError::EmptySubmodule { evidence, .. }
            | AdoptError::NeedsRecipe { evidence, .. }
            | AdoptError::Conf { evidence, .. } => evidence.as_ref(),
            _ => None,
        }
    }
}
