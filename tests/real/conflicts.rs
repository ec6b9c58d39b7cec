//! Two modules that make one file, with the real dkms and the real depmod.

use std::fs;

use crate::scene::{A, ALPHA, Scene, entry};

#[test]
fn one_of_two_has_the_file_for_good() {
    let Some(scene) = Scene::installed("rivals") else { return };
    scene.module("aaa", "2.0", &["--built-name", "alpha"]);
    scene.record_calls("dkms");
    scene.post_update().exits(1).says(&["aaa/2.0", "conflict", "alpha/1.0"]);
    scene.proven("alpha", A);
    assert_eq!(entry(&scene.record(), "aaa/2.0", A)["state"], "conflict");
    let before = scene.listing();
    scene.post_update().exits(1);
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
    assert_eq!(scene.calls("dkms"), "", "it was never built");
    // Once the other one is gone, its turn has come.
    let build = format!("var/lib/dkms/alpha/1.0/{A}/x86_64");
    let old = fs::read(scene.path(&format!("{build}/module/alpha.ko"))).unwrap();
    fs::remove_dir_all(scene.path("var/lib/dkms/alpha")).unwrap();
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    assert_eq!(scene.state("aaa/2.0", A), "ok");
    assert!(fs::read(scene.path(ALPHA)).unwrap() != old, "the file of a module that is gone");
    scene.settled();
}
