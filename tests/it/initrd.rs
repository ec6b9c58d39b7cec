//! Initrds: small ones that the real cpio and the real compressors made (`tests/support/record-initrd.sh`),
//! and hostile ones.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clr_dkms::initrd::{FoundInInitrd, InitrdContents};
use proptest::prelude::*;

use crate::support::{elf, few_or};

const RELEASE: &str = "6.15.7-1591.native";
const READABLE: [&str; 7] = ["plain", "gzip", "xz", "zstd", "lz4-legacy", "microcode-first", "two-in-a-row"];

fn sample(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/initrd/{name}.img"))).unwrap()
}

fn wanted(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|n| (*n).to_owned()).collect()
}

fn read(bytes: &[u8]) -> InitrdContents {
    InitrdContents::read(bytes, &wanted(&["two", "snd_x", "zipped", "quick"]))
}

/// The srcversion of a module, or what is in its place.
fn srcversion(contents: &InitrdContents, module: &str) -> String {
    match contents.find(RELEASE, module) {
        FoundInInitrd::Absent => "absent".to_owned(),
        FoundInInitrd::Unknown(why) => format!("unknown: {why}"),
        FoundInInitrd::Module(module) => match &module.build {
            None => "not asked".to_owned(),
            Some(Err(why)) => format!("unknown build: {why}"),
            Some(Ok(build)) => build.identity.srcversion.clone().unwrap_or_default(),
        },
    }
}

/// An archive of the format newc.
pub(crate) fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    let mut add = |name: &str, mode: u32, body: &[u8]| {
        let fields = [1, mode, 0, 0, 1, 0, body.len() as u32, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        archive.extend(b"070701");
        archive.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
        archive.extend(name.bytes().chain([0]));
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(body);
        archive.resize(archive.len().next_multiple_of(4), 0);
    };
    for (name, body) in files {
        add(name, 0o100_644, body);
    }
    add("TRAILER!!!", 0, b"");
    archive.resize(archive.len().next_multiple_of(512), 0);
    archive
}

pub(crate) fn ko(srcversion: &str) -> Vec<u8> {
    elf::with_modinfo(format!("srcversion={srcversion}\0vermagic={RELEASE} SMP\0").as_bytes())
}

#[test]
fn modules_are_found_whatever_the_compression() {
    for name in READABLE {
        let contents = read(&sample(name));
        let found = ["two", "snd-x", "snd_x", "zipped", "quick", "none"].map(|m| srcversion(&contents, m));
        // Of two files of one module, modules.dep inside names the one that is loaded.
        assert_eq!(found, ["TWO", "SOUND", "SOUND", "ZIPPED", "QUICK", "absent"], "{name}");
        assert_eq!(contents.releases().collect::<Vec<_>>(), [RELEASE], "{name}");
        assert_eq!(
            contents.modules(RELEASE).collect::<Vec<_>>(),
            ["quick", "snd_x", "two", "zipped"],
            "{name}"
        );
        let FoundInInitrd::Module(two) = contents.find(RELEASE, "two") else { panic!("{name}") };
        let build = two.build.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(build.vermagic.as_deref(), Some("6.15.7-1591.native SMP"));
        assert_eq!(build.identity.build_id.as_ref().map(String::len), Some(40), "sha1");
    }
}

#[test]
fn what_is_not_asked_is_not_looked_at() {
    let contents = InitrdContents::read(&sample("gzip"), &wanted(&["two"]));
    assert_eq!([srcversion(&contents, "two"), srcversion(&contents, "quick")], ["TWO", "not asked"]);
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let damaged = |name: &str, cut: usize| {
        let bytes = sample(name);
        srcversion(&read(&bytes[..bytes.len() - cut]), "none")
    };
    for (found, why) in [
        (damaged("bzip2", 0), "compressed with bzip2"),
        (damaged("lz4-frame", 0), "lz4's frame format"),
        (damaged("odc", 0), "not a cpio archive of the format newc"),
        (damaged("plain", 3000), "truncated"),
        (damaged("gzip", 9), "unknown: "),
        (damaged("xz", 40), "unknown: "),
        (damaged("zstd", 3), "unknown: "),
        (damaged("lz4-legacy", 3), "lz4: a block extends past the end"),
        (srcversion(&read(b"garbage"), "none"), "not a cpio archive"),
        (srcversion(&read(&[sample("gzip"), b"garbage".to_vec()].concat()), "none"), "not a cpio archive"),
        (srcversion(&InitrdContents::unreadable("EIO".to_owned()), "none"), "unknown: EIO"),
    ] {
        assert!(found.starts_with("unknown: ") && found.contains(why), "{found}, not {why}");
    }
    // What was found before the damage is there.
    let bytes = [sample("gzip"), b"garbage".to_vec()].concat();
    assert_eq!(srcversion(&read(&bytes), "two"), "TWO");
}

#[test]
fn several_members_and_what_is_between_them() {
    let path = format!("lib/modules/{RELEASE}/kernel/a/two.ko");
    let old = cpio(&[(&path, &ko("OLD"))]);
    let new = cpio(&[("usr/lib/modules/other/x.ko", &ko("X")), (&path, &ko("NEW"))]);
    let padded = [old.as_slice(), &[0; 37], &new, &[0; 5]].concat();
    let contents = read(&padded);
    assert_eq!(srcversion(&contents, "two"), "NEW", "the later file counts");
    assert_eq!(contents.releases().collect::<Vec<_>>(), [RELEASE, "other"]);
    // An empty one, and one of NULs alone, hold nothing.
    assert_eq!([b"".as_slice(), &[0; 100], &cpio(&[])].map(|b| srcversion(&read(b), "two")), ["absent"; 3]);
    // Several files, loaded one after another.
    let mut both = read(&old);
    both.extend(read(&new));
    assert_eq!(srcversion(&both, "two"), "NEW");
    both.extend(read(b"garbage"));
    assert_eq!(srcversion(&both, "two"), "NEW");
    assert!(srcversion(&both, "none").starts_with("unknown"));
    // A bootconfig at the end.
    let config = b"kernel { x = y }\0\0\0\0";
    let size = u32::try_from(config.len()).unwrap().to_le_bytes();
    let with_config = [new.as_slice(), config, &size, &[1, 2, 3, 4], b"#BOOTCONFIG\n"].concat();
    assert_eq!(srcversion(&read(&with_config), "two"), "NEW");
}

#[test]
fn modules_whose_build_is_not_known() {
    let at = |directory: &str| format!("usr/lib/modules/{RELEASE}/{directory}/two.ko");
    let (one, other) = (at("kernel/a"), at("updates/dkms"));
    // Two files, and no modules.dep that names one of them.
    let twice = read(&cpio(&[(&one, &ko("A")), (&other, &ko("B"))]));
    assert!(srcversion(&twice, "two").ends_with("are both in it"), "{}", srcversion(&twice, "two"));
    let mut later = read(&cpio(&[(&one, &ko("A"))]));
    later.extend(read(&cpio(&[(&other, &ko("B"))])));
    assert!(srcversion(&later, "two").ends_with("are both in it"));
    let garbage = read(&cpio(&[(&one, b"garbage")]));
    assert!(srcversion(&garbage, "two").starts_with("unknown build"));
    // A filesystem inside may hold anything.
    let image = read(&cpio(&[("squash-root.img", b"hsqs"), (&one, &ko("A"))]));
    assert_eq!(srcversion(&image, "two"), "A");
    assert!(srcversion(&image, "quick").contains("squash-root.img, a filesystem image"));
}

#[test]
fn a_large_hole_is_skipped_and_a_bomb_refused() {
    // 3 GiB of zeros in 3 MB: more than the limit, and never in memory at once.
    let mut header = b"070701".to_vec();
    let size: u32 = 3 << 30;
    let fields = [1, 0o100_644, 0, 0, 1, 0, size, 0, 0, 0, 0, 2, 0];
    header.extend(fields.iter().flat_map(|field| format!("{field:08x}").into_bytes()));
    header.extend(b"x\0");
    let block = vec![0; 8 << 20];
    let mut compressed = vec![0x02, 0x21, 0x4c, 0x18];
    let mut add = |bytes: &[u8]| {
        let literal = lz4_block_of(bytes);
        compressed.extend(u32::try_from(literal.len()).unwrap().to_le_bytes());
        compressed.extend(literal);
    };
    add(&header);
    for _ in 0..300 {
        add(&block);
    }
    let found = srcversion(&read(&compressed), "none");
    assert!(found.contains("larger than 2 GiB"), "{found}");
}

/// A block of lz4: text as it is, or a run of one byte.
fn lz4_block_of(bytes: &[u8]) -> Vec<u8> {
    let literal = |bytes: &[u8]| {
        let mut block = vec![0xf0, u8::try_from(bytes.len() - 15).unwrap()];
        block.extend(bytes);
        block
    };
    if bytes.len() < 200 {
        return literal(bytes);
    }
    // One literal, a match of it that goes on nearly to the end, and five literals, as the format asks for.
    let mut left = bytes.len() - 1 - 5 - 4 - 15;
    let mut block = vec![0x1f, bytes[0], 1, 0];
    while left >= 255 {
        block.push(255);
        left -= 255;
    }
    block.push(u8::try_from(left).unwrap());
    block.push(0x50);
    block.extend(&bytes[bytes.len() - 5..]);
    block
}

proptest! {
    #![proptest_config(ProptestConfig { cases: few_or(60, 300), ..ProptestConfig::default() })]

    /// Whatever the bytes are, the answer is one of three, and a module that is found is one of those that
    /// were packed.
    #[test]
    fn any_initrd(
        name in prop::sample::select(READABLE.to_vec()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = sample(name);
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let contents = read(&bytes);
        if changes.is_empty() && !is_cut {
            prop_assert_eq!(srcversion(&contents, "two"), "TWO");
        }
        // What is cut away is never said to be absent.
        if is_cut && changes.is_empty() && !bytes.is_empty() && srcversion(&contents, "two") == "absent" {
            prop_assert!(contents.releases().next().is_none(), "{:?}", contents);
        }
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), magic in prop::sample::select(vec![
        &b"070701"[..], &[0x1f, 0x8b, 8], &[0xfd, b'7', b'z', b'X', b'Z', 0], &[0x28, 0xb5, 0x2f, 0xfd],
        &[0x02, 0x21, 0x4c, 0x18], b"",
    ])) {
        let bytes = [magic, &bytes].concat();
        let contents = read(&bytes);
        prop_assert!(contents.unknown().is_some() || contents.releases().count() == 0);
    }
}
