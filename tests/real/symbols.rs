//! Symbols: no module that loads is found wanting, and one that does not load is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use clr_dkms::dkms::{Cache, index::Index, modfile, scope::Scope};
use clr_dkms::kernel::Headers;
use clr_dkms::sys::{Root, RootKind};

/// Every module of a whole kernel as its makers ship it, with its headers: nothing is wrong with any.
#[test]
fn no_module_of_a_real_kernel_is_found_wanting() {
    let Some(place) = std::env::var_os("CLR_DKMS_KERNEL_ROOT").map(PathBuf::from) else {
        println!("skipped: CLR_DKMS_KERNEL_ROOT names no root with a kernel's modules and headers");
        return;
    };
    let root = Root::open(RootKind::Image, &place).unwrap();
    let release = root.list("/usr/lib/modules").unwrap().remove(0).text().unwrap().to_owned();
    let folder = format!("/usr/lib/modules/{release}");
    let list = String::from_utf8(root.read(format!("{folder}/modules.dep")).unwrap()).unwrap();
    let name = |line: &str| -> Option<String> {
        let file = line.split(':').next()?.rsplit('/').next()?;
        Some(file.split(".ko").next()?.to_owned())
    };
    let names: Vec<String> = list.lines().filter_map(name).collect();
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let entries = Index::load(&root, &release).unwrap().find(&asked);
    let scope = Scope::load(&root, &release, &Headers::Present, jiff::Timestamp::UNIX_EPOCH).unwrap();
    let (mut wrong, mut counts, mut cache) = (Vec::new(), BTreeMap::new(), Cache::default());
    let start = Instant::now();
    for (name, entry) in &entries {
        let path = format!("{folder}/{}", entry.path);
        let answer = scope.symbols(&mut cache, &path, &root.lookup(&path), Some(entry));
        *counts.entry(if answer.is_ok() { "checked" } else { "cannot be told" }).or_insert(0) += 1;
        if !matches!(answer, Ok(Ok(()))) {
            wrong.push(format!("{name}: {answer:?}"));
        }
        let facts = modfile::read(&path, &root.read(&path).unwrap());
        let depended = scope.dependencies(name, &facts.depends, entry);
        if depended != Ok(None) {
            wrong.push(format!("{name}: {depended:?}"));
        }
    }
    println!("{counts:?} in {:?}", start.elapsed());
    assert!(entries.len() > 1000, "{} modules", entries.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), entries.len(), wrong.join("\n"));
}
