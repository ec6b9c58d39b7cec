//! `clr-dkms lint`: reports faults of a `dkms.conf` or its source, with the line and the correction.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;

use super::Common;
use crate::context::Context;
use crate::dkms::conf::{self, ConfError, ConfFile, DkmsRules};
use crate::dkms::lint::source::{SourceFiles, Trust};
use crate::dkms::lint::{
    Answer, Expected, LintSubject, Severity, lint, own_modules, without_conf, without_source,
};
use crate::dkms::{Cache, ModuleName, Source, Tree, tree};
use crate::exit::{self, ExitReason};
use crate::kernel::inventory::module_directory;
use crate::kernel::{Inventory, NoSuchKernel, Running};
use crate::limits::TEXT;
use crate::report::lint::{LintDocument, Target};
use crate::report::remedy::CommandTarget;
use crate::report::render::lint::screen;
use crate::sys::{FileKind, Presence, Root};
use crate::update::adopt::ANY_KERNEL;

/// The arguments of `lint`.
#[derive(Debug, Args)]
pub struct LintArguments {
    /// A directory with a dkms.conf (./NAME if it has the name of a module), or a registered module; the
    /// default is every registered module
    #[arg(value_name = "DIR|MODULE[/VERSION]")]
    targets: Vec<PathBuf>,
    /// Evaluate for this kernel: a release, a kernel id or a variant; the default is every installed kernel
    #[arg(long, short, value_name = "KERNEL")]
    kernel: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `lint`.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(context: &Context, arguments: &LintArguments, common: &Common) -> anyhow::Result<u8> {
    let kernels = kernels(context, arguments.kernel.as_deref()).map_err(ExitReason::unknown)?;
    let tree = Tree::observe(&context.root);
    let bench = Bench::new(context, &tree, kernels);
    let targets = if arguments.targets.is_empty() {
        if let Some(reason) = &tree.unreadable {
            return Err(ExitReason::unknown(reason).into());
        }
        bench.everything()
    } else {
        arguments.targets.iter().flat_map(|target| bench.named(target)).collect::<Vec<_>>()
    };
    let known = bench.kernels.iter().filter(|(_, matters)| *matters).map(|(release, _)| release.clone());
    let document = LintDocument::of(known.collect(), targets, &CommandTarget::of_root(&context.root));
    super::show(context, &document, arguments.json, common, screen)?;
    Ok(match (document.unreadable(), document.count(Severity::Error) + document.count(Severity::Warning)) {
        (0, 0) => exit::OK,
        (0, _) => exit::ATTENTION,
        _ => exit::UNKNOWN,
    })
}

/// The kernel releases to evaluate for, and whether modules are built for them here.
fn kernels(context: &Context, asked: Option<&str>) -> Result<Vec<(String, bool)>, NoSuchKernel> {
    let inventory = Inventory::observe(&context.root);
    if let Some(asked) = asked {
        return match inventory.named(&context.root, asked) {
            Some(named) => Ok(vec![(named.release, true)]),
            None => Err(NoSuchKernel(asked.to_owned())),
        };
    }
    let installed: Vec<_> = inventory.kernels.iter().map(|k| (k.name.release(), true)).collect();
    Ok(match (&inventory.running, installed.is_empty()) {
        (_, false) => installed,
        (Running::Known { release }, true) => vec![(release.clone(), true)],
        (Running::None | Running::Unknown { .. }, true) => vec![(ANY_KERNEL.to_owned(), false)],
    })
}

/// What all targets share.
struct Bench<'a> {
    context: &'a Context,
    tree: &'a Tree,
    kernels: Vec<(String, bool)>,
    names: Option<BTreeSet<String>>,
    /// The directories of the registered sources; none if the tree is unreadable.
    registered: Option<BTreeSet<PathBuf>>,
    rules: DkmsRules,
}

impl<'a> Bench<'a> {
    fn new(context: &'a Context, tree: &'a Tree, kernels: Vec<(String, bool)>) -> Bench<'a> {
        let names = tree.modules.iter().map(|m| m.module.name.clone()).collect();
        let sources = tree.modules.iter().filter_map(|m| match &m.source {
            Source::Directory { path, .. } => real_inside(&context.root, path),
            Source::Broken { .. } | Source::Unknown { .. } => None,
        });
        let registered = tree.unreadable.is_none().then(|| sources.collect());
        let names = tree.unreadable.is_none().then_some(names);
        let rules = conf::version::rules(&context.tools, &mut Cache::load(&context.root));
        Bench { context, tree, kernels, names, registered, rules }
    }

    /// Every registered module, and every unregistered source next to them.
    fn everything(&self) -> Vec<Target> {
        let root = &self.context.root;
        let (entries, unread) = match root.list_optional(tree::SOURCES) {
            Ok(entries) => (entries, None),
            Err(e) => (Vec::new(), Some(unread(&root.shown_path(tree::SOURCES), e))),
        };
        let beside = entries.into_iter().filter_map(|entry| {
            let path = Path::new(tree::SOURCES).join(&entry.name);
            // A symlink that leads nowhere is not a source.
            let is_known = self.registered.as_ref()?.contains(&real_inside(root, &path)?);
            let is_source = !is_known && !root.lookup(path.join("dkms.conf")).is_absent();
            is_source.then(|| self.directory(&path, &root.shown_path(&path)))
        });
        let registered = self.tree.modules.iter().map(|known| self.module(known));
        registered.chain(beside).chain(unread).collect()
    }

    /// The targets that an argument names.
    fn named(&self, target: &Path) -> Vec<Target> {
        let given = target.to_string_lossy();
        let is_path = target.is_absolute() || given.starts_with('.') || given.ends_with('/');
        if !is_path {
            let named = |m: &&tree::Registered| *given == *m.module.name || given == m.module.to_string();
            let found = self.tree.modules.iter().filter(named).map(|known| self.module(known));
            let found: Vec<Target> = found.collect();
            if !found.is_empty() {
                return found;
            }
        }
        vec![self.at_path(target)]
    }

    /// The directory of a path argument: relative to the working directory, or to `/` of another root.
    fn at_path(&self, target: &Path) -> Target {
        let root = &self.context.root;
        let is_of_here = root.is_slash() && target.is_relative();
        let from = if is_of_here { std::env::current_dir() } else { Ok(PathBuf::from("/")) };
        let from = match from {
            Ok(from) => from,
            Err(e) => return unread(target, format!("the working directory is unknown: {e}")),
        };
        let (mut inside, mut given): (PathBuf, _) =
            (from.join(target).components().collect(), target.to_owned());
        if inside.ends_with("dkms.conf") && root.lookup(&inside).is(FileKind::File) {
            inside.pop();
            given.pop();
        }
        match root.lookup(&inside) {
            Presence::There(stat) if stat.kind == FileKind::Directory => {
                // The path inside another root is not valid on the host, so the host path is shown.
                let given = if root.is_slash() { given } else { root.shown_path(&inside) };
                self.directory(&inside, &given)
            }
            Presence::There(_) => unread(&given, "it is not a directory; unpack an archive first (tar -xf)"),
            Presence::Absent => unread(
                &given,
                "it is neither a registered module nor a directory; `clr-dkms status` lists the modules",
            ),
            Presence::Unreadable(e) => unread(&given, e),
        }
    }

    fn module(&self, tree::Registered { module, source, .. }: &tree::Registered) -> Target {
        let root = &self.context.root;
        let name = module.to_string();
        match source {
            Source::Directory { path, .. } => {
                // The source directory, not the symlink to it in the DKMS tree.
                let path = real_inside(root, path).unwrap_or_else(|| path.clone());
                self.read(name, &path, &root.shown_path(&path), Some(module.clone()))
            }
            Source::Broken { reason } => {
                Target { name, findings: vec![without_source(module, reason)], ..Target::default() }
            }
            Source::Unknown { reason } => unread(Path::new(&name), reason),
        }
    }

    /// A directory inside the root that `given` names.
    fn directory(&self, inside: &Path, given: &Path) -> Target {
        let root = &self.context.root;
        // An archive of `dkms mktarball` has the source in a subdirectory.
        let below = |directory: &Path| directory.join("dkms_source_tree");
        let packed = !root.lookup(inside.join("dkms.conf")).is_there()
            && root.lookup(below(inside).join("dkms.conf")).is_there();
        let name = show(given, inside, inside, root);
        match packed {
            true => self.read(name, &below(inside), &below(given), None),
            false => self.read(name, inside, given, None),
        }
    }

    /// Reads a source directory. It is a path inside the root; `display` is how it is shown.
    fn read(&self, name: String, directory: &Path, display: &Path, module: Option<ModuleName>) -> Target {
        let root = &self.context.root;
        let real = real_inside(root, directory);
        let below_sources = real.as_ref().is_some_and(|real| real.starts_with(tree::SOURCES));
        let builds_here = module.is_some() || below_sources;
        let source = SourceFiles::observe(root, directory, &self.trust(builds_here));
        let show = |path: &Path| show(display, directory, path, root);
        let mut target = Target { name, folder: Some(show(directory)), ..Target::default() };
        let expected = match (module.clone(), directory.file_name().and_then(|n| n.to_str())) {
            (Some(module), _) => Expected::Module(module),
            (None, Some(name)) if builds_here => Expected::Directory(name.to_owned()),
            (None, _) => Expected::Anything,
        };
        let registered = self.registered.as_ref();
        let mut subject = LintSubject {
            texts: Vec::new(),
            directory: show(directory),
            expected,
            builds_here,
            answers: Vec::new(),
            is_registered: real.and_then(|real| Some(registered?.contains(&real))),
            modules: self.names.as_ref(),
            rules: self.rules,
            source: &source,
        };
        for (release, matters) in &self.kernels {
            let files = match conf::files(root, directory, module.as_ref(), release) {
                Ok(files) => files,
                Err(ConfError::Unusable(_)) => {
                    let binaries = root.lookup(directory.join("dkms_binaries_only")).is_there();
                    target.findings.push(without_conf(&show(directory), &source, binaries));
                    return target;
                }
                Err(error) => {
                    target.unreadable = Some(error.to_string());
                    return target;
                }
            };
            match self.answer(&files, module.as_ref(), (release, *matters)) {
                Ok(answer) => subject.take(answer, files, show),
                Err(error) => {
                    target.unreadable = Some(error.to_string());
                    // It is not waited for again for another kernel.
                    if matches!(error, ConfError::TimedOut(_)) {
                        break;
                    }
                }
            }
            // Another kernel would repeat the finding.
            if subject.answers.last().is_some_and(|answer| answer.evaluated.is_err()) {
                break;
            }
        }
        target.findings = lint(&subject);
        target
    }

    /// The values of the files for a kernel, and what is needed to know of that kernel.
    fn answer(
        &self,
        files: &[ConfFile],
        module: Option<&ModuleName>,
        (release, matters): (&str, bool),
    ) -> Result<Answer, ConfError> {
        let (root, tools) = (&self.context.root, &self.context.tools);
        let evaluated = match conf::traced(root, tools, files, module, release) {
            Ok((conf, trace)) => Ok((conf.under(self.rules), trace)),
            Err(ConfError::Unusable(reason)) => Err(reason),
            Err(error) => return Err(error),
        };
        Ok(Answer {
            release: release.to_owned(),
            matters,
            texts: Vec::new(),
            // Without these files the configuration is unknown.
            config: root.read_within(format!("{}/build/.config", module_directory(release)), TEXT).ok(),
            own_modules: own_modules(root, release),
            evaluated,
        })
    }

    /// On the running system only root may own the files that root builds from. A copy may belong to any
    /// user.
    fn trust(&self, builds_here: bool) -> Trust {
        let me = nix::unistd::geteuid().as_raw();
        match (builds_here, self.context.root.is_live()) {
            (false, _) => Trust::Owner,
            (true, true) => Trust::Users(vec![0]),
            (true, false) => Trust::Users(vec![0, me]),
        }
    }
}

/// A target that cannot be read.
fn unread(given: &Path, why: impl ToString) -> Target {
    let name = given.to_string_lossy().into_owned();
    Target { name, unreadable: Some(why.to_string()), ..Target::default() }
}

/// The path of a directory inside the root, with symlinks resolved.
fn real_inside(root: &Root, path: &Path) -> Option<PathBuf> {
    // The reason makes no difference: it is not known as a registered source, nor to be below them.
    root.real_path(path).ok().and_then(|host| root.inside(&host))
}

/// A path for display: relative to the source as it was named if it is below it, otherwise as the host sees
/// it.
fn show(display: &Path, directory: &Path, path: &Path, root: &Root) -> String {
    let shown = match path.strip_prefix(directory) {
        Ok(rest) if rest.as_os_str().is_empty() => display.to_owned(),
        Ok(rest) => display.join(rest),
        // A path elsewhere is shown as a whole.
        Err(_) => root.shown_path(path),
    };
    let shown = shown.strip_prefix(".").unwrap_or(&shown);
    let shown = if shown.as_os_str().is_empty() { Path::new(".") } else { shown };
    shown.to_string_lossy().into_owned()
}
