//! clr-dkms rebuilds DKMS modules after an update of Clear Linux, and tells the truth about the next boot.
//!
//! # The way the data goes
//!
//! One direction, nothing goes back: **observe** ([`facts`]: facts from a root folder) → **decide** ([`dkms::plan`],
//! [`cmdline::writer::plan`], [`status::document`]: pure functions on values) → **act** ([`app`], with [`dkms::build`],
//! [`cmdline::writer::apply`], [`boot::update`]) → **report** ([`state`], [`status`], [`render`], [`motd`]: renderings of
//! the same values). What cannot be read is unknown, which is not absent.
//!
//! # The floors
//!
//! `bin → app → {kernel, cmdline, enforcement, dkms, boot, status, motd, facts, state} → sys`. A program parses and calls
//! its file in [`app`]; a file in `app` says which steps, in which order; the rooms below know the rules; [`sys`] alone
//! starts a process, writes a file, reads the clock, and knows no word of the domain. `.clippy.toml` holds that.
//!
//! | room | what |
//! | --- | --- |
//! | [`kernel`] | identity (two spellings of one kernel), variant and bundles, what is installed and running |
//! | [`cmdline`] | fragments, clr-boot-manager's merge, the kernel's reading of a parameter, the writer |
//! | [`enforcement`] | does a kernel refuse modules without a trusted signature: facts and rules |
//! | [`dkms`] | the tree on disk, dkms.conf, the plan, running one build, the proof of its result, advice on what others wrote |
//! | [`boot`] | running clr-boot-manager, what lies in the boot partition, reading entries back |
//! | [`facts`] | everything that was observed, as one value |
//! | [`status`] | the documents that every report is made from, of the whole and of enforcement; [`render`] their texts, [`motd`] its three lines |
//! | [`state`] | the record of a run, and what else lies in `/var/lib/clr-dkms` |
//! | [`config`] | `clr-dkms.conf`; [`world`] is the one value that is handed down |

pub mod app;
pub mod boot;
pub mod cmdline;
pub mod config;
pub mod dkms;
pub mod enforcement;
pub mod facts;
pub mod guard;
pub mod kernel;
pub mod message;
pub mod motd;
pub mod needs;
pub mod render;
pub mod state;
pub mod status;
pub mod sys;
pub mod world;
