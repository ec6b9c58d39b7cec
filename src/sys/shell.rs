//! Quoting for commands that are shown to users.

/// A word in a form that a shell reads back unchanged, with quotes if necessary.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_come_back_from_a_shell() {
        for word in ["a", "", "it's", "#V#", "a b", "$x", "~", "/usr/src/x-1.0", "ä", "a\\b"] {
            assert_eq!(shlex::split(&quoted(word)), Some(vec![word.to_owned()]), "{word:?}");
        }
        assert_eq!(quoted("/usr/src/x-1.0"), "/usr/src/x-1.0");
    }
}
