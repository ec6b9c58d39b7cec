//! What clr-dkms predicts of the next boot, what then happened, and whether the two agree.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::machine::{Machine, Outcome};

/// The files of DKMS modules that the machines have.
pub(crate) const MODULES: [&str; 4] = ["hello", "e100", "mii", "cramfs"];

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
}

/// What becomes of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
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
            let ready = module["state"] == "ok";
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
        let refused = |fate: &Fate| matches!(fate, Fate::Refused(_));
        let no: Vec<&str> =
            self.modules.iter().filter(|(_, f)| refused(f)).map(|(n, _)| n.as_str()).collect();
        for (what, names) in [
            ("loads", of(&[&Fate::Loads])),
            ("loads with taint E", of(&[&Fate::Taints])),
            ("is refused", no),
            ("is not there", of(&[&Fate::NotThere])),
        ] {
            if !names.is_empty() {
                text += &format!("; {what}: {}", names.join(", "));
            }
        }
        text
    }

    /// What differs from what happened.
    pub(crate) fn compare(&self, facts: &Facts) -> Vec<String> {
        let mut differences = Vec::new();
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
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().filter(|word| !word.starts_with("initrd=")).map(str::to_owned).collect()
}

/// A release without what all have in common.
pub(crate) fn short(release: &str) -> &str {
    release.strip_prefix("6.1.192-").and_then(|r| r.strip_suffix(".native")).unwrap_or(release)
}

/// What is true of a machine, without any help of clr-dkms.
#[derive(Debug)]
pub(crate) struct Facts(Value);

impl Facts {
    /// Asks the kernel. Modules that were not loaded by themselves are loaded now, as a user would.
    pub(crate) fn of(machine: &mut Machine) -> Outcome<Facts> {
        let answer = machine.run(&format!("MODULES='{}' vm-probe", MODULES.join(" ")))?;
        let facts = serde_json::from_str(&answer.text);
        facts.map(Facts).map_err(|e| format!("vm-probe: {e}: {}", answer.text))
    }

    pub(crate) fn release(&self) -> String {
        self.0["release"].as_str().unwrap_or_default().to_owned()
    }

    fn words(&self, key: &str) -> Vec<String> {
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

    pub(crate) fn data(&self) -> bool {
        self.0["data"] == true
    }

    pub(crate) fn route(&self) -> bool {
        self.0["route"] == true
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

    /// The release that `loader.conf` makes the default.
    pub(crate) fn default(&self) -> Option<String> {
        let entry = self.0["boot_partition"]["default"].as_str()?;
        let name = entry.strip_prefix("Clear-linux-native-")?.strip_suffix(".conf")?;
        Some(format!("{name}.native"))
    }

    /// The sizes of the entries.
    pub(crate) fn entries(&self) -> BTreeMap<String, i64> {
        let all = self.0["boot_partition"]["entries"].as_object().cloned().unwrap_or_default();
        all.into_iter().map(|(name, size)| (name, size.as_i64().unwrap_or(-1))).collect()
    }

    /// For the table.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("booted {}", short(&self.release()));
        let tainting = |name: &&str| self.letters(name).is_some_and(|letters| letters.contains('E'));
        let loaded: Vec<&str> = MODULES.into_iter().filter(|name| self.letters(name).is_some()).collect();
        let (with, without): (Vec<&str>, Vec<&str>) = loaded.into_iter().partition(tainting);
        for (what, names) in [("loaded", without), ("loaded with taint E", with)] {
            if !names.is_empty() {
                text += &format!("; {what}: {}", names.join(", "));
            }
        }
        for name in MODULES {
            if let Some(error) = self.error(name) {
                text += &format!("; {name}: {error}");
            }
        }
        let carried = |there: bool, what: &str| if there { what.to_owned() } else { format!("no {what}") };
        text + &format!("; {}, {}", carried(self.route(), "default route"), carried(self.data(), "/srv/data"))
    }
}
