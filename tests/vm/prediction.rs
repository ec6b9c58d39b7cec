//! What clr-dkms predicts of the next boot, and whether it agrees with what then happened.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::carried::{Carried, carried};
use crate::facts::Facts;
use crate::machine::{Machine, Outcome};

/// What `status`, `guard`, `enforcement` and `check` predict.
#[derive(Debug)]
pub(crate) struct Prediction {
    /// The kernel that boots next; none where it is unknown.
    pub(crate) next: Option<String>,
    pub(crate) verdict: String,
    pub(crate) check: i32,
    pub(crate) may_reboot: bool,
    /// The words of the next boot's kernel command line.
    cmdline: Option<Vec<String>>,
    /// By file of a module: what becomes of it on the next kernel.
    modules: BTreeMap<String, Fate>,
    /// What is critical, as built modules.
    critical: Vec<String>,
    /// What critical modules carry.
    carried: Vec<Carried>,
    /// How the next kernel is known.
    source: Option<String>,
    /// The kernel that should be the default.
    default: Option<String>,
}

/// What becomes of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    Loads,
    Taints,
    /// With this error, where one is named.
    Refused(Option<String>),
    NotThere,
    Unknown,
}

impl Prediction {
    /// Asks the programs. `by` is put before each command.
    pub(crate) fn of(machine: &mut Machine, by: &str) -> Outcome<Prediction> {
        let status = json(machine, &format!("{by}clr-dkms status --json"))?;
        let guard = json(machine, &format!("{by}clr-dkms guard --json"))?;
        let enforcement = json(machine, &format!("{by}clr-dkms enforcement --json"))?;
        let check = machine.run(&format!("{by}clr-dkms check"))?.code;
        let next = guard["boots_next"].as_str().map(str::to_owned);
        let of_next = |list: &Value, key: &str| -> Vec<Value> {
            let all = list.as_array().cloned().unwrap_or_default();
            all.into_iter().filter(|value| value[key].as_str() == next.as_deref()).collect()
        };
        let kernel = of_next(&enforcement["kernels"], "release").into_iter().next().unwrap_or_default();
        let mut modules = BTreeMap::new();
        for module in of_next(&status["modules"], "kernel") {
            let state = module["state"].as_str().unwrap_or_default();
            // `enforcement` says with which error a signature is refused.
            let ready = ["ok", "signature-refused"].contains(&state);
            for file in module["files"].as_array().into_iter().flatten() {
                let Some(name) = stem(file["path"].as_str()) else { continue };
                let all = kernel["modules"].as_array().into_iter().flatten();
                let judged = all.clone().find(|m| stem(m["path"].as_str()).as_ref() == Some(&name));
                modules.insert(name, fate(ready, judged, &kernel));
            }
            if !ready {
                for name in built_modules(module["name"].as_str().unwrap_or_default()) {
                    modules.entry(name).or_insert(Fate::NotThere);
                }
            }
        }
        let words = kernel["next_boot"]["cmdline"].as_str().map(words);
        let needs = guard["needs"].as_array().cloned().unwrap_or_default();
        let critical = needs.iter().filter(|need| need["class"] == "critical");
        let critical = critical.filter_map(|need| need["module"].as_str().map(str::to_owned)).collect();
        Ok(Prediction {
            carried: carried(&guard, &modules),
            source: guard["boots_next_source"].as_str().map(str::to_owned),
            default: guard["default"].as_str().map(str::to_owned),
            verdict: status["verdict"].as_str().unwrap_or("none").to_owned(),
            may_reboot: status["may_reboot"] == true,
            cmdline: words,
            next,
            check,
            modules,
            critical,
        })
    }

    /// For the table.
    pub(crate) fn text(&self) -> String {
        let next = self.next.as_deref().map_or("unknown kernel", short);
        let mut text = format!("boots {next}; {} (check {})", self.verdict, self.check);
        let of = |fates: &[&Fate]| -> Vec<&str> {
            self.modules
                .iter()
                .filter(|(_, fate)| fates.contains(fate))
                .map(|(name, _)| name.as_str())
                .collect()
        };
        for (what, names) in [
            ("loads", of(&[&Fate::Loads])),
            ("loads with taint E", of(&[&Fate::Taints])),
            ("is not there", of(&[&Fate::NotThere])),
            ("unknown", of(&[&Fate::Unknown])),
        ] {
            if !names.is_empty() {
                text += &format!("; {what}: {}", names.join(", "));
            }
        }
        for (name, fate) in &self.modules {
            if let Fate::Refused(error) = fate {
                text += &format!("; {name}: {}", error.as_deref().unwrap_or("refused"));
            }
        }
        for (what, there) in [("carried", Some(true)), ("not carried", Some(false))] {
            let all = self.carried.iter().filter(|one| one.there == there);
            let names: Vec<String> = all.map(|one| one.what.to_string()).collect();
            if !names.is_empty() {
                text += &format!("; {what}: {}", names.join(", "));
            }
        }
        match self.source.as_deref() {
            Some("entry") => text += "; by loader.conf",
            Some("efi-variable") => text += "; by an EFI variable",
            _ => {}
        }
        text
    }

    /// The built modules that it is about.
    pub(crate) fn modules(&self) -> impl Iterator<Item = &String> {
        self.modules.keys()
    }

    /// What differs from what happened. `before` is of the moment of the prediction.
    pub(crate) fn compare(&self, before: &Facts, facts: &Facts) -> Vec<String> {
        let mut differences = self.compare_boot_files(before, facts);
        differences.extend(self.carried.iter().filter_map(|one| one.compare(facts)));
        let mut differs = |what: String| differences.push(what);
        if let Some(next) = &self.next
            && *next != facts.release()
        {
            differs(format!("{} was to boot, and {} did", short(next), short(&facts.release())));
        }
        if let Some(words) = &self.cmdline {
            let there = facts.words("cmdline");
            if self.next.as_deref() == Some(&facts.release()) && *words != there {
                differs(format!("the command line was to be {words:?} and is {there:?}"));
            }
        }
        for (name, fate) in &self.modules {
            let (loaded, error) = (facts.letters(name), facts.error(name));
            let as_predicted = match fate {
                Fate::Unknown => true,
                Fate::Loads => loaded.as_ref().is_some_and(|letters| !letters.contains('E')),
                Fate::Taints => loaded.as_ref().is_some_and(|letters| letters.contains('E')),
                Fate::NotThere => loaded.is_none(),
                Fate::Refused(None) => loaded.is_none() && error.is_some(),
                Fate::Refused(wanted) => loaded.is_none() && error == *wanted,
            };
            if !as_predicted {
                differs(format!("{name}: predicted {fate:?}; loaded {loaded:?}, error {error:?}"));
            }
        }
        let works = |name: &str| facts.letters(name).is_some();
        // A reboot that was called safe must not lose what is critical.
        if self.may_reboot && self.check <= 1 {
            for name in self.critical.iter().filter(|name| !works(name)) {
                differs(format!("the reboot was called safe, and {name}, which is critical, is not loaded"));
            }
        }
        if self.check == 2 && self.critical.iter().all(|name| works(name)) {
            differs("the reboot was called unsafe, and nothing critical is missing".into());
        }
        differences
    }

    /// Whether what is said to choose the next kernel did: `loader.conf`, or a variable that overrides it.
    fn compare_boot_files(&self, before: &Facts, after: &Facts) -> Vec<String> {
        let mut differences = Vec::new();
        let once = before.variable_release("LoaderEntryOneShot");
        let always = before.variable_release("LoaderEntryDefault");
        let overrides = once.as_ref().or(always.as_ref());
        match self.source.as_deref() {
            Some("entry") if overrides.is_some() || before.default() != self.next => {
                differences.push(format!(
                    "loader.conf was to choose {:?}, and it names {:?}; EFI variables name {overrides:?}",
                    self.next,
                    before.default(),
                ))
            }
            Some("efi-variable") if overrides != self.next.as_ref() => differences.push(format!(
                "an EFI variable was to choose {:?}, and EFI variables name {overrides:?}",
                self.next
            )),
            _ => {}
        }
        // The boot loader removes the first before it starts the kernel, and leaves the second.
        if self.source.as_deref() == Some("efi-variable") {
            let found = after.variable_release("LoaderEntryOneShot");
            // Another trial may have been prepared since.
            if found.is_some() && found == once {
                differences.push(format!("LoaderEntryOneShot is still {found:?} after the boot"));
            }
            let found = after.variable_release("LoaderEntryDefault");
            if found != always {
                differences
                    .push(format!("LoaderEntryDefault was to be {always:?} after the boot and is {found:?}"));
            }
        }
        // While the boot files cannot be written, or an admin has chosen another kernel, the default that is
        // decided on is a wish: another kernel boots next, as predicted.
        let is_carried_out = self.source.is_some() && self.default == self.next;
        if let Some(default) = &self.default
            && is_carried_out
            && after.default().as_ref() != Some(default)
        {
            let found = after.default();
            differences.push(format!("the default was to be {default}, and loader.conf names {found:?}"));
        }
        differences
    }
}

fn json(machine: &mut Machine, command: &str) -> Outcome<Value> {
    // The exit code of a report is its verdict.
    let answer = machine.run(&format!("{command} 2>/run/vm-errors"))?;
    serde_json::from_str(&answer.text).map_err(|e| format!("{command}: {e}: {}", answer.text))
}

fn fate(ready: bool, judged: Option<&Value>, kernel: &Value) -> Fate {
    if !ready {
        return Fate::NotThere;
    }
    let Some(judged) = judged else { return Fate::Unknown };
    match judged["next_boot"].as_str() {
        Some("loads") => Fate::Loads,
        Some("taints") => Fate::Taints,
        Some("refused") => {
            let kind = if judged["signature"]["kind"] == "unsigned" { "unsigned" } else { "unknown_key" };
            Fate::Refused(kernel["next_boot"]["error"][kind].as_str().map(str::to_owned))
        }
        _ => Fate::Unknown,
    }
}

/// The built modules of a package of the machines.
fn built_modules(package: &str) -> Vec<String> {
    match package {
        "e100" => vec!["e100".into(), "mii".into()],
        other => vec![other.into()],
    }
}

fn stem(path: Option<&str>) -> Option<String> {
    let name = path?.rsplit('/').next()?;
    Some(name.split('.').next()?.replace('-', "_"))
}

/// Without what the boot loader adds.
pub(crate) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().filter(|word| !word.starts_with("initrd=")).map(str::to_owned).collect()
}

/// A release without what all have in common.
pub(crate) fn short(release: &str) -> &str {
    release.strip_prefix("6.1.192-").and_then(|r| r.strip_suffix(".native")).unwrap_or(release)
}
