//! What prevents modules from being loaded on a machine, on any kernel, and whether this was already so at
//! the last boot.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{ConfigLine, Directive, ModprobeConfig};
use super::pattern;
use crate::sys::{Root, RootKind};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadPolicy {
    pub config: ModprobeConfig,
    /// For each file that can prevent a module from being loaded, whether it is unchanged since the last
    /// boot. None if unknown.
    since_boot: BTreeMap<String, Option<bool>>,
}

impl LoadPolicy {
    /// Reads `modprobe.d`. Whether files are unchanged is determined only for directives that concern one of
    /// `names`.
    pub fn observe(root: &Root, names: &BTreeSet<String>) -> LoadPolicy {
        let config = ModprobeConfig::load(root);
        let mut policy = LoadPolicy { config, since_boot: BTreeMap::new() };
        if root.kind() == RootKind::Image {
            return policy;
        }
        let decides = |directive: &Directive| match directive {
            Directive::Blacklist { module } => names.contains(module),
            Directive::Install { pattern, .. } | Directive::Alias { pattern, .. } => {
                names.iter().any(|name| pattern::matches(pattern, name))
            }
            Directive::Options { .. } | Directive::SoftDependency { .. } => false,
        };
        let lines = policy.config.directives.iter().filter(|(_, directive)| decides(directive));
        let mut paths: Vec<&String> = lines.map(|(at, _)| &at.path).collect();
        paths.dedup();
        if paths.is_empty() {
            return policy;
        }
        // `/proc/stat` is slow to read on large machines, so it is read only if needed.
        let booted = boot_time(&root.read("/proc/stat").unwrap_or_default());
        policy.since_boot = paths
            .into_iter()
            .map(|path| {
                // Unlike the mtime, the ctime cannot be set back.
                let changed = root.lookup(path).stat().map(|stat| stat.ctime_ns / 1_000_000_000);
                (path.clone(), booted.zip(changed).map(|(booted, changed)| changed < booted))
            })
            .collect();
        policy
    }

    /// Whether a directive was already there when the machine booted. None if unknown.
    pub fn since_boot(&self, line: &ConfigLine) -> Option<bool> {
        self.since_boot.get(&line.path).copied().flatten()
    }
}

/// The boot time in seconds since the epoch (`btime` in proc_stat(5)).
fn boot_time(stat: &[u8]) -> Option<i128> {
    let line = stat.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"btime "))?;
    // The kernel writes a number. Anything else leaves the time unknown.
    std::str::from_utf8(line).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_the_machine_was_booted() {
        assert_eq!(boot_time(b"cpu 1 2\nctxt 5\nbtime 1764000000\nprocesses 3\n"), Some(1_764_000_000));
        assert_eq!([boot_time(b""), boot_time(b"btime x\n"), boot_time(b"xbtime 1\n")], [None; 3]);
    }
}
