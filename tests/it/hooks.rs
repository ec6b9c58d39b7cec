//! PRE_INSTALL and POST_INSTALL in an image: the image is `/`, and this machine is not touched.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::add::fixture;
use crate::support::run::set_mode;
use crate::support::{B, TestRoot};

/// A shell and its libraries, for an image that has programs of its own.
pub(crate) fn with_shell(root: &TestRoot) {
    root.directory("usr/bin").directory("usr/lib64").link("bin", "usr/bin").link("lib64", "usr/lib64");
    let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    for file in libraries.chain(["/bin/sh"]) {
        let target = root.at(file);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}

fn with_hook(root: &TestRoot, directive: &str, script: &str) {
    root.module("hello", "1.0", &format!("{directive}=\"sub/hook.sh one two\"\n"));
    root.file("usr/src/hello-1.0/sub/hook.sh", script).file("usr/src/hello-1.0/rule", "KERNEL==\"x\"\n");
    set_mode(&root.at("usr/src/hello-1.0/sub/hook.sh"), 0o755);
    root.directory("etc/udev/rules.d");
}

#[test]
fn what_a_script_writes_is_in_the_image() {
    for (directive, name) in
        [("PRE_INSTALL", "an-image"), ("POST_INSTALL", "an-image"), ("POST_INSTALL", "[x]")]
    {
        let root = TestRoot::updated_named(name);
        with_shell(&root);
        let outside = root.outside().join("written");
        let script = format!(
            "#!/bin/sh\nread -r rule <rule\necho \"$rule $*\" >/etc/udev/rules.d/99-hello.rules\n\
             [ -c /dev/null ] && [ -e /proc/self/stat ] && echo yes >/etc/furnished\n\
             echo x >/run/hook-was-here; echo x >/tmp/hook-was-here; echo x >{}\nexit 0\n",
            outside.display()
        );
        with_hook(&root, directive, &script);
        // clr-boot-manager cannot work below a path with a bracket.
        let code = i32::from(name.contains('['));
        root.post_update().code(code);
        assert_eq!(root.text("etc/udev/rules.d/99-hello.rules"), "KERNEL==\"x\" one two\n");
        assert_eq!(root.text("etc/furnished"), "yes\n");
        assert!(!outside.exists());
        for path in ["/run/hook-was-here", "/tmp/hook-was-here", "/etc/udev/rules.d/99-hello.rules"] {
            assert!(!Path::new(path).exists(), "{path}");
        }
        for path in ["run/hook-was-here", "tmp/hook-was-here", "proc/self"] {
            assert!(!root.has(path), "{path}");
        }
        let log = root.text(&format!("var/log/clr-dkms/hello/1.0/{B}.log"));
        assert!(log.contains(&format!("{directive} of hello/1.0, with the image as /")), "{log}");
        // dkms is not asked to run it too.
        let installs =
            root.calls().into_iter().filter(|call| call.starts_with("dkms install")).collect::<Vec<_>>();
        let left_out = format!("--directive {directive}=");
        assert!(installs.len() == 1 && installs[0].ends_with(&left_out), "{installs:?}");
        root.post_update().code(code);
        assert!(root.has(&TestRoot::ko("hello", B)));
    }
}

#[test]
fn a_script_that_cannot_be_run_in_the_image_is_reported() {
    let root = TestRoot::updated();
    with_hook(&root, "POST_INSTALL", "#!/usr/bin/python3\nprint()\n");
    let what = "POST_INSTALL of hello/1.0 was not run: its interpreter /usr/bin/python3 is not in the image";
    root.run("clr-dkms", &["rebuild"]).code(1).says(&[what]);
    remembered(&root, what);
}

/// The module itself is there, and what its script has not done is not forgotten until it is done.
#[track_caller]
fn remembered(root: &TestRoot, what: &str) {
    for _ in 0..2 {
        assert_eq!(root.recorded("hello", B), "hook-failed");
        let document = root.run("clr-dkms", &["status", "--json"]).code(1).json();
        assert!(document["problems"].to_string().contains(what), "{}", document["problems"]);
        root.forget_calls().post_update().code(1);
        assert!(!root.short_calls().iter().any(|call| call.starts_with("build")), "{:?}", root.short_calls());
    }
}

#[test]
fn a_script_that_fails_after_the_installation_is_reported_until_it_succeeds() {
    let root = TestRoot::updated();
    with_shell(&root);
    with_hook(&root, "POST_INSTALL", "#!/bin/sh\nexit 7\n");
    root.post_update().code(1);
    remembered(&root, "POST_INSTALL of hello/1.0: exit code 7");
    root.file("usr/src/hello-1.0/sub/hook.sh", "#!/bin/sh\nexit 0\n");
    set_mode(&root.at("usr/src/hello-1.0/sub/hook.sh"), 0o755);
    root.run("clr-dkms", &["rebuild", "hello", "--force"]).code(0);
    assert_eq!(root.recorded("hello", B), "ok");
}

#[test]
fn add_and_import_report_a_script_that_was_not_run() {
    let root = TestRoot::updated();
    let source = root.outside().join("dkms_source_tree");
    let copied = Command::new("cp").arg("-r").arg(fixture("conf-at-top")).arg(&source).status();
    assert!(copied.unwrap().success());
    let conf = std::fs::read_to_string(source.join("dkms.conf")).unwrap();
    std::fs::write(source.join("dkms.conf"), conf + "POST_INSTALL=\"hook.sh\"\n").unwrap();
    std::fs::write(source.join("hook.sh"), "#!/bin/sh\nexit 0\n").unwrap();
    set_mode(&source.join("hook.sh"), 0o644);
    let archive = root.outside().join("hello.tar.gz").display().to_string();
    let mut tar = Command::new("tar");
    tar.args(["-czf", &archive, "-C"]).arg(root.outside()).arg("dkms_source_tree");
    assert!(tar.status().unwrap().success());
    for (verb, from) in [("add", source.display().to_string()), ("import", archive)] {
        let root = TestRoot::updated();
        root.directory("var/tmp");
        let document = root.run("clr-dkms", &[verb, &from, "--yes", "--json"]).code(1).json();
        let of_module = if verb == "add" { &document } else { &document["archives"][0] };
        let steps = of_module["steps"].as_array().unwrap();
        let what = "POST_INSTALL of hello/1.0 ";
        let is_it =
            |step: &&Value| step["step"] == "install" && step["text"].as_str().unwrap().contains(what);
        let step = steps.iter().find(is_it).unwrap_or_else(|| panic!("{document:#}"));
        assert_eq!(step["result"], "warning", "{document:#}");
        let next = step["next_step"].as_str().unwrap();
        assert!(next.contains(&format!("clr-dkms rebuild hello -k {B} --force")), "{next}");
        assert!(root.has(&TestRoot::ko("hello", B)) && root.has("usr/src/hello-1.0/hook.sh"), "{verb}");
        assert_eq!(root.recorded("hello", B), "hook-failed");
    }
}

/// dkms only warns of it.
#[test]
fn a_script_that_dkms_goes_on_without_is_reported() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    root.behave("[[ $verb != build ]] || echo 'Warning: The pre_build script is not executable.' >&2");
    root.post_update().code(1);
    remembered(&root, "PRE_BUILD of hello/1.0 is not an executable file");
}

#[test]
fn a_script_that_fails_before_the_installation_prevents_it() {
    let root = TestRoot::updated();
    with_shell(&root);
    with_hook(&root, "PRE_INSTALL", "#!/bin/sh\nexit 7\n");
    root.post_update().code(1).says(&["PRE_INSTALL of hello/1.0: exit code 7"]);
    assert!(!root.has(&TestRoot::ko("hello", B)));
    assert!(root.short_calls().iter().all(|call| !call.starts_with("install")), "{:?}", root.short_calls());
}

#[test]
fn what_is_not_executable_is_left_out_as_by_dkms_and_reported() {
    let root = TestRoot::updated();
    with_hook(&root, "POST_INSTALL", "#!/bin/sh\nexit 7\n");
    set_mode(&root.at("usr/src/hello-1.0/sub/hook.sh"), 0o644);
    root.post_update().code(1);
    remembered(&root, "POST_INSTALL of hello/1.0 is not an executable file");
    let log = root.text(&format!("var/log/clr-dkms/hello/1.0/{B}.log"));
    assert!(log.contains("POST_INSTALL of hello/1.0 is not an executable file"), "{log}");
}
