//! `dkms.conf` is a bash program whose values may differ per kernel, so bash evaluates it. A static reading can only
//! advise.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::version::{self, Autoinstall};
use super::{Cache, ModuleName, Registered, Source, architecture, compare_versions};
use crate::kernel::inventory::module_folder;
use crate::sys::{Ended, FileError, Fingerprint, Output, Presence, Root, Tools};

/// The program that bash runs.
const SCRIPT: &str = include_str!("conf.sh");
/// How long one evaluation may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How much it may answer, in bytes.
const ANSWER_LIMIT: u64 = 256 << 10;

/// One record of `BUILT_MODULE_NAME` and its sisters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltModule {
    /// The installed file's name, without `.ko`.
    pub name: String,
    /// `DEST_MODULE_LOCATION`, below the module folder; Clear's and Debian's dkms put it into `updates/dkms` instead.
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
    /// Why the module is not for this kernel.
    pub excluded: Option<String>,
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
}

impl ConfError {
    fn of_file(e: &FileError) -> ConfError {
        if e.is_absent() { ConfError::Unusable(e.to_string()) } else { ConfError::CannotTell(e.to_string()) }
    }
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
    let source = match &registered.source {
        Source::Folder { path, .. } => path,
        Source::Broken { reason } => return Err(ConfError::Unusable(reason.clone())),
        Source::Unknown { reason } => return Err(ConfError::CannotTell(reason.clone())),
    };
    let files = files(root, source, &registered.module, release)?;
    let build = format!("{}/build", module_folder(release));
    let key = key(root, &files, source, &build, release);
    if let Some(known) = cache.conf(&key) {
        return known.and_then(|conf| by_rule(conf, version::rule(tools, cache)));
    }
    let conf = evaluate(root, tools, &registered.module, release, &files)
        .and_then(|answer| from_answer(&answer, release, &kernel_config(root, &build)));
    cache.keep_conf(key, conf.clone());
    conf.and_then(|conf| by_rule(conf, version::rule(tools, cache)))
}

/// The rule is not part of what is cached: the next dkms may have another one.
fn by_rule(mut conf: Conf, rule: Autoinstall) -> Result<Conf, ConfError> {
    conf.autoinstall = rule.asks(&conf.autoinstall_value).map_err(ConfError::Unusable)?;
    Ok(conf)
}

/// The file itself and the admin's overrides, in dkms's order: paths inside the root and bytes.
pub(super) fn files(
    root: &Root,
    source: &Path,
    module: &ModuleName,
    release: &str,
) -> Result<Vec<(PathBuf, Vec<u8>)>, ConfError> {
    let main = source.join("dkms.conf");
    let mut files = vec![(main.clone(), root.read(&main).map_err(|e| ConfError::of_file(&e))?)];
    let (name, version, architecture) = (&module.name, &module.version, architecture());
    for override_name in [
        format!("{name}.conf"),
        format!("{name}-{version}.conf"),
        format!("{name}-{version}-{release}.conf"),
        format!("{name}-{version}-{release}-{architecture}.conf"),
    ] {
        let path = Path::new("/etc/dkms").join(override_name);
        if let Some(bytes) = root.read_optional(&path).map_err(|e| ConfError::of_file(&e))? {
            files.push((path, bytes));
        }
    }
    Ok(files)
}

/// All that the answer depends on: the files, the kernel, its headers, and the folder that a file may source from.
fn key(root: &Root, files: &[(PathBuf, Vec<u8>)], source: &Path, build: &str, release: &str) -> String {
    let mut fingerprint = Fingerprint::default();
    let mut add = |bytes: &[u8]| fingerprint.add(bytes);
    for (path, bytes) in files {
        add(path.as_os_str().as_encoded_bytes());
        add(bytes);
    }
    add(release.as_bytes());
    add(SCRIPT.as_bytes());
    for path in [source.to_owned(), Path::new(build).join(".config"), Path::new(build).join("Makefile")] {
        if let Presence::There(stat) = root.lookup(&path) {
            add(format!("{} {} {}", stat.size, stat.mtime_ns, stat.ctime_ns).as_bytes());
        }
        add(b"|");
    }
    fingerprint.finish()
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
    let real = |path: &str| root.real_path(path).unwrap_or_else(|_| root.spell(path));
    let build = format!("{}/build", module_folder(release));
    let child = tools.child("bash", DEADLINE).map_err(|e| cannot_tell(&e))?;
    let mut child = child
        .args(["--noprofile", "--norc", "-c", SCRIPT, "dkms.conf", release, &architecture()])
        .arg(real(&build))
        .args([super::tree::TREE, super::tree::SOURCES, crate::kernel::inventory::MODULES].map(real))
        .args([&module.name, &module.version])
        .output(Output::KeepAnswer(ANSWER_LIMIT))
        .read_only();
    for (path, _) in files {
        child = child.arg(root.real_path(path).map_err(|e| ConfError::of_file(&e))?);
    }
    let done = child.run().map_err(|e| cannot_tell(&format!("bash cannot be started: {e}")))?;
    // Ended by a signal, bash answers all the same, by its EXIT trap.
    if matches!(done.ended, Ended::Exit(_)) && done.output.ends_with(b"end=end\0") {
        return Ok(done.output);
    }
    let what = format!("evaluating {} gave no answer ({})", root.spell(&files[0].0).display(), done.ended);
    Err(if done.ended == Ended::Interrupted {
        ConfError::CannotTell(what)
    } else {
        ConfError::Unusable(what)
    })
}

pub(super) fn kernel_config(root: &Root, build: &str) -> Option<Vec<u8>> {
    // dkms skips its test of the configuration when the file is not there; so do we.
    root.read(format!("{build}/.config")).ok()
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
            "excluded" => conf.excluded = Some(value),
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
