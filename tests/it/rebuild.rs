//! `clr-dkms rebuild`: the work of an update by hand.

use crate::support::{A, B, LTS, Run, TestRoot};

fn rebuild(root: &TestRoot, arguments: &[&str]) -> Run {
    root.run("clr-dkms", &[&["rebuild"], arguments].concat())
}

/// The sum of what built one module, while the clock stands still.
const ONE: &str = "1 built in 0.0 s\n";

/// Two modules, proven on both kernels.
fn settled() -> TestRoot {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").module("other", "2", "").post_update().code(0);
    root.kernel(B).headers(B).tip(B).post_update().code(0);
    root.forget_calls();
    root
}

#[test]
fn what_is_there_is_left_alone() {
    let root = settled();
    let before = root.tree();
    rebuild(&root, &[]).code(0).prints("nothing to do\n");
    rebuild(&root, &["hello", "-k", "native"]).code(0).prints("nothing to do\n");
    assert_eq!(root.calls(), Vec::<String>::new());
    let difference = crate::support::tree::difference(&before, &root.tree(), true);
    assert_eq!(difference, Vec::<String>::new());
}

#[test]
fn by_force_a_module_is_built_again() {
    let root = settled();
    rebuild(&root, &["hello", "--force", "-n"]).code(0).shows(&[
        "hello/1.0 on",
        "set\n    /var/lib/dkms/hello/1.0/",
        "dkms build",
        "it was asked for",
    ]);
    assert_eq!(root.calls(), Vec::<String>::new());
    rebuild(&root, &["hello", "--force"])
        .code(0)
        .prints(&format!("✔ hello/1.0 on {B}: ok (built in 0.0 s)\n{ONE}"));
    let expected = [format!("build hello {B}"), format!("install hello {B} --force"), format!("depmod {B}")];
    assert_eq!(root.short_calls(), expected);
    // The older kernel, by name; nothing is left of what was set aside.
    rebuild(&root, &["hello/1.0", "-f", "-k", A])
        .code(0)
        .prints(&format!("✔ hello/1.0 on {A}: ok (built in 0.0 s)\n{ONE}"));
    assert!(!root.tree().keys().any(|path| path.contains("_aside")));
    root.run("clr-dkms", &["status"]).code(0);
}

#[test]
fn what_worked_stays_when_the_new_build_fails() {
    let root = settled();
    let installed = format!("usr/lib/modules/{B}/updates/dkms/hello.ko");
    let before = std::fs::read(root.at(&installed)).unwrap();
    root.behave("[[ $verb != build ]] || { code=10; said='/src/hello.c:1:1: error: no'; }");
    let run = rebuild(&root, &["hello", "--force"]);
    run.code(1)
        .shows(&[&format!("hello/1.0 on {B}: build-failed after 0.0 s: dkms build: exit"), "hello.c:1: no"]);
    assert_eq!(std::fs::read(root.at(&installed)).unwrap(), before);
    assert!(!root.tree().keys().any(|path| path.contains("_aside")));
    root.behave("").forget_calls();
    // The record knows of the failure, the disk says that all is there.
    root.post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    root.run("clr-dkms", &["status"]).code(0);
}

#[test]
fn what_failed_before_is_tried_again_by_hand_only() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "");
    root.behave("[[ $verb != build ]] || { code=10; said='/src/hello.c:1:1: error: no'; }")
        .post_update()
        .code(1);
    root.forget_calls().post_update().code(1).says(&["left alone", "`sudo clr-dkms rebuild`"]);
    assert_eq!(root.calls(), Vec::<String>::new());
    root.behave("");
    rebuild(&root, &["hello"]).code(0).prints(&format!("✔ hello/1.0 on {A}: ok (built in 0.0 s)\n{ONE}"));
    assert_eq!(root.recorded("hello", A), "ok");
}

/// A full disk, a killed compiler: they say nothing of source and kernel.
#[test]
fn a_passing_trouble_is_tried_again_by_itself() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "");
    for said in
        ["as: write error: No space left on device", "gcc: fatal error: Killed signal terminated program cc1"]
    {
        root.behave(&format!("[[ $verb != build ]] || {{ code=10; said='{said}'; }}")).post_update().code(1);
        root.forget_calls().post_update().code(1);
        assert_eq!(root.short_calls()[0], format!("build hello {A}"), "{said}");
    }
}

#[test]
fn the_logs_of_five_attempts_are_kept() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "");
    for attempt in 1..=7 {
        root.behave(&format!("[[ $verb != build ]] || {{ code=10; said='attempt {attempt}'; }}"));
        rebuild(&root, &["hello"]).code(1);
    }
    let log = format!("var/log/clr-dkms/hello/1.0/{A}.log");
    for (name, attempt) in [(log.clone(), 7), (format!("{log}.1"), 6), (format!("{log}.4"), 3)] {
        assert!(root.text(&name).contains(&format!("attempt {attempt}")), "{name}");
    }
    assert!(!root.has(&format!("{log}.5")));
}

#[test]
fn what_does_not_ask_for_it_is_built_when_it_is_named() {
    let root = TestRoot::system();
    root.module("quiet", "1", "AUTOINSTALL=\"\"\n");
    rebuild(&root, &[]).code(0).prints("nothing to do\n");
    rebuild(&root, &["quiet"]).code(0).prints(&format!("✔ quiet/1 on {A}: ok (built in 0.0 s)\n{ONE}"));
}

#[test]
fn kernels_are_chosen() {
    let root = TestRoot::updated();
    root.kernel(LTS).headers(LTS).tip(LTS).module("hello", "1.0", "");
    let planned = |arguments: &[&str]| -> Vec<String> {
        let run = rebuild(&root, &[&["-n"], arguments].concat());
        let text = run.code(0).stdout.clone();
        text.lines()
            .filter_map(|l| Some(l.strip_prefix("hello/1.0 on ")?.split(':').next()?.to_owned()))
            .collect()
    };
    assert_eq!(planned(&[]), [B, LTS]);
    assert_eq!(planned(&["-k", "ltscurrent"]), [LTS]);
    assert_eq!(planned(&["-k", A, "-k", LTS]), [A, LTS]);
    assert_eq!(planned(&["--all-kernels"]).len(), 3);
    rebuild(&root, &["--all-kernels", "-k", A]).code(64);
    rebuild(&root, &["-k", A]).code(0).prints(&format!("✔ hello/1.0 on {A}: ok (built in 0.0 s)\n{ONE}"));
}

#[test]
fn what_is_not_there_is_named() {
    let root = settled();
    rebuild(&root, &["helo"]).code(3).prints("").says(&["helo is not a module", "hello/1.0, other/2"]);
    rebuild(&root, &["hello/2.0", "-n"]).code(3).prints("").says(&["hello/2.0 is not a module"]);
    rebuild(&root, &["-k", LTS]).code(3).prints("").says(&[LTS, "is not an installed kernel"]);
    rebuild(&TestRoot::new(), &[]).code(3).prints("").says(&["there is no kernel in"]);
    assert_eq!(root.calls(), Vec::<String>::new());
}

/// Killed while the old build was set aside, with a part of a new one in its place.
#[test]
fn what_a_killed_run_has_set_aside_is_taken_back() {
    let root = settled();
    let directory = root.at(&format!("var/lib/dkms/hello/1.0/{B}"));
    let own = std::env::consts::ARCH;
    std::fs::rename(directory.join(own), directory.join(format!(".tmp_{own}_aside"))).unwrap();
    std::fs::create_dir_all(directory.join(own).join("module")).unwrap();
    root.post_update().code(0).says(&["is taken back"]);
    assert_eq!(root.calls(), Vec::<String>::new());
    assert!(!root.tree().keys().any(|path| path.contains("_aside")));
    root.run("clr-dkms", &["status"]).code(0);
}

#[test]
fn a_build_that_ends_in_the_middle_of_its_files_is_no_successor() {
    let root = settled();
    root.behave("[[ $verb != build ]] || { mkdir -p \"$built/module\"; kill -9 $$; }");
    rebuild(&root, &["hello", "-f"]).code(1);
    root.behave("").forget_calls().post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    root.run("clr-dkms", &["status"]).code(0);
}

#[test]
fn what_is_named_and_left_alone_is_reported() {
    let root = settled();
    root.module("old", "1", "BUILD_EXCLUSIVE_KERNEL=\"^5[.]\"\n");
    let old = format!("old/1 on {B}: left alone (skipped-exclusive)");
    rebuild(&root, &["old"]).code(0).shows(&[&old, "0 built, 1 left alone in 0.0 s\n"]);
    rebuild(&root, &["old", "-n"]).code(0).shows(&[&old]);
}

#[test]
fn what_cannot_be_built_is_reported_named_or_not() {
    let root = settled();
    root.remove(&format!("usr/lib/modules/{B}/build")).remove(&format!("usr/lib/modules/{B}/updates"));
    // What is built would be installed without headers.
    root.remove(&format!("var/lib/dkms/hello/1.0/{B}")).remove(&format!("var/lib/dkms/other/2/{B}"));
    root.module("old", "1", "BUILD_EXCLUSIVE_KERNEL=\"^5[.]\"\n").module("off", "1", "AUTOINSTALL=\"\"\n");
    let text_of = |module: &str| {
        // The name decides where the line breaks.
        let (fits, wraps) = if module.len() > 7 { ("", "not ") } else { (" not", "") };
        format!(
            "✘ {module} on {B}: headers-missing: the kernel's headers are{fits}\n    {wraps}installed\n  \
             next: run `sudo swupd bundle-add kernel-native-dkms` to install the headers\n"
        )
    };
    let all = text_of("hello/1.0") + &text_of("other/2");
    rebuild(&root, &["-n"]).code(1).prints(&format!("{all}0 to do, 2 cannot be done\n"));
    let run = rebuild(&root, &[]);
    run.code(1).prints(&format!("{all}0 built, 2 cannot be built in 0.0 s\n"));
    assert!(!run.stderr.contains("error: hello/1.0 on"), "it is reported once: {}", run.stderr);
    let one = text_of("hello/1.0");
    rebuild(&root, &["hello"]).code(1).prints(&format!("{one}0 built, 1 cannot be built in 0.0 s\n"));
    rebuild(&root, &["hello", "-n"]).code(1).prints(&format!("{one}0 to do, 1 cannot be done\n"));
    let json = rebuild(&root, &["--json"]).code(1).json();
    assert_eq!((&json["built"], &json["cannot"]), (&0.into(), &2.into()));
    assert_eq!(json["modules"][1]["state"], "headers-missing");
    // On the kernel that has headers nothing is missing.
    rebuild(&root, &["-k", A]).code(0).prints("nothing to do\n");
    assert!(!root.calls().iter().any(|call| call.contains("build")), "{:?}", root.calls());
}

#[test]
fn what_the_kernel_will_refuse_is_not_done() {
    let root = settled();
    root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null");
    // A good entry is replaced by such a one only by an admin's word.
    root.run("clr-dkms-cmdline", &["default", "--force"]);
    let refused = format!("hello/1.0 on {B}: signature-refused: ");
    rebuild(&root, &["hello", "-n"]).code(1).shows(&[&refused, "0 to do, 1 cannot be done\n"]);
    let run = rebuild(&root, &["hello"]);
    run.code(1).shows(&[
        &refused,
        "run `sudo clr-dkms-cmdline enable`",
        "0 built, 1 refused for the signature in",
    ]);
    rebuild(&root, &["hello", "-f"]).code(1).shows(&[&refused, "1 built, 1 refused for the signature in"]);
}

#[test]
fn a_kernel_that_is_named_twice_is_built_once() {
    let root = settled();
    rebuild(&root, &["hello", "-f", "-k", A, "-k", B, "-k", A]).code(0);
    let builds = root.short_calls().into_iter().filter(|call| call.starts_with("build")).count();
    assert_eq!(builds, 2);
}

/// Only what a compiler says of a line of the source follows from the source.
#[test]
fn a_missing_program_or_header_is_looked_for_again() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "");
    for said in
        ["/bin/sh: 1: flex: not found", "/src/a.c:1:10: fatal error: linux/x.h: No such file or directory"]
    {
        root.behave(&format!("[[ $verb != build ]] || {{ code=10; said='{said}'; }}")).post_update().code(1);
        root.forget_calls().post_update().code(1);
        assert_eq!(root.short_calls()[0], format!("build hello {A}"), "{said}");
    }
}

#[test]
fn a_source_that_changed_in_place_is_built_again() {
    let root = settled();
    root.file("usr/src/hello-1.0/hello.c", "int changed;\n");
    let shown = format!("hello/1.0 on kernel {B}: its source is newer than the build");
    root.run("clr-dkms", &["status", "--all"]).code(0).shows(&[&shown]);
    // An update leaves alone what is proven.
    root.post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    rebuild(&root, &["hello", "-n"]).code(0).shows(&["its source has changed since it was built"]);
    rebuild(&root, &["hello"]).code(0).prints(&format!("✔ hello/1.0 on {B}: ok (built in 0.0 s)\n{ONE}"));
    rebuild(&root, &["hello"]).code(0).prints("nothing to do\n");
    rebuild(&root, &["hello", "-k", "running"]).code(0).shows(&[&format!("hello/1.0 on {A}: ok")]);
    let all = root.run("clr-dkms", &["status", "--all"]).code(0).stdout.clone();
    assert!(!all.contains("its source is newer"), "{all}");
    // A change that keeps size and direction of time is noticed too: the fingerprint differs.
    let file = std::fs::File::options().write(true).open(root.at("usr/src/hello-1.0/hello.c")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    rebuild(&root, &["hello", "-n"]).code(0).shows(&["its source has changed since it was built"]);
}

#[test]
fn a_path_is_not_the_name_of_a_module() {
    let root = settled();
    rebuild(&root, &["./hello"]).code(3).says(&["./hello is a path", "dkms add ./hello", "rebuild NAME"]);
    assert_eq!(root.calls(), Vec::<String>::new());
}
