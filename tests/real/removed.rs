//! What dkms leaves of a module that an admin removes, beside what a loss leaves.

use std::fs;
use std::process::Command;

use crate::scene::{A, ALPHA, Scene, shell, which};

/// How much the guard says that alpha is needed.
fn class(scene: &Scene) -> String {
    let status = crate::scene::outcome(&mut scene.program("status"));
    let status: serde_json::Value = serde_json::from_str(&status.out).unwrap();
    let needs = status["guard"]["needs"].as_array().unwrap();
    let alpha = needs.iter().find(|need| need["module"] == "alpha");
    alpha.map_or("none", |need| need["class"].as_str().unwrap()).to_owned()
}

#[test]
fn a_removal_ends_what_a_loss_does_not() {
    let Some(scene) = Scene::installed("removed") else { return };
    assert_eq!(class(&scene), "wanted");
    fs::rename(scene.root.join("var/lib/dkms/alpha"), scene.root.join("alpha.lost")).unwrap();
    assert_eq!(class(&scene), "wanted", "its directory in the tree is lost");
    fs::rename(scene.root.join("alpha.lost"), scene.root.join("var/lib/dkms/alpha")).unwrap();
    fs::rename(scene.root.join(ALPHA), scene.root.join("alpha.ko")).unwrap();
    assert_eq!(class(&scene), "wanted", "its file is lost");
    fs::rename(scene.root.join("alpha.ko"), scene.root.join(ALPHA)).unwrap();

    scene.scratch("scratch_dkms", &["remove", "alpha/1.0", "--all"]);
    // dkms runs it itself where it is not kept from it.
    shell(Command::new(which("depmod")).arg("-b").arg(&scene.root).arg(A));
    assert!(!scene.root.join("var/lib/dkms/alpha").exists() && !scene.root.join(ALPHA).exists());
    assert!(scene.root.join("usr/src/alpha-1.0/dkms.conf").exists());
    assert_eq!(class(&scene), "none");
}
