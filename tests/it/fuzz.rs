//! Roots of the tests with some files changed: the programs crash on none of them, come to an end, answer in
//! JSON where that was asked for, and stay below 64 MiB.
//!
//! A hundred runs by default, always the same ones. `make fuzz` makes others; `CLR_DKMS_FUZZ` has the
//! arguments of `tests/support/fuzz.py`.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{A, B, TestRoot, elf, scratch};
use crate::{loading_initrd, schema, unread};

/// By default; the programs are those of the tests.
const DEFAULT: &str = "--runs 100 --seed 13";

/// A system that is not running, with a module in each form in which a file can be.
fn image() -> TestRoot {
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).kernel(B);
    for (name, ending) in [("plain", ""), ("zipped", ".gz"), ("small", ".xz"), ("quick", ".zst")] {
        root.module(
            name,
            "1.0",
            "BUILD_EXCLUSIVE_KERNEL=\"^6\"\nMAKE[0]=\"make KERNELRELEASE=$kernelver\"\n",
        );
        root.installed(name, "1.0", A);
        let ko = root.at(&TestRoot::ko(name, A));
        let packed = |program: &str| {
            let done = Command::new(program).args(["-c", "-q"]).arg(&ko).output();
            done.ok().filter(|done| done.status.success()).map(|done| done.stdout)
        };
        let bytes = match ending {
            ".gz" => packed("gzip"),
            ".xz" => packed("xz"),
            ".zst" => packed("zstd"),
            _ => None,
        };
        if let Some(bytes) = bytes {
            root.file(&format!("{}{ending}", TestRoot::ko(name, A)), bytes).remove(&TestRoot::ko(name, A));
        }
    }
    root
}

/// A module that takes symbols of the kernel and of another module, on a kernel with lists of both.
fn symbols() -> TestRoot {
    let root = TestRoot::updated();
    for release in [A, B] {
        root.module("upper", "2", "").installed("upper", "2", release);
        let directory = format!("usr/lib/modules/{release}");
        let upper =
            elf::with_symbols(release, "lower", &[("printk", 7, false), ("low", 8, false)], &[("up", 9)]);
        root.file(&TestRoot::ko("upper", release), upper);
        root.file(
            &format!("{directory}/kernel/lower.ko"),
            elf::with_symbols(release, "", &[], &[("low", 8)]),
        );
        root.index(release, "kernel/own.ko:\nkernel/lower.ko:\nupdates/dkms/upper.ko: kernel/lower.ko\n");
        root.file(&format!("{directory}/modules.symbols"), "alias symbol:low lower\n");
        root.file(&format!("{directory}/modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
    }
    let symvers =
        "0x00000007\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x00000008\tlow\tkernel/lower\tEXPORT_SYMBOL\t\n";
    root.file(&format!("usr/lib/modules/{A}/build/Module.symvers"), symvers);
    root.file(&format!("usr/lib/kernel/System.map-{B}"), "00 R __ksymtab_printk\n00 T printk\n");
    root
}

/// The other boot loaders, and what DKMS has left of a kernel that is gone.
fn others() -> TestRoot {
    let root = TestRoot::guarded();
    root.remove("boot/loader")
        .file("boot/grub/grub.cfg", "set default=\"0\"\nmenuentry 'a' {\n linux /x quiet\n}\n");
    root.file("boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=a\n");
    root.file("boot/syslinux/syslinux.cfg", "DEFAULT a\nLABEL a\n KERNEL x\n APPEND quiet\n");
    root.file("boot/extlinux/extlinux.conf", "DEFAULT a\nLABEL a\n KERNEL x\n APPEND quiet\n");
    let gone = "6.1.1-1.native";
    root.file(&format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", gone)), elf::module(gone));
    root.file(&format!("{}/log/make.log", TestRoot::build("hello", "1.0", gone)), "make\n");
    root.file(&TestRoot::ko("hello", gone), elf::module(gone));
    root.file("etc/modprobe.d/a.conf", "blacklist hello\nalias net-pf-4 hello\nsoftdep hello pre: own\n");
    root.file("etc/modules-load.d/a.conf", "hello\n").file("etc/dkms/hello.conf", "AUTOINSTALL=yes\n");
    root.file("etc/kernel/cmdline.d/a.conf", "a=\"b c\"\n")
        .file("etc/kernel/cmdline-removal.d/b.conf", "quiet\n");
    root
}

/// The machine of the tests of initrds, with archives of each compression.
fn initrds() -> TestRoot {
    let root = loading_initrd::machine();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/initrd");
    for sample in ["gzip", "xz", "zstd", "lz4-legacy", "plain", "two-in-a-row"] {
        let bytes = std::fs::read(samples.join(format!("{sample}.img"))).unwrap();
        root.file(&format!("usr/lib/initrd.d/{sample}.cpio"), bytes);
    }
    root
}

fn copied(root: &TestRoot, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for (from, name) in [(root.path(), "root"), (&*root.tools(), "tools")] {
        let status = Command::new("cp").arg("-a").arg(from).arg(to.join(name)).status().unwrap();
        assert!(status.success());
    }
    let plain = root.command("clr-dkms", &[]);
    if plain.get_args().any(|word| word == "--live-root") {
        std::fs::write(to.join("live"), "").unwrap();
    }
}

#[test]
fn changed_roots_break_nothing() {
    if !Command::new("python3").arg("-V").output().is_ok_and(|done| done.status.success()) {
        crate::support::run::skipped("there is no python3");
        return;
    }
    let place = scratch::directory();
    let roots = place.path().join("roots");
    let scenes = [
        ("image", image()),
        ("symbols", symbols()),
        ("others", others()),
        ("initrds", initrds()),
        ("lacking", unread::lacking()),
        ("proven", unread::proven()),
        ("held", unread::held_by_admin()),
    ];
    for (name, root) in &scenes {
        copied(root, &roots.join(name));
    }
    let asked = std::env::var("CLR_DKMS_FUZZ").unwrap_or_else(|_| DEFAULT.to_owned());
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let answers = place.path().join("answers");
    let programs = Path::new(env!("CARGO_BIN_EXE_clr-dkms")).parent().unwrap();
    let status = Command::new("python3")
        .arg(directory.join("tests/support/fuzz.py"))
        .args([&roots, programs])
        .arg("--answers")
        .arg(&answers)
        .arg("--keep")
        .arg(directory.join("target/fuzz"))
        .args(asked.split_ascii_whitespace())
        .status();
    assert!(status.unwrap().success(), "what it was stands above, and the roots are in target/fuzz");
    let text = std::fs::read_to_string(&answers).unwrap();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(!answers.is_empty());
    let faults = schema::faults(&schema::schema(), "", answers.iter().map(|answer| ("status", answer)));
    assert!(faults.is_empty(), "{}", faults.chars().take(3000).collect::<String>());
}
