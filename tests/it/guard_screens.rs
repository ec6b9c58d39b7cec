//! The screens of `clr-dkms guard` and `status` while the guard has something to say.

use crate::support::guard::FAILS_ON_B;
use crate::support::{A, TestRoot};

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
    root.run("clr-dkms", &["hold"]).code(1);
    golden("held_by_an_admin", &root, 1, 1);
}

#[test]
fn released() {
    let root = TestRoot::held();
    root.run("clr-dkms", &["release"]).code(2);
    golden("released", &root, 2, 2);
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
    golden("no_boot_files", &root, 1, 1);
}
