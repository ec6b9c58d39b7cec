//! What lies in the boot partition, as `clr-dkms status` tells it.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::boot::{A_ENTRY, B_ENTRY, LOADER, path};
use crate::support::guard::{ID_A as A_ID, ID_B as B_ID};
use crate::support::{A, B, LTS, TestRoot};

/// A healthy system after an update: A runs, B is the tip, both have entries, and B is the default.
fn healthy() -> TestRoot {
    let root = TestRoot::system();
    root.module("hello", "1.0", "").post_update().code(0);
    root.kernel(B).headers(B).tip(B).post_update().code(0);
    root
}

/// The lines of a list in `clr-dkms status --json`; the text says the same.
#[track_caller]
fn shown(root: &TestRoot, list: &str) -> Vec<String> {
    let json = root.run("clr-dkms", &["status", "--json"]).json();
    let lines: Vec<String> =
        json[list].as_array().unwrap().iter().map(|l| root.redacted(l.as_str().unwrap())).collect();
    let text = root.run("clr-dkms", &["status"]).stdout;
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for line in &lines {
        assert!(flat(&text).contains(&flat(line)), "no {line:?} in\n{text}");
    }
    lines
}

#[track_caller]
fn is_healthy(root: &TestRoot, notes: &[&str]) {
    root.run("clr-dkms", &["status"]).code(0);
    assert_eq!(shown(root, "problems"), [""; 0]);
    assert_eq!(shown(root, "notes"), notes);
}

#[track_caller]
fn is_degraded(root: &TestRoot, problems: &[&str]) {
    root.run("clr-dkms", &["status"]).code(1);
    assert_eq!(shown(root, "problems"), problems);
}

#[test]
fn all_is_well() {
    is_healthy(&healthy(), &[]);
}

#[test]
fn an_empty_entry_and_an_empty_loader_conf() {
    let root = healthy();
    root.file(&path("other.conf"), "");
    is_degraded(&root, &["ROOT/boot/loader/entries/other.conf is empty; delete it"]);
    root.remove(&path("other.conf")).file(LOADER, "");
    is_degraded(&root, &["ROOT/boot/loader/loader.conf is empty; delete it"]);
    // What the loader does not take for an entry is none.
    let root = healthy();
    root.file(&path("README"), "").file(&path(".x.conf"), "");
    is_healthy(&root, &[]);
}

#[test]
fn an_entry_of_a_vanished_kernel() {
    let root = healthy();
    let entry = |id: &str| format!("title X\nlinux /EFI/org.clearlinux/kernel-{id}\noptions quiet\n");
    root.file(&path("Clear-linux-native-6.1.1-9.conf"), entry("org.clearlinux.native.6.1.1-9"));
    let gone = "the boot entry Clear-linux-native-6.1.1-9.conf is of the kernel org.clearlinux.native.6.1.1-9, \
                which is not installed; delete the entry";
    is_healthy(&root, &[gone]);
    // It is the next boot's: then it is a kernel without modules that boots.
    root.file(LOADER, "default Clear-linux-native-6.1.1-9.conf\n");
    root.run("clr-dkms", &["status"]).code(2).shows(&["unsafe: "]);
    let next = "kernel 6.1.1-9.native boots next, which is not installed any more: without its modules";
    // Without its default entry the loader boots what it likes.
    let set = gone.replace(
        "delete the entry",
        "make an installed kernel the boot default with `sudo clr-boot-manager set-kernel KERNEL_ID`, and delete the entry only then",
    );
    assert_eq!(shown(&root, "problems"), [next.to_owned(), set]);
}

#[test]
fn entries_of_others_are_left_alone() {
    let root = healthy();
    root.file(&path("windows.conf"), "title Windows\nefi /EFI/Microsoft/Boot/bootmgfw.efi\n")
        .file(&path("arch.conf"), "title Arch\nlinux /vmlinuz-linux\noptions rw\n")
        .file(&path("solus.conf"), "linux /EFI/com.solus-project/kernel-com.solus-project.current.6.1.1-9\n")
        .file(&path("debian.conf"), "linux /vmlinuz-6.1.0-9-amd64\n");
    is_healthy(&root, &[]);
    root.file(LOADER, "default windows.conf\n");
    is_healthy(&root, &["the boot default is windows.conf, which is not a kernel of clr-boot-manager"]);
}

#[test]
fn two_entries_for_one_kernel() {
    let root = healthy();
    root.file(&path("a-copy.conf"), format!("linux /EFI/org.clearlinux/kernel-{B_ID}\noptions other\n"));
    // clr-boot-manager's own is the one that counts.
    is_healthy(&root, &[&format!("the kernel {B_ID} has 2 boot entries: {B_ENTRY}, a-copy.conf")]);
    // Unless the other one is what boots.
    root.file(LOADER, "default a-copy.conf\n");
    let problems = [
        format!("kernel {B} will refuse hello/1.0 at the next boot (EKEYREJECTED)"),
        "the boot entry a-copy.conf has another command line than configured".to_owned(),
    ];
    is_degraded(&root, &[&problems[0], &problems[1]]);
}

#[test]
fn an_entry_that_boots_a_copy() {
    let root = healthy();
    let entry = root.text(&path(B_ENTRY)).replace(B_ID, &format!("{B_ID}.bak"));
    root.file(&path(B_ENTRY), entry);
    is_degraded(
        &root,
        &[&format!(
            "the boot entry {B_ENTRY} boots {B_ID}.bak, a copy of {B_ID}; move the copy out of ROOT/usr/lib/kernel, \
             then run `sudo clr-boot-manager update`"
        )],
    );
    // Of a kernel that is neither a tip nor the default it is odd.
    let root = healthy();
    let entry = root.text(&path(A_ENTRY)).replace(A_ID, &format!("{A_ID}.bak"));
    root.file(&path(A_ENTRY), entry);
    assert_eq!(shown(&root, "problems"), [""; 0]);
    assert!(shown(&root, "notes")[0].contains(&format!("boots {A_ID}.bak, a copy of {A_ID}")));
}

#[test]
fn a_variable_chooses_for_the_next_boot() {
    let root = healthy();
    root.loader_variable("LoaderEntryOneShot", &A_ENTRY.to_uppercase());
    is_healthy(
        &root,
        &[&format!(
            "the EFI variable LoaderEntryOneShot chooses {A_ID} (entry {A_ENTRY}) for the next boot only; \
             `bootctl set-oneshot \"\"` takes it back"
        )],
    );
}

#[test]
fn a_variable_chooses_for_every_boot() {
    let root = healthy();
    root.loader_variable("LoaderEntryDefault", A_ENTRY);
    is_healthy(
        &root,
        &[&format!(
            "the EFI variable LoaderEntryDefault chooses {A_ID} (entry {A_ENTRY}) for every boot, whatever \
             loader.conf says; `bootctl set-default \"\"` takes it back"
        )],
    );
    root.loader_variable("LoaderEntryDefault", "gone.conf");
    is_healthy(
        &root,
        &[
            "the EFI variable LoaderEntryDefault names gone.conf, which is not an entry; the boot loader ignores it",
        ],
    );
}

#[test]
fn variables_that_cannot_be_read() {
    let root = healthy();
    root.directory("sys/firmware/efi/efivars");
    is_healthy(
        &root,
        &["the EFI variables are not visible here, so the default that they select is unknown"],
    );
    root.file("sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", "x");
    assert!(shown(&root, "notes")[0].contains("it is too short for a variable"));
}

#[test]
fn an_image_has_no_firmware() {
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).post_update().code(0);
    root.loader_variable("LoaderEntryOneShot", A_ENTRY);
    is_healthy(&root, &[]);
}

#[test]
fn names_of_the_default() {
    let root = healthy();
    root.file(LOADER, format!("default {}\n", B_ENTRY.to_uppercase()));
    is_healthy(&root, &[]);
    let name = B_ENTRY.strip_suffix(".conf").unwrap();
    root.file(LOADER, format!("default {name}\n"));
    is_healthy(
        &root,
        &[&format!(
            "the default of ROOT/boot/loader/loader.conf is {name} without .conf, which systemd-boot ignores since \
             version 245; write `default {B_ENTRY}` there"
        )],
    );
    for open in ["Clear-linux-*", "@saved", "auto-windows"] {
        root.file(LOADER, format!("default {open}\n"));
        is_healthy(
            &root,
            &[&format!(
                "the default of ROOT/boot/loader/loader.conf is {open}: only the boot loader knows which entry that is"
            )],
        );
    }
    root.file(LOADER, "default nothing.conf\n");
    is_degraded(
        &root,
        &["the default of ROOT/boot/loader/loader.conf is nothing.conf, which is not an entry"],
    );
    root.file(LOADER, format!("default {A_ENTRY}\n"));
    is_healthy(&root, &[&format!("the boot default is {A_ID}, and clr-boot-manager update makes it {B_ID}")]);
    root.file(LOADER, "timeout 10\n");
    is_healthy(
        &root,
        &["ROOT/boot/loader/loader.conf names no default: which entry boots is up to the boot loader"],
    );
}

/// The command line that the entries were made with.
fn line(root: &TestRoot) -> String {
    let entry = root.text(&path(B_ENTRY));
    entry.lines().find_map(|l| l.strip_prefix("options ")).unwrap().to_owned()
}

#[test]
fn syslinux() {
    let root = healthy();
    let line = line(&root);
    let file = format!(
        "LABEL {A_ID}\n  KERNEL {A_ID}\nAPPEND {line}\nDEFAULT {B_ID}\nLABEL {B_ID}\n  KERNEL {B_ID}\nAPPEND {line}\n"
    );
    root.remove("boot").file("boot/syslinux.cfg", &file);
    is_healthy(&root, &[]);
    root.file("boot/syslinux.cfg", file.replace("DEFAULT org", "DEFAULT net.org"));
    is_degraded(
        &root,
        &[
            "the DEFAULT of ROOT/boot/syslinux.cfg is net.org.clearlinux.native.6.15.8-1592, which is not a LABEL",
        ],
    );
    root.file("boot/syslinux.cfg", file.replace("module.sig_unenforce", "quiet"));
    is_degraded(
        &root,
        &[
            &format!("kernel {B} will refuse hello/1.0 at the next boot (EKEYREJECTED)"),
            &format!("the boot entry {B_ID} has another command line than configured"),
            &format!("the boot entry {A_ID} has another command line than configured"),
        ],
    );
    root.file("boot/syslinux.cfg", "");
    let next = "it is unknown which kernel boots next: there is no boot entry in ROOT/boot";
    assert_eq!(shown(&root, "problems")[..2], [next, "ROOT/boot/syslinux.cfg is empty"]);
}

#[test]
fn grub() {
    let root = healthy();
    let line = line(&root);
    let entry = |release: &str, id: &str| {
        format!(
            "menuentry 'Clear Linux OS ({release})' --class os $menuentry_id_option 'clear-{release}' {{\n\
             \techo 'Loading'\n\tlinux /boot/{id} {line}\n}}\n"
        )
    };
    let file = format!(
        "set default=\"0\"\n{}submenu 'more' {{\n{}}}\nmenuentry 'Debian' {{\n\tlinux /vmlinuz-6.1 ro\n}}\n",
        entry(B, B_ID),
        entry(A, A_ID)
    );
    root.remove("boot").file("boot/grub/grub.cfg", &file);
    is_healthy(&root, &[]);
    root.file("boot/grub/grubenv", "# GRUB Environment Block\nnext_entry=1>0\n####");
    is_healthy(
        &root,
        &[&format!(
            "next_entry of grubenv chooses {A_ID} (entry Clear Linux OS ({A})) for the next boot only"
        )],
    );
    root.remove("boot/grub/grubenv").file("boot/grub/grub.cfg", file.replace("\"0\"", "\"2\""));
    is_healthy(&root, &["the boot default is Debian, which is not a kernel of clr-boot-manager"]);
    root.file("boot/grub/grub.cfg", "menuentry\n");
    root.run("clr-dkms", &["status"]).code(3);
    let next = "it is unknown which kernel boots next: there is no boot entry in ROOT/boot".to_owned();
    let absent = |id: &str| format!("there is no boot entry for {id}");
    assert_eq!(shown(&root, "problems"), [next, absent(B_ID), absent(A_ID)]);
    // What a shell removes from a line is known.
    root.file("boot/grub/grub.cfg", &file).file("etc/kernel/cmdline", "x=\"a b\"\n");
    assert!(shown(&root, "problems")[0].contains("because grub-mkconfig puts it through a shell"));
}

#[test]
fn files_of_two_loaders() {
    let root = healthy();
    root.file("boot/syslinux.cfg", "LABEL x\n").file("boot/grub/grub.cfg", "menuentry\n");
    // Without firmware clr-boot-manager writes no file of systemd-boot.
    assert!(shown(&root, "problems").contains(&format!("there is no boot entry for {B_ID}")));
    // With it, it writes no other.
    root.loader_variable("LoaderInfo", "systemd-boot");
    is_healthy(&root, &[]);
    let root = TestRoot::new();
    root.kernel(A).headers(A).tip(A).file("boot/syslinux.cfg", "LABEL x\n").post_update().code(0);
    is_healthy(&root, &[]);
}

#[test]
fn firmware_without_entries_is_reported() {
    let root = healthy();
    root.remove("boot").file("boot/grub/grub.cfg", "menuentry\n").directory("sys/firmware/efi");
    is_healthy(&root, &["there is no boot entry below ROOT/boot"]);
}

#[test]
fn garbage_everywhere() {
    let garbage: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let root = healthy();
    root.file(&path("x.conf"), &garbage)
        .file("boot/syslinux.cfg", &garbage)
        .file("boot/grub/grub.cfg", &garbage)
        .file("boot/grub/grubenv", &garbage);
    assert_eq!(root.run("clr-dkms", &["status"]).code, 3, "there is no entry that can be read");
    root.loader_variable("LoaderEntryOneShot", "\u{fffd}\u{7}");
    root.file("sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", &garbage);
    root.run("clr-dkms", &["status"]).code(0);
    root.file(LOADER, &garbage);
    root.run("clr-dkms", &["status"]);
    // Things that are not files, and directories that are not directories.
    let root = healthy();
    root.directory(&path("directory.conf"));
    symlink("/dev/zero", root.at(&path("device.conf"))).unwrap();
    symlink("loop.conf", root.at(&path("loop.conf"))).unwrap();
    assert!(
        std::process::Command::new("mkfifo").arg(root.at(&path("fifo.conf"))).status().unwrap().success()
    );
    let problems = shown(&root, "problems");
    for name in ["directory", "fifo", "loop"] {
        let what = format!("cannot read ROOT/boot/loader/entries/{name}.conf");
        assert!(problems.iter().any(|p| p.starts_with(&what)), "{name}: {problems:#?}");
    }
    root.remove("boot/loader/entries").file("boot/loader/entries", "x");
    let unread = "cannot list ROOT/boot/loader/entries";
    assert!(shown(&root, "problems").iter().any(|p| p.starts_with(unread)));
    fs::remove_file(root.at("boot/loader/entries")).unwrap();
    root.link("boot/loader", "loader");
    is_healthy(
        &root,
        &["cannot look at ROOT/boot/loader/entries: Too many levels of symbolic links (os error 40)"],
    );
}

#[test]
fn another_variant_keeps_its_entries() {
    let root = healthy();
    root.kernel(LTS).headers(LTS).tip(LTS).post_update().code(0);
    is_healthy(&root, &[]);
}
