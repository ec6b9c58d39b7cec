//! The sequence of a run: observe, decide, prepare, build what is required, refresh the boot files, build the
//! rest, refresh the boot files again if something changed, publish.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;

use super::boot_files::{self, BootFileSteps};
pub use super::done::Done;
use super::engine::{self, Attempt, LeftAlone, Order, Planned};
use super::progress::{Display, ProgressMode};
use super::run_mark::RunMark;
use super::{initrd, overrides, parameter, publish, removal, trial};
use crate::boot::restricted::SWUPD_LOCK;
use crate::boot_decision::Ruling;
use crate::context::Context;
use crate::decide::assessment::{BootAssessment, assess};
use crate::decide::requirements::without_record;
use crate::decide::unread::blocked;
use crate::dkms::{Cache, ModuleName, ModuleOnKernel};
use crate::exit;
use crate::kernel::Images;
use crate::kernel::inventory::IMAGES;
use crate::report::observation::{observe as observe_status, observe_with};
use crate::requirement::Importance;
use crate::state::{self, BootRecord, LOCK, RECORD, RunRecord, Stored, is_ours};
use crate::sys::lock::{self, LockError};
use crate::sys::{Lock, Root, interrupt};
use crate::system::System;

/// The longest wait for swupd. If it hangs, modules must still be built. clr-boot-manager is not run then.
const SWUPD_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Waits for a swupd process that works on this root.
pub fn wait_for_swupd(context: &Context) {
    lock::wait_while_held(&context.root, SWUPD_LOCK, SWUPD_PATIENCE);
}

/// Takes the lock of a program that changes something.
///
/// # Errors
/// If it cannot be taken, or if another run holds it for too long.
pub fn lock(context: &Context) -> Result<Lock, LockError> {
    Lock::take(&context.root, LOCK, context.settings.lock_wait, is_ours)
}

/// The message if no kernel is installed.
pub(super) const NO_KERNEL: &str = "no kernel of clr-boot-manager is installed: nothing to do";
/// Why a module that failed before is left alone.
pub(super) const FAILED_BEFORE: &str = "left alone: it failed before with the same source, headers and \
     compiler; `sudo clr-dkms rebuild` tries it again";

/// Why it cannot be determined what is to be done.
pub fn unreadable(context: &Context, system: &System) -> Option<String> {
    let directory = context.root.shown_path(IMAGES);
    match &system.inventory.images {
        Images::Absent => Some(format!(
            "there is no {}: {} is not a system with kernels of clr-boot-manager",
            directory.display(),
            context.root.path().display()
        )),
        Images::Unreadable { reason } => Some(reason.clone()),
        Images::Listed => system.tree.unreadable.clone(),
    }
}

pub(super) fn tip_pairs(system: &System) -> impl Iterator<Item = &ModuleOnKernel> {
    system.modules_on_kernels.iter().filter(|pair| system.inventory.is_tip(&pair.release))
}

/// One run, from its observation to its result.
pub(super) struct Run<'a> {
    pub(super) context: &'a Context,
    pub(super) order: &'a Order,
    /// Faults found before the run, which its record reports.
    pub(super) faults: Vec<String>,
    pub(super) started: Timestamp,
    pub(super) mark: RunMark<'a>,
    /// The record of the run before.
    pub(super) before: Stored<RunRecord>,
    /// The record that was written before the rest was built.
    pub(super) interim: Option<RunRecord>,
    pub(super) cache: Cache,
    pub(super) system: System,
    pub(super) attempts: Vec<Attempt>,
    pub(super) left_alone: Vec<LeftAlone>,
    /// What prevents `module.sig_unenforce` from being set.
    pub(super) blockers: Vec<String>,
    /// The result of refreshing the boot files.
    pub(super) boot: BootRecord,
    initrds_tried: bool,
    /// The inputs of a refresh that failed in this run.
    failed_with: Option<String>,
    display: Option<Display>,
}

/// Does all the work of a run.
///
/// # Errors
/// If its result cannot be written.
pub fn work(context: &Context, faults: Vec<String>, order: &Order, show: ProgressMode) -> Result<Done> {
    // A failed read is in `Root::unread`, so the run decides nothing either.
    if !order.is_part
        && let Err(why) = removal::recover(context)
    {
        tracing::error!("{why}");
    }
    let mut run = Run::observe(context, faults, order);
    if let Some(code) = run.nothing_to_do() {
        return Ok(code.into());
    }
    let planned = run.decide();
    run.prepare(&planned, show);
    let (required, rest) = run.split(planned);
    run.build(&required);
    if !rest.is_empty() && !interrupt::asked() {
        run.refresh_boot_files_early();
    }
    if !rest.is_empty() && !interrupt::asked() {
        let rest = run.undone();
        run.build(&rest);
    }
    run.display = None;
    for step in [Run::ensure_parameter, Run::make_initrds, Run::refresh_boot_files] {
        if interrupt::asked() {
            return Ok(run.stopped());
        }
        step(&mut run);
    }
    run.publish()
}

impl<'a> Run<'a> {
    /// Completes what a killed run left behind, and observes the machine.
    fn observe(context: &'a Context, faults: Vec<String>, order: &'a Order) -> Run<'a> {
        let root = &context.root;
        let started = context.clock.now();
        let mut before = state::load::<RunRecord>(root, RECORD);
        if let Stored::Bad(reason) = &before {
            match state::set_aside(root, RECORD) {
                Ok(aside) => tracing::warn!("{reason}; it is kept as {}", root.shown_path(aside).display()),
                Err(e) => tracing::warn!("{reason}, and cannot be kept: {e}"),
            }
        }
        let mark = RunMark::take_over(root, started);
        let mut cache = Cache::load(root);
        // bash may be able to evaluate a dkms.conf that failed last time. Reports do not try again, because
        // that may take long.
        cache.forget_failures();
        engine::recover(context);
        let mut system = System::observe_also(context, &mut cache, &order.kernels);
        overrides::keep_current(context, &system);
        if let Stored::Bad(_) = &before {
            before = Stored::Good(RunRecord { needs: without_record(&system), ..RunRecord::empty(started) });
        }
        if order.by_hand {
            look_at_sources(&mut system, root, before.as_good(), order);
        }
        Run {
            context,
            order,
            faults,
            started,
            mark,
            boot: before.as_good().map(|record| record.boot.clone()).unwrap_or_default(),
            before,
            interim: None,
            cache,
            system,
            attempts: Vec::new(),
            left_alone: Vec::new(),
            blockers: Vec::new(),
            initrds_tried: false,
            failed_with: None,
            display: None,
        }
    }

    /// The exit code if the run ends here: input of a decision is unreadable, or no kernel is installed.
    fn nothing_to_do(&self) -> Option<u8> {
        let Run { context, system, .. } = self;
        let unknown = engine::unknown_module(system, self.order);
        if let Some(reason) = unreadable(context, system).or(unknown) {
            tracing::error!("{reason}; nothing has been changed");
            publish::record_unknown(context, system, &self.before, self.started, &reason);
            publish::write_metrics(context, &observe_status(context));
            return Some(exit::UNKNOWN);
        }
        if system.inventory.kernels.is_empty() {
            tracing::info!("{NO_KERNEL}");
            publish::write_metrics(context, &observe_status(context));
            return Some(exit::OK);
        }
        for oddity in system.inventory.oddities.iter().chain(&system.tree.oddities) {
            tracing::info!("{} {}", oddity.path, oddity.what);
        }
        if let Some(fault) = &system.wishes.fault {
            tracing::warn!("the admin's requests for the boot default are lost: {fault}");
        }
        None
    }

    /// What to build, according to the present state of the machine.
    fn planned(&self) -> Vec<Planned> {
        let system = &self.system;
        let mut planned = engine::plan(system, self.order);
        // A running kernel that is not a tip gets no builds. It still needs a correct index, because it boots
        // next while the tip is held back.
        if self.order.kernels.is_empty() {
            let running = engine::index_plans(system);
            planned.extend(running.into_iter().filter(|p| system.inventory.runs(&p.release)));
        }
        planned
    }

    fn would_fail_again(&self, planned: &Planned) -> bool {
        !self.order.by_hand && planned.would_fail_again(self.context, self.before.as_good())
    }

    /// What to build, without what would fail again.
    fn decide(&self) -> Vec<Planned> {
        let mut planned = self.planned();
        planned.retain(|p| {
            let again = self.would_fail_again(p);
            if again {
                tracing::info!("{} on {}: {FAILED_BEFORE}", p.module, p.release);
            }
            !again
        });
        planned
    }

    /// What is left to build. Planned again, because clr-boot-manager may have deleted a kernel meanwhile.
    fn undone(&self) -> Vec<Planned> {
        let mut planned = self.planned();
        planned.retain(|p| self.attempt(&p.module, &p.release).is_none() && !self.would_fail_again(p));
        planned
    }

    /// The attempt of this run on a module on a kernel.
    pub(super) fn attempt(&self, module: &ModuleName, release: &str) -> Option<&Attempt> {
        self.attempts.iter().find(|a| a.module == *module && a.release == release)
    }

    /// Records what the run is about to do, before anything is changed.
    fn prepare(&mut self, planned: &[Planned], show: ProgressMode) {
        self.display = Some(Display::of(planned.len(), show, self.context.clock));
        if planned.is_empty() {
            return;
        }
        self.mark.begin(planned.iter().map(|p| format!("{} on {}", p.module, p.release)).collect());
    }

    pub(super) fn assess(&self) -> BootAssessment {
        assess(&self.system, &self.context.settings, self.before.as_good())
    }

    /// Splits the plan: first what the guard requires on the kernel that may become the boot default, with
    /// the dependencies of these modules; then the rest. If the guard does not act there is only the first
    /// part.
    fn split(&self, planned: Vec<Planned>) -> (Vec<Planned>, Vec<Planned>) {
        if planned.is_empty() {
            return (planned, Vec::new());
        }
        let assessment = self.assess();
        if !assessment.acts {
            return (planned, Vec::new());
        }
        let target = assessment.decision.target.as_deref();
        let on_target: Vec<&Planned> =
            planned.iter().filter(|p| Some(p.release.as_str()) == target).collect();
        let mut required: Vec<&str> = on_target
            .iter()
            .map(|p| p.module.name.as_str())
            .filter(|name| assessment.class_of(name) > Importance::Optional)
            .collect();
        let mut at = 0;
        while let Some(name) = required.get(at) {
            let upon = on_target.iter().filter(|p| p.module.name == *name).flat_map(|p| &p.conf.depends);
            let new: Vec<&str> = upon.map(String::as_str).filter(|name| !required.contains(name)).collect();
            required.extend(new);
            at += 1;
        }
        let required: Vec<String> = required.into_iter().map(str::to_owned).collect();
        let target = target.map(str::to_owned);
        planned
            .into_iter()
            .partition(|p| Some(&p.release) == target.as_ref() && required.contains(&p.module.name))
    }

    /// Builds, and observes the machine again: the new state is read from disk, not concluded from the
    /// actions.
    fn build(&mut self, planned: &[Planned]) {
        let display = &self.display;
        let observer = |event: engine::Event<'_>| {
            if let Some(display) = display {
                display.note(event);
            }
        };
        let Run { context, mark, .. } = self;
        let attempts = engine::run(context, &mut self.cache, &self.system, planned, (&observer, mark));
        if !attempts.is_empty() {
            self.cache.start_over();
            self.system = System::observe_also(self.context, &mut self.cache, &self.order.kernels);
            if self.order.by_hand {
                // The record as this run has continued it.
                let record = state::load(&self.context.root, RECORD);
                look_at_sources(&mut self.system, &self.context.root, record.as_good(), self.order);
            }
        }
        self.attempts.extend(attempts);
        let mut left_alone = engine::left_alone(&self.system, self.order);
        left_alone.retain(|left| !self.attempts.iter().any(|a| left.is(&a.module, &a.release)));
        self.left_alone = left_alone;
    }

    fn observe_again(&mut self) {
        self.system.observe_again(self.context, &mut self.cache, &self.order.kernels);
    }

    /// Sets `module.sig_unenforce` in the fragments if it is needed.
    fn ensure_parameter(&mut self) {
        let (blockers, changed) = match blocked(&self.system) {
            // An unread fragment may set the parameter, and an unread module may need it.
            Some(unknown) => (vec![unknown], false),
            None => {
                let done = parameter::ensure(self.context, &self.system, self.before.as_good());
                let new = done.0.iter().filter(|blocker| !self.blockers.contains(blocker));
                new.for_each(|blocker| parameter::report_blocker(blocker));
                done
            }
        };
        self.blockers = blockers;
        if changed {
            self.observe_again();
        }
    }

    /// Builds the initrds that are missing or stale.
    fn make_initrds(&mut self) {
        // A run by hand repeats a command that did not help, but only once in the run.
        let by_hand = self.order.by_hand && !self.initrds_tried;
        self.initrds_tried = true;
        let record = self.before.as_good();
        if initrd::make(self.context, &mut self.cache, &self.system, record, by_hand) {
            self.observe_again();
        }
    }

    /// Refreshes the boot files before the rest is built, if everything that the guard requires is proven and
    /// a refresh is due. The result is recorded, because the rest may take an hour.
    fn refresh_boot_files_early(&mut self) {
        if !boot_files::is_guarded(self.context) {
            return;
        }
        self.ensure_parameter();
        self.make_initrds();
        let assessment = self.assess();
        let decision = &assessment.decision;
        let is_proven =
            decision.ruling == Ruling::Allow && !decision.is_unsafe && assessment.unknown.is_none();
        let is_open = blocked(&self.system).is_none() && self.system.boot_blocker.is_none();
        let last = self.has_refreshed().then_some(&self.boot);
        let is_due = boot_files::update_reason(self.context, last, &self.system, &assessment).is_some()
            || boot_files::points_default(&assessment) && !assessment.is_carried_out();
        if !(is_proven && is_open && is_due) || interrupt::asked() {
            return;
        }
        self.refresh_boot_files();
        self.record_interim();
        // What was published before the run is about another boot default. The programs of an admin are only
        // notified of the result.
        let document = observe_with(self.context, &mut self.cache);
        if let Err(e) = publish::write(self.context, &document) {
            tracing::warn!("{e}; the message of the day is written at the end of the run");
        }
    }

    /// Refreshes the boot files as far as the guard allows it. A refresh that failed in this run is repeated
    /// only if its inputs have changed.
    fn refresh_boot_files(&mut self) {
        if self.failed_with.as_deref() != Some(self.system.boot_inputs.as_str()) {
            let Ok(()) = boot_files::take_steps(self);
            self.failed_with = self.boot.error.is_some().then(|| self.system.boot_inputs.clone());
        }
    }

    /// Makes the right kernel boot next. Returns whether anything was changed.
    fn point(&mut self) -> Result<bool> {
        let mut assessment = self.assess();
        let withdrawn = trial::withdraw(self.context, &self.system, &assessment);
        // An error is returned below.
        if let Ok(true) = withdrawn {
            self.observe_again();
            assessment = self.assess();
        }
        let changed = boot_files::assert_default(self.context, &self.system, &assessment)?;
        if changed {
            if boot_files::is_makeshift(&assessment) {
                self.boot.inputs = None;
            }
            self.observe_again();
            assessment = self.assess();
        }
        // What failed may have left a boot entry incomplete.
        withdrawn?;
        let is_whole = self.boot.error.is_none();
        let is_prepared = is_whole && trial::prepare(self.context, &self.system, &assessment)?;
        Ok(changed || is_prepared)
    }

    /// Whether this run, or one before, has recorded a result for the boot files.
    fn has_refreshed(&self) -> bool {
        self.interim.is_some() || self.before.as_good().is_some()
    }

    /// The mark of the run stays, so that the next run and every report know that this one did not end.
    fn stopped(self) -> Done {
        tracing::error!("stop requested; the next run continues from here");
        let Run { attempts, left_alone, .. } = self;
        Done { attempts, left_alone, ..Done::from(exit::ATTENTION) }
    }
}

/// Marks what was built from another source, by what the record and the order say of built files.
fn look_at_sources(system: &mut System, root: &Root, record: Option<&RunRecord>, order: &Order) {
    let mut known = record.map(|record| record.built_from.clone());
    if !order.built_from.is_empty() {
        known.get_or_insert_default().extend(order.built_from.clone());
    }
    system.compare_sources(root, known.as_ref());
}

impl BootFileSteps for Run<'_> {
    type Stop = std::convert::Infallible;

    fn refresh(&mut self) -> Result<(), Self::Stop> {
        let assessment = self.assess();
        let last = self.has_refreshed().then(|| self.boot.clone());
        self.boot = boot_files::refresh(self.context, &self.system, &assessment, last);
        self.observe_again();
        Ok(())
    }

    fn point_default(&mut self) -> Result<(), Self::Stop> {
        // With its new boot entry a kernel may accept a module that it would have refused before, and
        // clr-boot-manager deletes kernels.
        match self.point() {
            Ok(true) => {
                self.observe_again();
                let boot = std::mem::take(&mut self.boot);
                self.boot = boot_files::after_new_default(self.context, &self.system, boot);
            }
            Ok(false) => {}
            Err(e) => {
                let error = format!("{e:#}");
                tracing::error!("the boot default: {error}");
                self.boot.error =
                    Some(self.boot.error.take().into_iter().chain([error]).collect::<Vec<_>>().join("; "));
                self.boot.differs = false;
            }
        }
        Ok(())
    }
}
