//! What a dkms.conf asks for, and what is wrong with one.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::scene::{A, Scene, entry, outcome, which};
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

/// What dkms takes from a dkms.conf: nothing if its shell ends early, and otherwise values that are evaluated
/// once more.
#[test]
fn dkms_and_lint_refuse_the_same() {
    let Some(scene) = Scene::with_kernel("early") else { return };
    let (tree, sources) = (scene.path("var/lib/dkms"), scene.path("usr/src"));
    for (number, (line, is_good)) in [
        ("true", true),
        ("return 3", true),
        ("set -e; false", true),
        ("if [[", true),
        ("BUILT_MODULE_NAME[0]='$PACKAGE_NAME'", true),
        ("DEST_MODULE_LOCATION[0]='$(echo /updates)'", true),
        ("BUILD_EXCLUSIVE_KERNEL='^$kernelver'", true),
        ("PATCH='${3.4}'", true),
        ("exit 0", false),
        ("X=${NONE:?gone}", false),
        ("X=${3.4}", false),
        ("X=$((1 + ))", false),
        ("X=$((08 + 1))", false),
        ("set -u; X=$NONE", false),
        ("PATCH='${NONE:?gone}'", false),
        ("BUILT_MODULE_NAME[0]='x.ko'", false),
        ("DEST_MODULE_LOCATION[0]='$NONE'", false),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("case{number}");
        scene.module(&name, "1.0", &[]);
        add_to_conf(&scene, &format!("{name}-1.0"), &format!("{line}\n"));
        fs::remove_dir_all(tree.join(&name)).unwrap();
        let mut lint = scene.program("lint");
        lint.args(["lint", "--json"]).arg(format!("/usr/src/{name}-1.0"));
        let document: serde_json::Value = serde_json::from_str(&outcome(&mut lint).out).unwrap();
        let findings = document["targets"][0]["findings"].as_array().unwrap();
        // A syntax error is an error for what may be missing behind it.
        let is_refused = findings.iter().any(|f| f["severity"] == "error");
        let mut dkms = Command::new(which("dkms"));
        dkms.args(["add", "-m", &name, "-v", "1.0"]);
        dkms.arg("--dkmstree").arg(&tree).arg("--sourcetree").arg(&sources).stdin(Stdio::null());
        let added = outcome(&mut dkms);
        assert_eq!(added.code == Some(0), is_good, "dkms and {line}: {:?} {}", added.code, added.err);
        assert_eq!(is_refused, !is_good, "lint and {line}: {findings:?}");
    }
}

#[test]
fn values_in_single_quotes_are_evaluated_as_by_dkms() {
    let Some(scene) = Scene::with_kernel("single-quotes") else { return };
    scene.module("alpha", "1.0", &[]);
    let make = "make -C $kernel_source_dir M=$dkms_tree/alpha/1.0/build KERNELRELEASE=$kernelver modules";
    let lines = format!("BUILT_MODULE_NAME[0]='$PACKAGE_NAME'\nMAKE[0]='{make}'\n");
    add_to_conf(&scene, "alpha-1.0", &lines);
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    scene.settled();
}

/// The quote swallows AUTOINSTALL: for dkms such a module is silently never built.
#[test]
fn an_unterminated_quote_is_reported() {
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
    scene.post_update().exits(3).says(&["endless/1.0"]);
    let took = start.elapsed();
    scene.proven("alpha", A);
    assert_eq!(entry(&scene.record(), "endless/1.0", A)["state"], "unknown");
    // Ten seconds for the answer that does not come, once; the rest is the other module's build.
    println!("with an endless dkms.conf a run takes {took:?}");
    assert!(took < Duration::from_secs(25), "it took {took:?}");
    assert_eq!(crate::process::in_root(&scene.root), [""; 0]);
}
