//! What an `install` command does, as far as its text shows.

/// Programs and shell builtins that load nothing, whatever their arguments are.
const INERT: [&str; 8] = ["true", "false", ":", "exit", "return", "echo", "printf", "logger"];
/// Words before a command that do not change which command runs.
const PREFIXES: [&str; 3] = ["exec", "command", "builtin"];

/// Whether an `install` command certainly loads nothing, because each simple command in it is `/bin/false`,
/// `true`, `exit 1` or similar. kmod runs the text with system(3), that is with `sh -c`.
pub fn loads_nothing(command: &str) -> bool {
    simple_commands(command).is_some_and(|commands| commands.iter().all(|words| is_inert(words)))
}

fn is_inert(words: &[String]) -> bool {
    let mut words = words.iter().map(String::as_str).peekable();
    while words.peek().is_some_and(|word| PREFIXES.contains(word) || is_assignment(word)) {
        words.next();
    }
    // Only assignments, or nothing.
    words.next().is_none_or(|word| INERT.contains(&word.rsplit('/').next().unwrap_or(word)))
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && !name.starts_with(|c: char| c.is_ascii_digit())
    })
}

/// The words of each simple command. None if the text has a substitution, a group or an open quote, because
/// then only a shell can determine what runs.
fn simple_commands(command: &str) -> Option<Vec<Vec<String>>> {
    let mut parts = vec![String::new()];
    let mut quote = None;
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        let part = parts.last_mut()?;
        let starts_a_word = part.is_empty() || part.ends_with([' ', '\t']);
        match (quote, c) {
            (None, '#') if starts_a_word => {
                // A comment ends at the end of the line, regardless of quotes.
                if characters.by_ref().any(|c| c == '\n') {
                    parts.push(String::new());
                }
                continue;
            }
            // A redirection to another descriptor, such as `>&2`.
            (None, '&') if part.ends_with('>') => {}
            (None, ';' | '&' | '|' | '\n') => {
                parts.push(String::new());
                continue;
            }
            (None, '(' | ')' | '{' | '}' | '<') | (None | Some('"'), '`' | '$') => return None,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            (None | Some('"'), '\\') => {
                part.push(c);
                part.extend(characters.next());
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.iter().map(|part| shlex::split(part)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_load_nothing() {
        for command in [
            "/bin/false",
            "/bin/true",
            "/usr/bin/false",
            "false",
            "true",
            ":",
            "  /bin/false  --quiet ",
            "exec /bin/false",
            "/bin/true # don't want it",
            "echo 'snd is off; see wiki' >&2; exit 1",
            "logger disabled && false",
            "LC_ALL=C /bin/true",
            "\"/bin/false\"",
            "",
        ] {
            assert!(loads_nothing(command), "{command}");
        }
        for command in [
            "/sbin/modprobe --ignore-install x && /usr/bin/setup",
            "/bin/true; /sbin/modprobe -i x",
            "/bin/true || insmod /x.ko",
            "/usr/local/bin/load-x",
            "/bin/false-ish",
            "false $(modprobe -i x)",
            "true `modprobe -i x`",
            "echo \"$(modprobe -i x)\"",
            "{ modprobe -i x; }",
            "true 'open",
            "echo 'a' | modprobe -i x",
            "if true; then modprobe -i x; fi",
            "true\nmodprobe -i x",
            "true # a\nmodprobe -i x",
        ] {
            assert!(!loads_nothing(command), "{command}");
        }
    }
}
