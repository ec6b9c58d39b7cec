//! Making a kernel the boot default, and when that is refused.

use clr_dkms::boot::SetBy;

use crate::support::boot::{A_ENTRY, B_ENTRY, Boot, LOADER, path};
use crate::support::guard::{ID_A as A_ID, ID_B as B_ID};
use crate::support::{A, B, LTS, TestRoot};

/// A runs, both have entries, and B is the default.
fn healthy() -> TestRoot {
    let root = TestRoot::updated();
    assert_eq!(Boot::of(&root).update(), None);
    assert_eq!(root.text(LOADER), format!("default {B_ENTRY}\n"));
    root.forget_calls();
    root
}

#[test]
fn a_kernel_becomes_the_default() {
    for root in [healthy(), TestRoot::new()] {
        root.kernel(A).kernel(B).tip(B);
        let boot = Boot::of(&root);
        assert_eq!(boot.update(), None);
        root.forget_calls();
        assert_eq!(boot.set(A_ID), Ok(()));
        assert_eq!(root.calls(), [format!("clr-boot-manager set-kernel {A_ID} --path=ROOT")]);
        assert_eq!(root.text(LOADER), format!("default {A_ENTRY}\n"));
        let next = boot.files().default.unwrap();
        assert_eq!(next.id.as_deref(), Some(A_ID));
        assert_eq!((next.entry.as_str(), next.set_by), (A_ENTRY, SetBy::LoaderConf));
        // It is already.
        root.forget_calls();
        assert_eq!(boot.set(A_ID), Ok(()));
        assert_eq!(root.calls(), [""; 0]);
        assert_eq!(boot.set(B_ID), Ok(()));
        assert_eq!(root.text(LOADER), format!("default {B_ENTRY}\n"));
    }
}

#[test]
fn the_boot_files_decide_and_not_the_exit_code() {
    let root = healthy();
    let boot = Boot::of(&root);
    boot.switch("STAND_IN_EXIT=1");
    assert_eq!(boot.set(A_ID), Ok(()));
    // What it would write is written ahead of it.
    boot.switch("STAND_IN_DO_NOTHING=1");
    assert_eq!(boot.set(B_ID), Ok(()));
    assert_eq!(root.text(LOADER), format!("default {B_ENTRY}\n"));
    // Not of a file that it has not written.
    root.file(LOADER, format!("default {B_ENTRY}\ndefault {A_ENTRY}\n"));
    let why = boot.set(B_ID).unwrap_err();
    let expected = format!(
        "{B_ID} is not the boot default after `clr-boot-manager set-kernel`: it is {A_ID}; choose it in the boot menu"
    );
    assert_eq!(why, expected);
    boot.switch("STAND_IN_DO_NOTHING=1 STAND_IN_EXIT=3");
    let why = boot.set(B_ID).unwrap_err();
    assert!(why.contains("exit code 3: ") && why.ends_with(&expected), "{why}");
    // Nothing of that name can be started.
    std::fs::remove_file(root.tools().join("faithful")).unwrap();
    assert_eq!(boot.files().default.unwrap().id.as_deref(), Some(A_ID));
    assert!(boot.set(B_ID).unwrap_err().contains("clr-boot-manager is not installed"));
}

/// Nothing was run, nothing was changed, and the reason is reported.
#[track_caller]
fn refused(root: &TestRoot, id: &str, why: &str) {
    let before = root.tree();
    root.forget_calls();
    let shown = root.redacted(&Boot::of(root).set(id).unwrap_err());
    assert_eq!(shown, format!("{id} is not made the boot default: {why}"));
    assert_eq!(root.calls(), [""; 0]);
    assert!(before == root.tree());
}

#[test]
fn what_is_not_there_cannot_be_booted() {
    let root = healthy();
    let lts = "org.clearlinux.ltscurrent.6.12.38-1550";
    refused(&root, lts, "it is not installed");
    root.kernel(LTS);
    refused(&root, lts, "it has no boot entry; `clr-boot-manager update --path=ROOT` makes one of each tip");
    // The name is all that it writes: an entry of another name would not be found.
    let text = root.text(&path(A_ENTRY));
    root.remove(&path(A_ENTRY)).file(&path("mine.conf"), &text);
    refused(&root, A_ID, "its boot entry mine.conf does not have the name that clr-boot-manager uses");
    root.remove(&path("mine.conf")).file(&path(A_ENTRY), text.replace(A_ID, &format!("{A_ID}.bak")));
    refused(&root, A_ID, "it has no boot entry; `clr-boot-manager update --path=ROOT` makes one of each tip");
    root.remove("boot").directory("boot");
    refused(&root, A_ID, "the boot files cannot be seen: there is no boot entry below ROOT/boot");
}

#[test]
fn a_default_that_boots_a_copy_is_not_that_kernel() {
    let root = healthy();
    let entry = root.text(&path(B_ENTRY)).replace(B_ID, &format!("{B_ID}.bak"));
    root.file(&path(B_ENTRY), entry);
    refused(&root, B_ID, "it has no boot entry; `clr-boot-manager update --path=ROOT` makes one of each tip");
}

#[test]
fn empty_files_are_moved_away_and_kernels_need_no_room() {
    let root = healthy();
    root.file(LOADER, "").file(&path("x.conf"), "");
    let free = Boot::of(&root).root.free_space_for_root("/").unwrap();
    let image =
        std::fs::File::options().write(true).open(root.at(&format!("usr/lib/kernel/{B_ID}"))).unwrap();
    image.set_len(free + (64 << 30)).unwrap();
    let boot = Boot::of(&root);
    assert!(boot.prepare().is_err(), "there is no room for the kernel");
    assert_eq!(boot.set(A_ID), Ok(()));
    assert_eq!(root.text(LOADER), format!("default {A_ENTRY}\n"));
    assert!(root.has("boot/loader/loader.conf.empty") && root.has(&path("x.conf.empty")));
}

#[test]
fn the_choice_of_an_admin_stays() {
    let set = |name: &str, value: &str| {
        let root = healthy();
        root.loader_variable(name, value);
        root
    };
    let theirs = "whatever clr-boot-manager writes: that is an admin's choice; `bootctl";
    refused(
        &set("LoaderEntryDefault", B_ENTRY),
        A_ID,
        &format!(
            "the EFI variable LoaderEntryDefault chooses {B_ID}, {theirs} set-default \"\"` takes it back"
        ),
    );
    refused(
        &set("LoaderEntryOneShot", B_ENTRY),
        A_ID,
        &format!(
            "the EFI variable LoaderEntryOneShot chooses {B_ID}, {theirs} set-oneshot \"\"` takes it back"
        ),
    );
    for name in ["LoaderEntryDefault", "LoaderEntryOneShot"] {
        let word = if name == "LoaderEntryDefault" { "default" } else { "oneshot" };
        let does =
            format!("the EFI variable {name} leaves the choice to the boot loader, {theirs} set-{word}");
        refused(&set(name, "@saved"), A_ID, &format!("{does} \"\"` takes it back"));
    }
    // One that names nothing decides nothing, and one that names the same kernel changes nothing.
    let root = set("LoaderEntryDefault", "gone.conf");
    assert_eq!(Boot::of(&root).set(A_ID), Ok(()));
    let root = set("LoaderEntryDefault", A_ENTRY);
    assert_eq!(Boot::of(&root).set(A_ID), Ok(()));
    assert_eq!(root.calls(), [""; 0]);
    let root = healthy();
    root.file(&path("windows.conf"), "efi /EFI/Microsoft/Boot/bootmgfw.efi\n")
        .file(LOADER, "default windows.conf\n");
    refused(
        &root,
        A_ID,
        "the default of loader.conf is windows.conf, which is not a kernel of this system; an admin has chosen it and \
         can choose another one",
    );
    // That loader.conf names no entry is nobody's choice.
    root.file(LOADER, "timeout 3\n");
    assert_eq!(Boot::of(&root).set(A_ID), Ok(()));
}

#[test]
fn an_obstacle_is_in_the_way_here_too() {
    let root = healthy();
    root.directory("etc/kernel/cmdline.d");
    let fifo = root.at("etc/kernel/cmdline.d/x.conf");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(
        &root,
        A_ID,
        "ROOT/etc/kernel/cmdline.d/x.conf is not a regular file, and clr-boot-manager would block on it: remove \
         ROOT/etc/kernel/cmdline.d/x.conf",
    );
}

#[test]
fn grub_is_left_to_the_admin() {
    let root = healthy();
    let entry =
        |release: &str, id: &str| format!("menuentry 'Clear ({release})' {{\n\tlinux /boot/{id} quiet\n}}\n");
    let menu = format!("set default=\"0\"\n{}{}", entry(B, B_ID), entry(A, A_ID));
    root.remove("boot").file("boot/grub/grub.cfg", menu);
    refused(
        &root,
        A_ID,
        &format!(
            "with GRUB clr-boot-manager would make an entry that does not boot; with GRUB_DEFAULT=saved in \
             /etc/default/grub, `grub-set-default 'Clear ({A})'` does it"
        ),
    );
    let boot = Boot::of(&root);
    assert_eq!(boot.set(B_ID), Ok(()), "it is already");
    assert_eq!(boot.files().default.unwrap().set_by, SetBy::GrubDefault);
}

#[test]
fn syslinux() {
    let root = healthy();
    let entry = |label: &str, id: &str| format!("LABEL {label}\n  KERNEL {id}\nAPPEND quiet\n");
    let menu = |a: &str| format!("{}DEFAULT {B_ID}\n{}", entry(a, A_ID), entry(B_ID, B_ID));
    root.remove("boot").file("boot/syslinux.cfg", menu("mine"));
    refused(&root, A_ID, "its LABEL mine is not the one that clr-boot-manager uses");
    root.file("boot/syslinux.cfg", menu(A_ID));
    root.behave("idle=yes; [[ $1 == set-kernel ]] && sed -i \"s/^DEFAULT .*/DEFAULT $2/\" \"$root/boot/syslinux.cfg\"");
    let boot = Boot::recorded(&root);
    assert_eq!(boot.set(A_ID), Ok(()));
    let next = boot.files().default.unwrap();
    assert_eq!((next.id.as_deref(), next.set_by), (Some(A_ID), SetBy::SyslinuxDefault));
}
