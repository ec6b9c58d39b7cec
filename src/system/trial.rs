//! What is known about the trial of a new kernel.

use crate::automation;
use crate::boot::{BootFiles, one_shot};
use crate::state::trial::{TRIAL, Trial};
use crate::state::{self, Stored};
use crate::sys::Root;

#[derive(Debug)]
pub struct TrialFacts {
    /// The trial, as it was recorded.
    pub recorded: Option<Trial>,
    /// Why the record cannot be used.
    pub fault: Option<String>,
    /// The boot loader can boot an entry once.
    pub can_boot_once: bool,
    /// A new kernel is checked in its first boot.
    pub is_checked: bool,
    /// The entry that boots next, once; or why that is unknown.
    pub one_shot: Result<Option<String>, String>,
}

impl TrialFacts {
    pub(super) fn observe(root: &Root, boot: &BootFiles) -> TrialFacts {
        let (recorded, fault) = match state::load::<Trial>(root, TRIAL) {
            Stored::Good(trial) => (Some(trial), None),
            Stored::Absent => (None, None),
            Stored::Bad(why) | Stored::Unreadable(why) => (None, Some(why)),
        };
        let is_once = recorded.as_ref().is_some_and(|trial| trial.entry.is_some());
        let can_boot_once = match &boot.invisible {
            // What the boot loader could do when the trial was prepared is still true.
            Some(_) => is_once,
            // A failed read is in `Root::unread`, and blocks every decision.
            None => one_shot::is_supported(root, boot).unwrap_or(false),
        };
        let is_asked = can_boot_once || is_once;
        let one_shot = match is_asked {
            true => one_shot::chosen(root).map_err(|e| e.to_string()),
            false => Ok(None),
        };
        let is_checked = automation::checks_new_kernels(root);
        TrialFacts { recorded, fault, can_boot_once, is_checked, one_shot }
    }

    /// Whether the variable chooses the entry of the trial.
    pub fn is_armed(&self) -> bool {
        let entry = self.recorded.as_ref().and_then(|trial| trial.entry.as_deref());
        // An unknown choice counts as not armed. The failed read blocks every decision.
        let chosen = self.one_shot.as_ref().ok().and_then(Option::as_deref);
        entry.zip(chosen).is_some_and(|(entry, chosen)| one_shot::is_same(entry, chosen))
    }
}
