//! `clr-dkms add --replace`: what was there before stays until the new source is proven.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::run::command;
use crate::support::tree;
use crate::support::{A, B, Run, TestRoot, cases, few_or};

/// Nothing can be installed of the new version.
const NO_INSTALL: &str = "[[ $verb != install || $version != 1.0 ]] || code=6";
/// The new version does not compile for one kernel.
const NOT_ON_B: &str = "[[ $verb != build || $version != 1.0 || $kernel != *1592* ]] || code=10";

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adopt/conf-at-top")
}

fn add(root: &TestRoot, source: &Path, more: &[&str]) -> Run {
    root.run("clr-dkms", &[&["add", &source.display().to_string(), "--yes"], more].concat())
}

/// A system with two kernels and an older version on both.
fn with_older() -> TestRoot {
    let root = TestRoot::updated();
    root.directory("var/tmp");
    root.module("hello", "0.9", "").installed("hello", "0.9", A).installed("hello", "0.9", B);
    root.post_update();
    root
}

/// A system with `hello/1.0`, and another source of the same version.
fn with_same() -> (TestRoot, PathBuf) {
    let root = TestRoot::updated();
    root.directory("var/tmp").post_update();
    add(&root, &source(), &[]).code(0);
    let other = root.outside().join("other");
    assert!(Command::new("cp").arg("-r").arg(source()).arg(&other).status().unwrap().success());
    fs::write(other.join("hello.c"), "int y;\nMODULE_LICENSE(\"GPL\");\n").unwrap();
    (root, other)
}

/// The version whose file a kernel has.
fn version_on(root: &TestRoot, kernel: &str) -> String {
    let file = fs::read(root.at(&TestRoot::ko("hello", kernel))).unwrap();
    let at = file.len() - "hello/1.0".len();
    String::from_utf8_lossy(&file[at..]).into_owned()
}

fn hidden(root: &TestRoot) -> Vec<String> {
    let names = fs::read_dir(root.at("usr/src")).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with('.')).collect()
}

#[test]
fn the_older_version_stays_when_the_new_one_fails() {
    for behaviour in [NO_INSTALL, NOT_ON_B] {
        let root = with_older();
        root.behave(behaviour);
        add(&root, &source(), &["--replace", "--no-build"]).code(1);
        for kernel in [A, B] {
            assert_eq!(version_on(&root, kernel), "hello/0.9", "{kernel} after {behaviour}");
        }
        for path in ["usr/src/hello-1.0", "var/lib/dkms/hello/1.0", "var/lib/clr-dkms/change.json"] {
            assert!(!root.has(path), "{path} after {behaviour}");
        }
    }
}

/// The source, with more lines in its `dkms.conf`, in a directory of that name.
fn source_with(root: &TestRoot, name: &str, lines: &str) -> PathBuf {
    let copy = root.outside().join(name);
    assert!(Command::new("cp").arg("-r").arg(source()).arg(&copy).status().unwrap().success());
    let conf = fs::read_to_string(copy.join("dkms.conf")).unwrap();
    fs::write(copy.join("dkms.conf"), conf + lines).unwrap();
    copy
}

/// It would be installed on one of the two kernels, or on none.
#[test]
fn the_older_version_stays_where_the_new_one_is_excluded() {
    for exclusion in
        ["BUILD_EXCLUSIVE_KERNEL=\"^5\"", "BUILD_EXCLUSIVE_KERNEL=\"1592\"", "OBSOLETE_BY=\"6.15\""]
    {
        let root = with_older();
        let source = source_with(&root, "dkms_source_tree", exclusion);
        let archive = root.outside().join("hello.tar.gz").display().to_string();
        let mut tar = Command::new("tar");
        tar.args(["-czf", &archive, "-C"]).arg(root.outside()).arg("dkms_source_tree");
        assert!(tar.status().unwrap().success());
        let still_there = |after: &str| {
            for kernel in [A, B] {
                assert_eq!(version_on(&root, kernel), "hello/0.9", "{kernel} after {after} of {exclusion}");
            }
            for path in ["usr/src/hello-0.9/hello.c", "var/lib/dkms/hello/0.9/source"] {
                assert!(root.has(path), "{path} after {after} of {exclusion}");
            }
            for path in ["usr/src/hello-1.0", "var/lib/dkms/hello/1.0", "var/lib/clr-dkms/change.json"] {
                assert!(!root.has(path), "{path} after {after} of {exclusion}");
            }
        };
        let run = add(&root, &source, &["--replace", "--no-build"]);
        let run = Run { stdout: run.stdout.split_whitespace().collect::<Vec<_>>().join(" "), ..run };
        run.code(1).shows(&["what it is to replace is installed there", "nothing of it is left"]);
        still_there("add");
        if exclusion.contains("1592") {
            // An import keeps what works on one kernel.
            continue;
        }
        let run = root.run("clr-dkms", &["import", &archive, "--yes", "--replace"]);
        let run = Run { stdout: run.stdout.split_whitespace().collect::<Vec<_>>().join(" "), ..run };
        run.code(1).shows(&["what it is to replace is installed there"]);
        still_there("import");
    }
}

#[test]
fn another_source_of_the_same_version_is_replaced_on_request() {
    let (root, other) = with_same();
    let old = root.text("usr/src/hello-1.0/hello.c");
    add(&root, &other, &[]).code(1).shows(&["--replace"]);
    assert_eq!(root.text("usr/src/hello-1.0/hello.c"), old);
    add(&root, &other, &["--replace"]).code(0).shows(&["installed and proven"]);
    assert_eq!(root.text("usr/src/hello-1.0/hello.c"), fs::read_to_string(other.join("hello.c")).unwrap());
    assert_eq!(hidden(&root), [] as [&str; 0]);
    assert!(root.has(&TestRoot::ko("hello", B)) && !root.has("var/lib/clr-dkms/change.json"));
    root.run("clr-dkms", &["remove", "hello"]).code(0);
    assert!(!root.has("usr/src/hello-1.0") && !root.has("var/lib/clr-dkms/added.json"));
}

#[test]
fn the_old_source_comes_back_when_the_new_one_fails() {
    let (root, other) = with_same();
    let old = root.text("usr/src/hello-1.0/hello.c");
    let file = fs::read(root.at(&TestRoot::ko("hello", B))).unwrap();
    root.behave("grep -q 'int x' \"$home/source/hello.c\" || { [[ $verb != build ]] || code=10; }");
    add(&root, &other, &["--replace", "--no-build"]).code(1);
    assert_eq!(root.text("usr/src/hello-1.0/hello.c"), old);
    assert_eq!(fs::read(root.at(&TestRoot::ko("hello", B))).unwrap(), file);
    assert_eq!(hidden(&root), [] as [&str; 0]);
    assert!(!root.has("var/lib/clr-dkms/change.json"));
    // It is still the source that add put there.
    root.run("clr-dkms", &["remove", "hello"]).code(0);
    assert!(!root.has("usr/src/hello-1.0"));
}

#[test]
fn the_source_of_a_package_is_not_replaced() {
    let (root, other) = with_same();
    root.file("var/lib/dpkg/info/hello-dkms.list", "/.\n/usr\n/usr/src\n/usr/src/hello-1.0\n");
    let old = root.text("usr/src/hello-1.0/hello.c");
    add(&root, &other, &["--replace"]).code(1).shows(&["the package hello-dkms"]);
    assert_eq!(root.text("usr/src/hello-1.0/hello.c"), old);
}

#[test]
fn a_replacement_that_was_killed_is_completed_or_forgotten() {
    let (whole, other) = with_same();
    let sources = [&source(), &other].map(|source| {
        let files = tree::read(source);
        files.into_iter().map(|(name, entry)| (name, entry.what)).collect::<Vec<_>>()
    });
    let (mut killed, mut seen) = (0, [0, 0]);
    for milliseconds in cases((0..40).map(|n| 40 + n * 50), few_or(13, 5)) {
        let root = whole.copy();
        let mut command = command("clr-dkms", &root.tools());
        command.arg("add").arg(&other).args(["--yes", "--replace", "--live-root"]).arg(root.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        assert!(root.has(&TestRoot::ko("hello", B)), "{milliseconds} ms");
        root.post_update();
        let now = tree::read(&root.at("usr/src/hello-1.0"));
        let now = now.into_iter().map(|(name, entry)| (name, entry.what)).collect::<Vec<_>>();
        let which = sources.iter().position(|source| *source == now);
        seen[which
            .unwrap_or_else(|| panic!("neither the old nor the new source after {milliseconds} ms"))] += 1;
        assert_eq!(hidden(&root), [] as [&str; 0], "{milliseconds} ms");
        assert!(!root.has("var/lib/clr-dkms/change.json"), "{milliseconds} ms");
        add(&root, &other, &["--replace"]).code(0);
        root.run("clr-dkms", &["remove", "hello"]).code(0);
        assert!(!root.has("usr/src/hello-1.0"), "{milliseconds} ms");
    }
    assert!(killed > 0 && seen[0] > 0, "{killed} {seen:?}");
}
