//! A `dkms.conf` is a bash program whose values may differ between kernels, so bash evaluates it for each
//! kernel. Builds and lint use the same value. Reading it without bash is only good for advice.

mod early_end;
mod evaluate;
mod reader;
mod trace;
mod value;
pub mod version;

use serde::{Deserialize, Serialize};

pub use early_end::EarlyEnd;
pub use evaluate::{ConfFile, files, traced};
pub use reader::{ConfReader, ConfSources, load};
pub use trace::{Assignment, DIRECTIVES, FileLine, Trace, TracedCommand, left_side};
pub use value::{
    BuiltModule, DESTINATIONS, DkmsConf, Exclusion, ModuleRecord, Refusal, RefusalKind, SyntaxError,
};
pub use version::DkmsRules;

use crate::sys::FileError;

/// Why there is no evaluated file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum ConfError {
    /// It does not exist, or bash returned no answer; dkms fails in the same way.
    #[error("{0}")]
    Unusable(String),
    /// It could not be read, or bash could not run: the file may be good.
    #[error("{0}")]
    CannotTell(String),
    /// It was not evaluated because this machine offers no way to confine it.
    #[error("{0}")]
    Refused(String),
    /// bash did not finish in time: the file may never end, or the machine was busy.
    #[error("{0}")]
    TimedOut(String),
}

impl ConfError {
    /// Whether the file may be good.
    pub fn is_unknown(&self) -> bool {
        !matches!(self, ConfError::Unusable(_))
    }

    fn of_file(e: &FileError) -> ConfError {
        if e.is_absent() { ConfError::Unusable(e.to_string()) } else { ConfError::CannotTell(e.to_string()) }
    }
}

/// The apparent value of `AUTOINSTALL` in a text, without running it: for advice when there is no time to run
/// bash.
pub fn seems_autoinstall(text: &str) -> Option<bool> {
    let value = text.lines().filter_map(|line| line.trim().strip_prefix("AUTOINSTALL=")).next_back()?;
    let unquoted = value.trim_start_matches(['"', '\'']);
    let end = unquoted.find(['"', '\'', ' ', '\t', ';', '#']).unwrap_or(unquoted.len());
    Some(unquoted[..end].eq_ignore_ascii_case("yes"))
}

/// Whether a value is a placeholder for the build system of a project: `#MODULE_VERSION#`, `@VERSION@` and
/// the like.
pub fn is_placeholder(value: &str) -> bool {
    let is_word = |word: &str| {
        word.len() > 1
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && word.bytes().any(|b| b.is_ascii_alphabetic())
    };
    let framed = |mark: char| {
        let parts: Vec<&str> = value.split(mark).collect();
        parts.len() > 2 && parts[1..parts.len() - 1].iter().copied().any(is_word)
    };
    let braced = value.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let is_capitals = value.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    ['#', '@', '%'].into_iter().any(framed)
        || braced.is_some_and(|(word, _)| is_word(word.trim_matches(['{', ' '])))
        || (is_word(value) && is_capitals && value.contains('_') && value.contains("VERSION"))
        || (value.len() > 2 && is_capitals && value.starts_with('_') && value.ends_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_without_bash() {
        assert_eq!(seems_autoinstall("AUTOINSTALL=\"yes\"\n"), Some(true));
        assert_eq!(seems_autoinstall("AUTOINSTALL='yes' # always\n"), Some(true));
        assert_eq!(seems_autoinstall("AUTOINSTALL=no"), Some(false));
        assert_eq!(seems_autoinstall("#AUTOINSTALL=yes"), None);
    }

    #[test]
    fn placeholders() {
        // Each occurs in the dkms.conf of a project.
        for value in [
            "#MODULE_VERSION#",
            "@VERSION@",
            "@PCIE_DRIVER_VERSION@",
            "DKMS_VERSION",
            "_PACKAGE_NAME_",
            "%VERSION%",
            "{{version}}",
            "1.0-@REVISION@",
        ] {
            assert!(is_placeholder(value), "{value}");
        }
        for value in
            ["", "1.0", "v4l2loopback", "2:1.3@git", "a#b", "50%", "_", "GIT", "1.0_beta_1", "#", "##"]
        {
            assert!(!is_placeholder(value), "{value}");
        }
    }
}
