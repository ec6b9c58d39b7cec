//! `clr-dkms-cmdline` and the boot entries: made again after a change, read back, and what is pending where
//! they are not.

use std::fs;

use crate::support::root::FRAGMENT;
use crate::support::{A, B, Run, TestRoot};

const CALL: &str = "clr-boot-manager update --path=ROOT";
const ENTRY: &str = "boot/loader/entries/Clear-linux-native-6.15.7-1591.conf";
const OWN: &str = "etc/kernel/cmdline.d/clr-dkms.conf";

fn cmdline(root: &TestRoot, verb: &str) -> Run {
    root.run("clr-dkms-cmdline", &[verb])
}

fn boot_calls(root: &TestRoot) -> usize {
    root.calls().iter().filter(|c| *c == CALL).count()
}

/// Without the bundle's fragment; the entries are as configured.
fn settled() -> TestRoot {
    let root = TestRoot::system();
    root.remove(FRAGMENT);
    make_entries(&root);
    root
}

fn make_entries(root: &TestRoot) {
    // Any change has it make them.
    let script = root.tools().join("clr-boot-manager");
    let path = format!("--path={}", root.path().display());
    let output = std::process::Command::new(script).args(["update", &path]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    root.forget_calls();
}

fn entry_has_it(root: &TestRoot) -> bool {
    root.text(ENTRY).split_whitespace().any(|word| word == "module.sig_unenforce")
}

/// The machine has one of its own, which a root cannot hide.
fn has_clr_boot_manager() -> bool {
    let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"];
    directories.iter().any(|directory| std::path::Path::new(directory).join("clr-boot-manager").exists())
}

#[test]
fn a_change_is_put_into_the_entries_once() {
    let root = settled();
    for (verb, on) in [("enable", true), ("disable", false), ("enable", true), ("default", false)] {
        cmdline(&root, verb)
            .code(0)
            .says(&["running clr-boot-manager update, because the line has changed", "have the new line"]);
        assert_eq!((boot_calls(&root), entry_has_it(&root)), (1, on), "{verb}");
        root.forget_calls();
        let run = cmdline(&root, verb);
        run.code(0).prints("nothing to change\n");
        assert_eq!((boot_calls(&root), run.stderr.as_str()), (0, ""), "{verb}");
    }
}

#[test]
fn without_a_change_nothing_is_run() {
    let root = TestRoot::system();
    // No entry says otherwise, as there is none.
    for verb in ["enable", "default"] {
        cmdline(&root, verb).code(0).prints("nothing to change\n");
    }
    root.run("clr-dkms-cmdline", &["disable", "--dry-run"]).code(0);
    assert_eq!(boot_calls(&root), 0);
}

/// A run that was killed between writing and refreshing leaves the entries with the old line.
#[test]
fn what_a_killed_run_left_undone_is_made_good() {
    for (verb, on) in [("enable", true), ("disable", false), ("default", false)] {
        let root = settled();
        if !on {
            cmdline(&root, "enable").code(0);
        }
        let before = fs::read(root.at(ENTRY)).unwrap();
        cmdline(&root, verb).code(0);
        assert_eq!(entry_has_it(&root), on);
        fs::write(root.at(ENTRY), before).unwrap();
        root.forget_calls();
        cmdline(&root, verb)
            .code(0)
            .prints("nothing to change\n")
            .says(&["because the boot entries are not as configured", "have the new line"]);
        assert_eq!((boot_calls(&root), entry_has_it(&root)), (1, on), "{verb}");
    }
}

#[test]
fn a_real_kill_in_between_is_made_good() {
    let root = settled();
    root.entries_edited().behave("[[ $verb != clr-boot-manager ]] || { kill -KILL $PPID; idle=yes; }");
    let mut command = root.command("clr-dkms-cmdline", &["enable"]);
    assert!(!command.output().unwrap().status.success());
    assert!(root.has(OWN) && !entry_has_it(&root));
    root.behave("").forget_calls();
    cmdline(&root, "enable").code(0).prints("nothing to change\n");
    assert!(entry_has_it(&root));
    cmdline(&root, "default").code(0);
    assert!(!root.has(OWN) && !entry_has_it(&root));
}

/// Its exit code proves nothing; what it left does.
#[test]
fn a_failure_is_reported_and_the_next_run_tries_again() {
    for lines in ["code=1; idle=yes", "idle=yes", "[[ $verb != clr-boot-manager ]] || kill -SEGV $$"] {
        let root = settled();
        root.entries_edited().behave(lines);
        cmdline(&root, "enable")
            .code(1)
            .says(&["error: boot entries: ", "has another command line than configured"]);
        assert!(root.has(OWN), "what was configured stays: the next update puts it into the entries");
        cmdline(&root, "enable").code(1).says(&["error: boot entries: "]);
        root.behave("").forget_calls();
        cmdline(&root, "enable").code(0).says(&["have the new line"]);
        assert_eq!((boot_calls(&root), entry_has_it(&root)), (1, true));
    }
    let root = settled();
    root.behave("code=1");
    cmdline(&root, "enable").code(0).says(&[
        "warning: ",
        "exit code 1",
        "nevertheless the boot entries are correct",
    ]);
}

/// The record knows of a failure where no entry shows it.
#[test]
fn a_failure_without_any_entry_is_tried_again() {
    let root = settled();
    root.post_update().code(0);
    root.remove(ENTRY).behave("code=1; idle=yes");
    cmdline(&root, "enable").code(1);
    root.behave("").forget_calls();
    cmdline(&root, "enable").code(0).prints("nothing to change\n");
    assert_eq!((boot_calls(&root), entry_has_it(&root)), (1, true));
}

#[test]
fn no_refresh_says_what_is_pending() {
    let root = settled();
    let run = root.run("clr-dkms-cmdline", &["enable", "--no-refresh"]);
    run.code(0).says(&[
        "pending: `clr-boot-manager update --path=ROOT` puts the line into the boot entries; clr-dkms-post-update runs it too",
    ]);
    assert_eq!((boot_calls(&root), entry_has_it(&root)), (0, false));
    // It is still pending, and the next run without the option does it.
    root.run("clr-dkms-cmdline", &["enable", "--no-refresh"]).code(0).says(&["pending: "]);
    cmdline(&root, "enable").code(0).prints("nothing to change\n");
    assert!(entry_has_it(&root));
    let run = root.run("clr-dkms-cmdline", &["enable", "--no-refresh"]);
    assert_eq!(run.code(0).stderr, "", "nothing is pending any more");
}

#[test]
fn a_configuration_without_boot_updates_is_heeded() {
    let root = settled();
    root.file("etc/clr-dkms/clr-dkms.conf", "[boot]\nupdate = no\n");
    let run = cmdline(&root, "enable");
    run.code(0).says(&["pending: `clr-boot-manager update --path=ROOT`", "[boot] update = no"]);
    assert!(!run.stderr.contains("runs it too"), "{}", run.stderr);
    assert_eq!(boot_calls(&root), 0);
}

/// An image may be made where there is none; nothing boots from a copy of a live system either.
#[test]
fn where_it_is_missing_the_step_is_named() {
    if has_clr_boot_manager() {
        eprintln!("skipped: this machine has a clr-boot-manager");
        return;
    }
    let image = TestRoot::new();
    image.kernel(A).headers(A).tip(A);
    let copy = settled();
    for root in [image, copy] {
        fs::remove_file(root.tools().join("clr-boot-manager")).unwrap();
        cmdline(&root, "enable")
            .code(0)
            .shows(&["write /etc"])
            .says(&["warning: pending: clr-boot-manager", "run `sudo clr-boot-manager update --path=DIR`"]);
        assert!(root.has(OWN));
    }
}

#[test]
fn an_image_is_made_by_its_path() {
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).kernel(B).tip(B);
    cmdline(&root, "enable").code(0).says(&["the boot entries have the new line"]);
    assert_eq!(boot_calls(&root), 1);
    assert!(entry_has_it(&root));
    let other = TestRoot::named("a[b]");
    other.kernel(A).headers(A).tip(A);
    cmdline(&other, "enable").code(1).says(&["clr-boot-manager was not run", ": rename ROOT"]);
    assert_eq!(boot_calls(&other), 0);
}

/// In a chroot the boot partition is that of the machine around it.
#[test]
fn a_chroot_is_left_to_the_system_around_it() {
    let root = settled();
    // What an earlier run has read back says nothing of this one.
    root.post_update().code(0);
    root.forget_calls();
    let program = crate::support::run::program("clr-dkms-cmdline");
    // The libraries of the machine, at their usual places.
    let script = "r=$1; l=lib/x86_64-linux-gnu; mkdir -p $r/proc $r/lib64 $r/usr/$l && cp $2 $r/program && \
                  mount --rbind /proc $r/proc && mount --bind /lib64/ $r/lib64 && mount --bind /$l $r/usr/$l && \
                  exec chroot $r /program enable --root /";
    let mut command = crate::support::run::unshared(&root.tools(), script);
    let output = command.arg(root.path()).arg(program).output().unwrap();
    let run = Run::of(output, &root);
    if run.code != 0 && !run.stderr.contains("clr-dkms") {
        crate::support::run::skipped(format_args!("this machine allows no chroot here: {}", run.stderr));
        return;
    }
    run.code(0)
        .shows(&["write /etc/kernel/cmdline.d/clr-dkms.conf"])
        .says(&["pending: in a chroot the boot entries are not written"]);
    assert!(!run.stderr.contains("have the new line"), "{}", run.stderr);
    assert_eq!(boot_calls(&root), 0);
}

/// Reports go on from what was done: nothing is pending, and no old failure is reported.
#[test]
fn the_record_learns_of_it() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    root.post_update().code(0);
    root.run("clr-dkms", &["status"]).code(0);
    let before = root.record();
    for (verb, lacks) in [("disable", true), ("enable", false)] {
        cmdline(&root, verb).code(0);
        let record = root.record();
        assert_eq!(record["boot"]["inputs"] != before["boot"]["inputs"], lacks);
        assert_eq!(record["boot"]["entries"], "verified");
        let status = root.run("clr-dkms", &["status"]);
        assert!(!status.stdout.contains("have changed since"), "{}", status.stdout);
        // That a module needs it is another matter.
        status.code(i32::from(lacks));
    }
    assert_eq!(root.record()["boot"]["inputs"], before["boot"]["inputs"]);
    root.forget_calls().post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    // A failure is in it, and goes with the next success.
    root.entries_edited().behave("code=1; idle=yes");
    cmdline(&root, "disable").code(1);
    assert!(root.record()["boot"]["error"].is_string());
    root.behave("");
    cmdline(&root, "enable").code(0);
    assert!(root.record()["boot"]["error"].is_null());
    root.run("clr-dkms", &["status"]).code(0);
}
