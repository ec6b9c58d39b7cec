//! Cause before consequence: what status, guard, the message of the day and pre-update say of one state.

use std::fs::File;

use crate::support::boot::{A_ENTRY, B_ENTRY, path};
use crate::support::guard::{FAILS_ON_B, ID_A};
use crate::support::{A, LTS, Run, TestRoot};
use clr_dkms::sys::{Root, RootKind};

fn status(root: &TestRoot) -> serde_json::Value {
    root.run("clr-dkms", &["status", "--json"]).json()
}

fn motd(root: &TestRoot) -> String {
    root.run("clr-dkms-motd", &["--dry-run"]).stdout
}

/// An image of a kernel that takes no room, and is larger than all that is free.
fn huge(root: &TestRoot, id: &str) {
    let free = Root::open(RootKind::Image, root.path()).unwrap().free_space_for_root("/").unwrap();
    let image = File::options().write(true).open(root.at(&format!("usr/lib/kernel/{id}"))).unwrap();
    // What others delete meanwhile must not make it fit.
    image.set_len(free + (64 << 30)).unwrap();
}

#[test]
fn a_boot_partition_that_is_too_small() {
    let root = TestRoot::guarded();
    huge(&root, "org.clearlinux.native.6.15.8-1592");
    let warned = root.run("clr-dkms-pre-update", &["--dry-run"]);
    warned.says(&["the boot partition ROOT/boot has ", "MiB to write a new kernel; free some space"]);
    root.post_update();
    assert!(!root.has(&path(B_ENTRY)) && root.has(&path(A_ENTRY)));
    let cause =
        |text: &serde_json::Value| text.as_str().unwrap().contains(": the boot partition ROOT/boot has ");
    let (document, guard) = (status(&root), root.guard());
    assert!(cause(&document["summary"]), "{document:#}");
    assert!(cause(&document["problems"][0]), "{document:#}");
    assert!(cause(&guard["summary"]), "{guard:#}");
    assert_eq!(guard["next_step"], "correct that, then run `sudo clr-dkms-post-update`");
    assert_eq!(guard["next_step"], document["next_step"]);
    assert!(motd(&root).contains("the boot partition "), "{}", motd(&root));
    // What follows from it does not have a remedy of its own that cannot help.
    for problem in document["problem_list"].as_array().unwrap() {
        assert_ne!(problem["next_step"], "run `sudo clr-dkms-post-update`", "{problem:#}");
    }
    // It is not said where it fits.
    let root = TestRoot::guarded();
    assert!(!root.run("clr-dkms-pre-update", &["--dry-run"]).stderr.contains("boot partition"));
}

#[test]
fn a_reboot_is_not_called_safe_into_a_kernel_that_should_not_boot() {
    let root = TestRoot::guarded();
    root.remove("proc/self/mountinfo").behave(FAILS_ON_B).post_update();
    root.updated_by_hand();
    let screen = root.run("clr-dkms", &["status"]).stdout;
    let first = screen.split("\n\n").next().unwrap();
    assert!(first.contains("boots next, and"), "{screen}");
    assert!(!first.contains("a reboot is safe"), "{screen}");
}

#[test]
fn what_the_guard_misses_counts_as_needed() {
    let root = TestRoot::proven();
    root.conf("[modules]\ncritical = cam\n");
    let document = status(&root);
    for kernel in document["kernels"].as_array().unwrap() {
        let counts = |name: &str| kernel[name].as_u64().unwrap();
        assert_eq!((counts("modules_ready"), counts("modules_needed")), (1, 2), "{document:#}");
    }
}

#[test]
fn entries_that_wait_for_the_kernel_that_is_held_back_are_not_missing() {
    let root = TestRoot::guarded();
    root.kernel(LTS).headers(LTS).tip(LTS);
    root.behave(FAILS_ON_B).post_update().code(1);
    let document = status(&root);
    assert_eq!(document["verdict"], "held", "{document:#}");
    assert!(document["guard"]["deferred"].as_bool().unwrap(), "{document:#}");
    let is_entry = |p: &serde_json::Value| p["kind"] == "boot-entry";
    assert!(!document["problem_list"].as_array().unwrap().iter().any(is_entry), "{document:#}");
    assert_eq!(document["boot_entries"], "verified", "{document:#}");
    // One that was there and is gone is a problem all the same.
    root.remove(&path(A_ENTRY));
    let document = status(&root);
    assert!(document["problem_list"].as_array().unwrap().iter().any(is_entry), "{document:#}");
    assert_eq!(root.boot_default(), ID_A);
}

/// A machine with five modules that fail, and with three kernels.
fn five_fail() -> TestRoot {
    let root = TestRoot::system();
    root.kernel(LTS).headers(LTS).tip(LTS).kernel("6.15.10-1601.aws").headers("6.15.10-1601.aws");
    root.tip("6.15.10-1601.aws");
    for name in ["cam", "dvb", "gpu", "net", "zfs"] {
        root.module(name, "1.0", "");
    }
    root.behave("[[ $verb != build ]] || { code=10; said='x.c:1:5: error: no'; }").post_update();
    root
}

#[test]
fn everything_wrong_is_counted_in_the_headline() {
    let root = five_fail();
    let summary = status(&root)["summary"].as_str().unwrap().to_owned();
    assert!(
        summary.starts_with("5 modules are not ready: cam/1.0, dvb/1.0 and 3 more; cam/1.0 is"),
        "{summary}"
    );
    assert!(motd(&root).contains("5 modules are not ready: cam/1.0, dvb/1.0 and 3 more"), "{}", motd(&root));
}

#[test]
fn kernels_are_in_the_order_of_their_versions() {
    let document = status(&five_fail());
    let kernels = document["kernels"].as_array().unwrap().iter().map(|k| k["release"].as_str().unwrap());
    assert_eq!(kernels.collect::<Vec<_>>(), ["6.15.10-1601.aws", A, LTS]);
}

fn screen(root: &TestRoot, columns: &str, lines: &str) -> String {
    let mut command = root.command("clr-dkms", &["status"]);
    command.env("COLUMNS", columns).env("LINES", lines).env("LC_ALL", "C.UTF-8");
    Run::of(command.output().unwrap(), root).stdout
}

/// No line is wider than the terminal, no page higher, and what is to be done is never left out.
#[test]
fn pages_of_three_kernels_and_five_modules() {
    let root = five_fail();
    for columns in ["60", "80", "120"] {
        for lines in ["24", "45"] {
            let text = screen(&root, columns, lines);
            for line in text.lines() {
                assert!(line.chars().count() <= columns.parse().unwrap(), "{columns}: {line}\n{text}");
            }
            assert!(text.lines().count() <= lines.parse().unwrap(), "{columns} x {lines}:\n{text}");
            // What is to be done stands in the answer, and below the module.
            assert!(text.split("\n\n").next().unwrap().contains("clr-dkms-post-update"), "{text}");
            assert!(text.contains("next: "), "{columns} x {lines}:\n{text}");
            // What is the same on several kernels is said once.
            assert_eq!(text.matches("next: fix or update cam/1.0").count(), 1, "{text}");
            insta::assert_snapshot!(format!("page_{columns}_{lines}"), text);
        }
    }
    let [low, high] = ["24", "45"].map(|lines| screen(&root, "80", lines));
    assert!(high.lines().count() > low.lines().count(), "the height is used:\n{high}");
}

#[test]
fn other_kernels_are_not_called_ok_above_what_is_wrong_on_one() {
    let root = five_fail();
    root.remove(&format!("usr/lib/modules/{LTS}/build"));
    for line in screen(&root, "60", "45").lines().chain(screen(&root, "80", "45").lines()) {
        assert!(!line.contains("✔ ok"), "{line}");
    }
}

/// Solus has neither swupd nor bundles.
#[test]
fn a_solus_root_gets_no_advice_about_swupd() {
    let root = TestRoot::new();
    let release = "6.12.1-310.current";
    root.kernel_of("com.solus-project", release).file("usr/lib/kernel/default-current", "");
    root.link("usr/lib/kernel/default-current", "com.solus-project.current.6.12.1-310");
    root.module("hello", "1.0", "");
    let texts = |root: &TestRoot| {
        let run = |program, arguments: &[&str]| {
            let run = root.run(program, arguments);
            run.stdout + &run.stderr
        };
        run("clr-dkms", &["status", "--all"])
            + &run("clr-dkms", &["rebuild", "-n"])
            + &run("clr-dkms-pre-update", &["--dry-run"])
    };
    let text = texts(&root);
    assert!(!text.contains("`sudo swupd") && !text.contains("swupd bundle-add"), "{text}");
    assert!(text.contains("eopkg install linux-current-headers"), "{text}");
    root.headers(release).behave("[[ $verb != build ]] || { code=10; said='/bin/sh: 1: flex: not found'; }");
    root.post_update();
    let text = texts(&root);
    assert!(!text.contains("swupd search-file"), "{text}");
    assert!(text.contains("install the package that has flex"), "{text}");
}
