//! The enforcement verdict as `status` and the message of the day tell it: in a word, now and at the next boot.

use serde::Serialize;

use crate::decide::module_state::coming;
use crate::decide::next_boot;
use crate::enforcement::{EnforcementVerdict, ModuleKind, now};
use crate::system::{KernelCmdline, System};

/// What kernels do with modules without a trusted signature: `loads`, `taints`, `refused`, `unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// The running kernel, now; none in an image.
    pub now: Option<&'static str>,
    /// The kernel of the next boot, with its boot entry or, where that cannot be seen, the configured command line; none
    /// when there is no such kernel.
    pub next_boot: Option<&'static str>,
}

impl Outlook {
    /// The sentence for the message of the day: only where such modules really load, or will.
    pub fn sentence(&self) -> Option<&'static str> {
        let loads = |word: Option<&str>| matches!(word, Some("loads" | "taints"));
        match (loads(self.now), loads(self.next_boot)) {
            (true, true) => Some("signature enforcement is disabled"),
            (false, true) => Some("signature enforcement will be disabled at the next boot"),
            // What the next boot does is not known, or is the contrary.
            (true, false) if self.next_boot == Some("refused") => {
                Some("signature enforcement is disabled until the next boot")
            }
            (true, false) => Some("signature enforcement is disabled now"),
            (false, false) => None,
        }
    }
}

/// Makes it.
pub fn loading_outlook(system: &System) -> Outlook {
    let next = next_boot(system).map(|(_, verdict)| verdict.of(ModuleKind::Unsigned).word());
    let now = system.machine.runtime.as_ref().zip(system.running.as_ref()).map(|(runtime, kernel)| {
        let line = system.machine.line.as_deref().unwrap_or_default();
        now(&kernel.boot(line, &system.machine), runtime).of(ModuleKind::Unsigned).word()
    });
    Outlook { now, next_boot: next }
}

/// The kernel of the next boot, and what it will do.
fn next_boot(system: &System) -> Option<(&KernelCmdline, EnforcementVerdict)> {
    let line = system.cmdline_of(next_boot::next_boot(system).shown()?)?;
    Some((line, coming(system, line)))
}
