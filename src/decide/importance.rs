//! How much this machine needs each module: *critical*, *wanted* or *optional*, and the reason.
//!
//! A module is critical when what is in use hangs on it: a mounted filesystem, swap, an imported pool, the interface of
//! the default route, the display. What a machine without a running kernel needs only its configuration knows.

use crate::requirement::{Importance, LISTED, ListedModules, Requirement};
use crate::usage::{Usage, kernel_spelling};

/// A DKMS module, as far as its need goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownModule {
    /// Its name, without a version.
    pub name: String,
    /// The names of its module files.
    pub built: Vec<String>,
    /// It is proven for the running kernel.
    pub proven: bool,
    /// No dkms.conf of it can be read: it may have other files than these.
    pub unclear: bool,
}

/// The needs, one for each module. `before` are those of the last run: what was critical stays so while the module is not
/// loaded, for on a kernel without it nothing can hang on it.
/// `running` is the release that runs, if one does.
pub fn classify(
    modules: &[KnownModule],
    listed: &ListedModules,
    in_use: &Usage,
    before: &[Requirement],
    running: Option<&str>,
) -> Vec<Requirement> {
    let with_kernel = |mut need: Requirement| {
        let known = before.iter().find(|n| n.module == need.module).and_then(|n| n.worked_on.clone());
        need.worked_on = if need.works { running.map(str::to_owned) } else { known };
        need
    };
    modules.iter().map(|module| with_kernel(need(module, listed, in_use, before))).collect()
}

fn need(module: &KnownModule, listed: &ListedModules, in_use: &Usage, before: &[Requirement]) -> Requirement {
    let files: Vec<String> = module.built.iter().map(|name| kernel_spelling(name)).collect();
    let loaded = files.iter().any(|file| in_use.loaded.contains(file));
    let works = loaded || module.proven;
    let found = |class, reason: &str| Requirement {
        module: module.name.clone(),
        class,
        reason: reason.to_owned(),
        works,
        worked_on: None,
    };
    for (class, names) in [
        (Importance::Optional, &listed.optional),
        (Importance::Critical, &listed.critical),
        (Importance::Wanted, &listed.wanted),
    ] {
        if names.contains(&module.name) {
            return found(class, LISTED);
        }
    }
    if module.unclear
        && let Some(known) = before.iter().find(|n| n.module == module.name && n.reason != LISTED)
    {
        return Requirement { works: works || known.works, ..known.clone() };
    }
    // A module of another make that does not say so is known by its installed file.
    if !module.proven
        && let Some(own) = files.iter().find(|file| in_use.own.contains(*file))
        && !files.iter().any(|file| in_use.loaded.contains(file) && !in_use.own.contains(file))
    {
        let reason = format!("the kernel's own {own} is loaded in its place");
        return Requirement { works: false, ..found(Importance::Optional, &reason) };
    }
    if let Some(reason) = files.iter().find_map(|file| in_use.hangs_on.get(file)) {
        return found(Importance::Critical, reason);
    }
    let remembered = before.iter().find(|n| n.module == module.name && n.reason != LISTED);
    if let (Some(known), false) = (remembered.filter(|n| n.class == Importance::Critical), loaded) {
        return found(Importance::Critical, &known.reason);
    }
    match (loaded, module.proven) {
        (true, _) => found(Importance::Wanted, "loaded in the running kernel"),
        (_, true) => found(Importance::Wanted, "installed for the running kernel"),
        _ => found(Importance::Optional, "neither loaded in the running kernel nor installed for it"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn known(name: &str, built: &[&str], proven: bool) -> KnownModule {
        KnownModule {
            name: name.to_owned(),
            built: built.iter().map(|b| (*b).to_owned()).collect(),
            proven,
            unclear: false,
        }
    }

    fn told(needs: &[Requirement]) -> Vec<String> {
        let one = |n: &Requirement| format!("{} {} {}: {}", n.module, n.class, n.works, n.reason);
        needs.iter().map(one).collect()
    }

    #[test]
    fn what_hangs_on_a_module_makes_it_critical() {
        let in_use = Usage {
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
        let listed = ListedModules::default();
        assert_eq!(
            told(&classify(&modules, &listed, &in_use, &[], None)),
            [
                "zfs critical true: backs /home (zfs)",
                "loop wanted true: loaded in the running kernel",
                "x wanted true: installed for the running kernel",
                "y optional false: neither loaded in the running kernel nor installed for it",
            ]
        );
        let listed = ListedModules {
            critical: ["y".to_owned()].into(),
            optional: ["zfs".to_owned()].into(),
            ..ListedModules::default()
        };
        let needs = classify(&modules, &listed, &in_use, &[], Some("K"));
        assert_eq!(needs[0].worked_on.as_deref(), Some("K"));
        assert_eq!(told(&needs)[0], "zfs optional true: listed in clr-dkms.conf");
        assert_eq!(told(&needs)[3], "y critical false: listed in clr-dkms.conf");
    }

    #[test]
    fn what_was_critical_stays_so_while_it_is_not_loaded() {
        let before = [Requirement {
            module: "zfs".to_owned(),
            class: Importance::Critical,
            reason: "backs /home (zfs)".to_owned(),
            works: true,
            worked_on: Some("K1".to_owned()),
        }];
        let mut in_use = Usage::default();
        let gone = [known("zfs", &["zfs"], false)];
        let needs = |in_use: &Usage| classify(&gone, &ListedModules::default(), in_use, &before, Some("K2"));
        let now = |in_use: &Usage| told(&needs(in_use));
        assert_eq!(needs(&in_use)[0].worked_on.as_deref(), Some("K1"));
        assert_eq!(now(&in_use), ["zfs critical false: backs /home (zfs)"]);
        in_use.loaded.insert("zfs".to_owned());
        assert_eq!(
            now(&in_use),
            ["zfs wanted true: loaded in the running kernel"],
            "in use for nothing any more"
        );
    }
}
