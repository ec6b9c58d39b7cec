//! What dkms, a crash or swupd leaves behind and dkms cannot repair.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::tree::difference;
use crate::support::{A, B, TestRoot, elf};

/// `hello/1.0` is proven on the kernel [`B`].
fn proven() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", B);
    root.post_update().code(0);
    assert_eq!(root.recorded("hello", B), "ok");
    root.forget_calls();
    root
}

/// One run makes it good with these calls; the next one finds nothing to do.
#[track_caller]
fn heals(root: &TestRoot, calls: &[&str]) {
    root.post_update().code(0);
    let own: Vec<String> = root.short_calls().into_iter().filter(|c| c != "clr-boot-manager").collect();
    let own: Vec<String> = own.iter().map(|c| c.replace(&format!(" {B}"), "")).collect();
    assert_eq!(own, calls);
    assert_eq!(root.recorded("hello", B), "ok");
    let ko = fs::read(root.at(&TestRoot::ko("hello", B))).unwrap();
    assert!(ko.ends_with(b"hello/1.0") && ko.windows(B.len()).any(|w| w == B.as_bytes()));
    assert!(root.text(&format!("usr/lib/modules/{B}/modules.dep")).contains("updates/dkms/hello.ko:"));
    let before = root.tree();
    root.forget_calls().post_update().code(0);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
    assert_eq!(root.calls(), Vec::<String>::new());
}

#[test]
fn a_half_built_directory() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").directory(&TestRoot::build("hello", "1.0", B));
    heals(&root, &["build hello", "install hello", "depmod"]);
}

#[test]
fn a_half_deleted_directory_of_an_installed_module() {
    let root = proven();
    root.remove(&format!("{}/module", TestRoot::build("hello", "1.0", B)));
    heals(&root, &["build hello", "install hello", "depmod"]);
}

#[test]
fn leftovers_of_a_killed_build() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").file("var/lib/dkms/hello/1.0/build/hello.o", "half");
    root.file(&format!("var/lib/dkms/hello/1.0/{B}/.tmp_x86_64_abc/module/hello.ko"), "half");
    heals(&root, &["build hello", "install hello", "depmod"]);
}

#[test]
fn an_orphan_that_no_link_claims() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").file(&TestRoot::ko("hello", B), elf::module(B));
    heals(&root, &["build hello", "install hello", "depmod"]);
}

#[test]
fn an_orphan_beside_a_good_build() {
    let root = proven();
    root.remove(&format!("var/lib/dkms/hello/kernel-{B}-{}", clr_dkms::dkms::architecture()));
    heals(&root, &["install hello", "depmod"]);
}

#[test]
fn a_module_of_another_kernel_in_its_place() {
    let root = proven();
    root.file(&TestRoot::ko("hello", B), elf::module(A));
    heals(&root, &["install hello --force", "depmod"]);
}

#[test]
fn a_build_for_another_kernel() {
    // Two builds of one module at once can mix up their kernels, exit code 0.
    let root = proven();
    for path in [TestRoot::ko("hello", B), format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", B))]
    {
        root.file(&path, elf::module(A));
    }
    heals(&root, &["build hello", "install hello --force", "depmod"]);
}

#[test]
fn a_compiler_that_always_makes_the_wrong_module_is_reported() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").behave(&format!("made_for={A}"));
    let run = root.post_update();
    run.code(1).says(&["hello/1.0 is not ready for kernel", "build-failed"]);
    assert!(root.record().to_string().contains(&format!("was made for {A}")));
}

#[test]
fn an_empty_file() {
    let root = proven();
    root.file(&TestRoot::ko("hello", B), "");
    heals(&root, &["install hello --force", "depmod"]);
}

#[test]
fn an_empty_file_without_a_build() {
    let root = proven();
    root.file(&TestRoot::ko("hello", B), "");
    root.remove(&TestRoot::build("hello", "1.0", B));
    root.remove(&format!("var/lib/dkms/hello/kernel-{B}-{}", clr_dkms::dkms::architecture()));
    heals(&root, &["build hello", "install hello", "depmod"]);
}

#[test]
fn a_deleted_file() {
    let root = proven();
    root.remove(&TestRoot::ko("hello", B));
    heals(&root, &["install hello --force", "depmod"]);
}

#[test]
fn a_file_that_is_not_the_one_that_was_built() {
    let root = proven();
    root.file(&TestRoot::ko("hello", B), elf::module(B));
    heals(&root, &["install hello --force", "depmod"]);
}

#[test]
fn garbage_and_truncated_files() {
    let whole = elf::module(B);
    for bytes in [&whole[..70], &whole[..whole.len() - 100], b"\x7fELF", b"\0", &[0xff; 4096]] {
        let root = proven();
        root.file(&TestRoot::ko("hello", B), bytes);
        heals(&root, &["install hello --force", "depmod"]);
    }
    let root = proven();
    root.file(&TestRoot::ko("hello", B), elf::with_modinfo(b"license=GPL\0"));
    heals(&root, &["install hello --force", "depmod"]);
}

#[test]
fn a_link_that_leads_nowhere_in_its_place() {
    let root = proven();
    root.remove(&TestRoot::ko("hello", B));
    symlink("/nowhere.ko", root.at(&TestRoot::ko("hello", B))).unwrap();
    root.post_update();
    assert_eq!(root.recorded("hello", B), "ok");
    assert!(!root.at("nowhere.ko").exists());
}

#[test]
fn a_modules_dep_that_an_update_put_back() {
    let root = proven();
    root.file(&format!("usr/lib/modules/{B}/modules.dep"), "kernel/own.ko:\n");
    heals(&root, &["depmod"]);
}

#[test]
fn a_modules_dep_that_is_gone() {
    for gone in [&["modules.dep"][..], &["modules.dep.bin"], &["modules.dep", "modules.dep.bin"]] {
        let root = proven();
        for file in gone {
            root.remove(&format!("usr/lib/modules/{B}/{file}"));
        }
        heals(&root, &["depmod"]);
    }
}

#[test]
fn a_modules_dep_with_garbage() {
    for garbage in [&b""[..], b"\0\xff:::\n\n:", b"updates/dkms/hello.ko", b"updates/dkms/hello.ko.xz.ko:\n"]
    {
        let root = proven();
        root.file(&format!("usr/lib/modules/{B}/modules.dep"), garbage);
        heals(&root, &["depmod"]);
    }
}

#[test]
fn a_stale_binary_index() {
    let root = proven();
    let listed = root.text(&format!("usr/lib/modules/{B}/modules.dep"));
    root.index(B, "kernel/own.ko:\n").file(&format!("usr/lib/modules/{B}/modules.dep"), listed);
    heals(&root, &["depmod"]);
}

/// modprobe reads this file, and gives up where it is not an index.
#[test]
fn a_binary_index_that_is_none() {
    for garbage in [&b""[..], b"junk, and newer than modules.dep"] {
        let root = proven();
        root.file(&format!("usr/lib/modules/{B}/modules.dep.bin"), garbage);
        heals(&root, &["depmod"]);
    }
}

#[test]
fn an_index_that_is_a_directory_is_reported() {
    let root = proven();
    root.remove(&format!("usr/lib/modules/{B}/modules.dep"))
        .directory(&format!("usr/lib/modules/{B}/modules.dep"));
    root.post_update().code(3).says(&["modules.dep"]);
    assert_eq!(root.recorded("hello", B), "unknown");
}

#[test]
fn a_depmod_that_does_nothing_is_found_out() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").behave("idle=yes");
    root.post_update().code(1).says(&["hello/1.0 is not ready for kernel", "not-in-modules-dep"]);
    assert_eq!(root.recorded("hello", B), "not-in-modules-dep");
    root.behave("[[ $verb != depmod ]] || code=3");
    root.post_update().code(1).says(&["depmod for 6.15.8-1592.native: exit code 3", "it failed as asked"]);
    root.behave("");
    root.post_update().code(0);
    assert_eq!(root.record()["problems"], serde_json::json!([]));
}

#[test]
fn a_dkms_that_only_says_so_is_found_out() {
    // Exit code 0 and nothing on disk: dkms answers so to an action that it does not know.
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").behave("[[ $verb == depmod || $verb == clr-boot-manager ]] || exit 0");
    root.post_update().code(1).says(&["hello/1.0 is not ready for kernel", "build-failed"]);
    assert_eq!(root.recorded("hello", B), "build-failed");
}

#[test]
fn a_code_of_dkms_that_proves_nothing() {
    // 4 and 8 come after a good install too, when the dkms.conf of another module is bad.
    for code in [4, 8] {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "").behave(&format!("[[ $verb != install ]] || late={code}"));
        root.post_update().code(0);
        assert_eq!(root.recorded("hello", B), "ok", "{code}");
    }
}

#[test]
fn what_dkms_forgot_is_built_again() {
    let root = proven();
    root.remove("var/lib/dkms/hello");
    root.module("hello", "1.0", "");
    heals(&root, &["build hello", "install hello", "depmod"]);
}

#[test]
fn a_source_that_is_gone_is_reported_and_nothing_is_removed() {
    let root = proven();
    root.remove("usr/src/hello-1.0");
    root.post_update().code(1).says(&["hello/1.0 is not ready", "broken-source"]);
    assert!(root.has(&TestRoot::ko("hello", B)));
    root.run("clr-dkms", &["status"]).code(1).shows(&["restore the source of hello/1.0"]);
}

#[test]
fn compressed_modules_are_read() {
    use std::io::Write;
    let root = proven();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(&elf::module(B)).unwrap();
    let bytes = gz.finish().unwrap();
    root.remove(&TestRoot::ko("hello", B))
        .remove(&format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", B)));
    for path in [TestRoot::ko("hello", B), format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", B))]
    {
        root.file(&format!("{path}.gz"), &bytes);
    }
    root.index(B, "updates/dkms/hello.ko.gz:\n");
    root.post_update().code(0);
    assert_eq!(root.calls(), Vec::<String>::new());
    assert!(root.record()["modules"][0]["files"][0]["vermagic"].as_str().unwrap().starts_with(B));
}
