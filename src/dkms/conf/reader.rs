//! Evaluates the files of all modules for one kernel, or takes the values from the cache.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::evaluate::{self, ConfFile, Evaluation, SCRIPT, Tracing};
use super::version::{self, DkmsRules};
use super::{ConfError, DkmsConf};
use crate::dkms::{Cache, Registered, Source};
use crate::kernel::inventory::module_directory;
use crate::limits::TEXT;
use crate::sys::clock::Stopwatch;
use crate::sys::{Fingerprint, Root, Tools};

/// A file that takes longer than this is evaluated once only.
const TRACED_WITHIN: Duration = Duration::from_secs(2);

/// What all evaluations for one kernel have in common.
#[derive(Debug)]
pub struct ConfReader<'a> {
    root: &'a Root,
    tools: &'a Tools,
    release: &'a str,
    /// The names of the admin's overrides; none if they cannot be listed.
    overrides: Option<BTreeSet<OsString>>,
    rules: DkmsRules,
    sources: &'a ConfSources,
    /// The fingerprint of the kernel's headers and of [`SCRIPT`].
    around: String,
}

impl<'a> ConfReader<'a> {
    /// Reads the common part.
    pub fn new(
        root: &'a Root,
        tools: &'a Tools,
        cache: &mut Cache,
        sources: &'a ConfSources,
        release: &'a str,
    ) -> ConfReader<'a> {
        let build = format!("{}/build", module_directory(release));
        let mut around = Fingerprint::default();
        for text in [release, SCRIPT] {
            around.add(text);
        }
        for path in [".config", "Makefile"] {
            around.add(identity(root, Path::new(&build).join(path)));
        }
        let (overrides, around) = (evaluate::overrides(root), around.finish());
        ConfReader { root, tools, release, overrides, sources, rules: version::rules(tools, cache), around }
    }

    /// Evaluates the files of a module, or takes the value from the cache.
    ///
    /// # Errors
    ///
    /// If there is no answer.
    pub fn load(&self, cache: &mut Cache, registered: &Registered) -> Result<DkmsConf, ConfError> {
        let (root, module) = (self.root, &registered.module);
        let source = match &registered.source {
            Source::Directory { path, .. } => path,
            Source::Broken { reason } => return Err(ConfError::Unusable(reason.clone())),
            Source::Unknown { reason } => return Err(ConfError::CannotTell(reason.clone())),
        };
        let (main, directory) = self.sources.main(root, source)?;
        let files = evaluate::with_overrides(root, main, module, self.release, self.overrides.as_ref())?;
        let key = self.key(&files, &directory);
        let known = cache.conf(&key);
        if known.is_none() && !self.tools.evaluates_modules {
            let file = root.shown_path(&files[0].0).display().to_string();
            return Err(ConfError::CannotTell(format!(
                "{file} has changed and is evaluated by the next run"
            )));
        }
        let conf = known.unwrap_or_else(|| {
            let conf = once(root, &key, || {
                let evaluation =
                    Evaluation { root, tools: self.tools, module, release: self.release, files: &files };
                let evaluated = |tracing| evaluation.run(tracing).map(|(conf, _)| conf);
                // The trace gives the line numbers of faults. A slow file is not evaluated again for them.
                let started = Stopwatch::start();
                let conf = evaluated(Tracing::Off)?;
                let is_traced = conf.has_faults() && started.elapsed() < TRACED_WITHIN;
                if is_traced { evaluated(Tracing::On) } else { Ok(conf) }
            });
            // A failure to read the files or to run bash is not a property of the files. A time-out may be
            // one: reports do not wait for it again, the next run does.
            if !matches!(conf, Err(ConfError::CannotTell(_) | ConfError::Refused(_))) {
                cache.keep_conf(key, conf.clone());
            }
            conf
        });
        conf.map(|conf| conf.under(self.rules))
    }

    /// Everything that the answer depends on: the files, the kernel, its headers, and the directory that the
    /// file may source from.
    fn key(&self, files: &[ConfFile], directory: &str) -> String {
        let mut key = Fingerprint::default();
        for (path, bytes) in files {
            key.add(path.as_os_str().as_encoded_bytes());
            key.add(bytes);
        }
        key.add(directory);
        key.add(&self.around);
        key.finish()
    }
}

/// What was evaluated, by root and key.
type Evaluated = BTreeMap<(PathBuf, String), Result<DkmsConf, ConfError>>;

/// Returns the answer that this process got before for that key, or else the result of `evaluate`. On a slow
/// machine one evaluation takes a second, and a process may observe the machine more than once with a cache
/// that was empty or could not be written.
fn once(
    root: &Root,
    key: &str,
    evaluate: impl FnOnce() -> Result<DkmsConf, ConfError>,
) -> Result<DkmsConf, ConfError> {
    static EVALUATED: Mutex<Evaluated> = Mutex::new(BTreeMap::new());
    let known = || EVALUATED.lock().unwrap_or_else(PoisonError::into_inner);
    let at = (root.path().to_owned(), key.to_owned());
    if let Some(conf) = known().get(&at) {
        return conf.clone();
    }
    let conf = evaluate();
    known().insert(at, conf.clone());
    conf
}

/// The files of the modules, which are the same for every kernel and are read once per observation.
#[derive(Debug, Default)]
pub struct ConfSources(RefCell<BTreeMap<PathBuf, (Vec<u8>, String)>>);

impl ConfSources {
    /// The `dkms.conf` in a source directory, and the identity of the directory.
    fn main(&self, root: &Root, source: &Path) -> Result<(ConfFile, String), ConfError> {
        let path = source.join("dkms.conf");
        if let Some((bytes, directory)) = self.0.borrow().get(&path) {
            return Ok(((path, bytes.clone()), directory.clone()));
        }
        let bytes = root.read_within(&path, TEXT).map_err(|e| ConfError::of_file(&e))?;
        let directory = identity(root, source);
        self.0.borrow_mut().insert(path.clone(), (bytes.clone(), directory.clone()));
        Ok(((path, bytes), directory))
    }
}

fn identity(root: &Root, path: impl AsRef<Path>) -> String {
    let stat = root.lookup(path).stat();
    stat.map_or_else(String::new, |stat| format!("{} {} {}", stat.size, stat.mtime_ns, stat.ctime_ns))
}

/// Evaluates the files of a module for a kernel, or takes the value from the cache.
///
/// # Errors
///
/// If there is no answer.
pub fn load(
    root: &Root,
    tools: &Tools,
    cache: &mut Cache,
    registered: &Registered,
    release: &str,
) -> Result<DkmsConf, ConfError> {
    ConfReader::new(root, tools, cache, &ConfSources::default(), release).load(cache, registered)
}
