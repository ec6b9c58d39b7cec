//! `clr-dkms-post-update` beside another run, asked to stop, and killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::run::{numbered_here, stand_ins};
use crate::support::tree::difference;
use crate::support::{A, B, Run, TestRoot};

pub(crate) const IN_PROGRESS: &str = "var/lib/clr-dkms/in-progress.json";

/// The "compiler" tells its process and then takes for ever, with a child of its own as make has.
pub(crate) const SLOW: &str = "if [[ $verb == build && ! -e $here/go ]]; then\n\
    mkdir -p \"$home/build\"; echo half >\"$home/build/half.o\"\n\
    sleep 300 & echo \"$$ $!\" >\"$here/started.new\"; mv \"$here/started.new\" \"$here/started\"; wait\nfi\n";

fn pending() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", A).module("other", "1", "").updated_by_hand();
    root.file("etc/clr-dkms/clr-dkms.conf", "[run]\nlock-wait = 1\n");
    root
}

/// A run in the middle of its first build; and the processes of that build.
fn in_the_middle(root: &TestRoot) -> (Child, Vec<u32>) {
    in_the_middle_of(root, SLOW)
}

/// The same in the middle of what these lines make slow.
pub(crate) fn in_the_middle_of(root: &TestRoot, lines: &str) -> (Child, Vec<u32>) {
    root.behave(lines);
    let started = root.tools().join("started");
    let mut command = root.command("clr-dkms-post-update", &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let watch = Instant::now();
    while !started.exists() {
        assert!(watch.elapsed() < Duration::from_secs(60), "it never came to the build");
        assert!(child.try_wait().unwrap().is_none(), "it ended before the build");
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, numbered_here(root, &fs::read_to_string(started).unwrap()))
}

pub(crate) fn go_on(root: &TestRoot) {
    fs::write(root.tools().join("go"), "").unwrap();
}

fn lives(pid: &u32) -> bool {
    // A zombie that nobody has collected yet does no harm.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Dead at once, or within a moment.
#[track_caller]
pub(crate) fn all_gone(pids: &[u32]) {
    let watch = Instant::now();
    while pids.iter().any(lives) {
        assert!(watch.elapsed() < Duration::from_secs(5), "{pids:?} live on");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    let done =
        std::process::Command::new("sh").args(["-c", "kill \"-$1\" \"$2\"", "sh", name, &pid]).status();
    assert!(done.unwrap().success());
}

fn end(child: Child, root: &TestRoot) -> Run {
    Run::of(child.wait_with_output().unwrap(), root)
}

#[track_caller]
pub(crate) fn converges(root: &TestRoot, modules: &[&str]) {
    let run = root.post_update();
    run.code(0).says(&["the last run was interrupted before its end"]);
    for module in modules {
        assert_eq!(root.recorded(module, B), "ok", "{module}");
    }
    assert!(!root.has(IN_PROGRESS));
    let before = root.tree();
    root.post_update().code(0);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
}

#[test]
fn two_at_once() {
    let root = pending();
    let (first, pids) = in_the_middle(&root);
    let before = root.tree();
    let watch = Instant::now();
    let second = root.post_update();
    let holder = format!("clr-dkms-post-update (pid {}) holds ROOT/run/clr-dkms.lock", first.id());
    second.code(75).says(&["another run is active", &holder]);
    assert!((1..20).contains(&watch.elapsed().as_secs()), "lock-wait is one second: {:?}", watch.elapsed());
    root.run("clr-dkms-cmdline", &["disable"]).code(75).says(&[&holder]);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
    assert!(pids.iter().all(lives), "the build of the first run is none of their business");

    // A report does not wait.
    root.run("clr-dkms", &["status"]).code(1).shows(&["building: "]);
    root.run("clr-dkms-motd", &["--dry-run"]).code(0).shows(&["modules are being built"]);
    root.run("clr-dkms-post-update", &["--dry-run"]).code(0);
    root.run("clr-dkms-pre-update", &[]).code(0);
    signal(&first, "TERM");
    end(first, &root);
    all_gone(&pids);
}

#[test]
fn one_that_waits_gets_its_turn() {
    let root = pending();
    root.file("etc/clr-dkms/clr-dkms.conf", "[run]\nlock-wait = 1 min\n");
    let (first, pids) = in_the_middle(&root);
    let mut command = root.command("clr-dkms-post-update", &[]);
    let second = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    go_on(&root);
    signal(&first, "TERM");
    end(first, &root).code(1);
    all_gone(&pids);
    let second = end(second, &root);
    second.code(0).says(&["waiting for clr-dkms-post-update (pid "]);
    assert_eq!(root.recorded("hello", B), "ok");
}

#[test]
fn stopped_in_the_middle_of_a_build() {
    for name in ["TERM", "INT", "HUP"] {
        // Below nohup the programs go on, as they should.
        if name == "HUP" && hangup_is_ignored() {
            continue;
        }
        let root = pending();
        let (child, pids) = in_the_middle(&root);
        let watch = Instant::now();
        signal(&child, name);
        let run = end(child, &root);
        run.code(1).says(&["stop requested; the next run continues from here"]);
        assert!(watch.elapsed() < Duration::from_secs(10), "{:?}", watch.elapsed());
        all_gone(&pids);
        assert!(root.has(IN_PROGRESS), "the next run has to know");
        let short = root.short_calls();
        assert_eq!(short, [format!("build hello {B}")], "nothing more is started");
        let mark: serde_json::Value = serde_json::from_str(&root.text(IN_PROGRESS)).unwrap();
        assert_eq!(
            mark["builds"],
            serde_json::json!([format!("hello/1.0 on {B}"), format!("other/1 on {B}")])
        );
        root.run("clr-dkms", &["status"])
            .code(1)
            .shows(&["the last run was interrupted", "continue where the last run stopped"]);
        go_on(&root);
        converges(&root, &["hello", "other"]);
    }
}

pub(crate) fn hangup_is_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 == 1
}

#[test]
fn a_record_of_a_run_before_survives_a_stop() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").post_update().code(0);
    let record = root.text("var/lib/clr-dkms/last-run.json");
    root.module("late", "1", "");
    let (child, pids) = in_the_middle(&root);
    signal(&child, "TERM");
    end(child, &root).code(1);
    all_gone(&pids);
    assert_eq!(root.text("var/lib/clr-dkms/last-run.json"), record);
}

/// What is confined ends with us.
#[test]
fn killed_in_the_middle_of_a_build() {
    let root = pending();
    let (mut child, pids) = in_the_middle(&root);
    child.kill().unwrap();
    child.wait().unwrap();
    all_gone(&pids);
    assert!(root.has(IN_PROGRESS));
    root.run("clr-dkms", &["status"]).code(1);
    go_on(&root);
    converges(&root, &["hello", "other"]);
}

#[test]
fn killed_in_the_middle_of_an_index() {
    let root = pending();
    let lines = "if [[ $verb == depmod && ! -e $here/go ]]; then\n\
        sleep 300 & echo \"$$ $!\" >\"$here/started.new\"; mv \"$here/started.new\" \"$here/started\"; wait\nfi\n";
    let (mut child, pids) = in_the_middle_of(&root, lines);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(pids.iter().all(lives), "the test is to find orphans");
    assert!(root.has(IN_PROGRESS));
    // The orphan still holds the lock, so to a reader somebody is at work.
    root.run("clr-dkms", &["status"]).code(1);
    go_on(&root);
    let run = root.post_update();
    run.code(0).says(&["left behind by a run that was killed", "the last run was interrupted"]);
    all_gone(&pids);
    assert_eq!([root.recorded("hello", B), root.recorded("other", B)], ["ok", "ok"]);
    let before = root.tree();
    root.post_update().code(0);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
}

#[test]
fn killed_between_copy_and_claim() {
    let root = pending();
    let lines = "if [[ $verb == install && ! -e $here/go ]]; then\n\
         mkdir -p \"$into\"; cp \"$built\"/module/*.ko \"$into/\"\n\
         echo $$ >\"$here/started.new\"; mv \"$here/started.new\" \"$here/started\"; sleep 300\nfi\n";
    let (mut child, pids) = in_the_middle_of(&root, lines);
    child.kill().unwrap();
    child.wait().unwrap();
    all_gone(&pids);
    assert!(!root.has(&TestRoot::ko("hello", B)), "dkms works in trees of ours");
    go_on(&root);
    converges(&root, &["hello", "other"]);
}

#[test]
fn killed_between_claim_and_index() {
    let root = pending();
    root.behave("if [[ $verb == depmod && ! -e $here/go ]]; then kill -9 $PPID $$; fi\n");
    assert_eq!(root.post_update().code, -1);
    go_on(&root);
    root.forget_calls();
    converges(&root, &["hello", "other"]);
    assert_eq!(root.short_calls()[..2], [format!("depmod {B}"), "clr-boot-manager".to_owned()]);
}

#[test]
fn killed_while_the_boot_manager_works() {
    let root = pending();
    root.behave("if [[ $verb == clr-boot-manager && ! -e $here/go ]]; then kill -9 $PPID $$; fi\n");
    assert_eq!(root.post_update().code, -1);
    go_on(&root);
    root.forget_calls();
    converges(&root, &["hello", "other"]);
    // Nothing requires the other module: the boot files did not wait for it.
    let rest = [
        "clr-boot-manager".to_owned(),
        format!("build other {B}"),
        format!("install other {B}"),
        format!("depmod {B}"),
    ];
    assert_eq!(root.short_calls(), rest);
}

#[test]
fn a_build_that_never_ends_is_stopped_at_its_deadline() {
    let root = pending();
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\ntimeout = 1\n");
    root.behave(&SLOW.replace("$verb == build", "$verb == build && $module == hello"));
    let run = root.post_update();
    run.code(1).says(&["hello/1.0 on 6.15.8-1592.native: build-failed: dkms build: stopped at its deadline"]);
    assert_eq!([root.recorded("hello", B), root.recorded("other", B)], ["build-failed", "ok"]);
    assert!(root.tools().join("started").exists());
    assert_eq!(stand_ins(&root), []);
}

#[test]
fn a_lock_file_is_never_replaced() {
    use std::os::unix::fs::MetadataExt;
    let root = pending();
    let inode = |root: &TestRoot| fs::metadata(root.at("run/clr-dkms.lock")).unwrap().ino();
    root.post_update();
    let first = inode(&root);
    root.post_update();
    root.run("clr-dkms-cmdline", &["disable"]);
    assert_eq!(inode(&root), first);
    assert!(Path::new(&root.at("run/clr-dkms.lock")).is_file());
}
