//! What all boot loaders have in common: a menu of entries, a default, and a place where the files are read.

use std::fmt;
use std::path::Path;

use super::files::BOOT;
use crate::kernel::KernelName;
use crate::limits::TEXT;
use crate::modprobe::LineWords;
use crate::sys::{FileError, Listed, Root};

/// The boot loader that files belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loader {
    /// systemd-boot, also behind shim.
    SystemdBoot,
    /// syslinux or extlinux.
    Syslinux,
    /// GRUB 2.
    Grub,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEntry {
    /// The name: the file name, the LABEL, or the title in the menu.
    pub file: String,
    /// The kernel id, from the line that names the image. None if it is not a kernel of this system.
    pub id: Option<String>,
    /// The name of the image, without its directory and without `kernel-`.
    pub image: Option<String>,
    /// The name of the image continues after the number: it is a copy, such as `….bak`.
    pub copy: bool,
    /// The command line, as the boot loader passes it to the kernel.
    pub options: Vec<u8>,
    /// The parameters of the command line that prevent modules from being loaded.
    pub words: LineWords,
    /// The names of the initrds without their directories, in the order in which they are loaded.
    pub initrds: Vec<String>,
    /// A file that the entry names and that is not there, or is empty: it does not boot.
    pub lost: Option<String>,
}

impl BootEntry {
    /// An entry. Its `image` belongs to this system if its name is a kernel id of the namespace.
    pub(super) fn new(file: &str, image: Option<String>, namespace: &str, options: Vec<u8>) -> BootEntry {
        let (mut id, mut copy) = (None, false);
        if let Some((name, rest)) = image.as_deref().and_then(|image| KernelName::from_id(image, namespace)) {
            (id, copy) = (Some(name.id()), !rest.is_empty());
        }
        let words = LineWords::read(&options);
        BootEntry { file: file.to_owned(), id, image, copy, options, words, initrds: Vec::new(), lost: None }
    }

    pub(super) fn with_initrds(self, initrds: Vec<String>) -> BootEntry {
        BootEntry { initrds, ..self }
    }

    /// The name in messages.
    pub(super) fn named(&self) -> String {
        match &self.id {
            Some(id) if *id != self.file => format!("{id} (entry {})", self.file),
            _ => self.file.clone(),
        }
    }
}

/// The name of an image at the end of a path, with `/` or `\`. In the old layout it has no prefix.
pub(super) fn image_name(path: &[u8]) -> String {
    let name = base_name(path);
    name.strip_prefix("kernel-").map(str::to_owned).unwrap_or(name)
}

/// The last component of a path, with `/` or `\`.
pub(super) fn base_name(path: &[u8]) -> String {
    let start = path.iter().rposition(|b| matches!(b, b'/' | b'\\')).map_or(0, |at| at + 1);
    String::from_utf8_lossy(&path[start..]).into_owned()
}

/// What makes an entry the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
pub enum SetBy {
    /// `default` in `loader.conf`.
    #[strum(to_string = "the default of loader.conf")]
    LoaderConf,
    /// The EFI variable of that name, for every boot.
    #[strum(to_string = "the EFI variable LoaderEntryDefault")]
    LoaderEntryDefault,
    /// The EFI variable of that name, for the next boot only.
    #[strum(to_string = "the EFI variable LoaderEntryOneShot")]
    LoaderEntryOneShot,
    /// `DEFAULT` in `syslinux.cfg`.
    #[strum(to_string = "the DEFAULT of syslinux.cfg")]
    SyslinuxDefault,
    /// `set default=` in `grub.cfg`, or the first entry.
    #[strum(to_string = "the default of grub.cfg")]
    GrubDefault,
    /// `saved_entry` in `grubenv`.
    #[strum(to_string = "saved_entry of grubenv")]
    GrubSavedEntry,
    /// `next_entry` in `grubenv`, for the next boot only.
    #[strum(to_string = "next_entry of grubenv")]
    GrubNextEntry,
}

impl SetBy {
    /// Whether it overrides what clr-boot-manager writes, and is not changed by its updates.
    pub fn overrides(self) -> bool {
        match self {
            SetBy::LoaderEntryDefault | SetBy::LoaderEntryOneShot | SetBy::GrubNextEntry => true,
            SetBy::LoaderConf | SetBy::SyslinuxDefault | SetBy::GrubDefault | SetBy::GrubSavedEntry => false,
        }
    }

    /// Whether it counts for the next boot only.
    pub fn is_for_one_boot(self) -> bool {
        match self {
            SetBy::LoaderEntryOneShot | SetBy::GrubNextEntry => true,
            SetBy::LoaderConf
            | SetBy::LoaderEntryDefault
            | SetBy::SyslinuxDefault
            | SetBy::GrubDefault
            | SetBy::GrubSavedEntry => false,
        }
    }

    /// The command that takes the choice of an admin back, where there is one.
    pub fn taken_back_by(self) -> Option<&'static str> {
        match self {
            SetBy::LoaderEntryOneShot => Some("bootctl set-oneshot \"\""),
            SetBy::LoaderEntryDefault => Some("bootctl set-default \"\""),
            SetBy::LoaderConf
            | SetBy::SyslinuxDefault
            | SetBy::GrubDefault
            | SetBy::GrubSavedEntry
            | SetBy::GrubNextEntry => None,
        }
    }
}

/// The entry that boots next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultEntry {
    pub entry: String,
    /// The kernel id. None if it is not a kernel of this system.
    pub id: Option<String>,
    /// What makes it the default.
    pub set_by: SetBy,
}

/// A fault, or an unusual fact.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MenuFault {
    /// A sentence with the name of the file or entry.
    pub what: String,
    /// The next step.
    pub clear: Option<String>,
    /// It endangers a boot, or the next run of clr-boot-manager.
    pub breaks: bool,
    /// It only says that `clr-boot-manager update` would make another kernel the default.
    pub is_other_default: bool,
    /// It only says that an EFI variable chooses an entry for the next boot.
    pub is_one_shot: bool,
}

impl MenuFault {
    pub(super) fn breaks(what: String, clear: Option<&str>) -> MenuFault {
        MenuFault { breaks: true, ..MenuFault::odd(what, clear) }
    }

    pub(super) fn odd(what: String, clear: Option<&str>) -> MenuFault {
        MenuFault { what, clear: clear.map(str::to_owned), ..MenuFault::default() }
    }
}

impl fmt::Display for MenuFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.clear.as_ref().map_or(Ok(()), |clear| write!(f, "; {clear}"))
    }
}

/// The contents of one boot loader's files.
#[derive(Debug, Default)]
pub struct Menu {
    /// The entries, in the order of the files or of the menu.
    pub entries: Vec<BootEntry>,
    /// The default. None if it cannot be determined.
    pub default: Option<DefaultEntry>,
    /// What `loader.conf` makes the default, whatever the EFI variables say. None if that is not an entry, or
    /// with another boot loader.
    pub configured: Option<DefaultEntry>,
    /// What the EFI variable `LoaderEntryDefault` chooses for every boot, whatever `loader.conf` says. The id
    /// is None if only the boot loader knows which entry that is. None if the boot loader ignores it.
    pub persistent: Option<DefaultEntry>,
    pub problems: Vec<MenuFault>,
    /// The names of entries that could not be read.
    pub unread: Vec<String>,
}

/// The place where the files are read.
pub(super) struct EntryPlace<'r> {
    pub(super) root: &'r Root,
    /// The top of the boot partition in that root.
    pub(super) top: &'static str,
    /// The device, if it is not mounted.
    pub(super) device: Option<&'r Path>,
}

impl<'r> EntryPlace<'r> {
    /// The directory `/boot` of a root.
    pub(super) fn in_boot(root: &'r Root) -> EntryPlace<'r> {
        EntryPlace { root, top: BOOT, device: None }
    }

    /// The name of the whole place, for messages.
    pub(super) fn name(&self) -> String {
        match &self.device {
            Some(device) => device.display().to_string(),
            None => self.root.shown_path(self.top).display().to_string(),
        }
    }

    pub(super) fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.top)
    }

    /// A path relative to the top, for messages.
    pub(super) fn shown_path(&self, path: &str) -> String {
        match &self.device {
            Some(device) => format!("{path} on {}", device.display()),
            None => self.root.shown_path(self.path(path)).display().to_string(),
        }
    }

    /// Whether a file is known not to be there, or to be empty, as after a crash on vfat. Where not even its
    /// directory exists, only the menu was copied to this place.
    pub(super) fn has_lost(&self, path: &str) -> bool {
        let path = self.path(path);
        let found = self.root.lookup(&path);
        let is_there = Path::new(&path).parent().is_some_and(|dir| self.root.lookup(dir).stat().is_some());
        is_there && (found.is_absent() || found.stat().is_some_and(|stat| stat.size == 0))
    }

    pub(super) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.root.read_optional_within(self.path(path), TEXT)
    }

    /// The same for a file that is never large, because there are many of its kind.
    pub(super) fn read_small(&self, path: &str) -> Result<Option<Vec<u8>>, FileError> {
        self.root.read_optional(self.path(path))
    }

    /// A file without which the menu is unknown, or the fault because of which the boot loader does not use
    /// it.
    pub(super) fn configuration(
        &self,
        path: &str,
        clear: Option<&str>,
    ) -> Result<Result<Option<Vec<u8>>, MenuFault>, FileError> {
        Ok(match self.read(path) {
            Ok(Some(text)) if text.is_empty() => {
                Err(MenuFault::breaks(format!("{} is empty", self.shown_path(path)), clear))
            }
            Ok(text) => Ok(text),
            Err(e) if e.is_no_file() => Err(MenuFault::breaks(e.to_string(), None)),
            Err(e) => return Err(e),
        })
    }

    pub(super) fn list(&self, path: &str) -> Result<Vec<Listed>, FileError> {
        self.root.list_optional(self.path(path))
    }

    pub(super) fn has(&self, path: &str) -> Result<bool, FileError> {
        self.root.has(self.path(path))
    }
}
