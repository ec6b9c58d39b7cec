//! A module file: the kernel that it was made for, and its signature.

use std::io::Read;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::dkms::signature::{self, Signature};
use crate::kernel::module_file::{self, BuildIdentity, ModuleInfo};
use crate::kernel::module_image::{ImageError, ModuleImage, WHOLE};
use crate::limits::MODULE;
use crate::sys::fingerprint::{hex, sum};
use crate::sys::{FileError, Root};

pub use crate::kernel::module_file::ENDINGS;

/// The facts in a module file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Its complete vermagic, whose first word is the kernel release, or why this is not a module.
    pub vermagic: Result<String, String>,
    /// SHA-256 of the file on disk, in hexadecimal.
    pub sha256: String,
    /// The modules that it depends on, according to itself.
    pub depends: Vec<String>,
    /// Its signature. Modules are signed before they are compressed.
    pub signature: Signature,
    /// The identity of the build.
    #[serde(default)]
    pub build: BuildIdentity,
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
///
/// If it cannot be read or is too large for a module.
pub fn sha256(root: &Root, path: &str) -> Result<String, FileError> {
    let (file, _) = root.open_within(path, MODULE)?;
    Ok(sum(file).map_err(|e| root.read_failed(path, e))?.1)
}

/// Reads a module file.
///
/// # Errors
///
/// If it cannot be read or unpacked.
pub fn of_file(root: &Root, path: &str) -> Result<FileFacts, ImageError> {
    of_file_named(root, path, path)
}

/// The same for a file with a temporary name, whose ending does not show the compression.
///
/// # Errors
///
/// As [`of_file`].
pub(in crate::dkms) fn of_file_named(root: &Root, path: &str, name: &str) -> Result<FileFacts, ImageError> {
    let (file, size) = root.open_within(path, MODULE)?;
    if size > WHOLE {
        let (_, sha256) = sum(file).map_err(|e| root.read_failed(path, e))?;
        return system(sha256, ModuleImage::of_file(root, path, name));
    }
    // The size only saves copies while the bytes are read.
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(WHOLE + 1).read_to_end(&mut bytes).map_err(|e| root.read_failed(path, e))?;
    known(name, &bytes)
}

/// Reads the contents of a file with this name.
pub fn read(name: &str, bytes: &[u8]) -> FileFacts {
    known(name, bytes).unwrap_or_else(|why| unusable(digest_of(bytes), why.to_string()))
}

/// SHA-256 of these bytes, in hexadecimal.
pub fn digest_of(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn known(name: &str, bytes: &[u8]) -> Result<FileFacts, ImageError> {
    let image = match (bytes, name.ends_with(ENDINGS[0])) {
        (&[], _) => Err(ImageError::Damaged("it is empty".to_owned())),
        (bytes, true) => Ok(ModuleImage::whole(bytes)),
        (bytes, false) => ModuleImage::read(name, || Ok(bytes)),
    };
    system(digest_of(bytes), image)
}

fn system(sha256: String, image: Result<ModuleImage<'_>, ImageError>) -> Result<FileFacts, ImageError> {
    let image = match image {
        Ok(image) => image,
        Err(ImageError::Damaged(reason)) => return Ok(unusable(sha256, reason)),
        Err(unknown) => return Err(unknown),
    };
    let signature = signature::of_image(&image);
    let (vermagic, ModuleInfo { depends, build, .. }) = match module_file::info(&image) {
        Ok(mut info) => match info.vermagic.take() {
            Some(vermagic) => (Ok(vermagic), info),
            None => (Err("its .modinfo has no vermagic".to_owned()), ModuleInfo::default()),
        },
        Err(reason) => (Err(reason.to_string()), ModuleInfo::default()),
    };
    Ok(FileFacts { vermagic, sha256, depends, signature, build })
}

fn unusable(sha256: String, reason: String) -> FileFacts {
    FileFacts {
        vermagic: Err(reason.clone()),
        sha256,
        depends: Vec::new(),
        signature: Signature::Unsigned { note: Some(reason) },
        build: BuildIdentity::default(),
    }
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
            let system = read(name, bytes);
            assert!(system.vermagic.is_err(), "{name} {bytes:?}");
            assert!(matches!(system.signature, Signature::Unsigned { .. }), "{name} {bytes:?}");
        }
    }
}
