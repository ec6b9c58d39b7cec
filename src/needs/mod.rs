//! How much this machine needs each module: *critical*, *wanted* or *optional*, and the reason.
//!
//! A module is critical when what is in use hangs on it: a mounted filesystem, swap, an imported pool, the interface of
//! the default route, the display. What a machine without a running kernel needs only its configuration knows.

pub mod devices;

use std::collections::{BTreeMap, BTreeSet};

pub use crate::guard::{Class, Need};
pub use devices::InUse;

/// What the configuration lists, by names of DKMS modules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// `[modules] critical`.
    pub critical: BTreeSet<String>,
    /// `[modules] wanted`.
    pub wanted: BTreeSet<String>,
    /// `[modules] optional`.
    pub optional: BTreeSet<String>,
}

/// A DKMS module, as far as its need goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its name, without a version.
    pub name: String,
    /// The names of its module files.
    pub built: Vec<String>,
    /// It is proven for the running kernel.
    pub proven: bool,
    /// No dkms.conf of it can be read: it may have other files than these.
    pub unclear: bool,
}

/// The name of a module as the kernel spells it.
pub fn kernel_spelling(name: &str) -> String {
    name.replace('-', "_")
}

/// The needs, one for each module. `before` are those of the last run: what was critical stays so while the module is not
/// loaded, for on a kernel without it nothing can hang on it.
/// `running` is the release that runs, if one does.
pub fn classify(
    modules: &[Known],
    listed: &Listed,
    in_use: &InUse,
    before: &[Need],
    running: Option<&str>,
) -> Vec<Need> {
    let with_kernel = |mut need: Need| {
        let known = before.iter().find(|n| n.module == need.module).and_then(|n| n.worked_on.clone());
        need.worked_on = if need.works { running.map(str::to_owned) } else { known };
        need
    };
    modules.iter().map(|module| with_kernel(need(module, listed, in_use, before))).collect()
}

/// The reason of a need that is configured.
pub const LISTED: &str = "listed in clr-dkms.conf";

fn need(module: &Known, listed: &Listed, in_use: &InUse, before: &[Need]) -> Need {
    let files: Vec<String> = module.built.iter().map(|name| kernel_spelling(name)).collect();
    let loaded = files.iter().any(|file| in_use.loaded.contains(file));
    let works = loaded || module.proven;
    let found = |class, reason: &str| Need {
        module: module.name.clone(),
        class,
        reason: reason.to_owned(),
        works,
        worked_on: None,
    };
    for (class, names) in [
        (Class::Optional, &listed.optional),
        (Class::Critical, &listed.critical),
        (Class::Wanted, &listed.wanted),
    ] {
        if names.contains(&module.name) {
            return found(class, LISTED);
        }
    }
    if module.unclear
        && let Some(known) = before.iter().find(|n| n.module == module.name && n.reason != LISTED)
    {
        return Need { works: works || known.works, ..known.clone() };
    }
    // A module of another make that does not say so is known by its installed file.
    if !module.proven
        && let Some(own) = files.iter().find(|file| in_use.own.contains(*file))
        && !files.iter().any(|file| in_use.loaded.contains(file) && !in_use.own.contains(file))
    {
        let reason = format!("the kernel's own {own} is loaded in its place");
        return Need { works: false, ..found(Class::Optional, &reason) };
    }
    if let Some(reason) = files.iter().find_map(|file| in_use.hangs_on.get(file)) {
        return found(Class::Critical, reason);
    }
    let remembered = before.iter().find(|n| n.module == module.name && n.reason != LISTED);
    if let (Some(known), false) = (remembered.filter(|n| n.class == Class::Critical), loaded) {
        return found(Class::Critical, &known.reason);
    }
    match (loaded, module.proven) {
        (true, _) => found(Class::Wanted, "loaded in the running kernel"),
        (_, true) => found(Class::Wanted, "installed for the running kernel"),
        _ => found(Class::Optional, "neither loaded in the running kernel nor installed for it"),
    }
}

/// Spreads what hangs on a module to what that module hangs on: who holds whom is in `holders`.
fn spread(hangs_on: &mut BTreeMap<String, String>, holders: &BTreeMap<String, Vec<String>>) {
    loop {
        let more: Vec<(String, String)> = holders
            .iter()
            .filter(|(module, _)| !hangs_on.contains_key(*module))
            .filter_map(|(module, by)| {
                let (holder, reason) = by.iter().find_map(|h| Some((h, hangs_on.get(h)?)))?;
                let through = if reason.contains(holder.as_str()) { "" } else { " through its dependents" };
                Some((module.clone(), format!("{reason}{through}")))
            })
            .collect();
        if more.is_empty() {
            return;
        }
        hangs_on.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str, built: &[&str], proven: bool) -> Known {
        Known {
            name: name.to_owned(),
            built: built.iter().map(|b| (*b).to_owned()).collect(),
            proven,
            unclear: false,
        }
    }

    fn told(needs: &[Need]) -> Vec<String> {
        let one = |n: &Need| format!("{} {} {}: {}", n.module, n.class, n.works, n.reason);
        needs.iter().map(one).collect()
    }

    #[test]
    fn what_hangs_on_a_module_makes_it_critical() {
        let in_use = InUse {
            hangs_on: BTreeMap::from([("zfs".to_owned(), "backs /home (zfs)".to_owned())]),
            loaded: ["zfs", "v4l2loopback"].map(str::to_owned).into(),
            own: BTreeSet::new(),
        };
        let modules = [
            known("zfs", &["spl", "zfs"], true),
            known("loop", &["v4l2loopback"], false),
            known("x", &["snd-x"], true),
            known("y", &["y"], false),
        ];
        let listed = Listed::default();
        assert_eq!(
            told(&classify(&modules, &listed, &in_use, &[], None)),
            [
                "zfs critical true: backs /home (zfs)",
                "loop wanted true: loaded in the running kernel",
                "x wanted true: installed for the running kernel",
                "y optional false: neither loaded in the running kernel nor installed for it",
            ]
        );
        let listed = Listed {
            critical: ["y".to_owned()].into(),
            optional: ["zfs".to_owned()].into(),
            ..Listed::default()
        };
        let needs = classify(&modules, &listed, &in_use, &[], Some("K"));
        assert_eq!(needs[0].worked_on.as_deref(), Some("K"));
        assert_eq!(told(&needs)[0], "zfs optional true: listed in clr-dkms.conf");
        assert_eq!(told(&needs)[3], "y critical false: listed in clr-dkms.conf");
    }

    #[test]
    fn what_was_critical_stays_so_while_it_is_not_loaded() {
        let before = [Need {
            module: "zfs".to_owned(),
            class: Class::Critical,
            reason: "backs /home (zfs)".to_owned(),
            works: true,
            worked_on: Some("K1".to_owned()),
        }];
        let mut in_use = InUse::default();
        let gone = [known("zfs", &["zfs"], false)];
        let needs = |in_use: &InUse| classify(&gone, &Listed::default(), in_use, &before, Some("K2"));
        let now = |in_use: &InUse| told(&needs(in_use));
        assert_eq!(needs(&in_use)[0].worked_on.as_deref(), Some("K1"));
        assert_eq!(now(&in_use), ["zfs critical false: backs /home (zfs)"]);
        in_use.loaded.insert("zfs".to_owned());
        assert_eq!(
            now(&in_use),
            ["zfs wanted true: loaded in the running kernel"],
            "in use for nothing any more"
        );
    }

    #[test]
    fn what_a_critical_module_is_built_upon_is_critical() {
        let mut hangs_on = BTreeMap::from([("c".to_owned(), "backs / (c)".to_owned())]);
        let holders = BTreeMap::from([
            ("a".to_owned(), vec!["b".to_owned()]),
            ("b".to_owned(), vec!["c".to_owned()]),
            ("x".to_owned(), vec!["a".to_owned(), "y".to_owned()]),
            ("z".to_owned(), Vec::new()),
        ]);
        spread(&mut hangs_on, &holders);
        assert_eq!(hangs_on.keys().collect::<Vec<_>>(), ["a", "b", "c", "x"]);
    }
}
