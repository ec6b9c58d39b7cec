//! Changes to the text of a `dkms.conf`. Everything else in it stays as its author wrote it.

use crate::sys::shell;

/// The text with a literal value for a directive. `line` is where bash assigns it, from 1.
pub(super) fn with_literal(text: &str, directive: &str, value: &str, line: Option<usize>) -> String {
    let assigned = format!("{directive}={}", shell_word(value));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    match line.filter(|line| (1..=lines.len()).contains(line)) {
        Some(line) if is_only(&lines[line - 1], directive) => lines[line - 1] = assigned,
        // After it: the line has more than the assignment.
        Some(line) => lines.insert(line, assigned),
        // Later lines may use it.
        None => {
            let first = lines.iter().position(|line| !line.starts_with('#')).unwrap_or(lines.len());
            lines.insert(first, assigned);
        }
    }
    lines.join("\n") + "\n"
}

/// The text with an assignment at its end.
pub(super) fn with_last(text: &str, directive: &str, value: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}{directive}={}\n", shell_word(value))
}

/// A line that assigns the directive, and does nothing else.
fn is_only(line: &str, directive: &str) -> bool {
    let Some(value) = line.trim().strip_prefix(directive).and_then(|rest| rest.strip_prefix('=')) else {
        return false;
    };
    match value.chars().next() {
        Some(quote @ ('"' | '\'' | '`')) => {
            value.len() > 1 && value[1..].find(quote) == Some(value.len() - 2)
        }
        Some('$') if value.starts_with("$(") => value.ends_with(')') && !value.contains(';'),
        _ => !value.contains([' ', '\t', ';', '\\']),
    }
}

fn shell_word(value: &str) -> String {
    match value.contains(['"', '$', '`', '\\']) {
        true => shell::quoted(value),
        false => format!("\"{value}\""),
    }
}

/// The changes as unified lines; empty without any.
pub fn difference(old: &str, new: &str) -> Vec<String> {
    let diff = similar::TextDiff::from_lines(old, new);
    let mut lines = Vec::new();
    for group in diff.grouped_ops(1) {
        for change in group.iter().flat_map(|operation| diff.iter_changes(operation)) {
            let text = change.value().trim_end_matches('\n');
            lines.push(format!("{}{text}", change.tag()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals() {
        for (text, line, expected) in [
            ("A=1\nPACKAGE_VERSION=\"$(cat V)\"\n", Some(2), "A=1\nPACKAGE_VERSION=\"2\"\n"),
            ("PACKAGE_VERSION=`x y`\n", Some(1), "PACKAGE_VERSION=\"2\"\n"),
            ("PACKAGE_VERSION=1; B=2\n", Some(1), "PACKAGE_VERSION=1; B=2\nPACKAGE_VERSION=\"2\"\n"),
            ("# c\nA=$PACKAGE_VERSION\n", None, "# c\nPACKAGE_VERSION=\"2\"\nA=$PACKAGE_VERSION\n"),
            ("  PACKAGE_VERSION=1", Some(1), "PACKAGE_VERSION=\"2\"\n"),
        ] {
            assert_eq!(with_literal(text, "PACKAGE_VERSION", "2", line), expected, "{text}");
        }
        assert_eq!(with_last("A=1", "AUTOINSTALL", "yes"), "A=1\nAUTOINSTALL=\"yes\"\n");
    }

    #[test]
    fn differences() {
        assert_eq!(difference("a\nb\nc\nd\n", "a\nB\nc\nd\n"), [" a", "-b", "+B", " c"]);
        assert!(difference("a\n", "a\n").is_empty());
    }
}
