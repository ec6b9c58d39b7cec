//! Calls of dkms: arguments, environment and sandbox.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::dkms::build::{Job, make_log};
use crate::dkms::build_hooks::BuildHooks;
use crate::dkms::log::{self, note};
use crate::dkms::replace::STATE;
use crate::dkms::staging::{Staging, Temporary};
use crate::dkms::tree::{SOURCES, TREE};
use crate::dkms::{ModuleName, Source};
use crate::kernel::inventory::{IMAGES, MODULES, module_directory};
use crate::sys::sandbox::{SandboxError, ShownTree, Sight};
use crate::sys::{Child, Ended, Output, Root, Sandbox, Tools};

/// The directory with an admin's additions to dkms.conf files and with the settings of dkms.
const SETTINGS: &str = "/etc/dkms";

/// The reason why dkms was not started, if that is the sandbox.
pub(in crate::dkms) fn sandbox_error(error: &anyhow::Error) -> Option<&SandboxError> {
    error.downcast_ref().and_then(SandboxError::of)
}

/// Runs dkms with one of its verbs. Builds, and everything that is done to a root other than `/`, are
/// confined. If the machine cannot confine them, they run only if modules are trusted.
///
/// # Errors
///
/// If dkms cannot be started.
pub(in crate::dkms) fn dkms(
    job: &Job<'_>,
    verb: &str,
    staging: Option<(&Staging<'_>, bool)>,
    directives: &[&str],
    log: &File,
) -> anyhow::Result<Ended> {
    run_dkms(job, &|| child(job, verb, staging, directives), (verb, Vec::new()), log)
}

/// What is laid out for one build.
#[derive(Clone, Copy)]
pub(in crate::dkms) struct BuildAids<'a> {
    /// A `uname` that reports the target kernel to make.
    pub(in crate::dkms) uname: Option<&'a Temporary<'a>>,
    /// The wrapper of its hook scripts.
    pub(in crate::dkms) hooks: Option<&'a BuildHooks<'a>>,
}

/// Runs `dkms build`.
///
/// # Errors
///
/// If dkms cannot be started.
pub(in crate::dkms) fn build_with(job: &Job<'_>, aids: BuildAids<'_>, log: &File) -> anyhow::Result<Ended> {
    let uname = aids.uname.map(Temporary::real_path).transpose()?;
    let hooks = aids.hooks.map(|hooks| hooks.directory.real_path()).transpose()?;
    let first = uname.clone().map(|directory| GivenRoot::for_build(job.root).plain_path(directory));
    let directives: Vec<&str> =
        aids.hooks.iter().flat_map(|hooks| &hooks.directives).map(String::as_str).collect();
    let child = || {
        let child = child(job, "build", None, &directives)?;
        Ok(if let Some(first) = &first { child.first_in_path(first) } else { child })
    };
    run_dkms(job, &child, ("build", uname.into_iter().chain(hooks).collect()), log)
}

/// Runs a call of dkms. `child` makes the call, again for each repetition; `more` is shown to it in addition.
fn run_dkms(
    job: &Job<'_>,
    child: &dyn Fn() -> anyhow::Result<Child>,
    (verb, shown): (&str, Vec<PathBuf>),
    log: &File,
) -> anyhow::Result<Ended> {
    let sight = match (job.root.is_slash(), verb) {
        (true, "build") | (false, _) => Some(sight_of_build(job)?),
        // On the live system the scripts of a module need access to the whole machine during installation.
        (true, _) => None,
    };
    let Some(mut sight) = sight else { return run_logged(job, child()?, log) };
    sight.shown.extend(shown.into_iter().map(PathBuf::into_os_string));
    match run_logged(job, confined(job.tools, child()?, sight), log) {
        Err(e) if sandbox_error(&e).is_some() && job.tools.trusts_modules => {
            note(log, &format!("not confined: {e:#}"));
            run_logged(job, child()?, log)
        }
        other => other,
    }
}

/// What a build sees.
///
/// # Errors
///
/// If a directory that it writes to cannot be found.
pub(in crate::dkms) fn sight_of_build(job: &Job<'_>) -> anyhow::Result<Sight> {
    match job.root.is_slash() {
        true => Ok(seen_by_build(job)),
        false => seen_in_image(GivenRoot::for_build(job.root), job.module, &[]),
    }
}

/// Confines a child in the same way as a build.
pub(in crate::dkms) fn confined(tools: &Tools, child: Child, sight: Sight) -> Child {
    let sandbox = Sandbox::build(sight).trusted(tools.trusts_modules);
    // A compiler cache would be in the home directory, which is not writable.
    child.env("HOME", "/tmp").confined(sandbox)
}

/// Makes the call.
fn child(
    job: &Job<'_>,
    verb: &str,
    staging: Option<(&Staging<'_>, bool)>,
    directives: &[&str],
) -> anyhow::Result<Child> {
    let Job { root, tools, module, release, .. } = *job;
    let given = GivenRoot::for_build(root);
    let plain = |path: PathBuf| given.plain_path(path);
    let host = |path: &str| root.host_path(path).map(plain);
    let mut child = call(tools, verb, module, release, job.deadline)?;
    if let (Some(number), None) = (job.make_jobs, staging) {
        // By default each parallel build would use all processors.
        child = child.arg("-j").arg(number.to_string());
    }
    let modules = module_directory(release);
    let headers = match root.lookup(format!("{modules}/build")).is_absent() {
        // Only a build needs them, and only a module that is built gets here then.
        true => host(&modules)?.join("build"),
        false => host(&format!("{modules}/build"))?,
    };
    if let Some((staging, force)) = staging {
        let [tree, modules] = staging.paths()?.map(plain);
        child = child.arg("--no-depmod").arg("--dkmstree").arg(tree).arg("--installtree").arg(modules);
        child = child.arg("--sourcetree").arg(host(SOURCES)?).arg("--kernelsourcedir").arg(&headers);
        child = if force { child.arg("--force") } else { child };
    } else if !root.is_slash() {
        child = given.named_in(child)?.arg("--kernelsourcedir").arg(&headers);
    }
    for directive in directives {
        child = child.arg("--directive").arg(*directive);
    }
    if !root.is_slash() {
        // Measured with 3.0.10: dkms looks for the signing key, and creates it, in the tree of the host in
        // spite of --dkmstree. Only these variables (of framework.conf) change that.
        child = child
            .env("sign_file", headers.join("scripts/sign-file"))
            .env("mok_signing_key", host(TREE)?.join("mok.key"))
            .env("mok_certificate", host(TREE)?.join("mok.pub"));
    }
    Ok(child)
}

fn run_logged(job: &Job<'_>, child: Child, log: &File) -> anyhow::Result<Ended> {
    let Job { root, module, .. } = *job;
    note(log, &child.display());
    let output = log.try_clone().context("cannot share the log")?;
    let child = child.output(Output::Into(output));
    let done = log::kept_small(root, log, &make_log(module), || child.run());
    let done = done.context("dkms cannot be started")?;
    log::settle(log);
    if let Some(layers) = done.layers {
        note(log, &format!("confined by: {layers}"));
    }
    note(log, &format!("{} after {:.1} s", done.ended, done.took.as_secs_f64()));
    Ok(done.ended)
}

/// The directories that dkms writes to. Those of a module may be symlinks.
fn written_to(module: &ModuleName) -> [PathBuf; 3] {
    let tree = PathBuf::from(TREE);
    let named = tree.join(&module.name);
    let version = named.join(&module.version);
    [tree, named, version]
}

/// The paths that a build reads and writes in addition to the common ones. The directory of the module may be
/// a symlink, and its source may be anywhere.
fn seen_by_build(job: &Job<'_>) -> Sight {
    // A path that does not exist, or cannot be read, cannot be shown; dkms then reports it.
    let real = |path: &Path| job.root.real_path(path).ok().map(PathBuf::into_os_string);
    let source = match job.source {
        Source::Directory { path, .. } => real(path),
        Source::Broken { .. } | Source::Unknown { .. } => None,
    };
    Sight {
        shown: source.into_iter().collect(),
        writable: written_to(job.module).iter().filter_map(|path| real(path)).collect(),
        ..Sight::default()
    }
}

/// What dkms sees when it works on another root: this machine, read-only, with the directories of the root
/// that a Makefile refers to mounted at their usual paths. The compiler and its libraries are those of this
/// machine. The DKMS tree, the state directory and the directories in `more` are writable.
pub(in crate::dkms) fn seen_in_image(
    given: GivenRoot<'_>,
    module: &ModuleName,
    more: &[PathBuf],
) -> anyhow::Result<Sight> {
    let root = given.root;
    let trees = [
        (MODULES, MODULES),
        // Only if `/lib` is not a symlink.
        (MODULES, "/lib/modules"),
        (IMAGES, IMAGES),
        (SOURCES, SOURCES),
        (TREE, TREE),
        (SETTINGS, SETTINGS),
    ];
    let shown = |(path, target): (&str, &str)| {
        Some(ShownTree { is_writable: path == TREE, ..ShownTree::of(root, path, target)? })
    };
    let writable = written_to(module).into_iter().chain([PathBuf::from(STATE)]).chain(more.iter().cloned());
    // What cannot be looked at is not writable in the sandbox, and dkms reports it.
    let writable = writable.filter(|path| root.lookup(path).is_there());
    let writable: Vec<PathBuf> = writable.map(|path| root.real_path(&path)).collect::<Result<_, _>>()?;
    let mut trees: Vec<ShownTree> = trees.into_iter().filter_map(shown).collect();
    if let Some(alias) = given.alias {
        let source = root.path().to_owned();
        trees.push(ShownTree { source, target: alias.to_owned(), is_writable: false });
        // The mount of a tree does not include what is mounted in it for this call.
        trees.extend(writable.iter().map(|path| ShownTree {
            source: path.clone(),
            target: given.plain_path(path.clone()),
            is_writable: true,
        }));
    }
    Ok(Sight {
        // The root may be in a directory that the sandbox hides, such as `/tmp` or `/run`.
        shown: vec![root.path().as_os_str().to_owned()],
        writable: writable.into_iter().map(PathBuf::into_os_string).collect(),
        trees,
        ..Sight::default()
    })
}

/// Alternative paths for a root whose own path dkms and kbuild cannot handle. The first that exists and is
/// not above the root is used.
const PLAIN: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// The time limit of the test whether a mount namespace is available.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// A root, and the path that is passed to dkms: its own, or an alternative in a mount namespace.
#[derive(Debug, Clone, Copy)]
pub(in crate::dkms) struct GivenRoot<'a> {
    root: &'a Root,
    /// The first character of its path that dkms or kbuild would misinterpret.
    odd: Option<char>,
    alias: Option<&'static Path>,
}

impl<'a> GivenRoot<'a> {
    /// For builds and installations.
    pub(in crate::dkms) fn for_build(root: &'a Root) -> GivenRoot<'a> {
        GivenRoot::new(root, "/._+-~@,=[]")
    }

    /// For `dkms unbuild`. To find out whether originals for other kernels remain, dkms uses an unquoted
    /// path, and it removes all of them if it finds none. In bash, brackets in a path are a pattern.
    pub(in crate::dkms) fn for_unbuild(root: &'a Root) -> GivenRoot<'a> {
        GivenRoot::new(root, "/._+-~@,=")
    }

    fn new(root: &'a Root, plain: &str) -> GivenRoot<'a> {
        let is_plain = |c: &char| c.is_alphanumeric() || plain.contains(*c);
        let odd = root.path().to_string_lossy().chars().find(|c| !is_plain(c));
        let mut others = PLAIN.iter().map(Path::new);
        let alias = odd.and_then(|_| others.find(|path| path.is_dir() && !root.path().starts_with(path)));
        GivenRoot { root, odd, alias }
    }

    pub(in crate::dkms) fn root(self) -> &'a Root {
        self.root
    }

    /// The character that prevents work on this root: no mount namespace is available to give it another
    /// path.
    pub(in crate::dkms) fn obstacle(self, tools: &Tools) -> Option<char> {
        self.odd.filter(|_| !self.can_have_alias(tools))
    }

    fn can_have_alias(self, tools: &Tools) -> bool {
        let Some(target) = self.alias.map(Path::to_owned) else { return false };
        let tree = ShownTree { source: self.root.path().to_owned(), target, is_writable: false };
        let sight = Sight { trees: vec![tree], ..Sight::default() };
        // Whatever the reason, there is no namespace to rely on.
        let probe = || tools.child("true", PROBE_DEADLINE).ok()?.confined(Sandbox::build(sight)).run().ok();
        probe().is_some_and(|done| done.ended.is_success() && done.layers.is_some_and(|l| l.namespaces))
    }

    /// The path that dkms gets for a path of this machine.
    pub(in crate::dkms) fn plain_path(self, path: PathBuf) -> PathBuf {
        match (self.alias, path.strip_prefix(self.root.path())) {
            (Some(alias), Ok(below)) => alias.join(below),
            _ => path,
        }
    }

    /// Adds the options for the directories of the root, because dkms does not support roots.
    pub(in crate::dkms) fn named_in(self, mut child: Child) -> anyhow::Result<Child> {
        for (option, directory) in
            [("--dkmstree", TREE), ("--sourcetree", SOURCES), ("--installtree", MODULES)]
        {
            let path = self.root.real_path(directory)?;
            child = child.arg(option).arg(self.plain_path(path));
        }
        Ok(child)
    }
}

/// A call of dkms with a verb, for one module and one kernel.
pub(in crate::dkms) fn call(
    tools: &Tools,
    verb: &str,
    module: &ModuleName,
    release: &str,
    deadline: Duration,
) -> anyhow::Result<Child> {
    let child = tools.child("dkms", deadline)?;
    // Since 3.4 dkms does not sign what it builds in a chroot, and mistakes a unit with its own mounts for
    // one. A value in framework.conf overrides the environment, so the admin's setting wins (measured with
    // 3.4.3).
    Ok(child.env("try_sign_modules", "true").args([
        verb,
        "-m",
        &module.name,
        "-v",
        &module.version,
        "-k",
        release,
    ]))
}
