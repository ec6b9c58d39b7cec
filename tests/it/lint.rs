//! `clr-dkms lint`: the findings on a source, the screens, the exit codes, and what is not a file.

use std::fs;

use serde_json::Value;

use crate::support::run::{command, set_mode};
use crate::support::tree::difference;
use crate::support::{A, B, LTS, Run, TestRoot};

/// Nothing is to be said of this one.
pub(crate) const GOOD: &str = "PACKAGE_NAME=\"hello\"\nPACKAGE_VERSION=\"1.0\"\nBUILT_MODULE_NAME[0]=\"hello\"\n\
     DEST_MODULE_LOCATION[0]=\"/extra\"\nAUTOINSTALL=\"yes\"\n";
pub(crate) const CONF: &str = "usr/src/hello-1.0/dkms.conf";

/// A system with the module hello/1.0, whose dkms.conf has that text.
pub(crate) fn system(conf: &str) -> TestRoot {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").file(CONF, conf).file("usr/src/hello-1.0/Makefile", "obj-m := hello.o\n");
    tidy(&root);
    root
}

/// Whatever the umask of the tests.
fn tidy(root: &TestRoot) {
    set_mode(&root.at("usr/src/hello-1.0"), 0o755);
    for file in fs::read_dir(root.at("usr/src/hello-1.0")).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() && !path.is_symlink() {
            set_mode(&path, 0o644);
        }
    }
}

pub(crate) fn run(root: &TestRoot, more: &[&str]) -> Run {
    root.run("clr-dkms", &[&["lint"], more].concat())
}

/// The same with its lines put together again.
pub(crate) fn flat(root: &TestRoot, more: &[&str]) -> Run {
    let run = run(root, more);
    Run { stdout: run.stdout.split_whitespace().collect::<Vec<_>>().join(" "), ..run }
}

/// `id severity line` of every finding.
pub(crate) fn found(root: &TestRoot, more: &[&str]) -> (i32, Vec<String>) {
    let run = run(root, &[&["--json"], more].concat());
    let document = run.json();
    let targets = document["targets"].as_array().unwrap();
    let findings = targets.iter().flat_map(|t| t["findings"].as_array().unwrap());
    let short = |f: &Value| {
        let line = f["line"].as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
        format!("{} {} {line}", f["id"].as_str().unwrap(), f["severity"].as_str().unwrap())
    };
    (run.code, findings.map(short).collect())
}

#[test]
fn findings_on_the_source() {
    let change = |change: &dyn Fn(&TestRoot)| {
        let root = system(GOOD);
        change(&root);
        found(&root, &[])
    };
    let source = "usr/src/hello-1.0";
    let one = |id: &str| (1, vec![format!("{id} error -")]);
    let another = |id: &str| (1, vec![format!("{id} warning -")]);
    let no_makefile = |root: &TestRoot| root.remove(&format!("{source}/Makefile")).forget();
    assert_eq!(change(&no_makefile), one("no-makefile"));
    for made in ["MAKE[0]=make", "PRE_BUILD='configure --all'", "MAKE_MATCH[1]=x\nMAKE[1]=make"] {
        let quiet = change(&|root| {
            no_makefile(root);
            root.file(&format!("{source}/configure"), "");
            root.file(CONF, format!("{GOOD}{made}\n")).forget();
            tidy(root);
            set_mode(&root.at(&format!("{source}/configure")), 0o755);
        });
        assert_eq!(quiet, (0, vec![]), "{made}");
    }
    assert_eq!(change(&|root| root.remove(CONF).forget()), one("no-conf"));
    assert_eq!(change(&|root| root.remove(source).forget()), one("no-source"));
    let compiled = |root: &TestRoot| {
        root.remove(&format!("{source}/hello.c")).file(&format!("{source}/{A}/hello.ko.xz"), "x");
        set_mode(&root.at(&format!("{source}/{A}")), 0o755);
        set_mode(&root.at(&format!("{source}/{A}/hello.ko.xz")), 0o644);
    };
    assert_eq!(change(&compiled), one("precompiled-only"));
    let bare = |root: &TestRoot| {
        compiled(root);
        root.remove(CONF).forget();
    };
    assert_eq!(change(&bare), one("precompiled-only"));
    let beside = |root: &TestRoot| {
        root.file(&format!("{source}/hello.ko"), "x");
        tidy(root);
    };
    assert_eq!(change(&beside), (0, vec!["precompiled-beside advice -".to_owned()]));
    for (path, mode) in [("", 0o757), ("dkms.conf", 0o646), ("Makefile", 0o666)] {
        let writable = |root: &TestRoot| set_mode(&root.at(&format!("{source}/{path}")), mode);
        assert_eq!(change(&writable), another("writable-by-others"), "{path}");
    }
    if rustix::process::geteuid().is_root() {
        for owner in [(Some(1), None), (None, Some(1))] {
            let given = |root: &TestRoot| {
                let path = root.at(CONF);
                std::os::unix::fs::chown(&path, owner.0, owner.1).unwrap();
                set_mode(&path, 0o664);
            };
            assert_eq!(change(&given), another("writable-by-others"), "{owner:?}");
        }
    }
}

/// What is added to the good file, the files of the source (an empty directory ends in a slash), and what
/// comes of it.
type SourceCase = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

/// The rules that read the source.
const SOURCES: &[SourceCase] = &[
    ("PATCH[0]=a.patch\nPATCH[1]=b.patch", &[("patches/a.patch", "x")], &["patch-missing error 7"]),
    ("PATCH[0]=a.patch\nPATCH_MATCH[0]='^5\\.'", &[], &[]),
    ("PATCH=(a.patch)\nPOST_ADD=fetch", &[("fetch", "+x")], &["patch-missing warning 6"]),
    ("PRE_BUILD='configure --all'", &[], &["hook-missing warning 6"]),
    ("POST_INSTALL=./done.sh", &[("done.sh", "x")], &["hook-not-executable warning 6"]),
    ("POST_INSTALL=./done.sh", &[("done.sh", "+x")], &[]),
    ("BUILT_MODULE_LOCATION[0]=src/", &[("src/Makefile", "obj-m := hello.o")], &[]),
    ("BUILT_MODULE_LOCATION[0]=src", &[], &["location-missing error 6"]),
    ("BUILT_MODULE_LOCATION[0]=src\nMAKE=./all", &[], &["location-missing warning 6"]),
    ("BUILT_MODULE_LOCATION[0]=src", &[("src/", "")], &["location-missing error 6"]),
    ("", &[("Makefile", "obj-m := hallo.o\n")], &["module-not-made warning 3"]),
    ("", &[("Makefile", "obj-m := $(NAMES)\n")], &[]),
    (
        "BUILT_MODULE_NAME[1]=a_b\nDEST_MODULE_LOCATION[1]=/extra",
        &[("Makefile", "obj-m := hello.o a-b.o\n")],
        &["module-not-made warning 6"],
    ),
    ("", &[("Makefile", "obj-$(CONFIG_HELLO) := hello.o\n")], &["module-conditional warning 3"]),
    ("MAKE='make CONFIG_HELLO=m'", &[("Makefile", "obj-$(CONFIG_HELLO) := hello.o\n")], &[]),
    ("", &[("Makefile", "CONFIG_HELLO ?= m\nobj-$(CONFIG_HELLO) := hello.o\n")], &[]),
    ("MAKE=\"make KVER=\\$(uname -r)\"", &[], &["make-running-kernel warning 6"]),
    (
        "MAKE=make",
        &[("Makefile", "KVER ?= $(shell uname -r)\nobj-m := hello.o\n")],
        &["make-running-kernel warning 1"],
    ),
    ("MAKE=\"make KVER=$kernelver\"", &[("Makefile", "KVER ?= $(shell uname -r)\nobj-m := hello.o\n")], &[]),
    ("MAKE='make KVER=$kernelver'", &[("Makefile", "KVER ?= $(shell uname -r)\nobj-m := hello.o\n")], &[]),
    (
        "MAKE=\"make KERNEL=$kernelver\"",
        &[("Makefile", "KVER ?= $(shell uname -r)\nobj-m := hello.o\n")],
        &["make-running-kernel warning 1"],
    ),
    ("", &[("Makefile", "KVER ?= $(shell uname -r)\nobj-m := hello.o\n")], &[]),
    ("X=$(uname -r)", &[], &["running-kernel warning 6"]),
    ("MAKE=\"make -C $kernel_source_dir SUBDIRS=.\"", &[], &["subdirs error 6"]),
    ("MAKE=\"make -C $kernel_source_dir SUBDIRS=. M=.\"", &[], &[]),
    (
        "MAKE='make all'",
        &[("Makefile", "obj-m := hello.o\nall:\n\tmake SUBDIRS=.\n")],
        &["subdirs warning 3"],
    ),
    ("", &[("Makefile", "obj-m := hello.o\nall:\n\tmake SUBDIRS=.\n")], &[]),
    (
        "BUILD_MODULE_NAME[1]=x\nAUTO_INSTALL=yes",
        &[],
        &["directive-misspelt warning 6", "directive-misspelt warning 7"],
    ),
    ("MAKES=x\nBUILD_MODULE_NAME=x\nCLEAN=\"$BUILD_MODULE_NAME\"", &[], &["deprecated advice 8"]),
    ("", &[("hello.c", "int x;")], &["no-license error -"]),
    ("MAKE=./all", &[("hello.c", "int x;")], &["no-license warning -"]),
    ("", &[("hello.c", "int x;"), ("more.tar.gz", "x")], &[]),
    ("", &[("hello.c", "int x;"), ("sub/a.h", "MODULE_LICENSE(X)")], &[]),
    ("DEST_MODULE_NAME[0]=vfat", &[], &["kernel-module advice 6"]),
    ("DEST_MODULE_NAME[0]=ext-4", &[], &["kernel-module warning 6"]),
    ("DEST_MODULE_NAME[0]='@NAME@'", &[], &["placeholder error 6"]),
    ("PACKAGE_VERSION='#MODULE_VERSION#'", &[], &["placeholder error 6", "version-differs warning 6"]),
    ("PACKAGE_VERSION=@VERSION@", &[], &["placeholder warning 6", "version-differs warning 6"]),
    ("DEST_MODULE_LOCATION[0]=@VERSION@", &[], &["destination error 6"]),
];

#[test]
fn findings_on_conf_and_source_together() {
    let mut wrong = Vec::new();
    for (conf, files, expected) in SOURCES {
        let root = system(&format!("{GOOD}{conf}\n"));
        root.file(&format!("usr/lib/modules/{A}/modules.builtin"), "kernel/fs/ext-4.ko\n").file(
            &format!("usr/lib/modules/{A}/modules.dep"),
            "kernel/fs/vfat.ko.zst: kernel/fs/fat.ko\nupdates/dkms/hello.ko:\n",
        );
        for (file, text) in *files {
            let path = format!("usr/src/hello-1.0/{file}");
            let directory = path.rsplit_once('/').unwrap().0;
            match file.ends_with('/') {
                true => root.directory(directory),
                false => root.file(&path, text),
            };
            set_mode(&root.at(directory), 0o755);
        }
        tidy(&root);
        for (file, _) in files.iter().filter(|(_, text)| *text == "+x") {
            set_mode(&root.at(&format!("usr/src/hello-1.0/{file}")), 0o755);
        }
        for (file, _) in files.iter().filter(|(file, _)| file.contains('/') && !file.ends_with('/')) {
            set_mode(&root.at(&format!("usr/src/hello-1.0/{file}")), 0o644);
        }
        let (_, mut found) = found(&root, &[]);
        found.sort();
        if found != *expected {
            wrong.push(format!("{conf:?} with {files:?}: {found:?} instead of {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_conf_that_is_elsewhere() {
    let root = system(GOOD);
    let next_step = |file: &str| {
        root.remove(CONF).file(&format!("usr/src/hello-1.0/{file}"), GOOD);
        let shown = flat(&root, &[]);
        root.remove(&format!("usr/src/hello-1.0/{file}"));
        shown.code(1).shows(&["[no-conf]"]);
        shown.stdout
    };
    for file in ["packaging/dkms.conf", "dkms.conf.in", "debian/hello.dkms"] {
        let shown = next_step(file);
        assert!(shown.contains(&format!("next: use {file}, or what")), "{shown}");
        root.file(CONF, GOOD);
    }
    for file in ["dkms.txt", "Makefile.dkms"] {
        assert!(next_step(file).contains("next: write one"));
        root.file(CONF, GOOD);
    }
    // One that can be used as it is comes first.
    root.file("usr/src/hello-1.0/a/dkms.conf.in", GOOD);
    assert!(next_step("b/dkms.conf").contains("b/dkms.conf first"));
}

#[test]
fn commands_are_for_the_image_and_can_be_pasted() {
    let root = system(GOOD);
    root.link("var/lib/dkms/lost/2.1/source", "/usr/src/lost-2.1");
    for name in ["x~y", "x;reboot;"] {
        let conf = GOOD.replace("\"hello\"", &format!("'{name}'"));
        root.file(&format!("usr/src/{name}-1.0/dkms.conf"), conf);
    }
    let image = root.path().display().to_string();
    let mut lint = command("clr-dkms", &root.tools());
    let done = lint.args(["lint", "--json", "--root", &image]).output().unwrap();
    let document: Value = serde_json::from_slice(&done.stdout).unwrap();
    let step = |target: &str, id: &str| {
        let targets = document["targets"].as_array().unwrap();
        let target = targets.iter().find(|found| found["name"].as_str().unwrap().ends_with(target)).unwrap();
        let finding = target["findings"].as_array().unwrap().iter().find(|found| found["id"] == id);
        finding.unwrap_or_else(|| panic!("{document:#}"))["next_step"].as_str().unwrap().to_owned()
    };
    let remove = format!("`sudo chroot {image} dkms remove -m lost -v 2.1 --all`");
    assert!(step("lost/2.1", "no-source").ends_with(&remove), "{}", step("lost/2.1", "no-source"));
    let add = format!("register it: `sudo chroot {image} dkms add -m 'x~y' -v 1.0`");
    assert_eq!(step("x~y-1.0", "not-registered"), add);
    // dkms cannot take that name.
    assert!(!step("x;reboot;-1.0", "not-registered").contains("sudo"));
}

#[test]
fn a_source_that_is_not_registered() {
    let root = system(GOOD);
    root.file("usr/src/other-2/dkms.conf", GOOD.replace("\"hello\"", "other").replace("\"1.0\"", "2"))
        .file("usr/src/other-2/Makefile", "obj-m := other.o\n")
        .file("usr/src/linux-headers-6/Makefile", "x");
    set_mode(&root.at("usr/src/other-2"), 0o755);
    for file in ["dkms.conf", "Makefile"] {
        set_mode(&root.at(&format!("usr/src/other-2/{file}")), 0o644);
    }
    let unregistered = (1, vec!["not-registered warning -".to_owned()]);
    assert_eq!(found(&root, &[]), unregistered);
    assert_eq!(found(&root, &["/usr/src/other-2"]), unregistered);
    flat(&root, &[]).shows(&["2 modules: 1 warning", "next: register it: `sudo dkms add -m other -v 2`"]);
    root.link("var/lib/dkms/other/2/source", "/usr/src/other-2");
    assert_eq!(found(&root, &[]), (0, vec![]));
}

#[test]
fn a_checkout_belongs_to_whoever_has_it() {
    let root = system(GOOD);
    // Its group may write it, and it may have any name.
    root.file("home/me/hello/dkms.conf", GOOD)
        .file("home/me/hello/Makefile", "x")
        .file("home/me/hello/a.c", "MODULE_LICENSE(\"GPL\");");
    for (path, mode) in [("", 0o775), ("/dkms.conf", 0o664), ("/Makefile", 0o664), ("/a.c", 0o664)] {
        set_mode(&root.at(&format!("home/me/hello{path}")), mode);
    }
    for name in ["/home/me/hello", "home/me/hello/", "./home/me/hello", "/home/me/hello/dkms.conf"] {
        assert_eq!(found(&root, &[name]), (0, vec![]), "{name}");
    }
    set_mode(&root.at("home/me/hello/a.c"), 0o666);
    assert_eq!(found(&root, &["/home/me/hello"]), (1, vec!["writable-by-others warning -".to_owned()]));
    root.link("home/me/it's", "hello");
    flat(&root, &["/home/me/it's"]).shows(&["`sudo chmod -R go-w 'ROOT/home/me/it'\\''s'`"]);
    // A source that dkms would take from where it lies has the name that dkms looks for.
    root.link("usr/src/hello-1.1", "hello-1.0");
    assert_eq!(found(&root, &["/usr/src/hello-1.1"]), (1, vec!["version-differs warning 2".to_owned()]));
    root.link("usr/src/other", "hello-1.0");
    assert_eq!(found(&root, &["/usr/src/other"]), (1, vec!["name-differs warning 1".to_owned()]));
}

#[test]
fn an_archive_that_dkms_made() {
    let root = system(GOOD);
    root.file("a/dkms_source_tree/dkms.conf", GOOD.replace("yes", "no"))
        .file("a/dkms_source_tree/Makefile", "x")
        .file("b/dkms_binaries_only", "");
    set_mode(&root.at("a/dkms_source_tree"), 0o755);
    for file in ["dkms.conf", "Makefile"] {
        set_mode(&root.at(&format!("a/dkms_source_tree/{file}")), 0o644);
    }
    assert_eq!(found(&root, &["/a"]), (1, vec!["autoinstall-no warning 5".to_owned()]));
    flat(&root, &["/a"]).shows(&["ROOT/a/dkms_source_tree/dkms.conf:5: warning: AUTOINSTALL is no"]);
    set_mode(&root.at("b"), 0o755);
    assert_eq!(found(&root, &["/b"]), (1, vec!["precompiled-only error -".to_owned()]));
}

#[test]
fn what_an_admin_overrides_counts_and_is_named() {
    let root = system(GOOD);
    root.file("etc/dkms/hello.conf", "# mine\nAUTOINSTALL=perhaps\n");
    let run = flat(&root, &[]);
    run.code(1).shows(&["ROOT/etc/dkms/hello.conf:2: error: AUTOINSTALL is \"perhaps\""]);
    // The file of the source is not the one that is registered when it is looked at as a directory.
    assert_eq!(found(&root, &["/usr/src/hello-1.0"]), (0, vec![]));
}

/// The file of the source sets all that dkms asks for.
#[test]
fn an_override_that_ends_early_does_not_count() {
    let root = system(GOOD);
    root.file("etc/dkms/hello.conf", "AUTOINSTALL=no\nX=${NONE:?gone}\n");
    assert_eq!(found(&root, &[]), (1, vec!["ends-early-unused warning 2".to_owned()]));
    flat(&root, &[]).shows(&["ROOT/etc/dkms/hello.conf:2: warning: bash stops", "(NONE: gone): nothing"]);
    // Of a file that goes on, only what it sets replaces what was set.
    root.file("etc/dkms/hello.conf", "AUTOINSTALL=no\n");
    assert_eq!(found(&root, &[]), (1, vec!["autoinstall-no warning 1".to_owned()]));
}

#[test]
fn kernels() {
    let exclusive = format!("{GOOD}BUILD_EXCLUSIVE_KERNEL=\"^6\\.12\\.\"\n");
    let root = system(&exclusive);
    root.kernel(B).headers(B).kernel(LTS).headers(LTS);
    let text = |more: &[&str]| flat(&root, more).stdout;
    let both = format!("kernel {B}, {A} are left out: BUILD_EXCLUSIVE_KERNEL is ^6\\.12\\. [excluded]");
    assert!(text(&[]).contains(&both), "{}", text(&[]));
    assert!(text(&["--kernel", A]).contains(&format!("kernel {A} is left out")));
    assert_eq!(found(&root, &["--kernel", LTS]), (0, vec![]));
    run(&root, &["--kernel", "6.1"]).code(3).prints("").says(&["is not an installed kernel"]);
    // A file looks into the configuration of a kernel whose headers are not there.
    root.remove(&format!("usr/lib/modules/{B}/build/.config"));
    root.file(CONF, format!("{GOOD}test -f $kernel_config || BUILD_EXCLUSIVE_ARCH=none\n"));
    tidy(&root);
    assert_eq!(found(&root, &[]), (0, vec!["excluded advice 6".to_owned()]));
    // Something is wrong for one kernel only.
    root.file(CONF, format!("{GOOD}[[ $kernelver == 6.12* ]] && AUTOINSTALL=x\n"));
    tidy(&root);
    flat(&root, &[]).code(1).shows(&[&format!("(for kernel {LTS})")]);
    // And where no kernel is known, nothing is said of any.
    let none = TestRoot::new();
    none.module("hello", "1.0", "").file(CONF, &exclusive).file("usr/src/hello-1.0/Makefile", "x");
    tidy(&none);
    assert_eq!(found(&none, &[]), (0, vec![]));
    assert_eq!(run(&none, &["--json"]).json()["kernels"], serde_json::json!([]));
}

#[test]
fn the_screen_and_the_document() {
    let root =
        system(&format!("{}CLEAN=\"make clean\"\n", GOOD.replace("/extra", "/lib").replace("yes", "no")));
    root.module("other", "2.0", "MAKE=make\nBUILD_DEPENDS=hello\n");
    for path in ["", "/dkms.conf", "/other.c"] {
        set_mode(&root.at(&format!("usr/src/other-2.0{path}")), if path.is_empty() { 0o755 } else { 0o644 });
    }
    let before = root.tree();
    let screen = run(&root, &[]);
    screen.code(1);
    assert_eq!(screen.stderr, "");
    // Where a line breaks depends on how long the path of the root is.
    let short = |line: &str| line.chars().count() <= 80 || line.starts_with("ROOT/");
    assert!(screen.stdout.lines().all(short), "{}", screen.stdout);
    let text = flat(&root, &[]).stdout.replace(" next step:", "\n    next step:");
    let marks = ["✔", "✘", "!", "–"];
    let text =
        marks.iter().fold(text, |text, mark| text.replace(&format!(" {mark} "), &format!("\n{mark} ")));
    insta::assert_snapshot!("lint", text);
    insta::assert_snapshot!("lint_json", run(&root, &["--json"]).stdout);
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new(), "a report changes nothing");
    run(&root, &["other", "other/2.0"])
        .code(0)
        .prints("✔ 2 modules: no findings\n✔ other/2.0: no findings\n✔ other/2.0: no findings\n");
    let empty = TestRoot::system();
    run(&empty, &[]).code(0).prints("✔ no module is registered with DKMS\n");
}

#[test]
fn a_checkout_is_named_from_where_one_stands() {
    let root = system(&GOOD.replace("yes", "no"));
    let stand = |directory: &str, target: &str| {
        let mut command = crate::support::run::command("clr-dkms", &root.tools());
        // The machine's own root: nothing of it is looked at but the directory.
        command.args(["lint", target]).current_dir(root.at(directory));
        Run::of(command.output().unwrap(), &root)
    };
    stand("usr/src/hello-1.0", ".").code(1).shows(&["\n! dkms.conf:5: warning: AUTOINSTALL is no"]);
    stand("usr/src", "hello-1.0").code(1).shows(&["\n! hello-1.0/dkms.conf:5: warning:"]);
    stand("usr/src", "./hello-1.0/dkms.conf").code(1).shows(&["\n! hello-1.0/dkms.conf:5: warning:"]);
    stand("usr/src/hello-1.0", "nothing-here").code(3).shows(&["nothing-here: unknown"]);
}

/// `/` would be another directory of that name.
#[test]
fn a_directory_is_relative_to_one_that_is_there() {
    let place = crate::support::scratch::directory();
    let mut lint = std::process::Command::new("sh");
    let gone = "cd \"$1\" && rmdir \"$1\" && shift && exec \"$@\"";
    let ours = command("clr-dkms", place.path());
    lint.args(["-c", gone, "sh"])
        .arg(place.path().join("gone"))
        .arg(ours.get_program())
        .args(["lint", "etc"]);
    fs::create_dir(place.path().join("gone")).unwrap();
    let output = lint.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("the working directory is unknown"), "{said}");
    assert_eq!(output.status.code(), Some(3), "{said}");
}
