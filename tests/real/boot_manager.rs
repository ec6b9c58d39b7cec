//! The boot manager's traps: what it says of its success proves nothing.

use std::fs;

use crate::scene::{Scene, support};

/// The kernel, the module and everything of our own, before the boot manager has ever run.
fn not_yet_booted(name: &str) -> Option<Scene> {
    let scene = Scene::installed(name)?;
    fs::remove_dir_all(scene.path("boot")).unwrap();
    fs::create_dir(scene.path("boot")).unwrap();
    fs::remove_file(scene.path("var/lib/clr-dkms/last-run.json")).unwrap();
    Some(scene)
}

/// The stand-in, with its switches: our environment does not reach it.
fn with_switches(scene: &Scene, switches: &str) {
    let real = support("clr-boot-manager");
    scene.tool("clr-boot-manager", &format!("{switches} exec '{}' \"$@\"", real.display()));
}

const ENTRY: &str = "boot/loader/entries/Clear-linux-native-6.15.7-1591.conf";

/// Record, status and message report the failure. `verdict` is `unknown` where no boot entry is left that
/// says which kernel boots next.
#[track_caller]
fn is_reported(scene: &Scene, verdict: &str, words: &[&str]) {
    let code = if verdict == "unknown" { 3 } else { 1 };
    scene.post_update().exits(code).says(words);
    let record = scene.record();
    let error = record["boot"]["error"].as_str().unwrap_or_else(|| panic!("no error in {record:#}"));
    for word in words {
        assert!(error.contains(word), "{word:?} is not in the record: {error}");
    }
    let status = scene.status(code);
    assert_eq!(status["verdict"], verdict);
    // The report reads the entries itself, and may know the reason better than the record.
    let problems = status["problems"].to_string();
    assert!(words.iter().any(|word| problems.contains(word)), "{status:#}");
    assert!(scene.motd().contains("clr-dkms status"), "{}", scene.motd());
}

#[track_caller]
fn is_good(scene: &Scene) {
    with_switches(scene, "");
    scene.post_update().exits(0);
    let record = scene.record();
    assert_eq!((&record["boot"]["entries"], &record["boot"]["error"]), (&"verified".into(), &().into()));
    assert_eq!(scene.status(0)["verdict"], "healthy");
    assert!(scene.read(ENTRY).contains("module.sig_unenforce"));
    scene.settled();
}

#[test]
fn exit_code_0_and_nothing_done() {
    let Some(scene) = not_yet_booted("boot-nothing") else { return };
    with_switches(&scene, "STAND_IN_DO_NOTHING=1");
    scene.post_update();
    let record = scene.record();
    // With no entry in sight the ESP may simply not be mounted: it cannot be determined, and must not be
    // called verified.
    assert_ne!(record["boot"]["entries"], "verified", "{record:#}");
    fs::create_dir_all(scene.path("boot/loader/entries")).unwrap();
    scene.write("boot/loader/entries/other.conf", "title Other\nlinux /EFI/other\noptions quiet\n");
    fs::remove_file(scene.path("var/lib/clr-dkms/last-run.json")).unwrap();
    is_reported(&scene, "unknown", &["6.15.7-1591"]);
    is_good(&scene);
}

/// The entry of an earlier update is there, and says what was true then.
#[test]
fn exit_code_0_and_an_old_entry() {
    let Some(scene) = Scene::installed("boot-old") else { return };
    // One that somebody has edited is left to clr-boot-manager.
    let old = scene.read(ENTRY).replace(" module.sig_unenforce", "");
    scene.write(ENTRY, format!("# edited\n{old}"));
    fs::remove_file(scene.path("var/lib/clr-dkms/last-run.json")).unwrap();
    with_switches(&scene, "STAND_IN_DO_NOTHING=1");
    is_reported(&scene, "degraded", &["6.15.7-1591"]);
    is_good(&scene);
}

#[test]
fn an_entry_without_bytes_crashes_it_and_is_moved_away() {
    let Some(scene) = not_yet_booted("boot-empty") else { return };
    scene.write("boot/loader/entries/Clear-linux-native-6.1.1-1.conf", "");
    scene.post_update().exits(0).says(&["it was renamed to Clear-linux-native-6.1.1-1.conf.empty"]);
    is_good(&scene);
}

#[test]
fn the_boot_partition_fills_up_with_a_kernel() {
    let Some(scene) = not_yet_booted("boot-full-copy") else { return };
    with_switches(&scene, "STAND_IN_ESP_FULL=copy");
    is_reported(&scene, "unknown", &["No space left on device"]);
    is_good(&scene);
}

/// Exit code 0, and the entry has no bytes: the next run would crash.
#[test]
fn the_boot_partition_fills_up_with_an_entry() {
    let Some(scene) = not_yet_booted("boot-full-entry") else { return };
    with_switches(&scene, "STAND_IN_ESP_FULL=entry");
    is_reported(&scene, "unknown", &["Clear-linux-native-6.15.7-1591.conf"]);
    is_good(&scene);
}

/// Exit code 1 can come after everything was written.
#[test]
fn a_failure_after_all_was_done_is_no_reason_for_alarm() {
    let Some(scene) = not_yet_booted("boot-exit") else { return };
    with_switches(&scene, "STAND_IN_EXIT=1");
    scene.post_update();
    assert_eq!(scene.record()["boot"]["entries"], "verified", "{:#}", scene.record());
    is_good(&scene);
}

#[test]
fn no_boot_manager_at_all() {
    let Some(scene) = not_yet_booted("boot-none") else { return };
    // Not executable: looked for, and not found.
    fs::remove_file(scene.tools.join("clr-boot-manager")).unwrap();
    is_reported(&scene, "unknown", &["clr-boot-manager is not installed"]);
    is_good(&scene);
}
