//! A builder of roots laid out as Clear Linux lays them out, with stand-ins for the programs beside them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::run::command;
use super::tree::{self, Tree};
use super::{Run, elf, machine, scratch};

/// The kernel that runs.
pub(crate) const A: &str = "6.15.7-1591.native";
/// The kernel that an update brings.
pub(crate) const B: &str = "6.15.8-1592.native";
/// A long-term kernel.
pub(crate) const LTS: &str = "6.12.38-1550.ltscurrent";

/// The fragment that the DKMS bundle ships.
pub(crate) const FRAGMENT: &str = "/usr/share/kernel/cmdline.d/clr-ignore-mod-sig.conf";

/// Where the stand-ins are in a root.
pub(crate) const STAND_INS: &str = "var/lib/dkms/.stand-ins";

/// A root, and a directory with stand-ins that belongs to it alone.
pub(crate) struct TestRoot {
    temp: tempfile::TempDir,
    path: PathBuf,
    live: bool,
}

/// `VARIANT` of `VERSION-NUMBER.VARIANT`, and the rest.
fn split(release: &str) -> (&str, &str) {
    release.rsplit_once('.').unwrap()
}

impl TestRoot {
    /// Directories only: no kernel, no module.
    pub(crate) fn new() -> TestRoot {
        TestRoot::named("root")
    }

    /// Nothing at all.
    pub(crate) fn bare() -> TestRoot {
        let root = TestRoot::new();
        root.remove("");
        root.directory("");
        root
    }

    /// As [`TestRoot::new`], in a directory of that name.
    pub(crate) fn named(name: &str) -> TestRoot {
        let temp = scratch::directory();
        // The programs spell the root without links; so must a comparison with it.
        let path = temp.path().canonicalize().unwrap().join(name);
        let root = TestRoot { temp, path, live: false };
        for directory in [
            "usr/lib/kernel",
            "usr/lib/modules",
            "usr/src",
            "var/lib/dkms",
            "var/lib/kernel",
            "run",
            "etc",
            "boot/loader/entries",
        ] {
            root.directory(directory);
        }
        root.link("lib", "usr/lib");
        fs::create_dir_all(root.tools().join("templates")).unwrap();
        fs::create_dir_all(root.outside()).unwrap();
        for tool in ["dkms", "depmod", "clr-boot-manager", "motd-update.sh"] {
            // A link: a script that some test has just written may still be open in a child of another test.
            symlink(script(tool), root.tools().join(tool)).unwrap();
        }
        // Looked for before anything is built, and never called: the stand-in for dkms compiles nothing.
        for program in ["gcc", "make", "ld"] {
            symlink("dkms", root.tools().join(program)).unwrap();
        }
        root
    }

    /// A system with the kernel [`A`] running and its headers, and the bundle's fragment.
    pub(crate) fn system() -> TestRoot {
        TestRoot::system_named("root")
    }

    fn system_named(name: &str) -> TestRoot {
        let root = TestRoot::named(name);
        root.kernel(A).headers(A).tip(A).file(FRAGMENT, "module.sig_unenforce\n");
        root.running(A)
    }

    /// The same after an update has brought the kernel [`B`] with its headers.
    pub(crate) fn updated() -> TestRoot {
        TestRoot::updated_named("root")
    }

    /// The same, in a directory of that name.
    pub(crate) fn updated_named(name: &str) -> TestRoot {
        let root = TestRoot::system_named(name);
        root.kernel(B).headers(B).tip(B);
        root
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory with the stand-ins. A build for an image sees nothing but the image where the tests put
    /// their roots, and writes to its DKMS tree alone: so the stand-ins, which write down what they are
    /// called with, lie in there. Names that begin with a dot are nothing to dkms.
    pub(crate) fn tools(&self) -> PathBuf {
        let aside = self.aside();
        if aside.exists() { aside } else { self.path.join(STAND_INS) }
    }

    /// Where they are once the DKMS tree is gone.
    fn aside(&self) -> PathBuf {
        self.temp.path().join("tools")
    }

    /// A directory beside the root that nobody has any business in.
    pub(crate) fn outside(&self) -> PathBuf {
        self.path.parent().unwrap().join("outside")
    }

    /// A path inside the root as the host sees it.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    pub(crate) fn directory(&self, path: &str) -> &TestRoot {
        fs::create_dir_all(self.at(path)).unwrap();
        self
    }

    pub(crate) fn file(&self, path: &str, bytes: impl AsRef<[u8]>) -> &TestRoot {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    pub(crate) fn link(&self, path: &str, text: impl AsRef<Path>) -> &TestRoot {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // A link replaces whatever was there.
        if path.is_symlink() || path.is_file() {
            fs::remove_file(&path).unwrap();
        } else if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        }
        symlink(text, path).unwrap();
        self
    }

    pub(crate) fn remove(&self, path: &str) -> &TestRoot {
        if STAND_INS.starts_with(path.trim_matches('/')) && !self.aside().exists() {
            fs::rename(self.tools(), self.aside()).unwrap();
        }
        let path = self.at(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    /// The end of a chain of changes whose value nobody wants.
    pub(crate) fn forget(&self) {}

    pub(crate) fn text(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    /// The same machine in another directory, with stand-ins of its own.
    pub(crate) fn copy(&self) -> TestRoot {
        let temp = scratch::directory();
        let status = Command::new("cp").arg("-a").arg(self.temp.path().join(".")).arg(temp.path()).status();
        assert!(status.unwrap().success());
        let path = temp.path().canonicalize().unwrap().join(self.path.file_name().unwrap());
        TestRoot { temp, path, live: self.live }
    }

    /// A kernel as its package installs it, without headers.
    pub(crate) fn kernel(&self, release: &str) -> &TestRoot {
        self.kernel_of("org.clearlinux", release)
    }

    pub(crate) fn kernel_of(&self, namespace: &str, release: &str) -> &TestRoot {
        let (version, variant) = split(release);
        fs::write(self.tools().join(format!("templates/{release}.ko")), elf::module(release)).unwrap();
        self.file(&format!("usr/lib/kernel/{namespace}.{variant}.{version}"), "image")
            .file(&format!("usr/lib/kernel/cmdline-{release}"), "quiet\nrw\n")
            .config(release, machine::CLEAR)
            .modinfo(release, true)
            .file(&format!("usr/lib/modules/{release}/kernel/own.ko"), elf::module(release))
            .index(release, "kernel/own.ko:\n")
    }

    pub(crate) fn headers(&self, release: &str) -> &TestRoot {
        let build = format!("usr/lib/modules/{release}/build");
        self.file(&format!("{build}/include/config/kernel.release"), format!("{release}\n"))
            .file(&format!("{build}/.config"), "CONFIG_MODULES=y\n")
            .file(&format!("{build}/Makefile"), "VERSION = 6\n")
    }

    /// Points `default-VARIANT` to it.
    pub(crate) fn tip(&self, release: &str) -> &TestRoot {
        let (version, variant) = split(release);
        self.link(&format!("usr/lib/kernel/default-{variant}"), format!("org.clearlinux.{variant}.{version}"))
    }

    /// All units and hooks of this repository.
    pub(crate) fn with_units(&self) -> &TestRoot {
        for unit in
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/usr/lib/systemd/system")).unwrap()
        {
            let unit = unit.unwrap();
            let name = unit.file_name().into_string().unwrap();
            if unit.file_type().unwrap().is_file() {
                self.file(&format!("usr/lib/systemd/system/{name}"), std::fs::read(unit.path()).unwrap());
            } else if name.ends_with(".wants") {
                for link in std::fs::read_dir(unit.path()).unwrap() {
                    let link = link.unwrap();
                    let to = std::fs::read_link(link.path()).unwrap();
                    self.link(
                        &format!("usr/lib/systemd/system/{name}/{}", link.file_name().to_str().unwrap()),
                        to,
                    );
                }
            }
        }
        self.file("usr/bin/clr_pre_update.sh", "#!/bin/sh\n");
        self.file("usr/libexec/updater/50-clr-dkms-hook.sh", "#!/bin/sh\n");
        self
    }

    /// From now on the root is the copy of a live system.
    pub(crate) fn live(mut self) -> TestRoot {
        self.live = true;
        self
    }

    /// From now on the root is the copy of a live system on which this kernel runs.
    pub(crate) fn running(self, release: &str) -> TestRoot {
        self.file("proc/sys/kernel/osrelease", format!("{release}\n"));
        self.live()
    }

    /// A registered module; `conf` is added to its dkms.conf.
    pub(crate) fn module(&self, name: &str, version: &str, conf: &str) -> &TestRoot {
        let text = format!(
            "PACKAGE_NAME=\"{name}\"\nPACKAGE_VERSION=\"{version}\"\nBUILT_MODULE_NAME[0]=\"{name}\"\n\
             DEST_MODULE_LOCATION[0]=\"/kernel/extra\"\nAUTOINSTALL=\"yes\"\n{conf}"
        );
        self.file(&format!("usr/src/{name}-{version}/dkms.conf"), text)
            .file(&format!("usr/src/{name}-{version}/{name}.c"), "int x;\nMODULE_LICENSE(\"GPL\");\n")
            .link(&format!("var/lib/dkms/{name}/{version}/source"), format!("/usr/src/{name}-{version}"))
    }

    /// The directory of a module's build for a kernel.
    pub(crate) fn build(name: &str, version: &str, release: &str) -> String {
        format!("var/lib/dkms/{name}/{version}/{release}/{}", clr_dkms::dkms::architecture())
    }

    /// The installed file of a module.
    pub(crate) fn ko(name: &str, release: &str) -> String {
        format!("usr/lib/modules/{release}/updates/dkms/{name}.ko")
    }

    /// A module built, installed and listed, as the stand-in for dkms leaves it.
    pub(crate) fn installed(&self, name: &str, version: &str, release: &str) -> &TestRoot {
        let mut bytes = elf::module(release);
        bytes.extend(format!("{name}/{version}").bytes());
        let architecture = clr_dkms::dkms::architecture();
        let dep = format!("usr/lib/modules/{release}/modules.dep");
        let listed = self.text(&dep) + &format!("updates/dkms/{name}.ko:\n");
        let build = TestRoot::build(name, version, release);
        self.file(&format!("{build}/module/{name}.ko"), &bytes)
            .file(&format!("{build}/log/make.log"), "make\n")
            .file(&TestRoot::ko(name, release), &bytes)
            .link(
                &format!("var/lib/dkms/{name}/kernel-{release}-{architecture}"),
                format!("{version}/{release}/{architecture}"),
            )
            .index(release, &listed)
    }

    /// `modules.dep` with that text, and its `modules.dep.bin`.
    pub(crate) fn index(&self, release: &str, text: &str) -> &TestRoot {
        let path = format!("usr/lib/modules/{release}/modules.dep");
        self.file(&path, text).file(&format!("{path}.bin"), modules_dep_bin(text))
    }

    /// From now on clr-boot-manager is the faithful stand-in, which copies images and initrds too.
    pub(crate) fn faithful(self) -> TestRoot {
        let tool = self.tools().join("clr-boot-manager");
        fs::remove_file(&tool).unwrap();
        symlink(script("faithful"), tool).unwrap();
        self
    }

    /// What the stand-ins do besides: lines of bash, see the stand-in for dkms.
    pub(crate) fn behave(&self, lines: &str) -> &TestRoot {
        fs::write(self.tools().join("behaviour"), lines).unwrap();
        self
    }

    /// What was called, one line a call, with the paths replaced.
    pub(crate) fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.tools().join("record")).unwrap_or_default();
        self.redacted(&text).lines().map(str::to_owned).collect()
    }

    /// The calls in short: program, verb, module, kernel.
    pub(crate) fn short_calls(&self) -> Vec<String> {
        let short = |call: &String| -> String {
            let words: Vec<&str> = call.split(' ').collect();
            match words.as_slice() {
                ["dkms", verb, "-m", module, "-v", _, "-k", kernel, rest @ ..] => {
                    let force = if rest.contains(&"--force") { " --force" } else { "" };
                    format!("{verb} {module} {kernel}{force}")
                }
                ["depmod", .., kernel] => format!("depmod {kernel}"),
                _ => words[0].to_owned(),
            }
        };
        self.calls().iter().map(short).collect()
    }

    /// A new version of a source, with which nothing goes wrong any more.
    pub(crate) fn repair(&self, source: &str) -> &TestRoot {
        self.behave("").file(&format!("usr/src/{source}/repaired.c"), "int repaired;\n")
    }

    pub(crate) fn forget_calls(&self) -> &TestRoot {
        fs::write(self.tools().join("record"), "").unwrap();
        self
    }

    pub(crate) fn redacted(&self, text: &str) -> String {
        let outside = self.outside().display().to_string();
        text.replace(&self.tools().display().to_string(), "TOOLS")
            .replace(&self.path.display().to_string(), "ROOT")
            .replace(&outside, "OUTSIDE")
    }

    /// JSON without the times of files, which no clock of ours gives.
    pub(crate) fn timeless(text: &str) -> String {
        let line = |line: &str| match line.split_once("\"mtime\": ") {
            Some((indent, _)) => format!("{indent}\"mtime\": \"[time]\",\n"),
            None => format!("{line}\n"),
        };
        text.lines().map(line).collect()
    }

    pub(crate) fn tree(&self) -> Tree {
        tree::read(&self.path)
    }

    /// The command of a program on this root.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = command(name, &self.tools());
        command.args(arguments).arg(if self.live { "--live-root" } else { "--root" }).arg(&self.path);
        command
    }

    /// Runs a program on this root.
    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Run {
        let mut command = assert_cmd::Command::from_std(self.command(name, arguments));
        Run::of(command.output().unwrap(), self)
    }

    pub(crate) fn post_update(&self) -> Run {
        self.run("clr-dkms-post-update", &[])
    }

    /// The record of the last run.
    pub(crate) fn record(&self) -> serde_json::Value {
        serde_json::from_str(&self.text("var/lib/clr-dkms/last-run.json")).unwrap()
    }

    /// The state of a module on a kernel in the record.
    pub(crate) fn recorded(&self, name: &str, release: &str) -> String {
        let record = self.record();
        let modules = record["modules"].as_array().unwrap();
        let module = modules.iter().find(|m| m["name"] == name && m["kernel"] == release);
        module.map_or_else(|| "none".to_owned(), |m| m["state"].as_str().unwrap().to_owned())
    }
}

fn script(tool: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/tools").join(tool)
}

/// The form of `modules.dep` that modprobe reads, made once of each text.
pub(crate) fn modules_dep_bin(text: &str) -> Vec<u8> {
    static MADE: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let make = || {
        let mut child = Command::new(script("modules-dep-bin"));
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    MADE.lock().unwrap().entry(text.to_owned()).or_insert_with(make).clone()
}
