//! The screen of `clr-dkms status` for every verdict: its widths, its letters, what it shows of much.

use crate::support::guard::{FAILS_ON_B, HELLO_FAILS_ON_B};
use crate::support::run::{as_nobody, set_mode};
use crate::support::{A, B, LTS, Run, TestRoot};

/// Everything that `status` may be asked for its looks.
#[derive(Clone, Copy)]
struct Seen<'a> {
    columns: &'a str,
    locale: &'a str,
    all: bool,
}

const USUAL: Seen = Seen { columns: "80", locale: "C.UTF-8", all: false };

fn seen(root: &TestRoot, how: Seen) -> String {
    let mut command = root.command("clr-dkms", if how.all { &["status", "--all"] } else { &["status"] });
    command.env("COLUMNS", how.columns).env("LC_ALL", how.locale);
    let text = Run::of(command.output().unwrap(), root).stdout;
    let columns: usize = how.columns.parse().unwrap();
    for line in text.lines() {
        let unbreakable = line.split_whitespace().count() < 3;
        assert!(line.chars().count() <= columns || unbreakable, "{} columns: {line}", line.chars().count());
        assert!(!line.ends_with(' ') && !line.contains('\u{1b}'), "{line:?}");
    }
    text
}

/// The screens for people, with the exit code, and the document.
fn golden(name: &str, root: &TestRoot, code: i32) {
    let ascii = seen(root, Seen { locale: "C", ..USUAL });
    assert!(ascii.is_ascii(), "{ascii}");
    let usual = seen(root, USUAL);
    // The same words, whatever the letters.
    let words = |text: &str| -> Vec<String> {
        let text = text.replace(['‘', '’'], "'");
        text.split_whitespace().filter(|word| word.chars().count() > 1).map(str::to_owned).collect()
    };
    assert_eq!(words(&ascii), words(&usual));
    let wide = seen(root, Seen { columns: "120", ..USUAL });
    let text = format!(
        "{usual}\n== 120 columns\n{wide}\n== ASCII\n{}\n",
        ascii.lines().filter(|line| !usual.contains(line)).collect::<Vec<_>>().join("\n")
    );
    insta::assert_snapshot!(format!("screen_{name}"), text);
    let json = root.run("clr-dkms", &["status", "--json"]);
    json.code(code);
    if name != "many" {
        insta::assert_snapshot!(format!("screen_{name}_json"), TestRoot::timeless(&json.stdout));
    }
    let verdict = json.json()["verdict"].as_str().unwrap().to_owned();
    assert!(usual[usual.find(' ').unwrap() + 1..].starts_with(&format!("{verdict}:")), "{usual}");
    assert!(usual.lines().count() <= 24, "{} lines:\n{usual}", usual.lines().count());
    root.run("clr-dkms", &["check"]).code(code).prints("");
}

/// Three modules: one that a disk hangs on, one that is loaded, one that is neither.
fn machine() -> TestRoot {
    let root = TestRoot::guarded();
    root.module("v4l2loopback", "0.15.1", "").installed("v4l2loopback", "0.15.1", A);
    root.module("nvidia-open", "575.64.05", "").loads(&["hello", "v4l2loopback"]);
    root
}

fn no_build_for_b(modules: &str) -> String {
    format!(
        "[[ $verb != build || $kernel != *1592* || $module != @({modules}) ]] || {{ code=10; said='/var/lib/dkms/'$module'/1.0/build/main.c:12:5: error: implicit declaration of function ‘from_timer’; did you mean ‘mod_timer’? [-Werror=implicit-function-declaration]'; }}"
    )
}

#[test]
fn healthy() {
    let root = machine().running(B);
    root.post_update().code(0);
    golden("healthy", &root, 0);
}

#[test]
fn a_reboot_is_pending() {
    let root = machine();
    root.post_update().code(0);
    golden("reboot_pending", &root, 0);
}

#[test]
fn a_run_is_at_work() {
    let root = machine();
    let _run = root.at_work(&[&format!("hello/1.0 on {B}"), &format!("nvidia-open/575.64.05 on {B}")]);
    golden("building", &root, 1);
}

#[test]
fn degraded() {
    let root = machine().running(B);
    root.entry("org.clearlinux.native.6.15.8-1592", "quiet rw module.sig_unenforce", true);
    root.behave(&no_build_for_b("nvidia-open")).post_update().code(1);
    golden("degraded", &root, 1);
}

#[test]
fn held() {
    let root = machine();
    root.behave(&no_build_for_b("hello")).post_update().code(1);
    golden("held", &root, 1);
}

#[test]
fn everything_fails() {
    let root = machine();
    root.behave(&no_build_for_b("hello|v4l2loopback|nvidia-open")).post_update().code(1);
    golden("held_all", &root, 1);
    let all = seen(&root, Seen { all: true, ..USUAL });
    for module in ["hello/1.0", "v4l2loopback/0.15.1", "nvidia-open/575.64.05"] {
        for part in ["main.c:12", "/var/log/clr-dkms/"] {
            let shown = all.lines().any(|l| l.contains(part) && (part == "main.c:12" || l.contains(module)));
            assert!(shown, "{module}, {part}: {all}");
        }
    }
}

#[test]
fn not_safe() {
    let root = machine();
    root.behave(&no_build_for_b("hello")).post_update().code(1);
    root.updated_by_hand();
    golden("unsafe", &root, 2);
}

/// A run is active, and until it ends a reboot would find a kernel without what is critical.
#[test]
fn not_safe_while_a_run_is_at_work() {
    let root = machine();
    root.behave(FAILS_ON_B).post_update().code(1);
    root.updated_by_hand();
    let _run = root.at_work(&[&format!("hello/1.0 on {B}")]);
    golden("unsafe_building", &root, 2);
}

#[test]
fn unknown() {
    let root = machine();
    root.post_update();
    root.remove(&format!("usr/lib/modules/{B}/modules.dep"))
        .directory(&format!("usr/lib/modules/{B}/modules.dep"));
    golden("unknown", &root, 3);
}

#[test]
fn not_applicable() {
    golden("not_applicable", &TestRoot::new(), 0);
}

/// Of what was there for root only it is said that it was not seen, and how to see it.
#[test]
fn without_root() {
    let root = machine();
    root.behave(HELLO_FAILS_ON_B).post_update();
    for hidden in ["boot", "var/lib/dkms/hello", "var/lib/clr-dkms"] {
        set_mode(&root.at(hidden), 0o700);
    }
    let Some(mut command) = as_nobody(&root, "clr-dkms", &["status"]) else { return };
    let run = Run::of(command.output().unwrap(), &root);
    run.code(3).says(&[]);
    insta::assert_snapshot!("screen_without_root", run.stdout);
    let json = Run::of(as_nobody(&root, "clr-dkms", &["status", "--json"]).unwrap().output().unwrap(), &root);
    let unreadable: Vec<String> = serde_json::from_value(json.json()["unreadable"].clone()).unwrap();
    for hidden in ["boot/", "var/lib/dkms/hello", "var/lib/clr-dkms/last-run.json"] {
        assert!(unreadable.iter().any(|path| path.contains(hidden)), "{hidden}: {unreadable:?}");
    }
    // Root sees all of it.
    if rustix::process::geteuid().is_root() {
        let json = root.run("clr-dkms", &["status", "--json"]).json();
        assert_eq!(json["unreadable"], serde_json::json!([]));
    }
}

/// What matters stays on the first screen, and `--all` shows the rest.
#[test]
fn ten_kernels_and_thirty_modules() {
    let root = machine();
    let variants = ["lts2024", "lts2023", "lts2022", "lts2021", "mainline", "rt", "hyperv", "kvm"];
    let mut others = Vec::new();
    for (at, variant) in variants.iter().enumerate() {
        let release = format!("6.{at}.1-{}.{variant}", 100 + at);
        root.kernel(&release).headers(&release).tip(&release);
        others.push(release);
    }
    for number in 0..27 {
        let name = format!("extra{number:02}");
        root.module(&name, "1.0", "").installed(&name, "1.0", A);
        // To build all of them would take its time and show nothing more.
        others.iter().for_each(|release| root.installed(&name, "1.0", release).forget());
        if number != 7 {
            root.installed(&name, "1.0", B);
        }
    }
    root.behave(&no_build_for_b("hello|extra07")).post_update().code(1);
    golden("many", &root, 1);
    let usual = seen(&root, USUAL);
    for part in [
        "held: ",
        "hello/1.0 ",
        "main.c:12",
        "extra07/1.0 ",
        &format!("{A}  running, next boot"),
        "held back",
    ] {
        assert!(usual.contains(part), "no {part:?} in\n{usual}");
    }
    let all = seen(&root, Seen { all: true, columns: "120", ..USUAL });
    for part in ["extra26/1.0", "6.7.1-107.kvm", "other kernels"] {
        assert!(all.contains(part), "no {part:?} in\n{all}");
    }
    assert_eq!(all.lines().filter(|line| line.starts_with("  extra")).count(), 27);
}

#[test]
fn names_that_are_long_or_hostile() {
    let root = machine();
    root.kernel(LTS).headers(LTS).tip(LTS);
    root.module(&format!("a{}", "-very-long-name".repeat(4)), "20250101.1+git20250202", "");
    root.module("odd\u{7}name", "1", "");
    root.post_update();
    let text = seen(&root, Seen { columns: "200", ..USUAL });
    assert!(!text.contains('\u{7}') && text.contains("odd\\u{7}name"), "{text}");
    // Odd widths are harmless.
    for columns in ["1", "0", "40", "41", "99999", "-5", "garbage", ""] {
        let mut command = root.command("clr-dkms", &["status"]);
        let run = Run::of(command.env("COLUMNS", columns).output().unwrap(), &root);
        run.shows(&["v4l2loopback/0.15.1"]).says(&[]);
    }
}
