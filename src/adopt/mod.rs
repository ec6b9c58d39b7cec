//! Foreign sources of modules: unpacking them, finding out how they are built, and the `dkms.conf` that
//! results. Nothing here writes outside of a scratch directory, and nothing of a source runs outside of a
//! sandbox.

mod base;
mod conf_text;
mod evidence;
mod find;
mod generate;
mod inspect;
mod install_lines;
pub mod owner;
mod place;
mod placeholder;
mod side_files;
mod substitute;
mod tree;
mod trial;
pub mod unpack;
mod version;

pub use conf_text::difference;
pub use evidence::{AdoptError, Decision, Evidence};
pub use find::{Adoptable, Search, find};
pub use generate::with_kernel;
pub use inspect::inspect;
pub use place::{SOURCES, place};
pub use side_files::{SideFile, SideFileKind, side_files};
pub use trial::{BuiltModule, Trial, TrialFailure};
