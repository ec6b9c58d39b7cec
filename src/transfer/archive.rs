//! Writes an archive as `dkms mktarball` lays it out, with the manifest at its beginning.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::manifest::{
    BINARIES, BuildInputs, ExportedBuild, ExportedModule, FileSum, MAKE_LOG, MANIFEST, SOURCE, SourceEntry,
    TransferManifest, source_fingerprint,
};
use crate::dkms::plan::build_directory;
use crate::dkms::{ModuleName, architecture, modfile, symbols, toolchain};
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file;
use crate::kernel::module_image::ModuleImage;
use crate::limits::{ADOPTED_ENTRIES, ADOPTED_SOURCE, LOG, MODULE};
use crate::sys::fingerprint::{Summed, sum};
use crate::sys::{FileError, FileKind, Root, stays_inside};

/// The data of git, which are not part of a source.
const GIT: &str = ".git";

/// Why a module cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Something cannot be read.
    #[error("{0}")]
    File(#[from] FileError),
    /// The archive cannot be written.
    #[error("the archive cannot be written: {0}")]
    Write(#[from] io::Error),
    /// A name that an archive could not give back on every system.
    #[error("{0:?} in the source is not valid UTF-8")]
    Name(String),
    /// A symlink that leads out of the source, to something that is not a file.
    #[error("{0} in the source is a symlink out of the source")]
    LinkOut(String),
    /// It has no files.
    #[error("the source in {0} is empty")]
    Empty(String),
    /// The import would refuse it.
    #[error("the source has more than {ADOPTED_ENTRIES} entries, or more than {} MiB", ADOPTED_SOURCE >> 20)]
    TooLarge,
    /// A file in the DKMS tree cannot be read as a module.
    #[error("{path} is not a usable module: {reason}")]
    Module { path: String, reason: String },
    /// It was changed while it was read.
    #[error("{0} was changed meanwhile: try again")]
    Changed(String),
}

/// Lists a source, with the sums of its files.
///
/// # Errors
/// When something cannot be read, or cannot be exported.
pub fn describe_source(root: &Root, directory: &str) -> Result<Vec<SourceEntry>, ExportError> {
    let (mut found, mut size) = (Vec::new(), 0);
    add_source(root, directory, "", &mut found, &mut size)?;
    if found.is_empty() {
        return Err(ExportError::Empty(directory.to_owned()));
    }
    found.sort_by(|one, other| one.path().cmp(other.path()));
    Ok(found)
}

fn add_source(
    root: &Root,
    top: &str,
    below: &str,
    found: &mut Vec<SourceEntry>,
    size: &mut u64,
) -> Result<(), ExportError> {
    for entry in root.list(format!("{top}/{below}"))? {
        let Some(name) = entry.text() else {
            return Err(ExportError::Name(entry.name.to_string_lossy().into_owned()));
        };
        if name == GIT {
            continue;
        }
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let inside = format!("{top}/{path}");
        match entry.kind {
            FileKind::Directory => add_source(root, top, &path, found, size)?,
            FileKind::Link => {
                let text = root.read_link(&inside)?;
                match text.to_str().filter(|text| stays_inside(Path::new(&path), Path::new(text))) {
                    Some(target) => found.push(SourceEntry::Symlink { path, target: target.to_owned() }),
                    // Its contents are part of the source.
                    None if root.lookup(&inside).is(FileKind::File) => {
                        found.push(source_file(root, &inside, path)?);
                    }
                    None => return Err(ExportError::LinkOut(path)),
                }
            }
            FileKind::File => found.push(source_file(root, &inside, path)?),
            // dkms copies it too, and no build reads it.
            FileKind::Other => {}
        }
        if let Some(SourceEntry::File { sum, .. }) = found.last() {
            *size += sum.size;
        }
        if found.len() > ADOPTED_ENTRIES || *size > ADOPTED_SOURCE {
            return Err(ExportError::TooLarge);
        }
    }
    Ok(())
}

fn source_file(root: &Root, inside: &str, path: String) -> Result<SourceEntry, ExportError> {
    let executable = root.lookup(inside).known()?.is_some_and(|stat| stat.mode & 0o100 != 0);
    Ok(SourceEntry::File { sum: sum_of(root, inside, path)?, executable })
}

fn sum_of(root: &Root, inside: &str, path: String) -> Result<FileSum, ExportError> {
    let (file, _) = root.open_within(inside, ADOPTED_SOURCE)?;
    let (size, sha256) = sum(file).map_err(|e| root.read_failed(inside, e))?;
    Ok(FileSum { path, size, sha256 })
}

/// Describes a build in the DKMS tree.
///
/// # Errors
/// When something cannot be read.
pub fn describe_build(
    root: &Root,
    module: &ModuleName,
    release: &str,
    source: &[SourceEntry],
) -> Result<ExportedBuild, ExportError> {
    let directory = build_directory(module, release);
    let (mut modules, mut files) = (Vec::new(), Vec::new());
    let built = format!("{directory}/module");
    for entry in root.list(&built)?.into_iter().filter(|entry| entry.kind == FileKind::File) {
        let Some(name) = entry.text() else { continue };
        let path = format!("{built}/{name}");
        files.push(sum_of(root, &path, format!("module/{name}"))?);
        if let Some(stem) = modfile::ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
            modules.push(described_module(root, &path, stem)?);
        }
    }
    let log = format!("{directory}/{MAKE_LOG}");
    // It is for people: one that cannot be looked at is left out.
    if root.lookup_link(&log).stat().is_some_and(|stat| stat.kind == FileKind::File && stat.size < LOG) {
        files.push(sum_of(root, &log, MAKE_LOG.to_owned())?);
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    modules.sort_by(|one: &ExportedModule, other| one.name.cmp(&other.name));
    Ok(ExportedBuild {
        kernel: release.to_owned(),
        architecture: architecture(),
        inputs: inputs(root, release, source_fingerprint(source)),
        modules,
        files,
    })
}

fn described_module(root: &Root, path: &str, name: &str) -> Result<ExportedModule, ExportError> {
    let unusable = |reason: String| ExportError::Module { path: path.to_owned(), reason };
    let image = ModuleImage::of_file(root, path, path).map_err(|e| unusable(e.to_string()))?;
    let info = module_file::info(&image).map_err(|e| unusable(e.to_string()))?;
    Ok(ExportedModule {
        name: name.to_owned(),
        vermagic: info.vermagic.ok_or_else(|| unusable("its .modinfo has no vermagic".to_owned()))?,
        depends: info.depends,
        symbols: symbols_of(&image).map_err(unusable)?,
    })
}

/// The symbols that a module takes, in the form of the manifest.
pub(super) fn symbols_of(image: &ModuleImage<'_>) -> Result<BTreeMap<String, Option<String>>, String> {
    let symbols = symbols::read(image).map_err(|e| e.to_string())?;
    Ok(symbols.taken().map(|(name, version)| (name, version.map(in_hexadecimal))).collect())
}

/// The version of a symbol, as `Module.symvers` has it.
fn in_hexadecimal(version: u32) -> String {
    format!("{version:#010x}")
}

/// The inputs of a build for a kernel, as its headers are now.
pub(super) fn inputs(root: &Root, release: &str, source: String) -> BuildInputs {
    let build = format!("{}/build", module_directory(release));
    // Without headers the build cannot be repeated here; what it was made from stays unknown.
    let sum = |file: &str| modfile::sha256(root, &format!("{build}/{file}")).ok();
    let compiler = toolchain::version_text(&toolchain::config(root, release));
    BuildInputs::new(source, sum(".config"), sum("Module.symvers"), compiler)
}

/// Writes the archive of a module. `source` is the directory of its source.
///
/// # Errors
/// When something cannot be read or written, or was changed since it was described.
pub fn write(
    root: &Root,
    manifest: &TransferManifest,
    source: &str,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let mut archive = Builder::new(GzEncoder::new(out, Compression::default()));
    let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::from)?;
    let mut header = header(EntryType::Regular, 0o644, 0);
    header.set_size(text.len() as u64);
    archive.append_data(&mut header, MANIFEST, text.as_slice())?;
    directories(&mut archive, SOURCE, manifest.source.iter().map(SourceEntry::path))?;
    for entry in &manifest.source {
        let path = format!("{SOURCE}/{}", entry.path());
        match entry {
            SourceEntry::File { sum, executable } => {
                let mode = if *executable { 0o755 } else { 0o644 };
                append(root, &mut archive, (&format!("{source}/{}", sum.path), &path), sum, mode)?;
            }
            SourceEntry::Symlink { target, .. } => {
                archive.append_link(&mut self::header(EntryType::Symlink, 0o777, 0), path, target)?;
            }
        }
    }
    for build in &manifest.builds {
        let (directory, from) = (build.directory(), build_directory(&manifest.module(), &build.kernel));
        let paths: Vec<String> = build.files.iter().map(|sum| format!("{directory}/{}", sum.path)).collect();
        directories(&mut archive, BINARIES, paths.iter().map(String::as_str))?;
        for sum in &build.files {
            let path = format!("{BINARIES}/{directory}/{}", sum.path);
            append(root, &mut archive, (&format!("{from}/{}", sum.path), &path), sum, 0o644)?;
        }
    }
    archive.into_inner()?.finish()?.flush()?;
    Ok(())
}

fn header(kind: EntryType, mode: u32, seconds: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(seconds);
    header.set_size(0);
    header
}

/// The directories above files: `dkms ldtarball` expects that of the source.
fn directories<'p>(
    archive: &mut Builder<impl Write>,
    top: &str,
    paths: impl Iterator<Item = &'p str>,
) -> io::Result<()> {
    let above = |path: &'p str| Path::new(path).ancestors().skip(1);
    let mut all: Vec<&Path> = paths.flat_map(above).collect();
    all.sort();
    all.dedup();
    for directory in all {
        let path = Path::new(top).join(directory);
        archive.append_data(
            &mut header(EntryType::Directory, 0o755, 0),
            format!("{}/", path.display().to_string().trim_end_matches('/')),
            io::empty(),
        )?;
    }
    Ok(())
}

fn append(
    root: &Root,
    archive: &mut Builder<impl Write>,
    (from, to): (&str, &str),
    sum: &FileSum,
    mode: u32,
) -> Result<(), ExportError> {
    let (file, size) = root.open_within(from, ADOPTED_SOURCE.max(MODULE))?;
    if size != sum.size {
        return Err(ExportError::Changed(from.to_owned()));
    }
    let modified = root.lookup(from).stat().map_or(0, |stat| stat.mtime_ns / 1_000_000_000);
    // A time before 1970 becomes 1970.
    let mut header = header(EntryType::Regular, mode, u64::try_from(modified).unwrap_or(0));
    header.set_size(size);
    let mut reader = Summed::new(file.take(size));
    archive.append_data(&mut header, to, &mut reader)?;
    match reader.finish() == (sum.size, sum.sha256.clone()) {
        true => Ok(()),
        false => Err(ExportError::Changed(from.to_owned())),
    }
}
