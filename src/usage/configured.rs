//! What a machine is configured to use, whether or not it is in use now, and the current boot.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Span, Timestamp};

use super::{MOST, filesystem_modules, text, unescaped, word};
use crate::kernel::inventory::MARKS;
use crate::kernel::module_file::kernel_name;
use crate::modprobe::ModulesLoad;
use crate::requirement::Use;
use crate::sys::Root;

/// The pools that OpenZFS imports at boot.
const POOL_CACHE: &str = "/etc/zfs/zpool.cache";

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configured {
    /// Modules that modules-load.d lists, by the kernel's name, with the file that lists them.
    pub modules_load: BTreeMap<String, String>,
    /// The modules of the filesystem types in fstab, and of the pools that are imported at boot.
    pub filesystems: BTreeSet<String>,
    /// The mount points in fstab.
    pub mount_points: BTreeSet<String>,
    /// fstab has a swap device.
    pub swap: bool,
}

impl Configured {
    /// Reads the configuration. `aliases` are the types and modules of `alias fs-TYPE MODULE` lines.
    pub(super) fn observe(root: &Root, aliases: &[(String, String)]) -> Configured {
        let mut found = Configured::default();
        for (line, module) in ModulesLoad::load(root).names {
            found.modules_load.entry(module).or_insert(line.path);
        }
        found.read_fstab(&text(root, "/etc/fstab"), aliases);
        if root.lookup(POOL_CACHE).stat().is_some_and(|stat| stat.size > 0) {
            found.filesystems.insert("zfs".to_owned());
        }
        found
    }

    fn read_fstab(&mut self, fstab: &str, aliases: &[(String, String)]) {
        for line in fstab.lines().filter(|line| !line.trim_start().starts_with('#')).take(MOST) {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let (Some(point), Some(kinds)) = (fields.next(), fields.next()) else { continue };
            if kinds == "swap" {
                self.swap = true;
                continue;
            }
            self.mount_points.insert(unescaped(point));
            for kind in kinds.split(',').map(|kind| kind.split('.').next().unwrap_or(kind)) {
                self.filesystems.extend(filesystem_modules(aliases, kind));
            }
        }
    }

    /// Whether the configuration names one of the modules, or one of their former uses.
    pub fn names(&self, modules: &[String], uses: &[Use]) -> bool {
        let used = |was: &Use| match was {
            Use::Mount { point, .. } => self.mount_points.contains(point),
            Use::Swap { .. } => self.swap,
            _ => false,
        };
        let listed = |module: &String| {
            let module = kernel_name(module);
            self.modules_load.contains_key(&module) || self.filesystems.contains(&module)
        };
        modules.iter().any(listed) || uses.iter().any(used)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CurrentBoot {
    /// The boot id. None if it is unknown.
    pub id: Option<String>,
    /// The boot is known to have reached multi-user.target, so everything that loads modules at boot has run.
    pub is_complete: bool,
}

impl CurrentBoot {
    /// `release` is the running kernel.
    pub(super) fn observe(root: &Root, release: &str, now: Timestamp) -> CurrentBoot {
        let id = word(root, "/proc/sys/kernel/random/boot_id");
        // clr-boot-manager updates the mark of the running kernel at each boot that reaches
        // multi-user.target.
        let mark = root.lookup(format!("{MARKS}/k_booted_{release}")).stat();
        // A time that no calendar has is none.
        let marked = mark.and_then(|stat| Timestamp::from_nanosecond(stat.mtime_ns).ok());
        // `/proc/stat` also has the boot time, but is slow to read on large machines.
        let uptime = word(root, "/proc/uptime");
        // The kernel writes a number. Without it the boot counts as not complete.
        let seconds = uptime.as_deref().and_then(|text| text.split(['.', ' ']).next()?.parse::<i64>().ok());
        let began = seconds.and_then(|seconds| now.checked_sub(Span::new().try_seconds(seconds).ok()?).ok());
        CurrentBoot { id, is_complete: marked.zip(began).is_some_and(|(marked, began)| marked >= began) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fstab_names_filesystems_mount_points_and_swap() {
        let mut found = Configured::default();
        let fstab = "# UUID=1 /old xfs\nUUID=2 /my\\040disk tux3 defaults\n/dev/x none swap sw 0 0\nshort\n\
                     h:/x /net fuse.sshfs noauto\n";
        found.read_fstab(fstab, &[("tux3".to_owned(), "hello".to_owned())]);
        assert_eq!(found.mount_points.iter().collect::<Vec<_>>(), ["/my disk", "/net"]);
        assert_eq!(found.filesystems.iter().collect::<Vec<_>>(), ["fuse", "hello", "tux3"]);
        assert!(found.swap);
        let names = |modules: &[&str], uses: &[Use]| {
            found.names(&modules.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>(), uses)
        };
        let mount = |point: &str| [Use::Mount { point: point.to_owned(), fs: "x".to_owned() }];
        assert!(names(&["hello"], &[]) && names(&[], &mount("/net")));
        assert!(names(&[], &[Use::Swap { device: "/dev/y".to_owned() }]));
        assert!(!names(&["xfs"], &mount("/old")) && !names(&[], &[Use::Display, Use::Loaded]));
    }
}
