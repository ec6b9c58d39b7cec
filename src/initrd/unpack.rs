//! The members of an initrd one after another, without their compression, and within limits.

use std::io::{self, Read};
use std::time::Duration;

use ruzstd::decoding::StreamingDecoder;

use crate::sys::clock::Stopwatch;

/// What all members may come to after decompression.
const MOST_BYTES: u64 = 2 << 30;
/// How long one initrd may take.
const MOST_TIME: Duration = Duration::from_secs(30);
/// What a decoder may take for its own tables.
const MOST_MEMORY: u64 = 256 << 20;
/// The largest window of zstd that the kernel takes.
const ZSTD_WINDOW: u64 = 128 << 20;
/// The size of a block in lz4's legacy format, after decompression.
const LZ4_BLOCK: usize = 8 << 20;

const CPIO: &[u8] = b"0707";
const GZIP: &[u8] = &[0x1f, 0x8b];
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const LZ4: &[u8] = &[0x02, 0x21, 0x4c, 0x18];
/// Those that some kernels know and this reader does not.
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
        Budget { bytes: MOST_BYTES, watch: Stopwatch::start() }
    }
}

impl Budget {
    /// Takes bytes out of it.
    ///
    /// # Errors
    /// When nothing is left.
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

/// A member of which each byte is taken out of the budget.
pub(super) struct Limited<'b, R> {
    inner: R,
    budget: &'b mut Budget,
}

impl<R> Limited<'_, R> {
    pub(super) fn budget(&mut self) -> &mut Budget {
        self.budget
    }
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.budget.spend(read as u64)?;
        Ok(read)
    }
}

/// Gives each member to `take`, which reads it to its end, and whether it is plain.
///
/// # Errors
/// In words, when a member is damaged, of an unknown kind, or beyond the limits.
pub(super) fn members(
    bytes: &[u8],
    budget: &mut Budget,
    mut take: impl FnMut(Limited<'_, &mut dyn Read>, bool) -> Result<(), String>,
) -> Result<(), String> {
    let mut rest = without_bootconfig(bytes);
    loop {
        // What the boot loader pads with, and what cpio fills its last block with.
        let start = rest.iter().position(|b| *b != 0).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            return Ok(());
        }
        let before = rest.len();
        let mut give = |inner: &mut dyn Read, plain| take(Limited { inner, budget: &mut *budget }, plain);
        if rest.starts_with(CPIO) {
            // Its end is found by reading it: a compressed member may follow.
            give(&mut rest, true)?;
        } else if rest.starts_with(GZIP) {
            give(&mut flate2::bufread::GzDecoder::new(&mut rest), false)?;
        } else if rest.starts_with(XZ) {
            let stream = liblzma::stream::Stream::new_stream_decoder(MOST_MEMORY, 0);
            let stream = stream.map_err(|e| format!("xz: {e}"))?;
            give(&mut liblzma::bufread::XzDecoder::new_stream(&mut rest, stream), false)?;
        } else if rest.starts_with(ZSTD) {
            let decoder = StreamingDecoder::new_with_max_window_size(&mut rest, ZSTD_WINDOW);
            give(&mut decoder.map_err(|e| format!("zstd: {e}"))?, false)?;
        } else if rest.starts_with(LZ4) {
            give(&mut Lz4::new(&mut rest), false)?;
        } else {
            let known = OTHERS.iter().find(|(magic, _)| rest.starts_with(magic));
            return Err(match known {
                Some((_, name)) => format!("it is compressed with {name}"),
                None => "it is not a cpio archive of a known compression".to_owned(),
            });
        }
        // A member that took nothing would be met for ever.
        if rest.len() == before {
            return Err("an empty member".to_owned());
        }
    }
}

/// An initrd may end in a bootconfig, which the kernel cuts off: data, its size, a checksum, a mark.
fn without_bootconfig(bytes: &[u8]) -> &[u8] {
    let cut = || {
        let rest = bytes.strip_suffix(b"#BOOTCONFIG\n")?;
        let rest = rest.get(..rest.len().checked_sub(4)?)?;
        let (rest, size) = rest.split_last_chunk::<4>()?;
        rest.get(..rest.len().checked_sub(u32::from_le_bytes(*size) as usize)?)
    };
    cut().unwrap_or(bytes)
}

/// lz4's legacy format: blocks with their sizes in front, up to the end or to something that cannot be a size.
struct Lz4<'r, 'b> {
    rest: &'r mut &'b [u8],
    block: Vec<u8>,
    at: usize,
}

impl<'r, 'b> Lz4<'r, 'b> {
    fn new(rest: &'r mut &'b [u8]) -> Lz4<'r, 'b> {
        *rest = &rest[LZ4.len()..];
        Lz4 { rest, block: Vec::new(), at: 0 }
    }

    /// Whether there is another block.
    fn refill(&mut self) -> io::Result<bool> {
        while let Some(after) = self.rest.strip_prefix(LZ4) {
            *self.rest = after;
        }
        let Some((size, after)) = self.rest.split_first_chunk::<4>() else { return Ok(false) };
        let size = u32::from_le_bytes(*size) as usize;
        if size == 0 {
            return Ok(false);
        }
        let damaged = || io::Error::other("lz4: a block goes on behind the end");
        let (block, after) = after.split_at_checked(size).ok_or_else(damaged)?;
        self.block.resize(LZ4_BLOCK, 0);
        let length = lz4_flex::block::decompress_into(block, &mut self.block).map_err(io::Error::other)?;
        self.block.truncate(length);
        self.at = 0;
        *self.rest = after;
        Ok(true)
    }
}

impl Read for Lz4<'_, '_> {
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
