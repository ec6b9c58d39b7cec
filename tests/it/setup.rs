//! `clr-dkms setup`: the bundles, the kernel command line and the boot entries, on systems with and without
//! swupd.

use std::fs;

use crate::support::run::set_mode;
use crate::support::terminal::Terminal;
use crate::support::tree::difference;
use crate::support::{A, B, LTS, Run, TestRoot};

/// A stand-in for swupd: it records the call, and installs what the bundles have.
const SWUPD: &str = r##"#!/bin/bash
here=${0%/*}
echo "swupd $*" >>"$here/record"
root=/nowhere bundles=()
shift
for word in "$@"; do
    case $word in
        --path=*) root=${word#--path=} ;;
        *) bundles+=("$word") ;;
    esac
done
# shellcheck source=/dev/null
[[ ! -e $here/swupd-behaviour ]] || . "$here/swupd-behaviour"
mkdir -p "$root/usr/share/clear/bundles" "$root/usr/share/kernel/cmdline.d" "$root/usr/bin"
for bundle in "${bundles[@]}"; do
    touch "$root/usr/share/clear/bundles/$bundle"
    case $bundle in
        kernel-native-dkms) variant=native ;;
        kernel-lts-dkms) variant=ltscurrent ;;
        *) exit 3 ;;
    esac
    for modules in "$root"/usr/lib/modules/*."$variant"; do
        mkdir -p "$modules/build/include/config"
        echo "${modules##*/}" >"$modules/build/include/config/kernel.release"
        echo CONFIG_MODULES=y >"$modules/build/.config"
        echo VERSION = 6 >"$modules/build/Makefile"
    done
done
for program in dkms gcc make ld; do
    [[ -e $here/$program ]] || ln -s "$here/depmod" "$here/$program"
    touch "$root/usr/bin/$program"
    chmod +x "$root/usr/bin/$program"
done
echo module.sig_unenforce >"$root/usr/share/kernel/cmdline.d/clr-ignore-mod-sig.conf"
"##;

pub(crate) fn with_swupd(root: &TestRoot) {
    let path = root.tools().join("swupd");
    fs::write(&path, SWUPD).unwrap();
    set_mode(&path, 0o755);
}

/// A system whose kernel has no headers, and that refuses modules without a trusted signature.
pub(crate) fn bare() -> TestRoot {
    let root = TestRoot::new();
    root.kernel(A).tip(A);
    let root = root.running(A);
    root.booted("quiet", "Y", Some("N"));
    root
}

pub(crate) fn setup(root: &TestRoot, more: &[&str]) -> Run {
    root.run("clr-dkms", &[&["setup"], more].concat())
}

#[test]
fn one_command_makes_a_system_ready() {
    let root = bare();
    with_swupd(&root);
    for program in ["gcc", "make", "ld"] {
        fs::remove_file(root.tools().join(program)).unwrap();
    }
    let before = root.tree();
    let run = setup(&root, &["--dry-run"]);
    run.code(0).shows(&[
        "the headers of kernel 6.15.7-1591.native: they are not installed",
        "bundle-add kernel-native-dkms",
    ]);
    let run = setup(&root, &[]);
    run.code(1).shows(&["--yes confirms"]);
    let changes = difference(&before, &root.tree(), false);
    assert!(changes.iter().all(|change| change.contains(".stand-ins")), "{changes:?}");
    assert!(!root.calls().iter().any(|call| call.starts_with("swupd")), "{:?}", root.calls());
    let run = setup(&root, &["--yes"]);
    run.code(0).shows(&["kernel-native-dkms added", "boot entries are as configured", "a reboot is due"]);
    let calls = root.calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("swupd")).count(), 1, "{calls:?}");
    assert_eq!(calls[0], "swupd bundle-add kernel-native-dkms --path=ROOT");
    let entry = root.text("boot/loader/entries/Clear-linux-native-6.15.7-1591.conf");
    assert!(entry.contains("module.sig_unenforce"), "{entry}");
    // Once more: nothing to do.
    root.forget_calls();
    let before = root.tree();
    let document = setup(&root, &["--yes", "--json"]).code(0).json();
    assert_eq!((&document["ready"], &document["reboot_due"]), (&true.into(), &true.into()), "{document:#}");
    assert_eq!(document["missing"], serde_json::json!([]));
    assert_eq!(root.calls(), Vec::<String>::new());
    assert_eq!(difference(&before, &root.tree(), false), Vec::<String>::new());
    // After the reboot.
    root.booted("quiet module.sig_unenforce", "Y", Some("Y"));
    let document = setup(&root, &["--json"]).code(0).json();
    assert_eq!((&document["ready"], &document["reboot_due"]), (&true.into(), &false.into()), "{document:#}");
}

#[test]
fn on_a_terminal_the_bundles_are_asked_for() {
    let root = bare();
    with_swupd(&root);
    let calls = |root: &TestRoot| root.calls().iter().filter(|call| call.starts_with("swupd")).count();
    for (answer, code, called) in [("n\n", 1, 0), ("y\n", 0, 1)] {
        let mut terminal = Terminal::run(&root, 100, "", "clr-dkms", &["setup"]);
        terminal.wait_for("Install kernel-native-dkms with swupd? [y/N]").types(answer);
        assert_eq!(terminal.ends().code(), Some(code), "{}", terminal.text());
        assert_eq!(calls(&root), called, "{}", terminal.text());
    }
}

#[test]
fn each_installed_variant_gets_its_bundle() {
    let root = bare();
    with_swupd(&root);
    root.kernel(LTS).tip(LTS);
    setup(&root, &["--yes"]).code(0);
    assert_eq!(root.calls()[0], "swupd bundle-add kernel-native-dkms kernel-lts-dkms --path=ROOT");
    // Only what is missing.
    root.forget_calls().remove(&format!("usr/lib/modules/{LTS}/build"));
    root.remove("usr/share/clear/bundles/kernel-lts-dkms");
    setup(&root, &["--yes"]).code(0);
    assert_eq!(root.calls()[0], "swupd bundle-add kernel-lts-dkms --path=ROOT");
}

/// Headers and programs that came otherwise are as good; the parameter is then set by a fragment of ours.
#[test]
fn a_system_without_swupd() {
    let root = bare();
    root.headers(A);
    setup(&root, &["--yes"]).code(0).shows(&["a reboot is due"]);
    assert!(root.text("etc/kernel/cmdline.d/clr-dkms.conf").contains("module.sig_unenforce"));
    let root = bare();
    let before = root.tree();
    let run = setup(&root, &["--dry-run"]);
    run.code(1).shows(&["install the headers of kernel 6.15.7-1591.native"]);
    let changes = difference(&before, &root.tree(), false);
    assert!(changes.iter().all(|change| change.contains(".stand-ins")), "{changes:?}");
    fs::remove_file(root.tools().join("make")).unwrap();
    fs::remove_file(root.tools().join("dkms")).unwrap();
    let document = setup(&root, &["--yes", "--json"]).code(1).json();
    assert_eq!(document["ready"], false);
    let missing = document["missing"].as_array().unwrap();
    assert_eq!(missing[0], "the headers of kernel 6.15.7-1591.native: they are not installed");
}

#[test]
fn what_swupd_does_not_bring_is_named() {
    let root = bare();
    with_swupd(&root);
    fs::write(root.tools().join("swupd-behaviour"), "echo no network >&2; exit 7\n").unwrap();
    setup(&root, &["--yes"]).code(1).shows(&["swupd bundle-add: ", "7"]).says(&["no network"]);
    // It succeeds, and the headers are not there.
    fs::write(
        root.tools().join("swupd-behaviour"),
        "mkdir -p \"$root/usr/share/clear/bundles\"\n\
         touch \"$root/usr/share/clear/bundles/kernel-native-dkms\"\nexit 0\n",
    )
    .unwrap();
    setup(&root, &["--yes"]).code(1).shows(&["still missing: the headers of kernel"]);
    // The bundle is installed now, so that it does not help to add it.
    let run = setup(&root, &["--yes"]);
    run.code(1).shows(&["swupd repair"]);
    assert_eq!(root.calls().iter().filter(|call| call.starts_with("swupd")).count(), 2);
    // There is no bundle for this one.
    let root = bare();
    with_swupd(&root);
    root.kernel("6.15.7-1591.kvm").tip("6.15.7-1591.kvm");
    let run = setup(&root, &["--yes"]);
    run.code(1).shows(&["there is no DKMS bundle for kernels of variant kvm", "kernel-native-dkms added"]);
}

#[test]
fn the_admin_may_not_want_the_parameter() {
    let root = bare();
    root.headers(A).file("etc/clr-dkms/clr-dkms.conf", "[cmdline]\nsig-unenforce = off\n");
    let run = setup(&root, &["--yes"]);
    run.code(0).shows(&["the configuration does not want module.sig_unenforce", "would not help"]);
    assert!(!root.has("etc/kernel/cmdline.d"));
}

#[test]
fn a_newer_kernel_waits_for_the_reboot() {
    let root = bare();
    root.kernel(B).headers(B).tip(B);
    let document = setup(&root, &["--json"]).code(0).json();
    assert_eq!(document["reboot_due"], true, "{document:#}");
}

#[test]
fn an_image_is_made_ready_with_its_own_programs() {
    let image = TestRoot::new();
    image.kernel(A).tip(A);
    with_swupd(&image);
    let document = setup(&image, &["--dry-run", "--json"]).code(0).json();
    let missing = document["missing"].as_array().unwrap();
    assert!(missing.iter().any(|what| what == "dkms"), "{document:#}");
    setup(&image, &["--yes"]).code(0);
    assert_eq!(image.calls()[0], "swupd bundle-add kernel-native-dkms --path=ROOT");
    let document = setup(&image, &["--json"]).code(0).json();
    assert_eq!((&document["ready"], &document["reboot_due"]), (&true.into(), &serde_json::Value::Null));
    TestRoot::new().run("clr-dkms", &["setup"]).code(3);
}
