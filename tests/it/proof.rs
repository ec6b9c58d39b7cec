//! What is proven of a module file: its symbols, what it is loaded on top of, and that it will be taken.

use serde_json::Value;

use crate::support::{B, TestRoot, elf, machine};

const LIST: &str = "0x0000aaaa\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x0000bbbb\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n\
    0x0000cccc\tnet_open\tdrivers/net/dummy-net\tEXPORT_SYMBOL_GPL\t\n0x00000000\tunversioned\tvmlinux\tEXPORT_SYMBOL\t\n";
const GOOD: [(&str, u32, bool); 2] = [("printk", 0xaaaa, false), ("module_layout", 0xbbbb, false)];

/// hello/1.0, installed on kernel B as that file; `index` is the rest of its line of `modules.dep`.
fn installed(file: &[u8], index: &str) -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", B);
    root.file(&format!("usr/lib/modules/{B}/build/Module.symvers"), LIST)
        .file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/fs/built-in.ko\n")
        .file(&TestRoot::ko("hello", B), file)
        .file(&format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", B)), file)
        .index(B, &format!("kernel/own.ko:\nupdates/dkms/hello.ko: {index}\n"));
    root
}

fn status(root: &TestRoot) -> Value {
    let run = root.run("clr-dkms", &["status", "--json"]);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    let of_b = |m: &&Value| m["name"] == "hello" && m["kernel"] == B;
    document["modules"].as_array().unwrap().iter().find(of_b).unwrap().clone()
}

#[track_caller]
fn is(root: &TestRoot, state: &str, reason: &str) {
    let module = status(root);
    assert_eq!(module["state"], state, "{module:#}");
    assert!(module["reason"].as_str().unwrap_or_default().contains(reason), "{module:#}");
}

fn steps(root: &TestRoot) -> Value {
    let run = root.run("clr-dkms-post-update", &["--dry-run", "--json"]);
    let plan: Value = serde_json::from_str(&run.stdout).unwrap();
    let of_b = |m: &&Value| m["module"] == "hello/1.0" && m["kernel"] == B;
    let module = plan["modules"].as_array().unwrap().iter().find(of_b).unwrap().clone();
    module["steps"].as_array().unwrap().iter().map(|s| s["step"].clone()).collect()
}

#[test]
fn a_proof_says_what_was_checked() {
    let file = elf::with_symbols(B, "", &GOOD, &[]);
    let root = installed(&file, "");
    let module = status(&root);
    assert_eq!(module["state"], "ok", "{module:#}");
    let proof = &module["files"][0];
    assert_eq!(proof["size"], file.len());
    assert_eq!(proof["sha256"].as_str().unwrap().len(), 64);
    assert!(proof["mtime"].as_str().unwrap().starts_with("20"), "{proof:#}");
    assert!(proof["checked"].as_str().unwrap().ends_with('Z'), "{proof:#}");
    let made = |proof: &Value| -> Vec<(String, String)> {
        let checks = proof["checks"].as_array().unwrap().iter();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        checks.map(|c| (text(&c["check"]), text(&c["not_made"]))).collect()
    };
    let expected =
        [("vermagic", ""), ("symbols", ""), ("modules.dep", ""), ("dependencies", ""), ("signature", "")];
    assert_eq!(made(proof), expected.map(|(check, not)| (check.to_owned(), not.to_owned())));
    for (gone, why) in
        [("Module.symvers", "have no Module.symvers"), ("include", "headers of this kernel are not there")]
    {
        root.remove(&format!("usr/lib/modules/{B}/build/{gone}"));
        let module = status(&root);
        assert_eq!(module["state"], "unknown");
        assert!(made(&module["files"][0])[1].1.contains(why), "{module:#}");
    }
}

/// What was checked once holds for the same file, also without the headers.
#[test]
fn a_check_outlives_the_headers() {
    let file = elf::with_symbols(B, "", &GOOD, &[]);
    let root = installed(&file, "");
    root.post_update();
    assert!(
        root.record()["checked"].as_object().unwrap().contains_key(&format!("/{}", TestRoot::ko("hello", B)))
    );
    root.remove(&format!("usr/lib/modules/{B}/build"));
    is(&root, "ok", "");
    root.post_update();
    is(&root, "ok", "");
    // Another file was not checked.
    let other = elf::with_symbols(B, "", &[GOOD[0]], &[]);
    root.file(&TestRoot::ko("hello", B), &other)
        .file(&format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", B)), &other);
    is(&root, "unknown", "could not be checked completely: the headers of this kernel are not there");
}

/// Without Module.symvers the names in System.map are asked, where the module was built without versions.
#[test]
fn names_are_looked_up_in_the_map_of_the_kernel() {
    let map = format!("usr/lib/kernel/System.map-{B}");
    let exports = "ffffffff81000000 T _stext\nffffffff82000000 r __ksymtab_printk\n";
    let plain = |name: &str| elf::with_plain_symbols(B, &[name]);
    let of = |file: &[u8], map_text: &str| {
        let root = installed(file, "");
        root.remove(&format!("usr/lib/modules/{B}/build/Module.symvers")).file(&map, map_text);
        root
    };
    is(&of(&plain("printk"), exports), "ok", "");
    is(&of(&plain("nowhere"), exports), "symbols-mismatch", "needs symbol nowhere, which nothing exports");
    // A map of a kernel that is elsewhere lists nothing.
    is(&of(&plain("printk"), "ffffffffffffffff B The real System.map\n"), "unknown", "no Module.symvers");
    // Versions are not in it.
    is(&of(&elf::with_symbols(B, "", &[GOOD[0]], &[]), exports), "unknown", "no Module.symvers");
    // What takes nothing lacks nothing.
    is(&of(&elf::module(B), ""), "ok", "");
}

/// The record keeps the proof, and a second run finds the same and leaves it.
#[test]
fn the_record_keeps_the_proof() {
    let root = installed(&elf::with_symbols(B, "", &GOOD, &[]), "");
    root.post_update();
    let record = root.record();
    let files = record["modules"].as_array().unwrap().iter().filter(|m| m["kernel"] == B);
    let proof = files.map(|m| m["files"][0].clone()).next().unwrap();
    assert!(proof["sha256"].is_string() && proof["checked"].is_string(), "{record:#}");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    root.post_update();
    assert_eq!(root.record(), record);
}

#[test]
fn versions_are_compared_with_who_exports_the_symbol() {
    let net = |crc| elf::with_symbols(B, "dummy-net", &[GOOD[0], ("net_open", crc, false)], &[]);
    let with_net = |crc, provider: &[u8], path: &str| {
        let root = installed(&net(crc), path);
        root.file(&format!("usr/lib/modules/{B}/{path}"), provider);
        let text = root.text(&format!("usr/lib/modules/{B}/modules.dep")) + &format!("{path}:\n");
        root.index(B, &text);
        root
    };
    let gives = |crc| elf::with_symbols(B, "", &[], &[("net_open", crc)]);
    let (own, other) = ("kernel/drivers/dummy_net.ko", "updates/dkms/dummy_net.ko");
    is(&with_net(0xcccc, b"not looked at", own), "ok", "");
    // Another module of the same name takes the place of the kernel's: its versions count.
    is(&with_net(0xdddd, &gives(0xdddd), other), "ok", "");
    let differs = "was built against other symbol versions: net_open";
    is(&with_net(0xcccc, &gives(0xdddd), other), "symbols-mismatch", differs);
    is(&with_net(0xdddd, &gives(0xcccc), own), "symbols-mismatch", differs);
    // Nothing is built only because a program gives no answer.
    let root = with_net(0xdddd, b"garbage", own);
    is(&root, "unknown", "could not be checked completely");
    assert_eq!(steps(&root), serde_json::json!([]));

    let wrong = elf::with_symbols(B, "", &[GOOD[0], ("module_layout", 1, false)], &[]);
    let root = installed(&wrong, "");
    is(&root, "symbols-mismatch", "was built against other symbol versions: module_layout");
    assert_eq!(steps(&root), serde_json::json!(["remove-tree", "build", "reinstall", "index"]));
    // The answer comes from the cache, until the list is another one.
    root.file(&format!("usr/lib/modules/{B}/build/Module.symvers"), LIST.replace("0x0000bbbb", "0x00000001"));
    is(&root, "ok", "");
    // A list without the kernel's own symbols tells nothing.
    let root = installed(&wrong, "");
    root.file(&format!("usr/lib/modules/{B}/build/Module.symvers"), LIST.replace("vmlinux", "drivers/x"));
    is(&root, "unknown", "lists nothing of the kernel");
}

#[test]
fn what_nothing_exports() {
    let takes = |name, weak| elf::with_symbols(B, "", &[GOOD[0], (name, 0, weak)], &[]);
    for good in [("unversioned", false), ("_GLOBAL_OFFSET_TABLE_", false), ("nowhere", true)] {
        is(&installed(&takes(good.0, good.1), ""), "ok", "");
    }
    let root = installed(&takes("nowhere", false), "");
    is(&root, "symbols-mismatch", "needs symbol nowhere, which nothing exports");
    root.file(&format!("usr/lib/modules/{B}/modules.symbols"), "alias symbol:nowhere other\n");
    is(&root, "ok", "");
    let root = installed(&takes("nowhere", false), "updates/dkms/other.ko");
    root.file(&TestRoot::ko("other", B), elf::with_symbols(B, "", &[], &[("nowhere", 7)]));
    is(&root, "ok", "");
}

#[test]
fn what_it_is_loaded_on_top_of() {
    let needs = |name: &str| elf::with_symbols(B, name, &GOOD, &[]);
    is(&installed(&needs("own,built_in"), "kernel/own.ko"), "ok", "");
    let root = installed(&needs("gone-one"), "");
    is(&root, "dependency-failed", "hello needs gone_one, which is not there");
    assert_eq!(steps(&root), serde_json::json!([]), "building hello does not bring it");
    // It is there, and only the index does not know it.
    root.file(&TestRoot::ko("gone_one", B), elf::module(B));
    assert_eq!(steps(&root), serde_json::json!(["index"]));
    is(
        &installed(&needs(""), "kernel/lost.ko.zst"),
        "dependency-failed",
        "hello needs lost, which is not there",
    );
    // Where nobody can say what is built in.
    let root = installed(&needs("gone_one"), "");
    root.remove(&format!("usr/lib/modules/{B}/modules.builtin"));
    is(&root, "unknown", "there is no modules.builtin");
}

#[test]
fn what_the_kernel_refuses_will_not_be_there() {
    let root = installed(&elf::with_symbols(B, "", &GOOD, &[]), "");
    root.config(B, machine::CLEAR).modinfo(B, true).remove("usr/share/kernel/cmdline.d");
    root.secure_boot(false).booted("quiet", "Y", Some("N"));
    is(
        &root,
        "signature-refused",
        &format!("kernel {B} will refuse hello/1.0 at its next boot (EKEYREJECTED)"),
    );
    assert_eq!(status(&root)["files"][0]["checks"][4]["check"], "signature");
    root.file("etc/kernel/cmdline.d/own.conf", "module.sig_unenforce\n");
    is(&root, "ok", "");
    assert!(status(&root)["files"][0]["checks"][4]["not_made"].is_null());
}
