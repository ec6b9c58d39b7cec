//! The PRE_BUILD and POST_BUILD scripts of a build.
//!
//! dkms 3.0 ignores how they end: a module whose script has failed counts as built, and is installed
//! (measured with 3.0.10). They have to run in the middle of a build, so dkms runs a wrapper in their place,
//! which writes the exit code of a script that failed to the log.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::dkms::build::{Failure, Job, StepFailure};
use crate::dkms::call::GivenRoot;
use crate::dkms::cause::Phase;
use crate::dkms::first_error::FirstError;
use crate::dkms::log::length;
use crate::dkms::plan::build_directory;
use crate::dkms::staging::Temporary;
use crate::limits::LOG;
use crate::sys::FileError;

/// The directives, as dkms names them in its messages, and their phases.
const HOOKS: [(&str, &str, Phase); 2] =
    [("PRE_BUILD", "pre_build", Phase::PreBuild), ("POST_BUILD", "post_build", Phase::PostBuild)];

/// What the wrapper writes before the directive and the exit code.
const FAILED: &str = "# clr-dkms: the script failed: ";

/// As in dkms, the words of the directive are the command, and the first one is a file of the source. It runs
/// in the build directory. dkms warns of a script that is not executable, and continues.
const SCRIPT: &str = r#"#!/bin/sh
# Made by clr-dkms for one build, and removed after it.
hook=$1 script=$2
shift 2
if [ ! -x "./$script" ]; then
    echo "Warning: The $hook script is not executable." >&2
    exit 0
fi
"./$script" "$@"
code=$?
[ "$code" = 0 ] || echo "FAILED$hook $code"
exit "$code"
"#;

/// dkms puts the path of the build directory before a directive. This leads from there to `/`.
const UP: usize = 32;

/// The wrapper in its own directory, which exists until the value is dropped.
pub(in crate::dkms) struct BuildHooks<'a> {
    pub(in crate::dkms) directory: Temporary<'a>,
    /// What replaces the directives of the dkms.conf.
    pub(in crate::dkms) directives: Vec<String>,
}

impl<'a> BuildHooks<'a> {
    /// Creates the wrapper; none if the dkms.conf has no such script.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub(in crate::dkms) fn lay_out(job: &Job<'a>) -> anyhow::Result<Option<BuildHooks<'a>>> {
        let Job { root, module, release, conf, .. } = *job;
        let used = || HOOKS.iter().filter(|(directive, ..)| !conf.hook(directive).trim().is_empty());
        if used().next().is_none() {
            return Ok(None);
        }
        let directory = Temporary::new(root, module, release, "-hooks");
        let path = format!("{}/hook", directory.path);
        root.write(&path, SCRIPT.replace("FAILED", FAILED).as_bytes(), 0o755)?;
        let path = root.real_path(&path)?;
        let path = GivenRoot::for_build(root).plain_path(path);
        let wrapper = format!("{}{}", "../".repeat(UP), path.display().to_string().trim_start_matches('/'));
        let replaced = |(directive, name, _): &(&str, &str, Phase)| {
            format!("{directive}={wrapper} {name} {}", conf.hook(directive).trim())
        };
        Ok(Some(BuildHooks { directory, directives: used().map(replaced).collect() }))
    }
}

/// Fails if a script has failed in spite of a build that succeeded. `from` is the position in the log where
/// the build begins.
///
/// # Errors
///
/// If a script has failed.
pub(in crate::dkms) fn have_succeeded(job: &Job<'_>, log: &File, from: u64) -> Result<(), Failure> {
    let Some((directive, phase, code)) = failed_in(log, from) else { return Ok(()) };
    let what = format!("{directive} of {}: exit code {code}", job.module);
    let error = FirstError::of_hook(phase, &what, job.conf.hook(directive));
    Err(discard(job, StepFailure::of(what, Some(error)))?)
}

/// Removes the build of a module whose script has failed: to dkms it is built, and the next run would install
/// it.
///
/// # Errors
///
/// If it cannot be removed.
pub(in crate::dkms) fn discard(job: &Job<'_>, failure: Failure) -> Result<Failure, FileError> {
    let is_of_hook = matches!(&failure, Failure::Step(StepFailure { error: Some(error), .. })
        if matches!(error.phase, Some(Phase::PreBuild | Phase::PostBuild)));
    if is_of_hook {
        job.root.remove_tree(build_directory(job.module, job.release))?;
    }
    Ok(failure)
}

/// The directive of the first script that failed in a log from a position on, its phase and its exit code.
fn failed_in(log: &File, from: u64) -> Option<(&'static str, Phase, String)> {
    let length = length(log);
    // A log that was shortened meanwhile is searched from its beginning.
    let from = if from > length { 0 } else { from };
    // LOG is some MiB, so it fits.
    let mut text = vec![0; usize::try_from((length - from).min(LOG)).ok()?];
    if let Err(e) = log.read_exact_at(&mut text, from) {
        tracing::warn!("cannot read the build log: {e}");
        return None;
    }
    failed_line(&String::from_utf8_lossy(&text))
}

fn failed_line(text: &str) -> Option<(&'static str, Phase, String)> {
    text.lines().find_map(|line| {
        let (name, code) = line.strip_prefix(FAILED)?.split_once(' ')?;
        let (directive, _, phase) = HOOKS.iter().find(|(_, hook, _)| *hook == name)?;
        Some((*directive, *phase, code.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_script_that_failed() {
        let line = |text: &str| failed_line(text).map(|(directive, _, code)| (directive, code));
        let failed = "x\n# clr-dkms: the script failed: post_build 7\n";
        assert_eq!(line(failed), Some(("POST_BUILD", "7".to_owned())));
        assert_eq!(line("the script failed: post_build 7\n"), None);
        assert!(SCRIPT.contains("FAILED$hook $code"));
    }
}
