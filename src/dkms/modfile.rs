//! A module file: which kernel it was made for, and what it is signed with.

use std::borrow::Cow;
use std::io::Read;

use object::{Object, ObjectSection};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::signature::{self, Signature};

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
    /// The modules that it says it is loaded on top of.
    pub depends: Vec<String>,
    /// Its signature; compressed modules are signed first.
    pub signature: Signature,
}

/// Reads the bytes of a file of that name.
pub fn read(name: &str, bytes: &[u8]) -> FileFacts {
    let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    match plain(name, bytes) {
        Ok(plain) => {
            let signature = signature::read(&plain);
            match modinfo(&plain) {
                Ok((vermagic, depends)) => FileFacts { vermagic: Ok(vermagic), sha256, depends, signature },
                Err(reason) => FileFacts { vermagic: Err(reason), sha256, depends: Vec::new(), signature },
            }
        }
        Err(reason) => {
            let signature = Signature::Unsigned { note: Some(reason.clone()) };
            FileFacts { vermagic: Err(reason), sha256, depends: Vec::new(), signature }
        }
    }
}

/// The module without its compression.
pub(super) fn plain<'a>(name: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    Ok(match name.rsplit('.').next() {
        Some("zst") => {
            let reader = ruzstd::decoding::StreamingDecoder::new(bytes).map_err(|e| format!("zstd: {e}"))?;
            all(reader, "zstd")?.into()
        }
        Some("xz") => all(liblzma::read::XzDecoder::new_multi_decoder(bytes), "xz")?.into(),
        Some("gz") => all(flate2::read::MultiGzDecoder::new(bytes), "gzip")?.into(),
        _ => bytes.into(),
    })
}

/// Vermagic and dependencies.
fn modinfo(plain: &[u8]) -> Result<(String, Vec<String>), String> {
    let file = object::File::parse(plain).map_err(|e| format!("it is no ELF file ({e})"))?;
    let section = file.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
    let data = section.data().map_err(|e| format!("its .modinfo cannot be read ({e})"))?;
    let value = |key: &[u8]| {
        let value = data.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(key));
        value.map(|text| String::from_utf8_lossy(text).trim().to_owned())
    };
    let vermagic = value(b"vermagic=").ok_or("its .modinfo has no vermagic")?;
    let depends = value(b"depends=").unwrap_or_default();
    Ok((vermagic, depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()))
}

fn all(reader: impl Read, format: &str) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let read = reader.take(SIZE_LIMIT + 1).read_to_end(&mut plain).map_err(|e| format!("{format}: {e}"))?;
    // A module that is cut would look unsigned.
    if read as u64 > SIZE_LIMIT { Err(format!("{format}: it is larger than 1 GiB")) } else { Ok(plain) }
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
            let facts = read(name, bytes);
            assert!(facts.vermagic.is_err(), "{name} {bytes:?}");
            assert!(matches!(facts.signature, Signature::Unsigned { .. }), "{name} {bytes:?}");
        }
    }
}
