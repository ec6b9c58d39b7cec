//! The queue of the remaining work. It hands out modules so that no two builds use the same directories.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Attempt, Planned};
use crate::sys::interrupt;

/// The interval at which an idle worker thread checks the queue.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The remaining work, and the work in progress.
pub(super) struct Queue<'a> {
    pub(super) waiting: VecDeque<&'a Planned>,
    pub(super) busy: Vec<&'a Planned>,
    /// By kernel: the names of missing modules that others depend on.
    pub(super) missing: BTreeMap<String, BTreeSet<String>>,
    pub(super) attempts: Vec<Attempt>,
    /// Until the first module is built there is no signing key, so only one module is built at a time.
    pub(super) alone: bool,
}

impl<'a> Queue<'a> {
    /// Takes the first item that can be worked on: its dependencies are done, and no thread works on its
    /// module for any kernel (the versions and kernels of a module share directories).
    fn take(&mut self) -> Option<&'a Planned> {
        if self.alone && !self.busy.is_empty() {
            return None;
        }
        let is_left = |release: &str, name: &str| {
            let same = |p: &&Planned| p.release == release && p.module.name == name;
            self.waiting.iter().any(same) || self.busy.iter().any(same)
        };
        let free = |p: &&Planned| {
            let busy = self.busy.iter().any(|b| b.module.name == p.module.name);
            // Modules that cannot be built need no dependencies; otherwise a dependency cycle would deadlock.
            let built = p.hopeless.is_some() || !p.conf.depends.iter().any(|name| is_left(&p.release, name));
            !busy && built
        };
        let at = self.waiting.iter().position(free)?;
        let p = self.waiting.remove(at)?;
        self.busy.push(p);
        Some(p)
    }

    /// Whether a remaining module depends on this one.
    pub(super) fn is_awaited(&self, p: &Planned) -> bool {
        let upon =
            |other: &&Planned| other.release == p.release && other.conf.depends.contains(&p.module.name);
        self.waiting.iter().any(upon)
    }

    /// Records an attempt. If it was the last one of a kernel, and the kernel changed, the attempts of that
    /// kernel are removed and returned, so that the caller completes it. Attempts of other kernels stay: a
    /// kernel without its attempts would never be completed.
    pub(super) fn done(&mut self, p: &Planned, attempt: Attempt) -> Option<Vec<Attempt>> {
        self.busy.retain(|b| !std::ptr::eq(*b, p));
        if attempt.failure.is_none() {
            if let Some(missing) = self.missing.get_mut(&p.release) {
                missing.remove(&p.module.name);
            }
            // The signing key exists now, or this kernel needs no signature.
            self.alone &= attempt.log.is_none();
        }
        self.attempts.push(attempt);
        let same = |other: &&Planned| other.release == p.release;
        let last = !self.waiting.iter().any(same) && !self.busy.iter().any(same);
        // modules.dep remains valid after a module that was refused or did not compile.
        let changed = |a: &Attempt| a.release == p.release && (a.touched || a.replaced.is_some());
        (last && self.attempts.iter().any(changed))
            .then(|| self.attempts.extract_if(.., |a| a.release == p.release).collect())
    }
}

pub(super) fn held<'q, 'a>(queue: &'q Mutex<Queue<'a>>) -> MutexGuard<'q, Queue<'a>> {
    // The queue remains usable after a worker thread has panicked.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for the next item; none if nothing is left, or after a request to stop.
pub(super) fn next<'a>(queue: &Mutex<Queue<'a>>, ready: &Condvar) -> Option<&'a Planned> {
    let mut queue = held(queue);
    loop {
        if interrupt::asked() || queue.waiting.is_empty() {
            return None;
        }
        if let Some(p) = queue.take() {
            return Some(p);
        }
        // A time limit, because a signal does not wake up the wait.
        let (again, _) = ready.wait_timeout(queue, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner);
        queue = again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkms::{ModuleName, PlanStep, Source};

    fn planned(name: &str, release: &str) -> Planned {
        Planned {
            module: ModuleName { name: name.to_owned(), version: "1".to_owned() },
            release: release.to_owned(),
            steps: vec![PlanStep::Build, PlanStep::Install],
            why: String::new(),
            source: Source::Broken { reason: String::new() },
            conf: crate::dkms::DkmsConf::default(),
            hopeless: None,
            drift: None,
        }
    }

    /// Two kernels end at the same time: each returns its own attempts, whichever thread asks first.
    #[test]
    fn a_finished_kernel_takes_no_attempt_of_another() {
        let all = [planned("a", "K1"), planned("a", "K2"), planned("b", "K2"), planned("c", "K3")];
        let mut queue = Queue {
            waiting: VecDeque::new(),
            busy: all.iter().collect(),
            missing: BTreeMap::new(),
            attempts: Vec::new(),
            alone: false,
        };
        let mut done = |at: usize, touched: bool| {
            let attempt = Attempt { touched, ..Attempt::stopped(&all[at]) };
            let name = |a: &Attempt| format!("{}@{}", a.module.name, a.release);
            queue.done(&all[at], attempt).map(|taken| taken.iter().map(name).collect::<Vec<_>>())
        };
        assert_eq!(done(1, true), None, "more of K2 is at work");
        assert_eq!(done(0, true), Some(vec!["a@K1".to_owned()]));
        assert_eq!(done(3, false), None, "nothing of K3 has changed");
        assert_eq!(done(2, false), Some(vec!["a@K2".to_owned(), "b@K2".to_owned()]));
        assert_eq!(queue.attempts.len(), 1, "that of K3 stays");
    }
}
