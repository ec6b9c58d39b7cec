//! What `clr-dkms rebuild` shows while it works: on a terminal, elsewhere, and when it is asked to stop.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::post_update_stop::{IN_PROGRESS, SLOW, all_gone, converges, go_on, hangup_is_ignored};
use crate::support::run::numbered_here;
use crate::support::terminal::{Terminal, is_sane};
use crate::support::{A, B, TestRoot};

/// Two modules to be built for a new kernel, one after the other.
fn pending() -> TestRoot {
    let root = TestRoot::updated();
    root.module("hello", "1.0", "").module("other", "2", "");
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\njobs = 1\n");
    root
}

/// Each build waits until the test has seen enough.
const WAITING: &str =
    "if [[ $verb == build ]]; then while [[ ! -e $here/go-$module ]]; do sleep 0.05; done; fi\n";

fn let_build(root: &TestRoot, module: &str) {
    fs::write(root.tools().join(format!("go-{module}")), "").unwrap();
}

/// Rows that only stand there while something is at work.
fn lively(rows: &[String]) -> Vec<&String> {
    let is = |row: &&String| row.contains(" done, ") || row.ends_with(" 0 s") && row.starts_with("  ");
    rows.iter().filter(is).collect()
}

/// What was drawn, line by line, without the words of the log and what moves the cursor.
fn drawn(text: &str) -> Vec<String> {
    let lines = text.split("\r\n").map(|line| line.rsplit("\u{1b}[0J").next().unwrap_or(line).to_owned());
    lines.filter(|line| line.contains(" done, ") || line.ends_with(" 0 s")).collect()
}

#[test]
fn elsewhere_a_line_at_the_begin_and_at_the_end_of_each() {
    let root = pending();
    root.behave("[[ $verb != build || $module != other ]] || { code=10; said='/src/other.c:7:3: error: no such member'; }");
    let run = root.run("clr-dkms", &["rebuild"]);
    run.code(1);
    assert!(!run.stderr.chars().any(|c| c.is_control() && c != '\n'), "{:?}", run.stderr);
    // The log of a build has the real time, and its first line is cut.
    let timeless = |line: &&str| !line.starts_with("  # clr-dkms: ");
    let stderr: Vec<&str> = run.stderr.lines().filter(timeless).collect();
    insta::assert_snapshot!("rebuild_plain_stderr", stderr.join("\n"));
    insta::assert_snapshot!("rebuild_plain_stdout", run.stdout);
}

#[test]
fn the_same_as_json() {
    let root = pending();
    root.module("quiet", "1", "AUTOINSTALL=\"\"\n").remove(&format!("usr/lib/modules/{A}/build"));
    root.behave("[[ $verb != build || $module != other ]] || { code=10; said='/src/other.c:7:3: error: no such member'; }");
    let order = ["rebuild", "--json", "-q", "hello", "other", "--all-kernels"];
    let run = root.run("clr-dkms", &order);
    let json = run.code(1).json();
    assert_eq!(json["built"], 1);
    insta::assert_snapshot!("rebuild_json", run.stdout);
}

#[test]
fn quietly_neither() {
    let root = pending();
    let run = root.run("clr-dkms", &["rebuild", "-q"]);
    assert_eq!(run.code(0).stderr, "");
    let root = pending();
    let mut terminal = Terminal::run(&root, 80, "", "clr-dkms", &["rebuild", "-q"]);
    assert!(terminal.ends().success());
    assert!(
        !terminal.text().contains('\u{1b}') && lively(&terminal.rows()).is_empty(),
        "{}",
        terminal.text()
    );
}

#[test]
fn on_a_terminal_each_module_at_work_has_a_line() {
    for columns in [80, 40] {
        let root = pending();
        root.behave(WAITING);
        let mut terminal = Terminal::run(&root, columns, "", "clr-dkms", &["rebuild"]);
        terminal.wait_for("build   0 s\r\n");
        let rows = terminal.wait_for_rows(|rows| lively(rows).len() == 2);
        let [sum, hello] = lively(&rows)[..] else { panic!("{rows:#?}") };
        assert_eq!(sum, "0 of 2 done, 0 s");
        let expected = match columns {
            80 => format!("  hello/1.0 on {B}  build   0 s"),
            _ => "  hello/1.0 on 6.15.8-15..  build   0 s".to_owned(),
        };
        // It is the last thing on the screen, below what the log said.
        assert_eq!((hello, rows.last().unwrap().as_str()), (&expected, ""), "{rows:#?}");
        let_build(&root, "hello");
        terminal.wait_for("1 of 2 done");
        let_build(&root, "other");
        assert!(terminal.ends().success());
        let rows = terminal.rows();
        assert_eq!(lively(&rows), Vec::<&String>::new(), "{rows:#?}");
        let end = format!("✔ hello/1.0 on {B}: ok (built in 0.0 s)");
        let end: String = rows.join("").split(&end).skip(1).collect();
        assert!(end.contains("2 built in 0.0 s"), "{rows:#?}");
        for line in drawn(&terminal.text()) {
            assert!(line.chars().count() < columns, "{line:?}");
        }
        assert!(is_sane(&root));
    }
}

/// Two at once, so that what one logs comes while the other is shown.
#[test]
fn what_is_logged_stands_above() {
    let root = pending();
    root.file("etc/clr-dkms/clr-dkms.conf", "[build]\njobs = 2\n").file("var/lib/dkms/mok.key", "key");
    root.behave(
        &(WAITING.to_owned()
            + "[[ $verb != build || $module != hello ]] || { code=10; said='hello.c:1:1: error: no'; }\n"),
    );
    let mut terminal = Terminal::run(&root, 80, "", "clr-dkms", &["rebuild"]);
    terminal.wait_for(&format!("  other/2 on {B}    build   0 s"));
    let_build(&root, "hello");
    terminal.wait_for("1 of 2 done");
    // The rows below are drawn after the first one.
    let rows = terminal.wait_for_rows(|rows| lively(rows).len() == 2);
    let at = |text: &str| {
        rows.iter().position(|row| row.contains(text)).unwrap_or_else(|| panic!("{text} in {rows:#?}"))
    };
    assert!(at("error: hello/1.0 on") < at("1 of 2 done"), "{rows:#?}");
    assert_eq!(lively(&rows).len(), 2, "{rows:#?}");
    let_build(&root, "other");
    assert_eq!(terminal.ends().code(), Some(1));
    assert_eq!(lively(&terminal.rows()), Vec::<&String>::new());
}

#[test]
fn a_terminal_that_is_made_narrow() {
    let root = pending();
    root.behave(WAITING);
    let shrink = format!(
        "(while [ ! -e '{0}/shrink' ]; do sleep 0.05; done; stty cols 30 </dev/tty) &",
        root.tools().display()
    );
    let mut terminal = Terminal::run(&root, 80, &shrink, "clr-dkms", &["rebuild"]);
    terminal.wait_for(&format!("  hello/1.0 on {B}  build   0 s"));
    fs::write(root.tools().join("shrink"), "").unwrap();
    terminal.wait_for("  hello/1.0 on..  build   0 s");
    let rows = terminal.wait_for_rows(|rows| lively(rows).len() == 2);
    assert_eq!(lively(&rows).len(), 2, "{rows:#?}");
    let_build(&root, "hello");
    let_build(&root, "other");
    assert!(terminal.ends().success());
    assert_eq!(lively(&terminal.rows()), Vec::<&String>::new());
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    for terminal_type in ["TERM=dumb; export TERM", "unset TERM"] {
        let root = pending();
        let mut terminal = Terminal::run(&root, 80, terminal_type, "clr-dkms", &["rebuild"]);
        assert!(terminal.ends().success());
        let text = terminal.text();
        assert!(!text.chars().any(|c| c.is_control() && !"\r\n".contains(c)), "{text:?}");
        assert!(text.contains(&format!("hello/1.0 on {B}: done after 0.0 s")), "{text}");
    }
}

/// The display has no colour anyway; nothing else comes with it either.
#[test]
fn without_colour_the_display_is_the_same() {
    let root = pending();
    let mut terminal = Terminal::run(&root, 80, "NO_COLOR=1; export NO_COLOR", "clr-dkms", &["rebuild"]);
    assert!(terminal.ends().success());
    assert!(terminal.text().contains("0 of 2 done"), "{}", terminal.text());
}

#[test]
fn an_update_shows_it_to_a_person_only() {
    let root = pending();
    let mut terminal = Terminal::run(&root, 80, "", "clr-dkms-post-update", &[]);
    assert!(terminal.ends().success());
    assert!(terminal.text().contains("0 of 2 done"), "{}", terminal.text());
    assert_eq!(lively(&terminal.rows()), Vec::<&String>::new());
    // As swupd's hooks call it.
    let root = pending();
    let mut terminal = Terminal::run(&root, 80, "exec </dev/null", "clr-dkms-post-update", &[]);
    assert!(terminal.ends().success());
    assert!(!terminal.text().contains('\u{1b}'), "{}", terminal.text());
    assert!(!terminal.text().contains("done after"), "{}", terminal.text());
}

/// The processes of the build that waits in [`SLOW`].
fn started(root: &TestRoot) -> Vec<u32> {
    let file = root.tools().join("started");
    let watch = Instant::now();
    while !Path::exists(&file) {
        assert!(watch.elapsed() < Duration::from_secs(60), "it never came to the build");
        std::thread::sleep(Duration::from_millis(20));
    }
    numbered_here(root, &fs::read_to_string(file).unwrap())
}

#[test]
fn stopped_at_the_keyboard() {
    for keys in ["\u{3}", "\u{3}\u{3}\u{3}"] {
        let root = pending();
        root.behave(&SLOW.replace("$verb == build", "$verb == build && $module == other"));
        let mut terminal = Terminal::run(&root, 80, "", "clr-dkms", &["rebuild"]);
        let pids = started(&root);
        terminal.wait_for("1 of 2 done").types(keys);
        assert_eq!(terminal.ends().code(), Some(1));
        all_gone(&pids);
        let rows = terminal.rows();
        assert_eq!(lively(&rows), Vec::<&String>::new(), "{rows:#?}");
        assert!(is_sane(&root));
        let at =
            rows.iter().position(|row| row.starts_with("✔ hello/1.0")).unwrap_or_else(|| panic!("{rows:#?}"));
        assert_eq!(
            rows[at..],
            [
                // What is in its place is completed.
                format!("✔ hello/1.0 on {B}: ok (built in 0.0 s)"),
                format!("! other/2 on {B}: not-built: the run was asked to stop"),
                "stopped after 0.0 s: 1 of 2 done; run `sudo clr-dkms rebuild` to continue".to_owned(),
                String::new(),
            ]
        );
        assert!(root.has(IN_PROGRESS) && !root.tree().keys().any(|path| path.contains("_aside")));
        go_on(&root);
        converges(&root, &["hello", "other"]);
    }
}

/// Before its turn, and with words of one's own.
#[test]
fn what_was_not_begun_is_reported_too() {
    let root = pending();
    root.behave(SLOW);
    let mut terminal =
        Terminal::run(&root, 100, "", "clr-dkms", &["rebuild", "hello", "other", "-k", "native", "--force"]);
    let pids = started(&root);
    terminal.types("\u{3}");
    assert_eq!(terminal.ends().code(), Some(1));
    all_gone(&pids);
    let text = terminal.text();
    assert!(text.contains(&format!("other/2 on {B}: not-built: the run was asked to stop")), "{text}");
    let again = text.replace("\r\n ", "");
    assert!(
        again.contains(
            "0 of 2 done; run `sudo clr-dkms rebuild hello other -k native --force` to begin again"
        ),
        "{again}"
    );
}

#[test]
fn a_terminal_that_goes_away() {
    // Below nohup the programs go on, as they should.
    if hangup_is_ignored() {
        return;
    }
    let root = pending();
    root.behave(SLOW);
    let terminal = Terminal::run(&root, 80, "", "clr-dkms", &["rebuild"]);
    let pids = started(&root);
    terminal.closes();
    all_gone(&pids);
    go_on(&root);
    // The run that was stopped may still be on its way out.
    root.file("etc/clr-dkms/clr-dkms.conf", "[run]\nlock-wait = 1 min\n");
    converges(&root, &["hello", "other"]);
}
