//! `clr-dkms add`: what it makes of each layout of a source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::run::set_mode;
use crate::support::tree::difference;
use crate::support::{B, Run, TestRoot, elf};

/// The sources of the tests.
pub(crate) fn fixture(layout: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/adopt").join(layout)
}

/// A system with two kernels, and with a directory for temporary files.
pub(crate) fn system() -> TestRoot {
    let root = TestRoot::updated();
    root.directory("var/tmp");
    root
}

pub(crate) fn add(root: &TestRoot, source: &Path, more: &[&str]) -> Run {
    let source = source.display().to_string();
    root.run("clr-dkms", &[&["add", &source], more].concat())
}

pub(crate) fn looked_at(source: &Path, more: &[&str]) -> (i32, Value) {
    let root = system();
    let before = root.tree();
    let run = add(&root, source, &[&["--dry-run", "--json"], more].concat());
    let changes = difference(&before, &root.tree(), false);
    assert!(changes.iter().all(|change| change.contains(".stand-ins")), "{changes:?}");
    (run.code, run.json())
}

/// A copy of a source that a test may change, in a directory of that name.
pub(crate) fn copy(root: &TestRoot, layout: &str, name: &str) -> PathBuf {
    let target = root.outside().join(name);
    let done = Command::new("cp").arg("-r").arg(fixture(layout)).arg(&target).status();
    assert!(done.unwrap().success());
    target
}

pub(crate) fn tar(directory: &Path, archive: &Path, options: &[&str]) {
    let (parent, name) = (directory.parent().unwrap(), directory.file_name().unwrap());
    let status =
        Command::new("tar").args(options).arg("-cf").arg(archive).arg("-C").arg(parent).arg(name).status();
    assert!(status.unwrap().success());
}

#[test]
fn each_layout_is_understood() {
    for (layout, name, version, directory, modules) in [
        ("conf-at-top", "hello", "1.0", ".", &["hello"][..]),
        ("conf-in-subdirectory", "hello", "0.8", ".", &["hello"]),
        ("template", "hello", "2.1", ".", &["hello"]),
        ("debian-dkms", "hello", "3.2", "src", &["hello"]),
        ("no-autoinstall", "hello", "1.0", ".", &["hello"]),
        ("computed-version", "hello", "4.5", ".", &["hello"]),
        ("guide", "custom_module", "1.0", ".", &["custom_module"]),
        ("kbuild-variables", "hello", "0.3", ".", &["hello"]),
        ("kbuild-branch", "hello", "7.1", ".", &["hello"]),
    ] {
        let (code, found) = looked_at(&fixture(layout), &[]);
        assert_eq!(code, 0, "{layout}: {found:#}");
        assert_eq!(found["name"], name, "{layout}");
        assert_eq!(found["version"], version, "{layout}");
        assert_eq!(found["directory"], directory, "{layout}");
        assert_eq!(found["modules"], serde_json::json!(modules), "{layout}");
        let conf = found["dkms_conf"].as_str().unwrap();
        assert!(conf.contains(&format!("PACKAGE_VERSION={}", quoted(layout, version))), "{layout}: {conf}");
        assert!(conf.contains("AUTOINSTALL="), "{layout}: {conf}");
    }
}

/// The guide's example has no quotes, and is left as it is.
fn quoted(layout: &str, version: &str) -> String {
    if layout == "guide" { version.to_owned() } else { format!("\"{version}\"") }
}

#[test]
fn decisions_name_the_lines_that_they_rest_on() {
    let lines = |layout: &str| {
        let (_, found) = looked_at(&fixture(layout), &[]);
        let decisions = found["decisions"].as_array().unwrap().clone();
        let line = |decision: &Value| {
            let evidence = decision.get("evidence").filter(|evidence| !evidence.is_null())?;
            let (file, line) = (evidence["file"].as_str()?, evidence["line"].as_u64()?);
            Some(format!("{} {file}:{line}", decision["subject"].as_str()?))
        };
        decisions.iter().filter_map(line).collect::<Vec<_>>()
    };
    assert_eq!(
        lines("conf-in-subdirectory"),
        [
            "version hello.c:1",
            "placeholder dkms/dkms.conf:2",
            "name dkms/dkms.conf:1",
            "directory Makefile:2"
        ]
    );
    assert_eq!(
        lines("template"),
        [
            "version Makefile:1",
            "placeholder Makefile:5",
            "placeholder dkms.conf.in:2",
            "placeholder Makefile:5",
            "name dkms.conf.in:1",
            "directory Makefile:3"
        ]
    );
    assert_eq!(lines("kbuild-branch"), ["module Makefile:2", "command Makefile:1", "version configure.ac:1"]);
}

#[test]
fn generated_files_call_make_as_the_makefile_wants_it() {
    let make = |layout: &str| {
        let (_, found) = looked_at(&fixture(layout), &[]);
        let conf = found["dkms_conf"].as_str().unwrap().to_owned();
        conf.lines().find(|line| line.starts_with("MAKE=")).unwrap().to_owned()
    };
    assert_eq!(make("kbuild-variables"), "MAKE=\"make KVER=${kernelver} KDIR=${kernel_source_dir}\"");
    assert_eq!(
        make("kbuild-branch"),
        "MAKE=\"make -C ${kernel_source_dir} \
         M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build CONFIG_HELLO=m modules\""
    );
}

#[test]
fn each_refusal_has_its_cause_and_its_line() {
    for (layout, cause, line) in [
        ("several-confs", "ambiguous", None),
        ("several-makefiles", "ambiguous", None),
        ("placeholder-left", "placeholder", Some("dkms.conf:3")),
        ("precompiled", "precompiled-only", None),
        ("no-source", "no-module-source", None),
        ("empty-submodule", "empty-submodule", Some(".gitmodules:2")),
        ("downloads", "needs-recipe", Some("prepare.sh:3")),
        ("cmake", "needs-recipe", Some("driver/CMakeLists.txt:2")),
        ("no-version", "no-version", None),
        ("unclosed-quote", "unusable-dkms-conf", Some("dkms.conf:1")),
    ] {
        let (code, found) = looked_at(&fixture(layout), &[]);
        assert_eq!(code, 1, "{layout}: {found:#}");
        let step = found["steps"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&step["result"], &step["cause"]), (&"failed".into(), &cause.into()), "{layout}: {step}");
        assert!(step["next_step"].is_string(), "{layout}: {step}");
        let evidence = step.get("evidence").map(|e| format!("{}:{}", e["file"].as_str().unwrap(), e["line"]));
        assert_eq!(evidence.as_deref(), line, "{layout}: {step}");
    }
}

#[test]
fn a_conf_beyond_the_limit_is_refused_with_the_limit() {
    let root = system();
    let source = copy(&root, "conf-at-top", "hello");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    for (more, why) in
        [("#".repeat(1 << 20), "it is larger than 1 MiB"), ("\0".to_owned(), "it is not a text")]
    {
        fs::write(source.join("dkms.conf"), format!("{conf}{more}\n")).unwrap();
        let (code, found) = looked_at(&source, &[]);
        let step = found["steps"].as_array().unwrap().last().unwrap();
        assert_eq!((code, &step["cause"]), (1, &"unusable-dkms-conf".into()), "{found:#}");
        assert_eq!(step["text"], format!("dkms.conf: {why}"));
    }
}

#[test]
fn what_is_not_a_source_is_named_with_what_helps() {
    let root = system();
    root.module("bello", "2", "");
    root.file("text", "hello\n");
    let kinds = "next:     give a directory, a git checkout, or an archive";
    add(&root, Path::new("/nowhere/x"), &["-n"]).code(1).shows(&["cannot open /nowhere/x", kinds]);
    add(&root, &root.at("text"), &["-n"]).code(1).shows(&["it is not an archive that is known", kinds]);
    let registered = "bello/2 is registered already; run `sudo clr-dkms rebuild bello/2`";
    add(&root, Path::new("bello/2"), &["-n"]).code(1).shows(&[registered]);
}

#[test]
fn what_cannot_be_checked_is_installed_and_unknown() {
    let root = system();
    let template = root.tools().join("templates").join(format!("{B}.ko"));
    fs::write(template, elf::with_symbols(B, "gone_one", &[], &[])).unwrap();
    let run = add(&root, &fixture("conf-at-top"), &["--yes"]);
    run.code(3).shows(&["install   warning: 6.15.8-1592.native: unknown:", "there is no modules.builtin"]);
    assert!(root.has(&TestRoot::ko("hello", B)));
}

/// The build succeeds: only the whole kernel shows that it cannot be loaded.
#[test]
fn a_module_that_needs_one_that_is_not_there_is_taken_back() {
    let root = system();
    let template = root.tools().join("templates").join(format!("{B}.ko"));
    fs::write(template, elf::with_symbols(B, "gone_one", &[], &[])).unwrap();
    // What is built in is known here.
    root.file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/fs/built-in.ko\n");
    let run = add(&root, &fixture("conf-at-top"), &["--yes"]);
    run.code(1).shows(&[
        "dependency-failed: hello needs",
        "gone_one, which is not there",
        "nothing of it is left",
    ]);
    assert!(!root.has("usr/src/hello-1.0") && !root.has("var/lib/dkms/hello"));
}

#[test]
fn choices_are_made_by_options() {
    let (code, found) = looked_at(&fixture("several-confs"), &["--conf", "b/dkms.conf"]);
    assert_eq!((code, &found["name"], &found["directory"]), (0, &"other".into(), &"b".into()));
    let (code, found) = looked_at(&fixture("no-version"), &["--version", "9", "--name", "mine"]);
    assert_eq!((code, &found["name"], &found["version"]), (0, &"mine".into(), &"9".into()));
    // The kernel does not build in a directory with a colon.
    for bad in ["../../9", "2:1.3+git"] {
        for (layout, option) in
            [("conf-at-top", "--version"), ("no-version", "--version"), ("conf-at-top", "--name")]
        {
            let (code, found) = looked_at(&fixture(layout), &[option, bad]);
            assert_eq!(
                (code, &found["steps"][1]["cause"]),
                (1, &"bad-name".into()),
                "{layout} {option} {bad}"
            );
        }
    }
    let (code, found) = looked_at(&fixture("conf-at-top"), &["--conf", "nowhere"]);
    assert_eq!((code, &found["steps"][1]["result"]), (1, &"failed".into()));
    let text = found["steps"][1]["text"].as_str().unwrap();
    assert!(text.ends_with("which has dkms.conf"), "{text}");
    let several = fixture("several-confs");
    let whole = several.join("./b/dkms.conf").display().to_string();
    for conf in ["./b/dkms.conf", "b/../b/dkms.conf", "./b", &whole] {
        let (code, found) = looked_at(&several, &["--conf", conf]);
        assert_eq!((code, &found["name"], &found["directory"]), (0, &"other".into(), &"b".into()), "{conf}");
    }
    // From the working directory.
    let root = system();
    let source = copy(&root, "several-confs", "two");
    let mut command = root.command("clr-dkms", &["add", "two", "--dry-run", "--conf", "two/b/dkms.conf"]);
    let done = command.current_dir(source.parent().unwrap()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

#[test]
fn an_empty_submodule_counts_where_the_build_names_it() {
    let root = system();
    let source = copy(&root, "conf-at-top", "hello");
    fs::write(source.join(".gitmodules"), "[submodule \"lib\"]\n\tpath = lib\n\turl = x\n").unwrap();
    let makefile = "# lib/ has examples\nKDIR ?= /lib/modules/$(KVER)/build\nobj-m := hello.o\n";
    fs::write(source.join("Makefile"), makefile).unwrap();
    let (code, found) = looked_at(&source, &[]);
    assert_eq!(code, 0, "{found:#}");
    fs::write(source.join("Makefile"), format!("{makefile}ccflags-y += -I$(src)/lib\n")).unwrap();
    let (code, found) = looked_at(&source, &[]);
    assert_eq!((code, &found["steps"][1]["cause"]), (1, &"empty-submodule".into()), "{found:#}");
}

#[test]
fn what_dkms_refuses_comes_before_what_it_takes() {
    let root = system();
    let source = copy(&root, "conf-at-top", "hello");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    let more = "MAKE[0]=\"make -C /lib/modules/$(uname -r)/build\"\nBUILD_DEPENDS[0]=hello\n";
    fs::write(source.join("dkms.conf"), conf + more).unwrap();
    let (_, found) = looked_at(&source, &[]);
    let notes = found["steps"].as_array().unwrap().iter().filter(|step| step["step"] == "lint");
    let ids: Vec<&str> =
        notes.map(|step| step["text"].as_str().unwrap().rsplit('[').next().unwrap()).collect();
    assert_eq!(ids, ["depends-itself]", "running-kernel]"], "{found:#}");
}

#[test]
fn a_variable_with_the_name_of_a_placeholder_stays() {
    let root = system();
    let source = copy(&root, "conf-at-top", "hello");
    fs::write(source.join("VERSION"), "3.4\n").unwrap();
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    for value in ["$DKMS_VERSION", "${DKMS_VERSION}"] {
        let version = format!("PACKAGE_VERSION=\"{value}\"");
        let text = "DKMS_VERSION=\"1.2\"\n".to_owned() + &conf.replace("PACKAGE_VERSION=\"1.0\"", &version);
        fs::write(source.join("dkms.conf"), text).unwrap();
        let (code, found) = looked_at(&source, &[]);
        assert_eq!((code, &found["version"]), (0, &"1.2".into()), "{found:#}");
        let result = found["dkms_conf"].as_str().unwrap();
        assert!(result.starts_with("DKMS_VERSION=\"1.2\"\n"), "{result}");
        assert!(result.contains("\nPACKAGE_VERSION=\"1.2\"\n"), "{result}");
    }
}

#[test]
fn archives_are_taken_as_directories_are() {
    let root = system();
    let source = copy(&root, "no-version", "hello-3.4");
    for (archive, option) in
        [("a.tar", None), ("a.tar.gz", Some("-z")), ("a.tar.xz", Some("-J")), ("a.tbz2", Some("-j"))]
    {
        let archive = root.outside().join(archive);
        tar(&source, &archive, option.as_slice());
        let (code, found) = looked_at(&archive, &[]);
        assert_eq!((code, &found["version"]), (0, &"3.4".into()), "{found:#}");
    }
    // As `dkms mktarball` lays it out, here without a directory around it.
    let inside = root.outside().join("inside");
    fs::create_dir_all(inside.join("dkms_main_tree/6.1")).unwrap();
    fs::rename(copy(&root, "conf-at-top", "x"), inside.join("dkms_source_tree")).unwrap();
    let archive = root.outside().join("hello-dkms.tar.gz");
    let packed = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&inside).arg(".").status();
    assert!(packed.unwrap().success());
    let (code, found) = looked_at(&archive, &[]);
    assert_eq!((code, &found["name"]), (0, &"hello".into()), "{found:#}");
    assert_eq!(found["steps"][0]["text"], "archive of dkms mktarball");
    assert_eq!(found["steps"][1]["result"], "warning");
}

#[test]
fn a_checkout_gives_what_git_tracks_and_its_tag() {
    let root = system();
    let source = copy(&root, "no-version", "project");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command
            .args(["-c", "user.name=x", "-c", "user.email=x@example.org", "-C"])
            .arg(&source)
            .args(arguments);
        let done = command.env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-qm", "one"]);
    git(&["tag", "v1.5"]);
    fs::write(source.join("dkms.conf"), "PACKAGE_NAME=untracked\n").unwrap();
    // git would run it for each listing.
    let marker = root.outside().join("marker");
    git(&["config", "core.fsmonitor", &format!("touch {}", marker.display())]);
    let (code, found) = looked_at(&source, &[]);
    assert_eq!((code, &found["name"], &found["version"]), (0, &"hello".into(), &"1.5".into()), "{found:#}");
    assert_eq!(found["steps"][0]["text"], "git checkout");
    assert!(!marker.exists());
    // What is left out is reported, with what helps.
    let note = &found["steps"][1];
    assert_eq!((&note["step"], &note["result"]), (&"unpack".into(), &"warning".into()), "{found:#}");
    assert!(note["text"].as_str().unwrap().contains("`git add dkms.conf`"), "{note}");
    git(&["add", "dkms.conf"]);
    let (_, found) = looked_at(&source, &[]);
    assert_ne!(found["steps"][1]["step"], "unpack", "{found:#}");
    // That git gives no answer, as after its deadline, does not mean that there is no tag.
    git(&["reset", "-q"]);
    fs::remove_file(source.join("dkms.conf")).unwrap();
    let tool = root.tools().join("git");
    let script = "#!/bin/bash\n[[ \" $* \" != *' describe '* ]] || kill -SEGV $BASHPID\n\
                  PATH=${PATH#*:} exec git \"$@\"\n";
    fs::write(&tool, script).unwrap();
    set_mode(&tool, 0o755);
    let run = add(&root, &source, &["--dry-run", "--json"]);
    let steps = run.code(1).json()["steps"].clone();
    let note = steps[1]["text"].as_str().unwrap();
    assert!(note.starts_with("what git says of the version is unknown: git describe: "), "{steps:#}");
    assert_eq!(steps[2]["cause"], "no-version", "{steps:#}");
}

#[test]
fn the_choices_are_in_the_document() {
    let (code, found) = looked_at(&fixture("several-confs"), &[]);
    assert_eq!((code, &found["choices"]), (1, &serde_json::json!(["a/dkms.conf", "b/dkms.conf"])));
    let (_, found) = looked_at(&fixture("several-makefiles"), &[]);
    assert_eq!(found["choices"], serde_json::json!([]));
}
