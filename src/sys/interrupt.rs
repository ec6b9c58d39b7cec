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
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag()))?;
    }
    Ok(())
}

/// We have been asked to stop.
pub fn asked() -> bool {
    flag().load(Ordering::Relaxed)
}
