//! What the real clr-boot-manager made of 401 sets of files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use clr_dkms::cmdline::merge::Effect;
use clr_dkms::cmdline::{CmdlineSources, effective, merge};
use clr_dkms::sys::{Root, RootKind};
use serde::Deserialize;

use crate::cmdline_properties::is_left_of;
use crate::support::scratch;

#[derive(Deserialize)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) files: Vec<VectorFile>,
    pub(crate) out: String,
}

#[derive(Deserialize)]
pub(crate) struct VectorFile {
    #[serde(rename = "p")]
    path: String,
    #[serde(rename = "k")]
    kind: String,
    #[serde(rename = "c")]
    content: String,
}

/// The vectors hold bytes, written as the Latin-1 characters of the same numbers.
pub(crate) fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect()
}

pub(crate) fn lay_out(files: &[VectorFile], root: &Path) {
    use std::os::unix::ffi::OsStrExt;
    for file in files {
        let path = root.join(&file.path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match file.kind.as_str() {
            "file" => fs::write(path, latin1(&file.content)).unwrap(),
            "link" => symlink(std::ffi::OsStr::from_bytes(&latin1(&file.content)), path).unwrap(),
            "dir" => fs::create_dir_all(path).unwrap(),
            other => panic!("unknown kind {other}"),
        }
    }
}

pub(crate) fn all() -> Vec<Vector> {
    let vectors = include_str!("../data/cmdline-vectors.jsonl");
    vectors.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_line_is_the_one_that_clr_boot_manager_wrote() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for vector in all() {
        let directory = scratch::directory();
        lay_out(&vector.files, directory.path());
        let root = Root::open(RootKind::Image, directory.path()).unwrap();
        let sources = CmdlineSources::observe(&root, "6.15.7-1591.native");
        let line = effective(&sources);
        origins(&vector.name, directory.path(), &sources);
        if line != latin1(&vector.out) {
            wrong.push(format!(
                "{}: {:?} instead of {:?}",
                vector.name,
                String::from_utf8_lossy(&line),
                vector.out
            ));
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(count, 401);
}

/// The pieces give the line, and each comes from the line of the file that it names.
fn origins(name: &str, directory: &Path, sources: &CmdlineSources) {
    let merged = merge(sources);
    let joined: Vec<u8> = merged.pieces.iter().flat_map(|p| p.bytes.clone()).collect();
    assert_eq!(joined, effective(sources), "{name}");
    let whole = merged.removed.iter().all(|r| matches!(r.effect, Effect::NotThere | Effect::NotAtAnEnd));
    for piece in &merged.pieces {
        let Some(origin) = &piece.origin else {
            assert!(piece.bytes.iter().all(|b| *b == b' '), "{name}: {piece:?}");
            continue;
        };
        let bytes = fs::read(directory.join(origin.path.strip_prefix("/").unwrap())).unwrap();
        let text = bytes.split(|b| *b == b'\n').nth(origin.line - 1).unwrap();
        // Out of the middle of a piece a removal may have taken something.
        let found = match whole {
            true => memchr::memmem::find(text, &piece.bytes).is_some(),
            false => is_left_of(&piece.bytes, text),
        };
        assert!(found, "{name}: {piece:?} is not in {}", text.escape_ascii());
    }
    for word in &merged.words {
        assert!(!word.origins.is_empty(), "{name}: {word:?}");
    }
}
