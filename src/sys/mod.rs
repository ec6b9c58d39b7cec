//! The only layer that touches the outside world: files below a root, child processes, the lock, the clock,
//! the log.
//!
//! Nothing here knows about kernels or DKMS. `.clippy.toml` forbids the rest of the crate to start a process,
//! to write a file or to read the clock in any other way.

pub mod child;
pub mod chroot;
pub mod clock;
pub mod compare;
mod directory;
pub mod efi;
mod error;
pub mod fingerprint;
pub mod interrupt;
pub mod kernel_log;
pub mod lines;
pub mod live;
pub mod lock;
pub mod log;
pub mod mount;
mod output_file;
pub mod pager;
pub mod printable;
pub mod processes;
mod punch_hole;
pub mod root;
pub mod sandbox;
pub mod scratch;
pub mod shell;
mod stat;
mod symlink;
pub mod systemd;
pub mod terminal;
mod time_style;
pub mod tools;
pub mod unread;
pub mod users;
mod walk;
pub mod watchdog;
mod write;

/// Makes files of this program and its children readable for all, whatever the umask of the caller: they hold
/// no secret, and a `modules.dep` that only root can read makes every report of a normal user wrong.
pub fn readable_for_all() {
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
}

/// Lowers the priority of this thread and of the programs that it starts, so that a build does not disturb.
/// The I/O schedulers use the same number (ioprio_set(2), "if no I/O priority is set").
pub fn work_politely() {
    if let Err(e) = rustix::process::setpriority_process(None, 10) {
        tracing::debug!("cannot lower the priority: {e}");
    }
}

/// The directory of the programs of this project.
///
/// # Errors
/// When it is unknown, as without `/proc`.
pub fn own_directory() -> std::io::Result<std::path::PathBuf> {
    let program = std::env::current_exe()?;
    program.parent().map(std::path::Path::to_owned).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// The processors that this process may use, and the memory that is free for it, in bytes.
#[allow(clippy::disallowed_methods)] // of the machine we run on, whatever the root is
pub fn capacity() -> (usize, Option<u64>) {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // Without /proc the processors alone decide.
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    // What is not a number leaves the memory unknown.
    let kilobytes = available.and_then(|text| text.trim().trim_end_matches(" kB").parse::<u64>().ok());
    (processors, kilobytes.map(|k| k << 10))
}

pub use child::{Child, Ended, Finished, Output};
pub use clock::{Clock, Stopwatch};
pub use directory::Directory;
pub use fingerprint::Fingerprint;
pub use lock::Lock;
pub use output_file::OutputFile;
pub use punch_hole::punch_hole;
pub use root::{FileError, FileKind, Listed, Presence, Root, RootKind, Shortage, Stat, Written};
pub use sandbox::Sandbox;
pub use scratch::Scratch;
pub use symlink::stays_inside;
pub use time_style::TimeStyle;
pub use tools::Tools;
