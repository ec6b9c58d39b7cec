//! The commands of systemd on the running system.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::Tools;

/// The time limit. A stopped service may need a while to end.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs `systemctl` or `loginctl`, and returns what it printed.
///
/// # Errors
/// When it cannot be started, or does not succeed.
pub fn ask(tools: &Tools, program: &str, words: &[&str]) -> anyhow::Result<String> {
    let done = tools.child(program, DEADLINE)?.args(words).run();
    let done = done.with_context(|| format!("{program} cannot be started"))?;
    let said = String::from_utf8_lossy(&done.output).into_owned();
    ensure!(done.ended.is_success(), "{program} {}: {}", words.join(" "), said.trim());
    Ok(said)
}

/// The values of a property in the output of `show`, one for each block.
pub fn values<'t>(said: &'t str, name: &str) -> Vec<&'t str> {
    let value = |line: &'t str| line.strip_prefix(name)?.strip_prefix('=');
    said.lines().filter_map(value).map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::values;

    #[test]
    fn a_property() {
        let said = "Id=2\nClass=user\n\nClass=greeter\nClasses=x\n";
        assert_eq!(values(said, "Class"), ["user", "greeter"]);
        assert!(values("", "Class").is_empty());
    }
}
