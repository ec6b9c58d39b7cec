//! From what is in use to the module that it hangs on, through sysfs.

use crate::support::guard::HELLO_FAILS_ON_B;
use crate::support::{A, TestRoot};

/// `hello` is loaded and in use for nothing yet.
fn machine() -> TestRoot {
    let root = TestRoot::guarded();
    root.mounts(&[]);
    assert_eq!(root.need("hello"), "wanted: loaded in the running kernel");
    root
}

const DISK: &str = "pci0000:00/0000:00:1d.0/0000:02:00.0";

#[test]
fn the_root_on_a_disk_behind_a_controller() {
    let root = machine();
    root.device(DISK, "hello").block("259:2", &format!("{DISK}/nvme/nvme0/nvme0n1/nvme0n1p2"), &[]);
    root.mounts(&[("259:2", "/", "ext4", "/dev/nvme0n1p2")]);
    assert_eq!(root.need("hello"), "critical: backs / (hello)");
}

#[test]
fn the_root_on_nvme_with_several_paths() {
    // The disk is a virtual one then; its controllers stand beside it.
    let root = machine();
    let subsystem = "virtual/nvme-subsystem/nvme-subsys0";
    root.device(DISK, "hello").directory(&format!("sys/devices/{DISK}/nvme/nvme0"));
    root.block("259:2", &format!("{subsystem}/nvme0n1/nvme0n1p2"), &[]);
    root.link(&format!("sys/devices/{subsystem}/nvme0"), format!("/sys/devices/{DISK}/nvme/nvme0"));
    root.mounts(&[("259:2", "/", "ext4", "/dev/nvme0n1p2")]);
    assert_eq!(root.need("hello"), "critical: backs / (hello)");
}

#[test]
fn a_volume_on_an_array_on_partitions() {
    let root = machine();
    root.device(DISK, "hello").block("8:1", &format!("{DISK}/ata1/host0/block/sda/sda1"), &[]);
    root.block("9:0", "virtual/block/md0", &["sda1"]).block("253:0", "virtual/block/dm-0", &["md0"]);
    root.mounts(&[("253:0", "/home", "xfs", "/dev/mapper/crypt")]);
    assert_eq!(root.need("hello"), "critical: backs /home (hello)");
}

#[test]
fn a_partition_of_an_array() {
    let root = machine();
    root.device(DISK, "hello").block("8:1", &format!("{DISK}/ata1/host0/block/sda/sda1"), &[]);
    root.block("9:0", "virtual/block/md0", &["sda1"]).block("259:0", "virtual/block/md0/md0p1", &[]);
    root.file("sys/devices/virtual/block/md0/md0p1/partition", "1\n");
    root.mounts(&[("259:0", "/srv", "ext4", "/dev/md0p1")]);
    assert_eq!(root.need("hello"), "critical: backs /srv (hello)");
}

#[test]
fn a_filesystem_on_several_devices() {
    let root = machine();
    root.device(DISK, "hello").block("8:17", &format!("{DISK}/ata2/host1/block/sdb/sdb1"), &[]);
    root.block("8:1", "pci0000:00/0000:00:17.0/ata1/host0/block/sda/sda1", &[]);
    for device in ["sda1", "sdb1"] {
        root.link(&format!("sys/fs/btrfs/uuid/devices/{device}"), format!("/sys/class/block/{device}"));
    }
    root.mounts(&[("0:25", "/", "btrfs", "/dev/sda1")]);
    assert_eq!(root.need("hello"), "critical: backs / (hello)");
}

#[test]
fn a_filesystem_type() {
    let root = machine();
    root.mounts(&[("0:40", "/home\\040dir", "hello", "tank/home")]);
    assert_eq!(root.need("hello"), "critical: backs /home dir (hello)");
    // A type of another name, by its alias.
    root.file(&format!("usr/lib/modules/{A}/modules.alias"), "# x\nalias fs-tux3 hello\n");
    root.mounts(&[("0:40", "/t", "tux3", "x")]);
    assert_eq!(root.need("hello"), "critical: backs /t (hello)");
    root.mounts(&[("0:40", "/t", "fuse.hello", "x")]);
    assert_eq!(root.need("hello"), "wanted: loaded in the running kernel");
}

#[test]
fn a_pool_that_is_imported_and_mounted_or_not() {
    let root = TestRoot::guarded();
    root.module("zfs", "2.3", "BUILT_MODULE_NAME[1]=spl\nDEST_MODULE_LOCATION[1]=/extra\n");
    root.loads(&["zfs", "spl"]).mounts(&[]).file("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    assert_eq!(root.need("zfs"), "critical: holds the pool tank (zfs)");
    root.mounts(&[("0:50", "/tank", "zfs", "tank")]);
    assert_eq!(root.need("zfs"), "critical: backs /tank (zfs)");
    root.remove("proc/spl").mounts(&[]).file("proc/spl/kstat/zfs/dbgmsg", "");
    assert_eq!(root.need("zfs"), "wanted: loaded in the running kernel");
}

#[test]
fn what_a_module_in_use_is_built_upon() {
    let root = TestRoot::guarded();
    root.module("below", "1", "")
        .loads(&["hello", "below"])
        .link("sys/module/below/holders/hello", "../../hello");
    assert_eq!(root.need("below"), "critical: backs /data (hello)");
}

#[test]
fn swap_on_a_partition() {
    let root = machine();
    root.device(DISK, "hello").block("8:3", &format!("{DISK}/ata1/host0/block/sda/sda3"), &[]);
    root.file("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda3 partition 1 0 -2\n");
    assert_eq!(root.need("hello"), "critical: backs the swap on /dev/sda3 (hello)");
}

#[test]
fn the_default_route() {
    const ROUTE: &str = "critical: drives the default route (hello)";
    let card = |root: &TestRoot| {
        root.device(DISK, "hello").interface("eth0", DISK, "", &[]).forget();
    };
    let plain = machine();
    card(&plain);
    assert_eq!(plain.route("other0").need("hello"), "wanted: loaded in the running kernel");
    assert_eq!(plain.route("eth0").need("hello"), ROUTE);
    for (over, kind) in [("br0", "bridge"), ("bond0", "bond"), ("eth0.7", "vlan")] {
        let root = machine();
        card(&root);
        root.interface(over, "virtual", kind, &["eth0"]).route(over);
        assert_eq!(root.need("hello"), ROUTE, "{over}");
    }
    let tower = machine();
    card(&tower);
    tower.interface("bond0", "virtual", "bond", &["eth0"]).interface(
        "bond0.7",
        "virtual",
        "vlan",
        &["bond0"],
    );
    tower.interface("br0", "virtual", "bridge", &["bond0.7"]).route("br0");
    assert_eq!(tower.need("hello"), ROUTE);
    // A tunnel is its own module.
    let tunnel = machine();
    tunnel.interface("wg0", "virtual", "hello", &[]).route("wg0");
    assert_eq!(tunnel.need("hello"), ROUTE);
    // IPv6 alone.
    let six = machine();
    card(&six);
    let zero = "0".repeat(32);
    let line =
        |prefix: &str, name: &str| format!("{zero} {prefix} {zero} 00 fe8000 00000400 1 0 00000003 {name}\n");
    six.file("proc/net/ipv6_route", line("08", "eth0") + &line("00", "lo"));
    assert_eq!(six.need("hello"), "wanted: loaded in the running kernel");
    six.file("proc/net/ipv6_route", line("00", "eth0") + &line("00", "lo"));
    assert_eq!(six.need("hello"), ROUTE);
}

#[test]
fn the_display() {
    let gpu = "pci0000:00/0000:01:00.0";
    let root = machine();
    root.device(gpu, "hello").link(&format!("sys/devices/{gpu}/drm/card1/device"), "../..");
    root.link("sys/class/drm/card1", format!("../../devices/{gpu}/drm/card1"));
    root.file("sys/class/drm/card1-DP-1/status", "connected\n")
        .file("sys/class/drm/card1-DP-1/enabled", "disabled\n");
    assert_eq!(root.need("hello"), "wanted: loaded in the running kernel");
    root.file("sys/class/drm/card1-DP-1/enabled", "enabled\n");
    assert_eq!(root.need("hello"), "critical: drives the display (hello)");
    // A driver without mode setting.
    let root = machine();
    root.device(gpu, "hello").file(&format!("sys/devices/{gpu}/boot_vga"), "0\n");
    root.link("sys/bus/pci/devices/0000:01:00.0", format!("../../../devices/{gpu}"));
    assert_eq!(root.need("hello"), "wanted: loaded in the running kernel");
    root.file(&format!("sys/devices/{gpu}/boot_vga"), "1\n");
    assert_eq!(root.need("hello"), "critical: drives the display (hello)");
}

#[test]
fn a_dash_is_an_underscore_to_the_kernel() {
    let root = machine();
    root.module("snd-x", "1", "").loads(&["hello", "snd_x"]);
    assert_eq!(root.need("snd-x"), "wanted: loaded in the running kernel");
    root.device(DISK, "snd_x").interface("eth0", DISK, "", &[]).route("eth0");
    assert_eq!(root.need("snd-x"), "critical: drives the default route (snd_x)");
}

#[test]
fn the_kernels_own_module_of_the_same_name() {
    // dkms has built it for no kernel: what is loaded is the kernel's own, and will be there.
    let root = TestRoot::guarded();
    root.module("r8169", "9", "").device(DISK, "r8169").interface("eth0", DISK, "", &[]).route("eth0");
    root.file("proc/modules", "hello 16384 1 - Live 0x0 (OE)\nr8169 16384 1 - Live 0x0\n");
    assert_eq!(root.need("r8169"), "optional: the kernel's own r8169 is loaded in its place");
    // Built in, so that nothing hangs on a file.
    root.loads(&["hello"]);
    assert!(root.need("r8169").starts_with("optional: neither loaded"), "{}", root.need("r8169"));
    // Installed by dkms: whatever its taint says, it is that one.
    root.installed("r8169", "9", A)
        .file("proc/modules", "hello 16384 1 - Live 0x0 (OE)\nr8169 16384 1 - Live 0x0\n");
    assert_eq!(root.need("r8169"), "critical: drives the default route (r8169)");
}

#[test]
fn what_is_plugged_in_for_a_while() {
    let stick = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0";
    let root = machine();
    root.device(stick, "hello").block("8:33", &format!("{stick}/host4/block/sdc/sdc1"), &[]);
    root.file(&format!("sys/devices/{stick}/host4/block/sdc/sdc1/partition"), "1\n");
    root.file(&format!("sys/devices/{stick}/host4/block/sdc/removable"), "1\n");
    root.file(&format!("sys/devices/{stick}/host4/block/sdc/dev"), "8:32\n");
    for (point, needed) in [
        ("/run/media/me/STICK", "wanted: loaded in the running kernel"),
        ("/mnt/stick", "wanted: loaded in the running kernel"),
        // A system on a stick.
        ("/", "critical: backs / (hello)"),
        ("/boot", "critical: backs /boot (hello)"),
    ] {
        root.mounts(&[("8:33", point, "ext4", "/dev/sdc1")]);
        assert_eq!(root.need("hello"), needed, "{point}");
    }
}

#[test]
fn the_configuration_has_the_last_word() {
    let root = TestRoot::guarded();
    for (class, other) in [("optional", "critical"), ("wanted", "critical")] {
        root.conf(&format!("[modules]\n{class} = hello\n"));
        assert_eq!(root.need("hello"), format!("{class}: listed in clr-dkms.conf"), "not {other}");
    }
}

#[test]
fn two_modules_and_one_fails() {
    let root = TestRoot::guarded();
    root.module("second", "1", "").installed("second", "1", A).loads(&["hello", "second"]);
    root.behave(HELLO_FAILS_ON_B).post_update().code(1);
    let guard = root.guard();
    assert_eq!(guard["lacking"].as_array().unwrap().len(), 1);
    assert_eq!(guard["lacking"][0]["module"], "hello/1.0");
}
