//! Collecting what is left of a kernel that is gone, with the real dkms.

use std::fs;
use std::time::Duration;

use crate::process::{Running, Trap, gone_within, in_root};
use crate::scene::{A, B, Scene};

/// What dkms keeps of `alpha` on [`B`].
const BUILT: &str = "var/lib/dkms/alpha/1.0/6.15.8-1592.native";
/// The directory of the modules of [`B`].
const MODULES: &str = "usr/lib/modules/6.15.8-1592.native";

/// A module on two kernels, of which the second is then taken away as its package is, but for what depmod and
/// dkms made.
pub(crate) fn left_over(name: &str) -> Option<Scene> {
    let scene = Scene::installed(name)?;
    scene.kernel("native", B);
    scene.post_update().exits(0);
    scene.proven("alpha", B);
    let images = scene.path("usr/lib/kernel");
    for entry in fs::read_dir(&images).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains("1592") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let tip = images.join("default-native");
    fs::remove_file(&tip).unwrap();
    std::os::unix::fs::symlink("org.clearlinux.native.6.15.7-1591", tip).unwrap();
    for directory in ["kernel", "build"] {
        fs::remove_dir_all(scene.path(&format!("{MODULES}/{directory}"))).unwrap();
    }
    for file in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs::remove_file(scene.path(&format!("{MODULES}/{file}"))).unwrap();
    }
    scene.boot_manager();
    // In an image, as which it is called here, the boot manager deletes no entry.
    fs::remove_file(scene.path("boot/loader/entries/Clear-linux-native-6.15.8-1592.conf")).unwrap();
    Some(scene)
}

/// The mark depends on the locale.
fn without_mark(text: &str) -> &str {
    text.trim_start_matches(['✔', '+', ' '])
}

/// Nothing is left of [`B`], all of [`A`] is as it was, and dkms says so.
#[track_caller]
fn collected(scene: &Scene) {
    for path in [BUILT, MODULES, "var/lib/dkms/alpha/kernel-6.15.8-1592.native-x86_64"] {
        assert!(fs::symlink_metadata(scene.path(path)).is_err(), "{path} is still there");
    }
    assert!(scene.path("var/lib/dkms/alpha/1.0/source/dkms.conf").exists(), "no longer registered");
    scene.proven("alpha", A);
    let status = scene.scratch("scratch_dkms", &["status"]);
    assert_eq!(status.trim(), format!("alpha/1.0, {A}, x86_64: installed"));
    assert_eq!(scene.state("alpha/1.0", A), "ok");
    let before = scene.listing();
    let again = scene.run("gc").exits(0);
    assert_eq!(without_mark(&again.out), "nothing to remove\n");
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
}

#[test]
fn gc_takes_a_gone_kernel_off_and_nothing_else() {
    let Some(scene) = left_over("gc") else { return };
    scene.record_calls("dkms");
    let before = scene.listing();
    let plan = scene.run("gc-plan").exits(0);
    assert!(plan.out.contains("dkms-unbuild"), "{}", plan.out);
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
    let outcome = scene.run("gc").exits(0);
    assert!(without_mark(&outcome.out).starts_with("removed 3 leftovers, "), "{}", outcome.out);
    assert!(!outcome.err.contains("without dkms"), "{}", outcome.err);
    assert!(scene.calls("dkms").starts_with("unbuild -m alpha -v 1.0 -k 6.15.8-1592.native --no-depmod"));
    // Beside what is gone only the times of the directories around it have changed.
    let around = ["usr/lib/modules:", "var/lib/dkms/alpha:", "var/lib/dkms/alpha/1.0:"];
    let changed = before.differences(&scene.listing());
    let others = changed.iter().filter(|c| !c.contains("1592") && !around.iter().any(|a| c.starts_with(a)));
    assert_eq!(others.collect::<Vec<_>>(), [""; 0]);
    collected(&scene);
}

/// The last kernel of a module: `dkms remove` would forget the module here.
#[test]
fn gc_keeps_a_module_registered_without_any_kernel() {
    let Some(scene) = left_over("gc-last") else { return };
    scene.scratch("scratch_dkms", &["unbuild", "alpha/1.0", "-k", A]);
    scene.run("gc").exits(0);
    assert_eq!(scene.scratch("scratch_dkms", &["status"]).trim(), "alpha/1.0: added");
    scene.heals();
}

/// As it was tried by hand: with the conf gone dkms exits with 4 and does nothing, with one that lost its
/// words with 8; with one that names another file with 0, and does nothing.
#[test]
fn gc_removes_what_dkms_does_not() {
    for (at, conf) in ["", "PACKAGE_NAME=alpha\n", "renamed"].into_iter().enumerate() {
        let Some(scene) = left_over(&format!("gc-without-{at}")) else { return };
        let path = "usr/src/alpha-1.0/dkms.conf";
        let good = scene.read(path);
        match conf {
            "" => fs::remove_file(scene.path(path)).unwrap(),
            "renamed" => {
                scene.write(
                    path,
                    good.replace("BUILT_MODULE_NAME[0]=\"alpha\"", "BUILT_MODULE_NAME[0]=\"beta\""),
                );
            }
            text => scene.write(path, text),
        }
        scene.run("gc").exits(0);
        scene.write(path, good);
        collected(&scene);
    }
}

#[track_caller]
fn killed_in_rm(name: &str, pattern: &str) {
    let Some(scene) = left_over(name) else { return };
    let trap = Trap::set(&scene, "rm", pattern);
    let run = Running::start(&mut scene.program("gc"));
    trap.wait();
    run.signal("KILL");
    run.ends();
    // What is confined ends with us.
    gone_within(&scene.root, Duration::from_secs(5));
    trap.open();
    scene.run("gc").exits(0);
    assert_eq!(in_root(&scene.root), [""; 0]);
    collected(&scene);
}

#[test]
fn gc_killed_after_the_file() {
    killed_in_rm("gc-killed-file", "*updates/dkms/alpha.ko*");
}

#[test]
fn gc_killed_after_the_link() {
    killed_in_rm("gc-killed-link", "*alpha/kernel-6.15.8-1592*");
}

#[test]
fn gc_killed_after_the_build() {
    killed_in_rm("gc-killed-build", "*alpha/1.0/6.15.8-1592.native/x86_64");
}
