//! The manifest of `clr-dkms add`: everything is recorded before it is written, and only what is as it was
//! written is taken back.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clr_dkms::dkms::ModuleName;
use clr_dkms::state::added::{
    ADDED, AddedFileKind, AddedManifest, AddedSource, AddedState, ManifestError, tree_fingerprint,
};
use clr_dkms::sys::{Root, RootKind};

use crate::support::scratch;

const OPTIONS: &str = "/etc/modprobe.d/hello.conf";
const RULES: &str = "/etc/udev/rules.d/50-hello.rules";

fn module(version: &str) -> ModuleName {
    ModuleName { name: "hello".to_owned(), version: version.to_owned() }
}

fn root(directory: &Path) -> Root {
    Root::open(RootKind::Image, directory).unwrap()
}

fn write(root: &Root, version: &str, path: &str, text: &str) -> Result<(), ManifestError> {
    let mut manifest = AddedManifest::load(root)?;
    let file = (path, AddedFileKind::Modprobe);
    manifest.write_file(root, &module(version), file, text.as_bytes(), BTreeSet::new())
}

fn states(root: &Root, version: &str) -> Vec<(String, AddedState)> {
    let manifest = AddedManifest::load(root).unwrap();
    let files = manifest.of(&module(version)).map(|added| added.files.clone()).unwrap_or_default();
    files.into_iter().map(|file| (file.path.clone(), file.state(root).unwrap())).collect()
}

#[test]
fn only_unedited_files_are_taken_back() {
    let directory = scratch::directory();
    let root = root(directory.path());
    let at = |path: &str| directory.path().join(path.trim_start_matches('/'));
    write(&root, "1.0", OPTIONS, "options hello x=1\n").unwrap();
    write(&root, "1.0", RULES, "KERNEL==\"hello\"\n").unwrap();
    write(&root, "1.0", "/etc/modprobe.d/gone.conf", "options hello y=1\n").unwrap();
    fs::write(at(RULES), "KERNEL==\"mine\"\n").unwrap();
    fs::remove_file(at("etc/modprobe.d/gone.conf")).unwrap();
    assert_eq!(
        states(&root, "1.0"),
        [
            ("/etc/modprobe.d/gone.conf".to_owned(), AddedState::Absent),
            (OPTIONS.to_owned(), AddedState::Unedited),
            (RULES.to_owned(), AddedState::Edited),
        ]
    );
    let done = AddedManifest::load(&root).unwrap().take_back(&root, &module("1.0")).unwrap();
    assert_eq!((done.removed, done.edited), (vec![OPTIONS.to_owned()], vec![RULES.to_owned()]));
    assert!(!at(OPTIONS).exists() && at(RULES).exists());
    // Nothing is recorded any more.
    assert!(!at(ADDED).exists());
}

#[test]
fn files_of_others_and_edited_files_are_not_overwritten() {
    let directory = scratch::directory();
    let root = root(directory.path());
    let at = |path: &str| directory.path().join(path.trim_start_matches('/'));
    fs::create_dir_all(at("etc/modprobe.d")).unwrap();
    fs::write(at(OPTIONS), "options hello x=7\n").unwrap();
    std::os::unix::fs::symlink("/dev/null", at("etc/modprobe.d/masked.conf")).unwrap();
    for path in [OPTIONS, "/etc/modprobe.d/masked.conf"] {
        let refused = write(&root, "1.0", path, "options hello x=1\n");
        assert!(
            matches!(&refused, Err(ManifestError::Occupied(shown)) if *shown == at(path)),
            "{path}: {refused:?}"
        );
    }
    assert_eq!(fs::read_to_string(at(OPTIONS)).unwrap(), "options hello x=7\n");
    assert!(!at(ADDED).exists());
    write(&root, "1.0", RULES, "KERNEL==\"hello\"\n").unwrap();
    fs::write(at(RULES), "KERNEL==\"mine\"\n").unwrap();
    assert!(matches!(write(&root, "2.0", RULES, "KERNEL==\"b\"\n"), Err(ManifestError::Occupied(_))));
    assert_eq!(fs::read_to_string(at(RULES)).unwrap(), "KERNEL==\"mine\"\n");
}

#[test]
fn a_run_that_is_killed_after_the_record_leaves_an_unedited_file() {
    let directory = scratch::directory();
    let root = root(directory.path());
    let at = |path: &str| directory.path().join(path.trim_start_matches('/'));
    write(&root, "1.0", OPTIONS, "options hello x=1\n").unwrap();
    write(&root, "2.0", OPTIONS, "options hello x=2\n").unwrap();
    assert_eq!(states(&root, "1.0"), []);
    // Killed before the second file was written.
    fs::write(at(OPTIONS), "options hello x=1\n").unwrap();
    assert_eq!(states(&root, "2.0"), [(OPTIONS.to_owned(), AddedState::Unedited)]);
    // Killed before the first file was written.
    fs::remove_file(at(OPTIONS)).unwrap();
    assert_eq!(states(&root, "2.0"), [(OPTIONS.to_owned(), AddedState::Absent)]);
    write(&root, "2.0", OPTIONS, "options hello x=2\n").unwrap();
    assert_eq!(fs::read_to_string(at(OPTIONS)).unwrap(), "options hello x=2\n");
}

#[test]
fn the_files_of_a_replaced_version_pass_to_the_new_one() {
    let directory = scratch::directory();
    let root = root(directory.path());
    write(&root, "1.0", OPTIONS, "options hello x=1\n").unwrap();
    write(&root, "2.0", RULES, "KERNEL==\"hello\"\n").unwrap();
    AddedManifest::load(&root).unwrap().pass_on(&root, &module("1.0"), &module("2.0")).unwrap();
    assert_eq!(states(&root, "1.0"), []);
    let paths = states(&root, "2.0").into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(paths, [OPTIONS, RULES]);
}

#[test]
fn a_source_that_was_edited_since_is_recognized() {
    use std::os::unix::fs::PermissionsExt;
    let directory = scratch::directory();
    let root = root(directory.path());
    let source = directory.path().join("usr/src/hello-1.0");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/hello.c"), "int x;\n").unwrap();
    std::os::unix::fs::symlink("sub/hello.c", source.join("link")).unwrap();
    let path = "/usr/src/hello-1.0".to_owned();
    let fingerprint = tree_fingerprint(&root, &path).unwrap();
    let recorded = AddedSource { path, fingerprint };
    let mut manifest = AddedManifest::load(&root).unwrap();
    manifest.record_source(&root, &module("1.0"), recorded.clone()).unwrap();
    let state = || recorded.state(&root).unwrap();
    assert_eq!(state(), AddedState::Unedited);
    let file = source.join("sub/hello.c");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(state(), AddedState::Edited);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(state(), AddedState::Unedited);
    fs::write(&file, "int y;\n").unwrap();
    assert_eq!(state(), AddedState::Edited);
    fs::write(&file, "int x;\n").unwrap();
    fs::remove_file(source.join("link")).unwrap();
    assert_eq!(state(), AddedState::Edited);
    fs::remove_dir_all(&source).unwrap();
    assert_eq!(state(), AddedState::Absent);
    // The source is forgotten, and with it the module.
    AddedManifest::load(&root).unwrap().forget_source(&root, &module("1.0")).unwrap();
    assert_eq!(AddedManifest::load(&root).unwrap(), AddedManifest::default());
}

#[test]
fn an_unusable_manifest_is_unknown_and_not_empty() {
    let directory = scratch::directory();
    let root = root(directory.path());
    let path = directory.path().join(ADDED.trim_start_matches('/'));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    for text in ["{\"schema\":1,\"modules\":[{", "{\"schema\":999,\"modules\":[]}", ""] {
        fs::write(&path, text).unwrap();
        assert!(matches!(AddedManifest::load(&root), Err(ManifestError::Unknown(_))), "{text}");
        assert!(write(&root, "1.0", OPTIONS, "options hello x=1\n").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
