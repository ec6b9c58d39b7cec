//! `clr-dkms wait`: returns when no run is in progress and none is to come.

use std::time::Duration;

use clap::Args;

use super::{Common, answer};
use crate::config::duration;
use crate::context::Context;
use crate::exit;
use crate::report::Verdict;
use crate::report::observation::observe;
use crate::report::render::shown;
use crate::sys::clock::Stopwatch;
use crate::update::pending::wait;

/// The arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArguments {
    /// Give up after TIME, such as 90s or 30min; by default it waits as long as necessary
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

/// Runs `wait`. Ctrl-C ends it like any program that changes nothing.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(context: &Context, arguments: &WaitArguments, common: &Common) -> anyhow::Result<u8> {
    let watch = Stopwatch::start();
    let document = loop {
        let rest = arguments.timeout.map(|limit| limit.saturating_sub(watch.elapsed()));
        wait(context, rest)?;
        let document = observe(context);
        // Another run has started meanwhile.
        if document.verdict != Verdict::Building {
            break document;
        }
    };
    answer(&format!("{}: {}\n", document.verdict, shown(&document.summary)), common.color)?;
    Ok(reboot_code(document.verdict))
}

/// 0 if a reboot is safe, whatever else is wrong.
fn reboot_code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Healthy | Verdict::RebootPending | Verdict::Degraded | Verdict::Held => exit::OK,
        Verdict::Unsafe => exit::UNSAFE,
        Verdict::Building | Verdict::Unknown | Verdict::NotApplicable => exit::UNKNOWN,
    }
}
