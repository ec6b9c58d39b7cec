//! Modules that make a file with the same name: only one of them can be installed on a kernel. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::dkms::conf::BuiltModule;
use crate::dkms::{ModuleName, ModuleOnKernel, Stage, plan};
use crate::kernel::module_file::kernel_name;

/// Another module that makes the same file and has precedence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rival {
    /// The module with precedence.
    pub module: ModuleName,
    /// The name of the file, without its ending.
    pub file: String,
}

impl fmt::Display for Rival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.ko on this kernel is that of {}, and only one module can have it",
            self.file, self.module
        )
    }
}

/// Sets the rival of each pair that has one. All pairs are of the same kernel.
///
/// A file stays with the module for which it is proven, else with the module that dkms has installed, else it
/// goes to the first module by name that asks for it. So no run takes back what the previous run installed.
pub fn find(modules_on_kernels: &mut [ModuleOnKernel]) {
    let names: Vec<Vec<String>> = modules_on_kernels
        .iter()
        .map(|pair| {
            pair.conf.iter().flat_map(|conf| &conf.built).map(|built| kernel_name(&built.name)).collect()
        })
        .collect();
    let contends =
        |at: &usize| modules_on_kernels[*at].conflict.is_none() && is_contender(&modules_on_kernels[*at]);
    let mut ranked: Vec<usize> = (0..modules_on_kernels.len()).filter(contends).collect();
    // The sort is stable, and the pairs are sorted by name.
    ranked.sort_by_cached_key(|at| rank(&modules_on_kernels[*at]));
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    for at in ranked {
        if names[at].iter().all(|name| !taken.contains_key(name.as_str())) {
            taken.extend(names[at].iter().map(|name| (name.as_str(), at)));
        }
    }
    for at in 0..modules_on_kernels.len() {
        let lost = names[at].iter().position(|name| taken.get(name.as_str()).is_some_and(|by| *by != at));
        if let (None, Some(lost), Ok(conf)) =
            (&modules_on_kernels[at].conflict, lost, &modules_on_kernels[at].conf)
        {
            let (file, by) = (conf.built[lost].name.clone(), taken[names[at][lost].as_str()]);
            modules_on_kernels[at].conflict =
                Some(Rival { module: modules_on_kernels[by].module.clone(), file });
        }
    }
}

/// The name of a file that both lists contain.
pub fn shared(one: &[BuiltModule], other: &[BuiltModule]) -> Option<String> {
    let is_made = |name: &str| one.iter().any(|built| kernel_name(&built.name) == kernel_name(name));
    other.iter().find(|built| is_made(&built.name)).map(|built| built.name.clone())
}

/// A module that neither has a file nor asks for it does not compete for it.
fn is_contender(pair: &ModuleOnKernel) -> bool {
    pair.stage == Stage::Installed || plan::unwanted(pair).is_none()
}

/// Modules that have the file come first, then those that ask for it, then those that neither have it any
/// more nor ask for it.
fn rank(pair: &ModuleOnKernel) -> u8 {
    let installed = pair.stage == Stage::Installed;
    match &pair.proof {
        Ok(_) => 0,
        Err(flaws) if installed && plan::is_unlisted_only(flaws) => 0,
        // What is wrong with it makes no difference from here on: it is not whole.
        Err(_) if plan::unwanted(pair).is_some() => 3,
        Err(_) if installed => 1,
        Err(_) => 2,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dkms::{DkmsConf, Flaw, Source};
    use crate::kernel::Headers;

    /// A module that makes these files. `how`: 0 proven, 1 installed and altered, 2 new, 3 new without
    /// AUTOINSTALL.
    fn pair(name: &str, files: &[&str], how: u8) -> ModuleOnKernel {
        let built = files.iter().map(|f| BuiltModule { name: (*f).to_owned(), location: String::new() });
        ModuleOnKernel {
            module: ModuleName { name: name.to_owned(), version: "1".to_owned() },
            release: "6.15.8-1592.native".to_owned(),
            source: Source::Directory { path: "/usr/src/x-1".into(), portable: true },
            stage: if how < 2 { Stage::Installed } else { Stage::Added },
            conf: Ok(DkmsConf { autoinstall: how != 3, built: built.collect(), ..DkmsConf::default() }),
            proof: if how == 0 { Ok(Vec::new()) } else { Err(vec![Flaw::Differs { path: "/x".to_owned() }]) },
            built_files_good: false,
            in_the_way: Vec::new(),
            headers: Headers::Present,
            conflict: None,
            programs_missing: Vec::new(),
            beneath: std::collections::BTreeMap::new(),
            source_changed: false,
        }
    }

    fn shared_by(one: &ModuleOnKernel, other: &ModuleOnKernel) -> Option<String> {
        shared(&one.conf.as_ref().ok()?.built, &other.conf.as_ref().ok()?.built)
    }

    /// The modules that lose, each with its rival.
    fn lost(mut modules_on_kernels: Vec<ModuleOnKernel>) -> Vec<String> {
        find(&mut modules_on_kernels);
        let shown =
            |p: &ModuleOnKernel| Some(format!("{} to {}", p.module.name, p.conflict.as_ref()?.module.name));
        modules_on_kernels.iter().filter_map(shown).collect()
    }

    #[test]
    fn who_has_it_then_who_asks_for_it_then_by_name() {
        let two = |a, b| lost(vec![pair("a", &["x"], a), pair("b", &["x"], b)]);
        for (a, b, shown) in [
            (2, 2, "b to a"),
            (2, 0, "a to b"),
            (2, 1, "a to b"),
            (1, 1, "b to a"),
            (1, 0, "a to b"),
            (3, 2, "a to b"),
            (2, 3, "b to a"),
        ] {
            assert_eq!(two(a, b), [shown], "{a} {b}");
        }
        assert_eq!(two(3, 3), [""; 0], "modules that do not ask for a file do not compete for it");
        let chain = vec![pair("a", &["w", "x-y"], 2), pair("b", &["x_y", "z"], 2), pair("c", &["z"], 2)];
        assert_eq!(lost(chain), ["b to a"]);
    }

    proptest! {
        #[test]
        fn no_file_is_given_twice_and_none_is_kept_back(
            modules in prop::collection::vec((prop::collection::vec("[xyz]", 1..3), 0u8..3), 0..6),
        ) {
            let mut modules_on_kernels: Vec<ModuleOnKernel> = modules.iter().enumerate().map(|(at, (files, how))| {
                let files: Vec<&str> = files.iter().map(String::as_str).collect();
                pair(&format!("m{at}"), &files, *how)
            }).collect();
            find(&mut modules_on_kernels);
            let winners: Vec<&ModuleOnKernel> = modules_on_kernels.iter().filter(|p| p.conflict.is_none()).collect();
            for (at, one) in winners.iter().enumerate() {
                prop_assert!(winners[at + 1..].iter().all(|other| shared_by(one, other).is_none()));
            }
            for beaten in modules_on_kernels.iter().filter(|p| p.conflict.is_some()) {
                prop_assert!(winners.iter().any(|winner| shared_by(winner, beaten).is_some()));
            }
            let before: Vec<_> = modules_on_kernels.iter().map(|p| p.conflict.clone()).collect();
            modules_on_kernels.iter_mut().for_each(|p| p.conflict = None);
            find(&mut modules_on_kernels);
            let again: Vec<_> = modules_on_kernels.iter().map(|p| p.conflict.clone()).collect();
            prop_assert_eq!(before, again);
        }
    }
}
