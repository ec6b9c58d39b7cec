//! What git knows of a checkout. git obeys the configuration in the checkout, which may name programs, so it
//! runs in a sandbox that cannot write.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sys::sandbox::Sight;
use crate::sys::{Ended, Output, Tools};

const DEADLINE: Duration = Duration::from_secs(60);
/// The longest list of files.
const LIST: u64 = 16 << 20;

/// The version of a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitVersion {
    /// The nearest tag, and the number of commits since; none without a tag.
    pub tag: Option<(String, u64)>,
    /// The abbreviated commit.
    pub commit: String,
}

/// A checkout.
pub(super) struct Checkout {
    /// The tracked files, also of submodules. The directory of an empty submodule is among them.
    pub(super) tracked: Vec<PathBuf>,
    pub(super) version: Option<GitVersion>,
    /// What is left out, or unknown.
    pub(super) notes: Vec<String>,
}

impl Checkout {
    pub(super) fn observe(tools: &Tools, directory: &Path) -> Result<Checkout, String> {
        let list = |options: &[&str]| {
            let list = git(tools, directory, &[&["ls-files", "-z"], options].concat())?;
            list.map(|list| paths_of(&list)).ok_or_else(|| "git ls-files fails".to_owned())
        };
        let tracked = list(&["--cached", "--recurse-submodules"])?;
        if tracked.is_empty() {
            return Err("it tracks none".to_owned());
        }
        let untracked = list(&["--others", "--", "dkms.conf", "*/dkms.conf"])?;
        let mut notes: Vec<String> = untracked.iter().map(|path| not_used(path)).collect();
        let version = version(tools, directory).unwrap_or_else(|why| {
            notes.push(format!("what git says of the version is unknown: {why}"));
            None
        });
        Ok(Checkout { tracked, version, notes })
    }
}

/// An untracked `dkms.conf`.
fn not_used(path: &Path) -> String {
    let path = path.display();
    format!(
        "{path} is not used, because git does not track it; to use it, run `git add {path}`, and add the \
         source again"
    )
}

/// The version; none without a commit.
fn version(tools: &Tools, directory: &Path) -> Result<Option<GitVersion>, String> {
    let Some(commit) = git(tools, directory, &["rev-parse", "--short=7", "HEAD"])? else { return Ok(None) };
    // Without a tag the version is made from the commit alone.
    let described = git(tools, directory, &["describe", "--tags", "--long", "--abbrev=7"])?;
    Ok(Some(GitVersion {
        tag: described.as_deref().and_then(|text| tag_of(&String::from_utf8_lossy(text))),
        commit: String::from_utf8_lossy(&commit).trim().to_owned(),
    }))
}

/// The paths in a list of git, each of which ends with a null byte.
fn paths_of(list: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
    names.map(|name| PathBuf::from(OsString::from_vec(name.to_owned()))).collect()
}

/// Parses `TAG-COMMITS-gHASH`.
fn tag_of(text: &str) -> Option<(String, u64)> {
    let mut parts = text.trim().rsplitn(3, '-');
    let (_, commits, tag) = (parts.next()?, parts.next()?, parts.next()?);
    // A name with hyphens that does not end like one of `git describe` is not one.
    Some((tag.to_owned(), commits.parse().ok()?))
}

/// What git prints; none if it exits with an error, which is its negative answer. That it was stopped, by the
/// deadline or by a signal, is not an answer.
fn git(tools: &Tools, directory: &Path, arguments: &[&str]) -> Result<Option<Vec<u8>>, String> {
    let child = tools.child("git", DEADLINE).map_err(|e| e.to_string())?;
    let sight = Sight { shown: vec![directory.as_os_str().to_owned()], ..Sight::default() };
    let done = child
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "core.fsmonitor=false",
            "-c",
            "core.hooksPath=/dev/null",
            "-C",
        ])
        .arg(directory)
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .output(Output::KeepAnswer(LIST))
        .confined(tools.sandbox("git", sight))
        .run()
        .map_err(|e| e.to_string())?;
    match done.ended {
        Ended::Exit(0) if (done.output.len() as u64) < LIST => Ok(Some(done.output)),
        Ended::Exit(code) if code != 0 => Ok(None),
        ended => Err(format!("git {}: {ended}", arguments[0])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions() {
        assert_eq!(tag_of("v0.0.22-13-g2539d59\n"), Some(("v0.0.22".to_owned(), 13)));
        assert_eq!(tag_of("ttkmd-2.10.0-6-g4af7192"), Some(("ttkmd-2.10.0".to_owned(), 6)));
        assert_eq!(tag_of("3fae723"), None);
    }
}
