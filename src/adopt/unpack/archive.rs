//! The archive formats. What a file is decides its beginning, not its name.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom};

use super::extract::{Entry, EntryFault, Extraction, UnpackError};
use crate::kernel::module_image::{xz, zstd};
use crate::limits::{ADOPTED_ENTRIES, ADOPTED_SOURCE};

/// The longest name or target of a symlink in a tar archive, with some reserve for refusing it by its length.
const LONGEST_NAME: u64 = 8 << 10;
/// The largest extended header.
const EXTENDED: u64 = 64 << 10;
/// How much of a stream is read: the source, and the headers and padding of its entries.
const STREAM: u64 = ADOPTED_SOURCE + (ADOPTED_ENTRIES as u64 * 2048);

/// Where a package for a distribution has the sources of its modules.
const PACKAGED: &str = "usr/src/";
/// The directories of a package that have side files.
const BESIDE: [&str; 9] = [
    "etc/modprobe.d/",
    "usr/lib/modprobe.d/",
    "lib/modprobe.d/",
    "etc/udev/rules.d/",
    "usr/lib/udev/rules.d/",
    "lib/udev/rules.d/",
    "etc/modules-load.d/",
    "usr/lib/modules-load.d/",
    "lib/modules-load.d/",
];

/// How the contents of an archive are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Compression {
    #[strum(serialize = "no compression")]
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Compression {
    /// The compression that a file begins with.
    pub(super) fn of(head: &[u8]) -> Compression {
        let by_magic: [(&[u8], Compression); 4] = [
            (&[0x1f, 0x8b], Compression::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (b"BZh", Compression::Bzip2),
        ];
        let found = by_magic.into_iter().find(|(magic, _)| head.starts_with(magic));
        found.map_or(Compression::None, |(_, compression)| compression)
    }
}

/// The kind of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// tar.
    Tar(Compression),
    /// zip.
    Zip,
    /// A Debian package.
    Deb,
    /// An RPM package.
    Rpm,
}

impl Format {
    fn of(head: &[u8]) -> Option<Format> {
        let by_magic: [(&[u8], Format); 3] = [
            (b"PK\x03\x04", Format::Zip),
            (b"!<arch>\n", Format::Deb),
            (&[0xed, 0xab, 0xee, 0xdb], Format::Rpm),
        ];
        let found = by_magic.into_iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, format)| format);
        found.or_else(|| match Compression::of(head) {
            Compression::None if head.get(257..262) != Some(b"ustar") => None,
            compression => Some(Format::Tar(compression)),
        })
    }
}

/// The name of a side file of a package; none for its other files.
pub(super) fn beside(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    let is_one = |directory: &&str| {
        let rest = name.strip_prefix(directory.as_bytes());
        rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'/'))
    };
    BESIDE.iter().any(is_one).then_some(name)
}

/// Extracts an archive.
pub(super) fn extract(mut file: File, into: &mut Extraction<'_>) -> Result<Format, UnpackError> {
    let mut head = Vec::new();
    let read = (&mut file).take(512).read_to_end(&mut head).and_then(|_| file.seek(SeekFrom::Start(0)));
    read.map_err(|e| UnpackError::Source(e.to_string()))?;
    let format = Format::of(&head).ok_or(UnpackError::Format)?;
    let file = BufReader::new(file);
    match format {
        Format::Tar(compression) => tar(decompressed(compression, file)?, into, TarContents::Source)?,
        Format::Zip => zip(file, into)?,
        Format::Deb => deb(file, into)?,
        Format::Rpm => super::rpm::extract(file, into)?,
    }
    Ok(format)
}

/// A reader of what was compressed in that way.
pub(super) fn decompressed<'r>(
    compression: Compression,
    file: impl BufRead + 'r,
) -> Result<Box<dyn Read + 'r>, UnpackError> {
    let unusable = |e: &dyn std::fmt::Display| UnpackError::Source(format!("{compression}: {e}"));
    Ok(match compression {
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Compression::Xz => Box::new(xz(file, true).map_err(|e| unusable(&e))?),
        Compression::Zstd => Box::new(zstd(file).map_err(|e| unusable(&e))?),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Compression::None => Box::new(file),
    })
}

/// The name of an entry below the sources of a package; none for its other files.
pub(super) fn packaged(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_prefix(b"./").unwrap_or(name);
    let name = name.strip_prefix(b"/").unwrap_or(name);
    name.strip_prefix(PACKAGED.as_bytes()).filter(|rest| !rest.is_empty())
}

/// What a tar archive has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TarContents {
    /// A source.
    Source,
    /// The files of a package: only its sources and side files are taken.
    Package,
}

/// Extracts a tar archive.
fn tar(stream: impl Read, into: &mut Extraction<'_>, contents: TarContents) -> Result<(), UnpackError> {
    let damaged = |e: io::Error| UnpackError::Source(format!("the archive is damaged: {e}"));
    let mut archive = tar::Archive::new(stream.take(STREAM));
    // Raw: the crate would hold a name of any length in memory.
    let entries = archive.entries().map_err(damaged)?.raw(true);
    let (mut long_name, mut long_link) = (None, None);
    for entry in entries {
        let mut entry = entry.map_err(damaged)?;
        let kind = entry.header().entry_type();
        let size = entry.header().entry_size().map_err(damaged)?;
        if kind.is_gnu_longname() {
            long_name = Some(text(&mut entry, size, LONGEST_NAME)?);
            continue;
        } else if kind.is_gnu_longlink() {
            long_link = Some(text(&mut entry, size, LONGEST_NAME)?);
            continue;
        } else if kind.is_pax_local_extensions() {
            let extended = text(&mut entry, size, EXTENDED)?;
            for extension in tar::PaxExtensions::new(&extended) {
                let extension = extension.map_err(damaged)?;
                match extension.key_bytes() {
                    b"path" => long_name = Some(extension.value_bytes().to_owned()),
                    b"linkpath" => long_link = Some(extension.value_bytes().to_owned()),
                    b"size" => return Err(refused(&entry, EntryFault::TooLarge)),
                    key if key.starts_with(b"GNU.sparse.") => {
                        return Err(refused(&entry, EntryFault::Sparse));
                    }
                    _ => {}
                }
            }
            continue;
        } else if kind.is_pax_global_extensions() {
            continue;
        }
        let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
        let target = long_link.take().or_else(|| entry.link_name_bytes().map(|text| text.into_owned()));
        let name = match contents {
            TarContents::Source => &name[..],
            TarContents::Package => match packaged(&name) {
                Some(name) => name,
                None => {
                    if let Some(name) = beside(&name).filter(|_| kind.is_file()) {
                        into.keep(name, size, &mut entry)?;
                    }
                    continue;
                }
            },
        };
        let mode = entry.header().mode().map_err(damaged)?;
        let taken = match kind {
            _ if kind.is_dir() => Entry::Directory,
            _ if kind.is_symlink() => Entry::Symlink(target.as_deref().unwrap_or_default()),
            _ if kind.is_hard_link() => Entry::Refused(EntryFault::HardLink),
            _ if kind.is_gnu_sparse() => Entry::Refused(EntryFault::Sparse),
            _ if kind.is_character_special() || kind.is_block_special() || kind.is_fifo() => {
                Entry::Refused(EntryFault::Special)
            }
            // Of the oldest format a directory is a file whose name ends in a slash.
            _ if kind.is_file() && name.ends_with(b"/") => Entry::Directory,
            _ if kind.is_file() || kind.is_contiguous() => Entry::File { size, mode, body: &mut entry },
            _ => Entry::Refused(EntryFault::UnknownType),
        };
        into.take(name, taken)?;
    }
    Ok(())
}

fn refused<R: Read>(entry: &tar::Entry<'_, R>, fault: EntryFault) -> UnpackError {
    UnpackError::Entry { name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(), fault }
}

/// The text of an entry that describes the next one.
fn text(entry: &mut tar::Entry<'_, impl Read>, size: u64, limit: u64) -> Result<Vec<u8>, UnpackError> {
    if size > limit {
        return Err(refused(entry, EntryFault::TooLong));
    }
    let mut bytes = Vec::new();
    let read = entry.read_to_end(&mut bytes);
    read.map_err(|e| refused(entry, EntryFault::Damaged(e.to_string())))?;
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    Ok(bytes)
}

fn zip(file: BufReader<File>, into: &mut Extraction<'_>) -> Result<(), UnpackError> {
    let damaged = |e: &dyn std::fmt::Display| UnpackError::Source(format!("the archive is damaged: {e}"));
    let mut archive = zip::ZipArchive::new(file).map_err(|e| damaged(&e))?;
    for at in 0..archive.len() {
        let raw = archive.by_index_raw(at).map_err(|e| damaged(&e))?;
        let (name, is_encrypted) = (raw.name_raw().to_owned(), raw.encrypted());
        drop(raw);
        if is_encrypted {
            into.take(&name, Entry::Refused(EntryFault::Encrypted))?;
        }
        let mut entry = match archive.by_index(at) {
            Ok(entry) => entry,
            Err(e) => {
                into.take(&name, Entry::Refused(EntryFault::Damaged(e.to_string())))?;
                continue;
            }
        };
        // Archives that were not made on Unix have no modes.
        let (mode, size) = (entry.unix_mode().unwrap_or(0o644), entry.size());
        const TYPE: u32 = 0o170_000;
        let taken = match mode & TYPE {
            _ if entry.is_dir() => Entry::Directory,
            0o120_000 => {
                let mut target = Vec::new();
                let read = (&mut entry).take(LONGEST_NAME).read_to_end(&mut target);
                match read {
                    Ok(_) => {
                        into.take(&name, Entry::Symlink(&target))?;
                        continue;
                    }
                    Err(e) => Entry::Refused(EntryFault::Damaged(e.to_string())),
                }
            }
            0 | 0o100_000 => Entry::File { size, mode, body: &mut entry },
            _ => Entry::Refused(EntryFault::Special),
        };
        into.take(&name, taken)?;
    }
    Ok(())
}

fn deb(file: BufReader<File>, into: &mut Extraction<'_>) -> Result<(), UnpackError> {
    let damaged = |e: io::Error| UnpackError::Source(format!("the package is damaged: {e}"));
    let mut archive = ar::Archive::new(file);
    while let Some(entry) = archive.next_entry() {
        let entry = entry.map_err(damaged)?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        let Some(ending) = name.trim_end_matches('/').strip_prefix("data.tar") else { continue };
        let compression = match ending {
            "" => Compression::None,
            ".gz" => Compression::Gzip,
            ".xz" => Compression::Xz,
            ".zst" => Compression::Zstd,
            ".bz2" => Compression::Bzip2,
            other => return Err(UnpackError::Source(format!("its data are compressed as {other}"))),
        };
        tar(decompressed(compression, BufReader::new(entry))?, into, TarContents::Package)?;
        return no_sources(into);
    }
    Err(UnpackError::Source("it is not a Debian package: it has no data.tar".to_owned()))
}

/// A package without sources of modules.
pub(super) fn no_sources(into: &Extraction<'_>) -> Result<(), UnpackError> {
    match into.is_empty() {
        false => Ok(()),
        true => Err(UnpackError::Source(
            "the package has nothing in /usr/src, where sources of modules are".to_owned(),
        )),
    }
}

/// The beginning of a stream, given back to it.
pub(super) fn with_head(head: Vec<u8>, rest: impl Read) -> impl BufRead {
    BufReader::new(Cursor::new(head).chain(rest))
}
