//! RPM packages: a lead, two headers, and a compressed cpio archive in the format newc.

use std::io::{self, BufRead, Read};

use super::archive::{Compression, beside, decompressed, no_sources, packaged, with_head};
use super::extract::{Entry, EntryFault, Extraction, UnpackError};
use crate::limits::ADOPTED_ENTRIES;

const LEAD: u64 = 96;
const HEADER_MAGIC: [u8; 3] = [0x8e, 0xad, 0xe8];
/// The largest header. That of a kernel's package has some megabytes.
const LARGEST_HEADER: u64 = 64 << 20;
const CPIO_HEADER: usize = 110;
const LONGEST_NAME: u64 = 4096;

/// Extracts the sources of a package.
pub(super) fn extract(mut file: impl BufRead, into: &mut Extraction<'_>) -> Result<(), UnpackError> {
    let damaged = |e: io::Error| UnpackError::Source(format!("the package is damaged: {e}"));
    skip(&mut file, LEAD).map_err(damaged)?;
    // Only the signature is padded.
    let signature = header(&mut file).map_err(damaged)?;
    skip(&mut file, signature.next_multiple_of(8) - signature).map_err(damaged)?;
    header(&mut file).map_err(damaged)?;
    let mut head = Vec::new();
    (&mut file).take(6).read_to_end(&mut head).map_err(damaged)?;
    let compression = Compression::of(&head);
    if compression == Compression::None && !head.starts_with(b"0707") {
        return Err(UnpackError::Source("its data are compressed in an unknown way".to_owned()));
    }
    cpio(decompressed(compression, with_head(head, file))?, into)?;
    no_sources(into)
}

/// Skips a header, and returns its length.
fn header(file: &mut impl Read) -> io::Result<u64> {
    let mut start = [0; 16];
    file.read_exact(&mut start)?;
    let number = |at: usize| {
        start[at..].first_chunk::<4>().map_or(u64::MAX, |bytes| u64::from(u32::from_be_bytes(*bytes)))
    };
    let length = number(8).saturating_mul(16).saturating_add(number(12));
    if start[..3] != HEADER_MAGIC || length > LARGEST_HEADER {
        return Err(io::Error::other("no header where one must be"));
    }
    skip(file, length)?;
    Ok(start.len() as u64 + length)
}

fn cpio(mut archive: impl Read, into: &mut Extraction<'_>) -> Result<(), UnpackError> {
    let damaged = |e: io::Error| UnpackError::Source(format!("the archive in it is damaged: {e}"));
    // The package may have more files than its sources.
    for _ in 0..ADOPTED_ENTRIES * 4 {
        let mut header = [0; CPIO_HEADER];
        archive.read_exact(&mut header).map_err(damaged)?;
        let field = |at: usize| {
            // Digits that are not UTF-8 become none, which is not a number.
            let digits = std::str::from_utf8(&header[6 + 8 * at..14 + 8 * at]).unwrap_or_default();
            u64::from_str_radix(digits, 16).map_err(|_| damaged(io::Error::other("a damaged number")))
        };
        if !matches!(&header[..6], b"070701" | b"070702") {
            return Err(damaged(io::Error::other("it is not of the format newc")));
        }
        let (mode, links, size, name_size) = (field(1)?, field(4)?, field(6)?, field(11)?);
        if name_size == 0 || name_size > LONGEST_NAME {
            return Err(damaged(io::Error::other("the length of a name")));
        }
        let mut name = Vec::new();
        let aligned = (CPIO_HEADER as u64 + name_size).next_multiple_of(4) - CPIO_HEADER as u64;
        let read = (&mut archive).take(aligned).read_to_end(&mut name).map_err(damaged)?;
        if read as u64 != aligned {
            return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
        }
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        if name == b"TRAILER!!!" {
            return Ok(());
        }
        let mut body = (&mut archive).take(size);
        if let Some(name) = beside(name).filter(|_| mode & 0o170_000 == 0o100_000) {
            into.keep(name, size, &mut body)?;
        } else if let Some(name) = packaged(name) {
            // Eight hexadecimal digits fit into 32 bits.
            let mode = u32::try_from(mode).unwrap_or(0);
            match mode & 0o170_000 {
                0o040_000 => into.take(name, Entry::Directory)?,
                0o120_000 => {
                    let mut target = Vec::new();
                    (&mut body).take(LONGEST_NAME).read_to_end(&mut target).map_err(damaged)?;
                    into.take(name, Entry::Symlink(&target))?;
                }
                0o100_000 if links > 1 => into.take(name, Entry::Refused(EntryFault::HardLink))?,
                0o100_000 => into.take(name, Entry::File { size, mode, body: &mut body })?,
                _ => into.take(name, Entry::Refused(EntryFault::Special))?,
            }
        }
        let left = body.limit();
        skip(&mut archive, left + size.next_multiple_of(4) - size).map_err(damaged)?;
    }
    Err(UnpackError::Source("the package has too many files".to_owned()))
}

fn skip(file: &mut impl Read, bytes: u64) -> io::Result<()> {
    match io::copy(&mut file.take(bytes), &mut io::sink())? {
        skipped if skipped == bytes => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
