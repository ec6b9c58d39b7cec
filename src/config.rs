//! The settings: `clr-dkms.conf` and its drop-ins.
//!
//! The files are INI files with the sections and keys that `clr-dkms.conf(5)` documents. Later files override
//! earlier ones, and within a file the last occurrence of a key counts. Unknown sections and keys are errors;
//! the rest of the file still applies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use ini::{Ini, ParseOption};
use strum::{EnumString, IntoStaticStr, VariantNames};

use crate::dkms::is_usable_name;
use crate::requirement::ListedModules;
use crate::sys::{FileError, Root, capacity};

/// The directories of `clr-dkms.conf` and `clr-dkms.conf.d`, in ascending priority.
pub const DIRECTORIES: [&str; 3] = ["/usr/share/defaults/clr-dkms", "/run/clr-dkms", "/etc/clr-dkms"];

/// The programs that `[tools]` may name.
pub const TOOLS: [&str; 5] = ["bash", "clr-boot-manager", "depmod", "dkms", "motd-update.sh"];

/// When `module.sig_unenforce` is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum SigUnenforce {
    /// While a module that must be loaded needs it.
    Auto,
    /// Always.
    On,
    /// Never. A run does not remove it; `clr-dkms-cmdline check` reports it.
    Off,
}

/// How an unproven kernel is kept from becoming the boot default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum BootPolicy {
    /// swupd leaves the boot files to clr-dkms, which runs clr-boot-manager after the proof.
    Defer,
    /// swupd runs clr-boot-manager. Afterwards clr-dkms makes the right kernel the default again.
    Hold,
    /// It is only reported.
    Report,
}

/// What happens when a new kernel runs and a critical module does not work on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, EnumString, VariantNames, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum ReturnPolicy {
    /// The failure is recorded, and the next boot starts the older kernel.
    No,
    /// The same, and the message of the day says that a reboot brings it back.
    Ask,
    /// The machine reboots into the older kernel, once for each new kernel.
    Reboot,
}

/// How many modules are built at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// As many as the processors and the memory allow.
    Auto,
    /// At most this number.
    Most(usize),
}

/// How the processors are distributed among builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// The number of modules that are built at the same time.
    pub jobs: usize,
    /// The processors for each build. None means all processors, which is the default of DKMS.
    pub make_jobs: Option<usize>,
}

/// The memory that one build may need, in bytes: the compilers with the kernel headers, and the linker.
const MEMORY_OF_A_BUILD: u64 = 768 << 20;

impl Jobs {
    /// The share of each of `modules` builds on this machine.
    pub fn share(self, modules: usize) -> Share {
        let (processors, memory) = capacity();
        self.share_of(modules, processors, memory)
    }

    fn share_of(self, modules: usize, processors: usize, memory: Option<u64>) -> Share {
        // More builds than a usize counts: the processors decide.
        let roomy =
            memory.map_or(processors, |m| usize::try_from(m / MEMORY_OF_A_BUILD).unwrap_or(processors));
        // Measurements showed no gain from more than one build per processor.
        let most = match self {
            Jobs::Auto => processors.min(roomy),
            Jobs::Most(number) => number,
        };
        let jobs = most.min(modules).max(1);
        Share { jobs, make_jobs: (jobs > 1).then(|| (processors / jobs).max(1)) }
    }
}

/// All settings, with defaults for those that are not configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `[build] timeout`: the time limit of one dkms call.
    pub build_timeout: Duration,
    /// `[build] jobs`: how many modules are built at the same time.
    pub build_jobs: Jobs,
    /// `[build] trust`: modules are evaluated and built even if no sandbox is available.
    pub build_trust: bool,
    /// `[run] lock-wait`: how long to wait for another run to end.
    pub lock_wait: Duration,
    pub sig_unenforce: SigUnenforce,
    /// `[boot] update`: run `clr-boot-manager update`.
    pub boot_update: bool,
    /// `[boot] timeout`: the time limit of clr-boot-manager.
    pub boot_timeout: Duration,
    /// `[boot] initrd-command`: the program and its arguments. Empty if none is configured.
    pub initrd_command: Vec<String>,
    pub boot_policy: BootPolicy,
    /// `[boot] trial`: a new kernel becomes the boot default only after a boot in which it works.
    pub boot_trial: bool,
    /// `[boot] return`.
    pub boot_return: ReturnPolicy,
    /// `[modules]`: the importance of modules, regardless of their use.
    pub modules: ListedModules,
    /// `[motd] show`: write the MOTD fragment.
    pub motd_show: bool,
    /// `[report] metrics`: the file for the textfile collector of node_exporter.
    pub metrics: Option<PathBuf>,
    /// `[report] notify-timeout`: the time limit of each program in notify.d.
    pub notify_timeout: Duration,
    /// `[tools]`: the paths of programs, by name.
    pub tools: BTreeMap<String, PathBuf>,
    /// What is wrong with the configuration files, for reports. Only [`crate::cli::Common`] fills it in.
    pub faults: Vec<String>,
}

impl Settings {
    /// Whether the boot default may be changed, and not only reported.
    pub fn guards(&self) -> bool {
        self.boot_update && self.boot_policy != BootPolicy::Report
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            build_timeout: Duration::from_secs(3600),
            build_jobs: Jobs::Auto,
            build_trust: false,
            lock_wait: Duration::from_secs(600),
            sig_unenforce: SigUnenforce::Auto,
            boot_update: true,
            boot_timeout: Duration::from_secs(300),
            initrd_command: Vec::new(),
            boot_policy: BootPolicy::Defer,
            boot_trial: true,
            boot_return: ReturnPolicy::Ask,
            modules: ListedModules::default(),
            motd_show: true,
            metrics: None,
            notify_timeout: Duration::from_secs(30),
            tools: BTreeMap::new(),
            faults: Vec::new(),
        }
    }
}

/// An error in a configuration file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not an INI file. `line`: the line number, from 1.
    #[error("{file}:{line}: {what}", file = file.display())]
    Syntax { file: PathBuf, line: usize, what: String },
    /// A section, key or value is unknown.
    #[error("{file}: [{section}] {key}: {what}", file = file.display())]
    Entry { file: PathBuf, section: String, key: String, what: String },
}

/// Reads the settings of a root. Errors are returned, and the other settings still apply.
pub fn load(root: &Root) -> (Settings, Vec<ConfigError>) {
    let (mut settings, mut errors) = (Settings::default(), Vec::new());
    for directory in DIRECTORIES {
        let directory = Path::new(directory);
        let mut files = vec![directory.join("clr-dkms.conf")];
        let drop_ins = directory.join("clr-dkms.conf.d");
        match root.list_optional(&drop_ins) {
            Ok(entries) => files.extend(
                entries
                    .iter()
                    .filter(|e| e.text().is_some_and(|n| n.ends_with(".conf") && !n.starts_with('.')))
                    .map(|e| drop_ins.join(&e.name)),
            ),
            Err(e) => errors.push(e.into()),
        }
        for file in files {
            match root.read_optional(&file) {
                Ok(Some(bytes)) => {
                    read(&root.shown_path(&file), &bytes, root.is_slash(), &mut settings, &mut errors)
                }
                Ok(None) => {}
                Err(e) => errors.push(e.into()),
            }
        }
    }
    (settings, errors)
}

/// Reads one file into the settings. `is_own` is false for a root other than `/`: a root changes neither
/// which programs run on this machine nor their sandbox.
pub fn read(file: &Path, bytes: &[u8], is_own: bool, settings: &mut Settings, errors: &mut Vec<ConfigError>) {
    let text = String::from_utf8_lossy(bytes);
    if let Some((line, what)) = misfit(&text) {
        errors.push(ConfigError::Syntax { file: file.to_owned(), line, what });
        return;
    }
    let options = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    let parsed = match Ini::load_from_str_opt(&text, options) {
        Ok(parsed) => parsed,
        Err(e) => {
            errors.push(ConfigError::Syntax { file: file.to_owned(), line: e.line, what: e.msg.to_string() });
            return;
        }
    };
    for (section, properties) in &parsed {
        // In the order of the file, so the last occurrence of a key counts.
        for (key, value) in properties.iter() {
            let section = section.unwrap_or_default();
            if let Err(what) = set(settings, section, key, value.trim(), is_own) {
                let (section, key, what) = (section.to_owned(), key.to_owned(), what.to_string());
                errors.push(ConfigError::Entry { file: file.to_owned(), section, key, what });
            }
        }
    }
}

/// The first line that is neither empty, a comment, a section nor `key = value`. The parser would join it
/// with the next key.
fn misfit(text: &str) -> Option<(usize, String)> {
    text.lines().enumerate().find_map(|(at, line)| {
        let line = line.trim();
        let fits = line.is_empty()
            || line.starts_with(['#', ';'])
            || (line.starts_with('[') && line.ends_with(']'))
            || line.contains('=');
        (!fits).then(|| (at + 1, format!("{line:?} is neither [section] nor key = value")))
    })
}

fn set(s: &mut Settings, section: &str, key: &str, value: &str, is_own: bool) -> anyhow::Result<()> {
    match (section, key) {
        ("build", "timeout") => s.build_timeout = deadline(value)?,
        ("build", "jobs") => s.build_jobs = jobs(value)?,
        ("build", "trust") => {
            let trust = yes_or_no(value)?;
            if is_own {
                s.build_trust = trust;
            } else {
                tracing::debug!("[build] trust of an image is ignored");
            }
        }
        ("run", "lock-wait") => s.lock_wait = duration(value)?,
        ("cmdline", "sig-unenforce") => s.sig_unenforce = one_of(value)?,
        ("boot", "update") => s.boot_update = yes_or_no(value)?,
        ("boot", "timeout") => s.boot_timeout = deadline(value)?,
        ("boot", "initrd-command") => {
            s.initrd_command =
                shlex::split(value).with_context(|| format!("{value:?} has a quote that is not closed"))?;
        }
        ("boot", "policy") => s.boot_policy = one_of(value)?,
        ("boot", "trial") => s.boot_trial = yes_or_no(value)?,
        ("boot", "return") => s.boot_return = one_of(value)?,
        ("modules", "critical") => s.modules.critical = names(value)?,
        ("modules", "wanted") => s.modules.wanted = names(value)?,
        ("modules", "optional") => s.modules.optional = names(value)?,
        ("motd", "show") => s.motd_show = yes_or_no(value)?,
        ("report", "metrics") => {
            s.metrics = match value {
                "" => None,
                path if path.starts_with('/') => Some(PathBuf::from(path)),
                _ => bail!("{value:?} is not an absolute path"),
            };
        }
        ("report", "notify-timeout") => s.notify_timeout = deadline(value)?,
        ("tools", name) if TOOLS.contains(&name) => {
            let path = Path::new(value);
            ensure!(path.is_absolute(), "{value:?} is not an absolute path");
            if is_own {
                s.tools.insert(name.to_owned(), path.to_owned());
            } else {
                tracing::debug!("[tools] {name} of an image is ignored");
            }
        }
        ("build", _) => bail!("unknown key; known: timeout, jobs, trust"),
        ("run", _) => bail!("unknown key; known: lock-wait"),
        ("cmdline", _) => bail!("unknown key; known: sig-unenforce"),
        ("boot", _) => bail!("unknown key; known: policy, trial, return, update, timeout, initrd-command"),
        ("modules", _) => bail!("unknown key; known: critical, wanted, optional"),
        ("motd", _) => bail!("unknown key; known: show"),
        ("report", _) => bail!("unknown key; known: metrics, notify-timeout"),
        ("tools", _) => bail!("unknown program; known: {}", TOOLS.join(", ")),
        _ => bail!("unknown section; known: build, run, cmdline, boot, modules, motd, report, tools"),
    }
    Ok(())
}

fn jobs(value: &str) -> anyhow::Result<Jobs> {
    match (value, value.parse()) {
        ("auto", _) => Ok(Jobs::Auto),
        (_, Ok(number @ 1..=256)) => Ok(Jobs::Most(number)),
        _ => bail!("{value:?} is neither auto nor a number from 1 to 256"),
    }
}

/// Names of DKMS modules, separated by blanks or commas.
fn names(value: &str) -> anyhow::Result<BTreeSet<String>> {
    let names: Vec<&str> = value.split([' ', '\t', ',']).filter(|name| !name.is_empty()).collect();
    match names.iter().find(|name| !is_usable_name(name)) {
        Some(odd) if odd.contains('/') => bail!("{odd:?}: give the name alone, without a version"),
        Some(odd) => bail!("{odd:?} is not the name of a module"),
        None => Ok(names.into_iter().map(str::to_owned).collect()),
    }
}

/// The variant with this name.
fn one_of<T: FromStr + VariantNames>(value: &str) -> anyhow::Result<T> {
    value.parse().map_err(|_| anyhow!("{value:?} is not one of {}", T::VARIANTS.join(", ")))
}

fn yes_or_no(value: &str) -> anyhow::Result<bool> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => bail!("{value:?} is not one of yes, no"),
    }
}

fn deadline(value: &str) -> anyhow::Result<Duration> {
    match duration(value)? {
        Duration::ZERO => bail!("a time limit of zero is not accepted; the minimum is 1 s"),
        time => Ok(time),
    }
}

/// Reads a time span: a number with `s`, `min` or `h`; without a unit it is in seconds.
///
/// # Errors
///
/// If it is not a time span.
pub fn duration(value: &str) -> anyhow::Result<Duration> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = match value[digits.len()..].trim() {
        "" | "s" => Some(1),
        "min" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    // What is not a number is refused below.
    let seconds = digits.parse::<u64>().ok().zip(unit).and_then(|(n, unit)| n.checked_mul(unit));
    // Longer times are not useful, and the limit excludes overflows in calculations with times.
    seconds.filter(|s| *s <= 7 * 24 * 3600).map(Duration::from_secs).with_context(|| {
        format!("{value:?} is not a time span; accepted: a number with s, min or h, at most a week (90, 90 s, 2 h)")
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parsed(text: &str) -> (Settings, Vec<String>) {
        let (mut settings, mut errors) = (Settings::default(), Vec::new());
        read(Path::new("/etc/clr-dkms/clr-dkms.conf"), text.as_bytes(), true, &mut settings, &mut errors);
        (settings, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_shipped_file_says_the_defaults_and_documents_every_key() {
        let shipped = include_str!("../packaging/clr-dkms.conf");
        assert_eq!(parsed(shipped), (Settings::default(), Vec::new()));
        // The examples in comments are valid as well.
        let active: String = shipped
            .lines()
            .map(|l| match l.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && rest.contains(" =") => format!("{rest}\n"),
                _ => format!("{l}\n"),
            })
            .collect();
        let (settings, errors) = parsed(&active);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(settings.tools.keys().map(String::as_str).collect::<Vec<_>>(), TOOLS);
        let without_tools = Settings { tools: BTreeMap::new(), ..settings };
        assert_eq!(without_tools, Settings::default());
        for key in [
            "timeout",
            "jobs",
            "trust",
            "lock-wait",
            "sig-unenforce",
            "update",
            "policy",
            "critical",
            "wanted",
            "optional",
            "show",
            "metrics",
            "notify-timeout",
        ] {
            assert!(shipped.contains(&format!("#{key} =")), "{key}");
        }
    }

    #[test]
    fn processors_and_memory_are_shared() {
        let gigabytes = |n: u64| Some(n << 30);
        let table = [
            ((Jobs::Auto, 8, 2, gigabytes(16)), (2, Some(1))),
            ((Jobs::Auto, 1, 8, gigabytes(16)), (1, None)),
            ((Jobs::Auto, 8, 8, gigabytes(2)), (2, Some(4))),
            ((Jobs::Auto, 8, 4, Some(1)), (1, None)),
            ((Jobs::Auto, 8, 4, None), (4, Some(1))),
            ((Jobs::Most(1), 8, 4, gigabytes(16)), (1, None)),
            ((Jobs::Most(16), 8, 4, gigabytes(1)), (8, Some(1))),
            ((Jobs::Auto, 0, 4, None), (1, None)),
        ];
        for ((jobs, modules, processors, memory), (at_a_time, make_jobs)) in table {
            let share = jobs.share_of(modules, processors, memory);
            assert_eq!(share, Share { jobs: at_a_time, make_jobs }, "{jobs:?} {modules} {processors}");
        }
    }

    #[test]
    fn the_last_one_wins() {
        let (settings, errors) = parsed("[build]\ntimeout = 2 h\ntimeout = 90\n[motd]\nshow=no\n");
        assert_eq!((settings.build_timeout.as_secs(), settings.motd_show, errors.len()), (90, false, 0));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("[build]\ntimout = 3\n", "[build] timout: unknown key; known: timeout, jobs, trust"),
            ("[build]\ntrust = maybe\n", "\"maybe\" is not one of yes, no"),
            ("[build]\njobs = 0\n", "neither auto nor a number"),
            ("[build]\ntimeout = 3 # minutes\n", "is not a time span"),
            ("[boot]\npolicy = never\n", "\"never\" is not one of defer, hold, report"),
            ("[modules]\ncritical = zfs/2.2\n", "give the name alone"),
            ("[motd]\nshow = true\n", "\"true\" is not one of yes, no"),
            ("[cmdlin]\nx = 1\n", "unknown section"),
            ("show = no\n", "unknown section"),
            ("[motd]\nshow\n", ":2: \"show\" is neither"),
            ("[tools]\nmake = /usr/bin/make\n", "unknown program"),
            ("[tools]\ndkms = dkms\n", "not an absolute path"),
        ];
        for (text, expected) in table {
            let (settings, errors) = parsed(text);
            assert_eq!(settings, Settings::default(), "{text}");
            assert!(errors.len() == 1 && errors[0].contains(expected), "{text}: {errors:?}");
            assert!(errors[0].starts_with("/etc/clr-dkms/clr-dkms.conf"), "{errors:?}");
        }
    }

    #[test]
    fn garbage_is_reported_and_does_no_harm() {
        let (settings, errors) = parsed("\u{0}\u{1}\u{fffd}[[[\n=\n");
        assert_eq!((settings, errors.len()), (Settings::default(), 1));
    }
}
