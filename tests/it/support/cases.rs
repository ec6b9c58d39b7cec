//! How many cases a slow test has: few in `cargo test`, which ends within two minutes on two processors; more
//! with `CLR_DKMS_MORE_CASES=1`, as in `make test`; all of them with `CLR_DKMS_EVERY_CASE=1`, as before a
//! release.

const MORE: &str = "CLR_DKMS_MORE_CASES";
const ALL: &str = "CLR_DKMS_EVERY_CASE";

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

/// Whether a test looks at each of its cases.
pub(crate) fn is_every() -> bool {
    is_set(ALL)
}

/// The number of cases, or of something else that the time of a test depends on: `few` in `cargo test`.
pub(crate) fn few_or<T>(few: T, more: T) -> T {
    if is_set(MORE) || is_every() { more } else { few }
}

/// Each case, or each `step`-th one. The step has no factor in common with the number of roles or classes, so
/// that the part has all of them.
pub(crate) fn cases<T>(all: impl Iterator<Item = T>, step: usize) -> impl Iterator<Item = T> {
    all.step_by(if is_every() { 1 } else { step })
}
