//! Scenes: what is done to a machine, as values, and how they are played.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::Value;

use crate::facts::{Facts, MODULES};
use crate::machine::{Machine, Outcome};
use crate::prediction::{Prediction, short};

/// The kernel that runs at first.
pub(crate) const A: &str = "6.1.192-1591.native";
/// The one that an update brings.
pub(crate) const B: &str = "6.1.192-1592.native";
/// Another one, which says of itself that it takes keys that are enrolled.
pub(crate) const C: &str = "6.1.192-1593.native";

/// Where a scene begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// A booted machine without clr-dkms.
    Clear,
    /// A booted machine with it, whose modules are built, loaded and in use.
    Ready,
}

/// When a scene is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// By both targets.
    Always,
    /// By `make test-vm-long` only.
    Long,
}

/// What is done to a machine, or asked of it.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// A script that must succeed.
    Do(&'static str, String),
    /// A script that must end with this exit code.
    Exits(&'static str, String, i32),
    /// `swupd update`, as far as the worker that it starts.
    Update(&'static str),
    /// Waits until nothing is left to do.
    Settle,
    /// Asks for the prediction, reboots, and compares.
    Reboot,
    /// The same with the prediction that a user without rights gets.
    RebootAsUser,
    /// The same, by a power cut in place of an orderly reboot.
    PowerCut,
    /// A reboot into a kernel on trial that does not work, until this kernel runs; then the trial must have
    /// this stage.
    TrialFails(Failing, &'static str, &'static str),
    /// A power cut at a random moment of a script. Nothing is predicted then, but the machine must boot and
    /// converge.
    CutDuring(Cut),
    /// A script whose output is the outcome; a limit is exceeded if it fails.
    Measure(&'static str, &'static str),
    /// What must be true now.
    Is(Fact),
}

/// A power cut while a script runs.
#[derive(Debug, Clone)]
pub(crate) struct Cut {
    /// What the script does, for the table.
    pub(crate) what: &'static str,
    pub(crate) script: String,
    /// The earliest and the latest moment, in milliseconds after the start of the script.
    pub(crate) between_ms: (u64, u64),
    /// The script gives orders of an admin. Those that are in force after the cut are taken back before the
    /// machine must converge.
    pub(crate) gives_orders: bool,
}

/// How a boot on trial fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failing {
    /// It goes on, or reboots by itself.
    ByItself,
    /// It loses its power when the new kernel is up, before anything has checked it.
    PowerCut,
    /// It hangs before there is a root, until the power is cut.
    Hang,
}

/// What can be true of a machine.
#[derive(Debug, Clone)]
pub(crate) enum Fact {
    /// This kernel runs.
    Runs(&'static str),
    /// `loader.conf` names this kernel.
    Default(&'static str),
    /// The verdict of `status`.
    Verdict(&'static str),
    /// A kernel is held back.
    Held(&'static str),
    /// The module is loaded.
    Loaded(&'static str),
    /// It was loaded without being asked for.
    LoadedByItself(&'static str),
    /// It was, and the kernel trusts its signature.
    Trusted(&'static str),
    /// modprobe fails with this error.
    Error(&'static str, &'static str),
    /// There is a default route.
    Route(bool),
    /// The filesystem of the data is mounted.
    Data(bool),
    /// The boot partition is mounted at `/boot`.
    BootMounted(bool),
    /// Secure Boot is on.
    SecureBoot(bool),
    /// The bits of `/proc/sys/kernel/tainted`.
    Tainted(i64),
    /// No unit has failed.
    NoFailedUnit,
    /// No entry of the boot loader is empty.
    WholeEntries,
    /// An EFI variable of the boot loader.
    Variable(&'static str, Option<&'static str>),
    /// This kernel boots next on trial, and the other stays the default.
    OnTrial(&'static str, &'static str),
    /// clr-boot-manager has a mark that this kernel was booted.
    Marked(&'static str, bool),
}

/// A scene.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    /// For the table.
    pub(crate) about: &'static str,
    pub(crate) from: From,
    pub(crate) when: When,
    pub(crate) steps: Vec<Step>,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) scene: &'static str,
    pub(crate) situation: String,
    pub(crate) predicted: String,
    pub(crate) happened: String,
    pub(crate) differences: Vec<String>,
}

/// A scene while it is played.
pub(crate) struct Play<'a> {
    pub(crate) machine: &'a mut Machine,
    pub(crate) rows: Vec<Row>,
    scene: &'static str,
    /// What was done since the last row.
    done: Vec<String>,
    random: u64,
    /// What was found out since the last step that changed something.
    facts: Option<Rc<Facts>>,
    status: Option<Rc<Value>>,
    /// The built modules that the machine has.
    modules: BTreeSet<String>,
}

/// Waits until systemd has no job, and the worker neither runs nor is requested.
const SETTLED: &str = "calm=0
for i in $(seq 400); do
    if [ \"$(systemctl is-active clr-dkms.service clr-dkms-trial.service | grep -c ^activating)\" = 0 ] && [ ! -e /run/clr-dkms/requested ] &&
        [ -z \"$(systemctl list-jobs --no-legend)\" ]; then
        calm=$((calm + 1)); [ $calm -lt 2 ] || exit 0
    else
        calm=0
    fi
    sleep 0.5
done
systemctl list-jobs; exit 1";

impl Play<'_> {
    pub(crate) fn new<'a>(machine: &'a mut Machine, scene: &'static str, random: u64) -> Play<'a> {
        let modules = MODULES.map(str::to_owned).into();
        Play {
            machine,
            rows: Vec::new(),
            scene,
            done: Vec::new(),
            random,
            facts: None,
            status: None,
            modules,
        }
    }

    /// Plays one step.
    pub(crate) fn step(&mut self, step: &Step) -> Outcome<()> {
        if !matches!(step, Step::Is(_)) {
            (self.facts, self.status) = (None, None);
        }
        match step {
            Step::Do(what, script) => self.script(what, script, 0),
            Step::Exits(what, script, code) => self.script(what, script, *code),
            Step::Update(release) => {
                self.script(&format!("update to {}", short(release)), &format!("swupd update {release}"), 0)?;
                self.settle()
            }
            Step::Settle => self.settle(),
            Step::Reboot | Step::PowerCut | Step::RebootAsUser => self.boot_as_predicted(step),
            Step::TrialFails(how, runs, stage) => self.trial_fails(*how, runs, stage),
            Step::CutDuring(cut) => self.cut_during(cut),
            Step::Measure(limit, script) => self.measure(limit, script),
            Step::Is(fact) => self.is(fact),
        }
    }

    fn script(&mut self, what: &str, script: &str, code: i32) -> Outcome<()> {
        let answer = self.machine.run(script)?;
        if answer.code != code {
            return Err(format!("{what}: exit code {} in place of {code}:\n{}", answer.code, answer.text));
        }
        if !what.is_empty() {
            self.done.push(what.to_owned());
        }
        Ok(())
    }

    pub(crate) fn settle(&mut self) -> Outcome<()> {
        self.script("", SETTLED, 0).map_err(|e| format!("it does not come to rest: {e}"))
    }

    fn measure(&mut self, limit: &str, script: &str) -> Outcome<()> {
        let answer = self.machine.run(script)?;
        let differences =
            if answer.code == 0 { Vec::new() } else { vec![format!("exit code {}", answer.code)] };
        self.rows.push(Row {
            scene: self.scene,
            situation: std::mem::take(&mut self.done).join("; "),
            predicted: limit.to_owned(),
            happened: answer.text.trim().replace('\n', "; "),
            differences,
        });
        Ok(())
    }

    fn boot_as_predicted(&mut self, step: &Step) -> Outcome<()> {
        let (cut, by) = match step {
            Step::PowerCut => (true, ""),
            Step::RebootAsUser => (false, "setpriv --reuid=1000 --regid=1000 --clear-groups "),
            _ => (false, ""),
        };
        let prediction = Prediction::of(self.machine, by)?;
        self.modules.extend(prediction.modules().cloned());
        // It loads nothing: the prediction is of what happens without that.
        let before = Facts::of(self.machine, &BTreeSet::new())?;
        if cut {
            self.machine.run("sync")?;
            self.machine.cut_power();
            self.machine.switch_on(None)?;
            self.machine.wait_for_boot()?;
        } else {
            self.machine.reboot()?;
        }
        self.settle()?;
        let facts = self.facts()?;
        let mut situation = std::mem::take(&mut self.done).join("; ");
        for (is, text) in [(cut, "power cut"), (!by.is_empty(), "asked by a user without rights")] {
            if is {
                situation += &format!("{}{text}", if situation.is_empty() { "" } else { "; " });
            }
        }
        self.rows.push(Row {
            scene: self.scene,
            situation,
            predicted: prediction.text(),
            happened: facts.text(),
            differences: prediction.compare(&before, &facts),
        });
        Ok(())
    }

    /// A kernel on trial does not work: the machine must run the kernel that it should, with all that is
    /// critical if that is the older one, and the older one must be the default.
    fn trial_fails(&mut self, how: Failing, runs: &str, stage: &str) -> Outcome<()> {
        let guard = guard(self.machine)?;
        let trial = &guard["trial"];
        let text = |key: &str| trial[key].as_str().unwrap_or_default().to_owned();
        let (new, old) = (text("kernel"), text("fallback"));
        let mut differences = Vec::new();
        if text("stage") != "armed" || guard["boots_next"].as_str() != Some(&new) {
            differences.push(format!("no kernel is on trial: {trial}"));
        }
        self.machine.reboot_into(how, runs)?;
        self.settle()?;
        let facts = self.facts()?;
        let after = &crate::scene::guard(self.machine)?["trial"];
        let found = [after["kernel"].as_str(), after["stage"].as_str()];
        if found != [Some(new.as_str()), Some(stage)] {
            differences.push(format!("the trial of {new} was to be {stage}, and is {after}"));
        }
        if facts.default().as_ref() != Some(&old) {
            differences.push(format!("{old} was to be the default, and {:?} is", facts.default()));
        }
        if facts.release() == old && !(facts.route() && facts.data()) {
            differences.push("what is critical does not work on the older kernel".into());
        }
        let failed: Vec<&str> =
            after["failed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let once = if trial["once"] == true { "once, " } else { "" };
        let mut happened = format!("{}; trial {}", facts.text(), after["stage"].as_str().unwrap_or("none"));
        if !failed.is_empty() {
            happened += &format!(": {}", failed.join(", "));
        }
        self.rows.push(Row {
            scene: self.scene,
            situation: std::mem::take(&mut self.done).join("; "),
            predicted: format!(
                "boots {} {once}on trial; {} is the default unless it works",
                short(&new),
                short(&old)
            ),
            happened,
            differences,
        });
        Ok(())
    }

    /// A number that the seed of the run determines.
    fn number(&mut self, least: u64, most: u64) -> u64 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        least + self.random % (most - least).max(1)
    }

    fn cut_during(&mut self, cut: &Cut) -> Outcome<()> {
        let Cut { what, script, between_ms: (least, most), gives_orders } = cut;
        let wait = self.number(*least, *most);
        self.machine.send(script)?;
        std::thread::sleep(std::time::Duration::from_millis(wait));
        self.machine.cut_power();
        self.machine.switch_on(None)?;
        self.machine.wait_for_boot()?;
        self.settle()?;
        let mut differences = Vec::new();
        let mut situation = format!("power cut {wait} ms into: {what}");
        if *gives_orders {
            situation = self.take_back_orders(&situation)?;
        }
        let facts = Facts::of(self.machine, &self.modules)?;
        for name in ["e100", "mii", "cramfs"] {
            if facts.letters(name).is_none() {
                differences.push(format!("{name} is not loaded: {:?}", facts.error(name)));
            }
        }
        if !facts.route() || !facts.data() {
            differences.push("what is critical does not work".into());
        }
        if !whole(&facts.entries()) {
            differences.push(format!("an entry is empty: {:?}", facts.entries()));
        }
        let run = self.machine.run("clr-dkms-post-update")?;
        let status = self.status()?;
        let verdict = status["verdict"].as_str().unwrap_or("none");
        if !matches!(verdict, "healthy" | "reboot-pending") {
            differences.push(format!("it has not converged: {status:#}\n{}", run.text));
        }
        self.rows.push(Row {
            scene: self.scene,
            situation,
            predicted: "boots, critical modules work, converges".into(),
            happened: format!("{}; then {verdict}", facts.text()),
            differences,
        });
        Ok(())
    }

    /// Takes back what an admin has ordered. Where the parameter was disabled, the machine refuses its
    /// modules: `status` must predict the same for the next boot. With the parameter they must work again.
    fn take_back_orders(&mut self, situation: &str) -> Outcome<String> {
        let facts = Facts::of(self.machine, &BTreeSet::new())?;
        let is_disabled = !facts.words("cmdline").iter().any(|word| word == "module.sig_unenforce");
        if is_disabled {
            self.done.push(situation.to_owned());
            self.boot_as_predicted(&Step::Reboot)?;
        }
        self.script("", "clr-dkms unhold; clr-dkms-cmdline default; true", 0)?;
        self.settle()?;
        (self.facts, self.status) = (None, None);
        if !is_disabled {
            return Ok(situation.to_owned());
        }
        self.machine.reboot()?;
        self.settle()?;
        Ok(format!("{situation}; the same after clr-dkms-cmdline default"))
    }

    fn is(&mut self, fact: &Fact) -> Outcome<()> {
        let found = match fact {
            Fact::Verdict(_) => self.status()?["verdict"].as_str().unwrap_or("none").to_owned(),
            Fact::Held(_) => held(&*self.status()?),
            _ => String::new(),
        };
        let facts = self.facts()?;
        let holds = match fact {
            Fact::Runs(release) => facts.release() == *release,
            Fact::Default(release) => facts.default().as_deref() == Some(*release),
            Fact::Verdict(wanted) | Fact::Held(wanted) => found == *wanted,
            Fact::Loaded(module) => facts.letters(module).is_some(),
            Fact::LoadedByItself(module) => facts.loaded_by_itself(module),
            Fact::Trusted(module) => {
                facts.loaded_by_itself(module) && !facts.letters(module).is_some_and(|l| l.contains('E'))
            }
            Fact::Error(module, error) => facts.error(module).as_deref() == Some(*error),
            Fact::Route(is) => facts.route() == *is,
            Fact::Data(is) => facts.data() == *is,
            Fact::BootMounted(is) => facts.boot_mounted() == *is,
            Fact::SecureBoot(is) => facts.secure_boot() == *is,
            Fact::Tainted(bits) => facts.tainted() == *bits,
            Fact::NoFailedUnit => facts.failed_units() == "[]",
            Fact::WholeEntries => !facts.entries().is_empty() && whole(&facts.entries()),
            Fact::Variable(name, value) => facts.variable(name).as_deref() == *value,
            Fact::OnTrial(new, old) => {
                let once = facts.variable_release("LoaderEntryOneShot");
                (once.as_deref(), facts.default().as_deref()) == (Some(*new), Some(*old))
            }
            Fact::Marked(release, is) => facts.is_marked(release) == *is,
        };
        if holds { Ok(()) } else { Err(format!("not so: {fact:?} {found}\n{facts:#?}")) }
    }

    fn facts(&mut self) -> Outcome<Rc<Facts>> {
        if let Some(known) = &self.facts {
            return Ok(Rc::clone(known));
        }
        let facts = Rc::new(Facts::of(self.machine, &self.modules)?);
        Ok(Rc::clone(self.facts.insert(facts)))
    }

    fn status(&mut self) -> Outcome<Rc<Value>> {
        if let Some(known) = &self.status {
            return Ok(Rc::clone(known));
        }
        let answer = self.machine.run("clr-dkms status --json")?;
        let status =
            serde_json::from_str(&answer.text).map_err(|e| format!("status: {e}: {}", answer.text))?;
        Ok(Rc::clone(self.status.insert(Rc::new(status))))
    }
}

fn guard(machine: &mut Machine) -> Outcome<Value> {
    let answer = machine.run("clr-dkms guard --json")?;
    serde_json::from_str(&answer.text).map_err(|e| format!("guard: {e}: {}", answer.text))
}

/// The kernel that is held back.
fn held(status: &Value) -> String {
    let mut kernels = status["kernels"].as_array().into_iter().flatten();
    let held = kernels.find(|kernel| kernel["held_back"] == true);
    held.and_then(|kernel| kernel["release"].as_str()).unwrap_or("none").to_owned()
}

/// No entry is empty. What clr-dkms has moved away has another ending.
fn whole(entries: &BTreeMap<String, i64>) -> bool {
    entries.iter().all(|(name, size)| !name.ends_with(".conf") || *size > 0)
}
