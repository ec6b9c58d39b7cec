//! Boot counters in the names of systemd-boot's entries: `NAME+LEFT.conf` or `NAME+LEFT-DONE.conf`.
//!
//! systemd-boot renames such an entry at each boot, and systemd-bless-boot.service removes the counters after
//! a good one. Up to version 257 systemd-boot identifies the entry by the whole name of its file; since
//! version 258, and in `bootctl`, the counters are not a part of the identifier. clr-boot-manager writes
//! names without counters, and does not recognize entries that have them.

use std::borrow::Cow;

/// The end of the name of an entry.
const ENDING: &str = ".conf";

/// Splits a name before its ending, if it has one.
pub(super) fn stem_and_ending(name: &str) -> (&str, &str) {
    let at = name.len().checked_sub(ENDING.len()).and_then(|at| name.split_at_checked(at));
    at.filter(|(_, ending)| ending.eq_ignore_ascii_case(ENDING)).unwrap_or((name, ""))
}

/// Splits a name into what is before its counters, and the ending, which may be missing. None if the name has
/// no counters.
fn split(name: &str) -> Option<(&str, &str)> {
    let (stem, ending) = stem_and_ending(name);
    let (before, counters) = stem.rsplit_once('+')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_counter = match counters.split_once('-') {
        Some((left, done)) => is_number(left) && is_number(done),
        None => is_number(counters),
    };
    (is_counter && !before.is_empty()).then_some((before, ending))
}

/// Whether the boot loader may take `name`, with or without its ending, for that entry. Counters do not
/// count.
pub(super) fn is_named(entry: &str, name: &str) -> bool {
    let (entry, name) = (without_counters(entry), without_counters(name));
    entry.eq_ignore_ascii_case(&name) || entry.eq_ignore_ascii_case(&format!("{name}.conf"))
}

/// Whether the name of an entry has counters.
pub fn has_counters(name: &str) -> bool {
    split(name).is_some()
}

/// The name of an entry without its counters.
pub fn without_counters(name: &str) -> Cow<'_, str> {
    match split(name) {
        Some((before, ending)) => Cow::Owned(format!("{before}{ending}")),
        None => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counters_are_read_as_systemd_boot_reads_them() {
        for (name, without) in [
            ("a+3.conf", "a.conf"),
            ("a+3-0.conf", "a.conf"),
            ("a+0-12.CONF", "a.CONF"),
            ("a+3-1", "a"),
            ("a+b+3-1.conf", "a+b.conf"),
            ("Clear-linux-native-6.15.7-1591+3-1.conf", "Clear-linux-native-6.15.7-1591.conf"),
        ] {
            assert_eq!((without_counters(name).as_ref(), has_counters(name)), (without, true), "{name}");
        }
        for name in ["a.conf", "a-3-1.conf", "a+.conf", "a+3-.conf", "a+-1.conf", "a+3-1-2.conf", "a+x.conf"]
        {
            assert_eq!((without_counters(name).as_ref(), has_counters(name)), (name, false), "{name}");
        }
        for name in ["+3.conf", "", "+", "ü", "a+3.conf.bak"] {
            assert!(!has_counters(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_name_loses_its_counters_once(name in "\\PC{0,12}(\\+[0-9]{0,3}(-[0-9]{0,3})?)?(\\.conf)?") {
            let without = without_counters(&name);
            prop_assert_eq!(has_counters(&name), without != name);
            prop_assert!(without.len() <= name.len());
        }
    }
}
