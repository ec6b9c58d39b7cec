//! Observes a machine and makes its status document.

use super::module::{ModuleDocument, module_document};
use super::{Progress, StatusDocument, document};
use crate::automation;
use crate::context::Context;
use crate::dkms::Cache;
use crate::state::{self, IN_PROGRESS, InProgress, LOCK, RECORD, Stored};
use crate::sys::{lock, users};
use crate::system::System;

/// Observes, and builds the document. Changes nothing.
pub fn observe(context: &Context) -> StatusDocument {
    observe_with(context, &mut Cache::load(&context.root))
}

/// Like [`observe`], with more expensive checks: changed sources, and the units and hooks that start
/// clr-dkms. The message of the day does not depend on them.
pub fn observe_whole(context: &Context) -> StatusDocument {
    let record = state::load(&context.root, RECORD);
    let progress = progress(context);
    let mut system = System::observe(context, &mut Cache::load(&context.root));
    system.look_at_sources(&context.root);
    system.automation = automation::observe(&context.root, &context.tools);
    document(&system, &record, &progress, &context.settings, context.clock.now())
}

/// All that is known of one module. None if there is no such module.
pub fn observe_module(context: &Context, cache: &mut Cache, asked: &str) -> Option<ModuleDocument> {
    let record = state::load(&context.root, RECORD);
    let progress = progress(context);
    let mut system = System::observe(context, cache);
    system.look_at_sources(&context.root);
    let document = document(&system, &record, &progress, &context.settings, context.clock.now());
    module_document(&system, &document, asked)
}

/// The same as [`observe`], with a cache that was loaded before.
pub fn observe_with(context: &Context, cache: &mut Cache) -> StatusDocument {
    let record = state::load(&context.root, RECORD);
    let progress = progress(context);
    let system = System::observe(context, cache);
    document(&system, &record, &progress, &context.settings, context.clock.now())
}

/// Whether a run is active, or was interrupted.
pub fn progress(context: &Context) -> Progress {
    match state::load::<InProgress>(&context.root, IN_PROGRESS) {
        // An unreadable file says nothing about a run.
        Stored::Absent | Stored::Unreadable(_) => Progress::None,
        // After a run was killed, its children may hold the lock for a while. If the lock cannot
        // be seen, the process decides.
        Stored::Good(run)
            if lock::is_held(&context.root, LOCK).unwrap_or(true) && users::is_alive(run.pid) =>
        {
            Progress::Working(run.builds)
        }
        _ => Progress::BrokenOff,
    }
}
