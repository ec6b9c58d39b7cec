//! The reports on modules that DKMS does not manage.

use super::remedy::{AdminCommand, CommandTarget};
use crate::decide::assessment::BootAssessment;
use crate::decide::satisfaction::{replaced_by, unmanaged_status};
use crate::requirement::{Importance, Requirement};
use crate::state::ModuleRecord;
use crate::system::System;

/// The modules that the machine uses or requires, on each kernel in use.
pub(super) fn rows<'a>(
    system: &'a System,
    assessment: &'a BootAssessment,
) -> impl Iterator<Item = ModuleRecord> + 'a {
    let is_managed =
        |need: &Requirement| system.tree.modules.iter().any(|known| known.module.name == need.module);
    // A module that only the configuration lists may have a wrong name, which the guard reports.
    let is_seen = |need: &Requirement| {
        need.origin.is_some() || need.works || (need.class > Importance::Optional && !need.is_listed())
    };
    // If the tree cannot be listed, the module may be in it.
    let is_known = system.tree.unreadable.is_none();
    let needs = assessment.needs.iter().filter(move |need| is_known && !is_managed(need) && is_seen(need));
    needs.flat_map(move |need| {
        system.lines.iter().map(move |line| unmanaged_status(system, need, &line.release))
    })
}

/// Remarks that are not problems.
pub(super) fn notes(system: &System, assessment: &BootAssessment) -> Vec<String> {
    let is_required = |module: &String| assessment.needs.iter().any(|need| need.modules().contains(module));
    let without = system.files.without_file.iter().filter(|module| !is_required(module));
    let without = without.map(|module| {
        format!("{module} is loaded and has no file below /usr/lib/modules: a reboot loses it")
    });
    let unregistered = system.files.unregistered.iter().map(|path| {
        let add = AdminCommand::change("dkms", &["add", path]).to("have DKMS manage it");
        let step = add.text(&CommandTarget::of(system));
        format!("{} has a dkms.conf and is not registered: {step}", system.shown_path(path))
    });
    let required = assessment.needs.iter().filter(|need| need.class > Importance::Optional);
    let replaced = required
        .flat_map(|need| system.lines.iter().filter_map(|line| replaced_by(system, need, &line.release)));
    without.chain(unregistered).chain(replaced).collect()
}
