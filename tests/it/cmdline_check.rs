//! `clr-dkms-cmdline check`: is the configured line as the configuration wants it?

use crate::support::root::FRAGMENT;
use crate::support::run::{as_nobody, set_mode};
use crate::support::{A, B, LTS, Run, TestRoot};

/// What is wrong with the line, and what the setting makes of it.
const LACKS: &str = "module.sig_unenforce is not configured for kernel 6.15.7-1591.native";
const HAS: &str = "module.sig_unenforce is configured, and not wanted, for kernel 6.15.7-1591.native";

fn check(root: &TestRoot) -> Run {
    let before = root.tree();
    let run = root.run("clr-dkms-cmdline", &["check"]);
    let differs = crate::support::tree::difference(&before, &root.tree(), true);
    assert_eq!(differs, Vec::<String>::new(), "it only looks");
    run.prints("");
    run
}

fn configured(root: &TestRoot, setting: &str) {
    root.file("etc/clr-dkms/clr-dkms.conf", format!("[cmdline]\nsig-unenforce = {setting}\n"));
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Line {
    On,
    Off,
    Masked,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Patched {
    Yes,
    No,
    /// The kernel demands no signature in the first place.
    NotForced,
    /// Neither configuration nor list of parameters.
    Unknown,
}

fn laid_out(setting: &str, module: bool, line: Line, kernel: Patched) -> TestRoot {
    let root = TestRoot::system();
    configured(&root, setting);
    if module {
        root.module("hello", "1.0", "");
    }
    match line {
        Line::On => {}
        Line::Off => _ = root.remove(FRAGMENT),
        Line::Masked => _ = root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null"),
    }
    let modinfo = format!("usr/lib/modules/{A}/modules.builtin.modinfo");
    let patched =
        "signing.parmtype=sig_enforce:bool_enable_only\0signing.parmtype=sig_unenforce:bool_enable_only\0";
    let config = format!("usr/lib/kernel/config-{A}");
    match kernel {
        Patched::Yes => root.file(&modinfo, patched),
        Patched::No => root.file(&modinfo, "signing.parmtype=sig_enforce:bool_enable_only\0"),
        Patched::NotForced => root
            .file(&config, "CONFIG_MODULE_SIG=y\n# CONFIG_MODULE_SIG_FORCE is not set\n")
            .file(&modinfo, patched),
        Patched::Unknown => root.remove(&config),
    };
    root
}

#[test]
fn every_combination() {
    for setting in ["auto", "on", "off"] {
        for module in [true, false] {
            for line in [Line::On, Line::Off, Line::Masked] {
                for kernel in [Patched::Yes, Patched::No, Patched::NotForced, Patched::Unknown] {
                    let root = laid_out(setting, module, line, kernel);
                    let it_helps = matches!(kernel, Patched::Yes | Patched::Unknown);
                    let wrong = match setting {
                        "on" => (line != Line::On).then_some(LACKS),
                        "off" => (line == Line::On).then_some(HAS),
                        _ => (module && it_helps && line != Line::On).then_some(LACKS),
                    };
                    let run = check(&root);
                    let what = format!("{setting}, module {module}, {line:?}, {kernel:?}: {}", run.stderr);
                    assert_eq!(run.code, i32::from(wrong.is_some()), "{what}");
                    let Some(wrong) = wrong else {
                        assert_eq!(run.stderr, "", "{what}");
                        continue;
                    };
                    let step = match (setting, line) {
                        ("off", _) => "next step: run `sudo clr-dkms-cmdline disable`",
                        (_, Line::Masked) => {
                            "next step: ROOT/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf masks the vendor's fragment"
                        }
                        _ => "next step: run `sudo clr-dkms-cmdline enable`",
                    };
                    run.says(&[wrong, step]);
                }
            }
        }
    }
}

/// The help says that it can be put into one line of a shell.
#[test]
fn what_it_asks_for_satisfies_it() {
    for (setting, line, verb) in
        [("auto", Line::Off, "enable"), ("on", Line::Off, "enable"), ("off", Line::On, "disable")]
    {
        let root = laid_out(setting, true, line, Patched::Yes);
        check(&root).code(1).says(&[&format!("run `sudo clr-dkms-cmdline {verb}`")]);
        root.run("clr-dkms-cmdline", &[verb]).code(0);
        check(&root).code(0);
    }
    // Our own mask is the admin's order; the step back is a command of ours.
    let root = laid_out("auto", true, Line::On, Patched::Yes);
    root.run("clr-dkms-cmdline", &["disable"]).code(0);
    check(&root)
        .code(1)
        .says(&["masks the vendor's fragment", "`sudo clr-dkms-cmdline enable --live-root ROOT`"]);
    root.run("clr-dkms-cmdline", &["enable"]).code(0);
    check(&root).code(0);
}

#[test]
fn modules_that_are_not_to_be_loaded_need_nothing() {
    let root = laid_out("auto", true, Line::Off, Patched::Yes);
    for conf in ["BUILD_EXCLUSIVE_KERNEL=\"^5\\..*\"\n", "AUTOINSTALL=\"no\"\n"] {
        root.module("hello", "1.0", conf);
        check(&root).code(0);
    }
    // It is there all the same: somebody has installed it by hand.
    root.installed("hello", "1.0", A);
    check(&root).code(1).says(&[LACKS]);
}

/// The next boot counts, not a kernel that still runs.
#[test]
fn the_tips_count() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").remove(FRAGMENT);
    root.file(&format!("usr/lib/kernel/cmdline-{B}"), "quiet module.sig_unenforce\n");
    check(&root).code(0);
    root.kernel(LTS).headers(LTS).tip(LTS);
    check(&root).code(1).says(&["is not configured for kernel 6.12.38-1550.ltscurrent\n"]);
}

#[test]
fn without_a_kernel_there_is_nothing_to_check() {
    let root = TestRoot::new();
    check(&root)
        .code(0)
        .says(&["there is no kernel in ROOT/usr/lib/kernel", "is this the root of a system?"]);
    root.remove("usr/lib/kernel");
    check(&root).code(0).says(&["ROOT/usr/lib/kernel"]);
    root.file("usr/lib/kernel", "a file");
    check(&root).code(0).says(&["ROOT/usr/lib/kernel"]);
}

#[test]
fn a_fault_of_the_configuration_is_not_as_wanted() {
    let root = TestRoot::system();
    configured(&root, "maybe");
    check(&root).code(1).says(&["[cmdline] sig-unenforce"]);
}

#[test]
fn modules_that_cannot_be_listed_matter_to_auto_alone() {
    let root = TestRoot::system();
    root.remove("var/lib/dkms").file("var/lib/dkms", "a file");
    for (setting, code) in [("auto", 3), ("on", 0), ("off", 1)] {
        configured(&root, setting);
        let run = check(&root);
        run.code(code);
        if code == 3 {
            run.says(&["ROOT/var/lib/dkms"]);
        }
    }
}

/// What only root may read may hold the parameter.
#[test]
fn files_that_cannot_be_read() {
    for path in [
        FRAGMENT,
        "/usr/share/kernel/cmdline.d",
        "/etc/kernel/cmdline",
        "/etc/kernel/cmdline.d",
        "/etc/kernel/cmdline.d/a.conf",
        "/etc/kernel/cmdline-removal.d",
        "/etc/kernel/cmdline-removal.d/a.conf",
        &format!("/usr/lib/kernel/cmdline-{A}"),
    ] {
        let root = TestRoot::system();
        for file in ["cmdline", "cmdline.d/a.conf", "cmdline-removal.d/a.conf"] {
            root.file(&format!("etc/kernel/{file}"), "word=1\n");
        }
        let Some(mut command) = as_nobody(&root, "clr-dkms-cmdline", &["check"]) else { return };
        set_mode(&root.at(path), 0o000);
        let run = Run::of(command.output().unwrap(), &root);
        set_mode(&root.at(path), 0o755);
        run.code(3).prints("").says(&[&format!("ROOT{path}"), "; run it as root (`sudo "]);
    }
}
