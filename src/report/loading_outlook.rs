//! The enforcement verdict for `status` and the message of the day: one word for now and one for the next
//! boot.

use serde::Serialize;

use crate::decide::next_boot;
use crate::enforcement::{EnforcementVerdict, LoadWord, ModuleKind};
use crate::system::{KernelCmdline, System};

/// How kernels treat modules without a trusted signature: `loads`, `taints`, `refused` or `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// The running kernel, now; none in an image.
    pub now: Option<LoadWord>,
    /// The kernel of the next boot, with its boot entry or, if that is not visible, the configured command
    /// line. None without such a kernel.
    pub next_boot: Option<LoadWord>,
}

impl Outlook {
    /// The sentence for the message of the day. Only if such modules really load, or will.
    pub fn sentence(&self) -> Option<&'static str> {
        let loads = |word: Option<LoadWord>| word.is_some_and(LoadWord::is_loaded);
        match (loads(self.now), loads(self.next_boot)) {
            (true, true) => Some("signature enforcement is disabled"),
            (false, true) => Some("signature enforcement will be disabled at the next boot"),
            // The next boot is unknown, or differs.
            (true, false) if self.next_boot == Some(LoadWord::Refused) => {
                Some("signature enforcement is disabled until the next boot")
            }
            (true, false) => Some("signature enforcement is disabled now"),
            (false, false) => None,
        }
    }
}

pub fn loading_outlook(system: &System) -> Outlook {
    let next = next_boot(system).map(|(_, verdict)| verdict.of(ModuleKind::Unsigned).word());
    let now = system.verdict_now().map(|verdict| verdict.of(ModuleKind::Unsigned).word());
    Outlook { now, next_boot: next }
}

/// The kernel of the next boot, and how it treats modules.
fn next_boot(system: &System) -> Option<(&KernelCmdline, &EnforcementVerdict)> {
    let next = next_boot::next_boot(system);
    system.cmdline_of(next.shown()?).zip(system.verdict_of_entry(next.shown()?))
}
