//! What a fleet's monitors read: the metrics file of `[report] metrics`, after runs and at boot.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::guard::FAILS_ON_B;
use crate::support::{B, TestRoot};

const FILE: &str = "var/lib/node_exporter/textfile_collector/clr-dkms.prom";
const ON: &str = "[report]\nmetrics = /var/lib/node_exporter/textfile_collector/clr-dkms.prom\n";
const LINK: &str = "var/lib/clr-dkms/metrics";
const AT_BOOT: [&str; 2] = ["guard", "--at-boot"];
const REQUEST: &str = "run/clr-dkms/requested";

/// What the file says is the verdict, which must be what `status` says now.
#[track_caller]
fn shown(root: &TestRoot) -> String {
    let text = root.text(FILE);
    assert_eq!(text, root.run("clr-dkms", &["status", "--format", "prometheus"]).stdout);
    let line = text.lines().find(|l| l.starts_with("clr_dkms_verdict{") && l.ends_with(" 1")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

#[test]
fn the_file_follows_the_state() {
    let root = TestRoot::guarded();
    root.conf(ON).behave(FAILS_ON_B).post_update().code(1);
    assert_eq!(shown(&root), "held");
    let mode = || root.at(FILE).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(), 0o644);
    let reader = std::fs::File::open(root.at(FILE)).unwrap();
    root.repair("hello-1.0").post_update().code(0);
    assert_eq!((shown(&root).as_str(), mode()), ("reboot-pending", 0o644));
    // Another file in its place, so a reader of the old one reads it to its end.
    let inode = |m: std::fs::Metadata| m.ino();
    assert_ne!(inode(reader.metadata().unwrap()), inode(root.at(FILE).metadata().unwrap()));
    let directory = root.at(FILE).parent().unwrap().read_dir().unwrap().count();
    assert_eq!(directory, 1, "nothing half-written is left");
}

#[test]
fn after_the_reboot_it_tells_of_this_boot() {
    let root = TestRoot::guarded();
    root.conf(ON).post_update().code(0);
    assert_eq!(shown(&root), "reboot-pending");
    let root = root.rebooted(B);
    root.run("clr-dkms", &AT_BOOT).code(0);
    assert_eq!(shown(&root), "healthy");
    assert!(root.has(REQUEST), "the worker tells those in notify.d");
}

#[test]
fn a_verdict_that_a_reboot_has_changed_is_a_matter_of_the_worker_also_without_modules() {
    let root = TestRoot::updated();
    root.post_update().code(0);
    assert_eq!(root.record()["verdict"], "reboot-pending");
    root.run("clr-dkms", &AT_BOOT).code(0);
    assert!(!root.has(REQUEST), "nothing has changed, and nothing is to be built");
    let root = root.running(B);
    root.run("clr-dkms", &AT_BOOT).code(0);
    assert!(root.has(REQUEST));
    root.post_update().code(0);
    assert_eq!(root.record()["verdict"], "healthy");
}

#[test]
fn when_the_setting_goes_the_file_goes() {
    for last in [&["clr-dkms-post-update"][..], &["clr-dkms", "guard", "--at-boot"]] {
        let root = TestRoot::guarded();
        root.conf(ON).post_update().code(0);
        let elsewhere = "/srv/metrics/clr-dkms.prom";
        root.conf(&format!("[report]\nmetrics = {elsewhere}\n")).run(last[0], &last[1..]).code(0);
        assert!(!root.has(FILE) && root.text(elsewhere).starts_with("# HELP"), "{last:?}");
        root.conf("").run(last[0], &last[1..]).code(0);
        assert!(!root.has(elsewhere) && !root.at(LINK).is_symlink(), "{last:?}");
    }
}

#[test]
fn what_is_not_ours_stays() {
    let root = TestRoot::guarded();
    root.file("etc/precious", "root:x:0:0\n").conf("[report]\nmetrics = /etc/precious\n");
    root.post_update()
        .code(0)
        .says(&["[report] metrics: ROOT/etc/precious exists and is not a metrics file", "left alone"]);
    assert_eq!(root.text("etc/precious"), "root:x:0:0\n");
    // Nor is it removed when somebody has put another file in its place.
    root.conf(ON).post_update().code(0);
    root.file(FILE, "node_x 1\n").conf("").post_update().code(0);
    assert_eq!(root.text(FILE), "node_x 1\n");
    // An empty one, made so that we find it, is for us; a directory is not.
    root.file(FILE, "").conf(ON).post_update().code(0);
    assert_eq!(shown(&root), "reboot-pending");
    root.remove(FILE).directory(FILE).post_update().code(0).says(&["[report] metrics: "]);
    assert!(root.at(FILE).is_dir());
}

#[test]
fn a_run_that_can_do_nothing_says_so() {
    let root = TestRoot::guarded();
    root.conf(ON).post_update().code(0);
    root.link("usr/lib/kernel", "kernel").post_update().code(3);
    assert_eq!(shown(&root), "unknown");
    root.remove("usr/lib/kernel").directory("usr/lib/kernel").post_update().code(0);
    assert_eq!(shown(&root), "not-applicable");
}
