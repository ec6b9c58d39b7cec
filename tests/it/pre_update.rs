//! `clr-dkms-pre-update`: a snapshot and warnings, quickly, and never a reason to stop an update.

use std::time::{Duration, Instant};

use crate::support::tree::difference;
use crate::support::{A, B, LTS, Run, TestRoot};

const SNAPSHOT: &str = "var/lib/clr-dkms/before-update.json";

fn pre_update(root: &TestRoot) -> Run {
    let run = root.run("clr-dkms-pre-update", &[]);
    run.code(0).prints("");
    assert_eq!(root.calls(), Vec::<String>::new(), "no program is run");
    run
}

fn settled() -> TestRoot {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    root
}

#[test]
fn the_snapshot_holds_kernels_and_what_is_installed_on_them() {
    let root = settled();
    root.kernel(LTS).headers(LTS).tip(LTS);
    assert_eq!(pre_update(&root).stderr, "");
    insta::assert_snapshot!("pre_update_snapshot", root.text(SNAPSHOT));
}

#[test]
fn an_unchanged_snapshot_is_not_written_again() {
    let root = settled();
    pre_update(&root);
    let before = root.tree();
    let mut later = root.command("clr-dkms-pre-update", &[]);
    let run = Run::of(later.env("SOURCE_DATE_EPOCH", "1753800000").output().unwrap(), &root);
    run.code(0);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
    root.kernel(B).headers(B).tip(B);
    pre_update(&root);
    assert_eq!(difference(&before, &root.tree(), true).iter().filter(|l| l.ends_with(SNAPSHOT)).count(), 1);
}

#[test]
fn dry_run_warns_and_writes_nothing() {
    let root = settled();
    root.remove(&format!("usr/lib/modules/{A}/build"));
    let before = root.tree();
    root.run("clr-dkms-pre-update", &["--dry-run"]).code(0).says(&["has no headers"]);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
}

#[test]
fn missing_headers_name_the_bundle() {
    for (release, cure) in [
        (A, "swupd bundle-add kernel-native-dkms"),
        (LTS, "swupd bundle-add kernel-lts-dkms"),
        ("6.6.9-7.kvm", "install the headers of kernel 6.6.9-7.kvm"),
    ] {
        let root = TestRoot::new();
        root.kernel(release).module("hello", "1.0", "");
        pre_update(&root).says(&[&format!("warning: kernel {release} has no headers"), cure]);
    }
    // A system without any module needs no headers.
    let root = TestRoot::new();
    root.kernel(A);
    assert_eq!(pre_update(&root).stderr, "");
}

#[test]
fn a_dkms_conf_that_cannot_be_read_says_nothing_about_autoinstall() {
    let root = settled();
    let conf = [b"AUTOINSTALL=yes\n".as_slice(), &[b'#'; 1 << 20]].concat();
    root.file("usr/src/hello-1.0/dkms.conf", conf);
    let run = pre_update(&root);
    run.says(&["hello/1.0 is in use on", A, "is unknown: cannot read", "larger than 1 MiB"]);
    assert!(!run.stderr.contains("will not be built"), "{}", run.stderr);
}

#[test]
fn a_module_in_use_that_will_not_be_built_is_reported() {
    for autoinstall in ["AUTOINSTALL=\"no\"\n", "AUTOINSTALL=\n", "AUTOINSTALL=''\n"] {
        let root = settled();
        root.module("hello", "1.0", autoinstall);
        pre_update(&root).says(&["hello/1.0 is in use on", A, "AUTOINSTALL=yes", "will not be built"]);
    }
    // Not in use: nobody misses it.
    let root = TestRoot::system();
    root.module("hello", "1.0", "AUTOINSTALL=no\n");
    assert_eq!(pre_update(&root).stderr, "");
    let root = settled();
    root.remove("usr/src/hello-1.0");
    pre_update(&root).says(&["hello/1.0 is in use on", "cannot be built for another kernel", "is gone"]);
}

#[test]
fn too_little_space_is_reported() {
    let root = settled();
    // A sparse file: a module of this size needs more room than any machine of these tests has.
    let ko = std::fs::File::create(root.at(&TestRoot::ko("huge", A))).unwrap();
    ko.set_len(1 << 43).or_else(|_| ko.set_len(1 << 40)).unwrap();
    pre_update(&root).says(&["ROOT/usr/lib/modules has", "MiB free", "free some space", "ROOT/var/lib/dkms"]);
}

#[test]
fn whatever_is_wrong_the_update_goes_on() {
    let gone = TestRoot::system();
    std::fs::remove_dir_all(gone.path()).unwrap();
    gone.run("clr-dkms-pre-update", &[]).code(0).says(&["error:", "ROOT"]);

    let no_kernels = settled();
    no_kernels.remove("usr/lib/kernel");
    pre_update(&no_kernels);
    assert!(!no_kernels.has(SNAPSHOT), "a snapshot of what cannot be seen would be a lie");

    let typo = settled();
    typo.file("etc/clr-dkms/clr-dkms.conf", "[bild]\ntimeout = 3\n");
    pre_update(&typo).says(&["ROOT/etc/clr-dkms/clr-dkms.conf: [bild] timeout: unknown section"]);
    assert!(typo.has(SNAPSHOT));

    let in_the_way = settled();
    in_the_way.file("var/lib/clr-dkms", "a file");
    pre_update(&in_the_way).says(&["no snapshot was taken", "ROOT/var/lib/clr-dkms"]);
    assert_eq!(in_the_way.text("var/lib/clr-dkms"), "a file");

    let directory = settled();
    directory.directory(SNAPSHOT);
    pre_update(&directory).says(&["no snapshot was taken", "before-update.json"]);

    let unreadable_tree = settled();
    unreadable_tree.remove("var/lib/dkms").file("var/lib/dkms", "a file");
    pre_update(&unreadable_tree);
}

#[test]
fn a_damaged_snapshot_is_replaced() {
    let root = settled();
    for garbage in ["", "{", "null", "{\"schema\":1}", "\u{0}"] {
        root.file(SNAPSHOT, garbage);
        pre_update(&root);
        let snapshot: serde_json::Value = serde_json::from_str(&root.text(SNAPSHOT)).unwrap();
        assert_eq!(snapshot["kernels"][A][0], "hello/1.0", "{garbage:?}");
    }
}

#[test]
fn wrong_usage_is_the_only_other_code() {
    TestRoot::system().run("clr-dkms-pre-update", &["--json"]).code(64);
}

#[test]
fn it_is_quick() {
    let root = TestRoot::updated();
    for n in 0..8 {
        let name = format!("module{n}");
        root.module(&name, "1.0", "").installed(&name, "1.0", A).installed(&name, "1.0", B);
    }
    let mut times: Vec<Duration> = (0..5)
        .map(|_| {
            let start = Instant::now();
            pre_update(&root);
            start.elapsed()
        })
        .collect();
    times.sort();
    // Without optimisation, beside all other tests, the bound only tells that no child and no pause has crept
    // in.
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 20 });
    assert!(times[2] < bound, "{times:?}");
}

/// What the hook says when a swupd that works on `image` has started it.
fn started_by_swupd(root: &TestRoot, image: &str) -> Run {
    let swupd = root.tools().join("swupd");
    let script = "#!/bin/sh\nwhile [ \"$1\" != -- ]; do shift; done\nshift\n\"$@\"\nexit 0\n";
    std::fs::write(&swupd, script).unwrap();
    crate::support::run::set_mode(&swupd, 0o755);
    let ours = root.command("clr-dkms-pre-update", &["--dry-run"]);
    let mut run = std::process::Command::new(swupd);
    run.args(["update", "--path", image, "--", "sh", "-c", "\"$@\"; exit $?", "sh"]);
    run.arg(ours.get_program()).args(ours.get_args());
    run.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Run::of(run.output().unwrap(), root)
}

#[test]
fn an_image_that_swupd_leaves_alone_because_of_us_is_not_forgotten() {
    let root = TestRoot::held();
    let image = TestRoot::updated();
    let path = image.path().display().to_string();
    let said = format!("after this update run `sudo clr-boot-manager update --path={path}`");
    started_by_swupd(&root, &path).code(0).says(&[&said]);
    // Where swupd makes the boot files, or a hook in the image does, there is nothing to say.
    let quiet = |root: &TestRoot, path: &str| {
        let run = started_by_swupd(root, path);
        assert!(!run.stderr.contains("--path="), "{}", run.stderr);
    };
    quiet(&root, "/");
    root.run("clr-dkms", &["guard", "--disarm"]).code(0);
    quiet(&root, &path);
    let root = TestRoot::held();
    image.file("usr/libexec/updater/50-clr-dkms-hook.sh", "").file("usr/bin/clr-dkms-post-update", "");
    quiet(&root, &path);
}
