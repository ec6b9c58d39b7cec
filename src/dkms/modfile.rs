//! A module file: which kernel it was made for.

use std::io::Read;

use object::{Object, ObjectSection};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The largest module after decompression; larger ones are refused instead of filling the memory.
const SIZE_LIMIT: u64 = 1 << 30;

/// The endings of module files, in the order in which they are looked for.
pub const ENDINGS: [&str; 4] = [".ko", ".ko.zst", ".ko.xz", ".ko.gz"];

/// What a module file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its vermagic, whole (the first word is the kernel release), or why it is no module.
    pub vermagic: Result<String, String>,
    /// SHA-256 of the file as it lies on disk, in hexadecimal.
    pub sha256: String,
}

/// Reads the bytes of a file of that name.
pub fn read(name: &str, bytes: &[u8]) -> FileFacts {
    let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    FileFacts { vermagic: vermagic(name, bytes), sha256 }
}

fn vermagic(name: &str, bytes: &[u8]) -> Result<String, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let plain;
    let elf = match name.rsplit('.').next() {
        Some("zst") => {
            let reader = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| format!("zstd: {e}"))?;
            plain = all(reader, "zstd")?;
            plain.as_slice()
        }
        Some("xz") => {
            plain = all(liblzma::read::XzDecoder::new_multi_decoder(bytes), "xz")?;
            plain.as_slice()
        }
        Some("gz") => {
            plain = all(flate2::read::MultiGzDecoder::new(bytes), "gzip")?;
            plain.as_slice()
        }
        _ => bytes,
    };
    let file = object::File::parse(elf).map_err(|e| format!("it is no ELF file ({e})"))?;
    let section = file.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
    let data = section.data().map_err(|e| format!("its .modinfo cannot be read ({e})"))?;
    data.split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(b"vermagic="))
        .map(|text| String::from_utf8_lossy(text).trim().to_owned())
        .ok_or_else(|| "its .modinfo has no vermagic".to_owned())
}

fn all(reader: impl Read, format: &str) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    reader.take(SIZE_LIMIT).read_to_end(&mut plain).map_err(|e| format!("{format}: {e}"))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_says_why() {
        for (name, bytes) in [
            ("a.ko", b"".as_slice()),
            ("a.ko", b"garbage"),
            ("a.ko.zst", b"garbage"),
            ("a.ko.xz", b"\xfd7zXZ\0garbage"),
            ("a.ko.gz", b"\x1f\x8bgarbage"),
        ] {
            assert!(read(name, bytes).vermagic.is_err(), "{name} {bytes:?}");
        }
    }
}
