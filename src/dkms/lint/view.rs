//! What a rule examines, and what it returns.

use std::path::PathBuf;

use super::{Answer, LintSubject, Severity};
use crate::dkms::conf::{DkmsConf, FileLine, Refusal, Trace};

/// The place of a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LintPlace {
    /// In one of the files that bash evaluates, with the line if it is known.
    Conf(usize, Option<usize>),
    /// In a file of the source, relative to its directory.
    Source(PathBuf, Option<usize>),
    /// In the source as a whole.
    Directory,
}

/// A finding of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) place: LintPlace,
    /// What is wrong.
    pub(super) what: String,
    /// The severity, if it differs from that of the rule.
    pub(super) severity: Option<Severity>,
    /// The remedy, if it differs from that of the rule.
    pub(super) clear: Option<String>,
    /// See [`Finding::dkms`](super::Finding::dkms).
    pub(super) dkms: Option<Vec<String>>,
}

impl Hit {
    pub(super) fn new(place: LintPlace, what: impl Into<String>) -> Hit {
        Hit { place, what: what.into(), severity: None, clear: None, dkms: None }
    }

    pub(super) fn severity(self, severity: Severity) -> Hit {
        Hit { severity: Some(severity), ..self }
    }

    pub(super) fn clear(self, clear: impl Into<String>) -> Hit {
        Hit { clear: Some(clear.into()), ..self }
    }

    pub(super) fn dkms(self, arguments: Vec<String>) -> Hit {
        Hit { dkms: Some(arguments), ..self }
    }
}

/// The value for one kernel, with everything else that is known.
pub(super) struct ConfView<'a> {
    pub(super) subject: &'a LintSubject<'a>,
    pub(super) answer: &'a Answer,
    pub(super) conf: &'a DkmsConf,
    pub(super) trace: &'a Trace,
}

impl<'a> ConfView<'a> {
    /// None if bash gave no answer.
    pub(super) fn of(subject: &'a LintSubject<'a>, answer: &'a Answer) -> Option<ConfView<'a>> {
        // The error is a finding of its own.
        let (conf, trace) = answer.evaluated.as_ref().ok()?;
        Some(ConfView { subject, answer, conf, trace })
    }

    /// The place of a line in the trace; the first file as a whole if it is unknown.
    pub(super) fn at(&self, at: Option<FileLine>) -> LintPlace {
        let file = |file: usize| self.answer.texts.get(file).copied().unwrap_or_default();
        at.map_or(LintPlace::Conf(0, None), |(of, line)| LintPlace::Conf(file(of), Some(line)))
    }

    /// The place where a directive is set last.
    pub(super) fn place(&self, directive: &str) -> LintPlace {
        self.at(self.trace.line_of(directive))
    }

    /// The place where an element of a directive is set.
    pub(super) fn place_of_element(&self, directive: &str, index: usize) -> LintPlace {
        self.at(self.trace.line_of_element(directive, index))
    }

    /// The place that causes a refusal. A missing name is reported at the record that has a destination.
    pub(super) fn place_of_refusal(&self, refusal: &Refusal) -> LintPlace {
        match (refusal.at, refusal.element) {
            (None, Some(index)) => self.place_of_element("DEST_MODULE_LOCATION", index),
            (at, _) => self.at(at),
        }
    }
}
