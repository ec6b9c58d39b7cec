//! The decisions: pure functions on an observed system, the settings and the last record. Each question has one function.

pub mod assessment;
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
mod requirements;
pub mod satisfaction;
pub mod sig_unenforce;
pub mod unread;
pub mod update_way;

pub use assessment::{BootAssessment, assess};
