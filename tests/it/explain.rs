//! `clr-dkms explain`, `check`, and the status as metrics.

use crate::support::run::as_nobody;
use crate::support::{A, B, LTS, Run, TestRoot};

#[test]
fn every_id_is_explained_and_every_word_too() {
    let root = TestRoot::updated();
    let list = root.run("clr-dkms", &["explain"]).code(0).stdout.clone();
    assert!(list.lines().all(|line| line.chars().count() <= 80), "{list}");
    insta::assert_snapshot!("explain", list);
    for id in
        list.lines().filter_map(|line| line.split_whitespace().next()).filter(|id| id.starts_with("CD-"))
    {
        let one = root.run("clr-dkms", &["explain", id]).code(0).stdout.clone();
        assert!(one.contains("next step") && one.lines().all(|line| line.chars().count() <= 80), "{one}");
    }
    let one = root.run("clr-dkms", &["explain", "build-failed"]).code(0).stdout.clone();
    assert!(one.starts_with("CD-102: build-failed\n"), "{one}");
    root.run("clr-dkms", &["explain", "no\u{1b}such"])
        .code(3)
        .says(&["neither an id nor a word of a screen"]);
    for class in ["critical", "wanted", "optional"] {
        root.run("clr-dkms", &["explain", class])
            .code(0)
            .shows(&["CD-20", "next step  run `clr-dkms guard`"]);
    }
}

#[test]
fn check_says_by_its_exit_code_what_status_says() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").installed("hello", "1.0", B);
    for arguments in [&["check"][..], &["status"]] {
        let run = root.run("clr-dkms", arguments);
        assert_eq!(run.code, root.run("clr-dkms", &["status", "--json"]).code, "{arguments:?}");
        assert!(arguments[0] == "status" || run.stdout.is_empty());
    }
}

#[test]
fn the_metrics_are_as_prometheus_wants_them() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").behave("[[ $verb != build ]] || code=10");
    root.post_update().code(1);
    let metrics = root.run("clr-dkms", &["status", "--format", "prometheus"]).code(1).stdout.clone();
    let metrics: String =
        metrics.lines().filter(|l| !l.contains("_seconds ")).map(|l| l.to_owned() + "\n").collect();
    insta::assert_snapshot!("metrics", metrics);
}

#[test]
fn the_last_log_is_shown_the_first_error_first() {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").module("other", "2", "");
    root.run("clr-dkms", &["logs"]).code(3).says(&["there is no log in"]);
    root.behave("[[ $verb != build || $module != hello ]] || { echo 'hello.c:3:1: error: no \u{1b}[31mgood'; code=10; }");
    root.post_update();
    let run = root.run("clr-dkms", &["logs"]);
    run.code(0);
    let mut lines = run.stdout.lines();
    assert!(lines.next().is_some_and(|l| l.starts_with(&format!("hello/1.0 on {B}: "))), "{}", run.stdout);
    assert!(lines.next().is_some_and(|l| l.starts_with("first error: hello.c:3: no ")), "{}", run.stdout);
    assert!(run.stdout.contains("# clr-dkms: ") && !run.stdout.contains('\u{1b}'), "{}", run.stdout);
    root.run("clr-dkms", &["logs", "other", "-k", "native"]).code(0).shows(&[&format!("other/2 on {B}: ")]);
    root.run("clr-dkms", &["logs", "none"]).code(3).says(&["there is no log of none"]);
    for asked in ["6.1", "lts"] {
        let run = root.run("clr-dkms", &["logs", "other", "-k", asked]);
        run.code(3).says(&[&format!("{asked} is not an installed kernel"), "no log is left"]);
    }
    // Of an installed kernel, and of one that is gone, by either name.
    root.run("clr-dkms", &["logs", "-k", A]).code(3).says(&[&format!("there is no log for kernel {A}")]);
    root.file(&format!("var/log/clr-dkms/other/2/{LTS}.log"), "the old log\n");
    for gone in [LTS, "org.clearlinux.ltscurrent.6.12.38-1550"] {
        root.run("clr-dkms", &["logs", "-k", gone]).code(0).shows(&["the old log"]);
    }
    root.run("clr-dkms", &["logs", "hello", "-k", LTS])
        .code(3)
        .says(&["there is no log of hello for kernel"]);
}

/// The rows as docs/troubleshooting.md shows them.
fn rows() -> String {
    let root = TestRoot::new();
    let json = root.run("clr-dkms", &["explain", "--json"]).code(0).json();
    let row = |row: &serde_json::Value| {
        let word = |name: &str| row[name].as_str().map(str::to_owned);
        let next = word("next").unwrap_or_else(|| "nothing has to be done".to_owned());
        format!(
            "| {} | `{}` | {} | {next} |\n",
            word("id").unwrap(),
            word("name").unwrap(),
            word("cause").unwrap()
        )
    };
    json["states"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn the_page_has_the_same_rows() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let is_row = |line: &str| line.starts_with("| CD-");
    let shown: String = page.split_inclusive('\n').filter(|line| is_row(line)).collect();
    let rows = rows();
    if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") {
        let above: String = page.split_inclusive('\n').take_while(|line| !is_row(line)).collect();
        std::fs::write(&path, above + &rows).unwrap();
        return;
    }
    assert!(shown == rows, "docs/troubleshooting.md wants these rows (INSTA_UPDATE=always):\n{rows}");
}

/// The words of the screens, and nothing that the screen has not.
#[test]
fn the_help_of_status_explains_its_screen() {
    let root = TestRoot::new();
    let help = root.run("clr-dkms", &["status", "--help"]).code(0).stdout.clone();
    let screen = help.split_once("The screen:\n").unwrap().1;
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    let screens = concat!(
        include_str!("../../src/report/render/text.rs"),
        include_str!("../../src/report/render/kernels.rs"),
        include_str!("../../src/report/render/modules.rs"),
        include_str!("../../src/report/render/style.rs"),
        include_str!("../../src/sys/terminal.rs"),
    );
    for word in [
        "role",
        "class",
        "Signatures",
        "Boot files",
        "Automation",
        "Changed",
        "Not seen",
        "Left out",
        "COLUMNS",
        "modules ready",
    ] {
        assert!(help.contains(word) && screens.contains(&format!("\"{word}\"")), "{word}");
    }
    for symbols in ["✔ ! ✘ … – ?", "+ ! x ~ - ?"] {
        assert!(help.contains(symbols));
        assert!(symbols.split(' ').all(|symbol| screens.contains(&format!("\"{symbol}\""))), "{symbols}");
    }
    let short = root.run("clr-dkms", &["status", "-h"]).code(0).stdout.clone();
    assert!(!short.contains("--live-root") && short.contains("--root"), "{short}");
    assert!(help.contains("--live-root") && help.contains("After \"held\""), "{help}");
}

/// A full disk is not a fault of the program.
#[test]
fn an_answer_that_cannot_be_written() {
    let root = TestRoot::updated();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = Run::of(root.command("clr-dkms", &["explain"]).stdout(full).output().unwrap(), &root);
    run.code(1).says(&["cannot write the answer: No space left on device"]);
    assert_eq!(run.stderr.matches("No space").count(), 1, "{}", run.stderr);
}

#[test]
fn a_user_that_may_not_write_gets_the_command_to_type() {
    let root = TestRoot::updated();
    let Some(mut command) = as_nobody(&root, "clr-dkms-cmdline", &["enable"]) else { return };
    let run = Run::of(command.output().unwrap(), &root);
    run.code(77)
        .says(&["Permission denied (os error 13); run it as root (`sudo ", "clr-dkms-cmdline enable"]);
}
