//! `clr-dkms add` with the real dkms, make and compiler: the example of Clear Linux's guide, in each kind of
//! package.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::{A, Scene, outcome};

const GUIDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/adopt/guide");
const KO: &str = "updates/dkms/custom_module.ko";

fn sh(script: &str, arguments: &[&Path]) {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script, "sh"]).args(arguments);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// The source as each kind of package.
fn packages(beside: &Path) -> Vec<PathBuf> {
    let guide = Path::new(GUIDE);
    let at = |name: &str| beside.join(name);
    fs::create_dir_all(beside).unwrap();
    sh("cp -r \"$1\" \"$2\"", &[guide, &at("custom_module-1.0")]);
    let pack = "cd \"$1\" && tar -caf \"$2\" custom_module-1.0";
    for name in ["a.tar.gz", "a.tar.xz", "a.tar.bz2"] {
        sh(pack, &[beside, &at(name)]);
    }
    sh("cd \"$1\" && python3 -m zipfile -c a.zip custom_module-1.0", &[beside]);
    sh(
        "cd \"$1\" && mkdir -p m d/usr/src && cp -r custom_module-1.0 m/dkms_source_tree && mkdir m/dkms_main_tree \
         && tar -C m -czf m.tgz ./dkms_source_tree ./dkms_main_tree \
         && cp -r custom_module-1.0 d/usr/src && tar -C d -cJf data.tar.xz . && echo 2.0 >debian-binary \
         && ar rc a.deb debian-binary data.tar.xz",
        &[beside],
    );
    ["custom_module-1.0", "a.tar.gz", "a.tar.xz", "a.tar.bz2", "a.zip", "m.tgz", "a.deb"].map(at).to_vec()
}

#[test]
fn the_example_of_the_guide_is_installed_from_each_kind_of_package() {
    let Some(scene) = Scene::with_kernel("add-guide") else { return };
    fs::create_dir_all(scene.path("var/tmp")).unwrap();
    let beside = scene.beside("packages");
    for package in packages(&beside) {
        let source = package.display().to_string();
        let done = outcome(scene.program("clr-dkms").args(["add", &source, "--yes"])).exits(0);
        for part in ["built and proven in scratch", "installed and proven"] {
            assert!(done.out.contains(part), "{source}: {}", done.out);
        }
        assert!(!done.out.contains("warning: make -n"), "{source}: {}", done.out);
        scene.proven("custom_module", A);
        let installed = scene.path(&format!("usr/lib/modules/{A}/{KO}"));
        assert!(installed.exists(), "{source}");
        assert_eq!(
            scene.read("usr/src/custom_module-1.0/src/Makefile"),
            fs::read_to_string(format!("{GUIDE}/src/Makefile")).unwrap()
        );
        assert_eq!(fs::read_dir(scene.path("var/tmp")).unwrap().count(), 0, "{source}");
        let done = outcome(scene.program("clr-dkms").args(["remove", "custom_module"])).exits(0);
        assert!(done.out.contains("usr/src/custom_module-1.0"), "{source}: {}", done.out);
        for path in ["var/lib/dkms/custom_module", "usr/src/custom_module-1.0", "var/lib/clr-dkms/added.json"]
        {
            assert!(!scene.path(path).exists(), "{source}: {path}");
        }
        assert!(!installed.exists(), "{source}");
        let index = scene.read(&format!("usr/lib/modules/{A}/modules.dep"));
        assert!(!index.contains("custom_module"), "{source}: {index}");
    }
    fs::remove_dir_all(beside).unwrap();
}

#[test]
fn a_source_that_does_not_compile_leaves_nothing() {
    let Some(scene) = Scene::with_kernel("add-broken") else { return };
    fs::create_dir_all(scene.path("var/tmp")).unwrap();
    let source = scene.beside("source");
    sh("cp -r \"$1\" \"$2\"", &[Path::new(GUIDE), &source]);
    fs::write(source.join("src/custom_module.c"), "#include <linux/module.h>\nint x = missing;\n").unwrap();
    let done = outcome(scene.program("clr-dkms").arg("add").arg(&source).arg("--yes")).exits(1);
    assert!(done.out.contains("custom_module.c:2"), "{}", done.out);
    for path in ["var/lib/dkms/custom_module", "usr/src/custom_module-1.0"] {
        assert!(!scene.path(path).exists(), "{path}");
    }
    fs::remove_dir_all(source).unwrap();
}
