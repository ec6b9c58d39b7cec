//! Whether drivers of the kernel may be kept from being loaded, in favour of a module that replaces them.

use std::collections::BTreeSet;

use crate::boot_decision::NextBootSource;
use crate::dkms::ModuleName;
use crate::requirement::Use;
use crate::state::RunRecord;
use crate::usage::Usage;

/// Why a blacklist is not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlacklistBlocker {
    /// The machine depends on the driver. An admin may override this.
    #[error("{driver} now {used_for}; --force blacklists it")]
    InUse { driver: String, used_for: Use },
    /// What the machine depends on is not completely known. An admin may override this.
    #[error("what this machine depends on is not completely known ({0}); --force blacklists it")]
    UnknownUse(String),
    /// The replacement is not proven on a kernel that runs or boots next.
    #[error("the module is not proven on {0}: repeat this command when it is")]
    NotProven(String),
    /// The kernel that boots next is unknown.
    #[error("the kernel that boots next is unknown")]
    UnknownNextBoot,
    /// The result of the last run is unknown.
    #[error("the result of the last run is unknown")]
    NoRecord,
}

impl BlacklistBlocker {
    /// An admin may decide otherwise (`--force`).
    pub fn may_be_forced(&self) -> bool {
        matches!(self, BlacklistBlocker::InUse { .. } | BlacklistBlocker::UnknownUse(_))
    }
}

/// What prevents a blacklist of these drivers, by the state at the end of the last run. `unread` is a failed
/// read of what the machine uses.
pub fn blacklist_blockers(
    drivers: &BTreeSet<String>,
    module: &ModuleName,
    in_use: &Usage,
    unread: Option<&str>,
    record: Option<&RunRecord>,
) -> Vec<BlacklistBlocker> {
    let mut found = Vec::new();
    // A display comes up with the replacement; what is mounted or connected would be lost first.
    let is_carried = |what: &&Use| what.is_critical() && **what != Use::Display;
    for driver in drivers {
        let uses = in_use.depended_on.get(driver).into_iter().flat_map(|by| &by.uses);
        found.extend(
            uses.filter(is_carried).take(1).map(|used_for| BlacklistBlocker::InUse {
                driver: driver.clone(),
                used_for: used_for.clone(),
            }),
        );
    }
    found.extend(unread.map(|why| BlacklistBlocker::UnknownUse(why.to_owned())));
    let Some(record) = record else {
        found.push(BlacklistBlocker::NoRecord);
        return found;
    };
    let is_known = record.next_boot_source != Some(NextBootSource::Remembered);
    let next = record.next_boot.as_ref().filter(|_| is_known);
    if next.is_none() {
        found.push(BlacklistBlocker::UnknownNextBoot);
    }
    let kernels: BTreeSet<&String> = record.running.iter().chain(next).collect();
    let works = |release: &&&String| record.module(module, release).is_some_and(|m| m.state.works());
    found.extend(
        kernels.iter().filter(|release| !works(release)).map(|r| BlacklistBlocker::NotProven((*r).clone())),
    );
    found
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::decide::module_state::status_of;
    use crate::dkms::plan::State;
    use crate::state::{ModuleRecord, ModuleRecords};
    use crate::usage::Dependents;

    fn module() -> ModuleName {
        ModuleName { name: "r8168".to_owned(), version: "1".to_owned() }
    }

    fn record(states: &[(&str, State)], source: Option<NextBootSource>) -> RunRecord {
        let of =
            |(kernel, state): &(&str, State)| ModuleRecord { state: *state, ..status_of(&module(), kernel) };
        let modules: ModuleRecords = states.iter().map(of).collect();
        RunRecord {
            running: Some("A".to_owned()),
            next_boot: Some("B".to_owned()),
            next_boot_source: source,
            modules,
            ..RunRecord::empty(Timestamp::UNIX_EPOCH)
        }
    }

    fn blockers(in_use: &Usage, unread: Option<&str>, record: Option<&RunRecord>) -> Vec<BlacklistBlocker> {
        blacklist_blockers(&["r8169".to_owned()].into(), &module(), in_use, unread, record)
    }

    #[test]
    fn only_a_proven_replacement_of_an_idle_driver() {
        let idle = Usage::default();
        let good = record(&[("A", State::Ok), ("B", State::Ok)], Some(NextBootSource::Entry));
        assert_eq!(blockers(&idle, None, Some(&good)), []);
        let half = record(&[("B", State::Ok)], Some(NextBootSource::Entry));
        assert_eq!(blockers(&idle, None, Some(&half)), [BlacklistBlocker::NotProven("A".to_owned())]);
        let refused = record(&[("A", State::Ok), ("B", State::SignatureRefused)], None);
        assert_eq!(blockers(&idle, None, Some(&refused)), [BlacklistBlocker::NotProven("B".to_owned())]);
        let old = record(&[("A", State::Ok), ("B", State::Ok)], Some(NextBootSource::Remembered));
        assert_eq!(blockers(&idle, None, Some(&old)), [BlacklistBlocker::UnknownNextBoot]);
        assert_eq!(blockers(&idle, None, None), [BlacklistBlocker::NoRecord]);
        let unread = blockers(&idle, Some("/proc/swaps"), Some(&good));
        assert_eq!(unread, [BlacklistBlocker::UnknownUse("/proc/swaps".to_owned())]);
        assert!(unread[0].may_be_forced());
    }

    #[test]
    fn a_driver_that_something_depends_on() {
        let good = record(&[("A", State::Ok), ("B", State::Ok)], None);
        let with = |uses: Vec<Use>| {
            let by = Dependents { uses, ..Dependents::default() };
            Usage { depended_on: [("r8169".to_owned(), by)].into(), ..Usage::default() }
        };
        let route = Use::DefaultRoute { interface: "eth0".to_owned() };
        let found = blockers(&with(vec![route.clone()]), None, Some(&good));
        assert_eq!(found, [BlacklistBlocker::InUse { driver: "r8169".to_owned(), used_for: route }]);
        assert!(found[0].may_be_forced());
        let root = Use::Mount { point: "/".to_owned(), fs: "ext4".to_owned() };
        assert_eq!(blockers(&with(vec![Use::Display, root]), None, Some(&good)).len(), 1);
        assert_eq!(blockers(&with(vec![Use::Display]), None, Some(&good)), []);
    }
}
