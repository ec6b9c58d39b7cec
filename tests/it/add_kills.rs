//! `clr-dkms add`, also in place of something else, and `clr-dkms remove`, killed together with all their
//! children before any system call: after the next run the machine is as before, or as after the whole run.
//!
//! One moment by default; 40 random ones of each change with `CLR_DKMS_EVERY_CASE=1`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::kills::kill::{self, Point};
use crate::support::cases::is_every;
use crate::support::random::Random;
use crate::support::tree::{Tree, difference};
use crate::support::{A, B, TestRoot};

const WORKER: &str = "clr-dkms-post-update";
/// Set to repeat the moments of a run.
const SEED: &str = "CLR_DKMS_KILLS_SEED";
/// What the compiler makes depends on the source.
const COMPILER: &str = "if [[ $0 == */dkms ]]; then cat() {\n\
    command cat \"$@\"; printf 'of %s;' \"$(cksum <\"$home/source/hello.c\")\"\n}; fi\n";
/// The new source does not compile for one kernel.
const FAILS: &str = "grep -q 'int x' \"$home/source/hello.c\" || \
    { [[ $verb != build || $kernel != *1591* ]] || code=10; }\n";
/// The same of the new version.
const VERSION_FAILS: &str = "[[ $verb != build || $version != 1.0 || $kernel != *1591* ]] || code=10\n";

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adopt/conf-at-top")
}

fn system() -> TestRoot {
    let root = TestRoot::updated();
    root.directory("var/tmp").behave(COMPILER).post_update().code(0);
    root
}

/// A machine, and the arguments of the run that changes it.
type Scene = (TestRoot, Vec<String>);
type NamedScene = (&'static str, fn() -> Scene);

fn arguments(source: &Path, more: &[&str]) -> Vec<String> {
    let source = source.display().to_string();
    ["add", &source, "--yes", "--no-build"].iter().chain(more).map(ToString::to_string).collect()
}

/// An older version on both kernels.
fn older(behaviour: &str) -> Scene {
    let root = system();
    root.module("hello", "0.9", "").file("usr/src/hello-0.9/hello.c", "int x;\n");
    for kernel in [A, B] {
        root.run("clr-dkms", &["rebuild", "hello", "-k", kernel]).code(0);
    }
    root.behave(&format!("{COMPILER}{behaviour}"));
    let arguments = arguments(&source(), &["--replace"]);
    (root, arguments)
}

/// Another source of the same version on both kernels.
fn same(behaviour: &str) -> Scene {
    let root = system();
    let known = arguments(&source(), &[]);
    root.run("clr-dkms", &known.iter().map(String::as_str).collect::<Vec<_>>()).code(0);
    root.run("clr-dkms", &["rebuild", "hello", "-k", A]).code(0);
    let other = root.outside().join("other");
    assert!(Command::new("cp").arg("-r").arg(source()).arg(&other).status().unwrap().success());
    fs::write(other.join("hello.c"), "int y;\nMODULE_LICENSE(\"GPL\");\n").unwrap();
    root.behave(&format!("{COMPILER}{behaviour}"));
    (root, arguments(&other, &["--replace"]))
}

fn removal() -> Scene {
    let (root, _) = same("");
    (root, ["remove", "hello"].map(str::to_owned).to_vec())
}

/// The modules, their sources, and what is recorded of them.
fn comparable(root: &TestRoot) -> Tree {
    let mut tree = root.tree();
    tree.retain(|path, _| {
        let own =
            ["usr/src", "var/lib/dkms", "usr/lib/modules", "etc"].iter().any(|top| path.starts_with(top));
        let recorded =
            ["var/lib/clr-dkms/added.json", "var/lib/clr-dkms/change.json"].contains(&path.as_str());
        // A log, a key of dkms, and the directory that it installs to may stay.
        let stays =
            ["make.log", "mok.key", "/updates", "/updates/dkms"].iter().any(|end| path.ends_with(end));
        (own || recorded) && !stays
    });
    tree
}

/// Kills the run at a number of moments.
fn play(name: &str, (base, arguments): &Scene, random: &mut Random, count: usize) -> Vec<String> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let settled = |root: &TestRoot| {
        kill::again(root, WORKER, &[]);
        comparable(root)
    };
    let before = settled(&base.copy());
    let run = base.copy();
    let whole = kill::whole(&run, "clr-dkms", &arguments);
    let after = settled(&run);
    let (mut killed, mut wrong) = (0, Vec::new());
    for _ in 0..count {
        let Some(point) = whole.point(random) else { break };
        // Calls of clr-boot-manager change no module.
        let Point::Call(..) = point else { continue };
        let root = base.copy();
        killed += usize::from(kill::killed(&root, "clr-dkms", &arguments, &point));
        let now = settled(&root);
        let [from_before, from_after] = [&before, &after].map(|tree| difference(tree, &now, false));
        if !from_before.is_empty() && !from_after.is_empty() {
            wrong.push(format!("{name} killed at {point:?}: {from_before:#?}, or {from_after:#?}"));
        }
    }
    if killed == 0 {
        wrong.push(format!("{name} was never killed, of {count} times"));
    }
    wrong
}

#[test]
fn a_killed_change_is_completed_or_taken_back() {
    if !kill::is_possible() {
        return;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let given = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(if is_every() { now } else { 1 });
    let scenes: &[NamedScene] = &[
        ("a replacement that fails", || same(FAILS)),
        ("an addition", || (system(), arguments(&source(), &[]))),
        ("another version", || older("")),
        ("another version that fails", || older(VERSION_FAILS)),
        ("another source", || same("")),
        ("a removal", removal),
    ];
    let (chosen, count) = if is_every() { (scenes.len(), 40) } else { (1, 1) };
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let play = |&(name, scene): &NamedScene| {
            scope.spawn(move || play(name, &scene(), &mut Random::new(seed), count))
        };
        let threads: Vec<_> = scenes[..chosen].iter().map(play).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{SEED}={seed}: {}", wrong.join("\n"));
}
