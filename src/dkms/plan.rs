//! Which module to build for which kernel, in which order, and why; and which to leave alone, and why. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Conf, Flaw, ModuleName, Proof, Source, Stage};
use crate::kernel::Headers;

/// The state of a module on a kernel, as every report names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Proven.
    Ok,
    /// It should be there and is not; nothing has been tried yet.
    NotBuilt,
    /// dkms, the compiler or the installation failed.
    BuildFailed,
    /// Something it needs is not there.
    DependencyFailed,
    /// No headers for this kernel.
    HeadersMissing,
    /// The headers are for another kernel.
    HeadersMismatch,
    /// Its dkms.conf excludes this kernel.
    SkippedExclusive,
    /// Its dkms.conf does not ask to be built by itself.
    NotAutoinstall,
    /// Its source or its dkms.conf cannot be used.
    BrokenSource,
    /// The installed file is for another kernel.
    VermagicMismatch,
    /// modprobe does not find it.
    NotInModulesDep,
    /// It cannot be told.
    Unknown,
}

impl State {
    /// Nobody has to do anything about it.
    pub fn is_fine(self) -> bool {
        matches!(self, State::Ok | State::SkippedExclusive | State::NotAutoinstall)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Ok => "ok",
            State::NotBuilt => "not-built",
            State::BuildFailed => "build-failed",
            State::DependencyFailed => "dependency-failed",
            State::HeadersMissing => "headers-missing",
            State::HeadersMismatch => "headers-mismatch",
            State::SkippedExclusive => "skipped-exclusive",
            State::NotAutoinstall => "not-autoinstall",
            State::BrokenSource => "broken-source",
            State::VermagicMismatch => "vermagic-mismatch",
            State::NotInModulesDep => "not-in-modules-dep",
            State::Unknown => "unknown",
        })
    }
}

/// The facts of one module on one kernel.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// Its source.
    pub source: Source,
    /// How far dkms has come.
    pub stage: Stage,
    /// Its evaluated dkms.conf, or why there is none.
    pub conf: Result<Conf, String>,
    /// What was proven, or what is wrong.
    pub proof: Result<Vec<Proof>, Vec<Flaw>>,
    /// All built files in the DKMS tree are for this kernel.
    pub built_files_good: bool,
    /// Files in the kernel's `updates/dkms` with the names of this module that no version of it claims.
    pub orphans: Vec<String>,
    /// The headers of the kernel.
    pub headers: Headers,
}

/// One step towards a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "step", content = "path")]
pub enum Step {
    /// Remove a half-deleted build folder, which dkms trips over for ever.
    RemoveTree(String),
    /// Remove an installed file that nothing claims, or that is damaged.
    RemoveFile(String),
    /// `dkms unbuild`.
    Unbuild,
    /// `dkms build`.
    Build,
    /// `dkms install`.
    Install,
    /// `dkms install --force`, from built files that are good.
    Reinstall,
    /// `depmod`, once for all modules of the kernel.
    Index,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::RemoveTree(path) | Step::RemoveFile(path) => write!(f, "remove {path}"),
            Step::Unbuild => f.write_str("dkms unbuild"),
            Step::Build => f.write_str("dkms build"),
            Step::Install => f.write_str("dkms install"),
            Step::Reinstall => f.write_str("dkms install --force"),
            Step::Index => f.write_str("depmod"),
        }
    }
}

/// What is to be done about one module on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it is proven.
    Proven,
    /// These steps.
    Work {
        /// In order.
        steps: Vec<Step>,
        /// Why.
        why: String,
    },
    /// Nothing can or should be done.
    Leave {
        /// The state that this is.
        state: State,
        /// Why.
        why: String,
    },
}

/// Decides about one pair.
pub fn decide(pair: &Pair) -> Decision {
    let flaws = match &pair.proof {
        Ok(_) => return Decision::Proven,
        Err(flaws) => flaws,
    };
    let why = flaws.iter().map(Flaw::to_string).collect::<Vec<_>>().join("; ");
    // Files that are good and not listed want an index, whoever had them built.
    if pair.stage == Stage::Installed && flaws.iter().all(|f| matches!(f, Flaw::NotListed { .. })) {
        return Decision::Work { steps: vec![Step::Index], why };
    }
    if let Some((state, why)) = left_alone(pair) {
        return Decision::Leave { state, why };
    }
    if flaws.iter().any(|f| matches!(f, Flaw::Unknown { .. })) {
        return Decision::Leave { state: State::Unknown, why };
    }
    let mut steps: Vec<Step> = Vec::new();
    let remove_files = |steps: &mut Vec<Step>| {
        steps.extend(pair.orphans.iter().cloned().map(Step::RemoveFile));
    };
    match (pair.stage, pair.built_files_good) {
        (Stage::Installed, true) => steps.push(Step::Reinstall),
        (Stage::Installed, false) => {
            steps.extend(damaged(flaws));
            steps.extend([Step::Unbuild, Step::Build, Step::Install]);
        }
        (Stage::Built, true) => {
            remove_files(&mut steps);
            steps.push(Step::Install);
        }
        (Stage::Built, false) => {
            remove_files(&mut steps);
            steps.extend([Step::Unbuild, Step::Build, Step::Install]);
        }
        (Stage::HalfBuilt, _) => {
            steps.push(Step::RemoveTree(build_folder(&pair.module, &pair.release)));
            remove_files(&mut steps);
            steps.extend([Step::Build, Step::Install]);
        }
        (Stage::Added, _) => {
            remove_files(&mut steps);
            steps.extend([Step::Build, Step::Install]);
        }
    }
    steps.push(Step::Index);
    Decision::Work { steps, why }
}

/// The folder of a module's build for a kernel, inside the root.
pub fn build_folder(module: &ModuleName, release: &str) -> String {
    format!("{}/{}/{}/{release}/{}", super::tree::TREE, module.name, module.version, super::architecture())
}

fn damaged(flaws: &[Flaw]) -> impl Iterator<Item = Step> {
    flaws.iter().filter_map(|flaw| match flaw {
        Flaw::Damaged { path, .. } | Flaw::Vermagic { path, .. } => Some(Step::RemoveFile(path.clone())),
        _ => None,
    })
}

fn left_alone(pair: &Pair) -> Option<(State, String)> {
    if let Source::Broken { reason } = &pair.source {
        return Some((State::BrokenSource, reason.clone()));
    }
    let conf = match &pair.conf {
        Ok(conf) => conf,
        Err(reason) => return Some((State::BrokenSource, reason.clone())),
    };
    if let Some(reason) = &conf.excluded {
        return Some((State::SkippedExclusive, reason.clone()));
    }
    if !conf.autoinstall {
        return Some((State::NotAutoinstall, "its dkms.conf has no AUTOINSTALL=yes".to_owned()));
    }
    match &pair.headers {
        Headers::Present => None,
        Headers::Absent => Some((State::HeadersMissing, "the kernel's headers are not installed".to_owned())),
        Headers::Incomplete => Some((
            State::HeadersMissing,
            "the kernel's headers have no include/config/kernel.release".to_owned(),
        )),
        Headers::OtherRelease { release } => {
            Some((State::HeadersMismatch, format!("the kernel's headers are those of {release}")))
        }
        Headers::Unreadable { reason } => Some((State::Unknown, reason.clone())),
    }
}

/// The state that flaws amount to, where nothing was tried or trying did not help.
pub fn state_of(flaws: &[Flaw]) -> State {
    let is = |test: fn(&Flaw) -> bool| flaws.iter().any(test);
    if is(|f| {
        matches!(f, Flaw::Missing { .. } | Flaw::Damaged { .. } | Flaw::NotInstalled | Flaw::Differs { .. })
    }) {
        State::NotBuilt
    } else if is(|f| matches!(f, Flaw::Vermagic { .. })) {
        State::VermagicMismatch
    } else if is(|f| matches!(f, Flaw::NotListed { .. })) {
        State::NotInModulesDep
    } else {
        State::Unknown
    }
}

/// The order of the modules of one kernel: what others are built upon first, else as given. A second list holds the
/// modules that depend on each other in a circle.
pub fn order(modules: &[(String, Vec<String>)]) -> (Vec<usize>, BTreeSet<usize>) {
    let by_name: BTreeMap<&str, usize> =
        modules.iter().enumerate().map(|(at, (name, _))| (name.as_str(), at)).collect();
    let needs = |at: usize| modules[at].1.iter().filter_map(|name| by_name.get(name.as_str()).copied());
    let (mut ordered, mut placed) = (Vec::new(), BTreeSet::new());
    loop {
        let ready: Vec<usize> = (0..modules.len())
            .filter(|at| !placed.contains(at) && needs(*at).all(|need| placed.contains(&need)))
            .collect();
        if ready.is_empty() {
            break;
        }
        placed.extend(ready.iter().copied());
        ordered.extend(ready);
    }
    let rest: BTreeSet<usize> = (0..modules.len()).filter(|at| !placed.contains(at)).collect();
    ordered.extend(rest.iter().copied());
    (ordered, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkms::conf::BuiltModule;

    fn pair(stage: Stage, flaws: Vec<Flaw>) -> Pair {
        Pair {
            module: ModuleName { name: "hello".to_owned(), version: "1.0".to_owned() },
            release: "6.15.8-1592.native".to_owned(),
            source: Source::Folder { path: "/usr/src/hello-1.0".into(), portable: true },
            stage,
            conf: Ok(Conf {
                autoinstall: true,
                built: vec![BuiltModule { name: "hello".to_owned(), location: String::new() }],
                ..Conf::default()
            }),
            proof: Err(flaws),
            built_files_good: false,
            orphans: Vec::new(),
            headers: Headers::Present,
        }
    }

    fn missing() -> Vec<Flaw> {
        vec![Flaw::Missing { name: "hello".to_owned() }]
    }

    fn steps(pair: &Pair) -> String {
        match decide(pair) {
            Decision::Proven => "proven".to_owned(),
            Decision::Work { steps, .. } => steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", "),
            Decision::Leave { state, .. } => state.to_string(),
        }
    }

    #[test]
    fn every_stage_has_its_way_to_a_proof() {
        assert_eq!(steps(&pair(Stage::Added, missing())), "dkms build, dkms install, depmod");
        assert_eq!(steps(&pair(Stage::Built, missing())), "dkms unbuild, dkms build, dkms install, depmod");
        assert_eq!(
            steps(&pair(Stage::Installed, missing())),
            "dkms unbuild, dkms build, dkms install, depmod"
        );
        let good = |stage| Pair { built_files_good: true, ..pair(stage, missing()) };
        assert_eq!(steps(&good(Stage::Built)), "dkms install, depmod");
        assert_eq!(steps(&good(Stage::Installed)), "dkms install --force, depmod");
        assert!(
            steps(&pair(Stage::HalfBuilt, missing()))
                .starts_with("remove /var/lib/dkms/hello/1.0/6.15.8-1592.native/")
        );
        let orphan = Pair { orphans: vec!["/x.ko".to_owned()], ..pair(Stage::Added, missing()) };
        assert_eq!(steps(&orphan), "remove /x.ko, dkms build, dkms install, depmod");
        let unlisted = vec![Flaw::NotListed { name: "hello".to_owned(), instead: None }];
        assert_eq!(steps(&pair(Stage::Installed, unlisted)), "depmod");
    }

    #[test]
    fn what_is_left_alone_says_why() {
        let base = || pair(Stage::Added, missing());
        let conf = |change: fn(&mut Conf)| {
            let mut p = base();
            if let Ok(c) = p.conf.as_mut() {
                change(c);
            }
            p
        };
        assert_eq!(steps(&conf(|c| c.autoinstall = false)), "not-autoinstall");
        assert_eq!(steps(&conf(|c| c.excluded = Some("x".to_owned()))), "skipped-exclusive");
        assert_eq!(steps(&Pair { headers: Headers::Absent, ..base() }), "headers-missing");
        let other = Headers::OtherRelease { release: "6.1".to_owned() };
        assert_eq!(steps(&Pair { headers: other, ..base() }), "headers-mismatch");
        assert_eq!(steps(&Pair { conf: Err("x".to_owned()), ..base() }), "broken-source");
        assert_eq!(steps(&Pair { proof: Ok(Vec::new()), ..base() }), "proven");
    }

    #[test]
    fn what_others_need_comes_first_and_circles_are_named() {
        let named = |list: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
            list.iter().map(|(n, d)| ((*n).to_owned(), d.iter().map(|s| (*s).to_owned()).collect())).collect()
        };
        assert_eq!(
            order(&named(&[("a", &["b"]), ("b", &[]), ("c", &["nothing"])])),
            (vec![1, 2, 0], BTreeSet::new())
        );
        let (all, circle) = order(&named(&[("a", &["b"]), ("b", &["a"]), ("c", &[])]));
        assert_eq!((all, circle), (vec![2, 0, 1], BTreeSet::from([0, 1])));
    }
}
