//! Machines whose documents are compared with the schema.

use std::fs;

use crate::enforcement_roots::SITUATIONS;
use crate::support::guard::FAILS_ON_B;
use crate::support::{A, B, LTS, TestRoot};
use crate::trial::{armed, booted, check};

/// Somebody holds the lock, as a run at work does.
fn at_work() -> TestRoot {
    let root = TestRoot::guarded();
    root.file(
        "var/lib/clr-dkms/in-progress.json",
        r#"{"schema": 1, "started": "2025-07-29T12:00:00Z", "pid": 1,
            "builds": ["hello/1.0 on 6.15.8-1592.native"]}"#,
    );
    root.file("run/clr-dkms.lock", "");
    root
}

fn with_errors() -> TestRoot {
    let root = TestRoot::held();
    // Beside kernels without headers, with those of another one, and of a variant that is given up.
    let of_another = format!("usr/lib/modules/{LTS}/build/include/config/kernel.release");
    root.kernel(LTS).headers(LTS).tip(LTS).file(&of_another, A);
    root.kernel("5.15.1-7.lts2021").tip("5.15.1-7.lts2021").kernel("6.1.1-7.kvm").tip("6.1.1-7.kvm");
    root.link("usr/lib/modules/6.1.1-7.kvm/build", "build");
    root.file("usr/lib/kernel/README", "x").file("etc/swupd/config", "[update]\nno_boot_update=false\n");
    root.behave("code=10; said=$'/src/hello.c:12:5: error: no\\n  y = 3;\\n  ^'");
    root.run("clr-dkms", &["rebuild"]).code(1);
    root
}

/// A vendor's driver of the network, a swap disk and a pool, and what was used in an earlier boot.
fn unmanaged() -> TestRoot {
    let root = TestRoot::guarded();
    let disk = "pci0000:00/0000:00:1d.0/0000:02:00.0";
    root.post_update().code(0);
    root.boot("1").file(&format!("usr/lib/modules/{A}/extra/vendor.ko"), crate::support::elf::module(A));
    root.index(A, "updates/dkms/hello.ko:\nextra/vendor.ko:\n").loads(&["vendor", "zfs"]).mounts(&[]);
    root.device(disk, "vendor").interface("eth0", disk, "", &[]).route("eth0");
    root.block("8:3", &format!("{disk}/ata1/host0/block/sda/sda3"), &[]);
    root.file("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda3 partition 1 0 -2\n");
    root.module("zfs", "2.3", "").file("proc/spl/kstat/zfs/tank/state", "ONLINE\n");
    root.module("gone", "1", "").remove("usr/src/gone-1");
    root.module("late", "1", "").file("etc/modules-load.d/late.conf", "late\n");
    root
}

/// A hold of a kernel that is not there.
const GONE: &str = r#"{"schema": 1, "hold": "6.1.1-1.native",
    "held": {"by": "admin", "since": "2025-07-29T12:00:00Z", "reason": "a test"}}"#;

/// An installed module has a byte behind its signature.
fn longer_than_signed(root: TestRoot) -> TestRoot {
    let bytes = [fs::read(root.at(&TestRoot::ko("hello", A))).unwrap(), b"\n".to_vec()].concat();
    let built = format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", A));
    root.file(&built, &bytes).file(&TestRoot::ko("hello", A), &bytes);
    root
}

/// A machine of each kind.
pub(super) fn all() -> Vec<(&'static str, TestRoot)> {
    let with = |root: TestRoot, change: fn(&TestRoot)| {
        change(&root);
        root
    };
    let mut roots = vec![
        ("healthy", TestRoot::proven().rebooted(B)),
        ("reboot-pending", TestRoot::proven()),
        ("building", at_work()),
        ("before the first run", TestRoot::guarded()),
        (
            "degraded",
            with(TestRoot::proven().rebooted(B), |r| r.file("etc/kernel/cmdline.d/x.conf", "x=1\n").forget()),
        ),
        ("headers of each kind", with_errors()),
        (
            "an older version is in force",
            with(TestRoot::proven().rebooted(B), |r| {
                r.module("hello", "9.0", "").behave("[[ $verb != build ]] || code=10");
                drop(r.run("clr-dkms-post-update", &[]));
            }),
        ),
        ("held", TestRoot::held()),
        ("on trial", booted(armed(), B, "2")),
        (
            "a failed trial",
            with(booted(armed(), B, "2"), |r| {
                check(r);
                r.post_update();
            }),
        ),
        ("unsafe", with(TestRoot::held(), |r| r.updated_by_hand().forget())),
        ("unknown", with(TestRoot::guarded(), |r| r.link("usr/lib/kernel", "kernel").forget())),
        ("not-applicable", TestRoot::new()),
        (
            "an image",
            with(TestRoot::new(), |r| r.kernel(B).headers(B).tip(B).module("hello", "1.0", "").forget()),
        ),
        (
            "released",
            with(TestRoot::held(), |r| {
                let words = ["allow", B, "--without", "hello", "--yes", "--force", "--reason", "no data"];
                drop(r.run("clr-dkms", &words));
            }),
        ),
        (
            "a hold of what is gone",
            with(TestRoot::proven(), |r| {
                r.file("var/lib/clr-dkms/boot-wishes.json", GONE);
                r.file("run/swupd/config", "[update]\nurl=x").forget()
            }),
        ),
        (
            "a module that nobody registered",
            with(TestRoot::guarded(), |r| {
                r.behave(FAILS_ON_B).conf("[modules]\ncritical = none\n").post_update();
            }),
        ),
    ];
    roots.push(("modules that DKMS does not manage", unmanaged()));
    let foreign = TestRoot::proven().running("6.16.0-custom");
    foreign.file("etc/kernel/cmdline.d/x.conf", "x=1\n").post_update();
    roots.push(("boot files that wait", foreign));
    let signed = ["signed_module_of_a_foreign_key", "signed_module_that_may_be_trusted", "broken_signature"];
    roots.extend(SITUATIONS.iter().filter(|s| signed.contains(&s.name)).map(|s| (s.name, (s.root)())));
    let signed = SITUATIONS.iter().find(|s| s.name == signed[0]).unwrap();
    roots.push(("a byte behind the signature", longer_than_signed((signed.root)())));
    roots.push((
        "a masked unit",
        with(crate::automation::installed(), |r| {
            r.link("etc/systemd/system/clr-dkms.service", "/dev/null");
        }),
    ));
    roots.push((
        "a changed source",
        with(TestRoot::proven(), |r| r.file("usr/src/hello-1.0/hello.c", "changed").forget()),
    ));
    roots.push(("a blacklisted driver", crate::add_side_files::blacklisted()));
    assert_eq!(roots.len(), 26, "three situations of these names");
    roots
}
