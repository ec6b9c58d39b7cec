//! The clock. Decisions receive times as values; only this file reads the clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The system's clock.
    System,
    /// Always the same time, for tests and reproducible output.
    Fixed(Timestamp),
}

impl Clock {
    /// The system's clock, or the moment in `SOURCE_DATE_EPOCH` (seconds) where that is set.
    pub fn from_environment() -> Clock {
        // As its specification says, a value that is not a time has no effect.
        std::env::var("SOURCE_DATE_EPOCH")
            .ok()
            .and_then(|text| text.parse().ok())
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .map_or(Clock::System, Clock::Fixed)
    }

    /// Now, in whole seconds: what a record needs.
    #[allow(clippy::disallowed_methods)] // the one place that asks for the time of day
    pub fn now(&self) -> Timestamp {
        let now = match self {
            Clock::System => Timestamp::now(),
            Clock::Fixed(moment) => *moment,
        };
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// A stopwatch for reported durations; with a fixed clock every duration is zero.
    pub fn stopwatch(&self) -> Stopwatch {
        match self {
            Clock::System => Stopwatch::start(),
            Clock::Fixed(_) => Stopwatch(None),
        }
    }
}

/// Measures how long something takes.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Option<Instant>);

impl Stopwatch {
    /// Starts now.
    #[allow(clippy::disallowed_methods)] // the one place that asks for a monotonic time
    pub fn start() -> Stopwatch {
        Stopwatch(Some(Instant::now()))
    }

    /// The time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.map_or(Duration::ZERO, |start| start.elapsed())
    }
}
