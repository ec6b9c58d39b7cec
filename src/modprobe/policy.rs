//! What keeps modules of a machine from being loaded, whatever the kernel, and since when.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{ConfigLine, Directive, ModprobeConfig};
use super::pattern;
use crate::sys::{Root, RootKind};

/// `modprobe.d` of a machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadPolicy {
    /// Its lines.
    pub config: ModprobeConfig,
    /// Of each file that can keep a module from being loaded: whether it was as it is when this machine was booted. None
    /// where that is not known.
    since_boot: BTreeMap<String, Option<bool>>,
}

impl LoadPolicy {
    /// Reads it. Since when is only looked for where one of the modules `names` is concerned.
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
        // The kernel takes its time for this file on large machines: it is not read without need.
        let booted = boot_time(&root.read("/proc/stat").unwrap_or_default());
        policy.since_boot = paths
            .into_iter()
            .map(|path| {
                // No program can set the ctime back.
                let changed = root.lookup(path).stat().map(|stat| stat.ctime_ns / 1_000_000_000);
                (path.clone(), booted.zip(changed).map(|(booted, changed)| changed < booted))
            })
            .collect();
        policy
    }

    /// Whether a line was there when this machine was booted; none where that is not known.
    pub fn since_boot(&self, line: &ConfigLine) -> Option<bool> {
        self.since_boot.get(&line.path).copied().flatten()
    }
}

/// When the machine was booted, in seconds since the epoch (`btime` in proc_stat(5)).
fn boot_time(stat: &[u8]) -> Option<i128> {
    let line = stat.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"btime "))?;
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
