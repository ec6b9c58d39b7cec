//! What is said of modules that DKMS does not manage.

use crate::decide::assessment::BootAssessment;
use crate::decide::satisfaction::{replaced_by, unmanaged_status};
use crate::requirement::{Importance, Requirement};
use crate::state::ModuleRecord;
use crate::system::System;

/// Those that the machine uses or requires, on each kernel that matters.
pub(super) fn rows<'a>(
    facts: &'a System,
    judgement: &'a BootAssessment,
) -> impl Iterator<Item = ModuleRecord> + 'a {
    let is_managed =
        |need: &Requirement| facts.tree.modules.iter().any(|known| known.module.name == need.module);
    // Of what only the configuration lists, the name may be wrong: the guard says so.
    let is_seen = |need: &Requirement| {
        need.origin.is_some() || need.works || (need.class > Importance::Optional && !need.is_listed())
    };
    // What cannot be listed may be in the tree.
    let is_known = facts.tree.unreadable.is_none();
    let needs = judgement.needs.iter().filter(move |need| is_known && !is_managed(need) && is_seen(need));
    needs.flat_map(move |need| {
        facts.lines.iter().map(move |line| unmanaged_status(facts, need, &line.release))
    })
}

/// What is only reported.
pub(super) fn notes(facts: &System, judgement: &BootAssessment) -> Vec<String> {
    let is_required = |module: &String| judgement.needs.iter().any(|need| need.modules().contains(module));
    let without = facts.files.without_file.iter().filter(|module| !is_required(module));
    let without = without.map(|module| {
        format!("{module} is loaded and has no file below /usr/lib/modules: a reboot loses it")
    });
    let unregistered = facts.files.unregistered.iter().map(|path| {
        let path = facts.spell(path);
        format!("{path} has a dkms.conf and is not registered: `dkms add {path}` has DKMS manage it")
    });
    let required = judgement.needs.iter().filter(|need| need.class > Importance::Optional);
    let replaced = required
        .flat_map(|need| facts.lines.iter().filter_map(|line| replaced_by(facts, need, &line.release)));
    without.chain(unregistered).chain(replaced).collect()
}
