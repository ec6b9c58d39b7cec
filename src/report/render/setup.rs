//! The screen of `clr-dkms setup`: a line for each step.

use super::add::{line, step};
use super::style::{ScreenStyle, StyledLine, Tone, painted};
use crate::report::setup::SetupDocument;

/// What is there and what is missing.
pub fn found(document: &SetupDocument, style: &ScreenStyle) -> String {
    let mut out = Vec::new();
    for kernel in &document.kernels {
        let (tone, headers) = match kernel.has_headers {
            true => (Tone::Good, "headers are there"),
            false => (Tone::Bad, "headers are missing"),
        };
        out.extend(line(Some(tone), "kernel", &format!("{}: {headers}", kernel.kernel), style));
    }
    for missing in &document.missing {
        out.extend(line(Some(Tone::Bad), "missing", missing, style));
    }
    out.extend(document.steps.iter().flat_map(|one| step(one, style)));
    out.extend(document.command.iter().flat_map(|command| line(None, "bundle", command, style)));
    painted(&out, style)
}

/// The steps from that one on, and the result.
pub fn rest(document: &SetupDocument, from: usize, style: &ScreenStyle) -> String {
    let steps = document.steps.iter().skip(from).flat_map(|one| step(one, style));
    let mut out: Vec<StyledLine> = steps.collect();
    if document.ready {
        let (tone, what) = match document.reboot_due {
            Some(true) => {
                (Tone::Attention, "modules can be built; a reboot is due before they can be loaded")
            }
            Some(false) => (Tone::Good, "modules can be built and loaded"),
            None => (Tone::Good, "modules can be built"),
        };
        out.extend(line(Some(tone), "ready", what, style));
    }
    painted(&out, style)
}
