//! The result of a run.

use super::engine::{Attempt, LeftAlone};
use crate::exit;

#[derive(Debug)]
pub struct Done {
    pub code: u8,
    /// The attempts that were made.
    pub attempts: Vec<Attempt>,
    /// What was requested and left alone.
    pub left_alone: Vec<LeftAlone>,
    /// The installed modules with a signature that the kernel will refuse.
    pub refused: Vec<LeftAlone>,
    /// See [`super::engine::unproven`].
    pub unproven: Vec<LeftAlone>,
}

impl Done {
    /// Whether the run could not find out what was to be done, and has done nothing.
    pub fn is_undetermined(&self) -> bool {
        self.code == exit::UNKNOWN && self.attempts.is_empty()
    }
}

impl From<u8> for Done {
    fn from(code: u8) -> Done {
        let (attempts, left_alone) = (Vec::new(), Vec::new());
        Done { code, attempts, left_alone, refused: Vec::new(), unproven: Vec::new() }
    }
}
