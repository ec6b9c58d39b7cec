//! An end by the clock, for programs that somebody waits for.

use std::time::Duration;

/// Ends the process with that exit code once the time is over, whatever it is doing then; `what` says in the log what that
/// means. What is written meanwhile is written atomically, and children that still run are left to their own end.
pub fn end_after(limit: Duration, code: u8, what: &'static str) {
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        tracing::warn!("not done within {} s: {what}", limit.as_secs());
        std::process::exit(code.into());
    });
}
