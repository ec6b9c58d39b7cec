//! Which file of a kernel belongs to a module name, and which aliases the module serves.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use anyhow::{Context, anyhow, bail};

use super::competing::{CommonAliases, competing};
use super::index::{Index, is_file_of};
use super::{aliases, pattern};
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::{self, ModuleInfo};
use crate::kernel::module_image::ModuleImage;
use crate::limits::KERNEL_LIST;
use crate::sys::{FileError, Presence, Root};

/// The part of the module directory that a file is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileOrigin {
    /// `updates/dkms`.
    Dkms,
    /// `updates`, which depmod prefers to the kernel's own modules.
    Updates,
    /// `extra`, where `make modules_install` installs a module.
    Extra,
    /// `kernel`: the file came with the kernel, or replaces one that did.
    InTree,
    /// Another directory.
    Other,
}

impl FileOrigin {
    /// The origin of a path relative to the module directory.
    pub fn of(path: &str) -> FileOrigin {
        match path.split_once('/').map(|(first, rest)| (first, rest.starts_with("dkms/"))) {
            Some(("updates", true)) => FileOrigin::Dkms,
            Some(("updates", false)) => FileOrigin::Updates,
            Some(("extra", _)) => FileOrigin::Extra,
            Some(("kernel", _)) => FileOrigin::InTree,
            _ => FileOrigin::Other,
        }
    }
}

/// What modprobe finds for a module name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// It is built into the kernel. modprobe loads nothing, even if a file of that name exists.
    BuiltIn,
    /// A file. `needs`: the names of the modules that are loaded before it.
    File { path: String, origin: FileOrigin, needs: Vec<String> },
    /// `modules.dep` names a file that does not exist.
    Dangling { path: String },
    /// There is no such module.
    Absent,
    /// It is unknown, and why.
    Unknown(String),
}

/// Whether a module serves a device, a filesystem or a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// One of its aliases matches.
    Yes,
    /// None of its aliases matches.
    No,
    /// Its aliases are unknown.
    Unknown(String),
}

/// The modules of one kernel. Each index is read when it is first needed.
#[derive(Debug)]
pub struct KernelModules<'r> {
    root: &'r Root,
    directory: String,
    release: String,
    index: OnceCell<Result<Index, FileError>>,
    built_in: OnceCell<Result<Vec<u8>, FileError>>,
    built_in_info: OnceCell<Result<Option<Vec<u8>>, FileError>>,
    alias_list: OnceCell<Result<Vec<u8>, FileError>>,
}

impl<'r> KernelModules<'r> {
    /// The modules of a kernel release.
    pub fn new(root: &'r Root, release: &str) -> KernelModules<'r> {
        KernelModules {
            root,
            directory: module_directory(release),
            release: release.to_owned(),
            index: OnceCell::new(),
            built_in: OnceCell::new(),
            built_in_info: OnceCell::new(),
            alias_list: OnceCell::new(),
        }
    }

    /// What modprobe finds for a name.
    pub fn resolve(&self, module: &str) -> Resolution {
        match self.built_in() {
            Err(e) => return Resolution::Unknown(e.to_string()),
            Ok(list) if is_listed(list, module) => return Resolution::BuiltIn,
            Ok(_) => {}
        }
        let index = match self.index.get_or_init(|| Index::load(self.root, &self.release)) {
            Err(e) => return Resolution::Unknown(e.to_string()),
            Ok(index) => index,
        };
        let entry = match index.found(module) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Resolution::Absent,
            // A kernel without modules has no index.
            Err(_) if index.is_empty() => return Resolution::Absent,
            Err(why) => {
                let path = self.root.shown_path(format!("{}/modules.dep.bin", self.directory));
                return Resolution::Unknown(format!("{} {why}", path.display()));
            }
        };
        // depmod.d can add directories elsewhere, with absolute paths.
        let path = match entry.path.starts_with('/') {
            true => entry.path.clone(),
            false => format!("{}/{}", self.directory, entry.path),
        };
        match self.root.lookup(&path) {
            Presence::There(_) => Resolution::File {
                path,
                origin: FileOrigin::of(&entry.path),
                needs: entry.needs.iter().filter_map(|n| module_file::stem(n)).map(str::to_owned).collect(),
            },
            Presence::Absent => Resolution::Dangling { path },
            Presence::Unreadable(e) => Resolution::Unknown(e.to_string()),
        }
    }

    /// The aliases of a module, from its file or, for a built-in module, from `modules.builtin.modinfo`.
    ///
    /// # Errors
    ///
    /// Why they are unknown.
    pub fn aliases(&self, module: &str) -> anyhow::Result<Vec<String>> {
        match self.resolve(module) {
            Resolution::BuiltIn => self.built_in_aliases(module),
            Resolution::File { path, .. } => {
                let image =
                    ModuleImage::of_file(self.root, &path, &path).map_err(|why| anyhow!(why.of(&path)))?;
                module_file::info(&image).map(|info| info.aliases).context(path)
            }
            Resolution::Dangling { .. } | Resolution::Absent => Ok(Vec::new()),
            Resolution::Unknown(reason) => bail!(reason),
        }
    }

    /// Whether a module serves `alias`: the modalias of a device, `fs-TYPE` or `net-pf-N`.
    pub fn claims(&self, module: &str, alias: &str) -> Claim {
        match self.aliases(module) {
            Ok(patterns) if claims(patterns.iter().map(String::as_str), alias) => Claim::Yes,
            Ok(_) => Claim::No,
            Err(error) => Claim::Unknown(format!("{error:#}")),
        }
    }

    /// The names of the modules that are listed for an alias. A request for the alias loads one or all of
    /// them. Without a list of depmod nothing is loaded by alias.
    ///
    /// # Errors
    ///
    /// Why they are unknown.
    pub fn listed_for(&self, alias: &str) -> anyhow::Result<BTreeSet<String>> {
        let list = self.alias_list.get_or_init(|| self.list("modules.alias"));
        let mut found = aliases::listed(list.as_ref().map_err(|e| anyhow!("{e}"))?, alias);
        match self.built_in_info() {
            Ok(all) => found.extend(aliases::built_in(all, alias)),
            // The aliases of module files are known without this file.
            Err(_) if !found.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(found)
    }

    /// The modules that came with this kernel, as files or built in, and that claim a device of `patterns`;
    /// the names in `own` are left out. `devices` are the aliases of the devices of this machine.
    ///
    /// # Errors
    ///
    /// Why they are unknown.
    pub fn competing(
        &self,
        own: &BTreeSet<String>,
        patterns: &[String],
        devices: &[String],
    ) -> anyhow::Result<CommonAliases> {
        let list = self.alias_list.get_or_init(|| self.list("modules.alias"));
        let list = list.as_ref().map_err(|e| anyhow!("{e}"))?;
        if list.is_empty() {
            let path = self.root.shown_path(format!("{}/modules.alias", self.directory));
            bail!("{} is absent or empty", path.display());
        }
        let mut found = competing(patterns, devices, aliases::lines(list));
        // Kernels before 5.2 do not list them; a blacklist has no effect on built-in drivers.
        if let Ok(info) = self.built_in_info() {
            let built_in = competing(patterns, devices, aliases::built_in_entries(info));
            for (module, pairs) in built_in {
                found.entry(module).or_insert(pairs);
            }
        }
        let mut unknown = None;
        found.retain(|module, _| {
            !own.contains(module)
                && match self.resolve(module) {
                    Resolution::BuiltIn | Resolution::File { origin: FileOrigin::InTree, .. } => true,
                    Resolution::Unknown(why) => {
                        unknown = Some(why);
                        false
                    }
                    Resolution::File { .. } | Resolution::Dangling { .. } | Resolution::Absent => false,
                }
        });
        unknown.map_or(Ok(found), |why| bail!(why))
    }

    /// A list of depmod or of the kernel. An absent one is empty.
    fn list(&self, name: &str) -> Result<Vec<u8>, FileError> {
        let list = self.root.read_optional_within(format!("{}/{name}", self.directory), KERNEL_LIST);
        list.map(Option::unwrap_or_default)
    }

    fn built_in(&self) -> &Result<Vec<u8>, FileError> {
        self.built_in.get_or_init(|| self.list("modules.builtin"))
    }

    fn built_in_aliases(&self, module: &str) -> anyhow::Result<Vec<String>> {
        self.built_in_info().map(|all| info_of_built_in(all, module).aliases)
    }

    fn built_in_info(&self) -> anyhow::Result<&[u8]> {
        let path = format!("{}/modules.builtin.modinfo", self.directory);
        let all = self.built_in_info.get_or_init(|| self.root.read_optional_within(&path, KERNEL_LIST));
        match all {
            Ok(Some(all)) => Ok(all),
            // Kernels before 5.2 do not have this file, so its absence does not mean that no built-in module
            // matches.
            Ok(None) => bail!("there is no {}", self.root.shown_path(&path).display()),
            Err(e) => bail!("{e}"),
        }
    }
}

/// Whether one of a module's alias patterns matches.
pub fn claims<'p>(patterns: impl IntoIterator<Item = &'p str>, alias: &str) -> bool {
    let alias = pattern::normalized(alias).unwrap_or_else(|| alias.to_owned());
    let matches = |p: &str| pattern::normalized(p).is_some_and(|p| pattern::matches(&p, &alias));
    patterns.into_iter().any(matches)
}

/// Whether `modules.builtin` lists a module.
fn is_listed(list: &[u8], module: &str) -> bool {
    let base = |line: &[u8]| memchr::memrchr(b'/', line).map_or(0, |at| at + 1);
    list.split(|b| *b == b'\n').any(|line| is_file_of(&line[base(line)..], module))
}

/// The entries of a module in `modules.builtin.modinfo`: `MODULE.key=value`, separated by NUL.
fn info_of_built_in(all: &[u8], module: &str) -> ModuleInfo {
    let name = module_file::kernel_name(module);
    module_file::fields(all.split(|b| *b == 0).filter_map(|entry| {
        let dot = memchr::memchr(b'.', entry)?;
        let fits = entry[..dot].iter().map(|b| module_file::folded(*b)).eq(name.bytes());
        fits.then(|| &entry[dot + 1..])
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (path, origin) in [
            ("updates/dkms/a.ko", FileOrigin::Dkms),
            ("updates/a.ko", FileOrigin::Updates),
            ("updates/dkmsx/a.ko", FileOrigin::Updates),
            ("extra/a/b.ko.xz", FileOrigin::Extra),
            ("kernel/drivers/a.ko", FileOrigin::InTree),
            ("weak-updates/a.ko", FileOrigin::Other),
            ("/opt/x/a.ko", FileOrigin::Other),
            ("a.ko", FileOrigin::Other),
        ] {
            assert_eq!(FileOrigin::of(path), origin, "{path}");
        }
    }

    #[test]
    fn what_is_built_in() {
        let list = b"kernel/fs/ext4/ext4.ko\nkernel/a/snd-x.ko\n";
        assert!(is_listed(list, "ext4") && is_listed(list, "snd_x"));
        assert!(!is_listed(list, "ext") && !is_listed(list, "fs"));
        let info = b"ext4.alias=fs-ext4\0ext4.license=GPL\0snd_x.alias=pci:v*\0ext4.alias=ext3\0";
        assert_eq!(info_of_built_in(info, "ext4").aliases, ["fs-ext4", "ext3"]);
        assert_eq!(info_of_built_in(info, "snd-x").aliases, ["pci:v*"]);
        assert!(info_of_built_in(info, "none").aliases.is_empty());
    }

    #[test]
    fn claimed_by_any_alias() {
        let of = |alias: &str| claims(["fs-zfs", "pci:v00001234d*sv*"], alias);
        assert!(of("fs-zfs") && of("fs_zfs") && of("pci:v00001234d00000001sv0"));
        assert!(!of("fs-xfs") && !of("pci:v00004321d00000001sv0"));
    }
}
