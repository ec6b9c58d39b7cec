//! The contents of the boot partition: entries, the default, and their faults.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::counters::without_counters;
use super::entries::{self, Variables};
use super::menu::{BootEntry, DefaultEntry, EntryPlace, Loader, Menu, MenuFault};
use super::partition::{self, Lost};
use super::{grub, syslinux};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Inventory, KernelName};
use crate::sys::{FileError, Root, RootKind, efi, mount};

/// The mount point of the boot partition, or the directory of its files if there is no partition.
pub(super) const BOOT: &str = "/boot";

/// The result of comparing the entries with what they should be.
#[derive(Debug, Clone, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum ReadBack {
    /// Each kernel that should have an entry has one, with its effective command line.
    Verified,
    /// Entries are missing or differ.
    Differs(Vec<MenuFault>),
    /// It is unknown: no entries are visible, or a command line is not known.
    NotVisible,
}

/// The boot entry that a kernel should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedEntry {
    /// The kernel id.
    pub id: String,
    /// The effective command line; none if a file that it is made from could not be read.
    pub line: Option<Vec<u8>>,
}

impl ReadBack {
    /// The word for the record.
    pub fn word(&self) -> &'static str {
        self.into()
    }
}

#[derive(Debug, Default)]
pub struct BootFiles {
    /// The boot loader that the files belong to. None if no files are visible.
    pub loader: Option<Loader>,
    /// Where the files are: the directory on the host, or the device.
    pub place: String,
    /// The entries, including those of other systems.
    pub entries: Vec<BootEntry>,
    /// The entry that boots next. None if it cannot be determined.
    pub default: Option<DefaultEntry>,
    /// What `loader.conf` makes the default, whatever the EFI variables say. None if that is not an entry, or
    /// with another boot loader.
    pub configured: Option<DefaultEntry>,
    /// What the EFI variable `LoaderEntryDefault` chooses for every boot, whatever `loader.conf` says. The id
    /// is None if only the boot loader knows which entry that is. None if the boot loader ignores it.
    pub persistent: Option<DefaultEntry>,
    /// The freestanding initrds of clr-boot-manager, without the prefix `freestanding-`.
    pub freestanding: BTreeSet<String>,
    /// Faults and unusual facts.
    pub problems: Vec<MenuFault>,
    /// Why no files are visible, with the next step.
    pub invisible: Option<String>,
    /// Entries that could not be read.
    pub unread: Vec<UnreadEntry>,
}

/// An entry that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadEntry {
    /// The name of its file.
    pub file: String,
    /// The release of the installed kernel whose entry has this name.
    pub release: Option<String>,
}

impl BootFiles {
    /// Observes the boot files for the kernels of a root. Without a kernel nothing is observed. On a live
    /// system, root reads the boot partition even if it is not mounted, without mounting it in the system's
    /// namespace.
    pub fn observe(root: &Root, inventory: &Inventory) -> BootFiles {
        if inventory.kernels.is_empty() {
            return BootFiles::default();
        }
        let firmware = match root.kind() {
            // The firmware of the surrounding machine does not matter for an image.
            RootKind::Image => None,
            // A failed read is in `Root::unread`.
            RootKind::Live | RootKind::LiveCopy => efi::has_firmware(root).ok(),
        };
        let here = EntryPlace::in_boot(root);
        match loader_at(&here, firmware) {
            Ok(Some(loader)) => {
                let mut files = seen(&here, root, loader, firmware, inventory);
                if let (true, Some(true)) = (root.is_live(), firmware) {
                    files.problems.extend(misplaced(root));
                }
                files
            }
            Ok(None) if root.is_live() => elsewhere(root, firmware == Some(true), inventory),
            Ok(None) => hidden(format!("there is no boot entry below {}", root.shown_path(BOOT).display())),
            Err(e) => hidden(e.to_string()),
        }
    }

    /// The entry of a kernel. If there are several, the one that boots next, or the one with the name that
    /// clr-boot-manager uses.
    pub fn of(&self, id: &str) -> Option<&BootEntry> {
        let mine = || self.entries.iter().filter(|e| e.id.as_deref() == Some(id));
        let default = self.default.as_ref().map(|d| d.entry.as_str());
        let usual = usual_ending(id);
        mine()
            .find(|e| default == Some(&e.file))
            .or_else(|| {
                mine().find(|e| !e.copy && usual.as_deref().is_some_and(|usual| e.file.ends_with(usual)))
            })
            .or_else(|| mine().find(|e| !e.copy))
            .or_else(|| mine().next())
    }

    /// Whether a kernel has an entry whose files are there, as far as that is known.
    pub fn has_whole_entry(&self, id: &str) -> bool {
        self.of(id).is_some_and(|entry| entry.lost.is_none())
    }

    /// Compares the entries with those that are expected.
    pub fn read_back(&self, expected: &[ExpectedEntry]) -> ReadBack {
        if self.loader.is_none() {
            return ReadBack::NotVisible;
        }
        let mut wrong: Vec<MenuFault> = self.problems.iter().filter(|p| p.breaks).cloned().collect();
        if expected.iter().any(|kernel| self.of(&kernel.id).is_none() && self.is_unread(&kernel.id)) {
            return ReadBack::NotVisible;
        }
        wrong.extend(expected.iter().filter_map(|kernel| self.differs(kernel)));
        match wrong.is_empty() {
            false => ReadBack::Differs(wrong),
            true if expected.iter().any(|kernel| kernel.line.is_none()) => ReadBack::NotVisible,
            true => ReadBack::Verified,
        }
    }

    /// How the entry of a kernel is known to differ from the expected one, or why it does not boot. None if
    /// it is as expected, or if that is unknown.
    pub fn differs(&self, expected: &ExpectedEntry) -> Option<MenuFault> {
        let ExpectedEntry { id, line } = expected;
        let Some(entry) = self.of(id) else {
            return Some(MenuFault::breaks(format!("there is no boot entry for {id}"), None));
        };
        if let Some(lost) = &entry.lost {
            let what = format!("the boot entry {} names {lost}, which is not there, or empty", entry.file);
            return Some(MenuFault::breaks(what, None));
        }
        let line = line.as_ref()?;
        if is_made_of(&entry.options, line) {
            return None;
        }
        // clr-boot-manager's script for grub-mkconfig puts the line inside of double quotes.
        let is_quoted = self.loader == Some(Loader::Grub) && line.iter().any(|b| b"\"$`\\".contains(b));
        let (why, clear) = match is_quoted {
            true => (
                ", because grub-mkconfig puts it through a shell",
                Some("configure it without \" $ ` and \\"),
            ),
            false => ("", None),
        };
        let what = format!("the boot entry {} has another command line than configured{why}", entry.file);
        Some(MenuFault::breaks(what, clear))
    }

    /// An entry with the usual name for this kernel exists, and could not be read.
    fn is_unread(&self, id: &str) -> bool {
        let usual = usual_ending(id);
        let is_it = |entry: &UnreadEntry, usual: &str| without_counters(&entry.file).ends_with(usual);
        usual.is_some_and(|usual| self.unread.iter().any(|entry| is_it(entry, &usual)))
    }

    /// Unusual facts that endanger nothing.
    pub fn oddities(&self) -> impl Iterator<Item = &MenuFault> {
        self.problems.iter().filter(|p| !p.breaks)
    }
}

/// The end of the name of systemd-boot's entry for a kernel id. It is preceded by a vendor name that is
/// compiled into clr-boot-manager.
pub fn usual_ending(id: &str) -> Option<String> {
    let (name, _) = KernelName::from_any_id(id)?;
    Some(format!("-{}-{}-{}.conf", name.variant, name.version, name.compared_number()))
}

fn hidden(why: String) -> BootFiles {
    BootFiles { invisible: Some(why), ..BootFiles::default() }
}

/// The boot loader whose files are at a place, by the rules of clr-boot-manager. With UEFI firmware it writes
/// only files of systemd-boot, without it those of syslinux or GRUB. For an image it uses systemd-boot unless
/// it finds a legacy boot partition.
fn loader_at(place: &EntryPlace, firmware: Option<bool>) -> Result<Option<Loader>, FileError> {
    let systemd_boot = place.has(entries::ENTRIES)? || place.has(entries::LOADER)?;
    if firmware == Some(true) || (firmware.is_none() && systemd_boot) {
        return Ok(systemd_boot.then_some(Loader::SystemdBoot));
    }
    Ok(match (place.has(syslinux::CONFIGURATION)?, place.has(grub::CONFIGURATION)?) {
        (true, true) => Some(legacy_loader(place)),
        (true, false) => Some(Loader::Syslinux),
        (false, true) => Some(Loader::Grub),
        // They may have been written for a machine with firmware.
        (false, false) => systemd_boot.then_some(Loader::SystemdBoot),
    })
}

/// If both have files, the one whose file was written last. clr-boot-manager uses GRUB if grub-mkconfig is
/// installed and no partition is marked as a legacy boot partition. It does not delete the files of the other
/// loader.
fn legacy_loader(place: &EntryPlace) -> Loader {
    // A time that cannot be read is in `Root::unread`. The order does not matter then.
    let written = |path: &str| place.root.lookup(place.path(path)).stat().map(|s| s.mtime_ns);
    if written(grub::CONFIGURATION) > written(syslinux::CONFIGURATION) {
        Loader::Grub
    } else {
        Loader::Syslinux
    }
}

/// Reads the files at a place. `root` is the system that they belong to.
fn seen(
    place: &EntryPlace,
    root: &Root,
    loader: Loader,
    firmware: Option<bool>,
    inventory: &Inventory,
) -> BootFiles {
    let namespace = &inventory.namespace;
    let mut unknown = None;
    let menu = match loader {
        Loader::SystemdBoot => {
            let variables = match firmware {
                Some(true) if !efi::shows_variables(root) => {
                    let what =
                        "the EFI variables are not visible here, so the default that they select is unknown";
                    unknown = Some(MenuFault::odd(what.to_owned(), None));
                    None
                }
                Some(true) => match Variables::read(root) {
                    Ok(variables) => Some(variables),
                    // One of the entries may name another default.
                    Err(e) => return hidden(e.to_string()),
                },
                _ => None,
            };
            entries::read(place, namespace, variables.as_ref())
        }
        Loader::Syslinux => syslinux::read(place, namespace),
        Loader::Grub => grub::read(place, namespace),
    };
    let mut menu = match menu {
        Ok(menu) => menu,
        Err(e) => return hidden(e.to_string()),
    };
    menu.problems.extend(unknown);
    judge(&mut menu, loader, root, inventory);
    let release_of = |file: &str| {
        let file = without_counters(file);
        let is_it = |id: &str| usual_ending(id).is_some_and(|usual| file.ends_with(&usual));
        inventory.kernels.iter().find(|k| is_it(&k.id)).map(|k| k.name.release())
    };
    let unread = menu.unread.into_iter();
    BootFiles {
        loader: Some(loader),
        place: place.name(),
        entries: menu.entries,
        default: menu.default,
        configured: menu.configured,
        persistent: menu.persistent,
        freestanding: freestanding(place, loader, namespace),
        problems: menu.problems,
        invisible: None,
        unread: unread.map(|file| UnreadEntry { release: release_of(&file), file }).collect(),
    }
}

/// Only systemd-boot has a directory for them. For the other loaders clr-boot-manager puts them at the top of
/// the partition.
fn freestanding(place: &EntryPlace, loader: Loader, namespace: &str) -> BTreeSet<String> {
    let directory = match loader {
        Loader::SystemdBoot => format!("EFI/{namespace}"),
        Loader::Syslinux | Loader::Grub => String::new(),
    };
    // clr-boot-manager lists the directory before it deletes files, so it cannot delete them either.
    let listed = place.list(&directory).unwrap_or_default();
    let names = listed.iter().filter_map(|file| file.text()?.strip_prefix("freestanding-"));
    names.map(str::to_owned).collect()
}

/// The device with the boot files of a root. None if they are in `/boot`.
fn device(root: &Root) -> anyhow::Result<Option<PathBuf>> {
    if !root.is_live() {
        return Ok(None);
    }
    let firmware = efi::has_firmware(root)?;
    match loader_at(&EntryPlace::in_boot(root), Some(firmware))? {
        Some(_) => Ok(None),
        None => Ok(Some(partition::find(root, firmware)?)),
    }
}

/// Reads the boot partition of a root, wherever [`BootFiles::observe`] finds it.
///
/// # Errors
///
/// If it cannot be found or read.
pub(super) fn look_into<T>(root: &Root, look: impl FnOnce(&EntryPlace) -> T) -> anyhow::Result<T> {
    let Some(device) = device(root)? else { return Ok(look(&EntryPlace::in_boot(root))) };
    Ok(look(&partition::open(root, device)?.place()))
}

/// As [`look_into`], for writing. On return all data is on the device.
///
/// # Errors
///
/// If it cannot be found or written to.
pub(super) fn write_into<T>(root: &Root, write: impl FnOnce(&EntryPlace) -> T) -> anyhow::Result<T> {
    let Some(device) = device(root)? else { return Ok(write(&EntryPlace::in_boot(root))) };
    if let Some(mounted) = mount::mounted(root, &device)? {
        return Ok(write(&EntryPlace { root: &mounted, top: "", device: None }));
    }
    let opened = mount::open_for_writing(root, &device)?;
    let done = write(&EntryPlace { root: &opened, top: "", device: Some(&device) });
    opened.sync("/")?;
    Ok(done)
}

/// The live system has no entries below `/boot`, because clr-boot-manager unmounts what it mounted.
fn elsewhere(live: &Root, firmware: bool, inventory: &Inventory) -> BootFiles {
    let opened = partition::find(live, firmware).and_then(|device| partition::open(live, device));
    let partition = match opened {
        Ok(partition) => partition,
        Err(closed @ Lost::Closed(_)) => return hidden(closed.to_string()),
        Err(lost) => return hidden(format!("the boot entries cannot be seen: {lost}")),
    };
    let place = partition.place();
    let files = match loader_at(&place, Some(firmware)) {
        Ok(loader) => {
            // A boot partition without files of a boot loader has no entries either.
            let usual = if firmware { Loader::SystemdBoot } else { Loader::Syslinux };
            seen(&place, live, loader.unwrap_or(usual), Some(firmware), inventory)
        }
        Err(e) => hidden(e.to_string()),
    };
    live.adopt_unread(&partition.root, BOOT);
    files
}

/// Entries below `/boot` that the firmware does not read. With any file in an unmounted `/boot`,
/// clr-boot-manager takes the system for one without a boot partition.
fn misplaced(live: &Root) -> Option<MenuFault> {
    // This is only a remark. Without the numbers it is left out.
    let on = |path: &str| live.lookup(path).stat().map(|s| s.on);
    let root = on("/")?;
    if on("/boot/loader")? != root {
        return None;
    }
    // If the partition cannot be determined, there may be none.
    let device = partition::find(live, true).ok()?;
    (live.lookup(&device).stat()?.stands_for != root).then(|| {
        let device = device.display();
        MenuFault::breaks(
            format!("the boot entries lie in /boot of the root filesystem, and the firmware reads {device}"),
            Some("move them out of /boot, then run `sudo clr-boot-manager update`"),
        )
    })
}

/// Finds faults of entries and default that do not depend on the boot loader.
fn judge(menu: &mut Menu, loader: Loader, root: &Root, inventory: &Inventory) {
    let is_default = |entry: &BootEntry| menu.default.as_ref().is_some_and(|d| d.entry == entry.file);
    let update = super::manager_command(root, "update");
    let mut problems = Vec::new();
    for (at, entry) in menu.entries.iter().enumerate() {
        let Some(id) = &entry.id else { continue };
        let same = |e: &&BootEntry| e.id.as_ref() == Some(id) && !e.copy;
        let Some(kernel) = inventory.kernels.iter().find(|k| k.id == *id) else {
            let clear = match loader {
                // Without its default entry the boot loader takes one by rules of its own.
                Loader::SystemdBoot if is_default(entry) => format!(
                    "make an installed kernel the boot default with `{}`, and delete the entry only then",
                    super::manager_command(root, "set-kernel KERNEL_ID")
                ),
                Loader::SystemdBoot => "delete the entry".to_owned(),
                Loader::Syslinux | Loader::Grub => format!("`{update}` writes the file again"),
            };
            let what = format!("the boot entry {} is of the kernel {id}, which is not installed", entry.file);
            problems.push(MenuFault { breaks: is_default(entry), ..MenuFault::odd(what, Some(&clear)) });
            continue;
        };
        if entry.copy {
            let only = kernel.tip && !menu.entries.iter().any(|e| same(&e));
            let image = entry.image.as_deref().unwrap_or_default();
            let what = format!("the boot entry {} boots {image}, a copy of {id}", entry.file);
            let clear =
                format!("move the copy out of {}, then run `{update}`", root.shown_path(IMAGES).display());
            // Where the copy is all there is, it is the kernel.
            let breaks = kernel.image != image && (is_default(entry) || only);
            problems.push(MenuFault { breaks, ..MenuFault::odd(what, Some(&clear)) });
        } else if menu.entries[..at].iter().filter(same).count() == 0 {
            let names: Vec<&str> = menu.entries.iter().filter(same).map(|e| e.file.as_str()).collect();
            if names.len() > 1 {
                let what = format!("the kernel {id} has {} boot entries: {}", names.len(), names.join(", "));
                problems.push(MenuFault::odd(what, None));
            }
        }
    }
    menu.problems.extend(problems);
    let Some(default) = menu.default.as_ref().filter(|d| !d.set_by.overrides()) else { return };
    let next = inventory.boot_default();
    let (what, is_other_default) = match (&default.id, next) {
        (None, _) => (
            format!("the boot default is {}, which is not a kernel of clr-boot-manager", default.entry),
            false,
        ),
        (Some(id), Some(next)) if *id != next.id => {
            let what = format!("the boot default is {id}, and clr-boot-manager update makes it {}", next.id);
            (what, true)
        }
        _ => return,
    };
    menu.problems.push(MenuFault { is_other_default, ..MenuFault::odd(what, None) });
}

/// Whether a word is a parameter that clr-boot-manager puts in front of a command line.
pub(super) fn is_added(word: &[u8]) -> bool {
    // The last two are from Solus.
    let added: [&[u8]; 4] = [b"root=", b"rd.luks.uuid=", b"rootflags=", b"rd.vconsole."];
    added.iter().any(|prefix| word.starts_with(prefix))
}

/// Whether the words of an entry are those of a command line, after words that clr-boot-manager adds.
fn is_made_of(options: &[u8], line: &[u8]) -> bool {
    let words = |text: &'_ [u8]| -> Vec<Vec<u8>> {
        text.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty()).map(<[u8]>::to_vec).collect()
    };
    let (is, should) = (words(options), words(line));
    let Some(front) = is.len().checked_sub(should.len()) else { return false };
    is[front..] == should && is[..front].iter().all(|word| word.starts_with(b"initrd=") || is_added(word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn words_that_compare() {
        let entry = b"root=PARTUUID=1 rootflags=a quiet  rw";
        assert!(is_made_of(entry, b"quiet rw ") && is_made_of(b"quiet rw", b"quiet rw"));
        // A configured word counts, even if clr-boot-manager adds a similar one.
        assert!(is_made_of(b"root=PARTUUID=1 quiet rootflags=b", b"quiet rootflags=b"));
        for other in [b"quiet rw more".as_slice(), b"quiet", b"rw", b"quiet rw rootflags=a", b"x quiet rw"] {
            assert!(!is_made_of(entry, other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn the_entry_of_a_kernel() {
        let id = "org.clearlinux.native.6.15.7-1591";
        let entry = |file: &str, image: &str| {
            BootEntry::new(file, Some(image.to_owned()), "org.clearlinux", Vec::new())
        };
        let mut files = BootFiles {
            loader: Some(Loader::SystemdBoot),
            entries: vec![
                entry("a.conf", &format!("{id}.bak")),
                entry("b.conf", id),
                entry("Clear-linux-native-6.15.7-1591.conf", id),
                entry("d.conf", "org.clearlinux.native.6.15.7-15912"),
            ],
            ..BootFiles::default()
        };
        let of = |files: &BootFiles, id: &str| files.of(id).map(|e| e.file.clone());
        assert_eq!(of(&files, id).as_deref(), Some("Clear-linux-native-6.15.7-1591.conf"));
        files.entries.remove(2);
        assert_eq!(of(&files, id).as_deref(), Some("b.conf"));
        files.entries.remove(1);
        assert_eq!(of(&files, id).as_deref(), Some("a.conf"));
        assert_eq!(of(&files, "org.clearlinux.native.6.15.7-1"), None);
        assert_eq!(of(&files, ""), None);
    }
}
