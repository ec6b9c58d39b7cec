//! Child processes: an argument vector (no shell), a process group of their own, a deadline, no standard
//! input, a fixed environment, and the output in a file.
//!
//! The output goes to a file because a grandchild that keeps running would hold a pipe open. Each child has
//! its own process group because killing only the leader of a build leaves a subshell that continues to build
//! and install.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, PipeWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use duct::{Expression, Handle};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::clock::Stopwatch;
use super::interrupt;
use super::sandbox::{self, Layers, Sandbox};

/// The environment variable that marks the children of a run, with its process id. The next run uses it to
/// recognise the children that a killed run left behind.
pub const MARK: &str = "CLR_DKMS_RUN";
/// How long a group may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(3);
/// How often a request to stop is looked for while a child runs.
const INTERRUPT_PAUSE: Duration = Duration::from_millis(20);
/// How long killed processes may take to disappear.
const DYING: Duration = Duration::from_millis(500);

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
pub enum Ended {
    /// It exited with this code.
    #[strum(to_string = "exit code {0}")]
    Exit(i32),
    /// A signal killed it.
    #[strum(to_string = "killed by signal {0}")]
    Signal(i32),
    /// Its deadline passed; its whole group was killed.
    #[strum(to_string = "stopped at its deadline")]
    TimedOut,
    /// This program was asked to stop; the whole group was killed.
    #[strum(to_string = "stopped on request")]
    Interrupted,
}

impl Ended {
    /// It exited with code 0.
    pub fn is_success(self) -> bool {
        self == Ended::Exit(0)
    }
}

/// A child that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub ended: Ended,
    /// After how long.
    pub took: Duration,
    /// Its standard output (and error output, unless that went to a file of its own), when it was kept.
    pub output: Vec<u8>,
    /// The layers that confined it; none for a child without a sandbox.
    pub layers: Option<Layers>,
}

/// Where the output of a child goes.
#[derive(Debug)]
pub enum Output {
    /// Both streams into this file, at its end.
    Into(File),
    /// Both streams are kept: at most this many bytes, from the end.
    Keep(u64),
    /// Only standard output is kept, at most this many bytes; error output is dropped.
    KeepAnswer(u64),
}

/// A program that is about to run.
#[derive(Debug)]
pub struct Child {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    search_path: OsString,
    directory: PathBuf,
    pub(super) deadline: Duration,
    output: Output,
    interruptible: bool,
    sandbox: Option<Sandbox>,
    input: Option<Vec<u8>>,
}

impl Child {
    /// `program` with a deadline; `search_path` is the `PATH` it gets.
    pub fn new(program: &Path, search_path: &OsStr, deadline: Duration) -> Child {
        Child {
            program: program.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            search_path: search_path.to_owned(),
            directory: PathBuf::from("/"),
            deadline,
            output: Output::Keep(64 << 10),
            interruptible: true,
            sandbox: None,
            input: None,
        }
    }

    /// One argument more.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Child {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, arguments: I) -> Child {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// One environment variable beside `PATH`, `HOME` and `LC_ALL`.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Child {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// A directory whose programs come before all others, for it and for what it calls.
    #[must_use]
    pub fn first_in_path(mut self, directory: &Path) -> Child {
        let mut path = directory.as_os_str().to_owned();
        path.push(":");
        path.push(&self.search_path);
        self.search_path = path;
        self
    }

    /// The directory that it runs in: `/` by default.
    #[must_use]
    pub fn in_directory(mut self, directory: &Path) -> Child {
        self.directory = directory.to_owned();
        self
    }

    /// Where its output goes.
    #[must_use]
    pub fn output(mut self, output: Output) -> Child {
        self.output = output;
        self
    }

    /// A request to stop does not end it, only the deadline does: for programs that leave an inconsistent
    /// state when they are interrupted.
    #[must_use]
    pub fn uninterruptible(mut self) -> Child {
        self.interruptible = false;
        self
    }

    /// The bytes on its standard input; nothing by default, and always nothing in a sandbox.
    #[must_use]
    pub fn input(mut self, bytes: Vec<u8>) -> Child {
        self.input = Some(bytes);
        self
    }

    /// It runs in a sandbox.
    #[must_use]
    pub fn confined(mut self, sandbox: Sandbox) -> Child {
        self.sandbox = Some(sandbox);
        self
    }

    /// The command line, for logs.
    pub fn display(&self) -> String {
        let mut words = vec![self.program.display().to_string()];
        words.extend(self.arguments.iter().map(|a| a.to_string_lossy().into_owned()));
        words.join(" ")
    }

    #[allow(clippy::disallowed_methods)] // the one place that starts a process
    fn expression(&self) -> Expression {
        let fixed = [("PATH", self.search_path.clone()), ("HOME", "/".into()), ("LC_ALL", "C".into())];
        let mark = (OsString::from(MARK), OsString::from(std::process::id().to_string()));
        let own = fixed.into_iter().map(|(name, value)| (OsString::from(name), value));
        duct::cmd(&self.program, &self.arguments)
            // dkms, make and bash obey variables of their callers (MAKEFLAGS, ARCH, KCFLAGS, BASH_ENV).
            .full_env(own.chain(self.environment.iter().cloned()).chain([mark]))
            .dir(&self.directory)
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .unchecked()
    }

    /// Starts the program with a standard input that reaches its end when the result is dropped or this
    /// process dies: for programs that run for as long as they can read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn beside(self) -> io::Result<ChildGuard> {
        let (reader, writer) = io::pipe()?;
        let handle = self.expression().stdin_file(reader).stdout_null().stderr_null().start()?;
        Ok(ChildGuard { handle, input: Some(writer) })
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or its output cannot be read back.
    pub fn run(mut self) -> io::Result<Finished> {
        match self.sandbox.take() {
            Some(sandbox) => sandbox::run(self, &sandbox),
            None => {
                // A file rather than a pipe: a program that does not read it blocks nobody.
                let input = self.input.take().map(|bytes| -> io::Result<File> {
                    let mut file = unnamed_file()?;
                    file.write_all(&bytes)?;
                    file.rewind()?;
                    Ok(file)
                });
                self.run_with(input.transpose()?)
            }
        }
    }

    /// Runs it with that standard input.
    pub(super) fn run_with(&self, input: Option<File>) -> io::Result<Finished> {
        let watch = Stopwatch::start();
        let program = self.expression();
        let program = if let Some(file) = input { program.stdin_file(file) } else { program.stdin_null() };
        let mut kept: Option<(File, u64)> = None;
        let (stdout, stderr) = match &self.output {
            Output::Into(file) => (file.try_clone()?, file.try_clone()?),
            &Output::Keep(limit) => {
                let file = unnamed_file()?;
                kept = Some((file.try_clone()?, limit));
                (file.try_clone()?, file)
            }
            &Output::KeepAnswer(limit) => {
                let file = unnamed_file()?;
                kept = Some((file.try_clone()?, limit));
                // Not /dev/null, which a plain chroot may lack.
                (file, unnamed_file()?)
            }
        };
        let child = program.stdout_file(stdout).stderr_file(stderr).start()?;
        let ended = loop {
            let left = self.deadline.saturating_sub(watch.elapsed());
            // A signal to this process does not end the wait: it is noticed at the next turn.
            if let Some(done) = child.wait_timeout(left.min(INTERRUPT_PAUSE))? {
                break ended(done.status);
            }
            let stop = match () {
                () if self.interruptible && interrupt::asked() => Some(Ended::Interrupted),
                () if watch.elapsed() >= self.deadline => Some(Ended::TimedOut),
                () => None,
            };
            if let Some(reason) = stop {
                end_group(&child)?;
                child.wait()?;
                break reason;
            }
        };
        let output = kept.map(|(file, limit)| tail(file, limit)).transpose()?.unwrap_or_default();
        Ok(Finished { ended, took: watch.elapsed(), output, layers: None })
    }
}

/// A program that runs beside this one, and ends with this value.
#[derive(Debug)]
pub struct ChildGuard {
    handle: Handle,
    input: Option<PipeWriter>,
}

impl Drop for ChildGuard {
    fn drop(&mut self) {
        drop(self.input.take());
        let ended = self.handle.wait_timeout(GRACE).and_then(|_| end_group(&self.handle));
        // init collects a process that cannot be ended.
        if let Err(e) = ended {
            tracing::debug!("{e}");
        }
    }
}

pub(super) fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Exit(-1),
    }
}

/// Sends SIGTERM to the group, and SIGKILL to the rest of it when its leader is gone or [`GRACE`] is over.
/// duct's own `kill` would leave the grandchildren running.
fn end_group(child: &Handle) -> io::Result<()> {
    // A process id fits into an i32; without one there is no child.
    let Some(group) = child.pids().first().and_then(|pid| i32::try_from(*pid).ok()).map(Pid::from_raw) else {
        return Ok(());
    };
    signal_group(group, Signal::SIGTERM)?;
    child.wait_timeout(GRACE)?;
    signal_group(group, Signal::SIGKILL)?;
    // The kernel needs a moment, and the next step must not meet these processes. Zombies that nobody
    // collects are not waited for.
    let watch = Stopwatch::start();
    // An error means that nobody is left.
    while killpg(group, None).is_ok() && watch.elapsed() < DYING {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn signal_group(group: Pid, signal: Signal) -> io::Result<()> {
    match killpg(group, signal) {
        // No process of the group is left, which is what was wanted.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A file without a name, in memory: nothing on disk to clean up, and no full disk to run into.
///
/// # Errors
/// When the kernel has no memory for it.
pub fn unnamed_file() -> io::Result<File> {
    Ok(File::from(memfd_create("output", MFdFlags::MFD_CLOEXEC)?))
}

/// The last `limit` bytes of a file.
///
/// # Errors
/// When it cannot be read.
pub fn tail(mut file: File, limit: u64) -> io::Result<Vec<u8>> {
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(size.saturating_sub(limit)))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn sh(script: &str, deadline_ms: u64) -> Finished {
        Child::new(Path::new("/bin/sh"), OsStr::new("/usr/bin:/bin"), Duration::from_millis(deadline_ms))
            .args(["-c", script])
            .run()
            .unwrap()
    }

    #[test]
    fn keeps_both_streams_and_the_code() {
        let done = sh("echo out; echo err >&2; exit 7", 5000);
        assert_eq!((done.ended, done.output.as_slice()), (Ended::Exit(7), b"out\nerr\n".as_slice()));
    }

    #[test]
    fn the_environment_is_ours_alone() {
        let text = String::from_utf8(sh("env", 5000).output).unwrap();
        let mut names: Vec<_> = text.lines().filter_map(|l| l.split('=').next()).collect();
        // `sh` adds PWD by itself, bash as sh also SHLVL and _.
        names.retain(|n| !["PWD", "SHLVL", "_", "OLDPWD"].contains(n));
        names.sort_unstable();
        assert_eq!(names, [MARK, "HOME", "LC_ALL", "PATH"]);
    }

    #[test]
    fn the_deadline_takes_the_whole_group() {
        let watch = Stopwatch::start();
        let done = sh("trap '' TERM; (trap '' TERM; sleep 60) & echo $!; wait", 300);
        assert_eq!(done.ended, Ended::TimedOut);
        assert!(watch.elapsed() < Duration::from_secs(10));
        let pid = String::from_utf8(done.output).unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            // Or a zombie that nobody has collected yet.
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        while !gone() && watch.elapsed() < Duration::from_secs(10) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(gone(), "the subshell lives on");
    }

    #[test]
    fn a_grandchild_that_lives_on_does_not_hold_us_up() {
        let watch = Stopwatch::start();
        assert!(sh("sleep 5 & exit 0", 4000).ended.is_success());
        assert!(watch.elapsed() < Duration::from_secs(3));
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let child = Child::new(Path::new("/no/such/program"), OsStr::new(""), Duration::from_secs(1));
        assert_eq!(child.run().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
