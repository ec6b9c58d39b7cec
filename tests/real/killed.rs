//! Runs that are killed, stopped, stuck or not alone.

use std::fs;
use std::time::{Duration, Instant};

use crate::process::{Running, Trap, gone_within, in_root};
use crate::scene::{A, Scene, entry};

/// Kills a run in the middle of a tool, and runs again at once.
#[track_caller]
fn killed_in(scene: &Scene, trap: &Trap) {
    let run = Running::start(&mut scene.program("post-update"));
    trap.wait();
    run.signal("KILL");
    assert_eq!(run.ends().code, None);
    // What is confined ends with us; depmod is not.
    let said = match trap.name() {
        "depmod" => {
            assert!(!in_root(&scene.root).is_empty(), "nothing was left behind: the test proves nothing");
            &["left behind by a run that was killed"][..]
        }
        _ => {
            gone_within(&scene.root, Duration::from_secs(5));
            &[]
        }
    };
    trap.open();
    let start = Instant::now();
    let outcome = scene.post_update().exits(0).says(said);
    assert!(start.elapsed() < Duration::from_secs(60), "{}", outcome.err);
    assert_eq!(in_root(&scene.root), [""; 0], "leftover processes");
    scene.heals();
    assert!(!scene.path("var/lib/clr-dkms/in-progress.json").exists());
    assert!(!scene.path("var/lib/dkms/alpha/original_module").exists());
    assert!(!scene.path("var/lib/dkms/alpha/1.0/build").exists());
}

#[test]
fn killed_in_make() {
    let Some(scene) = Scene::with_kernel("killed-make") else { return };
    scene.module("alpha", "1.0", &[]);
    killed_in(&scene, &Trap::set(&scene, "make", "*modules*"));
}

#[test]
fn killed_in_strip() {
    let Some(scene) = Scene::with_kernel("killed-strip") else { return };
    scene.module("alpha", "1.0", &[]);
    killed_in(&scene, &Trap::set(&scene, "strip", "*"));
}

/// Between the copy into the module directory and dkms's mark: afterwards a plain install refuses for ever.
#[test]
fn killed_in_install() {
    let Some(scene) = Scene::with_kernel("killed-install") else { return };
    scene.module("alpha", "1.0", &[]);
    killed_in(&scene, &Trap::set(&scene, "cp", "*/updates/dkms/alpha.ko"));
}

#[test]
fn killed_in_depmod() {
    let Some(scene) = Scene::with_kernel("killed-depmod") else { return };
    scene.module("alpha", "1.0", &[]);
    killed_in(&scene, &Trap::set(&scene, "depmod", "*"));
}

#[test]
fn killed_in_the_boot_manager() {
    let Some(scene) = Scene::with_kernel("killed-boot") else { return };
    scene.module("alpha", "1.0", &[]);
    let real = crate::scene::support("clr-boot-manager");
    let tools = scene.tools.display();
    let script = format!(
        "[[ ! -e '{tools}/slow' ]] || {{ : >'{tools}/caught'; sleep 120; }}\nexec '{}' \"$@\"",
        real.display()
    );
    scene.tool("clr-boot-manager", &script);
    fs::write(scene.tools.join("slow"), "").unwrap();
    let run = Running::start(&mut scene.program("post-update"));
    let start = Instant::now();
    while !scene.tools.join("caught").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "it was not called");
        std::thread::sleep(Duration::from_millis(10));
    }
    run.signal("KILL");
    run.ends();
    fs::remove_file(scene.tools.join("slow")).unwrap();
    scene.post_update().exits(0);
    assert_eq!(in_root(&scene.root), [""; 0]);
    assert_eq!(scene.record()["boot"]["entries"], "verified");
    scene.heals();
}

#[test]
fn stopped_by_a_signal() {
    let Some(scene) = Scene::with_kernel("stopped") else { return };
    scene.module("alpha", "1.0", &[]);
    let trap = Trap::set(&scene, "make", "*modules*");
    let run = Running::start(&mut scene.program("post-update"));
    trap.wait();
    // While it works, that is what the reports say.
    assert_eq!(scene.status(1)["verdict"], "building");
    let start = Instant::now();
    run.signal("TERM");
    let outcome = run.ends().exits(1);
    assert!(start.elapsed() < Duration::from_secs(6), "it took {:?}", start.elapsed());
    gone_within(&scene.root, Duration::from_secs(1));
    assert!(outcome.err.contains("asked to stop"), "{}", outcome.err);
    let status = scene.status(1);
    assert_eq!(status["verdict"], "degraded");
    assert!(status["problems"].to_string().contains("interrupted before its end"), "{status:#}");
    trap.open();
    scene.heals();
}

/// Depmod is left to end, which it does in a second: the index is whole or not begun.
#[test]
fn stopped_in_depmod() {
    let Some(scene) = Scene::with_kernel("stopped-depmod") else { return };
    scene.module("alpha", "1.0", &[]);
    let trap = Trap::set(&scene, "depmod", "*").holds(2);
    let run = Running::start(&mut scene.program("post-update"));
    trap.wait();
    run.signal("INT");
    run.ends().exits(1);
    gone_within(&scene.root, Duration::from_secs(1));
    trap.open();
    scene.heals();
}

#[test]
fn a_second_run_waits_or_goes_away() {
    let Some(scene) = Scene::with_kernel("two-runs") else { return };
    scene.module("alpha", "1.0", &[]);
    scene.record_calls("dkms");
    let first = Running::start(&mut scene.program("post-update"));
    let start = Instant::now();
    while !scene.calls("dkms").contains("build") {
        assert!(start.elapsed() < Duration::from_secs(60), "dkms was not called");
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = Running::start(&mut scene.program("post-update"));
    scene.configure("[run]\nlock-wait = 0\n");
    // Given the time to read its own configuration, the second one waits: only a third one reads this.
    std::thread::sleep(Duration::from_millis(300));
    let third = Instant::now();
    scene.post_update().exits(75).says(&["another run is active", "clr-dkms-post-update (pid "]);
    assert!(third.elapsed() < Duration::from_secs(2));
    first.ends().exits(0);
    // Whether the second one waits depends on which configuration it saw; never does it build beside the
    // first.
    let second = second.ends();
    assert!([Some(0), Some(75)].contains(&second.code), "{second:?}");
    assert_eq!(scene.calls("dkms").lines().count(), 2, "{}", scene.calls("dkms"));
    scene.heals();
}

#[test]
fn a_second_run_that_waits_finds_the_work_done() {
    let Some(scene) = Scene::with_kernel("waiting") else { return };
    scene.module("alpha", "1.0", &[]);
    scene.record_calls("dkms");
    let runs: Vec<Running> = (0..3).map(|_| Running::start(&mut scene.program("post-update"))).collect();
    for run in runs {
        run.ends().exits(0);
    }
    assert_eq!(scene.calls("dkms").lines().count(), 2, "{}", scene.calls("dkms"));
    scene.heals();
}

#[test]
fn a_build_that_does_not_end() {
    let Some(scene) = Scene::with_kernel("timeout") else { return };
    scene.module("alpha", "1.0", &[]);
    scene.configure("[build]\ntimeout = 3 s\n");
    let makefile = scene.read("usr/src/alpha-1.0/Makefile");
    scene.write("usr/src/alpha-1.0/Makefile", format!("wait := $(shell sleep 300)\n{makefile}"));
    let start = Instant::now();
    scene.post_update().exits(1).says(&["alpha/1.0", A, "deadline"]);
    assert!(start.elapsed() < Duration::from_secs(15), "it took {:?}", start.elapsed());
    gone_within(&scene.root, Duration::from_secs(1));
    let record = scene.record();
    let failed = entry(&record, "alpha/1.0", A);
    assert_eq!(failed["state"], "build-failed");
    assert!(failed["reason"].as_str().unwrap().contains("deadline"), "{failed:#}");
    assert_eq!(scene.status(1)["verdict"], "degraded");
    scene.write("usr/src/alpha-1.0/Makefile", makefile);
    scene.configure("");
    scene.heals();
}

/// After the built file is in its place, and before dkms's mark.
#[test]
fn killed_at_the_mark() {
    let Some(scene) = Scene::with_kernel("killed-mark") else { return };
    scene.module("alpha", "1.0", &[]);
    killed_in(&scene, &Trap::set(&scene, "ln", "*kernel-*"));
}

/// In the proof, the boot files, the record, the message: none of them is a program that could be trapped, so
/// it is struck at many moments. What others read is whole at each of them.
#[test]
fn killed_at_any_moment() {
    let Some(scene) = Scene::installed("killed-anywhere") else { return };
    let index = format!("usr/lib/modules/{A}/modules.dep");
    let begin = Instant::now();
    scene.write(&index, "");
    scene.post_update().exits(0);
    let whole = begin.elapsed();
    let (rounds, mut broken_off) = (40, 0);
    for round in 0..rounds {
        // An index without the module: depmod, the proof, the record and the message are all to be made.
        scene.write(&index, "");
        let run = Running::start(&mut scene.program("post-update"));
        std::thread::sleep(whole * round * 3 / rounds / 4);
        run.signal("KILL");
        broken_off += u32::from(run.ends().code.is_none());
        scene.record();
        let said = scene.run("status");
        assert!(said.code.is_some_and(|code| code <= 1), "{said:?}");
        scene.post_update().exits(0);
        scene.proven("alpha", A);
        assert!(!scene.path("var/lib/clr-dkms/in-progress.json").exists());
    }
    println!("{broken_off} of {rounds} runs of {whole:?} were interrupted");
    assert!(broken_off * 4 > rounds, "{broken_off} of {rounds}");
    scene.heals();
}
