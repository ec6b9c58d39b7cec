//! Which work there is, in which order, and how it is reported.

use std::fs;

use clr_dkms::context::Context;
use clr_dkms::dkms::plan::{State, decide};
use clr_dkms::dkms::{Cache, Decision};
use clr_dkms::sys::{Clock, Root, RootKind, Tools};
use clr_dkms::system::System;

use crate::support::guard::ID_A;
use crate::support::{A, B, LTS, TestRoot, elf, tree};

/// Kernel and module of each planned line.
fn planned(root: &TestRoot, arguments: &[&str]) -> Vec<String> {
    let run = root.run("clr-dkms", &[&["rebuild", "-n"], arguments].concat());
    let text = run.code(0).stdout.clone();
    text.lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| Some(line.split(": ").next()?.to_owned()))
        .collect()
}

#[test]
fn the_next_boot_comes_first_and_what_others_are_built_upon() {
    let root = TestRoot::updated();
    root.kernel(LTS).headers(LTS).tip(LTS);
    root.module("base", "1.9", "").module("base", "1.10", "").module("all", "1", "BUILD_DEPENDS[0]=base\n");
    let on = |release: &str| [format!("base/1.10 on {release}"), format!("all/1 on {release}")];
    assert_eq!(planned(&root, &[]), [on(B), on(LTS)].concat());
    // Whatever the boot manager would make the default: the boot loader says what comes next.
    root.entry("org.clearlinux.ltscurrent.6.12.38-1550", "", true);
    assert_eq!(planned(&root, &[]), [on(LTS), on(B)].concat());
    assert_eq!(planned(&root, &["--all-kernels"]), [on(LTS), on(A), on(B)].concat());
    // A new boot default would change the order.
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\njobs = 1\n[boot]\nupdate = no\n").post_update();
    let builds: Vec<String> = root.short_calls().into_iter().filter(|c| c.starts_with("build")).collect();
    assert_eq!(builds, [LTS, B].map(|k| [format!("build base {k}"), format!("build all {k}")]).concat());
}

/// The module is there for anyone that is built upon it; only depmod is due.
#[test]
fn what_only_the_index_does_not_list_is_there_to_build_upon() {
    let root = TestRoot::updated();
    root.module("base", "1", "").module("all", "1", "BUILD_DEPENDS[0]=base\n").installed("base", "1", B);
    root.index(B, "kernel/own.ko:\n");
    root.run("clr-dkms", &["rebuild", "all"])
        .code(0)
        .shows(&[&format!("all/1 on {B}: ok (built in 0.0 s)\n")]);
}

#[test]
fn what_is_built_upon_a_circle_is_not_in_it() {
    let root = TestRoot::updated();
    for (name, needs) in [("all", "one"), ("one", "two"), ("two", "one"), ("more", "all")] {
        root.module(name, "1", &format!("BUILD_DEPENDS[0]={needs}\n"));
    }
    let cycle = "BUILD_DEPENDS leads back to the module itself (a dependency cycle)";
    root.post_update().code(1).says(&[
        &format!("one/1 on {B}: dependency-failed: {cycle}"),
        &format!("two/1 on {B}: dependency-failed: {cycle}"),
        &format!("all/1 on {B}: dependency-failed: it depends on one, which is not there"),
        &format!("more/1 on {B}: dependency-failed: it depends on all, which is not there"),
    ]);
}

/// dkms says that it is done, and leaves the file of another version: it is called again, with force.
#[test]
fn one_attempt_has_one_log() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    root.module("hello", "2.0", "");
    root.behave("[[ $verb != install || $force ]] || { ln -sfn \"$version/$kernel/$(uname -m)\" \"$claim\"; exit 0; }");
    root.forget_calls().post_update().code(0);
    let calls = ["build hello", "install hello", "install hello"].map(|call| format!("{call} {B}"));
    assert_eq!(
        root.short_calls()[..3],
        [&calls[0], &calls[1], &(calls[2].clone() + " --force")].map(Clone::clone)
    );
    let log = format!("var/log/clr-dkms/hello/2.0/{B}.log");
    let text = root.text(&log);
    assert!(text.find("dkms build").unwrap() < text.find("--force").unwrap(), "{text}");
    assert!(!root.has(&format!("{log}.1")));
}

#[test]
fn a_repair_is_reported_as_drift() {
    let root = TestRoot::updated();
    let first = root.module("hello", "1.0", "").post_update();
    assert!(!first.code(0).stderr.contains("drift"), "{}", first.stderr);
    root.file(&TestRoot::ko("hello", B), elf::module(B));
    let shown = format!("drift: hello/1.0 on {B}: hello.ko was altered: reinstalled");
    root.post_update().code(0).says(&[&shown]);
    root.index(B, "kernel/own.ko:\n");
    let shown = format!("drift: hello/1.0 on {B}: hello.ko was not in modules.dep: indexed again");
    root.post_update().code(0).says(&[&shown]);
    // What could not be healed is a failure, and no drift.
    root.file(&TestRoot::ko("hello", B), "").behave("[[ $verb != install ]] || code=6");
    let run = root.post_update();
    assert!(!run.code(1).says(&["build-failed"]).stderr.contains("drift"), "{}", run.stderr);
}

#[test]
fn without_a_compiler_nothing_is_tried() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").module("there", "1", "").installed("there", "1", A);
    root.entry(ID_A, "quiet rw module.sig_unenforce", true);
    let mut tools = Tools::from_environment();
    for program in ["gcc", "cc"] {
        tools.name(program, std::path::Path::new("/nowhere/cc"));
    }
    let context = Context {
        root: Root::open(RootKind::LiveCopy, root.path()).unwrap(),
        tools,
        clock: Clock::from_environment(),
        settings: clr_dkms::config::Settings::default(),
    };
    let system = System::observe(&context, &mut Cache::default());
    let decisions: Vec<Decision> = system.modules_on_kernels.iter().map(decide).collect();
    let why = "to build it, the compiler gcc must be installed".to_owned();
    assert_eq!(decisions, [Decision::Leave { state: State::CompilerMissing, why }, Decision::Proven]);
    let document = clr_dkms::report::document(
        &system,
        &clr_dkms::state::Stored::Absent,
        &clr_dkms::report::Progress::None,
        &context.settings,
        context.clock.now(),
    );
    assert!(document.next_step.unwrap().contains("`sudo swupd bundle-add c-basic`"));
}

/// What a record says of the headers is over once they have come.
#[test]
fn what_is_seen_on_the_disk_is_not_taken_from_the_record() {
    let root = TestRoot::updated();
    root.remove(&format!("usr/lib/modules/{B}/build")).module("hello", "1.0", "").post_update();
    assert_eq!(root.recorded("hello", B), "headers-missing");
    root.headers(B);
    let status = root.run("clr-dkms", &["status", "--json"]).json();
    assert_eq!(status["modules"][0]["state"], "not-built", "{status:#}");
}

/// dkms asks `[[ -d … ]]`, so a symlink to a directory is as good as one.
#[test]
fn a_module_directory_that_is_a_symlink() {
    for (link, text) in [
        ("var/lib/dkms/hello", "../modules/hello"),
        ("var/lib/dkms/hello/1.0", "../../modules/hello-1.0"),
        ("var/lib/dkms", "modules"),
    ] {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "");
        let target = root.at(link).parent().unwrap().join(text);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::rename(root.at(link), &target).unwrap();
        root.link(link, text).post_update().code(0);
        assert_eq!(root.recorded("hello", B), "ok", "{link}");
        assert!(root.has(&TestRoot::ko("hello", B)), "{link}");
        root.forget_calls().post_update().code(0);
        assert_eq!(root.calls(), Vec::<String>::new(), "{link}");
    }
}

/// Below a root, what a symlink leads to outside of it is not there; nothing is read or written outside.
#[test]
fn a_module_directory_that_is_a_symlink_out_of_the_root() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").module("other", "1.0", "");
    let outside = root.outside().join("other");
    fs::create_dir_all(root.outside()).unwrap();
    fs::rename(root.at("var/lib/dkms/other"), &outside).unwrap();
    root.link("var/lib/dkms/other", &outside);
    let before = tree::read(&root.outside());
    root.post_update();
    assert!(root.calls().iter().all(|call| !call.contains("-m other")), "{:?}", root.calls());
    let after = tree::read(&root.outside());
    assert_eq!(tree::difference(&before, &after, true), Vec::<String>::new());
    assert_eq!(root.recorded("hello", B), "ok");
}

#[test]
fn the_configuration_of_a_kernel_may_be_as_large_as_that_of_a_distribution() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    let config = [b"CONFIG_CC_IS_CLANG=y\n".as_slice(), &[b'#'; 300 << 10]].concat();
    root.file(&format!("usr/lib/modules/{B}/build/.config"), config);
    let status = root.run("clr-dkms", &["status", "--json"]).json().to_string();
    assert!(status.contains("to build it, the compiler clang must be installed"), "{status}");
    assert!(!status.contains("larger than"), "{status}");
}
