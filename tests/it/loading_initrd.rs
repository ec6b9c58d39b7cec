//! A critical module that the running kernel takes from its initrd, and the initrd of the kernel that boots
//! next.

use crate::initrd::cpio;
use crate::loading::expect;
use crate::support::guard::{ID_A, ID_B};
use crate::support::{A, B, TestRoot, elf};

fn ko(release: &str, srcversion: &str) -> Vec<u8> {
    elf::with_modinfo(format!("srcversion={srcversion}\0vermagic={release} SMP\0").as_bytes())
}

pub(crate) fn initrd(release: &str, module: &str, srcversion: &str) -> Vec<u8> {
    cpio(&[(&format!("usr/lib/modules/{release}/updates/dkms/{module}.ko"), &ko(release, srcversion))])
}

/// `hello` backs `/data`, and is in the initrd that an admin made for the running kernel [`A`]; [`B`] has
/// none yet. Both kernels have the build 2.
pub(crate) fn machine() -> TestRoot {
    let root = TestRoot::proven();
    for release in [A, B] {
        let build = TestRoot::build("hello", "1.0", release);
        root.file(&format!("{build}/module/hello.ko"), ko(release, "TWO"));
        root.file(&TestRoot::ko("hello", release), ko(release, "TWO"));
    }
    root.file(&format!("etc/kernel/initrd-{ID_A}"), initrd(A, "hello", "TWO"));
    root
}

#[test]
fn a_kernel_without_the_module_in_its_initrd_is_held_back() {
    let root = machine();
    root.post_update().code(1).says(&["6.15.7-1591.native is the boot default again"]);
    assert_eq!(root.boot_default(), ID_A);
    expect(&root, "held", 1, ["ok", "initrd-stale"]);
    let document = root.run("clr-dkms", &["status", "--json"]).json();
    let problems: Vec<&str> =
        document["problems"].as_array().unwrap().iter().filter_map(|p| p.as_str()).collect();
    let expected = format!("ROOT/etc/kernel/initrd-{ID_B}");
    assert!(problems.iter().any(|p| p.ends_with(&expected)), "{problems:?}");
    assert!(document["next_step"].as_str().unwrap().contains("initrd-command"), "{}", document["next_step"]);
    // Its initrd is made.
    root.file(&format!("etc/kernel/initrd-{ID_B}"), initrd(B, "hello", "TWO"));
    root.post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    // It is not read again by the next run, and an unchanged cache is not written.
    let cache = root.text("var/cache/clr-dkms/facts.json");
    assert!(cache.contains(&format!("initrd-{ID_B}")));
    root.post_update().code(0);
    assert_eq!(root.text("var/cache/clr-dkms/facts.json"), cache);
}

#[test]
fn what_the_initrd_of_the_next_kernel_holds_counts() {
    let freestanding = "usr/lib/initrd.d/extras.cpio";
    let both = [initrd(A, "hello", "TWO"), initrd(B, "hello", "TWO")].concat();
    let other = cpio(&[("usr/lib/modules/x/a.ko", &ko("x", "A"))]);
    let foreign = {
        let path = format!("usr/lib/modules/{B}/updates/dkms/hello.ko");
        cpio(&[(&path, &ko(A, "TWO"))])
    };
    let nothing_known = {
        let path = format!("usr/lib/modules/{B}/updates/dkms/hello.ko");
        cpio(&[(&path, &elf::with_modinfo(format!("vermagic={B} SMP\0").as_bytes()))])
    };
    let table: [(Vec<u8>, &str, i32, &str, &str); 6] = [
        (initrd(B, "hello", "TWO"), "reboot-pending", 0, "ok", ""),
        (
            initrd(B, "hello", "ONE"),
            "unsafe",
            2,
            "initrd-stale",
            "another build of hello than the installed one",
        ),
        (foreign, "unsafe", 2, "initrd-stale", "was made for 6.15.7-1591.native"),
        (other, "unsafe", 2, "initrd-stale", "does not contain hello"),
        (nothing_known, "unknown", 3, "unknown", "it is unknown whether the initrd of"),
        (b"garbage".to_vec(), "unknown", 3, "unknown", "not a cpio archive"),
    ];
    for (bytes, verdict, code, state, why) in table {
        let root = machine();
        root.file(&format!("etc/kernel/initrd-{ID_B}"), bytes);
        expect(&root, verdict, code, ["ok", state]);
        let document = root.run("clr-dkms", &["status", "--json"]).json();
        let module = document["modules"].as_array().unwrap().iter().find(|m| m["kernel"] == B).unwrap();
        assert!(module["reason"].as_str().unwrap_or_default().contains(why), "{}", module["reason"]);
    }
    // A freestanding initrd is loaded with every kernel, also compressed; a vendor's beside the image counts
    // too.
    let root = machine();
    root.remove(&format!("etc/kernel/initrd-{ID_A}")).file(freestanding, &both);
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    root.remove(freestanding).file(&format!("usr/lib/kernel/initrd-{ID_A}"), initrd(A, "hello", "TWO"));
    expect(&root, "unsafe", 2, ["ok", "initrd-stale"]);
    root.file(&format!("usr/lib/kernel/initrd-{ID_B}"), initrd(B, "hello", "TWO"));
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
}

#[test]
fn the_running_kernel_was_started_with_what_its_initrd_holds() {
    let root = machine();
    root.file(&format!("etc/kernel/initrd-{ID_A}"), initrd(A, "hello", "ONE"));
    root.file(&format!("etc/kernel/initrd-{ID_B}"), initrd(B, "hello", "TWO"));
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    let document = root.run("clr-dkms", &["status", "--json"]).json();
    assert!(
        document["notes"][0].as_str().unwrap().contains("another build of hello"),
        "{}",
        document["notes"]
    );
}

#[test]
fn nothing_is_held_for_a_module_that_nothing_depends_on() {
    let root = machine();
    root.mounts(&[]).remove("var/lib/clr-dkms/last-run.json").forget();
    root.post_update();
    assert_eq!(root.boot_default(), ID_B);
    // That the admin's initrd has no successor is reported.
    expect(&root, "degraded", 1, ["ok", "ok"]);
    root.remove(&format!("etc/kernel/initrd-{ID_A}")).post_update().code(0);
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
}

#[test]
fn a_driver_of_the_root_disk_in_an_initrd_of_ones_own() {
    let root = machine();
    let archive = [initrd(A, "hello", "TWO"), initrd(A, "nvme", "N")].concat();
    root.file(&format!("etc/kernel/initrd-{ID_A}"), archive);
    root.loads(&["hello", "nvme"]).block("259:1", "pci0/nvme0/nvme0n1", &[]).device("pci0/nvme0", "nvme");
    root.mounts(&[("259:1", "/", "ext4", "/dev/nvme0n1")]);
    // hello is loaded, and nothing depends on it; the disk depends on nvme.
    root.remove("var/lib/clr-dkms/last-run.json").post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
    let lacking = root.guard()["lacking"][0].clone();
    assert_eq!(lacking["module"], format!("initrd/{B}"));
    assert_eq!(lacking["needed"], format!("backs / (nvme), from the initrd of {A}"));
    root.run("clr-dkms", &["status"]).code(1).shows(&["held: "]);
    // In the image of the new kernel it is needed no more.
    root.file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/drivers/nvme/host/nvme.ko\n");
    root.post_update();
    assert_eq!(root.boot_default(), ID_B);
}

/// The same on a machine without any module of DKMS.
#[test]
fn initrds_are_read_without_any_module_of_dkms() {
    let root = TestRoot::updated();
    root.entry(ID_A, "quiet rw", true);
    root.file(&format!("etc/kernel/initrd-{ID_A}"), initrd(A, "nvme", "N"));
    root.loads(&["nvme"]).block("259:1", "pci0/nvme0/nvme0n1", &[]).device("pci0/nvme0", "nvme");
    root.mounts(&[("259:1", "/", "ext4", "/dev/nvme0n1")]);
    assert!(!root.has("usr/src/hello-1.0/dkms.conf"));
    root.post_update();
    assert_eq!(root.boot_default(), ID_A);
    assert_eq!(root.guard()["lacking"][0]["module"], format!("initrd/{B}"));
    // What an initrd contains that cannot be read is unknown.
    root.file(&format!("etc/kernel/initrd-{ID_A}"), "garbage").post_update();
    assert_eq!(root.boot_default(), ID_A);
    let lacking = root.guard()["lacking"][0].clone();
    assert_eq!((&lacking["module"], &lacking["state"]), (&format!("initrd/{B}").into(), &"unknown".into()));
    root.file(&format!("usr/lib/modules/{B}/modules.builtin"), "kernel/drivers/nvme/host/nvme.ko\n");
    root.post_update();
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn a_command_makes_the_initrd_before_the_boot_entry() {
    use std::os::unix::fs::PermissionsExt;

    let root = machine();
    let made = root.outside().join("made.img");
    let wrong = root.outside().join("wrong.img");
    std::fs::write(&made, initrd(B, "hello", "TWO")).unwrap();
    std::fs::write(&wrong, initrd(B, "hello", "ONE")).unwrap();
    let program = |from: &std::path::Path| {
        let script = root.tools().join("make-initrd");
        let calls = root.outside().join("calls");
        let text = format!(
            "#!/bin/bash\necho \"$*\" >> {}\ncp {} {}/etc/kernel/initrd-\"$2\"\n",
            calls.display(),
            from.display(),
            root.path().display()
        );
        // A new file: the old one may still be open in a child of another test.
        let new = root.tools().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, script).unwrap();
    };
    let calls = || std::fs::read_to_string(root.outside().join("calls")).unwrap_or_default();
    root.conf("[boot]\ninitrd-command = make-initrd 'for {kernel}' {id}\n");
    // One that does not help holds the kernel, and is not run again for the same modules.
    program(&wrong);
    root.post_update().code(1).says(&["running ", "another build of hello"]);
    assert_eq!(root.boot_default(), ID_A);
    assert_eq!(calls(), format!("for {B} {ID_B}\n"));
    root.post_update().code(1);
    assert_eq!(calls().lines().count(), 1);
    // With another command.
    program(&made);
    root.conf("[boot]\ninitrd-command = make-initrd again {id}\n");
    root.post_update().code(0).says(&["has built an initrd for 6.15.8-1592.native"]);
    assert_eq!((root.boot_default().as_str(), calls().lines().count()), (ID_B, 2));
    expect(&root, "reboot-pending", 0, ["ok", "ok"]);
    // What fails is reported; a program of the root itself is not run for it.
    root.remove(&format!("etc/kernel/initrd-{ID_B}"));
    root.conf("[boot]\ninitrd-command = /bin/false {id}\n");
    root.post_update().code(1).says(&["/bin/false of another root is not run"]);
    assert_eq!(root.boot_default(), ID_A);
}
