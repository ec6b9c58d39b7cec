//! The worker, and the only place that orders steps: observe, decide, prepare, build, refresh the boot files,
//! publish.
//!
//! The programs in [`crate::cli`] call it; it does not depend on them.

pub mod add_plan;
pub mod adopt;
pub mod boot_default;
pub mod boot_files;
pub mod boot_update;
pub mod cmdline;
mod done;
pub mod dry_run;
pub mod engine;
pub mod export;
pub mod gc;
pub mod import;
pub mod initrd;
pub mod loading;
pub mod motd;
pub mod overrides;
pub mod parameter;
pub mod pending;
pub mod progress;
pub mod publish;
mod record;
pub mod refresh;
pub mod registration;
pub mod removal;
pub mod restoring;
pub mod run_mark;
pub mod sequence;
pub mod setup;
pub mod side_files;
pub mod side_offer;
pub mod trial;
pub mod trial_check;
