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
        "clr-dkms-cmdline: {KERNEL} has no image in ROOT/usr/lib/kernel: clr-boot-manager writes no entry for it\n"
    );
    for vector in vectors {
        // The vector's own files and nothing else: no image, no directory of modules.
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
    show(&root, &["-k", LTS]).code(3).prints("").says(&[LTS, "is not an installed kernel"]);
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

/// Everything that can become of a word.
fn eventful() -> TestRoot {
    let root = TestRoot::system();
    root.file(
        &format!("usr/lib/kernel/cmdline-{A}"),
        "init=/usr/bin/initra-desktop\nquiet console=tty0 rw module.sig_unenforce=2\n# no\n\n",
    );
    root.file("usr/share/kernel/cmdline.d/20-graphics.conf", "nvidia-drm.modeset=1 nvidia-drm.fbdev=1\n");
    root.file("usr/share/kernel/cmdline.d/30-file.conf", "by=file");
    root.file("usr/share/kernel/cmdline.d/31-directory.conf", "by=directory and=more");
    root.file("usr/share/kernel/cmdline.d/32-dangling.conf", "by=dangling");
    root.file("etc/kernel/cmdline.d/30-file.conf", "# off\n")
        .directory("etc/kernel/cmdline.d/31-directory.conf");
    root.link("etc/kernel/cmdline.d/32-dangling.conf", "nowhere")
        .link("etc/kernel/cmdline.d/99-x.conf", "/dev/null");
    root.file(
        "etc/kernel/cmdline",
        "Module.sig_unenforce mitigations=auto,nosmt,and,a,value,that,is,long\nx=\"a b\" --\nfor-init",
    );
    root.file("etc/kernel/cmdline-removal.d/10-a.conf", "console=tty0\nmodeset=1\nnot-there\nqui\n");
    root.file("etc/kernel/cmdline-removal.d/20-b.conf", "rw module.sig_unenforce=2\n");
    root
}

#[test]
fn what_became_of_every_word() {
    let root = eventful();
    let screen = show(&root, &[]).code(0).stdout.clone();
    for line in screen.lines().filter(|line| line.chars().count() > 80) {
        assert!(!line.trim().contains(' '), "{line:?} could be broken");
    }
    insta::assert_snapshot!("cmdline_show_eventful", screen);
    insta::assert_snapshot!("cmdline_show_eventful_json", show(&root, &["--json"]).code(0).stdout);
}

#[test]
fn control_characters_of_a_line_are_shown_and_not_obeyed() {
    let root = TestRoot::system();
    root.file(&format!("usr/lib/kernel/cmdline-{A}"), b"a\x1b[31mb\x07c \xff");
    root.link("etc/kernel/cmdline.d/\u{1b}[31mred.conf", "/dev/null");
    for color in ["always", "never"] {
        let run = show(&root, &["--color", color]);
        // The marks are coloured.
        let hostile = ["\u{1b}[31mb", "\u{1b}[31mred", "\u{7}"];
        assert!(!hostile.iter().any(|text| run.code(0).stdout.contains(text)), "{:?}", run.stdout);
        run.shows(&["\\u{1b}[31mb"]);
    }
    let json = show(&root, &["--json"]).code(0).json();
    assert!(json["kernels"][0]["cmdline"].as_str().unwrap().starts_with("a\u{1b}[31mb\u{7}c \u{fffd}"));
}

#[test]
fn without_a_directory_of_kernels_it_is_unknown() {
    let root = TestRoot::system();
    root.remove("usr/lib/kernel");
    for verb in ["show", "enable", "disable", "default"] {
        let before = root.tree();
        let run = root.run("clr-dkms-cmdline", &[verb]);
        if verb == "default" {
            // To take back what is ours, no kernel has to be there.
            run.code(0).prints("nothing to change\n");
        } else {
            let expected = if verb == "show" { 0 } else { 3 };
            run.code(expected).says(&["ROOT/usr/lib/kernel", "is this the root of a system?"]);
        }
        assert!(!root.has("etc/kernel"), "{verb}");
        let lock_only = crate::support::tree::difference(&before, &root.tree(), false);
        assert!(lock_only.is_empty() || lock_only == ["+ run/clr-dkms.lock"], "{lock_only:?}");
    }
}

/// What is on the admin's line, and what is said of it.
#[test]
fn remarks() {
    let long = |length: usize| "x".repeat(length - "quiet rw ".len());
    let cases: Vec<(String, &str, &str)> = vec![
        ("-- module.sig_unenforce".to_owned(), "off", "comes after `--`, which the kernel does not read"),
        ("\"module.sig_unenforce".to_owned(), "unknown", "an open quote extends to the end of the line"),
        ("x=\"module.sig_unenforce".to_owned(), "off", "an open quote extends to the end of the line"),
        (
            "x=\"module.sig_unenforce\"".to_owned(),
            "off",
            "contains sig_unenforce as the value of another parameter",
        ),
        (
            "module.sig_unenforce=2".to_owned(),
            "off",
            "module.sig_unenforce=2 has no boolean value: it is ignored",
        ),
        ("module.sig_unenforce=0".to_owned(), "off", "is false, which changes nothing"),
        ("module.sig_unenforce=enabled".to_owned(), "unknown", "depends on the kernel's version"),
        ("Module.sig_unenforce".to_owned(), "off", "is not module.sig_unenforce: the kernel ignores it"),
        ("sig_unenforce".to_owned(), "off", "is not module.sig_unenforce"),
        (long(2001), "off", "the line has 2001 bytes, and the boot loader adds some words"),
        (long(2048), "off", "the line has 2048 bytes: the kernel cuts it at 2047"),
        (
            long(2048) + " module.sig_unenforce",
            "off",
            "comes after byte 2047, where the kernel cuts the line",
        ),
        (
            "a\0b".to_owned(),
            "off",
            "a NUL byte in /etc/kernel/cmdline:1 cuts off what follows it of all fragments",
        ),
    ];
    for (line, switch, said) in cases {
        let root = TestRoot::system();
        root.remove(crate::support::root::FRAGMENT).file("etc/kernel/cmdline", &line);
        let json = show(&root, &["--json"]).code(0).json();
        let kernel = &json["kernels"][0];
        assert_eq!(kernel["sig_unenforce"], switch, "{line}");
        let remarks = kernel["remarks"].as_array().unwrap();
        assert!(remarks.iter().any(|r| r.as_str().unwrap().contains(said)), "{line}: {remarks:?}");
        let flat = show(&root, &[]).code(0).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains(said), "{line}: {flat}");
    }
    let root = TestRoot::system();
    root.remove(crate::support::root::FRAGMENT).file("etc/kernel/cmdline", long(2000));
    assert_eq!(show(&root, &["--json"]).json()["kernels"][0]["remarks"], serde_json::json!([]));
}

#[test]
fn nul_bytes_cut_each_part_alone() {
    let root = TestRoot::system();
    root.file(&format!("usr/lib/kernel/cmdline-{A}"), "quiet\nsplash\0gone\ngone too\n");
    show(&root, &["--raw", "-k", A]).prints("quiet splash module.sig_unenforce\n");
    root.file("usr/share/kernel/cmdline.d/00.conf", "a\0b").file("etc/kernel/cmdline.d/z.conf", "c");
    show(&root, &["--raw", "-k", A]).prints("quiet splash a\n");
    let run = show(&root, &[]);
    run.code(0).shows(&[
        "module.sig_unenforce is off",
        "cmdline-6.15.7-1591.native:2",
        "/usr/share/kernel/cmdline.d/00.conf:1",
    ]);
}

/// Below such a path clr-boot-manager finds no fragment; the line is what it makes all the same.
#[test]
fn a_root_with_characters_of_glob() {
    for name in ["a[b]", "what?", "st*r"] {
        let root = TestRoot::named(name);
        root.kernel(A).headers(A).tip(A).file(crate::support::root::FRAGMENT, "module.sig_unenforce\n");
        root.file("etc/kernel/cmdline", "admin=1\n").file("etc/kernel/cmdline-removal.d/r.conf", "quiet\n");
        show(&root, &["--raw", "-k", A]).code(0).prints("quiet rw admin=1\n");
        let flat = show(&root, &[]).code(0).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flat.contains("the root's path has a character of glob(7)"), "{flat}");
    }
}

#[test]
fn bytes_that_are_no_text() {
    let root = TestRoot::system();
    root.file("etc/kernel/cmdline", b"a=\xff\xfe\xa0b\x7f\xc2\x9b31m");
    let run = show(&root, &["--raw", "-k", A]);
    assert_eq!(run.code(0).raw, b"quiet rw module.sig_unenforce a=\xff\xfe\xa0b\x7f\xc2\x9b31m\n");
    let json = show(&root, &["--json"]).code(0).json();
    let kernel = &json["kernels"][0];
    assert!(kernel["cmdline_hex"].as_str().unwrap().ends_with("613dfffea0627fc29b33316d"), "{kernel}");
    // The kernel takes A0 for a blank.
    let words: Vec<&str> =
        kernel["words"].as_array().unwrap().iter().map(|w| w["word"].as_str().unwrap()).collect();
    assert_eq!(words[3..], ["a=\u{fffd}\u{fffd}", "b\u{7f}\u{9b}31m"]);
    assert!(!show(&root, &[]).stdout.contains(['\u{7f}', '\u{9b}']));
}

/// What programs of others have come to read stays as it was.
#[test]
fn the_first_fields_of_the_json_stay() {
    let json = show(&eventful(), &["--json"]).code(0).json();
    assert_eq!((&json["schema"], &json["parameter"]), (&1.into(), &"module.sig_unenforce".into()));
    let kernel = &json["kernels"][0];
    for text in ["release", "id", "cmdline", "sig_unenforce"] {
        assert!(kernel[text].is_string(), "{text}");
    }
    assert!(kernel["masked"].as_array().unwrap().iter().all(serde_json::Value::is_string));
}
