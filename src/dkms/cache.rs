//! What is dear to find out and follows from contents alone: evaluated `dkms.conf`s, what module files say of
//! themselves, and what is found in kernel images. Losing it costs time only.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::DkmsConf;
use super::conf::ConfError;
use super::modfile::FileFacts;
use super::symbols::Wrong;
use crate::initrd::InitrdContents;
use crate::limits::{RECORD, has_too_many_values};
use crate::sys::{FileError, Root, Stat};

/// Where it lies.
pub const CACHE: &str = "/var/cache/clr-dkms/facts.json";
/// Changed whenever the meaning of a field, or a limit of module files, changes: an old cache is then
/// forgotten.
const SCHEMA: u32 = 11;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    schema: u32,
    confs: BTreeMap<String, Result<DkmsConf, ConfError>>,
    files: BTreeMap<String, CacheEntry>,
    /// Module files beyond a limit, each of which may take seconds to unpack so far.
    #[serde(default)]
    too_large: BTreeMap<String, TooLargeFile>,
    #[serde(default)]
    images: BTreeMap<String, Image>,
    #[serde(default)]
    dkms: Option<Program>,
    #[serde(default)]
    initrds: BTreeMap<String, CachedInitrd>,
    /// For what an initrd was made last, by kernel release.
    #[serde(default)]
    initrds_made: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TooLargeFile {
    identity: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CachedInitrd {
    identity: String,
    /// The modules that it was looked through for.
    wanted: BTreeSet<String>,
    contents: InitrdContents,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Program {
    identity: String,
    version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    identity: String,
    /// It holds the parameter's name; none when it could not be looked into.
    patched: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct CacheEntry {
    identity: String,
    facts: FileFacts,
    /// What was found out about its symbols, with the identity of what they were compared with.
    symbols: Option<(String, Result<(), Wrong>)>,
}

/// The cache, and what of it was used.
#[derive(Debug, Default)]
pub struct Cache {
    contents: Contents,
    used: BTreeSet<String>,
    /// Something was found out, or forgotten, since it was read.
    changed: bool,
}

impl Cache {
    /// Reads it; whatever is wrong with it, an empty one serves too.
    pub fn load(root: &Root) -> Cache {
        let contents = root
            .read_within(CACHE, RECORD)
            .ok()
            .filter(|bytes| !has_too_many_values(bytes))
            .and_then(|bytes| serde_json::from_slice::<Contents>(&bytes).ok())
            .filter(|c| c.schema == SCHEMA);
        let changed = contents.is_none();
        Cache { contents: contents.unwrap_or_default(), changed, ..Cache::default() }
    }

    /// What was used until now was used of a disk that has changed: only what is used from here on is kept.
    pub fn start_over(&mut self) {
        self.used.clear();
    }

    /// Writes what was used, when that is not what was read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&mut self, root: &Root) -> Result<(), FileError> {
        let used = &self.used;
        let kept = &mut self.contents;
        let count = |kept: &Contents| {
            let files = kept.files.len() + kept.too_large.len();
            kept.confs.len() + files + kept.images.len() + kept.initrds.len()
        };
        let before = count(kept);
        kept.schema = SCHEMA;
        kept.confs.retain(|key, _| used.contains(key));
        kept.files.retain(|path, _| used.contains(path));
        kept.too_large.retain(|path, _| used.contains(path));
        kept.images.retain(|path, _| used.contains(path));
        kept.initrds.retain(|path, _| used.contains(path));
        if !self.changed && count(kept) == before {
            return Ok(());
        }
        root.write_json(CACHE, &self.contents).map(|_| ())
    }

    /// The evaluated file of that key.
    pub fn conf(&mut self, key: &str) -> Option<Result<DkmsConf, ConfError>> {
        self.used.insert(key.to_owned());
        self.contents.confs.get(key).cloned()
    }

    /// Keeps an evaluated file, or that it cannot be.
    pub fn keep_conf(&mut self, key: String, conf: Result<DkmsConf, ConfError>) {
        self.contents.confs.insert(key, conf);
        self.changed = true;
    }

    /// Forgets files that could not be evaluated.
    pub fn forget_failures(&mut self) {
        let before = self.contents.confs.len();
        self.contents.confs.retain(|_, conf| conf.is_ok());
        self.changed |= self.contents.confs.len() != before;
    }

    /// What is known of a module file that still is the same one.
    pub fn file(&mut self, path: &str, stat: &Stat) -> Option<FileFacts> {
        self.used.insert(path.to_owned());
        self.contents.files.get(path).filter(|e| e.identity == identity(stat)).map(|e| e.facts.clone())
    }

    /// Why a module file that still is the same one is beyond a limit.
    pub fn too_large(&self, path: &str, stat: &Stat) -> Option<String> {
        self.contents.too_large.get(path).filter(|e| e.identity == identity(stat)).map(|e| e.reason.clone())
    }

    /// Keeps that a module file is beyond a limit.
    pub fn keep_too_large(&mut self, path: &str, stat: &Stat, reason: String) {
        self.used.insert(path.to_owned());
        self.contents.too_large.insert(path.to_owned(), TooLargeFile { identity: identity(stat), reason });
        self.changed = true;
    }

    /// The version of the dkms program with that identity, as `look` finds it out.
    pub fn dkms_version(&mut self, identity: &str, look: impl FnOnce() -> Option<String>) -> Option<String> {
        if self.contents.dkms.as_ref().is_none_or(|known| known.identity != identity) {
            self.contents.dkms = Some(Program { identity: identity.to_owned(), version: look() });
            self.changed = true;
        }
        self.contents.dkms.as_ref().and_then(|known| known.version.clone())
    }

    /// Whether a kernel image holds the parameter's name, as `look` finds it out; that it could not be read is not kept.
    pub fn image(
        &mut self,
        path: &str,
        stat: &Stat,
        look: impl FnOnce() -> Result<Option<bool>, String>,
    ) -> Option<bool> {
        self.used.insert(path.to_owned());
        let identity = identity(stat);
        match self.contents.images.get(path) {
            Some(known) if known.identity == identity => known.patched,
            _ => {
                let patched = look().ok()?;
                self.contents.images.insert(path.to_owned(), Image { identity, patched });
                self.changed = true;
                patched
            }
        }
    }

    /// What an initrd holds of the modules in `wanted`, as `look` finds it out; that it could not be read is not kept.
    pub fn initrd(
        &mut self,
        path: &str,
        stat: &Stat,
        wanted: &BTreeSet<String>,
        look: impl FnOnce() -> Result<InitrdContents, String>,
    ) -> InitrdContents {
        self.used.insert(path.to_owned());
        let identity = identity(stat);
        let known = self.contents.initrds.get(path);
        if let Some(known) = known.filter(|k| k.identity == identity && wanted.is_subset(&k.wanted)) {
            return known.contents.clone();
        }
        match look() {
            Ok(mut contents) => {
                contents.retain(wanted);
                let kept = CachedInitrd { identity, wanted: wanted.clone(), contents: contents.clone() };
                self.contents.initrds.insert(path.to_owned(), kept);
                self.changed = true;
                contents
            }
            Err(reason) => InitrdContents::unreadable(reason),
        }
    }

    /// Whether no initrd was made for a kernel with these inputs before; from now on one was.
    pub fn is_new_initrd(&mut self, release: &str, inputs: &str) -> bool {
        let before = self.contents.initrds_made.insert(release.to_owned(), inputs.to_owned());
        let is_new = before.as_deref() != Some(inputs);
        self.changed |= is_new;
        is_new
    }

    /// Keeps what was read from a module file.
    pub fn keep_file(&mut self, path: &str, stat: &Stat, facts: FileFacts) {
        self.contents
            .files
            .insert(path.to_owned(), CacheEntry { identity: identity(stat), facts, symbols: None });
        self.changed = true;
    }

    /// Whether the symbols of a module file, whose facts are known, are there: as `look` finds it out. `inputs` is the
    /// identity of what they are compared with.
    ///
    /// # Errors
    /// As `look`; that is not kept.
    pub fn symbols(
        &mut self,
        path: &str,
        stat: &Stat,
        inputs: &str,
        look: impl FnOnce() -> Result<Result<(), Wrong>, String>,
    ) -> Result<Result<(), Wrong>, String> {
        let known = self.contents.files.get_mut(path).filter(|e| e.identity == identity(stat));
        match known.as_ref().and_then(|e| e.symbols.as_ref()) {
            Some((compared, answer)) if compared == inputs => Ok(answer.clone()),
            _ => {
                let answer = look()?;
                // Another module, which is none of the inputs, may bring what is missing.
                if let (Some(known), false) = (known, matches!(answer, Err(Wrong::Missing(_)))) {
                    known.symbols = Some((inputs.to_owned(), answer.clone()));
                    self.changed = true;
                }
                Ok(answer)
            }
        }
    }
}

/// Any change of the bytes changes the ctime, which no program can set back.
pub(super) fn identity(stat: &Stat) -> String {
    format!("{} {} {} {}", stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns)
}
