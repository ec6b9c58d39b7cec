//! clr-dkms rebuilds DKMS modules after an update of Clear Linux, and tells the truth about the next boot.
//!
//! # The way the data goes
//!
//! One direction, nothing goes back: **observe** ([`system`]: one value, read from a root directory) → **decide** ([`decide`],
//! [`dkms::plan`], [`cmdline::writer::plan`]: pure functions on values) → **act** ([`update`], with [`dkms::build`],
//! [`cmdline::writer::apply`], [`boot::update`]) → **report** ([`state`], [`report`]: renderings of
//! the same values). What cannot be read is unknown, which is not absent.
//!
//! # The layers
//!
//! `bin → cli → update → {status, render, motd} → decide → {system, usage} →
//! {boot, enforcement, dkms, initrd, modprobe, cmdline, kernel} → sys`; imports go down only, and `tests/it/layers.rs`
//! checks it. A program calls its file in [`cli`], which parses the arguments, calls
//! [`update`] or a report, prints the answer and gives the exit code. [`update`] alone orders steps.
//! [`sys`] alone starts a process, writes a file and reads the clock, and knows nothing of kernels or DKMS: `.clippy.toml`
//! checks that.
//!
//! | room | what |
//! | --- | --- |
//! | [`kernel`] | identity (two spellings of one kernel), variant and bundles, what is installed and running |
//! | [`cmdline`] | fragments, clr-boot-manager's merge, the kernel's reading of a parameter, the writer |
//! | [`enforcement`] | does a kernel refuse modules without a trusted signature: facts and rules |
//! | [`modprobe`] | which file modprobe takes for a module's name, and what keeps it from loading it |
//! | [`initrd`] | the cpio archives that the boot loader hands to a kernel, and the modules in them |
//! | [`dkms`] | the tree on disk, dkms.conf, the plan, running one build, the proof of its result, advice on what others wrote |
//! | [`boot`] | running clr-boot-manager, what lies in the boot partition, reading entries back |
//! | [`usage`] | what the running machine uses, and the modules that this depends on |
//! | [`system`] | everything that was observed, as one value |
//! | [`decide`] | the state of a module on a kernel, how much it is required, which kernel may be the boot default, whether the parameter is wanted |
//! | [`requirement`], [`boot_decision`] | what is required, and what was decided, as it is recorded and reported |
//! | [`report`] | the documents for status, enforcement and guard; [`report::render`] writes the screens, [`report::motd`] the message of the day |
//! | [`state`] | the record of a run, and what else lies in `/var/lib/clr-dkms` |
//! | [`config`] | `clr-dkms.conf`; [`context`] is the one value that is handed down; [`exit`] the exit codes |
//! | [`update`] | the worker: the sequence of a run, the build queue, the boot files, publishing results, progress |
//! | [`cli`] | one file for each program or subcommand: arguments, call, print, exit code |

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
pub mod update;
pub mod usage;
