//! What a user may not read of the kernel command line leaves the enforcement and the boot entries unknown:
//! it is not a difference, and not a missing parameter.

use crate::support::run::{as_nobody, set_mode};
use crate::support::{A, B, Run, TestRoot};

/// Everything that the command line of a kernel is made from.
const SOURCES: [&str; 6] = [
    "etc/kernel/cmdline.d/10-mine.conf",
    "etc/kernel/cmdline.d",
    "etc/kernel/cmdline",
    "etc/kernel/cmdline-removal.d/10-mine.conf",
    "usr/share/kernel/cmdline.d/10-vendor.conf",
    "usr/lib/kernel/cmdline-6.15.8-1592.native",
];

fn machine() -> TestRoot {
    let root = TestRoot::guarded().running(B);
    root.file("etc/kernel/cmdline.d/10-mine.conf", "mine module.sig_unenforce\n")
        .file("etc/kernel/cmdline", "admin\n")
        .file("etc/kernel/cmdline-removal.d/10-mine.conf", "splash\n")
        .file("usr/share/kernel/cmdline.d/10-vendor.conf", "vendor\n");
    root.post_update().code(0);
    root.run("clr-dkms", &["check"]).code(0);
    root
}

#[test]
fn what_a_user_may_not_read_of_the_command_line_is_unknown() {
    for hidden in SOURCES {
        let root = machine();
        set_mode(&root.at(hidden), if hidden.ends_with(".d") { 0o700 } else { 0o600 });
        let as_user = |arguments: &[&str]| {
            let run = as_nobody(&root, "clr-dkms", arguments)?.output().unwrap();
            Some(Run::of(run, &root))
        };
        let Some(run) = as_user(&["status", "--json"]) else { return };
        let status = run.code(3).json();
        let problems = status["problem_list"].as_array().unwrap();
        let kinds: Vec<&str> = problems.iter().map(|p| p["kind"].as_str().unwrap()).collect();
        // What is unknown satisfies no requirement either.
        assert_eq!((kinds[0], kinds.len() < 3), ("unreadable", true), "{hidden}: {problems:?}");
        assert!(kinds[1..].iter().all(|kind| *kind == "boots-without"), "{hidden}: {problems:?}");
        let steps: Vec<&str> = problems.iter().filter_map(|p| p["next_step"].as_str()).collect();
        assert!(!steps.iter().any(|step| step.contains("install")), "{hidden}: {steps:?}");
        assert!(problems[0].to_string().contains(hidden), "{hidden}: {problems:?}");
        assert_eq!(status["verdict"], "unknown");
        for kernel in status["kernels"].as_array().unwrap() {
            // The file of one kernel leaves that of the others.
            let is_known = hidden.ends_with(B) && kernel["release"] != B;
            let word = if is_known { "on" } else { "unknown" };
            assert_eq!(kernel["sig_unenforce"], word, "{hidden}: {kernel}");
        }
        let enforcement = as_user(&["enforcement", "--json"]).unwrap().code(3).json();
        let (kernel, next) = (&enforcement["kernels"][0], enforcement["next_step"].as_str().unwrap());
        assert_eq!(enforcement["standing"], "unknown", "{hidden}: {enforcement}");
        assert_eq!(enforcement["policy_met"], false);
        assert_eq!(kernel["release"], B);
        assert_eq!(kernel["configured"]["loads"]["unsigned"], "unknown");
        assert_eq!(kernel["configured"]["cmdline"], serde_json::Value::Null);
        assert!(kernel["configured"]["missing"].to_string().contains(hidden), "{hidden}: {kernel}");
        assert_eq!(next, "run `sudo clr-dkms enforcement` to read the whole command line", "{hidden}");
        // Root reads it: there was nothing wrong.
        root.run("clr-dkms", &["check"]).code(0);
        let enforcement = root.run("clr-dkms", &["enforcement", "--json"]).json();
        assert_eq!(enforcement["kernels"][0]["configured"]["sig_unenforce"], "on", "{hidden}");
    }
}

/// Without the boot entry the configured line is what the next boot uses.
#[test]
fn without_boot_entries_an_unread_command_line_refuses_no_module() {
    let root = machine();
    set_mode(&root.at("etc/kernel/cmdline.d/10-mine.conf"), 0o600);
    set_mode(&root.at("boot"), 0o700);
    let Some(mut command) = as_nobody(&root, "clr-dkms", &["status", "--json"]) else { return };
    let status = Run::of(command.output().unwrap(), &root).code(3).json();
    for module in status["modules"].as_array().unwrap() {
        assert_ne!(module["state"], "signature-refused", "{module}");
    }
    let problems = status["problem_list"].to_string();
    for kind in ["boot-entry", "parameter-missing", "boot-files-outdated"] {
        assert!(!problems.contains(kind), "{problems}");
    }
    let mut command = as_nobody(&root, "clr-dkms", &["enforcement"]).unwrap();
    let run = Run::of(command.output().unwrap(), &root);
    run.code(3).shows(&["etc/kernel/cmdline.d/10-mine.conf", "Permission denied"]);
    assert!(!run.stdout.contains("will refuse"), "{}", run.stdout);
    root.run("clr-dkms", &["check"]).code(0);
    assert!(root.has(&TestRoot::ko("hello", A)));
}
