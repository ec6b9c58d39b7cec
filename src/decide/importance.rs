//! How much this machine needs each module: *critical*, *wanted* or *optional*, and the reason.
//!
//! A module is critical when what is in use depends on it: a mounted filesystem, swap, an imported pool, the interface of
//! the default route, the display. What a machine without a running kernel needs only its configuration knows.

use std::collections::BTreeSet;

use super::memory::{Memory, recall};
use crate::kernel::module_file::kernel_name;
use crate::requirement::{Importance, ListedModules, ModuleOrigin, Requirement, Use};
use crate::usage::Usage;

/// A module, as far as its need goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownModule {
    /// The name of the DKMS module without a version; of others the kernel's name.
    pub name: String,
    /// The names of its module files.
    pub built: Vec<String>,
    /// Those of them that the running kernel has.
    pub installed: Vec<String>,
    /// Some version of it is installed for the running kernel, and proven.
    pub proven: bool,
    /// The running kernel could load all that it was used for.
    pub is_loadable: bool,
    /// No dkms.conf of it can be read: it may have other files than these.
    pub unclear: bool,
    /// DKMS knows it, or did when it was seen last.
    pub is_managed: bool,
    /// Where its file is from; none where there is none.
    pub origin: Option<ModuleOrigin>,
}

/// The needs, one for each module. `before` are those of the last run: what was required stays so until it is known that
/// nothing requires it any more, for on a kernel without it nothing can depend on it.
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
    let one = |module: &KnownModule| {
        let known = before.iter().find(|n| n.module == module.name);
        with_kernel(need(module, listed, in_use, known, running))
    };
    modules.iter().map(one).collect()
}

fn need(
    module: &KnownModule,
    listed: &ListedModules,
    in_use: &Usage,
    recorded: Option<&Requirement>,
    running: Option<&str>,
) -> Requirement {
    let files: Vec<String> = module.built.iter().map(|name| kernel_name(name)).collect();
    let loaded: Vec<String> = files.iter().filter(|file| in_use.loaded.contains(*file)).cloned().collect();
    let is_loaded = !loaded.is_empty();
    let found = |class, reason: String, why: Vec<Use>| Requirement {
        module: module.name.clone(),
        class,
        reason,
        why,
        // What is loaded is in use; of a version with more files than the one that is installed the rest is not missed.
        files: [&loaded, &module.installed, &files]
            .into_iter()
            .find(|f| !f.is_empty())
            .cloned()
            .unwrap_or_default(),
        aliases: Vec::new(),
        origin: module.origin,
        works: is_loaded || module.proven,
        worked_on: None,
        idle: None,
    };
    let by = |class, why: Use| found(class, why.to_string(), vec![why]);
    for (class, names) in [
        (Importance::Optional, &listed.optional),
        (Importance::Critical, &listed.critical),
        (Importance::Wanted, &listed.wanted),
    ] {
        if names.contains(&module.name) {
            return Requirement { aliases: aliases(&files, in_use, recorded), ..by(class, Use::Listed) };
        }
    }
    let known = recorded.filter(|known| !known.is_listed());
    if module.unclear
        && let Some(known) = known
    {
        return Requirement { works: is_loaded || module.proven || known.works, ..known.clone() };
    }
    // A module of another make that does not say so is known by its installed file.
    if !module.proven
        && let Some(own) = files.iter().find(|file| in_use.own.contains(*file))
        && !loaded.iter().any(|file| !in_use.own.contains(file))
    {
        let reason = format!("the kernel's own {own} is loaded in its place");
        return Requirement { works: false, ..found(Importance::Optional, reason, Vec::new()) };
    }
    let dependents = files.iter().filter_map(|file| in_use.depended_on.get(file));
    // What only other modules need is proven with them, and may be part of them in their next version.
    let mut dependents = dependents.filter(|found| module.is_managed || !found.through_modules);
    if let Some(first) = dependents.next() {
        let mut need = found(Importance::Critical, first.reason.clone(), first.uses.clone());
        need.aliases = first.aliases.iter().cloned().collect();
        for other in dependents {
            let more = other.uses.iter().filter(|other| !first.uses.contains(other));
            need.why.extend(more.cloned());
            need.aliases.extend(other.aliases.difference(&first.aliases).cloned());
        }
        return need;
    }
    let memory = known.map(|known| (known, recall(known, module, in_use, running)));
    let kept = |class: Importance| match &memory {
        Some((known, Memory::Kept(idle))) if known.class == class => Some((*known, idle.clone())),
        _ => None,
    };
    let remembered = |known: &Requirement, idle, reason: String| {
        let mut why: Vec<Use> = known.why.iter().filter(|was| **was != Use::Remembered).cloned().collect();
        why.push(Use::Remembered);
        let files = known.modules();
        Requirement { aliases: known.aliases.clone(), files, idle, ..found(known.class, reason, why) }
    };
    if let Some((known, idle)) = kept(Importance::Critical) {
        return remembered(known, idle, known.reason.clone());
    }
    let class = if module.is_managed { Importance::Wanted } else { Importance::Optional };
    let listed_in = || files.iter().find_map(|file| in_use.configured.modules_load.get(file));
    match (is_loaded, module.proven, listed_in()) {
        (true, ..) => by(class, Use::Loaded),
        (_, true, _) => by(class, Use::Installed),
        (.., Some(file)) => by(class, Use::ModulesLoad { file: file.clone() }),
        _ => match kept(Importance::Wanted) {
            Some((known, idle)) => remembered(known, idle, Use::Remembered.to_string()),
            None => {
                let reason = "neither loaded in the running kernel nor installed for it";
                found(Importance::Optional, reason.to_owned(), Vec::new())
            }
        },
    }
}

/// What a module is found by for what it is used for now or, where it is not in use, was used for before.
fn aliases(files: &[String], in_use: &Usage, recorded: Option<&Requirement>) -> Vec<String> {
    let now = files.iter().filter_map(|file| in_use.depended_on.get(file));
    let now: BTreeSet<&String> = now.flat_map(|dependents| &dependents.aliases).collect();
    match now.is_empty() {
        true => recorded.map(|known| known.aliases.clone()).unwrap_or_default(),
        false => now.into_iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::usage::Dependents;

    fn home() -> Dependents {
        let uses = vec![Use::Mount { point: "/home".to_owned(), fs: "zfs".to_owned() }];
        let aliases = ["fs-zfs".to_owned()].into();
        Dependents { reason: "backs /home (zfs)".to_owned(), uses, aliases, through_modules: false }
    }

    fn known(name: &str, built: &[&str], proven: bool) -> KnownModule {
        KnownModule {
            name: name.to_owned(),
            built: built.iter().map(|b| (*b).to_owned()).collect(),
            proven,
            is_loadable: proven,
            is_managed: true,
            ..KnownModule::default()
        }
    }

    fn told(needs: &[Requirement]) -> Vec<String> {
        let one = |n: &Requirement| format!("{} {} {}: {}", n.module, n.class, n.works, n.reason);
        needs.iter().map(one).collect()
    }

    #[test]
    fn what_hangs_on_a_module_makes_it_critical() {
        let in_use = Usage {
            depended_on: BTreeMap::from([("zfs".to_owned(), home())]),
            loaded: ["zfs", "v4l2loopback"].map(str::to_owned).into(),
            ..Usage::default()
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
    fn what_was_critical_stays_so_while_nothing_shows_that_it_is_not() {
        let before = classify(
            &[known("zfs", &["zfs"], true)],
            &ListedModules::default(),
            &Usage {
                depended_on: BTreeMap::from([("zfs".to_owned(), home())]),
                loaded: ["zfs".to_owned()].into(),
                ..Usage::default()
            },
            &[],
            Some("K1"),
        );
        let mut in_use = Usage::default();
        let gone = [known("zfs", &["zfs"], false)];
        let needs = |in_use: &Usage| classify(&gone, &ListedModules::default(), in_use, &before, Some("K2"));
        let now = |in_use: &Usage| told(&needs(in_use));
        assert_eq!(needs(&in_use)[0].worked_on.as_deref(), Some("K1"));
        assert_eq!(now(&in_use), ["zfs critical false: backs /home (zfs)"]);
        assert_eq!(needs(&in_use)[0].aliases, ["fs-zfs"]);
        assert_eq!(needs(&in_use)[0].why.last(), Some(&Use::Remembered));
        // In use for nothing at the moment: /home may be mounted again.
        in_use.loaded.insert("zfs".to_owned());
        assert_eq!(now(&in_use), ["zfs critical true: backs /home (zfs)"]);
    }

    #[test]
    fn what_was_wanted_stays_so_when_its_file_is_gone() {
        let in_use = Usage::default();
        let one = |module: KnownModule, before: &[Requirement]| {
            classify(&[module], &ListedModules::default(), &in_use, before, Some("K"))
        };
        let installed = one(known("gpu", &["gpu"], true), &[]);
        assert_eq!(told(&installed), ["gpu wanted true: installed for the running kernel"]);
        let lost = one(known("gpu", &["gpu"], false), &installed);
        assert_eq!(told(&lost), ["gpu wanted false: in use before, and not given up since"]);
        assert_eq!(lost[0].why, [Use::Installed, Use::Remembered]);
        // As long as need be.
        assert_eq!(one(known("gpu", &["gpu"], false), &lost), lost);
        // A record of version 0.1 has fewer keys.
        let old = r#"[{"module": "gpu", "class": "wanted", "reason": "loaded in the running kernel", "works": true}]"#;
        let old: Vec<Requirement> = serde_json::from_str(old).expect("a record of version 0.1");
        assert_eq!(one(known("gpu", &["gpu"], false), &old)[0].class, Importance::Wanted);
        let listed =
            r#"[{"module": "gpu", "class": "critical", "reason": "listed in clr-dkms.conf", "works": true}]"#;
        let listed: Vec<Requirement> = serde_json::from_str(listed).expect("a record of version 0.1");
        assert_eq!(one(known("gpu", &["gpu"], false), &listed)[0].class, Importance::Optional);
    }

    #[test]
    fn modules_that_dkms_does_not_know() {
        let foreign = |name: &str| KnownModule { is_managed: false, ..known(name, &[name], false) };
        let mut in_use = Usage { loaded: ["vendor".to_owned()].into(), ..Usage::default() };
        in_use.configured.modules_load.insert("late".to_owned(), "/etc/modules-load.d/x.conf".to_owned());
        let listed = ListedModules { wanted: ["mine".to_owned()].into(), ..ListedModules::default() };
        let all = |in_use: &Usage| {
            let modules = [foreign("vendor"), foreign("late"), foreign("mine")];
            told(&classify(&modules, &listed, in_use, &[], Some("K")))
        };
        assert_eq!(
            all(&in_use),
            [
                "vendor optional true: loaded in the running kernel",
                "late optional false: listed in /etc/modules-load.d/x.conf",
                "mine wanted false: listed in clr-dkms.conf",
            ]
        );
        in_use.depended_on.insert("vendor".to_owned(), home());
        assert_eq!(all(&in_use)[0], "vendor critical true: backs /home (zfs)");
        let through = Dependents { through_modules: true, ..home() };
        in_use.depended_on.insert("vendor".to_owned(), through);
        assert_eq!(all(&in_use)[0], "vendor optional true: loaded in the running kernel");
    }
}
