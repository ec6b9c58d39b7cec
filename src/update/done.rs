//! The result of a run.

use super::engine::{Attempt, LeftAlone};
use crate::dkms::ModuleName;
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
    /// What was to be installed and is not: the attempts that failed, and what should not have been left
    /// alone.
    pub fn missing(&self) -> impl Iterator<Item = LeftAlone> {
        let failed = self.attempts.iter().filter_map(|attempt| {
            let (state, why) = attempt.failure.clone()?;
            Some(LeftAlone { module: attempt.module.clone(), release: attempt.release.clone(), state, why })
        });
        failed.chain(self.left_alone.iter().filter(|left| !left.state.is_fine()).cloned())
    }

    /// What of it is about one module.
    pub fn of(&self, module: &ModuleName) -> Done {
        let left = |all: &[LeftAlone]| all.iter().filter(|left| left.module == *module).cloned().collect();
        Done {
            code: self.code,
            attempts: self.attempts.iter().filter(|a| a.module == *module).cloned().collect(),
            left_alone: left(&self.left_alone),
            refused: left(&self.refused),
            unproven: left(&self.unproven),
        }
    }

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
