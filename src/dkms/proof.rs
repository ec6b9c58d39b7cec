//! The proof that a module is there for a kernel: every built file exists, was made for that kernel, and is the one
//! that modprobe will find.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::conf::BuiltModule;
use super::modfile::{self, ENDINGS, FileFacts};
use super::plan::built_folder;
use super::signature::Signature;
use super::{Cache, Conf, ModuleName, Stage};
use crate::kernel::inventory::module_folder;
use crate::sys::{Presence, Root};

/// Where Clear's and Debian's dkms install to, below the module folder.
pub const INSTALLED: &str = "updates/dkms";

/// One file that was found good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The path inside the root.
    pub path: String,
    /// Its vermagic; the first word is the kernel release.
    pub vermagic: String,
    /// Bytes.
    pub size: u64,
    /// Its signature; not in records of before this was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// What is wrong with a module on a kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "flaw")]
pub enum Flaw {
    /// No file of that name is installed.
    Missing {
        /// The name, without ending.
        name: String,
    },
    /// It is no module that can be read.
    Damaged {
        /// The path inside the root.
        path: String,
        /// Why.
        reason: String,
    },
    /// It was made for another kernel.
    Vermagic {
        /// The path inside the root.
        path: String,
        /// Its vermagic.
        found: String,
    },
    /// dkms has another version, or none, installed on this kernel: the file is not this module's.
    NotInstalled,
    /// It is not the file that this version's build made.
    Differs {
        /// The path inside the root.
        path: String,
    },
    /// `modules.dep` does not list it: modprobe does not find it.
    NotListed {
        /// The name, without ending.
        name: String,
        /// What `modules.dep` lists instead, if anything.
        instead: Option<String>,
    },
    /// It cannot be told.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::Missing { name } => write!(f, "{name}.ko is not installed"),
            Flaw::Damaged { path, reason } => write!(f, "{path} is no usable module: {reason}"),
            Flaw::Vermagic { path, found } => {
                let release = found.split_ascii_whitespace().next().unwrap_or_default();
                write!(f, "{path} was made for {release}")
            }
            Flaw::NotInstalled => f.write_str("dkms has not installed this version"),
            Flaw::Differs { path } => write!(f, "{path} is not the file that was built"),
            Flaw::NotListed { name, instead: None } => write!(f, "modules.dep does not list {name}"),
            Flaw::NotListed { name, instead: Some(path) } => {
                write!(f, "modules.dep lists {path} for {name}")
            }
            Flaw::Unknown { reason } => f.write_str(reason),
        }
    }
}

/// Which file modprobe takes for which module of a kernel: `modules.dep` and `modules.dep.bin`, read once.
#[derive(Debug, Default)]
pub struct Index {
    text: Vec<u8>,
    binary: Vec<u8>,
}

impl Index {
    /// Reads the index of a kernel; an absent one lists nothing.
    ///
    /// # Errors
    /// In words, when it is there and cannot be read.
    pub fn load(root: &Root, release: &str) -> Result<Index, String> {
        let path = format!("{}/modules.dep", module_folder(release));
        let read = |path: &str| root.read_optional(path).map_err(|e| e.to_string());
        Ok(Index {
            text: read(&path)?.unwrap_or_default(),
            binary: read(&format!("{path}.bin"))?.unwrap_or_default(),
        })
    }

    /// The files of some modules, by name with underscores.
    fn find<'a>(&self, names: &[&'a str]) -> BTreeMap<&'a str, String> {
        let mut found = BTreeMap::new();
        for line in self.text.split(|b| *b == b'\n') {
            let Some(end) = memchr::memchr(b':', line) else { continue };
            let path = &line[..end];
            let base = memchr::memrchr(b'/', path).map_or(0, |at| at + 1);
            for name in names {
                if is_file_of(&path[base..], name) {
                    found.insert(*name, String::from_utf8_lossy(path).into_owned());
                }
            }
        }
        found
    }

    /// Whether modprobe, which reads only the binary file, knows that path. It holds each line of the text as it is;
    /// the times of the two files tell nothing once one of them was copied or restored.
    fn modprobe_knows(&self, path: &str) -> bool {
        memchr::memmem::find(&self.binary, format!("{path}:").as_bytes()).is_some()
    }
}

/// Whether a file name is that of a module; dash and underscore are one letter, as for modprobe.
fn is_file_of(file: &[u8], module: &str) -> bool {
    let fold = |b: &u8| if *b == b'-' { b'_' } else { *b };
    file.len() > module.len()
        && file.iter().zip(module.as_bytes()).all(|(a, b)| fold(a) == fold(b))
        && ENDINGS.iter().any(|ending| &file[module.len()..] == ending.as_bytes())
}

/// Whether a file lies where only dkms puts files.
pub fn is_dkms_own(path: &str) -> bool {
    path.rsplit_once('/')
        .is_some_and(|(folder, _)| folder.ends_with("/updates/dkms") && !folder.contains("/../"))
}

/// The file of a built module in the kernel's folder: path inside the root, and what it is.
pub fn installed_file(root: &Root, release: &str, built: &BuiltModule) -> Option<(String, Presence)> {
    let folder = module_folder(release);
    let location = built.location.trim_matches('/');
    [INSTALLED, location].iter().find_map(|place| find_file(root, &format!("{folder}/{place}"), &built.name))
}

/// The file `NAME.ko*` in a folder, whatever it is.
pub fn find_file(root: &Root, folder: &str, name: &str) -> Option<(String, Presence)> {
    ENDINGS.iter().find_map(|ending| {
        let path = format!("{folder}/{name}{ending}");
        match root.lookup(&path) {
            Presence::Absent if !root.lookup_link(&path).is_there() => None,
            presence => Some((path, presence)),
        }
    })
}

/// What a module file says of itself, from the cache or from the file.
pub fn facts_of(root: &Root, cache: &mut Cache, path: &str, there: &Presence) -> Result<FileFacts, Flaw> {
    let stat = match there {
        Presence::There(stat) => stat,
        Presence::Absent => {
            return Err(Flaw::Damaged {
                path: path.to_owned(),
                reason: "it is a link that leads nowhere".to_owned(),
            });
        }
        Presence::Unreadable(e) => {
            return Err(Flaw::Unknown { reason: e.to_string() });
        }
    };
    if let Some(known) = cache.file(path, stat) {
        return Ok(known);
    }
    let bytes = root.read(path).map_err(|e| Flaw::Unknown { reason: e.to_string() })?;
    let facts = modfile::read(path, &bytes);
    cache.keep_file(path, stat, facts.clone());
    Ok(facts)
}

/// Checks one file against a kernel release; gives its vermagic.
///
/// # Errors
/// With what is wrong with it.
pub fn vermagic_of(facts: &FileFacts, release: &str, path: &str) -> Result<String, Flaw> {
    match &facts.vermagic {
        Err(reason) => Err(Flaw::Damaged { path: path.to_owned(), reason: reason.clone() }),
        Ok(found) if found.split_ascii_whitespace().next() == Some(release) => Ok(found.clone()),
        Ok(found) => Err(Flaw::Vermagic { path: path.to_owned(), found: found.clone() }),
    }
}

/// Whether every built file of a module in the DKMS tree is there and was made for the kernel.
pub fn built_files_good(
    root: &Root,
    cache: &mut Cache,
    module: &ModuleName,
    release: &str,
    conf: &Conf,
) -> bool {
    let folder = built_folder(module, release);
    !conf.built.is_empty()
        && conf.built.iter().all(|built| {
            find_file(root, &folder, &built.name).is_some_and(|(path, there)| {
                let facts = facts_of(root, cache, &path, &there);
                facts.and_then(|facts| vermagic_of(&facts, release, &path)).is_ok()
            })
        })
}

/// Proves all built modules of a module on one kernel.
///
/// # Errors
/// With every flaw that was found.
pub fn prove(
    root: &Root,
    cache: &mut Cache,
    module: &ModuleName,
    stage: Stage,
    release: &str,
    conf: &Conf,
    index: &Index,
) -> Result<Vec<Proof>, Vec<Flaw>> {
    let (mut proofs, mut flaws) = (Vec::new(), Vec::new());
    if conf.built.is_empty() {
        flaws.push(Flaw::Unknown { reason: "its dkms.conf names no module".to_owned() });
    }
    let names: Vec<&str> = conf.built.iter().map(|b| b.name.as_str()).collect();
    let listed = index.find(&names);
    for built in &conf.built {
        let Some((path, there)) = installed_file(root, release, built) else {
            flaws.push(Flaw::Missing { name: built.name.clone() });
            continue;
        };
        let size = there.stat().map_or(0, |s| s.size);
        let checked = facts_of(root, cache, &path, &there)
            .and_then(|facts| vermagic_of(&facts, release, &path).map(|vermagic| (facts, vermagic)));
        let (facts, vermagic) = match checked {
            Ok(good) => good,
            Err(flaw) => {
                flaws.push(flaw);
                continue;
            }
        };
        if stage != Stage::Installed {
            continue;
        }
        // dkms leaves an older version's file in place when a module has no version of its own, and says "installed".
        let made = find_file(root, &built_folder(module, release), &built.name)
            .and_then(|(path, there)| facts_of(root, cache, &path, &there).ok());
        match made {
            Some(made) if made.sha256 != facts.sha256 => {
                flaws.push(Flaw::Differs { path });
                continue;
            }
            // Outside of dkms's own folder it may be the kernel's own module of the same name.
            None if !is_dkms_own(&path) => {
                flaws.push(Flaw::Missing { name: built.name.clone() });
                continue;
            }
            _ => {}
        }
        let below = path.strip_prefix(&format!("{}/", module_folder(release))).unwrap_or(&path);
        match listed.get(built.name.as_str()) {
            Some(entry) if entry == below && index.modprobe_knows(entry) => {}
            Some(entry) if entry == below => flaws.push(Flaw::NotListed {
                name: built.name.clone(),
                instead: Some("something else in modules.dep.bin".to_owned()),
            }),
            other => flaws.push(Flaw::NotListed { name: built.name.clone(), instead: other.cloned() }),
        }
        proofs.push(Proof { path, vermagic, size, signature: Some(facts.signature) });
    }
    if stage != Stage::Installed && flaws.is_empty() {
        flaws.push(Flaw::NotInstalled);
    }
    if flaws.is_empty() { Ok(proofs) } else { Err(flaws) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_dep_is_read_by_whole_names() {
        let index = Index {
            text: b"kernel/a/hello.ko.zst:\nupdates/dkms/snd-x.ko: kernel/a/hello.ko.zst\nkernel/hello_more.ko:\n".to_vec(),
            binary: Vec::new(),
        };
        let found = index.find(&["hello", "snd_x", "more", "hell"]);
        assert_eq!(found.get("hello").map(String::as_str), Some("kernel/a/hello.ko.zst"));
        assert_eq!(found.get("snd_x").map(String::as_str), Some("updates/dkms/snd-x.ko"));
        assert_eq!(found.len(), 2);
    }
}
