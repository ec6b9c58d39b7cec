//! A deadline for a whole program.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::Builder;
use std::time::Duration;

/// Ends the process with that exit code when the time is over; `what` is logged. Files are written
/// atomically, and children that still run have deadlines of their own.
pub fn end_after(limit: Duration, code: u8, what: &'static str) {
    let thread = move || {
        std::thread::sleep(limit);
        tracing::warn!("not done within {} s: {what}", limit.as_secs());
        std::process::exit(code.into());
    };
    // Where no thread can be started, alarm(2) ends the process, without a message.
    if let Err(e) = Builder::new().spawn(thread) {
        tracing::debug!("no thread for the deadline: {e}");
        let alarm = signal_hook::consts::SIGALRM;
        let always = Arc::new(AtomicBool::new(true));
        match signal_hook::flag::register_conditional_shutdown(alarm, code.into(), always) {
            Ok(_) => {
                let seconds = limit.as_secs() + u64::from(limit.subsec_nanos() > 0);
                // A longer limit than alarm(2) knows becomes its longest.
                nix::unistd::alarm::set(seconds.try_into().unwrap_or(u32::MAX).max(1));
            }
            Err(e) => tracing::warn!("the deadline of {} s cannot be set: {e}", limit.as_secs()),
        }
    }
}
