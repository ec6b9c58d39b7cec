//! `clr-dkms-cmdline show`.

use crate::support::{A, B, LTS, TestRoot};
use crate::vectors;

const KERNEL: &str = "6.15.7-1591.native";

fn show(root: &TestRoot, arguments: &[&str]) -> crate::support::Run {
    root.run("clr-dkms-cmdline", &[&["show"], arguments].concat())
}

#[test]
fn raw_is_the_line_and_a_newline_and_nothing_else() {
    let mut wrong = Vec::new();
    let vectors = vectors::all();
    assert_eq!(vectors.len(), 401);
    let talk = format!(
        "clr-dkms-cmdline: {KERNEL} has no image in ROOT/usr/lib/kernel: clr-boot-manager makes no entry for it\n"
    );
    for vector in vectors {
        // The vector's own files and nothing else: no image, no folder of modules.
        let root = TestRoot::bare();
        vectors::lay_out(&vector.files, root.path());
        let run = show(&root, &["--raw", "--kernel", KERNEL]);
        let expected = [vectors::latin1(&vector.out).as_slice(), b"\n"].concat();
        if run.code != 0 || run.raw != expected || run.stderr != talk {
            let (is, should) = (run.raw.escape_ascii(), expected.escape_ascii());
            wrong.push(format!("{}: {} {is} instead of {should}; {}", vector.name, run.code, run.stderr));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_kernel_may_be_named_in_three_ways() {
    let root = TestRoot::updated();
    for asked in [B, "native", "org.clearlinux.native.6.15.8-1592"] {
        show(&root, &["--raw", "-k", asked]).code(0).prints("quiet rw module.sig_unenforce\n");
    }
    show(&root, &["--raw", "-k", A]).code(0).prints("quiet rw module.sig_unenforce\n");
    show(&root, &["-k", LTS]).code(3).prints("").says(&[LTS, "is no installed kernel"]);
    show(&root, &["--raw"]).code(64).prints("");
    show(&root, &["--raw", "--json", "-k", B]).code(64).prints("");
}

#[test]
fn the_screen_names_every_tip_and_what_is_masked() {
    let root = TestRoot::updated();
    root.kernel(LTS).tip(LTS).file("usr/lib/kernel/cmdline-6.12.38-1550.ltscurrent", "lts=1\n");
    root.file("usr/share/kernel/cmdline.d/50-other.conf", "other=1\n");
    root.link("etc/kernel/cmdline.d/50-other.conf", "/dev/null");
    root.link("etc/kernel/cmdline.d/99-null.conf", "/dev/null");
    insta::assert_snapshot!("cmdline_show", show(&root, &[]).code(0).stdout);
    insta::assert_snapshot!("cmdline_show_json", show(&root, &["--json"]).code(0).stdout);
}

#[test]
fn control_characters_of_a_line_are_shown_and_not_obeyed() {
    let root = TestRoot::system();
    root.file(&format!("usr/lib/kernel/cmdline-{A}"), b"a\x1b[31mb\x07c \xff");
    root.link("etc/kernel/cmdline.d/\u{1b}[31mred.conf", "/dev/null");
    for color in ["always", "never"] {
        let run = show(&root, &["--color", color]);
        assert!(!run.code(0).stdout.contains(['\u{1b}', '\u{7}']), "{:?}", run.stdout);
        run.shows(&["\\u{1b}[31mb"]);
    }
    let json = show(&root, &["--json"]).code(0).json();
    assert!(json["kernels"][0]["cmdline"].as_str().unwrap().starts_with("a\u{1b}[31mb\u{7}c \u{fffd}"));
}

#[test]
fn without_a_folder_of_kernels_it_cannot_be_told() {
    let root = TestRoot::system();
    root.remove("usr/lib/kernel");
    for verb in ["show", "enable", "disable", "default"] {
        let before = root.tree();
        let run = root.run("clr-dkms-cmdline", &[verb]);
        if verb == "default" {
            // To take back what is ours, no kernel has to be there.
            run.code(0).prints("nothing to change\n");
        } else {
            run.code(3).says(&["ROOT/usr/lib/kernel", "is this the root of a system?"]);
        }
        assert!(!root.has("etc/kernel"), "{verb}");
        let lock_only = crate::support::tree::difference(&before, &root.tree(), false);
        assert!(lock_only.is_empty() || lock_only == ["+ run/clr-dkms.lock"], "{lock_only:?}");
    }
}
