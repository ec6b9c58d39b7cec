//! What is true of a machine.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::machine::{Machine, Outcome};
use crate::prediction::{short, words};

/// The built modules that the machines have from the beginning.
pub(crate) const MODULES: [&str; 4] = ["hello", "e100", "mii", "cramfs"];

/// What is true of a machine, without any help of clr-dkms.
#[derive(Debug)]
pub(crate) struct Facts(Value);

impl Facts {
    /// Asks the kernel. Of `modules`, those that were not loaded by themselves are loaded now, as a user
    /// would load them.
    pub(crate) fn of(machine: &mut Machine, modules: &BTreeSet<String>) -> Outcome<Facts> {
        let names: Vec<&str> = modules.iter().map(String::as_str).collect();
        let answer = machine.run(&format!("MODULES='{}' vm-probe", names.join(" ")))?;
        let facts = serde_json::from_str(&answer.text);
        facts.map(Facts).map_err(|e| format!("vm-probe: {e}: {}", answer.text))
    }

    pub(crate) fn release(&self) -> String {
        self.0["release"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn words(&self, key: &str) -> Vec<String> {
        words(self.0[key].as_str().unwrap_or_default())
    }

    /// The taint letters of a module that is loaded.
    pub(crate) fn letters(&self, module: &str) -> Option<String> {
        self.0["after"][module].as_str().map(str::to_owned)
    }

    /// Whether it was loaded without being asked for.
    pub(crate) fn loaded_by_itself(&self, module: &str) -> bool {
        self.0["loaded"][module].is_string()
    }

    /// The error of modprobe.
    pub(crate) fn error(&self, module: &str) -> Option<String> {
        self.0["errors"][module].as_str().map(str::to_owned)
    }

    /// Whether a filesystem is mounted there.
    pub(crate) fn is_mounted(&self, point: &str) -> bool {
        self.lists("mounts", point)
    }

    /// Whether a default route leaves by an interface.
    pub(crate) fn has_route(&self, interface: &str) -> bool {
        self.lists("routes", interface)
    }

    fn lists(&self, key: &str, value: &str) -> bool {
        self.0[key].as_array().into_iter().flatten().any(|one| one == value)
    }

    pub(crate) fn data(&self) -> bool {
        self.is_mounted("/srv/data")
    }

    pub(crate) fn route(&self) -> bool {
        self.0["routes"].as_array().is_some_and(|all| !all.is_empty())
    }

    pub(crate) fn secure_boot(&self) -> bool {
        self.0["secure_boot"] == true
    }

    pub(crate) fn boot_mounted(&self) -> bool {
        self.0["boot_mounted"] == true
    }

    pub(crate) fn failed_units(&self) -> String {
        self.0["failed"].to_string()
    }

    pub(crate) fn tainted(&self) -> i64 {
        self.0["tainted"].as_i64().unwrap_or(-1)
    }

    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        self.0["variables"][name].as_str().map(str::to_owned)
    }

    /// The release of the entry that such a variable names.
    pub(crate) fn variable_release(&self, name: &str) -> Option<String> {
        self.variable(name).as_deref().and_then(release_of)
    }

    /// The release that `loader.conf` makes the default.
    pub(crate) fn default(&self) -> Option<String> {
        release_of(self.0["boot_partition"]["default"].as_str()?)
    }

    /// Whether clr-boot-manager has a mark that a kernel was booted.
    pub(crate) fn is_marked(&self, release: &str) -> bool {
        self.lists("booted", release)
    }

    /// The sizes of the entries.
    pub(crate) fn entries(&self) -> BTreeMap<String, i64> {
        let all = self.0["boot_partition"]["entries"].as_object().cloned().unwrap_or_default();
        all.into_iter().map(|(name, size)| (name, size.as_i64().unwrap_or(-1))).collect()
    }

    /// The built modules that are loaded and do not come with the kernel, each with its taint letters.
    fn loaded(&self) -> Vec<(&str, &str)> {
        let all = self.0["after"].as_object().into_iter().flatten();
        let all = all.filter_map(|(name, letters)| Some((name.as_str(), letters.as_str()?)));
        all.filter(|(_, letters)| letters.contains('O')).collect()
    }

    /// For the table.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("booted {}", short(&self.release()));
        let (with, without): (Vec<_>, Vec<_>) =
            self.loaded().into_iter().partition(|(_, letters)| letters.contains('E'));
        for (what, modules) in [("loaded", without), ("loaded with taint E", with)] {
            if !modules.is_empty() {
                let names: Vec<&str> = modules.into_iter().map(|(name, _)| name).collect();
                text += &format!("; {what}: {}", names.join(", "));
            }
        }
        for (name, error) in self.0["errors"].as_object().into_iter().flatten() {
            if let Some(error) = error.as_str() {
                text += &format!("; {name}: {error}");
            }
        }
        let carried = |there: bool, what: &str| if there { what.to_owned() } else { format!("no {what}") };
        text +=
            &format!("; {}, {}", carried(self.data(), "/srv/data"), carried(self.route(), "default route"));
        if let Some(default) = self.default() {
            text += &format!("; loader.conf: {}", short(&default));
        }
        for name in ["LoaderEntryOneShot", "LoaderEntryDefault"] {
            if let Some(release) = self.variable_release(name) {
                text += &format!("; {name}: {}", short(&release));
            }
        }
        text
    }
}

/// The release of the kernel of an entry.
fn release_of(entry: &str) -> Option<String> {
    let name = entry.strip_prefix("Clear-linux-native-")?.strip_suffix(".conf")?;
    Some(format!("{name}.native"))
}
