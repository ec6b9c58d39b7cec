//! A whole update: a kernel comes, its modules are built; one that does not compile is reported everywhere,
//! and healed.

use std::process::Command;

use crate::listing::Listing;
use crate::scene::{A, B, Scene, entry, outcome, shell};

/// The kernel for which the source does not compile.
const C: &str = "6.16.1-1600.native";

fn boot_entry(scene: &Scene, name: &str) -> String {
    scene.read(&format!("boot/loader/entries/Clear-linux-native-{name}.conf"))
}

#[test]
fn an_update_brings_a_kernel_and_then_one_that_the_module_does_not_compile_for() {
    let Some(scene) = Scene::with_kernel("update") else { return };
    scene.module("alpha", "1.0", &["--broken-for", r"^6\.16\."]);
    scene.scratch("scratch_dkms", &["install", "alpha/1.0", "-k", A]);
    shell(Command::new(crate::scene::which("depmod")).arg("-b").arg(&scene.root).arg(A));
    scene.boot_manager();

    scene.run("pre-update").exits(0);
    scene.kernel("native", B);
    scene.boot_manager();
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    scene.proven("alpha", B);
    let options = boot_entry(&scene, "6.15.8-1592");
    assert!(options.split_whitespace().any(|w| w == "module.sig_unenforce"), "{options}");
    let record = scene.record();
    assert_eq!(entry(&record, "alpha/1.0", B)["state"], "ok");
    assert_eq!(entry(&record, "alpha/1.0", B)["files"][0]["vermagic"].as_str().unwrap().find(B), Some(0));
    assert_eq!(record["cmdline"]["in_force"], true);
    assert_eq!(record["boot"]["entries"], "verified");
    assert_eq!(record["new_kernels"], serde_json::json!([B]));
    assert!(scene.motd().contains(B) && scene.motd().contains("reboot when"), "{}", scene.motd());
    assert_eq!(scene.status(0)["verdict"], "reboot-pending");
    nothing_is_touched_or_started(&scene);

    // Without the mark of a boot, clr-boot-manager deletes it when the next kernel comes before a reboot.
    scene.write(&format!("var/lib/kernel/k_booted_{B}"), "");
    scene.run("pre-update").exits(0);
    scene.kernel("native", C);
    scene.boot_manager();
    scene.post_update().exits(1).says(&["alpha/1.0", C, "build-failed"]);
    scene.proven("alpha", B);
    reported_everywhere(&scene);

    // The same name and version again: only the source is written again.
    scene.module("alpha", "1.0", &[]);
    scene.post_update().exits(0);
    scene.proven("alpha", C);
    assert_eq!(scene.status(0)["verdict"], "reboot-pending");
    assert_eq!(entry(&scene.record(), "alpha/1.0", C)["state"], "ok");
    assert!(scene.motd().contains(C) && !scene.motd().contains("not ready"), "{}", scene.motd());
    scene.settled();
}

fn nothing_is_touched_or_started(scene: &Scene) {
    let before = Listing::whole(&scene.root);
    let trace = scene.tools.join("trace");
    let program = scene.program("post-update");
    let strace = ["/usr/bin/strace", "/bin/strace"].iter().find(|path| std::path::Path::new(path).exists());
    match strace {
        None => {
            println!("strace is not here: not looked at which processes are started");
            scene.post_update().exits(0);
        }
        Some(strace) => {
            let mut traced = Command::new(strace);
            traced.args(["-f", "-qq", "-e", "trace=execve,fork,vfork,clone,clone3", "-o"]).arg(&trace);
            traced.arg(program.get_program()).args(program.get_args());
            traced.env("CLR_DKMS_TOOL_PATH", &scene.tools);
            outcome(&mut traced).exits(0);
            let trace = std::fs::read_to_string(trace).unwrap();
            let started: Vec<&str> = trace.lines().filter(|l| !l.contains("CLONE_THREAD")).skip(1).collect();
            assert_eq!(started, [""; 0]);
        }
    }
    assert_eq!(before.differences(&Listing::whole(&scene.root)), [""; 0]);
}

fn reported_everywhere(scene: &Scene) {
    let status = scene.status(1);
    assert_eq!(status["verdict"], "held");
    assert_eq!(status["next_boot"], A);
    for document in [&status, &scene.record()] {
        let failed = entry(document, "alpha/1.0", C);
        assert_eq!(failed["state"], "build-failed");
        assert!(failed["error"]["file"].as_str().unwrap().ends_with("alpha.c"), "{failed:#}");
        assert!(failed["error"]["message"].as_str().unwrap().contains("now"), "{failed:#}");
        let log = failed["log"].as_str().unwrap();
        // The record names it as seen from inside of the root, the report as it can be opened from here.
        let inside = log.strip_prefix(&scene.root.display().to_string()).unwrap_or(log);
        let text = scene.read(inside.trim_start_matches('/'));
        assert!(text.contains(failed["error"]["message"].as_str().unwrap()), "{log}:\n{text}");
    }
    let text = scene.run("screen").exits(1).out;
    for word in ["alpha/1.0", C, "alpha.c", "now", "/var/log/clr-dkms/alpha/1.0/"] {
        assert!(text.contains(word), "{word} is not on the screen:\n{text}");
    }
    for word in ["alpha/1.0", C, "clr-dkms status"] {
        assert!(scene.motd().contains(word), "{word} is not in the MOTD:\n{}", scene.motd());
    }
}

/// The hook inside of a chroot, and an installer, work on an image: nothing runs there.
#[test]
fn an_image_gets_its_modules_too() {
    let Some(scene) = Scene::bare("update-image") else { return };
    let scene = scene.into_image();
    scene.kernel("native", B);
    scene.module("alpha", "1.0", &[]);
    scene.post_update().exits(0);
    scene.proven("alpha", B);
    let status = scene.status(0);
    assert_eq!((&status["verdict"], &status["running"]), (&"healthy".into(), &serde_json::Value::Null));
    assert!(boot_entry(&scene, "6.15.8-1592").contains("module.sig_unenforce"));
    scene.settled();
}
