//! Lets bash evaluate the files of a module for a kernel, in a sandbox.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::trace::{DIRECTIVES, Trace};
use super::{ConfError, DkmsConf};
use crate::dkms::{ModuleName, architecture, is_usable_name, tree};
use crate::kernel::inventory::{MODULES, module_directory};
use crate::limits::TEXT;
use crate::sys::sandbox::{SandboxError, Sight};
use crate::sys::{Ended, Output, Root, Tools};

/// The program that bash runs.
pub(super) const SCRIPT: &str = include_str!("conf.sh");
/// The directory of the admin's overrides.
const OVERRIDES: &str = "/etc/dkms";
/// The time limit of one evaluation.
const DEADLINE: Duration = Duration::from_secs(10);
/// The maximum size of the answer, in bytes.
const ANSWER_LIMIT: u64 = 256 << 10;
/// The first record of an answer. The trace is before it.
const START: &[u8] = b"start=start";

/// A file to evaluate: its path inside the root, and its contents.
pub type ConfFile = (PathBuf, Vec<u8>);

/// Whether bash prints the commands that it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracing {
    Off,
    On,
}

pub(super) fn overrides(root: &Root) -> Option<BTreeSet<OsString>> {
    // Without a list, each override is opened by name, and one that cannot be read is an error.
    Some(root.list_optional(OVERRIDES).ok()?.into_iter().map(|entry| entry.name).collect())
}

/// The file itself and the admin's overrides, in the order of dkms.
pub(super) fn with_overrides(
    root: &Root,
    main: ConfFile,
    module: &ModuleName,
    release: &str,
    overrides: Option<&BTreeSet<OsString>>,
) -> Result<Vec<ConfFile>, ConfError> {
    let mut files = vec![main];
    let (name, version, architecture) = (&module.name, &module.version, architecture());
    for override_name in [
        format!("{name}.conf"),
        format!("{name}-{version}.conf"),
        format!("{name}-{version}-{release}.conf"),
        format!("{name}-{version}-{release}-{architecture}.conf"),
    ] {
        if overrides.is_some_and(|names| !names.contains(OsStr::new(&override_name))) {
            continue;
        }
        let path = Path::new(OVERRIDES).join(override_name);
        let read = root.read_optional_within(&path, TEXT);
        if let Some(bytes) = read.map_err(|e| ConfError::of_file(&e))? {
            files.push((path, bytes));
        }
    }
    Ok(files)
}

/// The files of a source directory. The admin's overrides apply to registered modules only.
///
/// # Errors
///
/// If the `dkms.conf` does not exist ([`ConfError::Unusable`]), or a file cannot be read or is too large.
pub fn files(
    root: &Root,
    directory: &Path,
    module: Option<&ModuleName>,
    release: &str,
) -> Result<Vec<ConfFile>, ConfError> {
    let path = directory.join("dkms.conf");
    let bytes = root.read_within(&path, TEXT).map_err(|e| ConfError::of_file(&e))?;
    match module {
        Some(module) => with_overrides(root, (path, bytes), module, release, overrides(root).as_ref()),
        None => Ok(vec![(path, bytes)]),
    }
}

/// The value of the files for a kernel, and what bash ran. Without a module its name is what the file says,
/// as it is for `dkms add`. It is not cached: the caller is about to change the file.
///
/// # Errors
/// When there is no answer.
pub fn traced(
    root: &Root,
    tools: &Tools,
    files: &[ConfFile],
    module: Option<&ModuleName>,
    release: &str,
) -> Result<(DkmsConf, Trace), ConfError> {
    let nameless = ModuleName { name: String::new(), version: String::new() };
    let evaluation = Evaluation { root, tools, module: module.unwrap_or(&nameless), release, files };
    let evaluated = evaluation.run(Tracing::On)?;
    let (name, version) = (&evaluated.0.package_name, &evaluated.0.package_version);
    let is_asked = |bytes: &[u8]| {
        [&b"$module"[..], b"${module"].iter().any(|word| memchr::memmem::find(bytes, word).is_some())
    };
    let asks_its_name = module.is_none() && files.iter().any(|(_, bytes)| is_asked(bytes));
    if asks_its_name && is_usable_name(name) && is_usable_name(version) {
        let named = ModuleName { name: name.clone(), version: version.clone() };
        return Evaluation { module: &named, ..evaluation }.run(Tracing::On);
    }
    Ok(evaluated)
}

/// The files of a module, and the kernel that bash evaluates them for.
#[derive(Clone, Copy)]
pub(super) struct Evaluation<'a> {
    pub(super) root: &'a Root,
    pub(super) tools: &'a Tools,
    pub(super) module: &'a ModuleName,
    pub(super) release: &'a str,
    pub(super) files: &'a [ConfFile],
}

impl Evaluation<'_> {
    /// Lets bash evaluate the files.
    pub(super) fn run(self, tracing: Tracing) -> Result<(DkmsConf, Trace), ConfError> {
        let Evaluation { root, release, files, .. } = self;
        let output = self.answer(tracing)?;
        let (trace, records) = output.split_at(memchr::memchr(0, &output).unwrap_or(output.len()));
        let Some(trace) = trace.strip_suffix(START) else {
            return Err(ConfError::Unusable(
                "its dkms.conf has more values than a dkms.conf can have".to_owned(),
            ));
        };
        let path = |(path, _): &ConfFile| root.resolved_or_joined(path).to_string_lossy().into_owned();
        let paths: Vec<String> = files.iter().map(path).collect();
        let texts: Vec<(&str, &[u8])> =
            paths.iter().map(String::as_str).zip(files.iter().map(|(_, bytes)| &bytes[..])).collect();
        let trace = Trace::read(trace, &texts);
        // As dkms, skip the check of the configuration if the file is missing.
        let config = root.read_optional_within(format!("{}/build/.config", module_directory(release)), TEXT);
        let config = config.map_err(|e| ConfError::of_file(&e))?;
        let mut conf = DkmsConf::of_answer(records, release, config.as_deref(), &paths)?;
        conf.locate(&trace);
        Ok((conf, trace))
    }

    /// The whole answer of bash.
    fn answer(self, tracing: Tracing) -> Result<Vec<u8>, ConfError> {
        let Evaluation { root, tools, module, release, files } = self;
        let build = format!("{}/build", module_directory(release));
        let directives = if tracing == Tracing::On { DIRECTIVES.join("|") } else { String::new() };
        let child = tools.child("bash", DEADLINE).map_err(|e| ConfError::CannotTell(e.to_string()))?;
        let mut child = child
            .args(["--noprofile", "--norc", "-c", SCRIPT, "dkms.conf", release, &architecture()])
            .args([&build, tree::TREE, tree::SOURCES, MODULES].map(|path| root.resolved_or_joined(path)))
            .args([&module.name, &module.version, &directives])
            .output(Output::KeepAnswer(ANSWER_LIMIT))
            .confined(tools.sandbox("bash", seen(root, files, &build)));
        for (path, _) in files {
            child = child.arg(root.real_path(path).map_err(|e| ConfError::of_file(&e))?);
        }
        let file = root.shown_path(&files[0].0).display().to_string();
        tracing::debug!("evaluating {file} for {release}");
        let done = child.run().map_err(|e| {
            let what = format!("{file} was not evaluated: {e}");
            match SandboxError::of(&e) {
                Some(SandboxError::Refused(_)) => ConfError::Refused(what),
                _ => ConfError::CannotTell(what),
            }
        })?;
        // After a signal bash still prints an answer, because of its EXIT trap.
        if matches!(done.ended, Ended::Exit(_)) && done.output.ends_with(b"end=end\0") {
            return Ok(done.output);
        }
        let what = format!("evaluating {file} gave no answer ({})", done.ended);
        Err(match done.ended {
            Ended::Interrupted => ConfError::CannotTell(what),
            Ended::TimedOut => {
                let seconds = DEADLINE.as_secs();
                let what = format!("evaluating {file} did not end within {seconds} s");
                ConfError::TimedOut(format!("{what}: the machine is busy, or the file never ends"))
            }
            Ended::Exit(_) | Ended::Signal(_) => ConfError::Unusable(what),
        })
    }
}

/// What a `dkms.conf` may read in addition to the programs and `/etc` of the machine: its source, the admin's
/// overrides, the headers, and the directories that are passed to it.
fn seen(root: &Root, files: &[ConfFile], build: &str) -> Sight {
    // A path that does not exist, or cannot be read, cannot be shown; bash then reports it.
    let real = |path: &Path| root.real_path(path).ok().map(PathBuf::into_os_string);
    let directories: BTreeSet<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
    let own_root = (!root.is_slash()).then(|| root.path().as_os_str().to_owned());
    let shown = [build, tree::TREE, tree::SOURCES, MODULES];
    Sight {
        roots: own_root.into_iter().collect(),
        shown: shown.into_iter().filter_map(|path| real(Path::new(path))).collect(),
        readable: directories.into_iter().filter_map(real).collect(),
        ..Sight::default()
    }
}
