//! What stands in the way of `enable` and `disable`: each thing is named with file and line, nothing of it is
//! touched, and the command that is named clears it.

use std::process::Command;

use crate::support::root::FRAGMENT;
use crate::support::{A, B, Run, TestRoot};

const LOCAL: &str = "etc/kernel/cmdline.d";
const REMOVALS: &str = "etc/kernel/cmdline-removal.d";
const WORD: &str = "module.sig_unenforce";

fn without_fragment() -> TestRoot {
    let root = TestRoot::system();
    root.remove(FRAGMENT);
    root
}

fn change(root: &TestRoot, verb: &str) -> Run {
    root.run("clr-dkms-cmdline", &[verb, "--no-refresh"])
}

/// The commands that an answer names.
fn commands(run: &Run) -> Vec<&str> {
    let parts = run.stderr.split("to change that: `").skip(1);
    parts.map(|part| part.split('`').next().unwrap()).collect()
}

/// Every file that is not ours.
fn foreign(root: &TestRoot) -> crate::support::tree::Tree {
    let mut tree = root.tree();
    let ours = ["clr-dkms.conf", "cmdline.json", "clr-dkms.lock"];
    tree.retain(|path, entry| {
        !ours.iter().any(|name| path.ends_with(name)) && !entry.what.starts_with("directory")
    });
    tree
}

/// The verb fails with exactly these obstacles, nothing foreign is touched, and their commands clear them.
#[track_caller]
fn cleared(name: &str, root: &TestRoot, verb: &str, blockers: &[&str]) {
    let before = foreign(root);
    let run = change(root, verb);
    run.code(1).says(blockers);
    let commands = commands(&run);
    assert_eq!(commands.len(), blockers.len(), "{name}: {}", run.stderr);
    assert_eq!(foreign(root), before, "{name}");
    for command in commands {
        let command = command.replace("ROOT", &root.path().display().to_string());
        let output =
            Command::new("sh").args(["-c", &format!("sudo() {{ \"$@\"; }}; {command}")]).output().unwrap();
        assert!(output.status.success(), "{name}: {command}: {output:?}");
    }
    let run = change(root, verb);
    assert_eq!(run.code, 0, "{name}: {}", run.stderr);
    let wanted = if verb == "enable" { "on" } else { "off" };
    let json = root.run("clr-dkms-cmdline", &["show", "--json"]).code(0).json();
    for kernel in json["kernels"].as_array().unwrap() {
        assert_eq!(kernel["sig_unenforce"], wanted, "{name}: {json:#}");
    }
}

#[test]
fn a_mask_of_the_admin() {
    for kind in ["link", "file", "dangling", "directory"] {
        let root = TestRoot::system();
        let mask = format!("{LOCAL}/clr-ignore-mod-sig.conf");
        match kind {
            "link" => root.link(&mask, "/dev/null"),
            "file" => root.file(&mask, ""),
            "dangling" => root.link(&mask, "nowhere"),
            _ => root.file(&format!("{mask}/keep"), "me"),
        };
        let said = "ROOT/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf masks the vendor's fragment /usr/share";
        cleared(kind, &root, "enable", &[said]);
    }
}

#[test]
fn a_file_in_the_place_of_ours() {
    let root = without_fragment();
    root.file(&format!("{LOCAL}/clr-dkms.conf"), "other=1\n");
    let said = "ROOT/etc/kernel/cmdline.d/clr-dkms.conf occupies the path of our fragment, but clr-dkms did not write it";
    // The tree without our names would hide what the command removes: it is asked for by name.
    change(&root, "enable").code(1).says(&[said]);
    assert_eq!(root.text(&format!("{LOCAL}/clr-dkms.conf")), "other=1\n");
    cleared("place", &root, "enable", &[said]);
}

/// What the files are, and what is said of each obstacle.
type Case = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);

#[test]
fn removals() {
    let cases: &[Case] = &[
        (
            "whole",
            &[("r.conf", "# why\nquiet\nmodule.sig_unenforce\n")],
            &["ROOT/etc/kernel/cmdline-removal.d/r.conf:3 removes module.sig_unenforce from the line"],
        ),
        (
            "part",
            &[("r.conf", "sig_unenforce\n")],
            &["r.conf:1 removes a part of module.sig_unenforce from the line and leaves module."],
        ),
        (
            "twice in one file",
            &[("r.conf", "module.sig_unenforce\n\n  sig_unenforce\n")],
            &["r.conf:1 removes module.sig_unenforce", "r.conf:3 removes a part of module.sig_unenforce"],
        ),
        (
            "two files",
            &[("1 a.conf", "module.sig_unenforce\n"), ("2'b.conf", "module.sig_unenforce")],
            &["1 a.conf:1 removes module.sig_unenforce", "2'b.conf:1 removes module.sig_unenforce"],
        ),
        (
            "with a neighbour",
            &[("r.conf", "rw module.sig_unenforce\n")],
            &["r.conf:1 removes module.sig_unenforce from the line (\"rw module.sig_unenforce\")"],
        ),
    ];
    for (name, files, said) in cases {
        for root in [TestRoot::system(), without_fragment()] {
            for (file, text) in *files {
                root.file(&format!("{REMOVALS}/{file}"), text);
            }
            cleared(name, &root, "enable", said);
        }
    }
}

/// What is left of another word is glued to ours.
#[test]
fn a_removal_that_eats_a_part_of_a_neighbour() {
    let root = without_fragment();
    root.file("etc/kernel/cmdline", "nvidia-drm.modeset=1\n");
    root.file(&format!("{REMOVALS}/r.conf"), "splash\nmodeset=1\n");
    cleared(
        "glued",
        &root,
        "enable",
        &[
            "r.conf:2 removes a part of nvidia-drm.modeset=1 from the line and leaves nvidia-drm.module.sig_unenforce \
           (\"modeset=1\")",
        ],
    );
    // The removal of another word is not at fault.
    assert_eq!(root.text(&format!("{REMOVALS}/r.conf")), "splash\n# modeset=1\n");
}

#[test]
fn a_removal_that_takes_the_end_of_a_quote() {
    let root = without_fragment();
    root.file("etc/kernel/cmdline", "x=\"a b\"\n").file(&format!("{REMOVALS}/r.conf"), "b\"\n");
    cleared("quote", &root, "enable", &["r.conf:1 removes a part of x=\"a b\" from the line"]);
}

#[test]
fn what_ends_the_line_for_the_kernel() {
    let own = format!("usr/lib/kernel/cmdline-{A}");
    let kernel = own.as_str();
    let vendor = "usr/share/kernel/cmdline.d/10 other.conf";
    let local = "etc/kernel/cmdline.d/10-mine.conf";
    for file in [kernel, vendor, "etc/kernel/cmdline", local] {
        for (text, said) in [
            (&b"a=1\nb=2 -- c=3\nd=4\n"[..], "the word --, after which the kernel reads no parameters"),
            (b"a=1\nb=2 \"--\"\n", "the word --, after which the kernel reads no parameters"),
            (b"a=1\nb=\"2 c=3\nd=4", "a quote that is not closed, in b=\"2 c=3 d=4"),
            (b"a=1\nb=\x002\n", "a NUL byte, behind which every fragment is cut off"),
            (b"a=\x001\nb=\"2\n", "a NUL byte, behind which every fragment is cut off"),
        ] {
            let root = without_fragment();
            root.file(file, text);
            if file == kernel && said.contains("NUL") {
                // It cuts off the rest of this file alone.
                change(&root, "enable").code(0);
                continue;
            }
            let at = if text.starts_with(b"a=\0") { 1 } else { 2 };
            let said = format!("ROOT/{file}:{at} has {said}");
            let mut all = vec![said.as_str()];
            if at == 1 {
                // Behind the NUL byte comes the next one.
                all.push(":2 has a quote that is not closed");
            }
            cleared(file, &root, "enable", &all);
        }
    }
}

/// Its end, too, is in a file of another.
#[test]
fn a_quote_that_goes_on_over_ours() {
    let root = without_fragment();
    root.file("etc/kernel/cmdline", "x=\"a\n").file(&format!("{LOCAL}/z.conf"), "b\"\n");
    let said =
        "ROOT/etc/kernel/cmdline:1 opens a quote that is not closed before module.sig_unenforce, in x=\"a";
    cleared("quote", &root, "enable", &[said]);
}

#[test]
fn several_at_once() {
    let root = TestRoot::updated();
    root.link(&format!("{LOCAL}/clr-ignore-mod-sig.conf"), "/dev/null");
    root.file(&format!("usr/lib/kernel/cmdline-{B}"), "quiet --\n");
    root.file(&format!("{REMOVALS}/r.conf"), "module.sig_unenforce\n");
    cleared(
        "all",
        &root,
        "enable",
        &[
            "clr-ignore-mod-sig.conf masks the vendor's",
            "cmdline-6.15.8-1592.native:1 has the word --",
            "r.conf:1 removes module.sig_unenforce",
        ],
    );
}

#[test]
fn a_line_that_is_too_long() {
    let root = without_fragment();
    root.file("etc/kernel/cmdline", "x=".to_owned() + &"y".repeat(2050));
    let run = change(&root, "enable");
    run.code(1).says(&[
        "ROOT/etc/kernel/cmdline has 2052 of the 2082 bytes of a line of which the kernel reads 2047",
        "`clr-dkms-cmdline show --live-root ROOT`",
    ]);
}

#[test]
fn what_sets_it_and_is_not_ours() {
    let own = format!("usr/lib/kernel/cmdline-{A}");
    let cases = [
        (
            "etc/kernel/cmdline",
            "a=1\nb module.sig_unenforce=y c\n",
            "cmdline:2 sets module.sig_unenforce, and is not ours",
        ),
        (
            "etc/kernel/cmdline.d/a.conf",
            "module.sig-unenforce\n",
            "a.conf:1 sets module.sig_unenforce, and is not ours",
        ),
        (
            "etc/kernel/cmdline.d/a b.conf",
            "module.sig_unenforce=\"1\" x=1",
            "a b.conf:1 sets module.sig_unenforce",
        ),
        (
            "etc/kernel/cmdline.d/a.conf",
            "module.sig_unenforce=enabled\n",
            "a.conf:1 sets module.sig_unenforce",
        ),
        (
            FRAGMENT,
            "x=1\n\"module.sig_unenforce=1\"\n",
            "clr-ignore-mod-sig.conf:2 sets module.sig_unenforce beside other words",
        ),
        (
            &own,
            "quiet module.sig_unenforce\n",
            "cmdline-6.15.7-1591.native:1 is the kernel's own line, and sets",
        ),
    ];
    for (file, text, said) in cases {
        let root = without_fragment();
        root.file(file, text);
        cleared(text, &root, "disable", &[said]);
        assert!(
            !root.run("clr-dkms-cmdline", &["show", "--raw", "-k", A]).stdout.contains("unenforce"),
            "{text}"
        );
    }
    // All of them, each with its command.
    let root = TestRoot::system();
    root.file("etc/kernel/cmdline", format!("{WORD} {WORD}=1\n")).file("etc/kernel/cmdline.d/z.conf", WORD);
    change(&root, "disable")
        .code(1)
        .says(&["ROOT/etc/kernel/cmdline:1 sets", "rm ROOT/etc/kernel/cmdline.d/z.conf"]);
}

/// No file holds the word, and the line has it.
#[test]
fn a_word_that_a_removal_glued_together_is_found() {
    let root = without_fragment();
    root.file("etc/kernel/cmdline", "module.x=1\nsig_unenforce\n")
        .file(&format!("{REMOVALS}/r.conf"), "x=1\n");
    change(&root, "disable").code(1).says(&[
        "ROOT/etc/kernel/cmdline:1 has a part of module.sig_unenforce, which a removal has glued together",
        "ROOT/etc/kernel/cmdline:2 has a part of",
    ]);
}

#[test]
fn what_is_off_already_needs_no_change() {
    let root = TestRoot::system();
    root.file(FRAGMENT, "module.sig_unenforce other=1\n");
    root.file(&format!("{REMOVALS}/r.conf"), WORD);
    change(&root, "disable").code(0).prints("nothing to change\n");
}

#[test]
fn a_bootconfig_may_set_anything() {
    let root = without_fragment();
    root.file("etc/kernel/cmdline", "bootconfig\n");
    // Clear's kernels do not know the word.
    change(&root, "disable").code(0).prints("nothing to change\n");
    let config = format!("usr/lib/kernel/config-{A}");
    root.file(&config, root.text(&config) + "CONFIG_BOOT_CONFIG=y\n");
    change(&root, "disable")
        .code(1)
        .says(&["ROOT/etc/kernel/cmdline:1 has bootconfig: whether an initrd then sets"]);
    change(&root, "enable").code(0);
}

#[test]
fn a_name_that_a_vendor_has_is_not_taken() {
    let root = without_fragment();
    let vendor = "usr/share/kernel/cmdline.d/clr-dkms.conf";
    root.file(vendor, "vendor=1\n");
    change(&root, "enable")
        .code(0)
        .prints("write /etc/kernel/cmdline.d/clr-dkms-sig-unenforce.conf with\n  module.sig_unenforce\n");
    change(&root, "default").code(0);
    // It comes to have it later.
    root.remove(vendor);
    change(&root, "enable").code(0);
    root.file(vendor, "vendor=1\n");
    let line =
        |expected: &str| _ = root.run("clr-dkms-cmdline", &["show", "--raw", "-k", A]).prints(expected);
    line("quiet rw module.sig_unenforce\n");
    change(&root, "enable").code(0).prints(
        "remove /etc/kernel/cmdline.d/clr-dkms.conf, which we wrote\n\
         write /etc/kernel/cmdline.d/clr-dkms-sig-unenforce.conf with\n  module.sig_unenforce\n",
    );
    line("quiet rw vendor=1 module.sig_unenforce\n");
    change(&root, "default").code(0);
    // And it sets the parameter itself.
    root.remove(vendor);
    change(&root, "enable").code(0);
    root.file(vendor, "module.sig_unenforce\n");
    change(&root, "enable").code(0).prints("remove /etc/kernel/cmdline.d/clr-dkms.conf, which we wrote\n");
    line("quiet rw module.sig_unenforce\n");
    change(&root, "disable")
        .code(0)
        .shows(&["mask the vendor's fragment with /etc/kernel/cmdline.d/clr-dkms.conf"]);
    line("quiet rw \n");
    // Our mask stays behind when the vendor takes the file back; it is not in our way.
    root.remove(vendor);
    change(&root, "enable").code(0);
    line("quiet rw module.sig_unenforce\n");
    change(&root, "default").code(0);
    assert!(!root.has("etc/kernel"));
}
