//! The version of the installed dkms, and the rules that depend on it.
//!
//! It is read from the program, which is a script that prints it, so that a run without work starts no
//! process. (Both 3.0.10 and 3.2.1 contain the text `dkms-VERSION`.)

use serde::{Deserialize, Serialize};

use crate::dkms::{Cache, compare_versions};
use crate::sys::Tools;

/// The first version that accepts only `yes`, `no` and the empty value for `AUTOINSTALL`.
const STRICT: &str = "3.1.7";

/// The first version with a minimum and a maximum kernel version.
const RANGES: &str = "3.0.11";

/// The interpretation of `AUTOINSTALL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Autoinstall {
    /// Any word means yes, even "no": before 3.1.7.
    AnyWord,
    /// `yes`, `no` or nothing; another word makes the whole file invalid.
    YesOrNo,
    /// The version is unknown: any word except "no" means yes.
    Unknown,
}

impl Autoinstall {
    /// The interpretation by a version.
    pub fn of_version(version: Option<&str>) -> Autoinstall {
        match version {
            None => Autoinstall::Unknown,
            Some(version) if compare_versions(version, STRICT).is_lt() => Autoinstall::AnyWord,
            Some(_) => Autoinstall::YesOrNo,
        }
    }

    /// Whether a value asks for automatic builds.
    pub fn asks(self, value: &str) -> bool {
        let is = |word: &str| value.eq_ignore_ascii_case(word);
        match self {
            Autoinstall::AnyWord => !value.is_empty(),
            Autoinstall::Unknown => !value.is_empty() && !is("no"),
            Autoinstall::YesOrNo => is("yes"),
        }
    }

    /// Whether a value makes the whole file invalid.
    pub fn refuses(self, value: &str) -> bool {
        self == Autoinstall::YesOrNo && !["", "yes", "no"].iter().any(|word| value.eq_ignore_ascii_case(word))
    }
}

/// How a version of dkms interprets a `dkms.conf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DkmsRules {
    /// The interpretation of `AUTOINSTALL`.
    pub autoinstall: Autoinstall,
    /// `BUILD_EXCLUSIVE_KERNEL_MIN` and `_MAX` have an effect.
    pub knows_ranges: bool,
}

impl DkmsRules {
    /// The rules of a version. An unknown version is assumed to be new.
    pub fn of_version(version: Option<&str>) -> DkmsRules {
        DkmsRules {
            autoinstall: Autoinstall::of_version(version),
            knows_ranges: version.is_none_or(|version| compare_versions(version, RANGES).is_ge()),
        }
    }
}

/// The rules of the installed dkms.
pub fn rules(tools: &Tools, cache: &mut Cache) -> DkmsRules {
    let look = || tools.text("dkms").as_deref().and_then(find);
    let version = tools.identity("dkms").and_then(|identity| cache.dkms_version(&identity, look));
    DkmsRules::of_version(version.as_deref())
}

/// The first `dkms-1.2.3` in a text.
fn find(text: &[u8]) -> Option<String> {
    let at_digits = |at: usize| {
        let rest = &text[at + b"dkms-".len()..];
        let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(rest.len());
        // These bytes are digits and dots: they are UTF-8.
        let version = std::str::from_utf8(&rest[..end]).unwrap_or_default().trim_end_matches('.');
        (version.contains('.') && version.starts_with(|c: char| c.is_ascii_digit()))
            .then(|| version.to_owned())
    };
    memchr::memmem::find_iter(text, b"dkms-").find_map(at_digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_a_script() {
        let table = [
            ("mktemp /tmp/dkms-XXXX\necho $\"dkms-3.0.10\"\n", Some("3.0.10")),
            ("echo \"DKMS (dkms-3.2.1) make.log\"", Some("3.2.1")),
            ("a dkms-3 b dkms- c dkms-x.1", None),
            ("", None),
        ];
        for (text, version) in table {
            assert_eq!(find(text.as_bytes()).as_deref(), version, "{text}");
        }
    }

    #[test]
    fn values_by_version() {
        let rule = |version| Autoinstall::of_version(Some(version));
        assert_eq!((rule("3.0.10"), rule("3.1.6")), (Autoinstall::AnyWord, Autoinstall::AnyWord));
        let ranges = |version| DkmsRules::of_version(version).knows_ranges;
        assert!(!ranges(Some("3.0.10")) && ranges(Some("3.0.11")) && ranges(Some("3.2.1")) && ranges(None));
        assert_eq!((rule("3.1.7"), rule("3.2.1")), (Autoinstall::YesOrNo, Autoinstall::YesOrNo));
        let table = [
            ("yes", [Some(true), Some(true), Some(true)]),
            ("YES", [Some(true), Some(true), Some(true)]),
            ("no", [Some(true), Some(false), Some(false)]),
            ("", [Some(false), Some(false), Some(false)]),
            ("true", [Some(true), None, Some(true)]),
        ];
        for (value, expected) in table {
            let rules = [Autoinstall::AnyWord, Autoinstall::YesOrNo, Autoinstall::Unknown];
            let asks = |rule: Autoinstall| (!rule.refuses(value)).then(|| rule.asks(value));
            assert_eq!(rules.map(asks), expected, "{value}");
        }
    }
}
