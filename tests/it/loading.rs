//! A module that is built and proven, and that `modprobe.d` or the kernel command line keeps from being
//! loaded.

use crate::support::guard::{ID_A, ID_B};
use crate::support::{A, B, TestRoot};

const CONF: &str = "etc/modprobe.d/x.conf";

/// `hello` backs `/data`, is proven for [`A`] and [`B`], and loaded. The machine was booted before any file
/// of this test was written, or after all of them.
fn machine(booted_before: bool) -> TestRoot {
    let root = TestRoot::proven();
    root.file(
        "proc/stat",
        format!("cpu 1 2 3\nbtime {}\n", if booted_before { 1 } else { 9_999_999_999_u64 }),
    );
    root
}

/// The verdict and the exit code of `status`, and the states of `hello` on [`A`] and [`B`].
fn seen(root: &TestRoot) -> (String, i32, [String; 2]) {
    let run = root.run("clr-dkms", &["status", "--json"]);
    let document = run.json();
    let state = |kernel: &str| {
        let modules = document["modules"].as_array().unwrap();
        let module = modules.iter().find(|m| m["name"] == "hello" && m["kernel"] == kernel).unwrap();
        module["state"].as_str().unwrap().to_owned()
    };
    (document["verdict"].as_str().unwrap().to_owned(), run.code, [state(A), state(B)])
}

pub(crate) fn expect(root: &TestRoot, verdict: &str, code: i32, states: [&str; 2]) {
    assert_eq!(seen(root), (verdict.to_owned(), code, states.map(str::to_owned)));
}

#[test]
fn a_command_that_loads_nothing_blocks_it() {
    for command in ["/bin/false", "/bin/true", "false", "/usr/bin/true # off", "exec /bin/false"] {
        let root = machine(false);
        root.file(CONF, format!("# mine\ninstall hello {command}\n"));
        expect(&root, "unsafe", 2, ["blocked", "blocked"]);
        root.run("clr-dkms", &["status"]).code(2).shows(&["install hello", "etc/modprobe.d/x.conf:2"]);
        root.run("clr-dkms", &["guard"]).code(2).shows(&["unsafe: "]);
        // The worker says so too. No kernel is better: the one that was booted before is kept.
        root.post_update().code(2);
        assert_eq!(root.boot_default(), ID_A, "{command}");
        root.remove(CONF).post_update().code(0);
        expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    }
}

#[test]
fn the_next_step_names_the_file_and_the_line() {
    let root = machine(false);
    let step = |root: &TestRoot| {
        let document = root.run("clr-dkms", &["status", "--json"]).json();
        let modules = document["modules"].as_array().unwrap();
        let module = modules.iter().find(|m| m["name"] == "hello" && m["kernel"] == B).unwrap();
        root.redacted(module["next_step"].as_str().unwrap())
    };
    root.file(CONF, "\ninstall hello /bin/false\n");
    assert!(step(&root).starts_with("remove line 2 from ROOT/etc/modprobe.d/x.conf; or "), "{}", step(&root));
    // An update would bring a file of the system back.
    root.remove(CONF).file("usr/lib/modprobe.d/v.conf", "install hello /bin/false\n");
    assert!(
        step(&root)
            .starts_with("copy ROOT/usr/lib/modprobe.d/v.conf to /etc/modprobe.d/v.conf without line 1;"),
        "{}",
        step(&root)
    );
    // The copy counts.
    root.file("etc/modprobe.d/v.conf", "");
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
}

#[test]
fn what_was_loaded_in_spite_of_a_blacklist_will_be_again() {
    let root = machine(false);
    root.file(CONF, "blacklist hello\n");
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    // The list came after the module was loaded: by its aliases it will not be.
    let root = machine(true);
    root.file(CONF, "blacklist hello\n");
    expect(&root, "unsafe", 2, ["blocked", "blocked"]);
    root.run("clr-dkms", &["status"]).shows(&["except by `modprobe hello`"]);
    // systemd honours the list for modules-load.d too.
    root.file("etc/modules-load.d/hello.conf", "hello\n");
    expect(&root, "unsafe", 2, ["blocked", "blocked"]);
    // When the machine was booted is not known.
    root.remove("proc/stat");
    expect(&root, "unknown", 3, ["unknown", "unknown"]);
}

#[test]
fn a_blacklisted_module_that_nobody_uses_is_a_remark() {
    let root = machine(true);
    root.loads(&[]).mounts(&[]).remove("var/lib/clr-dkms/last-run.json").file(CONF, "blacklist hello\n");
    root.post_update().code(0);
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    let document = root.run("clr-dkms", &["status", "--json"]).json();
    let notes = document["notes"].as_array().unwrap();
    assert!(notes.iter().any(|n| n.as_str().unwrap().contains("blacklist hello")), "{notes:?}");
}

#[test]
fn what_was_critical_is_required_while_it_is_not_loaded() {
    let root = machine(true);
    root.file(CONF, "blacklist hello\n");
    root.post_update().code(2);
    let root = root.rebooted(B);
    expect(&root, "unsafe", 2, ["blocked", "blocked"]);
}

#[test]
fn a_command_of_ones_own_counts_where_it_loaded_the_module() {
    let command = "install hello /sbin/modprobe --ignore-install hello && /usr/bin/setup\n";
    let root = machine(false);
    root.file(CONF, command);
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    let root = machine(true);
    root.file(CONF, command);
    expect(&root, "unknown", 3, ["unknown", "unknown"]);
}

#[test]
fn the_command_line_of_the_next_boot_counts() {
    let root = TestRoot::guarded();
    root.file("etc/kernel/cmdline.d/off.conf", "module_blacklist=other,hello\n");
    // It is configured for B, and not yet in the entry of A, which stays as it is.
    root.post_update()
        .code(1)
        .says(&["the boot entries stay as they are: a new boot entry of 6.15.7-1591.native"]);
    assert_eq!(root.boot_default(), ID_A);
    expect(&root, "held", 1, ["ok", "blocked"]);
    root.run("clr-dkms", &["status"]).shows(&["remove module_blacklist= from the kernel command"]);
    root.remove("etc/kernel/cmdline.d/off.conf").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    // In the entry that boots, whatever is configured.
    root.file("proc/cmdline", "quiet\n");
    root.entry(ID_B, "quiet rw module.sig_unenforce modprobe.blacklist=hello", true);
    expect(&root, "unsafe", 2, ["ok", "blocked"]);
    // The running kernel was booted so, and has it all the same.
    root.file("proc/cmdline", "quiet modprobe.blacklist=hello\n");
    expect(&root, "degraded", 1, ["ok", "ok"]);
}

#[test]
fn what_it_is_loaded_on_top_of_counts() {
    let root = machine(false);
    for release in [A, B] {
        let name = format!("usr/lib/modules/{release}/kernel/base.ko");
        root.file(&name, crate::support::elf::module(release));
        root.index(release, "kernel/base.ko:\nupdates/dkms/hello.ko: kernel/base.ko\n");
    }
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    root.file(CONF, "install base /bin/true\n");
    expect(&root, "unsafe", 2, ["blocked", "blocked"]);
    root.run("clr-dkms", &["status"]).shows(&["hello needs base, and `install base /bin/true`"]);
}

#[test]
fn an_admin_may_mean_it() {
    let root = machine(false);
    root.file(CONF, "install hello /bin/false\n").conf("[modules]\noptional = hello\n");
    expect(&root, "reboot-pending", 0, ["blocked", "blocked"]);
    let summary = root.run("clr-dkms", &["status", "--json"]).json()["summary"].as_str().unwrap().to_owned();
    assert!(summary.ends_with("keeps hello from being loaded"), "{summary}");
}

#[test]
fn what_does_not_concern_it_changes_nothing() {
    let root = machine(true);
    root.file(CONF, "options hello x=1\nblacklist hell\ninstall other /bin/false\nalias hello-x hello\nsoftdep hello pre: a\n");
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    let document = root.run("clr-dkms", &["status", "--json"]).json();
    assert_eq!(document["notes"].as_array().unwrap().len(), 0, "{}", document["notes"]);
}
