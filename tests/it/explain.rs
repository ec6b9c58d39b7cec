//! `clr-dkms explain`, `check`, and the status as metrics.

use crate::support::{B, TestRoot};

#[test]
fn every_id_is_explained_and_every_word_too() {
    let root = TestRoot::updated();
    let list = root.run("clr-dkms", &["explain"]).code(0).stdout.clone();
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    insta::assert_snapshot!("explain", list);
    for id in
        list.lines().filter_map(|line| line.split_whitespace().next()).filter(|id| id.starts_with("CD-"))
    {
        let one = root.run("clr-dkms", &["explain", id]).code(0).stdout.clone();
        assert!(one.contains("next step") && one.lines().all(|line| line.chars().count() <= 80), "{one}");
    }
    let one = root.run("clr-dkms", &["explain", "build-failed"]).code(0).stdout.clone();
    assert!(one.starts_with("CD-102: build-failed\n"), "{one}");
    root.run("clr-dkms", &["explain", "no\u{1b}such"]).code(3).says(&["neither an id nor a state"]);
}

#[test]
fn check_says_by_its_exit_code_what_status_says() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", B);
    for arguments in [&["check"][..], &["status"]] {
        let run = root.run("clr-dkms", arguments);
        assert_eq!(run.code, root.run("clr-dkms", &["status", "--json"]).code, "{arguments:?}");
        assert!(arguments[0] == "status" || run.stdout.is_empty());
    }
}

#[test]
fn the_metrics_are_as_prometheus_wants_them() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").behave("[[ $verb != build ]] || code=10");
    root.post_update().code(1);
    let metrics = root.run("clr-dkms", &["status", "--format", "prometheus"]).code(1).stdout.clone();
    let metrics: String =
        metrics.lines().filter(|l| !l.contains("_seconds ")).map(|l| l.to_owned() + "\n").collect();
    insta::assert_snapshot!("metrics", metrics);
}

#[test]
fn the_last_log_is_shown_the_first_error_first() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").module("other", "2", "");
    root.run("clr-dkms", &["logs"]).code(3).says(&["there is no log in"]);
    root.behave("[[ $verb != build || $module != hello ]] || { echo 'hello.c:3:1: error: no \u{1b}[31mgood'; code=10; }");
    root.post_update();
    let run = root.run("clr-dkms", &["logs"]);
    run.code(0);
    let mut lines = run.stdout.lines();
    assert!(lines.next().is_some_and(|l| l.starts_with(&format!("hello/1.0 on {B}: "))), "{}", run.stdout);
    assert!(lines.next().is_some_and(|l| l.starts_with("first error: hello.c:3: no ")), "{}", run.stdout);
    assert!(run.stdout.contains("# clr-dkms: ") && !run.stdout.contains('\u{1b}'), "{}", run.stdout);
    root.run("clr-dkms", &["logs", "other", "-k", "native"]).code(0).shows(&[&format!("other/2 on {B}: ")]);
    root.run("clr-dkms", &["logs", "none"]).code(3).says(&["there is no log of none"]);
    root.run("clr-dkms", &["logs", "other", "-k", "6.1"]).code(3).says(&["for kernel 6.1"]);
}
