//! Running dkms: one build with its hook scripts, the installation, registering and removing.

pub mod build;
pub(super) mod build_for_target;
pub(super) mod build_hooks;
pub(super) mod call;
pub mod hooks;
pub mod probe;
pub mod register;
pub mod replace;
pub(super) mod staging;
pub(super) mod uname;
pub mod unbuild;
