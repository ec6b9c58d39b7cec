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
    /// The next one that can be worked on: the first whose module nobody works on, for whatever kernel (its versions and
    /// kernels share folders), and whose dependencies are done.
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
            // Who fails without being built waits for nobody: those of a circle would for ever.
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

    /// Notes an attempt; gives the kernel, when it was the last one of a kernel that is to be completed.
    pub(super) fn done(&mut self, p: &Planned, attempt: Attempt) -> Option<String> {
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
        // A module that was refused, or did not compile, is no reason to let depmod near its kernel.
        let changed = |a: &Attempt| a.release == p.release && (a.touched || a.replaced.is_some());
        (last && self.attempts.iter().any(changed)).then(|| p.release.clone())
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
