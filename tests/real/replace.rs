//! Replacing what works, with the real dkms and the real depmod: at every moment, the file that modprobe
//! resolves is whole and made for the kernel.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::process::Running;
use crate::scene::{A, ALPHA, Scene, entry, shell, which};
use crate::source::describe;
use crate::space::Mount;

/// Of the length of [`A`].
const OTHER: &str = "6.15.6-1590.native";

/// alpha/2.0 beside the installed alpha/1.0.
fn newer(name: &str) -> Option<(Scene, Vec<u8>)> {
    let scene = Scene::installed(name)?;
    scene.module("alpha", "2.0", &[]);
    describe(&scene, "alpha-2.0", "alpha.c", "number 2.0");
    let old = fs::read(scene.path(ALPHA)).unwrap();
    Some((scene, old))
}

/// From now on the builds of a source make `file` for another kernel, as with the headers of that one.
fn makes_for_another(scene: &Scene, source: &str, file: &str) {
    let conf = format!("usr/src/{source}/dkms.conf");
    let build = format!("$dkms_tree/{}/build", source.replace('-', "/"));
    let change = format!("sed -i s/{A}/{OTHER}/g {build}/{file}");
    let make = format!("MAKE[0]='make -C $kernel_source_dir M={build} modules && {change}'\n");
    scene.write(&conf, scene.read(&conf) + &make);
}

fn makes_for_this(scene: &Scene, source: &str) {
    let conf = format!("usr/src/{source}/dkms.conf");
    let text = scene.read(&conf);
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("MAKE[0]")).collect();
    scene.write(&conf, lines.join("\n") + "\n");
}

fn link(scene: &Scene) -> String {
    let link = fs::read_link(scene.path(&format!("var/lib/dkms/alpha/kernel-{A}-x86_64"))).unwrap();
    link.iter().next().unwrap().to_str().unwrap().to_owned()
}

#[track_caller]
fn no_trace(scene: &Scene) {
    let listing = format!("{:?}", scene.listing());
    for name in [".tmp_", "staging-", "replacing-", "depmod-"] {
        assert!(!listing.contains(name), "{name} in {listing}");
    }
}

#[track_caller]
fn the_old_one_is_in_force(scene: &Scene, old: &[u8]) {
    assert!(
        fs::read(scene.path(ALPHA)).unwrap() == old,
        "the file of the version that worked is another one"
    );
    scene.proven("alpha", A);
    assert_eq!(link(scene), "1.0");
    no_trace(scene);
}

#[track_caller]
fn the_new_one_comes(scene: &Scene) {
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    assert_eq!(scene.modinfo(&scene.path(ALPHA), "description").trim(), "alpha, number 2.0");
    assert_eq!(link(scene), "2.0");
    assert_eq!(scene.status(0)["verdict"], "healthy");
    no_trace(scene);
    scene.settled();
}

#[test]
fn a_version_for_another_kernel() {
    let Some((scene, old)) = newer("replace-vermagic") else { return };
    makes_for_another(&scene, "alpha-2.0", "alpha.ko");
    for _ in 0..2 {
        scene.post_update().exits(1).says(&["alpha/2.0", A, "is not installed", OTHER]);
        the_old_one_is_in_force(&scene, &old);
        assert_eq!(entry(&scene.record(), "alpha/2.0", A)["state"], "build-failed");
    }
    makes_for_this(&scene, "alpha-2.0");
    the_new_one_comes(&scene);
}

#[test]
fn a_version_that_does_not_fit_on_the_disk() {
    let Some((scene, old)) = newer("replace-full") else { return };
    let directory = scene.path(ALPHA).parent().unwrap().to_owned();
    // To the last page: there is room for one.
    let mount = Mount::small(directory.clone(), &old.len().to_string());
    scene.write(ALPHA, &old);
    for _ in 0..2 {
        scene.post_update().exits(1).says(&["alpha/2.0", "No space left"]);
        the_old_one_is_in_force(&scene, &old);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }
    mount.grow("16m");
    the_new_one_comes(&scene);
}

/// The same for a file that was altered: whatever it is, it stays until its successor is there.
#[test]
fn an_altered_file_stays_when_the_disk_is_full() {
    let Some(scene) = Scene::installed("replace-altered") else { return };
    let mut altered = fs::read(scene.path(ALPHA)).unwrap();
    let at = altered.len() / 2;
    altered[at] ^= 0xff;
    let directory = scene.path(ALPHA).parent().unwrap().to_owned();
    let mount = Mount::small(directory.clone(), &altered.len().to_string());
    scene.write(ALPHA, &altered);
    scene.post_update().exits(1).says(&["alpha/1.0", "No space left"]);
    assert!(fs::read(scene.path(ALPHA)).unwrap() == altered, "it is gone, or is a part of another one");
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    mount.grow("16m");
    scene.heals();
}

#[test]
fn a_forced_build_for_another_kernel() {
    let Some(scene) = Scene::installed("replace-forced") else { return };
    let old = fs::read(scene.path(ALPHA)).unwrap();
    makes_for_another(&scene, "alpha-1.0", "alpha.ko");
    let mut rebuild = scene.program("rebuild");
    crate::scene::outcome(rebuild.args(["alpha", "--force"])).exits(1).says(&["is not installed", OTHER]);
    the_old_one_is_in_force(&scene, &old);
    assert_eq!(scene.state("alpha/1.0", A), "ok");
    assert_eq!(scene.status(0)["verdict"], "healthy");
    makes_for_this(&scene, "alpha-1.0");
    scene.heals();
}

/// One of two files is for another kernel: neither is installed.
#[test]
fn no_mixture_of_two_versions() {
    let Some(scene) = Scene::with_kernel("replace-set") else { return };
    let names = ["--built-name", "left", "--built-name", "right"];
    scene.module("pair", "1.0", &names);
    scene.post_update().exits(0);
    let files =
        ["left", "right"].map(|name| scene.path(&format!("usr/lib/modules/{A}/updates/dkms/{name}.ko")));
    let old = files.each_ref().map(|file| fs::read(file).unwrap());
    scene.module("pair", "2.0", &names);
    makes_for_another(&scene, "pair-2.0", "right.ko");
    scene.post_update().exits(1).says(&["right.ko was made for"]);
    assert!(files.each_ref().map(|file| fs::read(file).unwrap()) == old);
    makes_for_this(&scene, "pair-2.0");
    scene.post_update().exits(0);
    for file in &files {
        assert_eq!(scene.modinfo(file, "version").trim(), "2.0");
    }
    scene.settled();
}

/// Neither depmod nor dkms takes what is not in its place for a module.
#[test]
fn what_is_not_in_its_place_is_seen_by_nobody() {
    let Some(scene) = Scene::installed("replace-unseen") else { return };
    let names = [".tmp_alpha.ko_aside", ".tmp_alpha.ko_new"];
    let paths = names.map(|name| scene.path(&ALPHA.replace("alpha.ko", name)));
    let tree = scene.path("var/lib/dkms").display().to_string();
    let status = || shell(Command::new(which("dkms")).args(["status", "--dkmstree", &tree]).args(["-k", A]));
    let before = status();
    for path in &paths {
        fs::copy(scene.path(ALPHA), path).unwrap();
    }
    shell(Command::new(which("depmod")).arg("-b").arg(&scene.root).args(["-a", A]));
    assert!(!scene.read(&format!("usr/lib/modules/{A}/modules.dep")).contains(".tmp_"));
    assert_eq!(status(), before);
    scene.heals();
    no_trace(&scene);
}

/// dkms takes over what we have installed: it lists, uninstalls and installs it, and the kernel's own file
/// comes back.
#[test]
fn dkms_goes_on_where_we_have_installed() {
    let Some(scene) = Scene::with_kernel("replace-dkms") else { return };
    // The kernel has a module of that name itself, of a lower version.
    scene.module("alpha", "0.1", &[]);
    scene.post_update().exits(0);
    let own = format!("usr/lib/modules/{A}/kernel/drivers/alpha.ko");
    scene.write(&own, fs::read(scene.path(ALPHA)).unwrap());
    scene.scratch("scratch_dkms", &["remove", "alpha/0.1", "--all"]);
    assert!(!scene.path(ALPHA).exists());
    scene.write(&format!("usr/lib/modules/{A}/modules.order"), "kernel/drivers/alpha.ko\n");
    scene.module("alpha", "1.0", &[]);
    scene.heals();
    assert!(scene.path(&own).exists(), "the kernel's own file stays");
    assert!(
        scene
            .scratch("scratch_dkms", &["status"])
            .contains("alpha/1.0, 6.15.7-1591.native, x86_64: installed")
    );
    scene.scratch("scratch_dkms", &["uninstall", "alpha/1.0", "-k", A]);
    assert!(!scene.path(ALPHA).exists() && scene.path(&own).exists());
    scene.scratch("scratch_dkms", &["install", "alpha/1.0", "-k", A, "--force"]);
    scene.heals();
}

/// The scripts of dkms.conf run once each: before anything is changed, and when the new files are found.
#[test]
fn scripts_of_a_module() {
    let Some((scene, old)) = newer("replace-scripts") else { return };
    // They see the root of the scene as /: what they call must be there.
    scene.has_programs(&["/bin/sh", "/usr/bin/grep"]);
    let said = scene.path("said");
    for name in ["before", "after"] {
        let script = format!("#!/bin/sh\necho {name} $(/usr/bin/grep -c 'number 2.0' /{ALPHA}) >>/said\n");
        scene.write(&format!("usr/src/alpha-2.0/{name}.sh"), script);
        shell(Command::new("chmod").arg("755").arg(scene.path(&format!("usr/src/alpha-2.0/{name}.sh"))));
    }
    let conf = "usr/src/alpha-2.0/dkms.conf";
    scene.write(conf, scene.read(conf) + "PRE_INSTALL=before.sh\nPOST_INSTALL=after.sh\n");
    makes_for_another(&scene, "alpha-2.0", "alpha.ko");
    scene.post_update().exits(1);
    assert!(!said.exists(), "nothing was going to be installed");
    the_old_one_is_in_force(&scene, &old);
    makes_for_this(&scene, "alpha-2.0");
    the_new_one_comes(&scene);
    let text = fs::read_to_string(said).unwrap();
    assert_eq!(text, "before 0\nafter 1\n");
}

/// Reads a file again and again until it is to stop; how often, and what was neither of two.
fn watch(file: &Path, good: [&[u8]; 2], stop: &AtomicBool) -> (u32, Vec<Option<usize>>) {
    let (mut looks, mut odd) = (0, Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let bytes = fs::read(file).ok();
        if !bytes.as_deref().is_some_and(|bytes| good.contains(&bytes)) {
            odd.push(bytes.map(|bytes| bytes.len()));
        }
        looks += 1;
        std::thread::sleep(Duration::from_micros(500));
    }
    (looks, odd)
}

/// Killed at any moment of an installation. At each one the file is that of one version or of the other,
/// whole; after a boot one version is in force with its index and dkms's link; and the next run installs the
/// new one.
#[test]
fn killed_at_any_moment_of_an_installation() {
    let Some((scene, old)) = newer("replace-killed") else { return };
    scene.record_calls("dkms");
    let begin = Instant::now();
    scene.post_update().exits(0);
    let built = begin.elapsed();
    let new = fs::read(scene.path(ALPHA)).unwrap();
    let back = |scene: &Scene| {
        // As before, but for the build: what is left is to install it.
        let aside = scene.tools.join("alpha.ko");
        fs::write(&aside, &old).unwrap();
        shell(Command::new("mv").arg(aside).arg(scene.path(ALPHA)));
        let link = scene.path(&format!("var/lib/dkms/alpha/kernel-{A}-x86_64"));
        shell(Command::new("ln").arg("-sfn").arg(format!("1.0/{A}/x86_64")).arg(link));
        shell(Command::new(which("depmod")).arg("-b").arg(&scene.root).args(["-a", A]));
    };
    back(&scene);
    let begin = Instant::now();
    scene.post_update().exits(0);
    let mut whole = begin.elapsed();
    let (rounds, mut killed, mut rolled) = (12, 0, 0);
    for round in 0..rounds {
        back(&scene);
        let (stop, file) = (AtomicBool::new(false), scene.path(ALPHA));
        std::thread::scope(|scope| {
            let watched = scope.spawn(|| watch(&file, [&old, &new], &stop));
            let run = Running::start(&mut scene.program("post-update"));
            std::thread::sleep(whole * round / rounds);
            run.signal("KILL");
            match run.ends().code {
                None => killed += 1,
                // The machine has less other work than when the time was measured.
                Some(_) => whole = whole * 2 / 3,
            }
            // What is booted then is whole, before any service asks for it.
            let mut boot = scene.program("guard");
            crate::scene::outcome(boot.args(["guard", "--at-boot"])).exits(0);
            stop.store(true, Ordering::Relaxed);
            let (looks, odd) = watched.join().unwrap();
            assert!(looks > 0 && odd.is_empty(), "round {round}: {odd:?} of {looks}");
        });
        scene.proven("alpha", A);
        let there = fs::read(scene.path(ALPHA)).unwrap();
        let version = if there == old { "1.0" } else { "2.0" };
        assert_eq!(link(&scene), version, "round {round}");
        rolled += u32::from(there == old);
        the_new_one_comes_after_all(&scene, &new);
    }
    println!(
        "built in {built:?}; {killed} of {rounds} runs of {whole:?} were killed, {rolled} had the old one"
    );
    assert!(killed * 3 > rounds, "{killed} of {rounds}");
    scene.settled();
}

#[track_caller]
fn the_new_one_comes_after_all(scene: &Scene, new: &[u8]) {
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    assert!(fs::read(scene.path(ALPHA)).unwrap() == new);
    assert_eq!(link(scene), "2.0");
    no_trace(scene);
}
