//! A user who may start no further process (RLIMIT_NPROC): no thread and no child can be started.

use std::process::Command;

use crate::support::run::{as_nobody, set_mode};
use crate::support::{A, Run, TestRoot};

/// Uids without any process on a usual machine; the limit counts all processes of a user.
const UNUSED: u32 = 65534;

/// The programs as a user who owns the root, and may have that many processes.
fn limited(root: &TestRoot, processes: usize, name: &str, arguments: &[&str]) -> Option<Run> {
    let plain = as_nobody(root, name, arguments)?;
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={processes}")).arg("--").arg(plain.get_program()).args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    Some(Run::of(command.output().unwrap(), root))
}

fn owned_by_nobody(root: &TestRoot) {
    if rustix::process::geteuid().is_root() {
        let top = root.path().parent().unwrap();
        let done = Command::new("chown").args(["-R", "-h", &format!("{UNUSED}:{UNUSED}")]).arg(top).status();
        assert!(done.unwrap().success());
        set_mode(top, 0o755);
    }
}

/// An image that has everything to do, so that all programs run through.
fn image() -> TestRoot {
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).module("hello", "1.0", "");
    root
}

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
    // With two there may be one more, a thread or a child.
    for processes in [1, 2] {
        for (name, arguments) in calls {
            let root = image();
            owned_by_nobody(&root);
            let Some(run) = limited(&root, processes, name, arguments) else { return };
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
    owned_by_nobody(&root);
    let Some(run) = limited(&root, 1, "clr-dkms-post-update", &[]) else { return };
    assert!(!root.has(&TestRoot::ko("hello", A)), "{run:?}");
    assert!(!root.short_calls().iter().any(|call| call.starts_with("build")), "{run:?}");
    root.post_update();
    assert!(root.has(&TestRoot::ko("hello", A)), "{:?}", root.record());
}
