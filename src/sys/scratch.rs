//! A directory for the duration of a run, for files that come from others.

use std::io;
use std::path::Path;

use tempfile::TempDir;

use super::{Root, RootKind};

/// A new directory that only this user can enter. It is removed when the value is dropped.
#[derive(Debug)]
pub struct Scratch {
    root: Root,
    // Dropped after the descriptor of the root is closed.
    _directory: TempDir,
}

impl Scratch {
    /// Makes one in a directory of this machine.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(parent: &Path) -> io::Result<Scratch> {
        let directory = tempfile::Builder::new().prefix("clr-dkms-add-").tempdir_in(parent)?;
        let root = Root::open(RootKind::Image, directory.path()).map_err(|e| e.cause)?;
        Ok(Scratch { root, _directory: directory })
    }

    /// The directory, as a root that no symlink leads out of.
    pub fn root(&self) -> &Root {
        &self.root
    }
}
