//! Archives that want to write elsewhere, or to take all memory: each is refused with its reason, and nothing
//! is written outside of the scratch directory.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use clr_dkms::adopt::unpack::unpack;
use clr_dkms::sys::{Root, RootKind, Tools};
use tar::EntryType;

use crate::support::{scratch, tree};

/// An entry of a tar archive, as no program would write it.
struct Raw {
    name: Vec<u8>,
    kind: EntryType,
    link: Vec<u8>,
    body: Vec<u8>,
    size: Option<u64>,
}

fn raw(name: &[u8], kind: EntryType) -> Raw {
    Raw { name: name.to_vec(), kind, link: Vec::new(), body: Vec::new(), size: None }
}

fn file(name: &[u8]) -> Raw {
    Raw { body: b"text\n".to_vec(), ..raw(name, EntryType::Regular) }
}

fn link(name: &[u8], target: &[u8]) -> Raw {
    Raw { link: target.to_vec(), ..raw(name, EntryType::Symlink) }
}

fn long(name: Vec<u8>) -> Raw {
    Raw { body: name, ..raw(b"././@LongLink", EntryType::GNULongName) }
}

fn tar(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..entry.name.len()].copy_from_slice(&entry.name);
        gnu.linkname[..entry.link.len()].copy_from_slice(&entry.link);
        header.set_entry_type(entry.kind);
        header.set_mode(0o6755);
        header.set_size(entry.size.unwrap_or(entry.body.len() as u64));
        header.set_cksum();
        bytes.extend(header.as_bytes());
        bytes.extend(&entry.body);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend([0; 1024]);
    bytes
}

/// A zip archive with an entry: its name, its mode and its text.
fn zip(name: &str, mode: u32, text: &[u8]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    writer.start_file(name, options).unwrap();
    writer.write_all(text).unwrap();
    let mut bytes = writer.finish().unwrap().into_inner();
    let central = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    // Made on Unix, with that mode.
    bytes[central + 5] = 3;
    bytes[central + 38..central + 42].copy_from_slice(&(mode << 16).to_le_bytes());
    bytes
}

fn encrypted() -> Vec<u8> {
    let mut bytes = zip("hello/a", 0o100_644, b"text");
    let central = bytes.windows(4).position(|window| window == b"PK\x01\x02").unwrap();
    bytes[6] |= 1;
    bytes[central + 8] |= 1;
    bytes
}

/// A Debian package with these members.
fn deb(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, bytes) in members {
        let header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        builder.append(&header, bytes.as_slice()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn pax(key: &str, value: &str) -> Raw {
    let rest = format!(" {key}={value}\n");
    let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
    Raw { body: format!("{length}{rest}").into_bytes(), ..raw(b"pax", EntryType::XHeader) }
}

struct Bench {
    _directory: tempfile::TempDir,
    archives: PathBuf,
    scratch: Root,
}

impl Bench {
    fn new() -> Bench {
        let directory = scratch::directory();
        let (archives, scratch) = (directory.path().join("archives"), directory.path().join("scratch"));
        fs::create_dir(&archives).unwrap();
        fs::create_dir(&scratch).unwrap();
        let scratch = Root::open(RootKind::Image, &scratch).unwrap();
        Bench { _directory: directory, archives, scratch }
    }

    fn unpack(&self, bytes: &[u8]) -> Result<String, String> {
        let archive = self.archives.join("archive");
        fs::write(&archive, bytes).unwrap();
        self.scratch.remove_tree("/source").unwrap();
        let outside = || {
            let names = |path: &Path| {
                let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
                names.collect::<std::collections::BTreeSet<_>>()
            };
            (names(self.archives.parent().unwrap()), tree::read(&self.archives), names(self.scratch.path()))
        };
        let before = outside();
        let done = unpack(&Tools::from_environment(), &archive, &self.scratch);
        let mut after = outside();
        after.2.remove(std::ffi::OsStr::new("source"));
        assert!(before == after, "{before:?} {after:?}");
        done.map(|found| found.top.display().to_string()).map_err(|e| e.to_string())
    }
}

#[test]
fn hostile_archives_are_refused() {
    let bench = Bench::new();
    let deep = [b"d/".repeat(40), b"f".to_vec()].concat();
    let fifty_thousand: Vec<Raw> =
        (0..50_001).map(|n| raw(format!("t/{n}").as_bytes(), EntryType::Directory)).collect();
    let mut truncated = tar(&[Raw { body: vec![b'x'; 4096], ..file(b"t/a") }]);
    truncated.truncate(1024);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (tar(&[file(b"../a")]), "its path contains `..`"),
        (tar(&[file(b"t/../../a")]), "its path contains `..`"),
        (tar(&[file(b"/etc/a")]), "its path is absolute"),
        (tar(&[Raw { link: b"/etc/passwd".to_vec(), ..raw(b"t/a", EntryType::Link) }]), "it is a hard link"),
        (tar(&[raw(b"t/a", EntryType::Char)]), "it is a device"),
        (tar(&[raw(b"t/a", EntryType::Block)]), "it is a device"),
        (tar(&[raw(b"t/a", EntryType::Fifo)]), "it is a device, a FIFO or a socket"),
        (tar(&[link(b"t/a", b"/etc")]), "it is a symlink to an absolute path, /etc"),
        (tar(&[link(b"t/a", b"../../etc")]), "it is a symlink to ../../etc, which is outside"),
        (tar(&[link(b"t/a", b"b/../../..")]), "which is outside"),
        (tar(&[link(b"t/a", b"")]), "it is a symlink without a valid target"),
        (
            tar(&[link(b"t/a", b"b"), file(b"t/a/c")]),
            "t/a is a symlink, and nothing may be written through it",
        ),
        (tar(&[file(b"t/a"), file(b"t/a/c")]), "t/a is a file, not a directory"),
        (tar(&[file(b"t/a"), file(b"t/./a")]), "it occurs twice"),
        (tar(&[link(b"t/a", b"b"), file(b"t/a")]), "it occurs twice"),
        (tar(&[file(b"t/a\nb")]), "its name has a control character"),
        (tar(&[file(b"t/\xff")]), "its name is not valid UTF-8"),
        (tar(&[long(vec![b'n'; 300]), file(b"x")]), "is longer than 255 bytes"),
        (tar(&[long(vec![b'n'; 100_000]), file(b"x")]), "is longer than 255 bytes"),
        (tar(&[file(&deep)]), "it is nested deeper than 32 directories"),
        (tar(&[raw(b"t/a", EntryType::GNUSparse)]), "it is a sparse file"),
        (tar(&[pax("GNU.sparse.major", "1"), file(b"t/a")]), "it is a sparse file"),
        (tar(&[pax("path", "../../a"), file(b"t/a")]), "its path contains `..`"),
        (tar(&[pax("size", "5"), file(b"t/a")]), "larger than 1024 MiB"),
        (tar(&[raw(b"t/a", EntryType::new(b'Q'))]), "it is of an unknown type"),
        (tar(&[Raw { size: Some(2 << 30), ..file(b"t/a") }]), "larger than 1024 MiB"),
        (truncated, "truncated"),
        (tar(&fifty_thousand), "more than 50000 entries"),
        (tar(&[file(b"a/x"), file(b"b/x")]), "more than one top directory: a, b"),
        (tar(&[file(b"dkms_binaries_only/dkms.conf"), file(b"x")]), "precompiled modules"),
        (tar(&[raw(b"./", EntryType::Directory)]), "it is empty"),
        (b"#!/bin/sh\necho no archive\n".to_vec(), "it is not an archive that is known"),
        (vec![0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "damaged"),
        (zip("../a", 0o100_644, b"x"), "its path contains `..`"),
        (zip("hello/a", 0o120_777, b"/etc/shadow"), "it is a symlink to an absolute path"),
        (zip("hello/a", 0o020_644, b""), "it is a device"),
        (encrypted(), "it is encrypted"),
        (deb(&[("debian-binary", b"2.0\n".to_vec())]), "it has no data.tar"),
        (deb(&[("data.tar", tar(&[file(b"./etc/passwd")]))]), "nothing in /usr/src"),
        (deb(&[("data.tar", tar(&[file(b"./usr/src/../../etc/a")]))]), "its path contains `..`"),
        (
            deb(&[("data.tar", tar(&[file(b"./usr/src/a-1/x"), file(b"./usr/src/b-1/x")]))]),
            "more than one top directory: a-1, b-1",
        ),
        ([&[0xed, 0xab, 0xee, 0xdb][..], &[0; 200]].concat(), "the package is damaged"),
    ];
    assert!(cases.len() >= 25);
    for (bytes, expected) in cases {
        let error = bench.unpack(&bytes).expect_err(expected);
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
}

#[test]
fn harmless_archives_are_taken() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let plain =
        [file(b"./hello-1.0/a"), link(b"hello-1.0/sub/b", b"../a"), long(vec![b'n'; 200]), file(b"x")];
    // A name of its own at the top: nothing says which directory is meant.
    assert_eq!(bench.unpack(&tar(&plain)).unwrap(), "/source");
    assert_eq!(bench.unpack(&tar(&plain[..2])).unwrap(), "/source/hello-1.0");
    let mode = |path: &str| bench.scratch.path().join(path).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode("source/hello-1.0/a"), 0o755, "neither setuid nor setgid");
    assert_eq!(bench.unpack(&zip("hello/a", 0o104_755, b"x")).unwrap(), "/source/hello");
    assert_eq!(mode("source/hello/a"), 0o755);
    let package = deb(&[
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", tar(&[file(b"./postinst")])),
        (
            "data.tar",
            tar(&[file(b"./usr/src/hello-1.0/dkms.conf"), file(b"./etc/x"), link(b"./usr/y", b"/z")]),
        ),
    ]);
    assert_eq!(bench.unpack(&package).unwrap(), "/source/hello-1.0");
    assert!(Path::new(&bench.scratch.path().join("source/hello-1.0/dkms.conf")).exists());
    assert!(!bench.scratch.path().join("source/x").exists());
}

#[test]
fn an_rpm_package_gives_its_sources() {
    let bench = Bench::new();
    let entry = |name: &str, mode: u32, links: u32, body: &[u8]| {
        let fields = [1, mode, 0, 0, links, 0, body.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        let mut bytes = b"070701".to_vec();
        fields.iter().for_each(|field| bytes.extend(format!("{field:08x}").bytes()));
        bytes.extend(name.bytes());
        bytes.push(0);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    };
    let package = |entries: &[Vec<u8>]| {
        let header = |entries: u32, data: &[u8]| {
            let mut bytes = vec![0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
            bytes.extend(entries.to_be_bytes());
            bytes.extend((data.len() as u32).to_be_bytes());
            bytes.extend(vec![0; entries as usize * 16]);
            bytes.extend(data);
            bytes
        };
        let mut bytes = vec![0xed, 0xab, 0xee, 0xdb];
        bytes.resize(96, 0);
        bytes.extend(header(1, b"odd"));
        bytes.resize((bytes.len() - 96).next_multiple_of(8) + 96, 0);
        bytes.extend(header(2, b"x"));
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        entries.iter().for_each(|entry| packed.write_all(entry).unwrap());
        packed.write_all(&entry("TRAILER!!!", 0, 1, b"")).unwrap();
        [bytes, packed.finish().unwrap()].concat()
    };
    let good = entry("./usr/src/hello-1.0/dkms.conf", 0o100_644, 1, b"PACKAGE_NAME=hello\n");
    assert_eq!(bench.unpack(&package(std::slice::from_ref(&good))).unwrap(), "/source/hello-1.0");
    let text = fs::read_to_string(bench.scratch.path().join("source/hello-1.0/dkms.conf")).unwrap();
    assert_eq!(text, "PACKAGE_NAME=hello\n");
    for (entry, expected) in [
        (entry("./usr/src/hello-1.0/../../a", 0o100_644, 1, b"x"), "its path contains `..`"),
        (entry("./usr/src/hello-1.0/a", 0o100_644, 2, b"x"), "it is a hard link"),
        (entry("./usr/src/hello-1.0/a", 0o120_777, 1, b"/etc"), "an absolute path"),
        (entry("./usr/src/hello-1.0/a", 0o060_644, 1, b""), "it is a device"),
    ] {
        let error = bench.unpack(&package(&[good.clone(), entry])).expect_err(expected);
        assert!(error.contains(expected), "{error:?} has no {expected:?}");
    }
}
