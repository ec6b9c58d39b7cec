//! What was there before is there again when its successor does not come.

use std::fs;

use crate::support::{B, TestRoot, elf};

/// `hello/1.0` is proven on the kernel [`B`], and then altered: a good module all the same.
fn altered() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    root.file(&TestRoot::ko("hello", B), elf::module(B)).forget_calls();
    root
}

fn no_trace(root: &TestRoot) {
    let left: Vec<String> = root.tree().into_keys().filter(|path| path.contains("_aside")).collect();
    assert_eq!(left, Vec::<String>::new());
}

fn aside(release: &str) -> String {
    TestRoot::ko("hello", release).replace("hello.ko", ".tmp_hello.ko_aside")
}

#[track_caller]
fn heals(root: &TestRoot) {
    root.behave("").post_update().code(0);
    assert!(fs::read(root.at(&TestRoot::ko("hello", B))).unwrap().ends_with(b"hello/1.0"));
    no_trace(root);
    root.forget_calls().post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
}

#[test]
fn a_file_is_there_again_when_nothing_could_be_installed() {
    // Refused, a part of a copy on a full disk, under another ending, killed in the middle.
    for install in [
        "code=6",
        ": >$into/hello.ko; exit 6",
        "echo part >$into/hello.ko.xz; exit 6",
        "echo part >$into/hello.ko; kill -9 $$",
        // A dkms that only says so.
        "exit 0",
    ] {
        let root = altered();
        root.behave(&format!("[[ $verb != install ]] || {{ {install}; }}")).post_update().code(1);
        let now = fs::read(root.at(&TestRoot::ko("hello", B))).unwrap();
        assert_eq!(now, elf::module(B), "{install}");
        assert!(!root.has(&(TestRoot::ko("hello", B) + ".xz")), "{install}");
        no_trace(&root);
        heals(&root);
    }
}

#[test]
fn a_file_is_out_of_the_way_while_dkms_installs() {
    let root = altered();
    let seen = root.tools().join("seen");
    root.behave(&format!("[[ $verb != install ]] || ls -A \"$into\" >'{}'", seen.display()));
    root.post_update().code(0);
    assert_eq!(fs::read_to_string(seen).unwrap(), ".tmp_hello.ko_aside\n");
    heals(&root);
}

/// Installed as by force, when the old file has to go for it.
#[test]
fn a_forced_build_that_cannot_be_installed() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    let before = fs::read(root.at(&TestRoot::ko("hello", B))).unwrap();
    // dkms takes the old one away before it finds the disk full.
    root.behave("[[ $verb != install ]] || { rm -f $into/hello.ko; code=6; }");
    root.run("clr-dkms", &["rebuild", "hello", "--force"]);
    assert_eq!(fs::read(root.at(&TestRoot::ko("hello", B))).unwrap(), before);
    heals(&root);
}

#[test]
fn what_a_killed_run_has_set_aside_is_put_back() {
    for there in [None, Some("part")] {
        let root = altered();
        let file = TestRoot::ko("hello", B);
        fs::rename(root.at(&file), root.at(&aside(B))).unwrap();
        if let Some(part) = there {
            root.file(&file, part);
        }
        // While nothing can be installed, the old one is better than none.
        root.behave("[[ $verb != install ]] || code=6").post_update().code(1).says(&["is put right"]);
        assert_eq!(fs::read(root.at(&file)).unwrap(), elf::module(B));
        heals(&root);
    }
}

#[test]
fn what_was_installed_before_the_kill_stays() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    root.file(&aside(B), elf::module(B)).forget_calls().post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    heals(&root);
}

#[test]
fn what_is_left_aside_on_a_kernel_that_is_gone_is_garbage() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").post_update().code(0);
    let gone = "6.15.5-1589.native";
    root.file(&aside(gone), "old");
    crate::gc::age(&root, &format!("usr/lib/modules/{gone}"));
    root.run("clr-dkms", &["gc"]).code(0);
    assert!(!root.has(&format!("usr/lib/modules/{gone}")));
}
