//! Completes what was put in place on a kernel: the index, the links of dkms, and the proof. What cannot be
//! proven is rolled back to the files that worked before.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::attempt::{AttemptResult, Replaced, job, pairs_now};
use super::{Attempt, Event, INDEX_DEADLINE, Observer, unindexed};
use crate::context::Context;
use crate::dkms::plan::State;
use crate::dkms::proof::{facts_of, in_words, installed_file};
use crate::dkms::{Cache, Flaw, ModuleOnKernel, build, depmod};
use crate::system::System;

/// What is needed to complete one kernel.
pub(super) struct Settling<'a, 'c> {
    pub(super) context: &'a Context,
    pub(super) cache: &'a Mutex<&'c mut Cache>,
    pub(super) system: &'a System,
    pub(super) release: String,
    /// Held while a kernel is completed: depmod uses one directory for each kernel, and POST_INSTALL scripts
    /// write the same files for every kernel.
    pub(super) turn: &'a Mutex<()>,
    pub(super) observer: &'a Observer<'a>,
}

impl Settling<'_, '_> {
    /// Completes the attempts of the kernel. With `last` no more builds follow for it, so nothing can be
    /// rolled back any more.
    pub(super) fn settle(&self, attempts: &mut [Attempt], last: bool) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ours: Vec<&mut Attempt> = attempts.iter_mut().filter(|a| a.release == self.release).collect();
        let fresh = |a: &Attempt| a.replaced.as_ref().is_some_and(|r| !r.settled);
        if ours.iter().any(|a| a.touched) {
            let superseded: Vec<String> = ours
                .iter()
                .filter(|a| fresh(a))
                .flat_map(|a| a.replaced.iter().flat_map(|r| r.replacement.superseded()))
                .map(str::to_owned)
                .collect();
            let indexed = self.index(&superseded.iter().map(String::as_str).collect::<Vec<_>>());
            let modules_on_kernels = match &indexed {
                Ok(()) => self.claimed(&ours),
                // Nothing is proven without an index; the error is reported below.
                Err(_) => Vec::new(),
            };
            let mut back = false;
            for attempt in ours.iter_mut().filter(|a| fresh(a)) {
                back |= match &indexed {
                    Ok(()) => self.prove(attempt, &modules_on_kernels),
                    Err(e) => self.unindexed(attempt, e),
                };
            }
            if back && indexed.is_ok() {
                self.index_again();
            }
            if let Err(e) = indexed {
                unindexed(attempts, &self.release, format!("{e:#}"));
            }
        }
        let mut ours: Vec<&mut Attempt> = attempts.iter_mut().filter(|a| a.release == self.release).collect();
        for attempt in &mut ours {
            attempt.touched = false;
            self.run_post_install(attempt);
        }
        if last {
            self.keep_dependents(&mut ours);
            for replaced in ours.iter_mut().filter_map(|a| a.replaced.take()) {
                replaced.replacement.finish(&self.context.root);
            }
        }
    }

    fn index(&self, superseded: &[&str]) -> anyhow::Result<()> {
        let Context { root, tools, .. } = self.context;
        (self.observer)(Event::Index(&self.release));
        let done = depmod::run(root, tools, &self.release, superseded, INDEX_DEADLINE);
        (self.observer)(Event::Indexed(&self.release));
        done.inspect_err(|e| tracing::error!("{e:#}"))
    }

    /// Rebuilds the index after a rollback. If that fails, the index lists only files that exist, and the
    /// next run rebuilds it.
    fn index_again(&self) {
        // It has logged its error.
        self.index(&[]).ok();
    }

    /// Creates the links of dkms. Returns the state of every module of the kernel afterwards.
    fn claimed(&self, attempts: &[&mut Attempt]) -> Vec<ModuleOnKernel> {
        for replaced in attempts.iter().filter_map(|a| a.replaced.as_ref()).filter(|r| !r.settled) {
            // Without its link the module is not proven, which is checked next.
            if let Err(e) = replaced.replacement.claim(&self.context.root) {
                tracing::error!("{e}");
            }
        }
        pairs_now(self.context, self.cache, self.system, &self.release)
    }

    /// Returns whether it was rolled back.
    fn prove(&self, attempt: &mut Attempt, modules_on_kernels: &[ModuleOnKernel]) -> bool {
        let Some(replaced) = &attempt.replaced else { return false };
        let Some(pair) = modules_on_kernels.iter().find(|p| p.module == attempt.module) else { return false };
        let Err(flaws) = &pair.proof else { return false };
        let left = AttemptResult::of(pair);
        let lasting = left.as_ref().is_some_and(|left| left.lasting);
        let inputs = replaced.inputs.clone().filter(|_| lasting);
        if replaced.replacement.can_go_back() {
            let why = in_words(flaws);
            attempt.inputs = inputs;
            self.roll_back(attempt, &why);
            return true;
        }
        if let Some(left) = left.filter(|left| !left.is_done()) {
            let what = format!("dkms reports success, but the result is not proven: {}", left.why);
            attempt.inputs = inputs;
            attempt.failure = Some((State::BuildFailed, what));
        }
        false
    }

    /// Without a new index, the old one finds the files that worked. New modules stay as dkms installed them.
    fn unindexed(&self, attempt: &mut Attempt, error: &anyhow::Error) -> bool {
        let Some(replaced) = &attempt.replaced else { return false };
        if replaced.replacement.can_go_back() {
            self.roll_back(attempt, &format!("{error:#}"));
            return true;
        }
        if let Err(e) = replaced.replacement.claim(&self.context.root) {
            tracing::error!("{e}");
        }
        false
    }

    fn roll_back(&self, attempt: &mut Attempt, why: &str) {
        if let Some(replaced) = attempt.replaced.take() {
            replaced.replacement.go_back(&self.context.root);
            let what = format!("it was built, and then rolled back to what was installed before: {why}");
            attempt.failure = Some((State::BuildFailed, what));
            super::attempt::tell(self.context, attempt);
        }
    }

    fn run_post_install(&self, attempt: &mut Attempt) {
        let Some(replaced) = &mut attempt.replaced else { return };
        replaced.settled = true;
        let Replaced { replacement, planned, log, .. } = replaced;
        if replacement.post_install {
            let job = job(self.context, planned, None, &|_| {}, &|| Ok(false));
            // dkms continues too if this script fails: the module is installed.
            if let Err(e) = build::post_install(&job, log) {
                tracing::warn!("POST_INSTALL of {} on {}: {e}", attempt.module, attempt.release);
                attempt.hook_error = Some(e.to_string());
            }
            replacement.post_install_done(&self.context.root);
        }
    }

    /// Rolls back modules that other modules do not work with, if those worked before.
    fn keep_dependents(&self, attempts: &mut [&mut Attempt]) {
        if !attempts.iter().any(|a| a.replaced.as_ref().is_some_and(|r| r.replacement.can_go_back())) {
            return;
        }
        let worked = |pair: &&ModuleOnKernel| {
            self.system.of_kernel(&self.release).any(|p| p.module.name == pair.module.name && p.proof.is_ok())
        };
        let is_broken = |pair: &&ModuleOnKernel| {
            let of_others = |f: &Flaw| matches!(f, Flaw::Symbols { .. } | Flaw::Dependency { .. });
            pair.proof.as_ref().is_err_and(|flaws| flaws.iter().any(of_others))
        };
        let modules_on_kernels = pairs_now(self.context, self.cache, self.system, &self.release);
        let mut back = false;
        for broken in modules_on_kernels.iter().filter(worked).filter(is_broken) {
            let mut beneath = self.beneath(broken);
            let why = format!("{} does not load with it", broken.module);
            // Modules that were built on top of one that is rolled back are rolled back as well.
            while let Some(attempt) = attempts.iter_mut().find(|a| {
                a.replaced.as_ref().is_some_and(|r| {
                    let conf = &r.planned.conf;
                    r.replacement.can_go_back()
                        && (conf.built.iter().any(|built| beneath.contains(&built.name.replace('-', "_")))
                            || conf.depends.iter().any(|name| beneath.contains(&format!("upon {name}"))))
                })
            }) {
                beneath.insert(format!("upon {}", attempt.module.name));
                self.roll_back(attempt, &why);
                back = true;
            }
        }
        if back {
            self.index_again();
        }
    }

    /// The names, with underscores, of the modules that a module depends on.
    fn beneath(&self, pair: &ModuleOnKernel) -> BTreeSet<String> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let root = &self.context.root;
        let built = pair.conf.iter().flat_map(|conf| &conf.built);
        built
            .filter_map(|built| installed_file(root, &self.release, built))
            // The dependencies of an unreadable module are unknown, so nothing is rolled back for it.
            .filter_map(|(path, there)| facts_of(root, &mut cache, &path, &there).ok())
            .flat_map(|system| system.depends)
            .map(|name| name.replace('-', "_"))
            .collect()
    }
}
