//! As `unread`, for the verbs that answer a question or change one thing: an error that changes the outcome
//! is named.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::TestRoot;
use crate::support::scratch;
use crate::support::tree::{Tree, difference, read};
use crate::unread::{Read, Reports, Scene, copy, has_strace, held_by_admin, proven, reads, run, traced};

/// Of each verb so many reads are tried by default.
const SAMPLE: usize = 4;

/// The exit code, what was printed, and the files afterwards.
struct Outcome {
    code: Option<i32>,
    answer: String,
    files: Tree,
}

fn outcome(output: &std::process::Output, at: &std::path::Path) -> Outcome {
    let answer = String::from_utf8_lossy(&output.stdout).replace(at.to_str().unwrap(), "");
    Outcome { code: output.status.code(), answer, files: read(at) }
}

/// What has changed because of the error, where neither the exit code nor a text gives the reason.
fn wrong(scene: &Scene, read: &Read, before: &Outcome) -> Option<String> {
    let Some(injected) = run(scene, read, "EIO") else {
        return Some(format!("{}: {read:?} was not met again", scene.name));
    };
    let after = outcome(&injected.output, &injected.root);
    let said = String::from_utf8_lossy(&injected.output.stderr).into_owned();
    // A screen breaks its lines between words.
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let has_reason = after.code == Some(3)
        || [&after.answer, &said].iter().any(|text| words(text).contains("Input/output error"));
    let mut files = difference(&before.files, &after.files, false);
    files.retain(|file| !file.contains("var/cache/clr-dkms"));
    let is_same = after.code == before.code && after.answer == before.answer && files.is_empty();
    (!has_reason && !is_same).then(|| {
        let (code, answer) = (after.code, after.answer);
        format!("{}: {read:?}: exit code {code:?}, files {files:?}, answer:\n{answer}\n{said}", scene.name)
    })
}

fn every_read(name: &'static str, root: TestRoot, program: &'static str, arguments: &'static [&'static str]) {
    if !has_strace() {
        return;
    }
    let scene =
        Scene { name, root, program, arguments, defaults: &[], reports: Reports::ExitCode, other: None };
    let place = scratch::directory();
    let at = place.path().join("root");
    copy(scene.root.path(), &at);
    let output = traced(&scene, &at, &["-o".to_owned(), "/dev/null".to_owned()]);
    let before = outcome(&output, &at);
    let reads = reads(&scene);
    let asked = std::env::var("CLR_DKMS_UNREAD").ok().map(|step| step.parse().unwrap());
    let step: usize = asked.unwrap_or(reads.len().div_ceil(SAMPLE));
    let chosen: Vec<&Read> = reads.iter().step_by(step).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(read) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    found.lock().unwrap().extend(wrong(&scene, read, &before));
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    assert!(found.is_empty(), "{} of {} reads:\n{}", found.len(), chosen.len(), found.join("\n"));
}

/// The symlink that names the metrics file of the last run is not replaced while that file stays.
#[test]
fn a_metrics_file_is_not_forgotten() {
    if !has_strace() {
        return;
    }
    let root = proven();
    root.conf("[report]\nmetrics = /var/lib/old.prom\n").post_update().code(0);
    root.conf("[report]\nmetrics = /var/lib/new.prom\n");
    let scene = Scene {
        name: "metrics",
        root,
        program: "clr-dkms-post-update",
        arguments: &[],
        defaults: &[],
        reports: Reports::ExitCode,
        other: None,
    };
    let of_link = reads(&scene).into_iter().filter(|read| read.path == "/var/lib/clr-dkms/metrics");
    let mut tried = 0;
    for read in of_link.filter(|read| read.call == "readlinkat") {
        let injected = run(&scene, &read, "EIO").unwrap();
        let link = std::fs::read_link(injected.root.join("var/lib/clr-dkms/metrics")).unwrap();
        let said = String::from_utf8_lossy(&injected.output.stderr).into_owned();
        assert!(injected.root.join("var/lib/old.prom").exists(), "{said}");
        assert_eq!(link, std::path::Path::new("/var/lib/old.prom"), "{said}");
        assert!(said.contains("warning: [report] metrics: cannot read the symlink"), "{said}");
        tried += 1;
    }
    assert!(tried > 0);
}

macro_rules! verbs {
    ($($test:ident $root:ident $program:literal $arguments:expr;)*) => {
        $(#[test]
        fn $test() {
            every_read(stringify!($test), $root(), $program, &$arguments);
        })*
    };
}

verbs! {
    export proven "clr-dkms" ["export", "hello", "/dev/null"];
    logs proven "clr-dkms" ["logs", "hello"];
    lint proven "clr-dkms" ["lint"];
    gc proven "clr-dkms" ["gc"];
    enforcement proven "clr-dkms" ["enforcement"];
    check proven "clr-dkms" ["check"];
    remove proven "clr-dkms" ["remove", "hello"];
    rebuild proven "clr-dkms" ["rebuild"];
    rebuild_plan proven "clr-dkms" ["rebuild", "--dry-run", "--force", "hello"];
    release held_by_admin "clr-dkms" ["release"];
    module proven "clr-dkms" ["status", "hello"];
    variant proven "clr-dkms-variant" [];
    cmdline proven "clr-dkms-cmdline" ["show"];
    cmdline_check proven "clr-dkms-cmdline" ["check"];
    cmdline_disable proven "clr-dkms-cmdline" ["disable"];
}
