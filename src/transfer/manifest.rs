//! The manifest of an exported module, and the check of unpacked files against it.
//!
//! Its hashes detect damage. They do not protect against an attacker, because an attacker writes a manifest
//! of its own: see [`super::signing`].

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::dkms::{ModuleName, is_usable_name, modfile};
use crate::limits::{TRANSFER_MANIFEST, has_too_many_values};
use crate::sys::{FileError, FileKind, Fingerprint, Root};

/// The file at the top of an archive. dkms ignores it.
pub const MANIFEST: &str = "clr-dkms.json";
/// The number of this format.
pub const SCHEMA: u32 = 1;
/// The directory of the source, as `dkms mktarball` names it.
pub const SOURCE: &str = "dkms_source_tree";
/// The directory of the binaries: `KERNEL/ARCHITECTURE/module` and `log`.
pub const BINARIES: &str = "dkms_main_tree";
/// The log of a build, below its directory.
pub(super) const MAKE_LOG: &str = "log/make.log";

/// A file and its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// The path below the directory that it belongs to.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
}

/// An entry of the source that is not a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum SourceEntry {
    /// A file.
    File {
        /// Its path and contents.
        #[serde(flatten)]
        sum: FileSum,
        /// It may be executed.
        executable: bool,
    },
    /// A symlink.
    Symlink {
        /// The path below the source.
        path: String,
        /// Its text.
        target: String,
    },
}

impl SourceEntry {
    /// The path below the source.
    pub fn path(&self) -> &str {
        match self {
            SourceEntry::File { sum, .. } => &sum.path,
            SourceEntry::Symlink { path, .. } => path,
        }
    }
}

/// What a build was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInputs {
    /// The fingerprint of the source.
    pub source: String,
    /// SHA-256 of the configuration of the kernel.
    pub config: Option<String>,
    /// SHA-256 of the `Module.symvers` of the kernel.
    pub symvers: Option<String>,
    /// The compiler that the headers name.
    pub compiler: Option<String>,
    /// The fingerprint of all of these.
    pub fingerprint: String,
}

impl BuildInputs {
    /// Inputs with their fingerprint.
    pub fn new(
        source: String,
        config: Option<String>,
        symvers: Option<String>,
        compiler: Option<String>,
    ) -> BuildInputs {
        let mut all = Fingerprint::default();
        all.add(&source);
        for part in [&config, &symvers, &compiler] {
            all.add(part.as_deref().unwrap_or_default());
        }
        BuildInputs { source, config, symvers, compiler, fingerprint: all.finish() }
    }
}

/// A module file of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedModule {
    /// Its name, without ending.
    pub name: String,
    /// Its complete vermagic.
    pub vermagic: String,
    /// The modules that it depends on.
    pub depends: Vec<String>,
    /// The symbols that it takes, with their versions (CRC) in hexadecimal.
    pub symbols: BTreeMap<String, Option<String>>,
}

/// The build for one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedBuild {
    /// The kernel release.
    pub kernel: String,
    /// The architecture, as `uname -m` names it.
    pub architecture: String,
    /// What it was made from.
    pub inputs: BuildInputs,
    /// Its modules.
    pub modules: Vec<ExportedModule>,
    /// Its files, below the directory of the kernel and the architecture.
    pub files: Vec<FileSum>,
}

impl ExportedBuild {
    /// Its directory below [`BINARIES`].
    pub fn directory(&self) -> String {
        format!("{}/{}", self.kernel, self.architecture)
    }
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferManifest {
    /// Grows when a field changes its meaning.
    pub schema: u32,
    /// The program that wrote it.
    pub tool: String,
    /// The name of the module.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The source.
    pub source: Vec<SourceEntry>,
    /// The builds.
    pub builds: Vec<ExportedBuild>,
}

/// Why an archive does not agree with its manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFault {
    /// It cannot be parsed.
    #[error("{MANIFEST} cannot be parsed: {0}")]
    Unparsable(String),
    /// It has another format.
    #[error("{MANIFEST} has schema {0}, and this version of clr-dkms knows schema {SCHEMA}")]
    Schema(u64),
    /// A name in it cannot be used as the name of a directory.
    #[error("{MANIFEST} has a name that dkms cannot take: {0:?}")]
    Name(String),
    /// Something is listed twice.
    #[error("{MANIFEST} lists {0} twice")]
    Twice(String),
    /// A file is missing.
    #[error("{0} is missing in the archive")]
    Missing(String),
    /// A file is not in the manifest.
    #[error("{0} is in the archive and not in {MANIFEST}")]
    Unlisted(String),
    /// A file has other contents.
    #[error("{0} is damaged: its contents differ from what {MANIFEST} says")]
    Differs(String),
    /// The fingerprint does not belong to the source.
    #[error("the fingerprint of the build for {0} does not belong to the source in the archive")]
    Fingerprint(String),
    /// A file cannot be read.
    #[error("{0}")]
    Unread(String),
}

impl From<FileError> for ManifestFault {
    fn from(e: FileError) -> ManifestFault {
        ManifestFault::Unread(e.to_string())
    }
}

/// The fingerprint of a source.
pub(super) fn source_fingerprint(source: &[SourceEntry]) -> String {
    let mut all = Fingerprint::default();
    let mut sorted: Vec<&SourceEntry> = source.iter().collect();
    sorted.sort_by(|one, other| one.path().cmp(other.path()));
    for entry in sorted {
        all.add(entry.path());
        match entry {
            SourceEntry::File { sum, executable } => {
                all.add(&sum.sha256);
                all.add(if *executable { "x" } else { "-" });
            }
            SourceEntry::Symlink { target, .. } => all.add(format!("-> {target}")),
        }
    }
    all.finish()
}

impl TransferManifest {
    /// Parses a manifest, and checks that its names can be used as names of files.
    ///
    /// # Errors
    /// When it is not one of this format.
    pub fn parse(bytes: &[u8]) -> Result<TransferManifest, ManifestFault> {
        #[derive(Deserialize)]
        struct SchemaOnly {
            schema: u64,
        }
        let unparsable = |e: serde_json::Error| ManifestFault::Unparsable(e.to_string());
        if has_too_many_values(bytes) {
            return Err(ManifestFault::Unparsable("it has too many values".to_owned()));
        }
        // Of another format perhaps only this field is the same.
        let SchemaOnly { schema } = serde_json::from_slice(bytes).map_err(unparsable)?;
        if schema != u64::from(SCHEMA) {
            return Err(ManifestFault::Schema(schema));
        }
        let manifest: TransferManifest = serde_json::from_slice(bytes).map_err(unparsable)?;
        manifest.check_names()?;
        Ok(manifest)
    }

    fn check_names(&self) -> Result<(), ManifestFault> {
        let of_builds = self.builds.iter().flat_map(|build| {
            let modules = build.modules.iter().map(|module| &module.name);
            [&build.kernel, &build.architecture].into_iter().chain(modules)
        });
        let mut names = [&self.name, &self.version].into_iter().chain(of_builds);
        if let Some(bad) = names.find(|name| !is_usable_name(name)) {
            return Err(ManifestFault::Name(bad.clone()));
        }
        let is_of_build = |path: &str| match path.strip_prefix("module/") {
            Some(name) => !name.is_empty() && !name.contains('/'),
            None => path == MAKE_LOG,
        };
        let mut files = self.builds.iter().flat_map(|build| &build.files);
        if let Some(bad) = files.find(|sum| !is_of_build(&sum.path)) {
            return Err(ManifestFault::Name(bad.path.clone()));
        }
        let mut seen = BTreeSet::new();
        for build in &self.builds {
            if !seen.insert(build.directory()) {
                return Err(ManifestFault::Twice(build.directory()));
            }
        }
        Ok(())
    }

    /// The module.
    pub fn module(&self) -> ModuleName {
        ModuleName { name: self.name.clone(), version: self.version.clone() }
    }

    /// Checks that the files below a directory of the scratch root are those of the manifest, with the same
    /// contents, and that there are no others.
    ///
    /// # Errors
    /// The first fault.
    pub fn verify(&self, scratch: &Root, directory: &str) -> Result<(), ManifestFault> {
        let mut there = BTreeMap::new();
        for part in [SOURCE, BINARIES] {
            list(scratch, directory, part, &mut there)?;
        }
        let mut expected: BTreeSet<String> = BTreeSet::new();
        let mut expect = |path: String| match expected.insert(path.clone()) {
            true => Ok(path),
            false => Err(ManifestFault::Twice(path)),
        };
        for entry in &self.source {
            let path = expect(format!("{SOURCE}/{}", entry.path()))?;
            match entry {
                SourceEntry::File { sum, executable } => {
                    verify_file(scratch, directory, &path, sum, &there)?;
                    let mode = scratch.lookup_link(format!("{directory}/{path}")).stat().map(|s| s.mode);
                    if mode.is_none_or(|mode| (mode & 0o100 != 0) != *executable) {
                        return Err(ManifestFault::Differs(path));
                    }
                }
                SourceEntry::Symlink { target, .. } => match there.get(&path) {
                    None => return Err(ManifestFault::Missing(path)),
                    Some(FileKind::Link) => {
                        if scratch.read_link(format!("{directory}/{path}"))?.as_os_str() != target.as_str() {
                            return Err(ManifestFault::Differs(path));
                        }
                    }
                    Some(_) => return Err(ManifestFault::Differs(path)),
                },
            }
        }
        let source = source_fingerprint(&self.source);
        for build in &self.builds {
            for sum in &build.files {
                let path = expect(format!("{BINARIES}/{}/{}", build.directory(), sum.path))?;
                verify_file(scratch, directory, &path, sum, &there)?;
            }
            let BuildInputs { config, symvers, compiler, .. } = build.inputs.clone();
            if build.inputs != BuildInputs::new(source.clone(), config, symvers, compiler) {
                return Err(ManifestFault::Fingerprint(build.kernel.clone()));
            }
        }
        match there.into_keys().find(|path| !expected.contains(path)) {
            Some(path) => Err(ManifestFault::Unlisted(path)),
            None => Ok(()),
        }
    }
}

fn verify_file(
    scratch: &Root,
    directory: &str,
    path: &str,
    sum: &FileSum,
    there: &BTreeMap<String, FileKind>,
) -> Result<(), ManifestFault> {
    match there.get(path) {
        None => return Err(ManifestFault::Missing(path.to_owned())),
        Some(FileKind::File) => {}
        Some(_) => return Err(ManifestFault::Differs(path.to_owned())),
    }
    let inside = format!("{directory}/{path}");
    let size = scratch.lookup_link(&inside).stat().map(|stat| stat.size);
    if size != Some(sum.size) || modfile::sha256(scratch, &inside)? != sum.sha256 {
        return Err(ManifestFault::Differs(path.to_owned()));
    }
    Ok(())
}

/// Lists everything but directories below `part`.
fn list(root: &Root, top: &str, part: &str, found: &mut BTreeMap<String, FileKind>) -> Result<(), FileError> {
    for entry in root.list_optional(format!("{top}/{part}"))? {
        let path = format!("{part}/{}", entry.name.to_string_lossy());
        match entry.kind {
            FileKind::Directory => list(root, top, &path, found)?,
            kind => drop(found.insert(path, kind)),
        }
    }
    Ok(())
}

impl TransferManifest {
    /// Reads the manifest of an unpacked archive; none if it has none.
    ///
    /// # Errors
    /// When it cannot be used.
    pub fn load(scratch: &Root, directory: &str) -> Result<Option<TransferManifest>, ManifestFault> {
        let path = format!("{directory}/{MANIFEST}");
        match scratch.read_optional_within(path, TRANSFER_MANIFEST)? {
            Some(bytes) => TransferManifest::parse(&bytes).map(Some),
            None => Ok(None),
        }
    }
}
