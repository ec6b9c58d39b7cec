//! The side files of `clr-dkms add`: what is found, what is asked, what is written, and what a blacklist
//! means for the kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clr_dkms::state::added::{AddedManifest, AddedState};
use clr_dkms::sys::{Root, RootKind};
use serde_json::{Value, json};

use crate::requirements::{put, verdict};
use crate::support::guard::{ID_A, ID_B};
use crate::support::run::command;
use crate::support::terminal::Terminal;
use crate::support::tree::difference;
use crate::support::{A, B, Run, TestRoot, elf, few_or};

const WORDS: &str = "quiet rw module.sig_unenforce";
pub(crate) const CARD: &str = "pci0000:00/0000:00:1f.6";
const ALIAS: &str = "pci:v000010ECd00008168sv*sd*bc*sc*i*";
const MODALIAS: &str = "pci:v000010ECd00008168sv00001458sd0000E000bc02sc00i00";
const OPTIONS: &str = "options hello x=1\n";
const RULES: &str = "KERNEL==\"hello\", RUN+=\"/usr/bin/logger hello\"\n";
const BLACKLIST: &str = "etc/modprobe.d/clr-dkms-hello.conf";
const MANIFEST: &str = "var/lib/clr-dkms/added.json";

/// What the "compiler" makes for a kernel.
fn makes(root: &TestRoot, release: &str, more: &str) {
    let info = format!("license=GPL\0vermagic={release} SMP preempt mod_unload \0{more}");
    let template = root.tools().join(format!("templates/{release}.ko"));
    fs::write(template, elf::with_modinfo(info.as_bytes())).unwrap();
}

/// [`A`] runs, is the boot default, and has a driver of its own for the card that `hello` is for.
pub(crate) fn system() -> TestRoot {
    with_driver(TestRoot::system(), &[A])
}

fn with_driver(root: TestRoot, kernels: &[&str]) -> TestRoot {
    root.directory("var/tmp").entry(ID_A, WORDS, true).mounts(&[]).loads(&[]);
    for release in kernels {
        put(&root, release, "kernel/net/r8169.ko", ALIAS);
        root.file(&format!("usr/lib/modules/{release}/modules.alias"), format!("alias {ALIAS} r8169\n"));
        makes(&root, release, &format!("alias={ALIAS}\0firmware=hello/a.bin\0firmware=hello/b.bin\0"));
    }
    root.file("usr/lib/firmware/hello/a.bin.zst", "x");
    root.file(&format!("sys/devices/{CARD}/modalias"), format!("{MODALIAS}\n"));
    root.link("sys/bus/pci/devices/0000:00:1f.6", format!("../../../devices/{CARD}"));
    root
}

/// A source with these files beside its own.
pub(crate) fn source(root: &TestRoot, files: &[(&str, &str)]) -> PathBuf {
    let source = root.outside().join("hello");
    let conf = "PACKAGE_NAME=\"hello\"\nPACKAGE_VERSION=\"1.0\"\nBUILT_MODULE_NAME[0]=\"hello\"\n\
                DEST_MODULE_LOCATION[0]=\"/updates/dkms\"\nAUTOINSTALL=\"yes\"\n";
    let own = [("dkms.conf", conf), ("Makefile", "obj-m := hello.o\n"), ("hello.c", "int x;\n")];
    for (path, text) in own.iter().chain(files) {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    source
}

pub(crate) fn usual(root: &TestRoot) -> PathBuf {
    source(root, &[("hello.conf", OPTIONS), ("50-hello.rules", RULES)])
}

pub(crate) fn add(root: &TestRoot, source: &Path, more: &[&str]) -> Run {
    let source = source.display().to_string();
    root.run("clr-dkms", &[&["add", &source], more].concat())
}

/// A machine on which `hello` is installed and the kernel's own driver of its card is blacklisted.
pub(crate) fn blacklisted() -> TestRoot {
    let root = system();
    add(&root, &usual(&root), &["--yes", "--side-files"]).code(0);
    root.post_update().code(0);
    root
}

/// The texts of the steps about side files with that result.
fn steps(document: &Value, result: &str) -> Vec<String> {
    let steps = document["steps"].as_array().unwrap().iter();
    let ours = steps.filter(|step| step["step"] == "side-file" && step["result"] == result);
    ours.map(|step| step["text"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn each_kind_of_side_file_is_found_by_layout_or_by_the_line_that_installs_it() {
    let root = system();
    let source = source(
        &root,
        &[
            ("modprobe.d/hello.conf", OPTIONS),
            ("udev-50-hello.rules", "KERNEL==\"hello\", MODE=\"0666\"\n"),
            ("post.sh", "#!/bin/sh\ncp udev-50-hello.rules /etc/udev/rules.d/51-hello.rules\n"),
            ("debian/hello.modprobe", "softdep hello pre: other\n"),
            ("install/modprobe.conf", "blacklist r8169\n"),
            ("docs/example.conf", "options hello x=2\n"),
            ("polkit.rules", "polkit.addRule(function(action) {});\n"),
            ("notes.conf", "# options hello x=1\n"),
            ("local.mk", "install:\n\techo other > /etc/modules-load.d/other.conf\n"),
        ],
    );
    let before = root.tree();
    let run = add(&root, &source, &["--dry-run", "--json"]);
    let document = run.code(0).json();
    let found = document["side_files"].as_array().unwrap().iter();
    let line = |file: &Value| {
        let line = file["evidence"].get("line").map(Value::to_string).unwrap_or_default();
        let text = |name: &str| file[name].as_str().unwrap().to_owned();
        format!("{} {} {line}", text("path"), text("origin"))
    };
    assert_eq!(
        found.map(line).collect::<Vec<_>>(),
        [
            // Of two files of one name the first counts.
            "/etc/modprobe.d/hello.conf debian/hello.modprobe ",
            "/etc/modules-load.d/other.conf local.mk 2",
            "/etc/udev/rules.d/51-hello.rules udev-50-hello.rules 2",
        ]
    );
    // Without a build the aliases are unknown.
    assert_eq!((&document["blacklist"], &document["firmware_missing"]), (&json!(null), &json!(null)));
    let changes = difference(&before, &root.tree(), false);
    assert!(changes.iter().all(|change| change.contains(".stand-ins")), "{changes:?}");
}

#[test]
fn a_package_gives_its_side_files() {
    let root = system();
    let source = source(&root, &[]);
    let payload = root.outside().join("payload");
    fs::create_dir_all(payload.join("usr/src")).unwrap();
    fs::rename(&source, payload.join("usr/src/hello-1.0")).unwrap();
    for (path, text) in [
        ("etc/modprobe.d/hello.conf", OPTIONS),
        ("lib/udev/rules.d/60-hello.rules", RULES),
        ("usr/lib/udev/rules.d/deep/61.rules", RULES),
        ("etc/cron.d/hello", "x\n"),
    ] {
        let path = payload.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let outside = root.outside();
    let shell = "tar -C payload -czf data.tar.gz . && echo 2.0 >debian-binary && \
                 ar rc hello.deb debian-binary data.tar.gz";
    assert!(Command::new("sh").args(["-c", shell]).current_dir(&outside).status().unwrap().success());
    let document = add(&root, &outside.join("hello.deb"), &["--dry-run", "--json"]).code(0).json();
    let paths: Vec<&str> = document["side_files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/etc/modprobe.d/hello.conf", "/etc/udev/rules.d/60-hello.rules"]);
    assert_eq!(document["side_files"][1]["commands"][0]["line"], 1);
}

#[test]
fn without_consent_no_side_file_is_written() {
    let root = system();
    let run = add(&root, &usual(&root), &["--yes"]);
    let is_wide = |line: &&str| line.contains("50-hello.rules") && line.chars().count() > 80;
    assert_eq!(run.stdout.lines().find(is_wide), None);
    let flat = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    Run { stdout: flat, ..run }.code(0).shows(&[
        "/etc/udev/rules.d/50-hello.rules can be installed, from 50-hello.rules",
        "line 1 runs a command as root",
        RULES.trim(),
        "r8169 of the kernel claims the same devices",
        "the firmware hello/b.bin is missing",
        "--side-files installs it",
    ]);
    for path in ["etc/modprobe.d/hello.conf", "etc/udev/rules.d/50-hello.rules", BLACKLIST] {
        assert!(!root.has(path), "{path}");
    }
}

#[test]
fn side_files_and_a_blacklist_are_written_and_recorded() {
    let root = system();
    let source = usual(&root);
    let document = add(&root, &source, &["--yes", "--side-files", "--json"]).code(0).json();
    assert_eq!(document["firmware_missing"], json!(["hello/b.bin"]));
    let driver = &document["blacklist"][0];
    assert_eq!(driver["driver"], "r8169");
    assert_eq!(driver["kernels"], json!([A]));
    assert_eq!(driver["aliases"], json!([{ "module": ALIAS, "driver": ALIAS }]));
    assert_eq!(driver["devices"], json!(["/sys/bus/pci/devices/0000:00:1f.6"]));
    assert_eq!(root.text("etc/modprobe.d/hello.conf"), OPTIONS);
    assert_eq!(root.text("etc/udev/rules.d/50-hello.rules"), RULES);
    let blacklist = root.text(BLACKLIST);
    assert!(blacklist.lines().any(|line| line == "blacklist r8169"), "{blacklist}");
    let recorded: Value = serde_json::from_str(&root.text(MANIFEST)).unwrap();
    let kinds: Vec<&str> = recorded["modules"][0]["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["blacklist", "modprobe", "udev"]);
    // A device loads it.
    let again = add(&root, &source, &["--yes", "--side-files", "--autoload", "--json"]).code(0).json();
    let skipped = steps(&again, "skipped").join("\n");
    assert!(skipped.contains("there already") && skipped.contains("not needed"), "{skipped}");
    assert!(steps(&again, "done").is_empty() && !root.has("etc/modules-load.d"));
    assert!(again["blacklist"][0]["blacklisted_by"].is_string());
}

#[test]
fn a_driver_that_competes_later_joins_the_blacklist() {
    let root = blacklisted();
    put(&root, A, "kernel/net/r8170.ko", ALIAS);
    let list = format!("usr/lib/modules/{A}/modules.alias");
    root.file(&list, root.text(&list) + &format!("alias {ALIAS} r8170\n"));
    add(&root, &usual(&root), &["--yes", "--side-files"]).code(0);
    let blacklist = root.text(BLACKLIST);
    for driver in ["r8169", "r8170"] {
        assert!(blacklist.lines().any(|line| line == format!("blacklist {driver}")), "{blacklist}");
    }
}

#[test]
fn files_of_others_are_neither_overwritten_nor_hidden() {
    let root = system();
    root.file("etc/modprobe.d/hello.conf", "options hello x=7\n");
    root.file("usr/lib/udev/rules.d/50-hello.rules", "KERNEL==\"vendor\"\n");
    let document = add(&root, &usual(&root), &["--yes", "--side-files", "--json"]).code(1).json();
    let refused = steps(&document, "failed").join("\n");
    for path in ["ROOT/etc/modprobe.d/hello.conf", "ROOT/usr/lib/udev/rules.d/50-hello.rules"] {
        assert!(refused.contains(path), "{refused}");
    }
    assert_eq!(root.text("etc/modprobe.d/hello.conf"), "options hello x=7\n");
    assert!(!root.has("etc/udev/rules.d/50-hello.rules"));
    // The module itself is installed.
    assert_eq!(document["installed"], true);
    assert!(root.has(&TestRoot::ko("hello", A)));
}

#[test]
fn a_module_without_a_device_is_loaded_on_request() {
    let root = system();
    makes(&root, A, "alias=devname:hello\0alias=platform:hello\0");
    let source = source(&root, &[("Makefile.install", "\techo hello > /etc/modules-load.d/hello.conf\n")]);
    add(&root, &source, &["--yes", "--side-files"]).code(0).shows(&["--autoload loads it at each boot"]);
    assert!(!root.has("etc/modules-load.d/hello.conf"));
    let document = add(&root, &source, &["--yes", "--autoload", "--json"]).code(0).json();
    assert_eq!(document["autoload"]["needed"], true);
    assert_eq!(document["blacklist"], json!([]));
    assert_eq!(root.text("etc/modules-load.d/hello.conf"), "hello\n");
}

#[test]
fn a_driver_that_carries_the_default_route_is_not_blacklisted_without_force() {
    let root = system();
    root.device(CARD, "r8169").interface("eth0", CARD, "", &[]).route("eth0");
    root.file("proc/modules", "r8169 16384 1 - Live 0x0000000000000000\n");
    let source = usual(&root);
    let document = add(&root, &source, &["--yes", "--side-files", "--json"]).code(1).json();
    let refused = steps(&document, "failed").join("\n");
    assert!(refused.contains("--force"), "{refused}");
    assert_eq!(document["blacklist"][0]["used_for"][0]["use"], "default-route");
    assert!(!root.has(BLACKLIST) && root.has("etc/modprobe.d/hello.conf"));
    add(&root, &source, &["--yes", "--side-files", "--force"]).code(0);
    assert!(root.has(BLACKLIST));
}

#[test]
fn a_blacklist_needs_a_proven_module_on_the_running_kernel_too() {
    // The running kernel is not the newest of its variant: no run builds for it.
    let root = with_driver(TestRoot::updated(), &[A, B]);
    root.entry(ID_B, WORDS, false);
    let document = add(&root, &usual(&root), &["--yes", "--side-files", "--json"]).json();
    let built: Vec<bool> = [A, B].iter().map(|release| root.has(&TestRoot::ko("hello", release))).collect();
    // It is written when both have it, and only then.
    assert_eq!(root.has(BLACKLIST), built == [true, true], "{document:#}");
    assert_eq!(steps(&document, "failed").is_empty(), root.has(BLACKLIST), "{document:#}");
}

#[test]
fn while_a_driver_is_blacklisted_its_replacement_is_critical_on_every_kernel() {
    let root = system();
    let source = usual(&root);
    let class = |root: &TestRoot| root.need("hello");
    add(&root, &source, &["--yes"]).code(0);
    assert!(!class(&root).starts_with("critical"), "{}", class(&root));
    add(&root, &source, &["--yes", "--side-files"]).code(0);
    root.post_update().code(0);
    assert_eq!(class(&root), "critical: drives the devices of r8169, which is blacklisted");
    // The module is lost: the kernel that boots next has no driver for the card.
    let lost = root.copy();
    lost.removed("hello", &[A]);
    lost.post_update();
    verdict(&lost, "unsafe", 2);
    // A manifest that cannot be read leaves it unknown.
    let unknown = root.copy();
    unknown.file(MANIFEST, "{");
    verdict(&unknown, "unknown", 3);
    // With the module its blacklist goes, which alone makes it critical.
    let removed = root.copy();
    removed.run("clr-dkms", &["remove", "hello"]).code(0);
    assert!(!removed.has(BLACKLIST) && !removed.has(MANIFEST) && !removed.has("usr/src/hello-1.0"));
    // Without the blacklist it is as before.
    root.remove(BLACKLIST);
    root.post_update().code(0);
    assert!(!class(&root).starts_with("critical"), "{}", class(&root));
}

#[test]
fn a_new_kernel_on_which_the_replacement_fails_is_held_back() {
    let root = blacklisted();
    root.kernel(B).headers(B).tip(B);
    root.behave("[[ $verb != build || $kernel != *1592* ]] || code=10");
    root.post_update();
    assert_eq!(root.boot_default(), ID_A);
    assert_eq!(root.guard()["lacking"][0]["class"], "critical");
}

#[test]
fn on_a_terminal_each_set_is_asked_for() {
    let root = system();
    let source = usual(&root).display().to_string();
    let mut terminal = Terminal::run(&root, 120, "", "clr-dkms", &["add", &source]);
    terminal.wait_for("as root? [y/N]").types("y\n");
    terminal.wait_for("which run commands as root? [y/N]").types("n\n");
    terminal.wait_for("Blacklist r8169, once the module is proven? [y/N]").types("y\n");
    assert!(terminal.ends().success(), "{}", terminal.text());
    assert!(root.has(BLACKLIST) && !root.has("etc/udev/rules.d/50-hello.rules"));
}

#[test]
fn an_image_gets_its_side_files_too() {
    let root = with_driver(TestRoot::system(), &[A]);
    let source = usual(&root);
    let mut command = command("clr-dkms", &root.tools());
    command.arg("--root").arg(root.path()).arg("add").arg(&source).args(["--yes", "--side-files", "--json"]);
    let output = command.output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{document:#}");
    // The devices of this machine are not those of the image.
    assert_eq!(document["blacklist"][0]["devices"], json!([]));
    assert!(root.has(BLACKLIST) && root.has("etc/udev/rules.d/50-hello.rules"));
}

#[test]
fn killed_at_any_moment_every_side_file_is_recorded_and_the_next_run_finishes() {
    let whole = system();
    let source = usual(&whole);
    add(&whole, &source, &["--yes"]).code(0);
    let files = ["etc/modprobe.d/hello.conf", "etc/udev/rules.d/50-hello.rules", BLACKLIST];
    let mut killed = 0;
    for milliseconds in (0..5).step_by(few_or(2, 1)).map(|n| 60 + n * 100) {
        let root = whole.copy();
        let mut command = command("clr-dkms", &root.tools());
        command.arg("add").arg(&source).args(["--yes", "--side-files", "--live-root"]).arg(root.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        let image = Root::open(RootKind::Image, root.path()).unwrap();
        let manifest = AddedManifest::load(&image).unwrap();
        for path in files.iter().filter(|path| root.has(path)) {
            let (_, file) = manifest.file(&format!("/{path}")).expect("a file that is not recorded");
            assert_eq!(file.state(&image).unwrap(), AddedState::Unedited, "{path}");
        }
        add(&root, &source, &["--yes", "--side-files"]).code(0);
        assert!(files.iter().all(|path| root.has(path)), "{milliseconds} ms");
    }
    assert!(killed > 0);
}
