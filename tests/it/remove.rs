//! `clr-dkms remove`: a module is taken back completely, or not at all.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::support::run::command;
use crate::support::tree::{self, difference};
use crate::support::{A, B, TestRoot, cases, few_or};

/// Lines for a stand-in of rmmod: it unloads what is loaded.
const RMMOD: &str = "#!/bin/bash\n\
    root=${0%/var/lib/dkms/*}\n\
    echo \"rmmod $*\" >>\"${0%/*}/record\"\n\
    grep -v \"^$2 \" \"$root/proc/modules\" >\"$root/proc/modules.new\"\n\
    mv \"$root/proc/modules.new\" \"$root/proc/modules\"\n";

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adopt/conf-at-top")
}

/// A system with two kernels, after a run.
fn system() -> TestRoot {
    let root = TestRoot::updated();
    root.directory("var/tmp").rmmod(RMMOD);
    root.post_update();
    root
}

/// The same with `hello/1.0`, which `clr-dkms add` installed.
fn with_hello() -> TestRoot {
    let root = system();
    root.run("clr-dkms", &["add", &source().display().to_string(), "--yes"]).code(0);
    root
}

impl TestRoot {
    fn rmmod(&self, text: &str) -> &TestRoot {
        use std::os::unix::fs::PermissionsExt;
        let path = self.tools().join("rmmod");
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// `hello` is loaded, and used by these modules and that often.
    fn uses_hello(&self, holders: &[&str], references: usize) -> &TestRoot {
        self.loads(&["hello"]).directory("sys/module/hello/holders");
        for holder in holders {
            self.directory(&format!("sys/module/hello/holders/{holder}"));
        }
        self.file("sys/module/hello/refcnt", format!("{references}\n"))
    }
}

/// What differs, but for the files that each run writes.
fn changes(before: &tree::Tree, after: &tree::Tree) -> Vec<String> {
    let mut changes = difference(before, after, false);
    changes.retain(|change| {
        ![".stand-ins", "last-run.json", "run/", "cache", "metrics", "mok.", "var/log"]
            .iter()
            .any(|own| change.contains(own))
    });
    changes
}

#[test]
fn what_add_did_is_taken_back() {
    let root = system();
    let before = root.tree();
    root.run("clr-dkms", &["add", &source().display().to_string(), "--yes"]).code(0);
    assert!(root.has("usr/src/hello-1.0") && root.has(&TestRoot::ko("hello", B)));
    let run = root.run("clr-dkms", &["remove", "hello"]);
    run.code(0).shows(&[&format!("from {B}"), "not registered any more", "usr/src/hello-1.0"]);
    assert_eq!(changes(&before, &root.tree()), [] as [&str; 0]);
    let status = root.run("clr-dkms", &["status", "--json"]).json();
    assert!(!status.to_string().contains("hello"), "{status:#}");
    root.run("clr-dkms", &["remove", "hello"]).code(3).says(&["hello is not registered with DKMS"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let root = with_hello();
    root.uses_hello(&[], 0);
    let before = root.tree();
    let run = root.run("clr-dkms", &["remove", "hello", "--dry-run", "--json"]);
    let document = run.code(0).json();
    assert_eq!((&document["dry_run"], &document["removed"]), (&true.into(), &false.into()));
    assert_eq!(document["kernels"], serde_json::json!([B]));
    let steps = document["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["result"] == "planned"), "{document:#}");
    assert_eq!(changes(&before, &root.tree()), [] as [&str; 0]);
}

#[test]
fn a_source_of_others_stays() {
    let root = system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A).installed("hello", "1.0", B);
    root.run("clr-dkms", &["remove", "hello/1.0"]).code(0).shows(&["stays"]);
    assert!(root.has("usr/src/hello-1.0/dkms.conf") && !root.has("var/lib/dkms/hello"));
    for kernel in [A, B] {
        assert!(!root.has(&TestRoot::ko("hello", kernel)), "{kernel}");
        assert!(!root.text(&format!("usr/lib/modules/{kernel}/modules.dep")).contains("hello"), "{kernel}");
    }
    // Its own source, edited since, stays too.
    let root = with_hello();
    root.file("usr/src/hello-1.0/mine", "mine\n");
    root.run("clr-dkms", &["remove", "hello"]).code(0).shows(&["was edited"]);
    assert!(root.has("usr/src/hello-1.0/mine") && root.has("usr/src/hello-1.0/hello.c"));
}

#[test]
fn a_module_without_its_source_is_removed_without_dkms() {
    for gone in ["usr/src/hello-1.0", "usr/src/hello-1.0/dkms.conf"] {
        let root = with_hello();
        root.run("clr-dkms", &["rebuild", "hello", "-k", A]).code(0);
        root.remove(gone);
        let run = root.run("clr-dkms", &["remove", "hello"]);
        run.code(0).shows(&["removed without dkms:", "POST_REMOVE", "not registered any more"]);
        assert!(!root.has("var/lib/dkms/hello") && !root.has("var/lib/clr-dkms/added.json"), "{gone}");
        for kernel in [A, B] {
            assert!(!root.has(&TestRoot::ko("hello", kernel)), "{kernel} without {gone}");
            assert!(!root.text(&format!("usr/lib/modules/{kernel}/modules.dep")).contains("hello"), "{gone}");
        }
    }
    // What dkms has put aside comes first.
    let root = with_hello();
    let original = format!("var/lib/dkms/hello/original_module/{B}/x86_64/hello.ko");
    root.remove("usr/src/hello-1.0").file(&original, "original");
    root.run("clr-dkms", &["remove", "hello"]).code(1).shows(&["original_module", "move it back first"]);
    assert!(root.has(&original) && root.has(&TestRoot::ko("hello", B)));
}

#[test]
fn one_of_several_versions_is_to_be_chosen() {
    let root = system();
    root.module("hello", "0.9", "").module("hello", "1.0", "").installed("hello", "1.0", B);
    root.run("clr-dkms", &["remove", "hello"]).code(1).says(&["hello/0.9, hello/1.0"]);
    root.run("clr-dkms", &["remove", "hello/0.9"]).code(0);
    assert!(!root.has("var/lib/dkms/hello/0.9") && root.has("var/lib/dkms/hello/1.0/source"));
    assert!(root.has(&TestRoot::ko("hello", B)));
}

#[test]
fn an_unused_module_is_unloaded() {
    let root = system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A).uses_hello(&[], 0);
    root.run("clr-dkms", &["remove", "hello"]).code(0).shows(&["unload    hello"]);
    assert!(root.calls().iter().any(|call| call == "rmmod -- hello"), "{:?}", root.calls());
    assert_eq!(root.text("proc/modules"), "");
}

#[test]
fn a_module_in_use_is_left_as_it_is_unless_forced() {
    for (holders, references, said) in [
        (&["other"][..], 1, "hello is in use by other"),
        (&[], 2, "hello is in use by 2 programs, mounts or devices"),
    ] {
        let root = system();
        root.module("hello", "1.0", "").installed("hello", "1.0", A).uses_hello(holders, references);
        root.run("clr-dkms", &["remove", "hello"]).code(1).shows(&[said, "--force"]);
        assert!(root.has("var/lib/dkms/hello/1.0/source") && root.has(&TestRoot::ko("hello", A)));
        root.run("clr-dkms", &["remove", "hello", "--force"]).code(0).shows(&[said, "stays"]);
        assert!(!root.has("var/lib/dkms/hello") && !root.has(&TestRoot::ko("hello", A)));
        assert!(root.text("proc/modules").starts_with("hello "));
    }
}

#[test]
fn what_cannot_be_unloaded_is_not_removed() {
    let root = system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A).uses_hello(&[], 0);
    root.rmmod("#!/bin/bash\necho 'rmmod: ERROR: Module hello is in use'\nexit 1\n");
    let run = root.run("clr-dkms", &["remove", "hello"]);
    run.code(1).shows(&["hello is still loaded", "nothing was removed"]);
    assert!(root.has("var/lib/dkms/hello/1.0/source") && root.has(&TestRoot::ko("hello", A)));
}

#[test]
fn a_critical_module_is_removed_on_demand_only() {
    let root = TestRoot::guarded();
    root.directory("var/tmp").rmmod(RMMOD).post_update();
    let run = root.run("clr-dkms", &["remove", "hello"]);
    run.code(1).shows(&["hello/1.0 is critical: backs /data (hello)"]);
    assert!(root.has(&TestRoot::ko("hello", A)));
    root.run("clr-dkms", &["remove", "hello", "--dry-run", "--json"]).code(1);
    let run = root.run("clr-dkms", &["remove", "hello", "--force", "--json"]);
    let document = run.json();
    assert_eq!((&document["removed"], &document["critical"]), (&true.into(), &"backs /data (hello)".into()));
    assert!(!root.has("var/lib/dkms/hello") && !root.has(&TestRoot::ko("hello", A)));
}

#[test]
fn an_image_is_not_unloaded_from() {
    let root = with_hello();
    let path = root.path().display().to_string();
    let mut command = command("clr-dkms", &root.tools());
    let done = command.args(["remove", "hello", "--root", &path]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    assert!(!root.has("usr/src/hello-1.0") && !root.has("var/lib/dkms/hello"));
}

#[test]
fn a_removal_that_was_killed_is_completed_by_the_next_run() {
    let whole = with_hello();
    let mut killed = 0;
    for milliseconds in cases((0..40).map(|n| 5 + n * 8), few_or(13, 5)) {
        let root = whole.copy();
        let mut command = command("clr-dkms", &root.tools());
        command.args(["remove", "hello", "--live-root"]).arg(root.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        let has_begun = root.has("var/lib/clr-dkms/change.json");
        root.post_update();
        let is_there = root.has("var/lib/dkms/hello");
        assert!(!has_begun || !is_there, "{milliseconds} ms");
        for path in ["usr/src/hello-1.0", "var/lib/clr-dkms/added.json", &TestRoot::ko("hello", B)] {
            assert_eq!(root.has(path), is_there, "{path} after {milliseconds} ms");
        }
        assert!(!root.has("var/lib/clr-dkms/change.json"), "{milliseconds} ms");
        assert_eq!(fs::read_dir(root.at("usr/src")).unwrap().count(), usize::from(is_there));
    }
    assert!(killed > 0);
}

#[test]
fn an_addition_that_was_killed_is_taken_back_by_the_next_run() {
    let root = with_hello();
    root.remove(&TestRoot::ko("hello", B)).remove(&format!("var/lib/dkms/hello/1.0/{B}"));
    root.remove(&format!("var/lib/dkms/hello/kernel-{B}-{}", clr_dkms::dkms::architecture()));
    let change = r#"{"schema": 1, "name": "hello", "version": "1.0", "change": "add"}"#;
    root.file("var/lib/clr-dkms/change.json", change);
    root.post_update().says(&["taking it back"]);
    for path in ["usr/src/hello-1.0", "var/lib/dkms/hello", "var/lib/clr-dkms/change.json"] {
        assert!(!root.has(path), "{path}");
    }
    // One that every kernel has already stays.
    let root = with_hello();
    for kernel in [A, B] {
        root.run("clr-dkms", &["rebuild", "hello", "-k", kernel]).code(0);
    }
    root.file("var/lib/clr-dkms/change.json", change);
    root.post_update();
    assert!(root.has(&TestRoot::ko("hello", B)) && !root.has("var/lib/clr-dkms/change.json"));
}

/// A file that exists and cannot be read: a loop of symlinks.
fn make_unreadable(root: &TestRoot, path: &str) {
    root.link(path, path.rsplit('/').next().unwrap());
}

#[test]
fn a_module_is_not_removed_while_it_is_unknown_whether_it_is_loaded() {
    for path in ["proc/modules", "proc/sys/kernel/osrelease"] {
        for force in [&[][..], &["--force"]] {
            let root = system();
            root.module("hello", "1.0", "").installed("hello", "1.0", A).uses_hello(&[], 0);
            make_unreadable(&root, path);
            let run = root.run("clr-dkms", &[&["remove", "hello"], force].concat());
            run.code(3).says(&["cannot read", path]);
            assert!(root.has(&TestRoot::ko("hello", A)) && root.has("var/lib/dkms/hello/1.0"), "{path}");
        }
    }
    // Without a list the kernel has no modules at all.
    let root = system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    assert!(!root.has("proc/modules"));
    root.run("clr-dkms", &["remove", "hello"]).code(0).shows(&["it is not loaded"]);
}

#[test]
fn a_change_that_cannot_be_read_is_not_overwritten() {
    let root = with_hello();
    let change = "var/lib/clr-dkms/change.json";
    make_unreadable(&root, change);
    root.run("clr-dkms", &["remove", "hello"]).code(3).says(&["change.json", "is not completed"]);
    let source = source().display().to_string();
    root.run("clr-dkms", &["add", &source, "--yes"]).code(3).says(&["change.json", "is not completed"]);
    assert!(root.at(change).is_symlink() && root.has(&TestRoot::ko("hello", B)));
}

#[test]
fn an_addition_is_not_taken_back_while_it_is_unknown_which_kernels_have_it() {
    let root = with_hello();
    let change = "var/lib/clr-dkms/change.json";
    root.file(change, r#"{"schema": 1, "name": "hello", "version": "1.0", "change": "add"}"#);
    make_unreadable(&root, &format!("usr/lib/modules/{B}/build/include/config/kernel.release"));
    root.post_update().says(&["kernel.release", "is not completed"]);
    assert!(root.has(change) && root.has("usr/src/hello-1.0") && root.has(&TestRoot::ko("hello", B)));
}

#[test]
fn a_record_that_cannot_be_read_leaves_the_removal_for_the_next_run() {
    let root = with_hello();
    let record = root.text("var/lib/clr-dkms/last-run.json");
    make_unreadable(&root, "var/lib/clr-dkms/last-run.json");
    root.run("clr-dkms", &["remove", "hello", "--force"]).code(1).shows(&["last-run.json"]);
    assert!(root.has("var/lib/clr-dkms/change.json"));
    root.remove("var/lib/clr-dkms/last-run.json").file("var/lib/clr-dkms/last-run.json", record);
    root.post_update();
    assert!(!root.has("var/lib/clr-dkms/change.json") && !root.has("var/lib/dkms/hello"));
}
