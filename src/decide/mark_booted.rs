//! Whether the running kernel has lost a module that was critical before it was booted.

use super::assessment::BootAssessment;
use super::satisfaction::{is_replaced, is_replaced_now};
use crate::dkms::Flaw;
use crate::dkms::loadable::Loadable;
use crate::kernel::module_file::kernel_name;
use crate::requirement::{Importance, Requirement};
use crate::state::RunRecord;
use crate::system::System;

/// The running kernel and the critical module that it is known to lack while another kernel had it; none in
/// doubt. Where the loaded modules are unknown (`can_tell` is false), only a file that is not there counts as
/// lost.
pub fn lost_on_running<'a>(
    system: &System,
    record: Option<&RunRecord>,
    assessment: &'a BootAssessment,
    can_tell: bool,
) -> Option<(String, &'a Requirement)> {
    let running = system.inventory.running_kernel().map(|k| k.name.release())?;
    // Nothing is known to be lost by a read that failed.
    if system.tree.unreadable.is_some() || assessment.unknown.is_some() {
        return None;
    }
    let has_no_file = |need: &Requirement| {
        let module = need.module.as_str();
        let files = need.modules();
        let is_registered = system.modules_on_kernels.iter().any(|p| p.module.name == module);
        let is_absent = |file: &String| system.files.on(&running, file) == Some(&Loadable::Absent);
        if is_replaced(system, need, &running) {
            return false;
        }
        if !is_registered && files.iter().all(is_absent) {
            return true;
        }
        let mut modules_on_kernels = system.of_kernel(&running).filter(|p| p.module.name == module);
        let is_gone = |flaws: &Vec<Flaw>| flaws.iter().any(|f| matches!(f, Flaw::Missing { .. }));
        modules_on_kernels.any(|p| p.proof.as_ref().is_err_and(is_gone))
    };
    let lost = assessment.needs.iter().find(|need| {
        let elsewhere = need.worked_on.as_ref().is_some_and(|on| *on != running);
        let before = record.iter().flat_map(|r| &r.needs).find(|n| n.module == need.module);
        let elsewhere =
            elsewhere || before.is_some_and(|n| n.worked_on.as_ref().is_some_and(|on| *on != running));
        // Whether one that an admin has listed was ever loaded is not known: some are, on demand only.
        let missing = match can_tell {
            true => !need.works || (!need.is_listed() && is_there(system, need, &running) == Ok(false)),
            false => has_no_file(need),
        };
        need.class == Importance::Critical && elsewhere && missing
    });
    lost.map(|lost| (running.clone(), lost))
}

/// Whether the running kernel has a required module in use: loaded, built in, or replaced by another one. An
/// error is the reason why that is unknown.
pub fn is_there(system: &System, need: &Requirement, running: &str) -> Result<bool, String> {
    // What is part of the kernel is not loaded.
    let is_built_in = |file: &str| matches!(system.files.on(running, file), Some(Loadable::BuiltIn { .. }));
    let is_loaded = |file: &str| system.in_use.loaded.contains(&kernel_name(file)) || is_built_in(file);
    let is_known = need.modules().iter().any(|file| is_loaded(file)) || is_loaded(&need.module);
    if is_known || is_replaced_now(system, need, running) {
        return Ok(true);
    }
    let mut unknown = None;
    for pair in system.modules_on_kernels.iter().filter(|pair| pair.module.name == need.module) {
        match &pair.conf {
            Ok(conf) if conf.built.iter().any(|built| is_loaded(&built.name)) => return Ok(true),
            Ok(_) => {}
            // It does not tell the names of its files.
            Err(e) => unknown = Some(e.to_string()),
        }
    }
    unknown.map_or(Ok(false), Err)
}
