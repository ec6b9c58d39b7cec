//! The work that is left, handed out so that no two builds are in each other's way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Attempt, Planned};
use crate::sys::interrupt;

/// How often a worker without work looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The work that is left, and what is at work.
pub(super) struct Queue<'a> {
    pub(super) waiting: VecDeque<&'a Planned>,
    pub(super) busy: Vec<&'a Planned>,
    /// By kernel: the names of modules that others are built upon and that are not there.
    pub(super) missing: BTreeMap<String, BTreeSet<String>>,
    pub(super) attempts: Vec<Attempt>,
    /// Until one module has been built there is no signing key: nobody else works meanwhile.
    pub(super) alone: bool,
}

impl<'a> Queue<'a> {
    /// The next one that can be worked on: the first whose module nobody works on, for whatever kernel (its
    /// versions and kernels share directories), and whose dependencies are done.
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

    /// Whether something that is left is built upon a module.
    pub(super) fn is_awaited(&self, p: &Planned) -> bool {
        let upon =
            |other: &&Planned| other.release == p.release && other.conf.depends.contains(&p.module.name);
        self.waiting.iter().any(upon)
    }

    /// Notes an attempt. When it was the last one of a kernel that is to be completed, all attempts of that
    /// kernel are taken out, and those of other kernels stay for their own last one: a kernel whose attempts
    /// were taken by another thread would never be completed.
    pub(super) fn done(&mut self, p: &Planned, attempt: Attempt) -> Option<Vec<Attempt>> {
        self.busy.retain(|b| !std::ptr::eq(*b, p));
        if attempt.failure.is_none() {
            if let Some(missing) = self.missing.get_mut(&p.release) {
                missing.remove(&p.module.name);
            }
            // It has been signed now, or this kernel wants no signature.
            self.alone &= attempt.log.is_none();
        }
        self.attempts.push(attempt);
        let same = |other: &&Planned| other.release == p.release;
        let last = !self.waiting.iter().any(same) && !self.busy.iter().any(same);
        // After a module that was refused or did not compile, modules.dep is still valid.
        let changed = |a: &Attempt| a.release == p.release && (a.touched || a.replaced.is_some());
        (last && self.attempts.iter().any(changed))
            .then(|| self.attempts.extract_if(.., |a| a.release == p.release).collect())
    }
}

pub(super) fn held<'q, 'a>(queue: &'q Mutex<Queue<'a>>) -> MutexGuard<'q, Queue<'a>> {
    // What a worker that has panicked left behind is still a queue.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for something to do; none when nothing is left, or we are asked to stop.
pub(super) fn next<'a>(queue: &Mutex<Queue<'a>>, ready: &Condvar) -> Option<&'a Planned> {
    let mut queue = held(queue);
    loop {
        if interrupt::asked() || queue.waiting.is_empty() {
            return None;
        }
        if let Some(p) = queue.take() {
            return Some(p);
        }
        // Looked at again now and then, so that a signal is noticed.
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

    /// Two kernels end at the same time: each gives its own attempts, whichever thread comes first to them.
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
