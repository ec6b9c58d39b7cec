//! How a time is written for people.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How times are written in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeStyle {
    /// In UTC and without the distance: for what is stored, and for JSON.
    Utc,
    /// In a time zone, and how long ago that is. `zone`: the zone of the reader.
    Local { now: Timestamp, zone: TimeZone },
}

impl TimeStyle {
    /// In the zone that this machine is set to.
    pub fn local(now: Timestamp) -> TimeStyle {
        TimeStyle::Local { now, zone: TimeZone::system() }
    }

    /// To the second, as `2025-07-29 12:00:00 UTC (2 min ago)`.
    pub fn moment(&self, time: Timestamp) -> String {
        let written = self.written(time, "%Y-%m-%d %H:%M:%S %Z");
        self.ago(time).map_or(written.clone(), |ago| format!("{written} ({ago})"))
    }

    /// To the day, as `2025-07-29, 2 days ago`.
    pub fn day(&self, time: Timestamp) -> String {
        let written = self.written(time, "%Y-%m-%d");
        self.ago(time).map_or(written.clone(), |ago| format!("{written}, {ago}"))
    }

    fn written(&self, time: Timestamp, format: &str) -> String {
        let zone = match self {
            TimeStyle::Utc => TimeZone::UTC,
            TimeStyle::Local { zone, .. } => zone.clone(),
        };
        time.to_zoned(zone).strftime(format).to_string()
    }

    /// How long ago a time is. None for a time that a wrong clock has put into the future.
    fn ago(&self, time: Timestamp) -> Option<String> {
        let TimeStyle::Local { now, .. } = self else { return None };
        let seconds = now.duration_since(time).as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
        Some(match seconds {
            ..0 => return None,
            0..60 => "just now".to_owned(),
            _ if minutes < 90 => format!("{minutes} min ago"),
            _ if hours < 48 => format!("{hours} h ago"),
            _ if days < 100 => format!("{days} days ago"),
            _ if days < 730 => format!("{} months ago", days / 30),
            _ => format!("{} years ago", days / 365),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_time_is_that_of_the_reader() {
        let time: Timestamp = "2025-07-29T23:30:00Z".parse().unwrap();
        assert_eq!(TimeStyle::Utc.moment(time), "2025-07-29 23:30:00 UTC");
        assert_eq!(TimeStyle::Utc.day(time), "2025-07-29");
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let at = |now: &str| TimeStyle::Local { now: now.parse().unwrap(), zone: zone.clone() };
        for (now, ago) in [
            ("2025-07-29T23:30:59Z", " (just now)"),
            ("2025-07-29T23:32:10Z", " (2 min ago)"),
            ("2025-07-30T02:31:00Z", " (3 h ago)"),
            ("2025-08-04T23:31:00Z", " (6 days ago)"),
            ("2026-01-29T23:31:00Z", " (6 months ago)"),
            ("2030-07-29T23:31:00Z", " (5 years ago)"),
            ("2025-07-29T23:29:59Z", ""),
        ] {
            assert_eq!(at(now).moment(time), format!("2025-07-30 01:30:00 CEST{ago}"));
        }
        assert_eq!(at("2025-08-04T23:31:00Z").day(time), "2025-07-30, 6 days ago");
    }
}
