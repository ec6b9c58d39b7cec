//! Decisions: pure functions of an observed system, the settings and the record of the last run. Each
//! question has exactly one function.
//!
//! A decision takes values and returns a value. It reads no file, no clock and starts no process. A fact that
//! could not be read is unknown, and an unknown fact never counts as yes.

pub mod assessment;
pub mod blacklisting;
pub mod boot_choice;
pub mod candidates;
pub mod entry_loss;
pub mod importance;
pub mod initrds;
pub mod loading;
pub mod mark_booted;
pub mod memory;
pub mod module_state;
pub mod next_boot;
pub mod readiness;
pub mod requirements;
pub mod satisfaction;
pub mod setup;
pub mod sig_unenforce;
pub mod trial;
pub mod unread;
pub mod update_way;

pub use assessment::{BootAssessment, assess};
