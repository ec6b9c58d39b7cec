//! Whether what depends on a module is there: mounted filesystems, imported pools, the default route.

use std::collections::BTreeSet;

use super::{UsageScan, listed, text, unescaped};
use crate::kernel::module_file::kernel_name;
use crate::requirement::{Requirement, Use};
use crate::sys::Root;

/// What this machine brings up by itself at each boot, and what of it is there now.
#[derive(Debug)]
pub struct Presence<'r> {
    root: &'r Root,
    mounted: BTreeSet<String>,
    /// The mount points of fstab that are mounted at boot.
    at_boot: BTreeSet<String>,
    has_route: bool,
}

impl Presence<'_> {
    pub fn observe(root: &Root) -> Presence<'_> {
        let mounts = text(root, "/proc/self/mountinfo");
        let point = |line: &str| line.split(' ').nth(4).map(unescaped);
        let fstab = text(root, "/etc/fstab");
        let lines = fstab.lines().filter(|line| !line.trim_start().starts_with('#'));
        Presence {
            root,
            mounted: mounts.lines().filter_map(point).collect(),
            at_boot: lines.filter_map(mounted_at_boot).chain(["/".to_owned()]).collect(),
            has_route: !UsageScan::new(root).default_interfaces().is_empty(),
        }
    }

    /// The first use of a module that should be there and is not. A boot does without a filesystem that is
    /// mounted with `nofail`, for example one on a disk that is unplugged. A cable may be unplugged and a
    /// display switched off: an interface that exists counts in place of its route, and a display is not
    /// looked for.
    pub fn missing<'n>(&self, need: &'n Requirement) -> Option<&'n Use> {
        need.why.iter().find(|what| match what {
            Use::Mount { point, .. } => self.at_boot.contains(point) && !self.mounted.contains(point),
            Use::Pool { pool } => self.root.lookup(format!("/proc/spl/kstat/zfs/{pool}")).is_absent(),
            Use::DefaultRoute { interface } => !self.has_route && !self.has_interface(interface, need),
            Use::Swap { .. }
            | Use::Display
            | Use::Loaded
            | Use::Installed
            | Use::ModulesLoad { .. }
            | Use::Listed
            | Use::Replaces { .. }
            | Use::Remembered => false,
        })
    }

    /// Whether there is an interface of that name, or one that the module drives.
    fn has_interface(&self, name: &str, need: &Requirement) -> bool {
        const INTERFACES: &str = "/sys/class/net";
        let modules = need.modules();
        let is_driven = |interface: &String| {
            let module = self.root.read_link(format!("{INTERFACES}/{interface}/device/driver/module"));
            // A virtual interface has no device.
            let module = module.ok().and_then(|path| Some(kernel_name(path.file_name()?.to_str()?)));
            module.is_some_and(|module| modules.contains(&module))
        };
        let interfaces = listed(self.root, INTERFACES);
        interfaces.iter().any(|interface| interface == name || is_driven(interface))
    }
}

/// The mount point of a line of fstab that is mounted at boot.
fn mounted_at_boot(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let point = fields.nth(1).filter(|point| point.starts_with('/'))?;
    let mut options = fields.nth(1).unwrap_or_default().split(',');
    let is_later = options.any(|option| ["noauto", "nofail", "x-systemd.automount"].contains(&option));
    let point = Some(point.trim_end_matches('/')).filter(|point| !point.is_empty()).unwrap_or("/");
    (!is_later).then(|| unescaped(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fstab_mounts_at_boot() {
        for (line, point) in [
            ("/dev/sda1 /data ext4 defaults 0 2", Some("/data")),
            ("/dev/sda1 /my\\040data ext4", Some("/my data")),
            ("/dev/sda1 /data/ ext4", Some("/data")),
            ("/dev/sda1 / ext4", Some("/")),
            ("/dev/sda1 /data ext4 ro,noauto", None),
            ("/dev/sda1 /data ext4 ro,nofail", None),
            ("/dev/sda1 /data ext4 x-systemd.automount 0 0", None),
            ("/dev/sda2 none swap sw 0 0", None),
            ("short", None),
            ("", None),
        ] {
            assert_eq!(mounted_at_boot(line).as_deref(), point, "{line}");
        }
    }
}
