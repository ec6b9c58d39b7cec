//! `clr-dkms rebuild` on a terminal, with a real build that is stopped at the keyboard.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::gone_within;
use crate::scene::{A, Scene};

/// Two modules, of which the second takes long; ^C while its make works. Once, and again and again.
#[test]
fn control_c_leaves_a_clean_tree() {
    for keys in ["\u{3}", "\u{3}\u{3}\u{3}"] {
        let Some(scene) = Scene::with_kernel("keyboard") else { return };
        scene.module("alpha", "1.0", &[]);
        scene.module("slow", "1.0", &[]);
        let makefile = scene.read("usr/src/slow-1.0/Makefile");
        let started = scene.tools.join("started");
        let wait = format!("wait := $(shell : >'{}'; sleep 300)\n", started.display());
        scene.write("usr/src/slow-1.0/Makefile", wait + &makefile);
        scene.configure("[build]\njobs = 1\n");

        let program = scene.program("rebuild");
        let words = std::iter::once(program.get_program()).chain(program.get_args());
        let line = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        let mut script = Command::new("script");
        script.args(["-qefc", &format!("exec {line}"), "/dev/null"]).env("TERM", "xterm");
        script.env("CLR_DKMS_TOOL_PATH", &scene.tools);
        let spawned = script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut script = spawned.expect("script(1) of util-linux");
        let begin = Instant::now();
        while !started.exists() {
            assert!(begin.elapsed() < Duration::from_secs(60), "it never came to make");
            std::thread::sleep(Duration::from_millis(10));
        }
        // The second one is shown by now.
        std::thread::sleep(Duration::from_millis(300));
        let stop = Instant::now();
        // The pipe stays open: script takes its end for a ^D.
        let mut keyboard = script.stdin.take().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        let done = script.wait_with_output().unwrap();
        drop(keyboard);
        let text = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(1), "{text}");
        assert!(stop.elapsed() < Duration::from_secs(6), "it took {:?}", stop.elapsed());
        gone_within(&scene.root, Duration::from_secs(1));
        for part in [
            "1 of 2 done",
            &format!("slow/1.0 on {A}  build"),
            &format!("slow/1.0 on {A}: not-built: the run was asked to stop"),
            // What is in its place is completed.
            &format!("alpha/1.0 on {A}: ok"),
            "1 of 2 done; run `sudo clr-dkms rebuild` to continue",
        ] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        // What dkms was about to make is not a module, and nothing of it is in the way.
        assert!(!scene.path(&format!("usr/lib/modules/{A}/updates/dkms/slow.ko")).exists());
        assert!(!scene.path(&format!("var/lib/dkms/slow/kernel-{A}-x86_64")).exists());
        let listing = format!("{:?}", scene.listing());
        assert!(!listing.contains("_aside"), "{listing}");
        assert!(!listing.contains("dkms/slow/1.0/build"), "{listing}");

        scene.write("usr/src/slow-1.0/Makefile", makefile);
        scene.run("rebuild").exits(0);
        scene.proven("alpha", A);
        scene.proven("slow", A);
        scene.settled();
    }
}
