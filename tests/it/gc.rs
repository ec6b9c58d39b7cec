//! `clr-dkms gc`: what it removes, and that it removes nothing else.

use std::fs;
use std::time::{Duration, SystemTime};

use clr_dkms::dkms::architecture;

use crate::sandbox::{Without, run_without};
use crate::support::run::set_mode;
use crate::support::tree::difference;
use crate::support::{A, B, Run, TestRoot};

/// A root with the module `alpha` on a kernel that is there ([`A`]) and on one that is gone ([`B`]), of which
/// only what dkms and depmod put there is left.
pub(crate) fn left_over() -> TestRoot {
    let root = TestRoot::updated();
    root.module("alpha", "1.0", "").installed("alpha", "1.0", A).installed("alpha", "1.0", B);
    root.tip(A).link("var/lib/dkms/alpha/1.0/source", "../../../../../usr/src/alpha-1.0");
    take_away(&root, B);
    root
}

/// Removes what a kernel's package has installed.
pub(crate) fn take_away(root: &TestRoot, release: &str) {
    let (version, variant) = release.rsplit_once('.').unwrap();
    root.remove(&format!("usr/lib/kernel/org.clearlinux.{variant}.{version}"))
        .remove(&format!("usr/lib/kernel/cmdline-{release}"))
        .remove(&format!("usr/lib/kernel/config-{release}"))
        .remove(&format!("usr/lib/modules/{release}/kernel"))
        .remove(&format!("usr/lib/modules/{release}/modules.builtin.modinfo"))
        .remove(&format!("usr/lib/modules/{release}/build"));
}

/// Everything below there was last changed two days before the tests' moment.
pub(crate) fn age(root: &TestRoot, path: &str) {
    let path = root.at(path);
    if path.is_dir() {
        for entry in fs::read_dir(&path).unwrap() {
            let name = entry.unwrap().path();
            age(root, name.strip_prefix(root.path()).unwrap().to_str().unwrap());
        }
    }
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_753_790_400 - 2 * 86_400);
    fs::File::open(&path).unwrap().set_modified(then).unwrap();
}

/// Runs it; gives what has changed on disk, without the lock.
pub(crate) fn changes(root: &TestRoot, arguments: &[&str], code: i32) -> Vec<String> {
    let before = root.tree();
    root.run("clr-dkms", &[&["gc"], arguments].concat()).code(code);
    let mut changes = difference(&before, &root.tree(), false);
    changes.retain(|c| !c.contains("clr-dkms.lock"));
    changes
}

/// The changes that take everything of `alpha` on [`B`] away.
fn all_of_b() -> Vec<String> {
    let (a, b) = (architecture(), format!("- usr/lib/modules/{B}"));
    let t = "- var/lib/dkms/alpha";
    let mut all = vec![
        b.clone(),
        format!("{b}/modules.dep"),
        format!("{b}/modules.dep.bin"),
        format!("{b}/updates"),
        format!("{b}/updates/dkms"),
        format!("{b}/updates/dkms/alpha.ko"),
        format!("{t}/1.0/{B}"),
        format!("{t}/1.0/{B}/{a}"),
        format!("{t}/1.0/{B}/{a}/log"),
        format!("{t}/1.0/{B}/{a}/log/make.log"),
        format!("{t}/1.0/{B}/{a}/module"),
        format!("{t}/1.0/{B}/{a}/module/alpha.ko"),
        format!("{t}/kernel-{B}-{a}"),
    ];
    all.sort();
    all
}

#[test]
fn what_a_gone_kernel_left_is_removed_and_the_module_stays_registered() {
    let root = left_over();
    let before = root.tree();
    let run = root.run("clr-dkms", &["gc"]);
    run.code(0)
        .shows(&["removed 3 leftovers, "])
        .says(&["removing /var/lib/dkms/alpha/1.0/6.15.8-1592.native"]);
    let mut changed = difference(&before, &root.tree(), false);
    changed.retain(|c| !c.contains("clr-dkms.lock"));
    changed.sort();
    assert_eq!(changed, all_of_b());
    assert_eq!(root.short_calls(), [format!("unbuild alpha {B}")]);
    assert!(root.calls()[0].contains("--dkmstree ROOT/var/lib/dkms"), "{:?}", root.calls());
    assert!(root.has("var/lib/dkms/alpha/1.0/source"));
    root.forget_calls();
    assert_eq!(changes(&root, &[], 0), [""; 0]);
    assert_eq!(root.calls(), [""; 0]);
    root.run("clr-dkms", &["gc"]).code(0).prints("✔ nothing to remove\n");
}

/// `swupd bundle-remove` removes the files of its bundle, and renames what is not empty.
#[test]
fn what_swupd_has_renamed_belongs_to_the_kernel_in_its_name() {
    let renamed = |root: &TestRoot, release: &str| {
        let new = format!("usr/lib/modules/.deleted.1753700000.{release}");
        fs::rename(root.at(&format!("usr/lib/modules/{release}")), root.at(&new)).unwrap();
        new
    };
    let root = left_over();
    let new = renamed(&root, B);
    let old = format!("usr/lib/modules/{B}");
    let mut expected: Vec<String> = all_of_b().iter().map(|change| change.replace(&old, &new)).collect();
    expected.sort();
    let mut changed = changes(&root, &[], 0);
    changed.sort();
    assert_eq!(changed, expected);

    // Whatever is of another program in it keeps it, and all else of that kernel.
    let root = left_over();
    let new = renamed(&root, B);
    root.file(&format!("{new}/notes"), "");
    assert_eq!(changes(&root, &[], 0), [""; 0]);
    let why = format!("/{new} holds notes, which is not of dkms or depmod");
    root.run("clr-dkms", &["gc", "-n"]).code(0).shows(&[&format!("left alone: {B}: {why}")]);

    // So does an image, a boot entry, or that it runs.
    let root = left_over();
    renamed(&root, B);
    renamed(&root, A);
    root.file("boot/loader/entries/Clear-linux-native-6.15.8-1592.conf", "title x\n");
    let gone = changes(&root, &[], 0);
    assert_eq!(gone, [""; 0]);
    root.run("clr-dkms", &["gc", "-n"])
        .code(0)
        .shows(&[&format!("left alone: {A}: it is running"), &format!("left alone: {B}: a boot entry may")]);
}

#[test]
fn a_dry_run_tells_it_all_and_changes_nothing() {
    let root = left_over();
    let before = root.tree();
    let run = root.run("clr-dkms", &["gc", "--dry-run"]);
    run.code(0).shows(&[
        "would `dkms unbuild` /var/lib/dkms/alpha/1.0/6.15.8-1592.native: built for it; the kernel is gone",
        "would remove /usr/lib/modules/6.15.8-1592.native: holds only what dkms and depmod put there",
        "left alone: 6.15.7-1591.native: it is running",
        "would remove 3 leftovers, ",
    ]);
    let document = root.run("clr-dkms", &["gc", "-n", "--json"]).code(0).json();
    assert_eq!(document["removals"].as_array().unwrap().len(), 3);
    assert_eq!(document["removals"][0]["kind"], "build");
    assert_eq!(document["removals"][0]["name"], "alpha");
    assert_eq!(document["removals"][0]["how"], "dkms-unbuild");
    assert!(document["freed"].as_u64().unwrap() > 0);
    assert_eq!(difference(&before, &root.tree(), true), [""; 0]);
    assert_eq!(root.calls(), [""; 0]);
}

/// Whatever dkms cannot do, and however it ends, the leftovers of it go.
#[test]
fn what_dkms_does_not_remove_is_removed_all_the_same() {
    let t = "var/lib/dkms/alpha";
    let root = left_over();
    root.remove("usr/src/alpha-1.0/dkms.conf");
    let mut changed = changes(&root, &[], 0);
    changed.sort();
    assert_eq!((changed, root.calls().len()), (all_of_b(), 0), "without its conf dkms can do nothing");

    let root = left_over();
    root.behave("code=8");
    assert_eq!(changes(&root, &[], 0).len(), all_of_b().len());

    let root = left_over();
    root.remove(&format!("{t}/1.0/{B}/{}/module", architecture()));
    changes(&root, &[], 0);
    assert!(!root.has(&format!("{t}/1.0/{B}")) && !root.has(&format!("usr/lib/modules/{B}")));

    // A claim and nothing else; and a file in a directory that is dkms's by its name in the tree only.
    let root = left_over();
    root.remove(&format!("{t}/1.0/{B}")).remove(&format!("usr/lib/modules/{B}"));
    assert_eq!(changes(&root, &[], 0), [format!("- {t}/kernel-{B}-{}", architecture())]);

    let root = left_over();
    root.file(&format!("usr/lib/modules/{B}/extra/alpha.ko"), "module").behave("code=4");
    changes(&root, &[], 0);
    assert!(!root.has(&format!("usr/lib/modules/{B}")));

    let root = left_over();
    fs::remove_file(root.tools().join("dkms")).unwrap();
    fs::write(root.tools().join("dkms"), "#!/nowhere/bash\n").unwrap();
    set_mode(&root.tools().join("dkms"), 0o755);
    root.run("clr-dkms", &["gc"]).code(0).says(&["removed without dkms"]);
    assert!(root.has(&format!("{t}/1.0/source")) && !root.has(&format!("{t}/1.0/{B}")));
}

/// dkms would put it back into the directory of the kernel.
#[test]
fn an_original_of_a_gone_kernel_goes_first() {
    let root = left_over();
    let originals = "var/lib/dkms/alpha/original_module";
    root.file(&format!("{originals}/{B}/{}/alpha.ko", architecture()), "the kernel's own");
    changes(&root, &[], 0);
    assert!(!root.has(originals) && !root.has(&format!("usr/lib/modules/{B}")));
    let root = left_over();
    for release in [A, B] {
        root.file(&format!("{originals}/{release}/{}/alpha.ko", architecture()), "the kernel's own");
    }
    changes(&root, &[], 0);
    assert!(root.has(&format!("{originals}/{A}")) && !root.has(&format!("{originals}/{B}")));
}

#[test]
fn remains_of_builds_go_when_they_are_old() {
    let staged = format!("var/lib/dkms/alpha/1.0/{B}/.tmp_{}_abcdef", architecture());
    let scratch = "var/lib/dkms/alpha/1.0/build";
    let log = format!("DKMS make.log for alpha-1.0 for kernel {B} ({})\nmake\n", architecture());
    let root = left_over();
    root.file(&format!("{staged}/module/alpha.ko"), "half").file(&format!("{scratch}/make.log"), &log);
    root.link(&format!("{scratch}/link"), root.outside());
    let run = root.run("clr-dkms", &["gc", "-n"]);
    run.code(0).shows(&["holds a build that is not a day old", "nothing to remove"]);
    age(&root, &staged);
    let run = root.run("clr-dkms", &["gc"]);
    run.code(0);
    assert!(!root.has(&staged) && !root.has(&format!("var/lib/dkms/alpha/1.0/{B}")));
    assert!(root.has(scratch), "it is not a day old");
    // A link keeps its own time.
    root.remove(&format!("{scratch}/link"));
    age(&root, scratch);
    let mut user =
        std::process::Command::new("sleep").arg("60").current_dir(root.at(scratch)).spawn().unwrap();
    root.run("clr-dkms", &["gc", "-n"]).code(0).shows(&["is in use by sleep (pid "]);
    // Files of a process that cannot be listed may be in the directory.
    if crate::unread::has_strace() {
        let mut strace = std::process::Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", "inject=openat:error=EMFILE"]);
        strace.args(["-P", &format!("/proc/{}/fd", user.id())]);
        let gc = root.command("clr-dkms", &["gc", "-n"]);
        strace.arg(gc.get_program()).args(gc.get_args());
        for (variable, value) in gc.get_envs() {
            value.map(|value| strace.env(variable, value));
        }
        crate::support::Run::of(strace.output().unwrap(), &root).code(0).shows(&["may be in use: "]);
    }
    user.kill().unwrap();
    user.wait().unwrap();
    assert!(changes(&root, &[], 0).contains(&format!("- {scratch}")));

    // Of a kernel that is there, or that is unknown, it stays.
    for log in [log.replace(B, A), "make".to_owned()] {
        let root = left_over();
        root.file(&format!("{scratch}/make.log"), log);
        age(&root, scratch);
        changes(&root, &[], 0);
        assert!(root.has(scratch));
    }
}

#[test]
fn what_cannot_be_removed_is_reported() {
    let root = left_over();
    // Something comes in between.
    root.behave(&format!("echo x >{}", root.at(&format!("usr/lib/modules/{B}/new")).display()));
    let run = root.run("clr-dkms", &["gc"]);
    run.code(1)
        .says(&["/usr/lib/modules/6.15.8-1592.native: it is still there"])
        .shows(&["removed 2 leftovers"]);
    assert!(root.has(&format!("usr/lib/modules/{B}/new")));
    assert!(!root.has(&format!("var/lib/dkms/alpha/1.0/{B}")));
}

#[test]
fn an_image_is_worked_on_too() {
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).kernel(B).headers(B).module("alpha", "1.0", "");
    root.installed("alpha", "1.0", A).installed("alpha", "1.0", B);
    take_away(&root, B);
    root.run("clr-dkms", &["gc"]).code(0).shows(&["removed 3 leftovers"]);
    assert!(root.has("var/lib/dkms/alpha/1.0/source") && root.has(&TestRoot::ko("alpha", A)));
    // The link was absolute: dkms would have read the dkms.conf of the machine around the image.
    let source = root.at("usr/src/alpha-1.0").display().to_string();
    assert_eq!(fs::read_to_string(root.tools().join("sources")).unwrap().trim(), source);
    assert_eq!(root.short_calls(), [format!("unbuild alpha {B}")]);
}

/// dkms would take the path for a pattern, and then lose the originals of other kernels. In a mount namespace
/// it is given another path.
#[test]
fn below_a_path_that_is_a_pattern_dkms_is_given_another_path_or_not_called() {
    for without in [Without::Nothing, Without::Namespaces] {
        let root = TestRoot::named("a[b]");
        root.kernel(A).headers(A).tip(A).kernel(B).headers(B).module("alpha", "1.0", "");
        root.installed("alpha", "1.0", A).installed("alpha", "1.0", B);
        take_away(&root, B);
        let run = Run::of(run_without(without, &mut root.command("clr-dkms", &["gc"])), &root);
        run.code(0).shows(&["removed 3 leftovers"]);
        let calls = std::fs::read_to_string(root.tools().join("record")).unwrap_or_default();
        match without {
            Without::Nothing => {
                assert!(calls.starts_with("dkms unbuild ") && !calls.contains('['), "{calls}")
            }
            _ => {
                run.says(&["cannot work below a path with '['", "removed without dkms"]);
                assert_eq!(calls, "");
            }
        }
        assert!(root.has("var/lib/dkms/alpha/1.0/source") && root.has(&TestRoot::ko("alpha", A)));
        assert!(!root.has(&format!("var/lib/dkms/alpha/1.0/{B}")));
    }
}

/// Everything below there was last changed so many days before the tests' moment.
fn aged(root: &TestRoot, path: &str, days: u64) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_753_790_400 - days * 86_400);
    fs::File::open(root.at(path)).unwrap().set_modified(then).unwrap();
}

#[test]
fn old_logs_of_kernels_and_modules_that_are_gone() {
    let root = left_over();
    let logs = "var/log/clr-dkms";
    for (path, days) in [
        (format!("alpha/1.0/{A}.log"), 400),
        (format!("alpha/1.0/{B}.log"), 89),
        (format!("alpha/1.0/{B}.log.1"), 91),
        // Of a module that is gone, also those of a kernel that is there.
        (format!("gone/2/{A}.log"), 91),
        (format!("gone/2/{A}.log.3"), 300),
        (format!("gone/2/{A}.log.x"), 300),
        (format!("gone/3/{A}.log"), 300),
        (format!("gone/4/{A}.log"), 89),
        // The earlier layout.
        (format!("alpha-1.0/{A}.log"), 400),
        (format!("alpha-1.0/{B}.log"), 400),
        (format!("gone-2-3/{A}.log"), 400),
        // Not a name of ours.
        ("alpha/1.0/6.1.0-50-amd64.log".to_owned(), 400),
        ("notes.log".to_owned(), 400),
    ] {
        root.file(&format!("{logs}/{path}"), "a log");
        aged(&root, &format!("{logs}/{path}"), days);
    }
    root.link(&format!("{logs}/link"), root.at(&format!("{logs}/gone")));
    let run = root.run("clr-dkms", &["gc", "--dry-run"]);
    run.code(0).shows(&[
        &format!("would remove /{logs}/alpha/1.0/{B}.log.1: a log of more than 90 days; the kernel is gone"),
        &format!("would remove /{logs}/gone/2/{A}.log: a log of more than 90 days; the module is gone"),
    ]);
    let document = root.run("clr-dkms", &["gc", "-n", "--json"]).code(0).json();
    let kinds = document["removals"].as_array().unwrap().iter().map(|r| r["kind"].as_str().unwrap());
    assert_eq!(kinds.filter(|kind| *kind == "log").count(), 6);
    let mut gone = changes(&root, &[], 0);
    gone.retain(|change| change.contains(logs));
    let mut expected: Vec<String> = [
        format!("alpha/1.0/{B}.log.1"),
        format!("gone/2/{A}.log"),
        format!("gone/2/{A}.log.3"),
        "gone/3".to_owned(),
        format!("gone/3/{A}.log"),
        format!("alpha-1.0/{B}.log"),
        "gone-2-3".to_owned(),
        format!("gone-2-3/{A}.log"),
    ]
    .iter()
    .map(|path| format!("- {logs}/{path}"))
    .collect();
    expected.sort();
    gone.sort();
    assert_eq!(gone, expected);
}

/// Logs tell nothing about kernels: what is wrong with them stops nothing.
#[test]
fn logs_that_are_no_directory_stop_nothing() {
    let root = left_over();
    root.file("var/log/clr-dkms", "a file");
    assert_eq!(changes(&root, &[], 0), all_of_b());
}
