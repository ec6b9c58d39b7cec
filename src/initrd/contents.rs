//! The kernel modules in an initrd, and their builds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};

use super::archive::{self, ArchiveEntry, EntryKind};
use super::unpack::{Budget, END, Input, Limited, members, without_bootconfig};
use crate::kernel::module_file::{self, BuildIdentity, kernel_name};
use crate::kernel::module_image::ModuleReading;
use crate::limits::{INITRD, KERNEL_LIST, MODULE};
use crate::modprobe::index::is_file_of;
use crate::sys::{FileError, Root};

/// The largest `modules.dep` in an initrd.
const LARGEST_INDEX: u64 = KERNEL_LIST;
/// Suffixes of filesystem images, which may contain modules.
const IMAGES: [&str; 5] = [".squashfs", ".erofs", ".sfs", ".img", ".ext4"];

/// A module in an initrd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitrdModule {
    /// The path in the archive, without a leading `/`.
    pub path: String,
    /// The build. None if it was not requested, an error if it is unknown.
    pub build: Option<Result<ModuleBuild, String>>,
}

impl InitrdModule {
    /// Another file of the same module exists at another path, and it is unknown which one is loaded.
    fn unclear_beside(&mut self, other: &InitrdModule) {
        if self.path != other.path {
            self.build = Some(Err(format!("{} and {} are both in it", other.path, self.path)));
        }
    }
}

/// What identifies the build of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleBuild {
    /// The vermagic; its first word is the kernel release.
    pub vermagic: Option<String>,
    /// The hash of its sources, and its build id.
    pub identity: BuildIdentity,
}

/// The result of looking up a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundInInitrd<'c> {
    /// The initrd contains it.
    Module(&'c InitrdModule),
    /// The initrd does not contain it.
    Absent,
    /// It is unknown, and why.
    Unknown(&'c str),
}

/// The modules of one or more initrds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitrdContents {
    /// Modules by kernel release and by the kernel's name.
    modules: BTreeMap<String, BTreeMap<String, InitrdModule>>,
    /// Why the initrds may contain more modules.
    unknown: Option<String>,
}

impl InitrdContents {
    /// Reads an initrd. Only the builds of the modules in `wanted` (the kernel's names) are determined.
    pub fn read(bytes: &[u8], wanted: &BTreeSet<String>) -> InitrdContents {
        let end = &bytes[bytes.len().saturating_sub(END)..];
        InitrdContents::read_from(bytes.len() as u64, end, || Ok(bytes), wanted)
    }

    /// The same for a file, which is not held in memory.
    ///
    /// # Errors
    ///
    /// If it exceeds the size limit, or its end cannot be read.
    pub fn of_file(root: &Root, path: &str, wanted: &BTreeSet<String>) -> Result<InitrdContents, FileError> {
        let (mut file, size) = root.open_within(path, INITRD)?;
        let mut end = Vec::new();
        let read = file
            .seek(SeekFrom::Start(size.saturating_sub(END as u64)))
            .and_then(|_| file.take(END as u64).read_to_end(&mut end));
        read.map_err(|e| root.read_failed(path, e))?;
        let contents = InitrdContents::read_from(size, &end, || root.open_watched(path, INITRD), wanted);
        match contents.unknown {
            // The next attempt may succeed, so the result must not be kept in the cache.
            Some(reason) if root.has_unread(path) => {
                Err(root.read_failed(path, std::io::Error::other(reason)))
            }
            _ => Ok(contents),
        }
    }

    /// `open` opens the initrd again.
    fn read_from<R: Read>(
        length: u64,
        end: &[u8],
        mut open: impl FnMut() -> Result<R, FileError>,
        wanted: &BTreeSet<String>,
    ) -> InitrdContents {
        let (mut builds, mut budget) = (BTreeMap::new(), Budget::default());
        loop {
            let mut reading = ContentsReading {
                wanted,
                found: InitrdContents::default(),
                again: Vec::new(),
                indexes: BTreeMap::new(),
                builds,
                number: 0,
            };
            budget.begin();
            let read = open().map_err(anyhow::Error::from).and_then(|file| {
                let mut input = Input::new(file.take(without_bootconfig(end, length)));
                members(&mut input, &mut budget, |mut member, plain| {
                    // An uncompressed member ends where its archive ends.
                    archive::entries(&mut member, plain, |entry| reading.visit(entry))
                })
            });
            // The section headers of a large module come after its sections, so the initrd is read again.
            let is_done =
                read.is_err() || reading.builds.values().all(|build| matches!(build, Build::Known(_)));
            builds = std::mem::take(&mut reading.builds);
            if is_done {
                let mut found = reading.finish();
                if let Err(error) = read {
                    found.unknown = Some(error.to_string());
                }
                return found;
            }
        }
    }

    /// The contents of an initrd that could not be read.
    pub fn unreadable(reason: String) -> InitrdContents {
        InitrdContents { unknown: Some(reason), ..InitrdContents::default() }
    }

    /// Removes all other modules.
    pub fn retain(&mut self, wanted: &BTreeSet<String>) {
        for modules in self.modules.values_mut() {
            modules.retain(|name, _| wanted.contains(name));
        }
        self.modules.retain(|_, modules| !modules.is_empty());
    }

    /// Adds an initrd that is loaded after this one.
    pub fn extend(&mut self, later: InitrdContents) {
        for (release, modules) in later.modules {
            let mine = self.modules.entry(release).or_default();
            for (name, module) in modules {
                let known = mine.insert(name.clone(), module);
                if let (Some(known), Some(module)) = (known, mine.get_mut(&name)) {
                    module.unclear_beside(&known);
                }
            }
        }
        self.unknown = self.unknown.take().or(later.unknown);
    }

    /// Looks up a module of a kernel.
    pub fn find(&self, release: &str, module: &str) -> FoundInInitrd<'_> {
        match (self.modules.get(release).and_then(|m| m.get(&kernel_name(module))), &self.unknown) {
            (Some(module), _) => FoundInInitrd::Module(module),
            (None, Some(reason)) => FoundInInitrd::Unknown(reason),
            (None, None) => FoundInInitrd::Absent,
        }
    }

    /// The kernel's names of the modules of a kernel release.
    pub fn modules(&self, release: &str) -> impl Iterator<Item = &str> {
        self.modules.get(release).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    pub fn releases(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Why it may contain more modules than were found.
    pub fn unknown(&self) -> Option<&str> {
        self.unknown.as_deref()
    }
}

struct ContentsReading<'w> {
    wanted: &'w BTreeSet<String>,
    found: InitrdContents,
    /// Further files of modules that were already found: release, name, module.
    again: Vec<(String, String, InitrdModule)>,
    /// `modules.dep` of each release, which often comes after the modules.
    indexes: BTreeMap<String, Vec<u8>>,
    /// The large modules, by their number among all entries.
    builds: BTreeMap<usize, Build>,
    /// The number of the entry.
    number: usize,
}

/// The state of reading a large module.
enum Build {
    /// Another module is read first: only one is held in memory at a time.
    Waiting,
    Reading(ModuleReading),
    Known(Result<ModuleBuild, String>),
}

type Member<'b, 'r> = Limited<'b, &'r mut (dyn BufRead + 'r)>;

impl ContentsReading<'_> {
    fn visit(&mut self, entry: &mut ArchiveEntry<'_, Member<'_, '_>>) -> anyhow::Result<()> {
        self.number += 1;
        let path = entry.name.trim_start_matches("./").trim_start_matches('/').to_owned();
        if entry.kind == EntryKind::Other {
            return Ok(());
        }
        let Some((release, below)) = below_modules(&path) else {
            if self.found.unknown.is_none() && IMAGES.iter().any(|ending| path.ends_with(ending)) {
                self.found.unknown = Some(format!("it contains {path}, a filesystem image"));
            }
            return Ok(());
        };
        if below == "modules.dep" && entry.size <= LARGEST_INDEX {
            let text = entry.read()?;
            self.indexes.insert(release.to_owned(), text);
            return Ok(());
        }
        let Some(name) = module_file::stem(below).map(kernel_name) else { return Ok(()) };
        let build = if self.wanted.contains(&name) { Some(self.build(&path, entry)?) } else { None };
        let module = InitrdModule { path: path.clone(), build };
        let modules = self.found.modules.entry(release.to_owned()).or_default();
        match modules.get(&name) {
            // A later file with the same path replaces the earlier one.
            Some(known) if known.path != path => self.again.push((release.to_owned(), name, module)),
            _ => drop(modules.insert(name, module)),
        }
        Ok(())
    }

    /// The build of a module. The outer error concerns the archive.
    fn build(
        &mut self,
        path: &str,
        entry: &mut ArchiveEntry<'_, Member<'_, '_>>,
    ) -> anyhow::Result<Result<ModuleBuild, String>> {
        if entry.kind == EntryKind::Symlink {
            return Ok(Err(format!("{path} is a symlink")));
        }
        if entry.size > MODULE {
            return Ok(Err(format!("{path} is larger than 512 MiB")));
        }
        let not_yet = || Ok(Err(format!("{path}: it could not be read to its end")));
        let before = self.builds.remove(&self.number);
        let is_other_read = self.builds.values().any(|build| matches!(build, Build::Reading(_)));
        let mut reading = match before {
            Some(Build::Known(known)) => {
                self.builds.insert(self.number, Build::Known(known.clone()));
                return Ok(known);
            }
            Some(Build::Waiting) if is_other_read => {
                self.builds.insert(self.number, Build::Waiting);
                return not_yet();
            }
            Some(Build::Reading(reading)) => reading,
            Some(Build::Waiting) | None => ModuleReading::of_info(),
        };
        let read = reading.pass(path, BufReader::new(entry.body()));
        entry.archive().budget().spend(reading.length())?;
        let known = match read {
            Ok(Some(image)) => module_file::info(&image)
                .map(|info| ModuleBuild { vermagic: info.vermagic, identity: info.build })
                .map_err(|why| format!("{path}: {why}")),
            Err(why) => Err(why.of(path)),
            Ok(None) => {
                let state = if is_other_read { Build::Waiting } else { Build::Reading(reading) };
                self.builds.insert(self.number, state);
                return not_yet();
            }
        };
        // In later passes, small modules are read again.
        if reading.is_large() {
            self.builds.insert(self.number, Build::Known(known.clone()));
        }
        Ok(known)
    }

    /// Of several files of a module, the one that `modules.dep` names counts.
    fn finish(mut self) -> InitrdContents {
        for (release, name, other) in self.again {
            let known = self.found.modules.get_mut(&release).and_then(|modules| modules.get_mut(&name));
            let Some(known) = known else { continue };
            let listed = self.indexes.get(&release).and_then(|text| listed(text, &name));
            let is_listed = |m: &InitrdModule| {
                listed.is_some() && below_modules(&m.path).map(|(_, below)| below) == listed
            };
            if is_listed(&other) {
                *known = other;
            } else if !is_listed(known) {
                known.unclear_beside(&other);
            }
        }
        self.found
    }
}

/// The release, and the path relative to its module directory.
fn below_modules(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    path.split_once('/')
}

/// The path that `modules.dep` has for a module.
fn listed<'t>(text: &'t [u8], module: &str) -> Option<&'t str> {
    text.split(|b| *b == b'\n').find_map(|line| {
        let path = &line[..memchr::memchr(b':', line)?];
        let base = memchr::memrchr(b'/', path).map_or(0, |at| at + 1);
        // A path that is not UTF-8 cannot be named in a report.
        is_file_of(&path[base..], module).then(|| std::str::from_utf8(path).ok())?
    })
}
