//! A user without permission for a further process (RLIMIT_NPROC): no thread and no child can be started.

use std::process::Command;

use crate::support::run::{program, set_mode};
use crate::support::{A, Run, TestRoot};

/// A user of whom nothing runs, each test another one: the limit counts all processes of a user.
fn as_user(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups"]);
    command
}

/// None where this machine lets us be no other user.
fn user(number: u32) -> Option<u32> {
    let uid = 1_000_000 + 4 * std::process::id() + number;
    let reachable = as_user(uid).args(["test", "-x"]).arg(program("clr-dkms")).status();
    let is_possible = reachable.is_ok_and(|status| status.success());
    if !is_possible {
        eprintln!("skipped: no other user can run {}", program("clr-dkms").display());
    }
    is_possible.then_some(uid)
}

/// The programs as the owner of the root, with that many processes.
fn limited(root: &TestRoot, uid: u32, processes: usize, name: &str, arguments: &[&str]) -> Run {
    let top = root.path().parent().unwrap();
    let done = Command::new("chown").args(["-R", "-h", &format!("{uid}:{uid}")]).arg(top).status();
    assert!(done.unwrap().success());
    set_mode(top, 0o755);
    let plain = root.command(name, arguments);
    let mut command = as_user(uid);
    command.args(["prlimit", &format!("--nproc={processes}"), "--"]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    Run::of(command.output().unwrap(), root)
}

/// An image that has everything to do, so that all programs run through.
fn image() -> TestRoot {
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).module("hello", "1.0", "");
    root
}

/// Those that call others.
const CALLING: [&str; 2] = ["clr-dkms-pre-update", "clr-dkms-post-update"];

#[test]
fn without_threads_and_children_the_programs_end_in_good_order() {
    let calls: [(&str, &[&str]); 8] = [
        ("clr-dkms", &["status", "--json"]),
        ("clr-dkms", &["lint"]),
        ("clr-dkms", &["rebuild"]),
        ("clr-dkms", &["guard", "--assert", "--within", "20s"]),
        ("clr-dkms-cmdline", &["check"]),
        ("clr-dkms-motd", &[]),
        ("clr-dkms-pre-update", &[]),
        ("clr-dkms-post-update", &[]),
    ];
    let Some(uid) = user(0) else { return };
    // With two there may be one more, a thread or a child.
    for processes in [1, 2] {
        // bash, as which clr-boot-manager is played, tries for 15 s to start a child.
        let is_short =
            |call: &&(&str, &[&str])| processes == 1 || !CALLING.contains(&call.0) && call.1 != ["rebuild"];
        for (name, arguments) in calls.iter().copied().filter(|call| is_short(&call)) {
            let root = image();
            let run = limited(&root, uid, processes, name, arguments);
            let what = format!("{name} {arguments:?} with {processes}: {run:?}");
            assert!((0..=3).contains(&run.code), "{what}");
            assert!(!run.stderr.contains("panicked"), "{what}");
        }
    }
}

/// What cannot be started has not been done, and the next run does it.
#[test]
fn a_build_that_could_not_be_started_is_made_by_the_next_run() {
    let root = image();
    let Some(uid) = user(1) else { return };
    let run = limited(&root, uid, 1, "clr-dkms-post-update", &[]);
    assert!(!root.has(&TestRoot::ko("hello", A)), "{run:?}");
    assert!(!root.short_calls().iter().any(|call| call.starts_with("build")), "{run:?}");
    root.post_update();
    assert!(root.has(&TestRoot::ko("hello", A)), "{:?}", root.record());
}
