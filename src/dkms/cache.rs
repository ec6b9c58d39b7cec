//! A cache of facts that are expensive to get and depend on file contents only: evaluated `dkms.conf` files,
//! facts about module files, and findings in kernel images. Losing it only costs time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::DkmsConf;
use super::conf::ConfError;
use super::modfile::FileFacts;
use super::own_versions::NotShown;
use super::symbols::Wrong;
use crate::initrd::InitrdContents;
use crate::limits::{RECORD, has_too_many_values};
use crate::sys::{FileError, Root, Stat};

/// The path of the cache.
pub const CACHE: &str = "/var/cache/clr-dkms/facts.json";
/// Increased when the meaning of a field or a limit of module files changes: older caches are then discarded.
const SCHEMA: u32 = 13;

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Contents {
    schema: u32,
    confs: BTreeMap<String, Result<DkmsConf, ConfError>>,
    /// The facts about module files, and what was found out about their symbols.
    files: BTreeMap<String, Known<(FileFacts, Option<CheckedSymbols>)>>,
    /// Module files beyond a limit. Finding that out may take seconds of unpacking.
    too_large: BTreeMap<String, Known<String>>,
    /// Whether kernel images contain the name of the parameter; none if one could not be read.
    images: BTreeMap<String, Known<Option<bool>>>,
    /// The version of dkms.
    dkms: Option<Known<Option<String>>>,
    /// The modules that initrds were searched for, and what was found.
    initrds: BTreeMap<String, Known<(BTreeSet<String>, InitrdContents)>>,
    /// By kernel release: the inputs of the initrd that was made last.
    initrds_made: BTreeMap<String, String>,
}

/// What is known of a file as long as its identity is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known<T> {
    identity: String,
    value: T,
}

impl<T> Known<T> {
    fn new(stat: &Stat, value: T) -> Known<T> {
        Known { identity: identity(stat), value }
    }
}

fn known<'k, T>(all: &'k BTreeMap<String, Known<T>>, path: &str, stat: &Stat) -> Option<&'k T> {
    all.get(path).filter(|known| known.identity == identity(stat)).map(|known| &known.value)
}

/// What was found out about the symbols that a module takes: whether they agree, or that the kernel does not
/// show it.
type SymbolAnswer = Result<Result<(), Wrong>, NotShown>;
/// The identity of everything that the symbols were compared with, and the answer.
type CheckedSymbols = (String, SymbolAnswer);

/// The cache, and which of its entries were used.
#[derive(Debug, Default)]
pub struct Cache {
    contents: Contents,
    used: BTreeSet<String>,
    /// Something was added or removed since the cache was read.
    changed: bool,
}

impl Cache {
    /// Reads the cache. If it is missing or damaged, an empty one takes its place.
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

    /// Forgets which entries were used: the disk has changed, and only entries that are used from here on are
    /// kept.
    pub fn start_over(&mut self) {
        self.used.clear();
    }

    /// Writes the entries that were used, if they differ from those that were read.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
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

    /// The evaluated file with this key.
    pub fn conf(&mut self, key: &str) -> Option<Result<DkmsConf, ConfError>> {
        self.used.insert(key.to_owned());
        self.contents.confs.get(key).cloned()
    }

    /// Adds an evaluated file, or the reason why it could not be evaluated.
    pub fn keep_conf(&mut self, key: String, conf: Result<DkmsConf, ConfError>) {
        self.contents.confs.insert(key, conf);
        self.changed = true;
    }

    /// Removes the files that could not be evaluated.
    pub fn forget_failures(&mut self) {
        let before = self.contents.confs.len();
        // All of them are evaluated again, whatever the reason was.
        self.contents.confs.retain(|_, conf| conf.is_ok());
        self.changed |= self.contents.confs.len() != before;
    }

    /// The facts about a module file, if the file is unchanged.
    pub fn file(&mut self, path: &str, stat: &Stat) -> Option<FileFacts> {
        self.used.insert(path.to_owned());
        known(&self.contents.files, path, stat).map(|(facts, _)| facts.clone())
    }

    /// Why an unchanged module file is beyond a limit.
    pub fn too_large(&self, path: &str, stat: &Stat) -> Option<String> {
        known(&self.contents.too_large, path, stat).cloned()
    }

    /// Records that a module file is beyond a limit.
    pub fn keep_too_large(&mut self, path: &str, stat: &Stat, reason: String) {
        self.used.insert(path.to_owned());
        self.contents.too_large.insert(path.to_owned(), Known::new(stat, reason));
        self.changed = true;
    }

    /// The version of the dkms program with this identity; `look` determines it if it is not cached.
    pub fn dkms_version(&mut self, identity: &str, look: impl FnOnce() -> Option<String>) -> Option<String> {
        if self.contents.dkms.as_ref().is_none_or(|known| known.identity != identity) {
            self.contents.dkms = Some(Known { identity: identity.to_owned(), value: look() });
            self.changed = true;
        }
        self.contents.dkms.as_ref().and_then(|known| known.value.clone())
    }

    /// Whether a kernel image contains the name of the parameter; `look` determines it if it is not cached. A
    /// failed read is not cached.
    pub fn image(
        &mut self,
        path: &str,
        stat: &Stat,
        look: impl FnOnce() -> anyhow::Result<Option<bool>>,
    ) -> Option<bool> {
        self.used.insert(path.to_owned());
        if let Some(patched) = known(&self.contents.images, path, stat) {
            return *patched;
        }
        // An image that cannot be read leaves it unknown, and is not remembered.
        let patched = look().ok()?;
        self.contents.images.insert(path.to_owned(), Known::new(stat, patched));
        self.changed = true;
        patched
    }

    /// Which of the modules in `wanted` an initrd contains; `look` determines it if it is not cached. A
    /// failed read is not cached.
    pub fn initrd(
        &mut self,
        path: &str,
        stat: &Stat,
        wanted: &BTreeSet<String>,
        look: impl FnOnce() -> Result<InitrdContents, FileError>,
    ) -> InitrdContents {
        self.used.insert(path.to_owned());
        let before = known(&self.contents.initrds, path, stat);
        if let Some((_, contents)) = before.filter(|(searched, _)| wanted.is_subset(searched)) {
            return contents.clone();
        }
        match look() {
            Ok(mut contents) => {
                contents.retain(wanted);
                let found = Known::new(stat, (wanted.clone(), contents.clone()));
                self.contents.initrds.insert(path.to_owned(), found);
                self.changed = true;
                contents
            }
            Err(reason) => InitrdContents::unreadable(reason.to_string()),
        }
    }

    /// Records the inputs of the initrd that is made now. Returns whether they differ from the recorded ones.
    pub fn is_new_initrd(&mut self, release: &str, inputs: &str) -> bool {
        let before = self.contents.initrds_made.insert(release.to_owned(), inputs.to_owned());
        let is_new = before.as_deref() != Some(inputs);
        self.changed |= is_new;
        is_new
    }

    /// Adds the facts about a module file.
    pub fn keep_file(&mut self, path: &str, stat: &Stat, facts: FileFacts) {
        self.contents.files.insert(path.to_owned(), Known::new(stat, (facts, None)));
        self.changed = true;
    }

    /// Whether the symbols that a module file needs are available; `look` determines it if it is not cached.
    /// `inputs` is the identity of everything that they are compared with.
    ///
    /// # Errors
    ///
    /// As `look`. An error is not cached, unless it is a [`NotShown`].
    pub fn symbols(
        &mut self,
        path: &str,
        stat: &Stat,
        inputs: &str,
        look: impl FnOnce() -> anyhow::Result<Result<(), Wrong>>,
    ) -> anyhow::Result<Result<(), Wrong>> {
        let known = self.contents.files.get_mut(path).filter(|e| e.identity == identity(stat));
        match known.as_ref().and_then(|known| known.value.1.as_ref()) {
            Some((compared, answer)) if compared == inputs => answer.clone().map_err(Into::into),
            _ => {
                let answer: SymbolAnswer = match look() {
                    Ok(answer) => Ok(answer),
                    Err(e) => Err(e.downcast::<NotShown>()?),
                };
                // A missing symbol is checked again: a module that is not among the inputs may export it by
                // now.
                if let (Some(known), false) = (known, matches!(answer, Ok(Err(Wrong::Missing(_))))) {
                    known.value.1 = Some((inputs.to_owned(), answer.clone()));
                    self.changed = true;
                }
                answer.map_err(Into::into)
            }
        }
    }
}

/// Every change of the contents changes the ctime, which no program can reset.
pub(super) fn identity(stat: &Stat) -> String {
    format!("{} {} {} {}", stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns)
}
