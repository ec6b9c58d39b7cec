//! Logs of builds: the first error of a failed build, and its cause.

pub mod cause;
pub(super) mod cause_rules;
pub(super) mod failure;
pub mod first_error;
pub(super) mod first_error_classes;
pub mod log;
pub(super) mod log_evidence;
pub mod old_logs;
pub(super) mod patterns;
