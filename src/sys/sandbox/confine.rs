//! The two processes of a sandbox that restricts rights.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, Uid, geteuid, getppid, setsid};
use rustix::thread::CapabilitySet;

use super::launch::own_program;
use super::mounts::failed;
use super::request::{
    Confinement, Exchange, Identity, Layers, Request, SandboxOutcome, SandboxReport, Sight, Strength,
};
use super::{enter, namespaces, restrict, seccomp, tree};
use crate::sys::child::ended;

/// The first process: creates the namespaces, starts the second process in them, and waits for it.
pub(super) fn outer(request: &Request, strength: Strength, exchange: &Exchange) -> Option<SandboxOutcome> {
    if let Err(e) = prepare(request, exchange) {
        return Some(SandboxOutcome::NotStarted(e.to_string()));
    }
    if request.namespaces {
        let kinds = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC;
        if let Err(e) = namespaces::enter(kinds, stands_in_for_root(request)) {
            return Some(SandboxOutcome::NoNamespaces(e.to_string()));
        }
    }
    match start_inner(request, strength, exchange) {
        Ok(()) => None,
        Err(e) => Some(SandboxOutcome::NotStarted(e.to_string())),
    }
}

/// dkms requires root. For the copy of a system in a directory of the caller, root of a user namespace is
/// enough.
fn stands_in_for_root(request: &Request) -> bool {
    matches!(&request.confinement, Confinement::Rights(Strength::Build, sight) if !sight.trees.is_empty())
}

fn prepare(request: &Request, exchange: &Exchange) -> io::Result<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if u32::try_from(getppid().as_raw()) != Ok(request.parent) {
        return Err(io::Error::other("the requesting process has ended"));
    }
    close_inherited(exchange.number());
    // If memory runs out, this process should be killed first. Without /proc it has the same chance as all
    // others.
    #[allow(clippy::disallowed_methods)] // of this process, whatever the root is
    std::fs::write("/proc/self/oom_score_adj", "1000").ok();
    Ok(())
}

/// Closes the descriptors that the caller left open: a confined program could write to them.
fn close_inherited(kept: i32) {
    #[allow(clippy::disallowed_methods)] // of this process, whatever the root is
    let listed = std::fs::read_dir("/proc/self/fd").and_then(|entries| {
        let names = entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<Vec<_>>>()?;
        // A name that is not a number is not a descriptor.
        Ok(names.iter().filter_map(|name| name.to_str()?.parse::<i32>().ok()).collect())
    });
    // Without the whole list, as without /proc, every likely descriptor is closed.
    for fd in listed.unwrap_or_else(|_| (3..1024).collect::<Vec<_>>()) {
        if fd > 2 && fd != kept {
            // An error means that it was not open.
            nix::unistd::close(fd).ok();
        }
    }
}

/// Starts the second process and waits for it. Without a PID namespace, the rest of its process group is
/// killed afterwards.
fn start_inner(request: &Request, strength: Strength, exchange: &Exchange) -> io::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let is_build = strength == Strength::Build;
    if !request.namespaces || is_build {
        signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::clone(&stop))?;
    }
    if !request.namespaces {
        nix::sys::prctl::set_child_subreaper(true)?;
    }
    #[allow(clippy::disallowed_methods)] // the processes of a sandbox are started here
    let mut child = Command::new(own_program()?)
        .arg(enter::INNER)
        .arg(std::process::id().to_string())
        .stdin(exchange.file()?)
        .spawn()?;
    // A build is in the process group of this process: the signal has reached it too, and it may need a
    // moment to end.
    if request.namespaces || is_build {
        child.wait()?;
        return Ok(());
    }
    let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    while child.try_wait()?.is_none() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(2));
    }
    // Until the group is empty, because each process may have started others.
    while killpg(group, Signal::SIGKILL).is_ok() {
        // An error means that no child is left to collect.
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The second process: gains its view, drops its rights, runs the program and reports how it ended. `number`
/// is the process id of the first process, which no other sandbox shares.
pub(super) fn inner(
    request: &Request,
    (strength, sight): (Strength, &Sight),
    exchange: &Exchange,
    number: u32,
) -> Option<SandboxOutcome> {
    // A build stays in the process group that is signalled to stop.
    let apart = || if strength == Strength::Build { Ok(()) } else { setsid().map(drop) };
    if let Err(e) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).and_then(|()| apart()) {
        return Some(SandboxOutcome::NotStarted(e.to_string()));
    }
    let user = (strength.is_unprivileged() && geteuid().is_root()).then(|| restrict::unprivileged(number));
    if request.namespaces
        && let Err(e) = tree::enter(strength, sight, user)
    {
        return Some(SandboxOutcome::NoNamespaces(e.to_string()));
    }
    let layers = match confine(request, strength, sight, number) {
        Ok(layers) => layers,
        Err(e) => return Some(SandboxOutcome::NotStarted(format!("it cannot be confined: {e}"))),
    };
    if !layers.are_enough() && !request.is_trusted {
        return Some(SandboxOutcome::Refused);
    }
    match run(request, layers, exchange) {
        Ok(()) => None,
        Err(e) => Some(SandboxOutcome::NotStarted(e.to_string())),
    }
}

/// The second process for an image.
pub(super) fn inner_of_image(
    request: &Request,
    root: &Path,
    directory: &Path,
    exchange: &Exchange,
) -> Option<SandboxOutcome> {
    let started = || -> io::Result<()> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        tree::enter_image(root)?;
        nix::unistd::chdir(directory).map_err(|e| failed(&directory.display().to_string(), e))?;
        // It sees only the image, so nothing of this machine has to be hidden.
        let whole = Sight { writable: vec!["/".into()], ..Sight::default() };
        let layers = confine(request, Strength::Build, &whole, 0)?;
        run(request, layers, exchange)
    };
    started().err().map(|e| SandboxOutcome::NotStarted(e.to_string()))
}

fn confine(request: &Request, strength: Strength, sight: &Sight, number: u32) -> io::Result<Layers> {
    let identity = match strength.is_unprivileged() {
        true => identity(request, sight, number).map_err(|e| failed("identity", e))?,
        false if geteuid().is_root() => Identity::FileOwner,
        false => Identity::Caller,
    };
    let others = if request.namespaces { 0 } else { processes_of(geteuid()) };
    restrict::limit(strength, request.seconds, others).map_err(|e| failed("limits", e))?;
    let kept = if identity == Identity::FileOwner { restrict::FILES } else { CapabilitySet::empty() };
    restrict::keep_capabilities(kept).map_err(|e| failed("capabilities", e))?;
    // The change of identity has reset both.
    nix::sys::prctl::set_dumpable(false)?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let landlock = restrict::landlock(strength, sight, request.namespaces).unwrap_or_else(|e| {
        tracing::debug!("{e}");
        false
    });
    // A build sends signals to its own processes and changes the modes of its own files.
    let is_apart = request.namespaces || strength == Strength::Build;
    let seccomp = seccomp::filter(is_apart).unwrap_or_else(|e| {
        tracing::debug!("{e}");
        false
    });
    Ok(Layers { namespaces: request.namespaces, landlock, seccomp, identity })
}

/// Becomes an unprivileged user if possible, with access to everything that it must read.
fn identity(request: &Request, sight: &Sight, number: u32) -> io::Result<Identity> {
    if !geteuid().is_root() {
        return Ok(if restrict::is_unprivileged(geteuid()) {
            Identity::Unprivileged
        } else {
            Identity::Caller
        });
    }
    let can_read = |path: &std::ffi::OsString| tree::all_can_reach(Path::new(path));
    if !request.namespaces && !sight.readable.iter().all(can_read) {
        return Ok(Identity::Root);
    }
    if !request.namespaces {
        let user = restrict::unprivileged(number);
        sight.writable.iter().try_for_each(|path| tree::hand_over(Path::new(path), user))?;
    }
    match restrict::become_unprivileged(number) {
        Ok(()) => Ok(Identity::Unprivileged),
        // A user namespace may have only one user.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => Ok(Identity::Root),
        Err(e) => Err(e),
    }
}

/// The number of processes and threads of a user, which a limit includes. What cannot be read is left out:
/// the limit is then stricter.
fn processes_of(user: Uid) -> u64 {
    use std::os::unix::fs::MetadataExt;
    #[allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is
    // Without /proc none can be counted.
    let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
    // A process that ends meanwhile uses nothing.
    let mine = entries.filter_map(Result::ok).filter(|entry| {
        let is_process = entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        is_process && entry.metadata().is_ok_and(|found| found.uid() == user.as_raw())
    });
    #[allow(clippy::disallowed_methods)] // as above
    let threads = mine.map(|entry| std::fs::read_dir(entry.path().join("task")).map_or(1, Iterator::count));
    threads.map(|count| count as u64).sum()
}

fn run(request: &Request, layers: Layers, exchange: &Exchange) -> io::Result<()> {
    exchange.report(&SandboxReport { layers: Some(layers), outcome: SandboxOutcome::Started })?;
    #[allow(clippy::disallowed_methods)] // the processes of a sandbox are started here
    let child = Command::new(&request.program).args(&request.arguments).stdin(Stdio::null()).spawn();
    let outcome = match child {
        Ok(mut child) => SandboxOutcome::Ended(ended(child.wait()?)),
        Err(e) => SandboxOutcome::NotStarted(format!(
            "{} cannot be started: {e}",
            Path::new(&request.program).display()
        )),
    };
    exchange.report(&SandboxReport { layers: Some(layers), outcome })
}
