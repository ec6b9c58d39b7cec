//! A scratch root with the programs that work on it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::listing::Listing;

/// The release of the first kernel, which runs.
pub(crate) const A: &str = "6.15.7-1591.native";
/// The release of the kernel that an update brings.
pub(crate) const B: &str = "6.15.8-1592.native";
/// The built module of [`Scene::installed`], inside the root.
pub(crate) const ALPHA: &str = "usr/lib/modules/6.15.7-1591.native/updates/dkms/alpha.ko";
/// Where dkms keeps what it built of that module.
pub(crate) const ALPHA_BUILT: &str = "var/lib/dkms/alpha/1.0/6.15.7-1591.native/x86_64";

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Outcome {
    /// Insists on an exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Outcome {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.out, self.err);
        self
    }

    /// Insists on words in what was said to people.
    #[track_caller]
    pub(crate) fn says(self, words: &[&str]) -> Outcome {
        for word in words {
            assert!(self.err.contains(word), "not said: {word:?}; stderr:\n{}", self.err);
        }
        self
    }
}

/// Where the tools of a scene are in its root.
pub(crate) const TOOLS: &str = "var/lib/dkms/.tools";

/// A scratch root, and a directory of tools beside it.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) root: PathBuf,
    /// Searched first by the programs and by everything that they start.
    pub(crate) tools: PathBuf,
    option: &'static str,
}

impl Scene {
    /// The bare directories. None, with a note, when the real layer is not asked for.
    pub(crate) fn bare(name: &str) -> Option<Scene> {
        if std::env::var_os("CLR_DKMS_REAL").is_none_or(|v| v != "1") {
            println!("skipped: set CLR_DKMS_REAL=1 and be root for the real layer");
            return None;
        }
        static MACHINE: OnceLock<()> = OnceLock::new();
        MACHINE.get_or_init(check_machine);
        Some(Scene::made(name))
    }

    fn made(name: &str) -> Scene {
        let top = target().join("real");
        let root = top.join(name);
        // What a build calls can write nowhere else. Names that begin with a dot are nothing to dkms.
        let tools = root.join(TOOLS);
        let scene = Scene { root, tools, option: "--live-root" };
        scene.clear();
        scene.scratch("scratch_skeleton", &[]);
        scene.bring_tools();
        scene
    }

    /// The tools that each scene has.
    pub(crate) fn bring_tools(&self) {
        fs::create_dir_all(&self.tools).unwrap();
        symlink(support("clr-boot-manager"), self.tools.join("clr-boot-manager")).unwrap();
    }

    /// A directory beside the root, where nothing is yet.
    pub(crate) fn beside(&self, what: &str) -> PathBuf {
        let path = self.root.with_extension(what);
        clear(&path);
        path
    }

    /// With kernel A, which runs.
    pub(crate) fn with_kernel(name: &str) -> Option<Scene> {
        let scene = Scene::bare(name)?;
        scene.kernel("native", A);
        scene.scratch("scratch_running", &[A]);
        Some(scene)
    }

    /// With kernel A and module alpha/1.0, built, installed, proven and recorded.
    pub(crate) fn installed(name: &str) -> Option<Scene> {
        static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
        let scene = Scene::bare(name)?;
        let template = TEMPLATE.get_or_init(|| {
            let template = Scene::made("template");
            template.kernel("native", A);
            template.scratch("scratch_running", &[A]);
            template.module("alpha", "1.0", &[]);
            template.post_update().exits(0);
            template.proven("alpha", A);
            let root = template.root.clone();
            std::mem::forget(template);
            root
        });
        // The headers are shared by hard links, all else is copied: with fractions of seconds, which depmod's
        // two files and the boot manager's inputs are compared by.
        let script = r#"set -euo pipefail; shopt -s nullglob
            tar -C "$1" --format=posix --exclude='./usr/lib/modules/*/build' -cf - . | tar -C "$2" -xpf -
            for b in "$1"/usr/lib/modules/*/build; do cp -al "$b" "$2/${b#"$1"/}"; done"#;
        let arguments = [template.as_os_str(), scene.root.as_os_str()];
        shell(Command::new("bash").args(["-c", script, "copy"]).args(arguments));
        scene.own_headers(A);
        Some(scene)
    }

    /// The same root, worked on as the image of a system that is not running.
    pub(crate) fn into_image(mut self) -> Scene {
        self.option = "--root";
        self
    }

    /// The same root under another name.
    pub(crate) fn renamed(mut self, name: &str) -> Scene {
        let new = self.root.with_file_name(name);
        clear(&new);
        fs::rename(&self.root, &new).unwrap();
        self.root = new;
        self.tools = self.root.join(TOOLS);
        self
    }

    /// A function of scratch-root.sh on this root; gives what it printed.
    #[track_caller]
    pub(crate) fn scratch(&self, function: &str, arguments: &[&str]) -> String {
        let mut command = Command::new("bash");
        command.arg(support("scratch-root.sh")).arg(function).arg(&self.root).args(arguments);
        shell(command.env("SCRATCH_CACHE", target().join("scratch-cache")).env("SCRATCH_PLAIN", "1"))
    }

    /// A kernel with headers, as swupd brings it.
    pub(crate) fn kernel(&self, variant: &str, release: &str) {
        let (version, number) = release.split_once('-').unwrap();
        let number = number.split('.').next().unwrap();
        self.scratch("scratch_kernel", &[variant, version, number]);
        self.own_headers(release);
    }

    /// Whenever another root links to the shared headers, or is removed, their ctime changes. A real system's
    /// do not: so the files that are looked at by their times are this root's alone.
    fn own_headers(&self, release: &str) {
        for name in [".config", "Makefile", "Module.symvers", "include/generated/autoconf.h"] {
            let inside = format!("usr/lib/modules/{release}/build/{name}");
            let path = self.path(&inside);
            let (bytes, modified) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified());
            self.write(&inside, bytes);
            let file = fs::File::options().write(true).open(path).unwrap();
            file.set_modified(modified.unwrap()).unwrap();
        }
    }

    /// A module that asks to be built, registered with dkms.
    pub(crate) fn module(&self, name: &str, version: &str, options: &[&str]) {
        self.scratch("scratch_module", &[&[name, version], options].concat());
    }

    /// Programs of the host, with their libraries.
    pub(crate) fn has_programs(&self, programs: &[&str]) {
        for program in programs {
            let listed = shell(Command::new("ldd").arg(program));
            let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
            for file in libraries.chain([*program]) {
                let target = self.path(file.trim_start_matches('/'));
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::copy(file, target).unwrap();
            }
        }
    }

    /// A path inside the root as the host sees it.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.root.join(inside)
    }

    /// A text file of the root.
    #[track_caller]
    pub(crate) fn read(&self, inside: &str) -> String {
        let path = self.path(inside);
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Makes or replaces a file of the root.
    pub(crate) fn write(&self, inside: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(inside);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Not written into: it may be a hard link that other roots share.
        fs::remove_file(&path).ok();
        fs::write(path, bytes).unwrap();
    }

    /// The admin's configuration of this root.
    pub(crate) fn configure(&self, text: &str) {
        self.write("etc/clr-dkms/clr-dkms.conf", text);
    }

    /// A script that is found before the machine's program of that name.
    pub(crate) fn tool(&self, name: &str, script: &str) {
        let path = self.tools.join(name);
        // Moved into place: the old one may be running, or be a link to a file of the sources.
        let aside = self.tools.join(format!(".{name}"));
        fs::write(&aside, format!("#!/bin/bash\n{script}\n")).unwrap();
        fs::set_permissions(&aside, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(aside, path).unwrap();
    }

    /// Records the calls of the machine's program `name`; read them with [`Scene::calls`].
    pub(crate) fn record_calls(&self, name: &str) {
        let record = self.tools.join(format!("{name}.calls"));
        fs::write(&record, "").unwrap();
        self.tool(
            name,
            &format!("echo \"$*\" >>'{}'\nexec {} \"$@\"", record.display(), which(name).display()),
        );
    }

    /// The calls since [`Scene::record_calls`], one a line.
    pub(crate) fn calls(&self, name: &str) -> String {
        fs::read_to_string(self.tools.join(format!("{name}.calls"))).unwrap()
    }

    /// A program of this crate on this root, ready to start.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(match name {
            "post-update" => env!("CARGO_BIN_EXE_clr-dkms-post-update"),
            "pre-update" => env!("CARGO_BIN_EXE_clr-dkms-pre-update"),
            "motd" => env!("CARGO_BIN_EXE_clr-dkms-motd"),
            _ => env!("CARGO_BIN_EXE_clr-dkms"),
        });
        command.env("CLR_DKMS_TOOL_PATH", &self.tools).stdin(Stdio::null());
        match name {
            "status" => command.args(["status", "--json"]),
            "screen" => command.arg("status"),
            "gc" => command.arg("gc"),
            "rebuild" => command.arg("rebuild"),
            "gc-plan" => command.args(["gc", "--dry-run", "--json"]),
            _ => &mut command,
        };
        command.arg(self.option).arg(&self.root);
        command
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, name: &str) -> Outcome {
        outcome(&mut self.program(name))
    }

    /// The main job.
    pub(crate) fn post_update(&self) -> Outcome {
        self.run("post-update")
    }

    /// The boot manager, as swupd calls it.
    #[track_caller]
    pub(crate) fn boot_manager(&self) {
        let path = format!("--path={}", self.root.display());
        shell(Command::new(support("clr-boot-manager")).args(["update", &path]));
    }

    /// The status document, and that its exit code fits.
    #[track_caller]
    pub(crate) fn status(&self, code: i32) -> Value {
        let outcome = self.run("status").exits(code);
        serde_json::from_str(&outcome.out).unwrap()
    }

    /// The state of a module on a kernel, as `status` tells it.
    #[track_caller]
    pub(crate) fn state(&self, module: &str, release: &str) -> String {
        let outcome = self.run("status");
        let document: Value = serde_json::from_str(&outcome.out).unwrap();
        let found = entry(&document, module, release);
        found["state"].as_str().unwrap().to_owned()
    }

    /// The record of the last run.
    #[track_caller]
    pub(crate) fn record(&self) -> Value {
        serde_json::from_str(&self.read("var/lib/clr-dkms/last-run.json")).unwrap()
    }

    /// The message of the day; empty when there is none.
    pub(crate) fn motd(&self) -> String {
        fs::read_to_string(self.path("run/motd.d/clr-dkms.motd")).unwrap_or_default()
    }

    /// Asks the real tools whether a built module is there for a kernel.
    #[track_caller]
    pub(crate) fn proven(&self, built: &str, release: &str) {
        let file = self.path(&format!("usr/lib/modules/{release}/updates/dkms/{built}.ko"));
        assert_eq!(self.modinfo(&file, "vermagic").split_whitespace().next(), Some(release));
        let listed = self.read(&format!("usr/lib/modules/{release}/modules.dep"));
        assert!(
            listed.lines().any(|l| l.starts_with(&format!("updates/dkms/{built}.ko:"))),
            "modules.dep:\n{listed}"
        );
        // modprobe reads modules.dep.bin only.
        let mut modprobe = Command::new(which("modprobe"));
        modprobe.args(["--show-depends", "-S", release, "-d"]).arg(&self.root).arg(built);
        let found = shell(&mut modprobe);
        assert!(found.contains(&format!("/updates/dkms/{built}.ko")), "modprobe finds {found}");
    }

    /// A field of a module file, as the real modinfo reads it.
    #[track_caller]
    pub(crate) fn modinfo(&self, file: &Path, field: &str) -> String {
        shell(Command::new(which("modinfo")).args(["-F", field]).arg(file))
    }

    /// Everything in the root, to compare with later.
    pub(crate) fn listing(&self) -> Listing {
        Listing::of(&self.root)
    }

    /// A run that is said to find nothing to do really changes nothing.
    #[track_caller]
    pub(crate) fn settled(&self) {
        let before = self.listing();
        let outcome = self.post_update().exits(0);
        assert_eq!(before.differences(&self.listing()), [""; 0], "stderr:\n{}", outcome.err);
    }

    /// One run brings alpha/1.0 to a proven state on kernel A, and the next one finds nothing to do.
    #[track_caller]
    pub(crate) fn heals(&self) {
        self.post_update().exits(0);
        self.proven("alpha", A);
        assert_eq!(self.state("alpha/1.0", A), "ok");
        let (installed, built) = (self.path(ALPHA), self.path(&format!("{ALPHA_BUILT}/module/alpha.ko")));
        assert!(fs::read(installed).unwrap() == fs::read(built).unwrap(), "installed is not what was built");
        self.settled();
    }

    fn clear(&self) {
        clear(&self.root);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.root.display());
        } else {
            self.clear();
        }
    }
}

/// The entry of `NAME/VERSION` on a kernel in a status document or record.
#[track_caller]
pub(crate) fn entry<'a>(document: &'a Value, module: &str, release: &str) -> &'a Value {
    let (name, version) = module.split_once('/').unwrap();
    let modules = document["modules"].as_array().unwrap();
    modules
        .iter()
        .find(|m| m["name"] == name && m["version"] == version && m["kernel"] == release)
        .unwrap_or_else(|| panic!("no {module} on {release} in {document:#}"))
}

/// Runs a command that must not fail; gives what it printed.
#[track_caller]
pub(crate) fn shell(command: &mut Command) -> String {
    outcome(command.stdin(Stdio::null())).exits(0).out
}

/// Runs a command to its end.
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Outcome { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) }
}

/// A program of the machine: sbin is not on the PATH of every shell.
pub(crate) fn which(name: &str) -> PathBuf {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed"))
}

/// A file of tests/support.
pub(crate) fn support(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(name)
}

/// The directory that cargo builds into.
pub(crate) fn target() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_clr-dkms")).parent().unwrap();
    profile.parent().unwrap().to_owned()
}

fn check_machine() {
    let root = shell(Command::new("id").arg("-u")).trim() == "0";
    assert!(root, "the real layer must be run as root");
    for tool in ["dkms", "depmod", "modinfo", "modprobe", "make", "gcc", "tar", "mount"] {
        which(tool);
    }
}

/// Removes a directory, and whatever a broken-off test left mounted in it.
fn clear(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let inside = |place: &str| Path::new(&place.replace("\\040", " ")).starts_with(directory);
    let places: Vec<_> = mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|p| inside(p)).collect();
    for place in places.iter().rev() {
        shell(Command::new("umount").arg("-l").arg(place.replace("\\040", " ")));
    }
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => panic!("{}: {e}", directory.display()),
        _ => {}
    }
}
