//! `clr-dkms-motd`: at most three lines, or no file at all.

use crate::support::tree::difference;
use crate::support::{A, B, Run, TestRoot};

const FRAGMENT: &str = "run/motd.d/clr-dkms.motd";

fn motd(root: &TestRoot) -> Run {
    let dry = root.run("clr-dkms-motd", &["--dry-run"]);
    let run = root.run("clr-dkms-motd", &[]);
    run.code(0).prints("");
    let written = if root.has(FRAGMENT) { root.text(FRAGMENT) } else { String::new() };
    assert_eq!(dry.code(0).stdout, root.redacted(&written));
    assert!(written.lines().count() <= 3, "{written}");
    for line in written.lines() {
        assert!(line.starts_with(" * ") && line.chars().count() <= 100, "{line}");
    }
    // A copy or an image has no message.
    assert!(!root.calls().iter().any(|c| c.starts_with("motd-update.sh")));
    run
}

fn pending() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", A).updated_by_hand();
    root
}

#[test]
fn each_verdict_has_its_text() {
    let root = pending();
    motd(&root);
    let mut all = format!("before the first run:\n{}", root.text(FRAGMENT));
    root.behave("[[ $verb != build ]] || { code=10; said='/src/hello.c:1:1: error: no'; }")
        .post_update()
        .code(1);
    motd(&root);
    all += &format!("build failed:\n{}", root.text(FRAGMENT));
    root.repair("hello-1.0").post_update().code(0);
    motd(&root);
    all += &format!("reboot pending:\n{}", root.text(FRAGMENT));
    root.remove(&format!("usr/lib/modules/{B}/modules.dep"))
        .directory(&format!("usr/lib/modules/{B}/modules.dep"));
    motd(&root);
    all += &format!("unknown:\n{}", root.text(FRAGMENT));
    insta::assert_snapshot!("motd", root.redacted(&all));
}

#[test]
fn where_there_is_nothing_to_say_there_is_no_file() {
    let root = pending().running(B);
    motd(&root);
    assert!(root.has(FRAGMENT));
    root.post_update().code(0);
    let enforcement = " * Kernel modules: signature enforcement will be disabled at the next boot\n";
    assert_eq!(root.text(FRAGMENT), enforcement, "healthy");
    // An admin has it enforced: nobody misses the module.
    root.conf("[cmdline]\nsig-unenforce = off\n").remove(crate::support::root::FRAGMENT);
    root.post_update();
    assert!(!root.has(FRAGMENT), "healthy: {}", root.text(FRAGMENT));
    root.file(FRAGMENT, " * stale\n").file("run/motd.d/other.motd", " * another's\n");
    motd(&root);
    assert!(!root.has(FRAGMENT));
    assert_eq!(root.text("run/motd.d/other.motd"), " * another's\n");
}

#[test]
fn a_system_without_kernels_of_ours_gets_no_message() {
    let root = TestRoot::new();
    motd(&root);
    assert!(!root.has(FRAGMENT));
}

#[test]
fn a_second_run_changes_nothing() {
    let root = pending();
    motd(&root);
    let before = root.tree();
    motd(&root);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
}

#[test]
fn an_admin_may_have_own_texts() {
    let root = pending();
    root.file("etc/clr-dkms/motd.d/degraded", "\n * {problem}\n\n * kernel {kernel} {unknown}\n * c\n * d\n");
    motd(&root);
    let text = root.text(FRAGMENT);
    assert!(text.contains("kernel 6.15.8-1592.native {unknown}\n"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
    // An empty one means silence.
    root.file("etc/clr-dkms/motd.d/degraded", "");
    motd(&root);
    assert!(!root.has(FRAGMENT));
    // Also for a verdict that has no text of its own.
    let root = pending().running(B);
    root.post_update().code(0);
    root.file("etc/clr-dkms/motd.d/healthy", " * all is well with {kernel}\n");
    motd(&root);
    assert_eq!(root.text(FRAGMENT), format!(" * all is well with {B}\n"));
}

#[test]
fn own_texts_that_are_garbage() {
    let root = pending();
    root.file("etc/clr-dkms/motd.d/degraded", b" * \xff\x1b[31m{kernel}\x07\n");
    motd(&root);
    let text = root.text(FRAGMENT);
    assert!(!text.contains(['\u{1b}', '\u{7}']) && text.contains(B), "{text:?}");
    root.remove("etc/clr-dkms/motd.d/degraded").directory("etc/clr-dkms/motd.d/degraded");
    let run = root.run("clr-dkms-motd", &[]);
    assert!(run.code != 0 || root.has(FRAGMENT), "neither reported nor shown");
    if run.code != 0 {
        run.says(&["ROOT/etc/clr-dkms/motd.d/degraded"]);
    }
}

#[test]
fn it_can_be_switched_off() {
    let root = pending();
    motd(&root);
    root.file("etc/clr-dkms/clr-dkms.conf", "[motd]\nshow = no\n");
    motd(&root);
    assert!(!root.has(FRAGMENT), "what was there is taken away");
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let root = pending();
    root.file("run/motd.d", "a file");
    root.run("clr-dkms-motd", &[]).code(1).says(&["ROOT/run/motd.d"]);
    let root = pending();
    root.directory(&format!("{FRAGMENT}/inside"));
    root.run("clr-dkms-motd", &[]).code(1).says(&["ROOT/run/motd.d/clr-dkms.motd"]);
}

#[test]
fn a_typo_in_the_configuration_is_78() {
    let root = pending();
    root.file("etc/clr-dkms/clr-dkms.conf", "[motd]\nshow = perhaps\n");
    root.run("clr-dkms-motd", &[]).code(78).says(&["ROOT/etc/clr-dkms/clr-dkms.conf: [motd] show"]);
}

/// Only on the live system itself: so in namespaces of our own, with directories of the root in the place of
/// the machine's.
#[test]
fn on_a_live_system_the_message_of_the_day_is_made_again() {
    let root = pending();
    let program = crate::support::run::program("clr-dkms-motd");
    let script = "mount --bind \"$2/run\" /run && mkdir -p /run/clr-dkms && printf '[motd]\\nshow = yes\\n' \
                  >/run/clr-dkms/clr-dkms.conf && \"$1\" && \"$1\"";
    let mut command = crate::support::run::unshared(&root.tools(), script);
    // Whatever the machine of the test is, this is not what there is to say: it is replaced or removed, once.
    root.file(FRAGMENT, " * stale\n");
    let run = Run::of(command.arg(program).arg(root.path()).output().unwrap(), &root);
    if run.stderr.contains("unshare") || run.stderr.contains("mount:") {
        crate::support::run::skipped(format_args!("no namespaces of our own here: {}", run.stderr));
        return;
    }
    let calls = root.calls().iter().filter(|c| c.starts_with("motd-update.sh")).count();
    assert_eq!(calls, 1, "{run:?}");
    assert!(!root.has(FRAGMENT) || root.text(FRAGMENT) != " * stale\n");
}
