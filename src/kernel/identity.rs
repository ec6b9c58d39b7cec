//! One kernel, two spellings, by clr-boot-manager's grammar.
//!
//! - the *kernel id* `NAMESPACE.VARIANT.VERSION-NUMBER` names the image in `/usr/lib/kernel` and the boot
//!   entry;
//! - the *kernel release* `VERSION-NUMBER.VARIANT` is what `uname -r` says, and names the module directory.
//!
//! clr-boot-manager 3.3.1 reads an id with `scanf("NAMESPACE.%31[^.].%15[^-]-%d")`: whatever follows the
//! number is ignored, blanks and a sign before the number are accepted, and the number is cut to 16 bits when
//! kernels are compared and when the "booted" mark is named, but not in the names of the companion files. It
//! reads the release of the running kernel by other rules: at the first dash and the first dot after it, with
//! up to 30 characters for the version and for the variant.

use std::fmt;

use serde::{Serialize, Serializer};

/// In bytes; the longest variant in a kernel id.
const VARIANT_LIMIT: usize = 31;
/// In bytes; the longest version in a kernel id.
const VERSION_LIMIT: usize = 15;
/// In bytes; the longest version or variant in a kernel release.
const RELEASE_PART_LIMIT: usize = 30;

/// The name of a kernel, in either form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KernelName {
    /// `org.clearlinux`, or the namespace that the clr-boot-manager of this system was built with.
    pub namespace: String,
    /// For example `native` or `ltscurrent`; clr-boot-manager calls it "type".
    pub variant: String,
    /// For example `6.15.7`.
    pub version: String,
    /// For example `1591`; clr-boot-manager calls it "release". The value is the one in the names of the
    /// companion files.
    pub number: i32,
}

/// A text is not the name of a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither a kernel id (NAMESPACE.VARIANT.VERSION-NUMBER) nor a kernel release (VERSION-NUMBER.VARIANT)"
)]
pub struct MalformedName(pub String);

impl KernelName {
    /// Parses a kernel id of that namespace. Also returns the text after the number, which clr-boot-manager
    /// ignores.
    pub fn from_id<'a>(text: &'a str, namespace: &str) -> Option<(KernelName, &'a str)> {
        let rest = text.strip_prefix(namespace)?.strip_prefix('.')?;
        let (variant, rest) = scan_set(rest, VARIANT_LIMIT, '.')?;
        let (version, rest) = scan_set(rest.strip_prefix('.')?, VERSION_LIMIT, '-')?;
        let (number, rest) = scan_number(rest.strip_prefix('-')?)?;
        let name = KernelName {
            namespace: namespace.to_owned(),
            variant: variant.to_owned(),
            version: version.to_owned(),
            number,
        };
        Some((name, rest))
    }

    /// Parses a kernel id of an unknown namespace: the first part that begins with a digit counts as the
    /// version. If the namespace is known, [`KernelName::from_id`] is exact.
    pub fn from_any_id(text: &str) -> Option<(KernelName, &str)> {
        let version = text
            .match_indices('.')
            .map(|(at, _)| at + 1)
            .find(|at| text.as_bytes().get(*at).is_some_and(u8::is_ascii_digit))?;
        let variant = text[..version - 1].rfind('.')?;
        KernelName::from_id(text, &text[..variant])
    }

    /// Parses a kernel release. `namespace` becomes the namespace of the name.
    ///
    /// This is stricter than clr-boot-manager in two points that do not concern any real kernel of this
    /// system: the version begins with a digit, and the variant has no dot (`fc41.x86_64`), because an image
    /// cannot have such a name.
    pub fn from_release(text: &str, namespace: &str) -> Option<KernelName> {
        let (version, rest) = text.split_once('-')?;
        let (number, variant) = rest.split_once('.')?;
        let fits = |part: &str| (1..=RELEASE_PART_LIMIT).contains(&part.len());
        if !version.starts_with(|c: char| c.is_ascii_digit())
            || !fits(version)
            || !fits(variant)
            || variant.contains('.')
            || number.len() >= RELEASE_PART_LIMIT
        {
            return None;
        }
        let (number, _) = scan_number(number)?;
        Some(KernelName {
            namespace: namespace.to_owned(),
            variant: variant.to_owned(),
            version: version.to_owned(),
            number,
        })
    }

    /// Parses a kernel id or a kernel release.
    ///
    /// # Errors
    ///
    /// If it is neither.
    pub fn parse(text: &str, namespace: &str) -> Result<KernelName, MalformedName> {
        // The whole id must match: a copy such as `….bak` is a file, not the name of a kernel.
        let whole = |(name, rest): (KernelName, &str)| rest.is_empty().then_some(name);
        KernelName::from_id(text, namespace)
            .and_then(whole)
            .or_else(|| KernelName::from_release(text, namespace))
            .or_else(|| KernelName::from_any_id(text).and_then(whole))
            .ok_or_else(|| MalformedName(text.to_owned()))
    }

    pub fn id(&self) -> String {
        format!("{}.{}.{}-{}", self.namespace, self.variant, self.version, self.number)
    }

    pub fn release(&self) -> String {
        format!("{}-{}.{}", self.version, self.number, self.variant)
    }

    /// Whether `release` is the release of this kernel.
    pub fn is_release(&self, release: &str) -> bool {
        let number = release
            .strip_prefix(&*self.version)
            .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(&*self.variant)?.strip_suffix('.'));
        number.is_some_and(|number| number == self.number.to_string())
    }

    /// The number as clr-boot-manager compares it: a signed 16-bit value.
    pub fn compared_number(&self) -> i16 {
        // The truncation is intended: clr-boot-manager stores the number as int16_t.
        #[allow(clippy::cast_possible_truncation)]
        let cut = self.number as i16;
        cut
    }

    /// The name of the mark that clr-boot-manager writes after a successful boot.
    pub fn booted_mark(&self) -> String {
        format!("k_booted_{}-{}.{}", self.version, self.compared_number(), self.variant)
    }

    /// Whether clr-boot-manager takes both for the same kernel.
    pub fn is_same_to_boot_manager(&self, other: &KernelName) -> bool {
        self.variant == other.variant
            && self.version == other.version
            && self.compared_number() == other.compared_number()
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.release())
    }
}

impl Serialize for KernelName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.release())
    }
}

/// `%LIMIT[^stop]` of scanf: at least one byte, at most `limit`, none of them `stop`.
fn scan_set(text: &str, limit: usize, stop: char) -> Option<(&str, &str)> {
    let end = text.find(stop).unwrap_or(text.len()).min(limit);
    // A cut inside of a character leaves a text that the next literal does not match either.
    (end > 0 && text.is_char_boundary(end)).then(|| text.split_at(end))
}

/// `%d` of scanf: blanks, a sign, digits. A number that does not fit is truncated as the C library does.
fn scan_number(text: &str) -> Option<(i32, &str)> {
    let text = text.trim_start_matches([' ', '\t', '\n', '\u{b}', '\u{c}', '\r']);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = digits.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    let value =
        digits[..end].bytes().fold(0i64, |sum, b| sum.saturating_mul(10).saturating_add(i64::from(b - b'0')));
    let value = if negative { value.saturating_neg() } else { value };
    #[allow(clippy::cast_possible_truncation)]
    let number = value as i32;
    Some((number, &digits[end..]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const NS: &str = "org.clearlinux";

    fn parts(text: &str) -> Option<(String, String, i32, String)> {
        KernelName::from_id(text, NS).map(|(k, rest)| (k.variant, k.version, k.number, rest.to_owned()))
    }

    fn some(variant: &str, version: &str, number: i32, rest: &str) -> Option<(String, String, i32, String)> {
        Some((variant.to_owned(), version.to_owned(), number, rest.to_owned()))
    }

    #[test]
    fn ids_as_clr_boot_manager_reads_them() {
        let t31 = "t".repeat(31);
        let t32 = "t".repeat(32);
        let table = [
            ("org.clearlinux.native.6.15.7-1591", some("native", "6.15.7", 1591, "")),
            ("org.clearlinux.preempt-rt.5.19.0-70", some("preempt-rt", "5.19.0", 70, "")),
            ("org.clearlinux.preempt_rt.5.10.59-83", some("preempt_rt", "5.10.59", 83, "")),
            ("org.clearlinux.native.6.15.7-1591.bak", some("native", "6.15.7", 1591, ".bak")),
            ("org.clearlinux.native.6.15.7-1591-old~", some("native", "6.15.7", 1591, "-old~")),
            ("org.clearlinux.native.6.15.7-+12", some("native", "6.15.7", 12, "")),
            ("org.clearlinux.native.6.15.7-0012", some("native", "6.15.7", 12, "")),
            ("org.clearlinux.native.123456789012345-1", some("native", "123456789012345", 1, "")),
            ("org.clearlinux.native.1234567890123456-1", None),
            ("org.clearlinux.native.6.16.0-rc1-12", None),
            ("org.clearlinux.native.6.15.7", None),
            ("org.clearlinux.native.6.15.7-", None),
            ("org.clearlinux..6.15.7-1", None),
            ("org.clearlinux.native.-1", None),
            ("com.solus-project.lts.6.12.1-30", None),
            (&format!("org.clearlinux.{t31}.6.1-2"), some(&t31, "6.1", 2, "")),
            (&format!("org.clearlinux.{t32}.6.1-2"), None),
        ];
        for (text, expected) in table {
            assert_eq!(parts(text), expected, "{text}");
        }
    }

    #[test]
    fn sixteen_bits_count_when_kernels_are_compared() {
        let (name, _) = KernelName::from_id("org.clearlinux.native.6.1.1-40000", NS).unwrap();
        assert_eq!(name.release(), "6.1.1-40000.native");
        assert_eq!(name.compared_number(), -25536);
        assert_eq!(name.booted_mark(), "k_booted_6.1.1--25536.native");
    }

    #[test]
    fn releases() {
        let variant = |text| KernelName::from_release(text, NS).map(|k| k.variant);
        assert_eq!(variant("6.15.7-1591.native").as_deref(), Some("native"));
        assert_eq!(variant("5.19.0-70.preempt-rt").as_deref(), Some("preempt-rt"));
        assert_eq!(variant("5.10.59-83.preempt_rt").as_deref(), Some("preempt_rt"));
        assert_eq!(variant("5.4.1-9.hyperv-lts").as_deref(), Some("hyperv-lts"));
        for no in
            ["6.12.48+deb13-amd64", "6.9.3-custom", "6.11.4-301.fc41.x86_64", "6.1-.native", "6.1-x.native"]
        {
            assert_eq!(variant(no), None, "{no}");
        }
    }

    #[test]
    fn either_spelling_of_any_namespace() {
        let solus = KernelName::parse("com.solus-project.current.6.12.1-310", NS).unwrap();
        assert_eq!((solus.namespace.as_str(), solus.variant.as_str()), ("com.solus-project", "current"));
        assert_eq!(KernelName::parse("6.12.1-310.current", "com.solus-project").unwrap(), solus);
        assert!(KernelName::parse("org.clearlinux.native.6.15.7-1591.bak", NS).is_err());
        assert!(KernelName::parse("", NS).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,60}") {
            let _read = (KernelName::parse(&text, NS), KernelName::from_any_id(&text));
            let _read = KernelName::from_id(&format!("{NS}.{text}"), NS);
        }

        #[test]
        fn both_spellings_come_back(variant in "[a-z][a-z0-9_-]{0,20}", version in "[0-9]{1,2}(\\.[0-9]{1,3}){1,2}",
                                    number in 0..=32767i32) {
            let name = KernelName { namespace: NS.to_owned(), variant, version, number };
            prop_assert_eq!(&KernelName::parse(&name.id(), NS).unwrap(), &name);
            prop_assert_eq!(&KernelName::parse(&name.release(), NS).unwrap(), &name);
        }
    }
}
