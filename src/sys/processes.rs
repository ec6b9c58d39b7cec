//! The other processes of the machine that this program runs on.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::FileError;

/// How much of a name the kernel keeps, in bytes.
const LONGEST: usize = 15;
/// Where the kernel shows them, whatever the root is.
const PROC: &str = "/proc";

/// Whether a program of that name runs.
///
/// A zombie does not count. A process in another PID namespace belongs to a
/// container, which has its own root; where the namespace of a process cannot be read, the process counts.
///
/// # Errors
/// When the processes cannot be listed, or one of them cannot be looked at: then it is unknown.
pub fn is_running(name: &str) -> Result<bool, FileError> {
    is_shown(Path::new(PROC), name)
}

#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
fn is_shown(proc: &Path, name: &str) -> Result<bool, FileError> {
    let failed = |action, path: PathBuf| move |cause| FileError { action, path, cause };
    let kept = &name.as_bytes()[..name.len().min(LONGEST)];
    let (mut is_found, mut is_any) = (false, false);
    for process in std::fs::read_dir(proc).map_err(failed("list", proc.to_owned()))? {
        let process = process.map_err(failed("list", proc.to_owned()))?;
        // Names in /proc that are not numbers are not processes.
        if process.file_name().to_str().is_none_or(|name| name.parse::<u32>().is_err()) {
            continue;
        }
        is_any = true;
        let path = process.path().join("stat");
        let stat = match std::fs::read(&path) {
            Ok(stat) => stat,
            Err(e) if has_ended(&e) => continue,
            Err(e) => return Err(failed("read", path)(e)),
        };
        let Some((comm, state)) = name_and_state(&stat) else {
            return Err(failed("read", path)(io::ErrorKind::InvalidData.into()));
        };
        is_found |= comm == kept && !matches!(state, b'Z' | b'X') && !is_elsewhere(proc, &process.path());
    }
    // The list holds at least this process.
    if is_any { Ok(is_found) } else { Err(failed("list", proc.to_owned())(io::ErrorKind::NotFound.into())) }
}

/// It may end while it is looked at.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// `123 (name) S 1 …`: a name may hold anything, also a parenthesis.
fn name_and_state(stat: &[u8]) -> Option<(&[u8], u8)> {
    let begin = stat.iter().position(|byte| *byte == b'(')? + 1;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let state = stat.get(end..)?.strip_prefix(b") ")?.first()?;
    Some((stat.get(begin..end)?, *state))
}

/// Whether a process is known to be in another PID namespace than this one.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
fn is_elsewhere(proc: &Path, process: &Path) -> bool {
    let namespace = |of: &Path| std::fs::read_link(of.join("ns/pid"));
    // An unreadable namespace counts as this one: a program that is about to change files then waits.
    match (namespace(&proc.join("self")), namespace(process)) {
        (Ok(ours), Ok(theirs)) => ours != theirs,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    #[test]
    fn a_process_is_found_by_the_name_that_the_kernel_keeps() {
        let is_running = |name: &str| is_running(name).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let program = scratch.path().join("a-program-with-a-long-name");
        std::fs::copy("/bin/sleep", &program).unwrap();
        assert!(!is_running("a-program-with-a-long-name"));
        let mut child = std::process::Command::new(&program).arg("60").spawn().unwrap();
        // The kernel names it a moment after it lets us go on.
        let is_found = || is_running("a-program-with-a-long-name");
        let found = (0..1000).any(|_| {
            is_found() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(found && !is_running("a-program"));
        child.kill().unwrap();
        // It has ended, and we have not waited for it: it still has its name.
        let is_gone = (0..1000).any(|_| {
            !is_found() || {
                std::thread::sleep(Duration::from_millis(10));
                false
            }
        });
        assert!(is_gone && Path::new(&format!("/proc/{}/stat", child.id())).exists());
        child.wait().unwrap();
        assert!(!is_running("a-program-with-a-long-name"));
    }

    /// A /proc with these processes: number, `stat`, PID namespace.
    fn shown(processes: &[(&str, &str, Option<&str>)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().unwrap();
        for (number, stat, namespace) in processes {
            let process = proc.path().join(number);
            std::fs::create_dir_all(process.join("ns")).unwrap();
            std::fs::write(process.join("stat"), stat).unwrap();
            if let Some(namespace) = namespace {
                symlink(namespace, process.join("ns/pid")).unwrap();
            }
        }
        std::fs::create_dir_all(proc.path().join("net")).unwrap();
        proc
    }

    #[test]
    fn a_process_of_a_container_is_not_one_of_ours() {
        let (ours, theirs) = (Some("pid:[1]"), Some("pid:[2]"));
        let me = ("self", "7 (me) R 1", ours);
        let answer = |stat, namespace| is_shown(shown(&[me, ("8", stat, namespace)]).path(), "wanted").ok();
        assert_eq!(answer("8 (wanted) S 1", ours), Some(true));
        assert_eq!(answer("8 (wanted) S 1", theirs), Some(false));
        assert_eq!(answer("8 (wanted) S 1", None), Some(true), "its namespace is unknown");
        assert_eq!(answer("8 (wanted) Z 1", ours), Some(false));
        assert_eq!(answer("8 (x) S (wanted) S 1", ours), Some(false));
        assert_eq!(answer("8 (other) S 1", ours), Some(false));
        assert_eq!(answer("8 nonsense", ours), None);
        let alone = shown(&[("8", "8 (wanted) S 1", ours)]);
        assert!(is_shown(alone.path(), "wanted").unwrap(), "our own namespace is unknown");
    }

    #[test]
    fn processes_that_cannot_be_seen_are_unknown() {
        let nothing = tempfile::tempdir().unwrap();
        assert!(is_shown(nothing.path(), "wanted").is_err(), "/proc is not mounted");
        assert!(is_shown(&nothing.path().join("proc"), "wanted").is_err());
        let unreadable = shown(&[("8", "8 (other) S 1", None)]);
        std::fs::remove_file(unreadable.path().join("8/stat")).unwrap();
        assert!(!is_shown(unreadable.path(), "wanted").unwrap(), "it has ended meanwhile");
        std::fs::create_dir(unreadable.path().join("8/stat")).unwrap();
        assert!(is_shown(unreadable.path(), "wanted").is_err());
    }
}
