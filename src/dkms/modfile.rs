//! A module file: which kernel it was made for, and what it is signed with.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::signature::{self, Signature};
use crate::kernel::module_file::{self, BuildIdentity, ModuleInfo};

pub use crate::kernel::module_file::{ENDINGS, decompress as plain};

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
    /// Which build it is.
    #[serde(default)]
    pub build: BuildIdentity,
}

/// SHA-256 in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the bytes of a file of that name.
pub fn read(name: &str, bytes: &[u8]) -> FileFacts {
    let sha256 = sha256(bytes);
    let (info, signature) = match plain(name, bytes) {
        Ok(plain) => (module_file::info(&plain), signature::read(&plain)),
        Err(reason) => (Err(reason.clone()), Signature::Unsigned { note: Some(reason) }),
    };
    let (vermagic, ModuleInfo { depends, build, .. }) = match info {
        Ok(mut info) => match info.vermagic.take() {
            Some(vermagic) => (Ok(vermagic), info),
            None => (Err("its .modinfo has no vermagic".to_owned()), ModuleInfo::default()),
        },
        Err(reason) => (Err(reason), ModuleInfo::default()),
    };
    FileFacts { vermagic, sha256, depends, signature, build }
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
