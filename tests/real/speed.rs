//! How long a run takes that finds nothing to do, and an answer that scripts wait for.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::scene::{A, Scene, target};

#[test]
fn eight_modules_on_two_kernels_with_nothing_to_do() {
    let Some(scene) = Scene::with_kernel("speed") else { return };
    let lts = "6.12.40-1570.ltscurrent";
    scene.kernel("ltscurrent", lts);
    let names: Vec<String> = (1..=8).map(|n| format!("module{n}")).collect();
    for name in &names {
        scene.module(name, "1.0", &[]);
    }
    scene.post_update().exits(0);
    for name in &names {
        scene.proven(name, A);
        scene.proven(name, lts);
    }
    scene.settled();
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let start = Instant::now();
            scene.post_update().exits(0);
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("8 modules x 2 kernels, nothing to do: median of 10 is {:?}, best {:?}", times[5], times[0]);
    assert!(times[5] < Duration::from_millis(100), "{times:?}");
    let best = (0..20).map(|_| release_run(&scene).0).min().unwrap();
    println!("as it is installed: best of 20 is {best:?}");
    assert!(best < Duration::from_millis(18), "{best:?}");
    status_beside_dkms(&scene, &names);
}

/// The same question to both, in the same run: the states of all modules, by whole processes.
fn status_beside_dkms(scene: &Scene, names: &[String]) {
    let told = |command: &mut Command| {
        let start = Instant::now();
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        (start.elapsed(), String::from_utf8(output.stdout).unwrap())
    };
    let asked = ["scratch_dkms".as_ref(), scene.root.as_os_str(), "status".as_ref()];
    let (theirs, text) = told(Command::new(crate::scene::support("scratch-root.sh")).args(asked));
    assert_eq!(text.lines().filter(|line| line.contains("installed")).count(), 2 * names.len(), "{text}");
    let mut ours: Vec<Duration> = (0..50)
        .map(|_| {
            let mut command = Command::new(target().join("release/clr-dkms"));
            command.env("CLR_DKMS_TOOL_PATH", &scene.tools).args(["status", "--all", "--live-root"]);
            let (time, text) = told(command.arg(&scene.root));
            assert!(names.iter().all(|name| text.contains(&format!("{name}/1.0"))), "{text}");
            time
        })
        .collect();
    ours.sort();
    println!("clr-dkms status: median of 50 is {:?}; dkms status: {theirs:?}", ours[25]);
    assert!(ours[25] < Duration::from_millis(10) && ours[25] * 20 < theirs, "{ours:?} {theirs:?}");
}

/// The whole process, as `make build` makes it, on trees that no build has made: with nothing to do it takes
/// a time that grows as modules times kernels do, and little memory. The limits leave room for a machine that
/// does other things too; what it really takes, `make bench` tells.
#[test]
fn a_hundred_modules_on_ten_kernels() {
    let mut times = Vec::new();
    for (name, modules, kernels) in [("many-few", 50, 5), ("many-all", 100, 10)] {
        let Some(scene) = Scene::bare(name) else { return };
        scene.scratch("scratch_many", &[&format!("{modules}"), &format!("{kernels}")]);
        scene.scratch("scratch_running", &["6.15.0-1591.v0"]);
        scene.post_update().exits(0);
        let document = scene.status(0);
        let entries = document["modules"].as_array().unwrap();
        assert_eq!(entries.len(), modules * kernels);
        assert!(entries.iter().all(|entry| entry["state"] == "ok"), "{document:#}");
        let runs: Vec<(Duration, u64)> = (0..20).map(|_| release_run(&scene)).collect();
        let best = runs.iter().map(|run| run.0).min().unwrap();
        let peak = runs.iter().map(|run| run.1).max().unwrap();
        println!("{modules} x {kernels}: best of 20 is {best:?}, {peak} KiB at the most");
        assert!(peak > 1024 && peak < 32 << 10, "{peak} KiB");
        times.push(best);
    }
    assert!(times[1] < Duration::from_millis(300), "{times:?}");
    // Four times as many.
    assert!(times[1] < times[0] * 6, "{times:?}");
}

/// How long a run with nothing to do takes, and how much memory it had at the most, in KiB.
fn release_run(scene: &Scene) -> (Duration, u64) {
    let program = target().join("release/clr-dkms-post-update");
    assert!(program.is_file(), "{} is not there: run `make build`", program.display());
    let mut command = Command::new(program);
    command.env("CLR_DKMS_TOOL_PATH", &scene.tools).arg("--live-root").arg(&scene.root).stdin(Stdio::null());
    let start = Instant::now();
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    // Its memory is gone with it: the last look at it counts.
    let ended = loop {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let high = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let high = high.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = high.unwrap_or(0).max(peak);
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(ended.success(), "{ended}");
    (start.elapsed(), peak)
}

/// The whole process, from its start to its end, as `make build` makes it.
#[test]
fn the_line_of_a_kernel_among_three_with_twenty_fragments() {
    let Some(scene) = Scene::bare("speed-show") else { return };
    let program = target().join("release/clr-dkms-cmdline");
    assert!(program.is_file(), "{} is not there: run `make build`", program.display());
    let write = |path: String, text: String| {
        let path = scene.path(&path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for n in 7..10 {
        write(format!("usr/lib/kernel/org.clearlinux.native.6.15.{n}-1591"), "image".to_owned());
        write(format!("usr/lib/kernel/cmdline-6.15.{n}-1591.native"), format!("quiet rw n={n}\n"));
    }
    for n in 10..20 {
        for (directory, whose) in [("usr/share", "vendor"), ("etc", "own")] {
            let text = format!("# why\nkey{n}=value{n} other{n}=\"a b\"\nname{n}\n");
            write(format!("{directory}/kernel/cmdline.d/{whose}-{n}.conf"), text);
        }
    }
    let run = || {
        let mut command = Command::new(&program);
        command.args(["show", "--raw", "--kernel", "6.15.8-1591.native", "--root"]).arg(&scene.root);
        let start = Instant::now();
        let output = command.stderr(Stdio::inherit()).output().unwrap();
        (start.elapsed(), output)
    };
    let words = String::from_utf8(run().1.stdout).unwrap();
    assert!(words.starts_with("quiet rw n=8 ") && words.matches("other").count() == 20, "{words}");
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let (time, output) = run();
            assert!(output.status.success());
            time
        })
        .collect();
    times.sort();
    println!("show --raw: median of 200 is {:?}, best {:?}, worst {:?}", times[100], times[0], times[199]);
    assert!(times[100] < Duration::from_millis(5), "{times:?}");
}
