//! Reads a PKCS#7 message as the kernel does: the signer, or why the kernel refuses the message.
//!
//! The parser of the kernel accepts more than DER. A message that the library cannot read may be valid for
//! the kernel, so it is unknown. A message is called broken only if every kernel refuses it. A kernel may
//! stop at something that it does not know before it reaches a flaw, and then the message is not called
//! broken. Nor is it if the refusal is not certain, for example because of a certificate that the kernel
//! cannot use, or attributes that are not signed.

use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{SignedData, SignerIdentifier, SignerInfo};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::DB;
use x509_cert::der::{Decode, ErrorKind, SliceReader};

use crate::dkms::Signature;
use crate::sys::fingerprint::hex;

/// The longest message that the kernel reads.
const SIZE_LIMIT: usize = 65_535;
/// A sequence, with and without the bit for a constructed value.
const OUTER_TAGS: [u8; 2] = [0x30, 0x10];
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const INDIRECT_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.1.4");

/// The id and the kernel's name of a digest or algorithm, and whether every kernel since 5.13 supports it.
type Known = (&'static str, &'static str, bool);

const DIGESTS: [Known; 12] = [
    ("2.16.840.1.101.3.4.2.1", "sha256", true),
    ("2.16.840.1.101.3.4.2.2", "sha384", true),
    ("2.16.840.1.101.3.4.2.3", "sha512", true),
    ("2.16.840.1.101.3.4.2.4", "sha224", true),
    // Some kernels, or kernels of the future, do not support these.
    ("1.2.840.113549.2.5", "md5", false),
    ("1.3.14.3.2.26", "sha1", false),
    ("2.16.840.1.101.3.4.2.8", "sha3-256", false),
    ("2.16.840.1.101.3.4.2.9", "sha3-384", false),
    ("2.16.840.1.101.3.4.2.10", "sha3-512", false),
    ("1.2.156.10197.1.401", "sm3", false),
    ("1.2.643.7.1.1.2.2", "streebog256", false),
    ("1.2.643.7.1.1.2.3", "streebog512", false),
];

const ALGORITHMS: [Known; 11] = [
    ("1.2.840.113549.1.1.1", "rsa", true),
    ("1.2.840.10045.4.3.1", "ecdsa", true),
    ("1.2.840.10045.4.3.2", "ecdsa", true),
    ("1.2.840.10045.4.3.3", "ecdsa", true),
    ("1.2.840.10045.4.3.4", "ecdsa", true),
    ("1.2.840.10045.4.1", "ecdsa", false),
    ("1.2.643.7.1.1.1.1", "ecrdsa", false),
    ("1.2.643.7.1.1.1.2", "ecrdsa", false),
    ("2.16.840.1.101.3.4.3.17", "ml-dsa44", false),
    ("2.16.840.1.101.3.4.3.18", "ml-dsa65", false),
    ("2.16.840.1.101.3.4.3.19", "ml-dsa87", false),
];

/// Why no signer could be read.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dkms) enum Pkcs7Error {
    /// Every kernel refuses the message.
    Broken(&'static str),
    /// A kernel may be able to read it.
    Unknown(String),
}

/// Reads a message.
///
/// # Errors
///
/// If it cannot be read, or every kernel refuses it.
pub(in crate::dkms) fn read(message: &[u8]) -> Result<Signature, Pkcs7Error> {
    if message.len() > SIZE_LIMIT {
        return Err(Pkcs7Error::Broken("it is longer than 65,535 bytes"));
    }
    if message.first().is_some_and(|tag| !OUTER_TAGS.contains(tag)) {
        return Err(Pkcs7Error::Broken("an element is of another kind"));
    }
    let unknown = |e: x509_cert::der::Error| Pkcs7Error::Unknown(e.to_string());
    // Data after the outermost element is ignored.
    let mut reader = SliceReader::new(message).map_err(unknown)?;
    let outer = match ContentInfo::decode(&mut reader) {
        Ok(outer) => outer,
        Err(e) if matches!(e.kind(), ErrorKind::Incomplete { .. }) => {
            return Err(Pkcs7Error::Broken("it ends too early"));
        }
        Err(e) => return Err(unknown(e)),
    };
    if outer.content_type != SIGNED_DATA {
        return Err(Pkcs7Error::Broken("it is not signed data"));
    }
    let data: SignedData = outer.content.decode_as().map_err(unknown)?;
    let mut infos = data.signer_infos.0.iter();
    let first = infos.next().map(signed);
    let may_stop = data.certificates.is_some()
        || data.crls.is_some()
        || data.signer_infos.0.iter().any(|info| !is_known_everywhere(info));
    match (first, flaw(&data)) {
        (Some(signer), None) => Ok(signer),
        // A kernel that stops at something unknown does not reach the flaw.
        (Some(signer), Some(_)) if may_stop => Ok(signer),
        (_, Some(why)) => Err(Pkcs7Error::Broken(why)),
        (None, None) => Err(Pkcs7Error::Broken("it has no signer")),
    }
}

/// Why every kernel refuses these signed data, if it reads them to the end.
fn flaw(data: &SignedData) -> Option<&'static str> {
    let content = &data.encap_content_info;
    let mut infos = data.signer_infos.0.iter();
    if !matches!(data.version, CmsVersion::V1 | CmsVersion::V3) {
        return Some("it has an unknown version");
    }
    if infos.any(|info| info.version != data.version) {
        return Some("its versions do not go together");
    }
    match content.econtent_type {
        DATA => {}
        INDIRECT_DATA => return Some("it is made for programs of another system"),
        _ => return Some("it signs an unknown kind of contents"),
    }
    if content.econtent.is_some() {
        return Some("it brings its own contents");
    }
    let mut infos = data.signer_infos.0.iter();
    infos
        .any(|info| info.signed_attrs.is_some())
        .then_some("it has signed attributes, which a module's may not have")
}

/// What the message states about a signer: the issuer of its certificate, or the id of the key.
fn signed(info: &SignerInfo) -> Signature {
    let (issuer, serial) = match &info.sid {
        SignerIdentifier::IssuerAndSerialNumber(id) => {
            (id.issuer.to_string(), Some(hex(id.serial_number.as_bytes())))
        }
        SignerIdentifier::SubjectKeyIdentifier(key) => (hex(key.0.as_bytes()), None),
    };
    Signature::Signed {
        digest: name(&DIGESTS, info.digest_alg.oid),
        algorithm: name(&ALGORITHMS, info.signature_algorithm.oid),
        issuer: if issuer.is_empty() { "unknown".to_owned() } else { issuer },
        serial,
    }
}

fn find(known: &[Known], id: ObjectIdentifier) -> Option<&Known> {
    let number = id.to_string();
    known.iter().find(|(known, ..)| *known == number)
}

fn is_known_everywhere(info: &SignerInfo) -> bool {
    let is = |known, id| find(known, id).is_some_and(|(.., everywhere)| *everywhere);
    is(&DIGESTS, info.digest_alg.oid) && is(&ALGORITHMS, info.signature_algorithm.oid)
}

/// The name that the kernel uses; else the common name, or the number.
fn name(known: &[Known], id: ObjectIdentifier) -> String {
    let usual = || DB.by_oid(&id).map(str::to_owned);
    find(known, id).map(|(_, name, _)| (*name).to_owned()).or_else(usual).unwrap_or_else(|| id.to_string())
}
