//! The only floor that touches the outside: files under a root, child processes, the lock, the clock, the log.
//!
//! Nothing here knows a word of the domain. `.clippy.toml` forbids the rest of the crate to start a process, to
//! write a file or to read the clock by any other way.

pub mod child;
pub mod clock;
pub mod efi;
pub mod fingerprint;
pub mod interrupt;
pub mod lock;
pub mod log;
pub mod mount;
pub mod root;
pub mod tools;
pub mod users;
mod write;

/// What we and our children write can be read by everybody, whatever the umask of the caller: there is no secret in
/// it, and a `modules.dep` that only root can read makes every report of a normal user wrong.
pub fn readable_for_all() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

pub use child::{Child, Ended, Finished, Output};
pub use clock::Clock;
pub use fingerprint::Fingerprint;
pub use lock::Lock;
pub use root::{FileError, Kind, Listed, Presence, Root, RootKind, Stat, Written};
pub use tools::Tools;
