//! How much this machine needs each module (*critical*, *wanted* or *optional*), and the reason.
//!
//! A module is critical when something in use depends on it: a mounted filesystem, swap, an imported pool,
//! the interface of the default route, the display. Without a running kernel only the configuration shows
//! what is needed.

use std::collections::BTreeSet;

use super::memory::{Memory, recall};
use crate::kernel::module_file::kernel_name;
use crate::requirement::{IdleBoot, Importance, ListedModules, ModuleOrigin, Requirement, Use};
use crate::usage::Usage;

/// What is known of a module when its importance is decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownModule {
    /// The name of the DKMS module without its version; of a module that DKMS does not manage, the kernel's
    /// name.
    pub name: String,
    /// The names of its module files.
    pub built: Vec<String>,
    /// The module files that are installed for the running kernel.
    pub installed: Vec<String>,
    /// Some version of it is installed for the running kernel, and proven.
    pub proven: bool,
    /// The running kernel could load everything that the module was used for.
    pub is_loadable: bool,
    /// No `dkms.conf` of it can be read: it may consist of other files than `built`.
    pub unclear: bool,
    /// DKMS manages it, or did when it was last seen.
    pub is_managed: bool,
    /// Where its file comes from; none if there is no file.
    pub origin: Option<ModuleOrigin>,
}

/// The requirements, one for each module. `before` are those of the last run: a module stays required until
/// something shows that it is not, because nothing can depend on it while a kernel without it runs. `running`
/// is the release of the running kernel, if there is one.
pub fn classify(
    modules: &[KnownModule],
    listed: &ListedModules,
    in_use: &Usage,
    before: &[Requirement],
    running: Option<&str>,
) -> Vec<Requirement> {
    let with_kernel = |mut need: Requirement| {
        let known = before.iter().find(|n| n.module == need.module).and_then(|n| n.worked_on.clone());
        // A critical module that is only proven on disk has not done its work on this kernel yet.
        let is_used = need.class < Importance::Critical
            || need.is_listed()
            || need.modules().iter().any(|file| in_use.loaded.contains(file));
        need.worked_on = match &known {
            Some(_) if !(need.works && is_used) => known,
            _ => running.filter(|_| need.works).map(str::to_owned),
        };
        need
    };
    let one = |module: &KnownModule| {
        let known = before.iter().find(|n| n.module == module.name);
        with_kernel(ClassifiedModule::new(module, in_use).requirement(listed, known, running))
    };
    modules.iter().map(one).collect()
}

/// A module, and what the running kernel does with its files.
struct ClassifiedModule<'m> {
    module: &'m KnownModule,
    in_use: &'m Usage,
    /// The kernel's names of its files.
    files: Vec<String>,
    /// Those of them that are loaded.
    loaded: Vec<String>,
}

impl<'m> ClassifiedModule<'m> {
    fn new(module: &'m KnownModule, in_use: &'m Usage) -> ClassifiedModule<'m> {
        let files: Vec<String> = module.built.iter().map(|name| kernel_name(name)).collect();
        let loaded = files.iter().filter(|file| in_use.loaded.contains(*file)).cloned().collect();
        ClassifiedModule { module, in_use, files, loaded }
    }

    fn works(&self) -> bool {
        !self.loaded.is_empty() || self.module.proven
    }

    fn with(&self, class: Importance, reason: String, why: Vec<Use>) -> Requirement {
        // The loaded files are the ones in use. A version with more files than the installed one does not add
        // to what is required.
        let files = [&self.loaded, &self.module.installed, &self.files].into_iter().find(|f| !f.is_empty());
        Requirement {
            module: self.module.name.clone(),
            class,
            reason,
            why,
            files: files.cloned().unwrap_or_default(),
            aliases: Vec::new(),
            origin: self.module.origin,
            works: self.works(),
            worked_on: None,
            idle: None,
        }
    }

    fn by(&self, class: Importance, why: Use) -> Requirement {
        self.with(class, why.to_string(), vec![why])
    }

    /// Decides. `recorded` is the requirement of the last run.
    fn requirement(
        &self,
        listed: &ListedModules,
        recorded: Option<&Requirement>,
        running: Option<&str>,
    ) -> Requirement {
        for (class, names) in [
            (Importance::Optional, &listed.optional),
            (Importance::Critical, &listed.critical),
            (Importance::Wanted, &listed.wanted),
        ] {
            if names.contains(&self.module.name) {
                return Requirement { aliases: self.aliases(recorded), ..self.by(class, Use::Listed) };
            }
        }
        let known = recorded.filter(|known| !known.is_listed());
        if self.module.unclear
            && let Some(known) = known
        {
            return Requirement { works: self.works() || known.works, ..known.clone() };
        }
        if let Some(own) = self.loaded_from_kernel() {
            let reason = format!("the kernel's own {own} is loaded in its place");
            return Requirement { works: false, ..self.with(Importance::Optional, reason, Vec::new()) };
        }
        self.in_use().unwrap_or_else(|| self.by_presence_or_memory(known, running))
    }

    /// The name of the module that the kernel brought along and that is loaded in place of this one. An
    /// out-of-tree module that does not set the taint flag `O` is recognized by its installed file.
    fn loaded_from_kernel(&self) -> Option<&String> {
        let own = &self.in_use.own;
        let is_only_own = !self.module.proven && self.loaded.iter().all(|file| own.contains(file));
        self.files.iter().find(|file| own.contains(*file)).filter(|_| is_only_own)
    }

    /// The requirement of a module that something in use depends on.
    fn in_use(&self) -> Option<Requirement> {
        let dependents = self.files.iter().filter_map(|file| self.in_use.depended_on.get(file));
        // A module that only other modules need is proven together with them, and their next version may not
        // need it.
        let mut dependents = dependents.filter(|found| self.module.is_managed || !found.through_modules);
        let first = dependents.next()?;
        let mut need = self.with(Importance::Critical, first.reason.clone(), first.uses.clone());
        need.aliases = first.aliases.iter().cloned().collect();
        for other in dependents {
            let more = other.uses.iter().filter(|other| !first.uses.contains(other));
            need.why.extend(more.cloned());
            need.aliases.extend(other.aliases.difference(&first.aliases).cloned());
        }
        Some(need)
    }

    /// The requirement of a module that nothing in use depends on now. `known` is the requirement of the last
    /// run.
    fn by_presence_or_memory(&self, known: Option<&Requirement>, running: Option<&str>) -> Requirement {
        let memory = known.map(|known| (known, recall(known, self.module, self.in_use, running)));
        let kept = |class: Importance| match &memory {
            Some((known, Memory::Kept(idle))) if known.class == class => Some((*known, idle.clone())),
            _ => None,
        };
        if let Some((known, idle)) = kept(Importance::Critical) {
            return self.remembered(known, idle, known.reason.clone());
        }
        let class = if self.module.is_managed { Importance::Wanted } else { Importance::Optional };
        let listed_in = || self.files.iter().find_map(|file| self.in_use.configured.modules_load.get(file));
        match (!self.loaded.is_empty(), self.module.proven, listed_in()) {
            (true, ..) => self.by(class, Use::Loaded),
            (_, true, _) => self.by(class, Use::Installed),
            (.., Some(file)) => self.by(class, Use::ModulesLoad { file: file.clone() }),
            _ => match kept(Importance::Wanted) {
                Some((known, idle)) => self.remembered(known, idle, Use::Remembered.to_string()),
                None => {
                    let reason = "neither loaded in the running kernel nor installed for it";
                    self.with(Importance::Optional, reason.to_owned(), Vec::new())
                }
            },
        }
    }

    fn remembered(&self, known: &Requirement, idle: Option<IdleBoot>, reason: String) -> Requirement {
        let mut why: Vec<Use> = known.why.iter().filter(|was| **was != Use::Remembered).cloned().collect();
        why.push(Use::Remembered);
        let files = known.modules();
        Requirement { aliases: known.aliases.clone(), files, idle, ..self.with(known.class, reason, why) }
    }

    /// The aliases that the module serves for what uses it now. If it is not in use, those of the last run.
    fn aliases(&self, recorded: Option<&Requirement>) -> Vec<String> {
        let now = self.files.iter().filter_map(|file| self.in_use.depended_on.get(file));
        let now: BTreeSet<&String> = now.flat_map(|dependents| &dependents.aliases).collect();
        match now.is_empty() {
            true => recorded.map(|known| known.aliases.clone()).unwrap_or_default(),
            false => now.into_iter().cloned().collect(),
        }
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

    fn shown(needs: &[Requirement]) -> Vec<String> {
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
            shown(&classify(&modules, &listed, &in_use, &[], None)),
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
        assert_eq!(shown(&needs)[0], "zfs optional true: listed in clr-dkms.conf");
        assert_eq!(shown(&needs)[3], "y critical false: listed in clr-dkms.conf");
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
        let now = |in_use: &Usage| shown(&needs(in_use));
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
        assert_eq!(shown(&installed), ["gpu wanted true: installed for the running kernel"]);
        let lost = one(known("gpu", &["gpu"], false), &installed);
        assert_eq!(shown(&lost), ["gpu wanted false: in use before, and not given up since"]);
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
            shown(&classify(&modules, &listed, in_use, &[], Some("K")))
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
