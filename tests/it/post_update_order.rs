//! What the guard requires is built first, and the boot files are refreshed before the rest is built.

use crate::post_update_stop::{IN_PROGRESS, SLOW, all_gone, converges, in_the_middle_of};
use crate::support::guard::{ID_A, ID_B};
use crate::support::{B, TestRoot};

const CALLS: [&str; 4] = [
    "build hello 6.15.8-1592.native",
    "depmod 6.15.8-1592.native",
    "clr-boot-manager",
    "build extra 6.15.8-1592.native",
];

const FRAGMENT: &str = "run/motd.d/clr-dkms.motd";

/// `hello` backs a mounted file system; nothing uses `extra`, which comes first in the alphabet.
fn scene() -> TestRoot {
    let root = TestRoot::guarded();
    root.module("extra", "1", "");
    root
}

fn slow_extra() -> String {
    SLOW.replacen("$verb == build", "$verb == build && $module == extra", 1)
}

/// The calls of clr-boot-manager that can change the boot files.
fn updates(root: &TestRoot) -> usize {
    root.calls().iter().filter(|call| call.starts_with("clr-boot-manager update")).count()
}

#[track_caller]
fn begins_with_the_required(root: &TestRoot) {
    let calls: Vec<String> =
        root.short_calls().into_iter().filter(|call| !call.starts_with("install ")).collect();
    assert_eq!(calls[..CALLS.len()], CALLS, "{calls:?}");
}

#[test]
fn the_boot_default_is_safe_before_an_optional_module_is_built() {
    let root = scene();
    root.post_update().code(0);
    begins_with_the_required(&root);
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!(root.recorded("extra", B), "ok");
    assert_eq!(updates(&root), 1, "nothing of the boot has changed since");
}

#[test]
fn reports_during_the_rest_know_what_is_done() {
    let root = scene();
    let (mut child, pids) = in_the_middle_of(&root, &slow_extra());
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!(root.recorded("hello", B), "ok");
    assert_eq!(root.record()["boot"]["entries"], "verified");
    assert_eq!(root.record()["verdict"], serde_json::Value::Null, "nothing has been published yet");
    root.run("clr-dkms", &["status"]).code(1).shows(&["building: "]);
    assert_eq!(root.text(FRAGMENT), root.run("clr-dkms-motd", &["--dry-run"]).stdout);
    assert!(root.text(FRAGMENT).contains("modules are being built"), "{}", root.text(FRAGMENT));
    assert_eq!(root.guard()["boots_next"], B);
    child.kill().unwrap();
    child.wait().unwrap();
    all_gone(&pids);
}

#[test]
fn killed_in_the_build_of_an_optional_module() {
    let root = scene();
    let (mut child, pids) = in_the_middle_of(&root, &slow_extra());
    begins_with_the_required(&root);
    child.kill().unwrap();
    child.wait().unwrap();
    all_gone(&pids);
    assert!(root.has(IN_PROGRESS));
    assert_eq!(root.boot_default(), ID_B);
    // The machine is switched on again, and boots what it was to boot.
    let root = root.rebooted(B);
    root.loads(&["hello"]).mounts(&[("8:2", "/data", "hello", "/dev/sda2")]);
    root.behave("");
    converges(&root, &["hello", "extra"]);
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!(updates(&root), 1, "the record knows which boot files were made");
}

#[test]
fn an_optional_module_that_fails_undoes_nothing() {
    let root = scene();
    root.behave("[[ $verb != build || $module != extra ]] || code=10").post_update().code(1);
    begins_with_the_required(&root);
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!(root.recorded("extra", B), "build-failed");
    assert_eq!(updates(&root), 1);
    assert!(!root.has(IN_PROGRESS));
    root.run("clr-dkms", &["guard"]).code(0);
}

#[test]
fn what_a_required_module_is_built_upon_is_required_too() {
    let root = TestRoot::guarded();
    root.module("extra", "1", "").module("base", "1", "");
    root.module("hello", "1.0", "BUILD_DEPENDS[0]=base\n");
    root.post_update().code(0);
    let calls = root.short_calls();
    let at = |call: &str| {
        calls.iter().position(|c| c.starts_with(call)).unwrap_or_else(|| panic!("{call}: {calls:?}"))
    };
    assert!(at("build base") < at("build hello"));
    assert!(at("build hello") < at("clr-boot-manager"));
    assert!(at("clr-boot-manager") < at("build extra"));
}

#[test]
fn the_boot_files_wait_for_a_required_module_that_fails() {
    let root = scene();
    root.behave("[[ $verb != build || $module != hello ]] || code=10").post_update().code(1);
    let calls = root.short_calls();
    assert!(calls.contains(&CALLS[3].to_owned()), "the rest is built all the same: {calls:?}");
    assert_eq!(updates(&root), 0);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_refresh_that_fails_is_tried_once() {
    let root = scene();
    root.behave("[[ $verb != clr-boot-manager ]] || { code=1; idle=yes; }").post_update();
    assert_eq!(updates(&root), 2, "a call that fails is repeated at once, and not after the rest");
    assert_eq!(root.recorded("extra", B), "ok");
}

/// A kernel that changes while the rest is built is a reason to refresh the boot files again.
#[test]
fn what_changes_meanwhile_is_refreshed_again() {
    let root = scene();
    // A build could not write there.
    let lines = "if [[ $verb == depmod && -e ROOT/usr/lib/modules/6.15.8-1592.native/updates/dkms/extra.ko ]]; then\n\
        echo x=1 >ROOT/etc/kernel/cmdline.d/x.conf\nfi\n";
    root.behave(&lines.replace("ROOT", &root.path().display().to_string()));
    root.directory("etc/kernel/cmdline.d").post_update().code(0);
    assert_eq!(updates(&root), 2);
    let entry = root.text("boot/loader/entries/Clear-linux-native-6.15.8-1592.conf");
    assert!(entry.contains("x=1"), "{entry}");
}
