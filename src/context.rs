//! The one value that is handed down: where we work, with which programs, settings and clock.

use crate::config::Settings;
use crate::sys::{Clock, Root, Tools};

/// The world of one run.
#[derive(Debug)]
pub struct Context {
    /// The system that is worked on.
    pub root: Root,
    /// The programs of the machine that we run on.
    pub tools: Tools,
    /// Where the time comes from.
    pub clock: Clock,
    /// The configuration.
    pub settings: Settings,
}
