//! A kernel without a required module may have another one for the same device, filesystem or interface:
//! drivers are renamed, become part of others, and are taken into the kernel.

use crate::loading_initrd::initrd;
use crate::requirements::{on, put, status, vendor, verdict};
use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::{A, B, TestRoot, elf};

const CARD: &str = "pci0000:00/0000:00:1f.6";
const MODALIAS: &str = "pci:v00001234d00005678sv0";

/// A module of [`B`] with that alias, and its line in `modules.alias`.
fn serve(root: &TestRoot, path: &str, alias: &str) {
    put(root, B, path, alias);
    let module = path.rsplit('/').next().unwrap().trim_end_matches(".ko");
    list(root, alias, module);
}

/// A line in `modules.alias` of [`B`].
fn list(root: &TestRoot, alias: &str, module: &str) {
    let file = format!("usr/lib/modules/{B}/modules.alias");
    let before = if root.has(&file) { root.text(&file) } else { "# Aliases\n".to_owned() };
    root.file(&file, format!("{before}alias {alias} {module}\n"));
}

/// `hello` drives the card of the default route.
fn with_card(root: TestRoot) -> TestRoot {
    root.mounts(&[]).device(CARD, "hello").interface("eth0", CARD, "", &[]).route("eth0");
    root.file(&format!("sys/devices/{CARD}/modalias"), format!("{MODALIAS}\n"));
    root
}

/// [`A`] runs with its own driver `hello`, which drives the default route and which an admin has listed.
fn in_tree() -> TestRoot {
    let root = with_card(vendor());
    root.remove(&format!("usr/lib/modules/{A}/extra/hello.ko")).index(A, "kernel/own.ko:\n");
    put(&root, A, "kernel/net/hello.ko", "pci:v00001234d*");
    root.file("proc/modules", "hello 16384 1 - Live 0x0000000000000000\n");
    root.conf("[modules]\ncritical = hello\n");
    root
}

/// The boot default after a run.
fn chosen(root: &TestRoot) -> String {
    root.post_update();
    root.boot_default()
}

/// Why [`B`] lacks what it lacks.
fn lacking(root: &TestRoot) -> String {
    root.guard()["lacking"][0]["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_driver_of_the_kernel_was_renamed() {
    let root = in_tree();
    assert_eq!(chosen(&root), ID_A);
    verdict(&root, "held", 1);
    let root = in_tree();
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*sv*");
    assert_eq!(chosen(&root), ID_B);
    verdict(&root, "reboot-pending", 0);
    let (state, _) = on(&root, "hello", B);
    assert_eq!(state, "ok");
    let notes = status(&root)["notes"].to_string();
    let note = format!("in place of hello, kernel {B} has hello_ng for {MODALIAS}");
    assert!(notes.contains(&note), "{notes}");
    // After the reboot it is found by its new name, and the next kernel must have one of the two.
    let root = root.running(B);
    root.device(CARD, "hello_ng").file("proc/modules", "hello_ng 16384 1 - Live 0x0000000000000000\n");
    root.post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!(root.guard()["needs"][0]["works"], true);
    verdict(&root, "healthy", 0);
}

#[test]
fn a_driver_has_become_part_of_another_module_or_of_the_image() {
    // Both names are listed for the card; the old one has no file any more.
    let root = in_tree();
    list(&root, "pci:v00001234d*", "hello");
    serve(&root, "kernel/net/family.ko", "pci:v0000123[34]d*");
    assert_eq!(chosen(&root), ID_B);
    let root = in_tree();
    let modules = format!("usr/lib/modules/{B}");
    root.file(&format!("{modules}/modules.builtin"), "kernel/net/family.ko\n")
        .file(&format!("{modules}/modules.builtin.modinfo"), "family.alias=pci:v00001234d*\0");
    assert_eq!(chosen(&root), ID_B);
    verdict(&root, "reboot-pending", 0);
}

#[test]
fn a_driver_of_other_devices_takes_no_place() {
    let root = in_tree();
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00009999d*");
    assert_eq!(chosen(&root), ID_A);
    verdict(&root, "held", 1);
    assert_eq!(on(&root, "hello", B).0, "not-managed");
    // The list is an old one: the file has no such alias.
    let root = in_tree();
    put(&root, B, "kernel/net/hello-ng.ko", "pci:v00009999d*");
    list(&root, "pci:v00001234d*", "hello_ng");
    assert_eq!(chosen(&root), ID_A);
    // Nor one that is made for another kernel, or has no file.
    let root = in_tree();
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*");
    let modinfo = format!("alias=pci:v00001234d*\0vermagic={A} SMP preempt mod_unload \0");
    let file = format!("usr/lib/modules/{B}/kernel/net/hello-ng.ko");
    root.file(&file, elf::with_modinfo(modinfo.as_bytes()));
    assert_eq!(chosen(&root), ID_A);
    let reason = lacking(&root);
    assert!(reason.contains(&format!("hello_ng serves {MODALIAS} there: ")), "{reason}");
    root.remove(&file);
    assert_eq!(chosen(&root), ID_A);
}

#[test]
fn one_of_several_suffices_and_each_use_needs_one() {
    let root = in_tree();
    serve(&root, "kernel/net/broken.ko", "pci:v00001234d*");
    root.file(&format!("usr/lib/modules/{B}/kernel/net/broken.ko"), elf::module(A));
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*");
    assert_eq!(chosen(&root), ID_B);
    // A second card of another kind.
    let two = || {
        let root = in_tree();
        let other = "pci0000:00/0000:00:1e.0";
        root.device(other, "hello").interface("eth1", other, "", &[]);
        root.file(&format!("sys/devices/{other}/modalias"), "pci:v00001234d0000AAAAsv0\n");
        root.interface("bond0", "virtual", "", &["eth0", "eth1"]).route("bond0");
        serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d00005678sv*");
        root
    };
    assert_eq!(chosen(&two()), ID_A);
    let root = two();
    serve(&root, "kernel/net/other.ko", "pci:v00001234d0000AAAAsv*");
    assert_eq!(chosen(&root), ID_B);
}

#[test]
fn a_filesystem_is_found_by_its_type() {
    let root = vendor();
    serve(&root, "kernel/fs/hello3.ko", "fs-hello");
    assert_eq!(chosen(&root), ID_B);
    verdict(&root, "reboot-pending", 0);
    let root = vendor();
    serve(&root, "kernel/fs/hello3.ko", "fs-hello3");
    assert_eq!(chosen(&root), ID_A);
    verdict(&root, "held", 1);
}

#[test]
fn what_is_not_known_of_the_aliases_is_unknown() {
    let root = in_tree();
    // Too large to be read, and a loop that nothing can read.
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*");
    let list = format!("usr/lib/modules/{B}/modules.alias");
    root.file(&list, vec![b'#'; 5 << 20]);
    assert_eq!(chosen(&root), ID_A);
    assert_eq!(on(&root, "hello", B).0, "unknown");
    root.link(&list, "modules.alias");
    assert_eq!(chosen(&root), ID_A);
    assert_eq!(on(&root, "hello", B).0, "unknown");
    // What is built in is not known, and no file serves it.
    let root = in_tree();
    root.remove(&format!("usr/lib/modules/{B}/modules.builtin.modinfo"));
    assert_eq!((chosen(&root).as_str(), on(&root, "hello", B).0.as_str()), (ID_A, "unknown"));
    // Neither is what a file serves that is not a module.
    let root = in_tree();
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*");
    root.file(&format!("usr/lib/modules/{B}/kernel/net/hello-ng.ko"), "no module");
    assert_eq!((chosen(&root).as_str(), on(&root, "hello", B).0.as_str()), (ID_A, "unknown"));
}

#[test]
fn what_keeps_modules_away_keeps_the_other_one_away() {
    for (line, words) in [
        ("blacklist hello-ng\n", ""),
        ("install hello_ng /bin/false\n", ""),
        ("alias pci:v00001234d* off\n", ""),
        ("", "module_blacklist=hello_ng"),
        ("", "modprobe.blacklist=hello_ng"),
    ] {
        let root = in_tree();
        serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*");
        root.file("etc/modprobe.d/x.conf", line);
        root.file("etc/kernel/cmdline.d/x.conf", format!("{words}\n"));
        assert_eq!(chosen(&root), ID_A, "{line}{words}");
        assert_eq!(on(&root, "hello", B).0, "not-managed", "{line}{words}");
        let reason = lacking(&root);
        assert!(reason.contains(&format!("has no module hello; hello_ng serves {MODALIAS}")), "{reason}");
        verdict(&root, "held", 1);
        // Another one is not concerned.
        serve(&root, "kernel/net/third.ko", "pci:v00001234d*");
        let expected = if line.starts_with("alias") { ID_A } else { ID_B };
        assert_eq!(chosen(&root), expected, "{line}{words}");
    }
    // An alias in modprobe.d may lead to it, too.
    let root = in_tree();
    serve(&root, "kernel/net/hello-ng.ko", "pci:v00001234d*");
    root.file("etc/modprobe.d/x.conf", "alias pci:v00001234d* hello-ng\n");
    assert_eq!(chosen(&root), ID_B);
}

#[test]
fn a_network_driver_of_dkms_is_replaced_by_one_of_the_kernel() {
    let new = |alias: &str| {
        let root = with_card(TestRoot::guarded());
        root.behave(FAILS_ON_B);
        serve(&root, "kernel/net/hello-ng.ko", alias);
        root
    };
    let root = new("pci:v00009999d*");
    root.post_update().code(1);
    assert_eq!(root.need("hello"), "critical: drives the default route (hello)");
    assert_eq!(root.boot_default(), ID_A);
    verdict(&root, "held", 1);
    let root = new("pci:v00001234d*");
    root.post_update().code(1);
    assert_eq!(root.boot_default(), ID_B);
    // That it does not build any more is reported, and nothing is lost.
    verdict(&root, "degraded", 1);
    assert_eq!(on(&root, "hello", B).0, "build-failed");
    assert!(status(&root)["notes"].to_string().contains("in place of hello, kernel "));
    // After the reboot, too; and the boot counts.
    let root = root.running(B);
    root.device(CARD, "hello_ng").file("proc/modules", "hello_ng 16384 1 - Live 0x0000000000000000\n");
    root.post_update();
    assert_eq!(root.boot_default(), ID_B);
    assert_eq!(root.need("hello"), "critical: drives the default route (hello)");
    assert_eq!(root.guard()["needs"][0]["works"], true);
    verdict(&root, "degraded", 1);
    let may_mark = || root.run("clr-dkms", &["guard", "--may-mark-booted"]).code;
    assert_eq!(may_mark(), 0);
    root.file("proc/modules", "");
    assert_eq!(may_mark(), 1);
}

#[test]
fn what_the_initrd_has_to_hold_it_has_to_hold_under_the_other_name() {
    let root = TestRoot::guarded();
    root.behave(FAILS_ON_B).file(&format!("etc/kernel/initrd-{ID_A}"), initrd(A, "hello", "ONE"));
    serve(&root, "kernel/fs/hello-ng.ko", "fs-hello");
    let of_b = format!("etc/kernel/initrd-{ID_B}");
    assert_eq!(chosen(&root), ID_A);
    root.file(&of_b, initrd(B, "hello", "ONE"));
    assert_eq!(chosen(&root), ID_A);
    root.file(&of_b, "damaged");
    assert_eq!(chosen(&root), ID_A);
    root.file(&of_b, initrd(B, "hello-ng", "ONE"));
    assert_eq!(chosen(&root), ID_B);
}
