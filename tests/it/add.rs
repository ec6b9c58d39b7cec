//! `clr-dkms add`: what it makes of each layout of a source, and what it leaves on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::run::{command, set_mode};
use crate::support::tree::{self, difference};
use crate::support::{A, B, LTS, Run, TestRoot, cases, elf, few_or};

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
fn copy(root: &TestRoot, layout: &str, name: &str) -> PathBuf {
    let target = root.outside().join(name);
    let done = Command::new("cp").arg("-r").arg(fixture(layout)).arg(&target).status();
    assert!(done.unwrap().success());
    target
}

fn tar(directory: &Path, archive: &Path, options: &[&str]) {
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
}

#[test]
fn a_source_is_installed_and_the_same_one_again_is_nothing_to_do() {
    use std::os::unix::fs::MetadataExt;
    let root = system();
    let source = copy(&root, "conf-at-top", "hello");
    set_mode(&source.join("hello.c"), 0o6777);
    add(&root, &source, &["--yes"]).code(0).shows(&["built and proven in scratch", "installed and proven"]);
    let installed = root.at("usr/src/hello-1.0/hello.c").metadata().unwrap();
    assert_eq!(installed.mode() & 0o7777, 0o755);
    assert_eq!(root.text("usr/src/hello-1.0/Makefile"), "obj-m := hello.o\n");
    for kernel in [A, B] {
        assert_eq!(root.has(&TestRoot::ko("hello", kernel)), kernel == B, "{kernel}");
    }
    assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0);
    let before = root.tree();
    add(&root, &source, &["--yes"]).code(0).shows(&["registered already", "nothing to do"]);
    let changes = difference(&before, &root.tree(), false);
    assert!(
        !changes.iter().any(|change| change.contains("usr/src") || change.contains("/hello")),
        "{changes:?}"
    );
}

#[test]
fn a_kernel_that_the_module_excludes_is_named() {
    let with = |root: &TestRoot, line: &str| {
        let source = copy(root, "conf-at-top", "hello");
        let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
        fs::write(source.join("dkms.conf"), conf + line).unwrap();
        source
    };
    // On every kernel.
    let root = system();
    let source = with(&root, "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    let run = add(&root, &source, &["--dry-run", "--no-build"]);
    run.code(1).shows(&["would be registered, and installed on none of"]);
    let run = add(&root, &source, &["--yes", "--no-build", "--json"]);
    let document = run.code(1).json();
    assert_eq!(document["installed"], false, "{document:#}");
    let steps = document["steps"].as_array().unwrap();
    let step = steps.iter().rfind(|step| step["step"] == "install").unwrap();
    assert_eq!(step["result"], "warning", "{document:#}");
    assert!(root.has("usr/src/hello-1.0") && !root.has(&TestRoot::ko("hello", B)));
    // On one of two.
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS);
    let source = with(&root, "BUILD_EXCLUSIVE_KERNEL=\"^6\\.15\\.\"\n");
    let excluded = format!("skipped: {LTS}: BUILD_EXCLUSIVE");
    let run = add(&root, &source, &["--dry-run", "--no-build"]);
    run.code(0).shows(&[&format!("would be done: on {B}"), &format!("install   {excluded}")]);
    assert!(!run.stdout.contains(&format!("on {LTS}")), "{}", run.stdout);
    let run = add(&root, &source, &["--yes", "--no-build"]);
    run.code(0).shows(&[&format!("{B}: installed and proven"), &excluded]);
    assert!(root.has(&TestRoot::ko("hello", B)) && !root.has(&TestRoot::ko("hello", LTS)));
}

/// Each line of the plan is what the run then does.
#[test]
fn a_dry_run_says_what_the_run_does() {
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS);
    let source = copy(&root, "conf-at-top", "hello");
    let planned = |root: &TestRoot| {
        let run = add(root, &source, &["--dry-run", "--json"]);
        let document = run.json();
        let steps = document["steps"].as_array().unwrap().iter();
        let steps = steps.filter(|step| ["register", "install"].contains(&step["step"].as_str().unwrap()));
        let word = |step: &serde_json::Value, key: &str| step[key].as_str().unwrap().to_owned();
        let texts = steps.map(|step| format!("{}: {}", word(step, "result"), word(step, "text")));
        (run.code, texts.collect::<Vec<_>>())
    };
    // An override of the admin counts once the module is registered.
    let file = format!("etc/dkms/hello-1.0-{LTS}.conf");
    root.file(&file, "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    let (code, lines) = planned(&root);
    assert_eq!((code, &lines[1]), (0, &format!("planned: on {B}")), "{lines:?}");
    assert!(lines[2].starts_with(&format!("skipped: {LTS}: BUILD_EXCLUSIVE_KERNEL")), "{lines:?}");
    add(&root, &source, &["--yes", "--no-build"]).code(0).shows(&[&format!("skipped: {LTS}: BUILD_EX")]);
    // What is there already.
    let (code, lines) = planned(&root);
    assert_eq!(code, 0, "{lines:?}");
    let there =
        ["skipped: hello/1.0 is registered already", &format!("skipped: {B}: it is installed already")];
    assert_eq!(lines[..2], there, "{lines:?}");
    // Without headers the run fails.
    root.remove(&file).remove(&format!("usr/lib/modules/{LTS}/build"));
    let (code, lines) = planned(&root);
    assert_eq!((code, &lines[2]), (1, &format!("failed: {LTS}: the kernel's headers are not installed")));
}

#[test]
fn a_file_of_another_module_is_found_before_anything_is_registered() {
    let root = system();
    root.module("other", "1", "BUILT_MODULE_NAME[0]=hello\n").post_update().code(0);
    let source = copy(&root, "conf-at-top", "hello");
    let conflict = format!("failed: {B}: hello.ko on this kernel is that of");
    add(&root, &source, &["--dry-run"])
        .code(1)
        .shows(&[&conflict, "other/1, and only one module can have it"]);
    let before = root.tree();
    add(&root, &source, &["--yes"]).code(1).shows(&[&conflict]);
    let changes = difference(&before, &root.tree(), false);
    assert!(!changes.iter().any(|change| change.contains("hello-1.0")), "{changes:?}");
    assert!(root.calls().iter().all(|call| !call.contains("dkms install -m hello ")), "{:?}", root.calls());
}

/// As dkms does, the stand-in leaves with 77 for a kernel that is excluded.
#[test]
fn a_kernel_that_the_module_excludes_is_not_built_for() {
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS).behave(&format!("[[ $kernel == {B} ]] || code=77"));
    let source = copy(&root, "conf-at-top", "hello");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    let with = |line: &str| fs::write(source.join("dkms.conf"), format!("{conf}{line}\n")).unwrap();
    with("BUILD_EXCLUSIVE_KERNEL=\"^5\"");
    let document = add(&root, &source, &["--yes", "--json"]).code(1).json();
    let steps = document["steps"].as_array().unwrap();
    let failed = steps.iter().find(|step| step["result"] == "failed").unwrap();
    assert_eq!((&failed["step"], &failed["evidence"]["line"]), (&"build".into(), &6.into()), "{document:#}");
    assert!(!root.has("usr/src/hello-1.0"));
    with("BUILD_EXCLUSIVE_KERNEL=\"^6\\.15\\.\"");
    let run = add(&root, &source, &["--yes"]);
    run.code(0).shows(&[&format!("{B}: built and proven in scratch"), &format!("{B}: installed and proven")]);
}

#[test]
fn each_kernel_has_its_own_value_of_the_conf() {
    let root = system();
    root.kernel(LTS).headers(LTS).tip(LTS);
    let source = copy(&root, "conf-at-top", "hello");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    // The stand-in knows the kernel by another name.
    let second = "BUILT_MODULE_NAME[1]=second\n\
        [[ ${kernelver:-$kernel} == 6.12.* ]] || BUILT_MODULE_NAME[1]=other\nDEST_MODULE_LOCATION[1]=/extra\n";
    fs::write(source.join("dkms.conf"), conf + second).unwrap();
    add(&root, &source, &["--yes"]).code(0).shows(&["built and proven in scratch"]);
    assert!(root.has(&TestRoot::ko("second", LTS)) && !root.has(&TestRoot::ko("second", B)));
    assert!(root.has(&TestRoot::ko("other", B)) && !root.has(&TestRoot::ko("other", LTS)));
}

#[test]
fn without_a_confirmation_nothing_is_installed() {
    let root = system();
    let run = add(&root, &fixture("conf-at-top"), &[]);
    run.code(1).shows(&["--yes confirms", "PACKAGE_NAME=\"hello\""]);
    assert!(!root.has("usr/src/hello-1.0") && !root.has("var/lib/dkms/hello"));
}

#[test]
fn another_source_of_that_name_is_not_overwritten() {
    let root = system();
    root.file("usr/src/hello-1.0/mine", "mine\n");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(1).shows(&["with other contents"]);
    assert_eq!(root.text("usr/src/hello-1.0/mine"), "mine\n");
    assert!(!root.has("var/lib/dkms/hello") && !root.has("usr/src/hello-1.0/hello.c"));
}

#[test]
fn another_version_is_replaced_on_request_only() {
    let root = system();
    root.module("hello", "0.9", "").installed("hello", "0.9", A).installed("hello", "0.9", B);
    root.link("var/lib/dkms/hello/0.9/source", "../../../../../usr/src/hello-0.9");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(1).shows(&["--replace"]);
    assert!(!root.has("usr/src/hello-1.0"));
    add(&root, &fixture("conf-at-top"), &["--yes", "--replace"]).code(0);
    assert!(root.has("var/lib/dkms/hello/1.0/source") && !root.has("var/lib/dkms/hello/0.9"));
    for kernel in [A, B] {
        let file = fs::read(root.at(&TestRoot::ko("hello", kernel))).unwrap();
        assert!(file.ends_with(b"hello/1.0"), "{kernel}");
    }
    // dkms would go on building the newer one.
    let older = copy(&root, "conf-at-top", "older");
    add(&root, &older, &["--yes", "--replace", "--version", "0.1"]).code(1).shows(&["which is newer"]);
    assert!(root.has("var/lib/dkms/hello/1.0/source") && !root.has("usr/src/hello-0.1"));
}

#[test]
fn after_a_failure_nothing_stays() {
    for (behaviour, more, expected) in [
        // The build in scratch fails.
        ("[[ $verb != build ]] || { code=10; said='hello.c:1:5: error: no'; }", &[][..], "hello.c:1:"),
        // The installation fails.
        ("[[ $verb != install ]] || code=6", &["--no-build"], "failed"),
        // The file is for another kernel.
        ("made_for=6.15.7-1591.native", &[], "was made"),
    ] {
        let root = system();
        root.behave(behaviour);
        let run = add(&root, &fixture("conf-at-top"), &[&["--yes"], more].concat());
        run.code(1).shows(&[expected]);
        for path in ["usr/src/hello-1.0", "usr/src/.hello-1.0.clr-dkms-add", "var/lib/dkms/hello"] {
            assert!(!root.has(path), "{path} after {behaviour}");
        }
        assert!(![A, B].iter().any(|kernel| root.has(&TestRoot::ko("hello", kernel))), "{behaviour}");
        assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0);
    }
}

#[test]
fn what_a_killed_run_left_is_replaced() {
    let root = system();
    root.file("usr/src/.hello-1.0.clr-dkms-add/half", "half\n");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(0);
    assert!(!root.has("usr/src/.hello-1.0.clr-dkms-add") && !root.has("usr/src/hello-1.0/half"));
    // Killed between the copy and the registration.
    root.remove("var/lib/dkms/hello");
    add(&root, &fixture("conf-at-top"), &["--yes"]).code(0);
    assert!(root.has("var/lib/dkms/hello/1.0/source"));
}

#[test]
fn killed_at_any_moment_the_source_is_absent_or_complete_and_the_next_run_finishes() {
    let whole = system();
    add(&whole, &fixture("conf-at-top"), &["--yes"]).code(0);
    let expected = tree::read(&whole.at("usr/src/hello-1.0"));
    let contents = |tree: &tree::Tree| {
        tree.iter().map(|(name, entry)| (name.clone(), entry.what.clone())).collect::<Vec<_>>()
    };
    let mut killed = 0;
    for milliseconds in cases((0..40).map(|n| 30 + n * 60), few_or(17, 7)) {
        let root = system();
        let mut command = command("clr-dkms", &root.tools());
        command.arg("add").arg(fixture("conf-at-top")).args(["--yes", "--live-root"]).arg(root.path());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        killed += i32::from(!child.wait().unwrap().success());
        let source = root.at("usr/src/hello-1.0");
        assert!(
            !source.exists() || contents(&tree::read(&source)) == contents(&expected),
            "{milliseconds} ms"
        );
        assert!(source.exists() || !root.has("var/lib/dkms/hello"), "{milliseconds} ms");
        add(&root, &fixture("conf-at-top"), &["--yes"]).code(0);
        assert_eq!(contents(&tree::read(&source)), contents(&expected), "{milliseconds} ms");
        assert!(root.has(&TestRoot::ko("hello", B)), "{milliseconds} ms");
        assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0, "{milliseconds} ms");
    }
    assert!(killed > 0);
}

#[test]
fn a_run_that_is_asked_to_stop_says_so() {
    for verb in ["add", "import"] {
        let root = system();
        let source = match verb {
            "add" => fixture("conf-at-top"),
            _ => {
                let source = copy(&root, "conf-at-top", "dkms_source_tree");
                let archive = root.outside().join("hello.tar.gz");
                tar(&source, &archive, &["-z"]);
                archive
            }
        };
        let mut command =
            root.command("clr-dkms", &[verb, &source.display().to_string(), "--dry-run", "--json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // It begins with a scratch directory.
        while fs::read_dir(root.at("var/tmp")).unwrap().count() == 0 {
            assert!(child.try_wait().unwrap().is_none(), "{verb} ended before it began");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        let done = child.wait_with_output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert_eq!(done.status.code(), Some(1), "{text}");
        assert!(text.contains("the run was asked to stop: nothing has been changed"), "{text}");
        assert!(!text.contains("\"planned\"") && !root.has("usr/src/hello-1.0"), "{text}");
        assert_eq!(fs::read_dir(root.at("var/tmp")).unwrap().count(), 0);
    }
}

/// A system with one kernel, which runs, and a stand-in for modprobe.
fn loading(modprobe: &str) -> TestRoot {
    let root = TestRoot::system();
    root.directory("var/tmp").file("proc/modules", "");
    let script = format!("#!/bin/bash\ncd \"${{0%/var/lib/dkms/*}}\" || exit 1\n{modprobe}\n");
    let path = root.tools().join("modprobe");
    fs::write(&path, script).unwrap();
    set_mode(&path, 0o755);
    root
}

#[test]
fn a_module_is_loaded_on_request() {
    let root = loading(
        "echo \"$2 16384 0 - Live 0x0000000000000000 (OE)\" >>proc/modules\n\
         mkdir -p sys/module/hello/drivers sys/bus/usb/drivers/hello\n\
         ln -s ../../../bus/usb/drivers/hello sys/module/hello/drivers/usb:hello\n\
         ln -s ../../../../module/hello sys/bus/usb/drivers/hello/module\n\
         ln -s ../../../../devices/1-1:1.0 sys/bus/usb/drivers/hello/1-1:1.0\n\
         touch sys/bus/usb/drivers/hello/bind",
    );
    let run = add(&root, &fixture("conf-at-top"), &["--yes", "--load"]);
    run.code(0).shows(&["hello is loaded, marked OE by the kernel; it drives 1-1:1.0"]);
    let run = add(&root, &fixture("conf-at-top"), &["--yes", "--load"]);
    run.code(0).shows(&["hello was loaded before"]);
    let last = run.stdout.lines().last().unwrap_or_default().to_owned();
    assert_eq!(last, "undo: run `sudo clr-dkms remove hello/1.0`");
}

#[test]
fn a_module_that_the_kernel_refuses_stays_installed() {
    let root = loading("echo 'modprobe: ERROR: could not insert hello: Exec format error' >&2; exit 1");
    let run = add(&root, &fixture("conf-at-top"), &["--yes", "--load"]);
    run.code(1).shows(&["hello is not loaded", "Exec format error"]);
    assert!(root.has(&TestRoot::ko("hello", A)));
}

#[test]
fn nothing_is_loaded_for_an_image_or_another_kernel() {
    // The kernel that an update brought has it, the running one does not.
    let root = system();
    add(&root, &fixture("conf-at-top"), &["--yes", "--load"])
        .code(1)
        .shows(&[&format!("{A}, does not have")]);
    let image = root.path().display().to_string();
    let source = fixture("conf-at-top").display().to_string();
    let on_image = |more: &[&str]| {
        let mut command = command("clr-dkms", &root.tools());
        command.args(["add", &source, "--yes", "--root", &image]).args(more).output().unwrap()
    };
    assert_eq!(on_image(&["--load"]).status.code(), Some(64));
    let done = on_image(&[]);
    let text = String::from_utf8(done.stdout).unwrap();
    let undo = format!("undo: run `sudo clr-dkms remove hello/1.0 --root {image}`");
    assert_eq!(text.lines().last(), Some(undo.as_str()), "{text}");
}

#[test]
fn a_module_that_the_kernel_has_is_replaced_on_request() {
    for (list, said) in
        [("modules.dep", "has a module hello"), ("modules.builtin", "has built in a module hello")]
    {
        let root = system();
        let file = format!("usr/lib/modules/{B}/{list}");
        let ending = if list == "modules.dep" { ":" } else { "" };
        let text = if root.has(&file) { root.text(&file) } else { String::new() };
        root.file(&file, text + &format!("kernel/drivers/hello.ko{ending}\n"));
        let run = add(&root, &fixture("conf-at-top"), &["--yes", "--json"]);
        let document = run.code(1).json();
        assert_eq!(document["in_kernel"], serde_json::json!(["hello"]), "{document:#}");
        let steps = document["steps"].as_array().unwrap();
        let step = steps.iter().find(|step| step["step"] == "available").unwrap();
        assert!(step["text"].as_str().unwrap().contains(said), "{step}");
        assert!(!root.has("usr/src/hello-1.0"));
    }
    let root = system();
    root.file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/drivers/hello.ko\n");
    add(&root, &fixture("conf-at-top"), &["--yes", "--replace"]).code(0);
}

#[test]
fn the_choices_are_in_the_document() {
    let (code, found) = looked_at(&fixture("several-confs"), &[]);
    assert_eq!((code, &found["choices"]), (1, &serde_json::json!(["a/dkms.conf", "b/dkms.conf"])));
    let (_, found) = looked_at(&fixture("several-makefiles"), &[]);
    assert_eq!(found["choices"], serde_json::json!([]));
}
