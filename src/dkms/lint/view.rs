//! What a rule sees, and what it answers.

use std::path::PathBuf;

use super::{Answer, LintSubject, Severity};
use crate::dkms::conf::{DkmsConf, FileLine, Refusal, Trace};

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LintPlace {
    /// In one of the files that bash evaluates, on a line where one is known.
    Conf(usize, Option<usize>),
    /// In a file of the source, below its directory.
    Source(PathBuf, Option<usize>),
    /// In the source as a whole.
    Directory,
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) place: LintPlace,
    /// What is wrong.
    pub(super) what: String,
    /// How bad it is, when it is not as bad as the rule says.
    pub(super) severity: Option<Severity>,
    /// What clears it, when it is not what the rule says.
    pub(super) clear: Option<String>,
}

impl Hit {
    pub(super) fn new(place: LintPlace, what: impl Into<String>) -> Hit {
        Hit { place, what: what.into(), severity: None, clear: None }
    }

    pub(super) fn severity(self, severity: Severity) -> Hit {
        Hit { severity: Some(severity), ..self }
    }

    pub(super) fn clear(self, clear: impl Into<String>) -> Hit {
        Hit { clear: Some(clear.into()), ..self }
    }
}

/// The value for one kernel, with all that is known beside it.
pub(super) struct ConfView<'a> {
    pub(super) subject: &'a LintSubject<'a>,
    pub(super) answer: &'a Answer,
    pub(super) conf: &'a DkmsConf,
    pub(super) trace: &'a Trace,
}

impl<'a> ConfView<'a> {
    /// None where bash gave no answer.
    pub(super) fn of(subject: &'a LintSubject<'a>, answer: &'a Answer) -> Option<ConfView<'a>> {
        let (conf, trace) = answer.evaluated.as_ref().ok()?;
        Some(ConfView { subject, answer, conf, trace })
    }

    /// The place of a line that the trace names; the first file as a whole when none is known.
    pub(super) fn at(&self, at: Option<FileLine>) -> LintPlace {
        let file = |file: usize| self.answer.texts.get(file).copied().unwrap_or_default();
        at.map_or(LintPlace::Conf(0, None), |(of, line)| LintPlace::Conf(file(of), Some(line)))
    }

    /// Where a directive is given last.
    pub(super) fn place(&self, directive: &str) -> LintPlace {
        self.at(self.trace.line_of(directive))
    }

    /// Where an element of a directive is given.
    pub(super) fn place_of_element(&self, directive: &str, index: usize) -> LintPlace {
        self.at(self.trace.line_of_element(directive, index))
    }

    /// Where a refusal has its cause. A name that is missing belongs to the record that has a destination.
    pub(super) fn place_of_refusal(&self, refusal: &Refusal) -> LintPlace {
        match (refusal.at, refusal.element) {
            (None, Some(index)) => self.place_of_element("DEST_MODULE_LOCATION", index),
            (at, _) => self.at(at),
        }
    }
}
