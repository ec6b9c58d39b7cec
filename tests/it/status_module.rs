//! `clr-dkms status MODULE` and `clr-dkms status --watch`.

use crate::support::guard::FAILS_ON_B;
use crate::support::terminal::{Terminal, is_sane};
use crate::support::{A, B, Run, TestRoot};

fn screen(root: &TestRoot, name: &str, columns: &str) -> String {
    let mut command = root.command("clr-dkms", &["status", name]);
    command.env("COLUMNS", columns).env("LC_ALL", "C.UTF-8");
    let text = Run::of(command.output().unwrap(), root).stdout;
    for line in text.lines() {
        let is_path = line.split_whitespace().count() < 2;
        assert!(is_path || line.chars().count() <= columns.parse().unwrap(), "{columns}: {line}\n{text}");
        assert!(!line.ends_with(' '), "{line:?}");
    }
    text
}

/// The screens at three widths, and the document.
fn golden(name: &str, root: &TestRoot, module: &str, code: i32) {
    for columns in ["60", "80", "120"] {
        insta::assert_snapshot!(format!("module_{name}_{columns}"), screen(root, module, columns));
    }
    let json = root.run("clr-dkms", &["status", module, "--json"]);
    json.code(code);
    insta::assert_snapshot!(format!("module_{name}_json"), TestRoot::timeless(&json.stdout));
}

#[test]
fn a_module_that_fails_on_one_kernel() {
    let root = TestRoot::guarded();
    root.behave(FAILS_ON_B).post_update().code(1);
    golden("build_failed", &root, "hello", 1);
    let document = root.run("clr-dkms", &["status", "hello", "--json"]).json();
    let kernels = document["kernels"].as_array().unwrap();
    let on = |release: &str| kernels.iter().find(|k| k["kernel"] == release).unwrap();
    assert_eq!((&on(B)["state"], &on(A)["state"]), (&"build-failed".into(), &"ok".into()));
    assert_eq!(document["schema"], 1);
    assert_eq!(on(B)["error"]["cause"], "module");
    let text = screen(&root, "hello", "80");
    for part in
        ["critical: backs /data", "cause: module", "hello.c:1: no", "log:", "next: fix or update hello/1.0"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_next_boot_without_it_is_unsafe() {
    let root = TestRoot::guarded();
    root.behave(FAILS_ON_B).post_update().code(1);
    root.updated_by_hand();
    let run = root.run("clr-dkms", &["status", "hello"]);
    run.code(2);
    assert!(run.stdout.starts_with("✘ hello is unsafe: "), "{}", run.stdout);
    assert_eq!(root.run("clr-dkms", &["status", "--json"]).json()["verdict"], "unsafe");
}

#[test]
fn a_module_that_is_ready() {
    let root = TestRoot::proven();
    golden("ready", &root, "hello", 0);
    // By its version, by a kernel module that it makes; what is not there is not.
    for (asked, code) in [("hello/1.0", 0), ("hello/2", 3), ("hell", 3), ("hello/", 3)] {
        root.run("clr-dkms", &["status", asked]).code(code);
    }
    root.run("clr-dkms", &["status", "hell"]).prints("").says(&["there is no module hell"]);
    root.run("clr-dkms", &["status", "hello", "--all"]).code(64);
}

#[test]
fn a_source_that_is_newer_than_the_build() {
    let root = TestRoot::proven();
    root.file("usr/src/hello-1.0/new.c", "int new;\n");
    root.run("clr-dkms", &["status", "hello"]).shows(&["! the source is newer than the build"]);
    let document = root.run("clr-dkms", &["status", "hello", "--json"]).json();
    assert!(
        document["kernels"].as_array().unwrap().iter().any(|k| k["source_changed"] == true),
        "{document:#}"
    );
}

#[test]
fn a_placeholder_is_named_with_its_line() {
    let root = TestRoot::proven();
    root.module("raw", "#MODULE_VERSION#", "");
    let text = screen(&root, "raw", "80");
    assert!(text.contains("broken-source") && text.contains("line 2: PACKAGE_VERSION is"), "{text}");
}

#[test]
fn watching_needs_a_terminal() {
    let root = TestRoot::proven();
    root.run("clr-dkms", &["status", "--watch"]).code(64).prints("").says(&["run `clr-dkms wait`"]);
}

#[test]
fn watching_shows_what_changes_until_ctrl_c() {
    let root = TestRoot::guarded();
    root.post_update().code(0);
    let mut terminal = Terminal::run(&root, 80, "", "clr-dkms", &["status", "--watch"]);
    terminal.wait_for("reboot-pending:");
    root.behave(FAILS_ON_B).remove(&format!("usr/lib/modules/{B}/updates/dkms/hello.ko"));
    terminal.wait_for("CD-101").types("\u{3}");
    assert!(matches!(terminal.ends().code(), Some(1 | 2)));
    assert!(is_sane(&root));
    let mut terminal = Terminal::run(&root, 80, "", "clr-dkms", &["status", "hello", "-w"]);
    terminal.wait_for("hello is ").types("\u{3}");
    assert!(terminal.ends().code().is_some_and(|code| code < 3));
}
