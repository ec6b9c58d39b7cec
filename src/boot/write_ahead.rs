//! Writes what clr-boot-manager is about to write, each file by a rename.
//!
//! clr-boot-manager deletes a file and then creates it. A power failure in between leaves the boot loader
//! without the entry that should boot, or without an initrd that every entry names. clr-boot-manager does not
//! touch a file that already has the right contents (observed with strace on 3.3.1). A wrong prediction is
//! harmless: the predicted entry is the previous one with new words and initrds, so it boots, and
//! clr-boot-manager replaces it as usual.
//!
//! Not covered are: two or more new freestanding initrds, because their order depends on the order of a
//! directory; an entry that clr-boot-manager did not write; `loader.conf` if an update makes a kernel the
//! default that has no entry yet. FAT has no journal: a rename consists of a few sector writes, without a
//! sync in between.

use std::collections::BTreeSet;

use super::entries::{ENTRIES, LOADER};
use super::files::{self, is_added, usual_ending};
use super::foresee::{UpdateInput, foresee};
use super::inputs::OS_RELEASE;
use super::menu::EntryPlace;
use super::{BootFiles, Loader, initrds};
use crate::cmdline::{CmdlineSources, effective};
use crate::kernel::inventory::IMAGES;
use crate::kernel::{Installed, Inventory};
use crate::sys::{FileError, Root, compare};

/// An initrd with this suffix is loaded before all others.
const MICROCODE: &str = "-ucode.cpio";

/// A file to write.
#[derive(Debug, PartialEq, Eq)]
enum Write {
    /// A copy of a file of the root filesystem. `to` is relative to the top of the boot partition.
    Copy { from: String, to: String },
    /// A text file.
    Text { path: String, text: Vec<u8> },
}

/// An entry whose text can be predicted.
#[derive(Debug)]
struct ForeseenEntry {
    id: String,
    file: String,
    text: Vec<u8>,
    is_changed: bool,
}

impl ForeseenEntry {
    fn write(&self) -> Write {
        Write::Text { path: format!("{ENTRIES}/{}", self.file), text: self.text.clone() }
    }
}

/// What can be predicted of an update: these entries, and the files that they name.
#[derive(Debug, Default)]
struct ForeseenFiles {
    files: Vec<Write>,
    entries: Vec<ForeseenEntry>,
}

/// Writes what a full update is about to write, as far as it can be predicted. Returns the paths relative to
/// the top of the boot partition.
///
/// # Errors
///
/// If something cannot be read or written. Each file then has either its old or its new contents.
pub fn before_update(root: &Root, inventory: &Inventory, boot: &BootFiles) -> anyhow::Result<Vec<String>> {
    let foreseen = foresee(&UpdateInput::observe(root, inventory, boot)?)?;
    let is_installed = |kernel: &&Installed| foreseen.installs.contains(&kernel.image);
    let kernels: Vec<&Installed> = inventory.kernels.iter().filter(is_installed).collect();
    let default = foreseen.default.first().filter(|_| foreseen.default.len() == 1);
    let default = kernels.iter().find(|kernel| Some(&kernel.image) == default);
    write_all(root, inventory, boot, &kernels, default.copied())
}

/// The same for an update of these kernels, which does not change the default.
///
/// # Errors
///
/// As [`before_update`].
pub fn before_update_of(
    root: &Root,
    inventory: &Inventory,
    boot: &BootFiles,
    kernels: &[&Installed],
) -> anyhow::Result<Vec<String>> {
    write_all(root, inventory, boot, kernels, None)
}

fn write_all(
    root: &Root,
    inventory: &Inventory,
    boot: &BootFiles,
    kernels: &[&Installed],
    default: Option<&Installed>,
) -> anyhow::Result<Vec<String>> {
    match boot.loader {
        Some(Loader::SystemdBoot) => {}
        Some(Loader::Syslinux | Loader::Grub) | None => return Ok(Vec::new()),
    }
    let planned = files::look_into(root, |place| -> Result<Vec<Write>, FileError> {
        let plan = plan(place, root, inventory, boot, kernels)?;
        let mut planned = plan.files;
        planned.extend(plan.entries.iter().filter(|entry| entry.is_changed).map(ForeseenEntry::write));
        // Only an entry that is complete before the update is complete at every moment.
        let entry = default.and_then(|kernel| plan.entries.iter().find(|entry| entry.id == kernel.id));
        if let (Some(entry), Some(text)) = (entry, place.read(LOADER)?) {
            let text = with_default(&text, &entry.file);
            planned.extend(text.map(|text| Write::Text { path: LOADER.to_owned(), text }));
        }
        Ok(planned)
    })?;
    write(root, &planned?)
}

/// Makes an entry the default in `loader.conf`, without other changes. Returns whether the file has changed.
///
/// # Errors
///
/// As [`before_update`].
pub fn before_new_default(root: &Root, entry: &str) -> anyhow::Result<bool> {
    let text = files::look_into(root, |place| place.read(LOADER))??;
    let Some(text) = text.and_then(|text| with_default(&text, entry)) else { return Ok(false) };
    write(root, &[Write::Text { path: LOADER.to_owned(), text }]).map(|written| !written.is_empty())
}

/// `loader.conf` with that default. None if it does not have exactly one default, or already has this one.
fn with_default(text: &[u8], entry: &str) -> Option<Vec<u8>> {
    let mut changed = Vec::new();
    let mut found = 0;
    for line in text.split_inclusive(|b| *b == b'\n') {
        match line.strip_prefix(b"default ") {
            Some(_) => {
                found += 1;
                changed.extend(format!("default {entry}\n").into_bytes());
            }
            None => changed.extend(line),
        }
    }
    (found == 1 && changed != text).then_some(changed)
}

/// Logs the result. After a failure clr-boot-manager writes the remaining files.
pub fn report(done: anyhow::Result<Vec<String>>) {
    match done {
        Ok(written) => {
            written.iter().for_each(|path| tracing::debug!("written ahead of clr-boot-manager: {path}"))
        }
        Err(why) => {
            tracing::warn!("some files could not be written ahead; clr-boot-manager writes them: {why}")
        }
    }
}

fn write(root: &Root, planned: &[Write]) -> anyhow::Result<Vec<String>> {
    if planned.is_empty() {
        return Ok(Vec::new());
    }
    Ok(files::write_into(root, |place| {
        let write = |write: &Write| -> Result<String, FileError> {
            let path = match write {
                Write::Copy { from, to } => {
                    place.root.replace_contents(place.path(to), &mut root.open_file(from)?)?;
                    to
                }
                Write::Text { path, text } => {
                    place.root.replace_contents(place.path(path), &mut text.as_slice())?;
                    path
                }
            };
            Ok(path.clone())
        };
        planned.iter().map(write).collect::<Result<Vec<String>, FileError>>()
    })??)
}

/// What clr-boot-manager will write, without files that are already equal.
fn plan(
    place: &EntryPlace,
    root: &Root,
    inventory: &Inventory,
    boot: &BootFiles,
    kernels: &[&Installed],
) -> Result<ForeseenFiles, FileError> {
    let directory = format!("EFI/{}", inventory.namespace);
    let mut files = Vec::new();
    let mut copy = |name: &str, from: &str, may_be_new: bool| -> Result<(), FileError> {
        let to = format!("{directory}/{name}");
        let is_there = place.has(&to)?;
        if (is_there && !is_copy(place, root, &to, from)?) || (!is_there && may_be_new) {
            files.push(Write::Copy { from: from.to_owned(), to });
        }
        Ok(())
    };
    // Without UEFI firmware the files are at the top, and their layout is not predicted.
    if !place.has(&directory)? {
        return Ok(ForeseenFiles::default());
    }
    let freestanding: Vec<(String, String)> = initrds::freestanding(root)?
        .into_iter()
        .filter_map(|(name, origin)| Some((format!("freestanding-{name}"), origin?)))
        .collect();
    for (name, from) in &freestanding {
        copy(name, from, true)?;
    }
    let title = title(root)?;
    let mut entries = Vec::new();
    for kernel in kernels {
        let Some(entry) = boot.of(&kernel.id).filter(|entry| !entry.copy) else { continue };
        let usual = usual_ending(&kernel.id).unwrap_or_default();
        if !entry.file.ends_with(&usual) || entry.image.as_ref() != Some(&kernel.image) {
            continue;
        }
        copy(&format!("kernel-{}", kernel.image), &format!("{IMAGES}/{}", kernel.image), false)?;
        let own = initrds::of_kernel(root, &kernel.id)?;
        for (name, from) in &own {
            copy(name, from, true)?;
        }
        let sources = CmdlineSources::observe(root, &kernel.name.release());
        let path = format!("{ENTRIES}/{}", entry.file);
        let Some(text) = place.read(&path)?.filter(|_| sources.unreadable.is_empty()) else { continue };
        let expected = ExpectedEntry {
            title: title.as_deref(),
            own: own.into_keys().collect(),
            freestanding: freestanding.iter().map(|(name, _)| name.clone()).collect(),
            line: effective(&sources),
        };
        entries.extend(expected.instead_of(&text).map(|new| ForeseenEntry {
            id: kernel.id.clone(),
            file: entry.file.clone(),
            is_changed: new != text,
            text: new,
        }));
    }
    Ok(ForeseenFiles { files, entries })
}

fn is_copy(place: &EntryPlace, root: &Root, to: &str, from: &str) -> Result<bool, FileError> {
    let (copy, source) = (place.root.open_file(place.path(to))?, root.open_file(from)?);
    // Files that cannot be compared are written again.
    Ok(compare::have_same_contents(copy, source).unwrap_or(false))
}

/// `PRETTY_NAME`, if it is a plain word or a plain quoted text.
fn title(root: &Root) -> Result<Option<Vec<u8>>, FileError> {
    for path in OS_RELEASE {
        let Some(text) = root.read_optional(path)? else { continue };
        let mut lines = text.split(|b| *b == b'\n').filter_map(|line| line.strip_prefix(b"PRETTY_NAME="));
        let (Some(value), None) = (lines.next(), lines.next()) else { return Ok(None) };
        let value = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        let is_plain = !value.is_empty() && !value.iter().any(|b| b"\"'\\$`".contains(b));
        return Ok(Some(value.to_vec()).filter(|value| is_plain && value.trim_ascii() == value));
    }
    Ok(None)
}

/// What the entry of a kernel consists of.
struct ExpectedEntry<'a> {
    /// None if only clr-boot-manager can determine it; the previous title is kept.
    title: Option<&'a [u8]>,
    /// The names of the kernel's own initrds on the boot partition, in order.
    own: Vec<String>,
    /// The names of the freestanding initrds.
    freestanding: BTreeSet<String>,
    line: Vec<u8>,
}

impl ExpectedEntry<'_> {
    /// The new text of an entry with this `text`. None if it cannot be predicted, or if clr-boot-manager did
    /// not write `text`.
    fn instead_of(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut lines = text.strip_suffix(b"\n")?.split(|b| *b == b'\n');
        let title = lines.next()?.strip_prefix(b"title ")?;
        let image = lines.next()?.strip_prefix(b"linux ")?;
        let directory = &image[..=image.iter().rposition(|b| *b == b'/')?];
        let (mut names, mut options) = (Vec::new(), None);
        for line in lines {
            match (line.strip_prefix(b"initrd "), line.strip_prefix(b"options "), &options) {
                (Some(initrd), _, None) => {
                    // An entry with another name was not written by clr-boot-manager: it is not completed.
                    let name = std::str::from_utf8(initrd.strip_prefix(directory)?).ok()?;
                    names.push(name.to_owned());
                }
                (_, Some(words), None) => options = Some(words),
                _ => return None,
            }
        }
        let mut new = [b"title ", self.title.unwrap_or(title), b"\nlinux ", image, b"\n"].concat();
        for name in self.initrds(&names)? {
            new.extend([b"initrd ", directory, name.as_bytes(), b"\n"].concat());
        }
        new.extend([b"options ", self.words_in_front(options?)?, &self.line, b"\n"].concat());
        Some(new)
    }

    /// The initrds in order: microcode, those of the kernel, then the freestanding ones. The order of the
    /// latter is known from the previous entry, or if there is at most one.
    fn initrds(&self, before: &[String]) -> Option<Vec<String>> {
        let mut early: Vec<&String> =
            self.freestanding.iter().filter(|name| name.ends_with(MICROCODE)).collect();
        if early.len() > 1 {
            early.retain(|name| before.first() == Some(name));
        }
        let is_other = |name: &&String| !early.contains(name) && !self.own.contains(name);
        let others: BTreeSet<&String> = self.freestanding.iter().filter(is_other).collect();
        let known: Vec<&String> = before.iter().filter(|name| others.contains(name)).collect();
        let is_known = known.len() == others.len();
        let is_one_early = early.len() == 1 || !self.freestanding.iter().any(|n| n.ends_with(MICROCODE));
        if !is_one_early || !(is_known || others.len() < 2) {
            return None;
        }
        let others = if is_known { known } else { others.into_iter().collect() };
        Some(early.into_iter().chain(&self.own).chain(others).cloned().collect())
    }

    /// What clr-boot-manager puts in front of the line, including blanks. None if the line itself begins with
    /// such words, because their origin is ambiguous then.
    fn words_in_front<'t>(&self, options: &'t [u8]) -> Option<&'t [u8]> {
        let mut rest = options;
        while is_added(rest) {
            rest = &rest[rest.iter().position(|b| *b == b' ')? + 1..];
        }
        let front = &options[..options.len() - rest.len()];
        (front.starts_with(b"root=") && !is_added(self.line.trim_ascii_start())).then_some(front)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIRECTORY: &str = "/EFI/org.clearlinux";

    fn entry(title: &str, initrds: &[&str], options: &str) -> String {
        let initrds: String = initrds.iter().map(|name| format!("initrd {DIRECTORY}/{name}\n")).collect();
        format!("title {title}\nlinux {DIRECTORY}/kernel-a\n{initrds}options {options}\n")
    }

    fn expected<'a>(own: &[&str], freestanding: &[&str], line: &str) -> ExpectedEntry<'a> {
        ExpectedEntry {
            title: Some(b"New"),
            own: own.iter().map(|name| (*name).to_owned()).collect(),
            freestanding: freestanding.iter().map(|name| (*name).to_owned()).collect(),
            line: line.into(),
        }
    }

    #[test]
    fn words_and_title_are_replaced() {
        let before = entry("Old", &["initrd-a"], "root=PARTUUID=1 rd.luks.uuid=2 quiet  old");
        let after = expected(&["initrd-a"], &[], " new  words").instead_of(before.as_bytes()).unwrap();
        let words = "root=PARTUUID=1 rd.luks.uuid=2  new  words";
        assert_eq!(String::from_utf8(after).unwrap(), entry("New", &["initrd-a"], words));
    }

    #[test]
    fn initrds_whose_order_is_known() {
        let ucode = "freestanding-i-ucode.cpio";
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [&'a str], Option<&'a [&'a str]>);
        let table: [Case; 8] = [
            (&[], &[], &[], Some(&[])),
            (&[], &["initrd-a"], &["freestanding-x", ucode], Some(&[ucode, "initrd-a", "freestanding-x"])),
            // The existing order is kept, although it is not the order of names.
            (
                &["freestanding-y", "freestanding-x"],
                &[],
                &["freestanding-x", "freestanding-y"],
                Some(&["freestanding-y", "freestanding-x"]),
            ),
            (&["freestanding-y", "freestanding-x"], &[], &["freestanding-x"], Some(&["freestanding-x"])),
            (
                &["freestanding-y", "freestanding-x", "freestanding-z"],
                &[],
                &["freestanding-x", "freestanding-y"],
                Some(&["freestanding-y", "freestanding-x"]),
            ),
            (&["freestanding-x"], &[], &["freestanding-x", "freestanding-y"], None),
            (&[], &[], &[ucode, "freestanding-a-ucode.cpio"], None),
            (&[], &["initrd-a", "initrd-a.more"], &[], Some(&["initrd-a", "initrd-a.more"])),
        ];
        for (before, own, freestanding, after) in table {
            let text = entry("Old", before, "root=PARTUUID=1 quiet");
            let found = expected(own, freestanding, "quiet").instead_of(text.as_bytes());
            let wanted = after.map(|names| entry("New", names, "root=PARTUUID=1 quiet"));
            assert_eq!(
                found.map(|text| String::from_utf8(text).unwrap()),
                wanted,
                "{before:?} {freestanding:?}"
            );
        }
    }

    #[test]
    fn what_is_not_certain_is_left_alone() {
        let fine = entry("Old", &[], "root=PARTUUID=1 quiet");
        let expect = |line: &str, text: &str| expected(&[], &[], line).instead_of(text.as_bytes());
        assert!(expect("quiet", &fine).is_some());
        for text in [
            fine.trim_end(),
            &fine.replace("title", "# x\ntitle"),
            &fine.replace("options", "architecture x64\noptions"),
            &format!("{fine}options more\n"),
            &fine.replace("options", "initrd /elsewhere\noptions"),
            &fine.replace("root=PARTUUID=1 ", ""),
            "",
            "\n",
        ] {
            assert_eq!(expect("quiet", text), None, "{text:?}");
        }
        for line in ["root=/dev/sda quiet", "  rootflags=x", "rd.luks.uuid=3"] {
            assert_eq!(expect(line, &fine), None, "{line:?}");
        }
    }

    #[test]
    fn another_default_leaves_the_rest() {
        let changed = |text: &str| {
            let new = with_default(text.as_bytes(), "b.conf")?;
            Some(String::from_utf8(new).unwrap())
        };
        assert_eq!(changed("timeout 5\ndefault a.conf\n").as_deref(), Some("timeout 5\ndefault b.conf\n"));
        assert_eq!(
            changed("default a.conf\nconsole-mode max\n").as_deref(),
            Some("default b.conf\nconsole-mode max\n")
        );
        for text in ["default b.conf\n", "timeout 5\n", "default a\ndefault c\n", ""] {
            assert_eq!(changed(text), None, "{text:?}");
        }
    }
}
