//! What the programs do with the boot files, in the order in which they do it, and what must hold after each
//! step.

use std::collections::BTreeSet;

use clr_dkms::boot_decision::{Reason, Ruling};
use clr_dkms::decide::readiness::Ready;
use clr_dkms::decide::update_way::UpdateWay;
use clr_dkms::requirement::Importance;
use clr_dkms::update::boot_files::{BootFileSteps, take_steps};

use super::boot_manager::Step;
use super::machine::{Assessed, Machine, Unreadable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// The worker; `is_due`: the boot files are out of date, as far as it knows.
    Worker { is_due: bool },
    /// `clr-dkms-cmdline`.
    Cmdline { accept_losses: bool },
    /// `clr-dkms guard --assert`, at a shutdown.
    Assert,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// SIGKILL, or a power cut, after so many steps.
    Kill {
        after: usize,
    },
    /// clr-boot-manager fails after so many steps.
    UpdateFails {
        after: usize,
    },
}

/// One run of a command.
struct Run<'m> {
    machine: &'m mut Machine,
    unreadable: Unreadable,
    accept_losses: bool,
    /// The default, and what it lacked, when the command began.
    before: (Option<usize>, usize),
    left: Option<usize>,
    failing: Option<usize>,
}

/// The command ends here.
enum Stop {
    Killed,
    Broken(String),
}

pub(super) fn run(
    machine: &mut Machine,
    command: &Command,
    fault: Fault,
    unreadable: Unreadable,
) -> Result<(), String> {
    let default = machine.disk.default;
    // What an admin lets an entry lose counts as lost before.
    let is_said = matches!(command, Command::Cmdline { accept_losses: true });
    // What is left of a kernel that is not installed any more is not a default to go back to. Nor is one
    // whose entry clr-boot-manager had deleted, and not yet written again, when the power went.
    let is_whole = |k: &usize| {
        let kernel = &machine.disk.kernels[*k];
        kernel.is_installed() && kernel.entry.is_some()
    };
    let lacked = default.filter(|k| !is_said && is_whole(k)).map_or(usize::MAX, |k| machine.boots_without(k));
    let (left, failing) = match fault {
        Fault::None => (None, None),
        Fault::Kill { after } => (Some(after), None),
        Fault::UpdateFails { after } => (None, Some(after)),
    };
    let mut run =
        Run { machine, unreadable, accept_losses: is_said, before: (default, lacked), left, failing };
    let done = match command {
        Command::Worker { is_due: false } | Command::Assert => run.point_default(),
        Command::Worker { is_due: true } | Command::Cmdline { .. } => take_steps(&mut run),
    };
    match done {
        Err(Stop::Broken(why)) => return Err(why),
        Err(Stop::Killed) => {}
        Ok(()) if fault == Fault::None && unreadable == Unreadable::default() => {
            if matches!(command, Command::Worker { is_due: true }) {
                run.converged()?;
            }
        }
        Ok(()) => {}
    }
    run.verdict()
}

/// Ordered by the worker itself.
impl BootFileSteps for Run<'_> {
    type Stop = Stop;

    fn refresh(&mut self) -> Result<(), Stop> {
        let assessed = self.machine.assess(self.unreadable);
        match self.machine.way(&assessed, self.accept_losses, self.unreadable) {
            UpdateWay::Whole => self.whole(&assessed),
            UpdateWay::Restricted(names) => self.restricted(&names, &assessed),
            UpdateWay::Loses(_) | UpdateWay::Blocked(_) | UpdateWay::Foreign(_) => Ok(()),
        }
    }

    fn point_default(&mut self) -> Result<(), Stop> {
        let assessed = self.machine.assess(self.unreadable);
        let Some(release) =
            assessed.decision.asserted_default(&assessed.entry_lacks, assessed.is_removed, false)
        else {
            return Ok(());
        };
        let kernel = self.machine.find(release);
        let has_entry = self.machine.disk.kernels[kernel].entry.is_some();
        if self.unreadable.partition || !has_entry {
            return Ok(());
        }
        let steps = self.machine.disk.set_default(kernel);
        steps.into_iter().try_for_each(|step| self.step(step, &assessed))
    }
}

impl Run<'_> {
    fn whole(&mut self, assessed: &Assessed) -> Result<(), Stop> {
        let steps = self.machine.disk.update();
        let done = self.failing.map_or(steps.len(), |after| after.min(steps.len()));
        let is_failed = self.failing.is_some();
        steps[..done].iter().try_for_each(|step| self.step(*step, assessed))?;
        if is_failed {
            self.fall_back(assessed)?;
        }
        Ok(())
    }

    /// As [`clr_dkms::boot::restricted::RestrictedUpdate`]: refused where it cannot be used, and else one run
    /// for each.
    fn restricted(
        &mut self,
        names: &[clr_dkms::kernel::KernelName],
        assessed: &Assessed,
    ) -> Result<(), Stop> {
        let Ok(input) = self.machine.input(self.unreadable) else { return Ok(()) };
        let is_refused = names.iter().any(|name| input.can_refresh_alone(&name.id()).is_err());
        if is_refused || self.unreadable.partition {
            return Ok(());
        }
        for name in names {
            let steps = self.machine.disk.update_alone(self.machine.find(&name.release()));
            let done = self.failing.map_or(steps.len(), |after| after.min(steps.len()));
            steps[..done].iter().try_for_each(|step| self.step(*step, assessed))?;
        }
        Ok(())
    }

    /// After a whole update that has failed: the running kernel, where the chosen one has no entry.
    fn fall_back(&mut self, assessed: &Assessed) -> Result<(), Stop> {
        let Some(chosen) = assessed.decision.default.as_deref().map(|r| self.machine.find(r)) else {
            return Ok(());
        };
        let running = self.machine.disk.running.filter(|_| !self.unreadable.running);
        let Some(running) = running.filter(|_| self.machine.disk.running_is_installed()) else {
            return Ok(());
        };
        let kernels = &self.machine.disk.kernels;
        let is_seen = !self.unreadable.partition;
        if is_seen && kernels[chosen].entry.is_none() && kernels[running].entry.is_some() {
            let steps = self.machine.disk.set_default(running);
            // It is the kernel that runs: as good as what runs now.
            self.before = (Some(running), usize::MAX);
            return steps.into_iter().try_for_each(|step| self.step(step, assessed));
        }
        Ok(())
    }

    fn step(&mut self, step: Step, assessed: &Assessed) -> Result<(), Stop> {
        match &mut self.left {
            Some(0) => return Err(Stop::Killed),
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some(kernel) = step.deletes() {
            let chosen = assessed.decision.default.as_deref().map(|release| self.machine.find(release));
            let must_boot = [self.machine.disk.running, self.machine.hold, chosen];
            if must_boot.contains(&Some(kernel)) {
                return Err(Stop::Broken(format!("{step:?} deletes a kernel that must boot\n{assessed}")));
            }
        }
        self.machine.disk.apply(step);
        self.check_default(assessed).map_err(Stop::Broken)
    }

    /// A default that we have changed has every critical module, or an admin wants it, or nothing has more.
    fn check_default(&self, assessed: &Assessed) -> Result<(), String> {
        let machine = &self.machine;
        let Some(default) = machine.disk.default.filter(|k| Some(*k) != self.before.0) else { return Ok(()) };
        let lacks = machine.boots_without(default);
        if lacks == 0 || machine.hold == Some(default) || machine.released.contains(&default) {
            return Ok(());
        }
        let decision = &assessed.decision;
        let critical: BTreeSet<&str> = assessed
            .needs
            .iter()
            .filter(|need| need.class == Importance::Critical)
            .map(|need| need.module.as_str())
            .collect();
        let complete = assessed.candidates.iter().find(|candidate| {
            let has = |name: &&str| candidate.modules.get(*name) == Some(&Ready::Yes);
            let is_tried = candidate.running || candidate.booted || candidate.default;
            candidate.bootable && is_tried && critical.iter().all(has)
        });
        // clr-boot-manager has failed between deleting its entry and writing it again.
        let is_gone = self.before.0.is_some_and(|k| machine.disk.kernels[k].entry.is_none());
        let is_worse = lacks > self.before.1 && !is_gone;
        match complete {
            None if decision.is_unsafe && !is_worse => Ok(()),
            // No update is run while a removed kernel runs, so an entry stays as it is; the verdict says so.
            _ if assessed.is_removed && !machine.assess(self.unreadable).says_safe => Ok(()),
            _ => Err(format!(
                "{} was made the default, which lacks {lacks} (before: {:?})\n{complete:?}\n{assessed}",
                machine.disk.kernels[default].release, self.before
            )),
        }
    }

    /// A run with nothing in its way has done all that was decided.
    fn converged(&self) -> Result<(), String> {
        let machine = &self.machine;
        let assessed = machine.assess(Unreadable::default());
        let is_open = matches!(
            machine.way(&assessed, false, Unreadable::default()),
            UpdateWay::Whole | UpdateWay::Restricted(_)
        );
        let Some(chosen) = assessed.decision.default.as_deref().filter(|_| is_open) else { return Ok(()) };
        let chosen = machine.find(chosen);
        // Without `default-TYPE` clr-boot-manager leaves the default as it is, and an old long-term kernel
        // gives way to another type.
        let is_left = assessed.decision.ruling == Ruling::Allow && assessed.decision.because != Reason::Held;
        let kind = &machine.disk.kernels[chosen].name.variant;
        let is_left = is_left && (machine.disk.linked(kind) != Some(chosen) || kind == "lts2020");
        if machine.disk.default != Some(chosen) && !is_left {
            return Err(format!("the default is not the chosen {chosen}\n{assessed}"));
        }
        let entry = &machine.disk.kernels[chosen];
        if entry.entry != Some(machine.disk.configured) || !entry.copied {
            return Err(format!("the boot files of {chosen} are not as configured\n{assessed}"));
        }
        let held = machine.hold.filter(|k| machine.disk.kernels[*k].is_installed());
        let held = held.filter(|k| machine.disk.kernels[*k].modules);
        match held {
            Some(held) if machine.disk.default != Some(held) => {
                Err(format!("the held {held} is not the default\n{assessed}"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing is called safe that lacks something critical.
    fn verdict(&self) -> Result<(), String> {
        let machine = &self.machine;
        let assessed = machine.assess(self.unreadable);
        let Some(default) = machine.disk.default else { return Ok(()) };
        match assessed.says_safe && machine.boots_without(default) > 0 {
            true => Err(format!("the verdict on {default} is safe\n{assessed}")),
            false => Ok(()),
        }
    }
}
