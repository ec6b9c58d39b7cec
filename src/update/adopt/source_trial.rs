//! Probing a source, and building it in a scratch directory.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::AddOrder;
use crate::adopt::unpack::Unpacked;
use crate::adopt::{Adoptable, BuiltModule, Evidence, SOURCES, Trial, TrialFailure, with_kernel};
use crate::context::Context;
use crate::dkms::conf::Trace;
use crate::dkms::first_error::{self, FirstError};
use crate::dkms::{DkmsConf, conf};
use crate::kernel::{Headers, Installed, Inventory};
use crate::report::add::{AddDocument, AddStep, StepResult};
use crate::report::cause_remedy::cause_remedy;
use crate::report::packages::Packages;
use crate::report::remedy::CommandTarget;
use crate::sys::{Scratch, child};
use crate::update::side_offer::BuiltOnKernel;

/// A filesystem with less room is full.
const ROOM: u64 = 1 << 20;

/// What a source is tried with.
pub(super) struct SourceTrial<'a> {
    pub(super) context: &'a Context,
    pub(super) scratch: &'a Scratch,
    pub(super) unpacked: &'a Unpacked,
    pub(super) order: &'a AddOrder,
    pub(super) inventory: &'a Inventory,
}

/// What came of it on one kernel.
enum Tried {
    /// These modules were built.
    Built(Vec<BuiltModule>),
    /// Nothing was to be built, or can be built for it.
    NotBuilt,
    /// The `dkms.conf` excludes the kernel, on this line.
    Excluded(Option<usize>),
}

impl SourceTrial<'_> {
    /// Probes, and builds in scratch. Returns the modules that were built for each kernel; none when it
    /// cannot be built.
    pub(super) fn run(
        &self,
        found: &mut Adoptable,
        document: &mut AddDocument,
    ) -> Option<Vec<BuiltOnKernel>> {
        let (mut built, mut excluded) = (Vec::new(), Vec::new());
        let kernels = self.inventory.tips();
        if kernels.is_empty() {
            document.steps.add("probe", StepResult::Skipped, "no kernel is installed");
        }
        for kernel in &kernels {
            match self.on_kernel(kernel, found, document)? {
                Tried::Built(modules) => built.push((kernel.name.release(), modules)),
                Tried::NotBuilt => {}
                Tried::Excluded(line) => excluded.push(line),
            }
        }
        match excluded.first() {
            Some(line) if excluded.len() == kernels.len() && !self.order.no_build => {
                document.steps.push(excludes_all(found, *line));
                None
            }
            _ => Some(built),
        }
    }

    /// None when a step has failed.
    fn on_kernel(
        &self,
        kernel: &Installed,
        found: &mut Adoptable,
        document: &mut AddDocument,
    ) -> Option<Tried> {
        let SourceTrial { context, scratch, unpacked, order, .. } = *self;
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
            return Some(Tried::Excluded(trace.line_of(&exclusion.directive).map(|(_, line)| line)));
        }
        if kernel.headers != Headers::Present {
            let why = format!("the headers of {release} are not installed");
            document.steps.add("probe", StepResult::Skipped, why);
            return Some(Tried::NotBuilt);
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
            return Some(Tried::NotBuilt);
        }
        self.build(release, &here, document).map(Tried::Built)
    }

    /// The modules that are built for a kernel and proven; none when that fails.
    fn build(
        &self,
        release: &str,
        found: &Adoptable,
        document: &mut AddDocument,
    ) -> Option<Vec<BuiltModule>> {
        let SourceTrial { context, scratch, inventory, .. } = *self;
        let trial = trial(context, scratch, found, release);
        let done = build(&trial).and_then(|modules| {
            let unchecked = trial.prove(context.clock.now()).map_err(|e| (e.to_string(), None))?;
            Ok((modules, unchecked))
        });
        match done {
            Ok((modules, unchecked)) => {
                let (result, text) = match unchecked {
                    None => (StepResult::Done, "built and proven in scratch".to_owned()),
                    Some(why) => {
                        (StepResult::Warning, format!("built in scratch, and not all can be proven: {why}"))
                    }
                };
                document.steps.add("build", result, format!("{release}: {text}"));
                Some(modules)
            }
            Err((failure, error)) => {
                let error = of_full(scratch, error);
                let packages = Packages::of(release, inventory);
                let remedy = error.map(|error| cause_remedy(Some(&error), &found.name, &packages));
                let next_step = remedy.map(|remedy| remedy.text(&CommandTarget::of_root(&context.root)));
                let (result, text) = (StepResult::Failed, format!("{release}: {failure}"));
                document.steps.push(AddStep { step: "build", result, text, next_step, ..AddStep::default() });
                None
            }
        }
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
