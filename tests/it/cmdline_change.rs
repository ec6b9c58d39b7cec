//! `clr-dkms-cmdline enable`, `disable` and `default`.

use std::fs;

use crate::support::root::FRAGMENT;
use crate::support::tree::{Tree, difference};
use crate::support::{A, B, Run, TestRoot};

const MASK: &str = "etc/kernel/cmdline.d/clr-ignore-mod-sig.conf";
const OWN: &str = "etc/kernel/cmdline.d/clr-dkms.conf";
const STATE: &str = "var/lib/clr-dkms/cmdline.json";

/// The verb, with the boot entries left as they are.
fn cmdline(root: &TestRoot, verb: &str) -> Run {
    let run = root.run("clr-dkms-cmdline", &[verb, "--no-refresh"]);
    no_empty_fragment(root);
    run
}

/// clr-boot-manager makes a second blank of an empty fragment, and an admin reads it as a mask.
#[track_caller]
fn no_empty_fragment(root: &TestRoot) {
    for entry in fs::read_dir(root.at("etc/kernel/cmdline.d")).into_iter().flatten() {
        let path = entry.unwrap().path();
        assert!(path.is_symlink() || !fs::read(&path).unwrap().is_empty(), "{} is empty", path.display());
    }
}

fn line(root: &TestRoot) -> String {
    root.run("clr-dkms-cmdline", &["show", "--raw", "-k", A]).stdout
}

/// Files and links. The lock stays for ever by design; directories that were made are not settings.
fn settings(root: &TestRoot) -> Tree {
    let mut tree = root.tree();
    tree.retain(|path, entry| path != "run/clr-dkms.lock" && !entry.what.starts_with("directory"));
    tree
}

/// The verb changes nothing, times included, and says so.
#[track_caller]
fn changes_nothing(root: &TestRoot, verb: &str, code: i32) {
    // The lock file of the first run is made.
    cmdline(root, verb);
    let before = root.tree();
    cmdline(root, verb).code(code).prints("nothing to change\n");
    assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new());
}

fn without_fragment() -> TestRoot {
    let root = TestRoot::system();
    root.remove(FRAGMENT);
    root
}

#[test]
fn a_vendor_fragment_in_force_is_enough() {
    let root = TestRoot::system();
    let before = settings(&root);
    cmdline(&root, "enable").code(0).prints("nothing to change\n");
    assert_eq!(settings(&root), before);
    changes_nothing(&root, "enable", 0);
    changes_nothing(&root, "default", 0);
    assert_eq!(settings(&root), before);
}

#[test]
fn an_admins_mask_is_never_touched() {
    let root = TestRoot::system();
    for mask in ["link", "file", "directory", "dangling"] {
        match mask {
            "link" => root.link(MASK, "/dev/null"),
            "file" => root.remove(MASK).file(MASK, "# not here\n"),
            "directory" => root.remove(MASK).directory(MASK),
            _ => root.link(MASK, "/nowhere/at/all"),
        };
        let before = settings(&root);
        let run = root.run("clr-dkms-cmdline", &["enable"]);
        run.code(1).says(&[
            "/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf",
            "masks the vendor's fragment",
            FRAGMENT,
            // Of a directory nothing is thrown away.
            match mask {
                "directory" => "`sudo mv ROOT/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf ROOT/etc",
                _ => "`sudo rm ROOT/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf`",
            },
        ]);
        for verb in ["default", "disable"] {
            root.run("clr-dkms-cmdline", &[verb]).code(0).prints("nothing to change\n");
        }
        assert_eq!(settings(&root), before, "{mask}");
    }
}

#[test]
fn our_own_mask_comes_and_goes() {
    let root = TestRoot::system();
    let before = settings(&root);
    let run = cmdline(&root, "disable");
    run.code(0).prints(
        "mask the vendor's fragment with /etc/kernel/cmdline.d/clr-ignore-mod-sig.conf\n  -> /dev/null\n",
    );
    run.says(&["clr-boot-manager update"]);
    assert_eq!(fs::read_link(root.at(MASK)).unwrap().to_str(), Some("/dev/null"));
    assert_eq!(line(&root), "quiet rw \n");
    changes_nothing(&root, "disable", 0);
    for back in ["enable", "default"] {
        cmdline(&root, "disable");
        cmdline(&root, back)
            .code(0)
            .shows(&["remove the mask /etc/kernel/cmdline.d/clr-ignore-mod-sig.conf"]);
        assert_eq!(line(&root), "quiet rw module.sig_unenforce\n");
        assert_eq!(settings(&root), before, "{back}");
        changes_nothing(&root, back, 0);
    }
}

#[test]
fn without_a_bundle_the_fragment_is_ours() {
    let root = without_fragment();
    let before = settings(&root);
    cmdline(&root, "enable")
        .code(0)
        .prints("write /etc/kernel/cmdline.d/clr-dkms.conf with module.sig_unenforce\n");
    assert_eq!(root.text(OWN), "module.sig_unenforce\n");
    assert_eq!(line(&root), "quiet rw module.sig_unenforce\n");
    changes_nothing(&root, "enable", 0);
    for back in ["disable", "default"] {
        cmdline(&root, "enable").code(0);
        cmdline(&root, back).code(0).prints("remove /etc/kernel/cmdline.d/clr-dkms.conf, which we wrote\n");
        assert_eq!(settings(&root), before, "{back}");
        changes_nothing(&root, back, 0);
    }
}

#[test]
fn default_gives_back_the_very_tree() {
    let root = without_fragment();
    // Where the directories were there before, nothing at all may differ.
    root.directory("etc/kernel/cmdline.d").directory("var/lib/clr-dkms").file("run/clr-dkms.lock", "");
    root.file("etc/kernel/cmdline.d/10-mine.conf", "mine=1\n").file("etc/kernel/cmdline", "# none\n");
    let before = root.tree();
    for there in ["enable", "disable"] {
        cmdline(&root, there);
        cmdline(&root, "default").code(0);
        assert_eq!(difference(&before, &root.tree(), false), Vec::<String>::new(), "{there}");
    }
}

#[test]
fn an_admins_own_fragment_is_enough_and_is_never_removed() {
    let root = without_fragment();
    for (name, text) in [
        ("zz-mine.conf", "module.sig_unenforce=1\n"),
        ("clr-dkms.conf", "module.sig_unenforce\n"),
        ("10.conf", "a module.sig-unenforce b\n"),
    ] {
        let path = format!("etc/kernel/cmdline.d/{name}");
        root.file(&path, text);
        let before = settings(&root);
        cmdline(&root, "enable").code(0).prints("nothing to change\n");
        cmdline(&root, "default").code(0).prints("nothing to change\n");
        cmdline(&root, "disable").code(1).says(&[
            &format!("/{path}"),
            ":1 sets module.sig_unenforce, and is not ours",
            " ROOT/etc/kernel/cmdline.d/",
        ]);
        assert_eq!(settings(&root), before, "{name}");
        root.remove(&path);
    }
    root.file("etc/kernel/cmdline", "module.sig_unenforce\n");
    let before = settings(&root);
    cmdline(&root, "enable").code(0).prints("nothing to change\n");
    cmdline(&root, "disable")
        .code(1)
        .says(&["/etc/kernel/cmdline:1 sets module.sig_unenforce", "is not ours"]);
    assert_eq!(settings(&root), before);
}

#[test]
fn a_file_in_the_place_of_ours_stays() {
    let root = without_fragment();
    for text in ["other=1\n", "", "module.sig_unenforce=0\n"] {
        root.file(OWN, text);
        let before = settings(&root);
        let run = root.run("clr-dkms-cmdline", &["enable"]);
        run.code(1).says(&[
            "/etc/kernel/cmdline.d/clr-dkms.conf",
            "clr-dkms did not write it",
            "`sudo rm ROOT/etc/kernel/cmdline.d/clr-dkms.conf",
        ]);
        assert_eq!(settings(&root), before);
    }
    // What was ours and was edited since is the admin's.
    root.remove(OWN);
    cmdline(&root, "enable").code(0);
    root.file(OWN, "module.sig_unenforce mine=1\n");
    cmdline(&root, "default").code(0).prints("nothing to change\n");
    assert_eq!(root.text(OWN), "module.sig_unenforce mine=1\n");
}

#[test]
fn a_removal_file_is_named() {
    for root in [TestRoot::system(), without_fragment()] {
        root.file("etc/kernel/cmdline-removal.d/90-no.conf", "module.sig_unenforce\n");
        let run = cmdline(&root, "enable");
        run.code(1).says(&[
            "ROOT/etc/kernel/cmdline-removal.d/90-no.conf:1 removes module.sig_unenforce from the line",
            "to change that: `sudo sed -i -E '1s/^/# /' ROOT/etc/kernel/cmdline-removal.d/90-no.conf`",
        ]);
        assert_eq!(root.text("etc/kernel/cmdline-removal.d/90-no.conf"), "module.sig_unenforce\n");
    }
}

#[test]
fn a_vendor_fragment_with_other_words_is_not_masked() {
    let root = TestRoot::system();
    root.file(FRAGMENT, "module.sig_unenforce\nnvme.poll_queues=2\n");
    let before = settings(&root);
    cmdline(&root, "disable").code(1).says(&[
        FRAGMENT,
        "beside other words",
        "/etc/kernel/cmdline.d/clr-ignore-mod-sig.conf",
    ]);
    assert_eq!(settings(&root), before);
}

#[test]
fn a_kernels_own_line_is_reported() {
    let root = without_fragment();
    root.file(&format!("usr/lib/kernel/cmdline-{A}"), "quiet module.sig_unenforce\n");
    let before = settings(&root);
    cmdline(&root, "enable").code(0).prints("nothing to change\n");
    cmdline(&root, "disable").code(1).says(&["/usr/lib/kernel/cmdline-", "/etc/kernel/cmdline-removal.d/"]);
    assert_eq!(settings(&root), before);
}

#[test]
fn every_tip_counts() {
    let root = TestRoot::updated();
    root.remove(FRAGMENT).file(&format!("usr/lib/kernel/cmdline-{B}"), "module.sig_unenforce\n");
    root.kernel(crate::support::LTS).tip(crate::support::LTS);
    cmdline(&root, "enable").code(0).shows(&["write /etc/kernel/cmdline.d/clr-dkms.conf"]);
}

#[test]
fn dry_run_says_what_and_changes_nothing() {
    let system = TestRoot::system();
    let bare = without_fragment();
    for (root, verb, expected) in [
        (
            &bare,
            "enable",
            "would write /etc/kernel/cmdline.d/clr-dkms.conf with module.sig_unenforce\n\
             6.15.7-1591.native\n  before: quiet rw\n  after:  quiet rw {+module.sig_unenforce+}\n",
        ),
        (
            &system,
            "disable",
            "would mask the vendor's fragment with\n  /etc/kernel/cmdline.d/clr-ignore-mod-sig.conf -> /dev/null\n\
             6.15.7-1591.native\n  before: quiet rw [-module.sig_unenforce-]\n  after:  quiet rw\n",
        ),
        (&system, "default", "nothing to change\n"),
    ] {
        let before = root.tree();
        for option in ["--dry-run", "-n"] {
            root.run("clr-dkms-cmdline", &[verb, option]).code(0).prints(expected);
        }
        assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new(), "{verb}");
    }
}

#[test]
fn a_damaged_state_file_claims_nothing() {
    for garbage in ["", "garbage", "{\"schema\":1}", "[]", "\u{0}\u{1}", "{\"schema\":1,\"wrote\":[3]}"] {
        let root = TestRoot::system();
        cmdline(&root, "disable").code(0);
        root.file(STATE, garbage);
        let run = cmdline(&root, "default");
        run.code(0).prints("nothing to change\n").says(&["ROOT/var/lib/clr-dkms/cmdline.json is damaged"]);
        assert!(root.at(MASK).is_symlink(), "a mask that may be the admin's has to stay");
    }
}

#[test]
fn a_state_file_cannot_claim_what_is_elsewhere() {
    let root = TestRoot::system();
    root.file("etc/kernel/important.conf", "module.sig_unenforce\n");
    root.file("etc/kernel/cmdline.d/theirs.conf", "word=1\n");
    let wrote = [
        "/etc/kernel/important.conf",
        "/etc/kernel/cmdline.d/../important.conf",
        "/etc/kernel/cmdline.d/theirs.conf",
    ];
    root.file(STATE, serde_json::json!({ "schema": 1, "wrote": wrote }).to_string());
    cmdline(&root, "default").code(0).prints("nothing to change\n");
    assert!(root.has("etc/kernel/important.conf") && root.has("etc/kernel/cmdline.d/theirs.conf"));
}

#[test]
fn a_state_file_that_is_a_directory_is_named() {
    let root = without_fragment();
    root.directory(STATE);
    root.run("clr-dkms-cmdline", &["enable"]).code(1).says(&["ROOT/var/lib/clr-dkms/cmdline.json"]);
    assert!(!root.has(OWN), "what cannot be noted as ours must not be written");
}

#[test]
fn names_with_control_characters_are_shown_and_not_obeyed() {
    let root = TestRoot::system();
    root.file("usr/share/kernel/cmdline.d/\u{1b}[31mred.conf", "module.sig_unenforce\n");
    let run = root.run("clr-dkms-cmdline", &["disable", "--dry-run", "--color", "always"]);
    assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{run:?}");
}

#[test]
fn usage_and_configuration_have_their_codes() {
    let root = TestRoot::system();
    root.run("clr-dkms-cmdline", &[]).code(64);
    root.run("clr-dkms-cmdline", &["toggle"]).code(64);
    root.run("clr-dkms-cmdline", &["enable", "--raw"]).code(64);
    root.file("etc/clr-dkms/clr-dkms.conf", "[cmdline]\nsig-unenforced = on\n");
    // A report is complete all the same.
    root.run("clr-dkms-cmdline", &["show"]).code(0).shows(&["module.sig_unenforce is on"]);
    for verb in ["enable", "disable", "default"] {
        let run = root.run("clr-dkms-cmdline", &[verb]);
        run.code(78)
            .prints("")
            .says(&["ROOT/etc/clr-dkms/clr-dkms.conf: [cmdline] sig-unenforced", "known: sig-unenforce"]);
    }
    assert!(!root.has(STATE));
}

#[test]
fn what_is_used_and_will_be_refused_is_named() {
    let warned = "warning: hello/1.0 will be refused at the next boot; run `sudo clr-dkms-cmdline default` to undo this";
    // Critical, and on no kernel any more.
    let root = TestRoot::proven();
    for arguments in [&["disable", "--dry-run"][..], &["disable"]] {
        root.run("clr-dkms-cmdline", arguments).code(2).says(&["nothing is changed", "disable --force"]);
    }
    root.run("clr-dkms-cmdline", &["disable", "--dry-run", "--force"]).code(2).says(&[warned]);
    assert_eq!(root.run("clr-dkms", &["status"]).code, 0, "nothing is changed");
    root.run("clr-dkms-cmdline", &["disable", "--force"]).code(2).says(&[warned]);
    root.run("clr-dkms", &["status"]).code(2);
    // Said again, it is undone by what clears the line.
    root.run("clr-dkms-cmdline", &["disable"])
        .code(2)
        .says(&["run `sudo clr-dkms-cmdline enable` to undo this"]);
    root.run("clr-dkms-cmdline", &["enable"]).code(0);
    root.run("clr-dkms", &["status"]).code(0);
    root.run("clr-dkms-cmdline", &["disable", "--force"]).code(2).says(&[warned]);
    // A fragment of ours does not come back with `default`.
    let root = TestRoot::proven();
    root.remove(FRAGMENT).run("clr-dkms-cmdline", &["enable"]).code(0);
    root.run("clr-dkms-cmdline", &["disable", "--force"])
        .code(2)
        .says(&["run `sudo clr-dkms-cmdline enable` to undo this"]);
}

#[test]
fn what_is_not_used_may_be_refused() {
    // Optional, or of a kernel that takes it all the same.
    let root = TestRoot::proven();
    root.conf("[modules]\noptional = hello\n").run("clr-dkms-cmdline", &["disable", "-n"]).code(0);
    let root = TestRoot::proven();
    root.file(&format!("usr/lib/kernel/config-{B}"), "# CONFIG_MODULE_SIG_FORCE is not set\n");
    let run = root.run("clr-dkms-cmdline", &["disable", "-n"]);
    run.code(0);
    assert!(!run.stderr.contains("refused"), "{}", run.stderr);
}

#[test]
fn dry_run_stays_in_eighty_columns() {
    let root = TestRoot::system();
    let words: String = (0..12).map(|n| format!("first.parameter{n}=some-value ")).collect();
    root.file("etc/kernel/cmdline", format!("{words}\n"));
    let run = root.run("clr-dkms-cmdline", &["disable", "--dry-run"]);
    run.code(0).shows(&["  before: ", "[-module.sig_unenforce"]);
    for line in run.stdout.lines() {
        assert!(line.chars().count() <= 80 && line == line.trim_end(), "{line:?}");
    }
}
