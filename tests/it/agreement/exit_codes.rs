//! One meaning for each exit code: every report is asked about the same state.

use clr_dkms::dkms::plan::State;
use clr_dkms::requirement::Importance;

use super::{ROLES, Role, on};
use crate::enforcement_roots::{A_ID, SITUATIONS, in_force};
use crate::support::run::{as_nobody, set_mode};
use crate::support::{Run, TestRoot, cases};

/// The reports, `status` first.
const REPORTS: [&[&str]; 7] = [
    &["clr-dkms", "status"],
    &["clr-dkms", "check"],
    &["clr-dkms", "check", "--nagios"],
    &["clr-dkms", "guard"],
    &["clr-dkms", "enforcement"],
    &["clr-dkms-cmdline", "check"],
    &["clr-dkms-cmdline", "show"],
];

/// Fails where two reports give the same state different codes. A report on a part of the system may be
/// content with that part while the whole is not, and never the other way round.
fn agree(root: &TestRoot) -> i32 {
    let codes = REPORTS.map(|words| root.run(words[0], &words[1..]).code);
    let [status, check, nagios, guard, enforcement, cmdline, show] = codes;
    assert_eq!([check, nagios], [status; 2], "{codes:?}");
    assert_eq!(guard == 2, status == 2, "the guard, {codes:?}");
    for part in [guard, enforcement, cmdline, show] {
        assert!((0..=3).contains(&part), "{codes:?}");
        // What a kernel would do with modules that nobody has is unknown to one report, and nothing to the
        // whole.
        let is_idle = part == enforcement && part == 3 && !has_unknown_module(root);
        assert!(status != 0 || part == 0 || is_idle, "the whole is healthy, {codes:?}");
        assert!(part != 2 || status == 2, "{codes:?}");
    }
    for part in [guard, cmdline, show] {
        assert!(part != 3 || status >= 2, "{codes:?}");
    }
    assert!(cmdline != 1 || enforcement >= 1, "{codes:?}");
    assert!(show != 3 || cmdline == 3, "{codes:?}");
    status
}

/// Whether `enforcement` cannot say what becomes of a module at the next boot.
fn has_unknown_module(root: &TestRoot) -> bool {
    let document = root.run("clr-dkms", &["enforcement", "--json"]).json();
    let kernels = document["kernels"].as_array().unwrap();
    let mut modules = kernels.iter().flat_map(|kernel| kernel["modules"].as_array().unwrap());
    modules.any(|module| module["next_boot"] == "unknown" || module["configured"] == "unknown")
}

/// Calls it on each state, and fails with all that is wrong.
fn each<'a>(states: impl IntoIterator<Item = (String, Box<dyn FnOnce() -> i32 + 'a>)>) -> Vec<i32> {
    let (mut codes, mut wrong) = (Vec::new(), Vec::new());
    for (name, state) in states {
        match on(&name, state) {
            Ok(code) => codes.push(code),
            Err(why) => wrong.push(why),
        }
    }
    assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n"));
    codes.sort_unstable();
    codes.dedup();
    codes
}

#[test]
fn the_same_state_has_the_same_code_in_every_report() {
    let states = [
        State::Ok,
        State::BuildFailed,
        State::VermagicMismatch,
        State::SignatureRefused,
        State::NotManaged,
        State::Unknown,
    ];
    let all = [Importance::Critical, Importance::Wanted]
        .into_iter()
        .flat_map(|class| states.map(|state| (class, state)))
        .flat_map(|(class, state)| ROLES.map(|role| (class, state, role)))
        // What is loaded without a file is reported, and is not in that role.
        .filter(|(_, state, role)| *state != State::NotManaged || *role == Role::HeldBack);
    let codes = each(cases(all, 5).map(|(class, state, role)| {
        let run = move || agree(&role.scene(state, class).stage().root);
        (format!("{class} {state} on {role:?}"), Box::new(run) as Box<dyn FnOnce() -> i32>)
    }));
    assert_eq!(codes, [0, 1, 2, 3]);
}

/// Every boot entry, command line and key that a kernel may have.
#[test]
fn enforcement_has_the_code_of_the_status() {
    let whole = SITUATIONS.iter().filter(|situation| situation.arguments.is_empty());
    let codes = each(cases(whole, 3).map(|situation| {
        let run = || agree(&(situation.root)());
        (situation.name.to_owned(), Box::new(run) as Box<dyn FnOnce() -> i32>)
    }));
    assert!(codes.contains(&0) && codes.contains(&1), "{codes:?}");
}

fn all_programs() -> Vec<&'static [&'static str]> {
    let more: [&[&str]; 18] = [
        &["clr-dkms", "lint"],
        &["clr-dkms", "logs"],
        &["clr-dkms", "wait", "--timeout", "1s"],
        &["clr-dkms", "explain"],
        &["clr-dkms", "rebuild", "-n"],
        &["clr-dkms", "gc", "-n"],
        &["clr-dkms", "hold", "-n"],
        &["clr-dkms", "unhold", "-n"],
        &["clr-dkms", "unhold"],
        &["clr-dkms", "allow", "native", "--without", "hello", "-n"],
        &["clr-dkms", "forget", "hello"],
        &["clr-dkms-cmdline", "enable", "-n"],
        &["clr-dkms-cmdline", "disable"],
        &["clr-dkms-cmdline", "default"],
        &["clr-dkms-variant"],
        &["clr-dkms-motd", "--dry-run"],
        &["clr-dkms-post-update", "-n"],
        &["clr-dkms-post-update"],
    ];
    REPORTS.into_iter().chain(more).collect()
}

fn ask(root: &TestRoot, words: &[&str], option: &str, at: &str) -> Run {
    let mut command = crate::support::run::command(words[0], &root.tools());
    Run::of(command.args(&words[1..]).args([option, at]).output().unwrap(), root)
}

/// A root that is not there, a file, and the directory of a mount that is missing.
#[test]
fn a_root_without_a_system_is_wrong_usage_everywhere() {
    let root = TestRoot::new();
    root.directory("etc/empty").file("etc/file", "");
    let before = root.tree();
    for at in ["nowhere", "etc/file", "etc/empty"] {
        let at = root.at(at).display().to_string();
        for words in all_programs() {
            for option in ["--root", "--live-root"] {
                let run = ask(&root, words, option, &at);
                // The interface of monitors has no other code for it.
                let expected = if words.contains(&"--nagios") { 3 } else { 64 };
                assert_eq!(run.code, expected, "{words:?} {option} {at}: {run:?}");
                let said = format!("{}{}", run.stdout, run.stderr);
                assert!(
                    said.contains("give --root or --live-root a directory that holds a system"),
                    "{said}"
                );
            }
        }
        // A hook of swupd says so, and never keeps an update from being made.
        let hook = ask(&root, &["clr-dkms-pre-update"], "--root", &at);
        hook.code(0).says(&["a directory that holds a system"]);
    }
    assert_eq!(root.tree(), before);
}

#[test]
fn without_a_kernel_of_clr_boot_manager_every_report_is_content() {
    let root = TestRoot::new();
    for words in REPORTS {
        root.run(words[0], &words[1..]).code(0);
    }
    // Nothing says that a reboot is safe.
    root.run("clr-dkms", &["wait"]).code(3);
}

/// It is unsafe where the whole is, and not otherwise.
#[test]
fn a_module_in_use_that_will_be_refused() {
    for (class, code) in [("critical", 2), ("wanted", 2), ("optional", 1)] {
        let root = in_force();
        root.link("etc/kernel/cmdline.d/clr-ignore-mod-sig.conf", "/dev/null");
        root.conf(&format!("[modules]\n{class} = hello\n[cmdline]\nsig-unenforce = off\n"));
        root.entry(A_ID, "quiet rw", true);
        let run = root.run("clr-dkms", &["enforcement", "--json"]);
        assert_eq!((run.code, &run.json()["standing"]), (code, &"refused".into()), "{run:?}");
        assert_eq!(agree(&root), code);
    }
}

#[test]
fn a_setting_that_is_invalid_is_a_problem_of_a_complete_report() {
    let root = in_force();
    root.post_update();
    assert_eq!(agree(&root), 0);
    root.conf("[cmdline]\nsig-unenforce = perhaps\n");
    let codes = REPORTS.map(|words| root.run(words[0], &words[1..]).code);
    // It is a fault of the settings: neither the guard nor the command line has one.
    assert_eq!(codes, [1, 1, 1, 0, 0, 1, 0]);
    root.run("clr-dkms-cmdline", &["show"]).code(0).shows(&["module.sig_unenforce"]);
    root.run("clr-dkms-cmdline", &["check"]).code(1).says(&["[cmdline] sig-unenforce"]);
}

#[test]
fn a_line_with_a_part_that_cannot_be_read_is_unknown() {
    let root = in_force();
    root.file("etc/kernel/cmdline.d/50-secret.conf", "word=1\n").post_update();
    for verb in ["check", "show"] {
        let Some(mut command) = as_nobody(&root, "clr-dkms-cmdline", &[verb]) else { return };
        set_mode(&root.at("etc/kernel/cmdline.d/50-secret.conf"), 0o000);
        let run = Run::of(command.output().unwrap(), &root);
        set_mode(&root.at("etc/kernel/cmdline.d/50-secret.conf"), 0o644);
        run.code(3).says(&["50-secret.conf"]);
    }
}
