//! What works is replaced only by what is proven, as a whole set, and comes back when its successor does not
//! stand.

use std::fs;

use crate::support::tree::difference;
use crate::support::{A, B, TestRoot, elf};

/// Each build makes the files that lie in `made/MODULE-VERSION/`, where there are some.
const MADE: &str = "[[ $verb != build ]] || trap '\
    [[ ! -d $here/made/$module-$version ]] || cp \"$here/made/$module-$version\"/* \"$built/module/\"' EXIT\n";

/// A depmod that knows what `user` is loaded on top of.
const USER: &str = "[[ $verb != depmod ]] || trap '\
    sed -i \"s,^updates/dkms/user.ko:.*,& updates/dkms/hello.ko,\" modules.dep; \
    \"$(readlink -f \"$here/depmod\" | sed \"s,[^/]*$,,\")modules-dep-bin\" <modules.dep >modules.dep.bin' EXIT\n";

fn made(root: &TestRoot, module: &str, file: &str, bytes: Vec<u8>) {
    let directory = root.tools().join("made").join(module);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(file), bytes).unwrap();
}

/// `hello/1.0` is proven on the kernel [`B`].
fn works() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    root.forget_calls();
    root
}

/// The same, and then altered: it is not what was built, and loads all the same.
fn altered() -> TestRoot {
    let root = works();
    root.file(&TestRoot::ko("hello", B), elf::module(B));
    root
}

/// A newer version is registered.
fn newer() -> TestRoot {
    let root = works();
    root.module("hello", "2.0", "");
    root
}

fn installed(root: &TestRoot) -> Vec<u8> {
    fs::read(root.at(&TestRoot::ko("hello", B))).unwrap()
}

fn claimed(root: &TestRoot) -> String {
    let link = format!("var/lib/dkms/hello/kernel-{B}-{}", clr_dkms::dkms::architecture());
    let text = fs::read_link(root.at(&link)).unwrap();
    text.iter().next().unwrap().to_str().unwrap().to_owned()
}

/// Nothing of ours is left anywhere.
#[track_caller]
fn no_trace(root: &TestRoot) {
    let ours = |path: &String| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.starts_with(".tmp_")
            || ["staging-", "replacing-", "clr-dkms-depmod-"].iter().any(|p| name.starts_with(p))
    };
    assert_eq!(root.tree().into_keys().filter(ours).collect::<Vec<_>>(), Vec::<String>::new());
}

/// Version 1.0 is in force, as before.
#[track_caller]
fn still_works(root: &TestRoot) {
    assert!(installed(root).ends_with(b"hello/1.0"));
    assert_eq!(claimed(root), "1.0");
    assert!(root.text(&format!("usr/lib/modules/{B}/modules.dep")).contains("updates/dkms/hello.ko:"));
    no_trace(root);
}

/// Once nothing is wrong any more, a run installs this version, and the next one finds nothing to do.
#[track_caller]
fn heals(root: &TestRoot, version: &str) {
    root.behave("").post_update().code(0);
    assert!(installed(root).ends_with(format!("hello/{version}").as_bytes()));
    assert_eq!(claimed(root), version);
    no_trace(root);
    let before = root.tree();
    root.forget_calls().post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
}

#[test]
fn a_file_stays_when_nothing_could_be_installed() {
    // Refused, a part of a copy on a full disk, under another ending, killed in the middle.
    for install in [
        "code=6",
        ": >$into/hello.ko; exit 6",
        "mkdir -p $into; echo part >$into/hello.ko.xz; exit 6",
        "mkdir -p $into; echo part >$into/hello.ko; kill -9 $$",
        // A dkms that only says so.
        "exit 0",
    ] {
        let root = altered();
        root.behave(&format!("[[ $verb != install ]] || {{ {install}; }}")).post_update().code(1);
        assert_eq!(installed(&root), elf::module(B), "{install}");
        assert!(!root.has(&(TestRoot::ko("hello", B) + ".xz")), "{install}");
        no_trace(&root);
        heals(&root, "1.0");
    }
}

#[test]
fn dkms_installs_where_nothing_is_installed() {
    let root = altered();
    let seen = root.tools().join("seen");
    let look = format!(
        "[[ $verb != install ]] || {{ ls -A \"$into\" >'{0}' 2>&1; cmp '{1}' '{2}' >>'{0}' 2>&1; }}",
        seen.display(),
        root.at(&TestRoot::ko("hello", B)).display(),
        root.at(&TestRoot::ko("hello", B)).display()
    );
    root.behave(&look).post_update().code(0);
    let seen = fs::read_to_string(seen).unwrap();
    assert!(seen.contains("No such file") && seen.lines().count() == 1, "{seen}");
    heals(&root, "1.0");
}

#[test]
fn a_newer_version_for_another_kernel() {
    let root = newer();
    root.behave(&format!("[[ $version != 2.0 ]] || made_for={A}"));
    let before = installed(&root);
    for _ in 0..2 {
        root.post_update().code(1).says(&["hello/2.0", "it was built, and is not installed", "was made for"]);
        assert_eq!(installed(&root), before);
        still_works(&root);
        assert_eq!(root.recorded("hello", B), "build-failed");
        // What is recorded, and reported, is that the older version is in force.
        let status = root.run("clr-dkms", &["status", "--json"]).code(1).json();
        assert_eq!(status["verdict"], "degraded");
        for document in [root.record(), status] {
            let modules = document["modules"].as_array().unwrap().clone();
            let of_kernel: Vec<_> = modules.iter().filter(|m| m["kernel"] == B).collect();
            assert!(
                of_kernel.iter().any(|m| m["version"] == "2.0" && m["in_force"] == "1.0"),
                "{document:#}"
            );
        }
    }
    heals(&root, "2.0");
    assert!(!root.record()["modules"].to_string().contains("in_force"));
}

#[test]
fn a_newer_version_that_cannot_be_installed() {
    for install in ["code=6", "mkdir -p $into; echo part >$into/hello.ko; exit 6", "exit 0"] {
        let root = newer();
        root.behave(&format!("[[ $verb$version != install2.0 ]] || {{ {install}; }}"));
        root.post_update().code(1);
        still_works(&root);
        root.post_update().code(1);
        still_works(&root);
        heals(&root, "2.0");
    }
}

#[test]
fn a_forced_build_for_another_kernel() {
    let root = works();
    let tree = ["var/lib/dkms", &format!("usr/lib/modules/{B}")].map(|part| root.at(part));
    let before = tree.each_ref().map(|part| crate::support::tree::read(part));
    root.behave(&format!("made_for={A}"));
    root.run("clr-dkms", &["rebuild", "hello", "--force"]).code(1).shows(&["is not installed"]);
    for (part, before) in tree.iter().zip(&before) {
        let mut changed = difference(before, &crate::support::tree::read(part), false);
        changed.retain(|path| !path.ends_with("mok.key"));
        assert_eq!(changed, Vec::<String>::new());
    }
    still_works(&root);
    root.behave("").run("clr-dkms", &["status"]).code(0);
    root.post_update().code(0);
    assert_eq!(root.recorded("hello", B), "ok");
}

/// One of two files is for another kernel: neither is installed.
#[test]
fn a_set_is_replaced_as_a_whole() {
    let root = TestRoot::updated();
    let conf = "BUILT_MODULE_NAME[1]=\"more\"\nDEST_MODULE_LOCATION[1]=\"/updates\"\n";
    root.module("hello", "1.0", conf).post_update().code(0);
    root.module("hello", "2.0", conf).behave(MADE);
    made(&root, "hello-2.0", "more.ko", elf::module(A));
    let before = fs::read(root.at(&TestRoot::ko("more", B))).unwrap();
    root.post_update().code(1).says(&["more.ko was made for"]);
    still_works(&root);
    assert_eq!(fs::read(root.at(&TestRoot::ko("more", B))).unwrap(), before);
    heals(&root, "2.0");
    assert!(fs::read(root.at(&TestRoot::ko("more", B))).unwrap().ends_with(b"hello/2.0"));
}

#[test]
fn a_depmod_that_fails_changes_nothing() {
    // The second one leaves a part of an index behind, as kmod does on a full disk.
    for depmod in [
        "code=1",
        "mkdir -p \"$base/lib/modules/$kernel\"; : >\"$base/lib/modules/$kernel/modules.dep.bin\"; exit 1",
    ] {
        let root = newer();
        let index = |name: &str| fs::read(root.at(&format!("usr/lib/modules/{B}/{name}"))).unwrap();
        let before = ["modules.dep", "modules.dep.bin"].map(index);
        root.behave(&format!("[[ $verb != depmod ]] || {{ {depmod}; }}"));
        root.post_update().code(1).says(&["rolled back to what was installed before"]);
        still_works(&root);
        assert_eq!(["modules.dep", "modules.dep.bin"].map(index), before);
        heals(&root, "2.0");
    }
}

/// A power cut between the new files and their index: the next boot has the version that worked, before
/// anything else.
#[test]
fn a_power_cut_before_the_index() {
    let cut = || {
        let root = newer();
        root.behave("[[ $verb != depmod ]] || kill -9 $PPID $$");
        assert_eq!(root.post_update().code, -1);
        assert!(installed(&root).ends_with(b"hello/2.0"), "the new file is whole");
        assert_eq!(claimed(&root), "1.0");
        root.behave("").forget_calls();
        root
    };
    let root = cut();
    root.run("clr-dkms", &["guard", "--at-boot"]).code(0);
    still_works(&root);
    heals(&root, "2.0");
    let root = cut();
    root.post_update().code(0).says(&["an interrupted installation was rolled back"]);
    heals(&root, "2.0");
    // What was there before is damaged meanwhile: the other one is whole.
    let root = cut();
    root.file(&TestRoot::ko("hello", B).replace("hello.ko", ".tmp_hello.ko_aside"), "part");
    root.run("clr-dkms", &["guard", "--at-boot"]).code(0);
    assert!(installed(&root).ends_with(b"hello/2.0"));
    assert_eq!(claimed(&root), "2.0");
    heals(&root, "2.0");
}

/// A file that was not proven never comes back.
#[test]
fn what_was_not_proven_is_not_restored() {
    let root = altered();
    root.behave("[[ $verb != depmod ]] || kill -9 $PPID $$");
    assert_eq!(root.post_update().code, -1);
    root.behave("").run("clr-dkms", &["guard", "--at-boot"]).code(0);
    assert!(installed(&root).ends_with(b"hello/1.0"));
    heals(&root, "1.0");
}

/// A second name without a journal: only a file of this kernel that is otherwise lost comes back.
#[test]
fn second_names_that_are_left_over() {
    let second = TestRoot::ko("hello", B).replace("hello.ko", ".tmp_hello.ko_aside");
    for (is_lost, bytes, comes_back) in
        [(true, elf::module(B), true), (true, elf::module(A), false), (false, elf::module(B), false)]
    {
        let root = works();
        root.file(&second, &bytes);
        if is_lost {
            root.remove(&TestRoot::ko("hello", B));
        }
        root.behave("[[ $verb != install ]] || code=6").post_update();
        let file = root.at(&TestRoot::ko("hello", B));
        assert_eq!(fs::read(&file).ok() == Some(bytes), comes_back);
        no_trace(&root);
        heals(&root, "1.0");
    }
}

/// It is the only copy: it is not removed before it has its first name again.
#[test]
fn a_second_name_that_cannot_be_taken_back_now_is_taken_back_by_the_next_run() {
    if !crate::unread::has_strace() {
        return;
    }
    let (root, file) = (works(), TestRoot::ko("hello", B));
    let second = file.replace("hello.ko", ".tmp_hello.ko_aside");
    root.file(&second, elf::module(B)).remove(&file);
    root.behave("[[ $verb != install ]] || code=6");
    let plain = root.command("clr-dkms-post-update", &[]);
    let mut failing = std::process::Command::new("strace");
    failing.args(["-o", "/dev/null", "-e", "inject=renameat,renameat2:error=EIO", "-P"]);
    failing.arg(root.at(&file).parent().unwrap()).arg(plain.get_program()).args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        if let Some(value) = value {
            failing.env(variable, value);
        }
    }
    let output = failing.output().unwrap();
    assert!(!root.has(&file) && root.has(&second), "{}", String::from_utf8_lossy(&output.stderr));
    root.post_update();
    assert_eq!(fs::read(root.at(&file)).unwrap(), elf::module(B));
    no_trace(&root);
}

/// Another module that works is built upon what is replaced, and does not load with it.
#[test]
fn what_others_need_stays() {
    let symbols = |version: u32| elf::with_symbols(B, "", &[], &[("hello_open", version)]);
    let user = |version| elf::with_symbols(B, "hello", &[("hello_open", version, false)], &[]);
    let root = TestRoot::updated();
    let list = "0x00000001\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n";
    root.file(&format!("usr/lib/modules/{B}/build/Module.symvers"), list);
    root.module("hello", "1.0", "")
        .module("user", "1", "BUILD_DEPENDS[0]=hello\n")
        .behave(&[MADE, USER].concat());
    made(&root, "hello-1.0", "hello.ko", [symbols(1), b"hello/1.0".to_vec()].concat());
    made(&root, "user-1", "user.ko", user(1));
    root.post_update().code(0);
    root.module("hello", "2.0", "");
    made(&root, "hello-2.0", "hello.ko", [symbols(2), b"hello/2.0".to_vec()].concat());
    root.post_update().code(1).says(&["user/1 does not load with it"]);
    still_works(&root);
    assert_eq!(root.recorded("user", B), "ok");
    // With a version that is built upon it, both are replaced.
    root.module("user", "2", "BUILD_DEPENDS[0]=hello\n");
    made(&root, "user-2", "user.ko", user(2));
    root.post_update().code(0);
    assert_eq!((root.recorded("hello", B), root.recorded("user", B)), ("ok".to_owned(), "ok".to_owned()));
    assert_eq!(claimed(&root), "2.0");
    no_trace(&root);
}

/// PRE_INSTALL runs before anything is changed, POST_INSTALL when all is in place; each once.
#[test]
fn scripts_around_the_installation() {
    let root = TestRoot::updated();
    crate::hooks::with_shell(&root);
    let module = |version: &str| {
        root.module("hello", version, "PRE_INSTALL=before.sh\nPOST_INSTALL=after.sh\n");
        for name in ["before", "after"] {
            let script = format!(
                "#!/bin/sh\nstate=none\nread -r state </var/lib/dkms/hello/kernel-{B}-{}/../../source/version\n\
                 echo {name} $state >>/etc/ran\nexit 0\n",
                clr_dkms::dkms::architecture()
            );
            let file = format!("usr/src/hello-{version}/{name}.sh");
            root.file(&file, script)
                .file(&format!("usr/src/hello-{version}/version"), format!("{version}\n"));
            crate::support::run::set_mode(&root.at(&file), 0o755);
        }
    };
    module("1.0");
    root.post_update().code(0);
    let calls: Vec<String> = root.calls().into_iter().filter(|c| !c.starts_with("clr-boot")).collect();
    assert_eq!(calls.len(), 3, "{calls:#?}");
    assert!(calls[1].ends_with("--directive POST_INSTALL= --directive PRE_INSTALL="), "{calls:#?}");
    assert!(calls[2].starts_with("depmod"), "{calls:#?}");
    assert_eq!(root.text("etc/ran"), "before none\nafter 1.0\n");
    no_trace(&root);
    // It is made up for after a kill.
    module("2.0");
    root.behave("[[ $verb != depmod ]] || kill -9 $PPID $$");
    assert_eq!(root.post_update().code, -1);
    assert_eq!(root.text("etc/ran"), "before none\nafter 1.0\nbefore 1.0\n");
    root.behave("").forget_calls().post_update().code(0);
    assert!(root.text("etc/ran").ends_with("\nafter 2.0\n"), "{}", root.text("etc/ran"));
    heals(&root, "2.0");
}

#[test]
fn what_is_left_aside_on_a_kernel_that_is_gone_is_garbage() {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").post_update().code(0);
    let gone = "6.15.5-1589.native";
    for name in [".tmp_hello.ko_aside", ".tmp_hello.ko.zst_new"] {
        root.file(&TestRoot::ko("hello", gone).replace("hello.ko", name), "old");
    }
    crate::gc::age(&root, &format!("usr/lib/modules/{gone}"));
    root.run("clr-dkms", &["gc"]).code(0);
    assert!(!root.has(&format!("usr/lib/modules/{gone}")));
}

#[test]
fn a_journal_that_cannot_be_read_keeps_all_that_it_may_be_about() {
    let root = works();
    let journal = "var/lib/clr-dkms/replacing-hello";
    let aside = format!("usr/lib/modules/{B}/updates/dkms/.tmp_hello.ko_aside");
    root.link(journal, "replacing-hello").file(&aside, "old");
    root.post_update().code(3).says(&["what was left of an interrupted installation stays as it is"]);
    assert!(root.has(journal) && root.has(&aside));
    root.remove(journal).post_update().code(0);
    assert!(!root.has(&aside), "without a journal it is of no use while the file is there");
}
