//! One line for Nagios, Icinga and other monitors that run plugins.

use crate::exit;
use crate::report::StatusDocument;

/// The word of the plugin interface for an exit code.
fn word(code: u8) -> &'static str {
    match code {
        exit::OK => "OK",
        exit::ATTENTION => "WARNING",
        exit::UNSAFE => "CRITICAL",
        _ => "UNKNOWN",
    }
}

/// A line without what the interface gives a meaning: a bar begins the performance data.
fn line(code: u8, text: &str, data: &str) -> String {
    let text = super::shown(text).replace(['|', '\n'], " ");
    format!("DKMS {} - {text}{data}\n", word(code))
}

/// The line of a status, with performance data.
pub fn of_status(document: &StatusDocument) -> String {
    let step = document.next_step.iter().map(|step| format!("; next step: {step}"));
    let text = format!("{}: {}{}", document.verdict, document.summary, step.collect::<String>());
    let sum = |count: &dyn Fn(&crate::report::KernelStatus) -> usize| -> usize {
        document.kernels.iter().filter(|kernel| !kernel.fallback).map(count).sum()
    };
    let missed = document.modules.iter().filter(|module| module.missed).count();
    let data = format!(
        " | modules_ready={};;;0;{} modules_missed={missed};;;0 problems={};;;0",
        sum(&|kernel| kernel.modules_ready),
        sum(&|kernel| kernel.modules_needed),
        document.problems.len(),
    );
    line(document.verdict.exit_code(), &text, &data)
}

/// The line where the check could not begin.
pub fn of_error(error: &anyhow::Error) -> String {
    line(exit::UNKNOWN, &format!("{error:#}"), "")
}
