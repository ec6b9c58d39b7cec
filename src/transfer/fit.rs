//! Whether the binaries of an archive fit a kernel of this machine.

use std::collections::BTreeSet;

use super::archive::symbols_of;
use super::manifest::{ExportedBuild, ExportedModule};
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::proof::{ProofStanding, find_file, in_words, prove_files};
use crate::dkms::{Cache, DkmsConf, architecture};
use crate::kernel::module_file::{self, made_for};
use crate::kernel::module_image::{ImageError, ModuleImage};

/// Why binaries are not used for a kernel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Misfit {
    /// They are for another architecture.
    #[error("they are for {0}")]
    Architecture(String),
    /// The archive has other modules than the `dkms.conf` names for this kernel. `found`: those of the
    /// archive. `expected`: those of the `dkms.conf`.
    #[error("the archive has {found} and the dkms.conf names {expected}")]
    Modules { found: String, expected: String },
    /// The `dkms.conf` excludes the kernel.
    #[error("its dkms.conf excludes this kernel: {0}")]
    Excluded(String),
    /// The manifest says something else than the file.
    #[error("the manifest says something else about {name} than the file: {what}")]
    Manifest { name: String, what: String },
    /// The vermagic is not that of the kernel. `expected`: that of the kernel.
    #[error("the vermagic of {name} is {found:?}, and that of the kernel's own modules is {expected:?}")]
    Vermagic { name: String, found: String, expected: String },
    /// The kernel would not load them.
    #[error("{0}")]
    #[strum(serialize = "does-not-fit")]
    Flawed(String),
    /// Whether the kernel would load them cannot be determined.
    #[error("it cannot be determined whether they fit: {0}")]
    Unknown(String),
}

impl Misfit {
    /// An identifier for scripts.
    pub fn id(&self) -> &'static str {
        self.into()
    }
}

/// Checks a build whose files are in `directory`, a path inside the root, against the kernel of `scope`.
///
/// # Errors
/// The first reason not to use it.
pub fn fit(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    directory: &str,
    build: &ExportedBuild,
    conf: &DkmsConf,
) -> Result<(), Misfit> {
    if build.architecture != architecture() {
        return Err(Misfit::Architecture(build.architecture.clone()));
    }
    if let Some(exclusion) = conf.excluded.first() {
        return Err(Misfit::Excluded(exclusion.to_string()));
    }
    let found: BTreeSet<&str> = build.modules.iter().map(|module| module.name.as_str()).collect();
    let expected: BTreeSet<&str> = conf.built.iter().map(|built| built.name.as_str()).collect();
    if found != expected {
        let list = |names: BTreeSet<&str>| match names.is_empty() {
            true => "no module".to_owned(),
            false => names.into_iter().collect::<Vec<_>>().join(", "),
        };
        return Err(Misfit::Modules { found: list(found), expected: list(expected) });
    }
    for module in &build.modules {
        agrees(scope, directory, module)?;
    }
    match prove_files(scope, cache, directory, conf).0 {
        ProofStanding::Proven => {}
        ProofStanding::Flawed(flaws) => return Err(Misfit::Flawed(in_words(&flaws))),
        ProofStanding::Unchecked(reason) => return Err(Misfit::Unknown(reason)),
    }
    let Some(expected) = vermagic_of_kernel(scope)? else { return Ok(()) };
    match build.modules.iter().find(|module| module.vermagic.trim_end() != expected.trim_end()) {
        None => Ok(()),
        Some(module) => {
            Err(Misfit::Vermagic { name: module.name.clone(), found: module.vermagic.clone(), expected })
        }
    }
}

/// Compares a module with its description.
fn agrees(scope: &KernelSymbols<'_>, directory: &str, module: &ExportedModule) -> Result<(), Misfit> {
    let name = || module.name.clone();
    let missing = || Misfit::Manifest { name: name(), what: "there is no such file".to_owned() };
    let (path, _) = find_file(scope.root(), directory, &module.name).ok_or_else(missing)?;
    let image = ModuleImage::of_file(scope.root(), &path, &path).map_err(|e| Misfit::Flawed(e.of(&path)))?;
    let info = module_file::info(&image).map_err(|e| Misfit::Flawed(format!("{path}: {e:#}")))?;
    let symbols = symbols_of(&image).map_err(|e| Misfit::Flawed(format!("{path}: {e}")))?;
    let is_same = [
        (info.vermagic.as_deref() == Some(&module.vermagic), "vermagic"),
        (info.depends == module.depends, "depends"),
        (symbols == module.symbols, "symbols"),
    ];
    match is_same.into_iter().find(|(is_same, _)| !is_same) {
        None => Ok(()),
        Some((_, what)) => Err(Misfit::Manifest { name: name(), what: what.to_owned() }),
    }
}

/// The vermagic of a module of the kernel itself; none if it has none, or is damaged.
///
/// # Errors
/// When the module cannot be read.
fn vermagic_of_kernel(scope: &KernelSymbols<'_>) -> Result<Option<String>, Misfit> {
    let Some(path) = scope.own_modules().next() else { return Ok(None) };
    let image = match ModuleImage::of_file(scope.root(), &path, &path) {
        Ok(image) => image,
        Err(ImageError::Damaged(_)) => return Ok(None),
        Err(e) => return Err(Misfit::Unknown(e.of(&path))),
    };
    // A damaged module shows nothing.
    let vermagic = module_file::info(&image).ok().and_then(|info| info.vermagic);
    Ok(vermagic.filter(|vermagic| made_for(vermagic) == Some(scope.release())))
}
