//! The screens of `clr-dkms guard` and `status` while the guard has something to say.

use crate::support::guard::FAILS_ON_B;
use crate::support::{A, B, TestRoot};
use crate::trial::{armed, booted, check, works};

/// Both screens, the document, and the widths.
fn golden(name: &str, root: &TestRoot, guard: i32, status: i32) {
    let screen = root.run("clr-dkms", &["guard"]);
    screen.code(guard);
    let whole = root.run("clr-dkms", &["status"]);
    whole.code(status);
    for line in screen.stdout.lines().chain(whole.stdout.lines()) {
        let unbreakable = line.split_whitespace().count() < 3;
        assert!(line.chars().count() <= 80 || unbreakable, "{name}: {line}");
    }
    insta::assert_snapshot!(format!("guard_{name}"), screen.stdout);
    insta::assert_snapshot!(format!("guard_{name}_status"), whole.stdout);
    let json = root.run("clr-dkms", &["guard", "--json"]);
    assert_eq!(json.code, guard, "both tell the same");
    insta::assert_snapshot!(format!("guard_{name}_json"), json.stdout);
}

#[test]
fn allowed() {
    golden("allowed", &TestRoot::proven(), 0, 0);
}

#[test]
fn held() {
    golden("held", &TestRoot::held(), 1, 1);
}

#[test]
fn unsafe_as_things_are() {
    let root = TestRoot::held();
    root.updated_by_hand();
    golden("unsafe", &root, 2, 2);
}

#[test]
fn unsafe_on_every_kernel() {
    let root = TestRoot::held();
    root.remove(&TestRoot::ko("hello", A)).post_update().code(2);
    golden("unsafe_everywhere", &root, 2, 2);
}

#[test]
fn held_by_an_admin() {
    let root = TestRoot::proven();
    root.run("clr-dkms", &["hold", "--reason", "the new\ndriver flickers"]).code(0);
    golden("held_by_an_admin", &root, 1, 1);
}

#[test]
fn on_trial() {
    golden("trial_armed", &armed(), 0, 0);
    let root = booted(armed(), B, "2");
    golden("trial_running", &root, 1, 1);
    check(&root).code(1);
    root.post_update();
    golden("trial_failed_and_runs", &root, 1, 1);
    let root = booted(root, A, "3");
    works(&root).post_update();
    golden("trial_failed", &root, 1, 1);
    let root = booted(armed(), A, "2");
    works(&root).post_update();
    golden("trial_unfinished", &root, 1, 1);
}

#[test]
fn released() {
    let root = TestRoot::held();
    root.run("clr-dkms", &["allow", B, "--without", "hello", "--yes", "--force"]).code(2);
    golden("released", &root, 2, 2);
}

#[test]
fn as_the_terminal_is() {
    let root = TestRoot::held();
    let mut command = root.command("clr-dkms", &["guard", "--color", "always"]);
    let run =
        crate::support::Run::of(command.env("COLUMNS", "50").env("LC_ALL", "C").output().unwrap(), &root);
    assert!(run.stdout.starts_with("\u{1b}[1m\u{1b}[33m! held:\u{1b}[0m "), "{:?}", run.stdout);
    let mut command = root.command("clr-dkms", &["guard"]);
    let run =
        crate::support::Run::of(command.env("COLUMNS", "50").env("LC_ALL", "C").output().unwrap(), &root);
    assert!(run.stdout.is_ascii() && run.stdout.lines().all(|l| l.chars().count() <= 50), "{}", run.stdout);
}

#[test]
fn not_applicable() {
    let root = TestRoot::new();
    root.run("clr-dkms", &["guard"])
        .code(0)
        .prints("– not-applicable: nothing to do\n  no kernel of clr-boot-manager is installed here\n");
    let status = root.run("clr-dkms", &["status", "--json"]).json();
    assert_eq!((root.guard()["summary"].clone(), 3), (status["summary"].clone(), 3));
    // Listed as critical or not.
    root.conf("[modules]\ncritical = ghost\n").run("clr-dkms", &["guard"]).code(0).shows(&["not-applicable"]);
}

#[test]
fn unknown() {
    let root = TestRoot::proven();
    root.remove("var/lib/dkms").file("var/lib/dkms", "");
    root.run("clr-dkms", &["guard"])
        .code(3)
        .shows(&["? unknown: make what cannot be read readable, then ask again\n  ", "var/lib/dkms"]);
}

#[test]
fn while_a_run_is_at_work() {
    let root = TestRoot::held();
    let wait = "wait for the run to end, and do not reboot until then";
    let lock = root.at_work(&["hello/1.0 on 6.15.8-1592.native"]);
    root.run("clr-dkms", &["guard"]).code(1).shows(&[&format!("! held: {wait}\n")]);
    assert_eq!(root.guard()["next_step"], wait);
    drop(lock);
    assert_ne!(root.guard()["next_step"], wait);
}

#[test]
fn a_name_that_nobody_has() {
    let root = TestRoot::proven();
    root.conf("[modules]\ncritical = zsf\n");
    let step = "correct the name in clr-dkms.conf; or run `sudo dkms add DIRECTORY`\n  to register it";
    root.run("clr-dkms", &["guard"]).code(2).shows(&[&format!("✘ unsafe: {step}\n"), "not-registered"]);
}

#[test]
fn overridden() {
    let root = TestRoot::held();
    root.file("etc/swupd/config", "[update]\nno_boot_update=false\n");
    golden("overridden", &root, 1, 1);
}

#[test]
fn report_only() {
    let root = TestRoot::guarded();
    root.conf("[boot]\npolicy = report\n").behave(FAILS_ON_B).post_update().code(2);
    golden("report", &root, 2, 2);
}

#[test]
fn a_held_kernel_that_is_gone() {
    let root = TestRoot::proven();
    root.file("var/lib/clr-dkms/boot-wishes.json", r#"{"schema": 1, "hold": "6.1.1-1.native"}"#);
    golden("held_and_gone", &root, 0, 1);
}

#[test]
fn no_boot_files() {
    let root = TestRoot::held();
    root.remove("boot");
    golden("no_boot_files", &root, 3, 3);
}
