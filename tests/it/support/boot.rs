//! The library's boot manager on a fixture root, with the faithful stand-in behind it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use clr_dkms::boot::{self, BootFiles};
use clr_dkms::kernel::Inventory;
use clr_dkms::sys::{Root, RootKind, Tools};

use super::TestRoot;

/// The entries of the kernels [`A`](super::A) and [`B`](super::B), and the file that names the default.
pub(crate) const A_ENTRY: &str = "Clear-linux-native-6.15.7-1591.conf";
pub(crate) const B_ENTRY: &str = "Clear-linux-native-6.15.8-1592.conf";
pub(crate) const LOADER: &str = "boot/loader/loader.conf";

/// The path of an entry in a root.
pub(crate) fn path(entry: &str) -> String {
    format!("boot/loader/entries/{entry}")
}

/// A root as the library sees it.
pub(crate) struct Boot {
    pub(crate) root: Root,
    tools: Tools,
    switches: std::path::PathBuf,
}

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

impl Boot {
    /// Of an image, or of a copy of a live system where a kernel runs.
    pub(crate) fn of(root: &TestRoot) -> Boot {
        let kind = if root.has("proc") { RootKind::LiveCopy } else { RootKind::Image };
        let link = root.tools().join("faithful");
        if !link.exists() {
            symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/tools/faithful"), &link)
                .unwrap();
        }
        let mut tools = Tools::from_environment();
        tools.name("clr-boot-manager", &link);
        Boot { root: Root::open(kind, root.path()).unwrap(), tools, switches: root.tools().join("switches") }
    }

    /// The same with the stand-in that does as [`TestRoot::behave`] says.
    pub(crate) fn recorded(root: &TestRoot) -> Boot {
        let mut boot = Boot::of(root);
        boot.tools.name("clr-boot-manager", &root.tools().join("clr-boot-manager"));
        boot
    }

    /// Lines of bash that set the stand-in's switches.
    pub(crate) fn switch(&self, lines: &str) -> &Boot {
        fs::write(&self.switches, lines).unwrap();
        self
    }

    pub(crate) fn inventory(&self) -> Inventory {
        Inventory::observe(&self.root)
    }

    pub(crate) fn files(&self) -> BootFiles {
        BootFiles::observe(&self.root, &self.inventory())
    }

    pub(crate) fn prepare(&self) -> Result<Vec<String>, String> {
        boot::preflight::prepare(&self.root, &self.inventory()).map_err(|e| format!("{e:#}"))
    }

    /// The program itself, without what the library does around it.
    pub(crate) fn run_stand_in(&self, arguments: &[&str]) {
        let run = self.tools.find("clr-boot-manager").unwrap();
        let path = format!("--path={}", self.root.image_path().unwrap().display());
        let done = std::process::Command::new(run).args(arguments).arg(path).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) fn update(&self) -> Option<String> {
        boot::update(&self.root, &self.tools, DEADLINE)
    }

    pub(crate) fn set(&self, id: &str) -> Result<(), String> {
        boot::default::set(&self.root, &self.tools, DEADLINE, &self.files(), &self.inventory(), id)
            .map(drop)
            .map_err(|e| format!("{e:#}"))
    }
}
