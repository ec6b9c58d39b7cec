//! What every boot loader has: a menu of entries and a default, and a place where it is read.

use std::fmt;

use crate::kernel::KernelName;
use crate::limits::TEXT;
use crate::sys::{FileError, Listed, Presence, Root};

/// Whose files they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// systemd-boot, also behind shim.
    SystemdBoot,
    /// syslinux or extlinux.
    Syslinux,
    /// GRUB 2.
    Grub,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// Its name: the file's, the LABEL, or the title of the menu.
    pub file: String,
    /// The kernel id, off the line that names the image; none for what is no kernel of this system.
    pub id: Option<String>,
    /// The name of the image, without a directory and without `kernel-`.
    pub image: Option<String>,
    /// Something follows the number in that name: it is a copy, such as `….bak`.
    pub copy: bool,
    /// The command line, as the boot loader hands it over.
    pub options: Vec<u8>,
    /// The names of the initrds, without a directory, in the order in which they are loaded.
    pub initrds: Vec<String>,
}

impl BootEntry {
    /// An entry whose `image` is of this system when its name reads as a kernel id of the namespace.
    pub(super) fn new(file: &str, image: Option<String>, namespace: &str, options: Vec<u8>) -> BootEntry {
        let (mut id, mut copy) = (None, false);
        if let Some((name, rest)) = image.as_deref().and_then(|image| KernelName::from_id(image, namespace)) {
            (id, copy) = (Some(name.id()), !rest.is_empty());
        }
        BootEntry { file: file.to_owned(), id, image, copy, options, initrds: Vec::new() }
    }

    /// The same with initrds.
    pub(super) fn with_initrds(self, initrds: Vec<String>) -> BootEntry {
        BootEntry { initrds, ..self }
    }

    /// How it is named in a sentence.
    pub(super) fn named(&self) -> String {
        match &self.id {
            Some(id) if *id != self.file => format!("{id} (entry {})", self.file),
            _ => self.file.clone(),
        }
    }
}

/// The name of an image: the end of a path of either spelling. The old layout has no prefix.
pub(super) fn image_name(path: &[u8]) -> String {
    let name = base_name(path);
    name.strip_prefix("kernel-").map(str::to_owned).unwrap_or(name)
}

/// The last part of a path of either spelling.
pub(super) fn base_name(path: &[u8]) -> String {
    let start = path.iter().rposition(|b| matches!(b, b'/' | b'\\')).map_or(0, |at| at + 1);
    String::from_utf8_lossy(&path[start..]).into_owned()
}

/// What made an entry the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetBy {
    /// `default` in `loader.conf`.
    LoaderConf,
    /// The EFI variable of that name, for every boot.
    LoaderEntryDefault,
    /// The EFI variable of that name, for the next boot only.
    LoaderEntryOneShot,
    /// `DEFAULT` in `syslinux.cfg`.
    SyslinuxDefault,
    /// `set default=` in `grub.cfg`, or that it is the first.
    GrubDefault,
    /// `saved_entry` in `grubenv`.
    GrubSavedEntry,
    /// `next_entry` in `grubenv`, for the next boot only.
    GrubNextEntry,
}

impl SetBy {
    /// It stands beside what clr-boot-manager writes, and outlives its updates.
    pub fn overrides(self) -> bool {
        matches!(self, SetBy::LoaderEntryDefault | SetBy::LoaderEntryOneShot | SetBy::GrubNextEntry)
    }
}

impl fmt::Display for SetBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SetBy::LoaderConf => "the default of loader.conf",
            SetBy::LoaderEntryDefault => "the EFI variable LoaderEntryDefault",
            SetBy::LoaderEntryOneShot => "the EFI variable LoaderEntryOneShot",
            SetBy::SyslinuxDefault => "the DEFAULT of syslinux.cfg",
            SetBy::GrubDefault => "the default of grub.cfg",
            SetBy::GrubSavedEntry => "saved_entry of grubenv",
            SetBy::GrubNextEntry => "next_entry of grubenv",
        })
    }
}

/// The entry that the next boot takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultEntry {
    /// Its name.
    pub entry: String,
    /// Its kernel id; none for what is no kernel of this system.
    pub id: Option<String>,
    /// What says so.
    pub set_by: SetBy,
}

/// Something wrong or odd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What, with the name of the file or entry.
    pub what: String,
    /// What to do about it.
    pub clear: Option<String>,
    /// It endangers a boot, or the next run of clr-boot-manager; else it is just odd.
    pub breaks: bool,
    /// It says only that `clr-boot-manager update` would make another kernel the default.
    pub is_other_default: bool,
}

impl Problem {
    pub(super) fn breaks(what: String, clear: Option<&str>) -> Problem {
        Problem { breaks: true, ..Problem::odd(what, clear) }
    }

    pub(super) fn odd(what: String, clear: Option<&str>) -> Problem {
        Problem { what, clear: clear.map(str::to_owned), breaks: false, is_other_default: false }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.clear.as_ref().map_or(Ok(()), |clear| write!(f, "; {clear}"))
    }
}

/// What one boot loader's files say.
#[derive(Debug, Default)]
pub struct Menu {
    /// The entries, in the order of the files or of the menu.
    pub entries: Vec<BootEntry>,
    /// The default; none when it cannot be determined.
    pub default: Option<DefaultEntry>,
    /// What is wrong with them.
    pub problems: Vec<Problem>,
    /// The names of entries that could not be read.
    pub unread: Vec<String>,
}

/// Where the files are read.
pub(super) struct EntryPlace<'r> {
    pub(super) root: &'r Root,
    /// The top of the boot partition in that root.
    pub(super) top: &'static str,
    /// The device, where it is mounted nowhere.
    pub(super) device: Option<String>,
}

impl EntryPlace<'_> {
    /// How it is named as a whole.
    pub(super) fn name(&self) -> String {
        match &self.device {
            Some(device) => device.clone(),
            None => self.root.shown_path(self.top).display().to_string(),
        }
    }

    pub(super) fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.top)
    }

    /// How a path below the top is told to a person.
    pub(super) fn shown_path(&self, path: &str) -> String {
        match &self.device {
            Some(device) => format!("{path} on {device}"),
            None => self.root.shown_path(self.path(path)).display().to_string(),
        }
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.root.read_optional_within(self.path(path), TEXT)
    }

    /// The same of a file that is never large, as there are many of its kind.
    pub(super) fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.root.read_optional(self.path(path))
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<Listed>, FileError> {
        self.root.list_optional(self.path(path))
    }

    pub(super) fn has(&self, path: &str) -> Result<bool, FileError> {
        match self.root.lookup(self.path(path)) {
            Presence::There(_) => Ok(true),
            Presence::Absent => Ok(false),
            Presence::Unreadable(e) => Err(e),
        }
    }
}
