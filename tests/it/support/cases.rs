//! A part of the cases of a slow test, so that all tests end in time; all of them with
//! `CLR_DKMS_EVERY_CASE=1`, as before a release.

const ALL: &str = "CLR_DKMS_EVERY_CASE";

/// Whether a test looks at each of its cases.
pub(crate) fn is_every() -> bool {
    std::env::var_os(ALL).is_some_and(|value| value == "1")
}

/// Each case, or each `step`-th one. The step has no factor in common with the number of roles or classes, so
/// that the part has all of them.
pub(crate) fn cases<T>(all: impl Iterator<Item = T>, step: usize) -> impl Iterator<Item = T> {
    all.step_by(if is_every() { 1 } else { step })
}
