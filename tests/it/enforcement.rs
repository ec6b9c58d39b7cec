//! `clr-dkms enforcement`: the screens, the document, the exit codes, and that `status` and the message of
//! the day agree.

use serde_json::Value;

use crate::enforcement_roots::{A_ID, B_ID, SITUATIONS, Situation, in_force};
use crate::support::tree::difference;
use crate::support::{A, LTS, Run, TestRoot};

impl Situation {
    fn run(&self, root: &TestRoot, more: &[&str]) -> Run {
        root.run("clr-dkms", &[&["enforcement"], self.arguments, more].concat())
    }
}

/// Those whose document is a golden file too.
const DOCUMENTS: [&str; 6] = [
    "fragment_in_force",
    "update_without_the_parameter",
    "lockdown",
    "nothing_known",
    "of_an_image",
    "broken_signature",
];

#[test]
fn each_situation_has_its_screen_and_its_code() {
    let mut wrong = Vec::new();
    for situation in SITUATIONS {
        let (root, name) = ((situation.root)(), situation.name);
        let before = root.tree();
        let (run, json) = (situation.run(&root, &[]), situation.run(&root, &["--json"]));
        assert_eq!(difference(&before, &root.tree(), true), Vec::<String>::new(), "a report changes nothing");
        if (run.code, json.code) != (situation.code, situation.code) || !run.stderr.is_empty() {
            wrong.push(format!("{name}: {} instead of {}: {}", run.code, situation.code, run.stderr));
        }
        let wide = |line: &&str| line.chars().count() > 80;
        wrong.extend(run.stdout.lines().filter(wide).map(|line| format!("{name}: wide: {line}")));
        // After its symbol, the screen begins with what the document says in one sentence.
        let flat: Vec<&str> = run.stdout.split_whitespace().collect();
        let summary = json.json()["summary"].as_str().unwrap().to_owned();
        if !flat[1..].join(" ").starts_with(&summary) {
            wrong.push(format!("{name}: another sentence than {summary}"));
        }
        insta::assert_snapshot!(format!("enforcement_{name}"), run.stdout);
        if DOCUMENTS.contains(&name) {
            insta::assert_snapshot!(format!("enforcement_{name}_json"), json.stdout);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_module_whose_files_are_unknown_makes_the_answer_unknown() {
    let root = (SITUATIONS.iter().find(|s| s.name == "fragment_in_force").unwrap().root)();
    root.run("clr-dkms", &["enforcement"]).code(0);
    // It is not absent, and cannot be read.
    root.remove("usr/src/hello-1.0/dkms.conf").directory("usr/src/hello-1.0/dkms.conf");
    let run = root.run("clr-dkms", &["enforcement"]);
    run.code(3).shows(&["?", "hello/1.0", "dkms.conf"]);
    let document = root.run("clr-dkms", &["enforcement", "--json"]).json();
    assert_eq!(document["kernels"][0]["modules"][0]["next_boot"], "unknown", "{document}");
}

/// The sentence, the tables, the reason and the command; certificates and the reasons of the other kernels
/// with `-v` only.
#[test]
fn two_kernels_and_five_modules_fit_on_a_page() {
    let situation = SITUATIONS.iter().find(|s| s.name == "two_kernels_and_five_modules").unwrap();
    let root = (situation.root)();
    let screen = |columns: &str, more: &[&str]| {
        let mut command = root.command("clr-dkms", &[&["enforcement"], more].concat());
        Run::of(command.env("COLUMNS", columns).output().unwrap(), &root).stdout
    };
    for columns in ["60", "80", "120"] {
        let text = screen(columns, &[]);
        for line in text.lines() {
            let is_path = line.split_whitespace().count() < 2;
            assert!(is_path || line.chars().count() <= columns.parse().unwrap(), "{columns}: {line}\n{text}");
        }
        assert!(columns == "60" || text.lines().count() <= 24, "{text}");
        assert!(!text.contains(".ko: "), "{text}");
        insta::assert_snapshot!(format!("enforcement_page_{columns}"), text);
    }
    let whole = screen("80", &["-v"]);
    assert!(whole.contains("zfs/2.3.3 zfs.ko: unsigned: will be refused"), "{whole}");
    insta::assert_snapshot!("enforcement_page_whole", whole);
}

fn loads(word: &Value) -> bool {
    matches!(word.as_str(), Some("loads" | "taints"))
}

/// What the document says of modules without a trusted signature: now, and at the next boot.
fn unsigned(document: &Value) -> (Value, Value) {
    let kernels = document["kernels"].as_array().unwrap();
    let of = |which: &str, views: &[&str]| {
        let kernel = kernels.iter().find(|k| k[which] == true);
        let view = kernel.and_then(|k| views.iter().map(|v| &k[*v]).find(|v| !v.is_null()));
        view.map_or(Value::Null, |v| v["loads"]["unsigned"].clone())
    };
    (of("running", &["now"]), of("boots_next", &["next_boot", "configured"]))
}

/// What `status` says otherwise of the modules of the kernel that boots next. What is unknown is never ok.
fn modules_that_differ(root: &TestRoot) -> Vec<String> {
    let document = root.run("clr-dkms", &["enforcement", "--json"]).json();
    let run = root.run("clr-dkms", &["status", "--json"]);
    let status = run.json();
    let kernels = document["kernels"].as_array().unwrap().iter().filter(|k| k["boots_next"] == true);
    let modules = kernels.flat_map(|k| k["modules"].as_array().unwrap().iter().map(|m| (&k["release"], m)));
    let mut wrong = Vec::new();
    for (release, module) in modules {
        let word = if module["next_boot"].is_null() { &module["configured"] } else { &module["next_boot"] };
        let is_it = |m: &&Value| m["name"] == module["module"]["name"] && m["kernel"] == *release;
        let Some(found) = status["modules"].as_array().unwrap().iter().find(is_it) else { continue };
        let is_right = match word.as_str().unwrap() {
            "unknown" => found["state"] == "unknown" && run.code == 3 && status["may_reboot"].is_null(),
            "refused" => found["state"] != "ok",
            _ => found["state"] != "unknown" && found["state"] != "signature-refused",
        };
        if !is_right {
            wrong.push(format!("{word} is {} in status, exit {}", found["state"], run.code));
        }
    }
    wrong
}

#[test]
fn status_and_the_message_of_the_day_tell_the_same() {
    let mut wrong = Vec::new();
    for situation in SITUATIONS {
        let (root, name) = ((situation.root)(), situation.name);
        let document = root.run("clr-dkms", &["enforcement", "--json"]).json();
        let (now, next) = unsigned(&document);
        let status = root.run("clr-dkms", &["status", "--json"]).json();
        let shown = &status["unsigned_modules"];
        if (&shown["now"], &shown["next_boot"]) != (&now, &next) {
            wrong.push(format!("{name}: status says {shown}, enforcement {now} and {next}"));
        }
        let motd = root.run("clr-dkms-motd", &["--dry-run"]).code(0).stdout.clone();
        let lines: Vec<&str> = motd.lines().collect();
        if lines.len() > 3 || lines.iter().any(|l| l.chars().count() > 100 || !l.starts_with(" * ")) {
            wrong.push(format!("{name}: {motd}"));
        }
        let sentence = match (loads(&now), loads(&next)) {
            (true, true) => "signature enforcement is disabled",
            (true, false) if next == "refused" => "signature enforcement is disabled until the next boot",
            (true, false) => "signature enforcement is disabled now",
            (false, true) => "signature enforcement will be disabled at the next boot",
            (false, false) => "",
        };
        let about: Vec<&&str> = lines.iter().filter(|l| l.contains("enforcement")).collect();
        let right = match sentence {
            "" => about.is_empty(),
            sentence => about.len() == 1 && about[0].ends_with(sentence),
        };
        if !right {
            wrong.push(format!("{name}: not {sentence:?} in\n{motd}"));
        }
        let refused =
            status["problems"].as_array().unwrap().iter().any(|p| p.to_string().contains("will refuse"));
        if situation.code == 0 && situation.arguments.is_empty() && refused {
            wrong.push(format!("{name}: status says {}", status["problems"]));
        }
        wrong.extend(modules_that_differ(&root).into_iter().map(|what| format!("{name}: {what}")));
        // A module in use that will be refused is nothing that status calls healthy.
        let verdict = status["verdict"].as_str().unwrap();
        if document["standing"] == "refused" && !["unsafe", "degraded"].contains(&verdict) {
            wrong.push(format!("{name}: status says {}", status["verdict"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_kernel_that_is_not_there() {
    let root = in_force();
    for asked in [LTS, "lts", "", "..", "6.15.7-1591.native/", "\u{1b}[31m"] {
        let run = root.run("clr-dkms", &["enforcement", "--kernel", asked]);
        run.code(3).prints("").says(&["is not an installed kernel", "`clr-dkms status`"]);
        assert!(!run.stderr.contains('\u{1b}'), "{:?}", run.stderr);
    }
    root.remove("usr/lib/kernel");
    root.run("clr-dkms", &["enforcement"]).code(0).shows(&["there is no kernel in", "ROOT/usr/lib/kernel"]);
    root.file("usr/lib/kernel", "a file");
    root.run("clr-dkms", &["enforcement"]).code(0).shows(&["ROOT/usr/lib/kernel"]);
}

#[test]
fn who_is_asked_for_comes_first_and_alone() {
    let situation = SITUATIONS.iter().find(|s| s.name == "several_kernels").unwrap();
    let root = (situation.root)();
    for (asked, id) in
        [(LTS, "org.clearlinux.ltscurrent.6.12.38-1550"), (A, A_ID), (B_ID, B_ID), ("native", B_ID)]
    {
        let document = root.run("clr-dkms", &["enforcement", "--json", "-k", asked]).code(0).json();
        let kernels = document["kernels"].as_array().unwrap();
        assert_eq!((kernels.len(), &kernels[0]["id"]), (1, &Value::from(id)), "{asked}");
    }
    let document = root.run("clr-dkms", &["enforcement", "--json"]).code(0).json();
    let kernels: Vec<&Value> =
        document["kernels"].as_array().unwrap().iter().map(|k| &k["release"]).collect();
    assert_eq!(kernels, ["6.15.8-1592.native", A, LTS], "next boot, running, the others");
}

#[test]
fn what_others_wrote_is_shown_and_not_obeyed() {
    let root = in_force();
    root.file("etc/kernel/cmdline", "module.sig_unenforce=\u{1b}[31mred\u{7}\n");
    root.file("proc/cmdline", "module.sig_unenforce=\u{1b}]0;title\u{7}\n");
    for arguments in [&["enforcement", "--color", "always"][..], &["enforcement", "--json"]] {
        let run = root.run("clr-dkms", arguments);
        let is_obeyed = run.stdout.contains("\u{1b}]0;") || run.stdout.contains("\u{1b}[31mred");
        assert!(!is_obeyed && !run.stdout.contains('\u{7}'), "{:?}", run.stdout);
    }
    let plain = root.run("clr-dkms", &["enforcement", "--color", "never"]).stdout;
    assert!(!plain.contains(['\u{1b}', '\u{7}']), "{plain:?}");
    root.run("clr-dkms", &["enforcement"]).shows(&["\\u{1b}[31mred"]);
}
