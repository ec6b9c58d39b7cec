//! Takes a foreign source apart into a scratch directory: a directory, a git checkout, an archive or a
//! package. Nothing of it is run, and nothing is written elsewhere.

mod archive;
mod checkout;
mod extract;
mod rpm;

use std::path::{Path, PathBuf};

pub use archive::Format;
pub use checkout::GitVersion;
pub use extract::{EntryFault, UnpackError};

use crate::sys::{FileKind, Presence, Root, RootKind, Tools};
use checkout::Checkout;
use extract::{Entry, Extraction};

/// The directory in the scratch root that a source is unpacked to.
pub const SOURCE: &str = "/source";
/// The parts of an archive that `dkms mktarball` made.
const MKTARBALL_SOURCE: &str = "dkms_source_tree";
const MKTARBALL_BINARIES: &str = "dkms_binaries_only";
const MKTARBALL_BUILT: &str = "dkms_main_tree";
/// The data of git, which are not part of a source.
const GIT: &str = ".git";

/// What a source turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A directory, all of whose files were taken.
    Directory,
    /// A git checkout, of which the files were taken that git tracks.
    Checkout,
    /// An archive or a package.
    Archive(Format),
    /// An archive of `dkms mktarball`.
    Mktarball,
}

impl std::fmt::Display for SourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SourceKind::Directory => f.write_str("directory"),
            SourceKind::Checkout => f.write_str("git checkout"),
            SourceKind::Archive(Format::Tar(compression)) => write!(f, "tar archive ({compression})"),
            SourceKind::Archive(Format::Zip) => f.write_str("zip archive"),
            SourceKind::Archive(Format::Deb) => f.write_str("Debian package"),
            SourceKind::Archive(Format::Rpm) => f.write_str("RPM package"),
            SourceKind::Mktarball => f.write_str("archive of dkms mktarball"),
        }
    }
}

/// An unpacked source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// What it was.
    pub kind: SourceKind,
    /// Its directory in the scratch root.
    pub top: PathBuf,
    /// The name of the top directory, or of the given directory.
    pub name: String,
    /// What git says of the version.
    pub git: Option<GitVersion>,
    /// Submodules whose directories are empty.
    pub empty_submodules: Vec<PathBuf>,
    /// What was left out, and why.
    pub notes: Vec<String>,
    /// The files of a package that are for `modprobe.d`, `rules.d` and `modules-load.d`, with their texts.
    pub beside: Vec<(PathBuf, String)>,
}

impl Unpacked {
    fn new(kind: SourceKind, name: &str) -> Unpacked {
        let (top, name) = (PathBuf::from(SOURCE), name.to_owned());
        let (empty_submodules, notes, beside) = (Vec::new(), Vec::new(), Vec::new());
        Unpacked { kind, top, name, git: None, empty_submodules, notes, beside }
    }
}

/// Unpacks the source at a path of this machine.
///
/// # Errors
/// When it cannot be read, or is refused.
#[allow(clippy::disallowed_methods)] // a path of the caller, whatever the root is
pub fn unpack(tools: &Tools, source: &Path, scratch: &Root) -> Result<Unpacked, UnpackError> {
    let cannot = |reason| UnpackError::NotOpened { path: source.to_owned(), reason };
    let source = source.canonicalize().map_err(cannot)?;
    let mut into = Extraction::new(scratch, SOURCE)?;
    if source.is_dir() {
        return directory(tools, &source, &mut into);
    }
    let (Some(parent), Some(name)) = (source.parent(), source.file_name()) else {
        return Err(UnpackError::Source("it is not a file".to_owned()));
    };
    let file = Root::open(RootKind::Image, parent)?.open_file(Path::new("/").join(name))?;
    let format = archive::extract(file, &mut into)?;
    archived(format, &name.to_string_lossy(), &into)
}

/// Finds the source in what an archive contained.
fn archived(format: Format, file: &str, into: &Extraction<'_>) -> Result<Unpacked, UnpackError> {
    let tops = into.tops();
    let has = |name: &str| tops.iter().any(|(top, is_directory)| top == name && *is_directory);
    let mut found = Unpacked::new(SourceKind::Archive(format), without_ending(file));
    found.beside = into.beside().to_vec();
    if has(MKTARBALL_SOURCE) {
        found.kind = SourceKind::Mktarball;
        found.top.push(MKTARBALL_SOURCE);
        if has(MKTARBALL_BUILT) {
            found.notes.push(format!("the modules in {MKTARBALL_BUILT} are not used: they are built here"));
        }
        return Ok(found);
    }
    if has(MKTARBALL_BINARIES) {
        return Err(UnpackError::Source(format!(
            "it has {MKTARBALL_BINARIES} and no {MKTARBALL_SOURCE}: precompiled modules without their source \
             cannot be built for another kernel"
        )));
    }
    match tops.as_slice() {
        [] => return Err(UnpackError::Source("it is empty".to_owned())),
        [(top, true)] => {
            found.top.push(top);
            found.name.clone_from(top);
        }
        several if several.iter().all(|(_, is_directory)| *is_directory) => {
            let names: Vec<&str> = several.iter().map(|(name, _)| name.as_str()).collect();
            let is_package = matches!(format, Format::Deb | Format::Rpm);
            // Sources without a Makefile at the top are in one directory.
            if is_package || !names.iter().any(|name| ["src", "debian", "dkms", "driver"].contains(name)) {
                return Err(UnpackError::Source(format!(
                    "it has more than one top directory: {}",
                    names.join(", ")
                )));
            }
        }
        _ => {}
    }
    Ok(found)
}

/// The name of an archive without what says how it is packed.
fn without_ending(file: &str) -> &str {
    let endings = [
        ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tar.bz2", ".tbz2", ".zip", ".deb", ".rpm",
    ];
    endings
        .iter()
        .filter_map(|ending| file.strip_suffix(ending))
        .min_by_key(|name| name.len())
        .unwrap_or(file)
}

fn directory(tools: &Tools, source: &Path, into: &mut Extraction<'_>) -> Result<Unpacked, UnpackError> {
    let root = Root::open(RootKind::Image, source)?;
    let name = source.file_name().unwrap_or_default().to_string_lossy();
    let mut found = Unpacked::new(SourceKind::Directory, &name);
    if root.lookup_link(GIT).is_there() {
        match Checkout::observe(tools, source) {
            Ok(checkout) => {
                found.kind = SourceKind::Checkout;
                found.git = checkout.version;
                found.notes = checkout.notes;
                for path in &checkout.tracked {
                    match root.lookup_link(path) {
                        Presence::There(stat) if stat.kind == FileKind::Directory => {
                            if root.list(path)?.is_empty() {
                                found.empty_submodules.push(path.clone());
                            } else {
                                copy_tree(&root, path, into)?;
                            }
                        }
                        Presence::There(_) => copy_entry(&root, path, into)?,
                        // It was deleted, and the deletion is not committed.
                        Presence::Absent => found.notes.push(format!("{} is deleted", path.display())),
                        Presence::Unreadable(e) => return Err(e.into()),
                    }
                }
                return Ok(found);
            }
            Err(reason) => found.notes.push(format!("git does not list its files ({reason}): all are taken")),
        }
    }
    copy_tree(&root, Path::new(""), into)?;
    match into.is_empty() {
        true => Err(UnpackError::Source("it is empty".to_owned())),
        false => Ok(found),
    }
}

/// Copies a directory of the source, without the data of git.
fn copy_tree(root: &Root, directory: &Path, into: &mut Extraction<'_>) -> Result<(), UnpackError> {
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in root.list(Path::new("/").join(&directory))? {
            if entry.name == GIT {
                continue;
            }
            let path = directory.join(&entry.name);
            copy_entry(root, &path, into)?;
            if entry.kind == FileKind::Directory {
                waiting.push(path);
            }
        }
    }
    Ok(())
}

fn copy_entry(root: &Root, path: &Path, into: &mut Extraction<'_>) -> Result<(), UnpackError> {
    use std::os::unix::ffi::OsStrExt;
    let name = path.as_os_str().as_bytes();
    let Some(stat) = root.lookup_link(path).known()? else { return Ok(()) };
    match stat.kind {
        FileKind::Directory => into.take(name, Entry::Directory),
        FileKind::Link => into.take(name, Entry::Symlink(root.read_link(path)?.as_os_str().as_bytes())),
        FileKind::Other => into.take(name, Entry::Refused(EntryFault::Special)),
        FileKind::File => {
            let mut body = root.open_file(path)?;
            into.take(name, Entry::File { size: stat.size, mode: stat.mode, body: &mut body })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        for (file, name) in [
            ("x-1.0.tar.gz", "x-1.0"),
            ("x.tgz", "x"),
            ("x_1.2_all.deb", "x_1.2_all"),
            ("x.tar", "x"),
            ("plain", "plain"),
        ] {
            assert_eq!(without_ending(file), name);
        }
    }
}
