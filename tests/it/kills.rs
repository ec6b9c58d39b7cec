//! The promise, through the programs: whatever happens in whatever order, and wherever a run is killed
//! together with all its children, the boot default is a kernel that has every critical module, or it was the
//! default before and the verdict is unsafe or unknown. The next run then leaves what it would have left
//! without the kill.
//!
//! The system calls are counted by strace(1), so a case is the same each time. A few cases by default; N of
//! them with `CLR_DKMS_KILLS=N`, as `make test` does.

mod check;
pub(crate) mod kill;
mod machine;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use check::{NextBoot, broken_promise, leftovers, next_boot};
use kill::Point;
use machine::{Action, C, OLD, action, change, generate};

use crate::support::random::Random;
use crate::support::tree::{Tree, difference};
use crate::support::{A, B, TestRoot};

/// How many runs are killed.
const CASES: &str = "CLR_DKMS_KILLS";
/// A seed with which one machine is played again.
const SEED: &str = "CLR_DKMS_KILLS_SEED";
/// Set to play other machines at each run than those that every run plays.
const EXPLORE: &str = "CLR_DKMS_KILLS_EXPLORE";
const WORKER: &str = "clr-dkms-post-update";
const BY_DEFAULT: usize = 4;
/// How many runs of ours a machine sees, and how often each of them is killed.
const RUNS: usize = 4;
const KILLS: usize = 4;

/// What is compared after a killed and repeated run, and after the run that was not killed.
/// `origin` is the machine of which it is a copy: what was written there names its path.
fn comparable(root: &TestRoot, origin: &str) -> Tree {
    let own = root.path().to_str().unwrap();
    let mut tree = root.tree();
    for (path, entry) in &mut tree {
        if path.starts_with("var/lib/clr-dkms/") && path.ends_with(".json") {
            let mut value = serde_json::from_str(&root.text(path)).unwrap();
            drop_times(&mut value);
            entry.what = serde_json::to_string_pretty(&value).unwrap();
        }
        entry.what = entry.what.replace(own, "ROOT").replace(origin, "ROOT");
    }
    // The cache makes the next run faster, a build that is done again is logged again, and an entry that a
    // kill left empty is kept under another name.
    tree.retain(|path, _| {
        let is_open = ["var/cache/clr-dkms", "var/log/clr-dkms"].iter().any(|top| path.starts_with(top));
        !is_open && !path.ends_with(".conf.empty")
    });
    tree
}

/// Without the times of files and what is computed from them, and without what is remembered of runs of
/// clr-boot-manager: where the killed run has written all, there is nothing to be run. Nor with the
/// directories that were not there before: one that the killed run has made was there for the next one. Nor
/// with what confined an evaluation: a run that is killed has a user namespace of its own, and its answers
/// are kept. Nor with the log of a build: what the killed run has built is not built again.
fn drop_times(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|key, _| {
                !["mtime", "inputs", "updated", "entries", "deferred", "parts", "made", "sandbox", "log"]
                    .contains(&key.as_str())
            });
            fields.values_mut().for_each(drop_times);
        }
        serde_json::Value::Array(values) => values.iter_mut().for_each(drop_times),
        _ => {}
    }
}

/// One machine; gives how many runs were killed, and what is wrong.
fn play(seed: u64) -> (usize, Vec<String>) {
    let mut random = Random::new(seed);
    let (root, mut explain) = generate(&mut random);
    let (mut kills, mut runs, mut wrong) = (0, 0, Vec::new());
    while runs < RUNS && wrong.is_empty() {
        let action = action(&mut random);
        explain.push(format!("{action:?}"));
        let (program, arguments) = match action {
            Action::Change(what) => {
                change(&root, what);
                continue;
            }
            Action::Run(program, arguments) => (program, arguments),
        };
        runs += 1;
        let (base, before) = (root.copy(), next_boot(&root));
        let whole = kill::whole(&root, program, arguments);
        explain.push(format!("exit code {}", whole.run.code));
        wrong.extend(broken_promise(&root, &before));
        let after = root.copy();
        if program != WORKER {
            worker(&after);
        }
        let reference = comparable(&after, root.path().to_str().unwrap());
        for _ in 0..KILLS {
            let Some(point) = whole.point(&mut random) else { break };
            let (was_killed, found) = one(
                &base,
                &before,
                (&reference, root.path().to_str().unwrap()),
                (program, arguments),
                &point,
            );
            kills += usize::from(was_killed);
            wrong.extend(found.into_iter().map(|what| format!("killed at {point:?}: {what}")));
        }
    }
    let shown = |what: String| format!("{SEED}={seed}: {what}\n{}", explain.join("; "));
    (kills, wrong.into_iter().map(shown).collect())
}

/// Something that is left of a kernel that clr-boot-manager was deleting when it was killed: without its
/// command line it never comes back to that kernel.
fn is_remains(line: &str, reference: &Tree) -> bool {
    line.starts_with("+ ")
        && [OLD, A, B, C].iter().any(|release| {
            let (version, _) = release.rsplit_once('.').unwrap();
            line.contains(version) && !reference.contains_key(&format!("usr/lib/kernel/cmdline-{release}"))
        })
}

/// A boot asks for it.
fn worker(root: &TestRoot) {
    kill::again(root, WORKER, &[]);
}

/// The run is killed at that point, and then done again.
fn one(
    base: &TestRoot,
    before: &NextBoot,
    (reference, origin): (&Tree, &str),
    (program, arguments): (&str, &[&str]),
    point: &Point,
) -> (bool, Option<String>) {
    let root = base.copy();
    let was_killed = kill::killed(&root, program, arguments, point);
    let broken = broken_promise(&root, before);
    if broken.is_some() {
        return (was_killed, broken);
    }
    let killed = next_boot(&root);
    let run = kill::again(&root, program, arguments);
    if program != WORKER {
        worker(&root);
    }
    let broken =
        broken_promise(&root, &killed).map(|what| format!("the run after it: {what}: {}", run.stderr));
    let different = || {
        let now = comparable(&root, origin);
        let mut lines = difference(reference, &now, false);
        if matches!(point, Point::BootManager(_)) {
            lines.retain(|line| !is_remains(line, reference));
        }
        for line in &mut lines {
            if let (Some(was), Some(is)) = (reference.get(&line[2..]), now.get(&line[2..])) {
                let (was, is): (Vec<&str>, Vec<&str>) =
                    (was.what.lines().collect(), is.what.lines().collect());
                let only = |of: &[&str], other: &[&str]| {
                    of.iter().filter(|l| !other.contains(l)).map(|l| format!(" {l}")).collect::<String>()
                };
                let text = format!(": {} instead of {}", only(&is, &was), only(&was, &is));
                line.push_str(&text);
            }
        }
        (!lines.is_empty()).then(|| format!("not as without the kill: {lines:?}: {}", run.stderr))
    };
    let left = || {
        let lines = leftovers(&root);
        (!lines.is_empty()).then(|| format!("left over: {lines:?}"))
    };
    (was_killed, broken.or_else(different).or_else(left))
}

#[test]
fn killed_runs_keep_the_promise_and_the_next_run_completes_them() {
    if !kill::is_possible() {
        return;
    }
    if let Some(seed) = std::env::var(SEED).ok().and_then(|text| text.parse().ok()) {
        let (_, wrong) = play(seed);
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
        return;
    }
    let asked = std::env::var(CASES).ok().map(|cases| cases.parse::<usize>().unwrap());
    let cases = asked.unwrap_or(BY_DEFAULT);
    let explored = std::env::var_os(EXPLORE).map(|_| SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
    let first = explored.map_or(0, |now| u64::try_from(now.as_nanos() % (1 << 62)).unwrap());
    let (next, kills) = (AtomicU64::new(first), AtomicUsize::new(0));
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while kills.load(Ordering::Relaxed) < cases && wrong.lock().unwrap().len() < 5 {
                    let (killed, found) = play(next.fetch_add(1, Ordering::Relaxed));
                    kills.fetch_add(killed, Ordering::Relaxed);
                    wrong.lock().unwrap().extend(found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    let played = next.into_inner() - first;
    println!("{} kills on {played} machines from {SEED}={first}", kills.into_inner());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
