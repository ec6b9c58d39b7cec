//! Trying a source: unpack, find, probe, build in scratch. Nothing is written outside of a scratch directory.

mod source_trial;

use std::path::{Path, PathBuf};

use super::side_offer::{STEP, complete, find_side_files};
use crate::adopt::unpack::{UnpackError, unpack};
use crate::adopt::{AdoptError, Adoptable, Search, difference, find, inspect, place};
use crate::context::Context;
use crate::dkms::lint::{KernelOwn, Severity, own_modules};
use crate::dkms::{Cache, ModuleName, Tree, conf};
use crate::kernel::Inventory;
use crate::kernel::module_file::kernel_name;
use crate::report::add::{AddDocument, AddStep, StepResult};
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::sys::{FileKind, Scratch, scratch};
use source_trial::SourceTrial;

/// Stands for any kernel where none is installed: a `dkms.conf` may compute with the numbers.
pub const ANY_KERNEL: &str = "6.15.0-1.native";
/// The directory of clr-dkms in a root.
const STATE: &str = "/var/lib/clr-dkms";

/// What a source may be.
const KINDS: &str = "give a directory, a git checkout, or an archive: tar (also compressed by gzip, xz, zstd or \
                     bzip2), zip, deb, rpm; nothing is downloaded";

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct AddOrder {
    /// The source, on this machine.
    pub source: PathBuf,
    /// The name of the module.
    pub name: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The `dkms.conf` in the source; the path of the source may be in front of it.
    pub conf: Option<PathBuf>,
    /// Do not build before the registration.
    pub no_build: bool,
    /// Only look: nothing is built.
    pub look_only: bool,
}

/// A source that was tried.
#[derive(Debug)]
pub struct Prepared {
    pub(super) scratch: Scratch,
    pub(super) source: PathBuf,
    /// The module.
    pub module: ModuleName,
    /// The kernels that it is for.
    pub releases: Vec<String>,
}

/// The directories for scratch directories: the first one that is there is used.
const SCRATCH: [&str; 3] = ["/var/tmp", "/tmp", STATE];

/// The directory on this machine for a scratch directory: below the root, so that programs in a sandbox see
/// it as they see the root.
pub(super) fn new_scratch(context: &Context) -> Result<Scratch, String> {
    let root = &context.root;
    let place = SCRATCH.into_iter().find(|place| root.lookup(place).is(FileKind::Directory));
    let place = match place {
        Some(place) => place,
        None => {
            root.make_directories(STATE).map_err(|e| e.to_string())?;
            STATE
        }
    };
    let parent = root.real_path(place).map_err(|e| e.to_string())?;
    Scratch::new(&parent).map_err(|e| format!("no scratch directory in {}: {e}", parent.display()))
}

/// Removes the scratch directories of killed runs.
pub fn remove_abandoned(context: &Context) {
    let root = &context.root;
    for place in SCRATCH.into_iter().filter(|place| root.lookup(place).is(FileKind::Directory)) {
        match root.real_path(place) {
            Ok(parent) => scratch::remove_abandoned(&parent),
            Err(e) => tracing::debug!("{e}"),
        }
    }
}

/// Unpacks, finds out, and tries. The document has each step. None when one failed.
pub fn prepare(context: &Context, order: &AddOrder, document: &mut AddDocument) -> Option<Prepared> {
    document.schema = 1;
    document.source = order.source.display().to_string();
    if !order.look_only {
        remove_abandoned(context);
    }
    let scratch = match new_scratch(context) {
        Ok(scratch) => scratch,
        Err(why) => {
            document.steps.add("unpack", StepResult::Failed, why);
            return None;
        }
    };
    let unpacked = match unpack(&context.tools, &order.source, scratch.root()) {
        Ok(unpacked) => unpacked,
        Err(e) => {
            let next_step = match &e {
                UnpackError::NotOpened { .. } => Some(instead(context, &order.source)),
                UnpackError::Format => Some(KINDS.to_owned()),
                _ => None,
            };
            let (result, text) = (StepResult::Failed, e.to_string());
            document.steps.push(AddStep { step: "unpack", result, text, next_step, ..AddStep::default() });
            return None;
        }
    };
    document.steps.add("unpack", StepResult::Done, unpacked.kind.to_string());
    for note in &unpacked.notes {
        document.steps.add("unpack", StepResult::Warning, note);
    }
    let inventory = Inventory::observe(&context.root);
    let releases: Vec<String> = inventory.tips().iter().map(|kernel| kernel.name.release()).collect();
    let release = releases.first().map_or(ANY_KERNEL, String::as_str);
    let confs = order.conf.iter().flat_map(|asked| places_of(&order.source, asked)).collect::<Vec<_>>();
    let search = Search {
        root: &context.root,
        tools: &context.tools,
        scratch: scratch.root(),
        unpacked: &unpacked,
        name: order.name.as_deref(),
        version: order.version.as_deref(),
        confs: &confs,
        release,
    };
    let found = find(&search).and_then(|found| {
        let source = place(scratch.root(), &unpacked, &found)?;
        Ok((found, source))
    });
    let (mut found, source) = match found {
        Ok(found) => found,
        Err(e) => {
            document.choices = e.confs().to_vec();
            refuse(document, &e);
            return None;
        }
    };
    let module = ModuleName { name: found.name.clone(), version: found.version.clone() };
    document.steps.add("find", StepResult::Done, module.to_string());
    if !found.conf.hook("POST_ADD").is_empty() {
        document.steps.add("find", StepResult::Warning, "its POST_ADD script is not run");
    }
    let trial = SourceTrial { context, scratch: &scratch, unpacked: &unpacked, order, inventory: &inventory };
    let tried = trial.run(&mut found, document);
    describe(document, &found);
    availability(context, &releases, document);
    for text in inspected(context, (&scratch, &source), &module, &releases) {
        document.steps.add("lint", StepResult::Warning, text);
    }
    find_side_files(&scratch, &unpacked, &module.name, document);
    let tried = tried?;
    complete(context, &module.name, &tried, document);
    if tried.is_empty() {
        let later = "which drivers of the kernel are to be blacklisted, whether a device loads the module, and \
                     which firmware is missing is known only when it is built";
        document.steps.add(STEP, StepResult::Skipped, later);
    }
    Some(Prepared { scratch, source, module, releases })
}

/// The paths in a source that are meant by the path of a `dkms.conf`.
fn places_of(source: &Path, asked: &Path) -> Vec<PathBuf> {
    let absolute = |path: &Path| std::path::absolute(path);
    let below = absolute(source).and_then(|source| {
        let asked = absolute(asked)?;
        // One that is elsewhere is not below it.
        Ok(asked.strip_prefix(source).ok().map(Path::to_owned))
    });
    // Without a working directory it can only be relative to the source.
    std::iter::once(asked.to_owned()).chain(below.ok().flatten()).collect()
}

/// Warns of the modules that a kernel has already.
fn availability(context: &Context, releases: &[String], document: &mut AddDocument) {
    for release in releases {
        let own = own_modules(&context.root, release);
        for name in document.modules.clone() {
            let how = match own.get(&kernel_name(&name)) {
                None => continue,
                Some(KernelOwn::Module) => "has",
                Some(KernelOwn::BuiltIn) => "has built in",
            };
            let text = format!(
                "{release} {how} a module {name} already; `swupd search-file {name}.ko` finds its bundle"
            );
            document.steps.add("available", StepResult::Warning, text);
            if !document.in_kernel.contains(&name) {
                document.in_kernel.push(name);
            }
        }
    }
}

/// What `clr-dkms lint` finds in a source that is to be built. Advice is for its authors.
pub(super) fn inspected(
    context: &Context,
    (scratch, source): (&Scratch, &Path),
    module: &ModuleName,
    releases: &[String],
) -> Vec<String> {
    let (root, tools) = (&context.root, &context.tools);
    let rules = conf::version::rules(tools, &mut Cache::default());
    let name = format!("{}-{}", module.name, module.version);
    let findings = match inspect((root, tools), (scratch.root(), source, &name), releases, rules) {
        Ok(findings) => findings,
        Err(e) => return vec![e.to_string()],
    };
    let mut important: Vec<_> = findings.iter().filter(|found| found.severity != Severity::Advice).collect();
    // What dkms refuses comes first.
    important.sort_by_key(|found| found.severity);
    let text = important.into_iter().map(|found| {
        let line = found.line.map(|line| format!(":{line}")).unwrap_or_default();
        format!("{}{line}: {} [{}]", found.file, found.what, found.id)
    });
    text.collect()
}

fn refuse(document: &mut AddDocument, error: &AdoptError) {
    document.steps.push(AddStep {
        step: "find",
        result: StepResult::Failed,
        text: error.to_string(),
        cause: Some(error.id()),
        evidence: error.evidence().cloned(),
        next_step: error.next_step(),
    });
}

/// What helps when the source cannot be opened.
fn instead(context: &Context, asked: &Path) -> String {
    let is_meant = |module: &ModuleName| {
        asked.to_str().is_some_and(|asked| asked == module.name || asked == module.to_string())
    };
    let known = Tree::observe(&context.root).modules.into_iter().find(|known| is_meant(&known.module));
    match known {
        Some(known) => {
            let rebuild = AdminCommand::change("clr-dkms", &["rebuild", &known.module.to_string()]);
            let text = rebuild.text(&CommandTarget::of_root(&context.root));
            format!("{} is registered already; {text}", known.module)
        }
        None => KINDS.to_owned(),
    }
}

fn describe(document: &mut AddDocument, found: &Adoptable) {
    document.name = Some(found.name.clone());
    document.version = Some(found.version.clone());
    let base = found.base.display().to_string();
    document.directory = Some(if base.is_empty() { ".".to_owned() } else { base });
    document.modules = found.conf.built.iter().map(|built| built.name.clone()).collect();
    document.decisions.clone_from(&found.decisions);
    document.dkms_conf = Some(found.text.clone());
    if let Some((path, text)) = &found.original {
        document.original = Some(path.display().to_string());
        document.changes = difference(text, &found.text);
    }
}
