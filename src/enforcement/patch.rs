//! Whether a kernel has the patch that adds `module.sig_unenforce`, and which of its two versions, determined
//! from the files of a kernel that does not need to run.

use std::io::{BufReader, Read};

use anyhow::{anyhow, bail};
use memchr::memmem;
use serde::Serialize;

use crate::kernel::module_image::{xz, zstd};

/// The first kernel version with the second version of the patch.
const SECOND_FORM: [u32; 3] = [5, 19, 1];
/// The name of the parameter with its terminator, a string in patched kernels.
const NAME: &[u8] = b"module.sig_unenforce\0";
/// A string in every kernel with support for module signatures.
const OTHER_NAME: &[u8] = b"module.sig_enforce\0";
/// The largest kernel after decompression. A larger file is not a kernel.
const KERNEL_LIMIT: u64 = 512 << 20;
/// How much of the compressed kernel is needed to recognize the compression.
const BEGINNING: u64 = 4 << 10;

/// The patch that a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Patch {
    /// The first version, before 5.19.1.
    V1,
    /// The second version.
    V2,
    /// The kernel does not know the parameter.
    Absent,
    /// It cannot be determined.
    Unknown,
}

impl Patch {
    /// The version of the patch in a patched kernel, which only the kernel version determines.
    pub fn of_version(version: Option<[u32; 3]>) -> Patch {
        match version {
            Some(version) if version >= SECOND_FORM => Patch::V2,
            Some(_) => Patch::V1,
            None => Patch::Unknown,
        }
    }

    /// From whether the name of the parameter was found.
    pub fn found(patched: Option<bool>, version: Option<[u32; 3]>) -> Patch {
        match patched {
            Some(true) => Patch::of_version(version),
            Some(false) => Patch::Absent,
            None => Patch::Unknown,
        }
    }
}

/// The version at the beginning of a kernel release: `6.15.7-1591.native` is 6.15.7, `6.15-1.native` is
/// 6.15.0.
pub fn version(release: &str) -> Option<[u32; 3]> {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(release.len());
    let mut parts = release[..end].trim_end_matches('.').split('.').map(str::parse::<u32>);
    // A number that is out of range is not part of a version.
    let mut next = || parts.next().unwrap_or(Ok(0)).ok();
    (!release[..end].is_empty()).then(|| Some([next()?, next()?, next()?])).flatten()
}

/// From the contents of `modules.builtin.modinfo`: entries that end with NUL.
pub fn from_modinfo(bytes: &[u8], version: Option<[u32; 3]>) -> Patch {
    // In 5.18 the code moved from kernel/module.c to kernel/module/signing.c.
    let has = |parameter: &str| {
        bytes.split(|b| *b == 0).any(|entry| {
            ["signing", "module"].iter().any(|file| {
                let start = format!("{file}.parmtype={parameter}:");
                entry.starts_with(start.as_bytes())
            })
        })
    };
    let patched = if has("sig_unenforce") { Some(true) } else { has("sig_enforce").then_some(false) };
    Patch::found(patched, version)
}

/// Whether a kernel image (x86 boot protocol) contains the name of the parameter. None if it does not look
/// like a kernel with module signatures.
///
/// # Errors
///
/// If it is not an image in a known format.
pub fn from_image(mut image: impl Read) -> anyhow::Result<Option<bool>> {
    let mut head = [0; 0x250];
    image.read_exact(&mut head).map_err(|e| anyhow!("it is too short ({e})"))?;
    if head.get(0x202..0x206) != Some(b"HdrS") {
        bail!("it has no header of the x86 boot protocol");
    }
    let number = |at: usize| head[at..at + 4].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let sectors = if head[0x1f1] == 0 { 4 } else { u64::from(head[0x1f1]) };
    let (offset, length) = (number(0x248), number(0x24c));
    let start = (sectors + 1) * 512 + offset;
    let Some(skip) = start.checked_sub(head.len() as u64).filter(|_| length > 10) else {
        bail!("its header does not say where the kernel is");
    };
    let fail = |e: std::io::Error| anyhow!("it cannot be read ({e})");
    std::io::copy(&mut image.by_ref().take(skip), &mut std::io::sink()).map_err(fail)?;
    let mut magic = [0; 6];
    image.read_exact(&mut magic).map_err(fail)?;
    // The last four bytes are the uncompressed size. The beginning selects the decoder.
    let rest = length - 4 - magic.len() as u64;
    let mut beginning = magic.to_vec();
    let read = image.by_ref().take(rest.min(BEGINNING)).read_to_end(&mut beginning).map_err(fail)?;
    let payload = beginning.as_slice().chain(BufReader::new(image.take(rest - read as u64)));
    let found = match magic {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => search(zstd(payload)?),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => search(xz(payload, false)?),
        [0x1f, 0x8b, ..] => search(flate2::bufread::GzDecoder::new(payload)),
        _ => bail!("the kernel in it is not compressed with zstd, xz or gzip"),
    };
    found.map_err(|e| anyhow!("the kernel in it cannot be decompressed ({e})"))
}

/// Searches for the names. None if neither is there: the kernel is in an unknown format.
fn search(reader: impl Read) -> std::io::Result<Option<bool>> {
    let mut reader = reader.take(KERNEL_LIMIT);
    let (wanted, other) = (memmem::Finder::new(NAME), memmem::Finder::new(OTHER_NAME));
    let mut block = vec![0; 1 << 20];
    // The end of the previous block is kept, so that a name across the border is found.
    let (mut kept, mut known) = (0, None);
    loop {
        let read = reader.read(&mut block[kept..])?;
        if read == 0 {
            // The part that was not searched may contain the name.
            return Ok(known.filter(|_| reader.limit() > 0));
        }
        let filled = kept + read;
        if wanted.find(&block[..filled]).is_some() {
            return Ok(Some(true));
        }
        if known.is_none() && other.find(&block[..filled]).is_some() {
            known = Some(false);
        }
        kept = filled.min(NAME.len());
        block.copy_within(filled - kept..filled, 0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn versions() {
        assert_eq!(version("6.15.7-1591.native"), Some([6, 15, 7]));
        assert_eq!(version("6.15-1.native"), Some([6, 15, 0]));
        assert_eq!(version("5.19.1"), Some([5, 19, 1]));
        assert_eq!(version("6.1.0-56-amd64"), Some([6, 1, 0]));
        for no in ["", "native", "99999999999.1-1.native", "6..1"] {
            assert_eq!(version(no), None, "{no}");
        }
        assert_eq!(Patch::of_version(version("5.19.0-9.native")), Patch::V1);
        assert_eq!(Patch::of_version(version("5.19.1-9.native")), Patch::V2);
        assert_eq!(Patch::of_version(None), Patch::Unknown);
    }

    #[test]
    fn the_list_of_built_in_parameters() {
        let new = Some([6, 15, 7]);
        let patched = b"a.license=GPL\0signing.parmtype=sig_enforce:bool_enable_only\0signing.parmtype=sig_unenforce:bool_enable_only\0";
        assert_eq!(from_modinfo(patched, new), Patch::V2);
        assert_eq!(
            from_modinfo(b"module.parmtype=sig_unenforce:bool_enable_only\0", Some([5, 10, 0])),
            Patch::V1
        );
        assert_eq!(from_modinfo(b"signing.parmtype=sig_enforce:bool_enable_only\0", new), Patch::Absent);
        for nothing in [
            b"".as_slice(),
            b"garbage",
            b"x.signing.parmtype=sig_unenforce:bool\0",
            b"signing.parm=sig_unenforce:x\0",
        ] {
            assert_eq!(from_modinfo(nothing, new), Patch::Unknown);
        }
    }

    /// An image that contains that kernel.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 512 * 2 + 0x40];
        image[0x1f1] = 1;
        image.resize(0x250.max(image.len()), 0);
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&0x40u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len() + 4).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(&[1, 2, 3, 4]);
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    #[test]
    fn the_kernel_in_an_image() {
        // The name is across the border of two blocks.
        for pad in [0, 100, (1 << 20) - 30, (1 << 20) - 5, 3 << 20] {
            let patched =
                [vec![7; pad], b"\0module.sig_enforce\0module.sig_unenforce\0".to_vec(), vec![7; 99]]
                    .concat();
            let plain = [vec![7; pad], b"\0module.sig_enforce\0".to_vec(), vec![7; 99]].concat();
            for pack in [gzip, xz, zstd] {
                assert_eq!(from_image(image(&pack(&patched)).as_slice()).unwrap(), Some(true), "{pad}");
                assert_eq!(from_image(image(&pack(&plain)).as_slice()).unwrap(), Some(false), "{pad}");
                assert_eq!(from_image(image(&pack(b"other")).as_slice()).unwrap(), None);
            }
        }
        let good = image(&gzip(b"module.sig_enforce\0"));
        for bad in [&b""[..], b"image", &good[..good.len() - 20], &image(b"lzma..............")] {
            assert!(from_image(bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_image_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0x200..0x900), offset in 0u32..0x400) {
            let mut bytes = bytes;
            bytes.resize(0x250.max(bytes.len()), 0);
            bytes[0x202..0x206].copy_from_slice(b"HdrS");
            bytes[0x248..0x24c].copy_from_slice(&offset.to_le_bytes());
            let _read = (from_image(bytes.as_slice()), from_modinfo(&bytes, None));
        }
    }
}
