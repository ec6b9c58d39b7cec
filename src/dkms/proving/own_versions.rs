//! The versions of the kernel's symbols by its own modules: what they take they were built with. This answers
//! where the headers of a kernel are not installed.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::dkms::symbols::{self, OpenSymbol, Wrong};
use crate::kernel::module_image::ModuleImage;
use crate::sys::Root;

/// How many modules of a kernel are read at most.
const MOST: usize = 2_000;

/// The versions, as far as they were read.
#[derive(Debug, Default)]
pub(in crate::dkms) struct OwnVersions {
    known: HashMap<String, u32>,
    /// How many modules were read.
    read: usize,
}

/// A symbol whose version no module of the kernel shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{without}, and none of its modules shows the version of {symbol}")]
pub(in crate::dkms) struct NotShown {
    /// Why the versions are not listed.
    pub(in crate::dkms) without: String,
    /// The symbol.
    pub(in crate::dkms) symbol: String,
}

impl OwnVersions {
    /// Compares symbols that the kernel itself exports. `files` are its modules, which are read until all
    /// symbols are known.
    ///
    /// # Errors
    ///
    /// The first symbol that no module shows.
    pub(in crate::dkms) fn compare(
        &mut self,
        root: &Root,
        files: impl Iterator<Item = String>,
        open: &[&OpenSymbol<'_>],
    ) -> Result<Result<(), Wrong>, String> {
        let mut left: BTreeSet<String> = open.iter().map(|symbol| symbol.name()).collect();
        left.retain(|name| !self.known.contains_key(name));
        for path in files.take(MOST).skip(self.read) {
            if left.is_empty() {
                break;
            }
            self.read += 1;
            // A module that cannot be read shows nothing.
            let Ok(image) = ModuleImage::of_file(root, &path, &path) else { continue };
            let Ok(symbols) = symbols::read(&image) else { continue };
            for (name, version) in symbols.taken() {
                if let Some(version) = version {
                    left.remove(&name);
                    self.known.entry(name).or_insert(version);
                }
            }
        }
        for symbol in open {
            let name = symbol.name();
            match self.known.get(&name) {
                Some(version) if symbol.agrees_with(*version) => {}
                Some(_) => return Ok(Err(Wrong::Version(name))),
                None => return Err(name),
            }
        }
        Ok(Ok(()))
    }
}
