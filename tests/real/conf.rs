//! What a dkms.conf asks for, and what is wrong with one.

use std::time::{Duration, Instant};

use crate::scene::{A, Scene, entry, which};
use crate::source::{add_to_conf, edit};

#[test]
fn what_others_are_built_upon_comes_first() {
    let Some(scene) = Scene::with_kernel("depends") else { return };
    scene.module("aaa", "1.0", &[]);
    add_to_conf(&scene, "aaa-1.0", "BUILD_DEPENDS[0]=\"zzz\"\n");
    scene.module("zzz", "1.0", &["--broken-for", "."]);
    scene.record_calls("dkms");
    scene.post_update().exits(1);
    let record = scene.record();
    assert_eq!(entry(&record, "zzz/1.0", A)["state"], "build-failed");
    assert_eq!(entry(&record, "aaa/1.0", A)["state"], "dependency-failed");
    assert!(!scene.calls("dkms").contains("aaa"), "{}", scene.calls("dkms"));

    scene.module("zzz", "1.0", &[]);
    scene.record_calls("dkms");
    scene.post_update().exits(0);
    scene.proven("aaa", A);
    scene.proven("zzz", A);
    let calls = scene.calls("dkms");
    assert!(calls.find("install -m zzz").unwrap() < calls.find("build -m aaa").unwrap(), "{calls}");
    scene.settled();
}

#[test]
fn what_does_not_ask_to_be_built_is_not() {
    let Some(scene) = Scene::with_kernel("not-asked") else { return };
    scene.module("alpha", "1.0", &[]);
    scene.module("excluded", "1.0", &[]);
    add_to_conf(&scene, "excluded-1.0", "BUILD_EXCLUSIVE_KERNEL=\"^5\\.\"\n");
    scene.module("unasked", "1.0", &["--autoinstall", ""]);
    edit(&scene, "unasked-1.0", "dkms.conf", |text| text.replace("AUTOINSTALL=\"\"\n", ""));
    scene.record_calls("dkms");
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    let record = scene.record();
    assert_eq!(entry(&record, "excluded/1.0", A)["state"], "skipped-exclusive");
    assert_eq!(entry(&record, "unasked/1.0", A)["state"], "not-autoinstall");
    let calls = scene.calls("dkms");
    scene.settled();
    assert_eq!(scene.calls("dkms"), calls);
    assert_eq!(scene.status(0)["verdict"], "healthy");
}

/// dkms 3.0.10 does not look at the range of kernel versions; each one refuses to install what is obsolete.
#[test]
fn kernels_that_a_module_is_not_for() {
    let Some(scene) = Scene::with_kernel("ranges") else { return };
    for (name, line) in [
        ("max", "BUILD_EXCLUSIVE_KERNEL_MAX=\"6.14\"\n".to_owned()),
        ("min", "BUILD_EXCLUSIVE_KERNEL_MIN=\"6.16\"\n".to_owned()),
        ("obsolete", format!("OBSOLETE_BY=\"{A}\"\nBUILD_EXCLUSIVE_KERNEL_MAX=\"6.20\"\n")),
    ] {
        scene.module(name, "1.0", &[]);
        add_to_conf(&scene, &format!("{name}-1.0"), &line);
    }
    scene.post_update().exits(0);
    let program = std::fs::read_to_string(which("dkms")).unwrap();
    let state = if program.contains("dkms-3.0.10") { "ok" } else { "skipped-exclusive" };
    for (name, state) in [("max", state), ("min", state), ("obsolete", "skipped-exclusive")] {
        assert_eq!(scene.state(&format!("{name}/1.0"), A), state, "{name}");
    }
    scene.settled();
}

#[test]
fn a_fault_of_one_module_is_no_fault_of_the_others() {
    let Some(scene) = Scene::with_kernel("faults") else { return };
    for name in ["good", "tail", "missing", "broken", "quote"] {
        scene.module(name, "1.0", &[]);
    }
    // What was assigned before a syntax error counts, for dkms and for us.
    add_to_conf(&scene, "tail-1.0", "if then fi (\n");
    std::fs::remove_file(scene.path("usr/src/missing-1.0/dkms.conf")).unwrap();
    scene.module("broken", "1.0", &["--broken-for", "."]);
    edit(&scene, "quote-1.0", "dkms.conf", |text| {
        text.replace("PACKAGE_VERSION=\"1.0\"", "PACKAGE_VERSION=\"1.0")
    });

    scene.post_update().exits(1).says(&["broken/1.0"]);
    scene.proven("good", A);
    scene.proven("tail", A);
    let record = scene.record();
    assert_eq!(entry(&record, "good/1.0", A)["state"], "ok");
    assert_eq!(entry(&record, "tail/1.0", A)["state"], "ok");
    assert_eq!(entry(&record, "missing/1.0", A)["state"], "broken-source");
    assert_eq!(entry(&record, "broken/1.0", A)["state"], "build-failed");
    assert_eq!(scene.status(1)["verdict"], "degraded");
}

/// The quote swallows AUTOINSTALL: for dkms such a module is silently never built.
#[test]
fn an_unterminated_quote_is_told() {
    let Some(scene) = Scene::with_kernel("quote") else { return };
    scene.module("quote", "1.0", &[]);
    edit(&scene, "quote-1.0", "dkms.conf", |text| {
        text.replace("PACKAGE_VERSION=\"1.0\"", "PACKAGE_VERSION=\"1.0")
    });
    scene.post_update().exits(1).says(&["quote/1.0"]);
    assert_eq!(scene.state("quote/1.0", A), "broken-source");
    assert!(scene.motd().contains("quote/1.0"), "{}", scene.motd());
}

#[test]
fn a_dkms_conf_without_end_meets_its_deadline() {
    let Some(scene) = Scene::with_kernel("endless") else { return };
    scene.module("alpha", "1.0", &[]);
    scene.module("endless", "1.0", &[]);
    add_to_conf(&scene, "endless-1.0", "while :; do sleep 1; done\n");
    // Should dkms be started all the same, it sources the file too.
    scene.configure("[build]\ntimeout = 20 s\n");
    let start = Instant::now();
    scene.post_update().exits(1).says(&["endless/1.0"]);
    let took = start.elapsed();
    scene.proven("alpha", A);
    assert_eq!(entry(&scene.record(), "endless/1.0", A)["state"], "broken-source");
    // Ten seconds for the answer that does not come, once; the rest is the other module's build.
    println!("with an endless dkms.conf a run takes {took:?}");
    assert!(took < Duration::from_secs(25), "it took {took:?}");
    assert_eq!(crate::process::in_root(&scene.root), [""; 0]);
}
