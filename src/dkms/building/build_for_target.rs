//! Builds for the target kernel a module whose Makefile builds for another one, usually the running one.

use std::fs::File;

use crate::dkms::build::{EXCLUDED, Failure, Job, facts, make_log, not_run};
use crate::dkms::call::{BuildAids, build_with};
use crate::dkms::first_error::ONCE_MORE;
use crate::dkms::log::{self, append, note};
use crate::dkms::plan::build_directory;
use crate::dkms::{probe, uname};
use crate::sys::Ended;

/// Builds with a `uname` that answers with the target kernel, if `make -n` says that the Makefile builds for
/// another one. Returns how that ended; none if the module is to be built as it is, because the answer of
/// make may be wrong. `from` is the position in the log where the output of the last attempt begins.
///
/// # Errors
///
/// If dkms cannot be started, or the result cannot be removed.
pub(in crate::dkms) fn for_target_at_once(
    job: &Job<'_>,
    aids: BuildAids<'_>,
    from: &mut u64,
    log: &File,
) -> Result<Option<Ended>, Failure> {
    let Job { root, module, release, .. } = *job;
    let other = match probe::other_kernel(job) {
        Ok(Some(other)) => other,
        Ok(None) => return Ok(None),
        Err(why) => {
            note(log, &format!("make -n was not run: {why:#}"));
            return Ok(None);
        }
    };
    // As the log of a plain build tells, if there is no `uname`.
    let Ok(uname) = uname::lay_out(root, job.tools, module, release) else { return Ok(None) };
    note(log, &format!("make -n: it builds for kernel {other}; `uname -r` in make answers {release}"));
    tracing::info!("{module} builds for kernel {other}; its Makefile is given {release}");
    *from = log::length(log);
    let ended = build_with(job, BuildAids { uname: Some(&uname), ..aids }, log).map_err(not_run)?;
    let make_log = match ended {
        // The reason makes no difference here: what is installed in the end is judged again.
        Ended::Exit(0) if (job.judge)().is_ok() => return Ok(Some(ended)),
        Ended::Exit(0) => format!("{}/log/make.log", build_directory(module, release)),
        Ended::Exit(code) if !EXCLUDED.contains(&code) => make_log(module),
        _ => return Ok(Some(ended)),
    };
    // A Makefile that does not ask `uname` enters the same headers without this one.
    if log::other_release(root, log, &make_log, facts(job)).is_some() {
        return Ok(Some(ended));
    }
    append(root, log, &make_log);
    root.remove_tree(build_directory(module, release))?;
    note(log, &format!("{ONCE_MORE}as it is"));
    *from = log::length(log);
    Ok(None)
}

/// Repeats a build that entered the headers of another kernel, usually of the running one, with a `uname`
/// that answers with the target kernel. Returns how the last attempt ended.
///
/// `from` is the position in the log where the output of the last attempt begins.
///
/// # Errors
///
/// If dkms cannot be started, or the result cannot be removed.
pub(in crate::dkms) fn once_more(
    job: &Job<'_>,
    ended: Ended,
    aids: BuildAids<'_>,
    from: &mut u64,
    log: &File,
) -> Result<Ended, Failure> {
    let Job { root, module, release, .. } = *job;
    let make_log = match ended {
        Ended::Exit(0) => format!("{}/log/make.log", build_directory(module, release)),
        Ended::Exit(code) if !EXCLUDED.contains(&code) => make_log(module),
        _ => return Ok(ended),
    };
    let Some(other) = log::other_release(root, log, &make_log, facts(job)) else { return Ok(ended) };
    // The headers do not matter if the result is good for this kernel.
    if ended == Ended::Exit(0) && (job.judge)().is_ok() {
        return Ok(ended);
    }
    let uname = match uname::lay_out(root, job.tools, module, release) {
        Ok(uname) => uname,
        Err(why) => {
            note(log, &format!("it builds for kernel {other}, and cannot be made not to: {why:#}"));
            return Ok(ended);
        }
    };
    append(root, log, &make_log);
    if ended == Ended::Exit(0) {
        root.remove_tree(build_directory(module, release))?;
    }
    note(log, &format!("{ONCE_MORE}it builds for kernel {other}; now `uname -r` in make answers {release}"));
    tracing::info!("{module} builds for kernel {other}; it is built once more for {release}");
    *from = log::length(log);
    build_with(job, BuildAids { uname: Some(&uname), ..aids }, log).map_err(not_run)
}
