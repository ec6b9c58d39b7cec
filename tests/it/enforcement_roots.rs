//! One root for each situation that an admin meets, for `clr-dkms enforcement` and for what must agree with
//! it.

use crate::support::machine::{CLEAR, DEBIAN};
use crate::support::root::FRAGMENT;
use crate::support::{A, B, LTS, TestRoot, elf};

pub(crate) const A_ID: &str = "org.clearlinux.native.6.15.7-1591";
pub(crate) const B_ID: &str = "org.clearlinux.native.6.15.8-1592";
pub(crate) const LTS_ID: &str = "org.clearlinux.ltscurrent.6.12.38-1550";
/// A kernel with the first form of the patch.
pub(crate) const OLD: &str = "5.18.3-1100.native";
const OLD_ID: &str = "org.clearlinux.native.5.18.3-1100";
const MASK: &str = "etc/kernel/cmdline.d/clr-ignore-mod-sig.conf";
/// The command line with and without the bundle's fragment.
pub(crate) const ON: &str = "quiet rw module.sig_unenforce";
pub(crate) const OFF: &str = "quiet rw";
pub(crate) const SIGNED: &[u8] = include_bytes!("../data/signatures/issuer.der");

/// A situation.
pub(crate) struct Situation {
    /// Its name, and that of its golden files.
    pub(crate) name: &'static str,
    /// The exit code.
    pub(crate) code: i32,
    /// The arguments behind `enforcement`.
    pub(crate) arguments: &'static [&'static str],
    pub(crate) root: fn() -> TestRoot,
}

/// Clear Linux with the bundle: A is installed with its headers, and is the tip; nothing runs yet.
fn clear(release: &str) -> TestRoot {
    let root = TestRoot::new().live();
    root.kernel(release).headers(release).tip(release).config(release, CLEAR).modinfo(release, true);
    root.file(FRAGMENT, "module.sig_unenforce\n");
    root
}

/// The same with the module hello, built and installed.
fn with_module() -> TestRoot {
    let root = clear(A);
    root.module("hello", "1.0", "").installed("hello", "1.0", A);
    root
}

/// That runs, with the parameter in force, and the module in use.
pub(crate) fn in_force() -> TestRoot {
    let root = with_module().running(A);
    root.entry(A_ID, ON, true).booted(ON, "Y", Some("Y")).loaded("hello", "OE");
    root
}

/// That runs, and demands signatures.
fn enforced() -> TestRoot {
    let root = with_module().running(A);
    root.entry(A_ID, OFF, true).booted(OFF, "Y", Some("N"));
    root
}

fn old(secure_boot: bool) -> TestRoot {
    let root = clear(OLD).running(OLD);
    root.module("hello", "1.0", "").installed("hello", "1.0", OLD).secure_boot(secure_boot);
    // Measured: this form of the patch changes sig_enforce itself.
    root.entry(OLD_ID, ON, true).booted(ON, if secure_boot { "Y" } else { "N" }, Some("Y"));
    if !secure_boot {
        root.loaded("hello", "OE");
    }
    root
}

/// A kernel that is built as Debian builds them, with lockdown and without the patch.
fn debian(words: &str, level: &str) -> TestRoot {
    let root = clear(A).running(A);
    root.module("hello", "1.0", "").installed("hello", "1.0", A).config(A, DEBIAN).modinfo(A, false);
    root.file(&format!("usr/lib/kernel/cmdline-{A}"), format!("quiet rw {words}\n"))
        .remove(FRAGMENT)
        .forget();
    let words = format!("quiet rw {words}");
    root.entry(A_ID, words.trim(), true).booted(words.trim(), "N", None).locked_down(level);
    root
}

/// The module's installed file with something behind it.
pub(crate) fn signed(root: &TestRoot, release: &str, message: &[u8]) {
    let mut header = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[8..].copy_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    let bytes = [&elf::module(release), message, &header, b"~Module signature appended~\n"].concat();
    let built = format!("{}/module/hello.ko", TestRoot::build("hello", "1.0", release));
    root.file(&built, &bytes).file(&TestRoot::ko("hello", release), &bytes);
}

/// An update brought B, with hello built for it, and the entries were made.
fn updated(words: &str) -> TestRoot {
    let root = in_force();
    root.kernel(B).headers(B).tip(B).config(B, CLEAR).modinfo(B, true).installed("hello", "1.0", B);
    root.entry(A_ID, ON, false).entry(B_ID, words, true);
    root
}

/// A Solus root: another namespace, two variants, a kernel that demands no signatures.
fn solus() -> TestRoot {
    const CURRENT: &str = "6.15.7-318.current";
    const SOLUS_LTS: &str = "6.12.38-270.lts";
    let config = DEBIAN.replace("CONFIG_IMA=y\n", "").replace("CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n", "");
    let root = TestRoot::new().running(CURRENT);
    for (release, variant, id) in [
        (CURRENT, "current", "com.solus-project.current.6.15.7-318"),
        (SOLUS_LTS, "lts", "com.solus-project.lts.6.12.38-270"),
    ] {
        root.kernel_of("com.solus-project", release).headers(release).config(release, &config);
        root.modinfo(release, false).link(&format!("usr/lib/kernel/default-{variant}"), id);
        root.entry_of("com.solus-project", "Solus", id, "quiet rw", variant == "current");
    }
    root.module("hello", "1.0", "").installed("hello", "1.0", CURRENT).installed("hello", "1.0", SOLUS_LTS);
    root.booted("quiet rw", "N", None).locked_down("none").loaded("hello", "OE");
    root
}

macro_rules! situations {
    ($($name:ident $code:literal $arguments:tt $root:expr;)*) => {
        &[$(Situation {
            name: stringify!($name),
            code: $code,
            arguments: &$arguments,
            root: || { let root: TestRoot = $root; root },
        }),*]
    };
}

/// All of them.
pub(crate) const SITUATIONS: &[Situation] = situations! {
    fragment_in_force 0 [] in_force();
    nothing_to_load 0 [] {
        let root = clear(A).running(A);
        root.entry(A_ID, ON, true).booted(ON, "Y", Some("Y"));
        root
    };
    masked 1 [] {
        let root = enforced();
        root.link(MASK, "/dev/null");
        root
    };
    masked_while_in_use 2 [] {
        let root = in_force();
        root.link(MASK, "/dev/null").entry(A_ID, OFF, true);
        root
    };
    masked_not_in_the_entry_yet 1 [] {
        let root = in_force();
        root.link(MASK, "/dev/null");
        root
    };
    masked_as_wanted 0 [] {
        let root = enforced();
        root.link(MASK, "/dev/null").file("etc/clr-dkms/clr-dkms.conf", "[cmdline]\nsig-unenforce = off\n");
        root
    };
    removed 1 [] {
        let root = enforced();
        root.file("etc/kernel/cmdline-removal.d/no.conf", "module.sig_unenforce\n");
        root
    };
    removed_in_part 1 [] {
        let root = with_module().running(A);
        root.file("etc/kernel/cmdline-removal.d/no.conf", "sig_unenforce\n");
        root.entry(A_ID, "quiet rw module.", true).booted("quiet rw module.", "Y", Some("N"));
        root
    };
    not_in_the_entry 1 [] enforced();
    no_entry 1 [] {
        let root = in_force();
        root.entry(A_ID, ON, false).remove("boot/loader/entries/Clear-linux-native-6.15.7-1591.conf");
        root
    };
    entries_not_visible 0 [] {
        let root = in_force();
        root.remove("boot");
        root
    };
    not_booted 0 [] {
        let root = enforced();
        root.entry(A_ID, ON, true);
        root
    };
    update_not_booted 0 [] updated(ON);
    update_without_the_parameter 1 [] updated(OFF);
    switched_at_run_time 2 [] {
        let root = enforced();
        root.link(MASK, "/dev/null").booted(OFF, "Y", Some("Y"));
        root
    };
    switched_at_run_time_against_the_policy 0 [] {
        let root = enforced();
        root.link(MASK, "/dev/null").booted(OFF, "Y", Some("Y"));
        root.file("etc/clr-dkms/clr-dkms.conf", "[cmdline]\nsig-unenforce = off\n");
        root
    };
    switched_at_run_time_and_in_use 1 [] {
        let root = enforced();
        root.booted(OFF, "Y", Some("Y")).loaded("hello", "OE");
        root
    };
    without_the_patch 1 [] {
        let root = with_module().running(A);
        root.modinfo(A, false).entry(A_ID, ON, true).booted(ON, "Y", None);
        root
    };
    old_without_secure_boot 0 [] old(false);
    old_with_secure_boot 1 [] old(true);
    secure_boot_makes_no_difference 0 [] {
        let root = in_force();
        root.secure_boot(true);
        root
    };
    lockdown 1 [] debian("lockdown=integrity", "integrity");
    lockdown_of_secure_boot 1 [] {
        let root = debian("", "integrity");
        root.secure_boot(true);
        root
    };
    lockdown_that_clear_ignores 0 [] {
        let root = in_force();
        root.file("etc/kernel/cmdline", "lockdown=integrity\n");
        let words = format!("{ON} lockdown=integrity");
        root.entry(A_ID, &words, true).booted(&words, "Y", Some("Y"));
        root
    };
    nothing_demands_signatures 0 [] {
        let root = debian("", "none");
        root.loaded("hello", "OE");
        root
    };
    solus 0 [] solus();
    solus_lts 0 ["--kernel", "lts"] solus();
    signed_module_of_a_foreign_key 1 [] {
        let root = in_force();
        signed(&root, A, SIGNED);
        root.entry(A_ID, OFF, true);
        root
    };
    signed_module_that_may_be_trusted 3 [] {
        let root = debian("lockdown=integrity", "integrity");
        signed(&root, A, SIGNED);
        root
    };
    signed_module_that_is_trusted 0 [] {
        let root = debian("lockdown=integrity", "integrity");
        signed(&root, A, SIGNED);
        root.loaded("hello", "O");
        root
    };
    broken_signature 1 [] {
        let root = updated(ON);
        signed(&root, B, b"no signature at all");
        root
    };
    modules_disabled 0 [] {
        let root = in_force();
        root.file("proc/sys/kernel/modules_disabled", "1\n");
        root
    };
    nothing_known 3 [] {
        let root = in_force();
        root.remove(&format!("usr/lib/kernel/config-{A}"));
        root.remove(&format!("usr/lib/modules/{A}/modules.builtin.modinfo"));
        root
    };
    running_kernel_says_nothing 3 [] {
        let root = in_force();
        root.remove("sys/module/module").remove("proc/cmdline").remove("proc/sys/kernel/tainted");
        root
    };
    image_that_tells 0 [] {
        let root = in_force();
        root.remove(&format!("usr/lib/modules/{A}/modules.builtin.modinfo"));
        root.image(A_ID, b"..\0module.sig_enforce\0..module.sig_unenforce\0..");
        root
    };
    image_without_the_patch 1 [] {
        let root = enforced();
        root.remove(&format!("usr/lib/modules/{A}/modules.builtin.modinfo")).entry(A_ID, ON, true);
        root.image(A_ID, b"..\0module.sig_enforce\0..").booted(ON, "Y", None);
        root.remove("sys/module/module/parameters/sig_unenforce");
        root
    };
    bootconfig 3 [] {
        let root = enforced();
        let config = CLEAR.replace("# CONFIG_BOOT_CONFIG is not set", "CONFIG_BOOT_CONFIG=y");
        root.config(A, &config).link(MASK, "/dev/null").file("etc/kernel/cmdline", "bootconfig\n");
        root.entry(A_ID, "quiet rw bootconfig", true).booted("quiet rw bootconfig", "Y", Some("N"));
        root
    };
    bootconfig_and_no_module 3 [] {
        let root = clear(A).running(A);
        let config = CLEAR.replace("# CONFIG_BOOT_CONFIG is not set", "CONFIG_BOOT_CONFIG=y");
        root.config(A, &config).link(MASK, "/dev/null").file("etc/kernel/cmdline", "bootconfig\n");
        root.entry(A_ID, "quiet rw bootconfig", true);
        root
    };
    nomodule 1 [] {
        let root = enforced();
        root.file("etc/kernel/cmdline", "nomodule\n");
        let words = format!("{ON} nomodule");
        root.entry(A_ID, &words, true).booted(&words, "Y", Some("Y"));
        root.file("proc/sys/kernel/modules_disabled", "1\n");
        root
    };
    another_system_boots_next 0 [] {
        let root = in_force();
        root.file("boot/loader/entries/debian.conf", "title Debian\nlinux /vmlinuz\n");
        root.file("boot/loader/loader.conf", "default debian.conf\n");
        root
    };
    three_modules 1 [] {
        let root = in_force();
        root.module("other", "2", "").installed("other", "2", A).module("third", "3", "").installed("third", "3", A);
        root.entry(A_ID, OFF, true);
        root
    };
    open_quote 3 [] {
        let root = enforced();
        root.file("etc/kernel/cmdline", "x=\"a\n").file(FRAGMENT, "\"module.sig_unenforce\n");
        root.entry(A_ID, "quiet rw \"module.sig_unenforce", true);
        root
    };
    one_shot 1 [] {
        let root = in_force();
        root.kernel(LTS).headers(LTS).tip(LTS).config(LTS, CLEAR).modinfo(LTS, false);
        root.installed("hello", "1.0", LTS).entry(LTS_ID, ON, false).secure_boot(false);
        root.loader_variable("LoaderEntryOneShot", "clear-linux-ltscurrent-6.12.38-1550.conf");
        root
    };
    by_release 0 ["--kernel", A] updated(ON);
    by_id 0 ["--kernel", B_ID] updated(ON);
    by_variant 0 ["--kernel", "native"] updated(ON);
    no_image_of_it 0 ["--kernel", LTS] {
        let root = in_force();
        root.config(LTS, CLEAR).modinfo(LTS, true).file(&format!("usr/lib/kernel/cmdline-{LTS}"), "quiet\n");
        root
    };
    of_an_image 0 [] {
        let root = TestRoot::new();
        root.kernel(A).headers(A).tip(A).config(A, CLEAR).modinfo(A, true);
        root.file(FRAGMENT, "module.sig_unenforce\n").entry(A_ID, ON, true);
        root.module("hello", "1.0", "").installed("hello", "1.0", A);
        root
    };
    of_an_image_without_entries 0 [] {
        let root = TestRoot::new();
        root.kernel(A).headers(A).tip(A).config(A, CLEAR).modinfo(A, true).remove("boot");
        root.file(FRAGMENT, "module.sig_unenforce\n");
        root
    };
    two_kernels_and_five_modules 1 [] {
        let root = updated(OFF);
        for (name, version) in [("cam", "1.2"), ("nvidia-open", "575.64.05"), ("v4l2loopback", "0.15.1"), ("zfs", "2.3.3")] {
            root.module(name, version, "").installed(name, version, A).installed(name, version, B);
        }
        root
    };
    several_kernels 0 [] {
        let root = updated(ON);
        root.kernel(LTS).headers(LTS).tip(LTS).config(LTS, CLEAR).modinfo(LTS, true);
        root.installed("hello", "1.0", LTS).entry(LTS_ID, ON, false);
        root
    };
};
