//! A PKCS#7 message as the kernel reads one: who signed, or why it refuses to read on.
//!
//! The kernel's reader takes more than DER (any form of a length up to 65,535, the members of a set in any order,
//! anything behind the message) and less (signed data of two versions only). A library for DER would call broken what
//! the kernel takes, so the walk is made here, along the grammar of RFC 5652, sections 3 to 5; a library names what it
//! finds. What the kernel refuses for reasons that are not certain (a certificate that it cannot use, attributes
//! nobody signed) is not called broken.

use x509_cert::der::Decode;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::oid::db::DB;
use x509_cert::name::Name;

/// The longest message that the kernel reads.
const SIZE_LIMIT: usize = 65_535;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// The bit of a tag that says that elements are inside.
const CONSTRUCTED: u8 = 0x20;
const SIGNED_DATA: &str = "1.2.840.113549.1.7.2";
const DATA: &str = "1.2.840.113549.1.7.1";
const INDIRECT_DATA: &str = "1.3.6.1.4.1.311.2.1.4";
const CUT: &str = "it ends too early";

/// What the kernel calls a digest or an algorithm, and whether each kernel since 5.13 knows it.
type Known = (&'static str, &'static str, bool);

const DIGESTS: [Known; 12] = [
    ("2.16.840.1.101.3.4.2.1", "sha256", true),
    ("2.16.840.1.101.3.4.2.2", "sha384", true),
    ("2.16.840.1.101.3.4.2.3", "sha512", true),
    ("2.16.840.1.101.3.4.2.4", "sha224", true),
    // Left out by some kernels, or for some kernels still to come.
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

type Reading<T> = Result<T, &'static str>;

/// What the message says of its first signer.
#[derive(Debug, Default)]
pub(super) struct Signer {
    pub(super) digest: Option<String>,
    pub(super) algorithm: Option<String>,
    /// The name of who issued the key's certificate, or the key's id where there is no serial number.
    pub(super) issuer: String,
    pub(super) serial: Option<String>,
}

/// Reads a message.
///
/// # Errors
/// With why, when every kernel refuses it.
pub(super) fn read(message: &[u8]) -> Result<Signer, String> {
    let mut walk = Walk::default();
    match (walk.message(message), walk.first) {
        (Ok(()), Some(signer)) => Ok(signer),
        // Kernels that stop at something they do not know do not see the flaw behind it.
        (Err(_), signer) if walk.lenient => Ok(signer.unwrap_or_default()),
        (Ok(()), None) => Err("its PKCS#7 message has no signer".to_owned()),
        (Err(why), _) => Err(format!("its PKCS#7 message cannot be used: {why}")),
    }
}

#[derive(Default)]
struct Walk {
    first: Option<Signer>,
    /// Something was met that only some kernels know; the others stop there, and do not refuse.
    lenient: bool,
    signed_attributes: bool,
}

impl Walk {
    fn message(&mut self, bytes: &[u8]) -> Reading<()> {
        if bytes.len() > SIZE_LIMIT {
            return Err("it is longer than 65,535 bytes");
        }
        // What follows the outermost element is not looked at.
        let mut outer = Elements(Elements(bytes).expect(SEQUENCE)?);
        if dotted(outer.expect(OID)?) != SIGNED_DATA {
            return Err("it is no signed data");
        }
        let mut wrapper = Elements(outer.expect(0xa0)?);
        let mut data = Elements(wrapper.expect(SEQUENCE)?);
        let version = data.expect(INTEGER)?;
        if !matches!(version, [1 | 3]) {
            return Err("it has an unknown version");
        }
        let mut digests = Elements(data.expect_one(&[SET, SEQUENCE])?.1);
        while !digests.is_empty() {
            algorithm(digests.expect(SEQUENCE)?)?;
        }
        let mut content = Elements(data.expect(SEQUENCE)?);
        let kind = dotted(content.expect(OID)?);
        if kind != DATA && kind != INDIRECT_DATA {
            return Err("it signs an unknown kind of contents");
        }
        let attached = content.optional(&[0xa0])?;
        if let Some((_, inner)) = attached {
            let mut inner = Elements(inner);
            inner.next()?;
            inner.end()?;
        }
        content.end()?;
        if let Some((_, certificates)) = data.optional(&[0xa0, 0xa2])? {
            let mut certificates = Elements(certificates);
            // Whether the kernel can use them is another reader's matter; if it cannot, it stops without refusing.
            self.lenient |= !certificates.is_empty();
            while !certificates.is_empty() {
                certificates.expect(SEQUENCE)?;
            }
        }
        self.lenient |= data.optional(&[0xa1, 0xa3])?.is_some();
        let mut signers = Elements(data.expect_one(&[SET, SEQUENCE])?.1);
        while !signers.is_empty() {
            let mut signer = Signer::default();
            let read = self.signer(signers.expect(SEQUENCE)?, version, &mut signer);
            self.first.get_or_insert(signer);
            read?;
        }
        data.end()?;
        wrapper.end()?;
        outer.end()?;
        if kind != DATA {
            return Err("it is made for programs of another system");
        }
        if attached.is_some() {
            return Err("it brings its own contents");
        }
        if self.signed_attributes {
            return Err("it has signed attributes, which a module's may not have");
        }
        Ok(())
    }

    fn signer(&mut self, body: &[u8], version: &[u8], signer: &mut Signer) -> Reading<()> {
        let mut parts = Elements(body);
        // Version 1 names the signer by issuer and serial number, version 3 by key id; the kernel does not mind the
        // other way round: it only finds no key then.
        if parts.expect(INTEGER)? != version {
            return Err("its versions do not go together");
        }
        match parts.expect_one(&[SEQUENCE, 0x80])? {
            (0x80, key) => signer.issuer = hex(key),
            (_, inner) => {
                let mut identity = Elements(inner);
                check_name(identity.expect(SEQUENCE)?)?;
                signer.issuer = name(&inner[..inner.len() - identity.0.len()]);
                signer.serial = Some(hex(identity.expect(INTEGER)?));
                identity.end()?;
            }
        }
        let digest = algorithm(parts.expect(SEQUENCE)?)?;
        signer.digest = Some(self.known_as(&DIGESTS, digest));
        let attributes = parts.optional(&[0xa0, 0xa2])?;
        let algorithm = algorithm(parts.expect(SEQUENCE)?)?;
        signer.algorithm = Some(self.known_as(&ALGORITHMS, algorithm));
        self.signed_attributes |= attributes.is_some_and(|(tag, _)| tag == 0xa0);
        parts.expect(OCTET_STRING)?;
        parts.optional(&[0xa1, 0xa3])?;
        parts.end()
    }

    /// What the kernel calls it; what it has no name for is called by its usual name, or by its number.
    fn known_as(&mut self, known: &[Known], id: &[u8]) -> String {
        let number = dotted(id);
        let found = known.iter().find(|(known, ..)| *known == number);
        self.lenient |= !found.is_some_and(|(.., everywhere)| *everywhere);
        // What is no identifier has no usual name.
        let usual = || ObjectIdentifier::new(&number).ok().and_then(|id| DB.by_oid(&id));
        found.map(|(_, name, _)| *name).or_else(usual).map_or(number.clone(), str::to_owned)
    }
}

/// Elements that follow one another.
struct Elements<'a>(&'a [u8]);

impl<'a> Elements<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may follow.
    fn end(&self) -> Reading<()> {
        if self.is_empty() { Ok(()) } else { Err("an element is longer than what it holds") }
    }

    /// The next element: its tag, and what is in it.
    fn next(&mut self) -> Reading<(u8, &'a [u8])> {
        let [tag, length, rest @ ..] = self.0 else { return Err(CUT) };
        if tag & 0x1f == 0x1f {
            return Err("a tag is longer than a byte");
        }
        let (rest, length) = match length {
            0x80 if tag & CONSTRUCTED == 0 => return Err("a length is missing"),
            0x80 => {
                let (inner, after) = rest.split_at(end_of_indefinite(rest)?);
                self.0 = &after[2..];
                return Ok((*tag, inner));
            }
            0x81 if !rest.is_empty() => (&rest[1..], usize::from(rest[0])),
            0x82 if rest.len() >= 2 => (&rest[2..], usize::from(u16::from_be_bytes([rest[0], rest[1]]))),
            0x81 | 0x82 => return Err(CUT),
            0x83.. => return Err("a length is longer than two bytes"),
            short => (rest, usize::from(*short)),
        };
        let (inner, after) = rest.split_at_checked(length).ok_or(CUT)?;
        self.0 = after;
        Ok((*tag, inner))
    }

    /// The next element, which has one of those tags.
    fn expect_one(&mut self, wanted: &[u8]) -> Reading<(u8, &'a [u8])> {
        self.optional(wanted)?.ok_or(if self.is_empty() { CUT } else { "an element is of another kind" })
    }

    /// What is in the next element, which has that tag.
    fn expect(&mut self, wanted: u8) -> Reading<&'a [u8]> {
        self.expect_one(&[wanted]).map(|(_, inner)| inner)
    }

    /// The next element if it has one of those tags. Where elements are inside, the bit that says so may be missing.
    fn optional(&mut self, wanted: &[u8]) -> Reading<Option<(u8, &'a [u8])>> {
        let Some(tag) = self.0.first() else { return Ok(None) };
        let fits = |want: &&u8| **want == *tag || (**want & CONSTRUCTED != 0 && **want == tag | CONSTRUCTED);
        match wanted.iter().find(fits) {
            Some(want) => self.next().map(|(_, inner)| Some((*want, inner))),
            None if self.0.len() == 1 => Err(CUT),
            None => Ok(None),
        }
    }
}

/// Where the two bytes are that end an element without a length.
fn end_of_indefinite(bytes: &[u8]) -> Reading<usize> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(CUT);
    let (mut at, mut open) = (0, 1);
    loop {
        let (tag, mut length) = (byte(at)?, 0);
        at += 1;
        if tag & 0x1f == 0x1f {
            while byte(at)? & 0x80 != 0 {
                at += 1;
            }
            at += 1;
        }
        let first = byte(at)?;
        at += 1;
        match (tag, first) {
            (0, 0) if open == 1 => return Ok(at - 2),
            (0, 0) => open -= 1,
            (0, _) => return Err("an end is no end"),
            (_, 0x80) if tag & CONSTRUCTED == 0 => return Err("a length is missing"),
            (_, 0x80) => open += 1,
            (_, ..0x80) => length = usize::from(first),
            (_, 0x88..) => return Err("a length is longer than seven bytes"),
            _ => {
                for _ in 0x80..first {
                    length = length << 8 | usize::from(byte(at)?);
                    at += 1;
                }
            }
        }
        at = at.checked_add(length).ok_or(CUT)?;
    }
}

/// The object identifier in what describes a digest or an algorithm; its parameters are not looked at.
fn algorithm(body: &[u8]) -> Reading<&[u8]> {
    let mut parts = Elements(body);
    let id = parts.expect(OID)?;
    if !parts.is_empty() {
        parts.next()?;
    }
    parts.end().map(|()| id)
}

/// Whether a name can be read by the kernel, which does not look what it says.
fn check_name(body: &[u8]) -> Reading<()> {
    let mut sets = Elements(body);
    while !sets.is_empty() {
        let mut modules_on_kernels = Elements(sets.expect(SET)?);
        while !modules_on_kernels.is_empty() {
            let mut pair = Elements(modules_on_kernels.expect(SEQUENCE)?);
            pair.expect(OID)?;
            pair.next()?;
            pair.end()?;
        }
    }
    Ok(())
}

/// A name in the words of RFC 4514, or as `#` and its bytes when it cannot be put into words.
fn name(bytes: &[u8]) -> String {
    // A name that is no good DER still is a name to the kernel, which only compares bytes.
    let words = Name::from_der(bytes).ok().map(|name| name.to_string()).filter(|words| !words.is_empty());
    words.unwrap_or_else(|| format!("#{}", hex(bytes)))
}

fn dotted(id: &[u8]) -> String {
    ObjectIdentifier::from_bytes(id).map_or_else(|_| format!("#{}", hex(id)), |id| id.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
