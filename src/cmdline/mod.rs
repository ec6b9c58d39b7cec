//! The kernel command line: the fragments, the line that clr-boot-manager makes of them, how the kernel reads a
//! parameter of it, and the writer of `module.sig_unenforce`.

pub mod blocker;
pub mod explain;
pub mod merge;
pub mod ours;
pub mod parameter;
pub mod report;
pub mod sources;
pub mod writer;

pub use merge::{effective, merge};
pub use parameter::Switch;
pub use sources::{CmdlineSources, Fragment, Mask};

/// The parameter that lets a Clear kernel load modules without a trusted signature.
pub const PARAMETER: &str = "module.sig_unenforce";
