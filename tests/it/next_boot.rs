//! What boots next is what the boot loader takes: an entry, an EFI variable, or something unknown.

use serde_json::{Value, json};

use crate::enforcement_roots::{SIGNED, signed};
use crate::support::guard::{ID_A, ID_B};
use crate::support::{A, B, LTS, Run, TestRoot, machine, run};

const WORDS: &str = "quiet rw module.sig_unenforce";
const ID_LTS: &str = "org.clearlinux.ltscurrent.6.12.38-1550";
const ENTRY_A: &str = "Clear-linux-native-6.15.7-1591.conf";
const ENTRY_B: &str = "Clear-linux-native-6.15.8-1592.conf";
const ENTRY_LTS: &str = "Clear-linux-ltscurrent-6.12.38-1550.conf";

/// The exit code and the document.
fn status(root: &TestRoot) -> (i32, Value) {
    let run = root.run("clr-dkms", &["status", "--json"]);
    (run.code, run.json())
}

/// What the document says of the next boot: verdict, release, source.
fn next_of(document: &Value) -> [&str; 3] {
    ["verdict", "next_boot", "next_boot_source"].map(|field| document[field].as_str().unwrap_or("null"))
}

/// The same as a user without access to the boot partition.
fn hidden(root: &TestRoot, arguments: &[&str]) -> Option<Run> {
    run::set_mode(&root.at("boot"), 0o700);
    let mut command = run::as_nobody(root, "clr-dkms", arguments)?;
    Some(Run::of(command.output().unwrap(), root))
}

/// As `swupd bundle-remove` leaves it: image and modules of the long-term kernel are gone, its entry is the
/// default.
fn with_removed_default(root: &TestRoot) {
    root.entry(ID_LTS, WORDS, true);
}

#[test]
fn an_entry_of_a_kernel_that_is_not_installed_any_more_is_unsafe() {
    let root = TestRoot::proven();
    with_removed_default(&root);
    let (code, document) = status(&root);
    assert_eq!((code, next_of(&document)), (2, ["unsafe", LTS, "entry"]));
    assert_eq!((&document["may_reboot"], &document["guard"]["boots_removed"]), (&json!(false), &json!(true)));
    assert_eq!(document["guard"]["next_lacks"][0]["module"], "hello");
    root.run("clr-dkms", &["check"]).code(2);
    root.run("clr-dkms", &["guard"]).code(2).shows(&[&format!("{LTS}, which is not installed any more")]);
    root.run("clr-dkms", &["status"])
        .code(2)
        .shows(&["unsafe: do not reboot yet", &format!("kernel {LTS} boots next")]);
    // Both the hold unit and the worker make it right.
    root.run("clr-dkms", &["guard", "--assert"]).code(0).says(&[&format!("{B} is the boot default")]);
    assert_eq!(root.boot_default(), ID_B);
    with_removed_default(&root);
    root.post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!((status(&root).0, root.record()["next_boot"].as_str()), (0, Some(B)));
}

#[test]
fn a_variable_of_the_firmware_can_choose_it_too() {
    let root = TestRoot::proven();
    root.entry(ID_LTS, WORDS, false).loader_variable("LoaderEntryDefault", ENTRY_LTS);
    let (code, document) = status(&root);
    assert_eq!((code, next_of(&document)), (2, ["unsafe", LTS, "efi-variable"]));
    root.run("clr-dkms", &["guard"]).code(2).shows(&["was chosen by an admin"]);
}

/// The long-term kernel runs, and is removed.
fn orphaned() -> TestRoot {
    let root = TestRoot::guarded();
    root.entry(ID_LTS, WORDS, true);
    let root = root.running(LTS);
    root.installed("hello", "1.0", B).entry(ID_B, WORDS, false).forget();
    root
}

#[test]
fn the_running_kernel_is_not_installed_any_more() {
    for by in ["guard --assert", "post-update"] {
        let root = orphaned();
        let (code, document) = status(&root);
        assert_eq!((code, next_of(&document)), (2, ["unsafe", LTS, "entry"]));
        let guard = &document["guard"];
        assert_eq!((&guard["because"], &guard["target"]), (&json!("removed"), &Value::Null));
        assert_eq!(guard["default"], A, "of those that have it the one that has been booted");
        match by {
            "post-update" => root.post_update().code(0),
            _ => root.run("clr-dkms", &["guard", "--assert"]).code(0),
        };
        assert_eq!(root.boot_default(), ID_A, "{by}");
        root.post_update().code(0);
        let (code, document) = status(&root);
        assert_eq!((code, next_of(&document)), (0, ["reboot-pending", A, "entry"]), "{document:#}");
        assert_eq!(root.boot_default(), ID_A, "{by}");
    }
}

#[test]
fn the_kernel_that_has_what_is_needed_is_chosen_among_all_variants() {
    let root = orphaned();
    root.remove(&TestRoot::ko("hello", A));
    root.run("clr-dkms", &["guard", "--assert"]).code(0);
    assert_eq!(root.boot_default(), ID_B);
    // None has it: nothing is better than the other.
    let root = orphaned();
    root.remove(&TestRoot::ko("hello", B)).remove(&TestRoot::ko("hello", A));
    root.behave("code=10").post_update().code(2);
    assert_eq!(status(&root).1["verdict"], "unsafe");
}

#[test]
fn a_foreign_kernel_moves_nothing() {
    let root = orphaned();
    let root = root.running("6.16.0-custom");
    root.forget_calls().run("clr-dkms", &["guard", "--assert"]);
    assert_eq!((root.calls(), root.boot_default().as_str()), (Vec::new(), ID_LTS));
}

#[test]
fn boot_files_that_are_not_visible_and_were_never_seen() {
    let root = TestRoot::guarded();
    root.installed("hello", "1.0", B).remove("boot");
    let (code, document) = status(&root);
    assert_eq!((code, next_of(&document)), (3, ["unknown", "null", "null"]));
    assert!(document["next_boot_unknown"].as_str().unwrap().contains("no boot entry below"));
    assert_eq!(document["may_reboot"], Value::Null);
    root.run("clr-dkms", &["guard"]).code(3).shows(&["boots next      unknown: "]);
    // Without a module nothing hangs on it.
    root.remove("var/lib/dkms/hello").loads(&[]).mounts(&[]);
    assert_ne!(status(&root).0, 3);
}

#[test]
fn what_was_seen_is_remembered_and_said_to_be() {
    let root = TestRoot::proven();
    let Some(run) = hidden(&root, &["status", "--json"]) else { return };
    let document = run.json();
    // Whichever kernel boots, it has all that is needed.
    assert_eq!((run.code, next_of(&document)), (0, ["reboot-pending", B, "remembered"]), "{document:#}");
    hidden(&root, &["status"]).unwrap().shows(&["next boot (remembered)", "Next boot   unknown: "]);
    // One of them has not: then it matters which.
    let root = TestRoot::held();
    let run = hidden(&root, &["status", "--json"]).unwrap();
    assert_eq!((run.code, next_of(&run.json())), (3, ["unknown", A, "remembered"]));
    // Fragments or kernels have changed since: what was seen may be over.
    let root = TestRoot::proven();
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n");
    let run = hidden(&root, &["status", "--json"]).unwrap();
    assert_eq!((run.code, next_of(&run.json())), (3, ["unknown", B, "remembered"]));
    // The machine has booted something that is not installed.
    let root = TestRoot::proven();
    root.loader_variable("LoaderEntrySelected", ENTRY_LTS);
    assert_eq!(hidden(&root, &["status"]).unwrap().code, 3);
}

/// The update before a trial is a restricted one. It has written what has changed.
#[test]
fn before_a_trial_the_boot_files_are_not_outdated() {
    let root = crate::trial::armed();
    let Some(run) = hidden(&root, &["status", "--json"]) else { return };
    let document = run.json();
    assert_eq!((run.code, &document["problems"]), (0, &json!([])), "{document:#}");
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n");
    let document = hidden(&root, &["status", "--json"]).unwrap().json();
    let outdated = "kernels or fragments have changed since the boot entries were made";
    assert!(document["problems"].as_array().unwrap().contains(&json!(outdated)), "{document:#}");
}

#[test]
fn variables_that_every_user_can_read_decide() {
    let root = TestRoot::proven();
    root.loader_variable("LoaderEntryOneShot", ENTRY_A);
    let Some(run) = hidden(&root, &["status", "--json"]) else { return };
    assert_eq!(next_of(&run.json())[1..], [A, "efi-variable"]);
    let root = TestRoot::held();
    root.loader_variable("LoaderEntryDefault", ENTRY_B);
    let run = hidden(&root, &["status", "--json"]).unwrap();
    assert_eq!((run.code, next_of(&run.json())), (2, ["unsafe", B, "efi-variable"]));
    hidden(&root, &["guard"]).unwrap().code(2).shows(&[&format!("kernel {B} boots next")]);
    let root = TestRoot::proven();
    root.loader_variable("LoaderEntryDefault", ENTRY_LTS).loader_variable("LoaderEntries", ENTRY_LTS);
    let run = hidden(&root, &["status", "--json"]).unwrap();
    assert_eq!((run.code, next_of(&run.json())), (2, ["unsafe", LTS, "efi-variable"]));
}

#[test]
fn the_record_has_what_boots_next() {
    let root = TestRoot::held();
    let record = root.record();
    assert_eq!((&record["next_boot"], &record["next_boot_source"]), (&json!(A), &json!("entry")));
    root.repair("hello-1.0").post_update().code(0);
    assert_eq!(root.record()["next_boot"], B);
}

/// DKMS signs with a key of its own, which a machine owner may have enrolled.
#[test]
fn a_signature_that_the_running_kernel_may_not_trust_waits_for_the_reboot_too() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    signed(&root, A, SIGNED);
    root.config(A, &format!("{}CONFIG_SECONDARY_TRUSTED_KEYRING=y\n", machine::CLEAR)).modinfo(A, true);
    root.secure_boot(false).booted("quiet rw", "Y", Some("N")).post_update().code(0);
    let (code, document) = status(&root);
    assert_eq!((code, next_of(&document)), (0, ["reboot-pending", A, "entry"]), "{document:#}");
    assert_eq!(document["summary"], format!("kernel {A} may refuse hello/1.0 until it is booted again"));
    // A module that is loaded shows that nothing waits.
    root.loaded("hello", "O");
    assert_eq!(status(&root).1["verdict"], "healthy");
}

#[test]
fn modules_that_the_running_kernel_refuses_until_a_reboot() {
    // As the guide's first installation leaves it: built, the parameter in the entry, and a kernel that runs
    // without it.
    let root = TestRoot::system();
    root.module("hello", "1.0", "").config(A, machine::CLEAR).modinfo(A, true);
    root.secure_boot(false).booted("quiet rw", "Y", Some("N")).post_update().code(0);
    let (code, document) = status(&root);
    assert_eq!((code, next_of(&document)), (0, ["reboot-pending", A, "entry"]), "{document:#}");
    let summary = format!("kernel {A} refuses hello/1.0 until it is booted again");
    assert_eq!(document["summary"], summary);
    assert_eq!(root.text("run/clr-dkms/reboot-required"), format!("{summary}\n"));
    root.run("clr-dkms", &["check"]).code(0);
    root.run("clr-dkms", &["check", "--reboot-pending"]).code(0);
    root.run("clr-dkms", &["status"]).shows(&["reboot-pending: reboot when it suits you"]);
    // After the reboot.
    root.booted(WORDS, "Y", Some("Y"));
    assert_eq!(status(&root).1["verdict"], "healthy");
    root.run("clr-dkms", &["check", "--reboot-pending"]).code(1);
}

#[test]
fn a_reboot_brings_it_back() {
    // Somebody chose B in the menu, which lacks the module; the default has been pointed back to A.
    let root = TestRoot::held().rebooted(B);
    let (code, document) = status(&root);
    assert_eq!((code, next_of(&document)), (1, ["held", A, "entry"]));
    assert_eq!(document["next_step"], "reboot: it brings hello back");
    assert_eq!(document["guard"]["next_step"], "reboot: it brings hello back");
    root.run("clr-dkms", &["status"])
        .code(1)
        .shows(&["held: a reboot is safe; reboot: it brings hello back"]);
}

#[test]
fn older_kernels_that_can_be_booted_are_shown() {
    let root = TestRoot::proven().rebooted(B);
    let (_, document) = status(&root);
    let kernels = document["kernels"].as_array().unwrap();
    let older = kernels.iter().find(|k| k["release"] == A).unwrap();
    assert_eq!((&older["fallback"], &older["modules_ready"]), (&json!(true), &json!(1)));
    assert!(document["modules"].as_array().unwrap().iter().any(|m| m["kernel"] == A && m["state"] == "ok"));
    let screen = root.run("clr-dkms", &["status"]);
    screen.shows(&["and 1 older kernel that can be booted"]);
    assert!(!screen.stdout.contains(A), "{}", screen.stdout);
    root.run("clr-dkms", &["status", "--all"]).shows(&[&format!("✔ {A}  older"), "1 of 1"]);
    // Without an entry it cannot be booted.
    root.remove(&format!("boot/loader/entries/{ENTRY_A}"));
    assert!(!status(&root).1["kernels"].as_array().unwrap().iter().any(|k| k["release"] == A));
}
