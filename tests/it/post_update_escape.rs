//! Links in every place that is written: nothing outside of the root is made, changed or handed to another
//! program.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::tree::{self, Tree, difference};
use crate::support::{A, B, TestRoot, elf};

/// The directory outside, filled so that whatever a link is meant to lead to is there, and what it held
/// before.
struct Outside {
    root: TestRoot,
    before: Tree,
}

impl Outside {
    fn new() -> Outside {
        let root = TestRoot::updated();
        root.module("hello", "1.0", "");
        let outside = root.outside();
        for directory in ["directory", "hello-1.0", "kernel/updates/dkms", "kernel/build"] {
            fs::create_dir_all(outside.join(directory)).unwrap();
        }
        fs::write(outside.join("file"), "precious").unwrap();
        fs::write(outside.join("kernel/modules.dep"), "precious").unwrap();
        fs::write(outside.join("hello-1.0/dkms.conf"), "PACKAGE_NAME=stolen\n").unwrap();
        let before = tree::read(&outside);
        Outside { root, before }
    }

    /// The same place absolute, and by more `..` than there are directories above.
    fn ways_to(&self, what: &str) -> [PathBuf; 2] {
        let absolute = self.root.outside().join(what);
        let climb = PathBuf::from("../".repeat(40)).join(absolute.strip_prefix("/").unwrap());
        [absolute, climb]
    }

    #[track_caller]
    fn is_untouched(&self, what: &str) {
        let changed = difference(&self.before, &tree::read(&self.root.outside()), true);
        assert_eq!(changed, Vec::<String>::new(), "{what}: {:?}", self.root.calls());
        for call in self.root.calls() {
            assert!(!call.contains("OUTSIDE"), "{what}: {call}");
        }
        let sources = fs::read_to_string(self.root.tools().join("sources")).unwrap_or_default();
        for source in sources.lines() {
            assert!(source.starts_with(self.root.path().to_str().unwrap()), "{what}: compiled {source}");
        }
    }
}

/// Puts a link in the place of `path`, lets all programs that write run, and looks outside.
#[track_caller]
fn link_at(path: &str, what: &str) {
    for way in 0..2 {
        let outside = Outside::new();
        let target = &outside.ways_to(what)[way];
        outside.root.link(path, target);
        for (program, arguments) in [
            ("clr-dkms-pre-update", &[][..]),
            ("clr-dkms-post-update", &[]),
            ("clr-dkms-cmdline", &["disable"]),
            ("clr-dkms-cmdline", &["enable"]),
            ("clr-dkms-post-update", &[]),
        ] {
            let run = outside.root.run(program, arguments);
            assert!([0, 1, 3].contains(&run.code), "{program} at {path}: {run:?}");
            outside.is_untouched(&format!("{program}, {path} -> {}", target.display()));
        }
    }
}

#[test]
fn our_own_directories() {
    for path in [
        "var/lib/clr-dkms",
        "var/log/clr-dkms",
        "var/log/clr-dkms/hello",
        "var/log/clr-dkms/hello/1.0",
        "var/cache/clr-dkms",
        "var/log",
        "var/cache",
        "run/motd.d",
        "etc/kernel",
        "etc/kernel/cmdline.d",
        "run",
    ] {
        link_at(path, "directory");
    }
}

#[test]
fn our_own_files() {
    for path in [
        "var/lib/clr-dkms/last-run.json",
        "var/lib/clr-dkms/in-progress.json",
        "var/lib/clr-dkms/before-update.json",
        "var/lib/clr-dkms/cmdline.json",
        "var/cache/clr-dkms/facts.json",
        "run/motd.d/clr-dkms.motd",
        "etc/kernel/cmdline.d/clr-dkms.conf",
        "run/clr-dkms.lock",
        "var/log/clr-dkms/hello/1.0/6.15.8-1592.native.log",
    ] {
        link_at(path, "file");
        link_at(path, "not-there");
    }
}

#[test]
fn directories_that_dkms_writes_to() {
    for path in [
        "var/lib/dkms",
        "var/lib/dkms/hello",
        "var/lib/dkms/hello/1.0/build",
        "var/lib/dkms/hello/original_module",
        "var/lib/dkms/hello/1.0/6.15.8-1592.native",
        "usr/lib/modules/6.15.8-1592.native/updates",
        "usr/lib/modules/6.15.8-1592.native/updates/dkms",
        "usr/lib/modules/6.15.8-1592.native/kernel/extra",
    ] {
        link_at(path, "directory");
        link_at(path, "not-there");
    }
    link_at(&TestRoot::build("hello", "1.0", B), "directory");
    link_at(&format!("{}/module", TestRoot::build("hello", "1.0", B)), "directory");
    link_at("var/lib", "directory");
    link_at("usr/lib/modules", "directory");
    link_at("usr/lib/modules/6.15.8-1592.native", "kernel");
}

#[test]
fn the_key_that_dkms_makes() {
    link_at("var/lib/dkms/mok.key", "not-there");
}

#[test]
fn the_installed_file() {
    link_at(&TestRoot::ko("hello", B), "file");
    link_at(&TestRoot::ko("hello", B), "not-there");
}

/// The tree says "installed", and the file is a link: `dkms install --force` would copy through it.
#[test]
fn the_installed_file_of_an_installed_module() {
    for way in 0..2 {
        let outside = Outside::new();
        outside.root.installed("hello", "1.0", B);
        outside.root.link(&TestRoot::ko("hello", B), &outside.ways_to("file")[way]);
        outside.root.post_update();
        outside.is_untouched("post-update");
        assert_eq!(outside.root.recorded("hello", B), "ok");
    }
}

#[test]
fn sources() {
    link_at("var/lib/dkms/hello/1.0/source", "hello-1.0");
    link_at("usr/src/hello-1.0", "hello-1.0");
    link_at("usr/src", "directory");
}

/// Inside the root the link is good, and from outside it leads to the directory of the same name of the
/// machine.
#[test]
fn a_source_link_that_means_something_else_from_outside() {
    for way in 0..2 {
        let outside = Outside::new();
        let inside = outside.root.outside().join("hello-1.0");
        let text = &outside.ways_to("hello-1.0")[way];
        outside.root.link("var/lib/dkms/hello/1.0/source", text);
        let conf = outside.root.text("usr/src/hello-1.0/dkms.conf");
        outside.root.file(&format!("{}/dkms.conf", inside.display()), conf);
        let run = outside.root.post_update();
        outside.is_untouched(&text.display().to_string());
        run.code(0);
        assert_eq!(outside.root.recorded("hello", B), "ok");
    }
}

#[test]
fn headers() {
    let build = format!("usr/lib/modules/{B}/build");
    link_at(&build, "kernel/build");
    let outside = Outside::new();
    fs::create_dir_all(outside.root.outside().join("kernel/build/include/config")).unwrap();
    fs::write(outside.root.outside().join("kernel/build/include/config/kernel.release"), B).unwrap();
    let outside = Outside { before: tree::read(&outside.root.outside()), ..outside };
    outside.root.link(&build, outside.root.outside().join("kernel/build"));
    outside.root.post_update().code(1);
    outside.is_untouched("headers outside");
    assert_eq!(outside.root.recorded("hello", B), "headers-missing");
}

/// Only the index is stale: depmod alone is called, and it writes to where the link leads from outside.
#[test]
fn a_directory_of_a_kernel_that_only_wants_an_index() {
    for way in 0..2 {
        let outside = Outside::new();
        let root = &outside.root;
        root.installed("hello", "1.0", B);
        root.file(&format!("usr/lib/modules/{B}/modules.dep"), "kernel/own.ko:\n");
        // The same place below the root, so that all looks well from inside.
        let inside = root.at(&format!("{}/kernel", root.outside().display()));
        fs::create_dir_all(inside.parent().unwrap()).unwrap();
        fs::rename(root.at(&format!("usr/lib/modules/{B}")), &inside).unwrap();
        symlink(&outside.ways_to("kernel")[way], root.at(&format!("usr/lib/modules/{B}"))).unwrap();
        root.post_update();
        outside.is_untouched("an index");
    }
}

/// depmod is given a base directory of our own: the root's own /lib leads it nowhere.
#[test]
fn a_lib_that_leads_to_the_machines_own() {
    for target in ["/usr/lib", "/lib", "../../../../../../../../../../../../../../../../usr/lib"] {
        let outside = Outside::new();
        outside.root.link("lib", target);
        outside.root.post_update().code(0);
        assert_eq!(outside.root.recorded("hello", B), "ok");
        outside.is_untouched(target);
    }
}

#[test]
fn a_location_that_climbs() {
    for (location, why) in [
        ("/kernel/../../../../../../../../../../tmp", "leads out of the root"),
        // That one dkms itself refuses.
        ("/../x", "DEST_MODULE_LOCATION[0] is \"/../x\""),
        ("/updates/../../../x", "leads out of the root"),
    ] {
        let outside = Outside::new();
        let root = &outside.root;
        root.module("hello", "1.0", &format!("DEST_MODULE_LOCATION[0]={location}\n"));
        root.post_update().code(1).says(&[why]);
        assert!(root.calls().iter().all(|c| !c.starts_with("dkms")));
        outside.is_untouched(location);
    }
}

#[test]
fn what_is_removed_is_removed_inside() {
    // Half-built directories and orphans are removed by us: a link in them must not take the removal along.
    let outside = Outside::new();
    let root = &outside.root;
    let build = TestRoot::build("hello", "1.0", B);
    root.directory(&build).link(&format!("{build}/more"), root.outside().join("directory"));
    root.link(&TestRoot::ko("hello", B), root.outside().join("file"));
    root.post_update().code(0);
    outside.is_untouched("removal");
    assert_eq!(root.recorded("hello", B), "ok");
    assert!(!root.at(&TestRoot::ko("hello", B)).is_symlink());

    let outside = Outside::new();
    fs::write(outside.root.outside().join("hello.ko"), elf::module(A)).unwrap();
    let outside = Outside { before: tree::read(&outside.root.outside()), ..outside };
    outside.root.link(&format!("usr/lib/modules/{B}/updates/dkms"), outside.root.outside());
    outside.root.post_update().code(1);
    outside.is_untouched("an orphan outside");
}
