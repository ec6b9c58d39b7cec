//! Names and texts of others that would deceive anyone that reads them: in file names, configurations, logs
//! and boot entries. No screen shows them as they are; JSON carries them, escaped.

use clr_dkms::sys::printable::is_hidden;

use crate::support::guard::FAILS_ON_B;
use crate::support::{B, Run, TestRoot};

/// What follows is shown from right to left; nothing; red; a bell.
const EVIL: &str = "e\u{202e}vil\u{200b}\u{1b}[31m\u{7}\u{9b}x";
const LONG: usize = 100_000;

fn machine() -> TestRoot {
    let root = TestRoot::guarded();
    let quoted = format!("{EVIL}{}", "y".repeat(LONG));
    // A module, its version, and what its dkms.conf says.
    root.module("hello", EVIL, &format!("STRIP=\"{quoted}\"\nPOST_BUILD=\"{EVIL}\"\n{EVIL}\n"));
    root.module(EVIL, "2", &format!("BUILT_MODULE_NAME[1]=\"{EVIL}\"\nBUILD_EXCLUSIVE_KERNEL=\"({EVIL}\"\n"));
    root.directory(&format!("var/lib/dkms/{EVIL}\n/3/{EVIL}"));
    // Kernels, their parts and their entries.
    root.kernel(&format!("6.1.0-{EVIL}.native")).file(&format!("usr/lib/kernel/{EVIL}"), "");
    root.file(&format!("usr/lib/modules/{EVIL}/x"), "");
    let entry = format!("title {EVIL}\nversion {EVIL}\nlinux /{EVIL}\noptions {quoted}\n");
    root.file(&format!("boot/loader/entries/{EVIL}.conf"), &entry);
    root.file("boot/loader/entries/Clear-linux-other.conf", &entry);
    root.file("usr/lib/os-release", format!("ID={EVIL}\nNAME={EVIL}\nPRETTY_NAME=\"{quoted}\"\n"));
    // Command lines.
    root.file(&format!("etc/kernel/cmdline.d/{EVIL}.conf"), format!("{EVIL} a={EVIL}\n"));
    root.file(&format!("etc/kernel/cmdline-removal.d/{EVIL}.conf"), format!("{EVIL}\n"));
    root.file("proc/cmdline", format!("quiet {EVIL}\n"));
    // modprobe, what is loaded, and what is mounted.
    root.file(
        &format!("etc/modprobe.d/{EVIL}.conf"),
        format!("blacklist hello\nalias {EVIL} {EVIL}\n{EVIL}\n"),
    );
    root.file("etc/modules-load.d/x.conf", format!("{EVIL}\nhello\n"));
    root.loads(&["hello", EVIL]);
    root.file("var/lib/dkms/hello/kernel-x", EVIL);
    // A build that fails, and says so.
    root.behave(&format!("{FAILS_ON_B}\nprintf '%s: error: %s\\n' 'a.c:1:2' '{EVIL}'"));
    root
}

const CALLS: [(&str, &[&str]); 22] = [
    ("clr-dkms", &["status"]),
    ("clr-dkms", &["status", "--all"]),
    ("clr-dkms", &["status", "--all", "--color", "always"]),
    ("clr-dkms", &["status", "--json"]),
    ("clr-dkms", &["lint"]),
    ("clr-dkms", &["lint", "--json"]),
    ("clr-dkms", &["lint", EVIL]),
    ("clr-dkms", &["gc", "-n"]),
    ("clr-dkms", &["gc", "-n", "--json"]),
    ("clr-dkms", &["guard"]),
    ("clr-dkms", &["guard", "--json"]),
    ("clr-dkms", &["enforcement"]),
    ("clr-dkms", &["enforcement", "--json"]),
    ("clr-dkms", &["logs"]),
    ("clr-dkms", &["rebuild", "-n", "-v"]),
    ("clr-dkms", &["explain", "--json"]),
    ("clr-dkms", &["forget", EVIL]),
    ("clr-dkms-cmdline", &["show"]),
    ("clr-dkms-cmdline", &["show", "--json"]),
    ("clr-dkms-cmdline", &["check"]),
    ("clr-dkms-variant", &["list"]),
    ("clr-dkms-motd", &["-n"]),
];

/// What must not be there. The colours are ours, in an answer where they were asked for.
#[track_caller]
fn is_printable(text: &str, what: &str, colored: bool) {
    let text = match colored {
        true => text
            .replace("\u{1b}[0m", "")
            .replace("\u{1b}[1m", "")
            .replace("\u{1b}[33m", "")
            .replace("\u{1b}[32m", "")
            // Those of the text itself have lost their first letter.
            .replace("\u{1b}[31m", ""),
        false => text.to_owned(),
    };
    let hidden = text.chars().position(|c| is_hidden(c) && c != '\n' && c != '\t');
    if let Some(at) = hidden {
        let around: String = text.chars().skip(at.saturating_sub(60)).take(90).collect();
        panic!("{what}: {around:?}");
    }
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    assert!(longest < 9000, "{what}: a line of {longest}");
}

#[track_caller]
fn check(run: &Run, name: &str, arguments: &[&str]) {
    let what = format!("{name} {arguments:?}");
    assert!((0..=3).contains(&run.code), "{what}: {run:?}");
    is_printable(&run.stderr, &what, false);
    if arguments.contains(&"--json") {
        assert!(!run.stdout.is_empty(), "{what}: {run:?}");
        run.json();
        assert!(!run.stdout.chars().any(|c| is_hidden(c) && c != '\n'), "{what}");
    } else {
        is_printable(&run.stdout, &what, arguments.contains(&"always"));
    }
}

#[test]
fn no_screen_shows_what_deceives() {
    let root = machine();
    for (name, arguments) in CALLS {
        check(&root.run(name, arguments), name, arguments);
    }
    for arguments in [&[][..], &["-v"]] {
        check(&root.run("clr-dkms-post-update", arguments), "clr-dkms-post-update", arguments);
    }
    for (name, arguments) in CALLS {
        check(&root.run(name, arguments), name, arguments);
    }
    for path in ["run/motd.d/clr-dkms.motd", "run/clr-dkms/metrics.prom"] {
        if root.has(path) {
            is_printable(&root.text(path), path, false);
        }
    }
    // The values are the same all the same.
    let document = root.run("clr-dkms", &["status", "--json"]).json();
    let named =
        document["modules"].as_array().unwrap().iter().any(|m| m["version"] == EVIL || m["name"] == EVIL);
    let noted =
        document["notes"].to_string().contains("vil") || document["problems"].to_string().contains("vil");
    assert!(named || noted, "{document:#}");
}

/// The log of a build, which its module wrote.
#[test]
fn a_log_is_shown_without_what_deceives() {
    let root = machine();
    let log = format!("var/log/clr-dkms/hello/1.0/{B}.log");
    root.file(&log, format!("a.c:1:2: error: {EVIL}\n\t{EVIL}\n{}\n", "z".repeat(LONG)));
    let run = root.run("clr-dkms", &["logs", "hello"]);
    check(&run, "clr-dkms", &["logs"]);
    insta::assert_snapshot!(run.code(0).stdout.replace(&"z".repeat(4096), "[4096 z]"));
}

#[test]
fn the_status_of_a_machine_with_hostile_names() {
    let root = TestRoot::guarded();
    let evil = format!("BUILT_MODULE_NAME[1]=\"{EVIL}\"\nDEST_MODULE_LOCATION[1]=/extra\n");
    root.module("hello", "1.0", &evil).module(EVIL, "2", "");
    root.file(&format!("boot/loader/entries/{EVIL}.conf"), format!("title {EVIL}\nlinux /x\n"));
    root.file("boot/loader/loader.conf", format!("default {EVIL}\n"));
    let run = root.run("clr-dkms", &["status", "--all"]);
    check(&run, "clr-dkms", &["status"]);
    insta::assert_snapshot!(run.stdout);
}
