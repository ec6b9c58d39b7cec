//! Text about parts of the boot files that are outdated on purpose.

use std::collections::BTreeMap;

use crate::state::WaitingPart;
use crate::sys::TimeStyle;

/// A short list of all parts, grouped by day, the oldest first. None if no part waits.
pub fn listed(waiting: &[WaitingPart], times: &TimeStyle) -> Option<String> {
    let mut days: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for part in waiting {
        days.entry(times.day(part.since)).or_default().push(part.what.to_string());
    }
    let days: Vec<String> =
        days.iter().map(|(day, parts)| format!("{} since {day}", parts.join(", "))).collect();
    (!days.is_empty()).then(|| format!("out of date: {}", days.join("; ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::boot::inputs::BootPart;

    #[test]
    fn each_part_has_its_day() {
        let part = |what, since: &str| WaitingPart {
            what,
            since: since.parse().unwrap(),
            why: "swupd is running".to_owned(),
            command: "clr-boot-manager update".to_owned(),
        };
        let new = part(BootPart::BootLoader, "2025-08-02T01:00:00Z");
        let old = part(BootPart::Microcode, "2025-07-29T23:00:00Z");
        let kernel = part(BootPart::Kernel("6.1.1-1.native".to_owned()), "2025-08-02T23:00:00Z");
        let listed = |parts: &[WaitingPart]| listed(parts, &TimeStyle::Utc);
        assert_eq!(listed(&[]), None);
        assert_eq!(
            listed(&[new, old.clone(), kernel]).unwrap(),
            "out of date: microcode since 2025-07-29; the boot loader, kernel 6.1.1-1.native and its boot entry \
             since 2025-08-02"
        );
    }
}
