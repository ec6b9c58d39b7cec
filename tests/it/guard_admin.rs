//! `clr-dkms hold` and `release`: an admin has the last word, and it is not lost.

use crate::support::guard::{FAILS_ON_B, ID_A, ID_B};
use crate::support::{A, B, LTS, TestRoot};

const C: &str = "6.15.9-1593.native";
const WISHES: &str = "var/lib/clr-dkms/boot-wishes.json";

fn hold(root: &TestRoot, kernel: &[&str]) -> crate::support::Run {
    root.run("clr-dkms", &[&["hold"], kernel].concat())
}

fn release(root: &TestRoot, kernel: &[&str]) -> crate::support::Run {
    root.run("clr-dkms", &[&["release"], kernel].concat())
}

fn wishes(root: &TestRoot) -> serde_json::Value {
    root.guard()["wishes"].clone()
}

#[test]
fn a_hold_lasts_until_it_is_released() {
    let root = TestRoot::proven();
    let run = hold(&root, &[]);
    run.code(0).says(&[&format!("{A} is the boot default until `clr-dkms release`")]);
    assert_eq!(root.boot_default(), ID_A);
    for _ in 0..2 {
        let run = root.updated_by_hand().post_update();
        run.code(0).says(&["clr-dkms-post-update: an admin holds"]);
        assert!(!run.stderr.contains("error") && !run.stderr.contains("warning"), "{}", run.stderr);
        assert_eq!(root.boot_default(), ID_A);
    }
    assert!(!run.stderr.contains("error") && !run.stderr.contains("warning"), "{}", run.stderr);
    root.run("clr-dkms", &["status"]).code(1).shows(&["held: "]);
    // Something else that is wrong is an error all the same.
    root.file("etc/swupd/config", "[update]\nno_boot_update=false\n");
    root.post_update().code(1).says(&["an admin holds", "error: ROOT/etc/swupd/config:2 has swupd run"]);
    root.remove("etc/swupd/config");
    root.run("clr-dkms", &["guard"]).code(1).shows(&["run `sudo clr-dkms release` to end the hold"]);
    release(&root, &[]).code(0).says(&["is held no more"]);
    assert_eq!((root.boot_default().as_str(), root.has(WISHES)), (ID_B, false));
}

/// The kernel that runs has all that is needed: the one that was held is not the default any more, also where
/// clr-boot-manager has no kernel to make the default.
#[test]
fn after_a_release_the_default_is_not_an_older_kernel_than_the_one_that_runs() {
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
        release(&root, &[]);
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
    release(&root, &[]).code(0);
    root.run("clr-dkms", &["status"]).code(0);
}

#[test]
fn a_release_goes_ahead_for_one_kernel() {
    let root = TestRoot::held();
    release(&root, &["--force"]).code(2).says(&["6.15.8-1592.native will be without hello/1.0 (critical"]);
    assert_eq!(root.boot_default(), ID_B);
    release(&root, &[B]).code(2).says(&["without hello/1.0"]);
    root.post_update().code(2);
    assert_eq!(root.boot_default(), ID_B, "it is remembered");
    // Another kernel has to be proven itself.
    root.kernel(C).headers(C).tip(C).behave("[[ $verb != build ]] || code=10").post_update();
    assert_ne!(root.boot_default(), "org.clearlinux.native.6.15.9-1593");
}

#[test]
fn nothing_to_release() {
    let root = TestRoot::proven();
    root.forget_calls();
    release(&root, &[]).code(0).says(&["nothing to release"]);
    assert_eq!((root.calls().len(), root.has(WISHES)), (0, false));
    release(&root, &["6.1.1-1.native"]).code(3).says(&["not an installed kernel"]);
}

#[test]
fn a_release_of_the_held_kernel_is_no_licence() {
    // It lets go of the hold; that this kernel may lack something has not been said.
    let root = TestRoot::proven();
    hold(&root, &[A]).code(0);
    release(&root, &[A]).code(0);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({}), ID_B));
}

#[test]
fn without_what_is_critical_only_by_force() {
    for kernel in [&[][..], &[B], &["native"]] {
        let root = TestRoot::held();
        root.forget_calls();
        release(&root, kernel).code(2).says(&[
            "error: kernel 6.15.8-1592.native lacks hello/1.0 (critical: backs /data (hello); build-failed); \
             run `sudo clr-dkms release --force` to go ahead without it",
        ]);
        assert_eq!((root.has(WISHES), root.boot_default().as_str(), root.calls().len()), (false, ID_A, 0));
    }
    let root = TestRoot::held();
    root.run("clr-dkms", &["guard"]).code(1).shows(&["held: fix or update hello/1.0, then run"]);
    // To let go of a hold is allowed, and says nothing of what the other kernel may lack.
    hold(&root, &[A]).code(0);
    release(&root, &[B])
        .code(1)
        .says(&["is held no more", "warning: kernel 6.15.8-1592.native lacks hello/1.0"]);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({}), ID_A));
}

/// Two modules that are wanted do not compile for [`B`].
fn wanted() -> TestRoot {
    let root = TestRoot::guarded();
    root.module("other", "2", "").installed("other", "2", A).loads(&["hello", "other"]).mounts(&[]);
    root.behave(FAILS_ON_B).post_update().code(1);
    root
}

#[test]
fn without_what_is_wanted_it_is_released() {
    let root = wanted();
    release(&root, &[]).code(1).says(&[
        "because kernel 6.15.8-1592.native has no boot entry yet (released by an admin)",
        "6.15.8-1592.native will be without other/2 (wanted",
    ]);
    let guard = root.run("clr-dkms", &["guard"]);
    guard.code(1).shows(&[
        "! released: run `sudo clr-dkms hold 6.15.7-1591.native` to keep the kernel\n  that has it\n",
    ]);
    let summary = "kernel 6.15.8-1592.native boots next although it lacks hello/1.0 and other/2";
    assert_eq!(root.guard()["summary"], format!("{summary}: released by an admin"));
    // No kernel has all any more.
    root.remove(&TestRoot::ko("other", A));
    assert_eq!(root.guard()["next_step"], serde_json::Value::Null);
    let root = wanted();
    hold(&root, &[B]).code(1).says(&["no boot entry yet (held by an admin)"]);
    assert_eq!(root.guard()["summary"], format!("{summary}: held by an admin"));
    root.run("clr-dkms", &["guard"])
        .code(1)
        .shows(&["! released: run `sudo clr-dkms hold 6.15.7-1591.native`"]);
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
    let hold_a = format!("would write ROOT/{WISHES}\n  hold {A}\n{A} would boot next\n");
    let forced = format!("would write ROOT/{WISHES}\n  release {B}\n{B} would boot next\n");
    let let_go = format!("would remove ROOT/{WISHES}\n{B} would boot next\n");
    let cases: [Case; 7] = [
        (TestRoot::proven(), &["hold", "-n"], 0, &hold_a),
        (TestRoot::held(), &["hold", "--dry-run", B], 2, &forced.replace("release", "hold")),
        (TestRoot::held(), &["release", "-n"], 2, ""),
        (TestRoot::held(), &["release", "-n", "--force"], 2, &forced),
        (wanted(), &["release", "-n"], 1, &forced),
        (held(), &["release", "-n"], 0, &let_go),
        (TestRoot::proven(), &["release", "-n"], 0, &nothing),
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
fn a_release_of_another_kernel_is_told_to_be_for_later() {
    let root = TestRoot::held();
    root.kernel(LTS).headers(LTS).tip(LTS);
    release(&root, &[LTS]).code(2).says(&["6.12.38-1550.ltscurrent lacks hello/1.0 (critical"]);
    release(&root, &["--force", LTS]).says(&["6.12.38-1550.ltscurrent is not held back"]);
    assert_eq!(root.boot_default(), ID_A);
}

#[test]
fn a_hold_takes_a_release_back() {
    let root = TestRoot::held();
    release(&root, &["--force"]).code(2);
    hold(&root, &[A]).code(0);
    assert_eq!((wishes(&root), root.boot_default().as_str()), (serde_json::json!({"hold": A}), ID_A));
    release(&root, &[]).code(1);
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
        release(&root, &[]).code(0);
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
    hold(&root, &[A]).says(&["it is remembered, and the boot files stay as they are"]);
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
