//! Running dkms and depmod for one module on one kernel, with everything they say kept in a log.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::first_error::FirstError;
use super::log::{self, append, note};
use super::plan::{Step, build_folder, built_folder};
use super::tree::{SOURCES, TREE};
use super::{Conf, ModuleName, Source, aside};
use crate::kernel::inventory::{MODULES, module_folder};
use crate::sys::{Child, Ended, Kind, Output, Root, Tools};

/// The codes with which dkms says that a dkms.conf excludes a kernel: 77 since 3.0.9, 9 before.
const EXCLUDED: [i32; 2] = [77, 9];

/// How an attempt ended, when it did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// dkms.conf excludes this kernel, as dkms itself found.
    Excluded,
    /// We were asked to stop.
    Interrupted,
    /// A step failed.
    Step {
        /// What was done, and how it ended.
        what: String,
        /// The first error in the log.
        error: Option<Box<FirstError>>,
        /// The last lines of the log.
        last_lines: Vec<String>,
        /// The kernel's folder may have been changed before.
        touched: bool,
        /// It follows from the inputs of the build: while they are the same it would fail again.
        lasting: bool,
        /// It was `dkms install` that failed: whatever it says, the module may be there.
        installing: bool,
    },
}

/// Something of ours went wrong on the way: nothing is known of what has been done.
fn broken(what: String) -> Failure {
    Failure::Step {
        what,
        error: None,
        last_lines: Vec::new(),
        touched: true,
        lasting: false,
        installing: false,
    }
}

/// What is worked on, with what.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The system.
    pub root: &'a Root,
    /// The programs.
    pub tools: &'a Tools,
    /// The module.
    pub module: &'a ModuleName,
    /// Its source.
    pub source: &'a Source,
    /// The kernel release.
    pub release: &'a str,
    /// The time of one call of dkms.
    pub deadline: Duration,
    /// The processors for make; none for all of them.
    pub make_jobs: Option<usize>,
    /// Told of each step when it is begun.
    pub begun: &'a dyn Fn(&Step),
}

/// The log of a new attempt; those before it move up. A file without a name where none can be made.
///
/// # Errors
/// When not even that is possible.
pub fn new_log(root: &Root, module: &ModuleName, release: &str) -> Result<File, Failure> {
    log::begin(root, &log::path(module, release)).map_err(broken)
}

/// Runs the steps of one module on one kernel (all but [`Step::Index`]), one after the other.
///
/// # Errors
/// With how it failed; what dkms says of success is left to the proof.
pub fn run(job: &Job<'_>, steps: &[Step], log: &File) -> Result<(), Failure> {
    let Job { root, module, release, .. } = *job;
    let log = log.try_clone().map_err(|e| broken(format!("cannot share the log: {e}")))?;
    portable_source(root, module, job.source).map_err(|e| broken(e.to_string()))?;
    let mut built = false;
    let done = run_steps(job, steps, log, &mut built);
    let build = build_folder(module, release);
    for step in steps {
        match step {
            Step::SetAside(path) if *path == build => aside::settle_build(root, path, built),
            Step::SetAside(path) => aside::settle_file(root, path, release, [module]),
            _ => {}
        }
    }
    done
}

fn run_steps(job: &Job<'_>, steps: &[Step], mut log: File, built: &mut bool) -> Result<(), Failure> {
    let Job { root, module, release, .. } = *job;
    for step in steps {
        (job.begun)(step);
        let verb = match step {
            Step::RemoveTree(path) => {
                note(&mut log, &format!("removing {path}"));
                root.remove_tree(path).map_err(|e| broken(e.to_string()))?;
                continue;
            }
            Step::SetAside(path) => {
                note(&mut log, &format!("setting {path} aside"));
                aside::set(root, path).map_err(|e| broken(e.to_string()))?;
                continue;
            }
            Step::Index => continue,
            Step::Build => "build",
            Step::Install | Step::Reinstall => "install",
        };
        let force = *step == Step::Reinstall;
        let ended = dkms(job, verb, force, &mut log).map_err(broken)?;
        match ended {
            Ended::Exit(0) => {
                *built |= verb == "build";
                continue;
            }
            Ended::Exit(code) if verb == "build" && EXCLUDED.contains(&code) => {
                return Err(Failure::Excluded);
            }
            Ended::Interrupted => {
                // Whoever goes on empties it first; till then half a build would lie about, of any size.
                if verb == "build"
                    && let Err(e) = root.remove_tree(scratch(module))
                {
                    tracing::warn!("{e}; the next build does away with it");
                }
                return Err(Failure::Interrupted);
            }
            _ => {}
        }
        let told = log::findings(root, log, &make_log(module), release);
        let what = format!("dkms {verb}: {ended}");
        // Only what a compiler says of a line of source follows from the source: a missing program, header or byte of memory
        // may be there tomorrow, without any sign of it in the inputs.
        let in_source = told.error.as_ref().is_some_and(FirstError::is_in_source);
        let lasting = verb == "build" && matches!(ended, Ended::Exit(_)) && in_source && !told.passing;
        // After a failed build dkms would only fail again; after a code that dkms gives for another module's file
        // (4 and 8 come after a good install too) the proof decides.
        return Err(Failure::Step {
            what,
            error: told.error.map(Box::new),
            last_lines: told.last_lines,
            touched: verb != "build",
            lasting,
            installing: verb == "install",
        });
    }
    append(root, &mut log, &format!("{}/log/make.log", build_folder(module, release)));
    Ok(())
}

/// Where dkms builds, for any kernel.
fn scratch(module: &ModuleName) -> String {
    format!("{TREE}/{}/{}/build", module.name, module.version)
}

/// Where dkms lets make write meanwhile.
fn make_log(module: &ModuleName) -> String {
    scratch(module) + "/make.log"
}

fn dkms(job: &Job<'_>, verb: &str, force: bool, log: &mut File) -> Result<Ended, String> {
    let Job { root, tools, module, release, .. } = *job;
    let mut child = call(tools, verb, module, release, job.deadline)?;
    if verb == "install" {
        child = child.arg("--no-depmod");
    }
    if let (Some(number), "build") = (job.make_jobs, verb) {
        // Its own default is all processors, for each of the builds beside each other.
        child = child.arg("-j").arg(number.to_string());
    }
    if force {
        child = child.arg("--force");
    }
    if !root.is_slash() {
        let real = |path: &str| root.real_path(path).map_err(|e| e.to_string());
        child = in_root(root, child)?;
        let headers = real(&format!("{}/build", module_folder(release)))?;
        // Measured with 3.0.10: whatever --dkmstree says, the signing key is looked for, and made, in the host's
        // tree; only these variables (of framework.conf) say otherwise.
        child = child
            .env("sign_file", headers.join("scripts/sign-file"))
            .env("mok_signing_key", real(TREE)?.join("mok.key"))
            .env("mok_certificate", real(TREE)?.join("mok.pub"))
            .arg("--kernelsourcedir")
            .arg(headers);
    }
    note(log, &child.spelt());
    let output = log.try_clone().map_err(|e| format!("cannot share the log: {e}"))?;
    let child = child.output(Output::Into(output));
    let done = log::kept_small(root, log, &make_log(module), || child.run())
        .map_err(|e| format!("dkms cannot be started: {e}"))?;
    log::settle(log);
    note(log, &format!("{} after {:.1} s", done.ended, done.took.as_secs_f64()));
    Ok(done.ended)
}

/// dkms with one of its verbs, for a module on a kernel.
pub(super) fn call(
    tools: &Tools,
    verb: &str,
    module: &ModuleName,
    release: &str,
    deadline: Duration,
) -> Result<Child, String> {
    let child = tools.child("dkms", deadline).map_err(|e| e.to_string())?;
    // From 3.4 on dkms does not sign what it builds in a chroot, and takes a unit with mounts of its own for one. A value
    // in framework.conf overrides the environment, so what an admin has set there stays (measured with 3.4.3).
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

/// The same for a root that is not the system's own: dkms knows nothing of roots, and is told each folder.
pub(super) fn in_root(root: &Root, mut child: Child) -> Result<Child, String> {
    for (option, folder) in [("--dkmstree", TREE), ("--sourcetree", SOURCES), ("--installtree", MODULES)] {
        child = child.arg(option).arg(root.real_path(folder).map_err(|e| e.to_string())?);
    }
    Ok(child)
}

/// Why dkms cannot be let loose on this module in this root: a link on its way would lead it outside, or the root's
/// own path is one that dkms cannot take. None for the system's own root.
pub fn way_out_of_root(root: &Root, module: &ModuleName, release: &str, conf: &Conf) -> Option<String> {
    if root.is_slash() {
        return None;
    }
    let path = root.path().display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._+-~@,=[]".contains(c);
    if let Some(bad) = path.chars().find(|c| !plain(*c)) {
        return Some(format!(
            "dkms and kbuild cannot work below a path with {bad:?}: give {path} another name"
        ));
    }
    let (tree, folder) = (format!("{TREE}/{}", module.name), module_folder(release));
    let version = format!("{tree}/{}", module.version);
    let mut on_the_way = vec![
        tree.clone(),
        format!("{tree}/original_module"),
        version.clone(),
        format!("{version}/build"),
        format!("{version}/{release}"),
        build_folder(module, release),
        format!("{}/log", build_folder(module, release)),
        built_folder(module, release),
        // dkms has openssl write the signing key, through a link too.
        format!("{TREE}/mok.key"),
        format!("{TREE}/mok.pub"),
        folder.clone(),
        format!("{folder}/updates"),
        format!("{folder}/updates/dkms"),
    ];
    for built in &conf.built {
        let mut place = PathBuf::from(&folder);
        for part in Path::new(&built.location).components() {
            match part {
                Component::Normal(name) => place.push(name),
                Component::RootDir | Component::CurDir => {}
                _ => {
                    return Some(format!("DEST_MODULE_LOCATION {:?} leads out of the root", built.location));
                }
            }
            on_the_way.push(place.display().to_string());
        }
    }
    // A symlink that means the same to the host as inside the root is as good as a directory.
    let leads_out = |path: &&String| root.lookup_link(path).is(Kind::Link) && !root.host_finds(path, path);
    on_the_way.iter().find(leads_out).map(|path| {
        format!("{} is a link, which dkms would follow out of the root", root.spell(path).display())
    })
}

/// Gives the `source` link of a module in a root a text that leads to the same folder from inside and from outside:
/// dkms, which knows nothing of roots, would follow an absolute one into the host.
pub(super) fn portable_source(
    root: &Root,
    module: &ModuleName,
    source: &Source,
) -> Result<(), crate::sys::FileError> {
    let Source::Folder { path, portable: false } = source else {
        return Ok(());
    };
    let link = format!("{TREE}/{}/{}/source", module.name, module.version);
    let (target, folder) =
        (root.real_path(path)?, root.real_path(Path::new(&link).parent().unwrap_or(path))?);
    let common = target.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    let mut text: PathBuf = folder.components().skip(common).map(|_| Component::ParentDir).collect();
    text.extend(target.components().skip(common));
    tracing::info!("{link} now says {}, so that it leads nowhere else", text.display());
    root.link(&link, &text).map(|_| ())
}
