//! A trial, and what was required before it, when a record is lost or the boot files cannot be seen.

use std::fs;

use crate::support::boot::{A_ENTRY, B_ENTRY};
use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::{A, B};
use crate::trial::{
    ASSERT, CHECK, MARK, ONE_SHOT, RECORD, armed, assert_next, booted, check, one_shot, status, updated,
    without_opening, works,
};

const LAST_RUN: &str = "var/lib/clr-dkms/last-run.json";

#[test]
fn boot_files_that_cannot_be_seen_do_not_end_the_trial() {
    let root = armed();
    let record = root.text(RECORD);
    fs::rename(root.at("boot/loader"), root.at("boot/away")).unwrap();
    root.forget_calls();
    root.post_update();
    root.run("clr-dkms", &ASSERT);
    assert_eq!(root.calls(), Vec::<String>::new());
    assert_eq!((root.text(RECORD), one_shot(&root).as_deref()), (record, Some(B_ENTRY)));
    fs::rename(root.at("boot/away"), root.at("boot/loader")).unwrap();
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
}

#[test]
fn a_damaged_record_does_not_pass_a_kernel_that_does_not_work() {
    let root = booted(armed(), B, "2");
    root.file(RECORD, "{");
    root.post_update();
    assert_next(&root, ID_A, None, ["held", A, "running"]);
    root.run("clr-dkms", &MARK).code(1);
    // It was not checked, so it is tried again.
    let root = booted(root, A, "3");
    works(&root).post_update().code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
}

#[test]
fn a_lost_record_of_the_last_run_releases_no_kernel() {
    let root = booted(armed(), B, "2");
    check(&root).code(1);
    root.remove(LAST_RUN);
    root.post_update();
    assert_next(&root, ID_A, None, ["held", A, "failed"]);

    // Without a trial: the module was never built for B.
    for damage in ["{", "", "{\"schema\": 99}"] {
        let root = updated();
        root.behave(FAILS_ON_B).post_update();
        let root = booted(root, B, "2");
        root.file(LAST_RUN, damage).post_update();
        assert_eq!(root.boot_default(), ID_A, "{damage}");
        assert_eq!(status(&root)["verdict"], "held", "{damage}");
        root.post_update();
        assert_eq!(root.boot_default(), ID_A, "{damage}");
    }
}

#[test]
fn the_default_is_corrected_below_an_admins_choice_for_one_boot() {
    let root = armed();
    root.entry(ID_B, "quiet rw module.sig_unenforce", true).loader_variable("LoaderEntryOneShot", A_ENTRY);
    root.run("clr-dkms", &ASSERT).code(0).says(&["an admin has chosen"]);
    assert_eq!((root.boot_default().as_str(), one_shot(&root).as_deref()), (ID_A, Some(A_ENTRY)));
}

#[test]
fn a_kernel_whose_image_is_empty_is_not_reported_as_ready() {
    for is_empty in [true, false] {
        let root = armed();
        let image = format!("boot/EFI/org.clearlinux/kernel-{ID_B}");
        match is_empty {
            true => root.file(&image, ""),
            false => root.remove(&image),
        };
        root.run("clr-dkms", &["check"]).code(1);
        root.post_update().code(0);
        assert!(fs::metadata(root.at(&image)).unwrap().len() > 0);
        assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    }
}

#[test]
fn a_full_disk_does_not_keep_the_default_from_being_corrected() {
    let root = updated();
    root.conf("[boot]\ntrial = no\n").post_update().code(0);
    assert_eq!((root.boot_default().as_str(), root.has(ONE_SHOT)), (ID_B, false));
    let root = booted(root, B, "2");
    let command = root.command("clr-dkms", &CHECK);
    without_opening(&root, &command, "var/lib/clr-dkms", "ENOSPC").says(&["No space left on device"]);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_default_that_lacks_something_critical_is_replaced_by_a_kernel_that_boots_safely() {
    let root = updated();
    root.conf("[boot]\ntrial = no\n").post_update().code(0);
    assert_eq!(root.boot_default(), ID_B);
    // The entry of B loses the parameter. At shutdown only the default can be corrected.
    root.entry(ID_A, "quiet rw module.sig_unenforce", false).entry(ID_B, "quiet rw", true);
    root.run("clr-dkms", &["check"]).code(2);
    root.run("clr-dkms", &ASSERT).code(0).says(&["lacks hello/1.0"]);
    assert_eq!((root.boot_default().as_str(), status(&root)["next_boot"].as_str()), (ID_A, Some(A)));
    // That was makeshift.
    root.post_update().code(0);
    assert_eq!((root.boot_default().as_str(), status(&root)["next_boot"].as_str()), (ID_B, Some(B)));
}
