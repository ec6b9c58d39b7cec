//! What modprobe would load for a module name on a kernel, whatever its origin, and whether the kernel
//! accepts it.

use std::collections::BTreeMap;

use crate::dkms::Cache;
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::proof::{BegunProof, Flaw, Proof};
use crate::modprobe::{Claim, FileOrigin, KernelModules, Resolution};

/// What modprobe would load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loadable {
    /// Nothing: it is built into the kernel. `serves`: whether it supports what the module is used for.
    BuiltIn { serves: Serves },
    /// A file. `serves`: whether it supports what the module is used for. `proof`: the same proof as for a
    /// module of DKMS.
    File { origin: FileOrigin, serves: Serves, proof: Result<Box<Proof>, Vec<Flaw>> },
    /// Nothing.
    Absent,
    /// It is unknown.
    Unknown { reason: String },
}

/// Whether the aliases of a file match the device, file system or protocol that a module is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// One of them does.
    Yes,
    /// None does.
    No,
    /// It was not checked, or nothing is known to compare with.
    Unknown,
}

/// Determines it. `aliases` are the aliases by which the module is found for its use.
pub fn loadable<'a>(
    scope: &KernelSymbols<'_>,
    modules: &KernelModules<'_>,
    cache: &mut Cache,
    name: &str,
    aliases: impl IntoIterator<Item = &'a String>,
) -> Loadable {
    let serves = || serves(modules, name, aliases);
    match modules.resolve(name) {
        Resolution::BuiltIn => Loadable::BuiltIn { serves: serves() },
        Resolution::File { path, origin, .. } => {
            let serves = if origin == FileOrigin::Dkms { Serves::Unknown } else { serves() };
            Loadable::File { origin, serves, proof: prove_listed(scope, cache, name, path).map(Box::new) }
        }
        Resolution::Dangling { .. } | Resolution::Absent => Loadable::Absent,
        Resolution::Unknown(reason) => Loadable::Unknown { reason },
    }
}

/// The modules of a kernel that serve an alias, by name, or the reason why they are unknown. Modules that are
/// listed for the alias are left out if they have no file or do not have the alias themselves.
pub type Serving = Result<BTreeMap<String, Loadable>, String>;

/// The maximum number of modules that are checked for one alias; kernels list three at most.
const MOST_SERVING: usize = 32;

/// Determines them.
pub fn serving(
    scope: &KernelSymbols<'_>,
    modules: &KernelModules<'_>,
    cache: &mut Cache,
    alias: &str,
) -> Serving {
    let listed = modules.listed_for(alias).map_err(|e| format!("{e:#}"))?;
    if listed.len() > MOST_SERVING {
        return Err(format!("{} modules of kernel {} are listed for {alias}", listed.len(), scope.release));
    }
    let one = |name: String| {
        let found = loadable(scope, modules, cache, &name, std::iter::empty());
        if found == Loadable::Absent {
            return None;
        }
        match modules.claims(&name, alias) {
            Claim::Yes => Some((name, found)),
            // The list is outdated.
            Claim::No => None,
            Claim::Unknown(reason) => Some((name, Loadable::Unknown { reason })),
        }
    };
    Ok(listed.into_iter().filter_map(one).collect())
}

fn serves<'a>(
    modules: &KernelModules<'_>,
    name: &str,
    aliases: impl IntoIterator<Item = &'a String>,
) -> Serves {
    let claims = aliases.into_iter().map(|alias| modules.claims(name, alias));
    claims.fold(Serves::Unknown, |known, claim| match (known, claim) {
        (Serves::Yes, _) | (_, Claim::Yes) => Serves::Yes,
        (_, Claim::No) => Serves::No,
        (known, Claim::Unknown(_)) => known,
    })
}

/// Proves the file that modprobe finds for a name.
fn prove_listed(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    name: &str,
    path: String,
) -> Result<Proof, Vec<Flaw>> {
    let there = scope.root.lookup(&path);
    let begun = BegunProof::of(scope, cache, name, path, &there).map_err(|flaw| vec![flaw])?;
    let entry = scope.index.modprobe(name);
    let unlisted = entry.is_none().then(|| Flaw::NotListed { name: name.to_owned(), instead: None });
    begun.finish(scope, cache, entry.as_ref(), unlisted.into_iter().collect())
}
