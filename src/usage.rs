//! What is in use on a running machine, and the kernel modules that it depends on.
//!
//! It follows mounts, swap devices, ZFS pools, default routes and displays through sysfs to their drivers.
//! What cannot be read adds no dependency; a loaded module then still counts as *wanted*.

mod configured;
mod presence;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::kernel::Running;
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::kernel_name;
use crate::limits::{CONFIGURATION, SYSTEM_LIST};
use crate::requirement::Use;
use crate::sys::{FileError, Root, mount};
pub use configured::{Configured, CurrentBoot};
pub use presence::Presence;

/// The most mounts that are followed, and the most devices below them.
const MOST: usize = 4096;
/// The most uses and aliases that are kept for one module.
pub const MOST_USES: usize = 16;

/// What depends on a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dependents {
    /// The first of [`Dependents::uses`] as a phrase, with the name of the module.
    pub reason: String,
    pub uses: Vec<Use>,
    /// The aliases by which modules are found for these uses: the modalias of a device, `fs-TYPE` or
    /// `rtnl-link-KIND`.
    pub aliases: BTreeSet<String>,
    /// Only other modules depend on it, which name it as their dependency.
    pub through_modules: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Kernel modules, with `_` in their names, and what depends on them.
    pub depended_on: BTreeMap<String, Dependents>,
    /// All loaded modules.
    pub loaded: BTreeSet<String>,
    /// The loaded modules that came with the kernel: they lack the taint flag O.
    pub own: BTreeSet<String>,
    /// The loaded out-of-tree modules whose signature the running kernel accepted: they lack the taint flag
    /// E.
    pub trusted: BTreeSet<String>,
    /// What the machine is configured to use.
    pub configured: Configured,
    /// The current boot.
    pub boot: CurrentBoot,
}

const MODULES: &str = "/proc/modules";

impl Usage {
    /// Observes the machine. Nothing is in use if no kernel is known to run.
    pub fn observe(root: &Root, running: &Running, now: Timestamp) -> Usage {
        let Some(release) = running.release() else { return Usage::default() };
        let aliases = bytes(root, &format!("{}/modules.alias", module_directory(release)));
        let aliases = filesystem_aliases(&aliases);
        let mut look = UsageScan::new(root);
        look.filesystems(&aliases);
        look.swap();
        look.pools();
        look.default_route();
        look.displays();
        let mut depended_on = look.found;
        let (mut loaded, mut own, mut trusted) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        // As in `bytes`.
        for LoadedLine { name, taints, .. } in self::loaded(root).unwrap_or_default() {
            match (taints.contains('O'), taints.contains('E')) {
                (false, _) => drop(own.insert(name.clone())),
                (true, false) => drop(trusted.insert(name.clone())),
                (true, true) => {}
            }
            loaded.insert(name);
        }
        // A module that is in use but not loaded is built into the kernel.
        depended_on.retain(|module, _| loaded.contains(module) || !Usage::can_tell(root));
        let holders = |name: &String| (name.clone(), listed(root, &format!("/sys/module/{name}/holders")));
        spread(&mut depended_on, &loaded.iter().take(MOST).map(holders).collect());
        let configured = Configured::observe(root, &aliases);
        Usage {
            depended_on,
            loaded,
            own,
            trusted,
            configured,
            boot: CurrentBoot::observe(root, release, now),
        }
    }

    /// Whether the running kernel reports which modules are loaded.
    pub fn can_tell(root: &Root) -> bool {
        // The reason makes no difference: the list is unknown.
        root.open_file(MODULES).is_ok()
    }

    /// The loaded modules that did not come with the kernel.
    pub fn out_of_tree(&self) -> impl Iterator<Item = &String> {
        self.loaded.difference(&self.own)
    }
}

/// A line of `/proc/modules`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedLine {
    /// The name of the module.
    pub name: String,
    /// It is not being initialised or removed.
    pub is_live: bool,
    /// Its taint flags, such as `OE`: O for an out-of-tree module, E if its signature was not accepted.
    pub taints: String,
}

impl LoadedLine {
    /// The flags follow the address, in parentheses.
    fn of(line: &str) -> Option<LoadedLine> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.to_owned();
        let is_live = words.nth(3) == Some("Live");
        let taints: String = words.skip(1).collect();
        Some(LoadedLine { name, is_live, taints: taints.trim_matches(['(', ')']).to_owned() })
    }
}

/// The loaded modules.
///
/// # Errors
/// If the kernel does not report them.
pub fn loaded(root: &Root) -> Result<Vec<LoadedLine>, FileError> {
    let list = root.read_within(MODULES, CONFIGURATION)?;
    Ok(String::from_utf8_lossy(&list).lines().filter_map(LoadedLine::of).collect())
}

fn text(root: &Root, path: &str) -> String {
    String::from_utf8_lossy(&bytes(root, path)).into_owned()
}

/// The contents of a file; empty if it cannot be read.
fn bytes(root: &Root, path: &str) -> Vec<u8> {
    // A failed read is in `Root::unread`, and blocks every decision (`decide::unread`).
    root.read_within(path, SYSTEM_LIST).unwrap_or_default()
}

fn listed(root: &Root, directory: &str) -> Vec<String> {
    // As in `bytes`.
    let entries = root.list_optional(directory).unwrap_or_default();
    entries.iter().filter_map(|entry| entry.text()).map(str::to_owned).collect()
}

/// The first line of a file in sysfs.
fn word(root: &Root, path: &str) -> Option<String> {
    let text = text(root, path);
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

struct UsageScan<'r> {
    root: &'r Root,
    found: BTreeMap<String, Dependents>,
    /// Block device numbers and interface names that were already followed. Each is followed once, for its
    /// first use.
    seen: BTreeSet<String>,
}

impl UsageScan<'_> {
    fn new(root: &Root) -> UsageScan<'_> {
        UsageScan { root, found: BTreeMap::new(), seen: BTreeSet::new() }
    }

    /// Adds a use of a module. The first use gives the reason, so `/` is scanned before `/home`.
    fn add(&mut self, module: &str, what: &Use, alias: Option<String>) {
        let module = kernel_name(module);
        let found = self.found.entry(module.clone()).or_default();
        if found.uses.is_empty() {
            found.reason = format!("{what} ({module})");
        }
        if found.uses.len() < MOST_USES && !found.uses.contains(what) {
            found.uses.push(what.clone());
        }
        if found.aliases.len() < MOST_USES {
            found.aliases.extend(alias);
        }
    }

    /// Adds the modules of a device's driver and of the buses that it is attached to.
    fn add_drivers(&mut self, device: &str, what: &Use) {
        // Symlinks in sysfs lead to /sys/devices, where the parent directories are the buses.
        // A failed read is in `Root::unread`; see `bytes`. This also applies below.
        let real = self.root.real_path(device).ok().and_then(|host| self.root.inside(&host));
        let Some(real) = real else { return };
        for place in real
            .ancestors()
            .take_while(|place| place.starts_with("/sys/devices") && place.components().count() > 3)
        {
            // Most devices have no driver. A failed read is in `Root::unread`; see above.
            if let Ok(module) = self.root.read_link(place.join("driver/module"))
                && let Some(name) = module.file_name()
            {
                let alias = word(self.root, &place.join("modalias").to_string_lossy());
                self.add(&name.to_string_lossy(), what, alias);
            }
            // A multipath NVMe disk is a virtual device, with its controllers in the same directory.
            if place.parent().is_some_and(|directory| directory.ends_with("nvme-subsystem")) {
                let subsystem = place.to_string_lossy().into_owned();
                let controllers = listed(self.root, &subsystem).into_iter().filter(|n| n.starts_with("nvme"));
                for controller in controllers.filter(|n| !n["nvme".len()..].contains('n')) {
                    let path = format!("{subsystem}/{controller}");
                    if self.seen.len() < 2 * MOST && self.seen.insert(path.clone()) {
                        self.add_drivers(&path, what);
                    }
                }
            }
        }
    }

    fn filesystems(&mut self, aliases: &[(String, String)]) {
        let mounts = text(self.root, "/proc/self/mountinfo");
        let mut kinds = BTreeSet::new();
        for line in mounts.lines().take(MOST) {
            // See proc_pid_mountinfo(5): a dash ends the optional fields.
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(number), Some(point), Some(kind)) = (left.get(2), left.get(4), right.first()) else {
                continue;
            };
            let point = unescaped(point);
            if self.is_passing(number, &point) {
                continue;
            }
            // The type `fuse.sshfs` is served by the module `fuse`.
            let kind = kind.split('.').next().unwrap_or(kind);
            let what = Use::Mount { point, fs: kind.to_owned() };
            if kinds.insert(kind.to_owned()) {
                for module in filesystem_modules(aliases, kind) {
                    self.add(&module, &what, Some(format!("fs-{kind}")));
                }
            }
            self.add_block(number, &what);
            // The mount has no device number for the members of a filesystem on several devices.
            if let Some(source) = right.get(1).filter(|source| source.starts_with("/dev/")) {
                self.add_source(&unescaped(source), &what);
            }
            if kind == "btrfs" {
                self.add_btrfs(right.get(1).copied().unwrap_or_default(), &what);
            }
        }
    }

    /// Whether a mount is on a removable device outside of the system's own directories: the system does not
    /// need it to boot.
    fn is_passing(&self, number: &str, point: &str) -> bool {
        let device = format!("/sys/dev/block/{number}");
        // For a partition, the attribute is in the directory of its disk.
        let says = |file: &str| word(self.root, &format!("{device}/{file}")).as_deref() == Some("1");
        let for_a_while = ["/media/", "/mnt/"].iter().any(|directory| point.starts_with(directory));
        point.starts_with("/run/media/") || (for_a_while && (says("removable") || says("../removable")))
    }

    /// Adds a block device by its number, and the devices that it consists of.
    fn add_block(&mut self, number: &str, what: &Use) {
        let mut todo = vec![number.to_owned()];
        while let Some(number) = todo.pop() {
            let device = format!("/sys/dev/block/{number}");
            let is_new = self.seen.len() < 2 * MOST && self.seen.insert(number);
            if !is_new || !self.root.lookup(&device).is_there() {
                continue;
            }
            self.add_drivers(&device, what);
            for slave in listed(self.root, &format!("{device}/slaves")) {
                todo.extend(word(self.root, &format!("/sys/class/block/{slave}/dev")));
            }
            // The devices below a partition are listed with its disk, which may be an array.
            if self.root.lookup(format!("{device}/partition")).is_there() {
                todo.extend(word(self.root, &format!("{device}/../dev")));
            }
        }
    }

    fn add_source(&mut self, device: &str, what: &Use) {
        let stat = self.root.lookup(device).stat().filter(|stat| stat.stands_for != 0);
        if let Some(stat) = stat {
            let (major, minor) =
                (nix::sys::stat::major(stat.stands_for), nix::sys::stat::minor(stat.stands_for));
            self.add_block(&format!("{major}:{minor}"), what);
        } else if let Some(number) = device
            .rsplit('/')
            .next()
            .and_then(|name| word(self.root, &format!("/sys/class/block/{name}/dev")))
        {
            // A copy of a system has no device files.
            self.add_block(&number, what);
        }
    }

    /// Adds all devices of the btrfs filesystem that `source` belongs to.
    fn add_btrfs(&mut self, source: &str, what: &Use) {
        let Some(name) = source.rsplit('/').next() else { return };
        for filesystem in listed(self.root, "/sys/fs/btrfs") {
            let devices = listed(self.root, &format!("/sys/fs/btrfs/{filesystem}/devices"));
            if !devices.iter().any(|device| device == name) {
                continue;
            }
            for device in devices {
                if let Some(number) = word(self.root, &format!("/sys/class/block/{device}/dev")) {
                    self.add_block(&number, what);
                }
            }
        }
    }

    fn swap(&mut self) {
        for line in text(self.root, "/proc/swaps").lines().skip(1) {
            if let Some(device) = line.split_ascii_whitespace().next().filter(|d| d.starts_with("/dev/")) {
                let device = unescaped(device);
                self.add_source(&device, &Use::Swap { device: device.clone() });
            }
        }
    }

    /// OpenZFS has a directory for each imported pool.
    fn pools(&mut self) {
        const POOLS: &str = "/proc/spl/kstat/zfs";
        for pool in listed(self.root, POOLS) {
            if self.root.lookup(format!("{POOLS}/{pool}/state")).is_there() {
                self.add("zfs", &Use::Pool { pool }, Some("fs-zfs".to_owned()));
            }
        }
    }

    fn default_route(&mut self) {
        for interface in self.default_interfaces() {
            self.add_interface(interface);
        }
    }

    /// The outgoing interfaces of the default routes.
    fn default_interfaces(&self) -> BTreeSet<String> {
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
        v4.chain(v6).filter(|name| name != "lo").collect()
    }

    fn add_interface(&mut self, name: String) {
        let what = Use::DefaultRoute { interface: name.clone() };
        let mut todo = vec![name];
        while let Some(name) = todo.pop() {
            let directory = format!("/sys/class/net/{name}");
            let is_new = self.seen.len() < 2 * MOST && self.seen.insert(name);
            if is_new && self.root.lookup(&directory).is_there() {
                todo.extend(self.add_one_interface(&directory, &what));
            }
        }
    }

    /// Adds the drivers of one interface, and returns the interfaces below it.
    fn add_one_interface(&mut self, directory: &str, what: &Use) -> Vec<String> {
        self.add_drivers(&format!("{directory}/device"), what);
        // A tunnel has no device; its type names its module.
        let uevent = text(self.root, &format!("{directory}/uevent"));
        if let Some(kind) = uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")) {
            self.add(kind, what, Some(format!("rtnl-link-{kind}")));
        }
        let below = listed(self.root, directory);
        below.iter().filter_map(|name| name.strip_prefix("lower_")).map(str::to_owned).collect()
    }

    fn displays(&mut self) {
        const WHAT: &Use = &Use::Display;
        const CARDS: &str = "/sys/class/drm";
        for connector in listed(self.root, CARDS) {
            let Some((card, _)) = connector.split_once('-') else { continue };
            let says = |file: &str| word(self.root, &format!("{CARDS}/{connector}/{file}"));
            if says("status").as_deref() == Some("connected") && says("enabled").as_deref() == Some("enabled")
            {
                self.add_drivers(&format!("{CARDS}/{card}/device"), WHAT);
            }
        }
        // A driver without mode setting has no connectors. The card that the firmware used drives the display
        // then.
        const PCI: &str = "/sys/bus/pci/devices";
        for device in listed(self.root, PCI) {
            if word(self.root, &format!("{PCI}/{device}/boot_vga")).as_deref() == Some("1") {
                self.add_drivers(&format!("{PCI}/{device}"), WHAT);
            }
        }
    }
}

/// The modules that serve a filesystem type: the module of the same name, and those with an alias in
/// `modules.alias`.
fn filesystem_modules(aliases: &[(String, String)], kind: &str) -> BTreeSet<String> {
    let named = aliases.iter().filter(|(of, _)| of == kind).map(|(_, module)| module.clone());
    named.chain([kernel_name(kind)]).collect()
}

/// The types and modules of all `alias fs-TYPE MODULE` lines. Searching for them is faster than parsing the
/// large file.
fn filesystem_aliases(text: &[u8]) -> Vec<(String, String)> {
    const START: &[u8] = b"\nalias fs-";
    let alias = |at: usize| {
        let rest = &text[at + START.len()..];
        let line = String::from_utf8_lossy(&rest[..memchr::memchr(b'\n', rest).unwrap_or(rest.len())]);
        line.split_once(' ').map(|(kind, module)| (kind.to_owned(), kernel_name(module.trim())))
    };
    memchr::memmem::find_iter(text, START).filter_map(alias).collect()
}

/// A field of a file in `/proc` or of fstab.
fn unescaped(field: &str) -> String {
    String::from_utf8_lossy(&mount::unescaped(field.as_bytes())).into_owned()
}

/// Propagates the dependents of a module to the modules that it depends on. `holders` lists the holders of
/// each module.
fn spread(depended_on: &mut BTreeMap<String, Dependents>, holders: &BTreeMap<String, Vec<String>>) {
    loop {
        let more: Vec<(String, Dependents)> = holders
            .iter()
            .filter(|(module, _)| !depended_on.contains_key(*module))
            .filter_map(|(module, by)| {
                let found = by.iter().find_map(|holder| depended_on.get(holder))?;
                let (reason, uses) = (found.reason.clone(), found.uses.clone());
                Some((
                    module.clone(),
                    Dependents { reason, uses, aliases: BTreeSet::new(), through_modules: true },
                ))
            })
            .collect();
        if more.is_empty() {
            return;
        }
        depended_on.extend(more);
    }
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

    #[test]
    fn what_a_critical_module_is_built_upon_is_critical() {
        let root = Dependents { reason: "backs / (c)".to_owned(), ..Dependents::default() };
        let mut hangs_on = BTreeMap::from([("c".to_owned(), root)]);
        let holders = BTreeMap::from([
            ("a".to_owned(), vec!["b".to_owned()]),
            ("b".to_owned(), vec!["c".to_owned()]),
            ("x".to_owned(), vec!["a".to_owned(), "y".to_owned()]),
            ("z".to_owned(), Vec::new()),
        ]);
        spread(&mut hangs_on, &holders);
        assert_eq!(hangs_on.keys().collect::<Vec<_>>(), ["a", "b", "c", "x"]);
    }
}
