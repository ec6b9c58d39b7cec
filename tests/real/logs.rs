//! Logs that grow without end, that somebody holds open, or that there is no room for.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::scene::{A, Scene, entry};
use crate::space::Mount;

const LOG: &str = "var/log/clr-dkms/alpha/1.0/6.15.7-1591.native.log";

/// alpha/1.0, whose build first does something else.
fn first(scene: &Scene, script: &str, options: &[&str]) {
    scene.module("alpha", "1.0", options);
    let conf = scene.read("usr/src/alpha-1.0/dkms.conf");
    // A make that is not a word of its own is none that dkms would give options to.
    let make = "make -C $kernel_source_dir M=$dkms_tree/alpha/1.0/build";
    let make = format!("bash $dkms_tree/alpha/1.0/build/first.sh && {make}");
    scene.write("usr/src/alpha-1.0/dkms.conf", format!("{conf}MAKE[0]=\"{make}\"\n"));
    scene.write("usr/src/alpha-1.0/first.sh", script);
}

/// 300 MB, at 200 MB a second or so.
const ENDLESS: &str =
    "for n in {1..150}; do yes 'a line that says nothing' | head -c 2000000; sleep 0.01; done";

#[test]
fn a_large_log_fills_no_disk_and_stops_no_build() {
    let Some(scene) = Scene::with_kernel("large-log") else { return };
    first(&scene, ENDLESS, &[]);
    // As a whole it fits into neither.
    let mounts = ["var/lib/dkms", "var/log"].map(|place| {
        let (from, mount) = (scene.path(place), scene.beside(&place.replace('/', "-")));
        std::fs::rename(&from, &mount).unwrap();
        let small = Mount::small(from.clone(), "100m");
        let copy = std::process::Command::new("cp").arg("-a").arg(mount.join(".")).arg(&from).status();
        assert!(copy.unwrap().success());
        small
    });
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    let log = scene.read(LOG);
    assert!((16 << 20..=33 << 20).contains(&log.len()), "{}", log.len());
    assert!(!log.contains('\0') && log.contains("bytes are left out here\n"));
    assert!(log.contains("DKMS make.log for alpha-1.0") && log.contains("LD [M]"), "both ends");
    // And one that fails in the end.
    scene.scratch("scratch_dkms", &["unbuild", "alpha/1.0", "-k", A]);
    first(&scene, ENDLESS, &["--broken-for", "."]);
    scene.post_update().exits(1);
    let record = scene.record();
    let error = &entry(&record, "alpha/1.0", A)["error"];
    assert_eq!((&error["kind"], error["line"].is_u64()), (&"compiler".into(), true), "{record:#}");
    assert!(std::fs::metadata(scene.path(LOG)).unwrap().blocks() * 512 < 40 << 20);
    drop(mounts);
}

#[test]
fn who_lives_on_with_the_log_open_holds_nobody_up() {
    let Some(scene) = Scene::with_kernel("daemon-log") else { return };
    first(&scene, "setsid sleep 61.5 &", &[]);
    let start = Instant::now();
    scene.post_update().exits(0);
    let took = start.elapsed();
    scene.proven("alpha", A);
    // It ends with the build that has started it.
    let daemon = std::process::Command::new("pgrep").args(["-f", "^sleep 61[.]5$"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&daemon.stdout), "");
    assert!(took < Duration::from_secs(40), "{took:?}");
}

#[test]
fn no_space_for_the_log() {
    let Some(scene) = Scene::with_kernel("full-log") else { return };
    scene.module("alpha", "1.0", &["--broken-for", "."]);
    let mount = Mount::small(scene.path("var/log"), "8k");
    std::fs::write(scene.path("var/log/filler"), [0; 4096]).unwrap();
    scene.post_update().exits(1);
    let record = scene.record();
    let error = &entry(&record, "alpha/1.0", A)["error"];
    assert!(error["file"].as_str().is_some_and(|file| file.ends_with("/alpha.c")), "{record:#}");
    scene.module("alpha", "1.0", &[]);
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    drop(mount);
}
