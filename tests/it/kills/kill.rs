//! Runs that are killed together with all their children, as a power cut ends them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::random::Random;
use crate::support::{Run, TestRoot};

/// System calls before which a run is killed: those that change something, those that start a child, and the
/// waits for one. Between two of them nothing changes, so no other moment differs from all of these.
const CALLS: &str = "rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,symlink,symlinkat,link,linkat,write,\
     pwrite64,ftruncate,fallocate,fsync,fdatasync,syncfs,fchmod,copy_file_range,sendfile,clone3,vfork,mount,\
     clock_nanosleep,flock";
/// The longest that a run takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where a run is killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Point {
    /// Before one of its threads makes the N-th system call of that name.
    Call(String, usize),
    /// Before clr-boot-manager makes the N-th change of a file.
    BootManager(usize),
}

/// A run that was not killed, and the points at which it can be.
pub(crate) struct Whole {
    pub(crate) run: Run,
    calls: Vec<(String, usize)>,
    changes: usize,
}

impl Whole {
    /// One of the points: of a run of clr-boot-manager one of its own in two of five cases.
    pub(crate) fn point(&self, random: &mut Random) -> Option<Point> {
        if self.changes > 0 && random.below(5) < 2 {
            return Some(Point::BootManager(1 + random.below(self.changes)));
        }
        let mut points = self.calls.iter().flat_map(|(name, count)| (1..=*count).map(move |n| (name, n)));
        let count = points.clone().count();
        let (name, number) = points.nth(random.below(count.max(1)))?;
        Some(Point::Call(name.clone(), number))
    }
}

/// Whether runs can be killed here in this way.
pub(crate) fn is_possible() -> bool {
    let mut command = namespace();
    let done = command.args(["unshare", "-m", "strace", "-f", "-b", "execve", "-o", "/dev/null", "true"]);
    let works = done.output().is_ok_and(|output| output.status.success());
    if !works {
        crate::support::run::skipped(
            "no process namespace, no mount namespace, or no strace that may trace here",
        );
    }
    works
}

/// What is started in it ends together with it.
fn namespace() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child"]);
    command
}

/// The program in a process namespace of its own, under strace with these options. What it starts is not
/// traced.
fn start(root: &TestRoot, program: &str, arguments: &[&str], options: &[String]) -> Child {
    let plain = root.command(program, arguments);
    let mut command = namespace();
    command
        .args(["strace", "-f", "-b", "execve"])
        .args(options)
        .arg(plain.get_program())
        .args(plain.get_args());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn changes_of(root: &TestRoot) -> PathBuf {
    root.tools().join("changes")
}

/// The stand-in for clr-boot-manager notes its changes, and stops before the N-th.
fn switches(root: &TestRoot, halt: Option<usize>) {
    let changes = changes_of(root);
    fs::write(&changes, "").unwrap();
    let halt = halt.map(|n| format!("STAND_IN_HALT={n}\n")).unwrap_or_default();
    fs::write(root.tools().join("switches"), format!("STAND_IN_CHANGES={}\n{halt}", changes.display()))
        .unwrap();
}

/// Runs it to its end, and notes where it could be killed.
pub(crate) fn whole(root: &TestRoot, program: &str, arguments: &[&str]) -> Whole {
    switches(root, None);
    let trace = root.tools().join("trace");
    let options = ["-o", trace.to_str().unwrap(), "-e", &format!("trace={CALLS}")].map(str::to_owned);
    let output = start(root, program, arguments, &options).wait_with_output().unwrap();
    // strace counts for each thread; the highest number of one of them is reached.
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    let text = fs::read_to_string(&trace).unwrap();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        *counts.entry((call, thread)).or_default() += 1;
    }
    let mut calls = BTreeMap::<&str, usize>::new();
    for ((call, _), count) in &counts {
        let most = calls.entry(call).or_default();
        *most = (*most).max(*count);
    }
    Whole {
        run: Run::of(output, root),
        calls: calls.into_iter().map(|(call, count)| (call.to_owned(), count)).collect(),
        changes: fs::read_to_string(changes_of(root)).unwrap().lines().count(),
    }
}

/// Runs it until it comes to that point, and ends it there. False when it never came there.
pub(crate) fn killed(root: &TestRoot, program: &str, arguments: &[&str], point: &Point) -> bool {
    let (halt, inject) = match point {
        Point::BootManager(number) => (Some(*number), None),
        Point::Call(call, number) => (None, Some(format!("inject={call}:signal=KILL:when={number}"))),
    };
    switches(root, halt);
    let trace = inject.as_ref().map_or("none", |_| CALLS);
    let mut options =
        vec!["-o".to_owned(), "/dev/null".to_owned(), "-e".to_owned(), format!("trace={trace}")];
    options.extend(inject.into_iter().flat_map(|inject| ["-e".to_owned(), inject]));
    let mut child = start(root, program, arguments, &options);
    let began = Instant::now();
    let is_halted = || fs::read_to_string(changes_of(root)).is_ok_and(|text| text.ends_with("halted\n"));
    let mut was_killed = false;
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < PATIENCE, "{program} {arguments:?} does not end: {point:?}");
        if halt.is_some() && is_halted() {
            child.kill().unwrap();
            was_killed = true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    // strace ends itself with the signal that ended the program.
    was_killed || output.status.code().is_none_or(|code| code == 128 + 9)
}

/// Runs it to its end after that, in a process namespace too, with another process id than before.
pub(crate) fn again(root: &TestRoot, program: &str, arguments: &[&str]) -> Run {
    switches(root, None);
    let plain = root.command(program, arguments);
    let mut command = namespace();
    command.args(["sh", "-c", "true & true & true & wait; \"$@\"; exit $?", "sh"]);
    command.arg(plain.get_program()).args(plain.get_args()).stdin(Stdio::null());
    for (variable, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(variable, value),
            None => command.env_remove(variable),
        };
    }
    Run::of(command.output().unwrap(), root)
}
