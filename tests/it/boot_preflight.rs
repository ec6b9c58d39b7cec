//! What is seen to before clr-boot-manager is run, and running it again.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use clr_dkms::boot;
use clr_dkms::kernel::Inventory;
use clr_dkms::sys::{Root, RootKind, Tools};

use crate::support::boot::{Boot, DEADLINE};
use crate::support::{A, B, LTS, TestRoot};

const A_ID: &str = "org.clearlinux.native.6.15.7-1591";
const A_ENTRY: &str = "boot/loader/entries/Clear-linux-native-6.15.7-1591.conf";
const IMAGES: &str = "boot/EFI/org.clearlinux";

/// What was done, or why nothing may be, with the paths of the test replaced.
fn prepare(root: &TestRoot) -> Result<Vec<String>, String> {
    let redacted = |lines: Vec<String>| lines.iter().map(|l| root.redacted(l)).collect();
    Boot::of(root).prepare().map(redacted).map_err(|why| root.redacted(&why))
}

#[test]
fn empty_files_are_moved_away() {
    for root in [TestRoot::updated(), TestRoot::new()] {
        root.kernel(A).tip(A);
        let boot = Boot::of(&root);
        assert_eq!(boot.update(), None);
        let good = root.text(A_ENTRY);
        root.file("boot/loader/entries/Other.CONF", "")
            .file("boot/loader/entries/x.conf", "")
            .file("boot/loader/entries/x.conf.empty", "from an earlier time")
            .file("boot/loader/loader.conf", "")
            // These crash nothing.
            .file("boot/loader/entries/README", "")
            .file("boot/loader/random-seed", "")
            .directory("boot/loader/entries/directory.conf");
        let moved = |path: &str, name: &str| {
            format!(
                "ROOT/boot/loader/{path}{name} was empty, which crashes clr-boot-manager; it was renamed to {name}.empty"
            )
        };
        let expected =
            [moved("entries/", "Other.CONF"), moved("entries/", "x.conf"), moved("", "loader.conf")];
        assert_eq!(prepare(&root).unwrap(), expected);
        assert_eq!(prepare(&root).unwrap(), [""; 0], "there is nothing left to do");
        for path in ["entries/Other.CONF", "entries/x.conf", "loader.conf"] {
            assert!(!root.has(&format!("boot/loader/{path}")), "{path}");
            assert_eq!(root.text(&format!("boot/loader/{path}.empty")), "", "{path}");
        }
        for path in ["entries/README", "random-seed", "entries/directory.conf"] {
            assert!(root.has(&format!("boot/loader/{path}")), "{path}");
        }
        assert_eq!(root.text(A_ENTRY), good);
        root.remove("boot/loader/entries/directory.conf");
        assert_eq!(boot.update(), None);
    }
}

#[test]
fn nothing_outside_of_the_root_is_touched() {
    let root = TestRoot::updated();
    let entries = root.outside().join("entries");
    fs::create_dir_all(&entries).unwrap();
    fs::write(entries.join("x.conf"), "").unwrap();
    fs::write(root.outside().join("loader.conf"), "").unwrap();
    root.link("boot/loader", root.outside());
    assert_eq!(prepare(&root).unwrap(), [""; 0]);
    assert!(entries.join("x.conf").exists() && root.outside().join("loader.conf").exists());
}

#[test]
fn an_empty_file_that_cannot_be_moved() {
    let root = TestRoot::updated();
    root.file("boot/loader/entries/x.conf", "").directory("boot/loader/entries/x.conf.empty");
    let why = prepare(&root).unwrap_err();
    assert!(
        why.contains("cannot be renamed (cannot rename ROOT/boot/loader/entries/x.conf: Is a directory"),
        "{why}"
    );
    assert!(why.ends_with("; delete ROOT/boot/loader/entries/x.conf"), "{why}");
}

/// A file that takes no room, and is larger than all that is free.
fn huge(root: &TestRoot, path: &str) {
    let free = Root::open(RootKind::Image, root.path()).unwrap().free_space_for_root("/").unwrap();
    root.file(path, "");
    // What others delete meanwhile must not make it fit.
    File::options().write(true).open(root.at(path)).unwrap().set_len(free + (64 << 30)).unwrap();
}

#[track_caller]
fn too_little(root: &TestRoot, clear: &str) {
    let entries = || {
        fs::read_dir(root.at("boot/loader/entries"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect::<Vec<_>>()
    };
    let before = entries();
    let why = prepare(root).unwrap_err();
    assert!(
        why.starts_with("the boot partition ROOT/boot has ")
            && why.contains(" MiB free, and clr-boot-manager needs ")
    );
    assert!(why.ends_with(clear), "{why}");
    assert!(before == entries(), "a refusal changes nothing");
}

const GONE: &str = "remove files of kernels that are no longer installed: ";

#[test]
fn too_little_room_is_reported_before() {
    let root = TestRoot::updated();
    huge(&root, &format!("usr/lib/kernel/{A_ID}"));
    root.file("boot/loader/entries/x.conf", "");
    too_little(&root, "for example by removing a kernel of another variant (`sudo swupd bundle-remove`)");
    for name in ["kernel-org.clearlinux.native.6.1.1-9", "initrd-org.clearlinux.native.6.1.1-9", "x.TmpWrite"]
    {
        root.file(&format!("{IMAGES}/{name}"), "x");
        too_little(&root, &format!("{GONE}EFI/org.clearlinux/{name}"));
        root.remove(&format!("{IMAGES}/{name}"));
    }
    // What runs, what is installed and what is not ours is of use.
    for name in [&format!("kernel-{A_ID}"), "kernel-org.other.native.6.1.1-9", "shim.efi"] {
        root.file(&format!("{IMAGES}/{name}"), "x");
        too_little(&root, "(`sudo swupd bundle-remove`)");
    }
    // It is there already: nothing will be copied.
    huge(&root, &format!("{IMAGES}/kernel-{A_ID}"));
    let sized = |path: &str| File::options().write(true).open(root.at(path)).unwrap();
    sized(&format!("{IMAGES}/kernel-{A_ID}"))
        .set_len(sized(&format!("usr/lib/kernel/{A_ID}")).metadata().unwrap().len())
        .unwrap();
    assert_eq!(prepare(&root).unwrap().len(), 1);
    // Where there is no firmware it lies at the top.
    fs::rename(root.at(&format!("{IMAGES}/kernel-{A_ID}")), root.at(&format!("boot/{A_ID}"))).unwrap();
    assert_eq!(prepare(&root).unwrap(), [""; 0]);
    // It cannot be determined how much there is.
    root.remove("boot");
    assert_eq!(prepare(&root).unwrap(), [""; 0]);
}

#[test]
fn initrds_need_room_too() {
    for path in [
        format!("usr/lib/kernel/initrd-{A_ID}"),
        format!("etc/kernel/initrd-{A_ID}"),
        "usr/lib/initrd.d/x".to_owned(),
        "etc/kernel/initrd.d/x".to_owned(),
    ] {
        let root = TestRoot::updated();
        huge(&root, &path);
        too_little(&root, "(`sudo swupd bundle-remove`)");
    }
    let root = TestRoot::updated();
    huge(&root, "usr/lib/initrd.d/x");
    root.link("etc/kernel/initrd.d/x", "/dev/null");
    assert_eq!(prepare(&root).unwrap(), [""; 0], "it is masked");
    huge(&root, "etc/initrd.d/x");
    assert_eq!(prepare(&root).unwrap(), [""; 0], "clr-boot-manager never reads that directory");
    // Solus has more than one for a kernel, beside one of the exact name.
    huge(&root, &format!("usr/lib/kernel/initrd-{A_ID}.more"));
    assert_eq!(prepare(&root).unwrap(), [""; 0]);
    root.file(&format!("usr/lib/kernel/initrd-{A_ID}"), "x");
    too_little(&root, "(`sudo swupd bundle-remove`)");
    root.link(&format!("etc/kernel/initrd-{A_ID}"), "/dev/null");
    assert_eq!(prepare(&root).unwrap(), [""; 0], "an admin has masked it");
    huge(&root, "usr/lib/kernel/initrd-org.clearlinux.native.6.1.1-9");
    assert_eq!(prepare(&root).unwrap(), [""; 0], "it is of no kernel");
}

#[test]
fn an_image_gets_all_kernels() {
    let root = TestRoot::new();
    root.kernel(A).kernel(B).kernel(LTS).tip(B);
    assert_eq!(prepare(&root).unwrap(), [""; 0]);
    huge(&root, &format!("usr/lib/kernel/{A_ID}"));
    too_little(&root, "(`sudo swupd bundle-remove`)");
}

fn calls(root: &TestRoot) -> usize {
    root.calls().iter().filter(|call| call.starts_with("clr-boot-manager update")).count()
}

#[test]
fn a_crash_is_repaired_and_it_is_run_again() {
    let root = TestRoot::updated();
    root.file("boot/loader/entries/x.conf", "");
    assert_eq!(Boot::of(&root).update(), None);
    assert_eq!(calls(&root), 2);
    assert!(root.has(A_ENTRY) && root.has("boot/loader/entries/x.conf.empty"));
}

#[test]
fn what_may_pass_is_tried_twice() {
    let root = TestRoot::updated();
    let once = |end: &str| format!("[[ -e $here/tried ]] || {{ >$here/tried; idle=yes; {end}; }}");
    for (at, end) in ["code=1", "code=139", "kill -SEGV $$"].iter().enumerate() {
        root.behave(&once(end));
        fs::remove_file(root.tools().join("tried")).ok();
        assert_eq!(Boot::recorded(&root).update(), None, "{end}");
        assert_eq!(calls(&root), 2 * (at + 1), "{end}");
    }
    for (lines, runs, said) in [
        ("code=1; [[ -e $here/twice ]] && echo second >&2; >$here/twice; code=1", 2, "it failed as asked"),
        ("code=139", 2, "exit code 139"),
        ("code=2", 1, "exit code 2"),
    ] {
        root.forget_calls().behave(lines);
        let error = Boot::recorded(&root).update().unwrap();
        assert!(error.contains(said), "{error}");
        assert_eq!(calls(&root), runs, "{lines}");
    }
}

#[test]
fn it_is_not_run_again_where_it_cannot_work() {
    let root = TestRoot::updated();
    root.file("boot/loader/entries/x.conf", "").directory("boot/loader/entries/x.conf.empty");
    let error = Boot::of(&root).update().unwrap();
    assert!(error.contains("killed by signal 11"), "{error}");
    assert!(
        error.contains("; it was not run again: ")
            && root.redacted(&error).ends_with("delete ROOT/boot/loader/entries/x.conf"),
        "{error}"
    );
    assert_eq!(calls(&root), 1);
    // The partition fills up while a kernel is copied: then too, the reason is reported.
    let root = TestRoot::updated();
    let boot = Boot::of(&root);
    boot.switch("STAND_IN_ESP_FULL=copy");
    assert!(boot.update().unwrap().contains("No space left on device"));
    assert_eq!(calls(&root), 2);
}

#[test]
fn a_live_system_takes_root() {
    if rustix::process::geteuid().is_root() {
        let nobody = || {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command
        };
        let me = std::env::current_exe().unwrap();
        if !nobody().args(["test", "-x"]).arg(&me).status().is_ok_and(|status| status.success()) {
            eprintln!("skipped: nobody cannot run {}", me.display());
            return;
        }
        let run =
            nobody().arg(me).args(["--exact", "boot_preflight::a_live_system_takes_root"]).output().unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let live = Root::open(RootKind::Live, Path::new("/")).unwrap();
    let inventory = Inventory::observe(&live);
    let why = boot::preflight::prepare(&live, &inventory).unwrap_err();
    assert_eq!(why.to_string(), "clr-boot-manager does nothing without root: run this as root");
    let (tools, files) = (Tools::from_environment(), boot::BootFiles::default());
    let refused = boot::default::set(&live, &tools, DEADLINE, &files, &inventory, A_ID).unwrap_err();
    assert_eq!(format!("{refused:#}"), format!("{A_ID} is not made the boot default: {why}"));
}

/// Puts a FIFO, a symlink to `/dev/zero`, or that device where it can be made, in place of a file.
fn replaced(root: &TestRoot, path: &str, by: &str) {
    let parent = Path::new(path).parent().unwrap().to_str().unwrap();
    root.directory(parent);
    if root.has(path) {
        root.remove(path);
    }
    let command = match by {
        "device" => Command::new("mknod").arg(root.at(path)).args(["c", "1", "5"]).status(),
        // clr-boot-manager follows it to the device of the host.
        "link" => Command::new("ln").args(["-s", "/dev/zero"]).arg(root.at(path)).status(),
        _ => Command::new("mkfifo").arg(root.at(path)).status(),
    };
    if !command.unwrap().success() {
        assert!(Command::new("mkfifo").arg(root.at(path)).status().unwrap().success());
    }
}

#[test]
fn files_that_would_block_clr_boot_manager_are_refused() {
    let refusal = |path: &str| {
        format!(
            "ROOT/{path} is not a regular file, and clr-boot-manager would block on it: remove ROOT/{path}"
        )
    };
    for path in [
        format!("usr/lib/kernel/cmdline-{A}"),
        format!("usr/lib/kernel/initrd-{A_ID}"),
        format!("usr/lib/kernel/config-{A}"),
        format!("etc/kernel/initrd-{A_ID}"),
        "usr/share/kernel/cmdline.d/x.conf".to_owned(),
        "etc/kernel/cmdline.d/x.conf".to_owned(),
        "etc/kernel/cmdline-removal.d/x.conf".to_owned(),
        "etc/kernel/cmdline".to_owned(),
        "etc/kernel/timeout".to_owned(),
        "etc/kernel/initrd.d/x.cpio".to_owned(),
        "usr/lib/initrd.d/x.cpio".to_owned(),
        "usr/lib/os-release".to_owned(),
    ] {
        for by in ["fifo", "device", "link"] {
            let root = TestRoot::updated();
            replaced(&root, &path, by);
            let blocker = boot::blocker(&Boot::of(&root).root).map(|blocker| blocker.to_string());
            assert_eq!(root.redacted(&blocker.unwrap_or_default()), refusal(&path));
        }
    }
    for path in [
        "boot/loader/loader.conf".to_owned(),
        A_ENTRY.to_owned(),
        "boot/loader/entries/Other.CONF".to_owned(),
        format!("{IMAGES}/kernel-{A_ID}"),
        "boot/syslinux.cfg".to_owned(),
    ] {
        for by in ["fifo", "device", "link"] {
            let root = TestRoot::updated();
            assert_eq!(Boot::of(&root).update(), None);
            replaced(&root, &path, by);
            assert_eq!(prepare(&root).unwrap_err(), refusal(&path));
            assert_eq!(boot::blocker(&Boot::of(&root).root), None);
        }
    }
    // A symlink to /dev/null is a mask, and what clr-boot-manager does not open blocks nothing.
    let root = TestRoot::updated();
    replaced(&root, "etc/kernel/cmdline.d/x.conf.save", "fifo");
    replaced(&root, "boot/loader/other", "fifo");
    root.link("etc/kernel/cmdline.d/x.conf", "/dev/null");
    assert_eq!(prepare(&root).unwrap(), [""; 0]);
    assert_eq!(boot::blocker(&Boot::of(&root).root), None);
}

/// Found by fuzzing: clr-boot-manager was run, and the programs waited for its deadline.
#[test]
fn the_programs_do_not_wait_for_a_blocking_file() {
    let loader = "boot/loader/loader.conf".to_owned();
    for path in [loader, format!("usr/lib/kernel/cmdline-{A}"), A_ENTRY.to_owned()] {
        for (program, arguments) in [("clr-dkms", &["unhold"][..]), ("clr-dkms-post-update", &[])] {
            let root = crate::unread::held_by_admin();
            root.conf("[modules]\ncritical = hello\n[boot]\ntimeout = 5\n").forget_calls();
            root.file("etc/kernel/cmdline.d/new.conf", "new=1\n");
            replaced(&root, &path, "fifo");
            let run = root.run(program, arguments);
            assert_eq!(root.calls(), [""; 0], "{path} {program}: {}", run.stderr);
            let named = format!("ROOT/{path}");
            let said = format!("{}{}", run.stdout, run.stderr);
            assert!(said.contains(&named), "{path} {program}: {said}");
        }
    }
}
