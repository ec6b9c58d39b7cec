//! Runs dkms and depmod for one module on one kernel, and logs all of their output.

use std::fs::File;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::dkms::build_for_target::{for_target_at_once, once_more};
use crate::dkms::build_hooks::{self, BuildHooks};
use crate::dkms::call::{BuildAids, GivenRoot, build_with, dkms, sandbox_error};
use crate::dkms::cause::{Cause, PackagingFault, Phase};
pub use crate::dkms::failure::{Failure, StepFailure};
use crate::dkms::first_error::{BuildFacts, ErrorKind, FirstError};
use crate::dkms::hooks::{self, Hook, HookFailure};
use crate::dkms::log::{self, append, note};
use crate::dkms::plan::{PlanStep, build_directory, built_directory};
use crate::dkms::replace::{self, Replacement};
use crate::dkms::staging::Staging;
use crate::dkms::tree::TREE;
use crate::dkms::{DkmsConf, ModuleName, Source, toolchain, uname};
use crate::kernel::inventory::module_directory;
use crate::sys::sandbox::SandboxError;
use crate::sys::{Ended, FileError, FileKind, Root, Tools};

/// The exit codes with which dkms reports that a dkms.conf excludes a kernel: 77 since 3.0.9, 9 before.
pub(in crate::dkms) const EXCLUDED: [i32; 2] = [77, 9];

/// The maximum number of files of a failed build that are listed.
const MOST_LISTED: usize = 20_000;

/// The failure of a call that was not started. A refusal by the sandbox depends on the machine, not on the
/// inputs of the build.
pub(in crate::dkms) fn not_run(error: anyhow::Error) -> Failure {
    let what = format!("{error:#}");
    let is_refusal = matches!(sandbox_error(&error), Some(SandboxError::Refused(_)));
    let error = is_refusal.then(|| FirstError::not_confined(what.clone()));
    StepFailure::of(what, error)
}

/// A module to be worked on, and everything that its steps need.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The system.
    pub root: &'a Root,
    /// The programs.
    pub tools: &'a Tools,
    /// The module.
    pub module: &'a ModuleName,
    /// Its source.
    pub source: &'a Source,
    /// Its evaluated dkms.conf.
    pub conf: &'a DkmsConf,
    /// The kernel release.
    pub release: &'a str,
    /// The time limit of one call of dkms.
    pub deadline: Duration,
    /// The number of make jobs; none means one per processor.
    pub make_jobs: Option<usize>,
    /// Called at the start of each step.
    pub begun: &'a dyn Fn(&PlanStep),
    /// Judges the new build. `Ok(true)` means that the installed files are proven and may be restored later.
    pub judge: &'a dyn Fn() -> Result<bool, BuildRefusal>,
}

/// Why a build must not be installed.
#[derive(Debug)]
pub struct BuildRefusal {
    /// The reason.
    pub why: String,
    /// The same build would be refused again.
    pub lasting: bool,
}

/// Opens the log of a new attempt and rotates the older ones. If the log cannot be created, an unnamed file
/// in memory takes its place.
///
/// # Errors
///
/// If that file cannot be created either.
pub fn new_log(root: &Root, module: &ModuleName, release: &str) -> Result<File, Failure> {
    Ok(log::begin(root, &log::path(module, release)).context("no place for a log")?)
}

/// The result of the steps of a module.
#[derive(Debug, Default)]
pub struct StepsDone {
    /// The replacement of its installed files. The files are in place; the index and the link of dkms are not
    /// updated yet.
    pub replacement: Option<Replacement>,
    /// Why a hook script of dkms.conf was skipped: dkms continues if the script is not an executable file.
    pub hook_error: Option<String>,
}

/// Runs the steps of one module on one kernel, except [`PlanStep::Index`], in the given order.
///
/// # Errors
///
/// If a step fails. The installed files are then the previous ones.
pub fn run(job: &Job<'_>, steps: &[PlanStep], log: &File) -> Result<StepsDone, Failure> {
    let Job { root, module, release, .. } = *job;
    portable_source(root, module, job.source)?;
    let done = run_steps(job, steps, log);
    if !matches!(done, Ok(StepsDone { replacement: Some(_), .. })) {
        replace::settle_build(root, &build_directory(module, release), false);
    }
    done
}

fn run_steps(job: &Job<'_>, steps: &[PlanStep], log: &File) -> Result<StepsDone, Failure> {
    let Job { root, module, release, .. } = *job;
    let mut done = StepsDone::default();
    for step in steps {
        (job.begun)(step);
        match step {
            PlanStep::RemoveTree(path) => {
                note(log, &format!("removing {path}"));
                root.remove_tree(path)?;
            }
            PlanStep::SetAside(path) => {
                note(log, &format!("setting {path} aside"));
                replace::set_build_aside(root, path)?;
            }
            PlanStep::Index => {}
            PlanStep::Build => build(job, log)?,
            PlanStep::Install | PlanStep::Reinstall => {
                done = install(job, *step == PlanStep::Reinstall, log)?;
            }
        }
    }
    let unrun = log::unrun_hooks(log);
    if !unrun.is_empty() {
        let are = if unrun.len() == 1 { "is not an executable file" } else { "are not executable files" };
        done.hook_error = Some(format!("{} of {module} {are}", unrun.join(" and ")));
    }
    append(root, log, &format!("{}/log/make.log", build_directory(module, release)));
    Ok(done)
}

fn build(job: &Job<'_>, log: &File) -> Result<(), Failure> {
    let hooks = BuildHooks::lay_out(job)?;
    let aids = BuildAids { uname: None, hooks: hooks.as_ref() };
    let mut from = log::length(log);
    let ended = match for_target_at_once(job, aids, &mut from, log)? {
        Some(ended) => ended,
        None => {
            let ended = build_with(job, aids, log).map_err(not_run)?;
            once_more(job, ended, aids, &mut from, log)?
        }
    };
    match ended {
        Ended::Exit(0) => hooks.map_or(Ok(()), |_| build_hooks::have_succeeded(job, log, from)),
        Ended::Exit(code) if EXCLUDED.contains(&code) => Err(Failure::Excluded),
        Ended::Interrupted => {
            // The next build empties the directory first. Until then the remains of this one would use disk
            // space.
            if let Err(e) = job.root.remove_tree(scratch(job.module)) {
                tracing::warn!("{e}; the next build removes it");
            }
            Err(Failure::Interrupted)
        }
        ended => Err(build_hooks::discard(job, failed(job, "build", ended, log))?),
    }
}

fn failed(job: &Job<'_>, verb: &str, ended: Ended, log: &File) -> Failure {
    let findings = log::findings(job.root, log, &make_log(job.module), facts(job));
    // Only a compiler error in the source follows from the source. A missing program, header or lack of
    // memory may be gone tomorrow, without any change of the inputs.
    let in_source = findings.error.as_ref().is_some_and(is_lasting);
    let what = format!("dkms {verb}: {ended}");
    // A script may fail without output.
    let hook = findings.phase.filter(|phase| phase.is_hook());
    let error = findings.error.or_else(|| hook.map(|phase| FirstError::of_hook(phase, &what, "")));
    let error = error.map(|error| at_its_line(job, error));
    Failure::Step(StepFailure {
        lasting: verb == "build" && matches!(ended, Ended::Exit(_)) && in_source && !findings.passing,
        error: error.map(Box::new),
        what,
        last_lines: findings.last_lines,
    })
}

/// Whether the same build fails again: the error is in the source, or it builds for another kernel in spite
/// of the replaced `uname`.
fn is_lasting(error: &FirstError) -> bool {
    error.is_in_source() || error.is_for_other_kernel()
}

/// Adds the line of the source that asks for the running kernel.
fn at_its_line(job: &Job<'_>, error: FirstError) -> FirstError {
    let Cause::Packaging(PackagingFault::OtherKernel { release: Some(other) }) = &error.cause else {
        return error;
    };
    let Source::Directory { path, .. } = job.source else { return error };
    let Some((file, line)) = uname::asks_for_running(job.root, path) else { return error };
    let message = format!("it builds for kernel {other} and not for {}", job.release);
    let mut context = vec![error.to_string()];
    context.extend(error.context);
    let kind = ErrorKind::Make;
    FirstError { kind, file: Some(file), line: Some(line), message, context, ..error }
}

/// What is known of the build in addition to its log.
pub(in crate::dkms) fn facts(job: &Job<'_>) -> BuildFacts {
    let directory = scratch(job.module);
    BuildFacts {
        depends: job.conf.depends.clone(),
        built: made(job.root, &directory),
        directory: Some(directory),
        ..toolchain::facts(job.root, job.release)
    }
}

/// The names of the `.ko` files that a build has left.
fn made(root: &Root, directory: &str) -> Vec<String> {
    let (mut found, mut waiting, mut left) = (Vec::new(), vec![directory.to_owned()], MOST_LISTED);
    while let Some(directory) = waiting.pop() {
        // Only used in a report, which is shorter if a directory cannot be listed.
        for entry in root.list_optional(&directory).unwrap_or_default() {
            let name = entry.name.to_string_lossy();
            left -= 1;
            match entry.kind {
                _ if left == 0 => return found,
                FileKind::Directory => waiting.push(format!("{directory}/{name}")),
                FileKind::File if name.ends_with(".ko") => found.push(name.into_owned()),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    found
}

/// Judges the build, installs it with dkms into staging trees, and moves the files into place.
fn install(job: &Job<'_>, force: bool, log: &File) -> Result<StepsDone, Failure> {
    let Job { root, module, release, conf, .. } = *job;
    let refused = |BuildRefusal { why, lasting }| {
        let error = refused_for(job, log);
        Failure::Step(StepFailure {
            what: format!("it was built, and is not installed: {why}"),
            lasting: lasting || error.as_ref().is_some_and(is_lasting),
            error: error.map(Box::new),
            last_lines: Vec::new(),
        })
    };
    let old_proven = (job.judge)().map_err(refused)?;
    let has_post_install = !conf.hook("POST_INSTALL").is_empty();
    let (mut left_out, mut hook_error) = (Vec::new(), None);
    if has_post_install {
        left_out.push("POST_INSTALL=");
    }
    if !root.is_slash() && !conf.hook("PRE_INSTALL").is_empty() {
        left_out.push("PRE_INSTALL=");
        match run_hook(job, Hook::PreInstall, conf.hook("PRE_INSTALL"), log) {
            Ok(()) => {}
            Err(HookFailure::NotExecutable(why)) => hook_error = Some(why),
            Err(HookFailure::Failed(error)) => {
                let what = format!("{error:#}");
                let error = FirstError::of_hook(Phase::PreInstall, &what, conf.hook("PRE_INSTALL"));
                return Err(StepFailure::of(what, Some(error)));
            }
        }
    }
    let files = staged_install(job, force, &left_out, log)?;
    let set = Replacement::stage(root, module, release, &files, old_proven, has_post_install);
    let switched = set.and_then(|set| set.switch(root).map(|()| set));
    let replacement = switched.map_err(|e| {
        note(log, "putting the files into their places failed");
        // On a line of its own, so that the search for errors recognises a full disk.
        let mut log = log;
        if let Err(e) = writeln!(log, "{e}") {
            tracing::warn!("cannot write the build log: {e}");
        }
        StepFailure::of(e.to_string(), log::first_error(root, module, release))
    })?;
    Ok(StepsDone { replacement: Some(replacement), hook_error })
}

/// The error, found in the log, of a build that is not installed.
fn refused_for(job: &Job<'_>, log: &File) -> Option<FirstError> {
    let Job { root, module, release, .. } = *job;
    let make_log = format!("{}/log/make.log", build_directory(module, release));
    let other = log::other_release(root, log, &make_log, facts(job));
    let error = log::first_error(root, module, release);
    Some(at_its_line(job, error.or_else(|| other.map(FirstError::of_other_kernel))?))
}

/// Runs `dkms install` in staging trees. Returns the built files and their destinations.
fn staged_install(
    job: &Job<'_>,
    force: bool,
    directives: &[&str],
    log: &File,
) -> Result<Vec<(String, String)>, Failure> {
    let Job { root, module, release, conf, .. } = *job;
    // dkms keeps the kernel's own module if it has the same version, and still reports "installed". Only then
    // is `--force` used.
    for force in if force { &[true][..] } else { &[false, true] } {
        let staging = Staging::lay_out(root, module, release, conf)?;
        let ended = dkms(job, "install", Some((&staging, *force)), directives, log).map_err(not_run)?;
        // The exit code is not reliable (4 and 8 also follow a good installation): the result on disk
        // decides.
        match (staging.installed(conf), ended) {
            (Ok(Some(files)), _) => return Ok(files),
            (_, Ended::Interrupted) => return Err(Failure::Interrupted),
            (Ok(None), Ended::Exit(0)) => {}
            (Ok(None), ended) => return Err(failed(job, "install", ended, log)),
            (Err(e), _) => return Err(e.into()),
        }
    }
    let what = "dkms says that it is done, and has not installed all files";
    Err(StepFailure::of(what, log::first_error(root, module, release)))
}

fn run_hook(job: &Job<'_>, hook: Hook, command: &str, log: &File) -> Result<(), HookFailure> {
    hooks::run((job.root, job.tools), job.module, (hook, command), job.deadline, log)
}

/// Runs the POST_INSTALL script of an installed module as dkms does. For an image the script runs with the
/// image as `/`.
///
/// # Errors
///
/// If the script did not succeed. dkms itself would not report that, and the module stays installed.
pub fn post_install(job: &Job<'_>, log: &File) -> Result<(), HookFailure> {
    run_hook(job, Hook::PostInstall, job.conf.hook("POST_INSTALL"), log)
}

/// The build directory of dkms, which all kernels share.
pub(in crate::dkms) fn scratch(module: &ModuleName) -> String {
    format!("{TREE}/{module}/build")
}

/// The log that make writes meanwhile.
pub(in crate::dkms) fn make_log(module: &ModuleName) -> String {
    scratch(module) + "/make.log"
}

/// Why dkms must not work on this module in this root: a symlink would lead it outside, or dkms cannot handle
/// the path of the root. None for `/`.
pub fn way_out_of_root(
    (root, tools): (&Root, &Tools),
    module: &ModuleName,
    release: &str,
    conf: &DkmsConf,
) -> Option<String> {
    way_out_of((GivenRoot::for_build(root), tools), module, release, conf)
}

/// As [`way_out_of_root`], for a root that dkms reaches by another path.
pub(in crate::dkms) fn way_out_of(
    (given, tools): (GivenRoot<'_>, &Tools),
    module: &ModuleName,
    release: &str,
    conf: &DkmsConf,
) -> Option<String> {
    let root = given.root();
    if root.is_slash() {
        return None;
    }
    if let Some(bad) = given.obstacle(tools) {
        let path = root.path().display();
        return Some(format!(
            "dkms and kbuild cannot work below a path with {bad:?}, and there is no mount namespace in which it could have \
             another one: give {path} another name"
        ));
    }
    let (tree, directory) = (format!("{TREE}/{}", module.name), module_directory(release));
    let version = format!("{tree}/{}", module.version);
    let mut on_the_way = vec![
        tree.clone(),
        format!("{tree}/original_module"),
        version.clone(),
        format!("{version}/build"),
        format!("{version}/{release}"),
        build_directory(module, release),
        format!("{}/log", build_directory(module, release)),
        built_directory(module, release),
        // dkms lets openssl write the signing key, also through a symlink.
        format!("{TREE}/mok.key"),
        format!("{TREE}/mok.pub"),
        directory.clone(),
        format!("{directory}/updates"),
        format!("{directory}/updates/dkms"),
    ];
    for built in &conf.built {
        let mut place = PathBuf::from(&directory);
        for part in Path::new(&built.location).components() {
            match part {
                Component::Normal(name) => place.push(name),
                Component::RootDir | Component::CurDir => {}
                _ => {
                    return Some(format!("DEST_MODULE_LOCATION {:?} leads out of the root", built.location));
                }
            }
            on_the_way.push(place.display().to_string());
        }
    }
    // A symlink that leads to the same place on the host and inside the root is as good as a directory.
    let leads_out =
        |path: &&String| root.lookup_link(path).is(FileKind::Link) && !root.host_finds(path, path);
    on_the_way.iter().find(leads_out).map(|path| {
        format!("{} is a link, which dkms would follow out of the root", root.shown_path(path).display())
    })
}

/// Rewrites the `source` link of a module in a root so that it leads to the same directory from inside and
/// from outside. dkms does not support roots and would follow an absolute link into the host.
pub(in crate::dkms) fn portable_source(
    root: &Root,
    module: &ModuleName,
    source: &Source,
) -> Result<(), FileError> {
    let Source::Directory { path, portable: false } = source else {
        return Ok(());
    };
    let link = format!("{TREE}/{module}/source");
    let (target, directory) =
        (root.real_path(path)?, root.real_path(Path::new(&link).parent().unwrap_or(path))?);
    let common = target.components().zip(directory.components()).take_while(|(a, b)| a == b).count();
    let mut text: PathBuf = directory.components().skip(common).map(|_| Component::ParentDir).collect();
    text.extend(target.components().skip(common));
    tracing::info!("{link} now says {}, so that it leads nowhere else", text.display());
    root.link(&link, &text).map(|_| ())
}
