//! Decides which modules to build for which kernel, with which steps and why, and which to leave alone. Pure.

mod state;
mod unwanted;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::dkms::conf::ConfError;
use crate::dkms::conflict::Rival;
use crate::dkms::proof::in_words;
use crate::dkms::tree::TREE;
use crate::dkms::{DkmsConf, Flaw, ModuleName, Proof, Source, Stage, architecture};
use crate::kernel::Headers;
use unwanted::without_headers;

pub use state::{State, state_of};
pub use unwanted::unwanted;

/// The facts about one module on one kernel.
#[derive(Debug, Clone)]
pub struct ModuleOnKernel {
    /// The module.
    pub module: ModuleName,
    /// The kernel release.
    pub release: String,
    /// Its source.
    pub source: Source,
    /// How far dkms has got.
    pub stage: Stage,
    /// Its evaluated dkms.conf, or why that is not available.
    pub conf: Result<DkmsConf, ConfError>,
    /// What was proven, or what is wrong.
    pub proof: Result<Vec<Proof>, Vec<Flaw>>,
    /// All built files in the DKMS tree are for this kernel.
    pub built_files_good: bool,
    /// Files in the kernel's `updates/dkms` that have the names of this module and belong to no other module.
    pub in_the_way: Vec<String>,
    /// The headers of the kernel.
    pub headers: Headers,
    /// Another module that makes the same file and has precedence.
    pub conflict: Option<Rival>,
    /// Programs that a build for this kernel needs and that are not installed.
    pub programs_missing: Vec<String>,
    /// For each of its files in `modules.dep`, by its name in the kernel: the modules that are loaded before
    /// it.
    pub beneath: BTreeMap<String, Vec<String>>,
    /// Its source has changed since it was built. False unless [`crate::dkms::source_change`] was asked.
    pub source_changed: bool,
}

impl ModuleOnKernel {
    /// The contents of its dkms.conf are unknown, and may become known at any time.
    pub fn is_conf_unread(&self) -> bool {
        self.conf.as_ref().is_err_and(ConfError::is_unknown)
    }
}

/// A step towards a proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case", tag = "step", content = "path")]
pub enum PlanStep {
    /// Remove the directory of an incomplete or bad build. dkms never recovers from an incomplete one, not
    /// even with --force, and `dkms unbuild` would remove the installed files before there is a replacement.
    #[strum(to_string = "remove {0}")]
    RemoveTree(String),
    /// Set a build aside until a new one is complete.
    #[strum(to_string = "set {0} aside")]
    SetAside(String),
    /// `dkms build`.
    #[strum(to_string = "dkms build")]
    Build,
    /// `dkms install` into staging trees, and the replacement of the installed files.
    #[strum(to_string = "dkms install")]
    Install,
    /// As `Install`, with `--force`, which overrides the objections of dkms.
    #[strum(to_string = "dkms install --force")]
    Reinstall,
    /// `depmod`, once for all modules of the kernel.
    #[strum(to_string = "depmod")]
    Index,
}

/// The decision about one module on one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing to do: it is proven.
    Proven,
    /// Run these steps.
    Work { steps: Vec<PlanStep>, why: String },
    /// Nothing can or should be done.
    Leave { state: State, why: String },
}

/// Decides about one module on one kernel.
pub fn decide(pair: &ModuleOnKernel) -> Decision {
    let flaws = match &pair.proof {
        Ok(_) => return Decision::Proven,
        Err(flaws) => flaws,
    };
    let why = in_words(flaws);
    if let Some(conflict) = &pair.conflict {
        let (state, why) = unwanted(pair).unwrap_or_else(|| (State::Conflict, conflict.to_string()));
        return Decision::Leave { state, why };
    }
    // Good files that are not listed need a new index, whatever has built them.
    let is_unlisted = |f: &Flaw| matches!(f, Flaw::NotListed { .. });
    // If a dependency is missing, only that module can be repaired.
    let is_anothers = |f: &Flaw| matches!(f, Flaw::Dependency { .. });
    let unlisted = flaws.iter().any(is_unlisted) && flaws.iter().all(|f| is_unlisted(f) || is_anothers(f));
    if pair.stage == Stage::Installed && unlisted {
        return Decision::Work { steps: vec![PlanStep::Index], why };
    }
    // What is built already, perhaps on another machine, can be installed without headers.
    let is_built = matches!(pair.stage, Stage::Built | Stage::Installed) && pair.built_files_good;
    let without_headers = || if is_built { None } else { without_headers(pair) };
    if let Some((state, why)) = unwanted(pair).or_else(without_headers) {
        return Decision::Leave { state, why };
    }
    if flaws.iter().any(|f| matches!(f, Flaw::Unknown { .. })) {
        return Decision::Leave { state: State::Unknown, why };
    }
    if flaws.iter().all(is_anothers) {
        return Decision::Leave { state: State::DependencyFailed, why };
    }
    let mut steps: Vec<PlanStep> = Vec::new();
    if pair.stage == Stage::Added {
        steps.push(PlanStep::Build);
    } else if !pair.built_files_good {
        steps.extend([PlanStep::RemoveTree(build_directory(&pair.module, &pair.release)), PlanStep::Build]);
    }
    built_with(pair, installed_by(pair, steps), why)
}

/// The steps that build a module again in any case. Working files stay until the new ones are complete.
pub fn forced(pair: &ModuleOnKernel, why: &str) -> Decision {
    if let Some(conflict) = &pair.conflict {
        return Decision::Leave { state: State::Conflict, why: conflict.to_string() };
    }
    let mut steps = Vec::new();
    if pair.stage != Stage::Added {
        steps.push(PlanStep::SetAside(build_directory(&pair.module, &pair.release)));
    }
    steps.push(PlanStep::Build);
    built_with(pair, installed_by(pair, steps), why.to_owned())
}

fn installed_by(pair: &ModuleOnKernel, mut steps: Vec<PlanStep>) -> Vec<PlanStep> {
    steps.push(if pair.stage == Stage::Installed { PlanStep::Reinstall } else { PlanStep::Install });
    steps.push(PlanStep::Index);
    steps
}

/// These steps, if the programs for them are installed.
fn built_with(pair: &ModuleOnKernel, steps: Vec<PlanStep>, why: String) -> Decision {
    if pair.programs_missing.is_empty() || !steps.contains(&PlanStep::Build) {
        return Decision::Work { steps, why };
    }
    let why = format!("to build it, {} must be installed", pair.programs_missing.join(" and "));
    Decision::Leave { state: State::CompilerMissing, why }
}

/// Whether only `modules.dep` is wrong: the files exist and are good.
pub fn is_unlisted_only(flaws: &[Flaw]) -> bool {
    flaws.iter().all(|f| matches!(f, Flaw::NotListed { .. }))
}

/// Describes a repair; none for a module that was not installed before.
pub fn drift(pair: &ModuleOnKernel, steps: &[PlanStep]) -> Option<String> {
    let flaws = pair.proof.as_ref().err()?;
    if pair.stage == Stage::Added && pair.in_the_way.is_empty() {
        return None;
    }
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let what = |flaw: &Flaw| match flaw {
        Flaw::Missing { name } => format!("{name}.ko was gone"),
        Flaw::Damaged { path, reason } => format!("{} was damaged ({reason})", name(path)),
        Flaw::Vermagic { path, .. } => format!("{} was made for another kernel", name(path)),
        Flaw::NotInstalled => "it was built and not installed".to_owned(),
        Flaw::Differs { path } => format!("{} was altered", name(path)),
        Flaw::NotListed { name, .. } => format!("{name}.ko was not in modules.dep"),
        other => other.to_string(),
    };
    let cure = match steps {
        [PlanStep::Index] => "indexed again",
        _ if steps.contains(&PlanStep::Build) => "built again",
        _ => "reinstalled",
    };
    Some(format!("{}: {cure}", flaws.iter().map(what).collect::<Vec<_>>().join(", ")))
}

/// The pair as if its dkms.conf had AUTOINSTALL=yes.
pub fn asked_for(pair: &ModuleOnKernel) -> ModuleOnKernel {
    let mut pair = pair.clone();
    // A dkms.conf that is not evaluated stays an error.
    if let Ok(conf) = &mut pair.conf {
        conf.autoinstall = true;
    }
    pair
}

/// The directory of a module's build for a kernel, inside the root.
pub fn build_directory(module: &ModuleName, release: &str) -> String {
    format!("{TREE}/{module}/{release}/{}", architecture())
}

/// The directory of a module's built files for a kernel, inside the root.
pub fn built_directory(module: &ModuleName, release: &str) -> String {
    build_directory(module, release) + "/module"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dkms::conf::{BuiltModule, Exclusion};

    fn pair(stage: Stage, flaws: Vec<Flaw>) -> ModuleOnKernel {
        ModuleOnKernel {
            module: ModuleName { name: "hello".to_owned(), version: "1.0".to_owned() },
            release: "6.15.8-1592.native".to_owned(),
            source: Source::Directory { path: "/usr/src/hello-1.0".into(), portable: true },
            stage,
            conf: Ok(DkmsConf {
                autoinstall: true,
                built: vec![BuiltModule { name: "hello".to_owned(), location: String::new() }],
                ..DkmsConf::default()
            }),
            proof: Err(flaws),
            built_files_good: false,
            in_the_way: Vec::new(),
            headers: Headers::Present,
            conflict: None,
            programs_missing: Vec::new(),
            beneath: BTreeMap::new(),
            source_changed: false,
        }
    }

    fn missing() -> Vec<Flaw> {
        vec![Flaw::Missing { name: "hello".to_owned() }]
    }

    fn steps(pair: &ModuleOnKernel) -> String {
        match decide(pair) {
            Decision::Proven => "proven".to_owned(),
            Decision::Work { steps, .. } => {
                steps.iter().map(PlanStep::to_string).collect::<Vec<_>>().join(", ")
            }
            Decision::Leave { state, .. } => state.to_string(),
        }
    }

    #[test]
    fn every_stage_has_its_way_to_a_proof() {
        assert_eq!(steps(&pair(Stage::Added, missing())), "dkms build, dkms install, depmod");
        let directory = build_directory(&pair(Stage::Built, missing()).module, "6.15.8-1592.native");
        let again = format!("remove {directory}, dkms build, ");
        assert_eq!(steps(&pair(Stage::Built, missing())), format!("{again}dkms install, depmod"));
        assert_eq!(steps(&pair(Stage::HalfBuilt, missing())), format!("{again}dkms install, depmod"));
        assert_eq!(steps(&pair(Stage::Installed, missing())), format!("{again}dkms install --force, depmod"));
        let good = |stage| ModuleOnKernel { built_files_good: true, ..pair(stage, missing()) };
        assert_eq!(steps(&good(Stage::Built)), "dkms install, depmod");
        assert_eq!(steps(&good(Stage::Installed)), "dkms install --force, depmod");
        // An existing file stays until its successor is complete.
        let file = "/usr/lib/modules/K/updates/dkms/hello.ko";
        let there = |stage| ModuleOnKernel { in_the_way: vec![file.to_owned()], ..good(stage) };
        assert_eq!(steps(&there(Stage::Built)), "dkms install, depmod");
        assert_eq!(steps(&there(Stage::Installed)), "dkms install --force, depmod");
        let orphan = ModuleOnKernel { built_files_good: false, ..there(Stage::Added) };
        assert_eq!(steps(&orphan), "dkms build, dkms install, depmod");
        let unlisted = vec![Flaw::NotListed { name: "hello".to_owned(), instead: None }];
        assert_eq!(steps(&pair(Stage::Installed, unlisted.clone())), "depmod");
        // A missing file of another module is not a reason to build this one.
        let lost = vec![Flaw::Dependency { name: "hello".to_owned(), needs: "other".to_owned() }];
        assert_eq!(steps(&pair(Stage::Installed, [unlisted, lost.clone()].concat())), "depmod");
        assert_eq!(steps(&pair(Stage::Installed, lost)), "dependency-failed");
    }

    #[test]
    fn what_is_left_alone_says_why() {
        let base = || pair(Stage::Added, missing());
        let conf = |change: &dyn Fn(&mut DkmsConf)| {
            let mut p = base();
            if let Ok(c) = p.conf.as_mut() {
                change(c);
            }
            p
        };
        assert_eq!(steps(&conf(&|c| c.autoinstall = false)), "not-autoinstall");
        let exclusion = || Exclusion { directive: "X".to_owned(), condition: "is y".to_owned() };
        assert_eq!(steps(&conf(&|c| c.excluded.push(exclusion()))), "skipped-exclusive");
        assert_eq!(steps(&ModuleOnKernel { headers: Headers::Absent, ..base() }), "headers-missing");
        let built = pair(Stage::Built, missing());
        let built = ModuleOnKernel { built_files_good: true, headers: Headers::Absent, ..built };
        assert_eq!(steps(&built), "dkms install, depmod", "only a build needs headers");
        let other = Headers::OtherRelease { release: "6.1".to_owned() };
        assert_eq!(steps(&ModuleOnKernel { headers: other, ..base() }), "headers-mismatch");
        assert_eq!(
            steps(&ModuleOnKernel { conf: Err(ConfError::Unusable("x".to_owned())), ..base() }),
            "broken-source"
        );
        for unknown in [ConfError::CannotTell, ConfError::Refused, ConfError::TimedOut] {
            let conf = Err(unknown("x".to_owned()));
            assert_eq!(steps(&ModuleOnKernel { conf, ..base() }), "unknown");
        }
        assert_eq!(steps(&ModuleOnKernel { proof: Ok(Vec::new()), ..base() }), "proven");
        let programs_missing = vec!["make".to_owned()];
        let without = ModuleOnKernel { programs_missing, ..base() };
        assert_eq!(steps(&without), "compiler-missing");
        let built = ModuleOnKernel { stage: Stage::Built, built_files_good: true, ..without };
        assert_eq!(steps(&built), "dkms install, depmod", "nothing is to be compiled");
        let module = ModuleName { name: "other".to_owned(), version: "2".to_owned() };
        let conflict = Some(Rival { module, file: "hello".to_owned() });
        let beaten = ModuleOnKernel { conflict, ..base() };
        assert_eq!(steps(&beaten), "conflict");
        assert!(matches!(forced(&beaten, "x"), Decision::Leave { state: State::Conflict, .. }));
        let unlisted = vec![Flaw::NotListed { name: "hello".to_owned(), instead: None }];
        let listed_never = ModuleOnKernel { stage: Stage::Installed, proof: Err(unlisted), ..beaten };
        assert_eq!(steps(&listed_never), "conflict", "depmod would list the other one again");
    }

    #[test]
    fn a_repair_is_reported_with_what_was_wrong() {
        let shown = |stage, flaw: Flaw| {
            let pair = ModuleOnKernel { built_files_good: true, ..pair(stage, vec![flaw]) };
            let Decision::Work { steps, .. } = decide(&pair) else { return None };
            drift(&pair, &steps)
        };
        let altered = Flaw::Differs { path: "/x/hello.ko.zst".to_owned() };
        assert_eq!(
            shown(Stage::Installed, altered).as_deref(),
            Some("hello.ko.zst was altered: reinstalled")
        );
        let unlisted = Flaw::NotListed { name: "hello".to_owned(), instead: None };
        let indexed = "hello.ko was not in modules.dep: indexed again";
        assert_eq!(shown(Stage::Installed, unlisted).as_deref(), Some(indexed));
        let gone = || Flaw::Missing { name: "hello".to_owned() };
        assert_eq!(shown(Stage::Installed, gone()).as_deref(), Some("hello.ko was gone: reinstalled"));
        assert_eq!(shown(Stage::HalfBuilt, gone()).as_deref(), Some("hello.ko was gone: reinstalled"));
        assert_eq!(shown(Stage::Added, gone()), None, "a new module is none that has drifted");
    }
}
