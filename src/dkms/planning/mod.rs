//! What to build, for which kernel, and in which order.

pub mod conflict;
pub mod inputs;
pub mod order;
pub mod plan;
pub mod source_change;
pub mod toolchain;
