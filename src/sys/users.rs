//! Which processes use a directory, and which user runs this program.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

/// A process, other than this one, that has a file below `directory` open, or its working directory there:
/// its name and number. `directory` is a host path without symlinks.
///
/// A normal user does not see the processes of others, but cannot remove their files
/// either.
///
/// # Errors
/// When the processes cannot be listed: then nothing may be concluded.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
pub fn user_of(directory: &Path) -> std::io::Result<Option<String>> {
    for process in std::fs::read_dir("/proc")? {
        let process = process?;
        // Names in /proc that are not numbers are not processes.
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let at = process.path();
        let is_below = |link: std::path::PathBuf| {
            let target = std::fs::read_link(link).map(Some).or_else(unless_hidden)?;
            std::io::Result::Ok(target.is_some_and(|target| target.starts_with(directory)))
        };
        let mut uses = is_below(at.join("cwd"))?;
        for fd in std::fs::read_dir(at.join("fd")).map(Some).or_else(unless_hidden)?.into_iter().flatten() {
            let fd = fd.map(Some).or_else(unless_hidden)?;
            uses = uses || fd.map_or(Ok(false), |fd| is_below(fd.path()))?;
        }
        if uses {
            // The number has to do then.
            let name = std::fs::read_to_string(at.join("comm")).unwrap_or_default();
            return Ok(Some(format!("{} (pid {pid})", name.trim())));
        }
    }
    Ok(None)
}

/// A process may end while it is looked at, or be that of another user; any other error leaves its files
/// unknown.
fn unless_hidden<T>(e: std::io::Error) -> std::io::Result<Option<T>> {
    let is_gone = e.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32);
    match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => Ok(None),
        _ if is_gone => Ok(None),
        _ => Err(e),
    }
}

/// The name of the user that runs this program: with sudo(8), the one that called it.
pub fn own_name() -> String {
    // Without sudo, or with a name that is not UTF-8, the user id decides.
    let by_sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let uid = nix::unistd::getuid();
    // Without an entry in the database of users, the number has to do.
    let known = || nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    by_sudo.or_else(known).unwrap_or_else(|| uid.to_string())
}

/// Whether a process of that number runs; a zombie does not.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
pub fn is_alive(pid: u32) -> bool {
    // 0 would stand for the own group.
    let Some(number) = i32::try_from(pid).ok().filter(|pid| *pid > 0) else { return false };
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(number), None) {
        // With hidepid= nothing more is known about it.
        Ok(()) | Err(nix::errno::Errno::EPERM) => {
            // "123 (name) S 1 …": a name may hold anything, also a parenthesis.
            // One that cannot be read counts as running.
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
        }
        // ESRCH is the only other error of signal 0.
        Err(_) => false,
    }
}

/// How many ancestors are searched for a caller: swupd starts a hook, which is a script, possibly through a
/// shell.
const GENERATIONS: usize = 5;

/// The arguments, beginning with the program, of the nearest ancestor process of that name; none where
/// there is no such process.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
pub fn caller(name: &str) -> Option<Vec<OsString>> {
    let mut pid = std::process::id();
    for _ in 0..GENERATIONS {
        // An ancestor that cannot be read is not a caller that can be asked.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        if field("Name:") == Some(name) {
            // As above: it cannot be asked.
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let words = words.strip_suffix(b"\0").unwrap_or(&words);
            return Some(words.split(|b| *b == 0).map(|word| OsString::from_vec(word.to_vec())).collect());
        }
        // The kernel writes a number, and 0 for the first process.
        pid = field("PPid:")?.parse().ok().filter(|pid| *pid > 0)?;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn a_process_that_stands_in_a_directory_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("sub")).unwrap();
        let mut sleep = std::process::Command::new("/bin/sleep");
        let mut child = sleep.arg("60").current_dir(real.join("sub")).spawn().unwrap();
        let found = user_of(&real).unwrap();
        let beside = user_of(&real.join("su")).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.is_some_and(|who| who.ends_with(&format!("(pid {})", child.id()))));
        assert_eq!(beside, None);
        assert_eq!(user_of(&real).unwrap(), None);
    }

    #[test]
    fn who_has_ended_is_not_alive() {
        let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
        assert!(is_alive(child.id()) && is_alive(std::process::id()));
        child.kill().unwrap();
        // Nobody has waited for it yet.
        while is_alive(child.id()) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child.wait().unwrap();
        assert!(!is_alive(child.id()) && !is_alive(0) && !is_alive(u32::MAX));
    }
}
