//! `clr-dkms hold`, `unhold` and `allow`: an admin has the last word, and it is not lost.

use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::terminal::Terminal;
use crate::support::{A, B, LTS, TestRoot};

const C: &str = "6.15.9-1593.native";
const WISHES: &str = "var/lib/clr-dkms/boot-wishes.json";

fn hold(root: &TestRoot, kernel: &[&str]) -> crate::support::Run {
    root.run("clr-dkms", &[&["hold"], kernel].concat())
}

fn unhold(root: &TestRoot) -> crate::support::Run {
    root.run("clr-dkms", &["unhold"])
}

/// Lets a kernel boot without `hello`.
fn allow(root: &TestRoot, kernel: &str, more: &[&str]) -> crate::support::Run {
    root.run("clr-dkms", &[&["allow", kernel, "--without", "hello"], more].concat())
}

/// What is requested, without the user and the time.
fn wishes(root: &TestRoot) -> serde_json::Value {
    let mut wishes = root.guard()["wishes"].clone();
    let fields = wishes.as_object_mut().unwrap();
    if let Some(held) = fields.remove("held") {
        assert_eq!(held, serde_json::json!({"by": "admin", "since": "2025-07-29T12:00:00Z"}));
    }
    wishes
}

#[test]
fn a_hold_lasts_until_it_is_ended() {
    let root = TestRoot::proven();
    let run = hold(&root, &[]);
    run.code(0).says(&[&format!("{A} is the boot default until `clr-dkms unhold`")]);
    assert_eq!(root.boot_default(), ID_A);
    for _ in 0..2 {
        let run = root.updated_by_hand().post_update();
        run.code(0).says(&["clr-dkms-post-update: an admin holds"]);
        assert!(!run.stderr.contains("error") && !run.stderr.contains("warning"), "{}", run.stderr);
        assert_eq!(root.boot_default(), ID_A);
    }
    assert!(!run.stderr.contains("error") && !run.stderr.contains("warning"), "{}", run.stderr);
    root.run("clr-dkms", &["status"]).code(1).shows(&["held: "]);
    // Something else that is wrong is reported all the same.
    root.file("etc/swupd/config", "[update]\nno_boot_update=false\n");
    root.post_update().code(1).says(&["an admin holds", "warning: ROOT/etc/swupd/config:2 makes swupd run"]);
    root.remove("etc/swupd/config");
    root.run("clr-dkms", &["guard"]).code(1).shows(&["run `sudo clr-dkms unhold` to end the hold"]);
    unhold(&root).code(0).says(&["is no longer held"]);
    unhold(&root).code(0).says(&["no kernel is held: nothing to do"]);
    assert_eq!((root.boot_default().as_str(), root.has(WISHES)), (ID_B, false));
}

/// The kernel that runs has all that is needed: the one that was held is not the default any more, also where
/// clr-boot-manager has no kernel to make the default.
#[test]
fn after_a_hold_the_default_is_not_an_older_kernel_than_the_one_that_runs() {
    const OLD: &str = "6.15.6-1590.native";
    const ID_OLD: &str = "org.clearlinux.native.6.15.6-1590";
    const TIP: &str = "usr/lib/kernel/default-native";
    const WORDS: &str = "quiet rw module.sig_unenforce";
    type Change = fn(&TestRoot);
    let changes: [Change; 3] = [
        |root| root.link(TIP, "org.clearlinux.native.9.9.9-9").forget(),
        |root| root.remove(TIP).forget(),
        |root| {
            root.kernel(B).headers(B).tip(B).remove(&format!("usr/lib/modules/{B}"));
        },
    ];
    for change in changes {
        let root = TestRoot::system();
        root.module("hello", "1.0", "").installed("hello", "1.0", A).entry(ID_A, WORDS, true);
        root.loads(&["hello"]).mounts(&[("8:2", "/data", "hello", "/dev/sda2")]);
        root.post_update().code(0);
        // An update deletes what it does not know as booted.
        root.kernel(OLD).installed("hello", "1.0", OLD).entry(ID_OLD, WORDS, false);
        for release in [OLD, A] {
            root.file(&format!("var/lib/kernel/k_booted_{release}"), "");
        }
        hold(&root, &[OLD]).code(0);
        assert_eq!(root.boot_default(), ID_OLD);
        change(&root);
        root.post_update();
        assert_eq!(root.boot_default(), ID_OLD, "it is held");
        unhold(&root);
        assert_eq!(root.boot_default(), ID_A);
        let status = root.run("clr-dkms", &["status", "--json"]).json();
        assert_eq!((&status["next_boot"], &status["running"]), (&A.into(), &A.into()));
        let summary = root.guard()["summary"].as_str().unwrap().to_owned();
        assert!(!summary.contains("not installed any more"), "{summary}");
    }
}

#[test]
fn a_hold_of_a_kernel_that_lacks_something() {
    let root = TestRoot::guarded();
    root.module("other", "2", "").installed("other", "2", A).loads(&["hello", "other"]);
    root.post_update().code(0);
    root.remove(&TestRoot::ko("other", A))
        .remove(&format!("{}/module/other.ko", TestRoot::build("other", "2", A)));
    for _ in 0..2 {
        hold(&root, &[A]).code(1);
        root.run("clr-dkms", &["hold", "-n"]).code(1);
    }
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_hold_said_twice_is_made_true_twice() {
    let root = TestRoot::proven();
    hold(&root, &["native"]).code(0);
    hold(&root, &[A]).code(0);
    root.updated_by_hand();
    hold(&root, &[A]);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_hold_of_nothing_that_can_be_held() {
    let root = TestRoot::proven();
    hold(&root, &["6.1.1-1.native"]).code(3).says(&["not an installed kernel"]);
    // Neither a tip nor running: nobody makes an entry for it.
    root.kernel("6.15.1-1500.native");
    hold(&root, &["6.15.1-1500.native"]).code(3).says(&["has no boot entry"]);
    assert!(!root.has(WISHES));
}

#[test]
fn the_kernel_of_a_hold_is_removed() {
    let root = TestRoot::proven().running(B);
    root.loads(&["hello"]);
    hold(&root, &[A]).code(0);
    root.remove("usr/lib/kernel/org.clearlinux.native.6.15.7-1591").remove(&format!("usr/lib/modules/{A}"));
    root.remove("boot/loader/entries/Clear-linux-native-6.15.7-1591.conf").updated_by_hand();
    root.remove("boot/loader/entries/Clear-linux-native-6.15.7-1591.conf");
    root.post_update().code(1).says(&["an admin holds kernel 6.15.7-1591.native, which cannot be booted"]);
    assert_eq!(root.boot_default(), ID_B);
    root.run("clr-dkms", &["guard"]).shows(&["6.15.7-1591.native, which cannot be\n"]);
    unhold(&root).code(0);
    root.run("clr-dkms", &["status"]).code(0);
}

#[test]
fn an_allowance_is_for_one_kernel() {
    let root = TestRoot::held();
    allow(&root, B, &["--yes", "--force"])
        .code(2)
        .says(&["6.15.8-1592.native will be without hello/1.0 (critical"]);
    assert_eq!(root.boot_default(), ID_B);
    allow(&root, B, &["--yes"]).code(2).says(&["without hello/1.0"]);
    root.post_update().code(2);
    assert_eq!(root.boot_default(), ID_B, "it is remembered");
    let status = root.run("clr-dkms", &["status"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(status.contains("allowed: kernel 6.15.8-1592.native without hello (by admin"), "{status}");
    // Another kernel has to be proven itself.
    root.kernel(C).headers(C).tip(C).behave("[[ $verb != build ]] || code=10").post_update();
    assert_ne!(root.boot_default(), "org.clearlinux.native.6.15.9-1593");
}

#[test]
fn an_allowance_ends_with_its_kernel() {
    let root = TestRoot::held();
    root.kernel(LTS).headers(LTS).tip(LTS);
    allow(&root, LTS, &["--yes", "--force"]);
    assert_eq!(wishes(&root)["allowed"][0]["kernel"], LTS);
    root.remove("usr/lib/kernel/default-ltscurrent").remove(&format!("usr/lib/modules/{LTS}"));
    root.remove("usr/lib/kernel/org.clearlinux.ltscurrent.6.12.38-1550").post_update();
    assert_eq!((wishes(&root), root.has(WISHES)), (serde_json::json!({}), false));
}

#[test]
fn unhold_without_a_hold() {
    let root = TestRoot::proven();
    root.forget_calls();
    unhold(&root).code(0).says(&["no kernel is held: nothing to do"]);
    // Also where the next boot lacks something.
    let held = TestRoot::held();
    held.updated_by_hand();
    unhold(&held).code(0);
    assert_eq!((root.calls().len(), root.has(WISHES), held.has(WISHES)), (0, false, false));
}

/// The name of version 0.1, which had two meanings.
#[test]
fn release_ends_a_hold_and_does_nothing_else() {
    let root = wanted();
    let before = root.tree();
    for words in [&["release"][..], &["release", "--force"], &["release", B]] {
        root.run("clr-dkms", words).code(1).says(&[
            "no kernel is held, and nothing has been changed; run `sudo clr-dkms allow 6.15.8-1592.native \
             --without hello --without other` to go ahead without them",
        ]);
    }
    assert_eq!(crate::support::tree::difference(&before, &root.tree(), true), Vec::<String>::new());
    let root = TestRoot::proven();
    root.run("clr-dkms", &["release"]).code(1).says(&["run `sudo clr-dkms allow KERNEL --without MODULE`"]);
    hold(&root, &[A]).code(0);
    root.run("clr-dkms", &["release"]).code(0).says(&["is no longer held"]);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({}), ID_B));
    let help = root.run("clr-dkms", &["--help"]);
    help.code(0).shows(&["\n  unhold ", "\n  allow ", "\n  wait "]);
    assert!(!help.stdout.contains("\n  release "), "{}", help.stdout);
}

#[test]
fn what_cannot_be_allowed() {
    let root = TestRoot::held();
    let before = root.tree();
    allow(&root, "6.1.1-1.native", &["--yes"]).code(3).says(&["not an installed kernel"]);
    root.run("clr-dkms", &["allow", B, "--without", "zsf", "--yes"])
        .code(3)
        .says(&["zsf is not a required module that kernel 6.15.8-1592.native lacks; it lacks: hello"]);
    allow(&root, A, &["--yes"]).code(3).says(&["lacks no required module: nothing has to be allowed"]);
    root.run("clr-dkms", &["allow", "--without", "hello"]).code(64);
    root.run("clr-dkms", &["allow", B])
        .code(3)
        .says(&["there is nothing to try again", &format!("clr-dkms allow {B} --without hello")]);
    assert_eq!(crate::support::tree::difference(&before, &root.tree(), true), Vec::<String>::new());
}

#[test]
fn without_what_is_critical_only_by_force() {
    for kernel in [B, "native"] {
        for more in [&[][..], &["--yes"]] {
            let root = TestRoot::held();
            root.forget_calls();
            allow(&root, kernel, more)
                .code(2)
                .says(&["error: kernel 6.15.8-1592.native lacks hello/1.0 (critical: backs /data (hello); \
                 build-failed); to go ahead without it, add --force to the command"]);
            assert_eq!(
                (root.has(WISHES), root.boot_default().as_str(), root.calls().len()),
                (false, ID_A, 0)
            );
        }
    }
    let root = TestRoot::held();
    // --force is not the answer to the question.
    allow(&root, B, &["--force"]).code(1).says(&["--yes confirms; nothing has been changed"]);
    assert!(!root.has(WISHES));
    root.run("clr-dkms", &["guard"]).code(1).shows(&["held: fix or update hello/1.0, then run"]);
    // The end of a hold says nothing of what the other kernel may lack.
    hold(&root, &[A]).code(0);
    unhold(&root).code(1).says(&["is no longer held"]);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({}), ID_A));
}

#[test]
fn a_person_is_asked_on_a_terminal() {
    for (answer, is_allowed) in [("y\r", true), ("\r", false), ("n\r", false)] {
        let root = wanted();
        let words = ["allow", B, "--without", "hello", "--without", "other/2", "--reason", "a  test"];
        let mut terminal = Terminal::run(&root, 120, "", "clr-dkms", &words);
        terminal.wait_for("[y/N]");
        assert!(!root.has(WISHES), "nothing is changed before the answer");
        terminal.types(answer);
        terminal.ends();
        assert_eq!(root.has(WISHES), is_allowed, "{answer:?}");
        assert_eq!(root.boot_default(), if is_allowed { ID_B } else { ID_A });
        if is_allowed {
            let note = serde_json::json!({
                "kernel": B, "without": "other", "by": "admin", "since": "2025-07-29T12:00:00Z",
                "reason": "a test"
            });
            assert_eq!(wishes(&root)["allowed"][1], note);
        }
    }
}

/// The file of version 0.1 does not say what the kernel lacked.
#[test]
fn a_release_of_the_old_file_becomes_an_allowance() {
    let old = format!(r#"{{"schema": 1, "released": ["{B}"]}}"#);
    let root = TestRoot::held();
    allow(&root, B, &["--yes", "--force"]).code(2);
    root.file(WISHES, &old);
    let allowed = serde_json::json!([{"kernel": B, "without": "hello"}]);
    assert_eq!(wishes(&root), serde_json::json!({"allowed": allowed, "released": [B]}));
    for _ in 0..2 {
        root.updated_by_hand().post_update().code(2);
        let file: serde_json::Value = serde_json::from_str(&root.text(WISHES)).unwrap();
        assert_eq!(file, serde_json::json!({"schema": 1, "allowed": allowed}));
        assert_eq!(root.boot_default(), ID_B);
    }
    // What it lacks since then is not allowed.
    root.module("other", "2", "").installed("other", "2", A).loads(&["hello", "other"]);
    root.behave(FAILS_ON_B).post_update();
    assert_eq!((root.boot_default().as_str(), &wishes(&root)["allowed"]), (ID_A, &allowed));
    // Without a record it is unknown what it lacked.
    let root = TestRoot::held();
    root.file(WISHES, &old).remove("var/lib/clr-dkms/last-run.json");
    assert_eq!(wishes(&root), serde_json::json!({}));
    root.post_update().code(1);
    assert_eq!((root.boot_default().as_str(), root.has(WISHES)), (ID_A, false));
}

#[test]
fn the_result_as_json() {
    let root = wanted();
    let json = |words: &[&str]| root.run("clr-dkms", &[words, &["--json"]].concat()).json();
    let refused = json(&["allow", B, "--without", "hello"]);
    assert_eq!((&refused["changed"], &refused["exit_code"]), (&false.into(), &1.into()));
    assert!(refused["refused"].as_str().unwrap().contains("--yes confirms"), "{refused}");
    let foreseen = json(&["allow", B, "--without", "hello", "--without", "other", "-n"]);
    assert_eq!((&foreseen["dry_run"], &foreseen["default"]), (&true.into(), &B.into()));
    let held = json(&["hold", B, "--reason", "it is new"]);
    assert_eq!((&held["hold"], &held["held"]["reason"]), (&B.into(), &"it is new".into()));
    assert_eq!(
        (&held["changed"], &held["boots_next"], &held["refused"]),
        (&true.into(), &B.into(), &().into())
    );
    // The same hold keeps its reason; another reason replaces it.
    assert_eq!(json(&["hold", B])["held"]["reason"], "it is new");
    assert_eq!(json(&["hold", B, "--reason", "other"])["held"]["reason"], "other");
    let ended = json(&["unhold"]);
    assert_eq!((&ended["hold"], &ended["default"]), (&().into(), &A.into()));
    assert_eq!(json(&["unhold"])["changed"], false);
}

/// Two modules that are wanted do not compile for [`B`].
fn wanted() -> TestRoot {
    let root = TestRoot::guarded();
    root.module("other", "2", "").installed("other", "2", A).loads(&["hello", "other"]).mounts(&[]);
    root.behave(FAILS_ON_B).post_update().code(1);
    root
}

#[test]
fn without_what_is_wanted() {
    let root = wanted();
    // One of two is not enough, and what is left is named.
    allow(&root, B, &["--yes"]).code(1);
    assert_eq!(root.boot_default(), ID_A);
    let step = root.guard()["next_step"].as_str().unwrap().to_owned();
    assert!(step.ends_with(&format!("run `sudo clr-dkms allow {B} --without other` to go ahead without it")));
    let command = step.rsplit('`').nth(1).unwrap().strip_prefix("sudo ").unwrap();
    let words: Vec<&str> = command.split(' ').chain(["--yes"]).collect();
    root.run(words[0], &words[1..]).code(1).says(&[
        "because kernel 6.15.8-1592.native has no boot entry yet (allowed by an admin)",
        "6.15.8-1592.native will be without other/2 (wanted",
    ]);
    let guard = root.run("clr-dkms", &["guard"]);
    guard.code(1).shows(&[
        "! accepted: run `sudo clr-dkms hold 6.15.7-1591.native` to keep the kernel\n  that has it\n",
    ]);
    let summary = "kernel 6.15.8-1592.native boots next although it lacks hello/1.0 and other/2";
    assert_eq!(root.guard()["summary"], format!("{summary}: allowed by an admin"));
    // No kernel has all any more.
    root.remove(&TestRoot::ko("other", A));
    assert_eq!(root.guard()["next_step"], serde_json::Value::Null);
    let root = wanted();
    hold(&root, &[B]).code(1).says(&["no boot entry yet (held by an admin)"]);
    assert_eq!(root.guard()["summary"], format!("{summary}: held by an admin"));
    root.run("clr-dkms", &["guard"])
        .code(1)
        .shows(&["! accepted: run `sudo clr-dkms hold 6.15.7-1591.native`"]);
}

#[test]
fn what_a_word_would_come_to() {
    type Case<'a> = (TestRoot, &'a [&'a str], i32, &'a str);
    let held = || {
        let root = TestRoot::proven();
        hold(&root, &[]).code(0);
        root
    };
    let nothing = format!("nothing to write\n{B} would boot next\n");
    let hold_a =
        format!("would write ROOT/{WISHES}\n  hold {A} (by admin since 2025-07-29)\n{A} would boot next\n");
    let hold_b = hold_a.replace(A, B);
    let note = "(by admin since 2025-07-29)";
    let allowed = |modules: &[&str]| -> String {
        modules.iter().map(|module| format!("  allow kernel {B} without {module} {note}\n")).collect()
    };
    let written = |requests: &str, boots: &str| {
        format!("would write ROOT/{WISHES}\n{requests}{boots} would boot next\n")
    };
    let forced = written(&allowed(&["hello"]), B);
    let both = written(&allowed(&["hello", "other"]), B);
    let let_go = format!("would remove ROOT/{WISHES}\n{B} would boot next\n");
    let cases: [Case; 7] = [
        (TestRoot::proven(), &["hold", "-n"], 0, &hold_a),
        (TestRoot::held(), &["hold", "--dry-run", B], 2, &hold_b),
        (TestRoot::held(), &["allow", B, "--without", "hello", "-n"], 2, ""),
        (TestRoot::held(), &["allow", B, "--without", "hello/1.0", "-n", "--force"], 2, &forced),
        (wanted(), &["allow", B, "--without", "hello", "--without", "other", "-n"], 1, &both),
        (held(), &["unhold", "-n"], 0, &let_go),
        (TestRoot::proven(), &["unhold", "-n"], 0, &nothing),
    ];
    for (root, words, code, expected) in cases {
        let before = root.tree();
        root.run("clr-dkms", words).code(code).prints(expected);
        let after = root.tree();
        let changed = crate::support::tree::difference(&before, &after, true);
        assert_eq!(changed, Vec::<String>::new(), "{words:?}");
        // Quiet in words only.
        root.run("clr-dkms", &[words, &["-q"]].concat()).code(code);
    }
    let root = TestRoot::proven();
    root.conf("[boot]\npolicy = report\n").run("clr-dkms", &["hold", "-n"]).code(0);
    root.run("clr-dkms", &["hold", "-n"]).shows(&["the boot files would stay as they are"]);
}

#[test]
fn an_allowance_for_another_kernel_is_for_later() {
    let root = TestRoot::held();
    root.kernel(LTS).headers(LTS).tip(LTS);
    allow(&root, LTS, &["--yes"]).code(2).says(&["6.12.38-1550.ltscurrent lacks hello/1.0 (critical"]);
    allow(&root, LTS, &["--yes", "--force"]).says(&["6.12.38-1550.ltscurrent is not held back"]);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_hold_ends_an_allowance() {
    let root = TestRoot::held();
    allow(&root, B, &["--yes", "--force"]).code(2);
    hold(&root, &[A]).code(0).says(&["no longer allowed: kernel 6.15.8-1592.native without hello"]);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({"hold": A}), ID_A));
    unhold(&root).code(1);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({}), ID_A));
    hold(&root, &[B]).code(2);
    assert_eq!(root.boot_default(), ID_B);
}

#[test]
fn a_damaged_file_loses_no_hold() {
    for garbage in ["", "{", "[]", "{\"schema\": 1, \"hold\": 7}", "{\"schema\": 99}"] {
        let root = TestRoot::proven();
        hold(&root, &[A]).code(0);
        root.file(WISHES, garbage);
        root.run("clr-dkms", &["status"]).code(1).shows(&["boot-wishes.json"]);
        root.updated_by_hand().post_update().code(1).says(&["boot-wishes.json"]);
        assert_eq!(root.boot_default(), ID_A, "{garbage:?}: the record knows of it");
        assert_eq!(root.text(WISHES), garbage, "only an admin's word changes it");
        unhold(&root).code(0);
        assert_eq!((root.boot_default().as_str(), root.has(WISHES)), (ID_B, false), "{garbage:?}");
        assert_eq!(root.text(&format!("{WISHES}.damaged")), garbage);
        root.run("clr-dkms", &["status"]).code(0);
    }
}

#[test]
fn a_damaged_file_and_no_record() {
    let root = TestRoot::held();
    root.remove("var/lib/clr-dkms/last-run.json").directory(WISHES);
    root.run("clr-dkms", &["guard"]).code(1).shows(&["boot-wishes.json"]);
    root.post_update().code(1);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_new_word_in_place_of_a_damaged_one() {
    let root = TestRoot::proven();
    root.file(WISHES, "garbage");
    hold(&root, &[A]).code(0).says(&["boot-wishes.json.damaged"]);
    assert_eq!(wishes(&root), serde_json::json!({"hold": A}));
    assert_eq!(root.text(&format!("{WISHES}.damaged")), "garbage");
}

#[test]
fn a_word_on_a_machine_that_only_reports() {
    let root = TestRoot::proven();
    root.conf("[boot]\npolicy = report\n");
    hold(&root, &[A]).says(&["it is stored, and the boot files stay as they are"]);
    assert_eq!((root.boot_default().as_str(), wishes(&root)), (ID_B, serde_json::json!({"hold": A})));
}

#[test]
fn a_hold_while_another_run_is_at_work_waits_and_says_so() {
    let root = TestRoot::proven();
    root.conf("[run]\nlock-wait = 0\n");
    let other = root.path().join("run/clr-dkms.lock");
    let file = std::fs::File::create(&other).unwrap();
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
    hold(&root, &[A]).code(75);
    root.run("clr-dkms", &["guard", "--assert"]).code(75);
    assert!(!root.has(WISHES));
}

#[test]
fn a_hold_of_what_is_held_back_is_a_release_that_lasts() {
    let root = TestRoot::held();
    hold(&root, &[B]).code(2);
    assert_eq!(root.boot_default(), ID_B);
    root.behave(FAILS_ON_B).post_update().code(2);
    assert_eq!(root.boot_default(), ID_B);
}
