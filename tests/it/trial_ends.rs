//! What ends a trial before its kernel is checked: a choice of an admin, or an orderly reboot.

use serde_json::json;

use crate::support::boot::{A_ENTRY, B_ENTRY};
use crate::support::guard::{ID_A, ID_B};
use crate::support::{A, B};
use crate::trial::{ASSERT, armed, assert_next, booted, check, one_shot, status, updated, works};

/// As clr-dkms-hold.service stops.
const SHUTDOWN: [&str; 3] = ["guard", "--assert", "--at-shutdown"];

#[test]
fn the_choice_of_an_admin_comes_first() {
    let root = armed();
    root.loader_variable("LoaderEntryOneShot", A_ENTRY);
    root.run("clr-dkms", &ASSERT).code(0).says(&["an admin has chosen", "waits"]);
    assert_next(&root, ID_A, Some(A_ENTRY), ["healthy", A, "null"]);
    let root = booted(root, A, "2");
    works(&root).post_update().code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);

    root.run("clr-dkms", &["hold"]).code(0);
    assert_next(&root, ID_A, None, ["held", A, "null"]);
    root.run("clr-dkms", &["unhold"]).code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    // A kernel that an admin holds is not on trial.
    root.run("clr-dkms", &["hold", B]).code(0);
    assert_eq!((root.boot_default().as_str(), one_shot(&root)), (ID_B, None));

    let root = updated();
    root.entry(ID_A, "quiet", true).loader_variable("LoaderEntryDefault", B_ENTRY);
    root.post_update();
    assert_eq!(one_shot(&root), None);
}

/// The kernel to return to has to be the boot default.
#[test]
fn what_overrides_the_kernel_to_return_to_is_reported() {
    let on_trial = format!("only a power failure boots kernel {B} on trial, an orderly reboot ends that");
    let cases = [
        (A_ENTRY, A, on_trial.as_str(), ["healthy", A]),
        (B_ENTRY, B, "nothing returns from it if it does not work", ["reboot-pending", B]),
        ("@saved", "@saved", on_trial.as_str(), ["healthy", "null"]),
    ];
    for (entry, shown, effect, [verdict, next]) in cases {
        let root = armed();
        root.loader_variable("LoaderEntryDefault", entry);
        assert_next(&root, ID_A, Some(B_ENTRY), ["degraded", B, "armed"]);
        let what = format!("the EFI variable LoaderEntryDefault chooses {shown} for every boot: {effect}");
        let answer = status(&root);
        assert_eq!(answer["summary"], what);
        assert_eq!(answer["problem_list"][0]["kind"], "trial-overridden");
        assert_eq!(answer["problem_list"][0]["command"], json!(["bootctl", "set-default", ""]));
        let guard = root.guard();
        let step = "run `sudo bootctl set-default ''` to let the boot default decide";
        assert_eq!((&guard["summary"], &guard["next_step"]), (&json!(what), &json!(step)));
        let text = root.run("clr-dkms", &["guard"]).stdout.clone();
        assert!(!text.contains("stays the boot default"), "{text}");
        let motd = root.run("clr-dkms-motd", &["--dry-run"]).stdout.clone();
        assert!(motd.contains(&format!("LoaderEntryDefault chooses {shown}")), "{motd}");
        // Taken back, nothing is lost.
        let variable = "sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        root.remove(variable);
        assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);

        root.loader_variable("LoaderEntryDefault", entry);
        root.run("clr-dkms", &ASSERT);
        assert_eq!(one_shot(&root), None, "{shown}");
        let [found, boots, _] = crate::trial::answer(&root);
        assert_eq!([found.as_str(), boots.as_str()], [verdict, next], "{shown}");
        root.post_update();
        assert_eq!(one_shot(&root), None, "{shown}");
    }
    // clr-boot-manager by hand makes the new kernel the default.
    let root = armed();
    root.updated_by_hand();
    assert_next(&root, ID_B, Some(B_ENTRY), ["degraded", B, "armed"]);
    let what = format!(
        "the default of loader.conf is {B}: after a power failure nothing returns to {A} if kernel {B} does not \
         work on trial"
    );
    let answer = status(&root);
    assert_eq!((&answer["summary"], &answer["guard"]["summary"]), (&json!(what), &json!(what)));
    assert_eq!(answer["problem_list"][0]["command"], json!(["clr-dkms-post-update"]));
    root.post_update().code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    // While the kernel runs on trial, a choice of it is the wrong default.
    let root = booted(armed(), B, "2");
    root.loader_variable("LoaderEntryDefault", B_ENTRY);
    let step = root.guard()["next_step"].as_str().unwrap().to_owned();
    assert!(step.contains("take that back with `sudo bootctl set-default \"\"`"), "{step}");
}

/// An orderly reboot before the check has ended shows nothing.
#[test]
fn a_check_that_is_stopped_is_repeated() {
    let root = booted(armed(), B, "2");
    let mut check = root.command("clr-dkms", &["guard", "--check-boot", "--within=60s"]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(check.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(check.wait().unwrap().code(), Some(1));
    root.run("clr-dkms", &ASSERT).code(0);
    let root = booted(root, A, "3");
    works(&root).post_update().code(0);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
}

/// The check starts late in a boot. A reboot before that shows nothing about the kernel.
#[test]
fn an_orderly_reboot_before_the_check_is_not_a_failure() {
    let mut root = armed();
    for round in 1..=3 {
        root = booted(root, B, &format!("{round} of B"));
        root.run("clr-dkms", &ASSERT).code(0);
        root.run("clr-dkms", &SHUTDOWN).code(0);
        root = booted(root, A, &format!("{round} of A"));
        works(&root);
        if round < 3 {
            root.post_update().code(0);
            assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
        }
    }
    root.post_update().code(1);
    assert_next(&root, ID_A, None, ["held", A, "unchecked"]);
    let held =
        format!("kernel {B} is held back: the machine was rebooted 3 times before it could be checked");
    let answer = status(&root);
    assert_eq!(
        (&answer["summary"], &answer["problem_list"][0]["kind"]),
        (&json!(held), &json!("trial-unchecked"))
    );
    assert_eq!(answer["problem_list"][0]["command"], json!(["clr-dkms", "allow", B]));
    for (program, arguments) in
        [("clr-dkms", "status"), ("clr-dkms", "guard"), ("clr-dkms-motd", "--dry-run")]
    {
        let text = root.run(program, &[arguments]).stdout.clone();
        assert!(text.contains("rebooted") && !text.contains("fail"), "{text}");
    }
    root.run("clr-dkms", &["allow", B]).code(0).says(&["is tried again"]);
    assert_next(&root, ID_A, Some(B_ENTRY), ["reboot-pending", B, "armed"]);
    // The reboots do not excuse a crash that follows one of them.
    let root = booted(root, B, "4 of B");
    root.run("clr-dkms", &SHUTDOWN).code(0);
    let root = booted(root, A, "4 of A");
    works(&root).post_update().code(0);
    let root = booted(booted(root, B, "5 of B"), A, "5 of A");
    works(&root).post_update().code(1);
    assert_next(&root, ID_A, None, ["held", A, "unfinished"]);
    // A kernel whose failure is known stays held back.
    let root = booted(armed(), B, "2");
    check(&root).code(1);
    root.run("clr-dkms", &SHUTDOWN).code(0);
    let root = booted(root, A, "3");
    works(&root).post_update().code(1);
    assert_next(&root, ID_A, None, ["held", A, "failed"]);
}
