//! Replaces the installed files of a module on a kernel as one set. At no time is a file that modprobe finds
//! missing, truncated or unproven.
//!
//! dkms overwrites the installed files in place, one after the other, and updates its link before the index.
//! Here a proven build is written next to the installed files under names that neither depmod nor dkms takes
//! for modules, the old files get a second name (a hard link, which needs no space and keeps their data), and
//! a journal describes what follows. Only then are the new files renamed into place. The index follows, then
//! the link of dkms, and finally the second names and the journal are removed. After an interruption at any
//! point, [`recover`] completes one version: the old one if it was proven, else the new one.
//!
//! depmod reads every file that ends in `.ko`, `.ko.zst` and so on, even in hidden directories (kmod 30), so
//! the temporary names end differently.

mod recover;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::dkms::modfile::{self, ENDINGS};
use crate::dkms::plan::build_directory;
use crate::dkms::proof::{INSTALLED, is_dkms_own};
use crate::dkms::tree::TREE;
use crate::dkms::{ModuleName, architecture};
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::stem;
use crate::limits::MODULE;
use crate::sys::{FileError, FileKind, Root};

pub use recover::recover;

/// The state directory of clr-dkms.
pub(in crate::dkms) const STATE: &str = "/var/lib/clr-dkms";
/// The prefix of the name of a journal. There is one for each module and kernel.
const JOURNAL: &str = "replacing-";

/// A file with the checksum of its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownFile {
    path: String,
    sha256: String,
}

/// The new files of a module on a kernel, and the files that they replace. This is also the format of the
/// journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    module: ModuleName,
    release: String,
    new: Vec<KnownFile>,
    /// All files with these names, with any ending.
    old: Vec<KnownFile>,
    /// The old files are proven, so they may be restored.
    old_proven: bool,
    /// The previous text of the link of dkms.
    claim: Option<String>,
    /// A POST_INSTALL script must still run.
    pub post_install: bool,
}

/// How an interrupted replacement is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Only the clean-up is left.
    Finish,
    /// The old files are proven and exist.
    Back,
    /// The new files exist.
    Forward,
    /// Neither set is complete.
    None,
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn beside(path: &str, what: &str) -> String {
    let (directory, name) = split(path);
    format!("{directory}/.tmp_{name}_{what}")
}

/// The second name of an old file.
fn backup(path: &str) -> String {
    beside(path, "aside")
}

/// The temporary name of a new file.
fn staged(path: &str) -> String {
    beside(path, "new")
}

/// The final name of a file with a temporary or second name; none for a foreign file.
pub fn name_before(name: &str) -> Option<&str> {
    let name = name.strip_prefix(".tmp_")?;
    name.strip_suffix("_aside").or_else(|| name.strip_suffix("_new"))
}

fn contents(root: &Root, path: &str) -> Option<String> {
    // A file that cannot be read is not the expected one.
    modfile::sha256(root, path).ok()
}

fn has(root: &Root, path: &str, sha256: &str) -> bool {
    contents(root, path).as_deref() == Some(sha256)
}

impl Replacement {
    /// Writes the new files, gives the old ones their second names, and writes the journal. All space that is
    /// needed is allocated afterwards. `files` are the paths of built files and their destinations.
    ///
    /// # Errors
    ///
    /// If there is not enough space, or something cannot be read. Nothing has changed then.
    pub(in crate::dkms) fn stage(
        root: &Root,
        module: &ModuleName,
        release: &str,
        files: &[(String, String)],
        old_proven: bool,
        post_install: bool,
    ) -> Result<Replacement, FileError> {
        let claim = match root.read_link(claim_path(module, release)) {
            Ok(text) => Some(text),
            // Going back would remove a link that the journal does not contain.
            Err(e) if e.leaves_open() => return Err(e),
            // Absent, or not a symlink.
            Err(_) => None,
        };
        let mut set = Replacement {
            module: module.clone(),
            release: release.to_owned(),
            new: Vec::new(),
            old: Vec::new(),
            old_proven,
            claim: claim.and_then(|text| text.to_str().map(str::to_owned)),
            post_install,
        };
        let staged = files.iter().try_for_each(|(built, path)| set.add(root, built, path));
        let done = staged.and_then(|()| root.write_json(set.journal(), &set).map(drop));
        done.inspect_err(|_| set.remove_traces(root)).map(|()| set)
    }

    fn add(&mut self, root: &Root, built: &str, path: &str) -> Result<(), FileError> {
        root.remove_tree(staged(path))?;
        root.copy(built, staged(path), 0o644, MODULE)?;
        self.new.push(KnownFile { path: path.to_owned(), sha256: modfile::sha256(root, &staged(path))? });
        let (directory, name) = split(path);
        for ending in ENDINGS {
            let old = format!("{directory}/{}{ending}", stem(name).unwrap_or(name));
            match root.lookup_link(&old).known()?.map(|stat| stat.kind) {
                None => {}
                Some(FileKind::Directory) => {
                    // A directory is not a module, and a file cannot replace it.
                    root.remove_tree(backup(&old))?;
                    root.rename(&old, split(&backup(&old)).1)?;
                }
                Some(_) => {
                    root.remove_tree(backup(&old))?;
                    root.hard_link(&old, split(&backup(&old)).1)?;
                    self.keep_original(root, &old)?;
                    // Contents that cannot be read cannot be restored.
                    let sha256 = contents(root, &old).unwrap_or_default();
                    self.old.push(KnownFile { path: old, sha256 });
                }
            }
        }
        Ok(())
    }

    /// dkms archives a module of the kernel before it replaces it, and restores it on removal. In its own
    /// directory it replaces no file of the kernel, and depmod prefers that directory.
    fn keep_original(&self, root: &Root, path: &str) -> Result<(), FileError> {
        if self.claim.is_some() || is_dkms_own(path) {
            return Ok(());
        }
        let (name, release, own) = (&self.module.name, &self.release, architecture());
        let archive = format!("{TREE}/{name}/original_module/{release}/{own}/{}", split(path).1);
        root.copy(path, archive, 0o644, MODULE).map(drop)
    }

    fn journal(&self) -> String {
        format!("{STATE}/{JOURNAL}{}@{}.json", self.module.name, self.release)
    }

    /// The old files may be restored.
    pub fn can_go_back(&self) -> bool {
        self.old_proven && !self.old.is_empty()
    }

    /// Old files that still exist next to the new ones. The next index must leave them out.
    pub fn superseded(&self) -> impl Iterator<Item = &str> {
        let is_new = |path: &str| self.new.iter().any(|new| new.path == path);
        self.old.iter().map(|old| old.path.as_str()).filter(move |path| !is_new(path))
    }

    /// Renames all new files into place.
    ///
    /// # Errors
    ///
    /// If one cannot be renamed. The old files are then restored, as far as possible.
    pub(in crate::dkms) fn switch(&self, root: &Root) -> Result<(), FileError> {
        let rename = |new: &KnownFile| root.rename(staged(&new.path), split(&new.path).1);
        let done = self.new.iter().try_for_each(|new| rename(new).map(drop)).and_then(|()| self.sync(root));
        done.inspect_err(|_| self.go_back(root))
    }

    fn sync(&self, root: &Root) -> Result<(), FileError> {
        let directories: BTreeSet<&str> = self.new.iter().map(|new| split(&new.path).0).collect();
        directories.into_iter().try_for_each(|directory| root.sync_directory(directory))
    }

    /// Creates the link of dkms, which then reports the module as installed.
    ///
    /// # Errors
    ///
    /// If it cannot be created.
    pub fn claim(&self, root: &Root) -> Result<(), FileError> {
        let text = format!("{}/{}/{}", self.module.version, self.release, architecture());
        root.link(claim_path(&self.module, &self.release), text.as_ref()).map(drop)
    }

    /// Records that the script has run: only the clean-up is left.
    pub fn post_install_done(&mut self, root: &Root) {
        self.post_install = false;
        if let Err(e) = root.write_json(self.journal(), self) {
            tracing::warn!("{e}; after an interruption the POST_INSTALL script is run again");
        }
    }

    /// Completes the replacement: the new files stay.
    pub fn finish(&self, root: &Root) {
        for path in self.superseded() {
            remove(root, path);
        }
        settle_build(root, &build_directory(&self.module, &self.release), true);
        self.remove_traces(root);
    }

    /// Restores the old files, the link, and the build that was set aside.
    pub fn go_back(&self, root: &Root) {
        // A backup that cannot be read now must not be taken for one that is not needed.
        if let Err(e) = self.can_be_read(root) {
            tracing::warn!("{e}; the next run goes on from here");
            return;
        }
        for old in &self.old {
            let kept = backup(&old.path);
            if self.old_proven
                && has(root, &kept, &old.sha256)
                && let Err(e) = root.rename(&kept, split(&old.path).1)
            {
                tracing::warn!("{e}; the next run goes on from here");
                return;
            }
        }
        for new in self.new.iter().filter(|new| !self.old.iter().any(|old| old.path == new.path)) {
            if has(root, &new.path, &new.sha256) {
                remove(root, &new.path);
            }
        }
        let link = claim_path(&self.module, &self.release);
        let claimed = match &self.claim {
            Some(text) => root.link(&link, text.as_ref()).map(drop),
            None => root.remove(&link).map(drop),
        };
        if let Err(e) = claimed.and_then(|()| self.sync(root)) {
            tracing::warn!("{e}; the next run goes on from here");
            return;
        }
        settle_build(root, &build_directory(&self.module, &self.release), false);
        self.remove_traces(root);
    }

    fn remove_traces(&self, root: &Root) {
        // The journal goes last: without it a second name could not be recognised.
        let staged = self.new.iter().map(|new| staged(&new.path));
        let backups = self.new.iter().flat_map(|new| {
            let (directory, name) = split(&new.path);
            let stem = stem(name).unwrap_or(name);
            ENDINGS.map(|ending| backup(&format!("{directory}/{stem}{ending}")))
        });
        for path in staged.chain(backups).chain([self.journal()]) {
            remove(root, &path);
        }
    }

    fn way(&self, root: &Root) -> Way {
        let there = |known: &KnownFile, second: &dyn Fn(&str) -> String| {
            has(root, &known.path, &known.sha256) || has(root, &second(&known.path), &known.sha256)
        };
        let in_place = self.new.iter().all(|new| has(root, &new.path, &new.sha256));
        let text = format!("{}/{}/{}", self.module.version, self.release, architecture());
        let link = root.read_link(claim_path(&self.module, &self.release));
        // A link that cannot be read does not name this build.
        if in_place && !self.post_install && link.is_ok_and(|link| link.as_os_str() == text.as_str()) {
            Way::Finish
        } else if self.can_go_back() && self.old.iter().all(|old| there(old, &backup)) {
            Way::Back
        } else if self.new.iter().all(|new| there(new, &staged)) {
            Way::Forward
        } else {
            Way::None
        }
    }

    /// Completes one version.
    fn recover(&self, root: &Root) {
        if let Err(e) = self.can_be_read(root) {
            tracing::error!("{e}; what was left of an interrupted installation stays as it is");
            return;
        }
        let (module, release) = (&self.module, &self.release);
        let way = self.way(root);
        match way {
            Way::Finish => self.finish(root),
            Way::Back => self.go_back(root),
            Way::Forward => {
                let switched = self.new.iter().try_for_each(|new| {
                    let there = has(root, &new.path, &new.sha256);
                    if there { Ok(()) } else { root.rename(staged(&new.path), split(&new.path).1).map(drop) }
                });
                // Without the link the module is installed again, and its script runs then.
                let claimed = |()| match self.post_install {
                    true => root.remove(claim_path(module, release)).map(drop),
                    false => self.claim(root),
                };
                match switched.and_then(claimed) {
                    Ok(()) => self.finish(root),
                    Err(e) => tracing::warn!("{e}; the next run goes on from here"),
                }
            }
            Way::None => self.remove_traces(root),
        }
        tracing::warn!(
            "{module} on {release}: an interrupted installation was {}",
            match way {
                Way::Finish | Way::Forward => "completed",
                Way::Back => "rolled back",
                Way::None => "given up: neither set of files is whole",
            }
        );
    }
}

/// The link of dkms that shows the installed version on a kernel.
pub(in crate::dkms) fn claim_path(module: &ModuleName, release: &str) -> String {
    format!("{TREE}/{}/kernel-{release}-{}", module.name, architecture())
}

fn remove(root: &Root, path: &str) {
    if let Err(e) = root.remove_tree(path) {
        tracing::warn!("{e}; the next run removes it");
    }
}

/// Sets a build in the DKMS tree aside until a new one is complete.
///
/// # Errors
///
/// If it cannot be renamed. It is then unchanged.
pub(in crate::dkms) fn set_build_aside(root: &Root, path: &str) -> Result<(), FileError> {
    // The leftover of an interrupted run is older than this build.
    root.remove_tree(backup(path))?;
    root.rename(path, split(&backup(path)).1).map(drop)
}

/// Restores a build that was set aside, or removes it if there is a new one.
pub(in crate::dkms) fn settle_build(root: &Root, path: &str, superseded: bool) {
    let kept = backup(path);
    // What cannot be looked at stays. The next run goes on from there.
    if !root.lookup_link(&kept).is_there() {
        return;
    }
    let result = if superseded {
        root.remove_tree(&kept)
    } else {
        root.remove_tree(path).and_then(|_| root.rename(&kept, split(path).1))
    };
    if let Err(e) = result {
        tracing::warn!("{e}; the next run goes on from here");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::RootKind;

    const FILES: [&str; 2] = ["left.ko", "right.ko.zst"];

    fn installed(name: &str) -> String {
        format!("{}/{INSTALLED}/{name}", module_directory("K"))
    }

    /// Whatever was renamed before the interruption, and whether or not the old files were proven: afterwards
    /// all files and the link belong to one version, and no temporary file is left.
    #[test]
    fn no_interruption_leaves_a_mixture() {
        let module = ModuleName { name: "pair".to_owned(), version: "2".to_owned() };
        for case in 0..32 {
            let is = |bit: u32| case >> bit & 1 == 1;
            let (switched, claimed, proven, script) = ([is(0), is(1)], is(2), is(3), is(4));
            let directory = tempfile::tempdir().unwrap();
            let root = Root::open(RootKind::Image, directory.path()).unwrap();
            let link = claim_path(&module, "K");
            root.link(&link, format!("1/K/{}", architecture()).as_ref()).unwrap();
            let files = FILES.map(|name| (format!("/built/{name}"), installed(name)));
            for (built, path) in &files {
                root.write(built, b"new", 0o644).unwrap();
                root.write(path, b"old", 0o644).unwrap();
            }
            let set = Replacement::stage(&root, &module, "K", &files, proven, script).unwrap();
            for (new, switched) in set.new.iter().zip(switched) {
                if switched {
                    root.rename(staged(&new.path), split(&new.path).1).unwrap();
                }
            }
            if claimed {
                set.claim(&root).unwrap();
            }
            let stale = recover(&root, &[]);
            assert_eq!(stale, Some(BTreeSet::from(["K".to_owned()])), "{case}");
            let there = FILES.map(|name| root.read(installed(name)).unwrap());
            assert_eq!(there[0], there[1], "{case}: a mixture");
            let is_complete = switched == [true, true] && claimed && !script;
            let is_new = there[0] == b"new";
            assert_eq!(is_new, is_complete || !proven, "{case}");
            // If a script must still run, the module must be installed again.
            let version = root.read_link(&link).ok().map(|text| text.iter().next().unwrap().to_owned());
            let expected = if is_new { Some("2").filter(|_| !script) } else { Some("1") };
            assert_eq!(version.as_deref(), expected.map(AsRef::as_ref), "{case}");
            let left = root.list(module_directory("K") + "/" + INSTALLED).unwrap();
            assert_eq!((left.len(), root.list(STATE).unwrap().len()), (2, 0), "{case}: {left:?}");
            assert_eq!(recover(&root, &[]), None, "{case}");
        }
    }

    /// A file that cannot be read at the moment may be the only complete one.
    #[test]
    fn a_file_that_cannot_be_read_is_not_given_up() {
        let module = ModuleName { name: "pair".to_owned(), version: "2".to_owned() };
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        let files = FILES.map(|name| (format!("/built/{name}"), installed(name)));
        for (built, path) in &files {
            root.write(built, b"new", 0o644).unwrap();
            root.write(path, b"old", 0o644).unwrap();
        }
        Replacement::stage(&root, &module, "K", &files, true, false).unwrap();
        let hidden = staged(&files[0].1);
        root.link(&hidden, split(&hidden).1.as_ref()).unwrap();
        let before = root.list(module_directory("K") + "/" + INSTALLED).unwrap();
        recover(&root, &[]);
        assert_eq!(root.list(module_directory("K") + "/" + INSTALLED).unwrap(), before);
        assert_eq!(root.list(STATE).unwrap().len(), 1, "the journal stays");
        root.remove(&hidden).unwrap();
        recover(&root, &[]);
        assert_eq!(root.read(&files[0].1).unwrap(), b"old");
        assert!(root.list(STATE).unwrap().is_empty());
    }
}
