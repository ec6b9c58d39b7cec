//! Conditions that clr-boot-manager does not check, and that must hold before it is run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};

use super::entries::{ENTRIES, LOADER};
use super::files::BOOT;
use super::menu::EntryPlace;
use super::{blocking_files, initrds, partition};
use crate::kernel::inventory::{IMAGES, Installed, There};
use crate::kernel::{Inventory, KernelName};
use crate::sys::{FileError, FileKind, Root, efi, mount};

/// The space for the entries, `loader.conf` and the files of the boot loader.
const FOR_ENTRIES: u64 = 1 << 20;
/// The suffix of a file that clr-boot-manager has not finished writing.
pub(super) const HALF_WRITTEN: &str = ".TmpWrite";

/// Makes sure that `clr-boot-manager update` can be run. Empty files, which crash it, get the suffix
/// `.empty`. Returns a sentence for each repair. Nothing is repaired if it must not be run.
///
/// # Errors
///
/// Why it must not be run, with the next step. A condition that cannot be determined does not prevent it.
pub fn prepare(root: &Root, inventory: &Inventory) -> Result<Vec<String>> {
    let kernels = to_install(inventory, root.is_live());
    see_to(root, Some(Copied { inventory, kernels: &kernels }))
}

/// The same for an update that copies only these kernels.
///
/// # Errors
///
/// As [`prepare`].
pub fn prepare_for(root: &Root, inventory: &Inventory, kernels: &[&Installed]) -> Result<Vec<String>> {
    see_to(root, Some(Copied { inventory, kernels }))
}

/// The same for a command that copies no kernel, such as `set-kernel`. Free space is not checked.
///
/// # Errors
///
/// As [`prepare`].
pub fn repair(root: &Root) -> Result<Vec<String>> {
    see_to(root, None)
}

/// The kernels that are copied.
#[derive(Clone, Copy)]
struct Copied<'a> {
    inventory: &'a Inventory,
    kernels: &'a [&'a Installed],
}

fn see_to(root: &Root, to_copy: Option<Copied<'_>>) -> Result<Vec<String>> {
    if let Some(why) = super::unprivileged(root) {
        bail!(why);
    }
    let enough_room = |place: &EntryPlace| to_copy.map_or(Ok(()), |copied| enough_room(place, root, copied));
    let where_it_is = |place: &EntryPlace| {
        refuse_blocking(place)?;
        enough_room(place)?;
        move_away(place, &empty_files(place))
    };
    let Some((device, firmware)) = separate_partition(root)? else {
        return where_it_is(&EntryPlace::in_boot(root));
    };
    let on = |path: &str| root.lookup(path).stat().map(|s| s.on);
    // Listing the directory triggers an automount.
    let in_boot = root.list_optional(BOOT)?;
    if firmware && !in_boot.is_empty() && on(BOOT) == on("/") {
        let names: Vec<_> = in_boot.iter().map(|file| file.name.to_string_lossy()).collect();
        bail!(stray(&device, &names));
    }
    let opened = match partition::open(root, device) {
        Ok(opened) => opened,
        Err(e) => {
            tracing::warn!(
                "whether clr-boot-manager can write to the boot partition cannot be determined: {e}"
            );
            return Ok(Vec::new());
        }
    };
    let place = opened.place();
    let Some(device) = &opened.device else { return where_it_is(&place) };
    refuse_blocking(&place)?;
    enough_room(&place)?;
    let empty = empty_files(&place);
    if empty.is_empty() {
        return Ok(Vec::new());
    }
    let display: Vec<String> = empty.iter().map(|path| place.shown_path(path)).collect();
    // The kernel does not allow writing while the device is mounted read-only.
    drop(opened.root);
    let root = mount::open_for_writing(root, device).map_err(|e| stuck(&display.join(", "), &e))?;
    move_away(&EntryPlace { root: &root, top: "", device: Some(device) }, &empty)
}

/// The device of the boot partition, and whether UEFI firmware reads it. None if the boot files are in /boot:
/// without a boot partition, or with the root filesystem on it.
fn separate_partition(root: &Root) -> Result<Option<(PathBuf, bool)>> {
    if !root.is_live() {
        return Ok(None);
    }
    let firmware = efi::has_firmware(root)?;
    let device = match partition::find(root, firmware) {
        Ok(device) => device,
        Err(e @ partition::Lost::Unreadable(_)) => return Err(e.into()),
        Err(partition::Lost::Unnamed(_) | partition::Lost::Closed(_)) => return Ok(None),
    };
    // A device that cannot be looked at cannot be opened either.
    let number = root.lookup(&device).stat().map(|s| s.stands_for);
    Ok((number != root.lookup("/").stat().map(|s| s.on)).then_some((device, firmware)))
}

/// Refuses if clr-boot-manager would block on a file of the boot partition.
fn refuse_blocking(place: &EntryPlace) -> Result<()> {
    match blocking_files::on_partition(place) {
        Some(path) => bail!(super::not_regular(&place.shown_path(&path))),
        None => Ok(()),
    }
}

fn stuck(what: &str, error: &FileError) -> Error {
    anyhow!("empty files crash clr-boot-manager, and cannot be renamed ({error}); delete {what}")
}

fn stray(device: &Path, names: &[impl AsRef<str>]) -> String {
    let mut some: Vec<&str> = names.iter().take(3).map(AsRef::as_ref).collect();
    if names.len() > some.len() {
        some.push("…");
    }
    let device = device.display();
    format!(
        "/boot is not empty ({}) while the boot partition {device} is not mounted there: clr-boot-manager would write \
         everything to the root filesystem, where the firmware does not look; move these files out of /boot, then run \
         `clr-boot-manager update`",
        some.join(", ")
    )
}

/// The empty files that crash clr-boot-manager, relative to the top of the boot partition.
fn empty_files(place: &EntryPlace) -> Vec<String> {
    let (directory, configuration) = LOADER.rsplit_once('/').unwrap_or_default();
    let is_empty = |path: &String| {
        // What cannot be looked at is reported when the boot files are read.
        place.root.lookup(place.path(path)).stat().is_some_and(|s| s.kind == FileKind::File && s.size == 0)
    };
    // A directory that cannot be listed is reported when the boot files are read.
    let named = |directory: &str, matches: &dyn Fn(&str) -> bool| -> Vec<String> {
        let listed = place.list(directory).unwrap_or_default();
        let names =
            listed.iter().filter_map(|file| file.text()).filter(|name| matches(&name.to_ascii_lowercase()));
        names.map(|name| format!("{directory}/{name}")).filter(is_empty).collect()
    };
    let mut empty = named(ENTRIES, &|name| name.ends_with(".conf"));
    empty.extend(named(directory, &|name| name == configuration));
    empty
}

fn move_away(place: &EntryPlace, empty: &[String]) -> Result<Vec<String>> {
    let mut repaired = Vec::new();
    for path in empty {
        let fail = |e: FileError| stuck(&place.shown_path(path), &e);
        let Some((directory, name)) = path.rsplit_once('/') else { continue };
        let new = format!("{name}.empty");
        if place.root.rename(place.path(path), &new).map_err(fail)? {
            place.root.sync(place.path(directory)).map_err(fail)?;
            repaired.push(format!(
                "{} was empty, which crashes clr-boot-manager; it was renamed to {new}",
                place.shown_path(path)
            ));
        }
    }
    Ok(repaired)
}

/// The kernels that `clr-boot-manager update` installs. For an image these are all kernels. In native mode
/// they are the running kernel and, of each type, the tip and the newest kernel that was booted.
fn to_install(inventory: &Inventory, native: bool) -> Vec<&Installed> {
    let kernels = &inventory.kernels;
    let last_good = |kernel: &Installed| {
        let good = |k: &&Installed| k.name.variant == kernel.name.variant && k.booted == There::Yes;
        kernels.iter().find(good).is_some_and(|good| good.name == kernel.name)
    };
    kernels.iter().filter(|k| !native || k.running || k.tip || last_good(k)).collect()
}

/// The files that it wants on the boot partition: their names there, and their sizes in bytes.
fn wanted(root: &Root, kernels: &[&Installed]) -> BTreeMap<String, u64> {
    let native = root.is_live();
    // This is an estimate. What has no size cannot be copied.
    let size = |path: String| root.lookup(path).stat().filter(|s| s.kind == FileKind::File).map(|s| s.size);
    let mut files = BTreeMap::new();
    for kernel in kernels {
        let copies = kernel.copies.iter().filter(|_| !native);
        for image in copies.chain([&kernel.image]) {
            files.extend(size(format!("{IMAGES}/{image}")).map(|size| (format!("kernel-{image}"), size)));
        }
        // What cannot be listed cannot be copied either. This also applies below.
        let own = initrds::of_kernel(root, &kernel.id).unwrap_or_default();
        files.extend(own.into_iter().filter_map(|(name, path)| Some((name, size(path)?))));
    }
    // As above.
    for (name, origin) in initrds::freestanding(root).unwrap_or_default() {
        files.extend(origin.and_then(size).map(|size| (format!("freestanding-{name}"), size)));
    }
    files
}

/// The most bytes that are used at any moment while files are replaced in some order. `files` are the new
/// sizes, and the sizes of existing files of the same name. Each file is copied to a temporary name before
/// the old one is deleted.
fn most_at_once(files: &[(u64, Option<u64>)]) -> u64 {
    let altered = || files.iter().filter(|(new, old)| *old != Some(*new));
    let growth: u64 = altered().map(|(new, old)| new.saturating_sub(old.unwrap_or(0))).sum();
    growth + altered().map(|(new, old)| *new.min(&old.unwrap_or(0))).max().unwrap_or(0)
}

/// Refuses if the new files do not fit.
fn enough_room(place: &EntryPlace, root: &Root, copied: Copied<'_>) -> Result<()> {
    let inventory = copied.inventory;
    let free = match place.root.free_space_for_root(place.path("")) {
        Ok(free) => free,
        // Without the directory, free space cannot be determined; clr-boot-manager creates it.
        Err(e) if e.is_absent() => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let directory = format!("EFI/{}", inventory.namespace);
    // Without a size it counts as new.
    let there = |path: String| place.root.lookup(place.path(&path)).stat().map(|s| s.size);
    let wanted = wanted(root, copied.kernels);
    let files: Vec<_> = wanted
        .iter()
        .map(|(name, size)| {
            // Without UEFI firmware the files are at the top, and the name of a kernel is its id.
            let at_top = name.strip_prefix("kernel-").unwrap_or(name).to_owned();
            (*size, there(format!("{directory}/{name}")).or_else(|| there(at_top)))
        })
        .collect();
    let needed = match most_at_once(&files) {
        0 => return Ok(()),
        bytes => bytes + FOR_ENTRIES,
    };
    if needed <= free {
        return Ok(());
    }
    bail!(too_little(&place.name(), needed, free, "the kernels", &spare_files(place, inventory, &wanted)))
}

/// The files in the directory of the kernels that are neither wanted nor needed.
fn spare_files(place: &EntryPlace, inventory: &Inventory, wanted: &BTreeMap<String, u64>) -> Vec<String> {
    let directory = format!("EFI/{}", inventory.namespace);
    // A directory that cannot be listed has no file to suggest for removal.
    let listed = place.list(&directory).unwrap_or_default();
    let names = listed.iter().filter_map(|file| file.text());
    let spare = names.filter(|name| !wanted.contains_key(*name) && is_spare(name, inventory));
    spare.map(|name| format!("{directory}/{name}")).collect()
}

/// Why the next kernel of an update will not fit on the boot partition: it is taken to be as large as the
/// largest of the kernels that boot by default. None if it fits, or if that cannot be determined.
pub fn no_room_for_another(root: &Root, inventory: &Inventory) -> Option<String> {
    // A warning is not worth a failure: the update itself reports what cannot be read.
    match separate_partition(root).ok()? {
        Some((device, _)) => too_full(&partition::open(root, device).ok()?.place(), root, inventory),
        None => too_full(&EntryPlace::in_boot(root), root, inventory),
    }
}

fn too_full(place: &EntryPlace, root: &Root, inventory: &Inventory) -> Option<String> {
    // As above.
    let free = place.root.free_space_for_root(place.path("")).ok()?;
    let shared: u64 = wanted(root, &[]).values().sum();
    let own = |kernel: &&Installed| wanted(root, &[*kernel]).values().sum::<u64>().saturating_sub(shared);
    let largest = inventory.tips().iter().map(own).max().filter(|bytes| *bytes > 0)?;
    let needed = largest + FOR_ENTRIES;
    let everything = || wanted(root, &inventory.kernels.iter().collect::<Vec<_>>());
    (needed > free).then(|| {
        let spare = spare_files(place, inventory, &everything());
        too_little(&place.name(), needed, free, "a new kernel", &spare)
    })
}

/// Whether a file in the directory of the kernels is no longer needed.
fn is_spare(name: &str, inventory: &Inventory) -> bool {
    if name.ends_with(HALF_WRITTEN) {
        return true;
    }
    let id = name.strip_prefix("kernel-").or_else(|| name.strip_prefix("initrd-")).unwrap_or_default();
    KernelName::from_id(id, &inventory.namespace).is_some_and(|(name, _)| {
        !inventory.runs(&name.release()) && !inventory.kernels.iter().any(|kernel| kernel.name == name)
    })
}

fn too_little(place: &str, needed: u64, free: u64, what: &str, spare: &[String]) -> String {
    let clear = match spare {
        [] => "free some space, for example by removing a kernel of another variant (`sudo swupd bundle-remove`)"
            .to_owned(),
        files => format!("remove files of kernels that are no longer installed: {}", files.join(", ")),
    };
    format!(
        "the boot partition {place} has {} MiB free, and clr-boot-manager needs {} MiB to write {what}; {clear}",
        free >> 20,
        needed.div_ceil(1 << 20)
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::RootKind;
    use proptest::prelude::*;

    #[test]
    fn room_for_replacing_files() {
        for (files, most) in [
            (&[][..], 0),
            (&[(45, Some(45))], 0),
            (&[(45, None), (7, None)], 52),
            // Both exist for a moment.
            (&[(45, Some(44))], 45),
            (&[(40, Some(45))], 40),
            // They are replaced one after the other, so never more than one exists twice.
            (&[(45, Some(44)), (45, Some(44))], 46),
            (&[(45, Some(0))], 45),
        ] {
            assert_eq!(most_at_once(files), most, "{files:?}");
        }
    }

    proptest! {
        /// It is enough for any order of replacement. If no file shrinks, some order needs all of it.
        #[test]
        fn replacing_in_any_order(
            files in proptest::collection::vec((0u64..50, proptest::option::of(0u64..50)), 0..6)
                .prop_flat_map(|files| Just(files).prop_shuffle())
        ) {
            let (mut used, mut peak) = (0i128, 0i128);
            for (new, old) in files.iter().filter(|(new, old)| *old != Some(*new)) {
                peak = peak.max(used + i128::from(*new));
                used += i128::from(*new) - i128::from(old.unwrap_or(0));
            }
            let most = i128::from(most_at_once(&files));
            prop_assert!(peak <= most, "{} > {}", peak, most);
            prop_assert!(most <= files.iter().map(|(new, _)| i128::from(*new)).sum::<i128>());
        }
    }

    #[test]
    fn kernels_that_will_be_installed() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::LiveCopy, directory.path()).unwrap();
        let put = |path: String| _ = root.write(path, b"x", 0o644).unwrap();
        put("/proc/sys/kernel/osrelease".to_owned());
        for (kernel, release) in [
            ("native.6.1.1-1", "6.1.1-1.native"),
            ("native.6.1.2-2", "6.1.2-2.native"),
            ("native.6.1.3-3", "6.1.3-3.native"),
            ("native.6.1.4-4", "6.1.4-4.native"),
            ("lts.6.0.1-5", "6.0.1-5.lts"),
            ("lts.6.0.2-6", "6.0.2-6.lts"),
        ] {
            put(format!("{IMAGES}/org.clearlinux.{kernel}"));
            put(format!("{IMAGES}/cmdline-{release}"));
        }
        for mark in ["6.1.1-1.native", "6.1.2-2.native"] {
            put(format!("/var/lib/kernel/k_booted_{mark}"));
        }
        let numbers = |native: bool| -> Vec<i32> {
            let inventory = Inventory::observe(&root);
            to_install(&inventory, native).iter().map(|k| k.name.number).collect()
        };
        assert_eq!(numbers(false), [6, 5, 4, 3, 2, 1]);
        // The running kernel cannot be determined: each tip and the newest booted kernel.
        assert_eq!(numbers(true), [6, 4, 2]);
        root.write("/proc/sys/kernel/osrelease", b"6.1.1-1.native\n", 0o644).unwrap();
        assert_eq!(numbers(true), [6, 4, 2, 1]);
    }

    #[test]
    fn what_a_refusal_says() {
        let said = stray(Path::new("/dev/sda1"), &["a", "b", "c", "d"]);
        assert!(
            said.contains("(a, b, c, …)") && said.contains("partition /dev/sda1 is not mounted"),
            "{said}"
        );
        assert!(stray(Path::new("/dev/sda1"), &["a"]).contains("(a)"));
        let said = too_little("/dev/sda1", (45 << 20) + 1, (3 << 20) - 1, "the kernels", &[]);
        assert!(said.contains("/dev/sda1 has 2 MiB free") && said.contains("needs 46 MiB"), "{said}");
    }
}
