//! Archives that `clr-dkms import` refuses, and binaries that it does not use.

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::run::set_mode;
use crate::support::tree::difference;
use crate::support::{A, B, elf};
use crate::transfer::{Builder, builds, import, origin, sign, signature_of, tar};

fn sum(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    serde_json::json!({ "size": bytes.len(), "sha256": digest })
}

/// Writes the module of a build again, with a manifest that agrees.
fn set_module(directory: &Path, manifest: &mut Value, bytes: &[u8]) {
    let build = &mut manifest["builds"][0];
    let at = format!(
        "dkms_main_tree/{}/{}/module/hello.ko",
        build["kernel"].as_str().unwrap(),
        build["architecture"].as_str().unwrap()
    );
    fs::write(directory.join(&at), bytes).unwrap();
    let file = build["files"].as_array_mut().unwrap().iter_mut();
    let file = file.into_iter().find(|file| file["path"] == "module/hello.ko").unwrap();
    for (key, value) in sum(&directory.join(&at)).as_object().unwrap() {
        file[key] = value.clone();
    }
}

fn step<'d>(document: &'d Value, name: &str, result: &str) -> Vec<&'d str> {
    let steps = document["archives"][0]["steps"].as_array().unwrap().iter();
    let found = steps.filter(|step| step["step"] == name && step["result"] == result);
    found.map(|step| step["text"].as_str().unwrap()).collect()
}

/// Each archive agrees with its manifest and is signed, unless the case is about that; the module is then
/// built from the source.
#[test]
fn binaries_that_do_not_fit_are_not_used() {
    let builder = Builder::new();
    let module = |text: &[u8]| elf::with_modinfo(text);
    type Change = Box<dyn FnOnce(&Path, &mut Value)>;
    let changed = |change: Change| change;
    let cases: Vec<(&str, Change, &str)> = vec![
        (
            "another-kernel",
            changed(Box::new(move |directory, manifest| {
                set_module(
                    directory,
                    manifest,
                    &module(format!("vermagic={A} SMP preempt mod_unload \0").as_bytes()),
                );
                manifest["builds"][0]["modules"][0]["vermagic"] =
                    format!("{A} SMP preempt mod_unload").into();
            })),
            "does-not-fit",
        ),
        (
            "another-configuration",
            changed(Box::new(move |directory, manifest| {
                set_module(
                    directory,
                    manifest,
                    &module(format!("vermagic={B} SMP mod_unload \0").as_bytes()),
                );
                manifest["builds"][0]["modules"][0]["vermagic"] = format!("{B} SMP mod_unload").into();
            })),
            "vermagic",
        ),
        (
            "another-manifest",
            Box::new(|_, manifest| {
                manifest["builds"][0]["modules"][0]["symbols"]["printk"] = "0x00000001".into();
            }),
            "manifest",
        ),
        (
            "another-architecture",
            Box::new(|directory, manifest| {
                manifest["builds"][0]["architecture"] = "riscv64".into();
                let kernel = directory.join(format!("dkms_main_tree/{B}"));
                fs::rename(kernel.join(clr_dkms::dkms::architecture()), kernel.join("riscv64")).unwrap();
            }),
            "architecture",
        ),
        (
            "another-module",
            Box::new(|_, manifest| manifest["builds"][0]["modules"][0]["name"] = "other".into()),
            "modules",
        ),
        (
            "no-module",
            Box::new(|_, manifest| manifest["builds"][0]["modules"] = Vec::<u8>::new().into()),
            "modules",
        ),
        (
            "no-binaries",
            Box::new(|directory, manifest| {
                manifest["builds"] = Vec::<u8>::new().into();
                fs::remove_dir_all(directory.join("dkms_main_tree")).unwrap();
            }),
            "no-binaries",
        ),
    ];
    for (name, change, cause) in cases {
        let file = builder.repacked(name, change);
        sign(&builder.keys, &file);
        let target = builder.target();
        let document = import(&target, &file, &["--yes", "--json"]).code(0).json();
        assert_eq!(origin(&document), ("build".to_owned(), Some(cause.to_owned())), "{name}: {document:#}");
        assert_eq!(builds(&target), [format!("build hello {B}")], "{name}");
        assert_eq!(document["archives"][0]["installed"], true, "{name}");
    }
}

fn source_of(directory: &Path) -> std::path::PathBuf {
    directory.join("dkms_source_tree")
}

fn binary() -> String {
    format!("dkms_main_tree/{B}/{}/module/hello.ko", clr_dkms::dkms::architecture())
}

type Change = Box<dyn FnOnce(&Path, &mut Value)>;

/// What is done to the files or the manifest of an archive, and a part of the message.
fn changes() -> Vec<(&'static str, Change, &'static str)> {
    vec![
        (
            "a damaged source",
            Box::new(|directory, _| fs::write(source_of(directory).join("hello.c"), "int y;\n").unwrap()),
            "hello.c is damaged",
        ),
        (
            "a damaged binary",
            Box::new(|directory, _| {
                let mut bytes = fs::read(directory.join(binary())).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(directory.join(binary()), bytes).unwrap();
            }),
            "hello.ko is damaged",
        ),
        (
            "a file more",
            Box::new(|directory, _| fs::write(source_of(directory).join("more.c"), "").unwrap()),
            "more.c is in the archive and not in",
        ),
        (
            "a binary more",
            Box::new(|directory, _| fs::write(directory.join(binary()).with_file_name("b.ko"), "").unwrap()),
            "b.ko is in the archive and not in",
        ),
        (
            "a file less",
            Box::new(|directory, _| fs::remove_file(source_of(directory).join("hello.c")).unwrap()),
            "hello.c is missing",
        ),
        (
            "another mode",
            Box::new(|directory, _| set_mode(&source_of(directory).join("hello.c"), 0o755)),
            "hello.c is damaged",
        ),
        ("another schema", Box::new(|_, manifest| manifest["schema"] = 2.into()), "has schema 2"),
        (
            "no version",
            Box::new(|_, manifest| drop(manifest.as_object_mut().unwrap().remove("version"))),
            "parsed",
        ),
        ("not a manifest", Box::new(|_, manifest| *manifest = "text".into()), "cannot be parsed"),
        ("a name upwards", Box::new(|_, manifest| manifest["name"] = "../../x".into()), "cannot take"),
        (
            "a kernel upwards",
            Box::new(|_, manifest| manifest["builds"][0]["kernel"] = "../../x".into()),
            "cannot take",
        ),
        (
            "a file upwards",
            Box::new(|_, manifest| manifest["builds"][0]["files"][0]["path"] = "module/../../x".into()),
            "cannot take",
        ),
        (
            "another fingerprint",
            Box::new(|_, manifest| manifest["builds"][0]["inputs"]["source"] = "0".into()),
            "fingerprint",
        ),
        ("another module", Box::new(|_, manifest| manifest["name"] = "other".into()), "its manifest that of"),
        (
            "a build twice",
            Box::new(|_, manifest| {
                let build = manifest["builds"][0].clone();
                manifest["builds"].as_array_mut().unwrap().push(build);
            }),
            "twice",
        ),
    ]
}

/// Whatever is asked for: nothing of these is used.
#[test]
fn damaged_and_altered_archives_are_refused() {
    let builder = Builder::new();
    let whole = fs::read(builder.signed()).unwrap();
    let signature = fs::read(signature_of(&builder.archive())).unwrap();
    let refused = |name: &str, file: &Path, step_name: &str, why: &str| {
        let target = builder.target();
        let before = target.tree();
        let document = import(&target, file, &["--yes", "--trust-binaries", "--json"]).code(1).json();
        let failed = step(&document, step_name, "failed");
        assert!(failed.iter().any(|text| text.contains(why)), "{name}: {document:#}");
        let changes = difference(&before, &target.tree(), false);
        assert!(changes.iter().all(|change| change.contains(".stand-ins")), "{name}: {changes:?}");
        assert_eq!(builds(&target), Vec::<String>::new(), "{name}");
    };
    let written = |name: &str, bytes: &[u8]| {
        let file = builder.root.outside().join(name);
        fs::write(&file, bytes).unwrap();
        file
    };
    let mut altered = whole.clone();
    *altered.last_mut().unwrap() ^= 1;
    let file = written("altered.tar.gz", &altered);
    fs::write(signature_of(&file), &signature).unwrap();
    refused("altered", &file, "signature", "is not the one that was signed");
    let file = written("half-signed.tar.gz", &whole);
    fs::write(signature_of(&file), &signature[..signature.len() / 2]).unwrap();
    refused("half a signature", &file, "signature", "it cannot be used");
    for length in [0, 1, 40, whole.len() / 2, whole.len() - 20] {
        let file = written("truncated.tar.gz", &whole[..length]);
        refused(&format!("{length} bytes"), &file, "unpack", "");
    }
    refused("nothing", &builder.root.outside().join("nothing"), "unpack", "");
    for (at, (name, change, why)) in changes().into_iter().enumerate() {
        let file = builder.repacked(&format!("case-{at}"), change);
        refused(name, &file, "check", why);
    }
    // A symlink out of the archive is refused while it is unpacked.
    let file = builder.repacked("link", |directory, _| {
        std::os::unix::fs::symlink("/etc", source_of(directory).join("etc")).unwrap();
    });
    refused("a symlink", &file, "unpack", "symlink to an absolute path");
    // What is not an archive of a module.
    let directory = builder.root.outside().join("plain");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("x"), "x").unwrap();
    let file = builder.root.outside().join("plain.tar.gz");
    tar(&["-czf", &file.display().to_string(), "-C", &builder.root.outside().display().to_string(), "plain"]);
    refused("a plain archive", &file, "unpack", "`clr-dkms add`");
}
