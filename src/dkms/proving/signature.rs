//! Reads the signature at the end of a module file, as far as it can be judged without a key.
//!
//! The layout is that of `scripts/sign-file` of the kernel: the module, a PKCS#7 message, twelve bytes that
//! describe it, and a line of text. There are two classes of refusals. A module that is unsigned, signed in
//! an unknown way or signed with an unknown key may load if signatures are not enforced. A module whose
//! signature cannot be parsed never loads. The order of the checks below decides between them and is that of
//! the kernel.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dkms::pkcs7::{self, Pkcs7Error};
use crate::kernel::module_image::ModuleImage;

/// The last bytes of a signed module.
const MAGIC: &[u8] = b"~Module signature appended~\n";
/// The length of the description between the message and the magic: algorithm, digest, kind, two lengths,
/// three bytes of padding, and the length of the message as a big-endian number. All except kind and length
/// are zero for PKCS#7.
const HEADER: usize = 12;
const PKCS7: u8 = 2;
/// How many bytes of the magic show that a file was truncated.
const TELLING: usize = 8;

/// The signature in a module file. It is not verified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Signature {
    /// The kernel sees no signature. Such a module loads if signatures are not enforced.
    Unsigned {
        /// What was found instead, if something resembles a signature.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// A signature that can be parsed. Whether it is valid can be determined only with the key. If signatures
    /// are not enforced, such a module loads, unless the kernel has the key and the signature is invalid.
    Signed {
        /// The digest, as the kernel names it (`sha512`); a dotted number if it has no name, `unknown` after
        /// a flaw that only some kernels detect.
        digest: String,
        /// The algorithm: `rsa`, `ecdsa` or another one; otherwise as for the digest.
        algorithm: String,
        /// The issuer of the certificate of the key, as in RFC 4514; the id of the key in hexadecimal if
        /// `serial` is none.
        issuer: String,
        /// The serial number of that certificate, in hexadecimal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        serial: Option<String>,
    },
    /// A signature that clr-dkms cannot parse, while a kernel may be able to. A kernel that does not enforce
    /// signatures treats it like one with an unknown key.
    Unknown {
        /// The reason.
        reason: String,
    },
    /// A signature that every kernel refuses: the module never loads, whatever the command line says.
    Broken {
        /// The reason.
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

/// Reads the signature of an uncompressed module.
pub fn read(plain: &[u8]) -> Signature {
    match plain.strip_suffix(MAGIC) {
        // The magic alone is not a signature.
        Some([]) | None => Signature::Unsigned { note: hint(plain) },
        Some(signed) => described(signed),
    }
}

/// Reads the signature of a module whose end was kept.
pub(in crate::dkms) fn of_image(image: &ModuleImage<'_>) -> Signature {
    let tail = image.tail();
    match read(tail) {
        // The beginning of the message was not kept.
        Signature::Broken { .. }
            if image.length() > tail.len() as u64 && length(tail) > tail.len() as u64 =>
        {
            Signature::Unsigned { note: Some("its signature is larger than 1 MiB".to_owned()) }
        }
        known => known,
    }
}

/// The length of the message according to the description.
fn length(tail: &[u8]) -> u64 {
    let header = tail.strip_suffix(MAGIC).and_then(|signed| signed.last_chunk::<4>());
    header.map_or(0, |length| u64::from(u32::from_be_bytes(*length)))
}

/// Judges the bytes before the magic.
fn described(signed: &[u8]) -> Signature {
    let broken = |reason: &str| Signature::Broken { reason: reason.to_owned() };
    let Some((before, header)) = signed.split_last_chunk::<HEADER>().filter(|(before, _)| !before.is_empty())
    else {
        return broken("nothing stands before it");
    };
    let [algorithm, digest, kind, signer, key, pad @ .., a, b, c, d] = *header;
    let length = u32::from_be_bytes([a, b, c, d]);
    // More bytes than memory has addresses are more than the file has.
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
        Ok(signed) => signed,
    }
}

/// Traces of a signature in a file that does not end with one.
fn hint(plain: &[u8]) -> Option<String> {
    let header = |end: usize| {
        let header = end.checked_sub(HEADER).and_then(|start| plain.get(start..end));
        // The text alone also occurs in programs of the kernel.
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
