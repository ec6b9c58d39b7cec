//! SIGINT, SIGTERM and SIGHUP ask us to stop: the running child's group is ended first, then we go.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// From now on the three signals only raise a flag. For programs that start children and write; the others may
/// die at once.
///
/// # Errors
/// When the kernel refuses the handlers.
pub fn watch() -> std::io::Result<()> {
    let ignored = ignored();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // Who started us with nohup means it.
        if ignored & (1 << (signal - 1)) == 0 {
            signal_hook::flag::register(signal, Arc::clone(flag()))?;
        }
    }
    Ok(())
}

/// The signals that were ignored when we were started, as a mask.
#[allow(clippy::disallowed_methods)] // a fact about this process, whatever the root is
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// We have been asked to stop.
pub fn asked() -> bool {
    flag().load(Ordering::Relaxed)
}
