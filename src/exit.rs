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
