//! Signatures at the end of module files: real ones, and damaged ones of the kinds that were measured on
//! booted kernels. What loads where nothing is enforced must not be called broken; what never loads must.

use std::io::Write;

use clr_dkms::dkms::cache::CACHE;
use clr_dkms::dkms::signature::{self, Signature};
use clr_dkms::dkms::{Cache, Proof, modfile, proof};
use clr_dkms::sys::{Root, RootKind};
use proptest::prelude::*;

use crate::support::{A, TestRoot, elf, few_or};

const MAGIC: &[u8] = b"~Module signature appended~\n";
const ISSUER: &[u8] = include_bytes!("../data/signatures/issuer.der");
const KEYID: &[u8] = include_bytes!("../data/signatures/keyid.der");
const EC: &[u8] = include_bytes!("../data/signatures/ec.der");
const ATTRIBUTES: &[u8] = include_bytes!("../data/signatures/attributes.der");
const CERTS: &[u8] = include_bytes!("../data/signatures/certs.der");
const ATTACHED: &[u8] = include_bytes!("../data/signatures/attached.der");
const MD5: &[u8] = include_bytes!("../data/signatures/md5.der");
const PSS: &[u8] = include_bytes!("../data/signatures/pss.der");
const TWO: &[u8] = include_bytes!("../data/signatures/two.der");
const INDEFINITE: &[u8] = include_bytes!("../data/signatures/indefinite.der");
const ODD: &[u8] = include_bytes!("../data/signatures/odd.der");
const SIGNED_ZST: &[u8] = include_bytes!("../data/signatures/signed.ko.zst");
const SERIAL: &str = "53a1fabab086dce61453cac0beea7e7513f18ab0";

/// What `sign-file` writes behind a message.
fn header(length: usize) -> [u8; 12] {
    let mut header = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[8..].copy_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    header
}

fn sign_with(module: &[u8], message: &[u8], header: [u8; 12]) -> Vec<u8> {
    [module, message, &header, MAGIC].concat()
}

fn sign(message: &[u8]) -> Vec<u8> {
    sign_with(&elf::module(A), message, header(message.len()))
}

fn words(file: &[u8]) -> String {
    signature::read(file).to_string()
}

fn reading(message: &[u8]) -> String {
    words(&sign(message))
}

/// The message with a byte changed: the `nth` place where those bytes are, plus some.
fn changed(message: &[u8], find: &[u8], nth: usize, plus: usize, to: u8) -> Vec<u8> {
    let at = message.windows(find.len()).enumerate().filter(|(_, w)| *w == find).nth(nth).unwrap().0;
    let mut message = message.to_vec();
    message[at + plus] = to;
    message
}

const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

#[test]
fn good_signatures_are_named_and_never_called_verified() {
    let by = format!("by CN=Lab key,O=Example, serial {SERIAL}, not verified");
    assert_eq!(reading(ISSUER), format!("signed with sha512 {by}"));
    assert_eq!(
        reading(KEYID),
        "signed with sha512 by key 5c221528360efc4afe094b8366eb69e9a8b3aa71, not verified"
    );
    assert_eq!(
        reading(EC),
        "signed with sha256 by CN=Lab key, serial 48d4a6f35314d7d9440ddb5f6eabc5afe5bea7dd, not verified"
    );
    assert_eq!(reading(CERTS), format!("signed with sha256 {by}"));
    // Of two signers the first one is named: the shorter one, in DER.
    assert_eq!(reading(TWO), reading(EC));
    let odd = reading(ODD);
    assert!(odd.contains(r#"CN=\#odd,O=Häuser\, \"A\" \+ B,C=DE, serial "#), "{odd}");
    for (message, algorithm, key_id) in
        [(ISSUER, "rsa", false), (KEYID, "rsa", true), (EC, "ecdsa", false), (CERTS, "rsa", false)]
    {
        let Signature::Signed { algorithm: found, serial, .. } = signature::read(&sign(message)) else {
            panic!("not signed")
        };
        assert_eq!((found.as_str(), serial.is_none()), (algorithm, key_id));
    }
}

/// Kernels that do not know a digest or an algorithm stop there: that is not a refusal, even if a flaw
/// follows.
#[test]
fn what_only_some_kernels_know_is_never_broken() {
    assert!(reading(MD5).starts_with("signed with md5 by CN=Lab key"), "{}", reading(MD5));
    let Signature::Signed { algorithm, .. } = signature::read(&sign(PSS)) else { panic!("not signed") };
    assert_eq!(algorithm, "id-RSASSA-PSS");
    let nobody_knows = changed(ISSUER, SHA512, 1, 8, 0x7f);
    assert!(reading(&nobody_knows).starts_with("signed with 2.16.840.1.101.3.4.2.127 by CN=Lab key"));
    // The first mention, among all digests of the message, decides nothing.
    assert!(reading(&changed(ISSUER, SHA512, 0, 8, 0x7f)).starts_with("signed with sha512"));
    // A flaw behind it: the kernel that stopped does not see it.
    assert!(reading(&changed(ISSUER, &[2, 1, 1, 0x30], 0, 2, 3)).starts_with("broken"));
    let flaw_behind = changed(&nobody_knows, &[2, 1, 1, 0x30], 0, 2, 3);
    assert!(reading(&flaw_behind).starts_with("signed with 2.16.840.1.101.3.4.2.127"));
    // What cannot be read is not called broken.
    assert!(reading(&changed(ISSUER, RSA, 0, 0, 0x04)).starts_with("unknown"));
}

#[test]
fn the_measured_kinds() {
    let module = elf::module(A);
    let soft = |file: &[u8], note: Option<&str>| {
        assert_eq!(signature::read(file), Signature::Unsigned { note: note.map(str::to_owned) });
    };
    let hard = |file: &[u8], part: &str| {
        let words = words(file);
        assert!(words.starts_with("broken signature: ") && words.contains(part), "{words}");
    };
    // The kernel refuses these; one that reads DER only cannot know that.
    let unread = |file: &[u8]| {
        let words = words(file);
        assert!(words.starts_with("unknown signature: its PKCS#7 message cannot be read: "), "{words}");
    };
    let good = sign(ISSUER);
    soft(&module, None);
    soft(b"", None);
    soft(MAGIC, None);
    // cut_magic
    soft(&good[..good.len() - 1], Some("the end of its signature is missing"));
    soft(&good[..good.len() - 20], Some("the end of its signature is missing"));
    soft(&good[..good.len() - 28], None);
    // fake_magic: the text alone, behind what is not a header
    assert!(matches!(
        signature::read(&[&module[..], b"x", &[0; 12], MAGIC].concat()),
        Signature::Unsigned { note: Some(_) }
    ));
    // trailing_byte
    soft(&[&good[..], b"\n"].concat(), Some("a byte follows its signature"));
    soft(&[&good[..], b"xyz"].concat(), Some("3 bytes follow its signature"));
    // The text alone says nothing.
    soft(&[&module[..], MAGIC, b"more"].concat(), None);
    // fake_header_pgp; the length is looked at first, the zeros later.
    for kind in [0u8, 1, 3, 255] {
        let mut header = header(ISSUER.len());
        (header[0], header[2]) = (9, kind);
        let note = format!("its signature is of kind {kind}, not PKCS#7");
        soft(&sign_with(&module, ISSUER, header), Some(&note));
        header[8] = 0xff;
        hard(&sign_with(&module, ISSUER, header), "longer than the file");
    }
    // fake_header_nozero
    for at in [0usize, 1, 3, 4, 5, 6, 7] {
        let mut header = header(ISSUER.len());
        header[at] = 1;
        hard(&sign_with(&module, ISSUER, header), "zero");
    }
    // toobig_siglen
    let whole = module.len() + ISSUER.len();
    hard(&sign_with(&module, ISSUER, header(u32::MAX as usize)), "longer than the file");
    hard(&sign_with(&module, ISSUER, header(whole + 1)), "longer than the file");
    hard(&sign_with(&module, ISSUER, header(whole)), "as long as the file");
    hard(&sign_with(&module, ISSUER, header(whole - 1)), "PKCS#7");
    hard(&[b"123456789012", MAGIC].concat(), "nothing stands before it");
    hard(&[b"1", MAGIC].concat(), "nothing stands before it");
    // corrupt_der
    let flipped = |at: usize| {
        let mut message = ISSUER.to_vec();
        message[at] ^= 0xff;
        sign(&message)
    };
    hard(&flipped(0), "an element is of another kind");
    hard(&flipped(2), "it ends too early");
    [1, 4, 15, 19].iter().for_each(|at| unread(&flipped(*at)));
    for length in [0, 1, 2, 20, 150, ISSUER.len() - 1] {
        hard(&sign(&ISSUER[..length]), "it ends too early");
    }
    // corrupt_sigvalue, and a damaged module: without the key they cannot be determined from good ones.
    let mut message = ISSUER.to_vec();
    *message.last_mut().unwrap() ^= 1;
    assert_eq!(signature::read(&sign(&message)), signature::read(&good));
    // double_signed: the outer one counts.
    assert_eq!(signature::read(&sign_with(&good, EC, header(EC.len()))), signature::read(&sign(EC)));
}

/// From the source: none of these ends in one of the three errors that are forgiven.
#[test]
fn what_reads_well_and_is_refused_all_the_same() {
    for (message, part) in [
        (ATTACHED.to_vec(), "it brings its own contents"),
        (ATTRIBUTES.to_vec(), "signed attributes"),
        // Versions: of the message, of the signer.
        (changed(ISSUER, &[2, 1, 1, 0x31], 0, 2, 2), "unknown version"),
        (changed(ISSUER, &[2, 1, 1, 0x30], 0, 2, 3), "do not go together"),
        (changed(KEYID, &[2, 1, 3, 0x31], 0, 2, 1), "do not go together"),
        // It signs other contents: encrypted data, and nothing known.
        (changed(ISSUER, &[0xf7, 0x0d, 1, 7, 1], 0, 4, 6), "unknown kind of contents"),
        (changed(ISSUER, &[0xf7, 0x0d, 1, 7, 2], 0, 4, 3), "it is not signed data"),
        ([ISSUER, &vec![0; 65_535]].concat(), "longer than 65,535 bytes"),
    ] {
        let words = reading(&message);
        assert!(words.starts_with("broken signature: its PKCS#7 message cannot be used: "), "{words}");
        assert!(words.contains(part), "{words}");
    }
    let data = [&[0x30, 33], &ISSUER[23..54], &[0x31, 0]].concat();
    let nobody = [&[0x30, 48], &ISSUER[4..15], &[0xa0, 35], &data].concat();
    assert_eq!(reading(&nobody), "broken signature: its PKCS#7 message cannot be used: it has no signer");
}

/// The kernel reads BER, and not all of it. What only a reader of BER can read is unknown: never refused for
/// that, and never believed.
#[test]
fn what_is_not_der_is_unknown() {
    let good = reading(ISSUER);
    // Something behind the message.
    assert_eq!(reading(&[ISSUER, b"more"].concat()), good);
    let unknown = |message: &[u8]| {
        let words = reading(message);
        assert!(words.starts_with("unknown signature: its PKCS#7 message cannot be read: "), "{words}");
    };
    unknown(INDEFINITE);
    // No length, but an end.
    unknown(&[&[0x30, 0x80], &ISSUER[4..15], &[0xa0, 0x80], &ISSUER[19..], &[0; 4]].concat());
    // The bit that says that there are elements inside.
    let mut flat = ISSUER.to_vec();
    (flat[0], flat[19]) = (0x10, 0x10);
    unknown(&flat);
    // A length in more bytes than it needs: the version.
    let long = changed(ISSUER, &[2, 1, 1, 0x31], 0, 0, 2);
    let at = long.windows(4).position(|w| w == [2, 1, 1, 0x31]).unwrap();
    let mut long = [&long[..=at], &[0x82, 0, 1], &long[at + 2..]].concat();
    for length in [2, 17, 21] {
        let value = u16::from_be_bytes([long[length], long[length + 1]]) + 2;
        long[length..length + 2].copy_from_slice(&value.to_be_bytes());
    }
    unknown(&long);
}

#[test]
fn through_compression() {
    let module = sign(ISSUER);
    let plain = modfile::read("a.ko", &module);
    assert_eq!(plain.signature.to_string(), reading(ISSUER));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&module).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    xz.write_all(&module).unwrap();
    // That one was made by the kernel's sign-file and by zstd.
    for (name, bytes) in [
        ("a.ko.gz", gzip.finish().unwrap()),
        ("a.ko.xz", xz.finish().unwrap()),
        ("a.ko.zst", SIGNED_ZST.to_vec()),
    ] {
        let system = modfile::read(name, &bytes);
        assert_eq!((&system.vermagic, &system.signature), (&plain.vermagic, &plain.signature), "{name}");
        assert_eq!(modfile::read("a.ko", &bytes).signature, Signature::Unsigned { note: None }, "{name}");
        let cut = modfile::read(name, &bytes[..bytes.len() / 2]);
        assert!(
            cut.vermagic.is_err() && matches!(cut.signature, Signature::Unsigned { note: Some(_) }),
            "{name}"
        );
    }
    // What is signed and no ELF file has a signature all the same.
    let text = modfile::read("a.ko", &sign_with(b"text", ISSUER, header(ISSUER.len())));
    assert!(text.vermagic.is_err());
    assert_eq!(text.signature, plain.signature);
}

#[test]
fn as_json() {
    let json = |file: &[u8]| serde_json::to_value(signature::read(file)).unwrap();
    assert_eq!(json(b""), serde_json::json!({"kind": "unsigned"}));
    assert_eq!(
        json(&sign(ISSUER)),
        serde_json::json!({
            "kind": "signed", "digest": "sha512", "algorithm": "rsa", "issuer": "CN=Lab key,O=Example", "serial": SERIAL
        })
    );
    for file in [sign(ISSUER), sign(KEYID), sign(b"x"), sign(ISSUER)[1..].to_vec(), vec![1; 100]] {
        let read = signature::read(&file);
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Signature>(&text).unwrap(), read, "{text}");
    }
    // A record of before.
    let old: Proof = serde_json::from_str(r#"{"path": "/a.ko", "vermagic": "1", "size": 2}"#).unwrap();
    assert_eq!(old.signature, None);
}

/// A cache of before signatures were read is forgotten, not believed and no error.
#[test]
fn an_old_cache() {
    let root = TestRoot::system();
    let place = root.at(CACHE.trim_start_matches('/'));
    std::fs::create_dir_all(place.parent().unwrap()).unwrap();
    std::fs::write(root.at("a.ko"), sign(ISSUER)).unwrap();
    let opened = Root::open(RootKind::LiveCopy, root.path()).unwrap();
    let there = opened.lookup("/a.ko");
    let mut cache = Cache::default();
    proof::facts_of(&opened, &mut cache, "/a.ko", &there).unwrap();
    cache.save(&opened).unwrap();
    let now: serde_json::Value = serde_json::from_slice(&std::fs::read(&place).unwrap()).unwrap();
    assert!(now["files"]["/a.ko"]["value"][0]["signature"].is_object());
    assert!(Cache::load(&opened).file("/a.ko", &there.stat().unwrap()).is_some());
    let mut old = now.clone();
    old["schema"] = 3.into();
    let mut without = now;
    without["files"]["/a.ko"]["value"][0].as_object_mut().unwrap().remove("signature");
    for cache in [old, without] {
        std::fs::write(&place, cache.to_string()).unwrap();
        assert!(Cache::load(&opened).file("/a.ko", &there.stat().unwrap()).is_none());
    }
}

fn any_message() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![ISSUER, KEYID, EC, ATTRIBUTES, CERTS, ATTACHED, MD5, PSS, TWO, INDEFINITE, ODD])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: few_or(400, 2000), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        words(&bytes);
        prop_assert!(!reading(&bytes).starts_with("signed"));
        words(&[&bytes[..], MAGIC].concat());
    }

    #[test]
    fn any_mutation(message in any_message(), changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..4), cut in any::<usize>()) {
        let mut message = message.to_vec();
        for (at, byte) in &changes {
            let length = message.len();
            message[at % length] = *byte;
        }
        reading(&message);
        let mut file = sign(&message);
        let length = file.len();
        for (at, byte) in changes {
            file[length - 1 - at % 60] = byte;
        }
        words(&file);
        words(&file[..cut % length]);
    }

    /// Whatever is open stays open: the deepest nesting that fits must not cost more than its length.
    #[test]
    fn any_nesting(tags in prop::collection::vec(prop::sample::select(vec![0x30u8, 0x31, 0xa0, 0x80, 0, 0x82, 0xff]), 1..9), depth in 1usize..8000) {
        let mut message = tags.repeat(depth);
        message.truncate(65_535);
        reading(&message);
    }
}
