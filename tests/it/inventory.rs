//! What is installed and running, on roots made for the purpose.

use clr_dkms::kernel::headers::headers;
use clr_dkms::kernel::{Headers, Images, Inventory, Running};
use clr_dkms::sys::{Root, RootKind};
use std::fs;
use std::os::unix::fs::symlink;

use crate::support::scratch;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        let scratch = Scratch(scratch::directory());
        fs::create_dir_all(scratch.0.path().join("usr/lib/kernel")).unwrap();
        scratch
    }

    fn file(&self, path: &str, text: &str) -> &Scratch {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn kernel(&self, id: &str, release: &str) -> &Scratch {
        self.file(&format!("usr/lib/kernel/{id}"), "image");
        self.file(&format!("usr/lib/kernel/cmdline-{release}"), "quiet\n")
    }

    fn link(&self, path: &str, text: &str) -> &Scratch {
        symlink(text, self.0.path().join(path)).unwrap();
        self
    }

    fn see(&self, kind: RootKind) -> Inventory {
        Inventory::observe(&Root::open(kind, self.0.path()).unwrap())
    }
}

fn tips(inventory: &Inventory) -> Vec<String> {
    inventory.tips().iter().map(|k| k.name.release()).collect()
}

#[test]
fn the_tip_of_the_running_variant_is_the_next_boot() {
    let s = Scratch::new();
    s.kernel("org.clearlinux.native.6.15.7-1591", "6.15.7-1591.native")
        .kernel("org.clearlinux.native.6.15.8-1592", "6.15.8-1592.native")
        .kernel("org.clearlinux.ltscurrent.6.12.38-1550", "6.12.38-1550.ltscurrent")
        .link("usr/lib/kernel/default-native", "org.clearlinux.native.6.15.8-1592")
        .link("usr/lib/kernel/default-ltscurrent", "org.clearlinux.ltscurrent.6.12.38-1550")
        .file("proc/sys/kernel/osrelease", "6.12.38-1550.ltscurrent\n");
    let live = s.see(RootKind::LiveCopy);
    assert_eq!(tips(&live), ["6.12.38-1550.ltscurrent", "6.15.8-1592.native"]);
    assert_eq!(live.running_kernel().unwrap().name.release(), "6.12.38-1550.ltscurrent");
    assert!(live.oddities.is_empty(), "{:?}", live.oddities);
    let image = s.see(RootKind::Image);
    assert_eq!(tips(&image), ["6.15.8-1592.native", "6.12.38-1550.ltscurrent"]);
    assert_eq!(image.running, Running::None);
    assert_eq!(image.find("native").unwrap().name.release(), "6.15.8-1592.native");
    assert_eq!(
        image.find("org.clearlinux.native.6.15.7-1591").unwrap().image,
        "org.clearlinux.native.6.15.7-1591"
    );
}

#[test]
fn copies_and_broken_links_are_reported() {
    let s = Scratch::new();
    s.kernel("org.clearlinux.native.6.15.7-1591", "6.15.7-1591.native")
        .file("usr/lib/kernel/org.clearlinux.native.6.15.7-1591.bak", "image")
        .file("usr/lib/kernel/org.clearlinux.native.6.15.9-1600", "no command line file")
        .file("usr/lib/kernel/README", "x")
        .link("usr/lib/kernel/default-native", "org.clearlinux.native.6.15.8-1592");
    let seen = s.see(RootKind::Image);
    assert_eq!(seen.kernels.len(), 1);
    assert_eq!(seen.kernels[0].copies, ["org.clearlinux.native.6.15.7-1591.bak"]);
    assert!(seen.kernels[0].tip, "without a usable link the highest of the variant is the tip");
    let shown: Vec<_> = seen.oddities.iter().map(|o| o.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(
        shown,
        [
            "README",
            "org.clearlinux.native.6.15.7-1591.bak",
            "org.clearlinux.native.6.15.9-1600",
            "default-native"
        ]
    );
}

#[test]
fn the_namespace_is_read_off_the_system() {
    let s = Scratch::new();
    s.kernel("com.solus-project.current.6.12.1-310", "6.12.1-310.current");
    assert_eq!(s.see(RootKind::Image).namespace, "com.solus-project");
    s.link("usr/lib/kernel/default-current", "com.solus-project.current.6.12.1-310");
    let seen = s.see(RootKind::Image);
    assert_eq!((seen.namespace.as_str(), seen.kernels.len()), ("com.solus-project", 1));
}

#[test]
fn headers_have_five_answers() {
    let s = Scratch::new();
    let build = "usr/lib/modules/6.15.7-1591.native/build";
    let seen = |s: &Scratch| headers(&Root::open(RootKind::Image, s.0.path()).unwrap(), "6.15.7-1591.native");
    assert_eq!(seen(&s), Headers::Absent);
    s.file(&format!("{build}/Makefile"), "");
    assert_eq!(seen(&s), Headers::Incomplete);
    s.file(&format!("{build}/include/config/kernel.release"), "6.15.6-1590.native\n");
    assert_eq!(seen(&s), Headers::OtherRelease { release: "6.15.6-1590.native".to_owned() });
    s.file(&format!("{build}/include/config/kernel.release"), "6.15.7-1591.native\n");
    assert_eq!(seen(&s), Headers::Present);
}

#[test]
fn no_directory_of_images_is_known() {
    let directory = scratch::directory();
    let seen = Inventory::observe(&Root::open(RootKind::Image, directory.path()).unwrap());
    assert_eq!((seen.images, seen.kernels.len()), (Images::Absent, 0));
}
