//! No bytes in a file that the enforcement verdict is made from, and nothing else in its place, make it panic
//! or wait.

use std::process::Command;
use std::time::Duration;

use clr_dkms::cmdline::{CmdlineSources, effective};
use clr_dkms::enforcement::{KernelFacts, LoadOutcome, Machine, ModuleKind, at_boot, now, observe};
use clr_dkms::sys::{Root, RootKind};
use proptest::prelude::*;

use crate::enforcement_roots::{A_ID, in_force};
use crate::support::machine::bz_image;
use crate::support::{A, Run, TestRoot, few_or};

/// Every file that the verdict on the kernel A is made from.
fn files() -> Vec<String> {
    let own = [
        format!("usr/lib/kernel/config-{A}"),
        format!("usr/lib/kernel/cmdline-{A}"),
        format!("usr/lib/kernel/{A_ID}"),
        format!("usr/lib/modules/{A}/modules.builtin.modinfo"),
    ];
    let others = [
        "etc/kernel/cmdline",
        "etc/kernel/cmdline.d/x.conf",
        "etc/kernel/cmdline-removal.d/x.conf",
        "usr/share/kernel/cmdline.d/x.conf",
        "boot/loader/entries/Clear-linux-native-6.15.7-1591.conf",
        "boot/loader/loader.conf",
        "etc/ima/ima-policy",
        "proc/cmdline",
        "proc/sys/kernel/osrelease",
        "proc/sys/kernel/modules_disabled",
        "proc/sys/kernel/tainted",
        "sys/kernel/security/lsm",
        "sys/kernel/security/lockdown",
        "sys/kernel/security/ima/policy",
        "sys/module/module/parameters/sig_enforce",
        "sys/module/module/parameters/sig_unenforce",
        "sys/module/hello/initstate",
        "sys/module/hello/taint",
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
        "sys/firmware/efi/efivars/SetupMode-8be4df61-93ca-11d2-aa0d-00e098032b8c",
        "sys/firmware/efi/efivars/MokSBStateRT-605dab50-e046-4300-abb6-3dd810dd8b23",
        "sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
        "sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f",
    ];
    own.into_iter().chain(others.map(str::to_owned)).collect()
}

/// Pieces of what stands in these files.
const PIECES: &[&[u8]] = &[
    b"CONFIG_MODULE_SIG=y\n",
    b"# CONFIG_MODULE_SIG is not set\n",
    b"CONFIG_MODULE_SIG_FORCE=y\n",
    b"CONFIG_SECURITY_LOCKDOWN_LSM=y\n",
    b"CONFIG_CMDLINE_BOOL=y\n",
    b"CONFIG_CMDLINE=\"",
    b"CONFIG_LSM=\"",
    b"CONFIG_IMA=y\nCONFIG_IMA_APPRAISE=y\n",
    b"module.sig_unenforce",
    b"module.sig-enforce",
    b"signing.parmtype=sig_unenforce:bool\0",
    b"signing.parmtype=sig_enforce:",
    b"lockdown",
    b"integrity",
    b"[integrity]",
    b"[",
    b"]",
    b"appraise func=MODULE_CHECK",
    b"ima_policy=secure_boot",
    b"ima_appraise=fix",
    b"bootconfig",
    b"nomodule",
    b"sysctl.kernel.modules_disabled=1",
    b"--",
    b"=",
    b"\"",
    b"\\",
    b"\0",
    b"\n",
    b" ",
    b",",
    b"\xa0",
    b"Y",
    b"N",
    b"1",
    b"0",
    b"18446744073709551616",
    b"options ",
    b"linux /EFI/org.clearlinux/kernel-org.clearlinux.native.6.15.7-1591\n",
    b"\x06\0\0\0\x01",
];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::collection::vec(prop::sample::select(PIECES), 0..12).prop_map(|p| p.concat());
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..300),
        4 => pieces,
        1 => pieces_and_bulk(),
    ]
}

/// Around the length at which the kernel cuts its line.
fn pieces_and_bulk() -> impl Strategy<Value = Vec<u8>> {
    (2000usize..2060, prop::sample::select(PIECES))
        .prop_map(|(n, piece)| [&vec![b'x'; n], b" ".as_slice(), piece].concat())
}

fn root_of(root: &TestRoot) -> Root {
    Root::open(RootKind::LiveCopy, root.path()).unwrap()
}

const KINDS: [ModuleKind; 5] = [
    ModuleKind::Trusted,
    ModuleKind::Unsigned,
    ModuleKind::UnknownKey,
    ModuleKind::Damaged,
    ModuleKind::Unparsable,
];

/// Observes and judges as the library's users do; the rules that hold whatever the files say.
fn judged(root: &Root) {
    let machine = Machine::observe(root);
    let kernel = KernelFacts::observe(root, &mut clr_dkms::dkms::Cache::default(), A, Some(A_ID));
    let line = effective(&CmdlineSources::observe(root, A));
    observe::module_taint(root, "hello");
    let booted = machine.line.clone().unwrap_or_default();
    let mut verdicts = vec![at_boot(&kernel.boot(&line, &machine))];
    if let Some(runtime) = &machine.runtime {
        verdicts.push(now(&kernel.boot(&booted, &machine), runtime));
    }
    for verdict in verdicts {
        for kind in KINDS {
            let outcome = verdict.of(kind);
            assert!(outcome.error().is_none() || matches!(outcome, LoadOutcome::Refused(_)));
        }
        // No kernel takes the worse module and refuses the better one.
        let (trusted, unsigned) = (verdict.of(ModuleKind::Trusted), verdict.of(ModuleKind::Unsigned));
        assert!(!unsigned.is_loaded() || trusted.is_loaded(), "{verdict:?}");
        assert!(!verdict.of(ModuleKind::Damaged).is_loaded() || unsigned.is_loaded(), "{verdict:?}");
        assert_eq!(unsigned, verdict.of(ModuleKind::UnknownKey));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: few_or(60, 300), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_in_any_file(contents in prop::collection::vec((0usize..64, bytes()), 1..10)) {
        let root = in_force();
        let files = files();
        for (at, bytes) in contents {
            root.file(&files[at % files.len()], bytes);
        }
        judged(&root_of(&root));
    }

    #[test]
    fn any_kernel_in_an_image(inside in bytes(), cut in 0usize..3000, flip in (0usize..3000, any::<u8>())) {
        let root = in_force();
        root.remove(&format!("usr/lib/modules/{A}/modules.builtin.modinfo"));
        let mut image = bz_image(&inside);
        image.truncate(image.len().saturating_sub(cut / 10));
        if let Some(byte) = image.get_mut(flip.0) {
            *byte = flip.1;
        }
        root.file(&format!("usr/lib/kernel/{A_ID}"), image);
        judged(&root_of(&root));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: few_or(10, 40), ..ProptestConfig::default() })]

    #[test]
    fn the_program_answers_whatever_the_files_hold(contents in prop::collection::vec((0usize..64, bytes()), 1..10)) {
        let root = in_force();
        let files = files();
        for (at, bytes) in contents {
            root.file(&files[at % files.len()], bytes);
        }
        let (screen, json) = (asked(&root, &[]), asked(&root, &["--json"]));
        prop_assert_eq!(screen.code, json.code);
        prop_assert!((0..=3).contains(&json.code), "{:?}", json);
        let document = json.json();
        for kernel in document["kernels"].as_array().unwrap() {
            for view in ["configured", "next_boot", "now"].map(|v| &kernel[v]).into_iter().filter(|v| !v.is_null()) {
                for (kind, word) in view["loads"].as_object().unwrap() {
                    prop_assert!(["loads", "taints", "refused", "unknown"].map(Some).contains(&word.as_str()));
                    prop_assert!(view["error"][kind].is_null() || word == "refused", "{}", view);
                }
            }
        }
    }
}

/// A run that is ended when it waits for something.
fn asked(root: &TestRoot, arguments: &[&str]) -> Run {
    let command = root.command("clr-dkms", &[&["enforcement"], arguments].concat());
    let output = assert_cmd::Command::from_std(command).timeout(Duration::from_secs(20)).output().unwrap();
    Run::of(output, root)
}

#[test]
fn nobody_waits_for_a_fifo() {
    let fifo = |root: &TestRoot, path: &str| {
        root.file(path, "").remove(path);
        assert!(Command::new("mkfifo").arg(root.at(path)).status().unwrap().success());
    };
    let all = in_force();
    for path in files() {
        let root = in_force();
        fifo(&root, &path);
        let run = asked(&root, &["--json"]);
        assert!((0..=3).contains(&run.code), "{path}: {run:?}");
        run.json();
        fifo(&all, &path);
    }
    asked(&all, &[]).code(3);
    judged(&root_of(&all));
}

#[test]
fn directories_and_links_in_the_place_of_files() {
    let all = in_force();
    for path in files() {
        let root = in_force();
        root.file(&path, "").remove(&path).directory(&path);
        assert!((0..=3).contains(&asked(&root, &["--json"]).code), "{path}");
        let loops = in_force();
        loops.link(&path, format!("/{path}"));
        assert!((0..=3).contains(&asked(&loops, &["--json"]).code), "{path}");
        all.link(&path, "/dev/zero");
    }
    asked(&all, &[]).code(3);
}
