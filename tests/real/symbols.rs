//! Symbols: no module that loads is found wanting, and one that does not load is.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use clr_dkms::dkms::{Cache, kernel_symbols::KernelSymbols, modfile};
use clr_dkms::kernel::Headers;
use clr_dkms::modprobe::index::{DependencyEntry, Index};
use clr_dkms::sys::{Root, RootKind};

use crate::scene::{A, ALPHA, ALPHA_BUILT, Scene, entry, shell, which};

const LIST: &str = "usr/lib/modules/6.15.7-1591.native/build/Module.symvers";

/// What `status` says of a module on kernel A: its state and why.
fn shown(scene: &Scene, module: &str) -> String {
    let document = serde_json::from_str(&scene.run("status").out).unwrap();
    let entry = entry(&document, module, A);
    format!("{}: {}", entry["state"].as_str().unwrap(), entry["reason"].as_str().unwrap_or_default())
}

/// The place of the version of a symbol in a module file.
fn version_at(bytes: &[u8], symbol: &str) -> usize {
    let record = [&[0; 4], symbol.as_bytes(), &[0]].concat();
    bytes.windows(record.len()).position(|w| w == record).unwrap() - 4
}

/// The version of a symbol that the kernel has is not that of the file, installed and built.
#[test]
fn a_file_that_was_built_against_other_versions() {
    let Some(scene) = Scene::installed("symbols-file") else { return };
    for file in [ALPHA.to_owned(), format!("{ALPHA_BUILT}/module/alpha.ko")] {
        let mut bytes = fs::read(scene.path(&file)).unwrap();
        let at = version_at(&bytes, "module_layout");
        bytes[at] ^= 0xff;
        fs::write(scene.path(&file), bytes).unwrap();
    }
    let why = "was built against other symbol versions: module_layout";
    assert!(shown(&scene, "alpha/1.0").ends_with(why), "{}", shown(&scene, "alpha/1.0"));
    scene.heals();
}

/// The headers are those of a kernel that was built again under the same name.
#[test]
fn headers_with_other_versions() {
    let Some(scene) = Scene::installed("symbols-headers") else { return };
    let list = scene.read(LIST);
    let line = list.lines().find(|l| l.contains("\tmodule_layout\t")).unwrap();
    scene.write(LIST, list.replace(line, &format!("0x12345678{}", &line[10..])));
    assert!(shown(&scene, "alpha/1.0").starts_with("symbols-mismatch: "), "{}", shown(&scene, "alpha/1.0"));
    scene.heals();
    let bytes = fs::read(scene.path(ALPHA)).unwrap();
    assert_eq!(bytes[version_at(&bytes, "module_layout")..][..4], [0x78, 0x56, 0x34, 0x12]);
}

/// Two DKMS modules; the one takes a symbol of the other, and kbuild does not know.
#[test]
fn a_module_on_top_of_one_that_goes_away() {
    let Some(scene) = Scene::with_kernel("symbols-on-top") else { return };
    for name in ["base", "top"] {
        scene.module(name, "1.0", &[]);
    }
    let (base, top) = ("usr/src/base-1.0/base.c", "usr/src/top-1.0/top.c");
    scene.write(base, scene.read(base) + "int base_answer(void);\nint base_answer(void) { return 42; }\nEXPORT_SYMBOL_GPL(base_answer);\n");
    let calls = scene.read(top).replace("return 0;", "return base_answer() - 42;");
    scene.write(top, calls.replace("static int __init", "int base_answer(void);\nstatic int __init"));
    let conf = "usr/src/top-1.0/dkms.conf";
    let make = "MAKE[0]='make -C $kernel_source_dir M=$dkms_tree/top/1.0/build KBUILD_MODPOST_WARN=1'\n";
    scene.write(conf, scene.read(conf) + make);
    scene.post_update().exits(0);
    scene.proven("top", A);
    scene.settled();
    let record = scene.record();
    let checks = entry(&record, "top/1.0", A)["files"][0]["checks"].to_string();
    assert_eq!(checks.matches("check").count(), 5, "{checks}");
    assert!(!checks.contains("not_made"), "{checks}");

    fs::remove_dir_all(scene.path("var/lib/dkms/base")).unwrap();
    fs::remove_file(scene.path(&format!("usr/lib/modules/{A}/updates/dkms/base.ko"))).unwrap();
    assert_eq!(shown(&scene, "top/1.0"), "dependency-failed: top needs base, which is not there");
    scene.post_update().exits(1).says(&["top needs base, which is not there"]);
    shell(Command::new(which("depmod")).arg("-b").arg(&scene.root).args(["-a", A]));
    let why = "top.ko needs symbol base_answer, which nothing exports";
    scene.record_calls("dkms");
    scene.post_update().exits(1).says(&[why]);
    let calls = scene.calls("dkms");
    assert_eq!(calls.lines().filter(|l| l.starts_with("build ")).count(), 1, "{calls}");
    assert!(shown(&scene, "top/1.0").starts_with("build-failed: "), "{}", shown(&scene, "top/1.0"));
    // With the same source and headers it would be the same again.
    scene.post_update().exits(1);
    assert_eq!(scene.calls("dkms"), calls);
}

/// Every module of a whole kernel as its makers ship it, with its headers: nothing is wrong with any.
#[test]
fn no_module_of_a_real_kernel_is_found_wanting() {
    let Some(place) = std::env::var_os("CLR_DKMS_KERNEL_ROOT").map(PathBuf::from) else {
        println!("skipped: CLR_DKMS_KERNEL_ROOT names no root with a kernel's modules and headers");
        return;
    };
    let root = Root::open(RootKind::Image, &place).unwrap();
    let release = root.list("/usr/lib/modules").unwrap().remove(0).text().unwrap().to_owned();
    let directory = format!("/usr/lib/modules/{release}");
    let list = String::from_utf8(
        root.read_within(format!("{directory}/modules.dep"), clr_dkms::limits::KERNEL_LIST).unwrap(),
    )
    .unwrap();
    let name = |line: &str| -> Option<String> {
        let file = line.split(':').next()?.rsplit('/').next()?;
        Some(file.split(".ko").next()?.to_owned())
    };
    let names: Vec<String> = list.lines().filter_map(name).collect();
    let index = Index::load(&root, &release).unwrap();
    let entries: BTreeMap<&String, DependencyEntry> =
        names.iter().map(|name| (name, index.entry(name).unwrap())).collect();
    let scope = KernelSymbols::load(&root, &release, &Headers::Present, jiff::Timestamp::UNIX_EPOCH).unwrap();
    let (mut wrong, mut counts, mut cache) = (Vec::new(), BTreeMap::new(), Cache::default());
    let start = Instant::now();
    for (name, entry) in &entries {
        let path = format!("{directory}/{}", entry.path);
        let answer = scope.symbols(&mut cache, &path, &root.lookup(&path), Some(entry));
        *counts.entry(if answer.is_ok() { "checked" } else { "cannot be determined" }).or_insert(0) += 1;
        if !matches!(answer, Ok(Ok(()))) {
            wrong.push(format!("{name}: {answer:?}"));
        }
        let system = modfile::read(&path, &root.read_within(&path, clr_dkms::limits::MODULE).unwrap());
        let depended = scope.dependencies(name, &system.depends, entry);
        if depended != Ok(None) {
            wrong.push(format!("{name}: {depended:?}"));
        }
    }
    println!("{counts:?} in {:?}", start.elapsed());
    assert!(entries.len() > 1000, "{} modules", entries.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), entries.len(), wrong.join("\n"));
}
