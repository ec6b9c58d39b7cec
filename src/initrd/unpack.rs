//! The members of an initrd in sequence, uncompressed, and within limits.

use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::{bail, ensure};

use super::archive::first_not_zero;
use crate::kernel::module_image::{xz, zstd};
use crate::limits::INITRD_UNPACKED;
use crate::sys::clock::Stopwatch;

/// The time limit for one initrd.
const MOST_TIME: Duration = Duration::from_secs(30);
/// The size of an uncompressed block in lz4's legacy format.
const LZ4_BLOCK: usize = 8 << 20;
/// The size of one read.
const BLOCK: usize = 64 << 10;
const BEGINNING: usize = 4 << 10;
/// The size of the end of an initrd that shows whether it has a bootconfig.
pub(super) const END: usize = 20;

const CPIO: &[u8] = b"0707";
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// Compressions that some kernels support and this reader does not.
const OTHERS: [(&[u8], &str); 4] = [
    (&[0x42, 0x5a, 0x68], "bzip2"),
    (&[0x5d, 0x00, 0x00], "lzma"),
    (&[0x89, 0x4c, 0x5a, 0x4f], "lzo"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4's frame format, which the kernel does not read"),
];

/// What is left of the limits.
#[derive(Debug)]
pub(super) struct Budget {
    bytes: u64,
    watch: Stopwatch,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { bytes: INITRD_UNPACKED, watch: Stopwatch::start() }
    }
}

impl Budget {
    /// Starts again with all bytes. The time limit is not reset.
    pub(super) fn begin(&mut self) {
        self.bytes = INITRD_UNPACKED;
    }

    /// Subtracts bytes.
    ///
    /// # Errors
    ///
    /// If a limit is exceeded.
    pub(super) fn spend(&mut self, bytes: u64) -> io::Result<()> {
        let limit = |what| io::Error::other(what);
        self.bytes =
            self.bytes.checked_sub(bytes).ok_or_else(|| limit("it is larger than 2 GiB unpacked"))?;
        if self.watch.elapsed() > MOST_TIME {
            return Err(limit("it takes longer than 30 s to unpack"));
        }
        Ok(())
    }
}

/// A member whose bytes are subtracted from the budget.
pub(super) struct Limited<'b, R> {
    inner: R,
    budget: &'b mut Budget,
    passed: u64,
}

impl<R> Limited<'_, R> {
    pub(super) fn budget(&mut self) -> &mut Budget {
        self.budget
    }
}

/// Skipped bytes are subtracted when the next bytes are requested.
impl<R: BufRead> BufRead for Limited<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.budget.spend(std::mem::take(&mut self.passed))?;
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.passed += amount as u64;
        self.inner.consume(amount);
    }
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.budget.spend(read as u64)?;
        Ok(read)
    }
}

/// A reader with lookahead.
pub(super) struct Input<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_ended: bool,
    consumed: u64,
}

impl<R: Read> Input<R> {
    pub(super) fn new(inner: R) -> Input<R> {
        Input { inner, buffer: vec![0; BLOCK], start: 0, end: 0, is_ended: false, consumed: 0 }
    }

    /// The next bytes: at least `least` of them (at most [`BEGINNING`]) if the input has so many.
    fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        while self.end - self.start < least && !self.is_ended {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            match self.inner.read(&mut self.buffer[self.end..]) {
                Ok(read) => {
                    self.end += read;
                    self.is_ended = read == 0;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// Skips NUL bytes. Returns whether anything follows.
    fn skip_padding(&mut self) -> io::Result<bool> {
        loop {
            let bytes = self.peek(1)?;
            let zeros = first_not_zero(bytes);
            match (bytes.len(), zeros) {
                (0, _) => return Ok(false),
                (_, Some(zeros)) => {
                    self.consume(zeros);
                    return Ok(true);
                }
                (all, None) => self.consume(all),
            }
        }
    }
}

impl<R: Read> Read for Input<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.peek(1)?;
        let length = bytes.len().min(buffer.len());
        buffer[..length].copy_from_slice(&bytes[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<R: Read> BufRead for Input<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        // Enough bytes to recognize the compression.
        self.peek(BEGINNING)
    }

    fn consume(&mut self, amount: usize) {
        self.start += amount;
        self.consumed += amount as u64;
    }
}

/// Passes each member to `take`, with whether it is uncompressed; `take` reads it to its end.
///
/// # Errors
///
/// If a member is damaged, of an unknown format, or exceeds a limit.
pub(super) fn members<R: Read>(
    rest: &mut Input<R>,
    budget: &mut Budget,
    mut take: impl FnMut(Limited<'_, &mut dyn BufRead>, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // The padding of the boot loader, and of cpio's last block.
    while rest.skip_padding()? {
        let before = rest.consumed;
        let head: Vec<u8> = rest.peek(XZ.len())?.iter().copied().take(XZ.len()).collect();
        let mut give =
            |inner: &mut dyn BufRead, plain| take(Limited { inner, budget: &mut *budget, passed: 0 }, plain);
        if head.starts_with(CPIO) {
            // Its end is found by reading it: a compressed member may follow.
            give(rest, true)?;
        } else if head.starts_with(GZIP) {
            give(&mut BufReader::new(flate2::bufread::GzDecoder::new(&mut *rest)), false)?;
        } else if head.starts_with(XZ) {
            give(&mut BufReader::new(xz(&mut *rest, false)?), false)?;
        } else if head.starts_with(ZSTD) {
            give(&mut BufReader::new(zstd(&mut *rest)?), false)?;
        } else if head.starts_with(LZ4) {
            give(&mut BufReader::new(Lz4::new(rest)), false)?;
        } else {
            let known = OTHERS.iter().find(|(magic, _)| head.starts_with(magic));
            match known {
                Some((_, name)) => bail!("it is compressed with {name}"),
                None => bail!("it is not a cpio archive of a known compression"),
            }
        }
        // A member that consumes nothing would repeat forever.
        ensure!(rest.consumed != before, "an empty member");
    }
    Ok(())
}

/// The length of an initrd without the bootconfig at its end, which the kernel removes: data, size, checksum,
/// magic.
pub(super) fn without_bootconfig(end: &[u8], length: u64) -> u64 {
    let cut = || {
        let rest = end.strip_suffix(b"#BOOTCONFIG\n")?;
        let (rest, _checksum) = rest.split_last_chunk::<4>()?;
        let (_, size) = rest.split_last_chunk::<4>()?;
        length.checked_sub(END as u64)?.checked_sub(u64::from(u32::from_le_bytes(*size)))
    };
    cut().unwrap_or(length)
}

/// lz4's legacy format: blocks, each preceded by its size, up to the end or to a value that cannot be a size.
struct Lz4<'r, R> {
    rest: &'r mut Input<R>,
    packed: Vec<u8>,
    block: Vec<u8>,
    at: usize,
}

impl<'r, R: Read> Lz4<'r, R> {
    fn new(rest: &'r mut Input<R>) -> Lz4<'r, R> {
        Lz4 { rest, packed: Vec::new(), block: Vec::new(), at: 0 }
    }

    /// Reads the next block. Returns false at the end.
    fn refill(&mut self) -> io::Result<bool> {
        while self.rest.peek(LZ4.len())?.starts_with(LZ4) {
            self.rest.consume(LZ4.len());
        }
        let Some(size) = self.rest.peek(4)?.first_chunk::<4>() else { return Ok(false) };
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 {
            return Ok(false);
        }
        // Data that cannot be compressed grows a little.
        if size > LZ4_BLOCK + LZ4_BLOCK / 128 {
            return Err(io::Error::other("lz4: a block that is too large"));
        }
        self.rest.consume(4);
        self.packed.clear();
        self.rest.by_ref().take(size as u64).read_to_end(&mut self.packed)?;
        if self.packed.len() < size {
            return Err(io::Error::other("lz4: a block extends past the end"));
        }
        self.block.resize(LZ4_BLOCK, 0);
        let length =
            lz4_flex::block::decompress_into(&self.packed, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(length);
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Lz4<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.refill()? {
                return Ok(0);
            }
        }
        let left = &self.block[self.at..];
        let length = left.len().min(buffer.len());
        buffer[..length].copy_from_slice(&left[..length]);
        self.at += length;
        Ok(length)
    }
}
