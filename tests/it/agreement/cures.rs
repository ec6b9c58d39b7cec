//! What the next steps name is there, and helps.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use clr_dkms::dkms::plan::State;
use clr_dkms::report::catalog;
use clr_dkms::requirement::Importance;
use serde_json::Value;

use super::scene::{Flavour, Kernel, Module, STATES, Scene, Staged};
use crate::support::{A, B, TestRoot};

/// Programs of others that a step may name.
const OTHERS: [&str; 5] = ["swupd", "dkms", "dracut", "journalctl", "clr-boot-manager"];

/// What stands between backticks.
fn commands(step: &str) -> impl Iterator<Item = &str> {
    step.split('`').skip(1).step_by(2).map(|command| command.strip_prefix("sudo ").unwrap_or(command))
}

/// Fails where a command of ours is none, or is not called so.
pub(super) fn are_there(steps: &BTreeSet<String>) {
    let named: BTreeSet<&str> = steps.iter().flat_map(|step| commands(step)).collect();
    assert!(named.len() > 4, "{named:?}");
    let root = TestRoot::new();
    for command in named {
        let words: Vec<&str> = command.split(' ').collect();
        match words[0] {
            program if program.starts_with("clr-dkms") => {
                let arguments = [&words[1..], &["--help"]].concat();
                root.run(program, &arguments).code(0).shows(&["Usage: "]);
            }
            program => assert!(OTHERS.contains(&program), "{command}"),
        }
    }
}

#[test]
fn the_commands_of_the_table_are_there() {
    are_there(&catalog::all().into_iter().filter_map(|row| row.next).collect());
}

/// What the admin has to do, before a command of ours can; false where there is nothing.
fn repair(staged: &mut Staged, state: State) -> bool {
    let root = &staged.root;
    let hello = || root.module("hello", "1.0", "").forget();
    match state {
        State::NotBuilt | State::VermagicMismatch | State::SymbolsMismatch | State::NotInModulesDep => {
            return false;
        }
        State::Building => staged.end_run(),
        State::SignatureRefused => return false,
        State::HeadersMissing | State::HeadersMismatch => root.headers(A).forget(),
        State::BuildFailed => root.repair("hello-1.0").forget(),
        State::BrokenSource | State::SkippedExclusive | State::NotAutoinstall => hello(),
        State::CompilerMissing => symlink("dkms", root.tools().join("clang")).unwrap(),
        State::Conflict => {
            root.remove("var/lib/dkms/rival-hello").remove(&TestRoot::ko("hello", A)).forget();
        }
        State::DependencyFailed => {
            let line = "updates/dkms/hello.ko: updates/dkms/gone-one.ko\nupdates/dkms/gone-one.ko:\n";
            root.file(&TestRoot::ko("gone-one", A), crate::support::elf::module(A)).index(A, line).forget();
        }
        // Its admin installs it again.
        State::NotManaged => {
            let file = crate::support::elf::module(A);
            root.file(&format!("usr/lib/modules/{A}/extra/hello.ko"), file)
                .index(A, "extra/hello.ko:\n")
                .forget();
        }
        State::Unknown => root.remove(&TestRoot::ko("hello", A)).forget(),
        State::Ok => unreachable!("there is nothing to repair"),
        // It is a matter of the machine and not of one kernel: tests/it/loading.rs.
        State::Blocked | State::InitrdStale | State::HookFailed => {
            unreachable!("it is not among the states of a scene")
        }
    }
    true
}

/// The module in question, as `status` reports it.
fn hello(staged: &Staged) -> Value {
    let document = staged.root.run("clr-dkms", &["status", "--json"]).json();
    let is_it = |m: &&Value| m["name"] == "hello" && m["kernel"] == A;
    document["modules"].as_array().unwrap().iter().find(is_it).unwrap().clone()
}

/// Does what is said until the module is there, and gives the commands.
fn cure(kernels: [Kernel; 2], state: State) -> Vec<String> {
    let mut kernels = kernels.to_vec();
    kernels[0].flavour = Flavour::for_state(state).unwrap_or(Flavour::Usual);
    let module = Module {
        name: "hello".to_owned(),
        version: "1.0",
        class: Some(Importance::Wanted),
        on: vec![state, State::Ok],
    };
    let mut staged = Scene { kernels, modules: vec![module] }.stage();
    let before = hello(&staged);
    let is_missed = !state.is_fine() && state != State::Building;
    assert_eq!((&before["state"], &before["missed"]), (&state.to_string().into(), &is_missed.into()));
    let repaired = repair(&mut staged, state);
    let mut said = before["next_step"].clone();
    let mut run = Vec::new();
    for _ in 0..3 {
        let Some(step) = said.as_str().or(hello(&staged)["next_step"].as_str()).map(str::to_owned) else {
            break;
        };
        said.take();
        let ours = commands(&step).find(|c| c.starts_with("clr-dkms")).map(str::to_owned);
        assert!(ours.is_some() || (repaired && run.is_empty()), "{state}: {step}");
        let Some(command) = ours else { continue };
        let words: Vec<&str> = command.split(' ').collect();
        let done = staged.root.run(words[0], &words[1..]);
        assert!(done.code < 3, "{command}: {done:?}");
        run.push(command);
    }
    let after = hello(&staged);
    assert_eq!(
        (&after["state"], &after["next_step"]),
        (&"ok".into(), &Value::Null),
        "{state}: {run:?}\n{after:#}"
    );
    run
}

/// Every state is brought to an end, by that command alone but for what is not ours to do.
fn cures(kernels: &[Kernel; 2], command: &str) {
    let curable = STATES.into_iter().filter(|s| *s != State::Ok);
    let shown = |state: State| {
        let expected = match state {
            State::SignatureRefused => vec!["clr-dkms-cmdline enable"],
            State::BrokenSource => vec!["clr-dkms lint hello", command],
            State::NotManaged => Vec::new(),
            _ => vec![command],
        };
        match super::on(&state.to_string(), || cure(kernels.clone(), state)) {
            Ok(run) => (run != expected).then(|| format!("{state}: {run:?}")),
            Err(why) => Some(why),
        }
    };
    let failed: Vec<String> = curable.filter_map(shown).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_is_said_brings_the_module_to_the_default_of_its_variant() {
    cures(&[Kernel::new(A, "rnt"), Kernel::new(B, "")], "clr-dkms-post-update");
}

#[test]
fn what_is_said_brings_the_module_to_another_kernel() {
    let command = format!("clr-dkms rebuild hello -k {A}");
    cures(&[Kernel::new(A, "rn"), Kernel::new(B, "t")], &command);
}

/// Tried and failed is no longer "nothing has been tried yet", on a kernel that is not a tip either.
#[test]
fn what_did_not_help_is_reported() {
    let kernels = vec![Kernel::new(A, "rn"), Kernel::new(B, "t")];
    let on = vec![State::NotBuilt, State::Ok];
    let module = Module { name: "hello".to_owned(), version: "1.0", class: Some(Importance::Wanted), on };
    let staged = Scene { kernels, modules: vec![module] }.stage();
    staged.root.behave("[[ $verb != build ]] || { code=10; said='hello.c:1:5: error: no'; }");
    let run = staged.root.run("clr-dkms", &["rebuild", "hello", "-k", A]);
    run.code(1).shows(&["hello/1.0 on 6.15.7-1591.native: build-failed"]);
    let shown = hello(&staged);
    assert_eq!(shown["state"], "build-failed", "{shown:#}");
    assert_eq!(shown["error"]["message"], "no", "{shown:#}");
    // The last word of the run is that of the screen.
    let document = staged.root.run("clr-dkms", &["status", "--json"]).json();
    run.says(&[document["summary"].as_str().unwrap(), document["next_step"].as_str().unwrap()]);
}
