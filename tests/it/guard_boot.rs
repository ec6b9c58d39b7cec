//! What units ask of the guard: at boot, at shutdown, and when clr-boot-manager wants to mark a kernel as
//! good.

use std::time::{Duration, Instant};

use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::run::set_mode;
use crate::support::{A, B, TestRoot};

const MARK: [&str; 2] = ["guard", "--may-mark-booted"];
const AT_BOOT: [&str; 2] = ["guard", "--at-boot"];
const RECORD: &str = "var/lib/clr-dkms/last-run.json";

/// Booted into the kernel without the module all the same.
fn lost() -> TestRoot {
    TestRoot::held().rebooted(B)
}

#[test]
fn a_known_loss_keeps_the_mark_away() {
    lost()
        .run("clr-dkms", &MARK)
        .code(1)
        .says(&["hello is critical (backs /data (hello))", "not loaded now"]);
    let back = lost();
    back.loads(&["hello"]).run("clr-dkms", &MARK).code(0);
    TestRoot::held().run("clr-dkms", &MARK).code(0);
}

#[test]
fn what_was_only_wanted_keeps_no_mark_away() {
    let root = TestRoot::guarded();
    root.mounts(&[]).behave(FAILS_ON_B).post_update().code(1);
    root.rebooted(B).run("clr-dkms", &MARK).code(0);
}

/// Something is there that may have been loaded.
fn with_a_file(root: &TestRoot) {
    root.file(&format!("usr/lib/modules/{B}/updates/dkms/hello.ko"), "what was loaded");
}

#[test]
fn what_has_no_file_was_not_loaded() {
    let root = lost();
    root.remove("proc/modules");
    root.run("clr-dkms", &MARK).code(1).says(&["is not marked as booted"]);
}

#[test]
fn in_doubt_the_mark_is_made() {
    type Change = fn(&TestRoot);
    let cases: [(&str, Change); 13] = [
        ("no record", |r| r.remove(RECORD).forget()),
        ("an empty record", |r| r.file(RECORD, "").forget()),
        ("garbage", |r| r.file(RECORD, "{\"schema\": 1, \"needs\": 5}").forget()),
        ("a record of the future", |r| r.file(RECORD, "{\"schema\": 99}").forget()),
        ("no list of modules", |r| with_a_file(r.remove("proc/modules"))),
        ("a list that cannot be read", |r| with_a_file(r.remove("proc/modules").directory("proc/modules"))),
        ("no release", |r| r.remove("proc/sys/kernel/osrelease").forget()),
        ("a custom kernel", |r| r.file("proc/sys/kernel/osrelease", "6.16.0-mine\n").forget()),
        ("a tree that cannot be read", |r| r.remove("var/lib/dkms").file("var/lib/dkms", "").forget()),
        ("no kernel", |r| r.remove("usr/lib/kernel").forget()),
        ("its dkms.conf is gone", |r| r.remove("usr/src/hello-1.0/dkms.conf").loads(&["hello"]).forget()),
        ("its conf asks in vain", |r| {
            r.file("usr/src/hello-1.0/dkms.conf", "exit 1\n").loads(&["hello"]).forget()
        }),
        ("nothing at all", |r| {
            for directory in ["proc", "var", "usr", "boot"] {
                r.remove(directory);
            }
        }),
    ];
    for (what, change) in cases {
        let root = lost();
        change(&root);
        let run = root.run("clr-dkms", &MARK);
        assert_eq!(run.code, 0, "{what}: {}", run.stderr);
    }
}

#[test]
fn a_fault_in_the_configuration_makes_no_loss() {
    let root = TestRoot::proven();
    root.conf("nonsense\n[boot]\npolicy = x\n").run("clr-dkms", &MARK).code(0).says(&["clr-dkms.conf"]);
    let root = lost();
    root.conf("nonsense\n").run("clr-dkms", &MARK).code(1);
}

#[test]
fn a_module_that_was_taken_away_is_no_loss() {
    let root = lost();
    root.removed("hello", &[A]).run("clr-dkms", &MARK).code(0);
    root.module("other", "1", "").run("clr-dkms", &MARK).code(0);
    // Listed, known to nobody, and loaded all the same.
    let root = lost();
    root.remove("var/lib/dkms/hello").module("other", "1", "").conf("[modules]\ncritical = hello\n");
    root.loads(&["hello"]).run("clr-dkms", &MARK).code(0);
}

#[test]
fn a_lost_tree_is_a_loss() {
    for lost_part in ["var/lib/dkms/hello", "var/lib/dkms"] {
        let root = lost();
        root.remove(lost_part)
            .run("clr-dkms", &MARK)
            .code(1)
            .says(&["hello is critical (backs /data (hello))"]);
    }
}

#[test]
fn at_boot_all_is_put_back() {
    let root = TestRoot::held();
    root.remove("run/swupd").remove("run/motd.d").index(A, "kernel/own.ko:\n").forget_calls();
    root.run("clr-dkms", &AT_BOOT).code(0);
    assert_eq!(root.short_calls(), [format!("depmod {A}")]);
    for path in ["run/swupd/config", "run/motd.d/clr-dkms.motd", "run/clr-dkms/requested"] {
        assert!(root.has(path), "{path}");
    }
    root.forget_calls().run("clr-dkms", &AT_BOOT).code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
}

#[test]
fn at_boot_one_part_that_fails_keeps_no_other_from_its_work() {
    type Change = fn(&TestRoot);
    let cases: [(&str, Change, &[&str]); 6] = [
        ("arming", |r| r.file("run/swupd", "").forget(), &["motd.d/clr-dkms.motd", "clr-dkms/requested"]),
        ("a request", |r| r.file("run/clr-dkms", "").forget(), &["motd.d/clr-dkms.motd", "swupd/config"]),
        ("the message", |r| r.file("run/motd.d", "").forget(), &["swupd/config", "clr-dkms/requested"]),
        (
            "the lock",
            |r| r.directory("run/clr-dkms.lock").forget(),
            &["motd.d/clr-dkms.motd", "swupd/config"],
        ),
        ("depmod", |r| r.index(A, "").behave("code=1").forget(), &["motd.d/clr-dkms.motd", "swupd/config"]),
        ("a record", |r| r.file(RECORD, "{").forget(), &["motd.d/clr-dkms.motd", "swupd/config"]),
    ];
    for (what, change, expected) in cases {
        let root = TestRoot::held();
        for path in ["run/swupd", "run/motd.d", "run/clr-dkms.lock"] {
            if root.has(path) {
                root.remove(path);
            }
        }
        change(&root);
        let run = root.run("clr-dkms", &AT_BOOT);
        for path in expected {
            assert!(root.has(&format!("run/{path}")), "{what}: no {path}\n{}", run.stderr);
        }
        assert!(run.code == 0 || !run.stderr.is_empty(), "{what} is reported");
    }
}

#[test]
fn at_boot_while_another_run_is_at_work() {
    let root = TestRoot::held();
    root.remove("run/swupd").conf("[run]\nlock-wait = 0\n");
    let file = std::fs::File::create(root.at("run/clr-dkms.lock")).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    root.run("clr-dkms", &AT_BOOT);
    assert!(root.has("run/swupd/config"), "that run may take an hour, and swupd may come before its end");
}

/// Lets the bash that evaluates a dkms.conf begin with `first`.
fn before_bash(root: &TestRoot, first: &str) {
    let bash = root.tools().join("bash");
    // The stand-ins are scripts of bash too; only what is given to it with -c is a dkms.conf.
    let script = format!("#!/bin/bash\n[[ $* != *-c* ]] || {{ {first}; }}\nexec /bin/bash \"$@\"\n");
    std::fs::write(&bash, script).unwrap();
    set_mode(&bash, 0o755);
}

/// How often a dkms.conf is evaluated by a run. The sandbox keeps it from leaving a trace of its own.
fn evaluations(root: &TestRoot, arguments: &[&str]) -> usize {
    let run = root.run("clr-dkms", &[arguments, &["-v"]].concat());
    assert!(run.code >= 0, "{}", run.stderr);
    run.stderr.lines().filter(|line| line.starts_with("clr-dkms: evaluating ")).count()
}

#[test]
fn at_boot_on_a_machine_on_which_all_takes_its_time() {
    let root = TestRoot::held();
    let cold = |root: &TestRoot| {
        for path in ["run/swupd", "run/motd.d", "run/clr-dkms"] {
            if root.has(path) {
                root.remove(path);
            }
        }
        // It is made again, and that takes its time.
        root.index(A, "");
    };
    cold(&root);
    root.behave("[[ $verb != depmod ]] || sleep 5\n");
    let start = Instant::now();
    let run = root.run("clr-dkms", &[&AT_BOOT[..], &["--within", "1 s"]].concat());
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    run.code(0).says(&["not done within 1 s: clr-dkms.service was requested"]);
    for path in ["run/swupd/config", "run/clr-dkms/requested"] {
        assert!(root.has(path), "{path}");
    }
    assert!(!root.has("run/motd.d/clr-dkms.motd"), "what is not known is not written");

    // Without a record too: what is there may be needed.
    cold(&root);
    root.remove(RECORD);
    root.run("clr-dkms", &[&AT_BOOT[..], &["--within", "1 s"]].concat()).code(0);
    assert!(root.has("run/swupd/config") && root.has("run/clr-dkms/requested"));
}

#[test]
fn what_the_record_says_is_not_needed_is_not_deferred_for() {
    let root = TestRoot::guarded();
    root.conf("[modules]\noptional = hello\n").post_update();
    before_bash(&root, "sleep 5");
    root.remove("var/cache/clr-dkms");
    if root.has("run/swupd") {
        root.remove("run/swupd");
    }
    root.run("clr-dkms", &[&AT_BOOT[..], &["--within", "1 s"]].concat());
    assert!(!root.has("run/swupd/config"));
}

#[test]
fn at_boot_no_dkms_conf_is_evaluated() {
    let root = TestRoot::held();
    root.module("other", "1", "kill -9 $$\n").remove("var/cache/clr-dkms");
    if root.has("run/motd.d") {
        root.remove("run/motd.d");
    }
    assert_eq!(evaluations(&root, &AT_BOOT), 0);
    assert!(root.has("run/clr-dkms/requested"), "the worker does it");
    assert!(!root.has("run/motd.d/clr-dkms.motd"), "what is not known is not written");
    assert_eq!(evaluations(&root, &["guard", "--assert"]), 0);
    // An admin's word is carried out by several parts, each with a look of its own.
    assert_eq!(evaluations(&root, &["hold"]), 4, "two modules on two kernels, one of which gives no answer");
    root.remove("run/motd.d");
    assert_eq!(evaluations(&root, &AT_BOOT), 0);
    assert!(root.has("run/motd.d/clr-dkms.motd"), "all is in the cache");
}

#[test]
fn the_boot_default_is_not_waited_for_without_end() {
    let root = TestRoot::held();
    let _lock = root.at_work(&["hello/1.0 on x"]);
    let start = Instant::now();
    let run = root.run("clr-dkms", &["guard", "--assert", "--within", "1"]);
    run.code(1).says(&["the boot default may not be as it should be"]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    root.run("clr-dkms", &["guard", "--within", "1", "--json"]).code(64);
    root.run("clr-dkms", &["guard", "--at-boot", "--within", "soon"]).code(64);
}

#[test]
fn at_boot_it_is_quick() {
    let root = TestRoot::held();
    root.run("clr-dkms", &AT_BOOT).code(0);
    let best = (0..5).map(|_| {
        let start = Instant::now();
        root.run("clr-dkms", &AT_BOOT).code(0);
        start.elapsed()
    });
    // Not optimised, and beside other tests: a build or a depmod would show all the same.
    let best = best.min().unwrap();
    assert!(best < Duration::from_millis(500), "{best:?}");
}

#[test]
fn at_boot_a_tree_that_cannot_be_read_does_not_disarm() {
    let root = TestRoot::held();
    root.remove("var/lib/dkms").file("var/lib/dkms", "").run("clr-dkms", &AT_BOOT);
    assert!(root.has("run/swupd/config"));
}

#[test]
fn after_the_boot_into_the_held_kernel() {
    // Somebody chose B in the menu: it runs now, without the module, and A stays the better one.
    let root = lost();
    root.updated_by_hand().post_update();
    assert_eq!(root.boot_default(), ID_A);
    root.repair("hello-1.0").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn disarming_leaves_nothing() {
    let root = TestRoot::held();
    root.run("clr-dkms", &["guard", "--disarm"]).code(0);
    assert!(!root.has("run/swupd"));
    root.run("clr-dkms", &["guard", "--disarm"]).code(0);
}

#[test]
fn two_runs_at_once_end_with_one_result() {
    let root = TestRoot::guarded();
    root.behave(FAILS_ON_B);
    let children: Vec<_> = (0..3)
        .map(|_| {
            root.command("clr-dkms-post-update", &[]).stderr(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut child in children {
        assert_eq!(child.wait().unwrap().code(), Some(1));
    }
    assert_eq!(root.boot_default(), ID_A);
    assert_eq!(root.short_calls().iter().filter(|c| c.starts_with("build")).count(), 1);
}
