//! Tries a source in the scratch directory: what make would do, and a build by dkms in a tree of its own. All
//! of it runs in a sandbox, as a user that owns nothing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;

use super::find::Adoptable;
use super::place::SOURCES;
use crate::dkms::kernel_symbols::KernelSymbols;
use crate::dkms::probe::Probe;
use crate::dkms::proof::{ProofStanding, facts_of, find_file, in_words, prove_files, vermagic_of};
use crate::dkms::{Cache, architecture, tree};
use crate::kernel::Headers;
use crate::kernel::inventory::{MODULES, module_directory};
use crate::kernel::module_file::{self, ModuleInfo};
use crate::kernel::module_image::ModuleImage;
use crate::sys::sandbox::{ShownTree, Sight};
use crate::sys::{Child, Ended, FileError, Output, Root, Tools};

/// The DKMS tree in the scratch root.
const TREE: &str = "/tree";
/// The time limit of a probe.
const PROBE: Duration = Duration::from_secs(120);
/// How much of the output of a probe is kept.
const PROBE_OUTPUT: u64 = 4 << 20;

/// A source in the scratch directory, and a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Trial<'a> {
    /// The system.
    pub root: &'a Root,
    /// The programs.
    pub tools: &'a Tools,
    /// The scratch directory.
    pub scratch: &'a Root,
    /// The source.
    pub found: &'a Adoptable,
    /// The kernel release.
    pub release: &'a str,
    /// The time limit of a build.
    pub deadline: Duration,
}

/// A module that a trial built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltModule {
    /// Its name.
    pub name: String,
    /// The modules that it depends on.
    pub depends: Vec<String>,
    /// Patterns of the devices, filesystems and protocols that it serves.
    pub aliases: Vec<String>,
    /// The firmware files that it may ask for.
    pub firmware: Vec<String>,
}

impl BuiltModule {
    /// What the metadata of its file say.
    pub fn new(name: &str, info: ModuleInfo) -> BuiltModule {
        let ModuleInfo { depends, aliases, firmware, .. } = info;
        BuiltModule { name: name.to_owned(), depends, aliases, firmware }
    }
}

/// Why a trial came to no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrialFailure {
    /// Its steps could not be run.
    #[error("{0}")]
    NotRun(String),
    /// dkms failed.
    #[error("dkms build: {0}")]
    Build(String),
    /// The file is not there, or not for this kernel.
    #[error("{0}")]
    Flawed(String),
}

impl From<FileError> for TrialFailure {
    fn from(e: FileError) -> TrialFailure {
        TrialFailure::NotRun(e.to_string())
    }
}

impl Trial<'_> {
    /// Registers the source in the tree of the trial.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn prepare(&self) -> Result<(), TrialFailure> {
        let Adoptable { name, version, .. } = self.found;
        self.scratch.remove_tree(TREE)?;
        let version_tree = format!("{TREE}/{name}/{version}");
        self.scratch.make_directories(&version_tree)?;
        let source = self.scratch.real_path(self.source())?;
        self.scratch.link(format!("{version_tree}/source"), &source)?;
        Ok(())
    }

    fn source(&self) -> PathBuf {
        Path::new(SOURCES).join(format!("{}-{}", self.found.name, self.found.version))
    }

    /// The headers, as a path of this machine.
    fn headers(&self) -> Result<PathBuf, TrialFailure> {
        Ok(self.root.real_path(format!("{}/build", module_directory(self.release)))?)
    }

    fn sight(&self) -> Sight {
        let root = self.root;
        let trees = [(MODULES, MODULES), (MODULES, "/lib/modules"), (tree::SOURCES, tree::SOURCES)];
        let trees = trees.map(|(path, target)| ShownTree::of(root, path, target));
        let own = !root.is_slash();
        Sight {
            shown: own.then(|| root.path().as_os_str().to_owned()).into_iter().collect(),
            writable: vec![self.scratch.path().as_os_str().to_owned()],
            trees: if own { trees.into_iter().flatten().collect() } else { Vec::new() },
            ..Sight::default()
        }
    }

    fn confined(&self, program: &str, child: Child) -> Child {
        child.env("HOME", "/tmp").confined(self.tools.scratch_sandbox(program, self.sight()))
    }

    /// Asks make what it would do, after the preparations of the `dkms.conf`.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn probe(&self) -> Result<Probe, TrialFailure> {
        let not_run = |e: &dyn std::fmt::Display| TrialFailure::NotRun(e.to_string());
        let Adoptable { name, version, conf, .. } = self.found;
        let build = format!("{TREE}/{name}/{version}/build");
        self.scratch.remove_tree(&build)?;
        self.scratch.make_directories(&build)?;
        let (build, source) = (self.scratch.real_path(&build)?, self.scratch.real_path(self.source())?);
        let headers = self.headers()?;
        // The values were evaluated for the trees of the system.
        let here = |text: &str| {
            let trees = [(tree::TREE, TREE), (tree::SOURCES, SOURCES)];
            trees.iter().fold(text.to_owned(), |text, (system, own)| {
                let own = self.scratch.shown_path(own).display().to_string();
                // The headers of other distributions are below /usr/src.
                let module = format!("{}/{name}", self.root.resolved_or_joined(system).display());
                text.replace(&module, &format!("{own}/{name}"))
            })
        };
        let make = match conf.make.trim() {
            "" => format!("make -C {} M={}", headers.display(), build.display()),
            make => here(make),
        };
        // As dkms does it.
        let make = match make.strip_prefix("make") {
            Some(rest) => format!("make KERNELRELEASE={}{rest}", self.release),
            None => make,
        };
        let prepare = here(conf.hook("PRE_BUILD"));
        let prepare = if prepare.is_empty() { String::new() } else { format!("./{prepare} && ") };
        // Without its preparations make still says where it goes.
        let script = format!(
            "cp -a \"$1/.\" \"$2\" && cd \"$2\" && {{ {prepare}true; }} >/dev/null 2>&1; cd \"$2\"; \
             export MAKEFLAGS=nw; {make}"
        );
        let child = self.tools.child("bash", PROBE).map_err(|e| not_run(&e))?;
        let child = child
            .args(["--noprofile", "--norc", "-c", &script, "probe"])
            .args([&source, &build])
            .env("kernelver", self.release)
            .output(Output::Keep(PROBE_OUTPUT));
        let done = self.confined("bash", child).run().map_err(|e| not_run(&e))?;
        if matches!(done.ended, Ended::TimedOut | Ended::Interrupted) {
            return Err(not_run(&format!("make -n: {}", done.ended)));
        }
        let own = [self.scratch.path().to_owned(), headers];
        Ok(Probe::read(&String::from_utf8_lossy(&done.output), &own, self.release))
    }

    /// Builds it with dkms, and checks the modules. All output goes into the log.
    ///
    /// # Errors
    /// When it cannot be built, or what was built is not for this kernel.
    pub fn build(&self, log: &File) -> Result<Vec<BuiltModule>, TrialFailure> {
        let not_run = |e: &dyn std::fmt::Display| TrialFailure::NotRun(e.to_string());
        let Adoptable { name, version, conf, .. } = self.found;
        self.prepare()?;
        let child = self.tools.child("dkms", self.deadline).map_err(|e| not_run(&e))?;
        let child = child
            .args(["build", "-m", name, "-v", version, "-k", self.release, "--dkmstree"])
            .arg(self.scratch.real_path(TREE)?)
            .arg("--sourcetree")
            .arg(self.scratch.real_path(SOURCES)?)
            .arg("--kernelsourcedir")
            .arg(self.headers()?)
            // The keys of the system are not for a trial.
            .env("sign_file", "/nonexistent")
            .output(Output::Into(log.try_clone().map_err(|e| not_run(&e))?));
        let done = self.confined("dkms", child).run().map_err(|e| not_run(&e))?;
        if !done.ended.is_success() {
            return Err(TrialFailure::Build(done.ended.to_string()));
        }
        let directory = self.built();
        let mut proven = Vec::new();
        let mut cache = Cache::default();
        for built in &conf.built {
            let Some((path, there)) = find_file(self.scratch, &directory, &built.name) else {
                return Err(TrialFailure::Flawed(format!("{}.ko was not built", built.name)));
            };
            let facts = facts_of(self.scratch, &mut cache, &path, &there);
            let vermagic = facts.and_then(|facts| vermagic_of(&facts, self.release, &path).map(drop));
            vermagic.map_err(|flaw| TrialFailure::Flawed(flaw.to_string()))?;
            let flawed = |why: String| TrialFailure::Flawed(why);
            let image = ModuleImage::of_file(self.scratch, &path, &path).map_err(|e| flawed(e.of(&path)))?;
            let info = module_file::info(&image).map_err(|e| flawed(format!("{path}: {e:#}")))?;
            proven.push(BuiltModule::new(&built.name, info));
        }
        Ok(proven)
    }

    /// Checks that the kernel has everything that the built modules take. Returns why not all of it could be
    /// checked.
    ///
    /// # Errors
    /// When the kernel would refuse a module, or nothing can be checked.
    pub fn prove(&self, now: Timestamp) -> Result<Option<String>, TrialFailure> {
        let real = self.scratch.real_path(self.built())?;
        let Some(inside) = self.root.inside(&real) else {
            return Ok(Some("the scratch directory is in another root".to_owned()));
        };
        let scope = KernelSymbols::load(self.root, self.release, &Headers::Present, now)?;
        let directory = inside.display().to_string();
        match prove_files(&scope, &mut Cache::default(), &directory, &self.found.conf).0 {
            ProofStanding::Proven => Ok(None),
            ProofStanding::Unchecked(reason) => Ok(Some(reason)),
            ProofStanding::Flawed(flaws) => Err(TrialFailure::Flawed(in_words(&flaws))),
        }
    }

    /// The directory in the scratch root with the modules that were built.
    fn built(&self) -> String {
        let Adoptable { name, version, .. } = self.found;
        format!("{TREE}/{name}/{version}/{}/{}/module", self.release, architecture())
    }

    /// The log that dkms writes. None if it cannot be read: it is for a message only.
    pub fn make_log(&self) -> Option<String> {
        let Adoptable { name, version, .. } = self.found;
        let path = format!("{TREE}/{name}/{version}/build/make.log");
        // The reason makes no difference: the message has no log then.
        let text = self.scratch.read_within(path, crate::limits::LOG).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }
}
