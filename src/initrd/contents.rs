//! Which kernel modules are in an initrd, and which builds they are.

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

/// The largest `modules.dep` inside.
const LARGEST_INDEX: u64 = KERNEL_LIST;
/// Endings of files that are filesystems of their own, in which modules may be.
const IMAGES: [&str; 5] = [".squashfs", ".erofs", ".sfs", ".img", ".ext4"];

/// A module inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitrdModule {
    /// Its path in the archive, without `/` in front.
    pub path: String,
    /// Which build it is; none where that was not asked, an error where it is not known.
    pub build: Option<Result<ModuleBuild, String>>,
}

impl InitrdModule {
    /// Another file of the same module is there, at another path: which one is loaded is not known.
    fn unclear_beside(&mut self, other: &InitrdModule) {
        if self.path != other.path {
            self.build = Some(Err(format!("{} and {} are both in it", other.path, self.path)));
        }
    }
}

/// What distinguishes a module's build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleBuild {
    /// Its vermagic; the first word is the kernel release.
    pub vermagic: Option<String>,
    /// Its source and its contents.
    pub identity: BuildIdentity,
}

/// What an initrd says about a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundInInitrd<'c> {
    /// It is in there.
    Module(&'c InitrdModule),
    /// It is not.
    Absent,
    /// It is not known.
    Unknown(&'c str),
}

/// The modules of one or more initrds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitrdContents {
    /// Of each kernel release, by the name that the kernel uses.
    modules: BTreeMap<String, BTreeMap<String, InitrdModule>>,
    /// Why there may be more.
    unknown: Option<String>,
}

impl InitrdContents {
    /// Reads an initrd. Only of the modules named in `wanted` (as the kernel writes names) it is looked which build
    /// they are.
    pub fn read(bytes: &[u8], wanted: &BTreeSet<String>) -> InitrdContents {
        let end = &bytes[bytes.len().saturating_sub(END)..];
        InitrdContents::read_from(bytes.len() as u64, end, || Ok(bytes), wanted)
    }

    /// The same of a file, which is not held in memory.
    ///
    /// # Errors
    /// When it is larger than is looked into, or its end cannot be read.
    pub fn of_file(root: &Root, path: &str, wanted: &BTreeSet<String>) -> Result<InitrdContents, FileError> {
        let (mut file, size) = root.open_within(path, INITRD)?;
        let mut end = Vec::new();
        let read = file
            .seek(SeekFrom::Start(size.saturating_sub(END as u64)))
            .and_then(|_| file.take(END as u64).read_to_end(&mut end));
        read.map_err(|e| root.read_failed(path, e))?;
        let open = || root.open_watched(path, INITRD).map_err(|e| e.to_string());
        let contents = InitrdContents::read_from(size, &end, open, wanted);
        match contents.unknown {
            // It may be read the next time, and is not to be kept.
            Some(reason) if root.has_unread(path) => {
                Err(root.read_failed(path, std::io::Error::other(reason)))
            }
            _ => Ok(contents),
        }
    }

    /// `open` begins it once more.
    fn read_from<R: Read>(
        length: u64,
        end: &[u8],
        mut open: impl FnMut() -> Result<R, String>,
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
            let read = open().and_then(|file| {
                let mut input = Input::new(file.take(without_bootconfig(end, length)));
                members(&mut input, &mut budget, |mut member, plain| {
                    // A member that is not compressed ends where its archive does.
                    archive::entries(&mut member, plain, |entry| reading.visit(entry))
                })
            });
            // Of a large module the headers are behind what they speak of: then all is read once more.
            let is_done =
                read.is_err() || reading.builds.values().all(|build| matches!(build, Build::Known(_)));
            builds = std::mem::take(&mut reading.builds);
            if is_done {
                let mut found = reading.finish();
                if let Err(reason) = read {
                    found.unknown = Some(reason);
                }
                return found;
            }
        }
    }

    /// One that could not be read.
    pub fn unreadable(reason: String) -> InitrdContents {
        InitrdContents { unknown: Some(reason), ..InitrdContents::default() }
    }

    /// Forgets all other modules.
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

    /// What it says about a module of a kernel.
    pub fn find(&self, release: &str, module: &str) -> FoundInInitrd<'_> {
        match (self.modules.get(release).and_then(|m| m.get(&kernel_name(module))), &self.unknown) {
            (Some(module), _) => FoundInInitrd::Module(module),
            (None, Some(reason)) => FoundInInitrd::Unknown(reason),
            (None, None) => FoundInInitrd::Absent,
        }
    }

    /// The names of the modules of a kernel, as the kernel writes them.
    pub fn modules(&self, release: &str) -> impl Iterator<Item = &str> {
        self.modules.get(release).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// The kernel releases that it has modules of.
    pub fn releases(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Why there may be more in it than was found.
    pub fn unknown(&self) -> Option<&str> {
        self.unknown.as_deref()
    }
}

struct ContentsReading<'w> {
    wanted: &'w BTreeSet<String>,
    found: InitrdContents,
    /// Further files of modules that are there already: release, name, module.
    again: Vec<(String, String, InitrdModule)>,
    /// `modules.dep` of each release; it is often behind the modules.
    indexes: BTreeMap<String, Vec<u8>>,
    /// What is known of the large modules, by their number among all entries.
    builds: BTreeMap<usize, Build>,
    /// Of the entry.
    number: usize,
}

/// A large module.
enum Build {
    /// Another one is read first: they are held in memory one at a time.
    Waiting,
    Reading(ModuleReading),
    Known(Result<ModuleBuild, String>),
}

type Member<'b, 'r> = Limited<'b, &'r mut (dyn BufRead + 'r)>;

impl ContentsReading<'_> {
    fn visit(&mut self, entry: &mut ArchiveEntry<'_, Member<'_, '_>>) -> Result<(), String> {
        self.number += 1;
        let path = entry.name.trim_start_matches("./").trim_start_matches('/').to_owned();
        if entry.kind == EntryKind::Other {
            return Ok(());
        }
        let Some((release, below)) = below_modules(&path) else {
            if self.found.unknown.is_none() && IMAGES.iter().any(|ending| path.ends_with(ending)) {
                self.found.unknown = Some(format!("it holds {path}, a filesystem of its own"));
            }
            return Ok(());
        };
        if below == "modules.dep" && entry.size <= LARGEST_INDEX {
            let text = entry.read().map_err(|e| e.to_string())?;
            self.indexes.insert(release.to_owned(), text);
            return Ok(());
        }
        let Some(name) = module_file::stem(below).map(kernel_name) else { return Ok(()) };
        let build = if self.wanted.contains(&name) { Some(self.build(&path, entry)?) } else { None };
        let module = InitrdModule { path: path.clone(), build };
        let modules = self.found.modules.entry(release.to_owned()).or_default();
        match modules.get(&name) {
            // The same path again replaces the earlier file.
            Some(known) if known.path != path => self.again.push((release.to_owned(), name, module)),
            _ => drop(modules.insert(name, module)),
        }
        Ok(())
    }

    /// Which build a module is; the outer error is one of the archive.
    fn build(
        &mut self,
        path: &str,
        entry: &mut ArchiveEntry<'_, Member<'_, '_>>,
    ) -> Result<Result<ModuleBuild, String>, String> {
        if entry.kind == EntryKind::Symlink {
            return Ok(Err(format!("{path} is a symlink")));
        }
        if entry.size > MODULE {
            return Ok(Err(format!("{path} is larger than 512 MiB")));
        }
        let not_yet = || Ok(Err(format!("{path}: it is not read to its end")));
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
        entry.archive().budget().spend(reading.length()).map_err(|e| e.to_string())?;
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
        // Small ones are read as often as large ones ask for it.
        if reading.is_large() {
            self.builds.insert(self.number, Build::Known(known.clone()));
        }
        Ok(known)
    }

    /// Of several files of a module, that counts which `modules.dep` names.
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

/// The release, and the path below its module directory.
fn below_modules(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix("usr/").unwrap_or(path).strip_prefix("lib/modules/")?;
    path.split_once('/')
}

/// The path that `modules.dep` has for a module.
fn listed<'t>(text: &'t [u8], module: &str) -> Option<&'t str> {
    text.split(|b| *b == b'\n').find_map(|line| {
        let path = &line[..memchr::memchr(b':', line)?];
        let base = memchr::memrchr(b'/', path).map_or(0, |at| at + 1);
        is_file_of(&path[base..], module).then(|| std::str::from_utf8(path).ok())?
    })
}
