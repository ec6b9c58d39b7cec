//! Deferral on disk: swupd is configured, and no setting of others is lost.

use crate::support::TestRoot;
use crate::support::guard::FAILS_ON_B;

const CONFIG: &str = "run/swupd/config";
const AT_BOOT: [&str; 2] = ["guard", "--at-boot"];

fn swupd(root: &TestRoot) -> serde_json::Value {
    root.guard()["swupd"].clone()
}

#[test]
fn it_is_armed_while_something_is_needed() {
    let root = TestRoot::guarded();
    assert_eq!(swupd(&root)["defers"], false);
    root.post_update().code(0).says(&["swupd leaves the boot files to clr-dkms"]);
    assert_eq!(swupd(&root)["defers"], true);
    insta::assert_snapshot!("deferral_config", root.text(CONFIG));
    root.conf("[modules]\noptional = hello\n")
        .post_update()
        .says(&["swupd writes the boot files itself again"]);
    assert!(!root.has("run/swupd"));
}

#[test]
fn foreign_lines_stay_to_the_byte() {
    let foreign = "# mine\r\n[update]\nurl=https://example.org\n\n[GLOBAL]\nno_scripts=false\n";
    let root = TestRoot::guarded();
    root.file(CONFIG, foreign).post_update().code(0);
    assert!(root.text(CONFIG).starts_with(foreign));
    assert_eq!(swupd(&root)["defers"], true);
    root.run("clr-dkms", &["guard", "--disarm"]).code(0);
    assert_eq!(root.text(CONFIG), foreign);
}

#[test]
fn foreign_lines_that_say_otherwise_are_overruled_in_the_same_file() {
    let root = TestRoot::guarded();
    root.file(CONFIG, "[update]\nno_boot_update=false\n");
    let run = root.post_update();
    run.code(0);
    assert!(!run.stderr.contains("makes swupd run clr-boot-manager"), "{}", run.stderr);
    assert_eq!(swupd(&root)["defers"], true);
}

#[test]
fn what_cannot_be_parsed_is_left_alone() {
    for text in ["[update]\nurl=x", "a\0b\n", &"x".repeat(9000)] {
        let root = TestRoot::guarded();
        root.file(CONFIG, text).post_update().says(&["run/swupd/config is left alone"]);
        assert_eq!(root.text(CONFIG), text);
        assert_eq!(swupd(&root)["defers"], false);
        assert!(swupd(&root)["refused"].as_str().unwrap().contains("left alone"));
        root.run("clr-dkms", &["guard"]).shows(&["runs clr-boot-manager itself"]);
    }
}

#[test]
fn an_admins_own_setting_wins_and_is_named() {
    let root = TestRoot::guarded();
    root.file("etc/swupd/config", "# x\n[bundle-add]\nno_boot_update=false\n").behave(FAILS_ON_B);
    root.post_update().code(1).says(&["ROOT/etc/swupd/config:3"]);
    root.run("clr-dkms", &["guard"]).code(1).shows(&["ROOT/etc/swupd/config:3"]);
    root.run("clr-dkms", &["status"]).code(1).shows(&["/etc/swupd/config:3"]);
}

#[test]
fn a_link_a_fifo_or_a_directory_is_not_followed() {
    let cases: [fn(&TestRoot); 3] = [
        |r| r.link(CONFIG, r.outside().join("config")).forget(),
        |r| r.directory(CONFIG).forget(),
        |r| {
            r.directory("run/swupd");
            let status = std::process::Command::new("mkfifo").arg(r.at(CONFIG)).status().unwrap();
            assert!(status.success());
        },
    ];
    for change in cases {
        let root = TestRoot::guarded();
        change(&root);
        root.run("clr-dkms", &AT_BOOT).says(&["is left alone: it is not a regular file"]);
        assert!(!root.outside().join("config").exists());
        root.post_update();
    }
}

#[test]
fn a_run_that_cannot_be_written_is_reported_and_not_fatal() {
    let root = TestRoot::guarded();
    root.file("run/swupd", "in the way").post_update().code(0).says(&["run/swupd"]);
    assert_eq!(swupd(&root)["defers"], false);
}

#[test]
fn what_a_user_may_read_stays_so() {
    let root = TestRoot::guarded();
    root.file(CONFIG, "[update]\nurl=x\n");
    crate::support::run::set_mode(&root.at(CONFIG), 0o640);
    root.post_update().code(0);
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(root.at(CONFIG)).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn an_image_is_not_touched() {
    let root = TestRoot::new();
    root.kernel(crate::support::A)
        .headers(crate::support::A)
        .tip(crate::support::A)
        .module("hello", "1.0", "");
    root.conf("[modules]\ncritical = hello\n").post_update();
    assert!(!root.has("run/swupd"));
}
