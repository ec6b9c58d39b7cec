//! The units and hooks that start clr-dkms, as `status` and `check` report them.

use crate::support::{Run, TestRoot};

/// A healthy system with all units and hooks of this repository.
pub(crate) fn installed() -> TestRoot {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").post_update().code(0);
    root.with_units();
    root
}

fn status(root: &TestRoot) -> Run {
    root.run("clr-dkms", &["status", "--all"])
}

#[test]
fn what_is_in_place_is_on() {
    let root = installed();
    status(&root).code(0);
    let json = root.run("clr-dkms", &["status", "--json"]).json();
    assert_eq!(json["automation"], serde_json::json!({ "rebuild": "on", "faults": [] }));
    // Where nothing is installed, nothing is missing.
    let bare = TestRoot::system();
    bare.module("hello", "1.0", "").post_update().code(0);
    assert!(bare.run("clr-dkms", &["status", "--json"]).json()["automation"].is_null());
}

#[test]
fn what_is_not_in_place_is_named_with_what_helps() {
    type Change = fn(&TestRoot) -> &TestRoot;
    let rows: [(Change, &str, &str, &str); 5] = [
        (
            |root| root.link("etc/systemd/system/clr-dkms.service", "/dev/null"),
            "off",
            "automatic rebuild: off, clr-dkms.service is masked",
            "systemctl unmask clr-dkms.service",
        ),
        (
            |root| root.remove("usr/lib/systemd/system/clr-dkms-watch.path"),
            "limited",
            "automatic rebuild: limited, clr-dkms-watch.path is missing",
            "install clr-dkms again",
        ),
        (
            |root| {
                root.remove("usr/lib/systemd/system/update-triggers.target.wants/clr-dkms-trigger.service")
            },
            "limited",
            "automatic rebuild: limited, clr-dkms-trigger.service is not enabled",
            "install clr-dkms again",
        ),
        (
            |root| root.link("etc/systemd/system/multi-user.target.wants/clr-dkms-hold.service", "/dev/null"),
            "on",
            "boot guard: off, clr-dkms-hold.service is not enabled",
            "install clr-dkms again",
        ),
        (
            |root| root.remove("usr/bin/clr_pre_update.sh"),
            "on",
            "check before an update: off, /usr/bin/clr_pre_update.sh is missing",
            "install clr-dkms again",
        ),
    ];
    for (change, rebuild, sentence, remedy) in rows {
        let root = installed();
        change(&root);
        let json = root.run("clr-dkms", &["status", "--json"]).json();
        assert_eq!(json["automation"]["rebuild"], rebuild, "{sentence}");
        assert_eq!((&json["verdict"], &json["problems"][0]), (&"degraded".into(), &sentence.into()));
        assert_eq!(json["problem_list"][0]["kind"], "automation");
        assert!(json["next_step"].as_str().unwrap().contains(remedy), "{json}");
        root.run("clr-dkms", &["check"]).code(1);
        // A reboot is safe, so the message of the day does not change.
        let motd = root.run("clr-dkms-motd", &["--dry-run"]).code(0).stdout.clone();
        assert!(!motd.contains("automatic") && !motd.contains("clr-dkms-hold"), "{motd}");
    }
}

#[test]
fn monitors_get_one_line_and_their_own_exit_codes() {
    let root = installed();
    let check = |root: &TestRoot| root.run("clr-dkms", &["check", "--nagios"]);
    check(&root)
        .code(0)
        .shows(&["DKMS OK - healthy: ", " | modules_ready=1;;;0;1 modules_missed=0;;;0 problems=0;;;0\n"]);
    root.link("etc/systemd/system/clr-dkms.service", "/dev/null");
    let run = check(&root);
    run.code(1).shows(&["DKMS WARNING - degraded: automatic rebuild: off", "problems=1;;;0"]);
    assert_eq!((run.stdout.lines().count(), run.stdout.matches('|').count()), (1, 1));
    let json = root.run("clr-dkms", &["check", "--json"]).json();
    assert_eq!((&json["verdict"], &json["exit_code"]), (&"degraded".into(), &1.into()));
    // A check that cannot begin has a line too.
    let gone = TestRoot::system();
    let program = gone.command("clr-dkms", &["check", "--nagios"]).get_program().to_owned();
    let mut command = std::process::Command::new(program);
    let done = command.args(["check", "--nagios", "--root", "/nowhere"]).output().unwrap();
    assert_eq!(done.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&done.stdout).starts_with("DKMS UNKNOWN - "), "{done:?}");
}

#[test]
fn where_there_is_no_kernel_every_report_exits_with_zero() {
    let root = TestRoot::new();
    for words in [&["status"][..], &["check"], &["guard"], &["enforcement"]] {
        root.run("clr-dkms", words).code(0);
    }
    root.run("clr-dkms-cmdline", &["check"]).code(0);
    root.run("clr-dkms-cmdline", &["show"]).code(0);
}
