//! An ignored error is a defect. Where the sources drop one, the line above says why that is right.

use std::fs;
use std::path::Path;

use crate::layers::sources;

/// What drops the error of a `Result`.
const DROPS: [&str; 8] =
    ["let _ =", ".ok()", "Err(_)", "let Ok(", "Result::ok", ".is_ok_and(", "or_else(|_|", "map_or_else(|_|"];
/// What drops the error of a `Result` that these return; of an `Option` there is none.
const DEFAULTS: [&str; 5] = [".unwrap_or(", ".unwrap_or_default()", ".map_or(", ".is_ok()", ".is_err()"];
const FALLIBLE: [&str; 14] = [
    ".read(",
    ".read_within(",
    ".read_start(",
    ".read_link(",
    ".list(",
    ".list_optional(",
    ".open_file(",
    ".metadata()",
    ".parse()",
    ".parse::<",
    "from_utf8(",
    "from_str_radix(",
    "try_from(",
    "have_same_contents(",
];
/// In shell scripts.
const SHELL: [&str; 4] = ["|| true", "|| :", "2>/dev/null", "set +e"];

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//") || line.trim_start().starts_with('#')
}

fn drops(line: &str) -> bool {
    let code = line.split("//").next().unwrap();
    let has = |words: &[&str]| words.iter().any(|word| code.contains(word));
    // `Ok(())` is a pattern of results that cannot be errors.
    !is_comment(line) && !code.contains("Ok(())") && (has(&DROPS) || (has(&DEFAULTS) && has(&FALLIBLE)))
}

fn drops_in_shell(line: &str) -> bool {
    !is_comment(line) && SHELL.iter().any(|word| line.contains(word))
}

/// The lines that drop an error without a reason. It is on the line itself, or above the statement or the
/// function that begins with it; lines that drop one error after the other share it.
fn without_reason(text: &str, drops: fn(&str) -> bool) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    let has_reason = |at: &usize| {
        let mut is_inside = false;
        for line in lines[..*at].iter().rev().map(|line| line.trim()) {
            let is_end = [";", "{", "}", ","].iter().any(|end| line.ends_with(end)) || line.is_empty();
            let opens = line.ends_with('{') && !is_inside;
            match () {
                () if is_comment(line) => return true,
                () if is_end && !opens && !drops(line) => return false,
                () => is_inside |= opens,
            }
        }
        false
    };
    let has_own = |line: &str| line.contains("// ") || line.contains(" # ");
    let found = (0..lines.len()).filter(|at| drops(lines[*at]) && !has_own(lines[*at]));
    found.filter(|at| !has_reason(at)).map(|at| (at + 1, lines[at].trim())).collect()
}

#[test]
fn each_dropped_error_has_its_reason() {
    let (mut files, mut seen, mut wrong) = (Vec::new(), 0, Vec::new());
    for directory in ["src", "hooks", "packaging"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join(directory), &mut files);
    }
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let drops = match file.extension().and_then(|ending| ending.to_str()) {
            Some("rs") => drops,
            _ if text.starts_with("#!") => drops_in_shell,
            _ => continue,
        };
        seen += text.lines().filter(|line| drops(line)).count();
        let found = without_reason(&text, drops).into_iter();
        wrong.extend(found.map(|(number, line)| format!("{}:{number}: {line}", file.display())));
    }
    assert!(seen > 300, "the sources were not read: {seen}");
    assert!(
        wrong.is_empty(),
        "an error is dropped, and the line above does not say why:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn what_counts_as_a_reason() {
    let cases = [
        ("// Why.\nx.ok();", true),
        ("x.ok(); // why", true),
        ("// Why.\nlet y =\n    x.read(path).unwrap_or_default();", true),
        ("// Why.\nx.ok();\ny.ok();", true),
        ("/// Why.\nfn y() {\n    x.ok()", true),
        ("x.ok();", false),
        ("// Of another line.\nlet z = 1;\nx.ok();", false),
        ("// Of another one.\nmatch z {\n    if true {\n        x.ok()", false),
        ("match x {\n    Ok(y) => y,\n    Err(_) => 0,", false),
        ("x.read(path).unwrap_or_default();", false),
        ("if let Ok(y) = x {", false),
    ];
    for (text, has_reason) in cases {
        assert_eq!(without_reason(text, drops).is_empty(), has_reason, "{text}");
    }
    assert!(!drops("words.next().unwrap_or_default()") && !drops("// x.ok()"));
    assert!(!without_reason("rm x || true", drops_in_shell).is_empty());
    assert!(without_reason("# Why.\nrm x || true", drops_in_shell).is_empty());
}
