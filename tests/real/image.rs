//! Roots that are not the machine's own: nothing leaves them, whatever their links and their name.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gc::left_over;
use crate::listing::Listing;
use crate::scene::{A, ALPHA, B, Scene, entry, outcome, shell};
use crate::source::describe;

/// A directory of the host that is removed in any case.
struct HostDirectory(PathBuf);

impl Drop for HostDirectory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Held by tests that change the host, or look whether it has changed.
static HOST: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    HOST.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of the host a run in a root could touch by mistake.
fn host() -> Vec<Listing> {
    ["/var/lib/dkms", "/usr/src", "/lib/modules", "/var/log/clr-dkms", "/var/lib/clr-dkms"]
        .iter()
        .map(|directory| {
            Listing::without_contents(&fs::canonicalize(directory).unwrap_or_else(|_| directory.into()))
        })
        .collect()
}

#[track_caller]
fn is_untouched(before: &[Listing]) {
    for (before, after) in before.iter().zip(host()) {
        assert_eq!(before.differences(&after), [""; 0]);
    }
}

/// Everything of a root that dkms and depmod write to.
fn work(scene: &Scene) -> Listing {
    scene.listing().only(&["var/lib/dkms", "usr/src", "usr/lib", "tmp"])
}

/// Inside of the image `/usr/src/M-V` is right; read from outside it is the host's directory of that name.
#[test]
fn the_source_is_the_images_own() {
    let Some(scene) = Scene::with_kernel("image-source") else { return };
    let _host = alone();
    let scene = scene.into_image();
    scene.module("clrdkmstwin", "1.0", &[]);
    describe(&scene, "clrdkmstwin-1.0", "clrdkmstwin.c", "from the image");
    let on_host = HostDirectory("/usr/src/clrdkmstwin-1.0".into());
    fs::create_dir(&on_host.0).unwrap();
    for file in ["dkms.conf", "Makefile", "clrdkmstwin.c"] {
        let text = scene.read(&format!("usr/src/clrdkmstwin-1.0/{file}"));
        fs::write(on_host.0.join(file), text.replace("from the image", "from the host")).unwrap();
    }
    let link = scene.path("var/lib/dkms/clrdkmstwin/1.0/source");
    fs::remove_file(&link).unwrap();
    symlink("/usr/src/clrdkmstwin-1.0", &link).unwrap();

    let before = host();
    scene.post_update().exits(0);
    is_untouched(&before);
    scene.proven("clrdkmstwin", A);
    let file = scene.path(&format!("usr/lib/modules/{A}/updates/dkms/clrdkmstwin.ko"));
    assert_eq!(scene.modinfo(&file, "description").trim(), "clrdkmstwin, from the image");
    // After a chroot it must still lead to the same directory.
    let text = fs::read_link(&link).unwrap();
    assert!(text.is_relative(), "{}", text.display());
    assert_eq!(fs::canonicalize(&link).unwrap(), scene.path("usr/src/clrdkmstwin-1.0"));
    scene.settled();
}

/// As above with the built file gone: the way through `dkms install --force`.
#[test]
fn a_source_that_only_the_image_has_is_found_too() {
    let Some(scene) = Scene::installed("image-own") else { return };
    let _host = alone();
    let scene = scene.into_image();
    let link = scene.path("var/lib/dkms/alpha/1.0/source");
    fs::remove_file(&link).unwrap();
    symlink("/usr/src/alpha-1.0", &link).unwrap();
    fs::remove_file(scene.path(crate::scene::ALPHA)).unwrap();
    let before = host();
    scene.heals();
    is_untouched(&before);
}

#[test]
fn a_path_with_a_bracket() {
    let Some(scene) = Scene::with_kernel("image-bracket") else { return };
    scene.module("alpha", "1.0", &[]);
    let scene = scene.into_image().renamed("image-[bracket");
    // The boot manager finds no fragment there, so it is not run; the modules are built all the same.
    scene
        .post_update()
        .exits(1)
        .says(&["clr-boot-manager was not run", "below a path with [ * ? or \\: rename "]);
    scene.proven("alpha", A);
    // Without the fragment it would be refused.
    assert_eq!(scene.state("alpha/1.0", A), "signature-refused");
    let before = scene.listing();
    scene.post_update().exits(1);
    assert_eq!(before.differences(&scene.listing()), [""; 0]);
    // The system that sees this root by another name looks after the boot files and the command line.
    scene.configure("[boot]\nupdate = no\n[cmdline]\nsig-unenforce = off\n");
    scene.post_update().exits(0);
    scene.settled();
}

/// What a script of a module goes for on the host, seen from outside afterwards.
struct Host {
    listings: Vec<Listing>,
    run: Vec<PathBuf>,
    outside: tempfile::TempDir,
    socket: UnixListener,
    victim: std::process::Child,
}

/// The name of what a script writes where it should not.
const HOSTILE: &str = "clr-dkms-hostile";

impl Host {
    fn watched() -> Host {
        let outside = tempfile::tempdir_in("/run").unwrap();
        let socket = UnixListener::bind(outside.path().join("socket")).unwrap();
        socket.set_nonblocking(true).unwrap();
        let victim = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        Host { listings: Host::listed(), run: Host::in_run(), outside, socket, victim }
    }

    fn listed() -> Vec<Listing> {
        let more = ["/etc", "/usr"].map(|directory| Listing::without_contents(directory.as_ref()));
        host().into_iter().chain(more).collect()
    }

    /// All that is ours, and the names beside it: daemons of the machine write below those at any time.
    fn in_run() -> Vec<PathBuf> {
        let list = |directory: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let mut found = list(Path::new("/run"));
        for ours in ["/run/motd.d", "/run/clr-dkms"] {
            found.extend(list(Path::new(ours)));
        }
        found.sort();
        found
    }

    /// Shell commands that try to do harm.
    fn harm(&self) -> String {
        let outside = self.outside.path().display();
        let send = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
        format!(
            "for d in / /etc /usr /usr/src /lib/modules /var /run /root /tmp /dev /dev/shm {outside}; do\n\
             true >$d/{HOSTILE}; done\nkill -9 {}\n/usr/bin/python3 -c '{send}' {outside}/socket\n",
            self.victim.id()
        )
    }

    #[track_caller]
    fn unharmed(mut self) {
        let killed = self.victim.try_wait().unwrap();
        self.victim.kill().unwrap();
        self.victim.wait().unwrap();
        assert_eq!(killed, None, "a process of the host was ended");
        assert!(self.socket.accept().is_err(), "somebody has connected to a socket of the host");
        assert_eq!(self.run, Host::in_run());
        for (before, after) in self.listings.iter().zip(Host::listed()) {
            assert_eq!(before.differences(&after), [""; 0]);
        }
        for directory in ["/", "/var", "/root", "/lib/modules", "/tmp", "/dev", "/dev/shm"] {
            assert!(!Path::new(directory).join(HOSTILE).exists(), "{directory}");
        }
    }
}

/// Outside of a sandbox the harm is done, but for what a test must not do to its machine.
#[test]
fn the_harm_is_real() {
    if std::env::var_os("CLR_DKMS_REAL").is_none_or(|v| v != "1") {
        return;
    }
    let _host = alone();
    let mut machine = Host::watched();
    let harm =
        machine.harm().replace("/ /etc /usr /usr/src /lib/modules /var /run /root /tmp /dev /dev/shm ", "");
    assert!(!harm.contains("/etc"), "{harm}");
    shell(std::process::Command::new("sh").args(["-c", &harm]));
    assert!(machine.outside.path().join(HOSTILE).exists());
    assert!(machine.socket.accept().is_ok());
    assert!(!machine.victim.wait().unwrap().success());
}

/// A script in the source of alpha/1.0.
fn script(scene: &Scene, name: &str, text: &str) {
    let path = format!("usr/src/alpha-1.0/{name}");
    scene.write(&path, format!("#!/bin/sh\n{text}\n"));
    fs::set_permissions(scene.path(&path), fs::Permissions::from_mode(0o755)).unwrap();
}

/// A module that names the headers as most do, whose PRE_BUILD writes where it should not, and that installs
/// a udev rule.
#[test]
fn an_image_from_one_end_to_the_other() {
    let Some(scene) = Scene::with_kernel("image-whole") else { return };
    let _host = alone();
    let scene = scene.into_image();
    scene.module("alpha", "1.0", &[]);
    scene.has_programs(&["/bin/sh", "/bin/cp"]);
    let machine = Host::watched();
    let source = "usr/src/alpha-1.0";
    let makefile = "obj-m := alpha.o\nall:\n\t$(MAKE) -C /lib/modules/$(KVER)/build M=$(CURDIR) modules\n";
    scene.write(&format!("{source}/Makefile"), makefile);
    scene.write(&format!("{source}/99-alpha.rules"), "KERNEL==\"alpha\"\n");
    script(&scene, "build.sh", &format!("{}exit 0", machine.harm()));
    script(&scene, "install.sh", "cp 99-alpha.rules /etc/udev/rules.d/ && true >/etc/clr-dkms-hostile");
    let conf = format!("{source}/dkms.conf");
    let more = "MAKE[0]=\"make all KVER=$kernelver\"\nPRE_BUILD=build.sh\nPOST_INSTALL=install.sh\n";
    scene.write(&conf, scene.read(&conf) + more);
    fs::create_dir_all(scene.path("etc/udev/rules.d")).unwrap();
    scene.post_update().exits(0);
    machine.unharmed();
    assert_eq!(scene.read("etc/udev/rules.d/99-alpha.rules"), "KERNEL==\"alpha\"\n");
    assert!(scene.path("etc/clr-dkms-hostile").exists(), "the image is the script's own");
    scene.proven("alpha", A);
    scene.settled();
}

/// What `dkms unbuild` runs for a kernel that is gone. A bracket in the path is a pattern to dkms.
#[test]
fn post_remove_removes_in_the_image() {
    for name in ["image-remove", "image-remove-[x"] {
        let Some(scene) = left_over("image-remove") else { return };
        let _host = alone();
        let scene = scene.into_image();
        let scene = if name == "image-remove" { scene } else { scene.renamed(name) };
        scene.has_programs(&["/bin/sh", "/bin/rm"]);
        let machine = Host::watched();
        let remove = format!("rm /etc/udev/rules.d/99-alpha.rules || exit 1\n{}exit 0", machine.harm());
        script(&scene, "remove.sh", &remove);
        let conf = "usr/src/alpha-1.0/dkms.conf";
        scene.write(conf, scene.read(conf) + "POST_REMOVE=\"remove.sh now\"\n");
        scene.write("etc/udev/rules.d/99-alpha.rules", "KERNEL==\"alpha\"\n");
        scene.record_calls("dkms");
        let outcome = scene.run("gc").exits(0);
        assert!(!outcome.err.contains("without dkms"), "{name}: {}", outcome.err);
        assert!(scene.calls("dkms").starts_with("unbuild "), "{name}: {}", scene.calls("dkms"));
        machine.unharmed();
        assert!(!scene.path("etc/udev/rules.d/99-alpha.rules").exists(), "{name}: {}", outcome.err);
        assert!(scene.path("etc/clr-dkms-hostile").exists(), "{name}: the image is the script's own");
        assert!(scene.path(ALPHA).exists(), "{name}");
        assert!(!scene.path("usr/lib/modules").join(B).exists(), "{name}");
    }
}

#[test]
fn a_path_with_blanks_and_quotes() {
    let Some(scene) = Scene::with_kernel("image-blank") else { return };
    scene.module("alpha", "1.0", &[]);
    let scene = scene.into_image().renamed("image- 'blank' \"x\" $y");
    scene.post_update().exits(0);
    scene.proven("alpha", A);
    scene.settled();
}

#[test]
fn links_that_lead_out_are_refused() {
    let Some(scene) = Scene::with_kernel("image-links") else { return };
    scene.module("alpha", "1.0", &[]);
    let scene = scene.into_image();
    let outside = scene.tools.join("outside");
    fs::create_dir(&outside).unwrap();
    scene.record_calls("dkms");
    let directory = scene.path(&format!("usr/lib/modules/{A}/updates"));
    fs::create_dir(&directory).unwrap();
    for place in [directory.join("dkms"), directory.clone(), scene.path("var/lib/dkms/alpha/1.0/build")] {
        refused(&scene, &place, &outside);
    }
    scene.post_update().exits(0);
    scene.proven("alpha", A);
}

#[track_caller]
fn refused(scene: &Scene, place: &Path, outside: &Path) {
    fs::remove_dir(place).ok();
    symlink(outside, place).unwrap();
    let before = work(scene);
    scene.post_update().exits(1).says(&["is a link", &place.display().to_string()]);
    assert_eq!(before.differences(&work(scene)), [""; 0]);
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0, "something was written through the link");
    assert_eq!(scene.calls("dkms"), "");
    fs::remove_file(place).unwrap();
}

/// A link in the place of the whole tree: dkms would work outside.
#[test]
fn a_tree_that_is_a_link_out_of_the_root() {
    let Some(scene) = Scene::with_kernel("image-tree") else { return };
    scene.module("alpha", "1.0", &[]);
    let scene = scene.into_image();
    let (tree, outside) = (scene.path("var/lib/dkms"), scene.beside("outside"));
    fs::rename(&tree, &outside).unwrap();
    symlink(&outside, &tree).unwrap();
    let before = Listing::of(&outside);
    // From inside, the link leads nowhere: no module is registered, and none is built.
    scene.post_update();
    assert_eq!(before.differences(&Listing::of(&outside)), [""; 0]);
}

#[test]
fn depmod_is_kept_in_the_root() {
    let Some(scene) = Scene::with_kernel("image-lib") else { return };
    let _host = alone();
    scene.module("alpha", "1.0", &[]);
    let scene = scene.into_image();
    let lib = scene.path("lib");
    let host_before = host();
    for link in [None, Some("/usr/lib")] {
        fs::remove_file(&lib).ok();
        if let Some(text) = link {
            symlink(text, &lib).unwrap();
        }
        // depmod is given a base directory of ours, and the root's own /lib leads it nowhere.
        fs::remove_file(scene.path(&format!("usr/lib/modules/{A}/modules.dep"))).ok();
        scene.post_update().exits(0);
        assert_eq!(scene.state("alpha/1.0", A), "ok");
        scene.settled();
    }
    is_untouched(&host_before);
    fs::remove_file(&lib).unwrap();
    symlink("usr/lib", &lib).unwrap();
    scene.proven("alpha", A);
}

/// As update-trigger.sh makes one: without `/proc`, and with nothing in `/dev`.
#[test]
fn a_plain_chroot_evaluates_in_namespaces() {
    let Some(scene) = Scene::bare("image-chroot") else { return };
    scene.kernel("native", B);
    scene.module("alpha", "1.0", &[]);
    let program = env!("CARGO_BIN_EXE_clr-dkms-post-update");
    scene.has_programs(&["/usr/bin/bash", program]);
    for name in ["clr-dkms", "clr-dkms-post-update"] {
        let target = scene.path("usr/bin").join(name);
        fs::copy(Path::new(program).with_file_name(name), target).unwrap();
    }
    let conf = "usr/src/alpha-1.0/dkms.conf";
    // A process substitution needs /dev/fd, a here-document /tmp.
    let more = "read -r answer < <(echo works) 2>/dev/null\nread -r more <<<\"as $UID\"\n\
                BUILD_EXCLUSIVE_KERNEL=\"never $answer $more\"\n";
    scene.write(conf, scene.read(conf) + more);
    for directory in ["proc", "dev", "tmp"] {
        fs::remove_dir_all(scene.path(directory)).ok();
    }
    let mut command = std::process::Command::new("chroot");
    command.arg(&scene.root).args(["/usr/bin/clr-dkms-post-update", "-v", "--root", "/"]);
    let said = outcome(&mut command).err;
    let record = scene.record();
    let module = entry(&record, "alpha/1.0", B);
    let reason = module["reason"].as_str().unwrap();
    assert!(reason.contains("never works as 18790"), "{reason}\n{said}");
    assert_eq!(record["sandbox"]["namespaces"], true, "{said}");
    assert_eq!(record["sandbox"]["identity"], "unprivileged", "{said}");
    for directory in ["proc", "dev"] {
        let left = fs::read_dir(scene.path(directory)).into_iter().flatten().count();
        assert_eq!(left, 0, "something is mounted at, or written to, {directory}");
    }
}
