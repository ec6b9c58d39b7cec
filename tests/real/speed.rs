//! How long a run takes that finds nothing to do, and an answer that scripts wait for.
//!
//! Machines differ in speed, so a limit is a multiple of what another program takes for the same question on
//! the same tree, in the same test. `make bench` prints the times themselves.

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
    let theirs = dkms_status(&scene, &[], 2 * names.len());
    let debug = best(10, || {
        let start = Instant::now();
        scene.post_update().exits(0);
        start.elapsed()
    });
    let run = best(20, || release_run(&scene).0);
    let status = best(50, || {
        let mut command = Command::new(target().join("release/clr-dkms"));
        command.env("CLR_DKMS_TOOL_PATH", &scene.tools).args(["status", "--all", "--live-root"]);
        let (time, text) = shown(command.arg(&scene.root));
        assert!(names.iter().all(|name| text.contains(&format!("{name}/1.0"))), "{text}");
        time
    });
    println!(
        "8 modules x 2 kernels: dkms status {theirs:?}; a run with nothing to do {run:?}, {debug:?} without \
         optimization; clr-dkms status {status:?}"
    );
    assert!(run * 60 < theirs && debug * 10 < theirs && status * 100 < theirs);
}

/// The shortest of several times.
fn best(times: u32, mut run: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| run()).min().unwrap()
}

/// What a process takes and prints.
fn shown(command: &mut Command) -> (Duration, String) {
    let start = Instant::now();
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", output.status);
    (start.elapsed(), String::from_utf8(output.stdout).unwrap())
}

/// How long the real `dkms status` takes, which reports so many installed modules.
fn dkms_status(scene: &Scene, arguments: &[&str], installed: usize) -> Duration {
    best(3, || {
        let mut command = Command::new(crate::scene::support("scratch-root.sh"));
        command.arg("scratch_dkms").arg(&scene.root).arg("status").args(arguments);
        let (time, text) = shown(&mut command);
        assert_eq!(text.lines().filter(|line| line.ends_with(": installed")).count(), installed, "{text}");
        time
    })
}

/// The whole process, as `make build` makes it, on trees that no build has made: with nothing to do it takes
/// a time that grows as modules times kernels do, and little memory.
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
        // For all modules less than what the other takes for one of them.
        let theirs = dkms_status(&scene, &["-m", "m0"], kernels);
        println!("dkms status of one of the modules: {theirs:?}");
        assert!(best * 3 < theirs, "{best:?}, {theirs:?}");
    }
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
    let mut fragments = Vec::new();
    for n in 10..20 {
        for (directory, whose) in [("usr/share", "vendor"), ("etc", "own")] {
            let text = format!("# why\nkey{n}=value{n} other{n}=\"a b\"\nname{n}\n");
            let path = format!("{directory}/kernel/cmdline.d/{whose}-{n}.conf");
            fragments.push(scene.path(&path));
            write(path, text);
        }
    }
    let ours = best(200, || {
        let mut command = Command::new(&program);
        command.args(["show", "--raw", "--kernel", "6.15.8-1591.native", "--root"]).arg(&scene.root);
        let (time, words) = shown(&mut command);
        assert!(words.starts_with("quiet rw n=8 ") && words.matches("other").count() == 20, "{words}");
        time
    });
    let cat = best(200, || shown(Command::new("cat").args(&fragments)).0);
    println!("show --raw: {ours:?}; cat of the fragments: {cat:?}");
    assert!(ours < cat * 4);
}
