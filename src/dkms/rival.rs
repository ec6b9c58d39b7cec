//! Modules that make a file of one name: only one of them can have it on a kernel. Pure.

use std::fmt;

use super::conf::BuiltModule;
use super::{ModuleName, Pair, Stage, plan};

/// Who else makes a file of a module's, and has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// The module that has it.
    pub module: ModuleName,
    /// The name of the file, without ending.
    pub file: String,
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.ko on this kernel is that of {}, and only one module can have it",
            self.file, self.module
        )
    }
}

/// Names each pair's rival, where it has one. The pairs are those of one kernel.
///
/// A file stays with who has it proven, else with whom dkms has it installed, else it goes to the first by name that
/// asks for it: so no run ever takes back what the one before it gave.
pub fn find(pairs: &mut [Pair]) {
    let mut ranked: Vec<usize> = (0..pairs.len()).filter(|at| is_contender(&pairs[*at])).collect();
    // Stable: pairs come by name.
    ranked.sort_by_key(|at| rank(&pairs[*at]));
    let mut winners: Vec<usize> = Vec::new();
    for at in ranked {
        if pairs[at].rival.is_none()
            && winners.iter().all(|winner| shared_by(&pairs[*winner], &pairs[at]).is_none())
        {
            winners.push(at);
        }
    }
    for at in 0..pairs.len() {
        if pairs[at].rival.is_none() && !winners.contains(&at) {
            pairs[at].rival = winners.iter().find_map(|winner| {
                let file = shared_by(&pairs[*winner], &pairs[at])?;
                Some(Rival { module: pairs[*winner].module.clone(), file })
            });
        }
    }
}

/// The name of a file that both lists have: dash and underscore are one letter, as for modprobe.
pub fn shared(one: &[BuiltModule], other: &[BuiltModule]) -> Option<String> {
    let fold = |name: &str| name.replace('-', "_");
    let is_made = |name: &str| one.iter().any(|built| fold(&built.name) == fold(name));
    other.iter().find(|built| is_made(&built.name)).map(|built| built.name.clone())
}

fn shared_by(one: &Pair, other: &Pair) -> Option<String> {
    shared(&one.conf.as_ref().ok()?.built, &other.conf.as_ref().ok()?.built)
}

/// Who neither has a file nor asks for it keeps nobody from it.
fn is_contender(pair: &Pair) -> bool {
    pair.stage == Stage::Installed || plan::unwanted(pair).is_none()
}

/// Who has the file, then who asks for it, then who has it no more and does not ask for it.
fn rank(pair: &Pair) -> u8 {
    let installed = pair.stage == Stage::Installed;
    match &pair.proof {
        Ok(_) => 0,
        Err(flaws) if installed && plan::is_unlisted_only(flaws) => 0,
        Err(_) if plan::unwanted(pair).is_some() => 3,
        Err(_) if installed => 1,
        Err(_) => 2,
    }
}
