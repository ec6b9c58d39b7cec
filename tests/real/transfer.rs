//! `clr-dkms export` and `clr-dkms import` with the real dkms: what one root has built is used in another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use minisign::KeyPair;
use serde_json::Value;

use crate::scene::{A, ALPHA, ALPHA_BUILT, B, Outcome, Scene, entry, outcome, shell};

const KEY: &str = "etc/clr-dkms/keys.d/fleet.pub";

/// A root with alpha/1.0 proven on kernel A, and its signed archive.
struct Exported {
    _scene: Scene,
    keys: KeyPair,
    file: PathBuf,
}

fn sign(keys: &KeyPair, file: &Path) {
    let signature =
        minisign::sign(Some(&keys.pk), &keys.sk, fs::File::open(file).unwrap(), None, None).unwrap();
    fs::write(format!("{}.minisig", file.display()), signature.into_string()).unwrap();
}

impl Exported {
    fn new(name: &str) -> Option<Exported> {
        let scene = Scene::installed(&format!("{name}-from"))?;
        let directory = scene.beside("archives");
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("alpha.tar.gz");
        outcome(scene.program("clr-dkms").args(["export", "alpha"]).arg(&file)).exits(0);
        let keys = KeyPair::generate_unencrypted_keypair().unwrap();
        sign(&keys, &file);
        Some(Exported { _scene: scene, keys, file })
    }

    /// A machine that accepts the key, with the kernel A and no module.
    fn target(&self, name: &str) -> Scene {
        let scene = Scene::with_kernel(name).unwrap();
        fs::create_dir_all(scene.path("var/tmp")).unwrap();
        scene.write(KEY, self.keys.pk.to_box().unwrap().to_string());
        scene
    }

    /// The archive after a change to its unpacked contents, signed again.
    fn changed(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let directory = self.file.with_file_name(name);
        fs::create_dir_all(&directory).unwrap();
        shell(Command::new("tar").arg("-xzf").arg(&self.file).arg("-C").arg(&directory));
        change(&directory);
        let file = self.file.with_file_name(format!("{name}.tar.gz"));
        shell(Command::new("tar").arg("-czf").arg(&file).arg("-C").arg(&directory).arg("."));
        sign(&self.keys, &file);
        file
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        fs::remove_dir_all(self.file.parent().unwrap()).unwrap();
    }
}

fn import(scene: &Scene, file: &Path, more: &[&str]) -> Outcome {
    outcome(scene.program("clr-dkms").arg("import").arg(file).arg("--yes").args(more))
}

/// Where kernel A gets the module from, and why not from the archive.
fn origin(done: &Outcome) -> (String, String) {
    let document: Value = serde_json::from_str(&done.out).unwrap();
    let kernel = document["archives"][0]["kernels"][0].clone();
    (kernel["origin"].as_str().unwrap().to_owned(), kernel["cause"].as_str().unwrap_or_default().to_owned())
}

/// Insists on words on the screen, wherever its lines are broken.
#[track_caller]
fn shows(done: &Outcome, words: &str) {
    let text = done.out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains(words), "{words:?} is not in {text}");
}

#[test]
fn what_one_root_has_built_is_installed_in_another_without_a_compiler() {
    let Some(exported) = Exported::new("transfer") else { return };
    let target = exported.target("transfer-to");
    for program in ["make", "gcc", "cc", "ld"] {
        target.tool(program, "echo \"$0 $*\" >>${0%/*}/compiled; exit 1");
    }
    import(&target, &exported.file, &[]).exits(0);
    assert!(!target.tools.join("compiled").exists());
    target.proven("alpha", A);
    assert_eq!(target.state("alpha/1.0", A), "ok");
    let installed = fs::read(target.path(ALPHA)).unwrap();
    assert_eq!(installed, fs::read(target.path(&format!("{ALPHA_BUILT}/module/alpha.ko"))).unwrap());
    assert_eq!(entry(&target.record(), "alpha/1.0", A)["state"], "ok");
    let status = target.scratch("scratch_dkms", &["status"]);
    assert!(status.contains(&format!("alpha/1.0, {A}, x86_64: installed")), "{status}");
    target.settled();
    assert_eq!(fs::read_dir(target.path("var/tmp")).unwrap().count(), 0);
}

#[test]
fn what_does_not_fit_is_built() {
    let Some(exported) = Exported::new("transfer-fit") else { return };
    // This kernel exports a symbol in another version than the one that it was built with.
    let target = exported.target("transfer-crc");
    let symvers = format!("usr/lib/modules/{A}/build/Module.symvers");
    let other = |line: &str| {
        let mut columns: Vec<&str> = line.split('\t').collect();
        if columns.get(1) == Some(&"module_layout") {
            columns[0] = "0x00000001";
        }
        columns.join("\t") + "\n"
    };
    let other: String = target.read(&symvers).lines().map(other).collect();
    target.write(&symvers, other);
    let done = import(&target, &exported.file, &["--json", "--dry-run"]).exits(0);
    assert_eq!(origin(&done), ("build".to_owned(), "does-not-fit".to_owned()));
    // Without a signature.
    let target = exported.target("transfer-unsigned");
    fs::remove_file(target.path(KEY)).unwrap();
    let done = import(&target, &exported.file, &["--json"]).exits(0);
    assert_eq!(origin(&done), ("build".to_owned(), "signature".to_owned()));
    target.proven("alpha", A);
    target.settled();
    // For another kernel.
    let target = exported.target("transfer-kernel");
    target.kernel("native", B);
    let done = import(&target, &exported.file, &[]).exits(0);
    shows(&done, "the archive has no binaries for it");
    target.proven("alpha", B);
    // The archive had them for the older one, where they fit.
    target.proven("alpha", A);
}

#[test]
fn damaged_archives_change_nothing() {
    let Some(exported) = Exported::new("transfer-damaged") else { return };
    let target = exported.target("transfer-refused");
    let before = target.listing();
    let source = exported.changed("source", |directory| {
        fs::write(directory.join("dkms_source_tree/alpha.c"), "int x;\n").unwrap();
    });
    let binary = exported.changed("binary", |directory| {
        let path = directory.join(format!("dkms_main_tree/{A}/x86_64/module/alpha.ko"));
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    });
    for (file, why) in [(source, "alpha.c is damaged"), (binary, "alpha.ko is damaged")] {
        let done = import(&target, &file, &["--trust-binaries"]).exits(1);
        shows(&done, why);
    }
    // Changed after it was signed.
    let mut bytes = fs::read(&exported.file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&exported.file, bytes).unwrap();
    let done = import(&target, &exported.file, &["--trust-binaries"]).exits(1);
    shows(&done, "is not the one that was signed");
    let differences = before.differences(&target.listing());
    // The scratch directories were there.
    let others: Vec<&String> = differences.iter().filter(|line| !line.starts_with("var/tmp: ")).collect();
    assert_eq!(others, [""; 0]);
}

#[test]
fn the_real_dkms_loads_our_archive_and_we_import_its_own() {
    let Some(exported) = Exported::new("transfer-dkms") else { return };
    let target = exported.target("transfer-load");
    let archive = exported.file.display().to_string();
    target.scratch("scratch_dkms", &["ldtarball", "--archive", &archive]);
    let status = target.scratch("scratch_dkms", &["status"]);
    assert!(status.contains(&format!("alpha/1.0, {A}, x86_64: built")), "{status}");
    assert!(target.path("usr/src/alpha-1.0/alpha.c").exists());
    assert!(target.path(&format!("{ALPHA_BUILT}/module/alpha.ko")).exists());
    // The other way round: an archive without a manifest is a source.
    let theirs = exported.file.with_file_name("theirs.tar.gz").display().to_string();
    target.scratch("scratch_dkms", &["mktarball", "alpha/1.0", "-k", A, "--archive", &theirs]);
    let other = exported.target("transfer-theirs");
    let done = import(&other, Path::new(&theirs), &[]).exits(0);
    shows(&done, "the archive has no manifest");
    other.proven("alpha", A);
}

#[test]
fn killed_at_any_moment_the_worker_finishes_or_takes_back() {
    let Some(exported) = Exported::new("transfer-killed") else { return };
    for milliseconds in [60, 120, 200, 300, 450] {
        let target = exported.target("transfer-kill");
        let mut command = target.program("clr-dkms");
        let mut child = command.arg("import").arg(&exported.file).arg("--yes").spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        // The record is there until the binaries are in place. What was killed before that is taken back.
        let was_registering = target.path("var/lib/clr-dkms/change.json").exists();
        let was_registered = target.path("var/lib/dkms/alpha").exists();
        target.post_update().exits(0);
        if was_registering {
            assert!(!target.path("var/lib/dkms/alpha").exists(), "{milliseconds} ms");
            assert!(!target.path("usr/src/alpha-1.0").exists(), "{milliseconds} ms");
        } else if was_registered {
            target.proven("alpha", A);
        }
        import(&target, &exported.file, &[]).exits(0);
        target.proven("alpha", A);
        target.settled();
    }
}
