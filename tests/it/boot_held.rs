//! What must boot is never deleted, and what is not proven is never the boot default, not even for a moment;
//! what every kernel loads is brought up to date all the same.

use std::time::{Duration, Instant};

use crate::support::boot::{A_ENTRY, B_ENTRY, LOADER, path};
use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::machine::CLEAR;
use crate::support::{A, B, TestRoot, few_or};

/// A kernel before [`A`], and one after [`B`].
const OLD: &str = "6.15.6-1590.native";
const ID_OLD: &str = "org.clearlinux.native.6.15.6-1590";
const C: &str = "6.15.9-1593.native";
const ID_C: &str = "org.clearlinux.native.6.15.9-1593";
const WORDS: &str = "quiet rw module.sig_unenforce";
const UCODE: &str = "usr/lib/initrd.d/00-intel-ucode.cpio";

/// Whether this machine gives us a mount namespace.
fn has_namespaces() -> bool {
    let mut unshare = std::process::Command::new("unshare");
    let has = unshare.args(["-r", "-m", "true"]).status().is_ok_and(|status| status.success());
    if !has {
        crate::support::run::skipped("no mount namespace can be had here");
    }
    has
}

/// A kernel is there with all that belongs to it.
#[track_caller]
fn is_whole(root: &TestRoot, id: &str, release: &str) {
    let (version, variant) = release.rsplit_once('.').unwrap();
    for path in [
        format!("usr/lib/kernel/{id}"),
        format!("usr/lib/kernel/cmdline-{release}"),
        TestRoot::ko("hello", release),
        format!("boot/loader/entries/Clear-linux-{variant}-{version}.conf"),
    ] {
        assert!(root.has(&path), "{path} is gone; calls: {:?}", root.calls());
    }
}

/// [`A`] runs, and an admin holds [`OLD`], which clr-boot-manager would delete.
fn old_is_held() -> TestRoot {
    let root = TestRoot::guarded().faithful();
    root.kernel(OLD).headers(OLD).installed("hello", "1.0", OLD).entry(ID_OLD, WORDS, false);
    root.installed("hello", "1.0", B);
    root.run("clr-dkms", &["hold", OLD]).code(0);
    assert_eq!(root.boot_default(), ID_OLD);
    root
}

#[test]
fn a_kernel_that_an_admin_holds_is_never_deleted() {
    let root = old_is_held();
    is_whole(&root, ID_OLD, OLD);
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n");
    let run = root.post_update();
    is_whole(&root, ID_OLD, OLD);
    assert_eq!(root.boot_default(), ID_OLD);
    if has_namespaces() {
        run.code(0);
        let entry = root.text("boot/loader/entries/Clear-linux-native-6.15.6-1590.conf");
        assert!(entry.contains("x=1"), "what boots is as configured: {entry}");
        assert!(root.text(&path(A_ENTRY)).contains("x=1"));
    }
    for verb in ["disable", "enable", "default"] {
        root.run("clr-dkms-cmdline", &[verb]);
        is_whole(&root, ID_OLD, OLD);
        assert_eq!(root.boot_default(), ID_OLD, "{verb}");
    }
}

#[test]
fn letting_go_of_it_updates_everything() {
    let root = old_is_held();
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n").post_update();
    root.run("clr-dkms", &["unhold"]).code(0);
    assert_eq!(root.boot_default(), ID_B);
    assert!(root.text(&path(B_ENTRY)).contains("x=1"));
    assert!(!root.has(&format!("usr/lib/kernel/{ID_OLD}")), "now nothing needs it any more");
    assert_eq!(root.record()["boot"]["waiting"], serde_json::Value::Null);
}

#[test]
fn two_updates_without_a_reboot_keep_the_proven_kernel() {
    let root = TestRoot::proven().faithful();
    root.post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    root.kernel(C).headers(C).tip(C).behave(&FAILS_ON_B.replace("1592", "1593"));
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n");
    let run = root.post_update();
    is_whole(&root, ID_B, B);
    is_whole(&root, ID_A, A);
    assert_eq!(root.boot_default(), ID_B, "{run:?}");
    run.code(1);
    root.run("clr-dkms-cmdline", &["disable", "--force"]);
    is_whole(&root, ID_B, B);
    // Each of the two refuses the module then, by an admin's word; the running kernel is the best there is.
    assert_eq!(root.boot_default(), ID_A);
    assert!(!root.has(&format!("boot/EFI/org.clearlinux/kernel-{ID_C}")), "it waits for its proof");
}

#[test]
fn what_every_kernel_loads_does_not_wait_for_a_module() {
    if !has_namespaces() {
        return;
    }
    let root = TestRoot::held().faithful();
    root.post_update().code(1);
    type Change = fn(&TestRoot);
    let changes: [(&str, Change); 4] = [
        ("microcode", |r| r.file(UCODE, "new").forget()),
        ("another initrd", |r| r.file("usr/lib/initrd.d/extra", "new").forget()),
        ("the title", |r| r.file("usr/lib/os-release", "PRETTY_NAME=\"Some OS\"\n").forget()),
        ("the boot loader", |r| {
            r.file("usr/lib/systemd/boot/efi/systemd-bootx64.efi", "new").forget();
        }),
    ];
    let images = "boot/EFI/org.clearlinux";
    let updates = |root: &TestRoot| root.calls().iter().filter(|c| c.contains("manager update")).count();
    for (what, change) in changes {
        change(&root);
        let before = updates(&root);
        root.post_update().code(1);
        assert_eq!(updates(&root), before + 1, "{what} is a reason, for one kernel");
        assert_eq!(root.boot_default(), ID_A, "{what}");
        assert!(!root.has(&path(B_ENTRY)), "{what}: the new kernel waits");
        root.post_update().code(1);
        assert_eq!(updates(&root), before + 1, "{what}: once is enough");
    }
    assert_eq!(root.text(&format!("{images}/freestanding-00-intel-ucode.cpio")), "new");
    let entry = root.text(&path(A_ENTRY));
    assert!(entry.starts_with("title Some OS\n") && entry.contains("freestanding-extra"), "{entry}");
    // One that is gone is still named by entries that are not refreshed: it stays until the whole update.
    root.remove("usr/lib/initrd.d/extra").post_update().code(1);
    assert!(root.has(&format!("{images}/freestanding-extra")));
    assert!(!root.text(&path(A_ENTRY)).contains("freestanding-extra"));
    assert!(!root.has("etc/kernel/initrd.d"), "what was made for the run is gone");
    root.repair("hello-1.0").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    assert!(!root.has(&format!("{images}/freestanding-extra")));
}

#[test]
fn what_waits_is_named_with_its_time_and_command() {
    let root = TestRoot::held().faithful();
    root.post_update().code(1);
    root.file("var/lib/swupd/swupd_lock", "").file(UCODE, "new");
    let lock = std::fs::File::options().write(true).open(root.at("var/lib/swupd/swupd_lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let plan = root.run("clr-dkms-post-update", &["-n", "--json"]).json();
    assert_eq!(plan["boot_update_way"], serde_json::json!({"way": "none", "why": "swupd is running"}));
    root.run("clr-dkms-post-update", &["-n"])
        .shows(&["clr-boot-manager would not be run (swupd is running)"]);
    let run = root.post_update();
    run.code(1).says(&["not brought up to date: microcode: swupd is running"]);
    let waiting = &root.record()["boot"]["waiting"][0];
    assert_eq!(waiting["what"], "microcode");
    assert_eq!(waiting["since"], "2025-07-29T12:00:00Z");
    assert!(waiting["command"].as_str().unwrap().starts_with("clr-boot-manager update --path="));
    assert!(!root.has("boot/EFI/org.clearlinux/freestanding-00-intel-ucode.cpio"));
    assert_eq!(root.boot_default(), ID_A);
    let status = root.run("clr-dkms", &["status", "--json"]).json();
    let problems = status["problems"].as_array().unwrap().iter().map(|problem| problem.as_str().unwrap());
    let waits = problems
        .filter(|p| p.starts_with("out of date since 2025-07-29 12:00:00 UTC: microcode, because swupd"));
    assert_eq!(waits.count(), 1, "{status}");
    // Each surface names it, with its time and the command.
    let recorded = root.redacted(&root.record()["boot"]["waiting"].to_string());
    for document in [root.guard(), status["guard"].clone()] {
        assert_eq!(document["waiting"].to_string(), recorded);
    }
    let text_of = |program: &str, arguments: &[&str]| {
        let stdout = root.run(program, arguments).stdout;
        stdout.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let guard = text_of("clr-dkms", &["guard"]);
    let row = "out of date microcode, since 2025-07-29 12:00:00 UTC (just now), because swupd is running; `sudo clr-boot-manager update";
    assert!(guard.contains(row), "{guard}");
    let status = text_of("clr-dkms", &["status"]);
    assert!(status.contains("; out of date: microcode since 2025-07-29"), "{status}");
    let motd = text_of("clr-dkms-motd", &["--dry-run"]);
    assert!(
        motd.contains("out of date: microcode since 2025-07-29; `sudo clr-boot-manager update"),
        "{motd}"
    );
    drop(lock);
    if has_namespaces() {
        root.post_update().code(1);
        assert_eq!(root.record()["boot"]["waiting"], serde_json::Value::Null);
        assert!(root.has("boot/EFI/org.clearlinux/freestanding-00-intel-ucode.cpio"));
        // Nothing waits but the new kernel, and nothing else is said.
        assert_eq!(root.guard()["waiting"], serde_json::json!([]));
        for (program, arguments) in
            [("clr-dkms", "guard"), ("clr-dkms", "status"), ("clr-dkms-motd", "--dry-run")]
        {
            let text = text_of(program, &[arguments]);
            assert!(!text.contains("microcode") && !text.contains("out of date"), "{text}");
        }
    }
}

/// The worker waits for swupd, but not for ever. A lock that is still held then is not one that is gone.
#[test]
fn an_unrestricted_update_is_not_run_beside_swupd() {
    let root = TestRoot::guarded();
    root.file("var/lib/swupd/swupd_lock", "");
    let lock = std::fs::File::options().write(true).open(root.at("var/lib/swupd/swupd_lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let why = "clr-boot-manager was not run: swupd is running; if it hangs, end it";
    root.post_update().code(1).says(&[why]);
    assert_eq!(root.recorded("hello", B), "ok", "modules are built");
    let updates = || root.calls().iter().filter(|call| call.contains("manager update")).count();
    assert_eq!((updates(), root.boot_default().as_str()), (0, ID_A));
    let plan = root.run("clr-dkms-post-update", &["-n", "--json"]).json();
    assert_eq!(plan["boot_update_way"], serde_json::json!({"way": "none", "why": "swupd is running"}));
    let status = root.run("clr-dkms", &["status", "--json"]).json();
    assert_eq!((&status["verdict"], &status["problems"][0]), (&"degraded".into(), &why.into()));
    assert!(status["next_step"].as_str().unwrap().contains("clr-dkms-post-update"), "{status:#}");
    drop(lock);
    root.post_update().code(0);
    assert_eq!((updates(), root.boot_default().as_str()), (1, ID_B));
}

#[test]
fn the_kernel_that_boots_is_repaired_while_another_is_held_back() {
    if !has_namespaces() {
        return;
    }
    let root = TestRoot::held().faithful();
    root.entry(ID_A, "quiet", true);
    let plan = root.run("clr-dkms-post-update", &["-n", "--json"]).json();
    assert_eq!(plan["boot_update_way"], serde_json::json!({"way": "restricted", "kernels": [A]}));
    let plan = root.run("clr-dkms-post-update", &["-n"]).stdout;
    let plan = plan.split_whitespace().collect::<Vec<_>>().join(" ");
    let step =
        format!("refresh the boot files of {A} without touching the boot default, because the boot entry");
    assert!(plan.contains(&step) && !plan.contains("clr-boot-manager update"), "{plan}");
    root.post_update().code(1);
    assert!(root.text(&path(A_ENTRY)).contains("module.sig_unenforce"));
    assert_eq!(root.boot_default(), ID_A);
    // Its entry is gone.
    root.remove(&path(A_ENTRY)).post_update().code(1);
    assert!(root.text(&path(A_ENTRY)).contains("module.sig_unenforce"));
    assert_eq!(root.boot_default(), ID_A);
    assert!(!root.has(&path(B_ENTRY)));
}

#[test]
fn disabling_the_parameter_leaves_the_default_and_repairs_it() {
    let root = TestRoot::held().faithful();
    let run = root.run("clr-dkms-cmdline", &["disable", "--force"]);
    run.code(2).says(&["hello/1.0 will be refused at the next boot"]);
    assert_eq!(root.boot_default(), ID_A);
    assert!(!root.has(&path(B_ENTRY)));
    if has_namespaces() {
        assert!(!root.text(&path(A_ENTRY)).contains("module.sig_unenforce"));
    }
    // What an earlier run, or somebody by hand, has left.
    root.file(LOADER, format!("default {B_ENTRY}\n")).entry(ID_B, "quiet rw", true);
    root.run("clr-dkms-cmdline", &["disable", "--force"]).shows(&["nothing to change"]);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn killed_while_disabling_the_parameter() {
    let root = TestRoot::held().faithful();
    let started = Instant::now();
    root.run("clr-dkms-cmdline", &["disable", "--dry-run"]);
    // Long enough for the whole verb on a machine that is busy now.
    let longest = started.elapsed() * 8 + Duration::from_millis(300);
    // An odd step has both verbs.
    for round in (0..12u32).step_by(few_or(3, 1)) {
        let verb = if round % 2 == 0 { "disable" } else { "enable" };
        let mut child = root.command("clr-dkms-cmdline", &[verb]);
        let mut child =
            child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Spread over the whole time, in another order than it passes.
        std::thread::sleep(longest * (round * 7 % 12) / 12);
        child.kill().unwrap();
        child.wait().unwrap();
        let text = root.text(LOADER);
        assert_eq!(text, format!("default {A_ENTRY}\n"), "killed in round {round} of {verb}");
        assert!(root.has(&format!("usr/lib/kernel/{ID_A}")) && root.has(&format!("usr/lib/modules/{A}")));
    }
    root.run("clr-dkms-cmdline", &["enable"]);
    root.post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    is_whole(&root, ID_A, A);
    if has_namespaces() {
        assert!(root.text(&path(A_ENTRY)).contains("module.sig_unenforce"));
    }
    assert!(!root.has("boot/loader/entries/.conf") && !root.has(&path(B_ENTRY)));
}

#[test]
fn a_good_entry_is_not_replaced_by_one_that_refuses_a_critical_module() {
    let root = TestRoot::proven().faithful();
    root.post_update().code(0);
    let removal = "etc/kernel/cmdline-removal.d/x.conf";
    root.file(removal, "module.sig_unenforce\n");
    let run = root.post_update();
    run.code(1).says(&[
        "would refuse hello/1.0 (",
        "the configured command line does not have module.sig_unenforce",
    ]);
    assert!(root.text(&path(B_ENTRY)).contains("module.sig_unenforce"), "the good entry stays");
    assert_eq!(root.boot_default(), ID_B);
    let status = root.run("clr-dkms", &["status", "--all"]);
    status.code(1);
    let shown = status.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(shown.contains("does not have module.sig_unenforce"), "{shown}");
    root.run("clr-dkms-cmdline", &["default"]).code(2).says(&["nothing is changed"]);
    assert!(root.text(&path(B_ENTRY)).contains("module.sig_unenforce"));
    root.run("clr-dkms-cmdline", &["default", "--force"]);
    assert!(!root.text(&path(B_ENTRY)).contains("module.sig_unenforce"));
    root.remove(removal).post_update().code(0);
    assert!(root.text(&path(B_ENTRY)).contains("module.sig_unenforce"));
}

#[test]
fn a_good_entry_is_not_replaced_by_one_that_locks_the_kernel_down() {
    let root = TestRoot::proven().faithful();
    let locked = "CONFIG_SECURITY_LOCKDOWN_LSM=y\nCONFIG_SECURITY_LOCKDOWN_LSM_EARLY=y";
    root.config(B, &CLEAR.replace("# CONFIG_SECURITY_LOCKDOWN_LSM is not set", locked));
    root.post_update().code(0);
    let fragment = "etc/kernel/cmdline.d/lock.conf";
    let run = root.file(fragment, "lockdown=integrity\n").post_update();
    run.code(1).says(&[
        "would refuse hello/1.0 (",
        "which it accepts with the present one: lockdown= on the command line: unsigned modules are refused",
    ]);
    assert!(!root.text(&path(B_ENTRY)).contains("lockdown"), "the good entry stays");
    root.remove(fragment).post_update().code(0);
}

#[test]
fn an_initrd_without_a_source_stays_in_the_entry() {
    let root = TestRoot::proven().faithful();
    let initrd = format!("etc/kernel/initrd-{ID_B}");
    root.file(&initrd, "initrd").post_update().code(0);
    assert!(root.text(&path(B_ENTRY)).contains(&format!("initrd-{ID_B}")));
    root.remove(&initrd).post_update().code(1).says(&["which has no source any more"]);
    assert!(root.text(&path(B_ENTRY)).contains(&format!("initrd-{ID_B}")));
    root.file(&initrd, "another").post_update().code(0);
    assert_eq!(root.text(&format!("boot/EFI/org.clearlinux/initrd-{ID_B}")), "another");
}
