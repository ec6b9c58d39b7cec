//! The trial of a new kernel: it is booted once, and becomes the boot default only if it works.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::boot::{A_ENTRY, B_ENTRY};
use crate::support::guard::{ID_A, ID_B};
use crate::support::tree::difference;
use crate::support::{A, B, Run, TestRoot};

pub(crate) const RECORD: &str = "var/lib/clr-dkms/trial.json";
pub(crate) const ONE_SHOT: &str =
    "sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const EFI_VARIABLES: &str = "sys/firmware/efi/efivars";
pub(crate) const CHECK: [&str; 3] = ["guard", "--check-boot", "--within=0s"];
pub(crate) const MARK: [&str; 2] = ["guard", "--may-mark-booted"];
pub(crate) const ASSERT: [&str; 2] = ["guard", "--assert"];

/// [`A`] runs, and `/data` depends on `hello`; an update has brought [`B`]. systemd-boot can boot it once.
pub(crate) fn updated() -> TestRoot {
    let root = TestRoot::guarded();
    root.with_units().secure_boot(false).boots_once().boot("1");
    root.file("etc/fstab", "/dev/sda2 /data hello defaults 0 0\n");
    root
}

/// The same after the run of the worker: [`B`] boots next, on trial.
pub(crate) fn armed() -> TestRoot {
    let root = updated();
    root.post_update().code(0);
    root
}

/// The boot loader takes the variable away and starts a kernel.
pub(crate) fn booted(root: TestRoot, release: &str, id: &str) -> TestRoot {
    let root = root.running(release);
    if root.has(ONE_SHOT) {
        root.remove(ONE_SHOT);
    }
    root.loads(&[]).mounts(&[]).file("proc/sys/kernel/random/boot_id", format!("{id}\n"));
    root
}

/// What depends on `hello` is there.
pub(crate) fn works(root: &TestRoot) -> &TestRoot {
    root.loads(&["hello"]).mounts(&[("8:2", "/data", "hello", "/dev/sda2")])
}

/// The entry of the next boot only. A kill may leave an empty variable.
pub(crate) fn one_shot(root: &TestRoot) -> Option<String> {
    let bytes = std::fs::read(root.at(ONE_SHOT)).ok().filter(|bytes| !bytes.is_empty())?;
    let units: Vec<u16> =
        bytes[4..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    Some(String::from_utf16(&units).unwrap().trim_end_matches('\0').to_owned())
}

pub(crate) fn status(root: &TestRoot) -> Value {
    root.run("clr-dkms", &["status", "--json"]).json()
}

/// Verdict, next boot and stage of the trial.
pub(crate) fn answer(root: &TestRoot) -> [String; 3] {
    let status = status(root);
    let text = |value: &Value| value.as_str().unwrap_or("null").to_owned();
    [text(&status["verdict"]), text(&status["next_boot"]), text(&status["guard"]["trial"]["stage"])]
}

pub(crate) fn check(root: &TestRoot) -> Run {
    root.run("clr-dkms", &CHECK)
}

/// Runs a program that cannot open a directory of the root, because of this error.
pub(crate) fn without_opening(root: &TestRoot, command: &Command, directory: &str, error: &str) -> Run {
    let inject = format!("inject=openat:error={error}");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=openat", "-e", &inject, "-P"]);
    strace.arg(root.at(directory)).arg(command.get_program()).args(command.get_args());
    strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Run::of(strace.output().unwrap(), root)
}

/// The boot default, the entry of the next boot only, and the answer of `status`.
pub(crate) fn assert_next(root: &TestRoot, default: &str, once: Option<&str>, answered: [&str; 3]) {
    assert_eq!((root.boot_default().as_str(), one_shot(root).as_deref()), (default, once));
    assert_eq!(answer(root), answered);
}

#[test]
fn a_new_kernel_is_booted_once_and_becomes_the_default_when_it_works() {
    let root = updated();
    root.post_update()
        .code(0)
        .says(&[&format!("kernel {B} boots next, on trial: {A} stays the boot default until it works")]);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    // A second run has nothing to do.
    let before = root.tree();
    root.forget_calls().post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());

    let root = booted(root, B, "2");
    assert_next(&root, ID_A, None, ["held", A, "running"]);
    root.run("clr-dkms", &MARK).code(1).says(&["it is on trial"]);
    root.run("clr-dkms", &ASSERT).code(0);
    // Nothing is wrong yet.
    root.post_update().code(0);
    assert_next(&root, ID_A, None, ["held", A, "running"]);
    // A module that is being initialised does not work yet.
    works(&root);
    root.file("proc/modules", "hello 16384 1 - Loading 0x0000000000000000 (OE)\n");
    root.run("clr-dkms", &MARK).code(1);

    works(&root);
    check(&root).code(0).says(&[&format!("kernel {B} works: its trial is over")]);
    assert!(!root.has(RECORD) && root.has("run/clr-dkms/requested"));
    root.run("clr-dkms", &MARK).code(0);
    root.post_update().code(0);
    assert_next(&root, ID_B, None, ["healthy", B, "null"]);
    // The older kernel was not deleted.
    assert!(root.has(&format!("boot/loader/entries/{A_ENTRY}")));
    check(&root).code(0).says(&[]);
}

#[test]
fn what_is_critical_does_not_work() {
    type Change = fn(&TestRoot) -> &TestRoot;
    let cases: [(Change, &str); 2] =
        [(|root| root, "it is not loaded"), (|root| root.loads(&["hello"]), "/data is not mounted")];
    for (change, why) in cases {
        let root = booted(armed(), B, "2");
        change(&root);
        check(&root).code(1).says(&[&format!("kernel {B} does not work: hello is critical, and {why}")]);
        root.post_update();
        root.run("clr-dkms", &MARK).code(1);
        assert_next(&root, ID_A, None, ["held", A, "failed"]);
        let answer = status(&root);
        let back = format!(
            "kernel {B} does not work, a reboot brings {A} back: hello/1.0 (backs /data (hello)) failed, {why}"
        );
        assert_eq!(answer["problems"][0], back);
        assert_eq!(answer["guard"]["trial"]["failed"], json!(["hello"]));
        // Nobody changes that by another run, nor by another check.
        check(&root).code(1);

        let root = booted(root, A, "3");
        works(&root).post_update();
        assert_next(&root, ID_A, None, ["held", A, "failed"]);
        let held =
            format!("kernel {B} is held back: hello/1.0 (backs /data (hello)) did not work on it, {why}");
        root.run("clr-dkms", &["status"]).code(1).shows(&["held: ", &format!("clr-dkms allow {B}")]);
        assert_eq!(status(&root)["problems"][0], held);

        // The admin tries again.
        let allow = ["allow", B];
        root.run("clr-dkms", &["allow", B, "--dry-run"]).code(0).shows(&["would forget the failed trial"]);
        root.run("clr-dkms", &allow).code(0).says(&[&format!("kernel {B} is tried again")]);
        assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
        root.run("clr-dkms", &allow).code(3).says(&["there is nothing to try again"]);
    }
}

#[test]
fn a_reboot_is_advised_where_that_is_wanted() {
    for (policy, step) in [("no", format!("clr-dkms allow {B}")), ("ask", "reboot".to_owned())] {
        let root = armed();
        root.conf(&format!("[boot]\nreturn = {policy}\n"));
        let root = booted(root, B, "2");
        check(&root).code(1);
        root.post_update();
        let answer = status(&root);
        assert!(answer["next_step"].as_str().unwrap().contains(&step), "{answer:#}");
        let motd = root.run("clr-dkms-motd", &["--dry-run"]).stdout.clone();
        assert_eq!(motd.contains(&format!("a reboot brings {A} back")), policy == "ask", "{motd}");
    }
}

#[test]
fn a_kernel_that_does_not_come_up_is_held_back() {
    let root = booted(armed(), A, "2");
    works(&root);
    let shown = format!("kernel {B} is held back: its boot on trial ended before it had shown that it works");
    for _ in 0..2 {
        assert_next(&root, ID_A, None, ["held", A, "unfinished"]);
        assert_eq!(status(&root)["problems"][0], shown);
        check(&root).code(0);
        root.run("clr-dkms", &ASSERT).code(0);
        root.post_update();
    }
    // It comes up when it is chosen in the boot menu.
    let root = booted(root, B, "3");
    works(&root);
    check(&root).code(0);
    root.post_update().code(0);
    assert_next(&root, ID_B, None, ["healthy", B, "null"]);
}

#[test]
fn another_build_of_the_module_is_tried_again() {
    let root = booted(armed(), B, "2");
    check(&root).code(1);
    let root = booted(root, A, "3");
    works(&root).post_update();
    assert_next(&root, ID_A, None, ["held", A, "failed"]);
    root.module("hello", "1.1", "").behave("echo another >>\"$built\" 2>/dev/null || :");
    root.post_update();
    assert_eq!(root.recorded("hello", B), "ok");
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
}

#[test]
fn without_the_variable_the_default_is_corrected_afterwards() {
    for setting in [true, false] {
        let root = updated();
        match setting {
            true => drop(root.conf("[boot]\ntrial = no\n")),
            false => root
                .remove("sys/firmware/efi/efivars/LoaderFeatures-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
                .forget(),
        }
        root.post_update().code(0);
        assert_next(&root, ID_B, None, ["reboot-pending", B, "armed"]);
        let root = booted(root, B, "2");
        root.run("clr-dkms", &MARK).code(1);
        check(&root).code(1);
        assert_next(&root, ID_A, None, ["held", A, "failed"]);
        let root = booted(root, A, "3");
        works(&root).post_update();
        assert_next(&root, ID_A, None, ["held", A, "failed"]);
        root.run("clr-dkms", &["allow", B]).code(0);
        assert_next(&root, ID_B, None, ["reboot-pending", B, "armed"]);
        // A boot into the older kernel shows nothing about the new one.
        let root = booted(root, A, "4");
        works(&root).post_update();
        assert_next(&root, ID_B, None, ["reboot-pending", B, "armed"]);
        let root = booted(root, B, "5");
        works(&root);
        check(&root).code(0);
        assert_next(&root, ID_B, None, ["healthy", B, "null"]);
    }
}

#[test]
fn clr_boot_manager_by_hand_does_not_end_the_trial() {
    let root = armed();
    for command in [&ASSERT[..], &["post-update"]] {
        root.updated_by_hand();
        match command {
            ["post-update"] => root.post_update().code(0),
            _ => root.run("clr-dkms", command).code(0),
        };
        assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    }
    // The same after the variable was lost.
    root.remove(ONE_SHOT);
    root.run("clr-dkms", &ASSERT).code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
}

#[test]
fn no_trial_without_a_reason_or_a_check() {
    type Change = fn(&TestRoot);
    let cases: [(&str, Change); 4] = [
        ("no requirement", |root| root.remove("var/lib/dkms/hello").loads(&[]).mounts(&[]).forget()),
        ("booted before", |root| root.file(&format!("var/lib/kernel/k_booted_{B}"), "").forget()),
        ("the check is masked", |root| {
            root.link("etc/systemd/system/clr-dkms-trial.service", "/dev/null").forget();
        }),
        ("nothing is guarded", |root| root.conf("[boot]\npolicy = report\n").forget()),
    ];
    for (case, change) in cases {
        let root = updated();
        change(&root);
        root.post_update();
        assert!(!root.has(RECORD) && one_shot(&root).is_none(), "{case}");
    }
}

#[test]
fn a_trial_ends_with_its_kernel_or_its_reason() {
    let root = armed();
    root.remove(&TestRoot::ko("hello", B)).behave("code=10");
    root.post_update().code(1);
    assert_next(&root, ID_A, None, ["held", A, "null"]);
    assert!(!root.has(RECORD));

    let root = armed();
    root.run("clr-dkms", &["guard", "--disarm"]).code(0);
    assert!(!root.has(RECORD) && one_shot(&root).is_none());
}

#[test]
fn a_record_that_cannot_be_used() {
    let root = booted(armed(), B, "2");
    for text in ["", "{", "{\"schema\": 99}", "[]", "{\"schema\": 1, \"kernel\": 5}"] {
        root.file(RECORD, text);
        check(&root).code(70).says(&["trial.json"]);
        status(&root);
    }
    // With the variable, and without it.
    for is_armed in [true, false] {
        let root = armed();
        if !is_armed {
            root.remove(ONE_SHOT);
        }
        let run = root.file(RECORD, "{").post_update();
        assert_eq!(run.stderr.matches("it is written again").count(), 1, "{}", run.stderr);
        assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
        assert!(root.text(RECORD).contains(B));
    }
    // While the new kernel runs, nothing else would remove it.
    let root = booted(armed(), B, "2");
    works(&root).file(RECORD, "{");
    root.run("clr-dkms", &MARK).code(1).says(&["trial.json"]);
    root.post_update();
    assert!(!root.has(RECORD) && root.has(&format!("{RECORD}.damaged")));
    root.run("clr-dkms", &MARK).code(0);
}

#[test]
fn the_machine_is_not_rebooted_where_that_is_not_safe() {
    let root = armed();
    root.conf("[boot]\nreturn = reboot\n");
    let root = booted(root, B, "2");
    check(&root).code(1).says(&["the machine is not rebooted: this is a copy of a system"]);
    // Once for each kernel.
    let record: Value = serde_json::from_str(&root.text(RECORD)).unwrap();
    let mut returned = record;
    returned["returned"] = json!("2025-07-29T12:00:00Z");
    root.file(RECORD, returned.to_string());
    check(&root).code(1).says(&["the machine is not rebooted: it was rebooted before"]);
    // Not into a kernel that is not known to work.
    let root = armed();
    root.conf("[boot]\nreturn = reboot\n");
    let root = booted(root, B, "2");
    root.remove(&TestRoot::ko("hello", A));
    check(&root).code(1).says(&["it is not certain that kernel"]);
}

#[test]
fn a_kernel_that_was_the_default_before_its_trial_becomes_it_again() {
    let root = updated();
    root.conf("[boot]\ntrial = no\n").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    root.conf("").post_update();
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    let root = booted(root, B, "2");
    works(&root);
    check(&root).code(0);
    root.post_update().code(0);
    assert_next(&root, ID_B, None, ["healthy", B, "null"]);
}

#[test]
fn what_is_unknown_is_not_taken_for_working() {
    let root = booted(armed(), B, "2");
    root.file("etc/fstab", vec![b'x'; 20 << 20]);
    check(&root).code(3).says(&["whether kernel", "works cannot be determined", "etc/fstab"]);
    assert!(root.has(RECORD));
    root.run("clr-dkms", &MARK).code(1);
    // Nothing has failed.
    root.file("etc/fstab", "/dev/sda2 /data hello defaults 0 0\n");
    let root = booted(root, A, "3");
    works(&root).post_update().code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    // A dkms.conf that cannot be evaluated does not tell which files count.
    let root = booted(armed(), B, "2");
    works(&root).loads(&[]).file("usr/src/hello-1.0/dkms.conf", "while :; do :; done\n");
    root.run("clr-dkms", &MARK).code(1);
    check(&root);
    assert!(root.has(RECORD));
}

#[test]
fn a_failed_trial_is_not_forgotten_with_a_proof_that_is_lost() {
    let root = booted(armed(), A, "2");
    works(&root).post_update();
    assert_next(&root, ID_A, None, ["held", A, "unfinished"]);
    // swupd restored its own modules.dep.
    root.file(&format!("usr/lib/modules/{B}/modules.dep"), "");
    root.run("clr-dkms", &ASSERT);
    assert!(root.has(RECORD));
    root.post_update();
    assert_next(&root, ID_A, None, ["held", A, "unfinished"]);
}

/// The boot loader does not delete the variable before a kexec.
#[test]
fn a_variable_that_is_still_there() {
    for is_good in [true, false] {
        let root = armed().running(B);
        root.loads(&[]).mounts(&[]).file("proc/sys/kernel/random/boot_id", "2\n");
        if is_good {
            works(&root);
        }
        check(&root).code(if is_good { 0 } else { 1 });
        assert_eq!(one_shot(&root), None);
        root.post_update();
        assert_eq!(root.boot_default(), if is_good { ID_B } else { ID_A });
    }
}

#[test]
fn a_module_that_an_admin_gives_up_after_the_trial() {
    let root = booted(armed(), B, "2");
    check(&root).code(1);
    root.post_update().code(1);
    root.run("clr-dkms", &["allow", B, "--without", "hello", "--yes", "--force"]);
    assert_eq!(root.boot_default(), ID_B);
    // In the next boot nothing is left to be checked.
    check(&root).code(0);
    assert!(!root.has(RECORD));
}

#[test]
fn a_variable_that_cannot_be_written() {
    let root = updated();
    let command = root.command("clr-dkms-post-update", &[]);
    let run = without_opening(&root, &command, EFI_VARIABLES, "EROFS");
    run.code(1).says(&["LoaderEntryOneShot", "Read-only file system", "`trial = no`"]);
    assert_next(&root, ID_A, None, ["degraded", A, "armed"]);
    assert!(status(&root)["problems"][0].as_str().unwrap().contains("cannot be booted on trial"));
    // It was not booted, so it has not failed. The next run tries again.
    let root = booted(root, A, "2");
    works(&root);
    assert_next(&root, ID_A, None, ["degraded", A, "armed"]);
    root.post_update().code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
}
