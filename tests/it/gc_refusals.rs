//! `clr-dkms gc`: what keeps a kernel's leftovers where they are.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use clr_dkms::dkms::architecture;

use crate::gc::{changes, left_over, take_away};
use crate::support::run::{as_nobody, set_mode};
use crate::support::{A, B, LTS, TestRoot};

const ID: &str = "org.clearlinux.native.6.15.8-1592";

/// Nothing changes, and a dry run says why.
#[track_caller]
fn kept(root: &TestRoot, why: &str) {
    root.run("clr-dkms", &["gc", "-n"]).code(0).shows(&[why, "nothing to remove"]);
    assert_eq!(changes(root, &[], 0), [""; 0], "{why}");
    assert_eq!(root.calls(), [""; 0], "{why}");
}

/// Nothing changes, and it is reported that it cannot be determined.
#[track_caller]
fn blind(root: &TestRoot, why: &str) {
    root.run("clr-dkms", &["gc", "-n"]).code(3).says(&[why, "nothing was changed"]);
    assert_eq!(changes(root, &[], 3), [""; 0], "{why}");
    assert_eq!(root.calls(), [""; 0], "{why}");
}

#[test]
fn any_file_of_the_kernel_keeps_it() {
    let images = "usr/lib/kernel";
    for (file, why) in [
        (format!("{images}/{ID}"), "holds or names"),
        (format!("{images}/{ID}.bak"), "holds or names"),
        (format!("{images}/com.other.native.6.15.8-1592"), "holds or names"),
        (format!("{images}/cmdline-{B}"), "holds or names cmdline-"),
        (format!("{images}/config-{B}"), "holds or names config-"),
        (format!("{images}/System.map-{B}"), "holds or names System.map-"),
        (format!("{images}/initrd-{ID}"), "holds or names initrd-"),
        (format!("boot/vmlinuz-{B}"), "a boot entry may need it"),
        (format!("usr/lib/modules/{B}/kernel/fs/own.ko"), "holds kernel/fs/own.ko, which is not of dkms"),
        (format!("usr/lib/modules/{B}/modules.order"), "holds modules.order"),
        (format!("usr/lib/modules/{B}/build/Makefile"), "holds build/Makefile"),
        (format!("usr/lib/modules/{B}/extra/by-hand.ko"), "holds extra/by-hand.ko"),
    ] {
        let root = left_over();
        root.file(&file, "x");
        kept(&root, why);
    }
    let root = left_over();
    root.link(&format!("{images}/default-native"), ID);
    kept(&root, "holds or names default-native");
}

#[test]
fn a_running_kernel_and_one_with_a_boot_entry_are_kept() {
    kept(&left_over().running(B), "left alone: 6.15.8-1592.native: it is running");
    let root = left_over();
    root.entry("org.clearlinux.native.6.15.7-1591", "quiet rw", true).entry(ID, "quiet rw", false);
    kept(&root, "a boot entry may need it");
    let root = left_over();
    root.file("boot/loader/entries/mine.conf", format!("title X\nlinux /EFI/org.clearlinux/kernel-{ID}\n"));
    kept(&root, "a boot entry may need it");
    // A mark alone does not.
    let root = left_over();
    root.file(&format!("var/lib/kernel/k_booted_{B}"), "");
    assert!(!changes(&root, &[], 0).is_empty());
}

#[test]
fn kernels_of_another_naming_are_not_ours() {
    for release in
        ["6.1.0-50-amd64", "6.15.8-200.fc41.x86_64", "6.15.8", "6.15.8-1592x.native", "6.15.8-+1592.native"]
    {
        let root = left_over();
        changes(&root, &[], 0);
        root.forget_calls();
        root.file(&format!("{}/module/alpha.ko", TestRoot::build("alpha", "1.0", release)), "x")
            .file(&TestRoot::ko("alpha", release), "x")
            .link(
                &format!("var/lib/dkms/alpha/kernel-{release}-{}", architecture()),
                format!("1.0/{release}/{}", architecture()),
            );
        kept(&root, "it is not named as clr-boot-manager names its kernels");
    }
}

#[test]
fn links_in_place_of_directories_and_other_architectures_are_left_alone() {
    let t = "var/lib/dkms/alpha";
    let elsewhere = |root: &TestRoot, path: &str| {
        fs::rename(root.at(path), root.outside().join("moved")).unwrap();
        root.link(path, root.outside().join("moved")).forget();
    };
    for (path, why) in [
        (format!("usr/lib/modules/{B}"), "is a link"),
        (format!("usr/lib/modules/{B}/updates"), "is a link"),
        (format!("{t}/1.0/{B}"), "is a link"),
        (format!("{t}/1.0/{B}/{}", architecture()), "is a link"),
    ] {
        let root = left_over();
        elsewhere(&root, &path);
        kept(&root, why);
        assert!(fs::read_dir(root.outside().join("moved")).unwrap().count() > 0);
    }
    let root = left_over();
    root.file(&format!("{t}/1.0/{B}/sparc/module/alpha.ko"), "x");
    kept(&root, "holds sparc, which is not of this architecture's dkms");
    // Nor is one whose name is not UTF-8.
    let root = left_over();
    fs::create_dir(root.at(&format!("{t}/1.0/{B}")).join(OsStr::from_bytes(b"\xffspare"))).unwrap();
    kept(&root, "spare, which is not of this architecture's dkms");
    let root = left_over();
    root.link(&format!("{t}/kernel-{B}-{}", architecture()), "/etc/passwd");
    kept(&root, "leads to /etc/passwd");
}

#[test]
fn where_something_is_unknown_nothing_is_touched() {
    let root = left_over();
    root.remove("proc/sys/kernel/osrelease");
    blind(&root, "osrelease");
    // No kernel at all: it may be no system.
    let root = left_over();
    take_away(&root, A);
    blind(&root, "is this the root of a system?");
    let root = left_over();
    fs::rename(root.at("usr/lib/modules"), root.outside().join("m")).unwrap();
    root.link("usr/lib/modules", root.outside().join("m"));
    blind(&root, "is not a directory");
    let root = left_over();
    root.file("boot/loader/entries/broken.conf", "");
    blind(&root, "the boot files are damaged");
    let root = left_over();
    root.remove("var/lib/dkms").file("var/lib/dkms", "x");
    blind(&root, "is not a directory");
}

#[test]
fn an_unreadable_directory_stops_it_all() {
    let t = format!("var/lib/dkms/alpha/1.0/{B}");
    for path in [
        "usr/lib/kernel",
        "usr/lib/modules",
        "boot/loader/entries",
        "var/lib/dkms/alpha",
        &t,
        &format!("{t}/x"),
    ] {
        let root = left_over();
        root.directory(path);
        set_mode(&root.at(path), 0o000);
        let Some(mut command) = as_nobody(&root, "clr-dkms", &["gc", "-n", "--json"]) else { return };
        let done = command.output().unwrap();
        set_mode(&root.at(path), 0o755);
        let text = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.code(), Some(3), "{path}: {text}");
        let document: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(document["removals"].as_array().map(Vec::len), Some(0), "{path}");
    }
}

#[test]
fn a_mount_inside_is_left_alone() {
    let root = left_over();
    root.directory(&format!("usr/lib/modules/{B}/updates/mnt"));
    let script =
        "mount --bind \"$1/usr/src\" \"$1/usr/lib/modules/$2/updates/mnt\" || exit 99; shift 2; exec \"$@\"";
    let plain = root.command("clr-dkms", &["gc"]);
    let mut command = crate::support::run::unshared(&root.tools(), script);
    command.arg(root.path()).arg(B).arg(plain.get_program()).args(plain.get_args());
    let done = command.output().unwrap();
    if done.status.code() == Some(99) || String::from_utf8_lossy(&done.stderr).starts_with("unshare:") {
        crate::support::run::skipped("nothing can be mounted here");
        return;
    }
    assert_eq!(String::from_utf8_lossy(&done.stdout), "+ nothing to remove\n");
    assert!(root.has("usr/src/alpha-1.0/dkms.conf") && root.has(&TestRoot::ko("alpha", B)));
}

#[test]
fn other_leftovers_go_while_one_kernel_is_kept() {
    let root = TestRoot::updated();
    root.kernel(LTS).headers(LTS).module("alpha", "1.0", "");
    for release in [A, B, LTS] {
        root.installed("alpha", "1.0", release);
    }
    root.tip(A);
    take_away(&root, B);
    take_away(&root, LTS);
    root.file(&format!("usr/lib/modules/{LTS}/kernel/own.ko"), "x");
    root.run("clr-dkms", &["gc"]).code(0).shows(&["removed 3 leftovers"]);
    assert!(root.has(&TestRoot::ko("alpha", LTS)) && root.has(&TestRoot::build("alpha", "1.0", LTS)));
    assert!(!root.has(&TestRoot::build("alpha", "1.0", B)));
}

#[test]
fn who_else_is_at_work_is_waited_for() {
    let root = left_over();
    root.file("etc/clr-dkms/clr-dkms.conf", "[run]\nlock-wait = 1\n").directory("run");
    let lock = root.at("run/clr-dkms.lock");
    let mut holder = std::process::Command::new("flock").arg(&lock).args(["sleep", "60"]).spawn().unwrap();
    while !lock.exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    let code = root.run("clr-dkms", &["gc"]).code;
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(code, 75);
    assert!(root.has(&TestRoot::build("alpha", "1.0", B)));
}

/// An installation of a kernel may begin with its directories.
#[test]
fn directories_of_a_kernel_that_is_just_coming_are_left_alone() {
    let root = crate::support::TestRoot::system();
    root.directory("usr/lib/modules/6.16.0-1600.native/kernel");
    root.run("clr-dkms", &["gc", "-n"]).code(0).shows(&["6.16.0-1600.native", "is not a day old"]);
    root.run("clr-dkms", &["gc"]).code(0);
    assert!(root.has("usr/lib/modules/6.16.0-1600.native/kernel"));
}

/// An update that goes on beside us: the kernel comes back while dkms is at work.
#[test]
fn a_kernel_that_comes_back_meanwhile_is_left_alone() {
    let root = crate::support::TestRoot::updated().running(crate::support::A);
    let gone = crate::support::B;
    root.module("alpha", "1.0", "").post_update().code(0);
    for file in [
        "usr/lib/kernel/org.clearlinux.native.6.15.8-1592".to_owned(),
        format!("usr/lib/kernel/cmdline-{gone}"),
        format!("usr/lib/kernel/config-{gone}"),
        format!("usr/lib/modules/{gone}/kernel/own.ko"),
        format!("usr/lib/modules/{gone}/modules.builtin.modinfo"),
        "boot/loader/entries/Clear-linux-native-6.15.8-1592.conf".to_owned(),
    ] {
        root.remove(&file);
    }
    root.remove(&format!("usr/lib/modules/{gone}/build"));
    root.link("usr/lib/kernel/default-native", "org.clearlinux.native.6.15.7-1591");
    root.file("boot/loader/loader.conf", "default Clear-linux-native-6.15.7-1591.conf\n");
    root.run("clr-dkms", &["gc", "-n"]).code(0).shows(&["would `dkms unbuild`", "would remove"]);
    let modules = root.at(&format!("usr/lib/modules/{gone}"));
    root.behave(&format!("[[ $verb != unbuild ]] || echo new >{}/modules.dep", modules.display()));
    root.run("clr-dkms", &["gc"]).code(1).says(&["modules.dep", "was changed during the clean-up"]);
    assert_eq!(root.text(&format!("usr/lib/modules/{gone}/modules.dep")), "new\n");
}
