//! A file of a `dkms.conf` whose shell ends before the file does.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::trace::{FileLine, Trace};

/// A file whose shell ends before the file does, by `exit`, `${X:?}`, a bad substitution, an arithmetic error
/// and the like. dkms writes the values down after the file: nothing that it sets counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyEnd {
    /// The index of the file.
    pub file: usize,
    /// The line number, from 1.
    pub line: Option<usize>,
    /// The message of bash, or the command; empty without one.
    pub message: String,
    /// It is a value that ends the shell, when dkms evaluates the written values. dkms itself ends there.
    pub ends_dkms: bool,
}

impl EarlyEnd {
    /// Parses a record: the index of the file, and the rest of a message of bash, `LINE: MESSAGE`.
    pub(super) fn of_record(value: &str) -> Option<EarlyEnd> {
        let (file, said) = value.split_once(' ')?;
        let (line, message) = said.split_once(": ").unwrap_or_default();
        // A record without the number of a file is not one. The line is only for the message.
        let (file, line) = (file.parse().ok()?, line.parse().ok());
        Some(EarlyEnd { file, line, message: message.to_owned(), ends_dkms: false })
    }

    pub(super) fn at(&self) -> Option<FileLine> {
        Some((self.file, self.line?))
    }

    /// Adds what the message does not say. `exit` has no message, and an earlier one is not about it.
    pub(super) fn locate(&mut self, trace: &Trace) {
        let Some(last) = trace.commands().iter().rfind(|c| c.at.0 == self.file) else { return };
        let is_exit = matches!(last.text.split(' ').next(), Some("exit" | "exec"));
        if !self.ends_dkms && (is_exit || self.line.is_none()) {
            self.line = Some(last.at.1);
            last.text.clone_into(&mut self.message);
        }
    }
}

impl fmt::Display for EarlyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ends_dkms {
            return f.write_str("a value ends the shell when dkms evaluates it once more");
        }
        f.write_str("bash stops before the end of the file")?;
        if self.message.is_empty() { Ok(()) } else { write!(f, " ({})", self.message) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::dkms::DkmsConf;

    #[test]
    fn an_exit_is_found_in_the_trace() {
        let files = [("/a", &b"X=1\nfoo\nexit 0\n"[..])];
        let trace = Trace::read(b"@@/a:1@X=1\n@@/a:2@foo\n@@/a:3@exit 0\n", &files);
        let located = |record: &str, trace: &Trace| {
            let answer = format!("{record}\0");
            let files = ["/a".to_owned()];
            let mut conf =
                DkmsConf::of_answer(answer.as_bytes(), "6.15.8-1592.native", None, &files).unwrap();
            conf.locate(trace);
            (conf.refusals[0].at, conf.early[0].message.clone())
        };
        for record in ["early=0 ", "early=0 2: foo: command not found"] {
            assert_eq!(located(record, &trace), (Some((0, 3)), "exit 0".to_owned()), "{record}");
        }
        let trace = Trace::read(b"@@/a:1@X=1\n", &files);
        assert_eq!(located("early=0 2: no", &trace), (Some((0, 2)), "no".to_owned()));
    }
}
