//! A `/proc` and `/sys` that somebody has made up: no hang, no panic, nothing outside of the root.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::TestRoot;

/// Runs `guard` and demands an answer in time.
#[track_caller]
fn answers(root: &TestRoot) {
    let start = Instant::now();
    let run = root.run("clr-dkms", &["guard", "--json"]);
    assert!((0..=3).contains(&run.code), "{}\n{}", run.code, run.stderr);
    run.json();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn devices_that_lie_on_each_other() {
    let root = TestRoot::guarded();
    let names: Vec<String> = (0..40).map(|n| format!("dm-{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    for (n, name) in names.iter().enumerate() {
        root.block(&format!("253:{n}"), &format!("virtual/block/{name}"), &all);
    }
    root.mounts(&[("253:0", "/", "ext4", "/dev/dm-0")]);
    answers(&root);
}

#[test]
fn interfaces_that_lie_on_each_other() {
    let root = TestRoot::guarded();
    let names: Vec<String> = (0..40).map(|n| format!("br{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &names {
        root.interface(name, "virtual", "bridge", &all);
    }
    root.route("br0");
    answers(&root);
}

#[test]
fn a_tower_of_devices() {
    let root = TestRoot::guarded();
    for n in 0..300 {
        let below = format!("dm-{}", n + 1);
        root.block(&format!("253:{n}"), &format!("virtual/block/dm-{n}"), &[&below]);
    }
    root.mounts(&[("253:0", "/", "ext4", "/dev/dm-0")]);
    answers(&root);
}

#[test]
fn links_that_lead_out() {
    let root = TestRoot::guarded();
    let outside = root.outside();
    std::fs::create_dir_all(outside.join("driver")).unwrap();
    std::os::unix::fs::symlink("/sys/module/hello", outside.join("driver/module")).unwrap();
    for link in ["sys/dev/block/8:2", "sys/class/net/eth0", "sys/class/drm/card0", "sys/class/block/sda2"] {
        root.link(link, &outside);
    }
    root.link("sys/bus/pci/devices/0000:00:00.0", "../../../../../../../../..").route("eth0");
    root.mounts(&[("8:2", "/", "ext4", "/dev/sda2"), ("../..", "/x", "../..", "/dev/../../x")]);
    assert_eq!(root.need("hello"), "wanted: loaded in the running kernel");
    answers(&root);
}

#[test]
fn links_that_lead_to_themselves() {
    let root = TestRoot::guarded();
    for link in
        ["sys/dev/block/8:2", "sys/class/net/eth0", "sys/fs/btrfs", "proc/modules", "proc/net", "sys/module"]
    {
        root.link(link, format!("/{link}"));
    }
    root.mounts(&[("8:2", "/", "btrfs", "/dev/sda2")]);
    answers(&root);
}

#[test]
fn fifos_and_directories_in_place_of_files() {
    let files = [
        "proc/modules",
        "proc/swaps",
        "proc/self/mountinfo",
        "proc/net/route",
        "proc/net/ipv6_route",
        "sys/class/net/eth0/uevent",
        "sys/class/block/sda/dev",
        "sys/class/drm/card0-DP-1/status",
        "sys/bus/pci/devices/x/boot_vga",
    ];
    for directory in [false, true] {
        let root = TestRoot::guarded();
        root.route("eth0");
        for file in files {
            if root.has(file) {
                root.remove(file);
            }
            root.directory(if directory { file } else { file.rsplit_once('/').unwrap().0 });
            if !directory {
                assert!(Command::new("mkfifo").arg(root.at(file)).status().unwrap().success());
            }
        }
        answers(&root);
    }
}

#[test]
fn huge_files() {
    let root = TestRoot::guarded();
    for file in ["proc/modules", "proc/self/mountinfo", "proc/swaps", "proc/net/route", "proc/net/ipv6_route"]
    {
        // Nothing but a length: it costs no room.
        root.file(file, "");
        std::fs::File::options().write(true).open(root.at(file)).unwrap().set_len(400 << 20).unwrap();
    }
    answers(&root);
}

#[test]
fn many_mounts() {
    let root = TestRoot::guarded();
    let line = |n: usize| format!("{n} 1 8:{n} / /m{n} rw - t{n} /dev/sd{n} rw\n");
    root.file("proc/self/mountinfo", (0..20_000).map(line).collect::<String>());
    root.file(
        &format!("usr/lib/modules/{}/modules.alias", crate::support::A),
        "alias fs-x y\n".repeat(10_000),
    );
    answers(&root);
}

#[test]
fn garbage() {
    let root = TestRoot::guarded();
    for (at, bytes) in
        [&b"\xff\xfe\0\n \n - \n"[..], b"-", b" - - - -\n", b"\\0\\08\\777 \\"].iter().enumerate()
    {
        for file in
            ["proc/modules", "proc/self/mountinfo", "proc/swaps", "proc/net/route", "proc/net/ipv6_route"]
        {
            root.file(file, [bytes, &b"\n"[..], bytes, b"\t\t\n"].concat());
        }
        root.file("sys/class/net/x\u{1b}/uevent", bytes);
        answers(&root);
        assert!(at < 9);
    }
}
