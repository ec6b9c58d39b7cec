//! The context of a run, which is passed to everything that acts: the root, the programs, the clock and the
//! settings.

use crate::config::Settings;
use crate::sys::{Clock, Root, Tools};

#[derive(Debug)]
pub struct Context {
    /// The system that the run works on.
    pub root: Root,
    /// The programs, which are always those of the running machine.
    pub tools: Tools,
    pub clock: Clock,
    pub settings: Settings,
}
