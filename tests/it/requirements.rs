//! What the machine needs comes from use, not from the DKMS tree: which other owner a module has, what is
//! lost, and what is remembered.

use crate::support::guard::{ID_A, ID_B};
use crate::support::root::FRAGMENT;
use crate::support::{A, B, TestRoot, elf, machine};

/// `gpu` 2.0 compiles for no kernel.
const GPU_2_FAILS: &str = "[[ $verb != build || $module != gpu || $version != 2.0 ]] || code=10";
const WORDS: &str = "quiet rw module.sig_unenforce";

/// The answer of `clr-dkms status --json`.
pub(crate) fn status(root: &TestRoot) -> serde_json::Value {
    root.run("clr-dkms", &["status", "--json"]).json()
}

/// Verdict, exit code of `status`, and whether a reboot is safe.
#[track_caller]
pub(crate) fn verdict(root: &TestRoot, expected: &str, code: i32) {
    let run = root.run("clr-dkms", &["status", "--json"]);
    let document = run.json();
    assert_eq!((document["verdict"].as_str().unwrap(), run.code), (expected, code), "{document:#}");
    let may_reboot = match expected {
        "healthy" | "degraded" | "held" | "reboot-pending" => serde_json::json!(true),
        "unsafe" => serde_json::json!(false),
        _ => serde_json::Value::Null,
    };
    assert_eq!(document["may_reboot"], may_reboot, "{document:#}");
}

/// State and next step of a module on a kernel.
pub(crate) fn on(root: &TestRoot, module: &str, release: &str) -> (String, String) {
    let document = status(root);
    let modules = document["modules"].as_array().unwrap();
    let is_it = |m: &&serde_json::Value| m["name"] == module && m["kernel"] == release;
    let found =
        modules.iter().find(is_it).unwrap_or_else(|| panic!("no {module} on {release}: {document:#}"));
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (text("state"), text("next_step"))
}

/// A file of a module below the module directory of a kernel, and its line in `modules.dep`.
pub(crate) fn put(root: &TestRoot, release: &str, path: &str, alias: &str) {
    let modinfo = format!("license=GPL\0alias={alias}\0vermagic={release} SMP preempt mod_unload \0");
    let index = root.text(&format!("usr/lib/modules/{release}/modules.dep"));
    root.file(&format!("usr/lib/modules/{release}/{path}"), elf::with_modinfo(modinfo.as_bytes()))
        .index(release, &format!("{index}{path}:\n"));
}

/// [`A`] runs with `hello` of a vendor, which DKMS never knew and which backs `/`; an update has brought
/// [`B`].
pub(crate) fn vendor() -> TestRoot {
    let root = TestRoot::updated();
    root.entry(ID_A, WORDS, true).file(&format!("var/lib/kernel/k_booted_{A}"), "");
    put(&root, A, "extra/hello.ko", "fs-hello");
    root.loads(&["hello"]).mounts(&[("0:40", "/", "hello", "disk")]);
    root
}

/// [`A`] runs with `gpu` 1.0; `gpu` 2.0 is registered too.
fn two_versions(loaded: &[&str]) -> TestRoot {
    let root = TestRoot::updated();
    root.module("gpu", "1.0", "").installed("gpu", "1.0", A).module("gpu", "2.0", "");
    root.entry(ID_A, WORDS, true).file(&format!("var/lib/kernel/k_booted_{A}"), "");
    root.loads(loaded).mounts(&[]).behave(GPU_2_FAILS);
    root
}

#[test]
fn an_older_version_that_is_installed_is_what_works() {
    for loaded in [&["gpu"][..], &[]] {
        let root = two_versions(loaded);
        let file = std::fs::read(root.at(&TestRoot::ko("gpu", A))).unwrap();
        for _ in 0..2 {
            root.post_update().code(1);
            let need = root.need("gpu");
            assert!(need.starts_with("wanted: "), "{need}");
            assert_eq!(root.boot_default(), ID_A);
            verdict(&root, "held", 1);
            assert_eq!(std::fs::read(root.at(&TestRoot::ko("gpu", A))).unwrap(), file);
        }
        // What is there is what a person reads.
        assert_eq!(on(&root, "gpu", A).0, "ok");
        assert_eq!(on(&root, "gpu", B).0, "build-failed");
        assert_eq!(root.guard()["lacking"][0]["module"], "gpu/2.0");
    }
}

#[test]
fn a_newer_version_that_fails_leaves_the_older_one_in_force() {
    let root = TestRoot::system();
    root.module("gpu", "1.0", "").installed("gpu", "1.0", A).module("gpu", "2.0", "");
    root.entry(ID_A, WORDS, true).loads(&["gpu"]).mounts(&[("0:40", "/", "gpu", "disk")]).behave(GPU_2_FAILS);
    root.post_update().code(1);
    assert_eq!(root.need("gpu"), "critical: backs / (gpu)");
    verdict(&root, "degraded", 1);
    let document = status(&root);
    let problem = document["problems"][0].as_str().unwrap();
    assert!(
        problem.starts_with("gpu/2.0 is not ready") && problem.ends_with("gpu/1.0 is in force there"),
        "{problem}"
    );
    assert!(root.has(&TestRoot::ko("gpu", A)));
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_lost_tree_is_no_reason_to_boot_without_the_module() {
    for (lost, is_recorded) in [
        ("var/lib/dkms/hello", true),
        ("var/lib/dkms/hello", false),
        ("var/lib/dkms", true),
        ("var/lib/dkms", false),
    ] {
        let root = if is_recorded { TestRoot::held() } else { TestRoot::guarded() };
        root.remove(lost).post_update().code(1);
        assert_eq!(root.need("hello"), "critical: backs /data (hello)", "{lost}");
        assert_eq!(root.boot_default(), ID_A, "{lost}");
        verdict(&root, "held", 1);
        assert!(root.has(&TestRoot::ko("hello", A)));
        assert_eq!(on(&root, "hello", A).0, "ok");
        let (state, step) = on(&root, "hello", B);
        assert_eq!(state, "not-managed");
        assert!(
            step.starts_with("run `sudo dkms add /usr/src/hello-1.0`, then run `sudo clr-dkms-post-update`"),
            "{step}"
        );
        // Nobody registers what an admin has not registered.
        let calls = root.short_calls();
        assert!(!calls.iter().any(|call| call.starts_with("build") && call.ends_with(A)), "{calls:?}");
        // After a boot into the kernel without it, too: the other one boots next.
        let root = root.rebooted(B);
        root.post_update().code(1);
        assert_eq!(root.need("hello"), "critical: backs /data (hello)", "{lost}");
        assert_eq!(root.boot_default(), ID_A, "{lost}");
        verdict(&root, "held", 1);
        // And where that one boots next, it is said.
        root.updated_by_hand();
        verdict(&root, "unsafe", 2);
    }
}

#[test]
fn a_deleted_file_of_the_running_kernel_ends_nothing() {
    let root = TestRoot::proven();
    root.loads(&[]).mounts(&[]).remove("proc/self/mountinfo").forget();
    root.remove("var/lib/clr-dkms/last-run.json").mounts(&[]).post_update().code(0);
    assert_eq!(root.need("hello"), "wanted: installed for the running kernel");
    root.remove(&TestRoot::ko("hello", A));
    for _ in 0..2 {
        assert_eq!(root.need("hello"), "wanted: in use before, and not given up since");
        root.post_update();
    }
    // With nothing to go back to, it holds nothing.
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn a_module_that_dkms_never_owned_has_the_parameter_too() {
    let without_parameter = |root: TestRoot| {
        root.remove(FRAGMENT).entry(ID_A, "quiet rw", true);
        root
    };
    let check = |root: &TestRoot| root.run("clr-dkms-cmdline", &["check"]).code;
    let root = without_parameter(vendor());
    assert_eq!((check(&root), &status(&root)["sig_unenforce_wanted"]), (1, &true.into()));
    root.post_update();
    assert_eq!(check(&root), 0);
    root.run("clr-dkms-cmdline", &["show", "--raw", "-k", A]).shows(&["module.sig_unenforce"]);
    // A module that came with the kernel is signed by its own key, and one that nobody requires asks for
    // nothing.
    let in_tree = without_parameter(vendor());
    in_tree.remove(&format!("usr/lib/modules/{A}/extra/hello.ko")).index(A, "kernel/own.ko:\n").loads(&[]);
    put(&in_tree, A, "kernel/fs/hello.ko", "fs-hello");
    let optional = without_parameter(vendor());
    optional.conf("[modules]\noptional = hello\n");
    let unused = without_parameter(vendor());
    unused.loads(&[]).mounts(&[]);
    for root in [in_tree, optional, unused] {
        assert_eq!((check(&root), &status(&root)["sig_unenforce_wanted"]), (0, &false.into()));
    }
}

#[test]
fn a_module_that_dkms_never_owned_holds_a_kernel_back() {
    let root = vendor();
    root.post_update().code(1);
    assert_eq!(root.need("hello"), "critical: backs / (hello)");
    assert_eq!(root.boot_default(), ID_A);
    verdict(&root, "held", 1);
    let (state, step) = on(&root, "hello", B);
    assert_eq!(state, "not-managed");
    assert!(
        step.contains(&format!("install hello for kernel {B}")) && step.contains("`sudo dkms add DIRECTORY`"),
        "{step}"
    );
    assert_eq!(root.guard()["needs"][0]["origin"], "unmanaged");
    // Once it is there, and made for that kernel, the kernel may boot.
    put(&root, B, "extra/hello.ko", "fs-hello");
    root.file(&format!("usr/lib/modules/{B}/extra/hello.ko"), elf::module(A)).post_update().code(1);
    assert_eq!(root.boot_default(), ID_A, "made for another kernel");
    root.file(&format!("usr/lib/modules/{B}/extra/hello.ko"), elf::module(B)).post_update().code(0);
    assert_eq!((root.boot_default().as_str(), on(&root, "hello", B).0.as_str()), (ID_B, "ok"));
    verdict(&root, "reboot-pending", 0);
    // What keeps it from being loaded is named here as well.
    root.file("etc/modprobe.d/x.conf", "install hello /bin/false\n");
    let (state, step) = on(&root, "hello", B);
    assert_eq!(state, "blocked");
    assert!(step.contains("remove line 1 from ROOT/etc/modprobe.d/x.conf"), "{step}");
}

#[test]
fn the_kernels_own_driver_counts_where_it_serves_what_is_in_use() {
    let of = |alias: &str| {
        let root = vendor();
        put(&root, B, "kernel/fs/hello.ko", alias);
        root.post_update();
        root
    };
    let root = of("fs-hello");
    assert_eq!((root.boot_default().as_str(), on(&root, "hello", B).0.as_str()), (ID_B, "ok"));
    verdict(&root, "reboot-pending", 0);
    let root = of("fs-other");
    assert_eq!((root.boot_default().as_str(), on(&root, "hello", B).0.as_str()), (ID_A, "unknown"));
    // The same of one that has become part of the kernel.
    let built_in = |info: &str| {
        let root = vendor();
        let modules = format!("usr/lib/modules/{B}");
        root.file(&format!("{modules}/modules.builtin"), "kernel/fs/hello.ko\n")
            .file(&format!("{modules}/modules.builtin.modinfo"), info);
        root.post_update();
        root.boot_default()
    };
    assert_eq!(built_in("hello.alias=fs-hello\0"), ID_B);
    assert_eq!(built_in("hello.alias=fs-other\0"), ID_A);
    // A device, by its modalias.
    for (alias, expected) in [("pci:v00001234d*", ID_B), ("pci:v00009999d*", ID_A)] {
        let root = vendor();
        let card = "pci0000:00/0000:00:1f.6";
        root.mounts(&[]).device(card, "hello").interface("eth0", card, "", &[]).route("eth0");
        root.file(&format!("sys/devices/{card}/modalias"), "pci:v00001234d00005678sv0\n");
        put(&root, B, "kernel/net/hello.ko", alias);
        root.post_update();
        assert_eq!(root.boot_default(), expected, "{alias}");
    }
}

#[test]
fn a_dkms_module_that_has_become_part_of_the_kernel() {
    let excluded = |class: &str| {
        let root = TestRoot::guarded();
        root.module("hello", "1.0", "BUILD_EXCLUSIVE_KERNEL=\"1591\"\n")
            .conf(&format!("[modules]\n{class}\n"));
        put(&root, B, "kernel/fs/hello.ko", "fs-hello");
        root.post_update();
        root
    };
    let root = excluded("");
    assert_eq!(root.boot_default(), ID_B);
    verdict(&root, "reboot-pending", 0);
    let root = excluded("wanted = hello");
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn what_nothing_depends_on_is_reported_and_holds_nothing() {
    let root = vendor();
    root.mounts(&[]).post_update().code(1);
    assert_eq!(root.need("hello"), "optional: loaded in the running kernel");
    assert_eq!(root.boot_default(), ID_B);
    verdict(&root, "degraded", 1);
    let run = root.run("clr-dkms", &["status"]);
    run.code(1).shows(&["a reboot loses hello"]);
    // It is loaded, although the running kernel would refuse it at its next boot.
    root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null").post_update();
    root.run("clr-dkms", &["status"]).code(1).shows(&["signature-refused", "a reboot loses hello"]);
    // Unless an admin wants it.
    let root = vendor();
    root.mounts(&[]).conf("[modules]\nwanted = hello\n").post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    verdict(&root, "held", 1);
}

#[test]
fn what_insmod_has_loaded_is_reported_and_never_required() {
    let root = TestRoot::updated();
    root.entry(ID_A, WORDS, true).loads(&["mine"]).mounts(&[("0:40", "/x", "mine", "x")]);
    root.post_update().code(0);
    assert_eq!(root.need("mine"), "none");
    assert_eq!(root.boot_default(), ID_B);
    verdict(&root, "reboot-pending", 0);
    let notes = status(&root)["notes"].to_string();
    assert!(notes.contains("mine is loaded and has no file below /usr/lib/modules"), "{notes}");
    // A file that modules.dep does not list is a file.
    root.file(&format!("usr/lib/modules/{A}/misc/mine.ko"), elf::module(A));
    let notes = status(&root)["notes"].to_string();
    assert!(!notes.contains("mine is loaded"), "{notes}");
}

#[test]
fn a_source_that_nobody_registered_is_reported_and_never_built() {
    let root = TestRoot::proven();
    root.file("usr/src/lost-3/dkms.conf", "PACKAGE_NAME=lost\n").file("usr/src/linux/Makefile", "");
    root.module("other", "1", "").forget_calls().post_update();
    let notes = status(&root)["notes"].to_string();
    assert!(notes.contains("lost-3 has a dkms.conf and is not registered: run `sudo dkms add "), "{notes}");
    assert!(!notes.contains("hello-1.0") && !notes.contains("/linux"), "{notes}");
    assert!(!root.calls().iter().any(|call| call.contains("lost")), "{:?}", root.calls());
}

#[test]
fn modules_load_d_is_a_reason() {
    let root = TestRoot::guarded();
    root.module("late", "1", "").loads(&["hello"]).file("etc/modules-load.d/late.conf", "# x\nlate\n");
    assert_eq!(root.need("late"), "wanted: listed in /etc/modules-load.d/late.conf");
    // The kernel's own modules are renamed, and become part of it.
    root.file("etc/modules-load.d/own.conf", "own\nloop\n").post_update().code(0);
    assert_eq!((root.need("own").as_str(), root.need("loop").as_str()), ("none", "none"));
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn what_is_remembered_ends_after_a_boot_that_did_not_use_it() {
    let root = TestRoot::proven();
    let critical = "critical: backs /data (hello)";
    // Nothing uses it in this boot, which began with it in use.
    root.loads(&[]).mounts(&[]).boot("1").post_update();
    assert_eq!(root.need("hello"), critical);
    root.boot("1").post_update();
    assert_eq!(root.need("hello"), critical);
    // A boot that has not got anywhere shows nothing, and fstab may mount it.
    root.boot("2").remove(&format!("var/lib/kernel/k_booted_{A}")).post_update();
    assert_eq!(root.need("hello"), critical);
    root.boot("2").file("etc/fstab", "/dev/sda2 /data hello defaults 0 0\n");
    assert_eq!(root.need("hello"), critical);
    root.remove("etc/fstab").boot("2").post_update();
    assert_eq!(root.need("hello"), "wanted: installed for the running kernel");
    assert_eq!(root.record()["needs"][0]["class"], "wanted");
}

#[test]
fn a_boot_in_which_it_could_not_load_ends_nothing() {
    let root = TestRoot::held().rebooted(B);
    for boot in ["1", "2", "3"] {
        root.boot(boot).post_update();
        assert_eq!(root.need("hello"), "critical: backs /data (hello)", "{boot}");
    }
}

#[test]
fn an_admin_ends_what_is_remembered() {
    let root = TestRoot::held().rebooted(B);
    let before = root.text("var/lib/clr-dkms/last-run.json");
    root.run("clr-dkms", &["forget", "--dry-run", "hello"])
        .code(0)
        .shows(&["would forget hello (critical: backs /data"]);
    root.run("clr-dkms", &["forget", "nothing"])
        .code(3)
        .says(&["nothing is not a module that is remembered", "hello"]);
    assert_eq!(root.text("var/lib/clr-dkms/last-run.json"), before);
    root.run("clr-dkms", &["forget", "hello"]).code(1).says(&["hello is forgotten"]);
    assert!(root.need("hello").starts_with("optional: "), "{}", root.need("hello"));
    assert_eq!(root.boot_default(), ID_B);
    root.run("clr-dkms", &["forget", "hello"]).code(0).says(&["there is nothing to forget"]);
    // What is in use is not a matter of memory.
    let root = TestRoot::held();
    root.run("clr-dkms", &["forget", "hello"])
        .code(1)
        .says(&["because of the present state (backs /data (hello))"]);
    assert_eq!(root.boot_default(), ID_A);
    // Nor does the configuration need a verb.
    let root = TestRoot::held().rebooted(B);
    root.conf("[modules]\noptional = hello\n");
    assert_eq!(root.need("hello"), "optional: listed in clr-dkms.conf");
    let root = TestRoot::guarded();
    root.run("clr-dkms", &["forget", "hello"]).code(3).says(&["has not run on this system yet"]);
    root.file("var/lib/clr-dkms/last-run.json", "{");
    root.run("clr-dkms", &["forget", "hello"]).code(3).says(&["the remembered modules are unknown"]);
}

#[test]
fn what_dkms_has_removed_is_not_missed() {
    let root = TestRoot::proven();
    root.loads(&[]).mounts(&[]).removed("hello", &[A, B]).post_update().code(0);
    assert_eq!(root.need("hello"), "none");
    verdict(&root, "reboot-pending", 0);
    assert_eq!(root.record()["needs"].as_array().map_or(0, Vec::len), 0);
    // Also while it is still in use: what is loaded then has no file.
    let root = TestRoot::proven();
    root.removed("hello", &[A, B]).post_update().code(0);
    assert_eq!(root.need("hello"), "none");
    let notes = status(&root)["notes"].to_string();
    assert!(notes.contains("hello is loaded and has no file below"), "{notes}");
    // One of the two is lost by accident.
    let root = TestRoot::proven();
    root.loads(&[]).mounts(&[]).remove("var/lib/dkms/hello").post_update();
    assert_eq!(root.need("hello"), "critical: backs /data (hello)");
    let root = TestRoot::proven();
    root.loads(&[]).mounts(&[]).remove(&TestRoot::ko("hello", A));
    assert_eq!(root.need("hello"), "critical: backs /data (hello)");
}

#[test]
fn a_record_of_version_0_1_is_read() {
    let root = TestRoot::held().rebooted(B);
    let mut record = root.record();
    for need in record["needs"].as_array_mut().unwrap() {
        let need = need.as_object_mut().unwrap();
        for key in ["why", "files", "aliases", "origin", "idle"] {
            need.remove(key);
        }
    }
    root.file("var/lib/clr-dkms/last-run.json", record.to_string());
    assert_eq!(root.need("hello"), "critical: backs /data (hello)");
    root.remove("var/lib/dkms/hello");
    assert_eq!(root.need("hello"), "critical: backs /data (hello)");
    root.post_update();
    assert_eq!(root.need("hello"), "critical: backs /data (hello)");
}

#[test]
fn the_proof_of_a_module_that_dkms_does_not_manage_covers_its_signature() {
    let root = vendor();
    root.secure_boot(false).booted("quiet rw", "Y", Some("Y"));
    put(&root, B, "extra/hello.ko", "fs-hello");
    root.remove(FRAGMENT).config(B, machine::CLEAR).modinfo(B, true);
    assert_eq!(root.guard()["default"], A);
    let (state, step) = on(&root, "hello", B);
    assert_eq!(state, "signature-refused");
    assert!(step.contains("`sudo clr-dkms-cmdline enable`"), "{step}");
    // A run adds the parameter, as for a module of DKMS.
    root.post_update().code(0);
    assert_eq!((root.boot_default().as_str(), on(&root, "hello", B).0.as_str()), (ID_B, "ok"));
}

#[test]
fn another_modules_file_is_not_known_to_serve() {
    // On B the other one has the file.
    let root = TestRoot::guarded();
    root.module("other", "1", "BUILT_MODULE_NAME[0]=hello\nBUILD_EXCLUSIVE_KERNEL=1592\n");
    root.module("hello", "1.0", "BUILD_EXCLUSIVE_KERNEL=1591\n");
    root.post_update();
    assert!(root.has(&TestRoot::ko("hello", B)));
    assert_eq!(root.boot_default(), ID_A);
    // For what is only wanted it does.
    let root = TestRoot::guarded();
    root.module("other", "1", "BUILT_MODULE_NAME[0]=hello\nBUILD_EXCLUSIVE_KERNEL=1592\n");
    root.module("hello", "1.0", "BUILD_EXCLUSIVE_KERNEL=1591\n").mounts(&[]);
    root.post_update();
    assert_eq!(root.boot_default(), ID_B);
}
