//! fnmatch(3) without flags, as kmod uses it for aliases and for module names in `modprobe.d`.

use super::intersect::bracket;
use crate::kernel::module_file::kernel_name;

/// A pattern as kmod stores it: `-` becomes `_`, except between brackets. None for a pattern with an
/// unbalanced bracket, which kmod rejects.
pub fn normalized(pattern: &str) -> Option<String> {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    while let Some(at) = rest.find(['[', ']']) {
        let inside = rest[at..].strip_prefix('[')?;
        out.push_str(&kernel_name(&rest[..at]));
        let end = at + 1 + inside.find(']')?;
        out.push_str(&rest[at..=end]);
        rest = &rest[end + 1..];
    }
    out.push_str(&kernel_name(rest));
    Some(out)
}

/// Whether a pattern matches a complete text. Both are in the form that kmod stores.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // The position of the last `*`, and how much of the text it has matched so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let matched = match (pattern.get(p), text.get(t)) {
            (None, None) => return true,
            (Some(b'*'), _) => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            (Some(b'['), Some(byte)) => match bracket(&pattern[p..]) {
                Some((set, length)) => set.has(*byte).then_some(length),
                // An open bracket without an end matches itself.
                None => (*byte == b'[').then_some(1),
            },
            (Some(b'?'), Some(_)) => Some(1),
            (Some(b'\\'), Some(byte)) => match pattern.get(p + 1) {
                Some(literal) => (literal == byte).then_some(2),
                None => None,
            },
            (Some(literal), Some(byte)) => (literal == byte).then_some(1),
            _ => None,
        };
        match (matched, star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, taken))) if taken < text.len() => {
                star = Some((after, taken + 1));
                (p, t) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_fnmatch() {
        let table = [
            ("pci:v00008086d*sv*sd*bc03sc*i*", "pci:v00008086d00001912sv00001458sd0000D000bc03sc00i00", true),
            (
                "pci:v00008086d*sv*sd*bc03sc*i*",
                "pci:v00008086d00001912sv00001458sd0000D000bc04sc00i00",
                false,
            ),
            ("fs_ext4", "fs_ext4", true),
            ("fs_ext", "fs_ext4", false),
            ("usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v1p2d3dc4dsc5dp6ic08isc06ip50in00", true),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("**a", "ba", true),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "aXbXbY", false),
            ("?", "", false),
            ("[0-9a-f]", "c", true),
            ("[0-9a-f]", "g", false),
            ("[!0-9]x", "ax", true),
            ("[!0-9]x", "1x", false),
            ("[]]", "]", true),
            ("[a-]", "-", true),
            ("[a", "[a", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a\\", "a\\", false),
            ("acpi*:LNXPOWER:*", "acpi:LNXPOWER:", true),
            ("of:N*T*Cbrcm,bcm2835_pm", "of:NpowerTCbrcm,bcm2835_pm", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn names_with_dashes() {
        for (pattern, stored) in [
            ("net-pf-10", Some("net_pf_10")),
            ("a-[b-c]-d", Some("a_[b-c]_d")),
            ("a]", None),
            ("a[b", None),
            ("[a][b-c]", Some("[a][b-c]")),
        ] {
            assert_eq!(normalized(pattern).as_deref(), stored, "{pattern}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(200) + "b";
        assert!(!matches(&pattern, &"a".repeat(5000)));
    }
}
