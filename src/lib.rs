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
//! `bin → cli → update → report → decide → {system, usage} →
//! {boot, enforcement, dkms, initrd, modprobe, cmdline, kernel} → sys`
//!
//! Imports only go down; `tests/it/layers.rs` checks this. A program calls its file in [`cli`], which parses
//! the arguments, calls [`update`] or a report, prints the answer and returns the exit code. Only [`update`]
//! orders steps. Only [`sys`] starts processes, writes files and reads the clock, which `.clippy.toml`
//! checks. It knows nothing about kernels or DKMS.
//!
//! | module | contents |
//! | --- | --- |
//! | [`kernel`] | kernel names (release and id), variants and bundles, the installed and the running kernels |
//! | [`cmdline`] | fragments, how clr-boot-manager merges them, how the kernel reads a parameter, the writer |
//! | [`enforcement`] | whether a kernel refuses modules without a trusted signature: facts and rules |
//! | [`modprobe`] | which file modprobe loads for a module name, and what prevents it |
//! | [`initrd`] | the cpio archives that the boot loader passes to a kernel, and the modules in them |
//! | [`dkms`] | the DKMS tree, dkms.conf, the plan, one build, the proof of its result, lint |
//! | [`adopt`] | foreign module sources: unpacking them, and finding out how they are built |
//! | [`transfer`] | archives with a module's source and proven binaries: manifest, signature, what fits a kernel |
//! | [`boot`] | running clr-boot-manager, the boot partition, reading boot entries back |
//! | [`usage`] | what the running machine uses, and the modules that this depends on |
//! | [`system`] | the complete observation, as one value |
//! | [`decide`] | the state and importance of modules, which kernel may boot by default, whether the parameter is wanted |
//! | [`requirement`], [`boot_decision`] | requirements and decisions, in the form of records and reports |
//! | [`report`] | the documents of status, enforcement and guard; [`report::render`] has the screens |
//! | [`state`] | the record of a run, and the other files in `/var/lib/clr-dkms` |
//! | [`automation`] | whether the units and hooks that start clr-dkms are in place |
//! | [`config`], [`context`], [`exit`] | `clr-dkms.conf`; the value that every function gets; the exit codes |
//! | [`update`] | the worker: the sequence of a run, the build queue, the boot files, publishing results, progress |
//! | [`cli`] | one file for each program or subcommand: arguments, call, print, exit code |

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
