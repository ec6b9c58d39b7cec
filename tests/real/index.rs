//! The index that a real depmod makes, read as modprobe reads it.

use std::fs;
use std::process::Command;

use clr_dkms::modprobe::index::Index;

use crate::scene::{A, ALPHA, Scene, shell, which};

/// Names that share beginnings, and have dashes; some modules are loaded on top of others.
#[test]
fn every_line_of_modules_dep_is_found() {
    let Some(scene) = Scene::installed("whole-index") else { return };
    let directory = scene.path(&format!("usr/lib/modules/{A}"));
    fs::create_dir_all(directory.join("kernel/many")).unwrap();
    let mut names = vec!["alpha".to_owned()];
    for stem in ["a", "al", "alp", "alpha-x", "snd", "snd_soc", "snd-soc-more", "z"] {
        for number in 0..40 {
            names.push(format!("{stem}{}{number}", if number % 3 == 0 { "-" } else { "_" }));
        }
    }
    for name in &names[1..] {
        fs::copy(scene.path(ALPHA), directory.join(format!("kernel/many/{name}.ko"))).unwrap();
    }
    shell(Command::new(which("depmod")).arg("-b").arg(&scene.root).args(["-a", A]));
    let read = |file: &str| fs::read(directory.join(file)).unwrap();
    let index = Index::new(read("modules.dep"), read("modules.dep.bin"));
    let text = String::from_utf8(read("modules.dep")).unwrap();
    assert!(text.lines().count() >= names.len());
    for line in text.lines() {
        let (path, needs) = line.split_once(':').unwrap();
        let name = path.rsplit('/').next().unwrap().split(".ko").next().unwrap();
        for display in [name.to_owned(), name.replace('-', "_"), name.replace('_', "-")] {
            let entry = index.entry(&display).unwrap_or_else(|e| panic!("{display}: {e:?}"));
            assert_eq!((entry.path.as_str(), entry.needs.join(" ").as_str()), (path, needs.trim()));
            assert_eq!(index.modprobe(&display), Some(entry));
        }
    }
    for name in &names {
        let finds = |name: &str| {
            let mut modprobe = Command::new(which("modprobe"));
            modprobe.arg("-d").arg(&scene.root).args(["-S", A, "--show-depends", name]);
            String::from_utf8(modprobe.output().unwrap().stdout).unwrap()
        };
        let path = index.modprobe(name).unwrap().path;
        assert!(finds(name).trim_end().ends_with(&path), "{name}: {}", finds(name));
        let longer = format!("{name}y");
        assert_eq!((finds(&longer), index.modprobe(&longer)), (String::new(), None));
    }
}
