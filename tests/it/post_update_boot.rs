//! `clr-dkms-post-update` and the boot manager, whose exit code proves nothing.

use std::fs;

use crate::support::{A, B, LTS, TestRoot};

const CALL: &str = "clr-boot-manager update --path=ROOT";

/// A root whose boot partition can be seen.
fn mounted() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    root
}

fn boot_calls(root: &TestRoot) -> usize {
    root.calls().iter().filter(|c| *c == CALL).count()
}

#[test]
fn entries_are_read_back() {
    let root = mounted();
    root.post_update().code(0);
    assert_eq!(root.record()["boot"]["entries"], "verified");
    assert!(
        root.text("boot/loader/entries/Clear-linux-native-6.15.8-1592.conf").contains("module.sig_unenforce")
    );
    assert_eq!(boot_calls(&root), 1);
    root.post_update().code(0);
    assert_eq!(boot_calls(&root), 1, "nothing has changed since");
}

#[test]
fn entries_that_cannot_be_seen_are_reported() {
    let root = mounted();
    root.remove("boot")
        .post_update()
        .code(1)
        .says(&["clr-boot-manager update wrote no boot entry below ROOT/boot"]);
    assert_eq!(root.recorded("hello", B), "ok");
    root.run("clr-dkms", &["status"]).code(1).shows(&["there is no boot entry below ROOT/boot"]);
}

#[test]
fn it_runs_again_when_kernels_or_fragments_have_changed() {
    let root = mounted();
    root.post_update().code(0);
    type Change = fn(&TestRoot);
    let changes: [(&str, Change); 7] = [
        ("kernel", |r| _ = r.kernel(LTS)),
        ("tip", |r| _ = r.tip(A)),
        ("vendor", |r| _ = r.file("usr/share/kernel/cmdline.d/x.conf", "x=1\n")),
        ("local", |r| _ = r.file("etc/kernel/cmdline.d/x.conf", "x=2\n")),
        ("admin", |r| _ = r.file("etc/kernel/cmdline", "x=3\n")),
        ("removal", |r| _ = r.file("etc/kernel/cmdline-removal.d/x.conf", "nothing\n")),
        ("own", |r| _ = r.file(&format!("usr/lib/kernel/cmdline-{B}"), "quiet splash\n")),
    ];
    for (at, (what, change)) in changes.into_iter().enumerate() {
        change(&root);
        root.post_update();
        assert_eq!(boot_calls(&root), at + 2, "{what}");
    }
}

#[test]
fn it_can_be_switched_off() {
    let root = mounted();
    // What is wrong with the entries is reported all the same.
    let run = root.file("etc/clr-dkms/clr-dkms.conf", "[boot]\nupdate = no\n").post_update();
    run.code(1).says(&["there is no boot entry for org.clearlinux.native.6.15.8-1592"]);
    assert_eq!(boot_calls(&root), 0);
    root.remove("boot").post_update().code(0);
    assert_eq!(boot_calls(&root), 0);
}

#[test]
fn doing_nothing_with_exit_code_0_is_found_out() {
    let root = mounted();
    root.behave("idle=yes");
    root.post_update()
        .code(1)
        .says(&["boot entries: there is no boot entry for org.clearlinux.native.6.15.8-1592"]);
    assert!(root.record()["boot"]["error"].is_string());
    root.run("clr-dkms", &["status"]).code(1).shows(&["there is no boot entry for"]);
    // A failure does not stop further attempts.
    root.behave("");
    root.post_update().code(0);
    assert_eq!((boot_calls(&root), &root.record()["boot"]["error"]), (2, &serde_json::Value::Null));
}

#[test]
fn an_entry_with_another_line_is_found_out() {
    let root = mounted();
    root.post_update().code(0);
    root.entries_edited().file("etc/kernel/cmdline.d/x.conf", "x=1\n").behave("idle=yes");
    root.post_update()
        .code(1)
        .says(&["Clear-linux-native-6.15.8-1592.conf has another command line than configured"]);
}

#[test]
fn failing_is_reported_and_the_modules_are_built_all_the_same() {
    for (lines, said) in [
        ("code=1", "exit code 1: [FATAL] it failed as asked"),
        ("code=139", "exit code 139"),
        ("[[ $verb != clr-boot-manager ]] || kill -SEGV $$", "killed by signal 11"),
    ] {
        let root = mounted();
        root.behave(&format!("if [[ $verb == clr-boot-manager ]]; then idle=yes\n{lines}\nfi"));
        let run = root.post_update();
        run.code(1).says(&["clr-boot-manager update --path=ROOT", said]);
        assert_eq!(root.recorded("hello", B), "ok");
        assert_eq!(
            run.stderr.contains("delete that file and run it again"),
            lines != "code=1",
            "{}",
            run.stderr
        );
        assert!(root.has("run/motd.d/clr-dkms.motd"));
    }
}

#[test]
fn a_failing_code_after_good_work_is_reported_and_is_no_failure() {
    // Exit 1 can come after everything was written: the entries decide.
    let root = mounted();
    root.behave("[[ $verb != clr-boot-manager ]] || code=1");
    root.post_update().code(0).says(&["warning: ", "exit code 1"]);
    assert_eq!(root.record()["boot"]["entries"], "verified");
}

#[test]
fn empty_entries_are_moved_away() {
    let root = mounted();
    root.file("boot/loader/entries/Clear-linux-old.conf", "");
    root.post_update().code(0).says(&["ROOT/boot/loader/entries/Clear-linux-old.conf was empty"]);
    assert!(root.has("boot/loader/entries/Clear-linux-old.conf.empty"));
}

#[test]
fn one_that_never_ends_is_stopped_at_its_deadline() {
    let root = mounted();
    root.file("etc/clr-dkms/clr-dkms.conf", "[boot]\ntimeout = 1\n");
    root.behave("[[ $verb != clr-boot-manager ]] || sleep 600");
    root.post_update().code(1).says(&["clr-boot-manager update --path=ROOT: stopped at its deadline"]);
    assert_eq!(root.recorded("hello", B), "ok");
}

#[test]
fn a_missing_one_is_reported() {
    if ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"]
        .iter()
        .any(|directory| std::path::Path::new(directory).join("clr-boot-manager").exists())
    {
        eprintln!("skipped: this machine has a clr-boot-manager, and a root cannot hide it");
        return;
    }
    let root = mounted();
    fs::remove_file(root.tools().join("clr-boot-manager")).unwrap();
    root.post_update().code(1).says(&["clr-boot-manager is not installed", "TOOLS"]);
    assert_eq!(root.recorded("hello", B), "ok");
}

#[test]
fn a_default_that_leads_nowhere_leaves_the_highest_kernel() {
    for target in
        ["org.clearlinux.native.6.99.1-9999", "/usr/lib/kernel/org.clearlinux.native.6.15.7-1591", "."]
    {
        let root = mounted();
        root.link("usr/lib/kernel/default-native", target);
        let run = root.post_update();
        run.says(&["/usr/lib/kernel/default-native points to"]);
        assert_eq!(root.recorded("hello", B), "ok", "{target}");
        // The tip is the highest of the variant then, and it gets an entry. clr-boot-manager makes no kernel
        // the default, and none was set: it is pointed to the one that has what is needed.
        assert!(root.has("boot/loader/entries/Clear-linux-native-6.15.8-1592.conf"), "{target}");
        assert_eq!(root.record()["next_boot"], B, "{target}");
        run.code(0);
    }
}
