//! Generated machines, and what happens to them: changes by others, and runs of our programs.

use super::check::next_boot;
use crate::support::boot::{A_ENTRY, path};
use crate::support::guard::{FAILS_ON_B, HELLO_FAILS_ON_B, ID_A};
use crate::support::random::Random;
use crate::support::{A, B, TestRoot};
use crate::trial::{ONE_SHOT, RECORD as TRIAL};

/// A kernel before [`A`], and one after [`B`].
pub(super) const OLD: &str = "6.15.6-1590.native";
const ID_OLD: &str = "org.clearlinux.native.6.15.6-1590";
pub(super) const C: &str = "6.15.9-1593.native";
const OLD_ENTRY: &str = "Clear-linux-native-6.15.6-1590.conf";
/// The partition of the stand-in for clr-boot-manager.
const PARTITION: &str = "5ca1ab1e-0000-4000-8000-00000000c1a0";
const WORDS: &str = "quiet rw module.sig_unenforce";
const UCODE: &str = "usr/lib/initrd.d/00-intel-ucode.cpio";
const INITRD: &str = "usr/lib/initrd.d/extra";

/// What goes wrong on the newer kernels: lines for the stand-ins.
const BEHAVIOURS: [(&str, &str); 6] = [
    ("all builds work", ""),
    ("no build works on B", FAILS_ON_B),
    ("hello does not build on B", HELLO_FAILS_ON_B),
    ("no install works on B", "[[ $verb != install || $kernel != *1592* ]] || code=10"),
    ("builds are for another kernel", "made_for=6.15.7-1591.native"),
    ("no build works on C", "[[ $verb != build || $kernel != *1593* ]] || code=10"),
];

/// One step of a sequence.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// What others do between two runs.
    Change(Change),
    /// A run of ours: the program and its arguments.
    Run(&'static str, &'static [&'static str]),
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// An admin's fragment gets other words.
    Fragment(usize),
    Microcode(usize),
    /// The freestanding initrd comes or goes.
    Initrd,
    /// The name of the system changes, which every entry has.
    Title(usize),
    /// A newer kernel is installed.
    Kernel,
    /// A new version of the source, with which everything works.
    Source,
    /// The installed file of the module on the newer kernel is lost.
    LostFile,
    /// The machine is booted into what boots next.
    Reboot,
    /// The same, and it hangs: it is reset, and boots again.
    Hang,
}

/// What is run, the worker and the verbs that change the boot files most often.
const RUNS: [(&str, &[&str]); 18] = [
    ("clr-dkms-post-update", &[]),
    ("clr-dkms-post-update", &[]),
    ("clr-dkms-post-update", &[]),
    ("clr-dkms-post-update", &[]),
    ("clr-dkms-cmdline", &["disable"]),
    ("clr-dkms-cmdline", &["enable"]),
    ("clr-dkms-cmdline", &["default"]),
    ("clr-dkms", &["hold", A]),
    ("clr-dkms", &["hold", B]),
    ("clr-dkms", &["hold", OLD]),
    ("clr-dkms", &["unhold"]),
    ("clr-dkms", &["allow", B, "--without", "hello", "--yes", "--force"]),
    ("clr-dkms", &["guard", "--assert"]),
    ("clr-dkms", &["guard", "--at-boot"]),
    ("clr-dkms", &["guard", "--check-boot", "--within=0s"]),
    ("clr-dkms", &["allow", B]),
    ("clr-dkms", &["rebuild", "--force", "hello/1.0"]),
    ("clr-dkms-pre-update", &[]),
];

/// A machine that runs [`A`] with a critical module after an update has brought [`B`]; and how it came to be.
pub(super) fn generate(random: &mut Random) -> (TestRoot, Vec<String>) {
    let mut explain = Vec::new();
    let root = TestRoot::guarded().faithful();
    // One build after the other: a run does the same each time.
    root.conf("[build]\njobs = 1\n");
    if random.one_in(2) {
        root.kernel(OLD).headers(OLD).installed("hello", "1.0", OLD).entry(ID_OLD, WORDS, false);
        explain.push("an older kernel".to_owned());
        if random.one_in(2) {
            root.file(&format!("var/lib/kernel/k_booted_{OLD}"), "");
            explain.push("which was booted".to_owned());
        }
        // The last of the entries to be written decides the default.
        root.entry(ID_A, WORDS, true);
    }
    for (id, entry) in [(ID_A, A_ENTRY), (ID_OLD, OLD_ENTRY)] {
        if root.has(&path(entry)) {
            let text = format!(
                "title Clear Linux OS\nlinux /EFI/org.clearlinux/kernel-{id}\noptions root=PARTUUID={PARTITION} {WORDS}\n"
            );
            // As an update before has left it.
            root.file(&path(entry), text).file(&format!("boot/EFI/org.clearlinux/kernel-{id}"), "image");
        }
    }
    if random.one_in(2) {
        root.module("other", "1", "").installed("other", "1", A);
        explain.push("a module that nothing depends on".to_owned());
    }
    if random.one_in(2) {
        root.file(UCODE, "microcode");
        explain.push("microcode".to_owned());
    }
    let (what, lines) = random.of(&BEHAVIOURS);
    root.behave(lines);
    explain.push(what.to_owned());
    if random.one_in(2) {
        root.with_units().secure_boot(false).boots_once().boot("1");
        explain.push("new kernels are booted on trial".to_owned());
    }
    if random.one_in(3) {
        root.run("clr-dkms-post-update", &[]);
        explain.push("the worker has run".to_owned());
    }
    assert!(root.has(&path(A_ENTRY)));
    (root, explain)
}

pub(super) fn action(random: &mut Random) -> Action {
    if !random.one_in(3) {
        let (program, arguments) = random.of(&RUNS);
        return Action::Run(program, arguments);
    }
    let number = random.below(1000);
    Action::Change(match random.below(11) {
        0..=1 => Change::Fragment(number),
        2 => Change::Microcode(number),
        3 => Change::Initrd,
        4 => Change::Title(number),
        5 => Change::Kernel,
        6 => Change::Source,
        7 => Change::LostFile,
        8 => Change::Hang,
        _ => Change::Reboot,
    })
}

/// Has it happen.
pub(super) fn change(root: &TestRoot, change: Change) {
    match change {
        Change::Fragment(n) => root.file("etc/kernel/cmdline.d/x.conf", format!("x={n}\n")).forget(),
        Change::Microcode(n) => root.file(UCODE, format!("microcode {n}")).forget(),
        Change::Initrd if root.has(INITRD) => root.remove(INITRD).forget(),
        Change::Initrd => root.file(INITRD, "initrd").forget(),
        Change::Title(n) => {
            root.file("usr/lib/os-release", format!("PRETTY_NAME=\"System {n}\"\n")).forget();
        }
        Change::Kernel => root.kernel(C).headers(C).tip(C).forget(),
        Change::Source => root.repair("hello-1.0").forget(),
        Change::LostFile if root.has(&TestRoot::ko("hello", B)) => {
            root.remove(&TestRoot::ko("hello", B)).forget();
        }
        Change::LostFile => {}
        Change::Reboot => boot(root, &boot_loader(root)),
        Change::Hang => {
            boot_loader(root);
            boot(root, &boot_loader(root));
        }
    }
}

/// The release of the kernel that the boot loader starts. It takes the choice for one boot away.
fn boot_loader(root: &TestRoot) -> String {
    let release = next_boot(root).release;
    if root.has(ONE_SHOT) {
        root.remove(ONE_SHOT);
    }
    release
}

/// The kernel boots, unless it cannot: then an admin boots the one that ran before.
fn boot(root: &TestRoot, release: &str) {
    const BOOT: &str = "proc/sys/kernel/random/boot_id";
    let number: u32 = if root.has(BOOT) { root.text(BOOT).trim().parse().unwrap() } else { 0 };
    root.file(BOOT, format!("{}\n", number + 1));
    if root.has(&format!("usr/lib/modules/{release}")) && root.has(&TestRoot::ko("hello", release)) {
        root.file("proc/sys/kernel/osrelease", format!("{release}\n"));
        // A kernel on trial is not marked.
        if !root.has(TRIAL) {
            root.file(&format!("var/lib/kernel/k_booted_{release}"), "");
        }
    }
}
