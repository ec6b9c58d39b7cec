//! The real layer: the programs against the real dkms, the real depmod and real kernel headers, in scratch
//! roots.
//!
//! Run as root: `CLR_DKMS_REAL=1 cargo test --locked --test real`. Without that variable every test says so
//! and passes, so that plain `cargo test` needs nothing; with it, a missing part of the machine is a failure.
//!
//! Roots are made below `target/real`, and kept there when a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod add;
mod boot_manager;
mod conf;
mod conflicts;
mod damage;
mod faults;
mod gc;
mod hooks;
mod image;
mod index;
mod keyboard;
mod killed;
mod listing;
mod logs;
mod process;
mod removed;
mod replace;
mod scene;
mod source;
mod space;
mod speed;
mod states;
mod symbols;
mod transfer;
mod uname;
mod update;
mod versions;
