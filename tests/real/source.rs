//! Changes to the source of a scratch module.

use std::fs;

use crate::scene::Scene;

/// Rewrites a file of a module's source.
#[track_caller]
pub(crate) fn edit(scene: &Scene, module: &str, file: &str, change: impl FnOnce(String) -> String) {
    let inside = format!("usr/src/{module}/{file}");
    let (old, path) = (scene.read(&inside), scene.path(&inside));
    let new = change(old.clone());
    assert_ne!(old, new, "{inside} has not changed");
    fs::write(path, new).unwrap();
}

/// Adds lines to its dkms.conf.
pub(crate) fn add_to_conf(scene: &Scene, module: &str, lines: &str) {
    edit(scene, module, "dkms.conf", |text| text + lines);
}

/// Gives it a description, by which its built file can be distinguished from another one's.
pub(crate) fn describe(scene: &Scene, module: &str, file: &str, text: &str) {
    edit(scene, module, file, |source| source.replace("a module that does nothing", text));
}
