//! Whether the units and hooks that start clr-dkms automatically are in place and not switched off.

use serde::Serialize;

use crate::sys::{FileKind, Root, Tools, systemd};

/// The directories of units, in descending priority.
const UNIT_DIRECTORIES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// What a unit or a hook is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
pub enum Duty {
    /// Modules are built after an update.
    #[strum(to_string = "automatic rebuild")]
    Rebuild,
    /// The boot default is kept on a kernel whose modules are proven.
    #[strum(to_string = "boot guard")]
    BootGuard,
    /// The message of the day is kept up to date.
    #[strum(to_string = "message of the day")]
    Message,
    /// The system is checked before an update.
    #[strum(to_string = "check before an update")]
    PreUpdate,
    /// Modules are built in an image after swupd has updated it.
    #[strum(to_string = "automatic rebuild in images")]
    Images,
}

/// A unit, what it is for, and the target that starts it.
struct Unit {
    name: &'static str,
    duty: Duty,
    target: Option<&'static str>,
    /// Without it nothing of its duty is done. Otherwise another unit does a part of it.
    is_essential: bool,
}

const fn unit(name: &'static str, duty: Duty, target: Option<&'static str>, is_essential: bool) -> Unit {
    Unit { name, duty, target, is_essential }
}

/// The unit that checks a new kernel in its first boot.
const TRIAL: &str = "clr-dkms-trial.service";

const UNITS: [Unit; 10] = [
    unit("clr-dkms.service", Duty::Rebuild, None, true),
    unit("clr-dkms.path", Duty::Rebuild, Some("multi-user.target"), false),
    unit("clr-dkms-trigger.service", Duty::Rebuild, Some("update-triggers.target"), false),
    unit("clr-dkms-watch.path", Duty::Rebuild, Some("multi-user.target"), false),
    unit("clr-dkms-watch.service", Duty::Rebuild, None, false),
    unit("clr-dkms-boot.service", Duty::BootGuard, Some("sysinit.target"), false),
    unit("clr-dkms-hold.service", Duty::BootGuard, Some("multi-user.target"), true),
    unit(TRIAL, Duty::BootGuard, Some("multi-user.target"), false),
    unit("clr-dkms-motd.service", Duty::Message, None, true),
    unit("clr-dkms-motd.timer", Duty::Message, Some("multi-user.target"), false),
];

/// The hooks of swupd: below `/usr` or `/usr/local`.
const HOOKS: [(&str, Duty); 2] =
    [("bin/clr_pre_update.sh", Duty::PreUpdate), ("libexec/updater/50-clr-dkms-hook.sh", Duty::Images)];

/// What is wrong with a unit or a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Defect {
    /// An admin has masked the unit.
    Masked,
    /// The file does not exist.
    Missing,
    /// No target starts the unit.
    NotEnabled,
    /// systemd has given up on the unit.
    Failed,
}

/// One unit or hook that does not do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AutomationFault {
    pub duty: Duty,
    /// The name of the unit, or the path of the hook.
    pub what: String,
    pub defect: Defect,
    /// The whole duty is not done because of it.
    pub is_off: bool,
}

impl std::fmt::Display for AutomationFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let extent = if self.is_off { "off" } else { "limited" };
        let what = match self.defect {
            Defect::Masked => "is masked",
            Defect::Missing => "is missing",
            Defect::NotEnabled => "is not enabled",
            Defect::Failed => "has failed",
        };
        write!(f, "{}: {extent}, {} {what}", self.duty, self.what)
    }
}

/// What is wrong with the automation of a system. Empty if all is in place.
///
/// None if neither a unit nor a hook is installed: then the programs are run by hand.
pub fn observe(root: &Root, tools: &Tools) -> Option<Vec<AutomationFault>> {
    let hook = |path: &str| {
        // A file that cannot be looked at is in `Root::unread`.
        ["/usr", "/usr/local"].iter().any(|prefix| root.lookup(format!("{prefix}/{path}")).is_there())
    };
    let is_installed = UNITS.iter().any(|unit| file_of(root, unit.name).is_some())
        || HOOKS.iter().any(|(path, _)| hook(path));
    if !is_installed {
        return None;
    }
    let mut faults = Vec::new();
    for unit in &UNITS {
        let defect = if is_masked(root, unit.name) {
            Some(Defect::Masked)
        } else if file_of(root, unit.name).is_none() {
            Some(Defect::Missing)
        } else if unit.target.is_some_and(|target| !is_wanted_by(root, unit.name, target)) {
            Some(Defect::NotEnabled)
        } else {
            None
        };
        faults.extend(defect.map(|defect| unit.fault(defect)));
    }
    for (path, duty) in HOOKS.into_iter().filter(|(path, _)| !hook(path)) {
        let what = format!("/usr/{path}");
        faults.push(AutomationFault { duty, what, defect: Defect::Missing, is_off: true });
    }
    // Without systemd no unit can have failed.
    if root.is_live() && !root.lookup(UNIT_DIRECTORIES[1]).is_absent() {
        let failed = failed_units(tools).unwrap_or_else(|e| {
            tracing::warn!("whether a unit of clr-dkms has failed is unknown: {e:#}");
            Vec::new()
        });
        let is_reported = |name: &str| faults.iter().any(|fault| fault.what == name);
        let failed: Vec<AutomationFault> = UNITS
            .iter()
            .filter(|unit| failed.iter().any(|name| name == unit.name) && !is_reported(unit.name))
            .map(|unit| unit.fault(Defect::Failed))
            .collect();
        faults.extend(failed);
    }
    Some(faults)
}

/// Whether a new kernel is checked in its first boot.
pub fn checks_new_kernels(root: &Root) -> bool {
    let is_there = file_of(root, TRIAL).is_some() && !is_masked(root, TRIAL);
    is_there && is_wanted_by(root, TRIAL, "multi-user.target")
}

impl Unit {
    fn fault(&self, defect: Defect) -> AutomationFault {
        AutomationFault { duty: self.duty, what: self.name.to_owned(), defect, is_off: self.is_essential }
    }
}

/// The directory with the file of a unit.
fn file_of(root: &Root, unit: &str) -> Option<&'static str> {
    UNIT_DIRECTORIES
        .into_iter()
        .find(|directory| root.lookup(format!("{directory}/{unit}")).is(FileKind::File))
}

fn leads_to_null(root: &Root, path: &str) -> bool {
    root.lookup_link(path).is(FileKind::Link)
        // A link that cannot be read is in `Root::unread`.
        && root.read_link(path).is_ok_and(|to| to.as_os_str() == "/dev/null")
}

/// A unit is masked by a link to `/dev/null` or an empty file in a directory of higher priority.
fn is_masked(root: &Root, unit: &str) -> bool {
    for directory in UNIT_DIRECTORIES {
        let path = format!("{directory}/{unit}");
        if leads_to_null(root, &path) {
            return true;
        }
        if let Some(stat) = root.lookup(&path).stat() {
            return stat.kind == FileKind::File && stat.size == 0;
        }
    }
    false
}

/// The link with the highest priority decides. One that leads to `/dev/null` disables the unit.
fn is_wanted_by(root: &Root, unit: &str, target: &str) -> bool {
    let links = UNIT_DIRECTORIES.map(|directory| format!("{directory}/{target}.wants/{unit}"));
    let first = links.iter().find(|path| root.lookup_link(path.as_str()).is_there());
    first.is_some_and(|path| !leads_to_null(root, path))
}

/// Units that systemd does not start again. A run that ended with an error is started again by the next
/// update.
///
/// # Errors
/// When systemctl cannot be started, or does not succeed.
fn failed_units(tools: &Tools) -> anyhow::Result<Vec<String>> {
    let words = ["show", "--property=Id,ActiveState,Result"].into_iter();
    let words: Vec<&str> = words.chain(UNITS.iter().map(|unit| unit.name)).collect();
    Ok(failed_in(&systemd::ask(tools, "systemctl", &words)?))
}

/// The failed units in the output of `systemctl show`, which has one block of `KEY=VALUE` lines for each
/// unit.
fn failed_in(text: &str) -> Vec<String> {
    let value = |block: &str, key: &str| {
        block.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    let is_failed = |block: &&str| {
        value(block, "ActiveState").as_deref() == Some("failed")
            && value(block, "Result").as_deref() != Some("exit-code")
    };
    text.split("\n\n").filter(is_failed).filter_map(|block| value(block, "Id")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemctl_does_not_answer_is_unknown() {
        let mut tools = Tools::from_environment();
        tools.name("systemctl", std::path::Path::new("/bin/false"));
        assert!(failed_units(&tools).is_err());
    }

    #[test]
    fn a_run_that_ended_with_an_error_is_not_a_failed_unit() {
        let text = "Id=clr-dkms.service\nActiveState=failed\nResult=exit-code\n\n\
                    Id=clr-dkms.path\nActiveState=failed\nResult=unit-start-limit-hit\n\n\
                    Id=clr-dkms-watch.path\nActiveState=active\nResult=success\n";
        assert_eq!(failed_in(text), ["clr-dkms.path"]);
    }
}
