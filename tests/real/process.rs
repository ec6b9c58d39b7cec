//! Processes: those that work in a root, and programs that are started to be disturbed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::scene::{Outcome, Scene};

/// The longest wait for anything that is going to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// The processes, other than this one, with something of the root at hand: in their arguments, as their
/// directory or open.
pub(crate) fn in_root(root: &Path) -> Vec<String> {
    let below = format!("{}/", root.display());
    let mine = |path: &Path| path.starts_with(root);
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_ok_and(|pid| pid == std::process::id()) || name.parse::<u32>().is_err() {
            continue;
        }
        let at = process.path();
        let words = fs::read(at.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let open = fs::read_dir(at.join("fd")).into_iter().flatten().flatten();
        if words.contains(&below)
            || fs::read_link(at.join("cwd")).is_ok_and(|p| mine(&p))
            || open.map(|fd| fs::read_link(fd.path())).any(|p| p.is_ok_and(|p| mine(&p)))
        {
            found.push(format!("{name}: {words}"));
        }
    }
    found
}

/// Waits until no process works in the root.
#[track_caller]
pub(crate) fn gone_within(root: &Path, patience: Duration) {
    let start = Instant::now();
    while !in_root(root).is_empty() {
        assert!(start.elapsed() < patience, "still there: {:#?}", in_root(root));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program that runs while the test does something else. Killed when the test fails.
#[derive(Debug)]
pub(crate) struct Running(Option<Child>);

impl Running {
    /// Starts it.
    pub(crate) fn start(command: &mut Command) -> Running {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Running(Some(child))
    }

    /// Sends a signal, named as for kill(1).
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.0.as_ref().unwrap().id().to_string();
        // The shell's own: a minimal system has no program of that name.
        crate::scene::shell(Command::new("sh").args(["-c", "kill \"-$1\" \"$2\"", "sh", name, &pid]));
    }

    /// Waits for its end.
    pub(crate) fn ends(mut self) -> Outcome {
        let done = self.0.take().unwrap().wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Outcome { code: done.status.code(), out: text(&done.stdout), err: text(&done.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Makes a tool stop after its work while a file asks for it, so that a test can strike in the middle.
#[derive(Debug)]
pub(crate) struct Trap<'a> {
    place: PathBuf,
    name: &'a str,
}

impl<'a> Trap<'a> {
    /// Traps calls of the machine's tool `name` whose arguments match the bash pattern.
    pub(crate) fn set(scene: &Scene, name: &'a str, pattern: &str) -> Trap<'a> {
        let real = crate::scene::which(name);
        let place = scene.tools.clone();
        let (real, directory) = (real.display(), place.display());
        let script = format!(
            "'{real}' \"$@\"; code=$?
            if [[ -e '{directory}/{name}.trap' && \"$*\" == {pattern} ]]; then
                : >'{directory}/{name}.caught'; sleep \"$(<'{directory}/{name}.trap')\"
            fi
            exit $code"
        );
        scene.tool(name, &script);
        fs::write(place.join(format!("{name}.trap")), "120").unwrap();
        Trap { place, name }
    }

    /// The tool.
    pub(crate) fn name(&self) -> &str {
        self.name
    }

    /// How long it holds a call.
    pub(crate) fn holds(self, seconds: u32) -> Trap<'a> {
        fs::write(self.place.join(format!("{}.trap", self.name)), seconds.to_string()).unwrap();
        self
    }

    /// Waits until a call is caught.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let caught = self.place.join(format!("{}.caught", self.name));
        let start = Instant::now();
        while !caught.exists() {
            assert!(start.elapsed() < PATIENCE, "{} was not called", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// From now on the tool does its work only. What was caught stays caught.
    pub(crate) fn open(&self) {
        fs::remove_file(self.place.join(format!("{}.trap", self.name))).unwrap();
    }
}
