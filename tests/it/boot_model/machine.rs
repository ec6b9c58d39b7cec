//! A machine in memory: its modules, what is observed of it, and what is decided on that by the functions of
//! the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use clr_dkms::boot::foresee::UpdateInput;
use clr_dkms::boot_decision::{AdminOverrides, Allowance, BootDecision, OverrideNote};
use clr_dkms::decide::boot_choice::{choose_default, keep_default};
use clr_dkms::decide::entry_loss::EntryLoss;
use clr_dkms::decide::readiness::{Candidate, Missing, Ready, lacks};
use clr_dkms::decide::update_way::{UpdateCandidate, UpdateQuestion, UpdateWay, update_way};
use clr_dkms::requirement::{Importance, MissingModule, ModuleOrigin, Requirement};

use super::boot_manager::{Disk, DiskKernel};
use crate::support::random::Random;

pub(super) const MODULES: [&str; 3] = ["zfs", "gpu", "net"];
pub(super) const KINDS: [&str; 6] = ["native", "native", "native", "ltscurrent", "ltsprev", "lts2020"];

/// A module on a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Built {
    pub(super) proven: bool,
    /// The kernel takes it only with `module.sig_unenforce`.
    pub(super) unsigned: bool,
}

impl Built {
    fn works(self, parameter: bool) -> bool {
        self.proven && (parameter || !self.unsigned)
    }
}

/// Which facts cannot be read during a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The release of the running kernel.
    pub(super) running: bool,
    /// The marks of booted kernels.
    pub(super) marks: bool,
    /// The directories of freestanding initrds.
    pub(super) initrds: bool,
    /// The boot partition.
    pub(super) partition: bool,
    /// Modules: a bit for each of each kernel.
    pub(super) modules: u32,
}

#[derive(Debug, Clone)]
pub(super) struct Machine {
    pub(super) disk: Disk,
    /// By kernel.
    pub(super) built: Vec<[Built; MODULES.len()]>,
    pub(super) classes: [Importance; MODULES.len()],
    pub(super) hold: Option<usize>,
    pub(super) released: BTreeSet<usize>,
    /// The running kernel was booted with `module.sig_unenforce`.
    pub(super) booted_with_parameter: bool,
}

/// What is known of a machine, and decided on it.
#[derive(Debug)]
pub(super) struct Assessed {
    pub(super) candidates: Vec<Candidate>,
    pub(super) needs: Vec<Requirement>,
    pub(super) decision: BootDecision,
    /// The kernel of the default is not installed any more.
    pub(super) is_removed: bool,
    /// What the chosen kernel lacks with its entry as it is.
    pub(super) entry_lacks: Vec<MissingModule>,
    /// The verdict is neither unsafe nor unknown.
    pub(super) says_safe: bool,
}

fn built(random: &mut Random) -> [Built; MODULES.len()] {
    MODULES.map(|_| Built { proven: !random.one_in(4), unsigned: random.one_in(3) })
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Disk { links, running, default, configured, initrd_copied, kernels } = &self.disk;
        writeln!(
            f,
            "running {running:?} default {default:?} hold {:?} released {:?} links {links:?} \
             configured {configured:?} initrd {initrd_copied} classes {:?} booted with parameter {}",
            self.hold, self.released, self.classes, self.booted_with_parameter
        )?;
        for (at, k) in kernels.iter().enumerate() {
            let flags = [
                ("source", k.source),
                ("cmdline", k.cmdline),
                ("modules", k.modules),
                ("marked", k.marked),
                ("copied", k.copied),
            ];
            let flags = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name);
            let flags = flags.collect::<Vec<_>>().join(" ");
            let built = self.built[at].map(|b| (b.proven, if b.unsigned { "unsigned" } else { "signed" }));
            writeln!(f, "  {at} {} {flags} {:?} {built:?}", k.release, k.entry)?;
        }
        Ok(())
    }
}

impl fmt::Display for Assessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BootDecision { ruling, default, target, because, is_unsafe, .. } = &self.decision;
        writeln!(
            f,
            "{ruling:?} {default:?} of target {target:?}: {because:?}, unsafe {is_unsafe}, safe {}",
            self.says_safe
        )?;
        for k in &self.candidates {
            let modules = k.modules.iter().map(|(name, ready)| match ready {
                Ready::Yes => format!("{name} yes"),
                Ready::No(_) => format!("{name} no"),
                Ready::Unknown(_) => format!("{name} unknown"),
            });
            let modules = modules.collect::<Vec<_>>().join(", ");
            let flags = (k.bootable, k.running, k.booted, k.default);
            writeln!(f, "  {} (bootable, running, booted, default) {flags:?} {modules}", k.release)?;
        }
        Ok(())
    }
}

impl Machine {
    pub(super) fn generate(random: &mut Random) -> Machine {
        let count = 1 + random.below(4);
        let configured = super::boot_manager::EntryText {
            version: 0,
            parameter: !random.one_in(4),
            initrd: random.one_in(3),
        };
        let mut machine = Machine {
            disk: Disk {
                kernels: Vec::new(),
                links: BTreeMap::new(),
                running: None,
                default: None,
                configured,
                initrd_copied: configured.initrd,
            },
            built: Vec::new(),
            classes: MODULES.map(|_| {
                random.of(&[
                    Importance::Critical,
                    Importance::Critical,
                    Importance::Wanted,
                    Importance::Optional,
                ])
            }),
            hold: None,
            released: BTreeSet::new(),
            booted_with_parameter: configured.parameter,
        };
        for _ in 0..count {
            machine.add(random);
            let kernel = machine.disk.kernels.last_mut().unwrap();
            kernel.marked = random.one_in(2);
            if !random.one_in(4) {
                kernel.copied = true;
                kernel.entry = Some(configured);
            }
        }
        let running = random.below(count);
        let kernel = &mut machine.disk.kernels[running];
        (kernel.copied, kernel.entry) = (true, Some(configured));
        machine.disk.default = Some(running);
        machine.disk.running = Some(running).filter(|_| !random.one_in(40));
        machine
    }

    /// An update of the system brings a kernel.
    pub(super) fn add(&mut self, random: &mut Random) {
        let at = self.disk.kernels.len();
        let running = self.disk.running.map(|k| self.disk.kernels[k].name.variant.clone());
        let kind = running.filter(|_| !random.one_in(4)).unwrap_or_else(|| random.of(&KINDS).to_owned());
        self.disk.kernels.push(DiskKernel::new(&kind, i32::try_from(at).unwrap() + 1));
        self.built.push(built(random));
        if !random.one_in(12) {
            self.disk.links.insert(kind, at);
        }
    }

    pub(super) fn lacks_critical(&self, kernel: usize, parameter: bool) -> usize {
        let is_lacking = |m: &usize| {
            self.classes[*m] == Importance::Critical
                && !(self.disk.kernels[kernel].modules && self.built[kernel][*m].works(parameter))
        };
        (0..MODULES.len()).filter(is_lacking).count()
    }

    /// How many critical modules the machine lacks once it has booted a kernel by its entry.
    pub(super) fn boots_without(&self, kernel: usize) -> usize {
        let parameter = self.disk.kernels[kernel].entry.map_or(self.disk.configured, |entry| entry).parameter;
        self.lacks_critical(kernel, parameter)
    }

    fn needs(&self, running: Option<usize>) -> Vec<Requirement> {
        let need = |(m, name): (usize, &&str)| Requirement {
            module: (*name).to_owned(),
            class: self.classes[m],
            reason: String::new(),
            why: Vec::new(),
            files: Vec::new(),
            aliases: Vec::new(),
            origin: Some(ModuleOrigin::Dkms),
            works: running.is_some_and(|k| {
                self.disk.kernels[k].modules && self.built[k][m].works(self.booted_with_parameter)
            }),
            worked_on: None,
            idle: None,
        };
        MODULES.iter().enumerate().map(need).collect()
    }

    fn ready(&self, kernel: usize, module: usize, parameter: bool, unreadable: Unreadable) -> Ready {
        let is_unknown = unreadable.modules >> (kernel * MODULES.len() + module) & 1 == 1;
        match self.built[kernel][module].works(parameter) && self.disk.kernels[kernel].modules {
            _ if is_unknown => Ready::Unknown(Missing::default()),
            true => Ready::Yes,
            false => Ready::No(Missing::default()),
        }
    }

    /// `as_configured`: with the command line that a new entry would have.
    fn candidate(&self, kernel: usize, as_configured: bool, unreadable: Unreadable) -> Candidate {
        let known = &self.disk.kernels[kernel];
        let entry = known.entry.filter(|_| !unreadable.partition);
        let kind = &known.name.variant;
        let parameter = match as_configured {
            // As by its entry, where that is not to lose anything.
            true if self.disk.default == Some(kernel) => {
                self.disk.configured.parameter || entry.is_some_and(|entry| entry.parameter)
            }
            true => self.disk.configured.parameter,
            false => entry.unwrap_or(self.disk.configured).parameter,
        };
        let is_running = self.disk.running == Some(kernel) && !unreadable.running;
        let is_tip = self.disk.tip(kind) == Some(kernel);
        let modules = MODULES.iter().enumerate();
        Candidate {
            release: known.release.clone(),
            variant: kind.clone(),
            bootable: known.modules
                && (self.hold == Some(kernel)
                    || unreadable.partition
                    || entry.is_some()
                    || is_tip
                    || is_running),
            running: is_running,
            booted: known.marked && !unreadable.marks,
            default: self.disk.default == Some(kernel) && !unreadable.partition,
            modules: modules
                .map(|(m, name)| ((*name).to_owned(), self.ready(kernel, m, parameter, unreadable)))
                .collect(),
        }
    }

    fn release(&self, kernel: usize) -> String {
        self.disk.kernels[kernel].release.clone()
    }

    pub(super) fn find(&self, release: &str) -> usize {
        self.disk.kernels.iter().position(|k| k.release == release).unwrap()
    }

    pub(super) fn assess(&self, unreadable: Unreadable) -> Assessed {
        let installed = (0..self.disk.kernels.len()).filter(|k| self.disk.kernels[*k].is_installed());
        let candidates: Vec<Candidate> = installed.map(|k| self.candidate(k, true, unreadable)).collect();
        let running = self.disk.running.filter(|_| !unreadable.running);
        let needs = self.needs(running.filter(|_| self.disk.running_is_installed()));
        let kind = running.map(|k| self.disk.kernels[k].name.variant.as_str());
        let target = kind.and_then(|kind| self.disk.tip(kind)).map(|k| self.release(k));
        let allowance = |kernel: &usize, module: &str| Allowance {
            kernel: self.release(*kernel),
            without: module.to_owned(),
            note: OverrideNote::default(),
        };
        let allowances = |kernel| MODULES.iter().map(move |module| allowance(kernel, module));
        let wishes = AdminOverrides {
            hold: self.hold.map(|k| self.release(k)),
            allowed: self.released.iter().flat_map(allowances).collect(),
            ..AdminOverrides::default()
        };
        let is_orphaned = running.is_some() && target.is_none();
        let mut decision = choose_default(&candidates, target.as_deref(), is_orphaned, &needs, &wishes);
        if unreadable.running {
            let seen = self.disk.default.filter(|_| !unreadable.partition);
            decision = keep_default(decision, seen.map(|k| self.release(k)));
        }
        let next = self.disk.default.filter(|_| !unreadable.partition);
        let is_removed = next.is_some_and(|k| !self.disk.kernels[k].is_installed());
        let next =
            next.filter(|k| self.disk.kernels[*k].is_installed() && self.disk.kernels[*k].entry.is_some());
        let next = next.map(|k| self.candidate(k, false, unreadable));
        let critical = || needs.iter().filter(|n| n.class == Importance::Critical);
        let is_complete = next.is_some_and(|next| lacks(&next, critical()).is_empty());
        let chosen = decision.default.as_deref().map(|release| self.find(release));
        let chosen = chosen.map(|k| self.candidate(k, false, unreadable));
        let entry_lacks = chosen.map(|k| lacks(&k, critical())).unwrap_or_default();
        let says_safe = is_complete && !decision.is_unsafe && !unreadable.running;
        Assessed { candidates, needs, decision, is_removed, entry_lacks, says_safe }
    }

    pub(super) fn input(&self, unreadable: Unreadable) -> Result<UpdateInput, String> {
        if unreadable.initrds {
            return Err("EIO".to_owned());
        }
        let mut input = self.disk.input();
        if unreadable.running {
            input.mode = clr_dkms::boot::foresee::UpdateMode::Native(clr_dkms::boot::foresee::Uname::Unknown);
        }
        if unreadable.marks {
            input.kernels.iter_mut().for_each(|k| k.marked = false);
        }
        if unreadable.partition {
            input.initrds_installed.clear();
        }
        Ok(input)
    }

    /// What [`clr_dkms::decide::entry_loss::entry_losses`] says of modules.
    fn losses(&self, kernel: usize, assessed: &Assessed, unreadable: Unreadable) -> Vec<EntryLoss> {
        let entry = self.disk.kernels[kernel].entry.filter(|_| !unreadable.partition);
        let loses = |m: &usize| {
            let need = &assessed.needs[*m];
            let is_needed =
                need.class == Importance::Critical || (need.class == Importance::Wanted && need.works);
            let works = |parameter| self.ready(kernel, *m, parameter, unreadable) == Ready::Yes;
            is_needed
                && entry.is_some_and(|entry| works(entry.parameter))
                && !works(self.disk.configured.parameter)
        };
        let lost = (0..MODULES.len()).filter(loses);
        let modules: Vec<(String, String)> = lost.map(|m| (MODULES[m].to_owned(), String::new())).collect();
        if modules.is_empty() {
            return Vec::new();
        }
        vec![EntryLoss::Refused { kernel: self.release(kernel), modules, why: String::new() }]
    }

    pub(super) fn way(&self, assessed: &Assessed, accept_losses: bool, unreadable: Unreadable) -> UpdateWay {
        let installed = (0..self.disk.kernels.len()).filter(|k| self.disk.kernels[*k].is_installed());
        let kernels: Vec<UpdateCandidate> = installed
            .map(|k| UpdateCandidate {
                name: self.disk.kernels[k].name.clone(),
                has_entry: self.disk.kernels[k].entry.is_some() && !unreadable.partition,
                is_default: self.disk.default == Some(k) && !unreadable.partition,
                running: self.disk.running == Some(k) && !unreadable.running,
                tip: self.disk.tip(&self.disk.kernels[k].name.variant) == Some(k),
                losses: self.losses(k, assessed, unreadable),
            })
            .collect();
        let is_foreign = !self.disk.running_is_installed() && !unreadable.running;
        update_way(&UpdateQuestion {
            is_guarded: true,
            foreign: Some("custom".to_owned()).filter(|_| is_foreign),
            input: self.input(unreadable),
            unseen: Some("EIO").filter(|_| unreadable.partition),
            kernels: &kernels,
            hold: self.hold.map(|k| self.disk.kernels[k].release.as_str()),
            decision: &assessed.decision,
            is_tried_once: false,
            accept_losses,
        })
    }
}
