//! Whether a proven module will be loaded at the next boot of a kernel, as far as `modprobe.d` and the
//! command line decide.

use std::borrow::Cow;

use strum::EnumDiscriminants;

use super::satisfaction::CommandLine;
use crate::dkms::ModuleOnKernel;
use crate::kernel::module_file::kernel_name;
use crate::modprobe::{LineWords, LoadBlocker, LoadRule, load_rule};
use crate::requirement::{Importance, Requirement};
use crate::state::RunRecord;
use crate::system::System;

/// The variants are in ascending order: the worst forecast for a file is the one for its module.
#[derive(Debug, Clone, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(name(LoadRank), derive(PartialOrd, Ord))]
pub enum LoadForecast {
    Loads,
    /// Something prevents one way of loading it. As far as is known nothing is lost by this.
    Remark(Obstruction),
    /// It is unknown. The text is a sentence for people.
    Unknown(String),
    /// It is not loaded.
    Blocked(Obstruction),
}

/// What prevents a module file from being loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstruction {
    /// The name of the module.
    pub file: String,
    pub blocker: LoadBlocker,
    /// Some ways to load it still work.
    pub partly: bool,
}

/// The forecast for a DKMS module on a kernel. `record` is that of the last run: a module that was critical
/// is required even if it is not loaded now.
pub fn load_forecast(
    system: &System,
    pair: &ModuleOnKernel,
    record: Option<&RunRecord>,
    source: CommandLine,
) -> LoadForecast {
    // Without a dkms.conf nothing is proven, and only a proven module is asked about.
    let Ok(conf) = &pair.conf else { return LoadForecast::Loads };
    let words = words_of(system, &pair.release, source);
    let files: Vec<String> = conf.built.iter().map(|built| kernel_name(&built.name)).collect();
    let is_loaded = |file: &String| system.in_use.loaded.contains(file);
    let required = is_required(&pair.module.name, record);
    // Of a module with several files, an admin may have disabled the unused ones on purpose.
    let any_loaded = files.iter().any(is_loaded);
    let mut forecast = LoadForecast::Loads;
    for file in &files {
        let needs = pair.beneath.get(file).map(Vec::as_slice).unwrap_or_default();
        let rule = load_rule(&system.load_policy.config, &words, file, needs);
        let uses = Uses { loaded: is_loaded(file), required: required && !any_loaded, any_loaded };
        let found = of_file(system, &pair.release, file, rule, &uses);
        if LoadRank::from(&found) > LoadRank::from(&forecast) {
            forecast = found;
        }
    }
    forecast
}

pub(super) fn is_required(module: &str, record: Option<&RunRecord>) -> bool {
    let critical = |need: &&Requirement| need.class == Importance::Critical;
    record.is_some_and(|record| record.needs.iter().filter(critical).any(|need| need.module == module))
}

struct Uses {
    /// The running kernel has loaded this file.
    loaded: bool,
    /// The module is critical and not loaded now.
    required: bool,
    /// The running kernel has loaded at least one file of the module.
    any_loaded: bool,
}

/// The forecast for one kernel module by its name, whether or not DKMS manages it.
pub fn file_forecast(
    system: &System,
    release: &str,
    file: &str,
    critical: bool,
    source: CommandLine,
) -> LoadForecast {
    let words = words_of(system, release, source);
    let beneath = system.of_kernel(release).find_map(|pair| pair.beneath.get(file));
    let rule = load_rule(&system.load_policy.config, &words, file, beneath.map_or(&[][..], Vec::as_slice));
    let loaded = system.in_use.loaded.contains(file);
    of_file(system, release, file, rule, &Uses { loaded, required: critical && !loaded, any_loaded: loaded })
}

fn of_file(system: &System, release: &str, file: &str, rule: LoadRule, uses: &Uses) -> LoadForecast {
    let obstruction = |blocker, partly| Obstruction { file: file.to_owned(), blocker, partly };
    match rule {
        LoadRule::Loads => LoadForecast::Loads,
        LoadRule::Unknown(reason) if uses.loaded || uses.required => LoadForecast::Unknown(reason),
        LoadRule::Unknown(_) => LoadForecast::Loads,
        // If other files of the module are loaded, this one is not needed.
        LoadRule::Never(blocker) if uses.any_loaded && !uses.loaded => {
            LoadForecast::Remark(obstruction(blocker, false))
        }
        LoadRule::Never(blocker) => LoadForecast::Blocked(obstruction(blocker, false)),
        LoadRule::Command(blocker) | LoadRule::OnlyByAlias(blocker) | LoadRule::OnlyByName(blocker)
            if !uses.loaded && !uses.required =>
        {
            LoadForecast::Remark(obstruction(blocker, true))
        }
        LoadRule::Command(blocker) => match holds_now(system, &blocker).filter(|_| uses.loaded) {
            Some(true) => LoadForecast::Loads,
            _ => LoadForecast::Unknown(format!(
                "{}: whether that loads it is not known",
                reason(system, release, &obstruction(blocker, true))
            )),
        },
        LoadRule::OnlyByName(_) if is_brought_by_another(system, release, file) => LoadForecast::Loads,
        LoadRule::OnlyByAlias(blocker) | LoadRule::OnlyByName(blocker) => {
            match (uses.loaded, holds_now(system, &blocker)) {
                // It was loaded despite the same setting.
                (true, Some(true)) => LoadForecast::Loads,
                (true, None) => LoadForecast::Unknown(format!(
                    "{}: whether that was so at the last boot is not known",
                    reason(system, release, &obstruction(blocker, true))
                )),
                (true, Some(false)) | (false, _) => LoadForecast::Blocked(obstruction(blocker, true)),
            }
        }
    }
}

/// Whether a setting was already in effect when the running kernel booted. None if that is unknown.
fn holds_now(system: &System, blocker: &LoadBlocker) -> Option<bool> {
    match blocker {
        LoadBlocker::Dependency(_, blocker) => holds_now(system, blocker),
        LoadBlocker::Blacklist(at) | LoadBlocker::Install(at, _) | LoadBlocker::Alias(at, _) => {
            system.load_policy.since_boot(at)
        }
        LoadBlocker::LineBlacklist(name) => {
            let line = system.machine.line.as_deref()?;
            Some(LineWords::read(line).blacklisted.contains(name))
        }
        LoadBlocker::LineRefuses(name) => {
            let line = system.machine.line.as_deref()?;
            Some(LineWords::read(line).refused.contains(name))
        }
    }
}

/// Another loaded module depends on it, and modprobe loads it together with that module.
fn is_brought_by_another(system: &System, release: &str, file: &str) -> bool {
    let others = system.of_kernel(release);
    let mut users = others.flat_map(|other| &other.beneath);
    let softly = |user: &str| system.load_policy.config.soft_dependencies(user).any(|other| other == file);
    users.any(|(user, beneath)| {
        user != file
            && system.in_use.loaded.contains(user)
            && (softly(user) || beneath.iter().any(|need| kernel_name(need) == file))
    })
}

/// The parameters of the next command line of a kernel that prevent modules from being loaded.
fn words_of<'s>(system: &'s System, release: &str, source: CommandLine) -> Cow<'s, LineWords> {
    let kernel = system.inventory.of_release(release);
    let entry = kernel.and_then(|k| system.boot.of(&k.id)).filter(|_| source == CommandLine::Coming);
    let configured = || {
        Cow::Owned(
            system.cmdline_of(release).map(|line| LineWords::read(&line.effective)).unwrap_or_default(),
        )
    };
    entry.map_or_else(configured, |entry| Cow::Borrowed(&entry.words))
}

/// What prevents the module from being loaded, as a sentence without a full stop.
pub fn reason(system: &System, release: &str, obstruction: &Obstruction) -> String {
    let Obstruction { file, blocker, partly } = obstruction;
    let (module, blocker, before) = match blocker {
        LoadBlocker::Dependency(module, blocker) => {
            (module, blocker.as_ref(), format!("{file} needs {module}, and "))
        }
        own => (file, own, String::new()),
    };
    let line =
        |at: &crate::modprobe::config::ConfigLine| format!("{}:{}", system.shown_path(&at.path), at.line);
    let left = match (blocker, partly) {
        (LoadBlocker::Install(..), true) => "runs in place of loading it".to_owned(),
        (LoadBlocker::Alias(_, to), true) => format!("makes `modprobe {module}` load {to}"),
        (_, true) => format!("keeps {module} from being loaded, except by `modprobe {module}`"),
        (_, false) => format!("keeps {module} from being loaded"),
    };
    let what = match blocker {
        LoadBlocker::Blacklist(at) => format!("`blacklist {module}` in {}", line(at)),
        LoadBlocker::Install(at, command) => {
            format!("`install {module} {}` in {}", command.trim(), line(at))
        }
        LoadBlocker::Alias(at, to) => format!("`alias {module} {to}` in {}", line(at)),
        LoadBlocker::LineBlacklist(_) => {
            format!("modprobe.blacklist={module} on the command line of kernel {release}")
        }
        LoadBlocker::LineRefuses(_) => {
            format!("module_blacklist={module} on the command line of kernel {release}")
        }
        // Dependencies are not nested.
        LoadBlocker::Dependency(of, _) => format!("what {of} needs"),
    };
    format!("{before}{what} {left}")
}
