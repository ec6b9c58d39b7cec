//! What crashes, full disks and hands leave behind, and what dkms itself does not repair or not even see.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::scene::{A, ALPHA, ALPHA_BUILT, Scene, entry, shell};

/// The index of kernel A as it was before the module came.
fn old_index(scene: &Scene) {
    let file = scene.path(ALPHA);
    let aside = scene.tools.join("alpha.ko");
    fs::rename(&file, &aside).unwrap();
    depmod(scene);
    fs::rename(&aside, &file).unwrap();
    assert!(!scene.read(&format!("usr/lib/modules/{A}/modules.dep")).contains("alpha"));
}

fn depmod(scene: &Scene) {
    shell(Command::new(crate::scene::which("depmod")).arg("-b").arg(&scene.root).args(["-a", A]));
}

/// Dkms's own mark that the module is installed on kernel A.
fn link(scene: &Scene) -> std::path::PathBuf {
    scene.path(&format!("var/lib/dkms/alpha/kernel-{A}-x86_64"))
}

/// A byte of the machine code, where no reader of `.modinfo` looks.
fn flip_a_byte(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

/// Names another release, of the same length, as a build with another kernel's headers would.
fn for_another_release(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(A.len()).position(|w| w == A.as_bytes()).unwrap();
    bytes[at..at + A.len()].copy_from_slice(b"6.15.6-1590.native");
    fs::write(path, bytes).unwrap();
}

#[test]
fn an_orphan_file_without_anything_in_the_tree() {
    let Some(scene) = Scene::installed("w1-orphan") else { return };
    fs::remove_file(link(&scene)).unwrap();
    fs::remove_dir_all(scene.path(&format!("var/lib/dkms/alpha/1.0/{A}"))).unwrap();
    // Wherever it came from: it is not what this source makes.
    flip_a_byte(&scene.path(ALPHA));
    scene.heals();
    assert!(
        !scene.path("var/lib/dkms/alpha/original_module").exists(),
        "the orphan was archived as an original"
    );
}

#[test]
fn an_orphan_file_between_the_copy_and_the_link() {
    let Some(scene) = Scene::installed("w1-between") else { return };
    fs::remove_file(link(&scene)).unwrap();
    flip_a_byte(&scene.path(ALPHA));
    scene.heals();
    assert!(
        !scene.path("var/lib/dkms/alpha/original_module").exists(),
        "the orphan was archived as an original"
    );
}

#[test]
fn a_link_and_no_depmod() {
    let Some(scene) = Scene::with_kernel("w2-no-depmod") else { return };
    scene.module("alpha", "1.0", &[]);
    // scratch_dkms always says --no-depmod: that is W2 as dkms itself leaves it.
    scene.scratch("scratch_dkms", &["install", "alpha/1.0", "-k", A]);
    let before = fs::metadata(scene.path(ALPHA)).unwrap().modified().unwrap();
    scene.record_calls("dkms");
    scene.heals();
    assert_eq!(scene.calls("dkms"), "", "depmod alone repairs it");
    assert_eq!(before, fs::metadata(scene.path(ALPHA)).unwrap().modified().unwrap());
}

#[test]
fn a_half_deleted_build_directory() {
    let Some(scene) = Scene::installed("w3-half") else { return };
    fs::remove_dir_all(scene.path(&format!("{ALPHA_BUILT}/module"))).unwrap();
    fs::remove_file(link(&scene)).unwrap();
    fs::remove_file(scene.path(ALPHA)).unwrap();
    scene.heals();
}

/// The proof holds against the module directory; yet the built file is gone, and dkms has no way back.
#[test]
fn a_half_deleted_build_directory_of_an_installed_module() {
    let Some(scene) = Scene::installed("w3-installed") else { return };
    fs::remove_dir_all(scene.path(&format!("{ALPHA_BUILT}/module"))).unwrap();
    scene.heals();
}

#[test]
fn a_deleted_file() {
    let Some(scene) = Scene::installed("deleted") else { return };
    fs::remove_file(scene.path(ALPHA)).unwrap();
    scene.heals();
}

#[test]
fn a_deleted_file_that_is_gone_from_the_tree_too() {
    let Some(scene) = Scene::installed("deleted-twice") else { return };
    fs::remove_file(scene.path(ALPHA)).unwrap();
    fs::remove_file(scene.path(&format!("{ALPHA_BUILT}/module/alpha.ko"))).unwrap();
    scene.heals();
}

/// One of two files: the other one is as good as before.
#[test]
fn one_file_of_two() {
    let Some(scene) = Scene::with_kernel("one-of-two") else {
        return;
    };
    scene.module("pair", "1.0", &["--built-name", "left", "--built-name", "right"]);
    scene.post_update().exits(0);
    fs::remove_file(scene.path(&format!("usr/lib/modules/{A}/updates/dkms/right.ko"))).unwrap();
    scene.post_update().exits(0);
    scene.proven("left", A);
    scene.proven("right", A);
    scene.settled();
}

#[test]
fn an_altered_file() {
    let Some(scene) = Scene::installed("altered") else { return };
    flip_a_byte(&scene.path(ALPHA));
    scene.heals();
}

#[test]
fn a_file_without_bytes() {
    let Some(scene) = Scene::installed("truncated") else { return };
    fs::write(scene.path(ALPHA), "").unwrap();
    scene.heals();
}

#[test]
fn a_file_without_bytes_in_the_tree_too() {
    let Some(scene) = Scene::installed("truncated-twice") else { return };
    fs::write(scene.path(ALPHA), "").unwrap();
    fs::write(scene.path(&format!("{ALPHA_BUILT}/module/alpha.ko")), "").unwrap();
    scene.heals();
}

#[test]
fn a_file_for_another_release() {
    let Some(scene) = Scene::installed("vermagic") else { return };
    for_another_release(&scene.path(ALPHA));
    scene.heals();
}

#[test]
fn a_build_for_another_release() {
    let Some(scene) = Scene::installed("vermagic-built") else { return };
    for_another_release(&scene.path(ALPHA));
    for_another_release(&scene.path(&format!("{ALPHA_BUILT}/module/alpha.ko")));
    scene.heals();
}

#[test]
fn a_source_that_goes_and_comes_back() {
    let Some(scene) = Scene::installed("source-gone") else { return };
    let (source, aside) = (scene.path("usr/src/alpha-1.0"), scene.path("usr/src/.aside"));
    fs::rename(&source, &aside).unwrap();
    scene.post_update().exits(1);
    scene.proven("alpha", A);
    assert_eq!(entry(&scene.record(), "alpha/1.0", A)["state"], "broken-source");
    // Without the installed file nobody can help either: said again, and nothing else is lost.
    fs::remove_file(scene.path(ALPHA)).unwrap();
    scene.post_update().exits(1).says(&["alpha/1.0"]);
    assert_eq!(scene.status(1)["verdict"], "degraded");
    assert_eq!(scene.state("alpha/1.0", A), "broken-source");
    assert!(scene.motd().contains("alpha/1.0"), "{}", scene.motd());
    let before = scene.listing();
    scene.post_update().exits(1);
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
    fs::rename(&aside, &source).unwrap();
    scene.heals();
}

#[test]
fn an_old_index_with_a_new_time() {
    let Some(scene) = Scene::installed("old-index") else { return };
    old_index(&scene);
    scene.record_calls("dkms");
    scene.heals();
    assert_eq!(scene.calls("dkms"), "");
}

#[test]
fn an_old_binary_index() {
    let Some(scene) = Scene::installed("old-binary") else { return };
    let directory = format!("usr/lib/modules/{A}");
    old_index(&scene);
    let old = fs::read(scene.path(&format!("{directory}/modules.dep.bin"))).unwrap();
    depmod(&scene);
    let binary = scene.path(&format!("{directory}/modules.dep.bin"));
    fs::write(&binary, old).unwrap();
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&binary).unwrap().set_modified(hour_ago).unwrap();
    scene.heals();
}

#[test]
fn no_binary_index() {
    let Some(scene) = Scene::installed("no-binary") else { return };
    fs::remove_file(scene.path(&format!("usr/lib/modules/{A}/modules.dep.bin"))).unwrap();
    scene.heals();
}

/// Modprobe reads the binary index only, so that one with a new time and old contents hides the module.
#[test]
fn an_old_binary_index_with_a_new_time() {
    let Some(scene) = Scene::installed("old-binary-new-time") else { return };
    let directory = format!("usr/lib/modules/{A}");
    old_index(&scene);
    let old = fs::read(scene.path(&format!("{directory}/modules.dep.bin"))).unwrap();
    depmod(&scene);
    fs::write(scene.path(&format!("{directory}/modules.dep.bin")), old).unwrap();
    scene.heals();
}

/// Its words are all there; what leads to them, at its end, or the mark at its beginning, is not: modprobe
/// finds nothing.
#[test]
fn a_binary_index_that_is_cut_or_has_another_mark() {
    let Some(scene) = Scene::installed("cut-binary") else { return };
    let binary = format!("usr/lib/modules/{A}/modules.dep.bin");
    let good = fs::read(scene.path(&binary)).unwrap();
    // The root is the last node, with a place of four bytes for each letter from `a` to `l`.
    for bad in [good[..good.len() - 48].to_vec(), [b"XXXX", &good[4..]].concat(), good[..9].to_vec()] {
        scene.write(&binary, bad);
        let mut modprobe = Command::new(crate::scene::which("modprobe"));
        modprobe.arg("-d").arg(&scene.root).args(["-S", A, "--show-depends", "alpha"]);
        assert!(!modprobe.output().unwrap().status.success(), "modprobe finds it all the same");
        assert_eq!(scene.state("alpha/1.0", A), "not-in-modules-dep");
        scene.heals();
    }
}

#[test]
fn leftovers_of_a_build_are_in_nobodys_way() {
    let Some(scene) = Scene::installed("leftovers") else { return };
    for place in [format!("alpha/1.0/{A}/.tmp_x86_64_a1B2c3/module"), "alpha/1.0/build".to_owned()] {
        scene.write(&format!("var/lib/dkms/{place}/alpha.ko"), "half");
    }
    scene.post_update().exits(0);
    scene.settled();
    fs::remove_file(link(&scene)).unwrap();
    fs::remove_dir_all(scene.path(ALPHA_BUILT)).unwrap();
    scene.heals();
}

/// A directory for the kernel with nothing but a leftover in it is not a build.
#[test]
fn leftovers_alone_are_no_build() {
    let Some(scene) = Scene::with_kernel("leftovers-alone") else { return };
    scene.module("alpha", "1.0", &[]);
    scene.write(&format!("var/lib/dkms/alpha/1.0/{A}/.tmp_x86_64_a1B2c3/module/alpha.ko"), "half");
    scene.write("var/lib/dkms/alpha/1.0/build/alpha.ko", "half");
    scene.heals();
}

#[test]
fn a_kernel_that_is_gone_leaves_its_builds() {
    let Some(scene) = Scene::installed("kernel-gone") else { return };
    let gone = "6.15.5-1589.native";
    let build = scene.path(&format!("var/lib/dkms/alpha/1.0/{gone}/x86_64/module"));
    fs::create_dir_all(&build).unwrap();
    fs::copy(scene.path(ALPHA), build.join("alpha.ko")).unwrap();
    let link = scene.path(&format!("var/lib/dkms/alpha/kernel-{gone}-x86_64"));
    std::os::unix::fs::symlink(format!("1.0/{gone}/x86_64"), link).unwrap();
    scene.heals();
    assert!(build.exists(), "that is for garbage collection, not for this run");
}

/// Dkms moves a kernel's own module of the same name away and keeps it.
#[test]
fn a_module_that_takes_the_place_of_one_of_the_kernel() {
    let Some(scene) = Scene::with_kernel("original") else { return };
    scene.module("dummy", "2.0", &[]);
    scene.post_update().exits(0);
    scene.proven("dummy", A);
    scene.settled();
}

/// Only modules.dep tells that the kernel's own file is found instead.
#[test]
fn a_file_of_the_kernel_that_hides_the_module() {
    let Some(scene) = Scene::installed("hidden") else { return };
    let own = scene.path(&format!("usr/lib/modules/{A}/kernel/drivers/alpha.ko"));
    fs::copy(scene.path(ALPHA), &own).unwrap();
    // This depmod is configured to look at the kernel's own directories first.
    let directory = scene.tools.join("depmod.d");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("search.conf"), "search built-in kernel updates\n").unwrap();
    let mut depmod = Command::new(crate::scene::which("depmod"));
    shell(depmod.arg("-C").arg(&directory).arg("-b").arg(&scene.root).args(["-a", A]));
    assert!(scene.read(&format!("usr/lib/modules/{A}/modules.dep")).contains("kernel/drivers/alpha.ko:"));
    scene.heals();
}
