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
        for (folder, whose) in [("usr/share", "vendor"), ("etc", "own")] {
            let text = format!("# why\nkey{n}=value{n} other{n}=\"a b\"\nname{n}\n");
            write(format!("{folder}/kernel/cmdline.d/{whose}-{n}.conf"), text);
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
