//! What modprobe and udev make of a module's name: which file of a kernel they load, and what keeps them from it.
//!
//! Measured with kmod 30 and systemd 252. Two things decide. `modules.dep.bin` and `modules.builtin` of a kernel say
//! which file belongs to a name ([`KernelModules`]). The files in `modprobe.d` and the kernel command line say whether it is
//! loaded at all ([`LoadRule`]).

pub mod aliases;
pub mod command;
pub mod config;
pub mod index;
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
