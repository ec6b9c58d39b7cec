//! Full disks and read-only ones.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{A, Scene, entry, shell};

/// Something mounted, until the end of the test.
#[derive(Debug)]
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn small(place: PathBuf, size: &str) -> Mount {
        std::fs::create_dir_all(&place).unwrap();
        let options = format!("size={size},mode=755");
        shell(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&place));
        Mount(place)
    }

    pub(crate) fn grow(&self, size: &str) {
        shell(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0));
    }

    pub(crate) fn read_only(root: &Path) -> Mount {
        shell(Command::new("mount").arg("--bind").args([root, root]));
        let mount = Mount(root.to_owned());
        shell(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(root));
        mount
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // When the test has failed, that is what is to be reported.
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[track_caller]
fn no_space_is_reported(scene: &Scene) {
    scene.post_update().exits(1).says(&["alpha/1.0", A, "No space left"]);
    let record = scene.record();
    let failed = entry(&record, "alpha/1.0", A);
    assert_eq!(failed["state"], "build-failed");
    assert!(failed["error"]["message"].as_str().unwrap().contains("No space left"), "{failed:#}");
    assert_eq!(scene.status(1)["verdict"], "degraded");
}

#[test]
fn no_space_to_build() {
    let Some(scene) = Scene::with_kernel("full-tree") else { return };
    let mount = Mount::small(scene.path("var/lib/dkms"), "32k");
    scene.bring_tools();
    scene.module("alpha", "1.0", &[]);
    no_space_is_reported(&scene);
    mount.grow("16m");
    scene.heals();
}

/// dkms itself leaves a file without bytes, or a part of one, in the module directory.
#[test]
fn no_space_to_install() {
    let Some(scene) = Scene::with_kernel("full-modules") else { return };
    scene.module("alpha", "1.0", &[]);
    let updates = scene.path(&format!("usr/lib/modules/{A}/updates"));
    let mount = Mount::small(updates.clone(), "4k");
    no_space_is_reported(&scene);
    assert_eq!(std::fs::read_dir(updates.join("dkms")).map_or(0, Iterator::count), 0);
    mount.grow("16m");
    scene.heals();
}

/// An index that could not be written whole is none.
#[test]
fn no_space_for_the_index() {
    let Some(scene) = Scene::with_kernel("full-index") else { return };
    scene.module("alpha", "1.0", &[]);
    // The directory of the modules, headers and all, on a small disk: what is there, and a module, fit.
    let directory = scene.path(&format!("usr/lib/modules/{A}"));
    let aside = scene.tools.join("modules");
    std::fs::rename(&directory, &aside).unwrap();
    let mount = Mount::small(directory.clone(), "1m");
    let script = r#"cp -a "$1"/{kernel,modules.*} "$2" && mkdir "$2/build""#;
    shell(Command::new("bash").args(["-c", script, "copy"]).args([&aside, &directory]));
    let headers = directory.join("build");
    shell(Command::new("mount").arg("--bind").arg(aside.join("build")).arg(&headers));
    let headers = Mount(headers);
    scene.post_update().exits(0);
    // Now the disk is full to the last block, and the index is lost.
    let index = directory.join("modules.dep");
    std::fs::remove_file(index).unwrap();
    // modprobe reads this one; a depmod that writes beside it leaves a part of it here.
    let binary = || std::fs::read(directory.join("modules.dep.bin")).unwrap();
    let before = binary();
    let filler = directory.join("filler");
    Command::new("dd")
        .args(["if=/dev/zero", "bs=4k"])
        .arg(format!("of={}", filler.display()))
        .output()
        .unwrap();
    scene.post_update().exits(1).says(&["modules.dep", "No space left"]);
    assert!(binary() == before, "modules.dep.bin is another one");
    assert_eq!(scene.state("alpha/1.0", A), "not-in-modules-dep");
    assert_eq!(scene.status(1)["verdict"], "degraded");
    std::fs::remove_file(filler).unwrap();
    scene.heals();
    drop((headers, mount));
}

/// The old record stays whole, and the exit code tells that the new one is missing.
#[test]
fn no_space_for_the_record() {
    let Some(scene) = Scene::with_kernel("full-record") else { return };
    scene.module("alpha", "1.0", &[]);
    let mount = Mount::small(scene.path("var/lib/clr-dkms"), "4k");
    scene.write("var/lib/clr-dkms/filler", [0; 4096]);
    let outcome = scene.post_update();
    assert!(outcome.code.is_some_and(|code| code != 0), "{outcome:?}");
    outcome.says(&["No space left", "/var/lib/clr-dkms/"]);
    mount.grow("1m");
    scene.heals();
}

#[test]
fn a_read_only_root() {
    let Some(scene) = Scene::installed("read-only") else { return };
    std::fs::remove_file(scene.path(crate::scene::ALPHA)).unwrap();
    let mount = Mount::read_only(&scene.root);
    let before = scene.listing();
    let outcome = scene.post_update();
    assert!(outcome.code.is_some_and(|code| code != 0), "{outcome:?}");
    let outcome = outcome.says(&["Read-only file system"]);
    assert!(outcome.err.lines().count() < 6, "one clear message: {}", outcome.err);
    assert_eq!(scene.status(1)["verdict"], "degraded");
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
    drop(mount);
    scene.heals();
}
