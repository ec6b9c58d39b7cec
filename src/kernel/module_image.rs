//! The uncompressed contents of a kernel module, limited to the parts that are needed.
//!
//! Most modules are small and kept completely. Of a large module (a graphics driver has 100 MB, with debug
//! information several times as much) only the headers, the needed sections and the end are kept. The section
//! headers come after the sections, so a large module is read more than once.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::ops::Range;

use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream};
use object::Endianness;
use object::elf::{FileHeader32, FileHeader64, SHT_NOTE, SHT_SYMTAB, SHT_SYMTAB_SHNDX};
use object::read::ReadRef;
use object::read::elf::{FileHeader, SectionHeader};
use ruzstd::decoding::errors::FrameDecoderError;
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::limits::{MODULE, WINDOW};
use crate::sys::{FileError, Root};

/// A module up to this size is kept completely. The needed sections of a larger module may have this size
/// too.
pub const WHOLE: u64 = 8 << 20;
/// How much of the end of a larger module is kept; the signature is there.
const TAIL: usize = 1 << 20;
/// The size of the beginning that contains the ELF header.
const HEAD: u64 = 4096;
/// The largest section table, and the largest table of section names.
const TABLE: u64 = 4 << 20;
/// One pass to find out that the module is large, then one each for the section headers, their names and the
/// sections.
const PASSES: usize = 4;
const BLOCK: usize = 64 << 10;
/// The strictest alignment of a structure in a module.
const ALIGNED: u64 = 16;
/// How much is taken from a decoder that needs more than [`WINDOW`], as for `xz -9` or `zstd -22`. The
/// decoder of zstd doubles its buffer when 16 MiB are full.
const FAR_XZ: u64 = 32 << 20;
const FAR_ZSTD: u64 = 15 << 20;
/// The largest block of zstd.
const ZSTD_BLOCK: usize = 128 << 10;
/// The sections that are read.
const SECTIONS: [&[u8]; 5] =
    [b".modinfo", b"__versions", b"__version_ext_crcs", b"__version_ext_names", b"__ksymtab_strings"];

/// Why a module cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// It is damaged, or not a module.
    #[error("{0}")]
    Damaged(String),
    /// It exceeds a limit. Its contents remain unknown as long as its bytes do not change.
    #[error("{0}")]
    TooLarge(String),
    /// It cannot be read to its end.
    #[error("{0}")]
    Unknown(String),
    /// The file cannot be read. The text names it.
    #[error("{0}")]
    Unread(String),
}

impl ImageError {
    /// The message with the path of the file.
    pub fn of(&self, path: &str) -> String {
        match self {
            ImageError::Unread(whole) => whole.clone(),
            ImageError::Damaged(why) | ImageError::TooLarge(why) | ImageError::Unknown(why) => {
                format!("{path}: {why}")
            }
        }
    }
}

impl From<FileError> for ImageError {
    fn from(error: FileError) -> ImageError {
        ImageError::Unread(error.to_string())
    }
}

#[derive(Debug, Default)]
pub struct ModuleImage<'b> {
    /// Pieces with their offsets. The pieces of a large module may overlap.
    pieces: Vec<(u64, Cow<'b, [u8]>)>,
    length: u64,
}

impl<'b> ModuleImage<'b> {
    /// A module that is already in memory.
    pub fn whole(bytes: impl Into<Cow<'b, [u8]>>) -> ModuleImage<'b> {
        let bytes = bytes.into();
        ModuleImage { length: bytes.len() as u64, pieces: vec![(0, bytes)] }
    }

    /// Reads a module. The suffix of `name` shows the compression. `open` opens the file again for each pass.
    ///
    /// # Errors
    ///
    /// If it is empty, damaged or exceeds a limit.
    pub fn read<R: BufRead>(
        name: &str,
        mut open: impl FnMut() -> Result<R, ImageError>,
    ) -> Result<ModuleImage<'b>, ImageError> {
        let mut reading = ModuleReading::default();
        loop {
            if let Some(image) = reading.pass(name, open()?)? {
                return Ok(image);
            }
        }
    }

    /// Reads a file below a root. The suffix of `name` shows its compression.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is empty, damaged or exceeds a limit.
    pub fn of_file(root: &Root, path: &str, name: &str) -> Result<ModuleImage<'b>, ImageError> {
        ModuleImage::read(name, || Ok(io::BufReader::with_capacity(BLOCK, root.open_watched(path, MODULE)?)))
    }

    /// The end of the module, large enough for a signature.
    pub fn tail(&self) -> &[u8] {
        let ends = self.pieces.iter().filter(|(at, bytes)| at + bytes.len() as u64 == self.length);
        ends.max_by_key(|(_, bytes)| bytes.len()).map_or(&[], |(_, bytes)| bytes)
    }

    /// The length of the module in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    fn covers(&self, range: &Range<u64>) -> bool {
        // The reason makes no difference: the piece has to be read.
        range.is_empty() || self.read_bytes_at(range.start, range.end - range.start).is_ok()
    }

    /// The ranges to read next. Empty if everything is there, or nothing can be found.
    fn missing(&self) -> Result<Vec<Range<u64>>, ImageError> {
        match object::FileKind::parse(self) {
            Ok(object::FileKind::Elf64) => self.missing_of::<FileHeader64<Endianness>>(),
            Ok(object::FileKind::Elf32) => self.missing_of::<FileHeader32<Endianness>>(),
            _ => Ok(Vec::new()),
        }
    }

    fn missing_of<H: FileHeader<Endian = Endianness>>(&self) -> Result<Vec<Range<u64>>, ImageError> {
        let large = |what: &str| ImageError::TooLarge(format!("its {what} are larger than 4 MiB"));
        // More of the file would not help the parser.
        let Ok(header) = H::parse(self) else { return Ok(Vec::new()) };
        let Ok(endian) = header.endian() else { return Ok(Vec::new()) };
        let table: u64 = header.e_shoff(endian).into();
        let entries = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
        let headers = table..table.saturating_add(entries);
        if entries > TABLE {
            return Err(large("section headers"));
        }
        if !self.covers(&headers) {
            return Ok(vec![headers]);
        }
        // As above.
        let Ok(sections) = header.section_headers(endian, self) else { return Ok(Vec::new()) };
        let range = |section: &H::SectionHeader| -> Range<u64> {
            let (start, size): (u64, u64) =
                (section.sh_offset(endian).into(), section.sh_size(endian).into());
            start..start.saturating_add(size)
        };
        // Without names no section is wanted; parsing reports the damage.
        let Some(names) = header
            .section_strings_index(endian, self)
            .ok()
            .and_then(|index| sections.get(index.0))
            .map(range)
        else {
            return Ok(Vec::new());
        };
        if names.end - names.start > TABLE {
            return Err(large("names of sections"));
        }
        if !self.covers(&names) {
            return Ok(vec![names]);
        }
        let mut wanted = Vec::new();
        for section in sections {
            let at = names.start + u64::from(section.sh_name(endian));
            // A name outside of the names is that of no section that is wanted.
            let name = self.read_bytes_at_until(at..names.end, 0).unwrap_or_default();
            let kind = section.sh_type(endian);
            let is_small_note = kind == SHT_NOTE && section.sh_size(endian).into() <= BLOCK as u64;
            if is_small_note
                || kind == SHT_SYMTAB_SHNDX
                || SECTIONS.contains(&name)
                || name.starts_with(b"__kcrctab")
                || name.starts_with(b"___kcrctab")
            {
                wanted.push(range(section));
            } else if kind == SHT_SYMTAB {
                wanted.push(range(section));
                // The names of the sections.
                let names = usize::try_from(section.sh_link(endian)).ok().and_then(|link| sections.get(link));
                wanted.extend(names.map(range));
            }
        }
        if wanted.iter().map(|range| range.end - range.start).fold(0, u64::saturating_add) > WHOLE {
            return Err(ImageError::TooLarge(
                "its symbols and its .modinfo are larger than 8 MiB".to_owned(),
            ));
        }
        wanted.retain(|range| !self.covers(range));
        Ok(wanted)
    }
}

impl<'a> ReadRef<'a> for &'a ModuleImage<'_> {
    fn len(self) -> Result<u64, ()> {
        Ok(self.length)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        if size == 0 {
            return Ok(&[]);
        }
        let within = |(at, bytes): &'a (u64, Cow<'_, [u8]>)| {
            // What lies beyond all addresses of memory is not in a piece, here and below.
            let start = usize::try_from(offset.checked_sub(*at)?).ok()?;
            bytes.get(start..start.checked_add(usize::try_from(size).ok()?)?)
        };
        self.pieces.iter().find_map(within).ok_or(())
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let within = |(at, bytes): &'a (u64, Cow<'_, [u8]>)| {
            // As above, here and below.
            let start = usize::try_from(range.start.checked_sub(*at)?).ok()?;
            let rest = bytes.get(start..)?;
            // As above.
            let end = usize::try_from(range.end.checked_sub(range.start)?).ok()?.min(rest.len());
            let rest = &rest[..end];
            memchr::memchr(delimiter, rest).map(|end| &rest[..end])
        };
        self.pieces.iter().find_map(within).ok_or(())
    }
}

/// A module that is read in several passes.
#[derive(Debug, Default)]
pub struct ModuleReading {
    image: ModuleImage<'static>,
    wanted: Vec<Range<u64>>,
    passes: usize,
    /// The signature is not needed.
    info_only: bool,
}

impl ModuleReading {
    /// Reads only the metadata.
    pub fn of_info() -> ModuleReading {
        ModuleReading { info_only: true, ..ModuleReading::default() }
    }

    /// The length of the module in bytes, after it was read.
    pub fn length(&self) -> u64 {
        self.image.length
    }

    /// Whether only parts of it are kept.
    pub fn is_large(&self) -> bool {
        self.image.length > WHOLE
    }

    /// Reads the file from its beginning. Returns the image if no other pass is needed.
    ///
    /// # Errors
    ///
    /// If it is empty, damaged or exceeds a limit.
    pub fn pass<'b>(
        &mut self,
        name: &str,
        mut file: impl BufRead,
    ) -> Result<Option<ModuleImage<'b>>, ImageError> {
        self.passes += 1;
        if file.fill_buf().map_err(|e| ImageError::Unknown(e.to_string()))?.is_empty() {
            return Err(ImageError::Damaged("it is empty".to_owned()));
        }
        let mut plain = decoder(name, &mut file)?;
        let failed = |e: io::Error| fault(name, &e);
        let mut head = Vec::new();
        if self.passes == 1 {
            plain.by_ref().take(WHOLE + 1).read_to_end(&mut head).map_err(failed)?;
            if head.len() as u64 <= WHOLE {
                self.image.length = head.len() as u64;
                return Ok(Some(ModuleImage::whole(head)));
            }
            // This is enough for the ELF header, which has the offset of the section headers.
            let start = usize::try_from(HEAD).unwrap_or(usize::MAX);
            self.image = ModuleImage { pieces: vec![(0, head[..start].to_vec().into())], length: MODULE };
            self.wanted = self.image.missing()?;
        }
        let is_first = self.passes == 1;
        let (pieces, tail, length) = collect(
            head.as_slice().chain(plain),
            &self.wanted,
            if is_first && !self.info_only { TAIL } else { 0 },
        )
        .map_err(failed)?;
        if length > MODULE {
            return Err(ImageError::TooLarge("it is larger than 512 MiB".to_owned()));
        }
        self.image.length = length;
        self.image.pieces.extend(pieces.into_iter().map(|(at, bytes)| (at, bytes.into())));
        if is_first {
            self.image.pieces.push((length - tail.len() as u64, tail.into()));
        }
        self.wanted = self.image.missing()?;
        // Everything else is beyond the end.
        let is_done = self.wanted.is_empty() || self.passes == PASSES;
        let pieces = is_done.then(|| std::mem::take(&mut self.image.pieces));
        Ok(pieces.map(|pieces| ModuleImage { pieces, length }))
    }
}

/// The bytes of the wanted ranges, the end, and the total length.
type Collected = (Vec<(u64, Vec<u8>)>, Vec<u8>, u64);

fn collect(mut plain: impl Read, wanted: &[Range<u64>], tail: usize) -> io::Result<Collected> {
    let mut pieces: Vec<(u64, Vec<u8>)> = wanted.iter().map(|range| (range.start, Vec::new())).collect();
    let (mut block, mut end, mut at) = (vec![0; BLOCK], Vec::new(), 0);
    loop {
        let read = match plain.read(&mut block) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let bytes = &block[..read];
        for (range, (_, piece)) in wanted.iter().zip(&mut pieces) {
            // What lies beyond all addresses lies behind the block.
            let cut = |place: u64| usize::try_from(place.saturating_sub(at)).unwrap_or(usize::MAX).min(read);
            piece.extend_from_slice(&bytes[cut(range.start)..cut(range.end)]);
        }
        at += read as u64;
        if tail > 0 {
            end.extend_from_slice(bytes);
        }
        if end.len() > 2 * tail {
            end.drain(..end.len() - tail);
        }
        if read == 0 || at > MODULE {
            // What is aligned in the file must be aligned in memory.
            let start = at - end.len() as u64;
            // It is smaller than ALIGNED, so there is no error.
            let excess = usize::try_from(start.next_multiple_of(ALIGNED) - start).unwrap_or(0);
            end.drain(..excess.min(end.len()));
            return Ok((pieces, end, at));
        }
    }
}

fn format_of(name: &str) -> Option<&'static str> {
    match name.rsplit('.').next() {
        Some("zst") => Some("zstd"),
        Some("xz") => Some("xz"),
        Some("gz") => Some("gzip"),
        _ => None,
    }
}

fn fault(name: &str, error: &io::Error) -> ImageError {
    let Some(format) = format_of(name) else { return ImageError::Unknown(error.to_string()) };
    let inner = error.get_ref();
    let is_limit = inner.is_some_and(|inner| {
        let memory = inner.downcast_ref::<liblzma::stream::Error>();
        inner.is::<TooFar>() || matches!(memory, Some(liblzma::stream::Error::MemLimit))
    });
    match (is_limit, error.raw_os_error()) {
        (true, _) => ImageError::TooLarge(error.to_string()),
        (false, Some(_)) => ImageError::Unknown(error.to_string()),
        (false, None) => ImageError::Damaged(format!("{format}: {error}")),
    }
}

/// A reader of the uncompressed contents.
///
/// # Errors
///
/// If the beginning is damaged.
pub fn decoder<'r>(name: &str, file: impl BufRead + 'r) -> Result<Box<dyn Read + 'r>, ImageError> {
    Ok(match format_of(name) {
        Some("zstd") => Box::new(zstd(file)?),
        Some("xz") => Box::new(xz(file, true)?),
        Some(_) => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        None => Box::new(file),
    })
}

/// A decoder needs to keep more than [`WINDOW`], and has returned more than its limit.
#[derive(Debug, thiserror::Error)]
#[error("{0}: it takes more than {most} MiB of memory to unpack", most = .1 >> 20)]
struct TooFar(&'static str, u64);

/// A decoder of xz with the number of bytes that it may still return. It never keeps more than it has
/// returned.
struct Xz<R: BufRead> {
    inner: XzDecoder<R>,
    left: u64,
}

impl<R: BufRead> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left =
            self.left.checked_sub(read as u64).ok_or_else(|| io::Error::other(TooFar("xz", FAR_XZ)))?;
        Ok(read)
    }
}

/// A decoder of one zstd frame. It returns nothing before its window is allocated.
struct Zstd<R> {
    decoder: FrameDecoder,
    source: R,
    most_blocks: usize,
}

impl<R: Read> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
            if self.decoder.blocks_decoded() >= self.most_blocks {
                return Err(io::Error::other(TooFar("zstd", FAR_ZSTD)));
            }
            let one = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
        }
        self.decoder.read(buffer)
    }
}

/// A decoder of one frame of zstd.
///
/// # Errors
///
/// If its beginning is damaged.
pub fn zstd<R: BufRead>(mut file: R) -> Result<impl Read, ImageError> {
    let beginning = file.fill_buf().map_err(|e| ImageError::Unknown(e.to_string()))?;
    let mut near = FrameDecoder::new();
    near.set_max_window_size(WINDOW);
    let looks_far = matches!(near.init(beginning), Err(FrameDecoderError::WindowSizeTooBig { .. }));
    let mut decoder = FrameDecoder::new();
    decoder.init(&mut file).map_err(|e| match e {
        e @ FrameDecoderError::WindowSizeTooBig { .. } => ImageError::TooLarge(format!("zstd: {e}")),
        e => ImageError::Damaged(format!("zstd: {e}")),
    })?;
    // 15 MiB fit into any usize.
    let most_blocks =
        if looks_far { usize::try_from(FAR_ZSTD).unwrap_or(0) / ZSTD_BLOCK } else { usize::MAX };
    Ok(Zstd { decoder, source: file, most_blocks })
}

/// A decoder of one or all streams of xz.
///
/// # Errors
///
/// If there is not enough memory.
pub fn xz<R: BufRead>(mut file: R, all: bool) -> Result<impl Read, ImageError> {
    let unknown = |e: &dyn std::fmt::Display| ImageError::Unknown(format!("xz: {e}"));
    let beginning = file.fill_buf().map_err(|e| unknown(&e))?;
    // The decoder needs some tables in addition.
    let near = Stream::new_stream_decoder(WINDOW + (1 << 20), 0).map_err(|e| unknown(&e))?;
    let error = XzDecoder::new_stream(beginning, near).read(&mut [0]).err();
    let inner = error.as_ref().and_then(|e| e.get_ref()?.downcast_ref::<liblzma::stream::Error>());
    let looks_far = matches!(inner, Some(liblzma::stream::Error::MemLimit));
    // The first block of a single stream shows its dictionary size. Each of several streams may need more.
    let (memory, left) = if looks_far { (u64::MAX, FAR_XZ) } else { (WINDOW + (1 << 20), u64::MAX) };
    let stream = Stream::new_stream_decoder(memory, if all { CONCATENATED } else { 0 });
    let inner = XzDecoder::new_stream(file, stream.map_err(|e| unknown(&e))?);
    Ok(Xz { inner, left })
}
