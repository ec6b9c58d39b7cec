//! The proof that a module works on a kernel: every built file exists, was made for that kernel, and is the
//! file that modprobe finds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::dkms::conf::BuiltModule;
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::modfile::{self, ENDINGS, FileFacts};
use crate::dkms::plan::built_directory;
use crate::dkms::signature::Signature;
use crate::dkms::symbols::Wrong;
use crate::dkms::{Cache, DkmsConf, ModuleName, Stage};
use crate::kernel::inventory::module_directory;
use crate::kernel::module_file::made_for;
use crate::kernel::module_image::ImageError;
use crate::modprobe::index::DependencyEntry;
use crate::sys::{Directory, FileKind, Presence, Root};

/// The directory that the dkms of Clear Linux and of Debian installs to, below the module directory.
pub const INSTALLED: &str = "updates/dkms";

/// A file that was checked and is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The path inside the root.
    pub path: String,
    /// Its vermagic, whose first word is the kernel release.
    pub vermagic: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its signature. Old records lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// When its contents were last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Timestamp>,
    /// SHA-256 of the file, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The time of the check, in whole seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked: Option<Timestamp>,
    /// The checks. Empty in old records, which lack the three fields above too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// A check of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked.
    pub check: ProofSubject,
    /// Why it could not be checked; none if it was, with a good result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_made: Option<String>,
}

/// The checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProofSubject {
    /// It was made for this kernel release.
    Vermagic,
    /// Everything that it takes from the kernel and from other modules exists, in the version that it was
    /// built with.
    Symbols,
    /// modprobe finds it.
    #[serde(rename = "modules.dep")]
    ModulesDep,
    /// The modules that it depends on exist.
    Dependencies,
    /// At its next boot the kernel accepts its signature, or accepts it without one.
    Signature,
}

/// What is wrong with a module on a kernel. Each `path` is inside the root, each `name` is without ending.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case", tag = "flaw")]
pub enum Flaw {
    /// No file with that name is installed.
    #[error("{name}.ko is not installed")]
    Missing { name: String },
    /// It cannot be read as a module.
    #[error("{path} is not a usable module: {reason}")]
    Damaged { path: String, reason: String },
    /// It was made for another kernel.
    #[error("{path} was made for {}", made_for(found).unwrap_or_default())]
    Vermagic { path: String, found: String },
    /// dkms has installed another version or none on this kernel, so the file does not belong to this module.
    #[error("dkms has not installed this version")]
    NotInstalled,
    /// It differs from the file that the build of this version made.
    #[error("{path} is not the file that was built")]
    Differs { path: String },
    /// `modules.dep` does not list it, so modprobe does not find it. `instead`: the path that `modules.dep`
    /// lists instead, if any.
    #[error("modules.dep {}", not_listed(name, instead.as_deref()))]
    NotListed { name: String, instead: Option<String> },
    /// It was built with other versions of the kernel's symbols, or takes one that does not exist.
    #[error("{path} {wrong}")]
    Symbols { path: String, wrong: Wrong },
    /// A module that it depends on does not exist.
    #[error("{name} needs {needs}, which is not there")]
    Dependency { name: String, needs: String },
    /// It cannot be determined.
    #[error("{reason}")]
    Unknown { reason: String },
}

fn not_listed(name: &str, instead: Option<&str>) -> String {
    match instead {
        None => format!("does not list {name}"),
        Some(path) => format!("lists {path} for {name}"),
    }
}

/// Flaws in one sentence.
pub fn in_words(flaws: &[Flaw]) -> String {
    flaws.iter().map(Flaw::to_string).collect::<Vec<_>>().join("; ")
}

/// Whether a file is in the directory of dkms.
pub fn is_dkms_own(path: &str) -> bool {
    path.rsplit_once('/')
        .is_some_and(|(directory, _)| directory.ends_with("/updates/dkms") && !directory.contains("/../"))
}

/// The file of a built module in the directory of the kernel: the path inside the root, and the file.
pub fn installed_file(root: &Root, release: &str, built: &BuiltModule) -> Option<(String, Presence)> {
    let directory = module_directory(release);
    let location = built.location.trim_matches('/');
    [INSTALLED, location]
        .iter()
        .find_map(|place| find_file(root, &format!("{directory}/{place}"), &built.name))
}

/// The file `NAME.ko*` in a directory.
pub fn find_file(root: &Root, directory: &str, name: &str) -> Option<(String, Presence)> {
    let at = |name: &str| format!("{directory}/{name}");
    match root.open_directory(directory) {
        Ok(opened) => find_in(&opened, name).map(|(file, there)| (at(&file), there)),
        Err(e) if e.is_absent() => None,
        Err(e) => Some((at(&format!("{name}{}", ENDINGS[0])), Presence::Unreadable(e))),
    }
}

fn find_in(directory: &Directory<'_>, name: &str) -> Option<(String, Presence)> {
    let files = ENDINGS.iter().map(|ending| format!("{name}{ending}"));
    files.into_iter().find_map(|file| directory.lookup(&file).map(|there| (file, there)))
}

/// The facts in a module file, from the cache or from the file.
pub fn facts_of(root: &Root, cache: &mut Cache, path: &str, there: &Presence) -> Result<FileFacts, Flaw> {
    let stat = match there {
        Presence::There(stat) => stat,
        Presence::Absent => {
            return Err(Flaw::Damaged {
                path: path.to_owned(),
                reason: "it is a link that leads nowhere".to_owned(),
            });
        }
        Presence::Unreadable(e) => {
            return Err(Flaw::Unknown { reason: e.to_string() });
        }
    };
    if let Some(known) = cache.file(path, stat) {
        return Ok(known);
    }
    if let Some(reason) = cache.too_large(path, stat) {
        return Err(Flaw::Unknown { reason });
    }
    match modfile::of_file(root, path) {
        Ok(facts) => {
            cache.keep_file(path, stat, facts.clone());
            Ok(facts)
        }
        Err(error) => {
            let reason = error.of(path);
            if matches!(error, ImageError::TooLarge(_)) {
                cache.keep_too_large(path, stat, reason.clone());
            }
            Err(Flaw::Unknown { reason })
        }
    }
}

/// Checks a file against a kernel release. Returns its vermagic.
///
/// # Errors
///
/// The flaw that was found.
pub fn vermagic_of<'f>(facts: &'f FileFacts, release: &str, path: &str) -> Result<&'f str, Flaw> {
    match &facts.vermagic {
        Err(reason) => Err(Flaw::Damaged { path: path.to_owned(), reason: reason.clone() }),
        Ok(found) if made_for(found) == Some(release) => Ok(found),
        Ok(found) => Err(Flaw::Vermagic { path: path.to_owned(), found: found.clone() }),
    }
}

/// Whether every built file of a module in the DKMS tree exists and was made for the kernel.
pub fn built_files_good(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    module: &ModuleName,
    conf: &DkmsConf,
) -> bool {
    let (root, directory) = (scope.root, built_directory(module, scope.release));
    !conf.built.is_empty()
        && conf.built.iter().all(|built| {
            find_file(root, &directory, &built.name).is_some_and(|(path, there)| {
                // A file that cannot be read is not good: it is built again, and the installed file stays.
                BegunProof::of(scope, cache, &built.name, path.clone(), &there).is_ok()
                    && !matches!(scope.symbols(cache, &path, &there, None), Ok(Err(_)))
            })
        })
}

/// The judgement about a build before any of it is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProofStanding {
    /// Its files were made for this kernel, which has everything that they take.
    Proven,
    /// No flaw was found, but not everything could be checked.
    Unchecked(String),
    /// The kernel will not load it.
    Flawed(Vec<Flaw>),
}

/// Checks the build of a module in the DKMS tree against everything that will be loaded before it. Returns
/// its signatures too.
pub fn prove_built(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    module: &ModuleName,
    conf: &DkmsConf,
) -> (ProofStanding, Vec<Signature>) {
    prove_files(scope, cache, &built_directory(module, scope.release), conf)
}

/// The same for files in any directory of the root.
pub fn prove_files(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    directory: &str,
    conf: &DkmsConf,
) -> (ProofStanding, Vec<Signature>) {
    let (mut flaws, mut unchecked, mut set, mut signatures) = (Vec::new(), None, Vec::new(), Vec::new());
    for built in &conf.built {
        match find_file(scope.root, directory, &built.name) {
            Some((path, there)) => set.push((built.name.clone(), path, there)),
            None => flaws.push(Flaw::Missing { name: built.name.clone() }),
        }
    }
    let paths: Vec<(String, String)> =
        set.iter().map(|(name, path, _)| (name.clone(), path.clone())).collect();
    for (name, path, there) in &set {
        let system = match BegunProof::of(scope, cache, name, path.clone(), there) {
            Ok(begun) => begun.facts,
            Err(flaw) => {
                flaws.push(flaw);
                continue;
            }
        };
        if let Signature::Broken { reason } = &system.signature {
            flaws.push(Flaw::Damaged { path: path.clone(), reason: reason.clone() });
        }
        let needs = scope.files_before(&system.depends, &paths);
        let judged = needs.and_then(|needs| scope.symbols_with(path, &needs));
        signatures.push(system.signature);
        match judged {
            Ok(Ok(())) => {}
            Ok(Err(wrong @ Wrong::Version(_))) => flaws.push(Flaw::Symbols { path: path.clone(), wrong }),
            // A module that is installed in the same run may export it: the next index decides.
            Ok(Err(wrong @ Wrong::Missing(_))) => {
                unchecked = Some(Flaw::Symbols { path: path.clone(), wrong }.to_string());
            }
            Err(error) => unchecked = Some(error.to_string()),
        }
    }
    let standing = match (flaws.is_empty(), unchecked) {
        (false, _) => ProofStanding::Flawed(flaws),
        (true, Some(reason)) => ProofStanding::Unchecked(reason),
        (true, None) => ProofStanding::Proven,
    };
    (standing, signatures)
}

/// Installed files that work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledSet {
    /// Their signatures.
    pub signatures: Vec<Signature>,
    /// Every check was made.
    pub checked: bool,
}

/// The installed files with the names of a module, if all of them are proven as files of the version that
/// dkms has installed, whichever that is. None if there is no working set.
pub fn prove_installed(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    installed: &ModuleName,
    conf: &DkmsConf,
) -> Option<InstalledSet> {
    let there = conf.built.iter().filter(|built| installed_file(scope.root, scope.release, built).is_some());
    let proofs: Result<Vec<Proof>, Vec<Flaw>> =
        there.map(|built| prove_one(scope, cache, installed, Stage::Installed, built)).collect();
    // A file that cannot be read is not known to work. Only a forced build replaces it.
    let proofs = proofs.ok().filter(|proofs| !proofs.is_empty())?;
    let checked = proofs.iter().flat_map(|proof| &proof.checks).all(|check| check.not_made.is_none());
    Some(InstalledSet {
        signatures: proofs.into_iter().filter_map(|proof| proof.signature).collect(),
        checked,
    })
}

/// Proves all built files of a module on one kernel.
///
/// # Errors
///
/// All flaws that were found.
pub fn prove(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    module: &ModuleName,
    stage: Stage,
    conf: &DkmsConf,
) -> Result<Vec<Proof>, Vec<Flaw>> {
    let (mut proofs, mut flaws) = (Vec::new(), Vec::new());
    if conf.built.is_empty() {
        flaws.push(Flaw::Unknown { reason: "its dkms.conf names no module".to_owned() });
    }
    for built in &conf.built {
        match prove_one(scope, cache, module, stage, built) {
            Ok(proof) => proofs.push(proof),
            Err(more) => flaws.extend(more),
        }
    }
    if stage != Stage::Installed && flaws.is_empty() {
        flaws.push(Flaw::NotInstalled);
    }
    if flaws.is_empty() { Ok(proofs) } else { Err(flaws) }
}

fn prove_one(
    scope: &KernelSymbols<'_>,
    cache: &mut Cache,
    module: &ModuleName,
    stage: Stage,
    built: &BuiltModule,
) -> Result<Proof, Vec<Flaw>> {
    let root = scope.root;
    let missing = || vec![Flaw::Missing { name: built.name.clone() }];
    let (path, there) = scope
        .installed()
        .and_then(|directory| find_in(directory, &built.name))
        .map(|(file, there)| (scope.inside(&format!("{INSTALLED}/{file}")), there))
        .or_else(|| installed_file(root, scope.release, built))
        .ok_or_else(missing)?;
    let begun = BegunProof::of(scope, cache, &built.name, path, &there).map_err(|flaw| vec![flaw])?;
    if stage != Stage::Installed {
        return Ok(begun.proof);
    }
    let path = &begun.proof.path;
    // For a module without a version of its own, dkms keeps the file of an older version and still reports
    // "installed".
    let is_file = |there: &Presence| match there {
        Presence::Unreadable(e) => !e.is_no_file(),
        there => there.is(FileKind::File),
    };
    let made = find_file(root, &built_directory(module, scope.release), &built.name);
    match made.filter(|(_, there)| is_file(there)).map(|(path, there)| facts_of(root, cache, &path, &there)) {
        Some(Ok(made)) if made.sha256 != begun.facts.sha256 => {
            return Err(vec![Flaw::Differs { path: path.clone() }]);
        }
        Some(Err(unknown @ Flaw::Unknown { .. })) => return Err(vec![unknown]),
        // Outside of the directory of dkms it may be the kernel's own module with the same name.
        Some(Err(_)) | None if !is_dkms_own(path) => return Err(missing()),
        _ => {}
    }
    let mut flaws = Vec::new();
    let below = path.strip_prefix(&scope.inside("")).unwrap_or(path);
    let mut not_listed = |instead| {
        flaws.push(Flaw::NotListed { name: built.name.clone(), instead });
        None
    };
    let entry = match scope.index.entry(&built.name) {
        Ok(entry) if entry.path == below => Some(entry),
        Ok(entry) => not_listed(Some(entry.path)),
        Err(instead) => not_listed(instead),
    };
    begun.finish(scope, cache, entry.as_ref(), flaws)
}

/// A file whose proof has begun: it was made for the kernel.
pub(in crate::dkms) struct BegunProof<'a> {
    name: &'a str,
    there: &'a Presence,
    facts: FileFacts,
    proof: Proof,
}

impl<'a> BegunProof<'a> {
    /// Checks that the file of a module was made for the kernel.
    pub(in crate::dkms) fn of(
        scope: &KernelSymbols<'_>,
        cache: &mut Cache,
        name: &'a str,
        path: String,
        there: &'a Presence,
    ) -> Result<BegunProof<'a>, Flaw> {
        let facts = facts_of(scope.root, cache, &path, there)?;
        let proof = Proof {
            vermagic: vermagic_of(&facts, scope.release, &path)?.to_owned(),
            path,
            size: there.stat().map_or(0, |stat| stat.size),
            signature: Some(facts.signature.clone()),
            // A time that no calendar has is only left out of the report.
            mtime: there.stat().and_then(|stat| Timestamp::from_nanosecond(stat.mtime_ns).ok()),
            sha256: Some(facts.sha256.clone()),
            checked: Some(scope.now),
            checks: vec![Check { check: ProofSubject::Vermagic, not_made: None }],
        };
        Ok(BegunProof { name, there, facts, proof })
    }

    /// Checks the symbols that it takes and the modules that it depends on. `flaws` were found before.
    pub(in crate::dkms) fn finish(
        mut self,
        scope: &KernelSymbols<'_>,
        cache: &mut Cache,
        entry: Option<&DependencyEntry>,
        mut flaws: Vec<Flaw>,
    ) -> Result<Proof, Vec<Flaw>> {
        let path = self.proof.path.as_str();
        let depended =
            entry.map_or(Ok(None), |entry| scope.dependencies(self.name, &self.facts.depends, entry));
        // Modules that do not exist cannot be asked.
        let asked = entry.filter(|_| matches!(depended, Ok(None)));
        let symbols = match scope.symbols(cache, path, self.there, asked) {
            Ok(Ok(())) => None,
            Ok(Err(wrong)) => {
                flaws.push(Flaw::Symbols { path: path.to_owned(), wrong });
                None
            }
            Err(error) => Some(error.to_string()),
        };
        match depended {
            Ok(not_made) => {
                let done = [
                    (ProofSubject::Symbols, symbols),
                    (ProofSubject::ModulesDep, None),
                    (ProofSubject::Dependencies, not_made),
                ];
                self.proof.checks.extend(done.map(|(check, not_made)| Check { check, not_made }));
            }
            Err(more) => flaws.extend(more),
        }
        if flaws.is_empty() { Ok(self.proof) } else { Err(flaws) }
    }
}
