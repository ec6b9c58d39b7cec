//! How the boot files can be updated without losing what the machine needs. Pure.

use std::collections::BTreeSet;

use super::entry_loss::EntryLoss;
use crate::boot::foresee::{Objection, UpdateInput};
use crate::boot_decision::{BootDecision, Reason, Ruling};
use crate::kernel::KernelName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateWay {
    /// With a full `clr-boot-manager update`.
    Whole,
    /// With a restricted update of these kernels, the boot default last.
    Restricted(Vec<KernelName>),
    /// An update would lose something that is needed.
    Loses(Vec<EntryLoss>),
    /// An update would change something that must not change.
    Blocked(Vec<Objection>),
    /// clr-boot-manager does not know the running kernel, and would not keep it. The value is its release.
    Foreign(String),
}

/// An installed kernel, as far as the update concerns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateCandidate {
    pub name: KernelName,
    pub has_entry: bool,
    /// It is the current boot default.
    pub is_default: bool,
    /// It is the running kernel.
    pub running: bool,
    /// It is the tip of its type.
    pub tip: bool,
    /// What its boot entry would lose.
    pub losses: Vec<EntryLoss>,
}

impl UpdateCandidate {
    /// Whether an update writes its boot entry. A tip that is held back gets none before it is proven.
    pub fn is_refreshed(&self, decision: &BootDecision) -> bool {
        let is_held_back =
            decision.ruling == Ruling::Defer && decision.target.as_ref() == Some(&self.name.release());
        self.has_entry || self.running || (self.tip && !is_held_back)
    }
}

/// What [`update_way`] decides on.
#[derive(Debug)]
pub struct UpdateQuestion<'a> {
    /// The guard acts on this system.
    pub is_guarded: bool,
    /// The release of the running kernel, if clr-boot-manager does not know it.
    pub foreign: Option<String>,
    /// What an update reads, or why that could not be observed.
    pub input: Result<UpdateInput, String>,
    /// Why the boot files are not visible. None if they are.
    pub unseen: Option<&'a str>,
    pub kernels: &'a [UpdateCandidate],
    /// The kernel release that an admin holds.
    pub hold: Option<&'a str>,
    /// The decision about the boot default.
    pub decision: &'a BootDecision,
    /// The chosen kernel is to be booted once, while another one stays the boot default.
    pub is_tried_once: bool,
    /// An admin accepts that an entry loses what a module needs.
    pub accept_losses: bool,
}

pub fn update_way(question: &UpdateQuestion<'_>) -> UpdateWay {
    if !question.is_guarded {
        return UpdateWay::Whole;
    }
    if let Some(release) = &question.foreign {
        return UpdateWay::Foreign(release.clone());
    }
    let (decision, kernels) = (question.decision, question.kernels);
    let chosen = kernels.iter().find(|k| Some(k.name.release()) == decision.default);
    let running = kernels.iter().find(|k| k.running);
    let held = kernels.iter().find(|k| Some(k.name.release().as_str()) == question.hold);
    let must_boot = chosen.into_iter().chain(running).chain(held).map(|k| &k.name);
    let mut must_boot: BTreeSet<&KernelName> = must_boot.collect();
    let objections = match &question.input {
        // The current default may be a kernel that has what the chosen one lacks.
        Ok(_) if is_unseen_risk(question) => {
            let why = question.unseen.unwrap_or_default();
            vec![Objection::Unforeseeable(format!("the boot default cannot be seen: {why}"))]
        }
        Ok(input) => {
            // An update that sets no default must not delete the current one.
            let default = kernels.iter().find(|k| k.is_default && input.leaves_default());
            must_boot.extend(default.map(|k| &k.name));
            let must_boot: Vec<&KernelName> = must_boot.into_iter().collect();
            input.objections(&must_boot, chosen.map(|k| &k.name))
        }
        Err(why) => vec![Objection::Unforeseeable(why.clone())],
    };
    if let Some(chosen) = chosen
        && !chosen.losses.is_empty()
        && !question.accept_losses
    {
        return UpdateWay::Loses(chosen.losses.clone());
    }
    if decision.ruling == Ruling::Allow && objections.is_empty() && !question.is_tried_once {
        return UpdateWay::Whole;
    }
    let unseen_trial = question.is_tried_once && question.unseen.is_some();
    let Some(chosen) = chosen.filter(|_| !unseen_trial) else { return UpdateWay::Blocked(objections) };
    let others = kernels.iter().filter(|k| {
        k.name != chosen.name && k.is_refreshed(decision) && (question.accept_losses || k.losses.is_empty())
    });
    UpdateWay::Restricted(others.chain([chosen]).map(|k| k.name.clone()).collect())
}

/// A kernel that lacks something critical, or that has not shown yet that it works, would replace a default
/// that is not visible.
fn is_unseen_risk(question: &UpdateQuestion<'_>) -> bool {
    let is_asked_for = matches!(question.decision.because, Reason::Held | Reason::Released);
    let lacks = !question.decision.default_lacks.is_empty() && !is_asked_for;
    question.unseen.is_some() && (lacks || question.is_tried_once)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::boot::foresee::{KernelFile, Uname, UpdateMode};

    const NS: &str = "org.clearlinux";

    fn name(number: i32) -> KernelName {
        KernelName::from_release(&format!("6.1.{number}-{number}.native"), NS).unwrap()
    }

    fn decision(ruling: Ruling, default: i32, because: Reason) -> BootDecision {
        BootDecision {
            ruling,
            default: Some(name(default).release()),
            target: Some(name(3).release()),
            because,
            is_unsafe: false,
            lacking: Vec::new(),
            default_lacks: Vec::new(),
        }
    }

    /// Kernel 1 runs, kernel 2 has no entry, and kernel 3 is the tip.
    fn way(decision: &BootDecision, hold: Option<&str>, unseen: Option<&str>) -> UpdateWay {
        let candidate = |number| UpdateCandidate {
            name: name(number),
            has_entry: number != 2,
            is_default: number == 1,
            running: number == 1,
            tip: number == 3,
            losses: Vec::new(),
        };
        let file = |number| KernelFile { file: name(number).id(), name: name(number), marked: false };
        let input = UpdateInput {
            mode: UpdateMode::Native(Uname::Parsed(name(1))),
            kernels: [1, 2, 3].map(file).into(),
            default_links: BTreeMap::from([("native".to_owned(), name(3).id())]),
            initrd_sources: BTreeSet::new(),
            initrds_installed: BTreeSet::new(),
        };
        let kernels = [1, 2, 3].map(candidate);
        let input = Ok(input);
        let (foreign, accept_losses) = (None, false);
        update_way(&UpdateQuestion {
            is_guarded: true,
            foreign,
            input,
            unseen,
            kernels: &kernels,
            hold,
            decision,
            is_tried_once: false,
            accept_losses,
        })
    }

    #[test]
    fn a_held_kernel_that_has_lost_its_entry_is_not_deleted() {
        let proven = decision(Ruling::Allow, 3, Reason::Proven);
        assert_eq!(way(&proven, None, None), UpdateWay::Whole);
        let held = name(2).release();
        assert_eq!(way(&proven, Some(&held), None), UpdateWay::Restricted(vec![name(1), name(3)]));
        let held_back = decision(Ruling::Defer, 2, Reason::Held);
        assert_eq!(
            way(&held_back, Some(&held), None),
            UpdateWay::Restricted(vec![name(1), name(3), name(2)])
        );
    }

    #[test]
    fn an_unseen_default_is_not_replaced_by_a_kernel_that_lacks_something_critical() {
        let mut chosen = decision(Ruling::Allow, 3, Reason::Proven);
        assert_eq!(way(&chosen, None, Some("EIO")), UpdateWay::Whole);
        chosen.default_lacks.push(crate::requirement::MissingModule {
            module: "zfs".to_owned(),
            class: crate::requirement::Importance::Critical,
            needed: String::new(),
            state: String::new(),
            reason: String::new(),
        });
        assert_eq!(way(&chosen, None, None), UpdateWay::Whole);
        assert_ne!(way(&chosen, None, Some("EIO")), UpdateWay::Whole);
        chosen.because = Reason::Released;
        assert_eq!(way(&chosen, None, Some("EIO")), UpdateWay::Whole);
        assert_eq!(chosen.asserted_default(&[], false, false), None);
        assert_eq!(chosen.asserted_default(&[], false, true), Some(name(3).release().as_str()));
        let mut deferred = decision(Ruling::Defer, 1, Reason::Lacking);
        assert_eq!(deferred.asserted_default(&[], false, false), Some(name(1).release().as_str()));
        assert_eq!(deferred.asserted_default(&chosen.default_lacks, false, false), None);
        let away = deferred.asserted_default(&chosen.default_lacks, true, false);
        assert_eq!(away, Some(name(1).release().as_str()));
        deferred.because = Reason::Removed;
        assert_eq!(deferred.asserted_default(&chosen.default_lacks, false, false), None);
        deferred.because = Reason::Held;
        assert_eq!(
            deferred.asserted_default(&chosen.default_lacks, false, false),
            Some(name(1).release().as_str())
        );
    }
}
