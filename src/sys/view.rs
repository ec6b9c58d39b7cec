//! Running a program that sees other files than everybody else: in a mount namespace of its own, which ends with it.
//!
//! unshare(2) changes the process that calls it. So the program is started by a new process of ours, which is asked for
//! with a hidden first argument, makes the view, and becomes the program. It leaves nothing behind, whatever ends it.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use serde::{Deserialize, Serialize};

use super::child::Child;

/// The hidden first argument of any of our programs.
pub const ARGUMENT: &str = "__in-a-view";
/// The exit code for a view that could not be made; the program was not started then.
pub const NO_VIEW: i32 = 113;
/// What a mount point must keep when a user namespace changes its flags.
const KEPT: [(StatVfsMountFlags, MsFlags); 6] = [
    (StatVfsMountFlags::NOSUID, MsFlags::MS_NOSUID),
    (StatVfsMountFlags::NODEV, MsFlags::MS_NODEV),
    (StatVfsMountFlags::NOEXEC, MsFlags::MS_NOEXEC),
    (StatVfsMountFlags::NOATIME, MsFlags::MS_NOATIME),
    (StatVfsMountFlags::NODIRATIME, MsFlags::MS_NODIRATIME),
    (StatVfsMountFlags::RELATIME, MsFlags::MS_RELATIME),
];

/// What a directory of a view shows under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// The file at this path of the host.
    File(PathBuf),
    /// A symlink with this text.
    Symlink(String),
}

/// A directory that shows nothing but what is listed. It can be written to, and what is written is lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownDirectory {
    /// Its path on the host, free of symlinks.
    pub path: PathBuf,
    /// What is in it, by name.
    pub entries: Vec<(String, Shown)>,
}

/// What is different for the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Directories with other contents.
    pub directories: Vec<ShownDirectory>,
    /// Directories of the host, free of symlinks, that cannot be written to. Those that are not there are left out.
    pub read_only: Vec<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    view: View,
    program: PathBuf,
    arguments: Vec<String>,
}

/// The child that runs `program` in a view. Its exit code is [`NO_VIEW`] when that cannot be had.
///
/// # Errors
/// When our own program cannot be found, which takes `/proc`.
pub fn child(
    view: &View,
    program: &Path,
    arguments: &[String],
    search_path: &std::ffi::OsStr,
    deadline: Duration,
) -> io::Result<Child> {
    let request = Request { view: view.clone(), program: program.to_owned(), arguments: arguments.to_vec() };
    let child = Child::new(&std::env::current_exe()?, search_path, deadline);
    Ok(child.arg(ARGUMENT).input(serde_json::to_vec(&request)?))
}

/// Becomes the program that standard input asks for, where the first argument says so. It does not come back then: the
/// result is the exit code for a view that cannot be made.
pub fn enter(mut arguments: impl Iterator<Item = OsString>) -> Option<i32> {
    let is_asked = arguments.nth(1).is_some_and(|argument| argument == ARGUMENT);
    is_asked.then(|| {
        let error = become_program();
        use io::Write;
        // Where stderr is gone too, the exit code is all that can be said.
        writeln!(io::stderr(), "{error}").ok();
        NO_VIEW
    })
}

#[allow(clippy::disallowed_methods)] // the one place that becomes another program
fn become_program() -> io::Error {
    let made = || -> io::Result<Request> {
        let mut text = Vec::new();
        io::stdin().read_to_end(&mut text)?;
        let request: Request = serde_json::from_slice(&text)?;
        make(&request.view)?;
        Ok(request)
    };
    match made() {
        Ok(request) => {
            let error = Command::new(&request.program).args(&request.arguments).stdin(Stdio::null()).exec();
            io::Error::new(error.kind(), format!("{} cannot be started: {error}", request.program.display()))
        }
        Err(e) => e,
    }
}

fn failed(what: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

fn make(view: &View) -> io::Result<()> {
    enter_namespace().map_err(|e| failed("no mount namespace can be had", e))?;
    const NONE: Option<&Path> = None;
    // Not private: an automount would never become visible then.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE)
        .map_err(|e| failed("mounts cannot be kept apart", e))?;
    // Opened before anything is covered: what a directory shows may come from that very directory.
    let mut opened = Vec::new();
    for directory in &view.directories {
        for (name, shown) in &directory.entries {
            if name.contains('/') || ["", ".", ".."].contains(&name.as_str()) {
                return Err(io::Error::other(format!("{name:?} is not a file name")));
            }
            let fd = match shown {
                Shown::File(path) => Some(look(path)?),
                Shown::Symlink(_) => None,
            };
            opened.push((directory.path.join(name), shown, fd));
        }
    }
    for path in view.read_only.iter().filter(|path| look(path).is_ok()) {
        close(path).map_err(|e| failed(&format!("{} cannot be made read-only", path.display()), e))?;
    }
    for directory in &view.directories {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), &directory.path, Some("tmpfs"), flags, Some("mode=0755,size=1m"))
            .map_err(|e| failed(&format!("{} cannot be covered", directory.path.display()), e))?;
    }
    for (path, shown, fd) in opened {
        show(&path, shown, fd.as_ref())
            .map_err(|e| failed(&format!("{} cannot be shown", path.display()), e))?;
    }
    Ok(())
}

fn look(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|e| failed(&format!("{} cannot be opened", path.display()), e))
}

fn show(path: &Path, shown: &Shown, fd: Option<&OwnedFd>) -> io::Result<()> {
    const NONE: Option<&Path> = None;
    match (shown, fd) {
        (Shown::Symlink(text), _) => rustix::fs::symlinkat(text.as_str(), CWD, path)?,
        (Shown::File(_), Some(fd)) => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
            let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
            mount(Some(source.as_str()), path, NONE, MsFlags::MS_BIND, NONE)?;
        }
        (Shown::File(_), None) => {}
    }
    Ok(())
}

/// Makes a directory read-only for this namespace.
fn close(path: &Path) -> io::Result<()> {
    const NONE: Option<&Path> = None;
    mount(Some(path), path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
    let has = rustix::fs::statvfs(path)?.f_flag;
    let kept = KEPT.iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| *flag);
    let flags =
        kept.fold(MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, |all, flag| all | flag);
    Ok(mount(NONE, path, NONE, flags, NONE)?)
}

/// Without root, a user namespace gives the right to mount: enough for the copy of a system in a directory of one's own.
fn enter_namespace() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    match unshare(CloneFlags::CLONE_NEWNS) {
        Err(Errno::EPERM) if !user.is_root() => {}
        other => return Ok(other?),
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    let map = |path: &str, text: &str| -> io::Result<()> {
        let fd = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(&fd, text.as_bytes())?;
        Ok(())
    };
    map("/proc/self/setgroups", "deny")?;
    map("/proc/self/uid_map", &format!("0 {} 1\n", user.as_raw()))?;
    map("/proc/self/gid_map", &format!("0 {} 1\n", group.as_raw()))
}
