//! Trying a source: unpack, find, probe, build in scratch. Nothing is written outside of a scratch directory.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::side_offer::{BuiltOnKernel, STEP, complete, find_side_files};
use crate::adopt::unpack::{UnpackError, Unpacked, unpack};
use crate::adopt::{
    AdoptError, Adoptable, BuiltModule, Evidence, SOURCES, Search, Trial, TrialFailure, difference, find,
    inspect, place, with_kernel,
};
use crate::context::Context;
use crate::dkms::conf::Trace;
use crate::dkms::first_error::{self, FirstError};
use crate::dkms::lint::{KernelOwn, Severity, own_modules};
use crate::dkms::{Cache, DkmsConf, ModuleName, Tree, conf};
use crate::kernel::module_file::kernel_name;
use crate::kernel::{Headers, Inventory};
use crate::report::add::{AddDocument, AddStep, StepResult};
use crate::report::cause_remedy::cause_remedy;
use crate::report::packages::Packages;
use crate::report::remedy::{AdminCommand, CommandTarget};
use crate::sys::{FileKind, Scratch, child, scratch};

/// Stands for any kernel where none is installed: a `dkms.conf` may compute with the numbers.
pub(super) const ANY_KERNEL: &str = "6.15.0-1.native";
/// A filesystem with less room is full.
const ROOM: u64 = 1 << 20;
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
    let tried = try_it(context, (&scratch, &unpacked), order, &inventory, &mut found, document);
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
    let mut important: Vec<_> =
        findings.iter().filter(|found| found.severity != Severity::Advice).collect();
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

/// Probes, and builds in scratch. Returns the modules that were built for each kernel; none when it cannot be
/// built.
fn try_it(
    context: &Context,
    (scratch, unpacked): (&Scratch, &Unpacked),
    order: &AddOrder,
    inventory: &Inventory,
    found: &mut Adoptable,
    document: &mut AddDocument,
) -> Option<Vec<BuiltOnKernel>> {
    let mut built = Vec::new();
    let kernels = inventory.tips();
    if kernels.is_empty() {
        document.steps.add("probe", StepResult::Skipped, "no kernel is installed");
    }
    let (all, mut excluded) = (kernels.len(), Vec::new());
    for kernel in kernels {
        let release = &kernel.name.release();
        let (conf, trace) = match evaluated(context, scratch, found, release) {
            Ok(evaluated) => evaluated,
            Err(why) => {
                document.steps.add("build", StepResult::Failed, format!("{release}: {why}"));
                return None;
            }
        };
        if let Some(exclusion) = conf.excluded.first() {
            document.steps.add("build", StepResult::Skipped, format!("{release}: {exclusion}"));
            excluded.push(trace.line_of(&exclusion.directive).map(|(_, line)| line));
            continue;
        }
        if kernel.headers != Headers::Present {
            let why = format!("the headers of {release} are not installed");
            document.steps.add("probe", StepResult::Skipped, why);
            continue;
        }
        let mut here = Adoptable { conf, ..found.clone() };
        let probed = probe(context, (scratch, unpacked), release, &mut here);
        // What make is given by the text is for every kernel; the value is for this one.
        found.text.clone_from(&here.text);
        found.decisions.clone_from(&here.decisions);
        let (result, text) = match probed {
            Ok(ProbeOutcome::Good) => (StepResult::Done, entered(release)),
            Ok(ProbeOutcome::Given(decision)) => {
                (StepResult::Done, format!("{}, {decision}", entered(release)))
            }
            Ok(ProbeOutcome::Bad(why)) | Err(why) => (StepResult::Warning, why),
        };
        document.steps.add("probe", result, text);
        if order.no_build || order.look_only {
            continue;
        }
        let trial = trial(context, scratch, &here, release);
        let done = build(&trial).and_then(|modules| {
            let unchecked = trial.prove(context.clock.now()).map_err(|e| (e.to_string(), None))?;
            Ok((modules, unchecked))
        });
        match done {
            Ok((modules, unchecked)) => {
                built.push((release.clone(), modules));
                let (result, text) = match unchecked {
                    None => (StepResult::Done, "built and proven in scratch".to_owned()),
                    Some(why) => {
                        (StepResult::Warning, format!("built in scratch, and not all can be proven: {why}"))
                    }
                };
                document.steps.add("build", result, format!("{release}: {text}"));
            }
            Err((failure, error)) => {
                let error = of_full(scratch, error);
                let packages = Packages::of(release, inventory);
                let remedy = error.map(|error| cause_remedy(Some(&error), &found.name, &packages));
                let next_step = remedy.map(|remedy| remedy.text(&CommandTarget::of_root(&context.root)));
                let (result, text) = (StepResult::Failed, format!("{release}: {failure}"));
                document.steps.push(AddStep { step: "build", result, text, next_step, ..AddStep::default() });
                return None;
            }
        }
    }
    match excluded.first() {
        Some(line) if excluded.len() == all && !order.no_build => {
            document.steps.push(excludes_all(found, *line));
            None
        }
        _ => Some(built),
    }
}

fn excludes_all(found: &Adoptable, line: Option<usize>) -> AddStep {
    AddStep {
        step: "build",
        result: StepResult::Failed,
        text: "its dkms.conf excludes all of these kernels".to_owned(),
        evidence: line.map(|line| Evidence::of(Path::new("dkms.conf"), line, &found.text)),
        next_step: Some("give a version for one of them, or register it with --no-build".to_owned()),
        ..AddStep::default()
    }
}

/// The path of the `dkms.conf` that is tried, in the scratch root.
fn tried_conf(found: &Adoptable) -> PathBuf {
    Path::new(SOURCES).join(format!("{}-{}", found.name, found.version)).join("dkms.conf")
}

/// The value of that `dkms.conf` for a kernel, and its lines.
fn evaluated(
    context: &Context,
    scratch: &Scratch,
    found: &Adoptable,
    release: &str,
) -> Result<(DkmsConf, Trace), String> {
    let Context { root, tools, .. } = context;
    let real = scratch.root().real_path(tried_conf(found)).map_err(|e| e.to_string())?;
    let inside = root.inside(&real).ok_or("the scratch directory is in another root")?;
    let files = [(inside, found.text.clone().into_bytes())];
    conf::traced(root, tools, &files, None, release).map_err(|e| e.to_string())
}

/// Names the filesystem of the scratch directory, if it is full.
fn of_full(scratch: &Scratch, error: Option<Box<FirstError>>) -> Option<Box<FirstError>> {
    let root = scratch.root();
    // One that cannot be asked is not known to be full.
    match root.shortage("/", ROOM).ok().flatten() {
        Some(lack) => {
            let place = root.path().display().to_string();
            Some(Box::new(FirstError::of_full(error.map(|error| *error), place, lack)))
        }
        None => error,
    }
}

fn entered(release: &str) -> String {
    format!("make enters the headers of {release}")
}

enum ProbeOutcome {
    Good,
    /// It had to be given the kernel.
    Given(String),
    Bad(String),
}

fn trial<'a>(
    context: &'a Context,
    scratch: &'a Scratch,
    found: &'a Adoptable,
    release: &'a str,
) -> Trial<'a> {
    Trial {
        root: &context.root,
        tools: &context.tools,
        scratch: scratch.root(),
        found,
        release,
        deadline: context.settings.build_timeout,
    }
}

/// Asks make where it goes; if it goes elsewhere, gives it the kernel by the variables of the Makefile.
fn probe(
    context: &Context,
    (scratch, unpacked): (&Scratch, &Unpacked),
    release: &str,
    found: &mut Adoptable,
) -> Result<ProbeOutcome, String> {
    let first = trial(context, scratch, found, release).probe().map_err(|e| e.to_string())?;
    if first.is_good() {
        return Ok(ProbeOutcome::Good);
    }
    let others = first.others.join(", ");
    let with_kernel = with_kernel(scratch.root(), unpacked, found).map_err(|e| e.to_string())?;
    if let Some((mut other, decision)) = with_kernel {
        other.conf.make = format!("{} {}", found.conf.make, given(context, &decision.value, release));
        let again = trial(context, scratch, &other, release).probe().map_err(|e| e.to_string())?;
        if again.is_good() {
            let text = decision.to_string();
            other.decisions.push(decision);
            let written = scratch.root().write(tried_conf(&other), other.text.as_bytes(), 0o644);
            written.map_err(|e| e.to_string())?;
            *found = other;
            return Ok(ProbeOutcome::Given(text));
        }
    }
    Ok(ProbeOutcome::Bad(match others.is_empty() {
        true => format!(
            "make -n does not show that the headers of {release} are used: {}",
            first.last_lines.last().map_or("it prints nothing", String::as_str)
        ),
        false => format!("for {release} make enters {others}"),
    }))
}

/// The variables with the values that bash would give them.
fn given(context: &Context, variables: &str, release: &str) -> String {
    let headers = format!("{}/build", crate::kernel::inventory::module_directory(release));
    let headers = context.root.resolved_or_joined(&headers);
    variables.replace("${kernelver}", release).replace("${kernel_source_dir}", &headers.display().to_string())
}

/// Builds in scratch. A failure is described, with the first error of the log.
fn build(trial: &Trial<'_>) -> Result<Vec<BuiltModule>, (String, Option<Box<FirstError>>)> {
    let log: File = child::unnamed_file().map_err(|e| (e.to_string(), None))?;
    let failure = match trial.build(&log) {
        Ok(modules) => return Ok(modules),
        Err(failure) => failure,
    };
    if !matches!(failure, TrialFailure::Build(_)) {
        return Err((failure.to_string(), None));
    }
    // What cannot be read back leaves the exit code.
    let said = child::tail(log, 64 << 10).unwrap_or_default();
    let (made, said) = (trial.make_log().unwrap_or_default(), String::from_utf8_lossy(&said));
    let first = [made.as_str(), &said].into_iter().find_map(|text| first_error::find(text).error);
    Err(match first {
        Some(error) => (format!("{failure}: {}", error.short()), Some(Box::new(error))),
        None => {
            let text = if made.is_empty() { &said } else { made.as_str() };
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            (format!("{failure}: {last}"), None)
        }
    })
}
