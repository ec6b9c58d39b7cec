//! Modules that make a file of one name: one of them has it, for good.

use std::fs;

use crate::support::tree::difference;
use crate::support::{B, TestRoot};

const SHARED: &str = "BUILT_MODULE_NAME[0]=shared\n";

/// A run that has nothing to do and says again what is wrong.
#[track_caller]
fn rests(root: &TestRoot) {
    let before = root.tree();
    root.forget_calls().post_update().code(1).says(&["conflict"]);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
    assert_eq!(root.calls(), Vec::<String>::new());
}

/// Whose file it is, as the stand-in for dkms marks it.
#[track_caller]
fn is_of(root: &TestRoot, file: &str, module: &str) {
    assert!(
        fs::read(root.at(&TestRoot::ko(file, B))).unwrap().ends_with(module.as_bytes()),
        "not of {module}"
    );
}

#[test]
fn who_has_it_proven_keeps_it() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    // By name this one would come first.
    root.module("bello", "2", "BUILT_MODULE_NAME[0]=hello\n");
    root.post_update().code(1);
    rests(&root);
    is_of(&root, "hello", "hello/1.0");
    assert_eq!((root.recorded("hello", B), root.recorded("bello", B)), ("ok".into(), "conflict".into()));
    let why = format!(
        "bello/2 is not ready for kernel {B} (conflict): hello.ko on this kernel is that of hello/1.0"
    );
    let status = root.run("clr-dkms", &["status", "--json"]).json();
    assert!(status["problems"][0].as_str().unwrap().starts_with(&why), "{status:#}");
    assert!(status["next_step"].as_str().unwrap().contains("`sudo dkms remove bello/2 --all`"), "{status:#}");
    assert!(root.text("run/motd.d/clr-dkms.motd").contains("bello/2 is not ready"));
    for arguments in [&["rebuild", "bello"][..], &["rebuild", "bello", "--force"]] {
        let shown = format!("bello/2 on {B}: conflict: hello.ko on this kernel is that of\n    hello/1.0");
        root.forget_calls().run("clr-dkms", arguments).code(1).shows(&[&shown]);
        assert_eq!(root.calls(), Vec::<String>::new());
    }
    // With all of them named or none, the one that has it is built again, and the other one is not.
    root.run("clr-dkms", &["rebuild", "--force"]);
    assert_eq!(root.short_calls()[0], format!("build hello {B}"));
    is_of(&root, "hello", "hello/1.0");
}

#[test]
fn of_two_new_ones_the_first_by_name_gets_it() {
    let root = TestRoot::updated();
    root.module("zeta", "1", SHARED).module("alpha", "1", SHARED).post_update().code(1);
    assert!(!root.short_calls().iter().any(|call| call.contains("zeta")), "{:?}", root.short_calls());
    is_of(&root, "shared", "alpha/1");
    rests(&root);
    // Without it, the other one has its turn.
    root.remove("var/lib/dkms/alpha").remove(&TestRoot::ko("shared", B)).forget_calls().post_update().code(0);
    is_of(&root, "shared", "zeta/1");
    assert_eq!(root.recorded("zeta", B), "ok");
}

/// As runs of before left it: dkms says that both are installed.
#[test]
fn two_that_dkms_says_are_installed() {
    for (gone, winner) in [(false, "zeta/1"), (true, "alpha/1")] {
        let root = TestRoot::updated();
        for name in ["alpha", "zeta"] {
            root.module(name, "1", SHARED);
            root.installed(name, "1", B);
            let bytes = fs::read(root.at(&TestRoot::ko(name, B))).unwrap();
            let built = TestRoot::build(name, "1", B);
            root.remove(&TestRoot::ko(name, B)).remove(&format!("{built}/module/{name}.ko"));
            root.file(&format!("{built}/module/shared.ko"), &bytes).file(&TestRoot::ko("shared", B), &bytes);
        }
        root.index(B, "updates/dkms/shared.ko:\n");
        if gone {
            root.remove(&TestRoot::ko("shared", B));
        }
        root.post_update().code(1);
        is_of(&root, "shared", winner);
        rests(&root);
    }
}

/// modprobe knows no difference between them, and depmod lists only one.
#[test]
fn dash_and_underscore_are_one_letter() {
    let root = TestRoot::updated();
    root.module("alpha", "1", "BUILT_MODULE_NAME[0]=a_b\n").module("beta", "1", "BUILT_MODULE_NAME[0]=a-b\n");
    root.post_update().code(1);
    assert_eq!(root.recorded("beta", B), "conflict");
    rests(&root);
}

#[test]
fn what_was_installed_by_hand_keeps_its_file() {
    let root = TestRoot::updated();
    root.module("quiet", "1", "AUTOINSTALL=\"\"\nBUILT_MODULE_NAME[0]=quiet\n").installed("quiet", "1", B);
    root.module("eager", "1", "BUILT_MODULE_NAME[0]=quiet\n").post_update().code(1);
    is_of(&root, "quiet", "quiet/1");
    assert_eq!(root.recorded("eager", B), "conflict");
    rests(&root);
}

/// Its dkms.conf does not say any more what it makes, but the file is the one that it built.
#[test]
fn a_broken_one_keeps_its_file() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", B);
    root.module("rival", "2", "BUILT_MODULE_NAME[0]=hello\n").installed("rival", "2", B);
    let built = TestRoot::build("rival", "2", B);
    root.file(&format!("{built}/module/hello.ko"), fs::read(root.at(&TestRoot::ko("rival", B))).unwrap());
    root.remove("usr/src/hello-1.0/dkms.conf").post_update().code(1);
    is_of(&root, "hello", "hello/1.0");
    assert_eq!(root.recorded("rival", B), "conflict");
    assert!(!root.short_calls().iter().any(|call| call.contains("rival")));
}

/// A module that only shares a name with a loser is in nobody's way.
#[test]
fn a_loser_keeps_nobody_from_anything() {
    let root = TestRoot::updated();
    let two = |one: &str, other: &str| {
        format!(
            "BUILT_MODULE_NAME[0]={one}\nBUILT_MODULE_NAME[1]={other}\n\
        DEST_MODULE_LOCATION[1]=/kernel/extra\n"
        )
    };
    root.module("a", "1", &two("w", "x")).module("b", "1", &two("x", "y")).module("c", "1", &two("y", "z"));
    root.post_update().code(1);
    let states = ["a", "b", "c"].map(|name| root.recorded(name, B));
    assert_eq!(states, ["ok", "conflict", "ok"]);
    rests(&root);
}

/// They are required only if both are named.
#[test]
fn of_two_that_are_named_at_once_one_gets_it() {
    let root = TestRoot::updated();
    let quiet = format!("AUTOINSTALL=\"\"\n{SHARED}");
    root.module("one", "1", &quiet).module("two", "1", &quiet);
    let shown = format!(
        "one/1 on {B}: ok (built in 0.0 s)\n✘ two/1 on {B}: conflict: shared.ko on this kernel is that of\n    one/1"
    );
    root.run("clr-dkms", &["rebuild", "one", "two"]).code(1).shows(&[&shown]);
    assert!(!root.short_calls().iter().any(|call| call.contains("two")));
    is_of(&root, "shared", "one/1");
    let shown = format!("two/1 on {B}: conflict: ");
    root.forget_calls().run("clr-dkms", &["rebuild", "two"]).code(1).shows(&[&shown]);
    assert_eq!(root.calls(), Vec::<String>::new());
}
