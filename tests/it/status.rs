//! `clr-dkms status`: the screens, the document, the exit codes.

use crate::support::root::FRAGMENT;
use crate::support::tree::difference;
use crate::support::{A, B, LTS, Run, TestRoot};

fn status(root: &TestRoot) -> Run {
    let before = root.tree();
    let run = root.run("clr-dkms", &["status"]);
    let json = root.run("clr-dkms", &["status", "--json"]);
    assert_eq!((json.code, &json.stderr), (run.code, &run.stderr), "both tell the same");
    json.json();
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new(), "a report changes nothing");
    assert!(!run.stdout.contains('\u{1b}'), "no colour where nobody looks: {:?}", run.stdout);
    run
}

/// Lines of more than 80 columns that could be broken: more than one word that cannot be, with what stands
/// before it.
fn too_wide(screen: &str) -> Vec<String> {
    let wide = |line: &&str| line.chars().count() > 80 && line.split_whitespace().count() > 2;
    screen.lines().filter(wide).map(|line| format!("{} columns: {line}", line.chars().count())).collect()
}

fn golden(name: &str, root: &TestRoot, code: i32) {
    let run = status(root);
    run.code(code);
    insta::assert_snapshot!(format!("status_{name}"), run.stdout);
    insta::assert_snapshot!(
        format!("status_{name}_json"),
        TestRoot::timeless(&root.run("clr-dkms", &["status", "--json"]).stdout)
    );
}

fn pending() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    root
}

#[test]
fn healthy() {
    let root = pending().running(B);
    // The last one that worked: clr-boot-manager deletes any other that is neither running nor a tip.
    root.file(&format!("var/lib/kernel/k_booted_{A}"), "");
    root.post_update().code(0);
    golden("healthy", &root, 0);
}

#[test]
fn a_reboot_is_pending() {
    let root = pending();
    root.module("v4l2loopback", "0.15.1", "").module("off", "2", "AUTOINSTALL=no\n").post_update().code(0);
    golden("reboot_pending", &root, 0);
}

#[test]
fn before_the_first_run() {
    let root = pending();
    root.updated_by_hand();
    golden("before_the_first_run", &root, 1);
}

#[test]
fn a_module_that_does_not_compile() {
    let root = pending();
    root.kernel(LTS).headers(LTS).tip(LTS).module("other", "3", "");
    root.behave("[[ $module != hello ]] || { code=10; said='/var/lib/dkms/hello/1.0/build/hello.c:12:5: error: implicit declaration of function ‘from_timer’; did you mean ‘mod_timer’? [-Werror=implicit-function-declaration]'; }");
    root.post_update().code(1);
    golden("build_failed", &root, 1);
}

#[test]
fn every_screen_keeps_to_80_columns() {
    type Change = fn(&TestRoot);
    let cases: [(&str, Change); 9] = [
        ("nothing", |_| ()),
        ("not run yet", |r| r.remove("var/lib/clr-dkms").forget()),
        ("gone", |r| r.remove(&TestRoot::ko("hello", B)).forget()),
        ("garbage", |r| r.file("var/lib/clr-dkms/last-run.json", "").forget()),
        ("no headers", |r| {
            r.remove(&format!("usr/lib/modules/{B}/build")).remove(&TestRoot::ko("hello", B));
        }),
        ("other headers", |r| {
            let release = format!("usr/lib/modules/{B}/build/include/config/kernel.release");
            r.file(&release, A).remove(&TestRoot::ko("hello", B));
        }),
        ("another line", |r| r.file("etc/kernel/cmdline.d/x.conf", "x=1\n").forget()),
        ("not for the next kernel", |r| {
            r.module("old", "1", "AUTOINSTALL=no\n").installed("old", "1", A).forget()
        }),
        ("none", |r| r.remove("usr/lib/kernel").forget()),
    ];
    let mut wide = Vec::new();
    for (what, change) in cases {
        let root = pending();
        root.module("other", "2", "").post_update().code(0);
        change(&root);
        wide.extend(too_wide(&status(&root).stdout).into_iter().map(|line| format!("{what}: {line}")));
    }
    let root = TestRoot::updated();
    root.module("nvidia-open", "575.64.05", "").behave("code=10").post_update().code(1);
    wide.extend(too_wide(&status(&root).stdout));
    assert!(wide.is_empty(), "{}", wide.join("\n"));
}

#[test]
fn headers_that_are_not_there_or_not_right() {
    let root = pending();
    root.remove(&format!("usr/lib/modules/{B}/build"));
    root.post_update().code(1);
    status(&root).code(1).shows(&["headers-missing", "missing\n", "swupd bundle-add kernel-native-dkms"]);
    root.headers(B)
        .file(&format!("usr/lib/modules/{B}/build/include/config/kernel.release"), format!("{A}\n"));
    root.post_update().code(1);
    golden("headers_of_another_kernel", &root, 1);
}

#[test]
fn no_module_is_needed() {
    let root = TestRoot::system();
    root.post_update().code(0);
    golden("no_module", &root, 0);
}

#[test]
fn the_parameter_is_masked() {
    let root = pending();
    root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null").post_update().code(2);
    status(&root).code(2).shows(&["sig_unenforce:", "not configured"]);
    // Every module is there, and yet none of them will load: that is what the first lines have to say, and
    // what helps.
    let screen = status(&root).stdout;
    let first = screen.split("\n\n").next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        first.starts_with("✘ unsafe: do not reboot yet; run `sudo clr-dkms-cmdline enable` to"),
        "{screen}"
    );
    assert!(first.contains("without hello/1.0 (wanted; signature-refused)"), "{screen}");
}

#[test]
fn what_an_admin_wants_refused_is_not_missed() {
    let root = pending();
    root.file("etc/clr-dkms/clr-dkms.conf", "[cmdline]\nsig-unenforce = off\n");
    root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null").post_update();
    let document = root.run("clr-dkms", &["status", "--json"]).json();
    for module in document["modules"].as_array().unwrap() {
        assert_eq!(module["state"], "signature-refused");
        assert_eq!(
            (&module["missed"], &module["next_step"]),
            (&false.into(), &serde_json::Value::Null),
            "{document:#}"
        );
    }
    assert_eq!((&document["verdict"], &document["may_reboot"]), (&"reboot-pending".into(), &true.into()));
}

#[test]
fn what_changed_since_the_entries_were_made_is_reported() {
    let root = pending();
    root.post_update().code(0);
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n");
    status(&root).code(1).shows(&["Clear-linux-native"]);
}

#[test]
fn an_image_has_no_running_kernel() {
    let root = TestRoot::new();
    root.kernel(B).headers(B).tip(B).file(FRAGMENT, "module.sig_unenforce\n").module("hello", "1.0", "");
    root.post_update().code(0);
    golden("image", &root, 0);
}

#[test]
fn what_is_odd_is_noted() {
    let root = pending();
    root.post_update().code(0);
    root.file("usr/lib/kernel/org.clearlinux.native.6.15.8-1592.bak", "image");
    root.file("usr/lib/kernel/README", "x").file("var/lib/dkms/with space/1/x", "");
    let run = status(&root);
    run.shows(&["Seen and left alone", ".bak", "README", "with space"]);
}

#[test]
fn no_kernel_and_no_directory_of_kernels_is_unknown() {
    let root = TestRoot::new();
    status(&root).code(0).shows(&["not-applicable: "]);
    root.remove("usr/lib/kernel");
    status(&root).code(0).shows(&["not-applicable: "]);
    root.file("usr/lib/kernel", "a file");
    status(&root).code(0).shows(&["not-applicable: "]);
}

#[test]
fn a_damaged_record_is_reported_and_the_facts_count() {
    for garbage in ["", "garbage", "{\"schema\":1}", "{\"schema\":2}"] {
        let root = pending();
        root.post_update().code(0);
        root.file("var/lib/clr-dkms/last-run.json", garbage);
        status(&root).code(1).shows(&["last-run.json", "hello/1.0  wanted    ✔ ok"]);
        assert_eq!(root.text("var/lib/clr-dkms/last-run.json"), garbage, "a report changes nothing");
    }
}

#[test]
fn what_a_record_says_is_no_proof() {
    let root = pending();
    root.post_update().code(0);
    root.remove(&TestRoot::ko("hello", B));
    status(&root).code(1).shows(&["hello/1.0  wanted    ✘ not-built"]);
}

#[test]
fn a_module_in_use_that_the_next_kernel_lacks_is_no_good_news() {
    let root = pending();
    root.module("hello", "1.0", "AUTOINSTALL=no\n").post_update();
    status(&root).code(1).shows(&["hello/1.0"]);
}

#[test]
fn colour_is_a_matter_of_choice() {
    let root = pending().running(B);
    root.post_update().code(0);
    let run = |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = root.command("clr-dkms", &[&["status"], arguments].concat());
        Run::of(command.envs(variables.iter().copied()).output().unwrap(), &root).stdout
    };
    let plain = run(&[], &[]);
    assert!(plain.starts_with("✔ healthy: "));
    for (arguments, variables, coloured) in [
        (&["--color", "always"][..], &[][..], true),
        (&["--color", "always"], &[("NO_COLOR", "1")], true),
        (&["--color", "never"], &[("CLICOLOR_FORCE", "1")], false),
        (&["--color", "auto"], &[("NO_COLOR", "1")], false),
        (&["--color", "auto"], &[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
        (&["--json", "--color", "always"], &[], false),
    ] {
        let text = run(arguments, variables);
        assert_eq!(text.contains('\u{1b}'), coloured, "{arguments:?} {variables:?}: {text:?}");
    }
}

#[test]
fn control_characters_of_others_are_shown_and_not_obeyed() {
    let root = pending();
    root.behave(
        "[[ $verb != build ]] || { code=10; said=$'/src/\\e[31mevil.c:7:3: error: \\e]0;title\\a \\e[2Jboo \\xc2\\x9b31m'; }",
    );
    let run = root.post_update();
    run.code(1);
    assert!(!run.stderr.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{:?}", run.stderr);
    for arguments in [&["status", "--color", "never"][..], &["status", "--json"]] {
        let text = root.run("clr-dkms", arguments).stdout;
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{text:?}");
    }
    let coloured = root.run("clr-dkms", &["status", "--color", "always"]).stdout;
    assert!(!coloured.contains("\u{1b}[2J") && !coloured.contains("\u{1b}]0;"), "{coloured:?}");
    let motd = root.text("run/motd.d/clr-dkms.motd");
    assert!(!motd.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{motd:?}");
}

#[test]
fn usage_and_configuration_have_their_codes() {
    let root = TestRoot::proven();
    root.run("clr-dkms", &[]).code(64);
    root.run("clr-dkms", &["stat"]).code(64);
    root.file("etc/clr-dkms/clr-dkms.conf", "[motd]\nshown = no\n");
    root.run("clr-dkms", &["status"]).code(1).shows(&["ROOT/etc/clr-dkms/clr-dkms.conf: [motd] shown:", A]);
}

#[test]
fn a_reader_that_leaves_early_is_no_fault() {
    use std::process::Stdio;
    let root = pending();
    let mut child =
        root.command("clr-dkms", &["status"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
