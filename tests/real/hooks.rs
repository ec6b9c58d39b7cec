//! What the real dkms only warns of, or says nothing of, around a build that succeeds; and patches that do
//! not apply.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::scene::{A, Scene, entry, outcome};

const CONF: &str = "usr/src/alpha-1.0/dkms.conf";

/// alpha/1.0 with more lines in its dkms.conf; the scripts of its source find a shell.
fn with(name: &str, lines: &str) -> Option<Scene> {
    let scene = Scene::with_kernel(name)?;
    scene.has_programs(&["/bin/sh"]);
    scene.module("alpha", "1.0", &[]);
    scene.write(CONF, format!("{}{lines}\n", scene.read(CONF)));
    Some(scene)
}

fn script(scene: &Scene, text: &str, mode: u32) {
    scene.write("usr/src/alpha-1.0/hook.sh", format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(scene.path("usr/src/alpha-1.0/hook.sh"), fs::Permissions::from_mode(mode)).unwrap();
}

/// It is reported by this run and by the next one, which has nothing to do, until it is corrected.
#[track_caller]
fn reported_until_corrected(scene: &Scene, what: &str) {
    for _ in 0..2 {
        scene.post_update().exits(1).says(&[what]);
        assert_eq!(scene.state("alpha/1.0", A), "hook-failed");
        assert_eq!(scene.status(1)["verdict"], "degraded");
    }
    script(scene, "exit 0", 0o755);
    outcome(scene.program("rebuild").args(["alpha", "--force"])).exits(0);
    assert_eq!(scene.state("alpha/1.0", A), "ok");
}

#[test]
fn post_install_that_fails() {
    let Some(scene) = with("hook-fails", "POST_INSTALL=hook.sh") else { return };
    script(&scene, "exit 3", 0o755);
    reported_until_corrected(&scene, "POST_INSTALL of alpha/1.0: exit code 3");
}

#[test]
fn post_install_that_is_missing() {
    let Some(scene) = with("hook-missing", "POST_INSTALL=hook.sh") else { return };
    reported_until_corrected(&scene, "POST_INSTALL of alpha/1.0 is not an executable file");
}

#[test]
fn pre_build_that_is_not_executable() {
    let Some(scene) = with("hook-mode", "PRE_BUILD=hook.sh") else { return };
    script(&scene, "exit 0", 0o644);
    reported_until_corrected(&scene, "PRE_BUILD of alpha/1.0 is not an executable file");
}

#[test]
fn post_install_that_is_not_executable() {
    let Some(scene) = with("hook-post-mode", "POST_INSTALL=hook.sh") else { return };
    script(&scene, "exit 0", 0o644);
    reported_until_corrected(&scene, "POST_INSTALL of alpha/1.0 is not an executable file");
}

#[test]
fn pre_build_and_post_build_that_are_missing() {
    for directive in ["PRE_BUILD", "POST_BUILD"] {
        let Some(scene) = with(&format!("hook-gone-{directive}"), &format!("{directive}=hook.sh")) else {
            return;
        };
        reported_until_corrected(&scene, &format!("{directive} of alpha/1.0 is not an executable file"));
    }
}

/// dkms 3.0 continues without a word; a later one counts the module as built, and installs it the next time.
#[track_caller]
fn fails_every_time(directive: &str, phase: &str) {
    let Some(scene) = with(&format!("hook-{phase}"), &format!("{directive}=hook.sh")) else { return };
    script(&scene, "echo no rest >&2; exit 7", 0o755);
    for _ in 0..3 {
        scene.post_update().exits(1);
        let record = scene.record();
        let module = entry(&record, "alpha/1.0", A);
        assert_eq!(
            (&module["state"], &module["error"]["phase"]),
            (&"build-failed".into(), &phase.into()),
            "{module:#}"
        );
        assert_eq!(module["error"]["cause"], "packaging", "{module:#}");
        let status = scene.status(1);
        assert!(status["problems"][0].as_str().unwrap().contains("alpha/1.0"), "{status:#}");
    }
    script(&scene, "exit 0", 0o755);
    outcome(scene.program("rebuild").args(["alpha", "--force"])).exits(0);
    assert_eq!(scene.state("alpha/1.0", A), "ok");
    scene.settled();
}

#[test]
fn pre_build_that_fails() {
    fails_every_time("PRE_BUILD", "pre-build");
}

#[test]
fn post_build_that_fails() {
    fails_every_time("POST_BUILD", "post-build");
}

#[test]
fn a_patch_that_does_not_apply_or_is_missing() {
    let Some(scene) = with("patch-fails", "PATCH[0]=fix.patch") else { return };
    let failed = |shown: &str| {
        scene.post_update().exits(1);
        let record = scene.record();
        let module = entry(&record, "alpha/1.0", A);
        assert_eq!(module["state"], "build-failed", "{module:#}");
        let error = &module["error"];
        assert_eq!(
            (&error["kind"], &error["cause"], &error["fault"], &error["patch"]),
            (&"patch".into(), &"packaging".into(), &"patch".into(), &"fix.patch".into()),
            "{error:#}"
        );
        assert!(error["message"].as_str().unwrap().contains(shown), "{error:#}");
    };
    failed("cannot be");
    scene.write(
        "usr/src/alpha-1.0/patches/fix.patch",
        "--- a/alpha.c\n+++ b/alpha.c\n@@ -1 +1 @@\n-no such line\n+x\n",
    );
    failed("fix.patch failed");
}
