//! `clr-dkms-post-update` when things go as they should, and when single modules do not.

use std::fs;

use crate::support::root::FRAGMENT;
use crate::support::tree::difference;
use crate::support::{A, B, LTS, TestRoot};

/// One module, installed on the running kernel, and a new kernel without it.
fn one_module() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    root
}

/// Runs once, and proves that a second run changes no file.
#[track_caller]
fn settles(root: &TestRoot) {
    root.post_update().code(0);
    root.forget_calls();
    let before = root.tree();
    root.post_update().code(0).prints("");
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
    assert_eq!(root.calls(), Vec::<String>::new());
}

#[test]
fn a_new_kernel_gets_its_module() {
    let root = one_module();
    let run = root.post_update();
    run.code(0).prints("").says(&["hello/1.0 on 6.15.8-1592.native", "dkms build, dkms install"]);
    let dirs = "--dkmstree ROOT/var/lib/dkms --sourcetree ROOT/usr/src --installtree ROOT/usr/lib/modules \
                --kernelsourcedir ROOT/usr/lib/modules/6.15.8-1592.native/build";
    // What is installed is nothing to dkms: it installs in trees of ours.
    let staging = format!("ROOT/var/lib/clr-dkms/staging-hello-1.0-{B}");
    let own = format!(
        "--dkmstree {staging}/dkms --installtree {staging}/modules --sourcetree ROOT/usr/src \
         --kernelsourcedir ROOT/usr/lib/modules/{B}/build"
    );
    assert_eq!(
        root.calls(),
        [
            format!("dkms build -m hello -v 1.0 -k {B} {dirs}"),
            format!("dkms install -m hello -v 1.0 -k {B} --no-depmod {own}"),
            format!("depmod -b ROOT/run/clr-dkms-depmod-{B} -a {B}"),
            "clr-boot-manager update --path=ROOT".to_owned(),
        ]
    );
    assert!(
        fs::read(root.at(&TestRoot::ko("hello", B))).unwrap().windows(B.len()).any(|w| w == B.as_bytes())
    );
    assert!(root.text(&format!("usr/lib/modules/{B}/modules.dep")).contains("updates/dkms/hello.ko:"));
    let log = root.redacted(&root.text(&format!("var/log/clr-dkms/hello/1.0/{B}.log")));
    assert!(log.contains("dkms build -m hello") && log.contains("make of hello for"), "{log}");
    assert!(!root.has("var/lib/clr-dkms/in-progress.json"));
    let record = root.record();
    let parts = record["boot"]["parts"].as_object().unwrap().values();
    let sources = record["built_from"].as_object().unwrap().values();
    let fingerprints = parts.chain([&record["boot"]["inputs"]]).chain(sources).map(|f| f.as_str().unwrap());
    let text = TestRoot::timeless(&root.text("var/lib/clr-dkms/last-run.json"));
    let text = fingerprints.fold(text, |text, fingerprint| text.replace(fingerprint, "[fingerprint]"));
    // The layers are those that this machine offers.
    assert!(record["sandbox"]["namespaces"].is_boolean(), "{text}");
    let (text, _) = text.split_once(",\n  \"sandbox\": {").unwrap();
    insta::assert_snapshot!("post_update_record", format!("{text}\n}}\n"));
    settles(&root);
}

#[test]
fn children_get_a_clean_environment() {
    let root = one_module();
    let mut command = root.command("clr-dkms-post-update", &[]);
    for variable in [
        "MAKEFLAGS",
        "ARCH",
        "CROSS_COMPILE",
        "LLVM",
        "KCFLAGS",
        "BASH_ENV",
        "ENV",
        "TMPDIR",
        "ADDON_MODULES_DIR",
        "DKMS_DIRECTIVE_X",
        "LC_MESSAGES",
        "LANG",
        "PACKAGE_NAME",
        "AUTOINSTALL",
        "BUILD_EXCLUSIVE_ARCH",
    ] {
        command.env(variable, "/poison");
    }
    let output = command.env("HOME", "/home/x").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let environment = fs::read_to_string(root.tools().join("environment")).unwrap();
    let names: std::collections::BTreeSet<&str> = environment
        .lines()
        .filter_map(|l| l.split('=').next())
        .filter(|n| !["PWD", "SHLVL", "_"].contains(n))
        .collect();
    let own = ["CLR_DKMS_RUN", "HOME", "LC_ALL", "PATH"];
    let of_dkms = ["mok_certificate", "mok_signing_key", "sign_file", "try_sign_modules"];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), [own, of_dkms].concat());
    // dkms 3.4 takes a unit with mounts of its own for a chroot, and signs nothing there unless this is set.
    assert!(environment.contains("try_sign_modules=true\n"));
    assert!(!environment.contains("/poison") && environment.contains("LC_ALL=C\n"));
    assert!(environment.contains(&format!("PATH={}:/usr/local/sbin:", root.tools().display())));
    // The key of a root is the root's own.
    assert!(root.has("var/lib/dkms/mok.key"));
}

#[test]
fn a_conf_is_evaluated_in_a_clean_environment_too() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "AUTOINSTALL=\"$POISON\"\nBUILD_EXCLUSIVE_KERNEL=\"$ARCH\"\n");
    let mut command = root.command("clr-dkms-post-update", &[]);
    command.env("POISON", "yes").env("ARCH", "nothing").env("BASH_ENV", root.outside().join("x"));
    fs::write(root.outside().join("x"), format!("touch {}\n", root.outside().join("ran").display())).unwrap();
    assert!(command.output().unwrap().status.success());
    assert_eq!(root.recorded("hello", B), "not-autoinstall");
    assert!(!root.outside().join("ran").exists());
}

#[test]
fn the_next_boot_comes_first() {
    for (running, first, second) in [(A, B, LTS), (LTS, LTS, B)] {
        let root = TestRoot::updated().running(running);
        root.kernel(LTS).headers(LTS).tip(LTS).module("b", "1", "").module("a", "1", "");
        root.file("etc/clr-dkms/clr-dkms.conf", "[build]\njobs = 1\n");
        root.post_update().code(0);
        let builds = |k: &str| -> Vec<String> {
            let mut calls: Vec<String> = ["a", "b"]
                .iter()
                .flat_map(|m| [format!("build {m} {k}"), format!("install {m} {k}")])
                .collect();
            calls.push(format!("depmod {k}"));
            calls
        };
        // Nothing requires these modules: the boot files do not wait for them.
        let expected = [vec!["clr-boot-manager".to_owned()], builds(first), builds(second)].concat();
        assert_eq!(root.short_calls(), expected);
        settles(&root);
    }
}

#[test]
fn a_kernel_that_is_no_tip_is_left_alone() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    root.post_update().code(0);
    assert!(root.short_calls().iter().all(|c| !c.contains(A)), "{:?}", root.short_calls());
}

#[test]
fn what_others_are_built_upon_comes_first() {
    let root = TestRoot::updated();
    root.module("a", "1", "BUILD_DEPENDS[0]=\"z\"\nBUILD_DEPENDS[1]=m\n");
    root.module("m", "1", "BUILD_DEPENDS[0]=\"z\"\n").module("z", "1", "");
    root.post_update().code(0);
    let builds: Vec<String> = root.short_calls().into_iter().filter(|c| c.starts_with("build")).collect();
    assert_eq!(builds, [format!("build z {B}"), format!("build m {B}"), format!("build a {B}")]);
    settles(&root);
}

#[test]
fn what_is_built_upon_a_failure_is_not_tried() {
    let root = TestRoot::updated();
    root.module("a", "1", "BUILD_DEPENDS[0]=\"z\"\n").module("c", "1", "").module("z", "1", "");
    root.module("d", "1", "BUILD_DEPENDS[0]=\"absent\"\n");
    root.behave("[[ $module != z ]] || code=10");
    let run = root.post_update();
    run.code(1).says(&[
        "a/1 on 6.15.8-1592.native: dependency-failed: it depends on z, which is not there",
        "absent",
    ]);
    let builds: Vec<String> = root.short_calls().into_iter().filter(|c| c.starts_with("build")).collect();
    assert_eq!(builds, [format!("build c {B}"), format!("build z {B}")]);
    let states = ["a", "c", "d", "z"].map(|m| root.recorded(m, B));
    assert_eq!(states, ["dependency-failed", "ok", "dependency-failed", "build-failed"]);
}

#[test]
fn a_circle_is_reported_and_stops_nothing_else() {
    let root = TestRoot::updated();
    root.module("a", "1", "BUILD_DEPENDS[0]=\"b\"\n").module("b", "1", "BUILD_DEPENDS[0]=\"a\"\n");
    root.module("c", "1", "").module("own", "1", "BUILD_DEPENDS[0]=\"own\"\n");
    root.post_update().code(1).says(&["BUILD_DEPENDS leads back to the module itself (a dependency cycle)"]);
    let states = ["a", "b", "c", "own"].map(|m| root.recorded(m, B));
    assert_eq!(states, ["dependency-failed", "dependency-failed", "ok", "dependency-failed"]);
}

#[test]
fn a_module_that_fails_does_not_stop_the_others() {
    let root = TestRoot::updated();
    root.module("a", "1", "").module("bad", "2.5", "").module("z", "1", "");
    root.behave("[[ $module != bad ]] || { code=10; said=$'/src/bad.c:7:3: error: no such thing\\n    7 | int x;\\nmake: *** [x] Error 1'; }");
    let run = root.post_update();
    run.code(1).says(&["bad/2.5 on 6.15.8-1592.native: build-failed", "/src/bad.c:7: no such thing"]);
    // The first error is known: what belongs to it is reported, and no end of the log.
    run.says(&["around the first error of bad/2.5 on", "7 | int x;"]);
    assert_eq!(run.stderr.matches("/src/bad.c:7: no such thing").count(), 1, "{}", run.stderr);
    assert!(!run.stderr.contains("make: ***"), "{}", run.stderr);
    run.says(&[&format!("var/log/clr-dkms/bad/2.5/{B}.log")]);
    assert_eq!(["a", "bad", "z"].map(|m| root.recorded(m, B)), ["ok", "build-failed", "ok"]);
    assert!(
        root.text(&format!("var/log/clr-dkms/bad/2.5/{B}.log"))
            .contains("/src/bad.c:7:3: error: no such thing")
    );
    // All modules that could be built are indexed, and the boot files do not wait for what nothing requires.
    assert_eq!(root.short_calls()[0], "clr-boot-manager");
    assert_eq!(root.short_calls()[6..], [format!("depmod {B}")]);
    assert!(root.text("run/motd.d/clr-dkms.motd").contains("bad/2.5"));
    // With the same inputs it would fail again: it is left alone, and reported.
    let known = root.record()["modules"].clone();
    root.forget_calls().post_update().code(1).says(&["bad/2.5 on 6.15.8-1592.native: left alone"]);
    assert_eq!(root.calls(), Vec::<String>::new());
    assert_eq!(root.record()["modules"], known);
    let dry = root.run("clr-dkms-post-update", &["-n"]);
    dry.code(0).shows(&["bad/2.5 on 6.15.8-1592.native: left alone (build-failed)"]);
    // After a repair the next run makes it good, and nothing of the failure stays.
    root.repair("bad-2.5").post_update().code(0);
    assert_eq!(root.short_calls()[..2], [format!("build bad {B}"), format!("install bad {B}")]);
    assert!(!root.text("run/motd.d/clr-dkms.motd").contains("bad/2.5"));
    settles(&root);
}

#[test]
fn what_a_module_does_not_ask_for_is_not_built() {
    for (conf, state) in [
        ("AUTOINSTALL=no\n", "not-autoinstall"),
        ("AUTOINSTALL=\n", "not-autoinstall"),
        ("unset AUTOINSTALL\n", "not-autoinstall"),
        ("BUILD_EXCLUSIVE_KERNEL='^5\\.'\n", "skipped-exclusive"),
        ("BUILD_EXCLUSIVE_ARCH=none\n", "skipped-exclusive"),
        ("BUILD_EXCLUSIVE_CONFIG=CONFIG_NOT_THERE\n", "skipped-exclusive"),
        ("BUILD_EXCLUSIVE_KERNEL_MIN=7\n", "skipped-exclusive"),
        ("BUILD_EXCLUSIVE_KERNEL_MAX=6.14\n", "skipped-exclusive"),
        ("OBSOLETE_BY=6.15.8\n", "skipped-exclusive"),
    ] {
        let root = TestRoot::updated();
        root.module("hello", "1.0", conf);
        root.post_update().code(0);
        assert_eq!(root.recorded("hello", B), state, "{conf}");
        assert_eq!(root.short_calls(), ["clr-boot-manager"], "{conf}");
        settles(&root);
    }
}

#[test]
fn an_exclusion_that_only_dkms_sees_is_no_failure() {
    for code in [77, 9] {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "");
        root.behave(&format!("[[ $verb != build ]] || code={code}"));
        root.post_update().code(0);
        assert_eq!(root.recorded("hello", B), "skipped-exclusive");
    }
}

#[test]
fn headers_decide_whether_it_can_be_built() {
    let other = format!("{A}\n");
    let release = format!("usr/lib/modules/{B}/build/include/config/kernel.release");
    for (change, state, step) in [
        ("missing", "headers-missing", "headers are not installed"),
        ("other", "headers-mismatch", A),
        ("incomplete", "headers-missing", "kernel.release"),
        ("file", "unknown", "build"),
    ] {
        let root = one_module();
        match change {
            "missing" => root.remove(&format!("usr/lib/modules/{B}/build")),
            "other" => root.file(&release, &other),
            "incomplete" => root.remove(&release),
            _ => root
                .remove(&format!("usr/lib/modules/{B}/build"))
                .file(&format!("usr/lib/modules/{B}/build"), ""),
        };
        let run = root.post_update();
        // What was not determined has an exit code of its own.
        let code = if state == "unknown" { 3 } else { 1 };
        let lacks = match state {
            "unknown" => "it is unknown whether it has hello/1.0".to_owned(),
            state => format!("it lacks hello/1.0 (wanted; {state})"),
        };
        run.code(code).says(&[&format!("kernel {B} is held back: {lacks}")]);
        assert_eq!(root.recorded("hello", B), state);
        assert!(root.record().to_string().contains(step), "{}", root.record());
        assert_eq!(root.short_calls(), ["clr-boot-manager", "clr-boot-manager"], "update and set-kernel");
        assert!(root.text("run/motd.d/clr-dkms.motd").contains("DKMS"));
    }
}

#[test]
fn the_highest_version_counts() {
    let root = TestRoot::updated();
    root.module("hello", "1.9", "").installed("hello", "1.9", B).module("hello", "1.10", "");
    root.post_update().code(0);
    assert!(root.calls()[1].starts_with("dkms build -m hello -v 1.10"), "{:?}", root.calls());
    assert!(root.calls().iter().all(|c| !c.contains("-v 1.9")));
    assert!(fs::read(root.at(&TestRoot::ko("hello", B))).unwrap().ends_with(b"hello/1.10"));
    settles(&root);
}

#[test]
fn several_files_of_one_module_are_all_proven() {
    let root = TestRoot::updated();
    root.module("snd", "3", "BUILT_MODULE_NAME[1]=\"snd-more\"\nDEST_MODULE_LOCATION[1]=\"/updates\"\n");
    root.post_update().code(0);
    assert_eq!(root.record()["modules"][0]["files"].as_array().unwrap().len(), 2);
    fs::remove_file(root.at(&TestRoot::ko("snd-more", B))).unwrap();
    root.forget_calls().post_update().code(0);
    assert_eq!(root.short_calls(), [format!("install snd {B} --force"), format!("depmod {B}")]);
    settles(&root);
}

#[test]
fn dry_run_explains_and_changes_nothing() {
    let root = one_module();
    root.remove(FRAGMENT)
        .module("off", "1", "AUTOINSTALL=no\n")
        .module("done", "1", "")
        .installed("done", "1", B);
    let before = root.tree();
    for option in ["--dry-run", "-n"] {
        insta::assert_snapshot!(
            "post_update_dry_run",
            root.run("clr-dkms-post-update", &[option]).code(0).stdout
        );
    }
    let json = root.run("clr-dkms-post-update", &["--dry-run", "--json"]).code(0).stdout.clone();
    insta::assert_snapshot!("post_update_dry_run_json", json);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
    assert_eq!(root.calls(), Vec::<String>::new());
    root.run("clr-dkms-post-update", &["--json"]).code(64);
}

#[test]
fn dry_run_of_a_settled_system_finds_nothing() {
    let root = one_module();
    root.post_update().code(0);
    root.run("clr-dkms-post-update", &["-n"])
        .code(0)
        .prints("hello/1.0 on 6.15.8-1592.native: proven, nothing to do\n");
}

/// What it promises is what a run does.
#[test]
fn dry_run_without_kernels_promises_nothing() {
    let root = TestRoot::new();
    root.module("hello", "1.0", "").directory("usr/lib/kernel");
    let dry = root.run("clr-dkms-post-update", &["-n"]);
    dry.code(0).prints("no kernel of clr-boot-manager is installed: nothing to do\n");
    let json = root.run("clr-dkms-post-update", &["-n", "--json"]).code(0).json();
    assert_eq!((&json["boot_update"], &json["cmdline"]), (&serde_json::Value::Null, &serde_json::json!([])));
    root.post_update().code(0).says(&["no kernel of clr-boot-manager is installed: nothing to do"]);
    assert_eq!(root.calls(), Vec::<String>::new());
    root.remove("usr/lib/kernel");
    let dry = root.run("clr-dkms-post-update", &["-n"]);
    dry.code(3).shows(&["there is no"]);
    assert!(!dry.stdout.contains("clr-boot-manager update"), "{}", dry.stdout);
    root.post_update().code(3);
}

#[test]
fn the_fragment_is_made_sure_of() {
    let root = one_module();
    root.remove(FRAGMENT);
    root.post_update().code(0);
    assert_eq!(root.text("etc/kernel/cmdline.d/clr-dkms.conf"), "module.sig_unenforce\n");
    let record = root.record();
    assert_eq!((&record["cmdline"]["wanted"], &record["cmdline"]["in_force"]), (&true.into(), &true.into()));
    settles(&root);
    // Without it the module would be lost: that takes a word more.
    let refused = root.run("clr-dkms-cmdline", &["default"]);
    refused.code(2).says(&["the next boot would refuse hello/1.0, which it accepts now: nothing is changed"]);
    assert!(root.has("etc/kernel/cmdline.d/clr-dkms.conf"));
    let forced = root.run("clr-dkms-cmdline", &["default", "--force"]);
    forced.code(2).shows(&["remove /etc/kernel/cmdline.d/clr-dkms.conf"]);
    forced.says(&[
        "hello/1.0 will be refused at the next boot; run `sudo clr-dkms-cmdline enable` to undo this",
    ]);
}

#[test]
fn an_admins_mask_is_reported_and_kept() {
    let root = one_module();
    root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null");
    // No kernel will take it after a reboot, and this one does now.
    root.post_update().code(2).says(&[
        "module.sig_unenforce is needed",
        "`sudo rm ROOT/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf",
    ]);
    assert!(root.at("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf").is_symlink());
    assert_eq!(root.recorded("hello", B), "signature-refused");
    assert_eq!(root.record()["cmdline"]["in_force"], false);
    let dry = root.run("clr-dkms-post-update", &["-n"]);
    dry.code(0).shows(&["`sudo\n    rm\n    ROOT/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf"]);
}

#[test]
fn where_no_kernel_forces_signatures_no_fragment_is_written() {
    let root = TestRoot::updated();
    root.remove(FRAGMENT).module("hello", "1.0", "");
    for release in [A, B] {
        root.file(&format!("usr/lib/kernel/config-{release}"), "# CONFIG_MODULE_SIG_FORCE is not set\n");
    }
    root.post_update().code(0);
    assert!(!root.has("etc/kernel"));
    assert_eq!(root.record()["cmdline"]["wanted"], false);
    // The same for a system without modules, and where the configuration says never.
    let none = TestRoot::updated();
    none.remove(FRAGMENT).post_update().code(0);
    assert!(!none.has("etc/kernel"));
    let off = one_module();
    off.remove(FRAGMENT).file("etc/clr-dkms/clr-dkms.conf", "[cmdline]\nsig-unenforce = off\n");
    off.post_update().code(0);
    assert!(!off.has("etc/kernel"));
    let on = TestRoot::updated();
    on.remove(FRAGMENT).file("run/clr-dkms/clr-dkms.conf.d/x.conf", "[cmdline]\nsig-unenforce = on\n");
    on.post_update().code(0);
    assert!(on.has("etc/kernel/cmdline.d/clr-dkms.conf"));
}

#[test]
fn new_kernels_are_those_that_the_snapshot_did_not_know() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    root.run("clr-dkms-pre-update", &[]).code(0);
    root.kernel(B).headers(B).tip(B);
    root.post_update().code(0);
    assert_eq!(root.record()["new_kernels"], serde_json::json!([B]));
    assert_eq!(root.record()["next_boot"], B);
}
