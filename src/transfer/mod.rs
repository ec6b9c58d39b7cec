//! Carrying a module from one machine to others: an archive with its source and proven binaries, a manifest
//! of both, and what a machine checks before it uses the binaries.

mod archive;
mod fit;
mod manifest;
mod signing;

pub use archive::{ExportError, describe_build, describe_source, write};
pub use fit::{Misfit, fit};
pub use manifest::{
    BINARIES, BuildInputs, ExportedBuild, ExportedModule, FileSum, MANIFEST, ManifestFault, SCHEMA, SOURCE,
    SourceEntry, TransferManifest,
};
pub use signing::{ArchiveSignature, KEYS, SigningKeys};
