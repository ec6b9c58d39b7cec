//! The kernel command line: its fragments, the line that clr-boot-manager composes of them, how the kernel
//! reads a parameter, and the writer of `module.sig_unenforce`.

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

/// The parameter with which a Clear Linux kernel loads modules without a trusted signature.
pub const PARAMETER: &str = "module.sig_unenforce";
