//! What is in use on a machine that runs, and the kernel modules that it hangs on: from mounts, swap, pools, routes and
//! displays through sysfs to drivers. What cannot be read hangs on nothing: then a loaded module is still *wanted*.

use std::collections::{BTreeMap, BTreeSet};

use super::{kernel_spelling, spread};
use crate::kernel::inventory::module_folder;
use crate::sys::Root;

/// The deepest stack of devices (partition, volume, array, disk; bond, bridge, card) that is followed.
const DEPTH: usize = 8;

/// What is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// Kernel module (with underscores) to what hangs on it.
    pub hangs_on: BTreeMap<String, String>,
    /// Every loaded module.
    pub loaded: BTreeSet<String>,
}

impl InUse {
    /// Looks, on a machine whose kernel `release` runs.
    pub fn observe(root: &Root, release: &str) -> InUse {
        let mut look = Look { root, found: BTreeMap::new() };
        look.filesystems(release);
        look.swap();
        look.pools();
        look.default_route();
        look.displays();
        let mut hangs_on = look.found;
        let loaded: BTreeSet<String> = text(root, "/proc/modules")
            .lines()
            .filter_map(|line| line.split_ascii_whitespace().next())
            .map(str::to_owned)
            .collect();
        let holders = |name: &String| (name.clone(), names(root, &format!("/sys/module/{name}/holders")));
        spread(&mut hangs_on, &loaded.iter().map(holders).collect());
        InUse { hangs_on, loaded }
    }
}

fn text(root: &Root, path: &str) -> String {
    root.read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn names(root: &Root, folder: &str) -> Vec<String> {
    let listed = root.list_optional(folder).unwrap_or_default();
    listed.iter().filter_map(|entry| entry.text()).map(str::to_owned).collect()
}

/// The first line of a file of sysfs.
fn word(root: &Root, path: &str) -> Option<String> {
    let text = text(root, path);
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

struct Look<'r> {
    root: &'r Root,
    found: BTreeMap<String, String>,
}

impl Look<'_> {
    /// The first reason for a module is kept: `/` is looked at before `/home`.
    fn add(&mut self, module: &str, what: &str) {
        let module = kernel_spelling(module);
        let reason = format!("{what} ({module})");
        self.found.entry(module).or_insert(reason);
    }

    /// The modules of the drivers of a device and of all that it is plugged into.
    fn add_drivers(&mut self, device: &str, what: &str) {
        // Links of sysfs lead to /sys/devices: its ancestors are the buses.
        let real = self.root.real_path(device).ok().and_then(|host| self.root.inside(&host));
        let Some(real) = real else { return };
        for place in real
            .ancestors()
            .take_while(|place| place.starts_with("/sys/devices") && place.components().count() > 3)
        {
            if let Ok(module) = self.root.read_link(place.join("driver/module"))
                && let Some(name) = module.file_name()
            {
                self.add(&name.to_string_lossy(), what);
            }
        }
    }

    fn filesystems(&mut self, release: &str) {
        let mounts = text(self.root, "/proc/self/mountinfo");
        let aliases = self.root.read(format!("{}/modules.alias", module_folder(release))).unwrap_or_default();
        let aliases = filesystem_aliases(&aliases);
        let mut kinds = BTreeSet::new();
        for line in mounts.lines() {
            // proc_pid_mountinfo(5): the optional fields end at a dash.
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(number), Some(point), Some(kind)) = (left.get(2), left.get(4), right.first()) else {
                continue;
            };
            let what = format!("backs {}", unescaped(point));
            // `fuse.sshfs` is served by `fuse`.
            let kind = kind.split('.').next().unwrap_or(kind);
            if kinds.insert(kind.to_owned()) {
                for module in filesystem_modules(&aliases, kind) {
                    self.add(&module, &what);
                }
            }
            self.add_block(number, &what, DEPTH);
            // The members of a filesystem on several devices have no number of their own in the mount.
            if let Some(source) = right.get(1).filter(|source| source.starts_with("/dev/")) {
                self.add_source(&unescaped(source), &what);
            }
            if kind == "btrfs" {
                self.add_btrfs(right.get(1).copied().unwrap_or_default(), &what);
            }
        }
    }

    /// A block device by its number, and what it lies on.
    fn add_block(&mut self, number: &str, what: &str, depth: usize) {
        let device = format!("/sys/dev/block/{number}");
        if depth == 0 || !self.root.lookup(&device).is_there() {
            return;
        }
        self.add_drivers(&device, what);
        // A partition's disk has the slaves of neither; the partition's own folder has none.
        for slave in names(self.root, &format!("{device}/slaves")) {
            if let Some(number) = word(self.root, &format!("/sys/class/block/{slave}/dev")) {
                self.add_block(&number, what, depth - 1);
            }
        }
    }

    fn add_source(&mut self, device: &str, what: &str) {
        let stat = self.root.lookup(device).stat().filter(|stat| stat.stands_for != 0);
        if let Some(stat) = stat {
            let (major, minor) = (rustix::fs::major(stat.stands_for), rustix::fs::minor(stat.stands_for));
            self.add_block(&format!("{major}:{minor}"), what, DEPTH);
        }
    }

    /// All devices of the filesystem that one of them belongs to.
    fn add_btrfs(&mut self, source: &str, what: &str) {
        let Some(name) = source.rsplit('/').next() else { return };
        for filesystem in names(self.root, "/sys/fs/btrfs") {
            let devices = names(self.root, &format!("/sys/fs/btrfs/{filesystem}/devices"));
            if !devices.iter().any(|device| device == name) {
                continue;
            }
            for device in devices {
                if let Some(number) = word(self.root, &format!("/sys/class/block/{device}/dev")) {
                    self.add_block(&number, what, DEPTH);
                }
            }
        }
    }

    fn swap(&mut self) {
        for line in text(self.root, "/proc/swaps").lines().skip(1) {
            if let Some(device) = line.split_ascii_whitespace().next().filter(|d| d.starts_with("/dev/")) {
                self.add_source(&unescaped(device), &format!("backs the swap on {}", unescaped(device)));
            }
        }
    }

    /// OpenZFS has a folder for each imported pool.
    fn pools(&mut self) {
        const POOLS: &str = "/proc/spl/kstat/zfs";
        for pool in names(self.root, POOLS) {
            if self.root.lookup(format!("{POOLS}/{pool}/state")).is_there() {
                self.add("zfs", &format!("holds the pool {pool}"));
            }
        }
    }

    fn default_route(&mut self) {
        let route = text(self.root, "/proc/net/route");
        let v4 = route.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let is_default = fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000");
            is_default.then(|| fields[0].to_owned())
        });
        let route = text(self.root, "/proc/net/ipv6_route");
        let v6 = route.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let anywhere = fields.first().is_some_and(|to| to.bytes().all(|b| b == b'0'));
            let is_default = anywhere && fields.get(1) == Some(&"00");
            fields.get(9).filter(|_| is_default).map(|name| (*name).to_owned())
        });
        let interfaces: BTreeSet<String> = v4.chain(v6).filter(|name| name != "lo").collect();
        for interface in interfaces {
            self.add_interface(&interface, DEPTH);
        }
    }

    fn add_interface(&mut self, name: &str, depth: usize) {
        const WHAT: &str = "drives the default route";
        let folder = format!("/sys/class/net/{name}");
        if depth == 0 || !self.root.lookup(&folder).is_there() {
            return;
        }
        self.add_drivers(&format!("{folder}/device"), WHAT);
        // A tunnel has no device behind it: its type is its module.
        let uevent = text(self.root, &format!("{folder}/uevent"));
        if let Some(kind) = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")) {
            self.add(kind, WHAT);
        }
        for lower in names(self.root, &folder) {
            if let Some(lower) = lower.strip_prefix("lower_") {
                self.add_interface(lower, depth - 1);
            }
        }
    }

    fn displays(&mut self) {
        const WHAT: &str = "drives the display";
        const CARDS: &str = "/sys/class/drm";
        for connector in names(self.root, CARDS) {
            let Some((card, _)) = connector.split_once('-') else { continue };
            let says = |file: &str| word(self.root, &format!("{CARDS}/{connector}/{file}"));
            if says("status").as_deref() == Some("connected") && says("enabled").as_deref() == Some("enabled")
            {
                self.add_drivers(&format!("{CARDS}/{card}/device"), WHAT);
            }
        }
        // A driver without mode setting has no connectors: the card that the firmware used is the one.
        const PCI: &str = "/sys/bus/pci/devices";
        for device in names(self.root, PCI) {
            if word(self.root, &format!("{PCI}/{device}/boot_vga")).as_deref() == Some("1") {
                self.add_drivers(&format!("{PCI}/{device}"), WHAT);
            }
        }
    }
}

/// The modules that serve a filesystem type: the one of its name, and those that say so in `modules.alias`.
fn filesystem_modules(aliases: &[(String, String)], kind: &str) -> BTreeSet<String> {
    let named = aliases.iter().filter(|(of, _)| of == kind).map(|(_, module)| module.clone());
    named.chain([kernel_spelling(kind)]).collect()
}

/// Types and modules of `alias fs-TYPE MODULE`: there are few of them in a large file.
fn filesystem_aliases(text: &[u8]) -> Vec<(String, String)> {
    const START: &[u8] = b"\nalias fs-";
    let alias = |at: usize| {
        let rest = &text[at + START.len()..];
        let line = String::from_utf8_lossy(&rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())]);
        line.split_once(' ').map(|(kind, module)| (kind.to_owned(), kernel_spelling(module.trim())))
    };
    memchr::memmem::find_iter(text, START).filter_map(alias).collect()
}

/// Blanks and the like stand as `\040` in files of proc.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).and_then(|d| std::str::from_utf8(d).ok());
        match code.and_then(|d| u8::from_str_radix(d, 8).ok()).filter(|_| bytes[at] == b'\\') {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_find_their_modules_by_alias() {
        let aliases = b"# x\nalias fs-zfs zfs\nalias fs-ntfs ntfs3\nalias fs-ntfs3 ntfs3\n";
        let aliases = filesystem_aliases(aliases);
        let found = |kind| filesystem_modules(&aliases, kind).into_iter().collect::<Vec<_>>();
        assert_eq!(found("ntfs"), ["ntfs", "ntfs3"]);
        assert_eq!(found("zfs"), ["zfs"]);
        assert_eq!(found("nt"), ["nt"]);
    }

    #[test]
    fn blanks_of_proc() {
        assert_eq!(unescaped("/my\\040disk\\134"), "/my disk\\");
        assert_eq!(unescaped("/a\\9x\\"), "/a\\9x\\");
    }
}
