//! `clr-dkms-cmdline` where it may not, or cannot: another run, no permission, no space, no root, hostile
//! files.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::root::FRAGMENT;
use crate::support::run::{as_nobody, set_mode, unshared};
use crate::support::tree::difference;
use crate::support::{A, Run, TestRoot};

const OWN: &str = "etc/kernel/cmdline.d/clr-dkms.conf";
const STATE: &str = "var/lib/clr-dkms/cmdline.json";

fn without_fragment() -> TestRoot {
    let root = TestRoot::system();
    root.remove(FRAGMENT);
    root
}

#[test]
fn two_at_once() {
    let root = without_fragment();
    root.file("etc/clr-dkms/clr-dkms.conf", "[run]\nlock-wait = 1\n");
    root.file("run/clr-dkms.lock", "");
    let holder =
        Command::new("flock").arg("-F").arg(root.at("run/clr-dkms.lock")).args(["sleep", "60"]).spawn();
    let Ok(mut holder) = holder else {
        crate::support::run::skipped("there is no flock here");
        return;
    };
    // It is held when nobody else gets it.
    let free = || Command::new("flock").args(["-n"]).arg(root.at("run/clr-dkms.lock")).arg("true").status();
    while free().unwrap().success() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let run = root.run("clr-dkms-cmdline", &["enable"]);
    run.code(75).prints("").says(&["another run is active", "ROOT/run/clr-dkms.lock"]);
    assert!(!root.has(OWN));
    // A report does not wait.
    for arguments in [&["show"][..], &["check"], &["enable", "--dry-run"]] {
        root.run("clr-dkms-cmdline", arguments).code(0);
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn several_runs_end_in_one_state() {
    let root = without_fragment();
    let runs: Vec<_> = ["enable", "disable", "enable", "enable"]
        .iter()
        .map(|verb| root.command("clr-dkms-cmdline", &[verb, "-q"]).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    for mut run in runs {
        assert!(run.wait().unwrap().success());
    }
    let written = root.has(OWN);
    assert_eq!(root.has(STATE), written, "the state file names what there is");
    root.run("clr-dkms-cmdline", &["default"]).code(0);
    assert!(!root.has("etc/kernel") && !root.has("var/lib/clr-dkms"));
}

#[test]
fn without_permission_the_file_is_named() {
    let root = without_fragment();
    for (closed, named) in
        [("run", "ROOT/run/clr-dkms.lock"), ("var/lib", "ROOT/var/lib/clr-dkms"), ("etc", "ROOT/etc/kernel")]
    {
        let before = root.tree();
        let Some(mut command) = as_nobody(&root, "clr-dkms-cmdline", &["enable"]) else { return };
        for open in ["run", "var/lib", "etc"] {
            set_mode(&root.at(open), if open == closed { 0o555 } else { 0o777 });
        }
        let run = Run::of(command.output().unwrap(), &root);
        run.code(77).prints("").says(&["clr-dkms-cmdline: error: cannot ", named]);
        for open in ["run", "var/lib", "etc"] {
            set_mode(&root.at(open), 0o755);
        }
        let mut differs = difference(&before, &root.tree(), false);
        // What is about to be ours is noted first.
        differs.retain(|d| {
            !d.contains("clr-dkms.lock") && !d.ends_with("var/lib/clr-dkms") && !d.ends_with(STATE)
        });
        assert_eq!(differs, Vec::<String>::new(), "{closed}");
        if closed == "etc" {
            // And a note of what was not made claims nothing.
            assert!(root.has(STATE));
            root.run("clr-dkms-cmdline", &["default"]).code(0).prints("nothing to change\n");
            assert!(!root.has("var/lib/clr-dkms"), "{:?}", root.text(STATE));
        } else if root.has("run/clr-dkms.lock") {
            // It would be root's for the next user.
            root.remove("run/clr-dkms.lock");
        }
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_absent() {
    for verb in ["enable", "disable"] {
        let root = TestRoot::system();
        for open in ["run", "var/lib", "etc"] {
            set_mode(&root.at(open), 0o777);
        }
        let Some(mut command) = as_nobody(&root, "clr-dkms-cmdline", &[verb]) else { return };
        set_mode(&root.at(FRAGMENT), 0o000);
        Run::of(command.output().unwrap(), &root)
            .code(3)
            .prints("")
            .says(&[FRAGMENT, "; run it as root (`sudo "]);
        assert!(!root.has("etc/kernel"), "{verb}");
    }
}

/// A filesystem of a few pages, full to the last byte, stands where the fragment is to be.
#[test]
fn a_full_disk_leaves_the_old_state() {
    let root = without_fragment();
    root.directory("etc/kernel/cmdline.d").directory("var/lib/clr-dkms");
    for (directory, named) in [("etc/kernel/cmdline.d", OWN), ("var/lib/clr-dkms", STATE)] {
        let script = "mount -t tmpfs -o size=16k none \"$2/$3\" || exit 111\n\
                      head -c 64k /dev/zero >\"$2/$3/filler\" 2>/dev/null\n\
                      \"$1\" enable --live-root \"$2\"; code=$?\n\
                      ls -A \"$2/$3\" >&2; \"$1\" show --raw -k 6.15.7-1591.native --live-root \"$2\"; exit $code";
        let mut command = unshared(&root.tools(), script);
        command.arg(crate::support::run::program("clr-dkms-cmdline")).arg(root.path()).arg(directory);
        let run = Run::of(command.output().unwrap(), &root);
        if run.code == 111 || run.stderr.contains("unshare:") {
            crate::support::run::skipped(format_args!("this machine mounts nothing here: {}", run.stderr));
            return;
        }
        run.code(1)
            .prints("quiet rw \n")
            .says(&[&format!("cannot write ROOT/{named}: No space left on device"), "filler\n"]);
        assert!(!run.stderr.contains(".clr-dkms.conf."), "nothing half-written is left: {}", run.stderr);
        root.run("clr-dkms-cmdline", &["default"]).code(0);
    }
}

#[test]
fn roots_that_are_none() {
    let root = without_fragment();
    root.file("plain", "a file");
    for path in ["plain", "missing"] {
        for verb in ["show", "enable", "check"] {
            let mut command = crate::support::run::command("clr-dkms-cmdline", &root.tools());
            let output = command.arg(verb).arg("--root").arg(root.at(path)).output().unwrap();
            Run::of(output, &root)
                .code(64)
                .prints("")
                .says(&[&format!("ROOT/{path}"), "a directory that holds a system"]);
        }
    }
    root.run("clr-dkms-cmdline", &["show", "-k", "9.9.9-1.native"])
        .code(3)
        .prints("")
        .says(&["9.9.9-1.native is not an installed kernel"]);
    for asked in ["", "../../etc/passwd", "native/..", "\u{1b}[31m"] {
        let run = root.run("clr-dkms-cmdline", &["show", "-k", asked]);
        assert!(!run.code(3).prints("").stderr.contains('\u{1b}'));
    }
}

/// None of them is opened for reading that never ends, or followed out of the root.
#[test]
fn what_is_no_file_hangs_nobody() {
    let root = TestRoot::system();
    let secret = root.outside().join("secret.conf");
    std::fs::write(&secret, "module.secret=1\n").unwrap();
    let directories = ["usr/share/kernel/cmdline.d", "etc/kernel/cmdline.d", "etc/kernel/cmdline-removal.d"];
    for directory in directories {
        root.directory(directory);
        assert!(
            Command::new("mkfifo")
                .arg(root.at(&format!("{directory}/00-fifo.conf")))
                .status()
                .unwrap()
                .success()
        );
        root.link(&format!("{directory}/01-zero.conf"), "/dev/zero");
        root.link(&format!("{directory}/02-up.conf"), "../../../../../../../../outside/secret.conf");
        root.link(&format!("{directory}/03-out.conf"), &secret);
        root.link(&format!("{directory}/04-self.conf"), "04-self.conf");
        root.directory(&format!("{directory}/05-directory.conf"));
    }
    assert!(Command::new("mkfifo").arg(root.at("etc/kernel/cmdline")).status().unwrap().success());
    let started = Instant::now();
    for verb in
        [&["check"][..], &["show"], &["enable"], &["disable", "--no-refresh"], &["default", "--no-refresh"]]
    {
        let run = root.run("clr-dkms-cmdline", verb);
        assert!(!run.stdout.contains("secret=1"), "{}", run.stdout);
        run.code(0);
    }
    // What it hangs is clr-boot-manager.
    let waits =
        "clr-boot-manager was not run: ROOT/usr/share/kernel/cmdline.d/00-fifo.conf is not a regular file";
    root.run("clr-dkms-cmdline", &["disable"]).code(1).says(&[waits]);
    root.run("clr-dkms-cmdline", &["default"]).code(1).says(&[waits]);
    assert_eq!(root.calls(), Vec::<String>::new());
    let raw = root.run("clr-dkms-cmdline", &["show", "--raw", "-k", A]);
    assert_eq!(
        raw.code(0).stdout.split_whitespace().collect::<Vec<_>>(),
        ["quiet", "rw", "module.sig_unenforce"]
    );
    assert!(started.elapsed() < Duration::from_secs(30));
}
