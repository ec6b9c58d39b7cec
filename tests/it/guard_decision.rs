//! The boot guard at work: what is held, what is let go, and what stays as it is.

use crate::support::guard::{FAILS_ON_B, HELLO_FAILS_ON_B, ID_A, ID_B};
use crate::support::{A, B, LTS, TestRoot};

const C: &str = "6.15.9-1593.native";

fn cbm_calls(root: &TestRoot) -> Vec<String> {
    root.calls().into_iter().filter(|c| c.starts_with("clr-boot-manager")).collect()
}

#[test]
fn a_proven_kernel_becomes_the_default() {
    let root = TestRoot::proven();
    assert_eq!(root.boot_default(), ID_B);
    root.run("clr-dkms", &["guard"]).code(0).shows(&["allowed: "]);
}

#[test]
fn nothing_of_the_boot_files_changes_while_a_critical_module_is_missing() {
    let root = TestRoot::guarded();
    let before = crate::support::tree::read(&root.at("boot"));
    root.behave(FAILS_ON_B).post_update().code(1).says(&["held back", "critical: backs /data (hello)"]);
    let after = crate::support::tree::read(&root.at("boot"));
    assert_eq!(crate::support::tree::difference(&before, &after, true), Vec::<String>::new());
    assert_eq!(cbm_calls(&root), Vec::<String>::new());
    root.run("clr-dkms", &["status"]).code(1).shows(&["held: "]);
    // The fix arrives.
    root.repair("hello-1.0").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn an_optional_module_holds_nothing() {
    let root = TestRoot::guarded();
    root.conf("[modules]\noptional = hello\n").behave(FAILS_ON_B).post_update().code(1);
    assert_eq!(
        (root.boot_default().as_str(), &*root.need("hello")),
        (ID_B, "optional: listed in clr-dkms.conf")
    );
}

#[test]
fn a_wanted_module_holds_as_a_critical_one_does() {
    let root = TestRoot::guarded();
    root.mounts(&[]).behave(FAILS_ON_B).post_update().code(1);
    assert_eq!(
        (root.boot_default().as_str(), &*root.need("hello")),
        (ID_A, "wanted: loaded in the running kernel")
    );
}

#[test]
fn what_does_not_work_today_holds_nothing() {
    let root = TestRoot::guarded();
    root.loads(&[]).mounts(&[]).module("new", "1", "").installed("new", "1", B);
    root.loads(&["hello"]).post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn a_kernel_beside_may_lack_it() {
    let root = TestRoot::guarded();
    root.kernel(LTS).headers(LTS).tip(LTS);
    root.behave("[[ $verb != build || $kernel != *ltscurrent ]] || code=10").post_update().code(1);
    assert_eq!(root.boot_default(), ID_B);
    assert!(root.has("boot/loader/entries/Clear-linux-ltscurrent-6.12.38-1550.conf"));
    root.run("clr-dkms", &["status"])
        .code(1)
        .shows(&["hello/1.0 is not ready for kernel 6.12.38-1550.ltscurrent"]);
}

#[test]
fn lts_alone_is_guarded_too() {
    let next = "6.12.39-1551.ltscurrent";
    let root = TestRoot::new();
    root.kernel(LTS).headers(LTS).kernel(next).headers(next).tip(next);
    root.module("hello", "1.0", "").installed("hello", "1.0", LTS);
    root.file(crate::support::root::FRAGMENT, "module.sig_unenforce\n");
    let root = root.running(LTS);
    root.entry("org.clearlinux.ltscurrent.6.12.38-1550", "quiet rw module.sig_unenforce", true);
    root.loads(&["hello"]).mounts(&[("8:2", "/", "hello", "/dev/sda2")]);
    root.behave("[[ $verb != build || $kernel != *1551* ]] || code=10").post_update().code(1);
    assert_eq!(root.boot_default(), "org.clearlinux.ltscurrent.6.12.38-1550");
}

#[test]
fn a_kernel_whose_signature_rules_are_unknown_is_not_made_the_default() {
    let modinfo = format!("usr/lib/modules/{B}/modules.builtin.modinfo");
    let config = format!("usr/lib/kernel/config-{B}");
    for (fact, missing) in
        [(&modinfo, "whether the kernel knows module.sig_unenforce"), (&config, "the kernel's configuration")]
    {
        let root = TestRoot::guarded();
        root.remove(fact).post_update().code(3);
        assert_eq!(root.boot_default(), ID_A, "{missing}");
        let status = root.run("clr-dkms", &["status", "--json"]);
        let (code, status) = (status.code, status.json());
        assert_eq!((code, &status["verdict"], &status["may_reboot"]), (3, &"unknown".into(), &().into()));
        let modules = status["modules"].as_array().unwrap();
        let on_b = modules.iter().find(|m| m["kernel"] == B).unwrap();
        assert_eq!(on_b["state"], "unknown");
        assert!(on_b["reason"].as_str().unwrap().ends_with(&format!("not known: {missing}")), "{on_b}");
        // A known answer stays known.
        assert_eq!(modules.iter().find(|m| m["kernel"] == A).unwrap()["state"], "ok");
        root.kernel(B).installed("hello", "1.0", B).post_update().code(0);
        assert_eq!(root.boot_default(), ID_B);
    }
}

#[test]
fn a_custom_kernel_leaves_all_as_it_is() {
    // clr-boot-manager makes nothing the default then: there is nothing to hold.
    for needed in [true, false] {
        let root = TestRoot::proven().running("6.16.0-custom");
        if !needed {
            root.loads(&[]).mounts(&[]).remove("var/lib/dkms/hello").forget();
        }
        root.file("etc/kernel/cmdline.d/x.conf", "x=1\n");
        root.forget_calls().post_update();
        let guard = root.guard();
        assert_eq!(
            (&guard["ruling"], &guard["target"]),
            (&"allow".into(), &serde_json::Value::Null),
            "{needed}"
        );
        // clr-boot-manager does not keep that kernel: it is not run, and what waits for it is named.
        assert_eq!(cbm_calls(&root), Vec::<String>::new());
        let waits: Vec<String> = waiting(&root);
        assert_eq!(waits, [format!("kernel {B}")], "{needed}");
        root.run("clr-dkms", &["status", "--all"])
            .shows(&["clr-boot-manager does not know the running kernel"]);
    }
}

/// The parts of the boot files that the record names as waiting.
fn waiting(root: &TestRoot) -> Vec<String> {
    let record = root.record();
    let waiting = record["boot"]["waiting"].as_array().cloned().unwrap_or_default();
    waiting.iter().map(|part| part["what"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_running_kernel_that_is_not_installed_any_more() {
    let root = TestRoot::held();
    root.remove("usr/lib/kernel/org.clearlinux.native.6.15.7-1591").remove(&format!("usr/lib/modules/{A}"));
    root.post_update().says(&["kernel 6.15.8-1592.native"]);
    // There is no other kernel: it may be booted, and is not safe.
    root.run("clr-dkms", &["guard"]).code(2).shows(&["unsafe: "]);
}

#[test]
fn a_kernel_that_clr_boot_manager_deletes_meanwhile_is_not_chosen() {
    let root = TestRoot::guarded();
    // Somebody runs it by hand while the module is built.
    let image = root.at("usr/lib/kernel/org.clearlinux.native.6.15.7-1591");
    let entry = root.at("boot/loader/entries/Clear-linux-native-6.15.7-1591.conf");
    root.behave(&format!(
        "{FAILS_ON_B}\nif [[ $verb == build ]]; then >$here/begun; while [[ ! -e $here/go ]]; do sleep 0.02; done; fi"
    ));
    std::thread::scope(|scope| {
        let run = scope.spawn(|| root.post_update());
        while !root.tools().join("begun").exists() && !run.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        std::fs::remove_file(&image).unwrap();
        std::fs::remove_file(&entry).unwrap();
        std::fs::write(root.tools().join("go"), "").unwrap();
        run.join().unwrap().code(2).says(&["6.15.8-1592.native"]);
    });
    assert!(!cbm_calls(&root).iter().any(|c| c.contains("set-kernel")), "{:?}", root.calls());
}

#[test]
fn run_by_hand_is_taken_back() {
    let root = TestRoot::held();
    root.updated_by_hand();
    root.run("clr-dkms", &["guard"]).code(2).shows(&["unsafe: ", "kernel 6.15.8-1592.native boots next"]);
    root.run("clr-dkms", &["guard", "--assert"]).code(0).says(&["is the boot default again"]);
    assert_eq!(root.boot_default(), ID_A);
    // Killed between the two: the next run ends it.
    root.updated_by_hand().post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    let calls = cbm_calls(&root).len();
    root.run("clr-dkms", &["guard", "--assert"]).code(0);
    assert_eq!(cbm_calls(&root).len(), calls, "nothing to do");
}

#[test]
fn policies() {
    // hold: swupd has run clr-boot-manager, and is corrected.
    let root = TestRoot::guarded();
    root.conf("[boot]\npolicy = hold\n").updated_by_hand();
    root.behave(FAILS_ON_B).post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    assert!(root.has("boot/loader/entries/Clear-linux-native-6.15.8-1592.conf"));
    assert!(cbm_calls(&root).iter().all(|call| call.contains("set-kernel")), "{:?}", root.calls());
    assert!(!root.has("run/swupd/config"));
    // report: it is said, and nothing is done.
    let root = TestRoot::guarded();
    root.conf("[boot]\npolicy = report\n").behave(FAILS_ON_B);
    root.post_update().code(2).says(&["boots next, without hello/1.0 (critical: backs /data (hello)"]);
    assert_eq!(root.boot_default(), ID_B);
    assert!(!root.has("run/swupd/config"));
    // update = no: the boot files are another's.
    let root = TestRoot::guarded();
    root.conf("[boot]\nupdate = no\n").behave(FAILS_ON_B).post_update();
    assert_eq!(cbm_calls(&root), Vec::<String>::new());
    assert!(!root.has("run/swupd/config"));
    root.run("clr-dkms", &["guard", "--assert"]).code(0);
    assert_eq!((cbm_calls(&root).len(), root.boot_default().as_str()), (0, ID_A));
}

#[test]
fn a_fault_in_the_configuration_does_not_switch_the_guard_off() {
    let root = TestRoot::guarded();
    root.conf("[boot]\npolicy = hodl\nnonsense\n").behave(FAILS_ON_B).post_update().says(&["clr-dkms.conf"]);
    assert_eq!(root.boot_default(), ID_A);
    assert!(root.has("run/swupd/config"));
    root.run("clr-dkms", &["guard"]).code(1).says(&["clr-dkms.conf"]).shows(&["held: "]);
}

#[test]
fn a_record_from_before_the_guard() {
    let root = TestRoot::held();
    let mut record = root.record();
    for field in ["needs", "guard"] {
        record.as_object_mut().unwrap().remove(field);
    }
    record["boot"].as_object_mut().unwrap().remove("held_back");
    root.file("var/lib/clr-dkms/last-run.json", record.to_string());
    root.run("clr-dkms", &["guard"]).code(1).shows(&["held: "]);
    root.post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn what_is_critical_is_remembered_while_it_cannot_be_seen() {
    let root = TestRoot::held().rebooted(B);
    assert_eq!(root.need("hello"), "critical: backs /data (hello)");
    root.run("clr-dkms", &["guard"]).code(1);
}

#[test]
fn what_is_registered_no_more_is_needed_no_more() {
    let root = TestRoot::held();
    root.remove("var/lib/dkms/hello").loads(&[]).mounts(&[]);
    root.remove(&TestRoot::ko("hello", A)).index(A, "kernel/own.ko:\n").post_update().code(0);
    assert_eq!((root.need("hello").as_str(), root.boot_default().as_str()), ("none", ID_B));
    assert!(!root.has("run/swupd/config"), "nobody needs swupd to wait");
}

#[test]
fn a_listed_module_that_dkms_does_not_know_is_reported() {
    let root = TestRoot::proven();
    root.conf("[modules]\ncritical = ghost\n")
        .post_update()
        .code(2)
        .says(&["ghost (critical: listed in clr-dkms.conf; not-registered)"]);
    assert_eq!(root.boot_default(), ID_B, "it works on no kernel: nothing is held back for it");
}

#[test]
fn a_module_that_is_not_built_by_itself_and_works() {
    let root = TestRoot::guarded();
    root.module("hello", "1.0", "AUTOINSTALL=no\n").post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    root.run("clr-dkms", &["status"]).shows(&["run\n  `sudo clr-dkms rebuild hello -k 6.15.8-1592.native`"]);
    let root = TestRoot::guarded();
    root.module("hello", "1.0", "BUILD_EXCLUSIVE_KERNEL=\"^6\\.15\\.7\"\n").post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    root.run("clr-dkms", &["status"]).shows(&["stay on the running kernel"]);
}

#[test]
fn a_state_that_is_unknown_is_no_proof() {
    let root = TestRoot::guarded();
    let index = format!("usr/lib/modules/{B}/modules.dep");
    root.remove(&index).directory(&index);
    root.post_update();
    assert_eq!(root.boot_default(), ID_A);
    assert_ne!(root.run("clr-dkms", &["guard"]).code, 0);
}

#[test]
fn another_version_of_the_module_is_the_same_need() {
    let root = TestRoot::held();
    root.module("hello", "2.0", "").behave("[[ $verb != build || $version != 1.0 ]] || code=10");
    root.post_update().code(0);
    assert_eq!((root.recorded("hello", B).as_str(), root.boot_default().as_str()), ("ok", ID_B));
}

#[test]
fn grub_cannot_be_pointed_back_and_says_so() {
    let root = TestRoot::held();
    root.remove("boot/loader").directory("etc/grub.d").file(
        "boot/grub/grub.cfg",
        format!(
            "set default=\"0\"\nmenuentry 'B' {{\n linux /boot/EFI/org.clearlinux/kernel-{ID_B} quiet rw module.sig_unenforce\n}}\n\
             menuentry 'A' {{\n linux /boot/EFI/org.clearlinux/kernel-{ID_A} quiet rw module.sig_unenforce\n}}\n"
        ),
    );
    root.forget_calls().run("clr-dkms", &["guard", "--assert"]).code(1).says(&["grub-set-default"]);
    assert_eq!(root.calls(), Vec::<String>::new());
    root.run("clr-dkms", &["guard"]).code(2);
}

#[test]
fn what_the_firmware_was_asked_for_is_an_admins_choice() {
    for (variable, said) in
        [("LoaderEntryOneShot", "for the next boot only"), ("LoaderEntryDefault", "for every boot")]
    {
        let root = TestRoot::held();
        root.updated_by_hand().loader_variable(variable, "Clear-linux-native-6.15.8-1592.conf");
        root.forget_calls().run("clr-dkms", &["guard", "--assert"]).code(1).says(&["an admin's choice"]);
        assert_eq!(root.calls(), Vec::<String>::new());
        let guard = root.run("clr-dkms", &["guard"]);
        guard.code(2).shows(&["was chosen by an admin", said.split(' ').next_back().unwrap()]);
    }
}

#[test]
fn boot_files_that_cannot_be_seen_by_this_user() {
    let root = TestRoot::held();
    crate::support::run::set_mode(&root.at("boot"), 0o700);
    let Some(mut command) = crate::support::run::as_nobody(&root, "clr-dkms", &["guard"]) else { return };
    let run = crate::support::Run::of(command.output().unwrap(), &root);
    // The run before this one has seen them: that is remembered, and not known.
    run.code(3).shows(&["unknown: run `sudo clr-dkms status`", "the last run saw 6.15.7-1591.native"]);
}

#[test]
fn a_partition_that_is_not_there() {
    let root = TestRoot::guarded();
    let run = root.remove("boot").behave(FAILS_ON_B).post_update();
    // Nobody has ever seen what is the default there.
    run.code(3).says(&["the boot files cannot be seen", "it is unknown which kernel boots next"]);
    assert!(!cbm_calls(&root).iter().any(|c| c.contains("set-kernel")), "{:?}", root.calls());
}

#[test]
fn the_clock_jumps_back() {
    let root = TestRoot::held();
    let mut record = root.record();
    record["boot"]["held_back"]["since"] = "2031-01-01T00:00:00Z".into();
    root.file("var/lib/clr-dkms/last-run.json", record.to_string());
    assert_eq!(root.guard()["held_days"], 0);
    root.post_update();
    assert_eq!(root.record()["boot"]["held_back"]["since"], "2025-07-29T12:00:00Z");
}

#[test]
fn a_third_kernel_does_not_hide_the_second() {
    let root = TestRoot::held();
    root.kernel(C).headers(C).tip(C);
    root.behave(HELLO_FAILS_ON_B).post_update().code(0);
    assert_eq!(root.boot_default(), "org.clearlinux.native.6.15.9-1593");
}
