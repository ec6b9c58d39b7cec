//! Exporting a module: what is proven on a kernel, with its source, as one archive.

use std::io::BufWriter;
use std::path::Path;

use crate::context::Context;
use crate::dkms::plan::built_directory;
use crate::dkms::{Cache, ModuleName, ModuleOnKernel, Proof, Source, Stage, compare_versions, modfile};
use crate::exit::ExitReason;
use crate::report::transfer::{ExportDocument, ExportedKernel};
use crate::state::{self, RECORD, RunRecord};
use crate::sys::{FileError, OutputFile, Root};
use crate::system::System;
use crate::transfer::{self, ExportError, SCHEMA, TransferManifest, describe_build, describe_source};

/// What is exported.
#[derive(Debug)]
pub struct ExportPlan {
    manifest: TransferManifest,
    source: String,
    /// The kernels, also those that are left out.
    pub kernels: Vec<ExportedKernel>,
}

/// Selects the builds of a module, NAME or NAME/VERSION, that are proven on kernels, given by their releases;
/// without them on every installed kernel.
///
/// # Errors
/// When the module is not proven on a kernel that is asked for, or on none.
pub fn plan(context: &Context, asked: &str, kernels: &[String]) -> Result<ExportPlan, ExitReason> {
    let root = &context.root;
    let inventory = crate::kernel::Inventory::observe(root);
    let all = || inventory.kernels.iter().map(|kernel| kernel.name.release()).collect();
    let releases: Vec<String> = if kernels.is_empty() { all() } else { kernels.to_vec() };
    let mut system = System::observe_also(context, &mut Cache::load(root), &releases);
    if let Some(reason) = super::sequence::unreadable(context, &system) {
        return Err(ExitReason::unknown(reason));
    }
    system.look_at_sources(root, state::load::<RunRecord>(root, RECORD).as_good());
    let module = named(&system, asked)?;
    let registered = system.tree.modules.iter().find(|known| known.module == module);
    let source = match registered.map(|known| &known.source) {
        Some(Source::Directory { path, .. }) => path.display().to_string(),
        Some(Source::Broken { reason } | Source::Unknown { reason }) => {
            return Err(ExitReason::attention(format!("{module}: {reason}")));
        }
        None => return Err(ExitReason::attention(format!("{module} is not registered"))),
    };
    let entries = describe_source(root, &source).map_err(ExitReason::attention)?;
    let (mut builds, mut reported) = (Vec::new(), Vec::new());
    for release in releases {
        let pair = system.module_on_kernel(&module, &release);
        let reason = match pair.map(|pair| exportable(root, pair)) {
            None => Some("it is not known there".to_owned()),
            Some(Err(reason)) => Some(reason),
            Some(Ok(())) => None,
        };
        if let (Some(reason), false) = (&reason, kernels.is_empty()) {
            return Err(ExitReason::attention(format!("{module} on {release}: {reason}")));
        }
        if reason.is_none() {
            let build = describe_build(root, &module, &release, &entries);
            builds.push(build.map_err(ExitReason::attention)?);
        }
        reported.push(ExportedKernel { kernel: release, exported: reason.is_none(), reason });
    }
    if builds.is_empty() {
        let why: Vec<String> = reported
            .iter()
            .filter_map(|kernel| Some(format!("{}: {}", kernel.kernel, kernel.reason.as_ref()?)))
            .collect();
        let why = if why.is_empty() { "no kernel is installed".to_owned() } else { why.join("; ") };
        return Err(ExitReason::attention(format!("{module} is proven on no kernel: {why}")));
    }
    let manifest = TransferManifest {
        schema: SCHEMA,
        tool: format!("clr-dkms {}", env!("CARGO_PKG_VERSION")),
        name: module.name,
        version: module.version,
        source: entries,
        builds,
    };
    Ok(ExportPlan { manifest, source, kernels: reported })
}

/// The newest version of the module that an argument names.
fn named(system: &System, asked: &str) -> Result<ModuleName, ExitReason> {
    let names = |module: &ModuleName| asked == module.name || asked == module.to_string();
    let known = || system.tree.modules.iter().map(|known| &known.module);
    let newest =
        known().filter(|module| names(module)).max_by(|a, b| compare_versions(&a.version, &b.version));
    newest.cloned().ok_or_else(|| {
        let all: Vec<String> = known().map(ModuleName::to_string).collect();
        let all = if all.is_empty() { "no module is registered".to_owned() } else { all.join(", ") };
        ExitReason::attention(format!("there is no module {asked} in the DKMS tree; there are: {all}"))
    })
}

/// Whether a module on a kernel may be exported.
fn exportable(root: &Root, pair: &ModuleOnKernel) -> Result<(), String> {
    let proofs = match &pair.proof {
        Ok(proofs) => proofs,
        Err(flaws) => return Err(format!("it is not proven: {}", crate::dkms::proof::in_words(flaws))),
    };
    let is_kept = |proof: &Proof| -> Result<bool, FileError> {
        let file = proof.path.rsplit('/').next().unwrap_or_default();
        match modfile::sha256(root, &format!("{}/{file}", built_directory(&pair.module, &pair.release))) {
            Err(e) if e.leaves_open() => Err(e),
            // Another error is a fact: it is not there.
            sum => Ok(proof.sha256.is_some() && sum.ok() == proof.sha256),
        }
    };
    let kept = proofs.iter().map(is_kept).collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
    if pair.stage != Stage::Installed || kept.contains(&false) {
        return Err("what was built is not in the DKMS tree any more: rebuild it first".to_owned());
    }
    if pair.source_changed {
        return Err("its source has changed since it was built: rebuild it first".to_owned());
    }
    let checks = proofs.iter().flat_map(|proof| &proof.checks);
    match checks.into_iter().find_map(|check| check.not_made.as_ref()) {
        Some(reason) => Err(format!("not everything could be checked: {reason}")),
        None => Ok(()),
    }
}

/// The document of a plan, before the archive is written.
pub fn document(plan: &ExportPlan, file: &Path) -> ExportDocument {
    let manifest = &plan.manifest;
    ExportDocument {
        schema: 1,
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        file: file.display().to_string(),
        source_files: manifest.source.len(),
        kernels: plan.kernels.clone(),
        written: false,
    }
}

/// Writes the archive.
///
/// # Errors
/// When something cannot be read or written; a file of that name is unchanged then.
pub fn write(context: &Context, plan: &ExportPlan, file: &Path) -> Result<(), ExportError> {
    let mut output = OutputFile::create(file)?;
    let mut writer = BufWriter::new(output.writer());
    transfer::write(&context.root, &plan.manifest, &plan.source, &mut writer)?;
    writer.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    Ok(output.finish()?)
}
