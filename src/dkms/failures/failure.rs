//! How the work on a module fails.

use anyhow::anyhow;

use crate::dkms::first_error::FirstError;
use crate::sys::FileError;

/// Why an attempt did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// dkms found that dkms.conf excludes this kernel.
    Excluded,
    /// A stop was requested.
    Interrupted,
    /// A step failed.
    Step(StepFailure),
}

/// How a step failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepFailure {
    /// The step, and how it ended.
    pub what: String,
    /// The first error in the log.
    pub error: Option<Box<FirstError>>,
    /// The last lines of the log.
    pub last_lines: Vec<String>,
    /// The failure follows from the inputs of the build: the same inputs would fail again.
    pub lasting: bool,
}

impl StepFailure {
    pub(in crate::dkms) fn of(what: impl Into<String>, error: Option<FirstError>) -> Failure {
        let (what, error) = (what.into(), error.map(Box::new));
        Failure::Step(StepFailure { what, error, ..StepFailure::default() })
    }
}

/// A failure of clr-dkms itself, outside of dkms.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        StepFailure::of(format!("{error:#}"), None)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        anyhow!(error).into()
    }
}
