//! The mark of a run in progress. Besides what the run intends to do, it has what the builds are made from: a
//! run that is killed cannot record that at its end, and the next run does not build again what is complete.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::dkms::ModuleName;
use crate::state::{self, IN_PROGRESS, InProgress, SCHEMA, Stored};
use crate::sys::Root;

/// The mark, as the threads of a run share it.
pub struct RunMark<'a> {
    root: &'a Root,
    mark: Mutex<InProgress>,
}

impl<'a> RunMark<'a> {
    /// Takes over what is left of a run that was interrupted. Writes nothing.
    pub fn take_over(root: &'a Root, started: Timestamp) -> RunMark<'a> {
        let left = state::load::<InProgress>(root, IN_PROGRESS);
        if !matches!(left, Stored::Absent) {
            tracing::warn!("the last run was interrupted before its end: continuing from the state on disk");
        }
        let (sources, built_from) =
            // A damaged mark costs a needless build at most.
            left.good().map(|left| (left.sources, left.built_from)).unwrap_or_default();
        let pid = std::process::id();
        let mark = InProgress { schema: SCHEMA, started, pid, builds: Vec::new(), sources, built_from };
        RunMark { root, mark: Mutex::new(mark) }
    }

    /// Records what the run is about to do.
    pub fn begin(&self, builds: Vec<String>) {
        self.change("no report will show it", |mark| mark.builds = builds);
    }

    /// Records what a build is made from that leaves its files in the DKMS tree where there are none yet.
    /// They stay there if the run is killed.
    pub fn building(&self, module: &ModuleName, release: &str, source: &str) {
        self.change(SOURCE_UNKNOWN, |mark| {
            mark.sources.insert(key(module, release), source.to_owned());
        });
    }

    /// Records what the files were built from, by their SHA-256. Called before they are installed.
    pub fn built(&self, files: Vec<String>, source: &str) {
        self.change(SOURCE_UNKNOWN, |mark| {
            mark.built_from.extend(files.into_iter().map(|sum| (sum, source.to_owned())));
        });
    }

    fn change(&self, lost: &str, change: impl FnOnce(&mut InProgress)) {
        let mut mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut mark);
        if let Err(e) = self.root.write_json(IN_PROGRESS, &*mark) {
            tracing::warn!("{e}; if this run is interrupted, {lost}");
        }
    }

    /// The fingerprint of the source of a build in the DKMS tree that was complete when its run was killed.
    pub fn source_of(&self, module: &ModuleName, release: &str) -> Option<String> {
        let mark = self.mark.lock().unwrap_or_else(PoisonError::into_inner);
        mark.sources.get(&key(module, release)).cloned()
    }

    /// The fingerprints of the sources of built files, by the SHA-256 of the file.
    pub fn built_from(&self) -> BTreeMap<String, String> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner).built_from.clone()
    }
}

/// What a failed write may cost.
const SOURCE_UNKNOWN: &str = "it is unknown what was built from which source";

fn key(module: &ModuleName, release: &str) -> String {
    format!("{module} on {release}")
}
