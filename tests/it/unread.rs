//! An error is injected into each read of a run, from outside: strace(1) has the kernel give it back. Neither
//! the boot default nor `/etc` changes to anything unsafe, and what could not be read is reported as unknown.
//!
//! A part of the reads by default; every N-th one with `CLR_DKMS_UNREAD=N`, as `make test` does, and each one
//! with 1.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clr_dkms::decide::unread::DECIDE_NOTHING;

use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::machine::CLEAR;
use crate::support::root::FRAGMENT;
use crate::support::tree::{Tree, difference, read};
use crate::support::{A, B, TestRoot, scratch};

/// The system calls that read.
const CALLS: [&str; 8] =
    ["openat2", "openat", "read", "getdents64", "readlinkat", "newfstatat", "fstat", "statx"];
/// The scene in which the default has to be changed.
const MOVED: &str = "assert, moved";
/// Each scene has more reads than this.
const LEAST: usize = 20;
/// Of each scene so many reads are tried by default.
const SAMPLE: usize = 4;
/// What is opened to be written into, or compared with what is to be written: the decisions are made by then,
/// and that it could not be written is reported by itself.
const WRITTEN: [&str; 6] =
    ["/run", "/var", "/var/lib", "/var/cache", "/var/lib/clr-dkms", "/var/lib/clr-dkms/last-run.json"];
/// Where a loop of symlinks is a fact, and no read that failed: nothing else can read it either.
const LOOPS: [&str; 4] = ["/etc/kernel", "/usr/share/kernel", "/usr/lib/modules", "/boot"];

/// One read of a run: the system call, how many of its kind came before it, and the path inside the root.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) call: String,
    pub(crate) number: usize,
    pub(crate) path: String,
}

/// A machine, a program that looks at it, and what must hold after an error.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) root: TestRoot,
    pub(crate) program: &'static str,
    pub(crate) arguments: &'static [&'static str],
    /// The kernel ids that may be the default afterwards.
    pub(crate) defaults: &'static [&'static str],
    pub(crate) reports: Reports,
    /// A kernel whose facts this program needs for nothing: it neither is nor becomes the default.
    pub(crate) other: Option<&'static str>,
}

/// How a program reports that a fact could not be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reports {
    /// By exit code 3.
    ExitCode,
    /// By exit code 3, and in its record: what calls it throws the code away.
    Recorded,
    /// By asking the worker, which looks again; the unit that runs it must not fail for that.
    Requested,
    /// By a warning: it is not to hold up an update.
    Warned,
}

/// Everything that a live machine has and that a run reads.
fn furnished(root: TestRoot) -> TestRoot {
    for release in [A, B] {
        root.config(release, CLEAR).modinfo(release, true);
    }
    root.secure_boot(false).booted("quiet rw module.sig_unenforce", "Y", Some("Y"));
    root.file("etc/kernel/cmdline.d/admin.conf", "loglevel=3\n").file("etc/kernel/cmdline", "splash\n");
    root.file("proc/swaps", "Filename Type Size Used Priority\n").route("eth0");
    root.interface("eth0", "pci0000:00/0000:00:1f.6", "", &[]).device("pci0000:00/0000:00:1f.6", "e1000e");
    root.conf("[modules]\nwanted = hello\n").file("usr/lib/os-release", "ID=clear-linux-os\n");
    root
}

/// The new kernel lacks a critical module, and is held back.
pub(crate) fn lacking() -> TestRoot {
    let root = furnished(TestRoot::guarded());
    root.behave(FAILS_ON_B).conf("").post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    root.post_update().code(1);
    root
}

/// All is proven for the new kernel, which is not the default yet.
pub(crate) fn proven() -> TestRoot {
    let root = furnished(TestRoot::proven());
    root.post_update().code(0);
    root.file("boot/loader/loader.conf", "default Clear-linux-native-6.15.7-1591.conf\n");
    root
}

/// The same, and an admin holds the old kernel.
pub(crate) fn held_by_admin() -> TestRoot {
    let root = furnished(TestRoot::proven());
    root.post_update().code(0);
    root.run("clr-dkms", &["hold", A]).code(0);
    assert_eq!(root.boot_default(), ID_A);
    root
}

/// A lacking machine whose default was made the new kernel by something else.
fn moved() -> TestRoot {
    let root = lacking();
    root.updated_by_hand();
    assert_eq!(root.boot_default(), ID_B);
    root
}

/// An image to which swupd has just brought a kernel.
fn image() -> TestRoot {
    let root = TestRoot::new();
    for release in [A, B] {
        root.kernel(release).headers(release).tip(release).config(release, CLEAR).modinfo(release, true);
    }
    root.file(FRAGMENT, "module.sig_unenforce\n").module("hello", "1.0", "").installed("hello", "1.0", A);
    root.conf("[modules]\ncritical = hello\n").file("usr/lib/os-release", "ID=clear-linux-os\n");
    root.post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    root
}

/// The same system in another directory.
pub(crate) fn copy(of: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(of).arg(to).status().unwrap();
    assert!(status.success());
}

/// The program on a copy of the root, under strace.
pub(crate) fn traced(scene: &Scene, at: &Path, options: &[String]) -> std::process::Output {
    let plain = scene.root.command(scene.program, scene.arguments);
    let mut command = Command::new("strace");
    command.args(options).arg(plain.get_program());
    let own = scene.root.path().as_os_str();
    command.args(plain.get_args().map(|word| if word == own { at.as_os_str() } else { word }));
    for (variable, value) in plain.get_envs() {
        if let Some(value) = value {
            command.env(variable, value);
        }
    }
    command.stdin(Stdio::null()).output().unwrap()
}

/// The path that a line of strace names inside `root`; none for a file of the machine around it.
fn path_in(line: &str, root: &str) -> Option<String> {
    let (_, rest) = line.split_once('(')?;
    let descriptor = rest.split_once('<').and_then(|(_, rest)| rest.split_once('>'))?.0;
    let inside = descriptor.strip_prefix(root)?;
    let argument = rest.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map(|(path, _)| path);
    let is_path = !line.starts_with("read(") && !line.starts_with("getdents64(");
    Some(match argument.filter(|text| is_path && !text.is_empty()) {
        Some(absolute) if absolute.starts_with('/') => absolute.to_owned(),
        Some(relative) => format!("{inside}/{relative}"),
        None => inside.to_owned(),
    })
}

/// Calls on an open file are counted for each path by itself: reads of pipes, such as the one that says that
/// a child has ended, differ in number from run to run.
fn is_counted_by_path(call: &str) -> bool {
    ["read", "getdents64"].contains(&call)
}

/// Every read of a run of the scene, in order.
pub(crate) fn reads(scene: &Scene) -> Vec<Read> {
    let place = scratch::directory();
    let (at, trace) = (place.path().join("root"), place.path().join("trace"));
    copy(scene.root.path(), &at);
    let options = ["-y", "-s", "4096", "-o", trace.to_str().unwrap(), "-e"].map(str::to_owned);
    let options = [options.as_slice(), &[format!("trace={}", CALLS.join(","))]].concat();
    traced(scene, &at, &options);
    let text = std::fs::read_to_string(&trace).unwrap();
    let mut reads: Vec<Read> = Vec::new();
    let mut numbers = std::collections::BTreeMap::<(&str, Option<String>), usize>::new();
    for line in text.lines() {
        let Some((call, _)) = line.split_once('(') else { continue };
        let counted = path_in(line, at.to_str().unwrap()).filter(|_| is_counted_by_path(call));
        let number = numbers.entry((call, counted)).or_default();
        *number += 1;
        // What was not there before is not there with an error either.
        if let Some(path) = path_in(line, at.to_str().unwrap()).filter(|_| !line.contains("= -1 ENO"))
            && !line.contains("O_CREAT")
        {
            reads.push(Read { call: call.to_owned(), number: *number, path });
        }
    }
    reads
}

/// A run with an error in one read.
pub(crate) struct Injected {
    /// What holds the root.
    _place: tempfile::TempDir,
    pub(crate) root: PathBuf,
    pub(crate) output: std::process::Output,
}

/// The error is put into the call of that number. Files of the machine around the root, such as the list of
/// its mounts, take more or fewer calls at another time: then the numbers beside it are tried. None where
/// that read was not met.
pub(crate) fn run(scene: &Scene, read: &Read, error: &str) -> Option<Injected> {
    let numbers = [0, 1, -1, 2, -2, 3, -3, 0, 1, -1].into_iter();
    numbers.filter_map(|by| read.number.checked_add_signed(by)).find_map(|number| {
        let place = scratch::directory();
        let (root, trace) = (place.path().join("root"), place.path().join("trace"));
        copy(scene.root.path(), &root);
        let options = ["-y", "-s", "4096", "-o", trace.to_str().unwrap(), "-e"].map(str::to_owned);
        let what = [
            format!("trace={}", read.call),
            "-e".to_owned(),
            format!("inject={}:error={error}:when={number}", read.call),
        ];
        let path = is_counted_by_path(&read.call).then(|| format!("{}{}", root.display(), read.path));
        let only = path.map(|path| ["-P".to_owned(), path]);
        let only = only.as_ref().map_or(&[][..], |only| only.as_slice());
        let output = traced(scene, &root, &[options.as_slice(), &what, only].concat());
        let text = std::fs::read_to_string(&trace).unwrap();
        let line = text.lines().find(|line| line.ends_with("(INJECTED)"))?;
        let hit = path_in(line, root.to_str().unwrap())?;
        (hit == read.path).then_some(Injected { _place: place, root, output })
    })
}

fn below(tree: &Tree, top: &str) -> Tree {
    tree.iter().filter(|(path, _)| path.starts_with(top)).map(|(p, e)| (p.clone(), e.clone())).collect()
}

fn decides_nothing(path: &Path) -> bool {
    DECIDE_NOTHING.iter().any(|(known, _)| path.starts_with(known))
}

/// What is wrong after the error, if anything.
fn check(scene: &Scene, read_of: &Read, error: &str, before: &Tree) -> Option<String> {
    let Some(Injected { root: at, output, _place }) = run(scene, read_of, error) else {
        return Some(format!("{}: {read_of:?} was not met again", scene.name));
    };
    let after = read(&at);
    let mut wrong = Vec::new();
    let loader = std::fs::read_to_string(at.join("boot/loader/loader.conf")).unwrap_or_default();
    let is_of = |id: &&str| {
        let (variant, version) = id.trim_start_matches("org.clearlinux.").split_once('.').unwrap();
        loader.trim() == format!("default Clear-linux-{variant}-{version}.conf")
    };
    if !scene.defaults.iter().any(is_of) {
        wrong.push(format!("the default is {loader:?}"));
    }
    for top in ["etc", &format!("usr/lib/modules/{A}"), "boot/loader/entries"] {
        let changed = difference(&below(before, top), &below(&after, top), false);
        if !changed.is_empty() && (top != "boot/loader/entries" || scene.defaults.len() == 1) {
            wrong.push(format!("changed: {changed:?}"));
        }
    }
    let code = output.status.code().unwrap_or(-1);
    let path = Path::new(read_of.path.trim_end_matches("/."));
    let is_written = WRITTEN.iter().any(|top| path == Path::new(top));
    let reported = match scene.reports {
        Reports::ExitCode => code == 3,
        Reports::Recorded => code == 3 && (is_recorded(&at) || path.starts_with("/var/lib/clr-dkms")),
        Reports::Requested => code == 3 || at.join("run/clr-dkms/requested").exists(),
        Reports::Warned => code == 0 && !output.stderr.is_empty(),
    };
    // An error after the decision, when the default has become what it should be, or while it is read back.
    let is_done = scene.name == MOVED && (is_of(&ID_A) || code == 1);
    let is_of_other = scene.other.is_some_and(|release| read_of.path.contains(version_of(release)));
    let reported = reported || is_done || (is_of_other && code == 0);
    let may_fail = scene.reports != Reports::Warned;
    if !(reported || (decides_nothing(path) || is_written) && (may_fail || code == 0)) {
        wrong.push(format!("exit code {code}"));
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (!wrong.is_empty()).then(|| format!("{}: {read_of:?} {error}: {}\n{said}", scene.name, wrong.join("; ")))
}

/// What the names of all files of a kernel have.
fn version_of(release: &str) -> &str {
    release.rsplit_once('.').unwrap().0
}

fn is_recorded(root: &Path) -> bool {
    let text = std::fs::read_to_string(root.join("var/lib/clr-dkms/last-run.json")).unwrap_or_default();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    record["verdict"] == "unknown"
}

pub(crate) fn has_strace() -> bool {
    let works = Command::new("strace").args(["-o", "/dev/null", "true"]).status();
    let works = works.is_ok_and(|status| status.success());
    if !works {
        crate::support::run::skipped("strace is not there, or may trace nothing here");
    }
    works
}

fn every_read(scene: &Scene) {
    if !has_strace() {
        return;
    }
    let reads = reads(scene);
    assert!(reads.len() > LEAST, "{}: {reads:?}", scene.name);
    let before = read(scene.root.path());
    let asked = std::env::var("CLR_DKMS_UNREAD").ok().map(|step| step.parse().unwrap());
    let step: usize = asked.unwrap_or(reads.len().div_ceil(SAMPLE));
    let chosen: Vec<(usize, &Read)> = reads.iter().enumerate().filter(|(at, _)| at % step == 0).collect();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((at, read)) =
                    chosen.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                {
                    // Only the way to a file can be a loop.
                    let is_loop = || !LOOPS.iter().any(|top| Path::new(&read.path).starts_with(top));
                    let error = match at % 10 {
                        0 if read.call.starts_with("openat") && is_loop() => "ELOOP",
                        1 => "EMFILE",
                        _ => "EIO",
                    };
                    wrong.lock().unwrap().extend(check(scene, read, error, &before));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {} reads:\n{}", wrong.len(), chosen.len(), wrong.join("\n"));
}

fn every_read_of_the_worker(name: &'static str, root: TestRoot, defaults: &'static [&'static str]) {
    every_read(&Scene {
        name,
        root,
        program: "clr-dkms-post-update",
        arguments: &[],
        defaults,
        reports: Reports::ExitCode,
        other: None,
    });
}

#[test]
fn the_worker_where_the_new_kernel_lacks_a_module() {
    every_read_of_the_worker("worker, lacking", lacking(), &[ID_A]);
}

#[test]
fn the_worker_where_all_is_proven() {
    every_read_of_the_worker("worker, proven", proven(), &[ID_A, ID_B]);
}

#[test]
fn the_worker_where_an_admin_holds_a_kernel() {
    every_read_of_the_worker("worker, held", held_by_admin(), &[ID_A]);
}

#[test]
fn status_where_all_is_proven() {
    every_read(&Scene {
        name: "status, proven",
        root: proven(),
        program: "clr-dkms",
        arguments: &["status"],
        defaults: &[ID_A],
        reports: Reports::ExitCode,
        other: None,
    });
}

#[test]
fn the_default_is_asserted_where_the_new_kernel_lacks_a_module() {
    every_read(&Scene {
        name: "assert, lacking",
        root: lacking(),
        program: "clr-dkms",
        arguments: &["guard", "--assert"],
        defaults: &[ID_A],
        reports: Reports::ExitCode,
        other: Some(B),
    });
}

#[test]
fn the_default_is_asserted_after_something_has_moved_it() {
    every_read(&Scene {
        name: MOVED,
        root: moved(),
        program: "clr-dkms",
        arguments: &["guard", "--assert"],
        // Where it is unknown what the default should be, it stays.
        defaults: &[ID_A, ID_B],
        reports: Reports::ExitCode,
        other: Some(B),
    });
}

#[test]
fn the_first_thing_after_a_boot() {
    every_read(&Scene {
        name: "at boot",
        root: lacking(),
        program: "clr-dkms",
        arguments: &["guard", "--at-boot"],
        defaults: &[ID_A],
        reports: Reports::Requested,
        other: None,
    });
}

#[test]
fn the_hook_before_an_update() {
    every_read(&Scene {
        name: "pre-update",
        root: lacking(),
        program: "clr-dkms-pre-update",
        arguments: &[],
        defaults: &[ID_A],
        reports: Reports::Warned,
        other: None,
    });
}

#[test]
fn the_hook_in_an_image() {
    every_read(&Scene {
        name: "image",
        root: image(),
        program: "clr-dkms-post-update",
        arguments: &[],
        defaults: &[ID_B],
        reports: Reports::Recorded,
        other: Some(A),
    });
}
