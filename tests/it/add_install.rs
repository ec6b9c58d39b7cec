//! `clr-dkms add`: what it registers, installs and loads, what it leaves on disk, and what it takes back.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::add::{add, copy, fixture, system, tar};
use crate::support::run::{command, set_mode};
use crate::support::tree::{self, difference};
use crate::support::{A, B, LTS, TestRoot, cases, few_or};

#[test]
fn a_source_is_installed_and_the_same_one_again_is_nothing_to_do() {
    use std::os::unix::fs::MetadataExt;
    let root = system();
    let source = copy(&root, "conf-at-top", "hello");
    set_mode(&source.join("hello.c"), 0o6777);
    add(&root, &source, &["--yes"]).code(0).shows(&["built and proven in scratch", "installed and proven"]);
    let installed = root.at("usr/src/hello-1.0/hello.c").metadata().unwrap();
    assert_eq!(installed.mode() & 0o7777, 0o755);
    assert_eq!(root.text("usr/src/hello-1.0/Makefile"), "obj-m := hello.o\n");
    for kernel in [A, B] {
        assert_eq!(root.has(&TestRoot::ko("hello", kernel)), kernel == B, "{kernel}");
    }
    assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0);
    let before = root.tree();
    add(&root, &source, &["--yes"]).code(0).shows(&["registered already", "nothing to do"]);
    let changes = difference(&before, &root.tree(), false);
    assert!(
        !changes.iter().any(|change| change.contains("usr/src") || change.contains("/hello")),
        "{changes:?}"
    );
}

#[test]
fn a_kernel_that_the_module_excludes_is_named() {
    let with = |root: &TestRoot, line: &str| {
        let source = copy(root, "conf-at-top", "hello");
        let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
        fs::write(source.join("dkms.conf"), conf + line).unwrap();
        source
    };
    // On every kernel.
    let root = system();
    let source = with(&root, "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    let run = add(&root, &source, &["--dry-run", "--no-build"]);
    run.code(1).shows(&["would be registered, and installed on none of"]);
    let run = add(&root, &source, &["--yes", "--no-build", "--json"]);
    let document = run.code(1).json();
    assert_eq!(document["installed"], false, "{document:#}");
    let steps = document["steps"].as_array().unwrap();
    let step = steps.iter().rfind(|step| step["step"] == "install").unwrap();
    assert_eq!(step["result"], "warning", "{document:#}");
    assert!(root.has("usr/src/hello-1.0") && !root.has(&TestRoot::ko("hello", B)));
    // On one of two.
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS);
    let source = with(&root, "BUILD_EXCLUSIVE_KERNEL=\"^6\\.15\\.\"\n");
    let excluded = format!("skipped: {LTS}: BUILD_EXCLUSIVE");
    let run = add(&root, &source, &["--dry-run", "--no-build"]);
    run.code(0).shows(&[&format!("would be done: on {B}"), &format!("install   {excluded}")]);
    assert!(!run.stdout.contains(&format!("on {LTS}")), "{}", run.stdout);
    let run = add(&root, &source, &["--yes", "--no-build"]);
    run.code(0).shows(&[&format!("{B}: installed and proven"), &excluded]);
    assert!(root.has(&TestRoot::ko("hello", B)) && !root.has(&TestRoot::ko("hello", LTS)));
}

/// Each line of the plan is what the run then does.
#[test]
fn a_dry_run_says_what_the_run_does() {
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS);
    let source = copy(&root, "conf-at-top", "hello");
    let planned = |root: &TestRoot| {
        let run = add(root, &source, &["--dry-run", "--json"]);
        let document = run.json();
        let steps = document["steps"].as_array().unwrap().iter();
        let steps = steps.filter(|step| ["register", "install"].contains(&step["step"].as_str().unwrap()));
        let word = |step: &serde_json::Value, key: &str| step[key].as_str().unwrap().to_owned();
        let texts = steps.map(|step| format!("{}: {}", word(step, "result"), word(step, "text")));
        (run.code, texts.collect::<Vec<_>>())
    };
    // An override of the admin counts once the module is registered.
    let file = format!("etc/dkms/hello-1.0-{LTS}.conf");
    root.file(&file, "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    let (code, lines) = planned(&root);
    assert_eq!((code, &lines[1]), (0, &format!("planned: on {B}")), "{lines:?}");
    assert!(lines[2].starts_with(&format!("skipped: {LTS}: BUILD_EXCLUSIVE_KERNEL")), "{lines:?}");
    add(&root, &source, &["--yes", "--no-build"]).code(0).shows(&[&format!("skipped: {LTS}: BUILD_EX")]);
    // What is there already.
    let (code, lines) = planned(&root);
    assert_eq!(code, 0, "{lines:?}");
    let there =
        ["skipped: hello/1.0 is registered already", &format!("skipped: {B}: it is installed already")];
    assert_eq!(lines[..2], there, "{lines:?}");
    // Without headers the run fails.
    root.remove(&file).remove(&format!("usr/lib/modules/{LTS}/build"));
    let (code, lines) = planned(&root);
    assert_eq!((code, &lines[2]), (1, &format!("failed: {LTS}: the kernel's headers are not installed")));
}

#[test]
fn a_file_of_another_module_is_found_before_anything_is_registered() {
    let root = system();
    root.module("other", "1", "BUILT_MODULE_NAME[0]=hello\n").post_update().code(0);
    let source = copy(&root, "conf-at-top", "hello");
    let conflict = format!("failed: {B}: hello.ko on this kernel is that of");
    add(&root, &source, &["--dry-run"])
        .code(1)
        .shows(&[&conflict, "other/1, and only one module can have it"]);
    let before = root.tree();
    add(&root, &source, &["--yes"]).code(1).shows(&[&conflict]);
    let changes = difference(&before, &root.tree(), false);
    assert!(!changes.iter().any(|change| change.contains("hello-1.0")), "{changes:?}");
    assert!(root.calls().iter().all(|call| !call.contains("dkms install -m hello ")), "{:?}", root.calls());
}

/// As dkms does, the stand-in leaves with 77 for a kernel that is excluded.
#[test]
fn a_kernel_that_the_module_excludes_is_not_built_for() {
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS).behave(&format!("[[ $kernel == {B} ]] || code=77"));
    let source = copy(&root, "conf-at-top", "hello");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    let with = |line: &str| fs::write(source.join("dkms.conf"), format!("{conf}{line}\n")).unwrap();
    with("BUILD_EXCLUSIVE_KERNEL=\"^5\"");
    let document = add(&root, &source, &["--yes", "--json"]).code(1).json();
    let steps = document["steps"].as_array().unwrap();
    let failed = steps.iter().find(|step| step["result"] == "failed").unwrap();
    assert_eq!((&failed["step"], &failed["evidence"]["line"]), (&"build".into(), &6.into()), "{document:#}");
    assert!(!root.has("usr/src/hello-1.0"));
    with("BUILD_EXCLUSIVE_KERNEL=\"^6\\.15\\.\"");
    let run = add(&root, &source, &["--yes"]);
    run.code(0).shows(&[&format!("{B}: built and proven in scratch"), &format!("{B}: installed and proven")]);
}

#[test]
fn each_kernel_has_its_own_value_of_the_conf() {
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS);
    let source = copy(&root, "conf-at-top", "hello");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    // The stand-in knows the kernel by another name.
    let second = "BUILT_MODULE_NAME[1]=second\n\
        [[ ${kernelver:-$kernel} == 6.12.* ]] || BUILT_MODULE_NAME[1]=other\nDEST_MODULE_LOCATION[1]=/extra\n";
    fs::write(source.join("dkms.conf"), conf + second).unwrap();
    add(&root, &source, &["--yes"]).code(0).shows(&["built and proven in scratch"]);
    assert!(root.has(&TestRoot::ko("second", LTS)) && !root.has(&TestRoot::ko("second", B)));
    assert!(root.has(&TestRoot::ko("other", B)) && !root.has(&TestRoot::ko("other", LTS)));
}

#[test]
fn without_a_confirmation_nothing_is_installed() {
    let root = system();
    let run = add(&root, &fixture("conf-at-top"), &[]);
    run.code(1).shows(&["--yes confirms", "PACKAGE_NAME=\"hello\""]);
    assert!(!root.has("usr/src/hello-1.0") && !root.has("var/lib/dkms/hello"));
}

#[test]
fn another_source_of_that_name_is_not_overwritten() {
    let root = system();
    root.file("usr/src/hello-1.0/mine", "mine\n");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(1).shows(&["with other contents"]);
    assert_eq!(root.text("usr/src/hello-1.0/mine"), "mine\n");
    assert!(!root.has("var/lib/dkms/hello") && !root.has("usr/src/hello-1.0/hello.c"));
}

#[test]
fn another_version_is_replaced_on_request_only() {
    let root = system();
    root.module("hello", "0.9", "").installed("hello", "0.9", A).installed("hello", "0.9", B);
    root.link("var/lib/dkms/hello/0.9/source", "../../../../../usr/src/hello-0.9");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(1).shows(&["--replace"]);
    assert!(!root.has("usr/src/hello-1.0"));
    add(&root, &fixture("conf-at-top"), &["--yes", "--replace"]).code(0);
    assert!(root.has("var/lib/dkms/hello/1.0/source") && !root.has("var/lib/dkms/hello/0.9"));
    for kernel in [A, B] {
        let file = fs::read(root.at(&TestRoot::ko("hello", kernel))).unwrap();
        assert!(file.ends_with(b"hello/1.0"), "{kernel}");
    }
    // dkms would go on building the newer one.
    let older = copy(&root, "conf-at-top", "older");
    add(&root, &older, &["--yes", "--replace", "--version", "0.1"]).code(1).shows(&["which is newer"]);
    assert!(root.has("var/lib/dkms/hello/1.0/source") && !root.has("usr/src/hello-0.1"));
}

#[test]
fn after_a_failure_nothing_stays() {
    for (behaviour, more, expected) in [
        // The build in scratch fails.
        ("[[ $verb != build ]] || { code=10; said='hello.c:1:5: error: no'; }", &[][..], "hello.c:1:"),
        // The installation fails.
        ("[[ $verb != install ]] || code=6", &["--no-build"], "failed"),
        // The file is for another kernel.
        ("made_for=6.15.7-1591.native", &[], "was made"),
    ] {
        let root = system();
        root.behave(behaviour);
        let run = add(&root, &fixture("conf-at-top"), &[&["--yes"], more].concat());
        run.code(1).shows(&[expected]);
        for path in ["usr/src/hello-1.0", "usr/src/.hello-1.0.clr-dkms-add", "var/lib/dkms/hello"] {
            assert!(!root.has(path), "{path} after {behaviour}");
        }
        assert!(![A, B].iter().any(|kernel| root.has(&TestRoot::ko("hello", kernel))), "{behaviour}");
        assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0);
    }
}

#[test]
fn what_a_killed_run_left_is_replaced() {
    let root = system();
    root.file("usr/src/.hello-1.0.clr-dkms-add/half", "half\n");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(0);
    assert!(!root.has("usr/src/.hello-1.0.clr-dkms-add") && !root.has("usr/src/hello-1.0/half"));
    // Killed between the copy and the registration.
    root.remove("var/lib/dkms/hello");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(0);
    assert!(root.has("var/lib/dkms/hello/1.0/source"));
}

#[test]
fn killed_at_any_moment_the_source_is_absent_or_complete_and_the_next_run_finishes() {
    let whole = system();
    add(&whole, &fixture("conf-at-top"), &["--yes"]).code(0);
    let expected = tree::read(&whole.at("usr/src/hello-1.0"));
    let contents = |tree: &tree::Tree| {
        tree.iter().map(|(name, entry)| (name.clone(), entry.what.clone())).collect::<Vec<_>>()
    };
    let mut killed = 0;
    for milliseconds in cases((0..40).map(|n| 30 + n * 60), few_or(17, 7)) {
        let root = system();
        let mut command = command("clr-dkms", &root.tools());
        command.arg("add").arg(fixture("conf-at-top")).args(["--yes", "--live-root"]).arg(root.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        let source = root.at("usr/src/hello-1.0");
        assert!(
            !source.exists() || contents(&tree::read(&source)) == contents(&expected),
            "{milliseconds} ms"
        );
        assert!(source.exists() || !root.has("var/lib/dkms/hello"), "{milliseconds} ms");
        add(&root, &fixture("conf-at-top"), &["--yes"]).code(0);
        assert_eq!(contents(&tree::read(&source)), contents(&expected), "{milliseconds} ms");
        assert!(root.has(&TestRoot::ko("hello", B)), "{milliseconds} ms");
        assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0, "{milliseconds} ms");
    }
    assert!(killed > 0);
}

#[test]
fn a_run_that_is_asked_to_stop_says_so() {
    for verb in ["add", "import"] {
        let root = system();
        let source = match verb {
            "add" => fixture("conf-at-top"),
            _ => {
                let source = copy(&root, "conf-at-top", "dkms_source_tree");
                let archive = root.outside().join("hello.tar.gz");
                tar(&source, &archive, &["-z"]);
                archive
            }
        };
        let mut command =
            root.command("clr-dkms", &[verb, &source.display().to_string(), "--dry-run", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // It begins with a scratch directory.
        while fs::read_dir(root.at("var/tmp")).unwrap().count() == 0 {
            assert!(child.try_wait().unwrap().is_none(), "{verb} ended before it began");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let done = child.wait_with_output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert_eq!(done.status.code(), Some(1), "{text}");
        assert!(text.contains("the run was asked to stop: nothing has been changed"), "{text}");
        assert!(!text.contains("\"planned\"") && !root.has("usr/src/hello-1.0"), "{text}");
        assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0);
    }
}

/// A system with one kernel, which runs, and a stand-in for modprobe.
fn loading(modprobe: &str) -> TestRoot {
    let root = TestRoot::system();
    root.directory("var/tmp").file("proc/modules", "");
    let script = format!("#!/bin/bash\ncd \"${{0%/var/lib/dkms/*}}\" || exit 1\n{modprobe}\n");
    let path = root.tools().join("modprobe");
    fs::write(&path, script).unwrap();
    set_mode(&path, 0o755);
    root
}

#[test]
fn a_module_is_loaded_on_request() {
    let root = loading(
        "echo \"$2 16384 0 - Live 0x0000000000000000 (OE)\" >>proc/modules\n\
         mkdir -p sys/module/hello/drivers sys/bus/usb/drivers/hello\n\
         ln -s ../../../bus/usb/drivers/hello sys/module/hello/drivers/usb:hello\n\
         ln -s ../../../../module/hello sys/bus/usb/drivers/hello/module\n\
         ln -s ../../../../devices/1-1:1.0 sys/bus/usb/drivers/hello/1-1:1.0\n\
         touch sys/bus/usb/drivers/hello/bind",
    );
    let run = add(&root, &fixture("conf-at-top"), &["--yes", "--load"]);
    run.code(0).shows(&["hello is loaded, marked OE by the kernel; it drives 1-1:1.0"]);
    let run = add(&root, &fixture("conf-at-top"), &["--yes", "--load"]);
    run.code(0).shows(&["hello was loaded before"]);
    let last = run.stdout.lines().last().unwrap_or_default().to_owned();
    assert_eq!(last, "undo: run `sudo clr-dkms remove hello/1.0`");
}

#[test]
fn a_module_that_the_kernel_refuses_stays_installed() {
    let root = loading("echo 'modprobe: ERROR: could not insert hello: Exec format error' >&2; exit 1");
    let run = add(&root, &fixture("conf-at-top"), &["--yes", "--load"]);
    run.code(1).shows(&["hello is not loaded", "Exec format error"]);
    assert!(root.has(&TestRoot::ko("hello", A)));
}

#[test]
fn nothing_is_loaded_for_an_image_or_another_kernel() {
    // The kernel that an update brought has it, the running one does not.
    let root = system();
    add(&root, &fixture("conf-at-top"), &["--yes", "--load"])
        .code(1)
        .shows(&[&format!("{A}, does not have")]);
    let image = root.path().display().to_string();
    let source = fixture("conf-at-top").display().to_string();
    let on_image = |more: &[&str]| {
        let mut command = command("clr-dkms", &root.tools());
        command.args(["add", &source, "--yes", "--root", &image]).args(more).output().unwrap()
    };
    assert_eq!(on_image(&["--load"]).status.code(), Some(64));
    let done = on_image(&[]);
    let text = String::from_utf8(done.stdout).unwrap();
    let undo = format!("undo: run `sudo clr-dkms remove hello/1.0 --root {image}`");
    assert_eq!(text.lines().last(), Some(undo.as_str()), "{text}");
}

#[test]
fn a_module_that_the_kernel_has_is_replaced_on_request() {
    for (list, said) in
        [("modules.dep", "has a module hello"), ("modules.builtin", "has built in a module hello")]
    {
        let root = system();
        let file = format!("usr/lib/modules/{B}/{list}");
        let ending = if list == "modules.dep" { ":" } else { "" };
        let text = if root.has(&file) { root.text(&file) } else { String::new() };
        root.file(&file, text + &format!("kernel/drivers/hello.ko{ending}\n"));
        let run = add(&root, &fixture("conf-at-top"), &["--yes", "--json"]);
        let document = run.code(1).json();
        assert_eq!(document["in_kernel"], serde_json::json!(["hello"]), "{document:#}");
        let steps = document["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["step"] == "available").unwrap();
        assert!(step["text"].as_str().unwrap().contains(said), "{step}");
        assert!(!root.has("usr/src/hello-1.0"));
    }
    let root = system();
    root.file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/drivers/hello.ko\n");
    add(&root, &fixture("conf-at-top"), &["--yes", "--replace"]).code(0);
}
