//! SIGINT, SIGTERM and SIGHUP request a stop: the group of the running child is ended first, then this
//! program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static ASKED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    ASKED.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// Makes the three signals set a flag only. For programs that start children and write; other programs may
/// end immediately.
///
/// # Errors
/// When the kernel refuses the handlers.
pub fn watch() -> std::io::Result<()> {
    let ignored = ignored();
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // A signal that was ignored at the start stays ignored, for nohup(1).
        if ignored & (1 << (signal - 1)) == 0 {
            signal_hook::flag::register(signal, Arc::clone(flag()))?;
        }
    }
    Ok(())
}

/// The signals that were ignored when this program was started, as a mask.
#[allow(clippy::disallowed_methods)] // a fact about this process, whatever the root is
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The kernel writes hexadecimal digits. Without them no signal counts as ignored.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

/// Whether a stop was requested.
pub fn asked() -> bool {
    flag().load(Ordering::Relaxed)
}
