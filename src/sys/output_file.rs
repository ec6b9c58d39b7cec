//! A file of this machine that a user asked for, outside of any root.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A new file that appears under its name when it is complete.
#[derive(Debug)]
pub struct OutputFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl OutputFile {
    /// Begins it, beside its later name.
    ///
    /// # Errors
    /// When nothing can be written there, or the name is that of something other than a file.
    #[allow(clippy::disallowed_methods)] // a path of the caller, whatever the root is
    pub fn create(path: &Path) -> io::Result<OutputFile> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // A device or a directory is not replaced.
        if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is not a file"));
        }
        let file = tempfile::Builder::new().prefix(".clr-dkms-").tempfile_in(parent)?;
        Ok(OutputFile { file, path: path.to_owned() })
    }

    /// What it is written with.
    pub fn writer(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// When it cannot be completed; a file of that name is unchanged then.
    pub fn finish(self) -> io::Result<()> {
        let OutputFile { file, path } = self;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|e| e.error)?;
        Ok(())
    }
}
