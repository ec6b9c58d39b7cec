//! What goes wrong around a build: headers that vanish, a make that leaves a daemon, endless output,
//! directories that cannot be written, garbage in every file, a clock that jumps, many failures at once.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::process::{Running, gone_within};
use crate::scene::{A, ALPHA, ALPHA_BUILT, Scene, entry, outcome, which};
use crate::space::Mount;

/// Lines that dkms.conf gets at its end.
fn conf_too(scene: &Scene, lines: &str) {
    let conf = scene.read("usr/src/alpha-1.0/dkms.conf");
    scene.write("usr/src/alpha-1.0/dkms.conf", format!("{conf}{lines}\n"));
}

/// An executable file of the source.
fn script(scene: &Scene, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let inside = format!("usr/src/alpha-1.0/{name}");
    scene.write(&inside, format!("#!/bin/bash\n{text}\n"));
    fs::set_permissions(scene.path(&inside), fs::Permissions::from_mode(0o755)).unwrap();
}

/// As when swupd takes a bundle away while a build goes on.
#[test]
fn headers_that_vanish_during_the_build() {
    let Some(scene) = Scene::with_kernel("headers-vanish") else { return };
    scene.module("alpha", "1.0", &[]);
    let headers = scene.path(&format!("usr/lib/modules/{A}/build"));
    let aside = scene.tools.join("headers");
    let (make, tools) = (which("make"), scene.tools.display());
    // What a build calls cannot take it away itself.
    scene.tool(
        "make",
        &format!(
            "if [[ $* == *modules* ]]; then\n>'{tools}/begun'\nwhile [[ ! -e '{tools}/gone' ]]; do sleep 0.05; done\nfi\n\
             exec '{}' \"$@\"",
            make.display()
        ),
    );
    std::thread::scope(|scope| {
        let run = scope.spawn(|| scene.post_update());
        while !scene.tools.join("begun").exists() && !run.is_finished() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        fs::rename(&headers, &aside).unwrap();
        fs::write(scene.tools.join("gone"), "").unwrap();
        run.join().unwrap().exits(1).says(&["alpha/1.0", A]);
    });
    assert!(!headers.exists() && aside.exists(), "the test proves nothing");
    assert_eq!(scene.status(1)["verdict"], "degraded");
    assert!(scene.motd().contains("alpha/1.0"), "{}", scene.motd());
    assert_eq!(scene.state("alpha/1.0", A), "headers-missing");
    // Still away: that is reported, and nothing is tried.
    scene.record_calls("dkms");
    scene.post_update().exits(1).says(&["headers"]);
    assert_eq!(scene.calls("dkms"), "");
    fs::remove_file(scene.tools.join("make")).unwrap();
    fs::rename(aside, headers).unwrap();
    scene.heals();
}

/// The daemon has the output of make, of dkms, and so ours, open: nobody may wait for its end.
#[test]
fn a_build_that_leaves_a_daemon() {
    let Some(scene) = Scene::with_kernel("daemon") else { return };
    scene.module("alpha", "1.0", &[]);
    let pids = scene.tools.join("pids");
    let fork = format!("setsid sleep 300 & echo $! >>'{}'", pids.display());
    script(&scene, "after.sh", &fork);
    let makefile = scene.read("usr/src/alpha-1.0/Makefile");
    script(&scene, "from-make.sh", &fork);
    // The shell of make waits for the end of what it reads, so that goes elsewhere; stderr stays.
    let forking = "ignored := $(shell $(src)/from-make.sh >/dev/null)\n";
    scene.write("usr/src/alpha-1.0/Makefile", format!("{forking}{makefile}"));
    conf_too(&scene, "POST_BUILD=\"after.sh\"");
    let run = Running::start(&mut scene.program("post-update"));
    let start = Instant::now();
    let ended = run.ends();
    let took = start.elapsed();
    let daemons = fs::read_to_string(&pids).unwrap_or_default();
    let alive = |pid: &str| PathBuf::from(format!("/proc/{pid}/exe")).exists();
    let left = daemons.lines().filter(|pid| alive(pid)).count();
    for pid in daemons.lines().filter(|pid| alive(pid)) {
        crate::scene::shell(Command::new("sh").args(["-c", "kill -9 \"$1\"", "sh", pid]));
    }
    println!("{} daemons, {left} of them outlived the run, which took {took:?}", daemons.lines().count());
    assert!(daemons.lines().count() >= 2, "no daemon was started: the test proves nothing");
    ended.exits(0);
    assert!(took < Duration::from_secs(30), "it took {took:?}");
    gone_within(&scene.root, Duration::from_secs(2));
    scene.heals();
}

/// A compiler that does not stop to warn.
#[test]
fn a_log_of_100_mb() {
    let Some(scene) = Scene::with_kernel("long-log") else { return };
    scene.module("alpha", "1.0", &[]);
    script(&scene, "much.sh", "yes 'a.c:1:2: warning: the same again [-Wendless]' | head -c 100000000");
    conf_too(
        &scene,
        "PRE_BUILD=\"much.sh\"\nMAKE[0]=\"./much.sh; make -C $kernel_source_dir M=$dkms_tree/alpha/1.0/build modules\"",
    );
    let start = Instant::now();
    scene.post_update().exits(0);
    println!("with 200 MB of output it took {:?}", start.elapsed());
    scene.proven("alpha", A);
    let size = |path: PathBuf| fs::metadata(path).map_or(0, |m| m.len());
    let directory = scene.path("var/log/clr-dkms/alpha/1.0");
    let kept: u64 = fs::read_dir(directory).unwrap().flatten().map(|e| size(e.path())).sum();
    assert!(kept > 0 && kept < 64 << 20, "{kept} bytes of log were kept");
    scene.settled();
}

/// Built, and then nowhere to put it.
#[test]
fn a_read_only_usr() {
    let Some(scene) = Scene::with_kernel("read-only-usr") else { return };
    scene.module("alpha", "1.0", &[]);
    let mount = Mount::read_only(&scene.path("usr"));
    scene.post_update().exits(1).says(&["alpha/1.0", A, "Read-only file system"]);
    let log = entry(&scene.record(), "alpha/1.0", A)["log"].as_str().unwrap().to_owned();
    assert!(scene.read(log.trim_start_matches('/')).contains("Read-only file system"));
    assert_eq!(scene.status(1)["verdict"], "degraded");
    assert!(scene.motd().contains("alpha/1.0"), "{}", scene.motd());
    drop(mount);
    scene.heals();
}

/// Each file that a run reads or that dkms keeps, one after the other: garbage in it is reported or repaired,
/// and what was there before it works again as soon as the file does.
#[test]
fn garbage_in_every_file() {
    let Some(scene) = Scene::installed("garbage") else { return };
    let kernel = format!("usr/lib/modules/{A}");
    // Where nobody but the owner of the file can repair it, what was there is put back.
    let table = [
        ("var/lib/clr-dkms/last-run.json".to_owned(), false),
        ("var/lib/clr-dkms/in-progress.json".to_owned(), false),
        ("var/cache/clr-dkms/facts.json".to_owned(), false),
        (format!("{kernel}/modules.dep"), false),
        (format!("{kernel}/modules.dep.bin"), false),
        (format!("{kernel}/modules.alias.bin"), false),
        (ALPHA.to_owned(), false),
        (format!("{ALPHA_BUILT}/module/alpha.ko"), false),
        (format!("{ALPHA_BUILT}/log/make.log"), false),
        ("var/lib/dkms/mok.key".to_owned(), true),
        ("var/lib/dkms/garbage".to_owned(), true),
        ("var/lib/dkms/alpha/garbage".to_owned(), true),
        ("var/lib/dkms/alpha/1.0/garbage".to_owned(), true),
        (format!("var/lib/dkms/alpha/kernel-{A}-x86_64"), true),
        ("var/lib/dkms/alpha/1.0/source".to_owned(), true),
        ("usr/src/alpha-1.0/dkms.conf".to_owned(), true),
        ("usr/src/alpha-1.0/Makefile".to_owned(), true),
        (format!("{kernel}/build/.config"), true),
        (format!("{kernel}/build/include/config/kernel.release"), true),
        ("etc/clr-dkms/clr-dkms.conf".to_owned(), true),
        ("etc/dkms/alpha.conf".to_owned(), true),
        ("boot/loader/loader.conf".to_owned(), true),
        ("proc/sys/kernel/osrelease".to_owned(), true),
    ];
    for (inside, restored) in table {
        let path = scene.path(&inside);
        let aside = scene.tools.join("aside");
        let was_there = fs::symlink_metadata(&path).is_ok();
        if was_there {
            // The very file, link or not, with its times.
            fs::rename(&path, &aside).unwrap();
        }
        scene.write(&inside, b"\x7fELF\0\xff{[(\"'\n=\n\x1b[31m\x07 garbage".repeat(40));
        for name in ["post-update", "screen", "motd"] {
            let outcome = scene.run(name);
            let text = format!("{}{}", outcome.out, outcome.err);
            assert!(
                outcome.code.is_some_and(|c| [0, 1, 2, 3, 78].contains(&c)),
                "{inside}: {name}: {outcome:?}"
            );
            assert!(!text.contains('\x07') && !text.contains("panicked"), "{inside}: {name}: {text}");
        }
        if restored {
            fs::remove_file(&path).ok();
            if was_there {
                fs::rename(&aside, &path).unwrap();
            }
        } else {
            fs::remove_file(&aside).ok();
        }
        let repaired = scene.post_update();
        assert_eq!(repaired.code, Some(0), "after garbage in {inside}: {}", repaired.err);
        scene.proven("alpha", A);
        assert_eq!(scene.state("alpha/1.0", A), "ok", "after garbage in {inside}");
        println!("{inside}: ok again");
    }
    scene.heals();
}

/// A clock that was years ahead, and is repaired: neither the record nor the times of files stop anything.
#[test]
fn a_clock_that_jumps_back() {
    let Some(scene) = Scene::with_kernel("clock") else { return };
    scene.module("alpha", "1.0", &[]);
    outcome(scene.program("post-update").env("SOURCE_DATE_EPOCH", "4102444800")).exits(0);
    let future = SystemTime::now() + Duration::from_secs(10 * 365 * 86_400);
    for inside in [
        format!("usr/lib/modules/{A}/modules.dep"),
        format!("usr/lib/modules/{A}/modules.dep.bin"),
        ALPHA.to_owned(),
    ] {
        fs::File::options().write(true).open(scene.path(&inside)).unwrap().set_modified(future).unwrap();
    }
    assert!(scene.read("var/lib/clr-dkms/last-run.json").contains("2100-01-01"), "the test proves nothing");
    scene.heals();
    scene.module("beta", "1.0", &[]);
    scene.post_update().exits(0);
    scene.proven("beta", A);
    fs::remove_file(scene.path(ALPHA)).unwrap();
    scene.heals();
    let finished = scene.record()["finished"].as_str().unwrap().to_owned();
    assert!(!finished.starts_with("2100"), "{finished}");
}

#[test]
fn ten_modules_that_fail_at_once() {
    let Some(scene) = Scene::with_kernel("ten-failures") else { return };
    let names: Vec<String> = (0..10).map(|n| format!("bad{n}")).collect();
    for name in &names {
        scene.module(name, "1.0", &["--broken-for", "."]);
    }
    scene.module("alpha", "1.0", &[]);
    scene.record_calls("dkms");
    let outcome = scene.post_update().exits(1);
    let record = scene.record();
    for name in &names {
        let failed = entry(&record, &format!("{name}/1.0"), A);
        assert_eq!(failed["state"], "build-failed");
        assert_eq!(failed["error"]["line"], 6, "{failed:#}");
        assert!(outcome.err.contains(&format!("{name}/1.0")), "{}", outcome.err);
    }
    scene.proven("alpha", A);
    assert!(scene.motd().lines().count() <= 3, "{}", scene.motd());
    // What failed at a line of its source is not tried again, and changes no file.
    let (before, calls) = (scene.listing(), scene.calls("dkms"));
    scene.post_update().exits(1);
    assert_eq!(calls, scene.calls("dkms"));
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
}
