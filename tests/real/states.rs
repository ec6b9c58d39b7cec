//! Every state that dkms, a crash or a hand can leave a module in: what we say of it beside what `dkms
//! status` says, and what one run makes of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use serde_json::Value;

use crate::scene::{A, Scene, entry, outcome, support};

const LTS: &str = "6.12.40-1570.ltscurrent";

/// How a state is made out of a module that is built, installed and listed.
type Make = fn(&Scene, &str);

/// A state: the module's name, how it is made, what dkms says of it, what we say, what our reason holds, and
/// our state after a run. `+` after a word of dkms: with a remark. `none`: no line. Two words: older dkms,
/// and 3.1.1 on.
type Row = (&'static str, Make, &'static str, &'static str, &'static str, &'static str);

fn file(name: &str) -> String {
    format!("usr/lib/modules/{A}/updates/dkms/{name}.ko")
}

fn built(name: &str) -> String {
    format!("var/lib/dkms/{name}/1.0/{A}/x86_64")
}

fn remove(scene: &Scene, inside: &str) {
    let path = scene.path(inside);
    if path.is_dir() && !path.is_symlink() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        .unwrap();
}

fn remove_mark(scene: &Scene, name: &str) {
    remove(scene, &format!("var/lib/dkms/{name}/kernel-{A}-x86_64"));
}

fn remove_build(scene: &Scene, name: &str) {
    remove(scene, &format!("var/lib/dkms/{name}/1.0/{A}"));
}

fn only_added(scene: &Scene, name: &str) {
    remove_mark(scene, name);
    remove_build(scene, name);
    remove(scene, &file(name));
}

fn conf(scene: &Scene, name: &str, from: &str, to: &str) {
    let inside = format!("usr/src/{name}-1.0/dkms.conf");
    let text = scene.read(&inside);
    assert!(text.contains(from), "{text}");
    scene.write(&inside, text.replace(from, to));
}

fn alter(scene: &Scene, inside: &str) {
    let mut bytes = fs::read(scene.path(inside)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    scene.write(inside, bytes);
}

fn for_another_kernel(scene: &Scene, inside: &str) {
    let mut bytes = fs::read(scene.path(inside)).unwrap();
    let at = bytes.windows(A.len()).position(|w| w == A.as_bytes()).unwrap();
    bytes[at..at + A.len()].copy_from_slice(b"6.15.6-1590.native");
    scene.write(inside, bytes);
}

/// The rows in the order of their names, which is dkms's.
const ROWS: &[Row] = &[
    ("added", only_added, "added", "not-built", "added.ko is not installed", "ok"),
    ("altered", |s, n| alter(s, &file(n)), "installed+", "not-built", "is not the file that was built", "ok"),
    (
        "built",
        |s, n| {
            remove_mark(s, n);
            remove(s, &file(n));
        },
        "built",
        "not-built",
        "built.ko is not installed",
        "ok",
    ),
    (
        "builtgone",
        |s, n| remove(s, &format!("{}/module/{n}.ko", built(n))),
        "added installed+",
        "ok",
        "",
        "ok",
    ),
    ("cut", |s, n| s.write(&file(n), ""), "installed+", "not-built", "it is empty", "ok"),
    ("deleted", |s, n| remove(s, &file(n)), "installed+", "not-built", "deleted.ko is not installed", "ok"),
    (
        "excluded",
        |s, n| {
            only_added(s, n);
            conf(s, n, "AUTOINSTALL", "BUILD_EXCLUSIVE_KERNEL=\"^5\\.\"\nAUTOINSTALL");
        },
        "added",
        "skipped-exclusive",
        "BUILD_EXCLUSIVE",
        "skipped-exclusive",
    ),
    (
        "foreign",
        |s, n| {
            for_another_kernel(s, &file(n));
            for_another_kernel(s, &format!("{}/module/{n}.ko", built(n)));
        },
        "installed",
        "vermagic-mismatch",
        "was made for 6.15.6-1590.native",
        "ok",
    ),
    (
        "garbled",
        |s, n| s.write(&file(n), "\x7fELF garbage"),
        "installed+",
        "not-built",
        "is not a usable module",
        "ok",
    ),
    (
        "half",
        |s, n| remove(s, &format!("{}/module", built(n))),
        "added",
        "not-built",
        "dkms has not installed",
        "ok",
    ),
    (
        "leftovers",
        |s, n| {
            only_added(s, n);
            s.write(&format!("var/lib/dkms/{n}/1.0/{A}/.tmp_x86_64_a1B2c3/module/{n}.ko"), "half");
            s.write(&format!("var/lib/dkms/{n}/1.0/build/{n}.c"), "half");
        },
        "added",
        "not-built",
        "leftovers.ko is not installed",
        "ok",
    ),
    (
        "manual",
        |s, n| {
            only_added(s, n);
            conf(s, n, "AUTOINSTALL=\"yes\"", "");
        },
        "added",
        "not-autoinstall",
        "AUTOINSTALL",
        "not-autoinstall",
    ),
    (
        "noconf",
        |s, n| remove(s, &format!("usr/src/{n}-1.0/dkms.conf")),
        "none installed",
        "broken-source",
        "dkms.conf",
        "broken-source",
    ),
    (
        "nosource",
        |s, n| remove(s, &format!("usr/src/{n}-1.0")),
        "none broken",
        "broken-source",
        "is gone",
        "broken-source",
    ),
    (
        "orphan",
        |s, n| {
            remove_mark(s, n);
            remove_build(s, n);
        },
        "added",
        "not-built",
        "dkms has not installed",
        "ok",
    ),
    (
        "othermark",
        |s, n| {
            remove_mark(s, n);
            symlink("2.0/none/x86_64", s.path(&format!("var/lib/dkms/{n}/kernel-{A}-x86_64"))).unwrap();
        },
        "built",
        "not-built",
        "dkms has not installed",
        "ok",
    ),
    ("plain", |_, _| (), "installed", "ok", "", "ok"),
    (
        "promised",
        |s, n| {
            conf(
                s,
                n,
                "AUTOINSTALL",
                "BUILT_MODULE_NAME[1]=\"never\"\nDEST_MODULE_LOCATION[1]=\"/updates\"\nAUTOINSTALL",
            )
        },
        "added installed+",
        "not-built",
        "never.ko is not installed",
        "build-failed",
    ),
    (
        "quote",
        |s, n| {
            only_added(s, n);
            conf(s, n, "AUTOINSTALL=\"yes\"", "AUTOINSTALL=\"yes");
        },
        "added",
        "broken-source",
        "syntax error",
        "broken-source",
    ),
    ("unlisted", |_, _| (), "installed", "not-in-modules-dep", "modules.dep does not list unlisted", "ok"),
];

/// What dkms says of a module: without a line, `none`. Each is asked for alone: 3.0.10 falls silent about all
/// that come after a module whose dkms.conf is gone.
fn reported_by_dkms(scene: &Scene, name: &str) -> String {
    let module = format!("{name}/1.0");
    let asked = ["scratch_dkms".as_ref(), scene.root.as_os_str(), "status".as_ref(), module.as_ref()];
    let shown = outcome(Command::new(support("scratch-root.sh")).args(asked)).out;
    let line = shown.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.split_once(": ")).map_or("none", |(_, said)| said).to_owned()
}

#[test]
fn our_state_beside_that_of_dkms() {
    let Some(scene) = Scene::with_kernel("states") else { return };
    scene.configure("[build]\njobs = 2\n");
    for (name, ..) in ROWS {
        scene.module(name, "1.0", &[]);
    }
    scene.post_update().exits(0);
    for (name, make, ..) in ROWS {
        make(&scene, name);
    }
    // swupd puts its own index back, or the run was killed before depmod.
    for index in ["modules.dep", "modules.dep.bin"] {
        let inside = format!("usr/lib/modules/{A}/{index}");
        let bytes = fs::read(scene.path(&inside)).unwrap();
        let other = bytes.windows(11).position(|w| w == b"unlisted.ko").unwrap();
        scene.write(&inside, [&bytes[..other], b"Unlisted.ko", &bytes[other + 11..]].concat());
    }
    let document: Value = serde_json::from_str(&scene.run("status").out).unwrap();
    let mut wrong = Vec::new();
    println!("| module | dkms status | ours | why |\n| --- | --- | --- | --- |");
    for (name, _, expected, state, reason, _) in ROWS {
        let said = reported_by_dkms(&scene, name);
        let ours = entry(&document, &format!("{name}/1.0"), A);
        let (is, why) = (ours["state"].as_str().unwrap(), ours["reason"].as_str().unwrap_or_default());
        println!("| {name} | {said} | {is} | {why} |");
        let short = match said.split_once(' ') {
            Some((word, _)) => format!("{word}+"),
            None => said.clone(),
        };
        if !expected.split(' ').any(|word| word == short) || is != *state || !why.contains(reason) {
            wrong.push(format!("{name}: {said} / {is}: {why}; expected {expected} / {state}: {reason}"));
        }
        // Ours may be worse than dkms's word, never better.
        if is == "ok" && !said.starts_with("installed") && *name != "builtgone" {
            wrong.push(format!("{name}: ok, where dkms says {said}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    scene.post_update().exits(1);
    let document: Value = serde_json::from_str(&scene.run("status").out).unwrap();
    for (name, .., after) in ROWS {
        let is = entry(&document, &format!("{name}/1.0"), A)["state"].as_str().unwrap().to_owned();
        if is != *after {
            wrong.push(format!("after a run, {name} is {is}, not {after}"));
        }
        if is == "ok" {
            scene.proven(name, A);
        }
    }
    assert_eq!(wrong, [""; 0]);
}

/// Without headers dkms has no line; and a module that was built for one kernel is not there on another.
#[test]
fn a_kernel_that_dkms_is_silent_about() {
    let Some(scene) = Scene::installed("states-silent") else { return };
    scene.scratch("scratch_kernel", &["ltscurrent", "6.12.40", "1570", "--no-headers"]);
    let shown = scene.scratch("scratch_dkms", &["status"]);
    assert!(shown.contains(A) && !shown.contains(LTS), "{shown}");
    assert_eq!(scene.state("alpha/1.0", LTS), "headers-missing");
    assert_eq!(scene.state("alpha/1.0", A), "ok");
    scene.scratch("scratch_headers", &[A]);
    scene.kernel("ltscurrent", LTS);
    scene.write(&format!("usr/lib/modules/{LTS}/build/include/config/kernel.release"), format!("{A}\n"));
    assert_eq!(scene.state("alpha/1.0", LTS), "headers-mismatch");
}
