//! Observes a machine and makes its status document.

use super::module::{ModuleDocument, module_document};
use super::{Progress, StatusDocument, document};
use crate::automation;
use crate::context::Context;
use crate::dkms::Cache;
use crate::state::{self, IN_PROGRESS, InProgress, LOCK, RECORD, RunRecord, Stored};
use crate::sys::{lock, users};
use crate::system::System;

/// Observes, and builds the document. Changes nothing.
pub fn observe(context: &Context) -> StatusDocument {
    observe_with(context, &mut Cache::load(&context.root))
}

/// Like [`observe`], with more expensive checks: changed sources, and the units and hooks that start
/// clr-dkms. The message of the day does not depend on them.
pub fn observe_whole(context: &Context) -> StatusDocument {
    observe_also(context, &mut Cache::load(&context.root), |system, record| {
        system.look_at_sources(&context.root, record);
        system.automation = automation::observe(&context.root, &context.tools);
    })
    .1
}

/// All that is known of one module. None if there is no such module.
pub fn observe_module(context: &Context, cache: &mut Cache, asked: &str) -> Option<ModuleDocument> {
    let look =
        |system: &mut System, record: Option<&RunRecord>| system.look_at_sources(&context.root, record);
    let (system, document) = observe_also(context, cache, look);
    module_document(&system, &document, asked)
}

/// The same as [`observe`], with a cache that was loaded before.
pub fn observe_with(context: &Context, cache: &mut Cache) -> StatusDocument {
    observe_also(context, cache, |_, _| {}).1
}

/// Observes, and builds the document. `also` adds what only some reports look at; it gets the record of the
/// last run.
fn observe_also(
    context: &Context,
    cache: &mut Cache,
    also: impl FnOnce(&mut System, Option<&RunRecord>),
) -> (System, StatusDocument) {
    let record = state::load(&context.root, RECORD);
    let progress = progress(context);
    let mut system = System::observe(context, cache);
    also(&mut system, record.as_good());
    let document = document(&system, &record, &progress, &context.settings, context.clock.now());
    (system, document)
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
