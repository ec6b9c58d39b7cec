//! Several modules at a time: what may run beside each other, and what may not.

use std::fs;
use std::path::Path;

use clr_dkms::sys::{Root, RootKind};

use crate::support::{B, LTS, TestRoot};

/// One call of the recorder: which module, which kernel, when it began and when it ended, in nanoseconds.
#[derive(Debug, Clone)]
struct Span {
    verb: String,
    module: String,
    kernel: String,
    begin: u64,
    end: u64,
}

impl Span {
    fn overlaps(&self, other: &Span) -> bool {
        self.begin < other.end && other.begin < self.end
    }
}

/// Each build and install takes a while, and leaves a line when it is over.
fn slow(root: &TestRoot) {
    let here = root.tools();
    let here = here.display();
    fs::write(
        root.tools().join("behaviour"),
        format!(
            "begin=$(date +%s%N)\n\
             trap 'echo \"$verb $module $kernel $begin $(date +%s%N)\" >>{here}/spans' EXIT\n\
             sleep 0.2\n"
        ),
    )
    .unwrap();
}

fn spans(root: &TestRoot) -> Vec<Span> {
    let text = fs::read_to_string(root.tools().join("spans")).unwrap();
    let span = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [verb, module, kernel, begin, end] = words.as_slice() else { panic!("{line}") };
        Span {
            verb: (*verb).to_owned(),
            module: (*module).to_owned(),
            kernel: (*kernel).to_owned(),
            begin: begin.parse().unwrap(),
            end: end.parse().unwrap(),
        }
    };
    // depmod and clr-boot-manager have no module.
    text.lines().map(span).filter(|s| !s.module.is_empty()).collect()
}

fn with_jobs(jobs: &str) -> TestRoot {
    let root = TestRoot::updated().running(B);
    root.kernel(LTS).headers(LTS).tip(LTS);
    for module in ["a", "b", "c", "d"] {
        root.module(module, "1", "");
    }
    root.file("etc/clr-dkms/clr-dkms.conf", format!("[build]\njobs = {jobs}\n"));
    slow(&root);
    root
}

#[test]
fn the_results_have_the_order_of_the_plan() {
    let root = with_jobs("4");
    root.behave("[[ $module != a ]] || sleep 1");
    let document = root.run("clr-dkms", &["rebuild", "--json"]).code(0).json();
    let modules = document["modules"].as_array().unwrap().iter();
    let found: Vec<String> = modules.map(|m| format!("{} {}", m["kernel"], m["module"])).collect();
    let line = |kernel: &str, module: &str| format!("\"{kernel}\" \"{module}/1\"");
    let planned = [B, LTS].map(|kernel| ["a", "b", "c", "d"].map(|module| line(kernel, module)));
    assert_eq!(found, planned.concat(), "{document:#}");
}

#[test]
fn modules_are_built_beside_each_other_and_kernels_of_one_module_never() {
    let root = with_jobs("3");
    root.post_update().code(0);
    let spans = spans(&root);
    assert_eq!(spans.len(), 16, "{spans:?}");
    let mut beside = 0;
    for (at, one) in spans.iter().enumerate() {
        for other in spans[at + 1..].iter().filter(|other| one.overlaps(other)) {
            assert_ne!(one.module, other.module, "{one:?} and {other:?}");
            beside += 1;
        }
        let at_once = spans.iter().filter(|other| one.begin >= other.begin && one.begin < other.end).count();
        assert!(at_once <= 3, "{at_once} at {one:?}");
    }
    assert!(beside > 4, "{beside} pairs: {spans:?}");
    for module in ["a", "b", "c", "d"] {
        assert_eq!(
            (root.recorded(module, B), root.recorded(module, LTS)),
            ("ok".to_owned(), "ok".to_owned())
        );
    }
    // One index a kernel, when all its modules are there.
    let calls = root.short_calls();
    for kernel in [B, LTS] {
        let index = calls.iter().position(|c| *c == format!("depmod {kernel}")).unwrap();
        let last = calls.iter().rposition(|c| c.starts_with("install") && c.ends_with(kernel)).unwrap();
        assert!(index > last, "{calls:?}");
        assert_eq!(calls.iter().filter(|c| **c == format!("depmod {kernel}")).count(), 1);
    }
}

#[test]
fn one_at_a_time_is_one_at_a_time() {
    let root = with_jobs("1");
    root.post_update().code(0);
    let spans = spans(&root);
    let beside = |one: &Span| spans.iter().filter(|other| one.overlaps(other)).count() - 1;
    assert!(spans.iter().all(|one| beside(one) == 0), "{spans:?}");
    assert!(root.calls().iter().all(|call| !call.contains(" -j ")), "dkms's own default is all processors");
}

/// dkms makes the key without a lock.
#[test]
fn until_there_is_a_signing_key_the_first_build_is_alone() {
    let root = with_jobs("4");
    assert!(!root.has("var/lib/dkms/mok.key"));
    root.post_update().code(0);
    let spans = spans(&root);
    let first = spans.iter().min_by_key(|s| s.begin).unwrap();
    let of_first: Vec<&Span> =
        spans.iter().filter(|s| s.module == first.module && s.kernel == first.kernel).collect();
    assert_eq!(of_first.len(), 2);
    for one in of_first {
        let others = spans.iter().filter(|s| s.module != first.module);
        assert!(others.clone().all(|other| !one.overlaps(other)), "{spans:?}");
    }
}

#[test]
fn what_others_are_built_upon_is_waited_for() {
    let root = TestRoot::updated().running(B);
    root.module("base", "1", "").module("user", "1", "BUILD_DEPENDS[0]=base\n").module("z", "1", "");
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\njobs = 4\n").file("var/lib/dkms/mok.key", "key");
    slow(&root);
    root.post_update().code(0);
    let spans = spans(&root);
    let find =
        |verb: &str, module: &str| spans.iter().find(|s| s.verb == verb && s.module == module).unwrap();
    assert!(find("build", "user").begin > find("install", "base").end, "{spans:?}");
    assert!(find("build", "z").overlaps(find("build", "base")), "{spans:?}");
}

#[test]
fn a_failure_among_many_stops_nobody_else() {
    let root = with_jobs("4");
    let behaviour = fs::read_to_string(root.tools().join("behaviour")).unwrap();
    fs::write(root.tools().join("behaviour"), behaviour + "[[ $module != b ]] || code=10\n").unwrap();
    root.post_update().code(1);
    assert_eq!(root.recorded("b", B), "build-failed");
    for module in ["a", "c", "d"] {
        assert_eq!(root.recorded(module, B), "ok");
        assert_eq!(root.recorded(module, LTS), "ok");
    }
}

/// A writer that was killed leaves the file that it had not renamed yet; one that still writes has it locked.
#[test]
fn what_killed_writers_left_goes_with_the_next_write() {
    let root = TestRoot::new();
    let directory = "var/lib/clr-dkms";
    root.file(&format!("{directory}/.x.json.4194301"), "half")
        .file(&format!("{directory}/.x.json.4194302"), "half");
    root.link(&format!("{directory}/.x.json.4194303"), "half");
    root.file(&format!("{directory}/.x.json.copy"), "own")
        .file(&format!("{directory}/.y.json.4194301"), "of another");
    let writing = fs::File::open(root.at(&format!("{directory}/.x.json.4194302"))).unwrap();
    rustix::fs::flock(&writing, rustix::fs::FlockOperation::LockShared).unwrap();
    let system = Root::open(RootKind::LiveCopy, root.path()).unwrap();
    let names = || -> Vec<String> {
        let entries = system.list("/var/lib/clr-dkms").unwrap();
        entries.iter().map(|entry| entry.text().unwrap().to_owned()).collect()
    };
    system.write("/var/lib/clr-dkms/x.json", b"whole", 0o644).unwrap();
    assert_eq!(names(), [".x.json.4194302", ".x.json.copy", ".y.json.4194301", "x.json"]);
    // A child that another test is just starting may hold the file too: closing it would not do.
    rustix::fs::flock(&writing, rustix::fs::FlockOperation::Unlock).unwrap();
    system.link("/var/lib/clr-dkms/x.json", Path::new("y.json")).unwrap();
    assert_eq!(names(), [".x.json.copy", ".y.json.4194301", "x.json"]);
}

/// Each of two that write the same file at once leaves it whole.
#[test]
fn two_writers_of_one_file() {
    let root = TestRoot::new();
    let system = Root::open(RootKind::LiveCopy, root.path()).unwrap();
    let whole = [vec![b'a'; 1 << 20], vec![b'b'; 1 << 20]];
    let mut other = std::process::Command::new("bash");
    // As our programs do it, by another process.
    let script = "for i in {1..60}; do t=.x.$BASHPID; exec 9>$t; flock -s 9; head -c 1048576 /dev/zero | tr '\\0' b >&9; mv $t x || exit 1; done";
    other.args(["-c", script]).current_dir(root.at("var"));
    let mut other = other.spawn().unwrap();
    let mut seen = 0;
    while other.try_wait().unwrap().is_none() {
        system.write("/var/x", &whole[0], 0o644).unwrap();
        assert!(whole.contains(&fs::read(root.at("var/x")).unwrap()), "a mixture");
        seen += 1;
    }
    assert!(seen > 0 && other.wait().unwrap().success());
}
