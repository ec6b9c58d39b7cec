//! The record of a run, and its result.

use std::collections::BTreeMap;

use super::engine::{Attempt, Did};
use super::sequence::{Done, Run};
use super::{boot_files, engine, publish};
use crate::boot::deferral;
use crate::boot_decision::Reason;
use crate::cmdline::Switch;
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::module_state::{checked_files, module_status, tell_hook};
use crate::decide::next_boot::{coming_lines, next_boot};
use crate::decide::sig_unenforce::sig_unenforce_wanted;
use crate::dkms::plan::State;
use crate::dkms::source_change::sums_of_build;
use crate::dkms::{ModuleOnKernel, Stage};
use crate::exit;
use crate::message;
use crate::report::problem::{Problem, ProblemKind};
use crate::report::{Progress, StatusDocument, Verdict, document};
use crate::state::{self, CmdlineRecord, IN_PROGRESS, RECORD, RunRecord, SCHEMA, SNAPSHOT, Snapshot, Stored};
use crate::sys::{FileError, sandbox};
use crate::system::System;

impl Run<'_> {
    /// The record of the run so far.
    fn record(&self, assessment: BootAssessment) -> RunRecord {
        let Run { context, system, attempts, .. } = self;
        let before = self.before.as_good();
        let problems = attempts.iter().filter_map(|a| a.index_error.clone()).collect();
        let next = next_boot(system);
        RunRecord {
            schema: SCHEMA,
            started: self.started,
            finished: context.clock.now(),
            running: system.inventory.running.release().map(str::to_owned),
            next_boot: next.shown().map(str::to_owned),
            next_boot_source: next.source(),
            new_kernels: new_kernels(context, system),
            modules: system
                .modules_on_kernels
                .iter()
                .filter(|pair| self.is_recorded(pair))
                .map(|pair| self.module_record(pair))
                .collect(),
            cmdline: CmdlineRecord {
                wanted: sig_unenforce_wanted(&context.settings, system, &assessment.needs),
                in_force: coming_lines(system).all(|l| l.switch == Switch::On),
                blockers: self.blockers.clone(),
            },
            boot: self.boot.clone(),
            faults: self.faults.clone(),
            problems,
            needs: assessment.needs,
            checked: checked_files(system),
            built_from: self.built_from(),
            verdict: None,
            guard: None,
            // Cached dkms.conf values were evaluated by an earlier run.
            sandbox: sandbox::in_force().or(before.and_then(|record| record.sandbox)),
        }
    }

    /// The source fingerprints of the files that this run, or one that was killed before it, has built, and
    /// the recorded ones of files that are still there.
    fn built_from(&self) -> BTreeMap<String, String> {
        let before = self.before.as_good().map(|record| &record.built_from);
        let by_killed = self.mark.built_from();
        let mut known = BTreeMap::new();
        for pair in self.system.modules_on_kernels.iter().chain(&self.system.fallbacks) {
            let is_of = |a: &&Attempt| a.module == pair.module && a.release == pair.release;
            let built = self.attempts.iter().rfind(is_of).and_then(|attempt| match attempt.did {
                // After a failure the files are those from before.
                Did::Built => attempt.source.clone().filter(|_| attempt.failure.is_none()),
                Did::Installed => self.mark.source_of(&pair.module, &pair.release),
                Did::Indexed => None,
            });
            for sum in self.sums_of(pair) {
                let given = self.order.built_from.get(&sum);
                let recorded =
                    || given.or_else(|| by_killed.get(&sum)).or_else(|| before?.get(&sum)).cloned();
                if let Some(source) = built.clone().or_else(recorded) {
                    known.insert(sum, source);
                }
            }
        }
        known
    }

    /// The SHA-256 of the files of a module that are installed, or will be without another build.
    fn sums_of(&self, pair: &ModuleOnKernel) -> Vec<String> {
        match (&pair.proof, &pair.conf) {
            (Ok(proofs), _) => proofs.iter().filter_map(|proof| proof.sha256.clone()).collect(),
            // The files of a build are recorded whatever is wrong with the installed ones.
            (Err(_), Ok(conf)) if matches!(pair.stage, Stage::Built | Stage::Installed) => {
                sums_of_build(&self.context.root, &pair.module, &pair.release, conf)
            }
            _ => Vec::new(),
        }
    }

    /// Whether a module on a kernel belongs into the record. On kernels other than the tips that is one that
    /// a user built, in this run or before; otherwise a failed build would be reported as "nothing has been
    /// tried yet".
    fn is_recorded(&self, pair: &ModuleOnKernel) -> bool {
        let known = self.before.as_good().and_then(|r| r.module(&pair.module, &pair.release));
        self.system.inventory.is_tip(&pair.release)
            || self.attempt(&pair.module, &pair.release).is_some()
            || known.is_some_and(|m| m.state == State::BuildFailed)
    }

    fn module_record(&self, pair: &ModuleOnKernel) -> state::ModuleRecord {
        let previous = self.before.as_good();
        let attempt = self.attempt(&pair.module, &pair.release);
        let known = previous.and_then(|r| r.module(&pair.module, &pair.release));
        let mut record = module_status(&self.system, pair, if attempt.is_some() { None } else { previous });
        record.log = known.and_then(|k| k.log.clone());
        let hook = match attempt {
            Some(attempt) if attempt.did != Did::Indexed => attempt.hook_error.clone(),
            _ => record.hook.take().or_else(|| known.filter(|_| attempt.is_some())?.hook.clone()),
        };
        tell_hook(&mut record, hook);
        if let Some(attempt) = attempt {
            record.log = attempt.log.clone().or(record.log);
            if !record.state.is_proven()
                && let Some((state, reason)) = &attempt.failure
            {
                record.state = *state;
                record.reason = Some(reason.clone());
                record.error.clone_from(&attempt.error);
                record.inputs.clone_from(&attempt.inputs);
            }
        }
        record
    }

    /// Writes the record during a run. If the run is interrupted, the next one knows which boot files were
    /// written. The verdict stays the published one.
    pub(super) fn record_interim(&mut self) {
        let record = self.record(self.assess());
        let decision = assess(&self.system, &self.context.settings, Some(&record)).decision;
        let verdict = self.before.as_good().and_then(|old| old.verdict.clone());
        let record = RunRecord { guard: Some(decision), verdict, ..record };
        if let Err(e) = self.write(&record) {
            tracing::warn!("{e}; if this run is interrupted, the next one refreshes the boot files again");
        }
        self.interim = Some(record);
    }

    fn write(&self, record: &RunRecord) -> Result<(), FileError> {
        let written = self.interim.as_ref().or(self.before.as_good());
        // An unreadable record may have information that this one lacks.
        if matches!(self.before, Stored::Unreadable(_)) {
            return Ok(());
        }
        if written.is_some_and(|old| old.tells_the_same_as(record)) {
            return self.context.root.remove_leftovers(RECORD);
        }
        self.context.root.write_json(RECORD, record).map(|_| ())
    }

    /// Writes the record and the message of the day, and reports the result.
    pub(super) fn publish(mut self) -> anyhow::Result<Done> {
        let assessment = self.assess();
        boot_files::correct_deferral(self.context, &self.system, &assessment);
        self.system.deferral = deferral::observe(&self.context.root);
        let record = self.record(assessment);
        let refused = engine::refused(&self.system, self.order);
        for m in record.modules.iter().filter(|m| !m.state.is_fine()) {
            // A run by hand prints its results at the end.
            let reported = self.order.by_hand
                && self.left_alone.iter().chain(&refused).any(|left| left.is(&m.module, &m.kernel));
            if !reported && self.attempt(&m.module, &m.kernel).is_none() {
                let reason = m.reason.as_deref().unwrap_or("?");
                // Nothing was tried: this run has not failed in anything.
                tracing::warn!("{} on {}: {}: {reason}", m.module, m.kernel, m.state);
            }
        }
        let unproven =
            if self.order.by_hand { engine::unproven(&self.system, self.order) } else { Vec::new() };
        let code = self.finish(record)?;
        let Run { attempts, left_alone, .. } = self;
        Ok(Done { code, attempts, left_alone, refused, unproven })
    }

    fn finish(&mut self, record: RunRecord) -> anyhow::Result<u8> {
        let Run { context, system, .. } = self;
        if let Err(e) = self.cache.save(&context.root) {
            tracing::warn!("{e}; the next run takes longer; nothing else is lost");
        }
        // This uses the results of this run's builds, like all later reports.
        let decision = assess(system, &context.settings, Some(&record)).decision;
        let stored = Stored::Good(RunRecord { guard: Some(decision), ..record });
        let now = context.clock.now();
        let document = document(system, &stored, &Progress::None, &context.settings, now);
        let verdict = Some(document.verdict.to_string());
        let saved = match stored {
            Stored::Good(record) => self.write(&RunRecord { verdict, ..record }),
            _ => Ok(()),
        };
        let ended = self.context.root.remove(IN_PROGRESS);
        let verdict_before = self.before.as_good().and_then(|old| old.verdict.as_deref());
        // An error of one file does not prevent the others from being written.
        let written = publish::write_all(self.context, &document, verdict_before);
        publish::both(publish::both(written, saved), ended.map(|_| ()))?;
        Ok(report_result(&document, self.attempts.is_empty()))
    }
}

/// Logs the result and returns the exit code.
fn report_result(document: &StatusDocument, was_idle: bool) -> u8 {
    // A configuration fault has its own exit code.
    let failed = match document.verdict {
        Verdict::Unknown | Verdict::Held | Verdict::Unsafe => true,
        Verdict::Degraded => document.problems.iter().any(|p| p.kind() != ProblemKind::SetupFault),
        _ => false,
    };
    // A kernel that an admin holds, or that runs on trial, is not an error; any other problem is.
    let is_wanted =
        document.verdict == Verdict::Held && matches!(document.guard.because, Reason::Held | Reason::Trial);
    let is_known = |p: &Problem| {
        matches!(p.kind(), ProblemKind::HeldByAdmin | ProblemKind::OnTrial | ProblemKind::SetupFault)
    };
    let unreported = document.problems.iter().find(|p| !is_known(p));
    let failed = failed && !(is_wanted && unreported.is_none() && document.guard.lacking.is_empty());
    if is_wanted {
        tracing::info!("{}", document.summary);
        unreported.inspect(|problem| tracing::warn!("{problem}"));
    } else if failed {
        let step = document.next_step.as_deref().unwrap_or("see `clr-dkms status`");
        let kernel = document.guard.target.as_deref().unwrap_or_default();
        let text = format!("{}; next step: {step}", document.summary);
        match document.verdict {
            Verdict::Unsafe => tracing::error!(message_id = message::UNSAFE, dkms_kernel = kernel, "{text}"),
            Verdict::Held => tracing::warn!(message_id = message::HELD_BACK, dkms_kernel = kernel, "{text}"),
            Verdict::Unknown => tracing::error!("{text}"),
            // What this run failed in has been reported as an error.
            _ => tracing::warn!("{text}"),
        }
    } else if !was_idle {
        tracing::info!("{}", document.summary);
    }
    match (document.verdict, failed) {
        (Verdict::Unsafe, _) => exit::UNSAFE,
        (Verdict::Unknown, _) => exit::UNKNOWN,
        (_, true) => exit::ATTENTION,
        (_, false) => exit::OK,
    }
}

/// The kernels that are not in the snapshot from before the update.
fn new_kernels(context: &Context, system: &System) -> Vec<String> {
    let Some(snapshot) = state::load::<Snapshot>(&context.root, SNAPSHOT).good() else {
        return Vec::new();
    };
    let releases = system.inventory.kernels.iter().map(|k| k.name.release());
    releases.filter(|r| !snapshot.kernels.contains_key(r)).collect()
}
