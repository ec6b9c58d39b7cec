//! What is wrong with a machine is not a failure of the command that reports it, and nothing is printed
//! twice.

use crate::support::TestRoot;

/// Machines with something wrong, whose state is known all the same.
fn broken() -> Vec<(&'static str, TestRoot)> {
    let is_unsafe = TestRoot::held();
    is_unsafe.updated_by_hand();
    let typo = TestRoot::proven();
    typo.file("etc/clr-dkms/clr-dkms.conf", "[motd]\nshown = no\n");
    let unknown_name = TestRoot::proven();
    unknown_name.conf("[modules]\ncritical = cam\n");
    let source = TestRoot::proven();
    source.remove("usr/src/hello-1.0");
    let headers = TestRoot::guarded();
    headers.remove("usr/lib/modules/6.15.8-1592.native/build");
    headers.post_update();
    let entries = TestRoot::proven();
    entries.updated_by_hand();
    let masked = TestRoot::proven();
    masked.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null");
    vec![
        ("held", TestRoot::held()),
        ("unsafe", is_unsafe),
        ("a typo", typo),
        ("an unknown name", unknown_name),
        ("no source", source),
        ("no headers", headers),
        ("other entries", entries),
        ("masked", masked),
        ("empty", TestRoot::new()),
    ]
}

#[test]
fn a_report_on_a_broken_machine_is_not_an_error() {
    let reports: [(&str, &[&str]); 14] = [
        ("clr-dkms", &["status"]),
        ("clr-dkms", &["status", "--all"]),
        ("clr-dkms", &["guard"]),
        ("clr-dkms", &["check"]),
        ("clr-dkms", &["check", "--nagios"]),
        ("clr-dkms", &["enforcement"]),
        ("clr-dkms", &["lint"]),
        ("clr-dkms", &["explain"]),
        ("clr-dkms", &["wait"]),
        ("clr-dkms", &["status", "hello"]),
        ("clr-dkms-cmdline", &["show"]),
        ("clr-dkms-cmdline", &["check"]),
        ("clr-dkms-motd", &["--dry-run"]),
        ("clr-dkms-pre-update", &["--dry-run"]),
    ];
    for (name, root) in broken() {
        for (program, words) in reports {
            let run = root.run(program, words);
            let what = format!("{name}: {program} {words:?}: {}{}", run.stdout, run.stderr);
            let mut lines: Vec<&str> = run.stderr.lines().collect();
            lines.sort_unstable();
            let all = lines.len();
            lines.dedup();
            assert_eq!(lines.len(), all, "{what}");
            // 3: it could not be determined, and that is a failure. 78: a verb that goes no further with a
            // typo.
            assert!([3, 78].contains(&run.code) || !run.stderr.contains("error: "), "{what}");
        }
    }
}

/// The run that fails to build says so once; the next one, which tries nothing, reports a state.
#[test]
fn a_run_fails_only_in_what_it_tries() {
    let root = TestRoot::guarded();
    let first = root.behave(crate::support::guard::FAILS_ON_B).post_update();
    assert_eq!(first.stderr.matches("error: ").count(), 1, "{}", first.stderr);
    let second = root.post_update();
    assert!(!second.stderr.contains("error: ") && second.stderr.contains("warning: "), "{}", second.stderr);
}
