//! One remedy for each state: status, guard, rebuild, logs and explain give it in the same words, and the
//! message of the day names no other command.

use std::collections::{BTreeMap, BTreeSet};

use clr_dkms::dkms::plan::State;
use clr_dkms::report::catalog;
use clr_dkms::requirement::Importance;
use serde_json::Value;

use super::scene::STATES;
use super::{ROLES, Role, on};
use crate::support::cases::is_every;
use crate::support::{A, B, TestRoot, cases};

/// What is said to help, by what it is about; for each remedy where it is said.
#[derive(Default)]
struct Claims(BTreeMap<String, BTreeMap<String, BTreeSet<&'static str>>>);

impl Claims {
    fn add(&mut self, about: String, remedy: &Value, by: &'static str) {
        if let Some(remedy) = remedy.as_str() {
            // What it says of a reboot is not what helps.
            let remedy = remedy.strip_prefix("do not reboot yet; ").unwrap_or(remedy);
            self.0.entry(about).or_default().entry(remedy.to_owned()).or_default().insert(by);
        }
    }

    /// A module on a kernel, in a state.
    fn module(&mut self, module: &Value, by: &'static str) {
        let (name, kernel) = (module_name(module), module["kernel"].as_str().unwrap());
        let step = if by == "rebuild" { &module["next"] } else { &module["next_step"] };
        self.add(format!("{name} on {kernel}: {}", module["state"].as_str().unwrap()), step, by);
    }

    fn status(&mut self, root: &TestRoot) -> Value {
        let status = root.run("clr-dkms", &["status", "--json"]).json();
        for module in status["modules"].as_array().unwrap() {
            self.module(module, "status");
        }
        for problem in status["problem_list"].as_array().unwrap() {
            self.add(problem["text"].as_str().unwrap().to_owned(), &problem["next_step"], "status");
        }
        // The headline is a problem, and its step that of the whole.
        if ["degraded", "held", "unsafe"].contains(&status["verdict"].as_str().unwrap()) {
            self.add(status["problems"][0].as_str().unwrap().to_owned(), &status["next_step"], "status");
        }
        status
    }

    fn guard(&mut self, root: &TestRoot) {
        let guard = root.run("clr-dkms", &["guard", "--json"]).json();
        self.add(guard["summary"].as_str().unwrap().to_owned(), &guard["next_step"], "guard");
    }

    /// The log of each build that failed.
    fn logs(&mut self, root: &TestRoot, status: &Value) -> usize {
        let mut seen = 0;
        for module in status["modules"].as_array().unwrap() {
            let (name, kernel) = (module_name(module), module["kernel"].as_str().unwrap());
            if module["state"] != "build-failed" {
                continue;
            }
            let run = root.run("clr-dkms", &["logs", &name, "-k", kernel]);
            let line =
                |start: &str| run.stdout.lines().find_map(|l| l.strip_prefix(start).map(str::to_owned));
            if run.code != 0 {
                continue;
            }
            seen += 1;
            assert_eq!(line("cause: ").as_deref(), module["error"]["cause"].as_str(), "{run:?}");
            let step = line("next: ").map_or(Value::Null, Value::from);
            assert!(step.is_string(), "{run:?}");
            let about = format!("{name} on {kernel}: build-failed");
            self.add(about, &step, "logs");
        }
        seen
    }

    fn rebuild(&mut self, root: &TestRoot, kernel: &str) {
        let run = root.run("clr-dkms", &["rebuild", "--json", "-q", "hello", "-k", kernel]);
        if run.stdout.starts_with('{') {
            for module in run.json()["modules"].as_array().unwrap() {
                self.module(module, "rebuild");
            }
        }
    }

    /// Fails where two remedies are given for one thing.
    fn agree(&self) {
        let different = self.0.iter().filter(|(_, remedies)| remedies.len() > 1);
        let different: Vec<String> = different.map(|(about, all)| format!("{about}: {all:#?}")).collect();
        assert!(different.is_empty(), "{}", different.join("\n"));
    }
}

fn module_name(module: &Value) -> String {
    match (&module["name"], &module["module"]) {
        (Value::String(name), _) => match module["version"].as_str() {
            None | Some("") => name.clone(),
            Some(version) => format!("{name}/{version}"),
        },
        (_, name) => name.as_str().unwrap().to_owned(),
    }
}

fn commands(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The step as the catalogue writes it, for any module and kernel.
fn for_any(step: &str) -> String {
    let mut text = step.to_owned();
    for (from, to) in [
        (" --root ROOT", ""),
        (" --path ROOT", ""),
        ("chroot ROOT ", ""),
        ("the module", "MODULE/VERSION"),
        ("rival-hello/2", "MODULE/VERSION"),
        ("hello/1.0", "MODULE/VERSION"),
        ("bello/2", "MODULE/VERSION"),
        ("hello", "MODULE"),
        ("bello", "MODULE"),
        ("kernel-native-dkms", "BUNDLE"),
        ("kernel-ltscurrent-dkms", "BUNDLE"),
        ("kernel-lts-dkms", "BUNDLE"),
    ] {
        text = text.replace(from, to);
    }
    for kernel in [A, B, crate::support::LTS, super::OLD] {
        text = text.replace(kernel, "KERNEL");
    }
    // What a run does for the default of a variant, this does for another kernel.
    text.replace("sudo clr-dkms rebuild MODULE -k KERNEL`", "sudo clr-dkms-post-update`")
}

/// What `explain` says of a state: the same, or the report that says what helps in this case.
fn explains(module: &Value) {
    let (Some(step), state) = (module["next_step"].as_str(), module["state"].as_str().unwrap()) else {
        return;
    };
    let row = catalog::all().into_iter().find(|row| row.id == module["id"].as_str().unwrap()).unwrap();
    let general = row.next.unwrap_or_default();
    let (here, general) = (for_any(step), for_any(&general));
    let is_same = general == here;
    let looks = general.starts_with("run `clr-dkms ") && !general.contains("sudo clr-dkms");
    // The cause says what to do first; then it is the same.
    let is_end = general.split(", then ").last() == here.split(", then ").last();
    let by_cause = ["build-failed", "dependency-failed", "headers-mismatch", "compiler-missing", "unknown"];
    let installs_headers = state == "headers-missing" && here.starts_with("install the headers of kernel");
    // Its source is there, unregistered or gone.
    let by_source = (state == "not-managed" && here.contains("sudo dkms add"))
        || (state == "broken-source" && here.contains("sudo dkms remove MODULE/VERSION --all"));
    let is_one = is_same || looks || (by_cause.contains(&state) && is_end) || installs_headers || by_source;
    assert!(is_one, "{state}: {here:?}, in general {general:?}");
}

/// Everything that is said of a system, and of the kernel that `rebuild` is asked for.
fn check(root: &TestRoot, kernel: Option<&str>) -> usize {
    let mut claims = Claims::default();
    let status = claims.status(root);
    claims.guard(root);
    let mut logs = claims.logs(root, &status);
    for module in status["modules"].as_array().unwrap() {
        explains(module);
    }
    let motd = root.run("clr-dkms-motd", &["--dry-run"]).stdout;
    let known = status.to_string();
    for command in commands(&motd) {
        let is_look = ["clr-dkms status", "sudo clr-dkms status"].contains(&command.as_str());
        assert!(is_look || known.contains(&command.replace('"', "\\\"")), "`{command}` in\n{motd}");
    }
    claims.agree();
    if let Some(kernel) = kernel {
        let mut claims = Claims::default();
        claims.rebuild(root, kernel);
        let status = claims.status(root);
        claims.guard(root);
        logs += claims.logs(root, &status);
        claims.agree();
    }
    logs
}

fn all(wrong: impl Iterator<Item = Result<usize, String>>) -> usize {
    let (mut logs, mut failed) = (0, Vec::new());
    for done in wrong {
        match done {
            Ok(seen) => logs += seen,
            Err(why) => failed.push(why),
        }
    }
    assert!(failed.is_empty(), "{} of them:\n{}", failed.len(), failed.join("\n\n"));
    logs
}

#[test]
fn every_state_has_one_remedy() {
    let classes = [Importance::Critical, Importance::Wanted];
    let states = STATES.iter().flat_map(|state| ROLES.map(|role| (*state, role)));
    let shown = states.enumerate().filter(|(_, (state, role))| {
        // What is loaded without a file is reported, and has no role of its own.
        *state != State::NotManaged || matches!(role, Role::Next | Role::HeldBack)
    });
    all(cases(shown, 5).map(|(at, (state, role))| {
        let class = classes[at % 2];
        on(&format!("{class} {state} on {role:?}"), || {
            let staged = role.scene(state, class).stage();
            let kernel = staged.scene.kernels[0].release;
            let rebuilds = at % 3 == 0 && state != State::Building;
            check(&staged.root, rebuilds.then_some(kernel))
        })
    }));
}

#[test]
fn every_system_of_the_reports_has_one_remedy_for_each_problem() {
    let both = crate::remedies::SCENES.iter().flat_map(|scene| [(scene, false), (scene, true)]);
    all(cases(both, 3).map(|((name, put), image)| {
        on(&format!("{name}, image: {image}"), || check(&crate::remedies::root_of(*put, image), None))
    }));
}

/// A build that failed for each cause and remedy that a log can have.
#[test]
fn every_cause_has_one_remedy() {
    let mut seen = BTreeSet::new();
    let mut causes = BTreeSet::new();
    let tables = ["build-logs-labelled.jsonl", "build-logs.jsonl"].map(crate::causes::labelled);
    let logs = tables.iter().flatten().filter(|log| seen.insert(log.remedy.clone()));
    // In the logs of these causes the headers are those of another kernel than the one of the fixture.
    let more = [
        ("headers", "  ERROR: Kernel configuration is invalid."),
        ("clang", "gcc: error: unrecognized command-line option '-mllvm'"),
        ("unknown", "make: *** [all] Error 139"),
    ];
    let logs = logs.map(|log| (log.name.as_str(), log.log.as_str())).chain(more);
    let logs: Vec<(&str, &str)> = logs.collect();
    assert!(logs.len() > 15, "{}", logs.len());
    let mut tried = 0;
    let found = all(cases(logs.iter().enumerate(), 3).map(|(at, (name, log))| {
        tried += 1;
        on(name, || {
            let root = if at % 2 == 0 { TestRoot::updated() } else { TestRoot::new() };
            root.kernel(A).headers(A).kernel(B).headers(B).tip(B).module("hello", "1.0", "");
            std::fs::write(root.tools().join("said"), log).unwrap();
            root.behave("[[ $verb != build ]] || { code=10; said=$(<\"$here/said\"); }")
                .post_update()
                .code(1);
            let record = root.record();
            let failed = record["modules"].as_array().unwrap().iter().find(|m| m["kernel"] == B).unwrap();
            causes.insert(failed["error"]["cause"].as_str().unwrap().to_owned());
            check(&root, (at % 4 == 0).then_some(B))
        })
    }));
    assert!(found >= tried, "the logs of {found} builds for {tried} causes");
    assert!(causes.len() >= if is_every() { 9 } else { 4 }, "{causes:?}");
}
