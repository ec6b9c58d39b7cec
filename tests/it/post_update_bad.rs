//! `clr-dkms-post-update` on bad input: each fault has a clear message, the right code, and nothing is lost.

use std::fs;

use crate::support::tree::difference;
use crate::support::{A, B, Run, TestRoot};

const RECORD: &str = "var/lib/clr-dkms/last-run.json";
const IN_PROGRESS: &str = "var/lib/clr-dkms/in-progress.json";
const CACHE: &str = "var/cache/clr-dkms/facts.json";

fn pending() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    root
}

/// The module is there, whatever else the run had to say.
#[track_caller]
fn is_built(root: &TestRoot, run: &Run) {
    let ko = fs::read(root.at(&TestRoot::ko("hello", B)));
    assert!(ko.is_ok_and(|ko| ko.ends_with(b"hello/1.0")), "not built: {}", run.stderr);
    assert!(root.text(&format!("usr/lib/modules/{B}/modules.dep")).contains("updates/dkms/hello.ko:"));
}

/// The same with the lines of its screen put together again.
fn flat(run: Run) -> Run {
    Run { stdout: run.stdout.split_whitespace().collect::<Vec<_>>().join(" "), ..run }
}

#[test]
fn no_directory_of_kernels() {
    let root = pending();
    root.remove("usr/lib/kernel");
    let before = root.tree();
    let run = root.post_update();
    run.code(3).says(&["there is no ROOT/usr/lib/kernel", "nothing has been changed"]);
    assert_eq!(difference(&before, &root.tree(), false), ["+ run/clr-dkms.lock"]);
    assert_eq!(root.calls(), Vec::<String>::new());
    root.run("clr-dkms-post-update", &["-n"]).code(3).shows(&["ROOT/usr/lib/kernel"]);
}

#[test]
fn a_tree_that_cannot_be_listed() {
    let root = pending();
    root.remove("var/lib/dkms").file("var/lib/dkms", "a file");
    let run = root.post_update();
    assert_ne!(run.code, 0, "a tree that is a file is not an empty one: {run:?}");
    run.says(&["ROOT/var/lib/dkms"]);
    assert_eq!(root.text("var/lib/dkms"), "a file");
}

#[test]
fn a_system_without_dkms_modules_is_fine() {
    let root = TestRoot::updated();
    root.remove("var/lib/dkms").remove("usr/src").post_update().code(0);
    assert_eq!(root.record()["modules"], serde_json::json!([]));
}

#[test]
fn a_damaged_record_is_kept_aside() {
    for garbage in [&b""[..], b"garbage", b"{", b"{\"schema\":1}", b"null", b"\0\xff\xfe", b"[[[[[["] {
        let root = pending();
        root.file(RECORD, garbage);
        let run = root.post_update();
        run.code(0).says(&[
            "ROOT/var/lib/clr-dkms/last-run.json is damaged",
            "it is kept as",
            "last-run.json.damaged",
        ]);
        is_built(&root, &run);
        assert_eq!(fs::read(root.at("var/lib/clr-dkms/last-run.json.damaged")).unwrap(), garbage);
        assert_eq!(root.recorded("hello", B), "ok");
    }
}

/// Whatever lies in the place of a file of ours: modules are built and indexed first, then the fault is
/// reported.
#[track_caller]
fn a_directory_in_the_place_of(path: &str) {
    let root = pending();
    root.directory(&format!("{path}/inside"));
    let run = root.post_update();
    is_built(&root, &run);
    run.says(&[&format!("ROOT/{path}")]);
    assert!(root.has(&format!("{path}/inside")), "what is not ours is not removed");
}

#[test]
fn a_directory_in_the_place_of_the_record() {
    a_directory_in_the_place_of(RECORD);
}

#[test]
fn a_directory_in_the_place_of_the_mark() {
    a_directory_in_the_place_of(IN_PROGRESS);
}

#[test]
fn a_directory_in_the_place_of_the_fragment() {
    // Something to say, so that the fragment is wanted.
    a_directory_in_the_place_of("run/motd.d/clr-dkms.motd");
}

#[test]
fn a_directory_in_the_place_of_the_cache_costs_time_only() {
    for path in [CACHE, "var/cache/clr-dkms", "var/cache"] {
        let root = pending();
        if path == CACHE {
            root.directory(&format!("{path}/inside"));
        } else {
            root.file(path, "a file");
        }
        let run = root.post_update();
        is_built(&root, &run);
        assert!(root.has(RECORD), "no record: {}", run.stderr);
        assert_eq!(root.recorded("hello", B), "ok");
        assert!(!root.has(IN_PROGRESS) && root.has("run/motd.d/clr-dkms.motd"), "{}", run.stderr);
        run.says(&[&format!("ROOT/{path}")]);
    }
}

#[test]
fn garbage_in_the_cache_is_forgotten() {
    for garbage in ["", "garbage", "{\"schema\":1}", "{\"schema\":99,\"confs\":{},\"files\":{}}", "\u{0}"] {
        let root = pending();
        root.file(CACHE, garbage).file(&format!("{CACHE}.x"), "");
        is_built(&root, root.post_update().code(0));
        let cache: serde_json::Value = serde_json::from_str(&root.text(CACHE)).unwrap();
        assert_eq!(cache["confs"].as_object().unwrap().len(), 2, "one for each kernel");
    }
}

#[test]
fn garbage_in_the_mark_of_a_run() {
    for garbage in ["", "garbage", "{\"schema\":1}", "\u{0}"] {
        let root = pending();
        root.file(IN_PROGRESS, garbage);
        let run = root.post_update();
        run.code(0).says(&["the last run was interrupted before its end"]);
        is_built(&root, &run);
        assert!(!root.has(IN_PROGRESS));
    }
}

#[test]
fn garbage_in_the_snapshot() {
    let root = pending();
    root.file("var/lib/clr-dkms/before-update.json", "{{{");
    is_built(&root, root.post_update().code(0));
    assert_eq!(root.record()["new_kernels"], serde_json::json!([]));
}

#[test]
fn a_typo_in_the_configuration_is_78_and_the_work_is_done() {
    for (file, text, said) in [
        (
            "etc/clr-dkms/clr-dkms.conf",
            "[build]\ntimout = 3\n",
            "[build] timout: unknown key; known: timeout",
        ),
        (
            "run/clr-dkms/clr-dkms.conf.d/5.conf",
            "[motd]\nshow = maybe\n",
            "[motd] show: \"maybe\" is not one of yes, no",
        ),
        ("usr/share/defaults/clr-dkms/clr-dkms.conf", "garbage\n", ":1: \"garbage\" is neither"),
        ("etc/clr-dkms/clr-dkms.conf.d/x.conf", "\u{0}\u{1}[", "is neither"),
    ] {
        let root = pending();
        root.file(file, text);
        let run = root.post_update();
        run.says(&[&format!("ROOT/{file}"), said]);
        is_built(&root, &run);
        assert_eq!(root.recorded("hello", B), "ok");
        run.code(78);
        root.run("clr-dkms-post-update", &["-n"]).code(78).shows(&["hello/1.0"]);
        // Once it is right again nothing is left of it.
        root.remove(file).post_update().code(0);
        assert_eq!(root.record()["problems"], serde_json::json!([]));
    }
}

#[test]
fn a_configuration_that_is_no_file() {
    let root = pending();
    root.directory("etc/clr-dkms/clr-dkms.conf").file("run/clr-dkms", "a file");
    let run = root.post_update();
    run.says(&["ROOT/etc/clr-dkms/clr-dkms.conf"]);
    is_built(&root, &run);
    run.code(78);
}

#[test]
fn tools_that_a_root_names_are_not_run() {
    let root = pending();
    let evil = root.outside().join("evil");
    fs::write(&evil, "#!/bin/sh\ntouch \"$0.ran\"\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&evil, mode).unwrap();
    let lines: String =
        clr_dkms::config::TOOLS.iter().map(|t| format!("{t} = {}\n", evil.display())).collect();
    root.file("etc/clr-dkms/clr-dkms.conf", format!("[tools]\n{lines}"));
    is_built(&root, root.post_update().code(0));
    assert!(!root.outside().join("evil.ran").exists());
}

#[test]
fn a_conf_that_is_no_good_stops_nobody_else() {
    for (conf, state) in [
        ("if [[\n", "ok"),         // what was assigned before a syntax error counts
        ("set -e; false\n", "ok"), // dkms reads the file where -e has no effect
        // dkms writes the values down after the file, and refuses one whose shell ends before.
        ("exit 3\n", "broken-source"),
        ("X=${NONE:?gone}\n", "broken-source"),
        ("X=${3.4}\n", "broken-source"),
        ("X=$((1 + ))\n", "broken-source"),
        ("return 3\n", "ok"),
        ("BUILT_MODULE_NAME[0]='$PACKAGE_NAME'\n", "ok"),
        ("BUILD_EXCLUSIVE_KERNEL='^$kernelver'\n", "ok"),
        ("echo BUILT_MODULE_NAME[0]=evil; echo built=evil >&2; printf 'end=end\\0'\n", "ok"),
        ("cat; read -r x\n", "ok"),
        ("PACKAGE_NAME=\nBUILT_MODULE_NAME=()\n", "broken-source"),
    ] {
        let root = pending();
        root.module("bad", "1", conf);
        let run = root.post_update();
        is_built(&root, &run);
        assert_eq!(root.recorded("hello", B), "ok", "{conf}");
        let found = root.recorded("bad", B);
        if state == "ok" {
            assert_eq!((found.as_str(), run.code), ("ok", 0), "{conf}: {}", run.stderr);
        } else {
            assert_eq!((found.as_str(), run.code), (state, 1), "{conf}: {}", run.stderr);
        }
    }
}

#[test]
fn an_unterminated_quote_is_reported() {
    // dkms takes AUTOINSTALL for a part of the quoted text, and never builds the module, exit code 0.
    let root = pending();
    root.module("bad", "1", "").file("usr/src/bad-1/dkms.conf", "PACKAGE_NAME=\"bad\nAUTOINSTALL=yes\n");
    let run = root.post_update();
    is_built(&root, &run);
    assert_ne!(root.recorded("bad", B), "ok");
}

#[test]
fn a_conf_that_is_missing_binary_or_a_directory() {
    for what in ["missing", "directory", "binary", "empty"] {
        let root = pending();
        root.module("bad", "1", "").remove("usr/src/bad-1/dkms.conf");
        match what {
            "directory" => drop(root.directory("usr/src/bad-1/dkms.conf").path()),
            "binary" => drop(root.file("usr/src/bad-1/dkms.conf", [0u8, 255, 254, 7].repeat(99)).path()),
            "empty" => drop(root.file("usr/src/bad-1/dkms.conf", "").path()),
            _ => {}
        }
        let run = root.post_update();
        is_built(&root, &run);
        let found = root.recorded("bad", B);
        assert!(["broken-source", "not-autoinstall", "unknown"].contains(&found.as_str()), "{what}: {found}");
    }
}

/// The deadline is ten seconds; it must be waited for once a kernel, and not once a look. That it has passed
/// does not show that the file is broken: the machine may be busy.
#[test]
fn a_conf_that_never_ends() {
    let root = pending().running(B);
    root.module("bad", "1", "while [ -e \"$source_tree/bad-1/state/busy\" ]; do sleep 1; done\n");
    root.installed("bad", "1", B).file("usr/src/bad-1/state/busy", "");
    // dkms would never end either.
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\ntimeout = 2\n");
    let watch = std::time::Instant::now();
    let run = root.post_update();
    is_built(&root, &run);
    run.code(3).says(&["bad/1", "/bad/1/source/dkms.conf did not end within 10 s"]);
    assert!(
        root.calls().iter().all(|c| !c.contains(" bad ")),
        "dkms was let loose on it: {:?}",
        root.calls()
    );
    assert_eq!(root.recorded("bad", B), "unknown");
    let took = watch.elapsed().as_secs();
    assert!(took < 18, "{took} s for one file that never ends");
    let watch = std::time::Instant::now();
    let status = flat(root.run("clr-dkms", &["status"]));
    status.code(3).shows(&["did not end within 10 s", "if the machine was not busy, correct that dkms.conf"]);
    assert!(!status.stdout.contains("dkms remove"), "{}", status.stdout);
    let took = watch.elapsed().as_secs();
    assert!(took < 9, "a report has waited {took} s for it again");
    let lint = flat(root.run("clr-dkms", &["lint", "bad"]));
    lint.code(3).shows(&["bad/1: unknown: evaluating", "did not end within 10 s"]);
    assert!(root.has(&TestRoot::ko("bad", B)), "what was installed is gone");
    // The next run evaluates it again.
    root.remove("usr/src/bad-1/state/busy");
    root.post_update().code(0);
    assert_eq!(root.recorded("bad", B), "ok");
}

#[test]
fn names_that_dkms_cannot_take_are_left_alone() {
    let root = pending();
    for name in ["with space", "quo'te", "quo\"te", "new\nline", "dollar$(touch x)", "a,b", "\u{1b}[31mred"] {
        root.file(&format!("usr/src/{name}-1/dkms.conf"), "AUTOINSTALL=yes\n");
        root.link(&format!("var/lib/dkms/{name}/1/source"), format!("/usr/src/{name}-1"));
        root.link(&format!("var/lib/dkms/hello/{name}/source"), format!("/usr/src/{name}-1"));
    }
    let run = root.post_update();
    is_built(&root, run.code(0));
    run.says(&["/var/lib/dkms/with space", "/var/lib/dkms/new\\nline", "has a name that dkms cannot take"]);
    assert!(!run.stderr.contains('\u{1b}'), "{}", run.stderr);
    assert_eq!(root.record()["modules"].as_array().unwrap().len(), 1);
    assert!(root.calls().iter().all(|c| !c.contains("space") && !c.contains("te") || c.contains("update")));
    let status = root.run("clr-dkms", &["status", "--color", "always"]);
    assert!(!status.stdout.contains("\u{1b}[31mred"), "{}", status.stdout);
}

/// The line is that of the dkms.conf: five are in front of what is added.
#[test]
fn a_conf_that_dkms_refuses_is_reported_before_any_build() {
    for (version, added, reason) in [
        ("1", "PACKAGE_VERSION=\"$(cat VERSION)\"\n", "line 6: PACKAGE_VERSION is missing"),
        ("1", "DEST_MODULE_LOCATION[0]=@VERSION@\n", "line 6: DEST_MODULE_LOCATION[0] is \"@VERSION@\""),
        ("1", "BUILT_MODULE_NAME[0]=bad.ko\n", "line 6: BUILT_MODULE_NAME[0] is bad.ko"),
        ("1", "AUTOINSTALL=\nMAKE=\"make\n", "syntax error on line 7"),
        ("1", "X=1\nexit 0\n", "line 7: bash stops before the end of the file (exit 0)"),
        ("1", "X=${NONE:?gone}\n", "line 6: bash stops before the end of the file (NONE: gone)"),
        ("#MODULE_VERSION#", "", "line 2: PACKAGE_VERSION is \"#MODULE_VERSION#\", a placeholder"),
    ] {
        let root = pending();
        root.module("bad", version, added);
        let run = root.post_update();
        is_built(&root, run.code(1));
        run.says(&[reason]);
        assert_eq!(root.recorded("bad", B), "broken-source", "{added}");
        assert!(root.calls().iter().all(|call| !call.contains("bad")), "{:?}", root.calls());
        let status = root.run("clr-dkms", &["status"]);
        assert!(status.code == 1 && status.stdout.contains("bad"), "{}", status.stdout);
        root.run("clr-dkms", &["lint", "bad"]).code(1);
    }
}

#[test]
fn built_names_with_blanks_and_slashes_harm_nobody() {
    for name in ["a b", "../../../../../../etc/passwd", "/etc/passwd", "x\ny", "-rf"] {
        let root = pending();
        root.file("etc/passwd.ko", "precious");
        root.module("bad", "1", &format!("BUILT_MODULE_NAME[0]={}\n", shell_quoted(name)));
        let run = root.post_update();
        is_built(&root, &run);
        let log =
            std::fs::read_to_string(root.at(&format!("var/log/clr-dkms/bad/1/{B}.log"))).unwrap_or_default();
        assert!(root.has("etc/passwd.ko"), "{name:?} led us to etc/passwd.ko:\n{}", root.redacted(&log));
    }
}

fn shell_quoted(text: &str) -> String {
    format!("'{text}'")
}

#[test]
fn a_root_with_a_bracket() {
    let root = TestRoot::named("ro[o]t");
    root.kernel(B).headers(B).tip(B).module("hello", "1.0", "");
    root.file("usr/share/kernel/cmdline.d/x.conf", "module.sig_unenforce\n");
    let run = root.post_update();
    is_built(&root, &run);
    run.code(1).says(&["clr-boot-manager was not run", ": rename ROOT"]);
    assert!(root.calls().iter().all(|c| !c.starts_with("clr-boot-manager")));
}

/// A mount namespace gives it a path that dkms and kbuild can work with.
#[test]
fn a_root_with_a_blank() {
    use crate::sandbox::{Without, run_without};
    for name in ["my root", "ro'ot", "ro$ot", "ro\"ot", "ro\not", "ro;ot", "ro*ot"] {
        let root = TestRoot::named(name);
        root.kernel(B).headers(B).tip(B).module("hello", "1.0", "");
        root.file("usr/share/kernel/cmdline.d/x.conf", "module.sig_unenforce\n");
        let mut command = root.command("clr-dkms-post-update", &[]);
        let run = crate::support::Run::of(run_without(Without::Namespaces, &mut command), &root);
        run.code(1).says(&[
            "hello/1.0 on 6.15.8-1592.native: build-failed",
            "dkms and kbuild cannot work below a path with",
            "another name",
        ]);
        assert!(root.calls().iter().all(|c| !c.starts_with("dkms")), "{:?}", root.calls());
        let run = root.run("clr-dkms", &["rebuild"]);
        is_built(&root, &run);
    }
}

#[test]
fn dkms_that_is_not_installed() {
    use clr_dkms::update::run_mark::RunMark;
    use clr_dkms::{config::Settings, context::Context, dkms::Cache, sys::*, system::System, update::engine};
    // By the library: a root cannot hide the machine's own dkms.
    let root = pending();
    let mut tools = Tools::from_environment();
    tools.name("dkms", &root.outside().join("dkms"));
    let context = Context {
        root: Root::open(RootKind::LiveCopy, root.path()).unwrap(),
        tools,
        clock: Clock::System,
        settings: Settings::default(),
    };
    let mut cache = Cache::default();
    let system = System::observe(&context, &mut cache);
    let plans = engine::plan(&system, &engine::Order::default());
    let mark = RunMark::take_over(&context.root, context.clock.now());
    let attempts = engine::run(&context, &mut cache, &system, &plans, (&|_| {}, &mark));
    let (_, reason) = attempts[0].failure.clone().unwrap();
    assert_eq!(root.redacted(&reason), "dkms is not installed (looked in OUTSIDE/dkms)");
    assert!(!root.has(&TestRoot::ko("hello", B)));
}

/// A file in the place of a directory that is written to fails for root too.
#[test]
fn places_that_cannot_be_written_are_named() {
    for (place, code) in [("var/lib/clr-dkms", 1), ("var/log/clr-dkms", 0), ("run/motd.d", 1), ("var/log", 0)]
    {
        let root = pending();
        root.file(place, "a file");
        let run = root.post_update();
        run.code(code).says(&[&format!("ROOT/{place}")]);
        assert_eq!(root.text(place), "a file");
        if place != "var/lib/clr-dkms" {
            assert!(root.has(RECORD), "{place}: {}", run.stderr);
        }
    }
    let root = pending();
    root.remove("run").file("run", "a file");
    root.post_update().code(1).says(&["ROOT/run"]);
    assert_eq!(root.calls(), Vec::<String>::new());
}

/// A log is for reading afterwards: where none can be written, the module is wanted all the same.
#[test]
fn a_log_that_cannot_be_written_stops_no_build() {
    let root = pending();
    root.file("var/log/clr-dkms", "a file");
    let run = root.post_update();
    is_built(&root, &run);
}

#[test]
fn a_read_only_root() {
    let root = pending();
    let program = crate::support::run::program("clr-dkms-post-update");
    let script =
        "mount --bind \"$2\" \"$2\" && mount -o remount,bind,ro \"$2\" && exec \"$1\" --live-root \"$2\"";
    let mut command = crate::support::run::unshared(&root.tools(), script);
    let run = Run::of(command.arg(program).arg(root.path()).output().unwrap(), &root);
    if run.stderr.contains("unshare") || run.stderr.contains("mount:") {
        crate::support::run::skipped(format_args!("no namespaces of our own here: {}", run.stderr));
        return;
    }
    run.says(&["ROOT/run", "Read-only file system"]);
    assert!([1, 77].contains(&run.code), "{run:?}");
    assert_eq!(root.calls(), Vec::<String>::new());
}
