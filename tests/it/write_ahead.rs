//! What clr-boot-manager would delete and create is there already, by a rename, when it looks.

use crate::support::boot::{A_ENTRY, B_ENTRY, LOADER, path};
use crate::support::guard::{ID_A, ID_B};
use crate::support::{A, TestRoot};

const UCODE: &str = "usr/lib/initrd.d/00-intel-ucode.cpio";
const EXTRA: &str = "usr/lib/initrd.d/extra";
const IMAGES: &str = "boot/EFI/org.clearlinux";

/// The files that clr-boot-manager has changed in a run of the worker, below the boot partition.
fn changed_by_boot_manager(root: &TestRoot, program: &str, arguments: &[&str]) -> Vec<String> {
    let record = root.tools().join("changes");
    std::fs::write(&record, "").unwrap();
    std::fs::write(root.tools().join("switches"), format!("STAND_IN_CHANGES={}\n", record.display()))
        .unwrap();
    root.run(program, arguments);
    let text = root.redacted(&std::fs::read_to_string(&record).unwrap());
    text.lines().map(|line| line.trim_start_matches("ROOT/boot/").to_owned()).collect()
}

fn worker(root: &TestRoot) -> Vec<String> {
    changed_by_boot_manager(root, "clr-dkms-post-update", &[])
}

/// Both kernels have an entry and all of its files, and the newer one is the default.
fn booted() -> TestRoot {
    let root = TestRoot::proven().faithful();
    root.file(UCODE, "microcode").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    root
}

#[test]
fn entries_get_their_words_by_a_rename() {
    let root = booted();
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n").file("usr/lib/os-release", "PRETTY_NAME=\"Some OS\"\n");
    assert_eq!(worker(&root), [""; 0]);
    for entry in [A_ENTRY, B_ENTRY] {
        let text = root.text(&path(entry));
        assert!(text.starts_with("title Some OS\n") && text.ends_with(" x=1\n"), "{text}");
    }
    assert_eq!(root.record()["boot"]["entries"], "verified");
}

#[test]
fn files_that_entries_name_are_replaced_by_a_rename() {
    let root = booted();
    root.file(UCODE, "new microcode").file(EXTRA, "another initrd");
    assert_eq!(worker(&root), [""; 0]);
    assert_eq!(root.text(&format!("{IMAGES}/freestanding-00-intel-ucode.cpio")), "new microcode");
    let entry = root.text(&path(B_ENTRY));
    let at = |name: &str| entry.find(name).unwrap_or_else(|| panic!("{name} is not in {entry}"));
    assert!(at("ucode.cpio") < at("freestanding-extra"));
    // The image of a kernel that was installed once more.
    root.file(&format!("usr/lib/kernel/{ID_B}"), "another image");
    assert_eq!(worker(&root), [""; 0]);
    assert_eq!(root.text(&format!("{IMAGES}/kernel-{ID_B}")), "another image");
}

#[test]
fn one_kernel_alone_is_refreshed_by_renames_too() {
    let root = booted();
    root.run("clr-dkms", &["hold", A]).code(0);
    assert_eq!(root.boot_default(), ID_A);
    root.file("etc/kernel/cmdline.d/x.conf", "x=1\n").file(UCODE, "new microcode");
    assert_eq!(worker(&root), [""; 0]);
    assert!(root.text(&path(A_ENTRY)).ends_with(" x=1\n"));
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn another_default_is_set_by_a_rename() {
    let root = booted();
    assert_eq!(changed_by_boot_manager(&root, "clr-dkms", &["hold", A]), [""; 0]);
    assert_eq!(root.text(LOADER), format!("default {A_ENTRY}\n"));
    assert_eq!(changed_by_boot_manager(&root, "clr-dkms", &["unhold"]), [""; 0]);
    assert_eq!(root.text(LOADER), format!("default {B_ENTRY}\n"));
}

#[test]
fn what_cannot_be_foreseen_is_left_to_clr_boot_manager() {
    let root = booted();
    root.file(EXTRA, "one").file("usr/lib/initrd.d/more", "two");
    let changed = worker(&root);
    assert!(changed.iter().all(|file| file.starts_with("loader/entries/")), "{changed:?}");
    let entry = root.text(&path(B_ENTRY));
    assert!(entry.contains("freestanding-extra") && entry.contains("freestanding-more"), "{entry}");
    // An entry that somebody has written by hand.
    root.file(
        &path(B_ENTRY),
        format!("title Mine\nlinux /EFI/org.clearlinux/kernel-{ID_B}\noptions quiet\n"),
    );
    assert!(worker(&root).iter().any(|file| *file == format!("loader/entries/{B_ENTRY}")));
    assert!(root.text(&path(B_ENTRY)).contains("module.sig_unenforce"));
}
