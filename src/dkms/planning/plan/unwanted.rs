//! Reasons to leave a module alone on a kernel, whatever is installed.

use super::{ModuleOnKernel, State};
use crate::dkms::{Source, is_usable_name};
use crate::kernel::Headers;

/// Why this module is not wanted on this kernel, or cannot be built: it excludes the kernel, does not set
/// AUTOINSTALL, or is broken.
pub fn unwanted(pair: &ModuleOnKernel) -> Option<(State, String)> {
    match &pair.source {
        Source::Broken { reason } => return Some((State::BrokenSource, reason.clone())),
        Source::Unknown { reason } => return Some((State::Unknown, reason.clone())),
        Source::Directory { .. } => {}
    }
    let conf = match &pair.conf {
        Ok(conf) => conf,
        Err(error) => {
            let state = if error.is_unknown() { State::Unknown } else { State::BrokenSource };
            return Some((state, error.to_string()));
        }
    };
    if let Some(error) = conf.syntax.as_ref().filter(|_| !conf.autoinstall) {
        let at = error.quote.or(error.line).map(|line| format!(" on line {line}")).unwrap_or_default();
        let reason = format!(
            "its dkms.conf has a syntax error{at}, and what follows does not count (check it with bash -n)"
        );
        return Some((State::BrokenSource, reason));
    }
    if let Some(refusal) = conf.refusals.first() {
        let at = refusal.at.map(|(_, line)| format!(", line {line}")).unwrap_or_default();
        return Some((State::BrokenSource, format!("its dkms.conf{at}: {refusal}")));
    }
    if let Some(odd) = conf.built.iter().find(|built| !is_usable_name(&built.name)) {
        return Some((State::BrokenSource, format!("its dkms.conf names a module file {:?}", odd.name)));
    }
    if let Some(exclusion) = conf.excluded.first() {
        return Some((State::SkippedExclusive, exclusion.to_string()));
    }
    if !conf.autoinstall {
        return Some((State::NotAutoinstall, "its dkms.conf has no AUTOINSTALL=yes".to_owned()));
    }
    if !is_usable_name(&pair.release) {
        return Some((State::NotBuilt, "dkms cannot take the name of this kernel".to_owned()));
    }
    None
}

pub(super) fn without_headers(pair: &ModuleOnKernel) -> Option<(State, String)> {
    match &pair.headers {
        Headers::Present => None,
        Headers::Absent => Some((State::HeadersMissing, "the kernel's headers are not installed".to_owned())),
        Headers::Incomplete => Some((
            State::HeadersMissing,
            "the kernel's headers have no include/config/kernel.release".to_owned(),
        )),
        Headers::OtherRelease { release } => {
            Some((State::HeadersMismatch, format!("the kernel's headers are those of {release}")))
        }
        Headers::Unreadable { reason } => Some((State::Unknown, reason.clone())),
    }
}
