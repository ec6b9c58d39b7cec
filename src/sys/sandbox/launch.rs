//! The requesting side: starts the first process of a sandbox, and reads its report.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::request::{Confinement, Exchange, Layers, Request, SandboxOutcome, SandboxReport, Strength};
use super::{Sandbox, enter};
use crate::sys::child::{Child, Ended, Finished, unnamed_file};

/// This program, even if its file was replaced since the start.
const SELF: &str = "/proc/self/exe";
/// The path of one of our programs, for a system without `/proc`.
const INSTALLED: &str = "/usr/bin/clr-dkms";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
/// The weakest layers of all evaluations by this process.
static IN_FORCE: Mutex<Option<Layers>> = Mutex::new(None);
/// Why namespaces are not available here, once that is known.
static NO_NAMESPACES: Mutex<Option<String>> = Mutex::new(None);

/// Why a program was not run in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SandboxError {
    /// A step failed.
    #[error("{0}")]
    NotStarted(String),
    /// The machine has no layer to confine it.
    #[error(
        "nothing keeps it from writing files and from signalling processes: Landlock is not available, nor are \
         namespaces ({0}); --trust runs it anyway, and so does `[build] trust = yes` in clr-dkms.conf \
         of this machine"
    )]
    Refused(String),
}

impl SandboxError {
    /// The reason why a program was not started, if that is the sandbox.
    pub fn of(error: &io::Error) -> Option<&SandboxError> {
        error.get_ref()?.downcast_ref()
    }
}

/// Sets the program to start, for a process that is not one of our programs: a test or a benchmark.
pub fn use_program(path: &Path) {
    // The first call wins: all programs are of the same build.
    PROGRAM.get_or_init(|| path.to_owned());
}

/// The weakest layers of all evaluations by this process; none if there was no evaluation.
pub fn in_force() -> Option<Layers> {
    *IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(layers: Layers) {
    let mut in_force = IN_FORCE.lock().unwrap_or_else(PoisonError::into_inner);
    if in_force.is_none() {
        tracing::debug!("dkms.conf is evaluated in a sandbox: {layers}");
    }
    let is_weaker = |known: &Layers| known.are_enough() && !layers.are_enough();
    if in_force.as_ref().is_none_or(is_weaker) {
        *in_force = Some(layers);
    }
}

pub(super) fn own_program() -> io::Result<PathBuf> {
    if let Some(program) = PROGRAM.get() {
        return Ok(program.clone());
    }
    let candidates = [SELF, INSTALLED].map(Path::new);
    candidates.into_iter().find(|path| path.exists()).map(Path::to_owned).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, format!("neither {SELF} nor {INSTALLED} exists"))
    })
}

fn no_namespaces() -> Option<String> {
    NO_NAMESPACES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Runs the program of `child` in a sandbox.
///
/// # Errors
///
/// If it cannot be started. If the sandbox is the reason, the error contains a [`SandboxError`].
pub(in crate::sys) fn run(mut child: Child, sandbox: &Sandbox) -> io::Result<Finished> {
    let program = std::mem::replace(&mut child.program, own_program()?).into_os_string();
    let arguments = std::mem::replace(&mut child.arguments, vec![enter::OUTER.into()]);
    let needs_namespaces = !matches!(sandbox.confinement, Confinement::Rights(..));
    let mut confinement = sandbox.confinement.clone();
    if let Confinement::Rights(Strength::Build, sight) = &mut confinement {
        // It may be in a directory that is otherwise hidden. If it does not exist, starting it reports that.
        #[allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is
        sight.shown.extend(std::fs::canonicalize(&program).ok().map(PathBuf::into_os_string));
    }
    let mut request = Request {
        confinement,
        program,
        arguments,
        parent: std::process::id(),
        namespaces: needs_namespaces || no_namespaces().is_none(),
        is_trusted: sandbox.is_trusted,
        seconds: child.deadline.as_secs() + 2,
    };
    loop {
        let exchange = Exchange::new(unnamed_file()?, &request)?;
        let mut done = child.run_with(Some(exchange.file()?))?;
        let failed = |e: SandboxError| Err(io::Error::other(e));
        let report = exchange.last_report()?;
        if let Some(layers) = report.as_ref().and_then(|report| report.layers) {
            if matches!(sandbox.confinement, Confinement::Rights(Strength::Evaluate, _)) {
                note(layers);
            }
            done.layers = Some(layers);
        }
        if matches!(done.ended, Ended::TimedOut | Ended::Interrupted) {
            return Ok(done);
        }
        match report.map(|SandboxReport { outcome, .. }| outcome) {
            Some(SandboxOutcome::Became) => {}
            Some(SandboxOutcome::Ended(ended)) => done.ended = ended,
            // The waiting process was killed by the kernel for lack of memory.
            Some(SandboxOutcome::Started) => done.ended = Ended::Signal(9),
            Some(SandboxOutcome::NoNamespaces(why)) if request.namespaces && !needs_namespaces => {
                tracing::debug!("no namespaces: {why}");
                *NO_NAMESPACES.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                request.namespaces = false;
                continue;
            }
            Some(SandboxOutcome::NoNamespaces(why) | SandboxOutcome::NotStarted(why)) => {
                return failed(SandboxError::NotStarted(why));
            }
            Some(SandboxOutcome::Refused) => {
                return failed(SandboxError::Refused(no_namespaces().unwrap_or_default()));
            }
            None => {
                let what = format!("the sandbox ended without a report ({})", done.ended);
                return failed(SandboxError::NotStarted(what));
            }
        }
        return Ok(done);
    }
}
