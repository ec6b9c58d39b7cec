//! The screen of `clr-dkms setup`: a line for each step.

use super::add::{step, text};
use super::broken;
use crate::report::setup::SetupDocument;

/// What is there and what is missing.
pub fn found(document: &SetupDocument) -> String {
    let mut out = Vec::new();
    for kernel in &document.kernels {
        let headers = if kernel.has_headers { "headers are there" } else { "headers are missing" };
        out.extend(broken(&format!("{}: {headers}", kernel.kernel), "kernel    ", "          "));
    }
    for missing in &document.missing {
        out.extend(broken(missing, "missing   ", "          "));
    }
    out.extend(document.steps.iter().flat_map(step));
    if let Some(command) = &document.command {
        out.extend(broken(command, "bundle    ", "          "));
    }
    text(&out)
}

/// The steps from that one on, and the result.
pub fn rest(document: &SetupDocument, from: usize) -> String {
    let mut out: Vec<String> = document.steps.iter().skip(from).flat_map(step).collect();
    if document.ready {
        let what = match document.reboot_due {
            Some(true) => "modules can be built; a reboot is due before they can be loaded",
            Some(false) => "modules can be built and loaded",
            None => "modules can be built",
        };
        out.extend(broken(what, "ready     ", "          "));
    }
    text(&out)
}
