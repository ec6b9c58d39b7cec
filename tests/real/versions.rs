//! A new version of a module comes to a kernel that has the old one.

use std::fs;

use crate::scene::{A, ALPHA, Scene, entry};
use crate::source::{describe, edit};

fn built(scene: &Scene, version: &str) -> Vec<u8> {
    fs::read(scene.path(&format!("var/lib/dkms/alpha/{version}/{A}/x86_64/module/alpha.ko"))).unwrap()
}

/// After one run the installed file is the one that the new version's build made.
#[track_caller]
fn new_one_is_installed(scene: &Scene, version: &str) {
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    assert!(
        fs::read(scene.path(ALPHA)).unwrap() == built(scene, version),
        "another version's file is installed"
    );
    assert_eq!(scene.modinfo(&scene.path(ALPHA), "description").trim(), format!("alpha, number {version}"));
    let link = fs::read_link(scene.path(&format!("var/lib/dkms/alpha/kernel-{A}-x86_64"))).unwrap();
    assert!(link.starts_with(version), "{}", link.display());
    assert_eq!(scene.state(&format!("alpha/{version}"), A), "ok");
    assert_eq!(scene.status(0)["verdict"], "healthy");
    assert!(!scene.path("var/lib/dkms/alpha/original_module").exists(), "our own old file was archived");
    scene.settled();
}

fn without_version(scene: &Scene, version: &str) {
    edit(scene, &format!("alpha-{version}"), "alpha.c", |text| {
        text.replace(&format!(" MODULE_VERSION(\"{version}\");"), "")
    });
}

fn add(scene: &Scene, version: &str) {
    scene.module("alpha", version, &[]);
    describe(scene, &format!("alpha-{version}"), "alpha.c", &format!("number {version}"));
}

#[test]
fn a_version_that_says_so() {
    let Some(scene) = Scene::installed("version-said") else { return };
    add(&scene, "1.1");
    new_one_is_installed(&scene, "1.1");
    assert_eq!(scene.modinfo(&scene.path(ALPHA), "version").trim(), "1.1");
}

/// Without MODULE_VERSION dkms 3.0.10 leaves the old file in place, and says installed.
#[test]
fn versions_that_say_nothing() {
    let Some(scene) = Scene::with_kernel("version-unsaid") else { return };
    add(&scene, "1.0");
    without_version(&scene, "1.0");
    new_one_is_installed(&scene, "1.0");
    add(&scene, "1.1");
    without_version(&scene, "1.1");
    new_one_is_installed(&scene, "1.1");
}

/// Dkms refuses to replace a file whose own version is higher.
#[test]
fn a_new_version_with_a_lower_module_version() {
    let Some(scene) = Scene::installed("version-lower") else { return };
    add(&scene, "2.0");
    edit(&scene, "alpha-2.0", "alpha.c", |text| {
        text.replace("MODULE_VERSION(\"2.0\")", "MODULE_VERSION(\"0.9\")")
    });
    new_one_is_installed(&scene, "2.0");
}

#[test]
fn a_new_version_that_does_not_compile_leaves_the_old_one() {
    let Some(scene) = Scene::installed("version-broken") else { return };
    let old = fs::read(scene.path(ALPHA)).unwrap();
    scene.module("alpha", "1.1", &["--broken-for", "."]);
    for _ in 0..2 {
        scene.post_update().exits(1).says(&["alpha/1.1", A, "build-failed"]);
        assert!(fs::read(scene.path(ALPHA)).unwrap() == old, "the old version's file has changed");
        scene.proven("alpha", A);
        let record = scene.record();
        let failed = entry(&record, "alpha/1.1", A);
        assert_eq!(failed["state"], "build-failed");
        assert!(failed["error"]["file"].as_str().unwrap().ends_with("alpha.c"), "{failed:#}");
        assert_eq!(scene.status(1)["verdict"], "degraded");
    }
    add(&scene, "1.1");
    new_one_is_installed(&scene, "1.1");
}
