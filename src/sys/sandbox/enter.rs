//! The hidden entry point of our programs: a process that confines itself and then runs another program.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::request::{Confinement, Exchange, Request, SandboxOutcome, SandboxReport, Strength};
use super::{SandboxView, confine, view};

/// The hidden first argument of the process that creates the namespaces.
pub(super) const OUTER: &str = "__sandbox";
/// The hidden first argument of the first process inside of them.
pub(super) const INNER: &str = "__sandbox-inner";
/// The exit code of a process that could not do its work. The report has the reason.
const NOT_DONE: i32 = 113;

/// Handles the request on standard input if the first argument is one of these. Returns the exit code.
pub fn enter(mut arguments: impl Iterator<Item = OsString>) -> Option<i32> {
    let argument = arguments.nth(1)?;
    let is_inner = argument == INNER;
    // What is not a number is not a process that asked; the exchange then fails.
    let number = arguments.next().and_then(|number| number.to_str()?.parse().ok()).unwrap_or(0);
    (is_inner || argument == OUTER).then(|| match Exchange::from_stdin() {
        Ok((request, exchange)) => {
            let build = Strength::Build;
            let outcome = match (&request.confinement, is_inner) {
                (Confinement::View(view), _) => become_program(&request, view, &exchange),
                (Confinement::Rights(strength, _), false) => confine::outer(&request, *strength, &exchange),
                (Confinement::Image { .. }, false) => confine::outer(&request, build, &exchange),
                (Confinement::Image { root, directory }, true) => {
                    let (root, directory) = (Path::new(root), Path::new(directory));
                    confine::inner_of_image(&request, root, directory, &exchange)
                }
                (Confinement::Rights(strength, sight), true) => {
                    confine::inner(&request, (*strength, sight), &exchange, number)
                }
            };
            match outcome {
                None => 0,
                Some(outcome) => {
                    // Without a report the other side still sees that something failed.
                    exchange.report(&SandboxReport { layers: None, outcome }).ok();
                    NOT_DONE
                }
            }
        }
        Err(e) => {
            use io::Write;
            // If stderr is closed too, only the exit code is left.
            writeln!(io::stderr(), "{e}").ok();
            NOT_DONE
        }
    })
}

/// Replaces this process. Returns only on failure.
#[allow(clippy::disallowed_methods)] // the one place that becomes another program
fn become_program(request: &Request, view: &SandboxView, exchange: &Exchange) -> Option<SandboxOutcome> {
    let made = view::make(view)
        .and_then(|()| exchange.report(&SandboxReport { layers: None, outcome: SandboxOutcome::Became }));
    let error = match made {
        Ok(()) => {
            let error = Command::new(&request.program).args(&request.arguments).stdin(Stdio::null()).exec();
            format!("{} cannot be started: {error}", request.program.display())
        }
        Err(e) => e.to_string(),
    };
    Some(SandboxOutcome::NotStarted(error))
}
