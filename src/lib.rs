//! clr-dkms rebuilds DKMS modules after an update of Clear Linux, and tells the truth about the next boot.

pub mod app;
pub mod boot;
pub mod cmdline;
pub mod config;
pub mod dkms;
pub mod enforcement;
pub mod facts;
pub mod kernel;
pub mod motd;
pub mod render;
pub mod state;
pub mod status;
pub mod sys;
pub mod world;
