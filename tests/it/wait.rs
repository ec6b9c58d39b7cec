//! `clr-dkms wait` returns when no run is active and none is to come, with the answer to whether a reboot is
//! safe.

use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::TestRoot;

const REQUEST: &str = "run/clr-dkms/requested";

#[test]
fn with_nothing_to_wait_for_it_answers_at_once() {
    let degraded = TestRoot::held();
    degraded.conf("[modules]\noptional = hello\n").post_update();
    let removed = TestRoot::held();
    removed.updated_by_hand();
    let unknown = TestRoot::guarded();
    unknown.link("usr/lib/kernel", "kernel");
    for (root, code, verdict) in [
        (TestRoot::proven(), 0, "reboot-pending"),
        (TestRoot::held(), 0, "held"),
        (degraded, 0, "degraded"),
        (removed, 2, "unsafe"),
        (unknown, 3, "unknown"),
        (TestRoot::new(), 3, "not-applicable"),
    ] {
        let status = root.run("clr-dkms", &["status", "--json"]).json();
        let before = root.tree();
        let run = root.run("clr-dkms", &["wait", "--timeout", "20s"]);
        run.code(code).prints(&format!("{verdict}: {}\n", status["summary"].as_str().unwrap()));
        assert_eq!(status["verdict"], verdict);
        assert_eq!(crate::support::tree::difference(&before, &root.tree(), true), Vec::<String>::new());
    }
}

#[test]
fn a_run_that_does_not_end_in_time() {
    let root = TestRoot::proven();
    let run = root.at_work(&[]);
    let started = Instant::now();
    root.run("clr-dkms", &["wait", "--timeout", "1s"]).code(75).prints("").says(&["a run is active"]);
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    drop(run);
}

#[test]
fn a_run_that_is_requested_and_has_not_begun() {
    let root = TestRoot::proven();
    root.file(REQUEST, "");
    root.run("clr-dkms", &["wait", "--timeout", "1s"]).code(75).says(&["a run is requested"]);
}

/// swupd requests the run at its end.
#[test]
fn an_update_is_waited_for() {
    let root = TestRoot::proven();
    root.file("var/lib/swupd/swupd_lock", "");
    let lock = std::fs::File::open(root.at("var/lib/swupd/swupd_lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    root.run("clr-dkms", &["wait", "--timeout", "1s"]).code(75).says(&["swupd is active"]);
}

/// The request is followed by a run, and the wait by the answer.
#[test]
fn it_lasts_until_the_run_has_ended() {
    let root = TestRoot::proven();
    root.file(REQUEST, "");
    let mut command = root.command("clr-dkms", &["wait", "--timeout", "60s"]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let still = |waiting: &mut std::process::Child| {
        std::thread::sleep(Duration::from_millis(900));
        waiting.try_wait().unwrap().is_none()
    };
    assert!(still(&mut waiting), "a run is requested");
    let run = root.at_work(&[]);
    root.remove(REQUEST);
    assert!(still(&mut waiting), "a run is active");
    root.remove("var/lib/clr-dkms/in-progress.json");
    drop(run);
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[test]
fn a_signal_ends_it_at_once_and_it_uses_no_processor() {
    use std::os::unix::process::ExitStatusExt;
    let root = TestRoot::proven();
    let _run = root.at_work(&[]);
    let mut command = root.command("clr-dkms", &["wait"]);
    let mut waiting = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", waiting.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // User and system time, in hundredths of a second.
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    assert!(ticks < 20, "{ticks} ticks in two seconds");
    kill(Pid::from_raw(waiting.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(waiting.wait().unwrap().signal(), Some(15));
}
