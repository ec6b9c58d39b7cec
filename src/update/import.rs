//! Importing modules that another machine exported: checks of the archives, and which binaries are used for
//! which kernel. Nothing is written outside of scratch directories here.

mod install;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::adopt::{Prepared, inspected, new_scratch, remove_abandoned};
use super::registration::{self, Before};
use crate::adopt::unpack::{SourceKind, unpack};
use crate::context::Context;
use crate::dkms::conf::{self, ConfError};
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::{Cache, DkmsConf, ModuleName, is_usable_name};
use crate::kernel::Inventory;
use crate::limits::ADOPTED_SOURCE;
use crate::report::add::StepResult;
use crate::report::transfer::{ImportOrigin, ImportedArchive, ImportedKernel};
use crate::sys::{Root, RootKind, Scratch};
use crate::system::System;
use crate::transfer::{ArchiveSignature, BINARIES, Misfit, SOURCE, SigningKeys, TransferManifest, fit};

pub use install::{finish, install, register};

/// The directory in the scratch root that an archive is copied to.
const COPY: &str = "/archive";
/// The end of the name of a detached signature.
const SIGNATURE: &str = "minisig";
/// A signature has less than this.
const LONGEST_SIGNATURE: u64 = 16 << 10;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct ImportOrder {
    /// Use binaries without a valid signature.
    pub trust_binaries: bool,
    /// Put the modules in the place of older versions.
    pub replace: bool,
    /// Only look: nothing is changed.
    pub look_only: bool,
}

/// An archive that was checked.
#[derive(Debug)]
pub struct ReadyImport {
    /// Its source.
    pub prepared: Prepared,
    /// What was there before.
    pub before: Before,
    manifest: Option<TransferManifest>,
    /// Where each kernel gets the module from.
    pub kernels: Vec<ImportedKernel>,
}

impl ReadyImport {
    /// The kernels that get it in that way.
    pub fn of(&self, origin: ImportOrigin) -> impl Iterator<Item = &str> {
        let kernels = self.kernels.iter().filter(move |kernel| kernel.origin == origin);
        kernels.map(|kernel| kernel.kernel.as_str())
    }
}

/// What all archives of a call are checked with.
#[derive(Debug)]
pub struct ImportCheck<'a> {
    context: &'a Context,
    order: &'a ImportOrder,
    keys: SigningKeys,
    inventory: Inventory,
    system: System,
}

impl<'a> ImportCheck<'a> {
    /// Reads the keys and observes the machine.
    ///
    /// # Errors
    /// When the keys cannot be read, or it is unknown what is there.
    pub fn new(context: &'a Context, order: &'a ImportOrder) -> Result<ImportCheck<'a>, String> {
        if !order.look_only {
            remove_abandoned(context);
        }
        let keys = SigningKeys::load(&context.root).map_err(|e| e.to_string())?;
        let inventory = Inventory::observe(&context.root);
        let releases: Vec<String> = inventory.kernels.iter().map(|kernel| kernel.name.release()).collect();
        let system = System::observe_also(context, &mut Cache::load(&context.root), &releases);
        if let Some(reason) = super::sequence::unreadable(context, &system) {
            return Err(reason);
        }
        Ok(ImportCheck { context, order, keys, inventory, system })
    }

    /// Key files that are not used.
    pub fn faults(&self) -> &[String] {
        &self.keys.faults
    }

    /// Checks an archive. None when it is refused; the document says why.
    pub fn archive(&self, file: &Path, found: &mut ImportedArchive) -> Option<ReadyImport> {
        found.file = file.display().to_string();
        match self.checked(file, found) {
            Ok(ready) => Some(ready),
            Err((step, why)) => {
                found.steps.add(step, StepResult::Failed, why);
                None
            }
        }
    }

    fn checked(
        &self,
        file: &Path,
        found: &mut ImportedArchive,
    ) -> Result<ReadyImport, (&'static str, String)> {
        let scratch = new_scratch(self.context).map_err(|why| ("unpack", why))?;
        let copy = copied(file, &scratch).map_err(|why| ("unpack", why))?;
        let signature = self.signature(file, &scratch, &copy).map_err(|why| ("signature", why))?;
        describe_signature(&signature, found);
        if signature.is_bad() {
            return Err(("signature", signature.to_string()));
        }
        let real = scratch.root().real_path(&copy).map_err(|e| ("unpack", e.to_string()))?;
        let unpacked =
            unpack(&self.context.tools, &real, scratch.root()).map_err(|e| ("unpack", e.to_string()))?;
        let copied = scratch.root().remove(&copy);
        copied.map_err(|e| ("unpack", e.to_string()))?;
        if unpacked.kind != SourceKind::Mktarball {
            let why = "it is not an archive of `clr-dkms export` or of `dkms mktarball`; `clr-dkms add` \
                       adopts other sources";
            return Err(("unpack", why.to_owned()));
        }
        let top = unpacked.top.parent().unwrap_or(&unpacked.top).display().to_string();
        let manifest = TransferManifest::load(scratch.root(), &top).map_err(|e| ("check", e.to_string()))?;
        match &manifest {
            Some(manifest) => {
                manifest.verify(scratch.root(), &top).map_err(|e| ("check", e.to_string()))?;
                let files =
                    manifest.source.len() + manifest.builds.iter().map(|b| b.files.len()).sum::<usize>();
                found.steps.add("check", StepResult::Done, format!("{files} files are as the manifest says"));
            }
            None => found.steps.add("check", StepResult::Warning, "the archive has no manifest"),
        }
        let source = format!("{top}/{SOURCE}");
        let confs =
            Confs { context: self.context, scratch: &scratch, source: &source, known: RefCell::default() };
        let module = self.module(&confs, manifest.as_ref(), found).map_err(|why| ("check", why))?;
        let checked = Checked { signature: &signature, manifest: manifest.as_ref(), top: &top };
        let known = confs.known;
        let releases = self.inventory.tips().iter().map(|kernel| kernel.name.release()).collect();
        let prepared = Prepared { scratch, source: PathBuf::from(&source), module, releases };
        let before = registration::compare(self.context, &prepared, self.order.replace);
        let before = before.map_err(|e| ("register", e.to_string()))?;
        let confs = Confs { context: self.context, scratch: &prepared.scratch, source: &source, known };
        // What is installed may be built from a source that is replaced.
        let installed = (!before.replaces_source).then_some(&prepared.module);
        let kernels = self.kernels(installed, &confs, &checked).map_err(|why| ("check", why))?;
        self.report(&kernels, manifest.as_ref(), found);
        // Binaries were built by the machine that they come from.
        let is_built = |kernel: &&ImportedKernel| kernel.origin == ImportOrigin::Build;
        let built: Vec<String> =
            kernels.iter().filter(is_built).map(|kernel| kernel.kernel.clone()).collect();
        if !built.is_empty() {
            let source = (&prepared.scratch, prepared.source.as_path());
            for text in inspected(self.context, source, &prepared.module, &built) {
                found.steps.add("lint", StepResult::Warning, text);
            }
        }
        Ok(ReadyImport { prepared, before, manifest, kernels })
    }

    fn signature(&self, file: &Path, scratch: &Scratch, copy: &str) -> Result<ArchiveSignature, String> {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".{SIGNATURE}"));
        let text = match opened(Path::new(&name)) {
            Ok(file) => {
                let mut text = Vec::new();
                let read = file.take(LONGEST_SIGNATURE).read_to_end(&mut text);
                read.map_err(|e| format!("{}: {e}", name.display()))?;
                Some(text)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(format!("{}: {e}", name.display())),
        };
        let archive = scratch.root().open_file(copy).map_err(|e| e.to_string())?;
        self.keys.check(text.as_deref(), archive).map_err(|e| e.to_string())
    }

    /// The module in the archive, as its `dkms.conf` names it.
    fn module(
        &self,
        confs: &Confs<'_>,
        manifest: Option<&TransferManifest>,
        found: &mut ImportedArchive,
    ) -> Result<ModuleName, String> {
        let release = self.inventory.tips().first().map(|kernel| kernel.name.release());
        let conf = confs.of(release.as_deref().unwrap_or(super::adopt::ANY_KERNEL))?;
        let module = ModuleName { name: conf.package_name.clone(), version: conf.package_version.clone() };
        if let Some(bad) = [&module.name, &module.version].into_iter().find(|name| !is_usable_name(name)) {
            return Err(format!("its dkms.conf has a name that dkms cannot take: {bad:?}"));
        }
        if manifest.is_some_and(|manifest| manifest.module() != module) {
            return Err(format!(
                "its dkms.conf is that of {module}, and its manifest that of another module"
            ));
        }
        found.name = Some(module.name.clone());
        found.version = Some(module.version.clone());
        found.dkms_conf = Some(confs.text()?);
        Ok(module)
    }

    /// Decides for each kernel where the module comes from: for those that boot by default of their variant,
    /// and for the others that the archive has binaries for.
    fn kernels(
        &self,
        installed: Option<&ModuleName>,
        confs: &Confs<'_>,
        checked: &Checked<'_>,
    ) -> Result<Vec<ImportedKernel>, String> {
        let mut found = Vec::new();
        let mut cache = Cache::default();
        for kernel in &self.inventory.kernels {
            let release = kernel.name.release();
            let build = checked.manifest.and_then(|m| m.builds.iter().find(|build| build.kernel == release));
            let is_tip = self.inventory.is_tip(&release);
            if !is_tip && build.is_none() {
                continue;
            }
            let mut add = |origin, reason: Option<String>, cause| {
                found.push(ImportedKernel { kernel: release.clone(), origin, reason, cause });
            };
            let present = installed.and_then(|module| self.system.module_on_kernel(module, &release));
            if present.is_some_and(|pair| pair.proof.is_ok()) {
                add(ImportOrigin::Present, None, None);
                continue;
            }
            let conf = confs.of(&release)?;
            if let Some(exclusion) = conf.excluded.first() {
                add(ImportOrigin::None, Some(exclusion.to_string()), Some("excluded"));
                continue;
            }
            let otherwise = if is_tip { ImportOrigin::Build } else { ImportOrigin::None };
            let Some(build) = build else {
                add(otherwise, Some("the archive has no binaries for it".to_owned()), Some("no-binaries"));
                continue;
            };
            if !checked.signature.is_valid() && !self.order.trust_binaries {
                let why =
                    format!("its binaries are not used without a valid signature: {}", checked.signature);
                add(otherwise, Some(why), Some("signature"));
                continue;
            }
            let scope =
                KernelSymbols::load(&self.context.root, &release, &kernel.headers, self.context.clock.now());
            let fits = scope.map_err(|e| Misfit::Unknown(e.to_string())).and_then(|scope| {
                let directory = format!("{}/{BINARIES}/{}/module", checked.top, build.directory());
                let directory = confs.inside(&directory).map_err(Misfit::Unknown)?;
                fit(&scope, &mut cache, &directory, build, &conf)
            });
            match fits {
                Ok(()) => add(ImportOrigin::Archive, None, None),
                Err(why) => add(otherwise, Some(why.to_string()), Some(why.id())),
            }
        }
        Ok(found)
    }

    fn report(
        &self,
        kernels: &[ImportedKernel],
        manifest: Option<&TransferManifest>,
        found: &mut ImportedArchive,
    ) {
        for kernel in kernels {
            let ImportedKernel { kernel, origin, reason, cause } = kernel;
            let reason = reason.as_deref().unwrap_or_default();
            let (result, text) = match (origin, cause) {
                (ImportOrigin::Archive, _) => {
                    (StepResult::Done, "the binaries of the archive fit".to_owned())
                }
                (ImportOrigin::Present, _) => (StepResult::Skipped, "it is installed already".to_owned()),
                (ImportOrigin::Build, Some("no-binaries")) => {
                    (StepResult::Done, format!("it is built from the source: {reason}"))
                }
                (ImportOrigin::Build, _) => {
                    (StepResult::Warning, format!("it is built from the source: {reason}"))
                }
                (ImportOrigin::None, _) => (StepResult::Skipped, reason.to_owned()),
            };
            found.steps.add("kernel", result, format!("{kernel}: {text}"));
        }
        let builds = manifest.iter().flat_map(|manifest| &manifest.builds);
        for build in builds.filter(|build| self.inventory.of_release(&build.kernel).is_none()) {
            let text = format!("{}: the kernel is not installed here", build.kernel);
            found.steps.add("kernel", StepResult::Skipped, text);
        }
        if kernels.is_empty() {
            found.steps.add("kernel", StepResult::Skipped, "no kernel is installed");
        }
        found.kernels = kernels.to_vec();
    }
}

/// What is known of an archive when its kernels are decided about.
struct Checked<'a> {
    signature: &'a ArchiveSignature,
    manifest: Option<&'a TransferManifest>,
    /// The directory of its contents in the scratch root.
    top: &'a str,
}

/// The `dkms.conf` of an unpacked source.
struct Confs<'a> {
    context: &'a Context,
    scratch: &'a Scratch,
    /// The directory in the scratch root.
    source: &'a str,
    /// The values for kernels.
    known: RefCell<BTreeMap<String, DkmsConf>>,
}

impl Confs<'_> {
    /// A path of the scratch root, as a path inside the root.
    fn inside(&self, path: &str) -> Result<String, String> {
        let real = self.scratch.root().real_path(path).map_err(|e| e.to_string())?;
        let inside = self.context.root.inside(&real).ok_or("the scratch directory is in another root")?;
        Ok(inside.display().to_string())
    }

    /// The text.
    fn text(&self) -> Result<String, String> {
        let path = format!("{}/dkms.conf", self.source);
        let bytes = self.scratch.root().read_within(path, crate::limits::TEXT).map_err(|e| e.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The value for a kernel.
    fn of(&self, release: &str) -> Result<DkmsConf, String> {
        if let Some(conf) = self.known.borrow().get(release) {
            return Ok(conf.clone());
        }
        let Context { root, tools, .. } = self.context;
        let inside = PathBuf::from(self.inside(self.source)?);
        let reason = |e: ConfError| e.to_string();
        let files = conf::files(root, &inside, None, release).map_err(reason)?;
        let (conf, _) = conf::traced(root, tools, &files, None, release).map_err(reason)?;
        if let Some(error) = &conf.syntax {
            return Err(format!("bash cannot read its dkms.conf: {}", error.message));
        }
        match conf.refusals.first() {
            Some(refusal) => Err(format!("its dkms.conf: {refusal}")),
            None => {
                self.known.borrow_mut().insert(release.to_owned(), conf.clone());
                Ok(conf)
            }
        }
    }
}

/// Opens a file of this machine.
#[allow(clippy::disallowed_methods)] // a path of the caller, whatever the root is
fn opened(path: &Path) -> std::io::Result<File> {
    let path = path.canonicalize()?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::Error::other("it is not a file"));
    };
    let root = Root::open(RootKind::Image, parent).map_err(|e| e.cause)?;
    root.open_file(Path::new("/").join(name)).map_err(|e| e.cause)
}

/// Copies an archive to the scratch directory: what is checked is then what is unpacked. Returns the path in
/// the scratch root.
fn copied(file: &Path, scratch: &Scratch) -> Result<String, String> {
    let mut from = opened(file).map_err(|e| e.to_string())?;
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = format!("{COPY}/{name}");
    let root = scratch.root();
    root.make_directories(COPY).map_err(|e| e.to_string())?;
    let mut to = root.create_new(&path, 0o600).map_err(|e| e.to_string())?;
    from.seek(SeekFrom::Start(0)).map_err(|e| e.to_string())?;
    let copied = std::io::copy(&mut (&mut from).take(ADOPTED_SOURCE + 1), &mut to);
    match copied.map_err(|e| e.to_string())? {
        size if size > ADOPTED_SOURCE => Err(format!("it is larger than {} MiB", ADOPTED_SOURCE >> 20)),
        _ => Ok(path),
    }
}

fn describe_signature(signature: &ArchiveSignature, found: &mut ImportedArchive) {
    let (word, key) = match signature {
        ArchiveSignature::Valid { key, .. } => ("valid", Some(key.clone())),
        ArchiveSignature::Absent => ("absent", None),
        ArchiveSignature::UnknownKey => ("unknown-key", None),
        ArchiveSignature::Altered { .. } => ("altered", None),
        ArchiveSignature::Unusable(_) => ("unusable", None),
    };
    found.signature = Some(word);
    found.key = key;
    if signature.is_valid() {
        found.steps.add("signature", StepResult::Done, signature.to_string());
    } else if !signature.is_bad() {
        found.steps.add("signature", StepResult::Warning, signature.to_string());
    }
}
