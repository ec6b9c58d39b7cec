//! Shows the progress of builds: redrawn lines on a terminal, log messages elsewhere.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::engine::{Attempt, Event};
use crate::dkms::PlanStep;
use crate::report::render::progress::{self, ProgressBoard, ProgressRow, spent};
use crate::sys::live::{self, Live};
use crate::sys::{Clock, Stopwatch, interrupt};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgressMode {
    /// As lines on the terminal that are redrawn.
    Live,
    /// As a log message at the end of each module. The one at its start is always logged.
    Log,
    /// Not at all.
    Nothing,
}

impl ProgressMode {
    /// The live display on a terminal unless `quiet` is set; otherwise the given mode.
    pub fn live_or(otherwise: ProgressMode, quiet: bool) -> ProgressMode {
        match quiet {
            true => ProgressMode::Nothing,
            false if live::is_lively() => ProgressMode::Live,
            false => otherwise,
        }
    }
}

/// The progress display of one run of the engine. It ends when it is dropped.
#[derive(Debug)]
pub struct Display {
    clock: Clock,
    show: ProgressMode,
    work: Arc<Mutex<Work>>,
    _live: Option<Live>,
}

#[derive(Debug)]
struct Work {
    done: usize,
    total: usize,
    watch: Stopwatch,
    rows: Vec<(String, &'static str, Stopwatch)>,
}

impl Work {
    fn board(&self) -> ProgressBoard {
        let row = |(what, stage, watch): &(String, &'static str, Stopwatch)| ProgressRow {
            what: what.clone(),
            stage,
            took: watch.elapsed(),
        };
        ProgressBoard {
            done: self.done,
            total: self.total,
            took: self.watch.elapsed(),
            stopping: interrupt::asked(),
            rows: self.rows.iter().map(row).collect(),
        }
    }

    /// Ends a piece of work, and returns its stopwatch.
    fn end(&mut self, what: &str) -> Option<Stopwatch> {
        let at = self.rows.iter().position(|(name, ..)| name == what)?;
        Some(self.rows.remove(at).2)
    }
}

impl Display {
    /// A display for this number of modules.
    pub fn of(total: usize, show: ProgressMode, clock: Clock) -> Display {
        let work = Work { done: 0, total, watch: clock.stopwatch(), rows: Vec::new() };
        let work = Arc::new(Mutex::new(work));
        let seen = Arc::clone(&work);
        let live = (show == ProgressMode::Live && total > 0).then(|| {
            Live::show(Box::new(move |rows, columns| progress::lines(&held(&seen).board(), rows, columns)))
        });
        Display { clock, show, work, _live: live }
    }

    /// Handles an event.
    pub fn note(&self, event: Event<'_>) {
        let begun = |what: String, stage| held(&self.work).rows.push((what, stage, self.clock.stopwatch()));
        match event {
            Event::Begun(p) => begun(format!("{} on {}", p.module, p.release), "prepare"),
            Event::Step(p, step) => {
                let what = format!("{} on {}", p.module, p.release);
                held(&self.work)
                    .rows
                    .iter_mut()
                    .filter(|row| row.0 == what)
                    .for_each(|row| row.1 = stage(step));
            }
            Event::Done(attempt) => {
                let mut work = held(&self.work);
                work.done += usize::from(!attempt.is_stopped());
                work.end(&format!("{} on {}", attempt.module, attempt.release));
                drop(work);
                if self.show == ProgressMode::Log {
                    log(attempt);
                }
            }
            Event::Index(release) => begun(release.to_owned(), "depmod"),
            Event::Indexed(release) => {
                let watch = held(&self.work).end(release);
                if let (ProgressMode::Log, Some(watch)) = (self.show, watch) {
                    tracing::info!("{release}: depmod ended after {}", spent(watch.elapsed()));
                }
            }
        }
    }
}

fn held(work: &Mutex<Work>) -> MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

fn stage(step: &PlanStep) -> &'static str {
    match step {
        PlanStep::RemoveTree(_) | PlanStep::SetAside(_) => "prepare",
        PlanStep::Build => "build",
        PlanStep::Install | PlanStep::Reinstall => "install",
        // The depmod comes after the last module of the kernel. Until then the module is being proven.
        PlanStep::Index => "prove",
    }
}

/// Logs the end of an attempt whose start was logged, which is one that ran dkms.
fn log(attempt: &Attempt) {
    let Attempt { module, release, took, .. } = attempt;
    match (&attempt.log, &attempt.failure) {
        (None, _) => {}
        (_, None) => tracing::info!("{module} on {release}: done after {}", spent(*took)),
        (_, Some((state, _))) => tracing::info!("{module} on {release}: {state} after {}", spent(*took)),
    }
}
