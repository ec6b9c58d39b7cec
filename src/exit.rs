//! Exit codes; the same on every program.

/// Done, or nothing to do; healthy.
pub const OK: u8 = 0;
/// Not all done; attention, but safe.
pub const ATTENTION: u8 = 1;
/// Unsafe: something that is in use will be missing.
pub const UNSAFE: u8 = 2;
/// It cannot be determined.
pub const UNKNOWN: u8 = 3;
/// Wrong usage.
pub const USAGE: u8 = 64;
/// An internal error.
pub const FAULT: u8 = 70;
/// Another run is in progress.
pub const BUSY: u8 = 75;
/// No permission.
pub const DENIED: u8 = 77;
/// Bad configuration.
pub const CONFIG: u8 = 78;

/// Why a program does nothing, or not what it was asked for. It is logged as it is.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct ExitReason {
    pub code: u8,
    /// The reason, with the next step.
    pub why: String,
}

impl ExitReason {
    /// Something cannot be determined, or is not known here.
    pub fn unknown(why: impl ToString) -> ExitReason {
        ExitReason { code: UNKNOWN, why: why.to_string() }
    }

    /// Everything stays as it is, which is safe.
    pub fn attention(why: impl ToString) -> ExitReason {
        ExitReason { code: ATTENTION, why: why.to_string() }
    }
}
