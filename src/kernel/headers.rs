//! The headers of a kernel, which its modules are built with.

use serde::Serialize;

use super::inventory::module_directory;
use crate::sys::{FileError, FileKind, Presence, Root};

/// The headers of a kernel, in `/usr/lib/modules/RELEASE/build`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Headers {
    /// They are there, for this release.
    Present,
    /// They are not there.
    Absent,
    /// They are for another release: modules built with them would not load. `release`: what
    /// `include/config/kernel.release` says.
    OtherRelease { release: String },
    /// The directory is there without `include/config/kernel.release`.
    Incomplete,
    /// It cannot be determined.
    Unreadable { reason: String },
}

/// The headers of a kernel release.
pub fn headers(root: &Root, release: &str) -> Headers {
    let unreadable = |e: &FileError| Headers::Unreadable { reason: e.to_string() };
    let build = format!("{}/build", module_directory(release));
    match root.lookup(&build) {
        Presence::There(s) if s.kind == FileKind::Directory => {}
        Presence::There(_) => {
            return Headers::Unreadable {
                reason: format!("{} is not a directory", root.shown_path(&build).display()),
            };
        }
        Presence::Absent => return Headers::Absent,
        Presence::Unreadable(e) => return unreadable(&e),
    }
    match root.read_optional(format!("{build}/include/config/kernel.release")) {
        Ok(Some(text)) => {
            let found = String::from_utf8_lossy(&text).trim().to_owned();
            if found == release { Headers::Present } else { Headers::OtherRelease { release: found } }
        }
        Ok(None) => Headers::Incomplete,
        Err(e) => unreadable(&e),
    }
}
