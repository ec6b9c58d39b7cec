//! The signature at the end of a module file, as far as it can be judged without a key.
//!
//! The layout is that of the kernel's `scripts/sign-file`: the module, a PKCS#7 message, twelve bytes that describe it,
//! a line of text. What the kernel answers falls into two classes: a module that is unsigned, or signed in a way that
//! it does not know, or by a key that it does not have, may load where nothing enforces signatures; a module whose
//! signature cannot be read never loads. The order of the checks below decides which it is, and is the kernel's.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pkcs7::{self, Pkcs7Error, Signer};
use crate::kernel::module_image::ModuleImage;

/// The very last bytes of a signed module.
const MAGIC: &[u8] = b"~Module signature appended~\n";
/// Between the message and the magic: algorithm, digest, kind, two lengths, three bytes of padding, and the length of
/// the message, most significant byte first. All but kind and length are zero for PKCS#7.
const HEADER: usize = 12;
const PKCS7: u8 = 2;
/// How much of the magic has to be there for "it was cut off".
const TELLING: usize = 8;

/// What a module file says of its signature; nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Signature {
    /// To the kernel there is none. Such a module loads where signatures are not enforced.
    Unsigned {
        /// What there is instead, where something hints at a signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// There is one that can be read. Only who has the key can tell whether it is good: where signatures are not
    /// enforced such a module loads, unless the kernel has the key and the signature is bad.
    Signed {
        /// The digest, as the kernel calls it (`sha512`); a number with dots when it has no name, `unknown` when a
        /// flaw stands before it that only some kernels see.
        digest: String,
        /// The algorithm: `rsa`, `ecdsa` or another, as for the digest.
        algorithm: String,
        /// Who issued the certificate of the key, as in RFC 4514; the key's id in hexadecimal when `serial` is none.
        issuer: String,
        /// The serial number of that certificate, in hexadecimal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        serial: Option<String>,
    },
    /// There is one that we cannot read; a kernel may be able to. To a kernel that enforces nothing it is like one of a
    /// key that is not known.
    Unknown {
        /// Why.
        reason: String,
    },
    /// There is one that no kernel takes: the module loads nowhere, whatever the command line says.
    Broken {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signature::Unsigned { note: None } => f.write_str("unsigned"),
            Signature::Unsigned { note: Some(note) } => write!(f, "unsigned ({note})"),
            Signature::Signed { digest, issuer, serial: Some(serial), .. } => {
                write!(f, "signed with {digest} by {issuer}, serial {serial}, not verified")
            }
            Signature::Signed { digest, issuer, serial: None, .. } => {
                write!(f, "signed with {digest} by key {issuer}, not verified")
            }
            Signature::Unknown { reason } => write!(f, "unknown signature: {reason}"),
            Signature::Broken { reason } => write!(f, "broken signature: {reason}"),
        }
    }
}

/// Reads the signature of a module, which is not compressed any more.
pub fn read(plain: &[u8]) -> Signature {
    match plain.strip_suffix(MAGIC) {
        // The magic alone is no signature.
        Some([]) | None => Signature::Unsigned { note: hint(plain) },
        Some(signed) => described(signed),
    }
}

/// Reads the signature of a module of which the end is there.
pub(super) fn of_image(image: &ModuleImage<'_>) -> Signature {
    let tail = image.tail();
    match read(tail) {
        // Where the beginning of the message is not among what is kept.
        Signature::Broken { .. }
            if image.length() > tail.len() as u64 && length(tail) > tail.len() as u64 =>
        {
            Signature::Unsigned { note: Some("its signature is larger than 1 MiB".to_owned()) }
        }
        known => known,
    }
}

/// How long the message claims to be.
fn length(tail: &[u8]) -> u64 {
    let header = tail.strip_suffix(MAGIC).and_then(|signed| signed.last_chunk::<4>());
    header.map_or(0, |length| u64::from(u32::from_be_bytes(*length)))
}

/// Judges what stands before the magic.
fn described(signed: &[u8]) -> Signature {
    let broken = |reason: &str| Signature::Broken { reason: reason.to_owned() };
    let Some((before, header)) = signed.split_last_chunk::<HEADER>().filter(|(before, _)| !before.is_empty())
    else {
        return broken("nothing stands before it");
    };
    let [algorithm, digest, kind, signer, key, pad @ .., a, b, c, d] = *header;
    let length = u32::from_be_bytes([a, b, c, d]);
    let Some(start) = usize::try_from(length).ok().and_then(|length| before.len().checked_sub(length)) else {
        return broken("it claims to be longer than the file");
    };
    if start == 0 {
        return broken("it claims to be as long as the file");
    }
    if kind != PKCS7 {
        return Signature::Unsigned { note: Some(format!("its signature is of kind {kind}, not PKCS#7")) };
    }
    if [algorithm, digest, signer, key] != [0; 4] || pad != [0; 3] {
        return broken("what describes it is not zero where it has to be");
    }
    match pkcs7::read(&before[start..]) {
        Err(Pkcs7Error::Broken(why)) => {
            Signature::Broken { reason: format!("its PKCS#7 message cannot be used: {why}") }
        }
        Err(Pkcs7Error::Unknown(why)) => {
            Signature::Unknown { reason: format!("its PKCS#7 message cannot be read: {why}") }
        }
        Ok(Signer { digest, algorithm, issuer, serial }) => {
            let issuer = if issuer.is_empty() { "unknown".to_owned() } else { issuer };
            Signature::Signed { digest, algorithm, issuer, serial }
        }
    }
}

/// What hints at a signature in a file that does not end in one.
fn hint(plain: &[u8]) -> Option<String> {
    let header = |end: usize| {
        let header = end.checked_sub(HEADER).and_then(|start| plain.get(start..end));
        // The text alone is in the kernel's own programs too.
        header.is_some_and(|bytes| bytes.starts_with(&[0, 0, PKCS7, 0, 0, 0, 0, 0]))
    };
    let cut = (TELLING..MAGIC.len()).rev().find(|length| plain.ends_with(&MAGIC[..*length]));
    if cut.is_some_and(|length| header(plain.len() - length)) {
        return Some("the end of its signature is missing".to_owned());
    }
    let at = memchr::memmem::rfind(plain, MAGIC).filter(|at| header(*at))?;
    match plain.len() - at - MAGIC.len() {
        1 => Some("a byte follows its signature".to_owned()),
        more => Some(format!("{more} bytes follow its signature")),
    }
}
