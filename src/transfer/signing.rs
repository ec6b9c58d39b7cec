//! Detached signatures of archives, in the format of minisign.

use std::io::{self, Read};

use minisign_verify::{Error, PublicKey, Signature};

use crate::sys::{FileError, FileKind, Root};

/// The directory of the public keys whose signatures are accepted, one key in each file `NAME.pub`.
pub const KEYS: &str = "/etc/clr-dkms/keys.d";
/// The end of the name of a key.
const KEY_ENDING: &str = ".pub";
/// A key or a signature has less than this.
const LONGEST: u64 = 16 << 10;
/// The bits of a mode with which others can write.
const WRITABLE: u32 = 0o022;

/// What is known of the signature of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveSignature {
    /// It is valid. `comment`: the comment that is signed too.
    Valid { key: String, comment: String },
    /// There is none.
    Absent,
    /// It was made with another key.
    UnknownKey,
    /// It was made with this key, for other contents.
    Altered { key: String },
    /// It cannot be parsed, or is of a kind that is not accepted.
    Unusable(String),
}

impl ArchiveSignature {
    /// The archive comes from the owner of a key.
    pub fn is_valid(&self) -> bool {
        matches!(self, ArchiveSignature::Valid { .. })
    }

    /// The archive is not the one that was signed, or that cannot be determined.
    pub fn is_bad(&self) -> bool {
        matches!(self, ArchiveSignature::Altered { .. } | ArchiveSignature::Unusable(_))
    }
}

impl std::fmt::Display for ArchiveSignature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ArchiveSignature::Valid { key, comment } if comment.is_empty() => {
                write!(f, "valid, by {key}")
            }
            ArchiveSignature::Valid { key, comment } => write!(f, "valid, by {key}: {comment}"),
            ArchiveSignature::Absent => f.write_str("there is none"),
            ArchiveSignature::UnknownKey => write!(f, "it is not by a key in {KEYS}"),
            ArchiveSignature::Altered { key } => {
                write!(f, "the archive is not the one that was signed with {key}")
            }
            ArchiveSignature::Unusable(reason) => write!(f, "it cannot be used: {reason}"),
        }
    }
}

/// The accepted keys.
#[derive(Debug, Default)]
pub struct SigningKeys {
    keys: Vec<(String, PublicKey)>,
    /// The files that are not used, with the reason.
    pub faults: Vec<String>,
}

impl SigningKeys {
    /// Reads the keys. Only files that no other user than root can write are used, because a key decides
    /// which binaries are installed.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn load(root: &Root) -> Result<SigningKeys, FileError> {
        let mut found = SigningKeys::default();
        let files = root.list_optional(KEYS)?;
        for file in files {
            let Some(name) = file.text().filter(|name| name.ends_with(KEY_ENDING)) else { continue };
            let path = format!("{KEYS}/{name}");
            match key(root, &path) {
                Ok(key) => found.keys.push((path, key)),
                Err(reason) => found.faults.push(format!("{path}: {reason}; it is not used")),
            }
        }
        Ok(found)
    }

    /// No key is accepted.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Checks an archive against its signature.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn check(&self, signature: Option<&[u8]>, mut archive: impl Read) -> io::Result<ArchiveSignature> {
        let Some(signature) = signature else { return Ok(ArchiveSignature::Absent) };
        let text = String::from_utf8_lossy(signature);
        let signature = match Signature::decode(&text) {
            Ok(signature) => signature,
            Err(e) => return Ok(ArchiveSignature::Unusable(e.to_string())),
        };
        for (path, key) in &self.keys {
            let mut verifier = match key.verify_stream(&signature) {
                Ok(verifier) => verifier,
                Err(Error::UnexpectedKeyId) => continue,
                Err(e) => return Ok(ArchiveSignature::Unusable(e.to_string())),
            };
            let mut block = vec![0; 64 << 10];
            loop {
                match archive.read(&mut block) {
                    Ok(0) => break,
                    Ok(length) => verifier.update(&block[..length]),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            let key = path.clone();
            return Ok(match verifier.finalize() {
                Ok(()) => ArchiveSignature::Valid { key, comment: signature.trusted_comment().to_owned() },
                // The only error is that the contents do not agree with the signature.
                Err(_) => ArchiveSignature::Altered { key },
            });
        }
        Ok(ArchiveSignature::UnknownKey)
    }
}

/// Reads one key.
fn key(root: &Root, path: &str) -> Result<PublicKey, String> {
    let directory = root.lookup(KEYS).known().map_err(|e| e.to_string())?;
    let stat = root.lookup(path).known().map_err(|e| e.to_string())?;
    let stat = stat.ok_or("it is a dangling symlink")?;
    if stat.kind != FileKind::File {
        return Err("it is not a file".to_owned());
    }
    // In an image of a user, root is that user.
    let is_ours = |owner: u32| owner == 0 || (!root.is_slash() && owner == nix::unistd::geteuid().as_raw());
    let places = [Some(stat), directory];
    if places.into_iter().flatten().any(|stat| stat.mode & WRITABLE != 0 || !is_ours(stat.owner)) {
        return Err("others than root can write it".to_owned());
    }
    let bytes = root.read_within(path, LONGEST).map_err(|e| e.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is not text".to_owned())?;
    // minisign writes a comment in the line before.
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let read = match lines.as_slice() {
        [key] => PublicKey::from_base64(key),
        _ => PublicKey::decode(&lines.join("\n")),
    };
    read.map_err(|e| format!("it is not a public key of minisign: {e}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sys::RootKind;

    /// From the documentation of minisign; the signed text is "test".
    const KEY: &str = "untrusted comment: minisign public key E7620F1842B4E81F\n\
         RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n";
    const SIGNATURE: &str = "untrusted comment: signature from minisign secret key\n\
         RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
         trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
         wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";

    fn keys(text: &str, mode: u32) -> SigningKeys {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        root.write(format!("{KEYS}/a.pub"), text.as_bytes(), mode).unwrap();
        SigningKeys::load(&root).unwrap()
    }

    #[test]
    fn a_signature_of_minisign() {
        let keys = keys(KEY, 0o644);
        assert_eq!(keys.faults, Vec::<String>::new());
        let check =
            |signature: &str, archive: &[u8]| keys.check(Some(signature.as_bytes()), archive).unwrap();
        assert!(check(SIGNATURE, b"test").is_valid());
        assert!(matches!(check(SIGNATURE, b"tesT"), ArchiveSignature::Altered { .. }));
        // The decoder needs no padding.
        let end = SIGNATURE.trim_end().trim_end_matches('=').len();
        for length in (0..end).step_by(7) {
            assert!(!check(&SIGNATURE[..length], b"test").is_valid(), "{length}");
        }
        let other = SIGNATURE.replace("timestamp:1633700835", "timestamp:1633700836");
        assert!(matches!(check(&other, b"test"), ArchiveSignature::Altered { .. }));
        assert_eq!(keys.check(None, &b"test"[..]).unwrap(), ArchiveSignature::Absent);
        assert!(matches!(check("garbage", b"test"), ArchiveSignature::Unusable(_)));
    }

    #[test]
    fn keys_that_are_not_used() {
        for (text, mode) in [("garbage\n", 0o644), ("", 0o644), (&KEY[..80], 0o644), (KEY, 0o666)] {
            let keys = keys(text, mode);
            assert_eq!((keys.is_empty(), keys.faults.len()), (true, 1), "{text:?}");
            let signature = keys.check(Some(SIGNATURE.as_bytes()), &b"test"[..]).unwrap();
            assert_eq!(signature, ArchiveSignature::UnknownKey);
        }
        // The key alone, as it is printed in documents.
        assert!(!keys("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n", 0o600).is_empty());
    }
}
