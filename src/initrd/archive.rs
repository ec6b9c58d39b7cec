//! cpio archives in newc format, concatenated in one member of an initrd.

use std::io::{self, BufRead, Read};

use anyhow::{Context, bail, ensure};

/// The longest file name. The limit of the kernel is PATH_MAX.
const LONGEST_NAME: u64 = 4096;
const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// The type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    Regular,
    Symlink,
    Other,
}

/// One entry, whose contents can be read from the archive.
pub(super) struct ArchiveEntry<'e, R> {
    pub(super) name: String,
    pub(super) kind: EntryKind,
    pub(super) size: u64,
    body: io::Take<&'e mut R>,
}

impl<R: Read> ArchiveEntry<'_, R> {
    /// The contents of the entry.
    pub(super) fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.body.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// A reader of the contents.
    pub(super) fn body(&mut self) -> impl Read {
        &mut self.body
    }

    pub(super) fn archive(&mut self) -> &mut R {
        self.body.get_mut()
    }
}

/// A reader with its offset in the archive: everything in an archive is aligned to four bytes.
struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Passes each entry of the archives in a member to `visit`. With `one` it ends after the first archive,
/// otherwise at the end of the member.
///
/// # Errors
///
/// If something in it is not an archive in this format.
pub(super) fn entries<R: BufRead>(
    member: &mut R,
    one: bool,
    mut visit: impl FnMut(&mut ArchiveEntry<'_, R>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let mut archive = Counted { inner: &mut *member, at: 0 };
        let Some(first) = after_padding(archive.inner)? else { return Ok(()) };
        let mut header = [0; HEADER];
        header[0] = first;
        // The padding is not part of the archive.
        archive.at = 1;
        archive.read_exact(&mut header[1..]).map_err(cut)?;
        while !entry(&mut archive, &header, &mut visit)? {
            archive.read_exact(&mut header).map_err(cut)?;
        }
        if one {
            return Ok(());
        }
    }
}

fn cut(e: io::Error) -> io::Error {
    if e.kind() == io::ErrorKind::UnexpectedEof { io::Error::other("it is truncated") } else { e }
}

/// The position of the first byte that is not NUL.
pub(super) fn first_not_zero(bytes: &[u8]) -> Option<usize> {
    // Padding may have gigabytes, so it is compared in blocks.
    const ZEROS: [u8; 4096] = [0; 4096];
    let is_zero = |block: &&[u8]| *block == &ZEROS[..block.len()];
    let start = bytes.chunks(ZEROS.len()).take_while(is_zero).map(<[u8]>::len).sum();
    bytes[start..].iter().position(|byte| *byte != 0).map(|at| start + at)
}

/// The first byte after the padding.
fn after_padding(archive: &mut impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let bytes = match archive.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let all = bytes.len();
        let found = first_not_zero(bytes).map(|at| (at, bytes[at]));
        archive.consume(found.map_or(all, |(at, _)| at + 1));
        if all == 0 || found.is_some() {
            return Ok(found.map(|(_, byte)| byte));
        }
    }
}

/// Reads the entry after a header. Returns true for the last entry.
fn entry<R: Read>(
    archive: &mut Counted<&mut R>,
    header: &[u8; HEADER],
    visit: &mut impl FnMut(&mut ArchiveEntry<'_, R>) -> anyhow::Result<()>,
) -> anyhow::Result<bool> {
    // The last digit of the magic number indicates checksums, which the kernel ignores.
    if !matches!(&header[..6], b"070701" | b"070702") {
        bail!("it is not a cpio archive of the format newc");
    }
    let field = |at: usize| number(&header[6 + 8 * at..14 + 8 * at]).context("a damaged header");
    let (mode, size, name_size) = (field(1)?, u64::from(field(6)?), u64::from(field(11)?));
    ensure!((1..=LONGEST_NAME).contains(&name_size), "a damaged header: the length of a name");
    let mut name = vec![0; usize::try_from(name_size)?];
    archive.read_exact(&mut name).map_err(cut)?;
    align(archive)?;
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    if name == TRAILER {
        skip(archive, size)?;
        return Ok(true);
    }
    let kind = match mode & TYPE {
        REGULAR => EntryKind::Regular,
        SYMLINK => EntryKind::Symlink,
        _ => EntryKind::Other,
    };
    let mut found = ArchiveEntry {
        name: String::from_utf8_lossy(name).into_owned(),
        kind,
        size,
        body: (&mut *archive.inner).take(size),
    };
    visit(&mut found)?;
    let left = found.body.limit();
    archive.at += size - left;
    skip(archive, left)?;
    align(archive)?;
    Ok(false)
}

fn number(digits: &[u8]) -> Option<u32> {
    // from_str_radix accepts a sign, but the kernel does not.
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?;
    u32::from_str_radix(text, 16).ok()
}

fn align(archive: &mut Counted<impl Read>) -> anyhow::Result<()> {
    skip(archive, archive.at.next_multiple_of(4) - archive.at)
}

fn skip(archive: &mut Counted<impl Read>, bytes: u64) -> anyhow::Result<()> {
    let skipped = io::copy(&mut archive.take(bytes), &mut io::sink())?;
    ensure!(skipped == bytes, "it is truncated");
    Ok(())
}
