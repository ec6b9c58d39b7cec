//! Every command that a report gives can be run as it is: for the system that was looked at, and for no other
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::cases::is_every;
use crate::support::guard::ID_A;
use crate::support::root::FRAGMENT;
use crate::support::run::command;
use crate::support::{A, B, TestRoot, cases};

const WISHES: &str = "var/lib/clr-dkms/boot-wishes.json";

/// Something that is wrong with a system.
pub(crate) type Scene = (&'static str, fn(&TestRoot));

pub(crate) const SCENES: [Scene; 21] = [
    ("nothing was built yet", |root| hello(root, "")),
    ("a build failed", |root| {
        hello(root, "");
        root.behave("[[ $verb != build ]] || { code=10; said='hello.c:1:5: error: no'; }").post_update();
    }),
    ("a build of a module that is in use failed", |root| {
        hello(root, "");
        root.installed("hello", "1.0", A).loads(&["hello"]).entry(ID_A, "quiet rw", true);
        root.behave("[[ $verb != build ]] || { code=10; said='hello.c:1:5: error: no'; }").post_update();
    }),
    ("a kernel is held", |root| {
        proven(root);
        root.run("clr-dkms", &["hold", B]);
    }),
    ("no headers", |root| {
        hello(root, "");
        root.remove(&format!("usr/lib/modules/{B}/build"));
    }),
    ("no compiler", |root| {
        hello(root, "");
        root.file(&format!("usr/lib/modules/{B}/build/.config"), "CONFIG_CC_IS_CLANG=y\n");
    }),
    ("the source is gone", |root| {
        hello(root, "");
        root.remove("usr/src/hello-1.0");
    }),
    ("the source is broken", |root| hello(root, "BUILT_MODULE_LOCATION[0]=(\n")),
    ("not built by itself", |root| {
        hello(root, "AUTOINSTALL=\"\"\n");
        root.conf("[modules]\ncritical = hello\n");
    }),
    ("not for this kernel", |root| {
        hello(root, "BUILD_EXCLUSIVE_KERNEL=\"^5[.]\"\n");
        root.conf("[modules]\ncritical = hello\n");
    }),
    ("two modules of one file", |root| {
        hello(root, "");
        root.module("bello", "2", "BUILT_MODULE_NAME[0]=hello\n").post_update();
    }),
    ("blocked", |root| {
        proven(root);
        root.file("etc/modprobe.d/x.conf", "install hello /bin/false\n")
            .conf("[modules]\ncritical = hello\n");
    }),
    ("refused for its signature", |root| {
        root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null");
        proven(root);
    }),
    ("a file that nobody registered", |root| {
        proven(root);
        root.file("usr/src/other-2/dkms.conf", "PACKAGE_NAME=other\nPACKAGE_VERSION=2\nAUTOINSTALL=yes\n");
    }),
    ("a name that nobody has", |root| {
        proven(root);
        root.conf("[modules]\ncritical = zsf\n");
    }),
    ("a kernel is held that is not there", |root| {
        proven(root);
        root.file(WISHES, r#"{"schema": 1, "hold": "6.1.1-1.native"}"#);
    }),
    ("what an admin said is damaged", |root| {
        proven(root);
        root.file(WISHES, "{");
    }),
    ("the record is damaged", |root| {
        proven(root);
        root.file("var/lib/clr-dkms/status.json", "{");
    }),
    ("swupd is overridden", |root| {
        proven(root);
        root.file("etc/swupd/config", "[update]\nno_boot_update=false\n");
    }),
    ("no boot entry", |root| {
        proven(root);
        root.remove("boot/loader/entries").directory("boot/loader/entries");
    }),
    ("a run was interrupted", |root| {
        hello(root, "");
        let run = r#"{"schema": 1, "started": "2025-07-29T12:00:00Z", "pid": 1, "builds": []}"#;
        root.file("var/lib/clr-dkms/in-progress.json", run);
    }),
];

fn hello(root: &TestRoot, conf: &str) {
    root.module("hello", "1.0", conf);
}

fn proven(root: &TestRoot) {
    hello(root, "");
    root.post_update();
}

/// Programs of others that a report may name, and what they are asked for.
const OTHERS: [(&str, &[&str]); 5] = [
    ("swupd", &["bundle-add", "repair"]),
    ("dkms", &["add", "remove", "unbuild"]),
    ("clr-boot-manager", &["update", "set-kernel"]),
    ("dracut", &["--kver"]),
    ("journalctl", &["-fu"]),
];

/// What stands between backticks and is a command, with its words and whether it is for root.
fn commands(text: &str) -> BTreeMap<String, (bool, Vec<String>)> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let quoted = text.split('`').skip(1).step_by(2);
    let command = |quoted: &str| {
        let words = shlex::split(quoted.strip_prefix("sudo ").unwrap_or(quoted))?;
        let first = if words[0] == "chroot" { words.get(2)? } else { words.first()? };
        let is_known = first.starts_with("clr-dkms") || OTHERS.iter().any(|(program, _)| program == first);
        // The name of a program alone is not a command line of another one.
        let is_command = is_known && (words.len() > 1 || first.starts_with("clr-dkms-p"));
        is_command.then(|| (quoted.to_owned(), (quoted.starts_with("sudo "), words)))
    };
    quoted.filter_map(command).collect()
}

/// Every text that reports print about a system.
fn texts(root: &TestRoot, image: bool) -> String {
    let ours: [(&str, &[&str]); 10] = [
        ("clr-dkms", &["status", "--all"]),
        ("clr-dkms", &["status", "--json"]),
        ("clr-dkms", &["guard"]),
        ("clr-dkms", &["guard", "--json"]),
        ("clr-dkms", &["enforcement"]),
        ("clr-dkms", &["rebuild", "-n"]),
        ("clr-dkms", &["rebuild", "-n", "-k", A]),
        ("clr-dkms-cmdline", &["check"]),
        ("clr-dkms-pre-update", &["--dry-run"]),
        ("clr-dkms-motd", &["--dry-run"]),
    ];
    let run = |(program, arguments): &(&str, &[&str])| {
        let run = root.run(program, arguments);
        assert_ne!(run.code, 64, "{program} {arguments:?}: {run:?}");
        // A backtick of one text must not pair with one of another.
        format!("{}\n{}\n", run.stdout.replace("\\\"", "\""), run.stderr)
    };
    // The message of the day of an image is read in it, where its root is /.
    ours.iter().filter(|(program, _)| !image || *program != "clr-dkms-motd").map(run).collect()
}

/// What is wrong with a command as it was printed; `image`: it was for an image in a directory.
fn fault(root: &TestRoot, is_sudo: bool, words: &[String], image: bool) -> Option<String> {
    let count = |word: &str| words.iter().filter(|w| *w == word).count();
    let first = words[0].as_str();
    if first.starts_with("clr-dkms") {
        let is_for_it = count("--root") == usize::from(image) && count("ROOT") == usize::from(image);
        if !is_for_it {
            return Some(format!("--root is there {} times", count("--root")));
        }
        return ours(root, is_sudo, words, image);
    }
    let (program, rest) = match (first, image) {
        ("chroot", true) if words[1] == "ROOT" => (words[2].as_str(), &words[3..]),
        (_, false) => (first, &words[1..]),
        ("swupd", true) if words.ends_with(&["--path".to_owned(), "ROOT".to_owned()]) => (first, &words[1..]),
        ("clr-boot-manager", true) if count("--path=ROOT") == 1 => (first, &words[1..]),
        ("journalctl", true) => (first, &words[1..]),
        _ => return Some("it is for the system that asks".to_owned()),
    };
    let (_, verbs) = OTHERS.iter().find(|(known, _)| *known == program)?;
    match (verbs.contains(&rest[0].as_str()), is_sudo || program == "journalctl") {
        (false, _) => Some("it is not a command of that program".to_owned()),
        (true, false) => Some("it needs root, and does not say so".to_owned()),
        (true, true) => None,
    }
}

/// Runs a command of ours.
fn ours(root: &TestRoot, is_sudo: bool, words: &[String], image: bool) -> Option<String> {
    let path = root.path().display().to_string();
    let words: Vec<&str> = words.iter().map(|w| if w == "ROOT" { path.as_str() } else { w }).collect();
    let before = root.tree();
    let mut run = command(words[0], &root.tools());
    run.args(&words[1..]);
    if !image {
        run.arg("--live-root").arg(root.path());
    }
    let done = run.output().unwrap();
    let code = done.status.code();
    let has_changed = root.tree() != before;
    if code == Some(64) || code.is_none() {
        return Some(format!("exit code {code:?}: {}", String::from_utf8_lossy(&done.stderr)));
    }
    (has_changed && !is_sudo).then(|| "it changes the system, and does not say that it needs root".to_owned())
}

/// What is on this machine where programs of ours write on a live system.
fn host() -> BTreeSet<String> {
    let listed = |place: &str| match Path::new(place) {
        directory if directory.is_dir() => fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path().display().to_string())
            .collect(),
        file if file.exists() => vec![place.to_owned()],
        _ => Vec::new(),
    };
    let places =
        ["/run/motd.d", "/run/clr-dkms", "/var/lib/clr-dkms", "/etc/clr-dkms", "/etc/kernel", "/run/swupd"];
    places.into_iter().flat_map(listed).collect()
}

/// A system in that state; `image`: in an image.
pub(crate) fn root_of(put: fn(&TestRoot), image: bool) -> TestRoot {
    let root = if image { TestRoot::new() } else { TestRoot::updated() };
    for kernel in [A, B] {
        root.kernel(kernel).headers(kernel).tip(kernel).file(FRAGMENT, "module.sig_unenforce\n");
    }
    put(&root);
    root
}

fn check(image: bool) {
    let (before, mut failed, mut seen) = (host(), Vec::new(), BTreeSet::new());
    for (name, put) in cases(SCENES.into_iter(), 4) {
        let root = root_of(put, image);
        for (text, (is_sudo, words)) in commands(&texts(&root, image)) {
            seen.insert(words.iter().take(2).cloned().collect::<Vec<_>>().join(" "));
            let fault = fault(&root, is_sudo, &words, image);
            failed.extend(fault.map(|fault| format!("{name}: `{text}`: {fault}")));
        }
        let outside = root.calls().into_iter().filter(|call| call.starts_with("clr-boot-manager"));
        let mut outside = outside.filter(|call| !call.contains("--path=ROOT"));
        failed.extend(outside.next().map(|call| format!("{name}: {call}")));
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(seen.len() > if is_every() { 7 } else { 3 }, "{seen:?}");
    assert!(!seen.contains("clr-dkms release"), "{seen:?}");
    if is_every() {
        // An image runs no kernel that has something to lose.
        assert_eq!(seen.contains("clr-dkms allow"), !image, "{seen:?}");
        assert!(seen.contains("clr-dkms unhold"), "{seen:?}");
    }
    assert_eq!(host(), before, "nothing is changed outside of the root");
}

#[test]
fn commands_of_reports_about_an_image_are_for_the_image() {
    check(true);
}

#[test]
fn commands_of_reports_about_a_system_can_be_run() {
    check(false);
}

#[test]
fn a_hint_says_in_one_way_that_it_needs_root() {
    let root = TestRoot::held();
    root.boot(ID_A).remove(FRAGMENT);
    let texts = texts(&root, false);
    assert!(texts.contains("`sudo clr-dkms"), "{texts}");
    assert!(!texts.contains("as root"), "{texts}");
}
