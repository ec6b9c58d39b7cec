//! Who has something of a folder open.

use std::path::Path;

/// A process, other than this one, that has a file below `folder` open, or stands in it: its name and number. `folder`
/// is a path of the host without links.
///
/// Processes of others, which a user who is not root may not look at, are not seen; but such a user cannot remove what
/// is theirs either.
///
/// # Errors
/// When the processes cannot be listed: then nothing may be concluded.
#[allow(clippy::disallowed_methods)] // /proc of the machine we run on, whatever the root is
pub fn user_of(folder: &Path) -> std::io::Result<Option<String>> {
    for process in std::fs::read_dir("/proc")? {
        let process = process?;
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let at = process.path();
        let is_below = |link: std::path::PathBuf| {
            // A process may end while it is looked at.
            std::fs::read_link(link).is_ok_and(|target| target.starts_with(folder))
        };
        let mut open = std::fs::read_dir(at.join("fd")).into_iter().flatten().flatten();
        if is_below(at.join("cwd")) || open.any(|fd| is_below(fd.path())) {
            let name = std::fs::read_to_string(at.join("comm")).unwrap_or_default();
            return Ok(Some(format!("{} (pid {pid})", name.trim())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    #[test]
    fn a_process_that_stands_in_a_folder_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
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
}
