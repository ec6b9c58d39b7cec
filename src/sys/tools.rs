//! Where other programs are found: in a fixed list of directories, never in the caller's `PATH` and never in
//! a root.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Child;
use super::sandbox::{Sandbox, Sight};

/// The directories, in order.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// How many bytes of a script are read.
const SCRIPT: u64 = 4 << 20;

/// The environment variable with directories, separated by colons, that are searched first. Tests put
/// stand-ins there.
pub const FIRST_DIRECTORIES: &str = "CLR_DKMS_TOOL_PATH";

/// A program that is not installed on this machine.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not installed (looked in {searched})")]
pub struct MissingTool {
    /// Its name.
    pub name: String,
    /// The directories that were searched.
    pub searched: String,
}

/// The programs of this machine.
#[derive(Debug, Clone)]
pub struct Tools {
    directories: Vec<PathBuf>,
    named: BTreeMap<String, PathBuf>,
    /// The programs of a module are run also where nothing confines them.
    pub trusts_modules: bool,
    /// A `dkms.conf` may be evaluated. Not in units whose own restrictions do not allow another sandbox.
    pub evaluates_modules: bool,
}

impl Tools {
    /// The fixed directories, with those of [`FIRST_DIRECTORIES`] before them.
    pub fn from_environment() -> Tools {
        let first = std::env::var_os(FIRST_DIRECTORIES).unwrap_or_default();
        let directories = std::env::split_paths(&first)
            .filter(|directory| directory.is_absolute())
            .chain(DIRECTORIES.map(PathBuf::from))
            .collect();
        Tools { directories, named: BTreeMap::new(), trusts_modules: false, evaluates_modules: true }
    }

    /// Uses `path` for the program `name` instead of searching for it.
    pub fn name(&mut self, name: &str, path: &Path) {
        self.named.insert(name.to_owned(), path.to_owned());
    }

    /// A sandbox in which the program `name` evaluates foreign text.
    pub fn sandbox(&self, name: &str, sight: Sight) -> Sandbox {
        Sandbox::evaluate(self.with_program(name, sight)).trusted(self.trusts_modules)
    }

    /// A sandbox in which the program `name` builds a foreign source.
    pub fn scratch_sandbox(&self, name: &str, sight: Sight) -> Sandbox {
        Sandbox::scratch_build(self.with_program(name, sight)).trusted(self.trusts_modules)
    }

    /// Shows the directory of a program, and those that are searched first.
    fn with_program(&self, name: &str, mut sight: Sight) -> Sight {
        #[allow(clippy::disallowed_methods)] // a program of the machine we run on, whatever the root is
        let real = self.find(name).ok().and_then(|path| path.canonicalize().ok());
        let first = self.directories.iter().take(self.directories.len() - DIRECTORIES.len()).cloned();
        let directories = real.iter().filter_map(|path| path.parent()).map(Path::to_owned).chain(first);
        sight.shown.extend(directories.map(PathBuf::into_os_string));
        sight
    }

    /// The `PATH` that children get.
    pub fn search_path(&self) -> OsString {
        // Directories with a colon were split when they were read, so joining cannot fail.
        std::env::join_paths(&self.directories).unwrap_or_default()
    }

    /// The file of a program.
    ///
    /// # Errors
    /// When no executable file of that name is there.
    pub fn find(&self, name: &str) -> Result<PathBuf, MissingTool> {
        // What cannot be looked at cannot be run either.
        let executable =
            |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
        let (found, searched) = match self.named.get(name) {
            Some(path) => (executable(path).then(|| path.clone()), path.display().to_string()),
            None => (
                self.directories.iter().map(|directory| directory.join(name)).find(|path| executable(path)),
                self.search_path().to_string_lossy().into_owned(),
            ),
        };
        found.ok_or_else(|| MissingTool { name: name.to_owned(), searched })
    }

    /// The bytes of a program that is a script; none when it is not there, or not a script.
    #[allow(clippy::disallowed_methods)] // a program of the machine we run on, whatever the root is
    pub fn text(&self, name: &str) -> Option<Vec<u8>> {
        // The reason makes no difference: without the program there is no text.
        let path = self.find(name).ok()?;
        let mut bytes = Vec::new();
        // An unreadable script cannot be run either.
        std::fs::File::open(path).ok()?.take(SCRIPT).read_to_end(&mut bytes).ok()?;
        Some(bytes).filter(|bytes| bytes.starts_with(b"#!"))
    }

    /// The identity of an installed program: path, size and time; none when it is not installed.
    pub fn identity(&self, name: &str) -> Option<String> {
        // A program that is missing or cannot be looked at has no identity.
        let path = self.find(name).ok()?;
        let stat = path.metadata().ok()?;
        Some(format!("{} {} {}.{}", path.display(), stat.size(), stat.mtime(), stat.mtime_nsec()))
    }

    /// A child that runs the program in that file.
    pub fn child_at(&self, path: &Path, deadline: Duration) -> Child {
        Child::new(path, &self.search_path(), deadline)
    }

    /// A child that runs the program `name`.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn child(&self, name: &str, deadline: Duration) -> Result<Child, MissingTool> {
        let path: &OsStr = &self.search_path();
        Ok(Child::new(&self.find(name)?, path, deadline))
    }
}
