//! The documents of `clr-dkms export` and `clr-dkms import`.

use serde::Serialize;

use super::add::Steps;

/// A kernel in an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedKernel {
    /// The kernel release.
    pub kernel: String,
    /// Its binaries are in the archive.
    pub exported: bool,
    /// Why they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportDocument {
    /// Grows when a field changes its meaning.
    pub schema: u32,
    /// The name of the module.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The archive.
    pub file: String,
    /// How many files the source has.
    pub source_files: usize,
    /// The kernels.
    pub kernels: Vec<ExportedKernel>,
    /// The archive was written.
    pub written: bool,
}

/// Where a module on a kernel comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportOrigin {
    /// From the archive.
    Archive,
    /// It is built from the source in the archive.
    Build,
    /// It is installed and proven already.
    Present,
    /// Nothing is done for this kernel.
    None,
}

/// A kernel in an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportedKernel {
    /// The kernel release.
    pub kernel: String,
    /// Where the module comes from.
    pub origin: ImportOrigin,
    /// Why it does not come from the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The identifier of that reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
}

/// What became of one archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct ImportedArchive {
    /// The archive, as it was given.
    pub file: String,
    /// The name of the module, once it is known.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The state of its signature: valid, absent, unknown-key, altered or unusable.
    pub signature: Option<&'static str>,
    /// The key of a valid signature.
    pub key: Option<String>,
    /// Its `dkms.conf`.
    pub dkms_conf: Option<String>,
    /// The kernels.
    pub kernels: Vec<ImportedKernel>,
    pub steps: Steps,
    /// The module is installed and proven on each of the kernels.
    pub installed: bool,
    /// What takes it back.
    pub undo: Option<String>,
}

/// What became of all archives of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportDocument {
    /// Grows when a field changes its meaning.
    pub schema: u32,
    /// The archives, in the order in which they were given.
    pub archives: Vec<ImportedArchive>,
}
