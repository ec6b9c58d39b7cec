//! Machines that offer nothing to confine a module's programs: nothing of a module is run there, the reports
//! say why and what to do, and an admin can set it to trust its modules.

use crate::sandbox::{Without, run_without};
use crate::support::root::FRAGMENT;
use crate::support::run::set_mode;
use crate::support::{B, Run, TestRoot};

/// A run of the worker on a machine that lacks that.
fn post_update(root: &TestRoot, without: Without, arguments: &[&str]) -> Run {
    Run::of(run_without(without, &mut root.command("clr-dkms-post-update", arguments)), root)
}

/// An installed system that is not running.
fn image() -> TestRoot {
    let root = TestRoot::new();
    root.kernel(B).headers(B).tip(B).file(FRAGMENT, "module.sig_unenforce\n");
    root
}

fn state(root: &TestRoot) -> (String, String) {
    let record = root.record();
    let modules = record["modules"].as_array().unwrap();
    let module = modules.iter().find(|m| m["name"] == "hello" && m["kernel"] == B).unwrap();
    let text = |key: &str| module[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

/// What `status` gives as the next step, for the module and for the machine.
fn next_steps(root: &TestRoot, without: Without) -> [String; 2] {
    let mut command = root.command("clr-dkms", &["status", "--json"]);
    let document = Run::of(run_without(without, &mut command), root).json();
    let modules = document["modules"].as_array().unwrap();
    let module = modules.iter().find(|m| m["name"] == "hello" && m["kernel"] == B).unwrap();
    [&module["next_step"], &document["next_step"]].map(|step| step.as_str().unwrap_or_default().to_owned())
}

const CAUSE: &str = "nothing keeps it from writing files and from signalling processes";
const NEXT_STEP: &str = "`[build] trust = yes` in clr-dkms.conf";

#[test]
fn a_module_whose_file_is_not_evaluated_is_unknown() {
    let live = "put `[build] trust = yes` into /etc/clr-dkms/clr-dkms.conf";
    for (root, next_step) in
        [(TestRoot::updated(), live), (image(), "run `sudo clr-dkms-post-update --trust")]
    {
        root.module("hello", "1.0", "");
        post_update(&root, Without::Both, &[]).code(3).says(&[CAUSE, NEXT_STEP]);
        let (state, reason) = state(&root);
        assert_eq!(state, "unknown");
        assert!(reason.contains(CAUSE) && reason.contains(NEXT_STEP), "{reason}");
        assert!(!root.calls().iter().any(|call| call.starts_with("dkms ")), "{:?}", root.calls());
        for step in next_steps(&root, Without::Both) {
            assert!(step.contains(next_step), "{step}");
        }
        post_update(&root, Without::Both, &["--trust"]).code(0);
        assert_eq!(self::state(&root).0, "ok");
    }
}

/// Its file was evaluated before, as by a run with more rights.
#[test]
fn a_build_is_refused_with_its_cause() {
    for without in [Without::Nothing, Without::Namespaces, Without::Landlock, Without::Both] {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "");
        post_update(&root, Without::Nothing, &[]).code(0);
        for path in [TestRoot::build("hello", "1.0", B), TestRoot::ko("hello", B)] {
            root.remove(&path);
        }
        root.forget_calls();
        let run = post_update(&root, without, &[]);
        let (state, reason) = state(&root);
        if without != Without::Both {
            run.code(0);
            assert_eq!(state, "ok", "{without:?}: {reason}");
            continue;
        }
        run.code(1).says(&[CAUSE, NEXT_STEP]);
        assert_eq!(state, "build-failed");
        let record = root.record();
        let module = record["modules"].as_array().unwrap().iter().find(|m| m["kernel"] == B).unwrap();
        assert_eq!(module["error"]["cause"], "not-confined", "{module}");
        assert!(reason.contains(CAUSE) && reason.contains(NEXT_STEP), "{reason}");
        let steps = next_steps(&root, without);
        assert!(steps.iter().all(|step| step.contains("`[build] trust = yes`")), "{steps:?}");
        let built = root.short_calls();
        assert!(!built.iter().any(|call| call.starts_with("build ")), "{built:?}");
        // It is not taken for a fault of the source: the next run tries again.
        post_update(&root, Without::Nothing, &[]).code(0);
        assert_eq!(self::state(&root).0, "ok");
    }
}

#[test]
fn a_trusted_build_runs_and_its_log_says_what_confined_it() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "");
    post_update(&root, Without::Both, &["--trust"]).code(0);
    let log = root.text(&format!("var/log/clr-dkms/hello/1.0/{B}.log"));
    assert!(log.contains("confined by: seccomp, "), "{log}");
}

/// An image may come from anybody.
#[test]
fn an_image_cannot_trust_itself() {
    let root = image();
    root.module("hello", "1.0", "");
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\ntrust = yes\n");
    post_update(&root, Without::Both, &[]).code(3).says(&[CAUSE]);
    assert_eq!(state(&root).0, "unknown");
    assert!(!root.calls().iter().any(|call| call.starts_with("dkms ")), "{:?}", root.calls());
}

/// The script would see this machine.
#[test]
fn without_namespaces_no_script_is_run_for_an_image() {
    for without in [Without::Nothing, Without::Namespaces] {
        let root = image();
        root.module("hello", "1.0", "POST_INSTALL=post.sh\n");
        root.file("usr/src/hello-1.0/post.sh", "#!/bin/nothing\n").file("bin/nothing", "");
        set_mode(&root.at("usr/src/hello-1.0/post.sh"), 0o755);
        let run = post_update(&root, without, &[]);
        let (_, reason) = state(&root);
        match without {
            // It is run, and cannot be, as the image has no such program.
            Without::Nothing => run.says(&["POST_INSTALL of hello/1.0 was not run: ", "cannot be started"]),
            _ => run.says(&["POST_INSTALL of hello/1.0 was not run: Operation not permitted"]),
        };
        assert!(!root.at("usr/src/hello-1.0/ran").exists(), "{reason}");
    }
}

#[test]
fn without_namespaces_a_root_has_no_other_path() {
    for without in [Without::Nothing, Without::Namespaces] {
        let root = TestRoot::updated_named("a blank");
        root.module("hello", "1.0", "");
        let run = post_update(&root, without, &[]);
        match without {
            Without::Nothing => assert_eq!(state(&root).0, "ok"),
            _ => {
                let words = ["cannot work below a path with ' '", "no mount namespace", "another name"];
                run.code(1).says(&words);
                assert_eq!(state(&root).0, "build-failed");
                assert!(!root.calls().iter().any(|call| call.starts_with("dkms ")), "{:?}", root.calls());
            }
        }
    }
}
