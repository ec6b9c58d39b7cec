//! The first error of a build log: what an admin wants to see of ten thousand lines.

use serde::{Deserialize, Serialize};

/// The longest message that is kept, in characters.
const MESSAGE_LIMIT: usize = 300;

/// The first error of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstError {
    /// The source file, as the log names it, when the compiler said one.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// The message.
    pub message: String,
}

impl FirstError {
    /// In few words: the file without its folder.
    pub fn short(&self) -> String {
        let file = self.file.as_ref().map(|f| f.rsplit('/').next().unwrap_or(f).to_owned());
        FirstError { file, ..self.clone() }.to_string()
    }
}

impl std::fmt::Display for FirstError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{file}:{line}: {}", self.message),
            (Some(file), None) => write!(f, "{file}: {}", self.message),
            _ => f.write_str(&self.message),
        }
    }
}

/// Finds it. A compiler's own line wins over what make says of it later; a full disk or a killed compiler explains
/// everything else.
pub fn find(log: &str) -> Option<FirstError> {
    let lines = || log.lines().map(str::trim_end);
    let plain = |marks: &[&str]| {
        lines().find(|line| marks.iter().any(|mark| line.contains(mark))).map(|line| FirstError {
            file: None,
            line: None,
            message: shortened(line),
        })
    };
    plain(&["No space left on device", "Killed signal terminated program"])
        .or_else(|| lines().find_map(compiler_line))
        .or_else(|| plain(&["ERROR: modpost:", "undefined reference", "undefined symbol", "objtool: "]))
        .or_else(|| plain(&["*** ", "Error! ", "command not found", "cannot stat"]))
}

/// `FILE:LINE[:COLUMN]: [fatal ]error: MESSAGE`.
fn compiler_line(line: &str) -> Option<FirstError> {
    let (place, message) = [": fatal error: ", ": error: "].iter().find_map(|mark| line.split_once(mark))?;
    let mut parts = place.rsplitn(3, ':');
    let (last, before, first) = (parts.next()?, parts.next(), parts.next());
    let number = |text: Option<&str>| text.and_then(|t| t.parse::<u32>().ok());
    let (file, line) = match (number(before), number(Some(last)), first, before) {
        (Some(line), Some(_), Some(file), _) => (file.to_owned(), Some(line)),
        (_, Some(line), None, Some(file)) => (file.to_owned(), Some(line)),
        (None, Some(line), Some(a), Some(b)) => (format!("{a}:{b}"), Some(line)),
        _ => (place.to_owned(), None),
    };
    Some(FirstError { file: Some(file), line, message: shortened(message) })
}

fn shortened(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).take(MESSAGE_LIMIT).collect()
}

/// The last `count` lines of a log, without control characters: for the journal.
pub fn last_lines(log: &str, count: usize) -> Vec<String> {
    let lines: Vec<&str> = log.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].iter().map(|l| shortened(l)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(log: &str) -> Option<String> {
        find(log).map(|e| e.to_string())
    }

    #[test]
    fn real_logs() {
        let broken = include_str!("../../tests/data/dkms-samples/f1-broken-c.make.log");
        assert_eq!(
            shown(broken).as_deref(),
            Some(
                "/var/lib/dkms/bad1/1.0/build/bad1.c:2: ‘undefined_thing’ undeclared (first use in this function)"
            )
        );
        let empty = include_str!("../../tests/data/dkms-samples/f2-empty-build-dir.make.log");
        assert!(shown(empty).is_some_and(|e| e.contains("***")), "{:?}", shown(empty));
        let lttng = include_str!("../../tests/data/dkms-samples/real-lttng-build-failure.make.log");
        assert!(find(lttng).is_some_and(|e| e.file.is_some() && e.line.is_some()), "{:?}", shown(lttng));
    }

    #[test]
    fn what_explains_the_rest_comes_first() {
        let log = "a.c:3:1: error: x\nfatal: write error: No space left on device\n";
        assert!(shown(log).is_some_and(|e| e.contains("No space left")));
        assert_eq!(shown("a.c:12: error: y").as_deref(), Some("a.c:12: y"));
        assert_eq!(
            shown("ERROR: modpost: \"f\" [x.ko] undefined!").as_deref(),
            Some("ERROR: modpost: \"f\" [x.ko] undefined!")
        );
        assert_eq!(shown("all went well"), None);
    }
}
