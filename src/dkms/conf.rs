//! `dkms.conf` is a bash program whose values may differ per kernel, so bash evaluates it. A static reading can only
//! advise.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::version::{self, DkmsRules};
use super::{Cache, ModuleName, Registered, Source, architecture, compare_versions};
use crate::kernel::inventory::module_directory;
use crate::limits::TEXT;
use crate::sys::sandbox::{Sight, is_refusal};
use crate::sys::{Ended, FileError, Fingerprint, Output, Root, Tools};

/// The program that bash runs.
const SCRIPT: &str = include_str!("conf.sh");
/// Where an admin's additions to the files are.
const OVERRIDES: &str = "/etc/dkms";
/// How long one evaluation may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How much it may answer, in bytes.
const ANSWER_LIMIT: u64 = 256 << 10;

/// One record of `BUILT_MODULE_NAME` and its sisters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltModule {
    /// The installed file's name, without `.ko`.
    pub name: String,
    /// `DEST_MODULE_LOCATION`, below the module directory; Clear's and Debian's dkms put it into `updates/dkms` instead.
    pub location: String,
}

/// An evaluated `dkms.conf`, for one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Conf {
    /// `AUTOINSTALL` asks for it, by the rule of the installed dkms.
    #[serde(skip)]
    pub autoinstall: bool,
    /// What it says.
    pub autoinstall_value: String,
    /// What a build makes.
    pub built: Vec<BuiltModule>,
    /// `BUILD_DEPENDS`: names of modules.
    pub depends: Vec<String>,
    /// `PRE_INSTALL`, a script with its arguments.
    #[serde(default)]
    pub pre_install: String,
    /// `POST_INSTALL`, likewise.
    #[serde(default)]
    pub post_install: String,
    /// `POST_REMOVE`, likewise.
    #[serde(default)]
    pub post_remove: String,
    /// Why the module is not for this kernel.
    pub excluded: Option<String>,
    /// The same, for a dkms that knows [`Rules::knows_ranges`]; only on the way to what is above.
    pub(super) out_of_range: Option<String>,
    /// It has a syntax error: what stands behind it does not count.
    pub syntax_error: bool,
}

/// Why there is no evaluated file, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfError {
    /// It is not there, or bash gets no answer out of it: dkms would not either.
    Unusable(String),
    /// It could not be read, or bash not be run: it may be good.
    CannotTell(String),
    /// It was not evaluated because this machine offers nothing that confines it.
    Refused(String),
    /// As unusable, because bash did not come to an end with it in time.
    TimedOut(String),
}

impl ConfError {
    /// In words.
    pub fn reason(&self) -> &str {
        match self {
            ConfError::Unusable(reason)
            | ConfError::CannotTell(reason)
            | ConfError::Refused(reason)
            | ConfError::TimedOut(reason) => reason,
        }
    }

    fn of_file(e: &FileError) -> ConfError {
        if e.is_absent() { ConfError::Unusable(e.to_string()) } else { ConfError::CannotTell(e.to_string()) }
    }
}

/// What the files of all modules have in common on one kernel, looked at once.
#[derive(Debug)]
pub struct ConfReader<'a> {
    root: &'a Root,
    tools: &'a Tools,
    release: &'a str,
    /// What lies in [`OVERRIDES`]; none when that cannot be determined.
    overrides: Option<BTreeSet<OsString>>,
    rules: DkmsRules,
    sources: &'a ConfSources,
    /// The fingerprint of the kernel's headers and of [`SCRIPT`].
    around: String,
}

impl<'a> ConfReader<'a> {
    /// Looks at it.
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
        let (overrides, around) = (overrides(root), around.finish());
        ConfReader { root, tools, release, overrides, sources, rules: version::rules(tools, cache), around }
    }

    /// Evaluates the file of a module, or takes it from the cache.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn load(&self, cache: &mut Cache, registered: &Registered) -> Result<Conf, ConfError> {
        let (root, release) = (self.root, self.release);
        let source = match &registered.source {
            Source::Directory { path, .. } => path,
            Source::Broken { reason } => return Err(ConfError::Unusable(reason.clone())),
            Source::Unknown { reason } => return Err(ConfError::CannotTell(reason.clone())),
        };
        let (main, directory) = self.sources.main(root, source)?;
        let files = with_overrides(root, main, &registered.module, release, self.overrides.as_ref())?;
        let key = self.key(&files, &directory);
        let known = cache.conf(&key);
        if known.is_none() && !self.tools.evaluates_modules() {
            let file = root.shown_path(&files[0].0).display().to_string();
            return Err(ConfError::CannotTell(format!(
                "{file} has changed and is evaluated by the next run"
            )));
        }
        let conf = known.unwrap_or_else(|| {
            let conf = once(root, &key, || {
                let build = format!("{}/build", module_directory(release));
                evaluate(root, self.tools, &registered.module, release, &files)
                    .and_then(|answer| from_answer(&answer, release, &kernel_config(root, &build)))
            });
            // Why it could not be read, or bash not be run, is not a property of what is in the files.
            if !matches!(conf, Err(ConfError::CannotTell(_) | ConfError::Refused(_))) {
                cache.keep_conf(key, conf.clone());
            }
            conf
        });
        conf.and_then(|conf| by_rules(conf, self.rules))
    }

    /// All that the answer depends on: the files, the kernel, its headers, and the directory that a file may source from.
    fn key(&self, files: &[(PathBuf, Vec<u8>)], directory: &str) -> String {
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
type Evaluated = BTreeMap<(PathBuf, String), Result<Conf, ConfError>>;

/// The answer that this process has had for that key, else that of `evaluate`: on a slow machine a file costs a second, and
/// a process may look at the machine more than once with a cache that was empty, or could not be written.
fn once(
    root: &Root,
    key: &str,
    evaluate: impl FnOnce() -> Result<Conf, ConfError>,
) -> Result<Conf, ConfError> {
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

/// What the files of a module are on every kernel: read once in a look at all of them.
#[derive(Debug, Default)]
pub struct ConfSources(RefCell<BTreeMap<PathBuf, (Vec<u8>, String)>>);

impl ConfSources {
    /// The `dkms.conf` in a source directory, and the identity of the directory.
    fn main(&self, root: &Root, source: &Path) -> Result<((PathBuf, Vec<u8>), String), ConfError> {
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

fn overrides(root: &Root) -> Option<BTreeSet<OsString>> {
    // None: then each override is looked for by its name, and one that cannot be read is an error.
    Some(root.list_optional(OVERRIDES).ok()?.into_iter().map(|entry| entry.name).collect())
}

/// Evaluates the file of a module for a kernel, or takes it from the cache.
///
/// # Errors
/// When there is no answer.
pub fn load(
    root: &Root,
    tools: &Tools,
    cache: &mut Cache,
    registered: &Registered,
    release: &str,
) -> Result<Conf, ConfError> {
    ConfReader::new(root, tools, cache, &ConfSources::default(), release).load(cache, registered)
}

/// The rules are not part of what is cached: the next dkms may have others.
fn by_rules(mut conf: Conf, rules: DkmsRules) -> Result<Conf, ConfError> {
    conf.autoinstall = rules.autoinstall.asks(&conf.autoinstall_value).map_err(ConfError::Unusable)?;
    let out_of_range = conf.out_of_range.take().filter(|_| rules.knows_ranges);
    conf.excluded = conf.excluded.or(out_of_range);
    Ok(conf)
}

/// The file itself and the admin's overrides, in dkms's order: paths inside the root and bytes.
pub(super) fn files(
    root: &Root,
    source: &Path,
    module: &ModuleName,
    release: &str,
) -> Result<Vec<(PathBuf, Vec<u8>)>, ConfError> {
    let (main, _) = ConfSources::default().main(root, source)?;
    with_overrides(root, main, module, release, overrides(root).as_ref())
}

fn with_overrides(
    root: &Root,
    main: (PathBuf, Vec<u8>),
    module: &ModuleName,
    release: &str,
    overrides: Option<&BTreeSet<OsString>>,
) -> Result<Vec<(PathBuf, Vec<u8>)>, ConfError> {
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

/// Lets bash evaluate the files for a kernel: its whole answer.
pub(super) fn evaluate(
    root: &Root,
    tools: &Tools,
    module: &ModuleName,
    release: &str,
    files: &[(PathBuf, Vec<u8>)],
) -> Result<Vec<u8>, ConfError> {
    let cannot_tell = |e: &dyn std::fmt::Display| ConfError::CannotTell(e.to_string());
    // What is there is given without links, so that nothing of the host is read for a root; what is not there can
    // only be named.
    let real = |path: &str| root.real_path(path).unwrap_or_else(|_| root.shown_path(path));
    let build = format!("{}/build", module_directory(release));
    let child = tools.child("bash", DEADLINE).map_err(|e| cannot_tell(&e))?;
    let mut child = child
        .args(["--noprofile", "--norc", "-c", SCRIPT, "dkms.conf", release, &architecture()])
        .arg(real(&build))
        .args([super::tree::TREE, super::tree::SOURCES, crate::kernel::inventory::MODULES].map(real))
        .args([&module.name, &module.version])
        .output(Output::KeepAnswer(ANSWER_LIMIT))
        .confined(tools.sandbox("bash", seen(root, files, &build)));
    for (path, _) in files {
        child = child.arg(root.real_path(path).map_err(|e| ConfError::of_file(&e))?);
    }
    let file = root.shown_path(&files[0].0).display().to_string();
    tracing::debug!("evaluating {file} for {release}");
    let done = child.run().map_err(|e| {
        let what = format!("{file} was not evaluated: {e}");
        if is_refusal(&e) { ConfError::Refused(what) } else { ConfError::CannotTell(what) }
    })?;
    // Ended by a signal, bash answers all the same, by its EXIT trap.
    if matches!(done.ended, Ended::Exit(_)) && done.output.ends_with(b"end=end\0") {
        return Ok(done.output);
    }
    let what = format!("evaluating {file} gave no answer ({})", done.ended);
    Err(match done.ended {
        Ended::Interrupted => ConfError::CannotTell(what),
        Ended::TimedOut => ConfError::TimedOut(what),
        Ended::Exit(_) | Ended::Signal(_) => ConfError::Unusable(what),
    })
}

/// What a `dkms.conf` may read beside the programs and `/etc` of the machine: its source, the admin's overrides, the
/// headers, and the directories that it is given.
fn seen(root: &Root, files: &[(PathBuf, Vec<u8>)], build: &str) -> Sight {
    let real = |path: &Path| root.real_path(path).ok().map(PathBuf::into_os_string);
    let directories: BTreeSet<&Path> = files.iter().filter_map(|(path, _)| path.parent()).collect();
    let own_root = (!root.is_slash()).then(|| root.path().as_os_str().to_owned());
    let shown = [build, super::tree::TREE, super::tree::SOURCES, crate::kernel::inventory::MODULES];
    Sight {
        roots: own_root.into_iter().collect(),
        shown: shown.into_iter().filter_map(|path| real(Path::new(path))).collect(),
        readable: directories.into_iter().filter_map(real).collect(),
        ..Sight::default()
    }
}

pub(super) fn kernel_config(root: &Root, build: &str) -> Option<Vec<u8>> {
    // dkms skips its test of the configuration when the file is not there; so do we.
    root.read_within(format!("{build}/.config"), TEXT).ok()
}

fn from_answer(answer: &[u8], release: &str, config: &Option<Vec<u8>>) -> Result<Conf, ConfError> {
    let mut conf = Conf::default();
    let mut package_name = String::new();
    for record in answer.split(|b| *b == 0).filter(|r| !r.is_empty()) {
        let text = std::str::from_utf8(record)
            .map_err(|_| ConfError::Unusable("its dkms.conf has a value that is no text".to_owned()))?;
        let Some((key, value)) = text.split_once('=') else {
            continue;
        };
        let value = value.to_owned();
        match key {
            "package_name" => package_name = value,
            "syntax" => conf.syntax_error = !value.is_empty(),
            "autoinstall" => conf.autoinstall_value = value,
            "built" => conf.built.push(BuiltModule { name: value, location: String::new() }),
            "dest" => {
                if let Some(last) = conf.built.last_mut().filter(|_| !value.is_empty()) {
                    last.name = value;
                }
            }
            "location" => {
                if let Some(last) = conf.built.last_mut() {
                    last.location = value;
                }
            }
            "depends" => conf.depends.push(value),
            "pre_install" => conf.pre_install = value,
            "post_install" => conf.post_install = value,
            "post_remove" => conf.post_remove = value,
            "excluded" => conf.excluded = Some(value),
            "kernel_min" | "kernel_max" if !value.is_empty() => {
                let why = excluded(key, &value, release, None);
                conf.out_of_range = conf.out_of_range.or(why);
            }
            _ => {
                if conf.excluded.is_none() && !value.is_empty() {
                    conf.excluded = excluded(key, &value, release, config.as_deref());
                }
            }
        }
    }
    if let [only] = conf.built.as_mut_slice()
        && only.name.is_empty()
    {
        only.name = package_name;
    }
    // A record without a name is none that could be looked for.
    conf.built.retain(|record| !record.name.is_empty());
    Ok(conf)
}

/// The exclusions that bash was not asked about.
pub(super) fn excluded(key: &str, value: &str, release: &str, config: Option<&[u8]>) -> Option<String> {
    let older = |than: &str| compare_versions(release, than).is_lt();
    match key {
        "exclusive_config" => {
            let config = config?;
            let unmet = value.split_ascii_whitespace().find(|word| match word.strip_prefix('!') {
                Some(name) => is_set(config, name),
                None => !is_set(config, word),
            })?;
            Some(format!("BUILD_EXCLUSIVE_CONFIG wants {unmet}"))
        }
        "kernel_min" => older(value).then(|| format!("BUILD_EXCLUSIVE_KERNEL_MIN is {value}")),
        "kernel_max" => {
            compare_versions(release, value).is_gt().then(|| format!("BUILD_EXCLUSIVE_KERNEL_MAX is {value}"))
        }
        // Without a word for it when building, dkms then refuses to install on that kernel and on later ones, whatever
        // the highest version is.
        "obsolete_by" => (!older(value)).then(|| format!("OBSOLETE_BY is {value}")),
        _ => None,
    }
}

fn is_set(config: &[u8], name: &str) -> bool {
    config
        .split(|b| *b == b'\n')
        .any(|line| matches!(line.strip_prefix(name.as_bytes()), Some([b'=', b'y' | b'm', ..])))
}

/// What the text of a file seems to say of `AUTOINSTALL`, without running it: for advice, where there is no time to
/// ask bash.
pub fn seems_autoinstall(text: &str) -> Option<bool> {
    let value = text.lines().filter_map(|line| line.trim().strip_prefix("AUTOINSTALL=")).next_back()?;
    let unquoted = value.trim_start_matches(['"', '\'']);
    let end = unquoted.find(['"', '\'', ' ', '\t', ';', '#']).unwrap_or(unquoted.len());
    Some(unquoted[..end].eq_ignore_ascii_case("yes"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn answer(records: &[&str]) -> Vec<u8> {
        records.iter().flat_map(|r| [r.as_bytes(), b"\0"].concat()).collect()
    }

    #[test]
    fn one_record_takes_the_package_name() {
        let conf = from_answer(
            &answer(&[
                "package_name=hello",
                "package_version=1",
                "autoinstall=yes",
                "built=",
                "dest=",
                "location=/extra",
                "end=end",
            ]),
            "6.1.1-1.native",
            &None,
        )
        .unwrap();
        assert_eq!(conf.built, [BuiltModule { name: "hello".to_owned(), location: "/extra".to_owned() }]);
        assert!(conf.autoinstall_value == "yes" && !conf.syntax_error && conf.excluded.is_none());
    }

    #[test]
    fn exclusions() {
        let config = b"CONFIG_A=y\nCONFIG_AB=m\n# CONFIG_C is not set\n".as_slice();
        let is = |key, value| excluded(key, value, "6.15.8-1592.native", Some(config)).is_some();
        assert!(!is("exclusive_config", "CONFIG_A CONFIG_AB !CONFIG_C"));
        assert!(is("exclusive_config", "CONFIG_C"));
        assert!(is("exclusive_config", "!CONFIG_AB"));
        assert!(is("kernel_min", "6.16") && !is("kernel_min", "6.15"));
        assert!(is("kernel_max", "6.14") && !is("kernel_max", "6.16"));
        assert!(is("obsolete_by", "6.15.8-1592.native") && !is("obsolete_by", "6.15.8-1593"));
        assert!(is("obsolete_by", "6.15.8") && !is("obsolete_by", "6.16"));
    }

    #[test]
    fn advice_without_bash() {
        assert_eq!(seems_autoinstall("AUTOINSTALL=\"yes\"\n"), Some(true));
        assert_eq!(seems_autoinstall("AUTOINSTALL='yes' # always\n"), Some(true));
        assert_eq!(seems_autoinstall("AUTOINSTALL=no"), Some(false));
        assert_eq!(seems_autoinstall("#AUTOINSTALL=yes"), None);
    }
}
