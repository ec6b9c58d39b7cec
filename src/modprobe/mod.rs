//! How modprobe and udev load a module by its name: which file of a kernel they load, and what prevents it.
//!
//! Measured with kmod 30 and systemd 252. `modules.dep.bin` and `modules.builtin` of a kernel determine which
//! file belongs to a name ([`KernelModules`]). `modprobe.d` and the kernel command line determine whether it
//! is loaded at all ([`LoadRule`]).

pub mod aliases;
pub mod command;
pub mod competing;
pub mod config;
pub mod index;
pub mod intersect;
pub mod kernel_line;
pub mod modules_load;
pub mod pattern;
pub mod policy;
pub mod resolve;
pub mod rule;

pub use config::ModprobeConfig;
pub use kernel_line::LineWords;
pub use modules_load::ModulesLoad;
pub use policy::LoadPolicy;
pub use resolve::{Claim, FileOrigin, KernelModules, Resolution};
pub use rule::{LoadBlocker, LoadRule, load_rule};
