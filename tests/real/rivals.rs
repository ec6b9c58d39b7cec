//! Two modules that make one file, and a file that is set aside, with the real dkms and the real depmod.

use std::fs;
use std::process::Command;

use crate::scene::{A, ALPHA, Scene, entry, shell, which};

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

/// Neither depmod nor dkms takes what is set aside for a module.
#[test]
fn what_is_set_aside_is_seen_by_nobody() {
    let Some(scene) = Scene::installed("aside-unseen") else { return };
    let aside = scene.path(&ALPHA.replace("alpha.ko", ".tmp_alpha.ko_aside"));
    let tree = scene.path("var/lib/dkms").display().to_string();
    let status = || shell(Command::new(which("dkms")).args(["status", "--dkmstree", &tree]).args(["-k", A]));
    let before = status();
    fs::copy(scene.path(ALPHA), &aside).unwrap();
    shell(Command::new(which("depmod")).arg("-b").arg(&scene.root).args(["-a", A]));
    assert!(!scene.read(&format!("usr/lib/modules/{A}/modules.dep")).contains("aside"));
    assert_eq!(status(), before);
    scene.heals();
    assert!(!aside.exists());
}

/// A disk that is full when dkms installs: the file from before is loaded until there is room.
#[test]
fn an_altered_file_stays_when_the_disk_is_full() {
    let Some(scene) = Scene::installed("aside-full") else { return };
    let file = scene.path(ALPHA);
    let mut altered = fs::read(&file).unwrap();
    let at = altered.len() / 2;
    altered[at] ^= 0xff;
    let folder = file.parent().unwrap().to_owned();
    // To the last page: there is room for one.
    let size = format!("size={},mode=755", altered.len());
    shell(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&folder));
    fs::write(&file, &altered).unwrap();
    scene.post_update().exits(1).says(&["alpha/1.0", "No space left"]);
    assert!(fs::read(&file).unwrap() == altered, "it is gone, or is a part of another one");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    shell(Command::new("mount").args(["-o", "remount,size=16m"]).arg(&folder));
    scene.heals();
    shell(Command::new("umount").arg("-l").arg(&folder));
}

/// Killed while dkms copies: the next run has nothing to fall back to but what was set aside.
#[test]
fn a_kill_in_the_middle_of_the_installation() {
    let Some(scene) = Scene::installed("aside-killed") else { return };
    let file = scene.path(ALPHA);
    let mut altered = fs::read(&file).unwrap();
    let at = altered.len() / 2;
    altered[at] ^= 0xff;
    fs::write(&file, &altered).unwrap();
    // This dkms kills the run that has called it, and leaves a part of a copy.
    scene.tool(
        "dkms",
        &format!("[[ $1 != install ]] || {{ echo part >'{}'; kill -9 $PPID; exit 6; }}", file.display()),
    );
    assert_eq!(scene.post_update().code, None);
    scene.tool("dkms", "exit 6");
    scene.post_update().exits(1).says(&["is put right"]);
    assert!(fs::read(&file).unwrap() == altered, "what was set aside is not back");
    fs::remove_file(scene.tools.join("dkms")).unwrap();
    scene.heals();
}
