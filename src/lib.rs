//! clr-dkms rebuilds DKMS modules after an update of Clear Linux, and reports whether the next boot will have
//! them.
//!
//! # Data flow
//!
//! Data flows in one direction. **Observe** ([`system`]) reads one value from a root directory. **Decide**
//! ([`decide`], [`dkms::plan`], [`cmdline::writer::plan`]) has pure functions on values. **Act** ([`update`],
//! with [`dkms::build`], [`cmdline::writer::apply`], [`boot::update`]) carries out the decisions. **Report**
//! ([`state`], [`report`]) renders the same values. What cannot be read is unknown, which differs from
//! absent.
//!
//! # Layers
//!
//! Imports only go down the layers that `docs/architecture.md` draws; `tests/it/layers.rs` checks this. A
//! program calls its file in [`cli`], which parses the arguments, calls [`update`] or a report, prints the
//! answer and returns the exit code. Only [`update`] orders the steps of a run. Only [`sys`] starts
//! processes, writes files and reads the clock, which `.clippy.toml` checks. It knows nothing about kernels
//! or DKMS.
//!
//! `docs/architecture.md` also has a table of the modules, and of the places to change for an addition.

pub mod adopt;
pub mod automation;
pub mod boot;
pub mod boot_decision;
pub mod cli;
pub mod cmdline;
pub mod config;
pub mod context;
pub mod decide;
pub mod dkms;
pub mod enforcement;
pub mod exit;
pub mod initrd;
pub mod kernel;
pub mod limits;
pub mod message;
pub mod modprobe;
pub mod report;
pub mod requirement;
pub mod state;
pub mod sys;
pub mod system;
pub mod transfer;
pub mod update;
pub mod usage;
